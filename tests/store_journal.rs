//! The journal in front of sled: what a kill leaves behind, what damage does to it. The contract itself is judged in
//! `tests/store.rs`, power cuts in `tests/power_cut.rs`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/dice.rs"]
mod dice;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use dice::Dice;
use remedyd::store::journal::{JournalStore, Snapshot};
use remedyd::store::sled::{SledSettings, SledStore};
use remedyd::store::transfer::{Source, TransferError};
use remedyd::store::{Batch, Row, Store, StoreError, keys};

const CHECKPOINT_BYTES: u64 = 20_000;

fn open(dir: &Path) -> Result<JournalStore, StoreError> {
    JournalStore::open_with(dir, SledSettings::default(), CHECKPOINT_BYTES)
}

fn rows(dir: &Path) -> Result<Vec<Row>, StoreError> {
    open(dir)?.scan(b"", b"", usize::MAX)
}

/// Batch `n` of a life like the service's: a row that stays, one that is written again and again, an outbox row of
/// its own, and the removal of an earlier one.
fn batch(n: u64) -> Batch {
    let mut batch = Batch::default();
    batch.put(format!("i/{n:08}").into_bytes(), n.to_be_bytes().to_vec());
    batch.put(format!("s/{:02}", n % 50).into_bytes(), vec![n as u8; 300]);
    batch.put(format!("o/{n:08}").into_bytes(), vec![n as u8; 200]);
    if n > 20 {
        batch.remove(format!("o/{:08}", n - 20).into_bytes());
    }
    batch
}

/// What there must be after batches 1 to `n`.
fn expected(n: u64) -> Vec<Row> {
    let mut rows = BTreeMap::new();
    for (key, value) in (1..=n).flat_map(|n| batch(n).writes) {
        match value {
            Some(value) => rows.insert(key.to_vec(), value.to_vec()),
            None => rows.remove(key.as_ref()),
        };
    }
    rows.into_iter().collect()
}

/// Commits, checkpoints, snapshots and opens in any order, with overlays of any size, beside a map that does the same.
#[test]
fn whatever_happens_in_whatever_order_reads_as_a_map_would() {
    for seed in 1..=6 {
        let mut life = Life::new(seed);
        for step in 0..300 {
            life.step();
            life.check(&format!("seed {seed}, step {step}"));
        }
        life.end(&format!("seed {seed}"));
    }
}

struct Life {
    dice: Dice,
    dir: tempfile::TempDir,
    checkpoint_bytes: u64,
    store: Option<JournalStore>,
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    lines: Vec<Vec<u8>>,
    /// With the rows there were, and how many lines.
    snapshot: Option<(Snapshot, Vec<Row>, usize)>,
}

impl Life {
    fn new(seed: u64) -> Self {
        let (mut dice, dir) = (Dice(seed), tempfile::tempdir().unwrap());
        let checkpoint_bytes = 200 + dice.roll(3_000);
        let mut life = Self { dice, dir, checkpoint_bytes, store: None, rows: BTreeMap::new(), lines: Vec::new(), snapshot: None };
        life.reopen();
        life
    }

    fn store(&self) -> &JournalStore {
        self.store.as_ref().unwrap()
    }

    fn rows(&self) -> Vec<Row> {
        self.rows.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    fn step(&mut self) {
        match self.dice.roll(100) {
            0..85 => self.commit(),
            85..88 => {
                // it would wait for the snapshot to be dropped
                self.snapshot = None;
                self.store().checkpoint().unwrap();
            }
            88..91 => self.reopen(),
            91..96 if self.snapshot.is_none() => {
                self.snapshot = Some((self.store().snapshot().unwrap(), self.rows(), self.lines.len()));
            }
            _ => self.snapshot = None,
        }
    }

    fn commit(&mut self) {
        let mut batch = Batch::default();
        for _ in 0..=self.dice.roll(6) {
            let key = format!("{}/{:02}", ["a", "b", "o"][self.dice.roll(3) as usize], self.dice.roll(40)).into_bytes();
            if self.dice.roll(3) == 0 || (keys::is_never_overwritten(&key) && self.rows.contains_key(&key)) {
                self.rows.remove(&key);
                batch.remove(key);
            } else {
                let longest = if self.dice.roll(40) == 0 { 70_000 } else { 120 };
                let value = vec![self.dice.roll(256) as u8; self.dice.roll(longest) as usize];
                self.rows.insert(key.clone(), value.clone());
                batch.put(key, value);
            }
        }
        if self.dice.roll(5) == 0 {
            self.lines.push(format!("{{\"line\":{}}}", self.lines.len()).into_bytes());
            batch.archive.extend(self.lines.last().cloned());
        }
        self.store().commit(&batch).unwrap();
    }

    fn reopen(&mut self) {
        self.snapshot = None;
        self.store = None;
        self.store = Some(JournalStore::open_with(self.dir.path(), SledSettings::default(), self.checkpoint_bytes).unwrap());
    }

    #[track_caller]
    fn check(&self, when: &str) {
        assert_eq!(self.store().scan(b"", b"", usize::MAX).unwrap(), self.rows(), "{when}");
        let Some((snapshot, rows, lines)) = &self.snapshot else { return };
        match snapshot.scan(b"", usize::MAX) {
            Ok(found) => assert_eq!(found, *rows, "{when}: snapshot"),
            // too much has been committed since
            Err(TransferError::GivenUp) => return,
            Err(error) => panic!("{when}: {error}"),
        }
        assert_eq!(archived(|line| snapshot.archive(line)), self.lines[..*lines], "{when}: archive of the snapshot");
    }

    /// In the end sled has all of it, and nothing else.
    #[track_caller]
    fn end(mut self, when: &str) {
        self.snapshot = None;
        self.store().checkpoint().unwrap();
        let snapshot = self.store().snapshot().unwrap();
        assert_eq!(snapshot.scan(b"", usize::MAX).unwrap(), self.rows(), "{when}");
        assert_eq!(archived(|line| snapshot.archive(line)), self.lines, "{when}: archive");
    }
}

/// Each line once: a crash may have written some twice.
fn archived(read: impl FnOnce(&mut dyn FnMut(&[u8]) -> Result<(), TransferError>) -> Result<(), TransferError>) -> Vec<Vec<u8>> {
    let mut lines: Vec<Vec<u8>> = Vec::new();
    read(&mut |line| {
        if !lines.iter().any(|known| known == line) {
            lines.push(line.to_vec());
        }
        Ok(())
    })
    .unwrap();
    lines
}

const CHILD_DIR: &str = "REMEDYD_TEST_JOURNAL_DIR";

/// The process that is killed by [`a_kill_at_any_moment_loses_nothing`]; on its own it does nothing. Says the number of each batch that
/// has been committed.
#[test]
fn child_commits_until_it_is_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let store = open(Path::new(&dir)).unwrap();
    for n in store.commits() + 1.. {
        store.commit(&batch(n)).unwrap();
        println!("committed {n}");
    }
}

#[test]
fn a_kill_at_any_moment_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut acked = 0;
    for round in 0..8 {
        let mut child = child_that_commits(dir.path()).spawn().unwrap();
        let told = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        // checkpoints are under way most of the time; which batch it dies in differs from run to run anyway
        let stop_at = acked + 100 + 37 * round;
        for line in told {
            // the runner's own words may stand before it
            let Some((_, number)) = line.split_once("committed ") else { continue };
            let number: u64 = number.parse().unwrap();
            acked = number;
            if number == stop_at {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        acked = check_nothing_lost(dir.path(), acked, &format!("round {round}"));
    }
}

fn child_that_commits(dir: &Path) -> Command {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "child_commits_until_it_is_killed", "--nocapture"]).env(CHILD_DIR, dir).stdout(Stdio::piped());
    child
}

/// Gives how many batches there are.
#[track_caller]
fn check_nothing_lost(dir: &Path, acked: u64, what: &str) -> u64 {
    let store = open(dir).unwrap_or_else(|error| panic!("{what}: {error}"));
    let there = store.commits();
    // the last one may have become durable without being told
    assert!((acked..=acked + 1).contains(&there), "{what}: {acked} acked, {there} there");
    assert!(store.scan(b"", b"", usize::MAX).unwrap() == expected(there), "{what}");
    there
}

/// The same at each step of a commit and of a checkpoint, one after the other on one store.
#[cfg(feature = "crash-points")]
#[test]
fn a_crash_at_any_step_of_a_checkpoint_loses_nothing() {
    use remedyd::crash::Point;
    let points = [
        Point::JournalWritten,
        Point::JournalSynced,
        Point::JournalBegun,
        Point::CheckpointBegun,
        Point::Applied,
        Point::Flushed,
        Point::Synced,
        Point::CheckpointDurable,
        Point::JournalRemoved,
        Point::JournalRead,
    ];
    let dir = tempfile::tempdir().unwrap();
    let mut acked = 0;
    for (point, hits) in points.into_iter().flat_map(|point| [(point, 1), (point, 2)]) {
        // a process reads the journal once
        let hits = if point == Point::JournalRead { 1 } else { hits };
        let what = format!("{} ({}), hit {hits}", point.code(), point.place());
        let mut command = child_that_commits(dir.path());
        command.env("REMEDYD_CRASH_AT", format!("{}:{hits}", point.code()));
        let mut child = command.spawn().unwrap();
        let told = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        acked = told.filter_map(|line| line.split_once("committed ")?.1.parse().ok()).last().unwrap_or(acked);
        assert_eq!(child.wait().unwrap().code(), None, "{what} was not reached");
        acked = check_nothing_lost(dir.path(), acked, &what);
    }
}

/// A store of `n` batches, closed; many of them only in the journal.
fn made(n: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let store = JournalStore::open(dir.path(), SledSettings::default()).unwrap();
    (1..=n / 2).for_each(|n| store.commit(&batch(n)).unwrap());
    store.checkpoint().unwrap();
    (n / 2 + 1..=n).for_each(|n| store.commit(&batch(n)).unwrap());
    dir
}

fn logs(dir: &Path) -> Vec<PathBuf> {
    let mut logs: Vec<PathBuf> = fs::read_dir(dir.join("journal")).unwrap().map(|entry| entry.unwrap().path()).collect();
    logs.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    logs.sort();
    logs
}

#[track_caller]
fn check_refused(dir: &Path, message: &str) {
    // twice: a refusal must not turn into an acceptance by what the first attempt left behind
    for attempt in 1..=2 {
        let error = rows(dir).map(|rows| rows.len()).unwrap_err().to_string();
        assert!(error.contains(message), "attempt {attempt}: {error}");
    }
}

#[test]
fn a_checkpoint_removes_what_it_covers() {
    let dir = made(60);
    assert_eq!(logs(dir.path()).len(), 1);
    assert!(rows(dir.path()).unwrap() == expected(60));
    let store = open(dir.path()).unwrap();
    store.checkpoint().unwrap();
    assert_eq!(logs(dir.path()).len(), 1);
    assert_eq!(fs::metadata(&logs(dir.path())[0]).unwrap().len(), 24, "a head and nothing else");
    assert!(store.scan(b"", b"", usize::MAX).unwrap() == expected(60));
}

#[test]
fn opens_do_not_pile_up_files() {
    let dir = made(10);
    for _ in 0..40 {
        assert!(rows(dir.path()).unwrap() == expected(10));
    }
    assert!(logs(dir.path()).len() < 20, "{}", logs(dir.path()).len());
}

/// Or a process that dies again and again before a checkpoint has ended would have more and more to read and to remember.
#[test]
fn an_open_brings_much_into_sled_before_it_goes_on() {
    let dir = made(60);
    let journalled: u64 = logs(dir.path()).iter().map(|log| fs::metadata(log).unwrap().len()).sum();
    // as much as a crash at the end of a checkpoint leaves stays where it is
    drop(JournalStore::open_with(dir.path(), SledSettings::default(), journalled / 3).unwrap());
    assert!(logs(dir.path()).len() > 1);
    let store = JournalStore::open_with(dir.path(), SledSettings::default(), journalled / 6).unwrap();
    assert_eq!(logs(dir.path()).len(), 1);
    assert_eq!(fs::metadata(&logs(dir.path())[0]).unwrap().len(), 24, "a head and nothing else");
    assert!(store.scan(b"", b"", usize::MAX).unwrap() == expected(60));
}

#[test]
fn a_batch_that_was_cut_short_is_cut_off() {
    let dir = made(60);
    let newest = logs(dir.path()).pop().unwrap();
    let whole = fs::read(&newest).unwrap();
    let half_a_batch = &whole[24..424];
    fs::write(&newest, [&whole[..], half_a_batch].concat()).unwrap();
    assert!(rows(dir.path()).unwrap() == expected(60));
    assert_eq!(fs::read(&newest).unwrap(), whole);
    // and a file that was only being begun
    let begun = newest.with_file_name(format!("{:016}.log", logs(dir.path()).len() + 40));
    fs::write(&begun, b"").unwrap();
    check_refused(dir.path(), "is missing");
    fs::remove_file(&begun).unwrap();
    let newest = logs(dir.path()).pop().unwrap();
    let number: u64 = newest.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    fs::write(newest.with_file_name(format!("{:016}.log", number + 1)), &whole[..7]).unwrap();
    for _ in 0..3 {
        assert!(rows(dir.path()).unwrap() == expected(60));
    }
}

#[test]
fn what_was_committed_and_is_gone_is_refused() {
    let dir = made(60);
    let newest = logs(dir.path()).pop().unwrap();
    let whole = fs::read(&newest).unwrap();
    fs::write(&newest, &whole[..whole.len() - 1]).unwrap();
    check_refused(dir.path(), "the journal ends with batch 59, but 60 were committed");
    let dir = made(60);
    fs::remove_file(logs(dir.path()).pop().unwrap()).unwrap();
    check_refused(dir.path(), "is missing or empty");
    let dir = made(60);
    fs::remove_dir_all(dir.path().join("journal")).unwrap();
    check_refused(dir.path(), "journal/ is missing");
    let dir = made(60);
    fs::remove_file(dir.path().join("journal/COMMITTED")).unwrap();
    assert!(rows(dir.path()).is_err());
}

/// COMMITTED is not synced: after a power cut it may be old, and cannot tell.
#[test]
fn a_journal_that_is_gone_is_refused_however_old_the_count() {
    for head in [None, Some(&[0; 24][..]), Some(b"")] {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()).unwrap());
        let mark = dir.path().join("journal/COMMITTED");
        let old = fs::read(&mark).unwrap();
        let store = JournalStore::open(dir.path(), SledSettings::default()).unwrap();
        (1..=30).for_each(|n| store.commit(&batch(n)).unwrap());
        store.checkpoint().unwrap();
        (31..=60).for_each(|n| store.commit(&batch(n)).unwrap());
        drop(store);
        fs::write(&mark, &old).unwrap();
        let newest = logs(dir.path()).pop().unwrap();
        match head {
            None => fs::remove_file(newest).unwrap(),
            Some(bytes) => fs::write(newest, bytes).unwrap(),
        }
        check_refused(dir.path(), "is missing or empty");
    }
}

#[test]
fn a_store_with_a_journal_is_not_opened_without_it() {
    let dir = made(60);
    let refused = SledStore::open(dir.path(), SledSettings::default()).map(drop).unwrap_err().to_string();
    assert!(refused.contains("it has a journal"), "{refused}");
    assert!(rows(dir.path()).unwrap() == expected(60));
}

#[test]
fn a_flipped_bit_changes_nothing_or_is_refused() {
    let dir = made(60);
    let rows_before = expected(60);
    let newest = logs(dir.path()).pop().unwrap();
    let whole = fs::read(&newest).unwrap();
    let (mut identical, mut refused) = (0, 0);
    for step in 0..60 {
        let bit = step * whole.len() * 8 / 60 + step % 8;
        let mut bad = whole.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        fs::write(&newest, &bad).unwrap();
        match rows(dir.path()) {
            Ok(found) => {
                assert!(found == rows_before, "bit {bit}");
                identical += 1;
            }
            Err(StoreError::Corrupt { .. }) => refused += 1,
            Err(other) => panic!("bit {bit}: {other}"),
        }
        fs::write(&newest, &whole).unwrap();
    }
    println!("{identical} identical, {refused} refused");
    assert_eq!(refused, 60);
    assert!(rows(dir.path()).unwrap() == rows_before);
}

const SYNCED_DIR: &str = "REMEDYD_TEST_SYNCED_DIR";
/// What sled may write between two syncs: it gives a segment free once what was in it has moved two segments back
/// (docs/adr/0001), and a segment has 8 MiB.
const MOST_UNSYNCED_BYTES: u64 = 16 * 1024 * 1024;

/// The process that [`a_checkpoint_syncs_before_sled_can_reuse_a_segment`] watches; on its own it does nothing.
#[test]
fn child_brings_much_into_sled() {
    let Some(dir) = std::env::var_os(SYNCED_DIR) else { return };
    let store = JournalStore::open(Path::new(&dir), SledSettings::default()).unwrap();
    // twice: pages that are there already are written anew
    for round in 0..2_u8 {
        for n in 0..40_u64 {
            let mut batch = Batch::default();
            for row in 0..500_u64 {
                batch.put(format!("s/{:06}", (n * 500 + row) * 7919 % 20_000).into_bytes(), vec![round; 1_000]);
            }
            batch.put(format!("d/{n:02}").into_bytes(), vec![round; 100_000]);
            store.commit(&batch).unwrap();
        }
        store.checkpoint().unwrap();
    }
}

/// The length that `pwrite64` was called with, or `None` for another call.
fn written(call: &str) -> Option<u64> {
    let arguments = call.split_once("pwrite64(")?.1.split_once(", \"")?.1;
    arguments.split(", ").nth(1)?.trim().parse().ok()
}

#[test]
fn a_checkpoint_syncs_before_sled_can_reuse_a_segment() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let done = Command::new("strace")
        .args(["-f", "--seccomp-bpf", "-s", "0", "-e", "trace=pwrite64,fdatasync", "-o"])
        .args([trace.as_os_str(), "-P".as_ref(), dir.path().join("store/db").as_os_str()])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "child_brings_much_into_sled"])
        .env(SYNCED_DIR, dir.path().join("store"))
        .output()
        .expect("strace is needed (Debian: apt-get install strace)");
    assert!(done.status.success(), "{done:?}");
    let (mut unsynced, mut most, mut syncs) = (0, 0, 0);
    for call in fs::read_to_string(&trace).unwrap().lines() {
        if call.contains("fdatasync(") {
            (unsynced, syncs) = (0, syncs + 1);
        }
        unsynced += written(call).unwrap_or(0);
        most = most.max(unsynced);
    }
    println!("{syncs} syncs, at most {most} bytes between two");
    assert!(syncs > 0 && most > 0, "nothing was seen");
    assert!(most < MOST_UNSYNCED_BYTES, "{most} bytes between two syncs");
}
