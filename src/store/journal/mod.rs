//! The store of the service: a journal in front of sled.
//!
//! ```text
//! commit ─▶ journal file, fdatasync ─▶ overlay (memory) ─▶ Ok
//!                                        │ full: frozen, and the file closed
//!                                        ▼
//!                                  checkpoint (own thread): sled, fdatasync ─▶ the file is removed
//! get, scan: overlay, frozen overlay, sled
//! open:      sled, then the journal files that no checkpoint covers, into the overlay
//! ```
//! What most rows do in their life, an outbox row above all, is to appear and to go again. sled pays for each
//! step with a write of a page; the journal pays with the bytes, and sled sees what is left after thousands of batches.
//!
//! Must never: return from `commit` before the batch survives a power cut; remove a file whose batches are not all in
//! sled, durably; start without a file that sled does not cover.

mod checkpoint;
mod frame;
mod log;
mod overlay;

use std::path::Path;
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};

use super::sled::{Failure, SledSettings, SledStore, check_limits};
use super::{Batch, Row, Store, StoreError};
use crate::crash::{self, Point};
use crate::mutation::{self, Defect};
use checkpoint::Checkpoints;
use log::Log;
use overlay::{Layer, Layers};

/// How much is journalled before a checkpoint is begun: as many bytes of memory at least, twice while one is under way.
/// The longer, the more rows have gone again by then; the shorter, the less there is to read at a start.
const CHECKPOINT_BYTES: u64 = 48 * 1024 * 1024;
/// When a checkpoint cannot keep up, commits wait for it at this many times as much.
const WAIT_AT: u64 = 3;

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
                active.apply(&batch);
            }
        })?;
        if covered.is_none() {
            sled.set_journal_position(log::NONE_COVERED)?;
        }
        crash::point(Point::JournalRead);
        let (number, files) = (recovered.number, recovered.files);
        // a process that dies again and again before its first checkpoint has ended must not have more and more to remember
        let much = files > MANY_FILES || active.bytes >= checkpoint_bytes.saturating_mul(WAIT_AT);
        let failure = sled.failure();
        let log = Log::start(dir, recovered, Arc::clone(&failure))?;
        let shared = Arc::new(Shared { layers: RwLock::new(Layers { active, frozen: None }), sled, failure });
        let checkpoints = Checkpoints::start(dir, Arc::clone(&shared), checkpoint_bytes)?;
        let store = Self { lane: Mutex::new(Lane { checkpoints, log, number }), shared };
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
        Ok(self.shared.sled.size_bytes()? + self.shared.layers()?.active.bytes)
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
        let bytes = {
            let mut layers = shared.layers.write().map_err(|_| half_done())?;
            layers.active.apply(batch);
            layers.active.bytes
        };
        self.checkpoints.look(shared)?;
        if bytes < self.checkpoints.bytes {
            return Ok(());
        }
        if self.checkpoints.is_busy() {
            if bytes < self.checkpoints.bytes.saturating_mul(WAIT_AT) {
                return Ok(());
            }
            self.checkpoints.wait(shared)?;
        }
        self.begin_checkpoint(shared)
    }

    /// Freezes the overlay, with the files that hold it.
    fn begin_checkpoint(&mut self, shared: &Shared) -> Result<(), StoreError> {
        self.checkpoints.wait(shared)?;
        let through = self.log.rotate()?;
        let frozen = shared.layers.write().map_err(|_| half_done())?.freeze();
        self.checkpoints.begin(frozen, through);
        Ok(())
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
