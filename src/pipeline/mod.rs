//! Floor 3, the only joiner: link, wire, machine, store and agent become a service here.
//!
//! ```text
//! delivery ─▶ ingest ─▶ engine (decide, commit) ─▶ ack
//!                          │        ▲
//!                  outbox rows   outcomes, timers, recovery
//!                          ▼
//!                        relay ─▶ publish ─▶ confirm ─▶ drop the row
//! ```
//!
//! Reading order: [`partition`] (one event becomes rows; `due`: what happens by itself), [`batch`] (what is not yet durable), [`engine`] (the
//! loop), [`ingest`], [`relay`], [`recovery`].

mod archive;
pub mod audit;
pub mod batch;
pub mod census;
pub mod clock;
pub mod counters;
pub mod dead_letters;
mod due;
pub mod engine;
mod fairness;
pub mod histogram;
pub mod ingest;
mod organizations;
pub mod outbound;
mod parking;
pub mod partition;
pub mod reading;
pub mod recovery;
mod relay;
pub mod rows;
mod spans;
pub mod sweep;
pub mod verify;
pub mod vitals;

use std::sync::{Arc, OnceLock};
use std::thread;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::broker::{Lane, Link};
use crate::config::Publishers;
use crate::model::time::Timestamp;
use crate::store::{Store, StoreError};

use census::{Census, Feed};
use counters::Counters;
use engine::{Control, Limits, StartCommit, Wiring};
use partition::{Partition, PartitionSettings};
use rows::OutboxRow;
use vitals::Vitals;

/// Arrivals that have been decoded and not yet decided, per lane. The prefetch bounds them anyway; this
/// only has to be enough that ingest and engine do not wait for each other.
const ARRIVALS: usize = 1_024;
/// Batches of outbox rows on their way to the relay; their rows are bounded by [`Limits::outbox_rows`].
const RELAYED_BATCHES: usize = 64;

/// What a pipeline is told at its start.
#[derive(Debug, Clone)]
pub struct Settings {
    pub partition: PartitionSettings,
    pub limits: Limits,
    pub users: Arc<Publishers>,
    /// Messages under way to the broker at a time.
    pub publish_window: usize,
}

/// A running pipeline. Dropping it stops it at once: what was not acked comes again, what was not published is in
/// the store.
pub struct Pipeline {
    counters: Arc<Counters>,
    vitals: Arc<Vitals>,
    census: Arc<OnceLock<Feed>>,
    control: mpsc::Sender<Control>,
    drain: CancellationToken,
    engine: oneshot::Receiver<Result<(), StoreError>>,
}

/// What may be seen of a running pipeline without being in its way. Keeps no pipeline alive.
pub struct View<S> {
    /// Committed batches as a whole, and nothing else.
    pub store: Arc<S>,
    pub counters: Arc<Counters>,
    pub vitals: Arc<Vitals>,
    pub census: Arc<Census>,
}

/// A partition as its store has it: read, and nothing begun.
pub struct Recovered<S> {
    store: Arc<S>,
    partition: Partition<S>,
    outbox: Vec<(u64, OutboxRow)>,
    limits: Limits,
    users: Arc<Publishers>,
    publish_window: usize,
}

impl<S: Store> Recovered<S> {
    /// Blocks while it reads.
    pub fn read(store: Arc<S>, settings: Settings) -> Result<Self, StoreError> {
        let Settings { partition, limits, users, publish_window } = settings;
        let (partition, outbox) = recovery::open(Arc::clone(&store), partition)?;
        Ok(Self { store, partition, outbox, limits, users, publish_window })
    }
}

/// Begins to consume. What is logged is within the caller's span; `name` is the engine's thread's, for which Linux keeps 15
/// bytes.
pub fn start<S: Store, L: Link>(name: &str, recovered: Recovered<S>, link: Arc<L>) -> Result<Pipeline, StoreError> {
    let (pipeline, engine) = assemble(recovered, link, engine::on_a_blocking_thread);
    let runtime = tokio::runtime::Handle::current();
    let engine = engine.in_current_span();
    let spawned = thread::Builder::new().name(name.into()).spawn(move || runtime.block_on(engine));
    spawned.map_err(|source| StoreError::Io { doing: "starting the engine's thread", source })?;
    Ok(pipeline)
}

/// A pipeline that has begun to consume, and its engine, to be run by the caller: reads of the store block it, and it starts
/// its commits by `start_commit`.
pub fn assemble<S: Store, L: Link>(
    recovered: Recovered<S>,
    link: Arc<L>,
    start_commit: StartCommit<S>,
) -> (Pipeline, impl Future<Output = ()> + Send + use<S, L>) {
    let Recovered { store, partition, outbox, limits, users, publish_window } = recovered;
    let counters = partition.counters();
    let (reports_in, reports) = mpsc::channel(ARRIVALS);
    let (surveys_in, surveys) = mpsc::channel(ARRIVALS);
    let (relay, relayed) = mpsc::channel(RELAYED_BATCHES);
    let (confirmed_in, confirmed) = mpsc::channel(RELAYED_BATCHES);
    let (control, control_out) = mpsc::channel(16);
    let drain = CancellationToken::new();
    let ingest = [(Lane::Reports, reports_in), (Lane::Surveys, surveys_in)].map(|(lane, engine)| {
        let task = ingest::ingest(Arc::clone(&link), lane, Arc::clone(&users), Arc::clone(&counters), engine);
        tokio::spawn(task.in_current_span()).abort_handle()
    });
    let relay_task = relay::relay(Arc::clone(&link), publish_window, limits.repeats, Arc::clone(&counters), relayed, confirmed_in);
    let relaying = tokio::spawn(relay_task.in_current_span());
    let vitals = Arc::new(Vitals::new(ingest, relaying.abort_handle()));
    let census = Arc::new(OnceLock::new());
    let wiring = Wiring {
        link,
        reports,
        surveys,
        relay,
        confirmed,
        control: control_out,
        drain: drain.clone(),
        limits,
        census: Arc::clone(&census),
    };
    let (ended, engine) = oneshot::channel();
    let run = async move {
        let result = engine::run(store, partition, outbox, wiring, start_commit).await;
        // nobody listens any more when the process is on its way out
        let _ = ended.send(result);
    };
    (Pipeline { counters, vitals, census, control, drain, engine }, run)
}

impl Pipeline {
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Begins to watch: heartbeats, and a census of the open reports (at most once). `store` is the one it was started on.
    pub fn watch<S: Store>(&self, store: &Arc<S>) -> Result<View<S>, StoreError> {
        let (feed, census) = census::start(store)?;
        // a second census would not be told of anything; the first goes on
        let _ = self.census.set(feed);
        vitals::start(&self.vitals, store, self.control.downgrade());
        Ok(View { store: Arc::clone(store), counters: Arc::clone(&self.counters), vitals: Arc::clone(&self.vitals), census })
    }

    /// Waits until everything that has arrived is decided, durable, run and published.
    pub async fn quiesced(&self) {
        let (answer, answered) = oneshot::channel();
        if self.control.send(Control::Quiesce(answer)).await.is_ok() {
            // an engine that has failed answers nothing more; `ended` tells why
            let _ = answered.await;
        }
    }

    /// Lets virtual time pass up to `to`; without effect on the system's clock.
    pub async fn advance(&self, to: Timestamp) {
        // as above
        let _ = self.control.send(Control::Advance(to)).await;
    }

    /// Waits for the engine to end by itself, which it does only when the store fails.
    pub async fn ended(&mut self) -> Result<(), StoreError> {
        outcome((&mut self.engine).await)
    }

    /// Takes no more, finishes what is under way within the limit, and ends.
    pub async fn drain(self) -> Result<(), StoreError> {
        self.drain.cancel();
        outcome(self.engine.await)
    }
}

fn outcome(ended: Result<Result<(), StoreError>, oneshot::error::RecvError>) -> Result<(), StoreError> {
    ended.unwrap_or_else(|_| Err(StoreError::Poisoned { first: "the engine's thread has died".into() }))
}
