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

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::broker::{Lane, Link, LinkState, Settlement};
use crate::model::time::{Timestamp, system_now};
use crate::store::{Store, StoreError};

use super::batch::Sealed;
use super::ingest::Arrival;
use super::partition::Partition;
use super::rows::OutboxRow;

/// Confirmed rows alone are removed after this long without another reason to commit.
const IDLE_BEFORE_REMOVAL: Duration = Duration::from_millis(50);

/// Without a survey for this long on a link that is up, none was waiting.
const NO_BACKLOG: Duration = Duration::from_secs(5);

/// What the engine is connected to.
pub(super) struct Wiring<L> {
    pub link: Arc<L>,
    pub reports: mpsc::Receiver<Arrival>,
    pub surveys: mpsc::Receiver<Arrival>,
    pub relay: mpsc::Sender<Vec<(u64, OutboxRow)>>,
    pub confirmed: mpsc::Receiver<Vec<u64>>,
    pub control: mpsc::Receiver<Control>,
    pub drain: CancellationToken,
    pub limits: Limits,
}

/// Bounds of the engine.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Events decided into one batch.
    pub batch_events: usize,
    /// Outbox rows without a confirm; at this many, consuming pauses. Looked at before each event, so that no more
    /// than the rows of one event come on top, and what timers and outcomes add meanwhile.
    pub outbox_rows: usize,
    /// How long a drain may take.
    pub drain: Duration,
}

/// A word to the engine from outside the flow.
pub(super) enum Control {
    /// Answered when there is nothing left to do but wait for arrivals.
    Quiesce(oneshot::Sender<()>),
    /// Lets virtual time pass.
    Advance(Timestamp),
}

struct Engine<S, L> {
    partition: Partition<S>,
    wiring: Wiring<L>,
    /// The rows of the batch being built, in events.
    events: usize,
    quiesce: Vec<oneshot::Sender<()>>,
    /// Virtual time on its way, held up by attempts that have to be run first.
    passing: Option<Passing>,
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

type Commit = JoinHandle<(Sealed, Result<(), StoreError>)>;

/// Runs until drained or dropped (`Ok`), or until the store fails.
pub(super) async fn run<S: Store, L: Link>(
    store: Arc<S>,
    partition: Partition<S>,
    recovered: Vec<(u64, OutboxRow)>,
    wiring: Wiring<L>,
) -> Result<(), StoreError> {
    let mut engine = Engine { partition, wiring, events: 0, quiesce: Vec::new(), passing: None, backlog: None };
    if !engine.partition.is_virtual() {
        engine.backlog = Some(Backlog { started_at: system_now(), silent_since: Instant::now() });
    }
    engine.relay(recovered).await;
    let mut commit: Option<Commit> = None;
    let mut drain_by: Option<Instant> = None;
    loop {
        engine.watch_backlog();
        engine.let_time_pass()?;
        if commit.is_none() && engine.wants_commit(drain_by.is_some()) {
            commit = engine.seal()?.map(|sealed| start_commit(&store, sealed));
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
        if idle && engine.wiring.reports.is_empty() && engine.wiring.surveys.is_empty() {
            for answer in engine.quiesce.drain(..) {
                // who asked may have given up waiting
                let _ = answer.send(());
            }
        }
        let takes = !draining && engine.has_room();
        let wake_at = engine.wakes_at();
        let only_removals = commit.is_none() && engine.partition.has_confirmed_rows();
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
                // the pipeline has been dropped: as at a crash, but for the commit under way, which is let go of in order
                None => return finish_commit(commit).await,
            },
            () = engine.wiring.drain.cancelled(), if !draining => {}
            () = sleep_until(drain_by) => {
                tracing::warn!(unconfirmed = engine.partition.unconfirmed(), "the drain took too long; what is left is in the store");
                return finish_commit(commit).await;
            }
            Some(arrival) = engine.wiring.reports.recv(), if takes => engine.take(arrival)?,
            Some(arrival) = engine.wiring.surveys.recv(), if takes => engine.take(arrival)?,
            () = sleep_until(wake_at) => {}
            () = tokio::time::sleep(IDLE_BEFORE_REMOVAL), if only_removals => {
                commit = engine.seal()?.map(|sealed| start_commit(&store, sealed));
            }
        }
    }
}

impl<S: Store, L: Link> Engine<S, L> {
    fn take(&mut self, arrival: Arrival) -> Result<(), StoreError> {
        self.events += 1;
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
            && self.partition.unconfirmed() < self.wiring.limits.outbox_rows
    }

    /// Fires what is due. In virtual time nothing waits for an attempt: its outcome is due as soon as it is known.
    fn let_time_pass(&mut self) -> Result<(), StoreError> {
        if !self.partition.is_virtual() {
            return self.partition.advance(system_now()).map(|_| ());
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
        let not_taking = !self.wiring.surveys.is_empty() || !self.has_room();
        let Some(backlog) = &mut self.backlog else { return };
        if not_taking || !matches!(*self.wiring.link.state().borrow(), LinkState::Ready { .. }) {
            backlog.silent_since = Instant::now();
        } else if backlog.silent_since.elapsed() >= NO_BACKLOG {
            self.end_backlog();
        }
    }

    /// When the next timer or outcome is due by the system's clock.
    fn wakes_at(&self) -> Option<Instant> {
        if self.partition.is_virtual() {
            return None;
        }
        let until = |due: Timestamp| Duration::try_from(due.duration_since(system_now())).unwrap_or(Duration::ZERO);
        let backlog = self.backlog.is_some().then_some(NO_BACKLOG);
        let wait = [self.partition.next_due().map(until), backlog].into_iter().flatten().min()?;
        // a far deadline is looked at again after an hour, whatever the clock has done meanwhile
        Some(Instant::now() + wait.min(Duration::from_secs(3_600)))
    }

    fn seal(&mut self) -> Result<Option<Sealed>, StoreError> {
        self.events = 0;
        self.partition.seal()
    }

    /// What follows a commit, now that it is durable: acks, publications, attempts.
    async fn release(&mut self, mut sealed: Sealed) {
        self.partition.committed(&sealed);
        let followers = std::mem::take(&mut sealed.followers);
        for token in followers.acks {
            self.wiring.link.settle(token, Settlement::Ack);
        }
        self.relay(followers.outbox).await;
        for (tenant, key, order) in followers.attempts {
            self.partition.run_attempt(tenant, key, order);
        }
    }

    async fn relay(&mut self, rows: Vec<(u64, OutboxRow)>) {
        if rows.is_empty() {
            return;
        }
        if self.wiring.relay.send(rows).await.is_err() {
            // only when the link has been closed; the rows are in the store
            tracing::debug!("the relay has ended");
        }
    }

    /// Removals alone are no hurry, unless somebody waits for everything to be done.
    fn wants_commit(&self, draining: bool) -> bool {
        let hurry = draining || !self.quiesce.is_empty();
        self.partition.has_work() || (hurry && self.partition.has_confirmed_rows())
    }

    fn is_idle(&self) -> bool {
        self.passing.is_none()
            && !self.partition.has_work()
            && !self.partition.has_confirmed_rows()
            && self.partition.unconfirmed() == 0
            && self.partition.next_outcome().is_none()
    }
}

fn start_commit<S: Store>(store: &Arc<S>, sealed: Sealed) -> Commit {
    let store = Arc::clone(store);
    tokio::task::spawn_blocking(move || {
        let result = store.commit(&sealed.batch);
        (sealed, result)
    })
}

/// The end of the commit under way; never, if there is none.
async fn committed(commit: &mut Option<Commit>) -> Result<Sealed, StoreError> {
    match commit {
        Some(commit) => match commit.await {
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
