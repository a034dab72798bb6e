//! The batches that the writer commits, and what must be in a store after the first N of them. Both from a seed, so
//! that whoever opens the store knows every byte it must find.
//!
//! They are like the service's: 64 events a batch, each with its inbox row, its subject over and over, outbox rows
//! that go again, an audit row; now and then a dead letter that is cut into chunks; a line of the archive.

use std::collections::{BTreeMap, BTreeSet};

use remedyd::store::{Batch, Row};

use crate::dice::Dice;

const EVENTS: u64 = 64;
/// Subjects, written over and over.
const SUBJECTS: u64 = 600;
/// An outbox row is removed this many batches later.
const CONFIRMED_AFTER: u64 = 3;
/// Every so many batches have a dead letter.
const DEAD_LETTER_EVERY: u64 = 8;
const DEAD_LETTERS: u64 = 5;
const MIN_DEAD_LETTER_BYTES: u64 = 40_000;
const MAX_DEAD_LETTER_BYTES: u64 = 3_000_000;

/// The key of the row that says how many batches there are.
const COUNT: &[u8] = b"n";

/// What one disk is written with.
#[derive(Debug, Clone, Copy)]
pub struct Content {
    pub seed: u64,
    /// Rows as large as a message may be.
    pub dead_letters: bool,
}

impl Content {
    /// Batch `number`, from 1.
    pub fn batch(self, number: u64) -> Batch {
        let mut dice = Dice(self.seed ^ number.wrapping_mul(0x2545_f491_4f6c_dd1d));
        let mut batch = Batch::default();
        for event in 0..EVENTS {
            batch.put(key("inbox", number, event), value(number, 80, &mut dice));
            batch.put(key("subject", dice.roll(SUBJECTS), 0), value(number, 900 + dice.roll(1_600), &mut dice));
            batch.put(key("outbox", number, event), value(number, 900, &mut dice));
            batch.put(key("audit", number, event), value(number, 300, &mut dice));
            if number > CONFIRMED_AFTER {
                batch.remove(key("outbox", number - CONFIRMED_AFTER, event));
            }
        }
        if self.dead_letters && number.is_multiple_of(DEAD_LETTER_EVERY) {
            let bytes = MIN_DEAD_LETTER_BYTES + dice.roll(MAX_DEAD_LETTER_BYTES - MIN_DEAD_LETTER_BYTES);
            batch.put(key("dead-letter", number / DEAD_LETTER_EVERY % DEAD_LETTERS, 0), value(number, bytes, &mut dice));
        }
        batch.put(COUNT.to_vec(), number.to_be_bytes().to_vec());
        batch.archive.push(number.to_string().into_bytes());
        batch
    }

    /// Everything that is in a store after `count` batches.
    fn after(self, count: u64) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut rows = BTreeMap::new();
        for (key, value) in (1..=count).flat_map(|number| self.batch(number).writes) {
            match value {
                Some(value) => rows.insert(key.to_vec(), value.to_vec()),
                None => rows.remove(key.as_ref()),
            };
        }
        rows
    }

    /// How many batches `rows` are.
    ///
    /// # Errors
    /// Says what is wrong when they are not exactly what the first N batches leave.
    pub fn check(self, rows: Vec<Row>) -> Result<u64, String> {
        let found = BTreeMap::from_iter(rows);
        let count = match found.get(COUNT).map(|count| count.as_slice().try_into().map(u64::from_be_bytes)) {
            Some(Ok(count)) => count,
            Some(Err(_)) => return Err("the count of batches is damaged".to_owned()),
            None if found.is_empty() => return Ok(0),
            None => return Err(format!("{} rows without a count of batches", found.len())),
        };
        let expected = self.after(count);
        let missing = expected.keys().filter(|key| !found.contains_key(*key)).count();
        let foreign = found.keys().filter(|key| !expected.contains_key(*key)).count();
        let different = found.iter().filter(|(key, value)| expected.get(*key).is_some_and(|expected| expected != *value)).count();
        match (missing, foreign, different) {
            (0, 0, 0) => Ok(count),
            _ => Err(format!("not what {count} batches leave: {missing} rows missing, {foreign} too many, {different} different")),
        }
    }
}

/// Holds the lines of an archive against the number of batches. A crash may write some once more.
///
/// # Errors
/// Says which are missing, or of which batch there are none yet.
pub fn check_archive(count: u64, lines: &BTreeSet<u64>) -> Result<(), String> {
    let missing: Vec<u64> = (1..=count).filter(|number| !lines.contains(number)).collect();
    match (missing.as_slice(), lines.last()) {
        ([], Some(last)) if *last > count => Err(format!("the archive has a line of batch {last}, and there are {count}")),
        ([], _) => Ok(()),
        (missing, _) => Err(format!("not in the archive after {count} batches: {missing:?}")),
    }
}

fn key(kind: &str, number: u64, event: u64) -> Vec<u8> {
    format!("{kind}/{number:08}/{event:03}").into_bytes()
}

/// Says which batch it is of, and is like no other of that batch.
fn value(number: u64, bytes: u64, dice: &mut Dice) -> Vec<u8> {
    let mut value = [number.to_be_bytes(), dice.roll(u64::MAX).to_be_bytes()].concat();
    value.resize(bytes as usize, dice.roll(256) as u8);
    value
}
