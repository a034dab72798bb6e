//! The deliveries of one lane that are not settled at the broker, and how to settle them in few frames.
//!
//! Never here: I/O. What is in the ledger is bounded by the lane's prefetch: the broker sends no more.
//!
//! Invariant: a settlement leaves [`Ledger::take`] at most once, and only in the epoch of its delivery. An
//! unknown tag would make the broker close the channel, and everything unsettled with it.

use std::collections::BTreeMap;
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

#[derive(Default)]
pub struct Ledger(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    /// 0 between connections.
    epoch: u64,
    /// By tag, which is the order of arrival.
    outstanding: BTreeMap<u64, Option<Settlement>>,
    /// Tags settled since the last [`Ledger::take`], in the order of the calls.
    settled: Vec<u64>,
}

impl Ledger {
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
        match inner.outstanding.get_mut(&tag) {
            Some(settlement @ None) => {
                *settlement = Some(how);
                inner.settled.push(tag);
                true
            }
            Some(Some(_)) | None => false,
        }
    }

    /// The frames that settle everything settled since the last time. Acks without a gap from the oldest
    /// delivery on become one frame.
    pub fn take(&self) -> Vec<Frame> {
        let inner = &mut *self.lock();
        let mut frames = Vec::new();
        let mut up_to = None;
        while let Some(oldest) = inner.outstanding.first_entry() {
            if *oldest.get() != Some(Settlement::Ack) {
                break;
            }
            up_to = Some(*oldest.key());
            oldest.remove();
        }
        frames.extend(up_to.map(Frame::AckUpTo));
        for tag in inner.settled.drain(..) {
            match inner.outstanding.remove(&tag) {
                Some(Some(Settlement::Ack)) => frames.push(Frame::Ack(tag)),
                Some(Some(Settlement::Requeue)) => frames.push(Frame::Requeue(tag)),
                // In `up_to` already; a tag is in `settled` only once it is settled.
                Some(None) | None => {}
            }
        }
        frames
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every method leaves the ledger whole at each point where it could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Settlement::{Ack, Requeue};

    fn check(arrived: u64, settled: &[(u64, Settlement)], frames: &[Frame]) {
        let ledger = Ledger::default();
        ledger.begin(1);
        (1..=arrived).for_each(|tag| ledger.note(tag));
        for (tag, how) in settled {
            ledger.settle(1, *tag, *how);
        }
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
    fn unknown_and_stale_tags_settle_nothing() {
        check(1, &[(2, Ack)], &[]);
        let ledger = Ledger::default();
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
