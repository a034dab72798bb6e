//! The broker in this process: routing, prefetch, redelivery, confirms and faults, from the same [`Topology`].
//!
//! Never here: I/O, time, chance. What happens is decided by the order of the calls alone, so that a replay is
//! the same to the byte: `publish` routes and confirms before it returns, and nothing runs in the background.
//!
//! Bounds: a queue holds what was published to it, which in a test or a replay is the input; only queues that
//! the topology bounds drop their oldest. Deliveries are bounded by the link's prefetch.

mod link;
mod matching;
mod routing;
mod state;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, mpsc, watch};

pub use self::link::MemoryLink;
use self::state::{Exchange, Faults, LinkEntry, Queue, Shared, State, Tap};
use super::topology::{Argument, Topology};
use super::{LinkState, Message};

/// The whole broker. Clones are handles on the same one.
#[derive(Clone)]
pub struct MemoryBroker {
    shared: Arc<Shared>,
}

impl MemoryBroker {
    /// A broker with everything in the table declared.
    pub fn new(topology: &Topology) -> Self {
        let mut exchanges: BTreeMap<String, Exchange> = BTreeMap::new();
        for exchange in &topology.exchanges {
            let alternate = match exchange.arguments.get("alternate-exchange") {
                Some(Argument::Text(name)) => Some(name.clone()),
                Some(Argument::Integer(_) | Argument::Flag(_)) | None => None,
            };
            let entry = Exchange { kind: exchange.kind, alternate, bindings: Vec::new() };
            exchanges.insert(exchange.name.clone(), entry);
        }
        for binding in &topology.bindings {
            if let Some(source) = exchanges.get_mut(&binding.source) {
                let entry = (binding.routing_key.clone(), binding.destination.clone());
                source.bindings.push(entry);
            }
        }
        let queue = |queue: &super::topology::Queue| {
            let max_length = match queue.arguments.get("x-max-length") {
                Some(Argument::Integer(length)) => usize::try_from(*length).ok(),
                Some(Argument::Text(_) | Argument::Flag(_)) | None => None,
            };
            let entry = Queue { max_length, ..Queue::default() };
            (queue.name.clone(), entry)
        };
        let state = State {
            exchanges,
            queues: topology.queues.iter().map(queue).collect(),
            taps: Vec::new(),
            links: Vec::new(),
            faults: Faults::default(),
            next_message: 0,
            down: false,
            blocked: None,
        };
        Self { shared: Arc::new(Shared { topology: topology.clone(), state: Mutex::new(state), changed: Notify::new() }) }
    }

    /// A link to `partition` (from 0), with at most `prefetch` unsettled deliveries per lane. A second link to
    /// the same partition gets nothing until the first one stops, closes, or loses its connection.
    pub fn link(&self, partition: u16, prefetch: u16) -> MemoryLink {
        let mut state = self.shared.lock();
        let entry = LinkEntry {
            partition,
            prefetch: prefetch.into(),
            epoch: 0,
            consuming: true,
            closed: false,
            next_tag: 1,
            unsettled: BTreeMap::new(),
            state: watch::Sender::new(LinkState::Connecting),
        };
        let index = state.links.len();
        state.links.push(entry);
        if !state.down {
            self.shared.connect(&mut state, index);
        }
        drop(state);
        MemoryLink { shared: self.shared.clone(), index }
    }

    /// Publishes as somebody outside. Returns how many queues took it, taps included; 0 is unroutable.
    /// Works while links are blocked or cut off: it stands for what arrived at the broker all the same.
    pub fn publish(&self, message: Message) -> usize {
        let mut state = self.shared.lock();
        let taken = state.route(message);
        drop(state);
        self.shared.changed.notify_waiters();
        taken
    }

    /// Binds a queue of an outside consumer to `exchange`, and returns its reading end: messages in the order
    /// of publication. Unbounded, because `publish` neither waits nor drops; what it holds is the test's input.
    pub fn declare_tap(&self, exchange: &str, binding_key: &str) -> mpsc::UnboundedReceiver<Message> {
        let (outlet, tap) = mpsc::unbounded_channel();
        self.shared.lock().taps.push(Tap { exchange: exchange.to_owned(), binding_key: binding_key.to_owned(), outlet });
        tap
    }

    /// Resolves when no queue of any partition has a message ready or unsettled.
    pub async fn idle(&self) {
        self.shared.wait(|state| state.is_idle(&self.shared.topology).then_some(())).await;
    }

    /// The messages ready in `queue`, oldest first, left where they are.
    pub fn messages(&self, queue: &str) -> Vec<Message> {
        let state = self.shared.lock();
        let ready = state.queues.get(queue).map(|queue| &queue.ready);
        ready.into_iter().flatten().map(|(_, stored)| stored.message.clone()).collect()
    }

    /// The next `count` publications of links are nacked, and routed nowhere.
    pub fn nack_next(&self, count: u32) {
        self.shared.lock().faults.nack = count;
    }

    /// The next `count` publications of links are returned as unroutable.
    pub fn return_next(&self, count: u32) {
        self.shared.lock().faults.give_back = count;
    }

    /// The next `count` deliveries are delivered once more.
    pub fn duplicate_next(&self, count: u32) {
        self.shared.lock().faults.duplicate = count;
    }

    /// From now on publications are routed, but their confirms wait for [`Self::release_confirms`].
    pub fn hold_confirms(&self) {
        self.shared.lock().faults.hold_confirms = true;
    }

    pub fn release_confirms(&self) {
        let mut state = self.shared.lock();
        state.faults.hold_confirms = false;
        state.faults.releases += 1;
        drop(state);
        self.shared.changed.notify_waiters();
    }

    /// Every link loses its connection and has another at once: unsettled deliveries come again, held confirms
    /// are lost.
    pub fn drop_connections(&self) {
        self.go_down();
        self.come_up();
    }

    /// Every link loses its connection, and gets none until [`Self::come_up`].
    pub fn go_down(&self) {
        let mut state = self.shared.lock();
        state.down = true;
        for index in 0..state.links.len() {
            self.shared.disconnect(&mut state, index);
            state.announce(index);
        }
        drop(state);
        self.shared.changed.notify_waiters();
    }

    pub fn come_up(&self) {
        let mut state = self.shared.lock();
        state.down = false;
        for index in 0..state.links.len() {
            if !state.links[index].closed {
                self.shared.connect(&mut state, index);
            }
        }
        drop(state);
        self.shared.changed.notify_waiters();
    }

    /// Links' publications wait until [`Self::unblock`]; consuming goes on.
    pub fn block(&self, reason: &str) {
        self.set_blocked(Some(reason.to_owned()));
    }

    pub fn unblock(&self) {
        self.set_blocked(None);
    }

    fn set_blocked(&self, reason: Option<String>) {
        let mut state = self.shared.lock();
        state.blocked = reason;
        for index in 0..state.links.len() {
            state.announce(index);
        }
        drop(state);
        self.shared.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::broker::topology::TENANT_HEADER;
    use crate::broker::{HeaderValue, Lane};

    fn inbound(kind: &str, tenant: &str) -> Message {
        Message {
            exchange: "remedyd.events".into(),
            routing_key: format!("{kind}.{tenant}"),
            headers: vec![(TENANT_HEADER.into(), HeaderValue::Text(tenant.into()))],
            ..Message::default()
        }
    }

    #[test]
    fn a_tenant_has_one_partition_and_both_lanes_agree_on_it() {
        let topology = Topology::new(4).unwrap();
        let broker = MemoryBroker::new(&topology);
        let mut used = BTreeSet::new();
        for tenant in (0..64).map(|n| format!("{n}.1")) {
            for kind in ["agent.surveyed", "remediations.approved", "never.heard.of"] {
                assert_eq!(broker.publish(inbound(kind, &tenant)), 1);
            }
            let at = |lane| {
                let holds = |p: &u16| {
                    let messages = broker.messages(&topology.queue(*p, lane));
                    messages.iter().any(|m| m.routing_key.ends_with(&format!(".{tenant}")))
                };
                (0..4).filter(holds).collect::<Vec<_>>()
            };
            assert_eq!(at(Lane::Reports).len(), 1, "{tenant}");
            assert_eq!(at(Lane::Reports), at(Lane::Surveys), "{tenant}");
            used.extend(at(Lane::Reports));
        }
        assert_eq!(used.len(), 4, "64 tenants use every partition");
    }

    #[test]
    fn status_without_a_consumer_is_kept_up_to_the_bound() {
        let topology = Topology::new(1).unwrap();
        let broker = MemoryBroker::new(&topology);
        let status = Message { exchange: topology.status(), routing_key: "incident_report.triaged.5.4".into(), ..Message::default() };
        assert_eq!(broker.publish(status.clone()), 1);
        assert_eq!(broker.messages(&topology.unrouted()).len(), 1);
        let mut tap = broker.declare_tap(&topology.status(), "incident_report.#");
        assert_eq!(broker.publish(status.clone()), 1);
        assert_eq!(tap.try_recv(), Ok(status));
        assert_eq!(broker.messages(&topology.unrouted()).len(), 1);
    }

    #[test]
    fn a_tap_on_the_default_exchange_watches_a_queue() {
        let topology = Topology::new(1).unwrap();
        let broker = MemoryBroker::new(&topology);
        let mut tap = broker.declare_tap("", &topology.dead_letters());
        let dead_letter = Message { routing_key: topology.dead_letters(), ..Message::default() };
        broker.publish(dead_letter.clone());
        broker.publish(Message { routing_key: topology.unrouted(), ..Message::default() });
        assert_eq!(tap.try_recv(), Ok(dead_letter));
        assert!(tap.try_recv().is_err(), "another queue's message is not its own");
        assert_eq!(broker.messages(&topology.dead_letters()).len(), 1, "the queue has it all the same");
    }
}
