//! The scene: all that outlives a process — the broker, the disk, the judge, the trace — behind one lock, and the
//! process lives that touch it.
//!
//! A life that has ended can do nothing more: its handles on disk and broker answer with errors. So a crash takes effect
//! at one instant, even between two acks of one batch, whatever its tasks still try.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use remedyd::model::time::{Span, Timestamp, after};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::broker::Broker;
use super::dice::Dice;
use super::disk::Disk;
use super::judge::Judge;
use super::trace::Trace;

/// What was injected, by kind. Every kind has to have happened.
pub type Faults = BTreeMap<&'static str, u64>;

/// Every kind of fault.
pub const FAULTS: [&str; 20] = [
    "crash",
    "crash between two steps",
    "crash soon after a start",
    "batch lost in a crash",
    "batch kept in a crash",
    "drain",
    "commit slow",
    "commit failed",
    "commit hung",
    "publish nacked",
    "publish returned",
    "publish lost",
    "confirm lost",
    "confirm slow",
    "connection lost",
    "connection blocked",
    "lane stalled",
    "event duplicated",
    "event delayed",
    "agent vanished",
];

/// How bad it is at the moment, in shares of a thousand.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    pub nack: u64,
    pub give_back: u64,
    pub lose: u64,
    pub lose_confirm: u64,
    pub slow_confirm: u64,
    pub slow_commit: u64,
    pub fail_commit: u64,
    pub hang_commit: u64,
}

pub struct Scene {
    state: Mutex<State>,
    pub changed: Arc<Notify>,
    pub began: Instant,
}

pub struct State {
    pub broker: Broker,
    pub disk: Disk,
    pub judge: Judge,
    pub trace: Trace,
    pub dice: Dice,
    pub weather: Weather,
    /// The life that may act; 0: none.
    pub life: u64,
    /// The life dies after so many more steps.
    pub fuse: Option<u64>,
    pub ms: u64,
    pub changed: Arc<Notify>,
}

/// What a look at the scene says to somebody who waits.
pub enum Look<T> {
    Is(T),
    /// Look again then, or when something changes.
    At(Instant),
    Not,
}

impl Scene {
    pub fn new(seed: u64) -> Arc<Self> {
        let state = State {
            broker: Broker::default(),
            disk: Disk::default(),
            judge: Judge::default(),
            trace: Trace::default(),
            dice: Dice::new(seed, 2),
            weather: Weather::default(),
            life: 0,
            fuse: None,
            ms: 0,
            changed: Arc::new(Notify::new()),
        };
        Arc::new(Self { changed: Arc::clone(&state.changed), state: Mutex::new(state), began: Instant::now() })
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.ms = self.began.elapsed().as_millis() as u64;
        state
    }

    /// The moment at which the virtual clock began.
    pub fn epoch() -> Timestamp {
        Timestamp::from_second(1_793_600_000).expect("in range")
    }

    pub fn now(&self) -> Timestamp {
        after(Self::epoch(), Span::from_millis(self.began.elapsed().as_millis() as i64))
    }

    /// Waits until `look` is content. It is asked again at every change.
    pub async fn wait<T>(&self, mut look: impl FnMut(&mut State) -> Look<T>) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let seen = look(&mut self.lock());
            match seen {
                Look::Is(value) => return value,
                Look::At(at) => {
                    // either way it is time to look again
                    let _ = tokio::time::timeout_at(at, changed).await;
                }
                Look::Not => changed.await,
            }
        }
    }

    /// Resolves when `life` is over.
    pub async fn over(&self, life: u64) {
        self.wait(|state| if state.life == life { Look::Not } else { Look::Is(()) }).await;
    }

    /// Ends the life under way, if there is one: what is volatile is gone, what was unacked comes again.
    pub fn end_life(&self, why: &'static str) {
        self.lock().die(why);
    }
}

impl State {
    pub fn fault(&mut self, kind: &'static str) {
        debug_assert!(FAULTS.contains(&kind), "{kind}");
        *self.trace.faults.entry(kind).or_default() += 1;
    }

    pub fn note(&mut self, line: std::fmt::Arguments<'_>) {
        self.trace.add(self.ms, line);
    }

    /// A step of `life` towards disk or broker; false if it can take none any more.
    pub fn step(&mut self, life: u64) -> bool {
        if self.life != life {
            return false;
        }
        match self.fuse {
            Some(0) => {
                self.fault("crash between two steps");
                self.die("crash between two steps");
                false
            }
            Some(left) => {
                self.fuse = Some(left - 1);
                true
            }
            None => true,
        }
    }

    fn die(&mut self, why: &'static str) {
        if self.life == 0 {
            return;
        }
        let life = self.life;
        self.note(format_args!("life {life} ends: {why}"));
        self.life = 0;
        self.fuse = None;
        self.crash_disk();
        self.disconnect();
        self.changed.notify_waiters();
    }
}
