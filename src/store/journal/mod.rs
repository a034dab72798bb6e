//! The store of the service: a journal in front of sled.
//!
//! ```text
//! commit ─▶ journal file, fdatasync ─▶ overlay (memory) ─▶ Ok
//!                                        │ full: frozen, and the file closed; it rests
//!                                        ▼ the next one is full
//!                                  checkpoint (own thread): sled, fdatasync ─▶ the file is removed
//! get, scan: overlay, frozen overlay, sled
//! open:      sled, then the journal files that no checkpoint covers, into the overlay
//! snapshot:  the overlay frozen, and its checkpoint put off for as long as that and sled are read
//! ```
//! What most rows do in their life, an outbox row above all, is to appear and to go again. sled pays for each
//! step with a write of a page; the journal pays with the bytes, and sled sees what is left after thousands of batches.
//! A frozen overlay rests until the next one is full, so that nothing gets to sled that is written again, or removed,
//! soon after: what the newer overlay has is left out of the older one's checkpoint.
//!
//! Must never: return from `commit` before the batch survives a power cut; remove a file whose batches are not all in
//! sled, durably; start without a file that sled does not cover.

mod checkpoint;
mod frame;
mod log;
mod overlay;
mod pace;
mod snapshot;

use std::path::Path;
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};

use super::sled::{Failure, SledSettings, SledStore, check_limits};
use super::{Batch, Row, Store, StoreError};
use crate::crash::{self, Point};
use crate::mutation::{self, Defect};
use checkpoint::Checkpoints;
use log::Log;
use overlay::{Layer, Layers};
use snapshot::Resting;

pub use snapshot::Snapshot;

/// How much is journalled before the overlay is frozen, and again before its checkpoint is begun: twice as many bytes of
/// memory, three times when a checkpoint ends, which takes until half as much is journalled. The longer, the more rows have
/// gone again by then; the shorter, the less memory, and the less there is to read at a start.
const CHECKPOINT_BYTES: u64 = 24 * 1024 * 1024;
/// When a checkpoint cannot keep up, commits wait for it at this many times as much.
const WAIT_AT: u64 = 3;
/// So many times as much at an open is brought into sled before it goes on. A checkpoint that keeps up ends with three times as much.
const MUCH: u64 = 4;
/// A snapshot is given up at this many times as much: the checkpoint that it puts off has to get on before commits wait.
const GIVE_UP_AT: u64 = 2;

/// Each open begins a file; so many are brought into sled before it goes on.
const MANY_FILES: usize = 16;

/// A [`Store`] in a directory of its own: sled's files, and `journal/` beside them. Dropping it closes it at once: what
/// is in the journal only is read again at the next open.
pub struct JournalStore {
    lane: Mutex<Lane>,
    shared: Arc<Shared>,
}

/// What only one commit at a time may touch.
struct Lane {
    // its thread ends before sled is closed
    checkpoints: Checkpoints,
    log: Log,
    /// The number of the last batch.
    number: u64,
    /// The frozen overlay whose checkpoint has not been begun.
    resting: Option<Resting>,
    /// A snapshot waits for the checkpoint under way: none is begun behind it.
    awaited: bool,
}

struct Shared {
    layers: RwLock<Layers>,
    sled: SledStore,
    failure: Arc<Failure>,
}

impl JournalStore {
    /// Opens the store in `dir`, creating it (mode 0700) if there is none.
    ///
    /// # Errors
    /// As [`SledStore::open`], and [`StoreError::Corrupt`] when the journal is missing, damaged, or ends before what
    /// was committed.
    pub fn open(dir: &Path, settings: SledSettings) -> Result<Self, StoreError> {
        Self::open_with(dir, settings, crash::checkpoint_bytes(CHECKPOINT_BYTES))
    }

    /// As [`JournalStore::open`], with a checkpoint each `checkpoint_bytes`: for tests, which cannot write so much.
    ///
    /// # Errors
    /// As there.
    pub fn open_with(dir: &Path, settings: SledSettings, checkpoint_bytes: u64) -> Result<Self, StoreError> {
        let sled = SledStore::open_behind_a_journal(dir, settings)?;
        let covered = sled.journal_position()?;
        let mut active = Layer::default();
        let recovered = log::recover(dir, covered, |batch| {
            if !mutation::seeded(Defect::JournalNotReplayed) {
                active.replay(&batch);
            }
        })?;
        sled.drop_torn(|key| active.rows.contains_key(key))?;
        if covered.is_none() {
            sled.set_journal_position(log::NONE_COVERED)?;
        }
        crash::point(Point::JournalRead);
        let (number, files) = (recovered.number, recovered.files);
        // a process that dies again and again before its first checkpoint has ended must not have more and more to remember
        let much = files > MANY_FILES || active.bytes >= checkpoint_bytes.saturating_mul(MUCH);
        let failure = sled.failure();
        let log = Log::start(dir, recovered, Arc::clone(&failure))?;
        let shared = Arc::new(Shared { layers: RwLock::new(Layers { active, frozen: None }), sled, failure });
        let checkpoints = Checkpoints::start(dir, Arc::clone(&shared), checkpoint_bytes)?;
        let store = Self { lane: Mutex::new(Lane { checkpoints, log, number, resting: None, awaited: false }), shared };
        if much {
            store.checkpoint()?;
        }
        Ok(store)
    }

    /// Commits since creation.
    pub fn commits(&self) -> u64 {
        self.lane.lock().map_or(0, |lane| lane.number)
    }

    /// Size of the files in bytes, journal included.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn size_bytes(&self) -> Result<u64, StoreError> {
        let layers = self.shared.layers()?;
        let frozen = layers.frozen.as_ref().map_or(0, |frozen| frozen.bytes);
        Ok(self.shared.sled.size_bytes()? + frozen + layers.active.bytes)
    }

    /// Brings everything into sled; returns when it is there. Not needed for durability: for measurements and copies.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        let Ok(mut lane) = self.lane.lock() else { return Err(half_done()) };
        self.shared.failure.check()?;
        let done = lane.begin_checkpoint(&self.shared).and_then(|()| lane.checkpoints.wait(&self.shared));
        done.map_err(|error| self.shared.failure.note(error))
    }
}

impl Shared {
    fn layers(&self) -> Result<RwLockReadGuard<'_, Layers>, StoreError> {
        self.layers.read().map_err(|_| half_done())
    }
}

/// A panic has left something behind that nobody may build on.
fn half_done() -> StoreError {
    StoreError::Poisoned { first: "a panic during a commit".to_owned() }
}

impl Lane {
    fn commit(&mut self, shared: &Shared, batch: &Batch) -> Result<(), StoreError> {
        for (key, value) in &batch.writes {
            check_limits(key, value.as_deref())?;
        }
        let number = self.number + 1;
        self.log.append(frame::encode(number, batch), number)?;
        self.number = number;
        let mut bytes = {
            let mut layers = shared.layers.write().map_err(|_| half_done())?;
            layers.apply(batch);
            layers.active.bytes
        };
        self.checkpoints.look(shared)?;
        let each = self.checkpoints.bytes;
        let times = |times: u64| each.saturating_mul(times);
        let may_freeze = self.resting.is_none() && bytes >= times(if self.awaited { GIVE_UP_AT } else { 1 });
        if may_freeze && (!self.checkpoints.is_busy() || bytes >= times(WAIT_AT)) {
            self.checkpoints.wait(shared)?;
            let (frozen, through) = self.freeze(shared)?;
            self.resting = Some(Resting::unread(frozen, through));
            bytes = 0;
        }
        if let Some(resting) = &self.resting
            && bytes >= times(if resting.is_read() { GIVE_UP_AT } else { 1 })
        {
            self.begin_resting();
        }
        Ok(())
    }

    /// Freezes the overlay, with the files that hold it, and has it brought into sled at once.
    fn begin_checkpoint(&mut self, shared: &Shared) -> Result<(), StoreError> {
        self.begin_resting();
        self.checkpoints.wait(shared)?;
        let (frozen, through) = self.freeze(shared)?;
        self.checkpoints.begin(frozen, through);
        Ok(())
    }

    /// Begins the checkpoint of the overlay that rests, if there is one; who still reads that is told that it is over.
    fn begin_resting(&mut self) {
        if let Some(resting) = self.resting.take() {
            resting.give_up();
            self.checkpoints.begin(resting.frozen, resting.through);
        }
    }

    /// The overlay so far and the newest file that is in it. There must be no frozen one, resting or on its way.
    fn freeze(&mut self, shared: &Shared) -> Result<(Arc<Layer>, u64), StoreError> {
        let through = self.log.rotate()?;
        let frozen = shared.layers.write().map_err(|_| half_done())?.freeze();
        Ok((frozen, through))
    }
}

impl Store for JournalStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let layers = self.shared.layers()?;
        match layers.get(key) {
            Some(value) => Ok(value.map(<[u8]>::to_vec)),
            None => self.shared.sled.get(key),
        }
    }

    fn scan(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        let layers = self.shared.layers()?;
        layers.scan(prefix, from, limit, |from, limit| self.shared.sled.scan(prefix, from, limit))
    }

    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        let Ok(mut lane) = self.lane.lock() else { return Err(half_done()) };
        self.shared.failure.check()?;
        if batch.is_empty() {
            return Ok(());
        }
        lane.commit(&self.shared, batch).map_err(|error| self.shared.failure.note(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a crash has left of a batch is no damage as long as the journal has the batch.
    #[test]
    fn a_torn_large_value_is_read_from_the_journal() {
        let dir = tempfile::tempdir().expect("directory");
        let open = || JournalStore::open(dir.path(), SledSettings::default());
        let rows =
            |store: &JournalStore| store.scan(b"", b"", usize::MAX).map(|rows| rows.into_iter().map(|(key, _)| key).collect::<Vec<_>>());
        let mut batch = Batch::default();
        ["r/1", "r/2", "r/3"].into_iter().for_each(|key| batch.put(key, vec![b'x'; 100_000]));
        let store = open().expect("open");
        store.commit(&batch).and_then(|()| store.checkpoint()).expect("in sled");
        let mut batch = Batch::default();
        batch.remove("r/1");
        batch.put("r/2", vec![b'y'; 100_000]);
        store.commit(&batch).expect("in the journal");
        ["r/1", "r/2"].into_iter().for_each(|key| store.shared.sled.tear(key.as_bytes()));
        drop(store);
        let store = open().expect("open");
        assert_eq!(rows(&store).expect("whole"), [b"r/2", b"r/3"]);
        assert_eq!(store.get(b"r/2").expect("read"), Some(vec![b'y'; 100_000]));
        store.checkpoint().expect("in sled");
        assert_eq!(rows(&store).expect("whole"), [b"r/2", b"r/3"]);
        // what the journal does not have is damaged
        store.shared.sled.tear(b"r/3");
        drop(store);
        let error = open().and_then(|store| rows(&store)).expect_err("damaged");
        assert!(error.to_string().contains("chunk 0 of r/3 is missing"), "{error}");
    }

    /// As when commits have had to wait for a checkpoint: the overlay that is frozen then is a large one.
    #[test]
    fn however_large_a_frozen_overlay_it_rests() {
        let dir = tempfile::tempdir().expect("directory");
        let store = JournalStore::open_with(dir.path(), SledSettings::default(), 8_000).expect("open");
        let (mut much, mut more) = (Batch::default(), Batch::default());
        much.put("r/1", vec![b'x'; 30_000]);
        more.put("r/2", vec![b'x'; 7_000]);
        let begun = || store.lane.lock().expect("lane").resting.is_none();
        store.commit(&much).expect("commit");
        assert!(!begun());
        store.commit(&more).expect("commit");
        assert!(!begun());
        store.commit(&more).expect("commit");
        assert!(begun());
    }

    #[test]
    fn a_row_that_is_gone_soon_never_gets_to_sled() {
        let dir = tempfile::tempdir().expect("directory");
        let store = JournalStore::open_with(dir.path(), SledSettings::default(), 8_000).expect("open");
        let in_sled = |prefix: &[u8]| store.shared.sled.scan(prefix, b"", usize::MAX).expect("scan").len();
        for n in 0..400_u32 {
            let mut batch = Batch::default();
            batch.put(format!("i/{n:04}"), vec![b'x'; 20]);
            batch.put(format!("o/{n:04}"), vec![b'x'; 200]);
            batch.put("s/1", n.to_be_bytes().to_vec());
            batch.remove(format!("o/{:04}", n.wrapping_sub(10)));
            store.commit(&batch).expect("commit");
            assert_eq!((in_sled(b"o/"), in_sled(b"s/")), (0, 0), "after batch {n}");
        }
        // what stays does
        assert!(in_sled(b"i/") > 100, "{}", in_sled(b"i/"));
        drop(store);
        let store = JournalStore::open_with(dir.path(), SledSettings::default(), 8_000).expect("open");
        let rows = |prefix: &[u8]| store.scan(prefix, b"", usize::MAX).expect("scan").len();
        assert_eq!((rows(b"i/"), rows(b"o/"), rows(b"s/")), (400, 10, 1));
    }
}
