//! Dice: the only source of chance in a scenario. Never here: state outside the value itself.

use crate::machine::policy::mix;

/// One tenant's throws. Equal seeds throw equally, whatever other tenants do.
#[derive(Debug, Clone)]
pub(super) struct Dice(u64);

impl Dice {
    pub fn new(seed: u64, stream: u64) -> Self {
        Self(mix(mix(seed) ^ stream))
    }

    fn throw(&mut self) -> u64 {
        self.0 = mix(self.0);
        self.0
    }

    /// From `low` to `high`, both included.
    pub fn between(&mut self, low: u32, high: u32) -> u32 {
        let faces = u64::from(high.saturating_sub(low)) + 1;
        // the remainder fits: it is less than a u32's span
        low + (self.throw() % faces) as u32
    }

    /// True in so many of a hundred throws.
    pub fn percent(&mut self, share: u32) -> bool {
        self.between(0, 99) < share
    }

    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.between(0, of.len() as u32 - 1) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn throws_repeat_stay_in_range_and_differ_by_stream() {
        let throws = |seed, stream| {
            let mut dice = Dice::new(seed, stream);
            (0..100).map(|_| dice.between(3, 9)).collect::<Vec<_>>()
        };
        assert_eq!(throws(1, 2), throws(1, 2));
        assert_ne!(throws(1, 2), throws(1, 3));
        assert!((3..=9).all(|face| throws(1, 2).contains(&face)) && throws(1, 2).iter().all(|throw| (3..=9).contains(throw)));
    }
}
