//! Snapshots of the journal's store: each is one batch boundary, whatever is committed and checkpointed meanwhile, and
//! costs the service nothing but memory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use remedyd::store::journal::JournalStore;
use remedyd::store::memory::MemoryStore;
use remedyd::store::sled::SledSettings;
use remedyd::store::transfer::{Source, TransferError, export, import};
use remedyd::store::{Batch, Row, Store};
use tempfile::TempDir;

/// So small that checkpoints come one after the other.
const CHECKPOINT_BYTES: u64 = 16 * 1024;
const ROWS: u64 = 300;

fn open(dir: &TempDir) -> JournalStore {
    JournalStore::open_with(&dir.path().join("store"), SledSettings::default(), CHECKPOINT_BYTES).unwrap()
}

fn key(row: u64) -> Vec<u8> {
    format!("r/{row:04}").into_bytes()
}

/// Batch `number` writes its number into every row of one third of them, and into `last`; and a line for the archive.
fn batch(number: u64) -> Batch {
    let mut batch = Batch::default();
    for row in (number % 3..ROWS).step_by(3) {
        batch.put(key(row), number.to_be_bytes().to_vec());
    }
    batch.put(b"last".to_vec(), number.to_be_bytes().to_vec());
    batch.archive.push(format!("{{\"line\":{number}}}").into_bytes());
    batch
}

/// The rows after so many batches.
fn after(batches: u64) -> Vec<Row> {
    let mut rows: Vec<Row> = vec![(b"last".to_vec(), batches.to_be_bytes().to_vec())];
    for row in 0..ROWS {
        // the newest batch that writes it
        let newest = (0..3).map(|back| batches - back).find(|number| number % 3 == row % 3).unwrap();
        rows.push((key(row), newest.to_be_bytes().to_vec()));
    }
    rows
}

fn all(source: &impl Source) -> Result<Vec<Row>, TransferError> {
    let mut rows = Vec::new();
    loop {
        // few at a time: much happens in between
        let from = rows.last().map_or_else(Vec::new, |(key, _): &Row| [key.as_slice(), &[0]].concat());
        let page = source.scan(&from, 7)?;
        if page.is_empty() {
            return Ok(rows);
        }
        rows.extend(page);
    }
}

#[test]
fn a_snapshot_is_one_batch_boundary_while_commits_and_checkpoints_go_on() {
    let dir = TempDir::new().unwrap();
    let store = Arc::new(open(&dir));
    for number in 1..=3 {
        store.commit(&batch(number)).unwrap();
    }
    let (stop, committed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(3)));
    let writer = {
        let (store, stop, committed) = (Arc::clone(&store), Arc::clone(&stop), Arc::clone(&committed));
        std::thread::spawn(move || {
            let mut number = 3;
            while !stop.load(Ordering::SeqCst) {
                number += 1;
                store.commit(&batch(number)).unwrap();
                committed.store(number, Ordering::SeqCst);
            }
            number
        })
    };
    let (mut whole, mut given_up) = (0, 0);
    while whole < 20 {
        let at_least = committed.load(Ordering::SeqCst);
        let snapshot = store.snapshot().unwrap();
        let batches = snapshot.commits();
        assert!(batches >= at_least);
        match all(&snapshot) {
            Ok(rows) => {
                assert_eq!(rows, after(batches));
                whole += 1;
            }
            // the writer was so fast that the store came first
            Err(TransferError::GivenUp) => given_up += 1,
            Err(other) => panic!("{other}"),
        }
    }
    stop.store(true, Ordering::SeqCst);
    let last = writer.join().unwrap();
    println!("{whole} snapshots, {given_up} given up, {last} batches");
    assert!(last > 100, "there was no load: {last} batches");
    drop(store);
    assert_eq!(all(&open(&dir).snapshot().unwrap()).unwrap(), after(last));
}

#[test]
fn a_snapshot_that_is_read_for_too_long_is_given_up_and_the_service_is_not() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    for number in 1..=3 {
        store.commit(&batch(number)).unwrap();
    }
    let snapshot = store.snapshot().unwrap();
    assert!(matches!(store.snapshot().map(drop), Err(TransferError::Busy)));
    let mut number = 3;
    while snapshot.scan(b"", 1).is_ok() {
        number += 1;
        assert!(number < 1_000, "it is never given up");
        store.commit(&batch(number)).unwrap();
    }
    assert!(matches!(snapshot.scan(b"", 1), Err(TransferError::GivenUp)));
    let mut lines = 0;
    assert!(matches!(
        snapshot.archive(&mut |_| {
            lines += 1;
            Ok(())
        }),
        Err(TransferError::GivenUp)
    ));
    assert_eq!(lines, 0);
    // another one, with the old one still there
    assert_eq!(all(&store.snapshot().unwrap()).unwrap(), after(number));
    drop(snapshot);
    for number in number + 1..=number + 200 {
        store.commit(&batch(number)).unwrap();
    }
    store.checkpoint().unwrap();
    assert_eq!(all(&store.snapshot().unwrap()).unwrap(), after(number + 200));
}

#[test]
fn archive_and_rows_go_into_any_engine_whichever_part_of_the_store_they_are_in() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir);
    // some in sled and in files, some in the overlay
    for number in 1..=40 {
        store.commit(&batch(number)).unwrap();
        if number == 20 {
            store.checkpoint().unwrap();
        }
    }
    let mut file = Vec::new();
    let totals = export(&store.snapshot().unwrap(), &mut file).unwrap();
    assert_eq!((totals.rows, totals.archived), (ROWS + 1, 40));
    let memory = MemoryStore::new();
    import(&file[..], &memory).unwrap();
    assert_eq!(memory.scan(b"", b"", usize::MAX).unwrap(), after(40));
    let lines: Vec<Vec<u8>> = (1..=40).flat_map(|number| batch(number).archive).collect();
    assert_eq!(memory.disk().take_archive(), lines);
    // a restore is backed up again
    let other = TempDir::new().unwrap();
    let restored = open(&other);
    import(&file[..], &restored).unwrap();
    let mut again = Vec::new();
    export(&restored.snapshot().unwrap(), &mut again).unwrap();
    let body = |file: &[u8]| String::from_utf8(file.to_vec()).unwrap().lines().skip(1).take(341).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(body(&again), body(&file));
}
