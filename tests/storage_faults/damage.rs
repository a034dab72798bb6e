//! Files that are not what was written: a bit flipped, the end cut off. The store opens with the same content or not
//! at all; never, silently, with another.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use remedyd::store::journal::JournalStore;
use remedyd::store::sled::SledSettings;
use remedyd::store::{Batch, Row, Store, StoreError};

use crate::dice::Dice;

/// Each, per round.
const DAMAGES: u64 = 20;
const FILES: [&str; 5] = ["conf", "FORMAT", "COMMITTED", JOURNAL_MARK, DB];
const DB: &str = "db";
const JOURNAL_MARK: &str = "journal/COMMITTED";
/// Batches that are in the journal only.
const JOURNALLED: u64 = 30;

fn read(dir: &Path) -> Result<Vec<Row>, StoreError> {
    JournalStore::open(dir, SledSettings::default())?.scan(b"", b"", usize::MAX)
}

/// Brings what there is into sled, and some rows more into the journal; gives the name of the file that they are in.
fn fill_both(dir: &Path) -> String {
    let store = JournalStore::open(dir, SledSettings::default()).expect("the store is sound");
    store.checkpoint().expect("a checkpoint");
    for number in 0..JOURNALLED {
        let mut batch = Batch::default();
        batch.put(format!("damage/{:02}", number % 20).into_bytes(), vec![number as u8; 300]);
        store.commit(&batch).expect("a commit");
    }
    let logs = fs::read_dir(dir.join("journal")).expect("journal/").map(|entry| entry.expect("an entry").file_name());
    let log = logs.map(|name| name.to_string_lossy().into_owned()).filter(|name| name.ends_with(".log")).max().expect("a file");
    format!("journal/{log}")
}

/// Damages copies of the store in `partition`, one place each.
pub fn check(partition: &Path, scratch: &Path, dice: &mut Dice, mut count: impl FnMut(&'static str, u64)) {
    let log = fill_both(partition);
    let sound = scratch.join("sound");
    copy(partition, &sound);
    let expected = read(&sound).expect("the store is sound");
    assert!(!expected.is_empty());
    let (mut identical, mut refused) = (0, BTreeMap::from([(DB, 0), (log.as_str(), 0)]));
    for number in 0..2 * DAMAGES {
        let (kind, change): (_, fn(&mut Vec<u8>, &mut Dice) -> String) = match number % 2 {
            0 => ("flipped bit", |bytes, dice| flip(bytes, dice)),
            _ => ("cut file", cut),
        };
        // mostly where the content is
        let file = match dice.roll(6) {
            0 | 1 => DB,
            2 | 3 => &log,
            _ => FILES[dice.roll(FILES.len() as u64) as usize],
        };
        let dir = scratch.join(format!("damaged-{number}"));
        copy(partition, &dir);
        let path = dir.join(file);
        let mut bytes = fs::read(&path).expect("a file of the store");
        let what = change(&mut bytes, dice);
        fs::write(&path, bytes).expect("written");
        match read(&dir) {
            Ok(rows) => {
                assert!(rows == expected, "{what} of {file}: {} rows of {}, or other ones", rows.len(), expected.len());
                identical += 1;
            }
            Err(_) => *refused.entry(file).or_default() += 1,
        }
        fs::remove_dir_all(&dir).expect("removed");
        count(kind, 1);
    }
    assert!(refused[DB] > 0 && refused[log.as_str()] > 0, "no damage was noticed: {refused:?}");
    println!("{} damages, {identical} without effect, refused {refused:?}", 2 * DAMAGES);
}

/// A bit where there is content: behind it a file of sled is zeros.
fn flip(bytes: &mut [u8], dice: &mut Dice) -> String {
    let used = bytes.iter().rposition(|byte| *byte != 0).expect("content") as u64 + 1;
    let at = dice.roll(used * 8) as usize;
    bytes[at / 8] ^= 1 << (at % 8);
    format!("bit {at}")
}

fn cut(bytes: &mut Vec<u8>, dice: &mut Dice) -> String {
    let used = bytes.iter().rposition(|byte| *byte != 0).expect("content") as u64 + 1;
    bytes.truncate(dice.roll(used) as usize);
    format!("what is behind byte {}", bytes.len())
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let to = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).expect("copied");
        }
    }
}
