//! What the tests of the broker port share: a place to run a link in, over either implementation.
//!
//! Never here: an assertion about a link, or a sleep to wait for one.

// Each test binary compiles this file and uses its part of it.
#![allow(dead_code)]

pub mod proxy;
pub mod rabbit;

use std::time::Duration;

use remedyd::broker::memory::{MemoryBroker, MemoryLink};
use remedyd::broker::topology::Topology;
use remedyd::broker::{Delivery, Lane, Link, LinkState, Message};

/// How long anything may take before a test fails. Generous: the machine may be building at the same time.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for `what`, and fails the test if it does not come.
pub async fn within<T>(what: &str, awaited: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, awaited).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// A broker with a topology of its own, and links to it.
pub trait Place {
    type Link: Link;

    fn topology(&self) -> &Topology;

    /// A new link to partition 0 with this prefetch on both lanes, ready.
    async fn link(&self, prefetch: u16) -> Self::Link;

    /// Publishes as somebody outside; returns once the broker has it.
    async fn publish(&self, message: Message);

    /// Ends every connection of every link, without a word to either side.
    async fn cut(&self);

    /// The numbers in the bodies of the first `count` messages of `queue`, which must be there or come.
    async fn contents(&self, queue: &str, count: usize) -> Vec<usize>;
}

/// The broker in this process.
pub struct InMemory {
    pub broker: MemoryBroker,
    topology: Topology,
}

impl InMemory {
    pub fn new() -> Self {
        let topology = Topology::new(1).expect("one partition");
        Self { broker: MemoryBroker::new(&topology), topology }
    }
}

impl Place for InMemory {
    type Link = MemoryLink;

    fn topology(&self) -> &Topology {
        &self.topology
    }

    async fn link(&self, prefetch: u16) -> MemoryLink {
        self.broker.link(0, prefetch)
    }

    async fn publish(&self, message: Message) {
        assert_ne!(self.broker.publish(message), 0, "unroutable");
    }

    async fn cut(&self) {
        self.broker.drop_connections();
    }

    async fn contents(&self, queue: &str, count: usize) -> Vec<usize> {
        let messages = self.broker.messages(queue);
        messages.iter().take(count).map(number).collect()
    }
}

/// Waits until the link is ready in an epoch after `epoch` (0: in any). Returns the epoch.
pub async fn ready(link: &impl Link, epoch: u64) -> u64 {
    let mut state = link.state();
    let is_ready = |state: &LinkState| matches!(state, LinkState::Ready { epoch: now } if *now > epoch);
    let state = within("the link gets ready", state.wait_for(is_ready)).await;
    match &*state.expect("the link is there") {
        LinkState::Ready { epoch } => *epoch,
        other => panic!("not ready: {other:?}"),
    }
}

/// The next delivery, which must come.
pub async fn next(link: &impl Link, lane: Lane) -> Delivery {
    let delivery = within("a delivery", link.next(lane)).await;
    delivery.expect("the link delivers")
}

/// An event for the reports lane whose body is `number`.
pub fn report(topology: &Topology, number: usize) -> Message {
    event(topology, "incident_report.created", number)
}

/// An event for the surveys lane whose body is `number`.
pub fn survey(topology: &Topology, number: usize) -> Message {
    event(topology, "agent.surveyed", number)
}

fn event(topology: &Topology, kind: &str, number: usize) -> Message {
    Message {
        exchange: topology.events(),
        routing_key: format!("{kind}.5.4"),
        message_id: Some(format!("{kind}-{number}")),
        content_type: Some("application/cloudevents+json".into()),
        body: number.to_string().into_bytes(),
        ..Message::default()
    }
}

/// The number in a body.
pub fn number(message: &Message) -> usize {
    let body = std::str::from_utf8(&message.body).expect("a number in UTF-8");
    body.parse().expect("a number")
}
