//! The durability contract of the store port, run over every engine. Clause numbers are those of
//! `src/store/mod.rs`; what only a power cut can show is judged elsewhere.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use proptest::prelude::*;
use remedyd::store::journal::JournalStore;
use remedyd::store::memory::{CommitFault, MemoryDisk, MemoryStore};
use remedyd::store::sled::{CHUNK_BYTES, SledSettings, SledStore};
use remedyd::store::{Batch, MAX_KEY_BYTES, MAX_VALUE_BYTES, Row, Store, StoreError};

const MIB: usize = 1024 * 1024;

/// Opens the engine under test; called again after the previous store has been dropped.
type Open<'a> = &'a dyn Fn() -> Box<dyn Store>;

fn settings() -> SledSettings {
    SledSettings { cache_bytes: 64 * MIB as u64, ..SledSettings::default() }
}

fn open_sled(dir: &Path) -> Result<SledStore, StoreError> {
    SledStore::open(dir, settings())
}

/// With a checkpoint every few batches.
fn open_journal(dir: &Path) -> Result<JournalStore, StoreError> {
    JournalStore::open_with(dir, settings(), 2_000)
}

fn batch<'a>(writes: impl IntoIterator<Item = (&'a [u8], Option<Vec<u8>>)>) -> Batch {
    Batch { writes: writes.into_iter().map(|(k, v)| (k.to_vec().into(), v.map(Into::into))).collect(), ..Batch::default() }
}

fn put(store: &dyn Store, key: &[u8], value: Vec<u8>) {
    store.commit(&batch([(key, Some(value))])).unwrap();
}

fn remove(store: &dyn Store, key: &[u8]) {
    store.commit(&batch([(key, None)])).unwrap();
}

/// Bytes that no other seed or length has, so that mixed-up chunks show.
fn value(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ len as u64;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn everything(store: &dyn Store) -> Vec<Row> {
    store.scan(b"", b"", usize::MAX).unwrap()
}

fn keys(rows: &[Row]) -> Vec<&str> {
    rows.iter().map(|(key, _)| std::str::from_utf8(key).unwrap()).collect()
}

fn suite(open: Open) {
    batches_are_visible_and_survive_a_reopen(open);
    a_later_write_of_a_batch_wins(open);
    scans(open);
    sizes(open);
    large_values_are_replaced_whole(open);
    limits_fail_the_store(open);
    readers_never_see_part_of_a_batch(open);
}

/// Clauses 1, 2 (as far as a process can tell), 5 and 7.
fn batches_are_visible_and_survive_a_reopen(open: Open) {
    let store = open();
    assert!(everything(&*store).is_empty());
    assert_eq!(store.get(b"a").unwrap(), None);
    store.commit(&Batch::default()).unwrap();
    store.commit(&batch([(&b"a"[..], Some(vec![1])), (b"b", Some(vec![])), (b"", Some(vec![3]))])).unwrap();
    remove(&*store, b"never there");
    remove(&*store, b"b");
    let expected = vec![(vec![], vec![3]), (b"a".to_vec(), vec![1])];
    assert_eq!(everything(&*store), expected);
    drop(store);
    let store = open();
    assert_eq!(everything(&*store), expected);
    assert_eq!(store.get(b"b").unwrap(), None);
    clear(&*store);
}

fn clear(store: &dyn Store) {
    let rows = everything(store);
    store.commit(&Batch { writes: rows.into_iter().map(|(key, _)| (key.into(), None)).collect(), ..Batch::default() }).unwrap();
}

fn a_later_write_of_a_batch_wins(open: Open) {
    let large = |seed| Some(value(100_000, seed));
    let store = open();
    put(&*store, b"was large", value(200_000, 1));
    store
        .commit(&batch([
            (&b"twice"[..], Some(vec![1])),
            (b"twice", Some(vec![2])),
            (b"removed", Some(vec![1])),
            (b"removed", None),
            (b"back", None),
            (b"back", Some(vec![3])),
            (b"large small", large(1)),
            (b"large small", Some(vec![4])),
            (b"small large", Some(vec![5])),
            (b"small large", large(2)),
            (b"large gone", large(3)),
            (b"large gone", None),
            (b"was large", None),
            (b"was large", large(4)),
        ]))
        .unwrap();
    let expected = vec![
        (b"back".to_vec(), vec![3]),
        (b"large small".to_vec(), vec![4]),
        (b"small large".to_vec(), value(100_000, 2)),
        (b"twice".to_vec(), vec![2]),
        (b"was large".to_vec(), value(100_000, 4)),
    ];
    assert_eq!(everything(&*store), expected);
    drop(store);
    let store = open();
    assert_eq!(everything(&*store), expected);
    clear(&*store);
}

fn scans(open: Open) {
    let store = open();
    for key in ["a", "b/", "b/1", "b/2", "b/3", "b0", "c"] {
        put(&*store, key.as_bytes(), key.into());
    }
    put(&*store, b"b/2", value(CHUNK_BYTES * 2, 0));
    put(&*store, b"\0", vec![]);
    put(&*store, b"\xff\xff", vec![]);
    #[track_caller]
    fn check(store: &dyn Store, prefix: &str, from: &str, limit: usize, expected: &str) {
        let rows = store.scan(prefix.as_bytes(), from.as_bytes(), limit).unwrap();
        assert_eq!(keys(&rows).join(" "), expected, "prefix {prefix} from {from} limit {limit}");
    }
    //              prefix  from   limit  found
    check(&*store, "b/", "", 99, "b/ b/1 b/2 b/3");
    check(&*store, "b/", "", 2, "b/ b/1");
    check(&*store, "b/", "", 0, "");
    check(&*store, "b/", "b/2", 99, "b/2 b/3");
    check(&*store, "b/", "b/2", 1, "b/2");
    check(&*store, "b/", "b/2\0", 99, "b/3");
    check(&*store, "b/", "a", 99, "b/ b/1 b/2 b/3");
    check(&*store, "b/", "b0", 99, "");
    check(&*store, "b/", "z", 99, "");
    check(&*store, "", "b0", 2, "b0 c");
    check(&*store, "d", "", 99, "");
    assert_eq!(everything(&*store).len(), 9);
    assert_eq!(store.scan(b"\xff", b"", 9).unwrap().len(), 1);
    clear(&*store);
}

/// Clause 6.
fn sizes(open: Open) {
    let lengths = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, MIB, 16 * MIB, MAX_VALUE_BYTES];
    let key = |len: usize| format!("size/{len:09}").into_bytes();
    let long_key = vec![0xff; MAX_KEY_BYTES];
    let check = |store: &dyn Store| {
        for len in lengths {
            assert!(store.get(&key(len)).unwrap() == Some(value(len, 9)), "{len} bytes");
        }
        let rows = store.scan(b"size/", b"", 99).unwrap();
        assert!(rows.into_iter().map(|(_, v)| v).eq(lengths.map(|len| value(len, 9))));
        assert_eq!(store.get(&long_key).unwrap(), Some(vec![1]));
    };
    let store = open();
    for len in lengths {
        put(&*store, &key(len), value(len, 9));
    }
    put(&*store, &long_key, vec![1]);
    check(&*store);
    drop(store);
    let store = open();
    check(&*store);
    clear(&*store);
    assert!(everything(&*store).is_empty());
}

fn large_values_are_replaced_whole(open: Open) {
    let mut store = open();
    // "k" and "k\0\0\0\0" would share chunk rows if those were not told apart by length.
    let neighbour = value(70_000, 5);
    put(&*store, b"k\0\0\0\0", neighbour.clone());
    for (seed, len) in (0..).zip([MIB, 1, CHUNK_BYTES + 1, 3 * MIB, 40_000, CHUNK_BYTES, 0, 90_000]) {
        put(&*store, b"k", value(len, seed));
        assert!(store.get(b"k").unwrap() == Some(value(len, seed)), "{len} bytes");
        drop(store);
        store = open();
        assert!(store.get(b"k").unwrap() == Some(value(len, seed)), "{len} bytes, reopened");
    }
    remove(&*store, b"k");
    drop(store);
    let store = open();
    assert!(everything(&*store) == vec![(b"k\0\0\0\0".to_vec(), neighbour)]);
    clear(&*store);
}

/// Clause 4, by the one failure every engine can be given from outside; and clause 6.
fn limits_fail_the_store(open: Open) {
    for (key, value) in [(vec![1; MAX_KEY_BYTES + 1], vec![]), (vec![1], vec![1; MAX_VALUE_BYTES + 1])] {
        let store = open();
        put(&*store, b"before", vec![1]);
        let refused = store.commit(&Batch { writes: vec![(key.into(), Some(value.into()))], ..Batch::default() });
        assert!(matches!(refused, Err(StoreError::TooLarge { .. })), "{refused:?}");
        let later = store.commit(&batch([(&b"later"[..], Some(vec![1]))]));
        assert!(matches!(later, Err(StoreError::Poisoned { .. })), "{later:?}");
        drop(store);
        let store = open();
        assert_eq!(keys(&everything(&*store)), ["before"]);
        clear(&*store);
    }
}

/// Clause 5: every batch writes one number to several rows, some of them large.
fn readers_never_see_part_of_a_batch(open: Open) {
    let store: Arc<dyn Store> = Arc::from(open());
    let write = |n: u8| {
        let rows = (0..20).map(|i| (vec![b'r', i].into(), Some(vec![n; if i % 7 == 0 { 40_000 } else { 10 }].into())));
        Batch { writes: rows.collect(), ..Batch::default() }
    };
    store.commit(&write(0)).unwrap();
    let reader = thread::spawn({
        let store = Arc::clone(&store);
        move || {
            let mut last = 0;
            while last < 40 {
                let rows = store.scan(b"r", b"", 99).unwrap();
                let n = rows[0].1[0];
                assert!(rows.iter().all(|(_, v)| v.iter().all(|byte| *byte == n)), "a part of batch {n}");
                assert!(n >= last, "batch {n} after {last}");
                last = n;
            }
        }
    });
    for n in 1..=40 {
        store.commit(&write(n)).unwrap();
        assert_eq!(store.get(b"r\0").unwrap().unwrap()[0], n);
    }
    reader.join().unwrap();
    clear(&*store);
}

#[test]
fn memory_keeps_the_contract() {
    let disk = MemoryDisk::default();
    suite(&|| Box::new(MemoryStore::open(&disk).unwrap()));
}

#[test]
fn sled_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("p0");
    suite(&|| Box::new(open_sled(&dir).unwrap()));
    assert_eq!(std::fs::read_dir(dir.join("blobs")).unwrap().count(), 0);
}

#[test]
fn journal_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    suite(&|| Box::new(open_journal(dir.path()).unwrap()));
    // and where nothing is ever checkpointed
    let dir = tempfile::tempdir().unwrap();
    suite(&|| Box::new(JournalStore::open(dir.path(), settings()).unwrap()));
}

#[test]
fn memory_fails_for_good_after_a_fault() {
    for (fault, kept) in [(CommitFault::Lost, false), (CommitFault::Kept, true)] {
        let disk = MemoryDisk::default();
        let store = MemoryStore::open(&disk).unwrap();
        put(&store, b"a", vec![1]);
        store.fail_next_commit(fault);
        let failed = store.commit(&batch([(&b"b"[..], Some(vec![2]))]));
        assert!(matches!(failed, Err(StoreError::Io { .. })), "{failed:?}");
        let later = store.commit(&batch([(&b"c"[..], Some(vec![3]))]));
        assert!(matches!(later, Err(StoreError::Poisoned { .. })), "{later:?}");
        drop(store);
        let store = MemoryStore::open(&disk).unwrap();
        assert_eq!(keys(&everything(&store)), if kept { vec!["a", "b"] } else { vec!["a"] });
    }
}

/// Clauses 2 and 3, between applied and durable.
#[test]
fn memory_loses_what_was_not_durable_in_a_power_cut() {
    let disk = MemoryDisk::default();
    let store = Arc::new(MemoryStore::open(&disk).unwrap());
    assert!(matches!(MemoryStore::open(&disk), Err(StoreError::Locked { .. })));
    put(&*store, b"durable", vec![1]);
    store.hold_durability();
    let waiting = thread::spawn({
        let store = Arc::clone(&store);
        move || store.commit(&batch([(&b"applied"[..], Some(vec![2]))]))
    });
    store.wait_until_held();
    assert_eq!(store.get(b"applied").unwrap(), Some(vec![2]));
    store.power_cut();
    assert!(matches!(waiting.join().unwrap(), Err(StoreError::Io { .. })));
    assert!(store.get(b"durable").is_err());
    assert!(matches!(store.commit(&batch([(&b"x"[..], None)])), Err(StoreError::Poisoned { .. })));

    let after = Arc::new(MemoryStore::open(&disk).unwrap());
    drop(store);
    assert!(matches!(MemoryStore::open(&disk), Err(StoreError::Locked { .. })));
    assert_eq!(keys(&everything(&*after)), ["durable"]);
    after.hold_durability();
    let waiting = thread::spawn({
        let store = Arc::clone(&after);
        move || store.commit(&batch([(&b"second"[..], Some(vec![2]))]))
    });
    after.wait_until_held();
    after.release_durability();
    waiting.join().unwrap().unwrap();
    after.power_cut();
    assert_eq!(keys(&everything(&MemoryStore::open(&disk).unwrap())), ["durable", "second"]);
}

const CHILD_DIR: &str = "REMEDYD_TEST_LOCKED_DIR";

/// The other process of [`sled_is_opened_once`]; on its own it does nothing.
#[test]
fn child_opens_a_locked_store() {
    if let Some(dir) = std::env::var_os(CHILD_DIR) {
        println!("child: {}", open_sled(Path::new(&dir)).map(drop).unwrap_err());
    }
}

#[test]
fn sled_is_opened_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open_sled(dir.path()).unwrap();
    let again = open_sled(dir.path()).map(drop);
    assert!(matches!(again, Err(StoreError::Locked { .. })), "{again:?}");
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_opens_a_locked_store", "--nocapture"])
        .env(CHILD_DIR, dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout).into_owned();
    assert!(said.contains("child: the store") && said.contains("in use by another process"), "{said}");
    put(&store, b"still", vec![1]);
    drop(store);
    assert_eq!(keys(&everything(&open_sled(dir.path()).unwrap())), ["still"]);
}

#[test]
fn sled_directory_is_private_and_settings_are_checked() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("data/p0");
    drop(open_sled(&dir).unwrap());
    assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    // The size a store was created with stays, whatever is asked for later.
    let other = SledSettings { segment_bytes: 4 * MIB, ..settings() };
    drop(SledStore::open(&dir, other).unwrap());
    for segment_bytes in [0, MIB, 9 * MIB, 32 * MIB] {
        let refused = SledStore::open(&dir, SledSettings { segment_bytes, ..settings() }).map(drop);
        assert!(matches!(refused, Err(StoreError::Io { .. })), "{segment_bytes}: {refused:?}");
    }
}

type Writes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// Few keys, so that they meet again; all bytes, as ours are not the only ones to begin with 0 or 255.
fn writes() -> impl Strategy<Value = Writes> {
    let key = prop::collection::vec(prop::sample::select(vec![0, 1, 2, 3, b'k', 255]), 0..3);
    let len = prop_oneof![6 => 0..50_usize, 2 => CHUNK_BYTES - 2..CHUNK_BYTES + 3, 1 => 60_000..200_000_usize];
    let value = prop::option::weighted(0.7, (len, any::<u64>()).prop_map(|(len, seed)| value(len, seed)));
    prop::collection::vec((key, value), 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn engines_agree_with_a_map(steps in prop::collection::vec((writes(), prop::bool::weighted(0.2)), 1..16)) {
        let dir = tempfile::tempdir().unwrap();
        let disk = MemoryDisk::default();
        let mut model = BTreeMap::new();
        let mut sled = open_sled(dir.path()).unwrap();
        let mut memory = MemoryStore::open(&disk).unwrap();
        let journal_dir = tempfile::tempdir().unwrap();
        let mut journal = open_journal(journal_dir.path()).unwrap();
        for (writes, reopen) in steps {
            for (key, value) in &writes {
                match value {
                    Some(value) => model.insert(key.clone(), value.clone()),
                    None => model.remove(key),
                };
            }
            let writes = writes.into_iter().map(|(key, value)| (key.into(), value.map(Into::into))).collect();
            let batch = Batch { writes, ..Batch::default() };
            sled.commit(&batch).unwrap();
            memory.commit(&batch).unwrap();
            journal.commit(&batch).unwrap();
            if reopen {
                drop((sled, memory, journal));
                journal = open_journal(journal_dir.path()).unwrap();
                sled = open_sled(dir.path()).unwrap();
                memory = MemoryStore::open(&disk).unwrap();
            }
            let expected: Vec<Row> = model.clone().into_iter().collect();
            prop_assert!(everything(&sled) == expected, "sled");
            prop_assert!(everything(&memory) == expected, "memory");
            prop_assert!(everything(&journal) == expected, "journal");
            for (prefix, from) in [(&b"\0"[..], &b""[..]), (b"k", b"k\x02"), (b"\xff", b""), (b"", b"\x03")] {
                let in_range = |(k, _): &&Row| k.starts_with(prefix) && k.as_slice() >= from;
                let expected: Vec<Row> = expected.iter().filter(in_range).take(3).cloned().collect();
                prop_assert!(sled.scan(prefix, from, 3).unwrap() == expected, "sled {prefix:?} {from:?}");
                prop_assert!(memory.scan(prefix, from, 3).unwrap() == expected, "memory {prefix:?} {from:?}");
                prop_assert!(journal.scan(prefix, from, 3).unwrap() == expected, "journal {prefix:?} {from:?}");
            }
            for key in [&b""[..], b"\0", b"k", b"k\xff"] {
                prop_assert!(sled.get(key).unwrap().as_ref() == model.get(key));
                prop_assert!(journal.get(key).unwrap().as_ref() == model.get(key));
            }
        }
    }
}
