//! The engine: takes what has arrived, has it decided, commits in groups, and releases what follows a commit.
//!
//! One loop, one thread of its own (reads of the store block). While a batch is being made durable on another
//! thread, the next one is being decided:
//!
//! ```text
//! arrivals ─▶ decide ─▶ seal ─▶ commit (blocking thread) ─▶ acks, outbox rows, attempts
//!               ▲ └── the next batch meanwhile ──┘                          │
//!               └───────────────── outcomes, timers ◀────────────────────────┘
//! ```
//!
//! Invariants: one commit under way at a time; a failed commit ends the loop, and nothing is acked, published
//! or run after it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::broker::{Lane, Link, LinkState, Settlement};
use crate::crash::{self, Point};
use crate::model::time::{Stopwatch, Timestamp};
use crate::mutation::{self, Defect};
use crate::store::{Store, StoreError};

use super::batch::Sealed;
use super::census::Feed;
use super::counters::Counters;
use super::fairness::Waiting;
use super::histogram::Histogram;
use super::ingest::Arrival;
use super::partition::Partition;
use super::relay::ToRelay;
use super::rows::OutboxRow;
use super::spans::Received;

/// A batch that has taken as many bytes takes no more events: what is large is not worth grouping, and a commit that is
/// too large is slow, and kept in memory several times over. One event may have 16 MiB.
const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// Commits are begun at least so far apart, unless a batch is full or somebody waits for the end. Where events come slower than that, none waits.
const COMMIT_EVERY: Duration = Duration::from_millis(2);

/// Confirmed rows alone are removed after this long without another reason to commit.
const IDLE_BEFORE_REMOVAL: Duration = Duration::from_millis(50);

/// Without a survey for this long on a link that is up, none was waiting.
const NO_BACKLOG: Duration = Duration::from_secs(5);

/// How long acks are not held after one tenant had far more waiting than the others.
const ONE_SIDED_FOR: Duration = Duration::from_secs(1);

/// Events decided before the loop looks at commits, confirms and timers again: half a millisecond.
const EVENTS_A_TURN: usize = 64;

/// What the engine is connected to.
pub(super) struct Wiring<L> {
    pub link: Arc<L>,
    pub reports: mpsc::Receiver<Arrival>,
    pub surveys: mpsc::Receiver<Arrival>,
    pub relay: mpsc::Sender<ToRelay>,
    pub confirmed: mpsc::Receiver<Vec<u64>>,
    pub control: mpsc::Receiver<Control>,
    pub drain: CancellationToken,
    pub limits: Limits,
    /// Who is told of changed reports, once somebody watches.
    pub census: Arc<OnceLock<Feed>>,
}

/// Bounds of the engine.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Events decided into one batch.
    pub batch_events: usize,
    /// Outbox rows without a confirm; at this many, consuming pauses. Looked at before each event, so that no more
    /// than the rows of one event come on top, and what timers and outcomes add meanwhile.
    pub outbox_rows: usize,
    /// Messages handed to the broker whose rows have not been removed from the store durably: what a crash may publish
    /// once more.
    pub repeats: usize,
    /// How long a drain may take.
    pub drain: Duration,
}

/// A word to the engine from outside the flow.
pub(super) enum Control {
    /// Answered when there is nothing left to do but wait for arrivals.
    Quiesce(oneshot::Sender<()>),
    /// Lets virtual time pass.
    Advance(Timestamp),
    /// Answered at once: the loop turns.
    Beat(oneshot::Sender<()>),
}

struct Engine<S, L> {
    partition: Partition<S>,
    wiring: Wiring<L>,
    waiting: Waiting,
    /// The rows of the batch being built, in events.
    events: usize,
    /// Since when the first of them has been here.
    since: Option<Stopwatch>,
    /// When the last commit was begun.
    commit_began: Option<Instant>,
    counters: Arc<Counters>,
    spans: Received,
    quiesce: Vec<oneshot::Sender<()>>,
    /// Virtual time on its way, held up by attempts that have to be run first.
    passing: Option<Passing>,
    /// When one tenant had far more waiting than the others, for each lane.
    one_sided_at: [Option<Instant>; 2],
    /// There until the surveys that were waiting at the start have been taken (A2, A3).
    backlog: Option<Backlog>,
}

/// Where virtual time is going, and the arrival whose time that is.
enum Passing {
    To(Timestamp),
    For(Box<Arrival>),
}

/// Surveys that may be waiting since before the start.
struct Backlog {
    started_at: Timestamp,
    /// Since when the link has been up without a survey.
    silent_since: Instant,
}

/// A commit under way; it ends with the batch and what the store said.
pub type Commit = JoinHandle<(Sealed, Result<(), StoreError>)>;

/// How a commit is started beside the engine: the store blocks, so [`on_a_blocking_thread`]; a simulation has no
/// threads, and lets virtual time pass instead.
pub type StartCommit<S> = fn(Arc<S>, Sealed) -> Commit;

/// Runs until drained or dropped (`Ok`), or until the store fails.
pub(super) async fn run<S: Store, L: Link>(
    store: Arc<S>,
    partition: Partition<S>,
    recovered: Vec<(u64, OutboxRow)>,
    wiring: Wiring<L>,
    start_commit: StartCommit<S>,
) -> Result<(), StoreError> {
    let counters = partition.counters();
    let mut engine = Engine {
        waiting: Waiting::new(partition.is_virtual()),
        partition,
        wiring,
        events: 0,
        since: None,
        commit_began: None,
        counters,
        spans: Default::default(),
        quiesce: Vec::new(),
        passing: None,
        one_sided_at: [None; 2],
        backlog: None,
    };
    if !engine.partition.is_virtual() {
        engine.backlog = Some(Backlog { started_at: engine.partition.now(), silent_since: Instant::now() });
    }
    engine.relay(recovered).await;
    let mut commit: Option<Commit> = None;
    let mut drain_by: Option<Instant> = None;
    loop {
        engine.watch_backlog();
        engine.let_time_pass()?;
        if drain_by.is_none() {
            engine.decide_some()?;
        }
        let wants_commit = commit.is_none() && engine.wants_commit(drain_by.is_some());
        let next_commit = if wants_commit { engine.waits_for_more(drain_by.is_some()) } else { None };
        if wants_commit && next_commit.is_none() {
            commit = engine.begin_commit(&store, start_commit)?;
        }
        if drain_by.is_none() && engine.wiring.drain.is_cancelled() {
            drain_by = Some(Instant::now() + engine.wiring.limits.drain);
            engine.wiring.link.stop_consuming();
        }
        let draining = drain_by.is_some();
        let idle = commit.is_none() && engine.is_idle();
        if idle && draining {
            return Ok(());
        }
        if idle && engine.waiting.is_empty() && engine.wiring.reports.is_empty() && engine.wiring.surveys.is_empty() {
            for answer in engine.quiesce.drain(..) {
                // who asked may have given up waiting
                let _ = answer.send(());
            }
        }
        let decides_more = !draining && engine.has_room() && !engine.waiting.is_empty();
        let wake_at = engine.wakes_at();
        let only_removals = commit.is_none() && engine.partition.confirmed_rows() > 0;
        tokio::select! {
            biased;
            done = committed(&mut commit) => {
                commit = None;
                engine.release(done?).await;
            }
            Some(numbers) = engine.wiring.confirmed.recv() => engine.partition.confirmed(&numbers),
            control = engine.wiring.control.recv(), if engine.passing.is_none() => match control {
                Some(Control::Quiesce(answer)) => engine.quiesce.push(answer),
                Some(Control::Advance(to)) => engine.pass(Passing::To(to))?,
                // who asked may have given up waiting
                Some(Control::Beat(answer)) => drop(answer.send(())),
                // the pipeline has been dropped: as at a crash, but for the commit under way, which is let go of in order
                None => return finish_commit(commit).await,
            },
            () = engine.wiring.drain.cancelled(), if !draining => {}
            () = sleep_until(drain_by) => {
                tracing::warn!(unconfirmed = engine.partition.unconfirmed(), "the drain took too long; what is left is in the store");
                return finish_commit(commit).await;
            }
            Some(arrival) = engine.wiring.reports.recv(), if !draining => engine.line_up(arrival),
            Some(arrival) = engine.wiring.surveys.recv(), if !draining => engine.line_up(arrival),
            () = std::future::ready(()), if decides_more => {}
            () = sleep_until(wake_at) => {}
            () = sleep_until(next_commit) => {}
            () = tokio::time::sleep(IDLE_BEFORE_REMOVAL), if only_removals => {
                commit = engine.begin_commit(&store, start_commit)?;
            }
        }
    }
}

impl<S: Store, L: Link> Engine<S, L> {
    /// Puts what has arrived where it waits for its turn. The prefetch bounds it.
    fn line_up(&mut self, arrival: Arrival) {
        // a survey from after the start says that all older ones have been taken
        let surveys_in_line = self.backlog.is_some();
        self.waiting.push(arrival, surveys_in_line);
        for lane in [&mut self.wiring.reports, &mut self.wiring.surveys] {
            while let Ok(arrival) = lane.try_recv() {
                self.waiting.push(arrival, surveys_in_line);
            }
        }
    }

    fn decide_some(&mut self) -> Result<(), StoreError> {
        for _ in 0..EVENTS_A_TURN {
            if !self.has_room() {
                break;
            }
            let Some(arrival) = self.waiting.pop() else { break };
            self.take(arrival)?;
        }
        Ok(())
    }

    fn take(&mut self, arrival: Arrival) -> Result<(), StoreError> {
        self.events += 1;
        self.since.get_or_insert(arrival.since);
        self.spans.begin(&arrival);
        if arrival.token.lane == Lane::Surveys
            && let Some(backlog) = &mut self.backlog
        {
            backlog.silent_since = Instant::now();
            // the lane is in order: what was sent after the start has everything older before it
            if arrival.decoded.as_ref().is_ok_and(|inbound| inbound.event.time >= backlog.started_at) {
                self.end_backlog();
            }
        }
        self.pass(Passing::For(Box::new(arrival)))
    }

    /// Lets virtual time get as far as it can; what it was for happens when it is there.
    fn pass(&mut self, passing: Passing) -> Result<(), StoreError> {
        let arrived = match &passing {
            Passing::To(to) => self.partition.advance(*to)?,
            Passing::For(arrival) => arrival.decoded.as_ref().map_or(Ok(true), |inbound| self.partition.advance_for(&inbound.event))?,
        };
        match passing {
            passing if !arrived => {
                self.passing = Some(passing);
                Ok(())
            }
            Passing::To(_) => Ok(()),
            Passing::For(arrival) => self.partition.take_delivery(arrival.token, arrival.message, arrival.decoded),
        }
    }

    /// Another event may be taken into the batch being built.
    fn has_room(&self) -> bool {
        self.passing.is_none()
            && self.events < self.wiring.limits.batch_events
            && self.partition.bytes() < BATCH_BYTES
            && self.partition.unconfirmed() < self.wiring.limits.outbox_rows
    }

    /// Fires what is due. In virtual time nothing waits for an attempt: its outcome is due as soon as it is known.
    fn let_time_pass(&mut self) -> Result<(), StoreError> {
        if !self.partition.is_virtual() {
            return self.partition.advance(self.partition.now()).map(|_| ());
        }
        self.partition.advance(self.partition.now())?;
        while let Some(due) = self.partition.next_outcome() {
            if !self.partition.advance(due)? {
                return Ok(());
            }
        }
        match self.passing.take() {
            Some(passing) => self.pass(passing),
            None => Ok(()),
        }
    }

    fn end_backlog(&mut self) {
        self.backlog = None;
        self.partition.surveys_caught_up();
    }

    fn watch_backlog(&mut self) {
        let not_taking = !self.wiring.surveys.is_empty() || self.waiting.has_surveys() || !self.has_room();
        let Some(backlog) = &mut self.backlog else { return };
        if not_taking || !matches!(*self.wiring.link.state().borrow(), LinkState::Ready { .. }) {
            backlog.silent_since = Instant::now();
        } else if backlog.silent_since.elapsed() >= NO_BACKLOG {
            self.end_backlog();
        }
    }

    /// When the next timer or outcome is due by a clock that moves itself.
    fn wakes_at(&self) -> Option<Instant> {
        if self.partition.is_virtual() {
            return None;
        }
        let now = self.partition.now();
        let until = |due: Timestamp| Duration::try_from(due.duration_since(now)).unwrap_or(Duration::ZERO);
        let backlog = self.backlog.is_some().then_some(NO_BACKLOG);
        let wait = [self.partition.next_due().map(until), backlog].into_iter().flatten().min()?;
        // a far deadline is looked at again after an hour, whatever the clock has done meanwhile
        Some(Instant::now() + wait.min(Duration::from_secs(3_600)))
    }

    /// Closes the batch being built and has it committed, if there is anything in it.
    fn begin_commit(&mut self, store: &Arc<S>, start_commit: StartCommit<S>) -> Result<Option<Commit>, StoreError> {
        self.events = 0;
        let since = self.since.take();
        let Some(mut sealed) = self.partition.seal()? else { return Ok(None) };
        sealed.followers.since = since;
        crash::point(Point::BatchBuilt);
        if mutation::seeded(Defect::AckBeforeSync) {
            std::mem::take(&mut sealed.followers.acks).into_iter().for_each(|token| self.wiring.link.settle(token, Settlement::Ack));
        }
        self.commit_began = Some(Instant::now());
        Ok(Some(start_commit(Arc::clone(store), sealed)))
    }

    /// What follows a commit, now that it is durable: acks, publications, attempts.
    async fn release(&mut self, mut sealed: Sealed) {
        crash::point(Point::Committed);
        self.counters.observe_commit(self.commit_began.map_or(Duration::ZERO, |began| began.elapsed()), sealed.followers.acks.len());
        self.partition.committed(&sealed);
        if sealed.removed_rows > 0 {
            self.tell_relay(ToRelay::Removed(sealed.removed_rows)).await;
        }
        let followers = std::mem::take(&mut sealed.followers);
        self.hold_acks();
        for token in followers.acks {
            self.wiring.link.settle(token, Settlement::Ack);
            self.spans.end(token);
        }
        if let Some(since) = followers.since {
            self.counters.decision.observe(Histogram::micros(since.elapsed()));
        }
        if let Some(census) = self.wiring.census.get() {
            census.tell(followers.changed);
        }
        self.relay(followers.outbox).await;
        for (tenant, key, order) in followers.attempts {
            crash::point(Point::IntentSynced);
            self.partition.run_attempt(tenant, key, order);
            crash::point(Point::Dispatched);
        }
    }

    /// Not while what is handed out next may be of those who have nothing waiting beside one who has much. That shows only
    /// now and then, so it is kept in mind.
    fn hold_acks(&mut self) {
        for (lane, one_sided_at) in [Lane::Reports, Lane::Surveys].into_iter().zip(&mut self.one_sided_at) {
            if self.waiting.is_one_sided(lane) {
                *one_sided_at = Some(Instant::now());
            }
            let may = one_sided_at.is_none_or(|at| at.elapsed() > ONE_SIDED_FOR);
            self.wiring.link.hold_acks(lane, may);
        }
    }

    async fn relay(&mut self, rows: Vec<(u64, OutboxRow)>) {
        if rows.is_empty() {
            return;
        }
        self.tell_relay(ToRelay::Rows(rows)).await;
    }

    async fn tell_relay(&mut self, word: ToRelay) {
        if self.wiring.relay.send(word).await.is_err() {
            // only when the link has been closed; the rows are in the store
            tracing::debug!("the relay has ended");
        }
    }

    /// Removals alone are no hurry, unless somebody waits for everything to be done, or the relay soon will for room.
    fn wants_commit(&self, draining: bool) -> bool {
        let room_is_short = self.partition.confirmed_rows() > self.wiring.limits.repeats / 2;
        let hurry = draining || !self.quiesce.is_empty() || room_is_short;
        self.partition.has_work() || (hurry && self.partition.confirmed_rows() > 0)
    }

    /// Until when a batch that may be committed is kept open for what comes meanwhile; `None`: not at all. A commit
    /// soon after the last one costs more than it gains: each wakes four threads and the disk, whatever is in it.
    fn waits_for_more(&self, draining: bool) -> Option<Instant> {
        let at = self.commit_began? + COMMIT_EVERY;
        let hurry = draining || !self.quiesce.is_empty() || self.partition.is_virtual() || !self.has_room();
        (!hurry && at > Instant::now()).then_some(at)
    }

    fn is_idle(&self) -> bool {
        self.passing.is_none()
            && !self.partition.has_work()
            && self.partition.confirmed_rows() == 0
            && self.partition.unconfirmed() == 0
            && self.partition.next_outcome().is_none()
    }
}

/// Commits on a thread that may block.
pub fn on_a_blocking_thread<S: Store>(store: Arc<S>, sealed: Sealed) -> Commit {
    tokio::task::spawn_blocking(move || {
        let result = store.commit(&sealed.batch);
        (sealed, result)
    })
}

/// The end of the commit under way; never, if there is none.
async fn committed(commit: &mut Option<Commit>) -> Result<Sealed, StoreError> {
    match commit {
        Some(commit) => match commit.await {
            Ok((sealed, Err(_))) if mutation::seeded(Defect::FailedSyncIsDurable) => Ok(sealed),
            Ok((sealed, result)) => result.map(|()| sealed),
            Err(panic) => Err(StoreError::Poisoned { first: format!("the committing thread has died: {panic}") }),
        },
        None => std::future::pending().await,
    }
}

/// Waits for the commit under way, without releasing what follows it.
async fn finish_commit(mut commit: Option<Commit>) -> Result<(), StoreError> {
    if commit.is_some() { committed(&mut commit).await.map(|_| ()) } else { Ok(()) }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
