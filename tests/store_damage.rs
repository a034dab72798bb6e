//! A damaged store opens with the same content or not at all, and says what is wrong: never with other
//! content. A binary of its own, one case at a time: sled's threads serve the whole process, and damage
//! that kills one of them would fail the stores of unrelated tests.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/dice.rs"]
mod dice;

use std::fs;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dice::Dice;
use remedyd::store::sled::{SledSettings, SledStore};
use remedyd::store::{Batch, Row, Store, StoreError};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn open(dir: &Path) -> Result<SledStore, StoreError> {
    SledStore::open(dir, SledSettings::default())
}

/// All rows, as a reader meets them: opening may succeed where reading a page does not.
fn read(dir: &Path) -> Result<Vec<Row>, StoreError> {
    open(dir)?.scan(b"", b"", usize::MAX)
}

/// Writes batches of small rows over `keys` keys until `bytes` of values are written.
fn fill(store: &SledStore, bytes: usize, keys: u64, dice: &mut Dice) {
    let mut written = 0;
    while written < bytes {
        let mut batch = Batch::default();
        for _ in 0..16 {
            let value = vec![dice.roll(256) as u8; 600];
            written += value.len();
            batch.put(format!("s/{:06}", dice.roll(keys)).into_bytes(), value);
        }
        store.commit(&batch).unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// A small store, closed, and its content.
fn small(dir: &Path) -> Vec<Row> {
    let store = open(dir).unwrap();
    fill(&store, 50_000, 1000, &mut Dice(1));
    store.scan(b"", b"", usize::MAX).unwrap()
}

#[track_caller]
fn check_refused(damage: impl Fn(&Path), message: &str) {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    small(dir.path());
    damage(dir.path());
    // Twice: a refusal must not turn into an acceptance by what the first attempt left behind.
    for attempt in 1..=2 {
        let error = read(dir.path()).unwrap_err().to_string();
        assert!(error.contains(message), "attempt {attempt}: {error}");
    }
}

fn remove(dir: &Path, file: &str) {
    fs::remove_file(dir.join(file)).unwrap();
}

fn cut(dir: &Path, file: &str, len: u64) {
    fs::OpenOptions::new().write(true).open(dir.join(file)).unwrap().set_len(len).unwrap();
}

#[test]
fn a_missing_or_empty_file_is_refused() {
    check_refused(|dir| remove(dir, "db"), "db is missing");
    check_refused(|dir| cut(dir, "db", 0), "db is empty");
    check_refused(|dir| remove(dir, "conf"), "conf is missing");
    check_refused(|dir| cut(dir, "conf", 7), "conf is damaged");
    check_refused(|dir| remove(dir, "COMMITTED"), "COMMITTED is missing");
    check_refused(|dir| remove(dir, "FORMAT"), "FORMAT is missing although there is");
    check_refused(|dir| cut(dir, "FORMAT", 20), "FORMAT is damaged");
    check_refused(|dir| fs::write(dir.join("blobs/1"), b"x").unwrap(), "blobs/ is not empty");
}

#[test]
fn sled_files_without_a_format_are_refused() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    drop(sled::open(dir.path()).unwrap());
    let error = open(dir.path()).map(drop).unwrap_err().to_string();
    assert!(error.contains("FORMAT is missing although there is"), "{error}");
}

#[test]
fn a_database_replaced_by_an_empty_one_is_refused() {
    let empty = |dir: &Path| {
        for file in fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
            if file.file_name().unwrap().to_string_lossy().starts_with("snap.") {
                fs::remove_file(file).unwrap();
            }
        }
        remove(dir, "db");
        drop(sled::Config::new().path(dir).segment_size(8 << 20).open().unwrap());
    };
    check_refused(empty, "db opens empty, but 6 commits were durable");
}

#[test]
fn a_cut_database_is_refused() {
    for len in [1, 20, 4096, 30_000] {
        check_refused(|dir| cut(dir, "db", len), "cannot be opened");
    }
}

#[test]
fn a_newer_format_is_refused() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    small(dir.path());
    fs::write(dir.path().join("FORMAT"), "remedyd store\nformat 7\nsomething else entirely\n").unwrap();
    let error = open(dir.path()).map(drop);
    assert!(matches!(error, Err(StoreError::NewerFormat { found: 7, supported: 1, .. })), "{error:?}");
}

/// sled#1527, #1533: what a kill during an open leaves behind.
#[test]
fn an_unfinished_snapshot_is_set_aside() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let rows = small(dir.path());
    assert_eq!(read(dir.path()).unwrap(), rows);
    let snapshot = fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.file_name().unwrap().to_string_lossy().starts_with("snap."))
        .expect("sled writes a snapshot when it opens what was written");
    let whole = fs::read(&snapshot).unwrap();
    for content in [&[][..], &whole[..whole.len() / 2]] {
        let leftover = dir.path().join("snap.00000000FFFFFFFF.generating");
        fs::write(&leftover, content).unwrap();
        assert_eq!(read(dir.path()).unwrap(), rows);
        assert!(!leftover.exists());
    }
    assert_eq!(fs::read_dir(dir.path().join("aside")).unwrap().count(), 2);
}

/// A crash while the store was created: nothing was ever committed, so the next start does it again.
#[test]
fn an_unfinished_creation_is_started_over() {
    let _alone = alone();
    let made = tempfile::tempdir().unwrap();
    drop(open(made.path()).unwrap());
    let creating = "remedyd store\nformat 1\nstate creating\n";
    let creating = format!("{creating}crc {:08x}\n", crc32fast::hash(creating.as_bytes()));
    for rest in [vec![], vec!["conf"], vec!["conf", "db"], vec!["conf", "db", "COMMITTED"]] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("FORMAT"), &creating).unwrap();
        for file in &rest {
            fs::copy(made.path().join(file), dir.path().join(file)).unwrap();
            cut(dir.path(), file, 9);
        }
        let rows = small(dir.path());
        assert_eq!(read(dir.path()).unwrap(), rows, "{rest:?}");
    }
}

/// sled 0.34 does not report such a panic: the write is never done and `flush` waits for ever.
#[test]
fn a_dead_thread_of_sled_fails_the_store() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let rows = small(dir.path());
    let store = open(dir.path()).unwrap();
    let sled_thread = std::thread::Builder::new().name("sled-io-0".to_owned()).spawn(|| panic!("as sled does"));
    sled_thread.unwrap().join().unwrap_err();
    let mut batch = Batch::default();
    batch.put(b"later".to_vec(), vec![]);
    let refused = store.commit(&batch);
    assert!(matches!(&refused, Err(StoreError::Poisoned { first }) if first.contains("panicked")), "{refused:?}");
    // What was committed can be read; sled is not closed but left alone, so it keeps its file until the
    // process ends.
    assert_eq!(store.scan(b"", b"", usize::MAX).unwrap(), rows);
    drop(store);
    assert!(matches!(open(dir.path()).map(drop), Err(StoreError::Locked { .. })));
}

/// Flips one random bit among the first `used` bytes of `file`, in copies of `made`, and counts what
/// became of it.
fn flip(made: &Path, file: &str, used: u64, expected: &[Row], flips: u64, dice: &mut Dice) {
    let (mut identical, mut refused) = (0, 0);
    for _ in 0..flips {
        let dir = tempfile::tempdir().unwrap();
        copy(made, dir.path());
        let path = dir.path().join(file);
        let mut bytes = fs::read(&path).unwrap();
        let at = dice.roll(used.min(bytes.len() as u64) * 8) as usize;
        bytes[at / 8] ^= 1 << (at % 8);
        fs::write(&path, bytes).unwrap();
        match read(dir.path()) {
            Ok(rows) => {
                let different = rows.iter().filter(|row| !expected.contains(row)).count();
                let found = format!("{} rows of {}, {different} different", rows.len(), expected.len());
                assert!(rows == expected, "bit {at} of {file}: {found}");
                identical += 1;
            }
            Err(_) => refused += 1,
        }
    }
    println!("{file}: {flips} flips, {identical} identical, {refused} refused");
}

fn file_names(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap());
    let files = names.filter(|e| e.file_type().unwrap().is_file());
    let mut names: Vec<String> = files.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_flipped_bit_changes_nothing_or_is_refused() {
    let _alone = alone();
    let mut dice = Dice(7);
    // As a session left it: sled reads its whole log at the next open.
    let dir = tempfile::tempdir().unwrap();
    let rows = small(dir.path());
    flip(dir.path(), "db", 140_000, &rows, 10, &mut dice);
    // Opened once more: what is read is the snapshot, and pages when they are needed.
    assert_eq!(read(dir.path()).unwrap(), rows);
    for file in file_names(dir.path()) {
        if file != "LOCK" {
            flip(dir.path(), &file, 140_000, &rows, 8, &mut dice);
        }
    }
}

/// A session that wrote several segments over the pages of an earlier one. What refuses these is the
/// commit count alone: sled opens such a store with the commits before the damage, and says nothing.
#[test]
fn a_flipped_bit_in_a_long_log_changes_nothing_or_is_refused() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    fill(&open(dir.path()).unwrap(), 2_000_000, 4000, &mut Dice(2));
    read(dir.path()).unwrap();
    let store = open(dir.path()).unwrap();
    // Most rows are last written early; a few go on to fill the following segments.
    fill(&store, 2_000_000, 4000, &mut Dice(3));
    fill(&store, 6_000_000, 100, &mut Dice(4));
    let rows = store.scan(b"", b"", usize::MAX).unwrap();
    drop(store);
    let len = fs::metadata(dir.path().join("db")).unwrap().len();
    flip(dir.path(), "db", len, &rows, 12, &mut Dice(11));
}
