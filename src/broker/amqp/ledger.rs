//! The deliveries of one lane that are not settled at the broker, and how to settle them in few frames.
//!
//! Never here: I/O. What is in the ledger is bounded by the lane's prefetch: the broker sends no more.
//!
//! Invariant: a settlement leaves [`Ledger::take`] at most once, and only in the epoch of its delivery. An
//! unknown tag would make the broker close the channel, and everything unsettled with it.
//!
//! Deliveries are decided tenant by tenant, so acks come out of order. To a quorum queue each ack frame is an entry in its
//! log, however many messages it acknowledges: what is acked behind a delivery that is not is held until one frame can
//! take them all. Held acks occupy the prefetch, so there are only so many of them, and none when what could be handed
//! out instead is wanted; after a crash they are redelivered.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::broker::Settlement;

/// One frame to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// Acknowledges this tag and everything before it.
    AckUpTo(u64),
    Ack(u64),
    Requeue(u64),
}

pub struct Ledger {
    prefetch: usize,
    holds: AtomicBool,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// 0 between connections.
    epoch: u64,
    /// By tag, which is the order of arrival.
    outstanding: BTreeMap<u64, Option<Settlement>>,
    /// How many of those are acked.
    acked: usize,
    /// Tags to be requeued, in the order of the calls.
    requeued: Vec<u64>,
}

impl Ledger {
    /// Of a lane that may have `prefetch` deliveries out.
    pub fn new(prefetch: u16) -> Self {
        Self { prefetch: prefetch.into(), holds: AtomicBool::new(true), inner: Mutex::default() }
    }

    /// A new connection: whatever the old one had out is forgotten.
    pub fn begin(&self, epoch: u64) {
        *self.lock() = Inner { epoch, ..Inner::default() };
    }

    pub fn end(&self) {
        self.begin(0);
    }

    pub fn is_current(&self, epoch: u64) -> bool {
        self.lock().epoch == epoch
    }

    /// A delivery has arrived. Before anybody can settle it.
    pub fn note(&self, tag: u64) {
        self.lock().outstanding.insert(tag, None);
    }

    /// Whether there is something new to take. Of a delivery that is settled twice the first counts.
    pub fn settle(&self, epoch: u64, tag: u64, how: Settlement) -> bool {
        let mut inner = self.lock();
        if inner.epoch != epoch {
            return false;
        }
        let inner = &mut *inner;
        let Some(settlement @ None) = inner.outstanding.get_mut(&tag) else { return false };
        *settlement = Some(how);
        match how {
            Settlement::Ack => inner.acked += 1,
            Settlement::Requeue => inner.requeued.push(tag),
        }
        true
    }

    /// Whether acks are held from now on, where that keeps others from being handed out.
    pub fn hold(&self, may: bool) {
        self.holds.store(may, Relaxed);
    }

    /// The frames for what has been settled, but for acks that are held.
    pub fn take(&self) -> Vec<Frame> {
        self.frames(true)
    }

    /// The frames for everything that has been settled, at the end of a connection.
    pub fn take_all(&self) -> Vec<Frame> {
        self.frames(false)
    }

    fn frames(&self, may_hold: bool) -> Vec<Frame> {
        let inner = &mut *self.lock();
        let mut frames = Vec::new();
        let mut up_to = None;
        while let Some(oldest) = inner.outstanding.first_entry() {
            if *oldest.get() != Some(Settlement::Ack) {
                break;
            }
            up_to = Some(*oldest.key());
            inner.acked -= 1;
            oldest.remove();
        }
        frames.extend(up_to.map(Frame::AckUpTo));
        for tag in inner.requeued.drain(..) {
            inner.outstanding.remove(&tag);
            frames.push(Frame::Requeue(tag));
        }
        let crowded = inner.outstanding.len() > self.prefetch / 2;
        let holds = may_hold && (!crowded || self.holds.load(Relaxed));
        let most_held = if holds { self.prefetch * 3 / 4 } else { 0 };
        // the youngest would be the last for whom the oldest delivery makes way
        let acked = inner.outstanding.iter().rev().filter(|(_, settlement)| settlement.is_some());
        let released: Vec<u64> = acked.map(|(tag, _)| *tag).take(inner.acked.saturating_sub(most_held)).collect();
        for tag in released.into_iter().rev() {
            inner.outstanding.remove(&tag);
            inner.acked -= 1;
            frames.push(Frame::Ack(tag));
        }
        frames
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every method leaves the ledger whole at each point where it could panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Settlement::{Ack, Requeue};

    fn ledger(prefetch: u16, arrived: u64, settled: &[(u64, Settlement)]) -> Ledger {
        let ledger = Ledger::new(prefetch);
        ledger.begin(1);
        (1..=arrived).for_each(|tag| ledger.note(tag));
        for (tag, how) in settled {
            ledger.settle(1, *tag, *how);
        }
        ledger
    }

    /// Of a ledger that holds nothing.
    fn check(arrived: u64, settled: &[(u64, Settlement)], frames: &[Frame]) {
        let ledger = ledger(1, arrived, settled);
        assert_eq!(ledger.take(), frames, "{settled:?}");
        assert_eq!(ledger.take(), [], "{settled:?}: taken twice");
    }

    #[test]
    fn acks_from_the_oldest_on_become_one_frame() {
        check(3, &[], &[]);
        check(3, &[(1, Ack), (2, Ack)], &[Frame::AckUpTo(2)]);
        check(3, &[(3, Ack), (1, Ack), (2, Ack)], &[Frame::AckUpTo(3)]);
        check(4, &[(1, Ack), (3, Ack), (4, Ack)], &[Frame::AckUpTo(1), Frame::Ack(3), Frame::Ack(4)]);
    }

    #[test]
    fn a_requeued_delivery_is_never_acked_by_a_later_one() {
        check(3, &[(1, Ack), (2, Requeue), (3, Ack)], &[Frame::AckUpTo(1), Frame::Requeue(2), Frame::Ack(3)]);
        check(1, &[(1, Requeue), (1, Ack)], &[Frame::Requeue(1)]);
    }

    #[test]
    fn acks_behind_a_delivery_that_is_open_are_held_until_one_frame_takes_them_all() {
        let ledger = ledger(4, 4, &[(2, Ack), (4, Ack)]);
        assert_eq!(ledger.take(), []);
        ledger.settle(1, 1, Ack);
        assert_eq!(ledger.take(), [Frame::AckUpTo(2)]);
        ledger.settle(1, 3, Ack);
        assert_eq!(ledger.take(), [Frame::AckUpTo(4)]);
        assert_eq!(ledger.take_all(), []);
    }

    #[test]
    fn of_acks_that_are_held_the_youngest_are_released_beyond_three_quarters_of_the_prefetch() {
        let ledger = ledger(4, 7, &[(2, Ack), (6, Ack), (4, Ack)]);
        assert_eq!(ledger.take(), []);
        ledger.settle(1, 3, Ack);
        ledger.settle(1, 5, Ack);
        assert_eq!(ledger.take(), [Frame::Ack(5), Frame::Ack(6)]);
        ledger.settle(1, 1, Ack);
        assert_eq!(ledger.take(), [Frame::AckUpTo(4)]);
        ledger.settle(1, 7, Ack);
        assert_eq!(ledger.take(), [Frame::AckUpTo(7)]);
    }

    #[test]
    fn where_others_are_wanted_none_is_held_in_their_place() {
        let ledger = ledger(6, 3, &[(3, Ack)]);
        ledger.hold(false);
        assert_eq!(ledger.take(), [], "there is room for others");
        ledger.note(4);
        ledger.settle(1, 4, Ack);
        assert_eq!(ledger.take(), [Frame::Ack(3), Frame::Ack(4)]);
    }

    #[test]
    fn at_the_end_nothing_is_held_and_what_is_requeued_never_is() {
        let ledger = ledger(8, 4, &[(2, Ack), (3, Requeue), (4, Ack)]);
        assert_eq!(ledger.take(), [Frame::Requeue(3)]);
        assert_eq!(ledger.take_all(), [Frame::Ack(2), Frame::Ack(4)]);
    }

    #[test]
    fn unknown_and_stale_tags_settle_nothing() {
        check(1, &[(2, Ack)], &[]);
        let ledger = Ledger::new(1);
        ledger.begin(1);
        ledger.note(1);
        ledger.begin(2);
        ledger.note(1);
        assert!(!ledger.settle(1, 1, Ack));
        assert_eq!(ledger.take(), []);
        assert!(ledger.settle(2, 1, Ack));
        assert!(!ledger.settle(2, 1, Ack));
        assert_eq!(ledger.take(), [Frame::AckUpTo(1)]);
        assert!(!ledger.settle(2, 1, Ack));
    }
}
