//! Judges the published sequences from outside: 1, 2, 3 … for each subject, each number with one content.
//! Never here: what an event means.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

/// The numbers of each subject that have been seen, with a digest of what came under each.
#[derive(Debug, Default)]
pub struct Sequences {
    /// By `<tenant> <subject>`; 0 where nothing has come yet.
    subjects: HashMap<Box<str>, Vec<u64>>,
    key: String,
    /// Seen before, byte for byte.
    pub duplicates: u64,
    /// Seen before, with other bytes.
    pub changed: u64,
    /// After a higher number of the same subject.
    pub late: u64,
    /// Without a number from 1.
    pub unnumbered: u64,
}

impl Sequences {
    pub fn take(&mut self, tenant: &str, subject: &str, sequence: &str, body: &[u8]) {
        let Some(index) = sequence.parse::<usize>().ok().and_then(|number| number.checked_sub(1)) else {
            self.unnumbered += 1;
            return;
        };
        let mut hasher = DefaultHasher::new();
        body.hash(&mut hasher);
        let digest = hasher.finish().max(1);
        self.key.clear();
        self.key.extend([tenant, " ", subject]);
        if !self.subjects.contains_key(self.key.as_str()) {
            self.subjects.insert(self.key.as_str().into(), Vec::new());
        }
        let Some(seen) = self.subjects.get_mut(self.key.as_str()) else { return };
        match seen.get_mut(index) {
            None => {
                seen.resize(index, 0);
                seen.push(digest);
            }
            Some(missing @ 0) => {
                *missing = digest;
                self.late += 1;
            }
            Some(known) if *known == digest => self.duplicates += 1,
            Some(_) => self.changed += 1,
        }
    }

    /// Numbers that have not come although a higher one has.
    pub fn gaps(&self) -> u64 {
        self.subjects.values().flatten().filter(|digest| **digest == 0).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes `number content` pairs of one subject; gives gaps, late, duplicates, changed.
    fn judged(published: &[(&str, &str)]) -> [u64; 4] {
        let mut sequences = Sequences::default();
        for (number, content) in published {
            sequences.take("5.4", "agents/1", number, content.as_bytes());
        }
        [sequences.gaps(), sequences.late, sequences.duplicates, sequences.changed]
    }

    #[test]
    fn what_was_dropped_repeated_changed_or_overtaken_is_noticed() {
        assert_eq!(judged(&[("1", "a"), ("2", "b"), ("3", "c")]), [0, 0, 0, 0]);
        assert_eq!(judged(&[("1", "a"), ("3", "c")]), [1, 0, 0, 0]);
        assert_eq!(judged(&[("2", "b")]), [1, 0, 0, 0]);
        assert_eq!(judged(&[("1", "a"), ("3", "c"), ("2", "b")]), [0, 1, 0, 0]);
        assert_eq!(judged(&[("1", "a"), ("1", "a")]), [0, 0, 1, 0]);
        assert_eq!(judged(&[("1", "a"), ("1", "b")]), [0, 0, 0, 1]);
    }

    #[test]
    fn subjects_count_apart_and_numbers_begin_at_one() {
        let mut sequences = Sequences::default();
        sequences.take("5.4", "agents/1", "1", b"a");
        sequences.take("5.5", "agents/1", "1", b"a");
        sequences.take("5.4", "agents/1", "0", b"a");
        sequences.take("5.4", "agents/1", "x", b"a");
        assert_eq!((sequences.subjects.len(), sequences.gaps(), sequences.unnumbered), (2, 0, 2));
    }
}
