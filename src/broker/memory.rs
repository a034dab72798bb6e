//! The broker in this process: routing, prefetch, redelivery, confirms and faults, from the same [`Topology`].
//!
//! Never here: I/O, time, chance. What happens is decided by the order of the calls alone, so that a replay is
//! the same to the byte: `publish` routes and confirms before it returns, and nothing runs in the background.
//!
//! Bounds: a queue holds what was published to it, which in a test or a replay is the input; only queues that
//! the topology bounds drop their oldest. Deliveries are bounded by the link's prefetch.

mod matching;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc, watch};

use self::matching::{tenant_hash, topic_matches};
use super::topology::{Argument, Destination, ExchangeKind, Topology};
use super::{Delivery, Lane, Link, LinkState, Message, PublishError, Settlement, Token};

/// How far exchanges may feed exchanges. Ours are four deep; a loop ends here.
const MAX_HOPS: u8 = 8;

/// The whole broker. Clones are handles on the same one.
#[derive(Clone)]
pub struct MemoryBroker {
    shared: Arc<Shared>,
}

struct Shared {
    topology: Topology,
    state: Mutex<State>,
    /// Something has changed that somebody may wait for.
    changed: Notify,
}

struct State {
    exchanges: BTreeMap<String, Exchange>,
    queues: BTreeMap<String, Queue>,
    taps: Vec<Tap>,
    links: Vec<LinkEntry>,
    faults: Faults,
    /// Numbers messages in the order in which they were published.
    next_message: u64,
    down: bool,
    blocked: Option<String>,
}

struct Exchange {
    kind: ExchangeKind,
    alternate: Option<String>,
    bindings: Vec<(String, Destination)>,
}

#[derive(Default)]
struct Queue {
    /// By place in the queue, so that what is given back returns to its place. The second number tells copies.
    ready: BTreeMap<(u64, u32), Stored>,
    max_length: Option<usize>,
    /// Links that want this queue, oldest first; only the first is served (single active consumer).
    consumers: VecDeque<usize>,
}

#[derive(Clone)]
struct Stored {
    place: (u64, u32),
    redelivered: bool,
    message: Message,
}

struct Tap {
    exchange: String,
    binding_key: String,
    outlet: mpsc::UnboundedSender<Message>,
}

struct LinkEntry {
    partition: u16,
    prefetch: usize,
    epoch: u64,
    consuming: bool,
    closed: bool,
    next_tag: u64,
    unsettled: BTreeMap<(Lane, u64), Stored>,
    state: watch::Sender<LinkState>,
}

#[derive(Default)]
struct Faults {
    nack: u32,
    give_back: u32,
    duplicate: u32,
    hold_confirms: bool,
    /// Counts releases, so that a confirm waits for the next one only.
    releases: u64,
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

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a failed test; the others' messages are still what they were.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `look` finds something.
    async fn wait<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Before looking, so that a change right after is not missed.
            changed.as_mut().enable();
            let found = look(&mut self.lock());
            if let Some(found) = found {
                return found;
            }
            changed.await;
        }
    }

    fn connect(&self, state: &mut State, index: usize) {
        let link = &mut state.links[index];
        link.epoch += 1;
        link.next_tag = 1;
        if link.consuming {
            for queue in self.queues_of(link.partition) {
                if let Some(queue) = state.queues.get_mut(&queue) {
                    queue.consumers.push_back(index);
                }
            }
        }
        state.announce(index);
    }

    /// What the link had unsettled goes back to its place.
    fn disconnect(&self, state: &mut State, index: usize) {
        let State { links, queues, .. } = state;
        let link = &mut links[index];
        for ((lane, _), mut stored) in std::mem::take(&mut link.unsettled) {
            stored.redelivered = true;
            if let Some(queue) = queues.get_mut(&self.topology.queue(link.partition, lane)) {
                queue.ready.insert(stored.place, stored);
            }
        }
        self.cancel(state, index);
    }

    fn cancel(&self, state: &mut State, index: usize) {
        for queue in self.queues_of(state.links[index].partition) {
            if let Some(queue) = state.queues.get_mut(&queue) {
                queue.consumers.retain(|consumer| *consumer != index);
            }
        }
    }

    fn queues_of(&self, partition: u16) -> [String; 2] {
        [Lane::Reports, Lane::Surveys].map(|lane| self.topology.queue(partition, lane))
    }
}

impl State {
    /// Puts the message where its exchange leads. Returns how many queues and taps took it.
    fn route(&mut self, message: Message) -> usize {
        let mut queues = BTreeSet::new();
        let mut taps = BTreeSet::new();
        if message.exchange.is_empty() {
            // The default exchange: every queue is bound by its name, and a tap on it by the name that it watches.
            if self.queues.contains_key(&message.routing_key) {
                queues.insert(message.routing_key.clone());
            }
            let watching = |tap: &Tap| tap.exchange.is_empty() && tap.binding_key == message.routing_key;
            taps.extend(self.taps.iter().enumerate().filter(|(_, tap)| watching(tap)).map(|(index, _)| index));
        } else {
            self.follow(&message.exchange, &message, MAX_HOPS, &mut queues, &mut taps);
        }
        let place = (self.next_message, 0);
        self.next_message += 1;
        for name in &queues {
            if let Some(queue) = self.queues.get_mut(name) {
                let stored = Stored { place, redelivered: false, message: message.clone() };
                queue.ready.insert(place, stored);
                if queue.max_length.is_some_and(|length| queue.ready.len() > length) {
                    queue.ready.pop_first();
                }
            }
        }
        for index in &taps {
            // A tap whose reader has gone takes it all the same, as a queue without a consumer does.
            let _ = self.taps[*index].outlet.send(message.clone());
        }
        queues.len() + taps.len()
    }

    fn follow(&self, name: &str, message: &Message, hops: u8, queues: &mut BTreeSet<String>, taps: &mut BTreeSet<usize>) {
        let (Some(exchange), Some(hops)) = (self.exchanges.get(name), hops.checked_sub(1)) else {
            return;
        };
        let matched: Vec<&Destination> = match exchange.kind {
            ExchangeKind::Fanout => exchange.bindings.iter().map(|(_, to)| to).collect(),
            ExchangeKind::Topic => {
                let matches = |(key, _): &&(String, _)| topic_matches(key, &message.routing_key);
                exchange.bindings.iter().filter(matches).map(|(_, to)| to).collect()
            }
            ExchangeKind::TenantHash => {
                let bound = exchange.bindings.len().max(1) as u64;
                let slot = (tenant_hash(message) % bound) as usize;
                exchange.bindings.get(slot).map(|(_, to)| to).into_iter().collect()
            }
        };
        // As in RabbitMQ, the alternate exchange is for what no binding of this exchange matches, wherever
        // the bindings that do match lead in the end.
        let mut unmatched = matched.is_empty();
        for (index, tap) in self.taps.iter().enumerate() {
            let bound = tap.exchange == name
                && match exchange.kind {
                    ExchangeKind::Topic => topic_matches(&tap.binding_key, &message.routing_key),
                    ExchangeKind::Fanout | ExchangeKind::TenantHash => true,
                };
            if bound {
                unmatched = false;
                taps.insert(index);
            }
        }
        for destination in matched {
            match destination {
                Destination::Queue(queue) => {
                    queues.insert(queue.clone());
                }
                Destination::Exchange(next) => self.follow(next, message, hops, queues, taps),
            }
        }
        if unmatched && let Some(alternate) = &exchange.alternate {
            self.follow(alternate, message, hops, queues, taps);
        }
    }

    /// Hands out the next delivery, if the link may have one.
    fn take(&mut self, index: usize, lane: Lane, queue: &str) -> Option<Delivery> {
        let link = &mut self.links[index];
        let out = link.unsettled.keys().filter(|(of, _)| *of == lane).count();
        let queue = self.queues.get_mut(queue)?;
        if queue.consumers.front() != Some(&index) || out >= link.prefetch {
            return None;
        }
        let (_, stored) = queue.ready.pop_first()?;
        if self.faults.duplicate > 0 {
            self.faults.duplicate -= 1;
            let mut copy = stored.clone();
            copy.place.1 += 1;
            copy.redelivered = true;
            queue.ready.insert(copy.place, copy);
        }
        let token = Token { epoch: link.epoch, lane, tag: link.next_tag };
        link.next_tag += 1;
        let delivery = Delivery { token, redelivered: stored.redelivered, message: stored.message.clone() };
        link.unsettled.insert((lane, token.tag), stored);
        Some(delivery)
    }

    fn is_idle(&self, topology: &Topology) -> bool {
        let lanes = [Lane::Reports, Lane::Surveys];
        let empty = |partition: u16| {
            lanes.iter().all(|lane| {
                let queue = self.queues.get(&topology.queue(partition, *lane));
                queue.is_none_or(|queue| queue.ready.is_empty())
            })
        };
        (0..topology.partitions()).all(empty) && self.links.iter().all(|link| link.unsettled.is_empty())
    }

    fn announce(&mut self, index: usize) {
        let link = &self.links[index];
        let now = match (link.closed, self.down, &self.blocked) {
            (true, _, _) => LinkState::Closed,
            (false, true, _) => LinkState::Connecting,
            (false, false, None) => LinkState::Ready { epoch: link.epoch },
            (false, false, Some(reason)) => LinkState::Blocked { epoch: link.epoch, reason: reason.clone() },
        };
        link.state.send_replace(now);
    }
}

/// A link to the broker in this process. Dropping it without closing is a crash: what it had unsettled comes
/// again.
pub struct MemoryLink {
    shared: Arc<Shared>,
    index: usize,
}

impl MemoryLink {
    fn end(&self) {
        let mut state = self.shared.lock();
        if !state.links[self.index].closed {
            self.shared.disconnect(&mut state, self.index);
            state.links[self.index].closed = true;
            state.links[self.index].consuming = false;
            state.announce(self.index);
        }
        drop(state);
        self.shared.changed.notify_waiters();
    }
}

/// What became of a publication at the first look.
enum Outcome {
    Done(Result<(), PublishError>),
    /// Routed; the confirm comes with the release after this one, in this epoch only.
    Held {
        releases: u64,
        epoch: u64,
    },
}

impl Link for MemoryLink {
    async fn next(&self, lane: Lane) -> Option<Delivery> {
        let index = self.index;
        let partition = self.shared.lock().links[index].partition;
        let queue = self.shared.topology.queue(partition, lane);
        let look = |state: &mut State| {
            if state.links[index].consuming { state.take(index, lane, &queue).map(Some) } else { Some(None) }
        };
        self.shared.wait(look).await
    }

    fn settle(&self, token: Token, how: Settlement) {
        let mut state = self.shared.lock();
        let State { links, queues, .. } = &mut *state;
        let link = &mut links[self.index];
        if link.epoch != token.epoch {
            return;
        }
        let Some(mut stored) = link.unsettled.remove(&(token.lane, token.tag)) else {
            return;
        };
        if how == Settlement::Requeue {
            let queue = self.shared.topology.queue(link.partition, token.lane);
            stored.redelivered = true;
            if let Some(queue) = queues.get_mut(&queue) {
                queue.ready.insert(stored.place, stored);
            }
        }
        drop(state);
        self.shared.changed.notify_waiters();
    }

    async fn publish(&self, message: Message) -> Result<(), PublishError> {
        let index = self.index;
        let mut unsent = Some(message);
        let look = |state: &mut State| {
            let link = &state.links[index];
            if link.closed {
                return Some(Outcome::Done(Err(PublishError::Closed)));
            }
            if state.down || state.blocked.is_some() {
                return None;
            }
            let epoch = link.epoch;
            let faults = &mut state.faults;
            if faults.nack > 0 {
                faults.nack -= 1;
                return Some(Outcome::Done(Err(PublishError::Nacked)));
            }
            if faults.give_back > 0 {
                faults.give_back -= 1;
                let reason = "312 NO_ROUTE".to_owned();
                return Some(Outcome::Done(Err(PublishError::Returned(reason))));
            }
            let message = unsent.take()?;
            if state.route(message) == 0 {
                let reason = "312 NO_ROUTE".to_owned();
                return Some(Outcome::Done(Err(PublishError::Returned(reason))));
            }
            if state.faults.hold_confirms {
                let releases = state.faults.releases;
                return Some(Outcome::Held { releases, epoch });
            }
            Some(Outcome::Done(Ok(())))
        };
        let outcome = self.shared.wait(look).await;
        self.shared.changed.notify_waiters();
        match outcome {
            Outcome::Done(verdict) => verdict,
            Outcome::Held { releases, epoch } => {
                let look = |state: &mut State| {
                    if state.links[index].closed || state.links[index].epoch != epoch || state.down {
                        let reason = "the connection ended".to_owned();
                        return Some(Err(PublishError::Lost(reason)));
                    }
                    (state.faults.releases > releases).then_some(Ok(()))
                };
                self.shared.wait(look).await
            }
        }
    }

    fn stop_consuming(&self) {
        let mut state = self.shared.lock();
        state.links[self.index].consuming = false;
        self.shared.cancel(&mut state, self.index);
        drop(state);
        self.shared.changed.notify_waiters();
    }

    fn state(&self) -> watch::Receiver<LinkState> {
        self.shared.lock().links[self.index].state.subscribe()
    }

    async fn close(&self) {
        self.end();
    }
}

impl Drop for MemoryLink {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::HeaderValue;
    use crate::broker::topology::TENANT_HEADER;

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
