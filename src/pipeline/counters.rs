//! What has passed through a partition, counted where it is committed. Never here: a decision.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Since the start of the process. `events_in = applied + duplicate + dead_lettered + parked`, where `applied`
/// includes what was answered by a refusal and what turned out to be older than what is known.
#[derive(Debug, Default)]
pub struct Counters {
    pub events_in: AtomicU64,
    pub applied: AtomicU64,
    /// Of the applied: requests answered with request.refused.
    pub refused: AtomicU64,
    /// Of the applied: resolutions that the gate or the role refused.
    pub resolutions_refused: AtomicU64,
    /// Of the applied: those that changed nothing (older, or nothing left to do).
    pub without_effect: AtomicU64,
    pub duplicate: AtomicU64,
    pub dead_lettered: AtomicU64,
    /// Parked now.
    pub parked: AtomicU64,
    pub attempts: AtomicU64,
    pub timers_fired: AtomicU64,
    pub commits: AtomicU64,
    pub published: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Count {
    pub events_in: u64,
    pub applied: u64,
    pub refused: u64,
    pub resolutions_refused: u64,
    pub without_effect: u64,
    pub duplicate: u64,
    pub dead_lettered: u64,
    pub parked: u64,
    pub attempts: u64,
    pub timers_fired: u64,
    /// Not in the printed form: how events fall into batches is a matter of timing, and a replay prints the same
    /// bytes each time.
    #[serde(skip)]
    pub commits: u64,
    pub published: u64,
}

impl Counters {
    pub fn count(&self) -> Count {
        Count {
            events_in: self.events_in.load(Relaxed),
            applied: self.applied.load(Relaxed),
            refused: self.refused.load(Relaxed),
            resolutions_refused: self.resolutions_refused.load(Relaxed),
            without_effect: self.without_effect.load(Relaxed),
            duplicate: self.duplicate.load(Relaxed),
            dead_lettered: self.dead_lettered.load(Relaxed),
            parked: self.parked.load(Relaxed),
            attempts: self.attempts.load(Relaxed),
            timers_fired: self.timers_fired.load(Relaxed),
            commits: self.commits.load(Relaxed),
            published: self.published.load(Relaxed),
        }
    }

    pub(super) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Relaxed);
    }

    pub(super) fn take(counter: &AtomicU64, n: u64) {
        counter.fetch_sub(n, Relaxed);
    }
}

impl Count {
    /// Whether everything that came in is accounted for.
    pub fn balances(&self) -> bool {
        self.events_in == self.applied + self.duplicate + self.dead_lettered + self.parked
    }
}
