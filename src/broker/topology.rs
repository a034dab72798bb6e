//! The topology: every exchange, queue and binding of an installation, as one table.
//!
//! It is the only source of these names and arguments: of what [`super::amqp::declare`] declares and checks,
//! of `deploy/rabbitmq/definitions.json`, and of the routing of [`super::memory`].
//! Never here: a connection, a message, a decision on what is sent where.
//!
//! ```text
//!  producers ─▶ events (topic) ── agent.surveyed.# ──▶ p0.surveys
//!                  │ whatever no binding takes
//!                  ▼
//!               events.rest (fanout) ───────────────▶ p0.reports
//!
//!  remedyd ───▶ status (topic) ── consumers' bindings ─▶ their queues
//!                  │ whatever no binding takes
//!                  ▼
//!               unrouted (fanout) ─▶ unrouted (queue, bounded)
//!
//!  remedyd ───▶ dead-letters (queue, over the default exchange)
//! ```
//! From two partitions on, `events` leads everything to `events.by-tenant`, which hashes the header `tenantid`
//! and leads to one `p<p>.events`, from where it goes on as above. Hashed once, before the lanes part: the
//! broker's hash picks a binding by the order in which bindings were made, so two hash exchanges, one for each
//! lane, would give a tenant's surveys and its reports to different partitions whenever their bindings were made
//! in different orders (an import of definitions makes them side by side, a deleted queue made again comes last).
//! For the same reason the bindings of `events.by-tenant` must not be made again in another order while stores
//! hold data: tenants would move to partitions that do not know them.
//!
//! Invariants: everything is durable; every queue is a quorum queue (a classic queue confirms before the disk
//! has it); each name starts with the prefix and a dot, so that two installations with different prefixes
//! share one virtual host without touching each other.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Lane;

/// What names start with unless another prefix is given.
pub const DEFAULT_PREFIX: &str = "remedyd";
/// The header that names the tenant, and by which tenants are shared out to partitions.
pub const TENANT_HEADER: &str = "tenantid";

/// More partitions than this are refused: 256 are 512 connections and 512 queues, beyond what one broker
/// cluster carries well, and a typing error (40960 for 4) would otherwise create queues by the thousand.
pub const MAX_PARTITIONS: u16 = 256;
/// The longest prefix, bytes. AMQP names end at 255; ours add at most 24.
pub const MAX_PREFIX_BYTES: usize = 64;

/// How often a quorum queue may hand a message out again before it drops it. Practically never: a returned
/// delivery counts even when only our process had died, and without a dead-letter exchange the dropped message
/// would be lost. What can never be applied is found by decoding, and dead-lettered by us. A number rather than
/// nothing, because RabbitMQ 4 puts 20 in place of nothing; not -1, because RabbitMQ 3 refuses it.
pub const DELIVERY_LIMIT: i64 = 1_000_000;

/// Status events kept for nobody: the newest 100,000, at most 256 MiB of them, the oldest dropped first.
/// The queue exists for the hours between installing us and binding the first consumer, or a binding taken away
/// by mistake; at ten status events a second it holds almost three hours. It must be bounded, since nobody
/// reads it; and it must drop rather than refuse, since a refused publication stays in our outbox until that is
/// full, and then a missing *listener* would stop remediation.
pub const UNROUTED_MAX_MESSAGES: i64 = 100_000;
/// See [`UNROUTED_MAX_MESSAGES`]: its second bound, bytes of message bodies.
pub const UNROUTED_MAX_BYTES: i64 = 256 * 1024 * 1024;

/// The whole table. See the module docs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    prefix: String,
    partitions: u16,
    pub exchanges: Vec<Exchange>,
    pub queues: Vec<Queue>,
    pub bindings: Vec<Binding>,
}

/// A durable exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    pub name: String,
    pub kind: ExchangeKind,
    pub arguments: Arguments,
}

/// How an exchange routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeKind {
    /// By routing key against binding keys with `*` (one word) and `#` (any number of words).
    Topic,
    /// To everything bound.
    Fanout,
    /// To one of what is bound, by a hash of the header [`TENANT_HEADER`]; the binding key is the weight.
    /// Needs the plugin `rabbitmq_consistent_hash_exchange`.
    TenantHash,
}

/// A durable quorum queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    pub name: String,
    pub arguments: Arguments,
}

/// From an exchange to a queue or to another exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    pub source: String,
    pub destination: Destination,
    pub routing_key: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    Queue(String),
    Exchange(String),
}

/// Declaration arguments, in the order of their names.
pub type Arguments = BTreeMap<&'static str, Argument>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    Text(String),
    Integer(i64),
    Flag(bool),
}

/// Why there is no such topology.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    #[error("{0} partitions: must be 1 to {MAX_PARTITIONS}")]
    Partitions(u16),
    #[error("prefix {0:?}: must be 1 to {MAX_PREFIX_BYTES} of a-z, 0-9, '-', '_', '.'")]
    Prefix(String),
}

impl ExchangeKind {
    /// The type's name on the wire.
    pub fn wire_name(self) -> &'static str {
        match self {
            Self::Topic => "topic",
            Self::Fanout => "fanout",
            Self::TenantHash => "x-consistent-hash",
        }
    }
}

impl Topology {
    /// The table for `partitions` under the [`DEFAULT_PREFIX`].
    pub fn new(partitions: u16) -> Result<Self, TopologyError> {
        Self::with_prefix(DEFAULT_PREFIX, partitions)
    }

    /// The table for an installation of its own: names start with `prefix` and a dot.
    pub fn with_prefix(prefix: &str, partitions: u16) -> Result<Self, TopologyError> {
        if !(1..=MAX_PARTITIONS).contains(&partitions) {
            return Err(TopologyError::Partitions(partitions));
        }
        let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
        if !(1..=MAX_PREFIX_BYTES).contains(&prefix.len()) || !prefix.bytes().all(plain) {
            return Err(TopologyError::Prefix(prefix.to_owned()));
        }
        let mut table = Self { prefix: prefix.to_owned(), partitions, exchanges: Vec::new(), queues: Vec::new(), bindings: Vec::new() };
        table.lay_out_inbound();
        table.lay_out_outbound();
        Ok(table)
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    pub fn partitions(&self) -> u16 {
        self.partitions
    }

    /// The exchange that producers publish to.
    pub fn events(&self) -> String {
        self.name("events")
    }

    /// The exchange behind which a partition's lanes are: what is published there goes to that partition, whoever's it is.
    pub fn entry(&self, partition: u16) -> String {
        if self.partitions == 1 { self.events() } else { self.name(&format!("p{partition}.events")) }
    }

    /// The exchange that consumers bind to.
    pub fn status(&self) -> String {
        self.name("status")
    }

    /// The exchange, and the queue of the same name, of status events that no consumer is bound for.
    pub fn unrouted(&self) -> String {
        self.name("unrouted")
    }

    /// The queue of what can never be applied. Published to over the default exchange (`""`).
    pub fn dead_letters(&self) -> String {
        self.name("dead-letters")
    }

    /// The queue of one lane of a partition.
    pub fn queue(&self, partition: u16, lane: Lane) -> String {
        match lane {
            Lane::Reports => self.name(&format!("p{partition}.reports")),
            Lane::Surveys => self.name(&format!("p{partition}.surveys")),
        }
    }

    /// The table in the shape of RabbitMQ's `definitions.json`, for the virtual host `vhost`.
    pub fn definitions(&self, vhost: &str) -> Value {
        let exchanges: Vec<Value> = self
            .exchanges
            .iter()
            .map(|exchange| {
                json!({
                    "name": exchange.name, "vhost": vhost, "type": exchange.kind.wire_name(),
                    "durable": true, "auto_delete": false, "internal": false,
                    "arguments": printed(&exchange.arguments),
                })
            })
            .collect();
        let queues: Vec<Value> = self
            .queues
            .iter()
            .map(|queue| {
                json!({
                    "name": queue.name, "vhost": vhost, "durable": true, "auto_delete": false,
                    "arguments": printed(&queue.arguments),
                })
            })
            .collect();
        let bindings: Vec<Value> = self
            .bindings
            .iter()
            .map(|binding| {
                let (kind, destination) = match &binding.destination {
                    Destination::Queue(name) => ("queue", name),
                    Destination::Exchange(name) => ("exchange", name),
                };
                json!({
                    "source": binding.source, "vhost": vhost, "destination": destination,
                    "destination_type": kind, "routing_key": binding.routing_key, "arguments": {},
                })
            })
            .collect();
        json!({
            "vhosts": [{ "name": vhost }],
            "exchanges": exchanges,
            "queues": queues,
            "bindings": bindings,
        })
    }

    fn lay_out_inbound(&mut self) {
        let events = self.events();
        if self.partitions == 1 {
            self.lay_out_partition(0, &events);
            return;
        }
        let by_tenant = self.name("events.by-tenant");
        let hash = Arguments::from([("hash-header", Argument::Text(TENANT_HEADER.into()))]);
        self.exchange(&events, ExchangeKind::Topic, Arguments::new());
        self.exchange(&by_tenant, ExchangeKind::TenantHash, hash);
        self.bind(&events, Destination::Exchange(by_tenant.clone()), "#");
        for partition in 0..self.partitions {
            let entry = self.entry(partition);
            self.bind(&by_tenant, Destination::Exchange(entry.clone()), "1");
            self.lay_out_partition(partition, &entry);
        }
    }

    /// Shares what enters a partition out to its two lanes.
    fn lay_out_partition(&mut self, partition: u16, entry: &str) {
        let rest = format!("{entry}.rest");
        self.exchange(entry, ExchangeKind::Topic, alternate(&rest));
        self.exchange(&rest, ExchangeKind::Fanout, Arguments::new());
        let surveys = self.partition_queue(partition, Lane::Surveys);
        self.bind(entry, Destination::Queue(surveys), "agent.surveyed.#");
        let reports = self.partition_queue(partition, Lane::Reports);
        self.bind(&rest, Destination::Queue(reports), "");
    }

    fn lay_out_outbound(&mut self) {
        let (status, unrouted, dead_letters) = (self.status(), self.unrouted(), self.dead_letters());
        self.exchange(&status, ExchangeKind::Topic, alternate(&unrouted));
        self.exchange(&unrouted, ExchangeKind::Fanout, Arguments::new());
        let mut bounded = quorum();
        bounded.insert("x-max-length", Argument::Integer(UNROUTED_MAX_MESSAGES));
        bounded.insert("x-max-length-bytes", Argument::Integer(UNROUTED_MAX_BYTES));
        bounded.insert("x-overflow", Argument::Text("drop-head".into()));
        self.queues.push(Queue { name: unrouted.clone(), arguments: bounded });
        self.bind(&unrouted, Destination::Queue(unrouted.clone()), "");
        // Not bounded: dropping a dead letter would be silent loss, and refusing one would stop its partition.
        self.queues.push(Queue { name: dead_letters, arguments: quorum() });
    }

    /// Adds the queue of a lane. Not bounded either: that is the operator's choice between refusing events and
    /// keeping them, made by a policy.
    fn partition_queue(&mut self, partition: u16, lane: Lane) -> String {
        let name = self.queue(partition, lane);
        let mut arguments = quorum();
        // Two consumers of one queue would undo its order: the second waits instead.
        arguments.insert("x-single-active-consumer", Argument::Flag(true));
        self.queues.push(Queue { name: name.clone(), arguments });
        name
    }

    fn exchange(&mut self, name: &str, kind: ExchangeKind, arguments: Arguments) {
        self.exchanges.push(Exchange { name: name.to_owned(), kind, arguments });
    }

    fn bind(&mut self, source: &str, destination: Destination, routing_key: &str) {
        self.bindings.push(Binding { source: source.to_owned(), destination, routing_key: routing_key.to_owned() });
    }

    fn name(&self, rest: &str) -> String {
        format!("{}.{rest}", self.prefix)
    }
}

fn alternate(exchange: &str) -> Arguments {
    Arguments::from([("alternate-exchange", Argument::Text(exchange.to_owned()))])
}

fn quorum() -> Arguments {
    Arguments::from([("x-delivery-limit", Argument::Integer(DELIVERY_LIMIT)), ("x-queue-type", Argument::Text("quorum".into()))])
}

fn printed(arguments: &Arguments) -> Value {
    let entries = arguments.iter().map(|(name, argument)| {
        let value = match argument {
            Argument::Text(text) => json!(text),
            Argument::Integer(number) => json!(number),
            Argument::Flag(flag) => json!(flag),
        };
        ((*name).to_owned(), value)
    });
    Value::Object(entries.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One line per binding, and per alternate exchange.
    fn routes(table: &Topology) -> Vec<String> {
        let alternates = table.exchanges.iter().flat_map(|exchange| {
            let other = exchange.arguments.get("alternate-exchange");
            other.map(|other| match other {
                Argument::Text(other) => format!("{} -else-> {other}", exchange.name),
                Argument::Integer(_) | Argument::Flag(_) => panic!("not a name: {other:?}"),
            })
        });
        let bindings = table.bindings.iter().map(|binding| {
            let to = match &binding.destination {
                Destination::Queue(name) => format!("queue {name}"),
                Destination::Exchange(name) => name.clone(),
            };
            format!("{} -[{}]-> {to}", binding.source, binding.routing_key)
        });
        alternates.chain(bindings).collect()
    }

    #[test]
    fn one_partition_is_bound_straight() {
        assert_eq!(
            routes(&Topology::new(1).unwrap()),
            [
                "remedyd.events -else-> remedyd.events.rest",
                "remedyd.status -else-> remedyd.unrouted",
                "remedyd.events -[agent.surveyed.#]-> queue remedyd.p0.surveys",
                "remedyd.events.rest -[]-> queue remedyd.p0.reports",
                "remedyd.unrouted -[]-> queue remedyd.unrouted",
            ]
        );
    }

    #[test]
    fn more_partitions_share_tenants_out_by_hash() {
        assert_eq!(
            routes(&Topology::with_prefix("a", 2).unwrap()),
            [
                "a.p0.events -else-> a.p0.events.rest",
                "a.p1.events -else-> a.p1.events.rest",
                "a.status -else-> a.unrouted",
                "a.events -[#]-> a.events.by-tenant",
                "a.events.by-tenant -[1]-> a.p0.events",
                "a.p0.events -[agent.surveyed.#]-> queue a.p0.surveys",
                "a.p0.events.rest -[]-> queue a.p0.reports",
                "a.events.by-tenant -[1]-> a.p1.events",
                "a.p1.events -[agent.surveyed.#]-> queue a.p1.surveys",
                "a.p1.events.rest -[]-> queue a.p1.reports",
                "a.unrouted -[]-> queue a.unrouted",
            ]
        );
    }

    #[test]
    fn every_queue_is_a_quorum_queue_that_drops_nothing_by_counting_deliveries() {
        for queue in &Topology::new(3).unwrap().queues {
            let quorum = Argument::Text("quorum".into());
            assert_eq!(queue.arguments["x-queue-type"], quorum, "{}", queue.name);
            let limit = Argument::Integer(DELIVERY_LIMIT);
            assert_eq!(queue.arguments["x-delivery-limit"], limit, "{}", queue.name);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(Topology::new(0), Err(TopologyError::Partitions(0)));
        assert_eq!(Topology::new(257), Err(TopologyError::Partitions(257)));
        for prefix in ["", "A", "a b", "a/b", &"a".repeat(65)] {
            let refused = TopologyError::Prefix(prefix.to_owned());
            assert_eq!(Topology::with_prefix(prefix, 1), Err(refused));
        }
    }

    #[test]
    fn the_deployed_definitions_are_the_table() {
        let deployed = include_str!("../../deploy/rabbitmq/definitions.json");
        let deployed: Value = serde_json::from_str(deployed).unwrap();
        assert_eq!(
            deployed,
            Topology::new(1).unwrap().definitions("/"),
            "write it again: remedyd topology print > deploy/rabbitmq/definitions.json"
        );
    }
}
