//! Vital signs: does the engine's loop turn, does the store answer, are the consumers alive? Never here: the broker,
//! which may be away for days without a restart being of any use.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;

use crate::model::time::Stopwatch;
use crate::store::{Store, keys};

use super::engine::Control;

/// Between two beats.
const BEAT: Duration = Duration::from_secs(1);
/// Without a beat for this long, something is stuck. Above what a slow disk may take: a sync of more than 10 s ends the
/// process by itself, and a restart reads the whole store.
pub const SILENT: Duration = Duration::from_secs(30);
/// A task of the flow that has ended while the service runs does not come back; not at once, since a stop ends them too.
pub const DEAD: Duration = Duration::from_secs(10);

/// What beats, and when it last did. Times are milliseconds since the start of the pipeline.
#[derive(Debug)]
pub struct Vitals {
    since: Stopwatch,
    engine_at: AtomicU64,
    store_at: AtomicU64,
    /// The tasks that bring and take away: reports, surveys, relay.
    tasks: [(&'static str, AbortHandle, AtomicU64); 3],
}

/// How long each has been silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signs {
    pub engine: Duration,
    pub store: Duration,
    /// Since when it has been seen dead; `None`: it lives.
    pub tasks: [(&'static str, Option<Duration>); 3],
}

impl Vitals {
    pub(super) fn new([reports, surveys]: [AbortHandle; 2], relay: AbortHandle) -> Self {
        let tasks = [("consumer of reports", reports), ("consumer of surveys", surveys), ("relay", relay)];
        Self {
            since: Stopwatch::start(),
            engine_at: AtomicU64::new(0),
            store_at: AtomicU64::new(0),
            tasks: tasks.map(|(name, task)| (name, task, AtomicU64::new(ALIVE))),
        }
    }

    pub fn signs(&self) -> Signs {
        let now = self.now();
        let age = |at: u64| Duration::from_millis(now.saturating_sub(at));
        let dead = |at: u64| (at != ALIVE).then(|| age(at));
        let tasks = self.tasks.each_ref().map(|(name, task, died_at)| {
            if task.is_finished() {
                // the first look that finds it dead is when its time begins
                let _ = died_at.compare_exchange(ALIVE, now, Relaxed, Relaxed);
            }
            (*name, dead(died_at.load(Relaxed)))
        });
        Signs { engine: age(self.engine_at.load(Relaxed)), store: age(self.store_at.load(Relaxed)), tasks }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

const ALIVE: u64 = u64::MAX;

impl Signs {
    /// What only a restart can mend, in words; empty as long as the process lives.
    pub fn ailments(&self) -> Vec<String> {
        let silent = [("engine", self.engine), ("store", self.store)].into_iter().filter(|(_, age)| *age > SILENT);
        let dead = self.tasks.iter().filter_map(|(name, dead)| dead.filter(|age| *age > DEAD).map(|age| (*name, age)));
        let told = |word: &'static str| move |(name, age): (&str, Duration)| format!("{name}: {word} for {} s", age.as_secs());
        silent.map(told("no heartbeat")).chain(dead.map(told("dead"))).collect()
    }
}

/// Begins to listen for the heartbeats. Both tasks end with the engine.
pub(super) fn start<S: Store>(vitals: &Arc<Vitals>, store: &Arc<S>, engine: mpsc::WeakSender<Control>) {
    vitals.engine_at.store(vitals.now(), Relaxed);
    vitals.store_at.store(vitals.now(), Relaxed);
    tokio::spawn(engine_beats(Arc::clone(vitals), engine.clone()));
    tokio::spawn(store_beats(Arc::clone(vitals), Arc::clone(store), engine));
}

/// The engine answers between two events.
async fn engine_beats(vitals: Arc<Vitals>, engine: mpsc::WeakSender<Control>) {
    let mut every = tokio::time::interval(BEAT);
    loop {
        every.tick().await;
        let (answer, answered) = oneshot::channel();
        // held no longer than for this: the engine ends when the pipeline has let go of it
        let Some(control) = engine.upgrade() else { return };
        if control.try_send(Control::Beat(answer)).is_err() && control.is_closed() {
            return;
        }
        drop(control);
        if answered.await.is_ok() {
            vitals.engine_at.store(vitals.now(), Relaxed);
        }
    }
}

/// The store answers a read.
async fn store_beats<S: Store>(vitals: Arc<Vitals>, store: Arc<S>, engine: mpsc::WeakSender<Control>) {
    let mut every = tokio::time::interval(BEAT);
    while engine.upgrade().is_some_and(|control| !control.is_closed()) {
        every.tick().await;
        let store = Arc::clone(&store);
        if let Ok(Ok(_)) = tokio::task::spawn_blocking(move || store.get(keys::CLOCK)).await {
            vitals.store_at.store(vitals.now(), Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_restart_mends_is_named_and_only_beyond_its_bound() {
        let well = Signs { engine: SILENT, store: SILENT, tasks: [("a", None), ("b", Some(DEAD)), ("c", None)] };
        assert_eq!(well.ailments(), Vec::<String>::new());
        let second = Duration::from_secs(1);
        let ill = Signs { engine: SILENT + second, store: SILENT + second, tasks: [("a", Some(DEAD + second)), ("b", None), ("c", None)] };
        assert_eq!(ill.ailments(), ["engine: no heartbeat for 31 s", "store: no heartbeat for 31 s", "a: dead for 11 s"]);
    }

    #[tokio::test]
    async fn a_task_that_has_ended_is_seen() {
        let lives = || tokio::spawn(std::future::pending::<()>()).abort_handle();
        let ends = tokio::spawn(async {});
        let vitals = Vitals::new([lives(), ends.abort_handle()], lives());
        ends.await.expect("it ends");
        let [(_, reports), (_, surveys), (_, relay)] = vitals.signs().tasks;
        assert_eq!((reports, surveys.is_some(), relay), (None, true, None));
    }
}
