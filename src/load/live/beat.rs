//! The beat: the times at which a steady rate wants its messages. Never here: a clock, or what is sent.

use super::rig::TURN;

pub struct Beat {
    began_us: u64,
    apart_us: f64,
    whole: u64,
    next: u64,
}

impl Beat {
    pub fn new(began_us: u64, per_s: f64, seconds: f64) -> Self {
        Self { began_us, apart_us: 1e6 / per_s.max(0.001), whole: (per_s * seconds) as u64, next: 0 }
    }

    /// Of the next one; `None`: there is none left.
    pub fn next_us(&self) -> Option<u64> {
        (self.next < self.whole).then(|| self.began_us + (self.next as f64 * self.apart_us) as u64)
    }

    /// Those that are due, a turn at the most; late ones are not passed over.
    pub fn due(&mut self, now_us: u64) -> Vec<u64> {
        let mut due = Vec::new();
        while let Some(at_us) = self.next_us().filter(|at_us| *at_us <= now_us && due.len() < TURN) {
            due.push(at_us);
            self.next += 1;
        }
        due
    }

    pub fn left(&self) -> u64 {
        self.whole - self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_late_comes_in_turns_and_keeps_its_time() {
        let mut beat = Beat::new(500, 1_000.0, 0.1);
        assert!(beat.due(499).is_empty());
        assert_eq!(beat.due(2_500), [500, 1_500, 2_500]);
        let late = beat.due(1_000_000);
        assert_eq!((late.len(), late[0]), (TURN, 3_500));
        assert_eq!((beat.left(), beat.next_us()), (33, Some(67_500)));
        assert_eq!((beat.due(1_000_000).last(), beat.left(), beat.next_us()), (Some(&99_500), 0, None));
    }
}
