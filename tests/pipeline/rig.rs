//! A pipeline on the broker in memory and a disk in memory, with a witness at both of its ends.
//!
//! The witness writes down, in order, what became durable, what was acked and what was handed to the broker;
//! [`Rig::judge`] holds that against the promise. Every test ends with it. Virtual time throughout; a wait is for
//! something that happens, never for a while.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use remedyd::agent::simulated::Model;
use remedyd::broker::memory::{MemoryBroker, MemoryLink};
use remedyd::broker::topology::Topology;
use remedyd::broker::{Delivery, Lane, Link, LinkState, Message, PublishError, Settlement, Token};
use remedyd::config::{Publishers, Users};
use remedyd::machine::policy::Policy;
use remedyd::model::ids::TenantId;
use remedyd::model::time::{Timestamp, days};
use remedyd::pipeline::clock::Clock;
use remedyd::pipeline::counters::Count;
use remedyd::pipeline::engine::Limits;
use remedyd::pipeline::partition::PartitionSettings;
use remedyd::pipeline::rows::{self, OutboxRow};
use remedyd::pipeline::{self, Pipeline, Recovered, Settings};
use remedyd::store::memory::{CommitFault, MemoryDisk, MemoryStore};
use remedyd::store::{Batch, Row, Store, StoreError, keys};
use serde_json::Value;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;

use crate::support::within;

/// What was seen, in the order in which it happened.
#[derive(Debug)]
pub enum Seen {
    /// A process has opened the disk and found these rows.
    Found(Batch),
    Delivered(Token, Message),
    /// A commit has returned `Ok`: these rows.
    Durable(Batch),
    Acked(Token),
    /// Handed to the broker, for the first time or again.
    Published(Message),
}

pub type Journal = Arc<Mutex<Vec<Seen>>>;

pub struct Rig {
    pub broker: MemoryBroker,
    pub topology: Topology,
    pub disk: MemoryDisk,
    pub journal: Journal,
    pub users: Users,
    pub limits: Limits,
    /// The broker is to refuse something.
    pub refused: bool,
    status: Mutex<UnboundedReceiver<Message>>,
    arrived: Mutex<Vec<Message>>,
    archive: Mutex<Vec<Vec<u8>>>,
    stores: Mutex<Vec<Weak<Witness>>>,
}

/// A commit that a failed test has left held would keep the runtime from ending.
impl Drop for Rig {
    fn drop(&mut self) {
        for store in self.stores.lock().unwrap().iter().filter_map(Weak::upgrade) {
            store.inner.power_cut();
        }
    }
}

/// One process's life.
pub struct Run {
    pub pipeline: Pipeline,
    pub store: Arc<Witness>,
    pub link: Arc<WatchedLink>,
}

impl Rig {
    pub fn new() -> Self {
        let topology = Topology::new(1).unwrap();
        let broker = MemoryBroker::new(&topology);
        let status = Mutex::new(broker.declare_tap(&topology.status(), "#"));
        Self {
            broker,
            topology,
            disk: MemoryDisk::default(),
            journal: Journal::default(),
            users: Users::Anyone,
            limits: Limits { batch_events: 64, outbox_rows: 10_000, repeats: 100, drain: Duration::from_secs(10) },
            refused: false,
            status,
            arrived: Mutex::default(),
            archive: Mutex::default(),
            stores: Mutex::default(),
        }
    }

    /// Starts a process on the disk.
    pub fn start(&self) -> Run {
        let inner = MemoryStore::open(&self.disk).unwrap();
        let found = inner.scan(b"", b"", usize::MAX).unwrap().into_iter().map(|(key, value)| (key.into(), Some(value.into())));
        self.journal.lock().unwrap().push(Seen::Found(Batch { writes: found.collect(), ..Batch::default() }));
        let store = Arc::new(Witness { inner, journal: Arc::clone(&self.journal) });
        self.stores.lock().unwrap().push(Arc::downgrade(&store));
        let link = Arc::new(WatchedLink { inner: self.broker.link(0, 2_000), journal: Arc::clone(&self.journal) });
        let settings = Settings {
            partition: PartitionSettings {
                clock: Clock::EVENTS,
                policy: Policy::default(),
                model: Model::Steady,
                dead_letter_queue: self.topology.dead_letters(),
                audit_kept: days(400),
                status_exchange: self.topology.status(),
            },
            limits: self.limits,
            users: Arc::new(Publishers::new(self.users.clone())),
            publish_window: 100,
        };
        let recovered = Recovered::read(Arc::clone(&store), settings).unwrap();
        let pipeline = pipeline::start("engine", recovered, Arc::clone(&link)).unwrap();
        Run { pipeline, store, link }
    }

    /// Publishes an event as a producer would.
    pub fn publish(&self, event: &Value) {
        self.publish_as(event, None, None);
    }

    pub fn publish_as(&self, event: &Value, user: Option<&str>, header_tenant: Option<&str>) {
        let field = |name: &str| event[name].as_str().unwrap_or("unknown").to_owned();
        let header = |tenant: &str| ("tenantid".to_owned(), remedyd::broker::HeaderValue::Text(tenant.to_owned()));
        self.broker.publish(Message {
            exchange: self.topology.events(),
            routing_key: format!("{}.{}", field("type"), field("tenantid")),
            content_type: Some("application/cloudevents+json".into()),
            user_id: user.map(str::to_owned),
            headers: header_tenant.map(header).into_iter().collect(),
            body: event.to_string().into_bytes(),
            ..Message::default()
        });
    }

    /// Waits until all that was published is decided, durable, run and published on.
    pub async fn settle(&self, run: &Run) {
        within("the broker is idle", self.broker.idle()).await;
        within("the pipeline is done", run.pipeline.quiesced()).await;
    }

    /// A power cut: what is not durable is gone, and the connection with it.
    pub async fn crash(&self, run: Run) {
        run.store.inner.power_cut();
        run.link.close().await;
        drop(run.pipeline);
    }

    /// Every copy of every event that has arrived at the subscriber, in order.
    pub fn arrived(&self) -> Vec<Message> {
        let mut arrived = self.arrived.lock().unwrap();
        let mut status = self.status.lock().unwrap();
        arrived.extend(std::iter::from_fn(|| status.try_recv().ok()));
        arrived.clone()
    }

    /// What has arrived, each event once, as `<subject>#<sequence> <type>` and what it says of states.
    pub fn told(&self) -> Vec<String> {
        let mut seen = BTreeSet::new();
        let new = self.arrived().into_iter().filter(|message| seen.insert(message.message_id.clone()));
        new.map(|message| line(&message)).collect()
    }

    /// The bodies by id; copies have been compared by `judge`.
    pub fn bodies(&self) -> BTreeMap<String, Vec<u8>> {
        self.arrived().into_iter().map(|message| (message.message_id.unwrap_or_default(), message.body)).collect()
    }

    /// Reasons in the dead letter queue, oldest first.
    pub fn dead_letters(&self) -> Vec<String> {
        let reason = |message: &Message| {
            let value = message.headers.iter().find(|(name, _)| name == "reason").map(|(_, value)| value.clone());
            match value {
                Some(remedyd::broker::HeaderValue::Text(text)) => text,
                other => panic!("a dead letter without a reason: {other:?}"),
            }
        };
        self.broker.messages(&self.topology.dead_letters()).iter().map(reason).collect()
    }

    /// Every line that has gone to the archive.
    pub fn archive(&self) -> Vec<Value> {
        let mut archive = self.archive.lock().unwrap();
        archive.extend(self.disk.take_archive());
        archive.iter().map(|line| serde_json::from_slice(line).unwrap()).collect()
    }

    pub fn acks(&self) -> usize {
        self.journal.lock().unwrap().iter().filter(|seen| matches!(seen, Seen::Acked(_))).count()
    }

    pub fn publications(&self) -> usize {
        self.journal.lock().unwrap().iter().filter(|seen| matches!(seen, Seen::Published(_))).count()
    }

    /// Invariants 2, 8, 11 and 12: sequences gapless in order of arrival, acks after effects, publications after
    /// commits, copies identical. What the broker has refused may be overtaken by what then comes once more.
    pub fn judge(&self) {
        let journal = self.journal.lock().unwrap();
        let mut delivered: HashMap<Token, &Message> = HashMap::new();
        let mut inbox: BTreeSet<&[u8]> = BTreeSet::new();
        let mut outbox: Vec<Message> = Vec::new();
        for seen in journal.iter() {
            match seen {
                Seen::Delivered(token, message) => {
                    delivered.insert(*token, message);
                }
                Seen::Found(batch) | Seen::Durable(batch) => {
                    for (key, value) in &batch.writes {
                        if key.starts_with(keys::INBOX) && value.is_some() {
                            inbox.insert(key);
                        }
                        if let (true, Some(value)) = (key.starts_with(keys::OUTBOX), value) {
                            outbox.push(Message::clone(&OutboxRow::decode(key, value).unwrap().message));
                        }
                    }
                }
                Seen::Acked(token) => {
                    let message = delivered[token];
                    let is_dead = || outbox.iter().any(|row| row.exchange.is_empty() && row.body == message.body);
                    match rows::decode(message) {
                        // a survey that tells nothing new writes nothing
                        Ok(inbound) if !inbound.dedupe => {}
                        Ok(inbound) => {
                            let key = keys::inbox(inbound.event.tenant, &inbound.key);
                            assert!(inbox.contains(&key[..]) || is_dead(), "acked before its effect is durable: {}", inbound.event.id);
                        }
                        Err(_) => assert!(is_dead(), "acked before its dead letter is durable: {}", message.routing_key),
                    }
                }
                Seen::Published(message) => {
                    let known = outbox.contains(message);
                    assert!(known, "published without a durable row, or not as the row says: {:?}", message.message_id);
                }
            }
        }
        drop(journal);
        let mut first: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        let mut last: BTreeMap<String, u64> = BTreeMap::new();
        let mut ahead: BTreeSet<String> = BTreeSet::new();
        for message in self.arrived() {
            let id = message.message_id.clone().unwrap();
            let (subject, sequence) = id.rsplit_once(':').unwrap();
            let (sequence, last) = (sequence.parse::<u64>().unwrap(), last.entry(subject.to_owned()).or_default());
            if sequence == *last + 1 {
                *last += 1;
                ahead.remove(&id);
            } else if sequence > *last {
                ahead.insert(id.clone());
            }
            if let Some(body) = first.insert(id.clone(), message.body.clone()) {
                assert_eq!(body, message.body, "two copies of {id} differ");
            } else if !self.refused {
                assert_eq!(sequence, *last, "{subject}: {sequence} came where another was due");
            }
        }
        assert_eq!(ahead, BTreeSet::new(), "came out of order, and not once more in order");
    }
}

impl Run {
    pub fn count(&self) -> Count {
        self.pipeline.counters().count()
    }

    /// Drains; everything in order.
    pub async fn end(self) {
        within("the drain", self.pipeline.drain()).await.unwrap();
        self.link.close().await;
    }
}

/// Waits until `reached` says so. Turns the executor over instead of sleeping.
pub async fn until(what: &str, reached: impl Fn() -> bool) {
    within(what, async {
        while !reached() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Whose events they are.
pub fn tenant() -> TenantId {
    TenantId { account: 5, organization: 4 }
}

pub fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// `<subject>#<sequence> <type> <what it says of states>`
fn line(message: &Message) -> String {
    let event: Value = serde_json::from_slice(&message.body).unwrap();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let data = &event["data"];
    let mut line = format!("{}#{} {}", text(&event["subject"]).unwrap(), text(&event["sequence"]).unwrap(), text(&event["type"]).unwrap());
    if let Some(item) = data["remediation_id"].as_u64() {
        line += &format!(" {item}");
    }
    if let (from, Some(to)) = (text(&data["from"]).unwrap_or_else(|| "-".into()), text(&data["to"])) {
        line += &format!(" {from} -> {to}");
    }
    if let Some(attempt) = data["attempt"].as_u64().filter(|attempt| *attempt > 0) {
        line += &format!(", attempt {attempt}");
    }
    line
}

/// A store that writes down its commits.
pub struct Witness {
    pub inner: MemoryStore,
    journal: Journal,
}

impl Witness {
    pub fn fail_next_commit(&self, fault: CommitFault) {
        self.inner.fail_next_commit(fault);
    }

    /// The rows under a prefix.
    pub fn rows(&self, prefix: &[u8]) -> usize {
        self.inner.scan(prefix, b"", usize::MAX).unwrap().len()
    }

    /// Waits until a commit is applied and not yet durable.
    pub async fn held(self: &Arc<Self>) {
        let store = Arc::clone(self);
        within("a commit is held", tokio::task::spawn_blocking(move || store.inner.wait_until_held())).await.unwrap();
    }
}

impl Store for Witness {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.inner.get(key)
    }

    fn scan(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        self.inner.scan(prefix, from, limit)
    }

    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        let result = self.inner.commit(batch);
        if result.is_ok() {
            self.journal.lock().unwrap().push(Seen::Durable(batch.clone()));
        }
        result
    }
}

/// A link that writes down what goes over it.
pub struct WatchedLink {
    inner: MemoryLink,
    journal: Journal,
}

impl Link for WatchedLink {
    async fn next(&self, lane: Lane) -> Option<Delivery> {
        let delivery = self.inner.next(lane).await?;
        self.journal.lock().unwrap().push(Seen::Delivered(delivery.token, delivery.message.clone()));
        Some(delivery)
    }

    fn settle(&self, token: Token, how: Settlement) {
        self.journal.lock().unwrap().push(Seen::Acked(token));
        self.inner.settle(token, how);
    }

    async fn publish_in(&self, epoch: Option<u64>, message: impl Into<Arc<Message>> + Send) -> Result<(), PublishError> {
        let message = message.into();
        self.journal.lock().unwrap().push(Seen::Published(Message::clone(&message)));
        self.inner.publish_in(epoch, message).await
    }

    fn publishing_epoch(&self) -> u64 {
        self.inner.publishing_epoch()
    }

    fn stop_consuming(&self) {
        self.inner.stop_consuming();
    }

    fn state(&self) -> watch::Receiver<LinkState> {
        self.inner.state()
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
