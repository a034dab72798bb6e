//! A histogram that many threads may write to at the cost of two atomic additions. Never here: floating point, or the
//! form in which it is shown.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds, inclusive: in microseconds 100 µs to 100 s, in events every batch that the settings allow.
pub const BOUNDS: [u64; 19] = [
    1,
    10,
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    100_000_000,
];

/// Counts of whole numbers (microseconds, events) by [`BOUNDS`].
#[derive(Debug, Default)]
pub struct Histogram {
    /// The last is what is over every bound.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum: AtomicU64,
}

/// A histogram at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Distribution {
    /// Not cumulative; the last is what is over every bound.
    pub buckets: [u64; BOUNDS.len() + 1],
    pub sum: u64,
}

impl Histogram {
    pub fn observe(&self, value: u64) {
        self.buckets[BOUNDS.partition_point(|bound| *bound < value)].fetch_add(1, Relaxed);
        self.sum.fetch_add(value, Relaxed);
    }

    pub fn micros(took: Duration) -> u64 {
        u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
    }

    pub fn distribution(&self) -> Distribution {
        Distribution { buckets: std::array::from_fn(|slot| self.buckets[slot].load(Relaxed)), sum: self.sum.load(Relaxed) }
    }
}

/// Of two partitions together.
impl std::ops::Add for Distribution {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { buckets: std::array::from_fn(|slot| self.buckets[slot] + other.buckets[slot]), sum: self.sum + other.sum }
    }
}

impl Distribution {
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The bound that this share of the values (0 to 1) does not exceed; `None` without values, or over every bound.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let count = self.count();
        let rank = (count as f64 * share).ceil() as u64;
        let mut seen = 0;
        let slot = self.buckets.iter().position(|bucket| {
            seen += bucket;
            count > 0 && seen >= rank
        });
        slot.and_then(|slot| BOUNDS.get(slot).copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let histogram = Histogram::default();
        for value in [0, 1, 2, 100, 101, 100_000_000, 100_000_001] {
            histogram.observe(value);
        }
        let taken = histogram.distribution();
        assert_eq!((taken.buckets[0], taken.buckets[1], taken.buckets[2], taken.buckets[3]), (2, 1, 1, 1));
        assert_eq!((taken.buckets[18], taken.buckets[19], taken.count()), (1, 1, 7));
        assert_eq!(taken.sum, 200_000_205);
    }

    #[test]
    fn quantiles_are_bounds() {
        let histogram = Histogram::default();
        assert_eq!(histogram.distribution().quantile(0.5), None);
        (1..=99).for_each(|_| histogram.observe(600));
        histogram.observe(9_000);
        let taken = histogram.distribution();
        assert_eq!((taken.quantile(0.5), taken.quantile(0.99), taken.quantile(1.0)), (Some(1_000), Some(1_000), Some(10_000)));
    }
}
