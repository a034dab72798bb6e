//! The whole pipeline in one process: the memory link, a sled directory, virtual time. What `replay` and
//! `demo` run on. Never here: what is played, and how it is shown.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use tempfile::TempDir;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::agent::simulated::Model;
use crate::broker::memory::MemoryBroker;
use crate::broker::topology::Topology;
use crate::broker::{Link as _, Message};
use crate::config::{Publishers, Users};
use crate::machine::policy::Policy;
use crate::model::time::{Timestamp, days};
use crate::pipeline::clock::Clock;
use crate::pipeline::counters::Count;
use crate::pipeline::engine::Limits;
use crate::pipeline::partition::PartitionSettings;
use crate::pipeline::{self, Pipeline, Recovered, Settings};
use crate::store::journal::JournalStore;
use crate::store::sled::SledSettings;

use super::exit::store_exit;

/// Deliveries handed out and not settled, per lane.
const PREFETCH: u16 = 256;

/// A running pipeline and both ends of its broker.
pub struct Embedded {
    broker: MemoryBroker,
    link: Arc<crate::broker::memory::MemoryLink>,
    pipeline: Pipeline,
    events_exchange: String,
    status: UnboundedReceiver<Message>,
    dead_letters: UnboundedReceiver<Message>,
    store: Arc<JournalStore>,
    // last: the directory goes when the store has been closed
    temporary: Option<TempDir>,
}

impl Embedded {
    /// On `store`, or on a fresh directory that is removed at the end.
    pub async fn start(store: Option<&Path>, model: Model, publish_window: usize) -> anyhow::Result<Self> {
        let temporary = match store {
            Some(_) => None,
            None => Some(TempDir::with_prefix("remedyd-").context("creating a temporary store")?),
        };
        let dir = store.map(Path::to_owned).or_else(|| temporary.as_ref().map(|dir| dir.path().join("store"))).unwrap_or_default();
        let store = tokio::task::spawn_blocking(move || JournalStore::open(&dir, SledSettings::default()))
            .await
            .context("opening the store")?
            .map_err(store_exit)?;
        let store = Arc::new(store);
        let topology = Topology::new(1)?;
        let broker = MemoryBroker::new(&topology);
        let status = broker.declare_tap(&topology.status(), "#");
        let dead_letters = broker.declare_tap("", &topology.dead_letters());
        let link = Arc::new(broker.link(0, PREFETCH));
        let settings = Settings {
            partition: PartitionSettings {
                clock: Clock::EVENTS,
                policy: Policy::default(),
                model,
                dead_letter_queue: topology.dead_letters(),
                status_exchange: topology.status(),
                audit_kept: days(400),
            },
            limits: Limits {
                batch_events: 1_024,
                outbox_rows: 10_000,
                // the broker ends with the process: nobody hears anything twice
                repeats: usize::MAX,
                drain: std::time::Duration::from_secs(10),
            },
            users: Arc::new(Publishers::new(Users::Anyone)),
            publish_window,
        };
        let begun = Recovered::read(Arc::clone(&store), settings).and_then(|read| pipeline::start("engine", read, Arc::clone(&link)));
        let pipeline = begun.map_err(store_exit)?;
        Ok(Self { broker, link, pipeline, events_exchange: topology.events(), status, dead_letters, store, temporary })
    }

    /// Publishes an event as a producer would.
    pub fn publish(&self, body: Vec<u8>) {
        let routing_key = routing_key(&body);
        self.broker.publish(Message {
            exchange: self.events_exchange.clone(),
            routing_key,
            content_type: Some("application/cloudevents+json".into()),
            body,
            ..Message::default()
        });
    }

    /// Waits until all that was published is decided, durable, run and published on.
    pub async fn settle(&mut self) -> anyhow::Result<()> {
        let Self { broker, pipeline, .. } = self;
        tokio::select! {
            () = broker.idle() => {}
            // before it is idle the engine ends only with its store
            ended = pipeline.ended() => return ended.map_err(store_exit),
        }
        pipeline.quiesced().await;
        Ok(())
    }

    /// Lets virtual time pass.
    pub async fn advance(&mut self, to: Timestamp) -> anyhow::Result<()> {
        self.pipeline.advance(to).await;
        self.settle().await
    }

    /// The outbound events since the last call, in the order of their publication.
    pub fn take_outbound(&mut self) -> Vec<Message> {
        drain(&mut self.status)
    }

    pub fn take_dead_letters(&mut self) -> Vec<Message> {
        drain(&mut self.dead_letters)
    }

    pub fn count(&self) -> Count {
        self.pipeline.counters().count()
    }

    /// Drains and closes.
    pub async fn end(self) -> anyhow::Result<()> {
        self.pipeline.drain().await.map_err(store_exit)?;
        self.link.close().await;
        drop(self.store);
        drop(self.temporary);
        Ok(())
    }
}

fn drain(tap: &mut UnboundedReceiver<Message>) -> Vec<Message> {
    std::iter::from_fn(|| tap.try_recv().ok()).collect()
}

/// `<type>.<tenantid>` as far as the bytes say; what they do not say routes like any unknown type.
fn routing_key(body: &[u8]) -> String {
    let event: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    let field = |name: &str| event.get(name).and_then(|value| value.as_str()).unwrap_or("unknown").to_owned();
    format!("{}.{}", field("type"), field("tenantid"))
}
