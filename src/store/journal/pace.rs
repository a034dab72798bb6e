//! The pace of a checkpoint: as even as the commits beside it, instead of a core and the disk for as long as it takes.
//! After each piece it rests, until what is committed meanwhile has got as far, or for some times as long as the piece took.
//! Who waits for its end has it hurry. Never here: what a piece is.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use crate::model::time::Stopwatch;

/// A rest is at most so many times as long as what it is from: a checkpoint beside few commits has a ninth of a core.
const RESTS: u32 = 8;
/// How often who rests looks how far commits have got.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// What is wished of who writes a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Wish {
    #[default]
    Even,
    /// Somebody waits for the end.
    Hurry,
    /// What is left is not needed.
    Stop,
}

#[derive(Default)]
pub(super) struct Pace {
    wish: Mutex<Wish>,
    changed: Condvar,
}

impl Pace {
    pub(super) fn wish(&self, wish: Wish) {
        *self.wish.lock().unwrap_or_else(PoisonError::into_inner) = wish;
        self.changed.notify_all();
    }

    pub(super) fn is_stopped(&self) -> bool {
        *self.wish.lock().unwrap_or_else(PoisonError::into_inner) == Wish::Stop
    }

    /// Returns when the next piece is due: after a rest from one that took `worked`, or once `behind` says so.
    pub(super) fn rest(&self, worked: Duration, behind: impl Fn() -> bool) {
        let (rested, longest) = (Stopwatch::start(), worked.saturating_mul(RESTS));
        let mut wish = self.wish.lock().unwrap_or_else(PoisonError::into_inner);
        while *wish == Wish::Even && !behind() {
            let left = longest.saturating_sub(rested.elapsed());
            if left.is_zero() {
                return;
            }
            wish = self.changed.wait_timeout(wish, left.min(LOOK_EVERY)).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::sync::Arc;

    /// Longer than any test.
    const DAYS: Duration = Duration::from_secs(1_000_000);

    #[test]
    fn a_rest_ends_when_commits_have_got_as_far() {
        let looks = Cell::new(0);
        Pace::default().rest(DAYS, || looks.replace(looks.get() + 1) == 3);
        assert_eq!(looks.get(), 4);
    }

    #[test]
    fn beside_no_commits_a_rest_is_some_times_as_long_as_the_work() {
        let (pace, begun, worked) = (Pace::default(), Stopwatch::start(), Duration::from_millis(3));
        pace.rest(worked, || false);
        assert!(begun.elapsed() >= worked * RESTS);
    }

    #[test]
    fn who_waits_or_stops_it_ends_a_rest() {
        for wish in [Wish::Hurry, Wish::Stop] {
            let pace = Arc::new(Pace::default());
            let resting = std::thread::spawn({
                let pace = Arc::clone(&pace);
                move || pace.rest(DAYS, || false)
            });
            pace.wish(wish);
            resting.join().expect("it ends");
            assert_eq!(pace.is_stopped(), wish == Wish::Stop);
            pace.rest(DAYS, || false);
        }
    }
}
