//! How long to wait before the next connection: 100 ms to 5 s, for ever.
//!
//! A pure policy over the `backoff` crate: no clock, no sleep. Never giving up is the point, and the crate's
//! own jitter cannot be seeded, so neither is left to it.

use std::time::Duration;

use backoff::backoff::Backoff;
use backoff::{ExponentialBackoff, ExponentialBackoffBuilder};

/// The first delay: a broker's hiccup is over by then.
pub const SHORTEST: Duration = Duration::from_millis(100);
/// The longest: a link is to be at work within 10 s of its broker's return, however long that was away, and half of
/// them belong to connecting, looking at the topology and the queues' elections. A fleet of 256 partitions comes to
/// some hundred attempts a second at that pace, which a broker takes.
pub const LONGEST: Duration = Duration::from_secs(5);
/// With 1.5 the next delay is about half of the outage so far: back within 3 s of a restart that took 6 s.
const MULTIPLIER: f64 = 1.5;
/// The part of a delay that chance may take away, so that a fleet does not come back in step.
const JITTER: f64 = 0.25;

/// Delays, each longer than the one before until [`LONGEST`].
pub struct Retry {
    policy: ExponentialBackoff,
    last: Duration,
    random: u64,
}

impl Retry {
    pub fn new(seed: u64) -> Self {
        let policy = ExponentialBackoffBuilder::new()
            .with_initial_interval(SHORTEST)
            .with_max_interval(LONGEST)
            .with_multiplier(MULTIPLIER)
            .with_randomization_factor(0.0)
            .with_max_elapsed_time(None)
            .build();
        Self { policy, last: Duration::ZERO, random: seed }
    }

    pub fn delay(&mut self) -> Duration {
        // `None` would mean that the time is up, and it never is.
        let delay = self.policy.next_backoff().unwrap_or(LONGEST);
        self.last = delay.mul_f64(1.0 - JITTER * self.chance());
        self.last
    }

    /// A connection was of use for so long. If that is longer than the pause before it, what comes now is a new failure,
    /// not the same one, and the delays start again: a broker that is restarted twice in a minute is not waited for
    /// longer the second time. One that flaps still is, and is never asked more often than it holds.
    pub fn held(&mut self, duration: Duration) {
        if duration > self.last {
            self.policy.reset();
        }
    }

    /// Evenly from 0 to 1 (splitmix64).
    fn chance(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_from_the_shortest_to_the_longest_and_never_end() {
        let mut retry = Retry::new(7);
        let delays: Vec<Duration> = (0..1_000).map(|_| retry.delay()).collect();
        let floor = |full: Duration| full.mul_f64(1.0 - JITTER);
        assert!((floor(SHORTEST)..=SHORTEST).contains(&delays[0]));
        for delay in &delays[20..] {
            assert!((floor(LONGEST)..=LONGEST).contains(delay), "{delay:?}");
        }
        retry.held(floor(LONGEST) / 2);
        assert!(retry.delay() >= floor(LONGEST), "it held for less than the pause before it");
        retry.held(LONGEST * 2);
        assert!(retry.delay() <= SHORTEST);
    }

    #[test]
    fn the_seed_decides_the_jitter() {
        let delays = |seed| {
            let mut retry = Retry::new(seed);
            (0..20).map(|_| retry.delay()).collect::<Vec<_>>()
        };
        assert_eq!(delays(1), delays(1));
        assert_ne!(delays(1), delays(2));
    }
}
