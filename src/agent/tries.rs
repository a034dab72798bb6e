//! The pauses between the tries of one attempt (lifecycle.md, below the T table): exponential, from the
//! `backoff` crate as a pure policy. Never sleeps itself.
//!
//! The crate's own jitter cannot be seeded, so its randomisation is off and ours is mixed in: the same attempt
//! always pauses equally long.

use std::time::Duration;

use backoff::backoff::Backoff;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};

use crate::machine::policy::mix;
use crate::model::time::Span;

/// Tries within one attempt.
pub const MAX_TRIES: u32 = 3;

/// The pause after each failed try of one attempt.
pub struct Pauses {
    backoff: ExponentialBackoff,
    jitter: u64,
}

impl Pauses {
    /// 200 ms, doubled each time, at most 5 s; then up to a tenth less by `seed`.
    pub fn new(seed: u64) -> Self {
        let backoff = ExponentialBackoffBuilder::new()
            .with_initial_interval(Duration::from_millis(200))
            .with_multiplier(2.0)
            .with_max_interval(Duration::from_secs(5))
            .with_randomization_factor(0.0)
            // without this it gives up after 15 minutes
            .with_max_elapsed_time(None)
            .build();
        Self { backoff, jitter: seed }
    }

    pub fn next_pause(&mut self) -> Span {
        let full = self.backoff.next_backoff().unwrap_or(Duration::from_secs(5));
        self.jitter = mix(self.jitter);
        let full_ms = full.as_millis() as i64;
        Span::from_millis(full_ms - full_ms * (self.jitter % 101) as i64 / 1_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_repeat_for_a_seed() {
        let play = |seed| {
            let mut pauses = Pauses::new(seed);
            (0..7).map(|_| pauses.next_pause().as_millis()).collect::<Vec<_>>()
        };
        let first = play(7);
        for (pause, full) in first.iter().zip([200, 400, 800, 1_600, 3_200, 5_000, 5_000]) {
            assert!(*pause <= full && *pause >= full * 9 / 10, "{first:?}");
        }
        assert_eq!(first, play(7));
        assert_ne!(first, play(8));
    }
}
