//! What has passed through a partition, counted where it is decided and committed. Never here: a decision, a lock that
//! is taken for each event, or the form in which it is shown.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use crate::wire::Reason;
use crate::wire::inbound::InboundType;
use std::time::Duration;

use super::histogram::Histogram;

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
    /// Messages that the broker has handed back or refused, each time.
    pub publications_refused: AtomicU64,
    /// Handed out by the link, and what an earlier process had parked. Counted before the engine sees it.
    pub received: AtomicU64,
    /// Taken by the engine, by [`InboundType::ALL`]; the last is what could not be read, or is none of them.
    pub by_type: [AtomicU64; InboundType::ALL.len() + 1],
    /// Dead letters, by [`Reason::ALL`].
    pub by_reason: [AtomicU64; Reason::ALL.len()],
    /// Outbox rows without a confirm, as of the last batch.
    pub outbox_rows: AtomicU64,
    /// Timers that are set, as of the last batch.
    pub timers: AtomicU64,
    /// How long a batch took to become durable.
    pub commit: Histogram,
    /// Events of a batch.
    pub batch: Histogram,
    /// From the arrival of the first event of a batch until it was durable and released: no event of it waited longer.
    pub decision: Histogram,
    /// From the commit of a page (`on_call.paged`), or the start that found it unconfirmed, until the broker has confirmed it and
    /// what stands before it.
    pub page: Histogram,
    /// As of the last commit; locked once a batch.
    ledger: Mutex<Settled>,
}

/// The classes of everything that has been taken, as of one moment between two events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Settled {
    taken: u64,
    applied: u64,
    refused: u64,
    duplicate: u64,
    parked: u64,
    dead_lettered: u64,
}

/// Where everything that came in has gone, since the start of the process:
/// `events_in = applied + duplicate + refused + parked + dead_lettered + in_flight`, but for `imbalance`.
///
/// The classes are those of durable batches only, each counted where the event was decided; in flight is what the link
/// has handed out and no durable batch holds. So an event that the engine forgets to account for shows as an imbalance
/// that stays, and one that never gets to a batch as one in flight that never ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Ledger {
    pub events_in: u64,
    pub applied: u64,
    pub duplicate: u64,
    pub refused: u64,
    pub parked: u64,
    pub dead_lettered: u64,
    pub in_flight: u64,
    /// Events too many (negative) or too few (positive) in the classes; 0 as long as nothing is lost.
    pub imbalance: i64,
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
    /// Not in the printed form: how often something was tried is a matter of timing.
    #[serde(skip)]
    pub publications_refused: u64,
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
            publications_refused: self.publications_refused.load(Relaxed),
        }
    }

    /// An event of this type has been taken; `None`: it could not be read.
    pub(super) fn count_type(&self, name: Option<&str>) {
        let slot = name.and_then(InboundType::from_name).map_or(InboundType::ALL.len(), |known| known as usize);
        Self::add(&self.by_type[slot], 1);
    }

    pub(super) fn count_reason(&self, reason: Reason) {
        if let Some(slot) = Reason::ALL.iter().position(|known| *known == reason) {
            Self::add(&self.by_reason[slot], 1);
        }
    }

    /// The classes as they are now. For the engine's thread, which alone counts them.
    pub(super) fn settled(&self) -> Settled {
        Settled {
            taken: self.events_in.load(Relaxed),
            applied: self.applied.load(Relaxed),
            refused: self.refused.load(Relaxed) + self.resolutions_refused.load(Relaxed),
            duplicate: self.duplicate.load(Relaxed),
            parked: self.parked.load(Relaxed),
            dead_lettered: self.dead_lettered.load(Relaxed),
        }
    }

    /// These classes are durable.
    pub(super) fn settle(&self, settled: Settled) {
        *self.ledger.lock().unwrap_or_else(PoisonError::into_inner) = settled;
    }

    pub fn ledger(&self) -> Ledger {
        let settled = *self.ledger.lock().unwrap_or_else(PoisonError::into_inner);
        // after the classes: what they hold has been received before
        Ledger::of(self.received.load(Relaxed), settled)
    }

    /// A batch of so many events has been made durable.
    pub(super) fn observe_commit(&self, took: Duration, events: usize) {
        self.commit.observe(Histogram::micros(took));
        if events > 0 {
            self.batch.observe(events as u64);
        }
    }

    pub(super) fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Relaxed);
    }

    pub(super) fn take(counter: &AtomicU64, n: u64) {
        counter.fetch_sub(n, Relaxed);
    }
}

impl Ledger {
    fn of(received: u64, settled: Settled) -> Self {
        let Settled { taken, applied, refused, duplicate, parked, dead_lettered } = settled;
        Self {
            events_in: received,
            // the refused are counted among the applied as well
            applied: applied.saturating_sub(refused),
            duplicate,
            refused,
            parked,
            dead_lettered,
            in_flight: received.saturating_sub(taken),
            imbalance: taken.wrapping_sub(applied + duplicate + parked + dead_lettered).cast_signed(),
        }
    }
}

/// Of two partitions together. What one misses may make up for what another has too many: whether they balance is a question
/// to each.
impl std::ops::Add for Ledger {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            events_in: self.events_in + other.events_in,
            applied: self.applied + other.applied,
            duplicate: self.duplicate + other.duplicate,
            refused: self.refused + other.refused,
            parked: self.parked + other.parked,
            dead_lettered: self.dead_lettered + other.dead_lettered,
            in_flight: self.in_flight + other.in_flight,
            imbalance: self.imbalance + other.imbalance,
        }
    }
}

/// Of two partitions together.
impl std::ops::Add for Count {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            events_in: self.events_in + other.events_in,
            applied: self.applied + other.applied,
            refused: self.refused + other.refused,
            resolutions_refused: self.resolutions_refused + other.resolutions_refused,
            without_effect: self.without_effect + other.without_effect,
            duplicate: self.duplicate + other.duplicate,
            dead_lettered: self.dead_lettered + other.dead_lettered,
            parked: self.parked + other.parked,
            attempts: self.attempts + other.attempts,
            timers_fired: self.timers_fired + other.timers_fired,
            commits: self.commits + other.commits,
            published: self.published + other.published,
            publications_refused: self.publications_refused + other.publications_refused,
        }
    }
}

impl Count {
    /// Whether everything that came in is accounted for.
    pub fn balances(&self) -> bool {
        self.events_in == self.applied + self.duplicate + self.dead_lettered + self.parked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ledger_says_what_is_in_flight_and_what_is_missing() {
        let settled = Settled { taken: 10, applied: 5, refused: 2, duplicate: 1, parked: 1, dead_lettered: 3 };
        let ledger = Ledger::of(12, settled);
        let Ledger { events_in, applied, duplicate, refused, parked, dead_lettered, in_flight, imbalance } = ledger;
        assert_eq!((applied, refused, in_flight, imbalance), (3, 2, 2, 0));
        assert_eq!(events_in, applied + duplicate + refused + parked + dead_lettered + in_flight);
        // one forgotten, one counted twice
        assert_eq!(Ledger::of(12, Settled { duplicate: 0, ..settled }).imbalance, 1);
        assert_eq!(Ledger::of(12, Settled { duplicate: 2, ..settled }).imbalance, -1);
    }
}
