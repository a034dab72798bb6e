//! The store on disk: sled 0.34 behind the port, with what sled alone does not do.
//!
//! ```text
//! commit -> rows::lay_out -> commit::Committer (own thread) -> db, fdatasync, COMMITTED
//! get, scan -> sled, under a read lock that a batch being applied holds off
//! open -> directory (lock, FORMAT, leftovers) -> opening (sled) -> count against mark
//! ```
//! One tree and one writer. Everything about sled that cannot be trusted is dealt with in one file each:
//! what it leaves on disk (directory), how it opens (opening), when it says "flushed" (commit), what it
//! loses without a word (mark), where it puts large rows (rows), how its threads die (failure).
//!
//! Must never: start empty where something was; return from `commit` before the batch survives a power
//! cut; touch the disk after a failure.

mod archive;
mod commit;
mod directory;
mod failure;
mod mark;
mod opening;
mod rows;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard};

pub use self::commit::SYNC_LIMIT;
pub(in crate::store) use self::commit::wait_for;
pub(in crate::store) use self::directory::{corrupt, failed, sync_directory};
pub(in crate::store) use self::failure::Failure;
pub(in crate::store) use self::mark::Mark;
pub use self::rows::CHUNK_BYTES;
pub(in crate::store) use self::rows::check_limits;

use self::commit::{Committer, Job, sled_error};
use self::directory::State;
use self::failure::panic_text;
use self::rows::{Large, LargeValues};
use super::{Batch, Row, Store, StoreError, record};
use crate::crash::{self, Point};

/// How a store is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SledSettings {
    /// sled's page cache in bytes (its own default is 1 GiB). 64 to 256 MiB: below, a working set of
    /// 100,000 agents is read again and again; above, partitions eat the memory the service is promised to.
    pub cache_bytes: u64,
    /// Length of a segment in bytes, used at creation only: a power of two from [`MIN_SEGMENT_BYTES`] to
    /// 16 MiB (sled's limit). 8 MiB leaves a factor of three between the largest page rows can make and
    /// what sled would put into an unsynced file of its own.
    pub segment_bytes: usize,
}

/// Below, a leaf full of chunks comes too near to a quarter of a segment (rows.rs).
pub const MIN_SEGMENT_BYTES: usize = 4 * 1024 * 1024;
const MAX_SEGMENT_BYTES: usize = 16 * 1024 * 1024;

impl Default for SledSettings {
    fn default() -> Self {
        SledSettings { cache_bytes: 64 * 1024 * 1024, segment_bytes: 8 * 1024 * 1024 }
    }
}

/// A [`Store`] in a directory of its own. Dropping it closes it; that takes at most [`SYNC_LIMIT`].
///
/// A commit that hangs while sled applies it also holds off readers: whoever gets the commit's error has to
/// end the process, as the contract says, not wait for the others.
pub struct SledStore {
    dir: PathBuf,
    // In the order they are dropped in: the committer closes the last handle of the database, and the lock
    // goes last.
    db: ::sled::Db,
    lane: Mutex<Lane>,
    large: Arc<RwLock<LargeValues>>,
    failure: Arc<Failure>,
    _lock: std::fs::File,
}

/// What only one commit at a time may touch.
struct Lane {
    committer: Committer,
    /// Commits so far.
    count: u64,
}

impl SledStore {
    /// Opens the store in `dir`, creating it (mode 0700) if there is none.
    ///
    /// # Errors
    /// [`StoreError::Locked`] at once when another store has the directory; [`StoreError::NewerFormat`];
    /// [`StoreError::Corrupt`] when anything is missing, damaged or older than what was committed;
    /// [`StoreError::Io`]. A store with a journal in front is refused: what is in the journal only would be missing.
    pub fn open(dir: &Path, settings: SledSettings) -> Result<SledStore, StoreError> {
        let store = Self::open_behind_a_journal(dir, settings)?;
        match store.journal_position()? {
            None => Ok(store),
            Some(_) => Err(corrupt(dir, "it has a journal, which is not read here")),
        }
    }

    /// As [`SledStore::open`], for whoever reads the journal.
    pub(in crate::store) fn open_behind_a_journal(dir: &Path, settings: SledSettings) -> Result<SledStore, StoreError> {
        check_settings(&settings)?;
        directory::create(dir)?;
        let lock = directory::lock(dir)?;
        crash::point(Point::Locked);
        let failure = Arc::new(Failure::none());
        let (db, mark, count) = match directory::state(dir)? {
            Some(State::Ready) => open_ready(dir, &settings)?,
            Some(State::Creating) => {
                directory::start_over(dir)?;
                create(dir, &settings)?
            }
            None => {
                directory::set_state(dir, State::Creating)?;
                create(dir, &settings)?
            }
        };
        let large = guarded(|| read_large(dir, &db)).map_err(|panic| unreadable(dir, panic))??;
        let large = Arc::new(RwLock::new(large));
        let committer = Committer::start(dir, db.clone(), mark, Arc::clone(&large), Arc::clone(&failure))?;
        let lane = Mutex::new(Lane { committer, count });
        failure.check()?;
        crash::point(Point::Opened);
        Ok(SledStore { dir: dir.to_owned(), db, lane, large, failure, _lock: lock })
    }

    /// Commits since creation.
    pub fn commits(&self) -> u64 {
        self.lane.lock().map_or(0, |lane| lane.count)
    }

    /// Size of sled's files in bytes.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn size_bytes(&self) -> Result<u64, StoreError> {
        self.db.size_on_disk().map_err(|e| sled_error("measuring the store", e))
    }

    /// The newest file of the journal in front that is covered; `None` if there has never been a journal.
    pub(in crate::store) fn journal_position(&self) -> Result<Option<u64>, StoreError> {
        let row = self.read(|_| self.db.get(rows::JOURNAL_KEY).map_err(|e| damaged(&self.dir, e)))?;
        let position = |row: ::sled::IVec| row.as_ref().try_into().map(u64::from_be_bytes);
        row.map(position).transpose().map_err(|_| corrupt(&self.dir, "the position of the journal in db is damaged"))
    }

    /// Gives each line of the archive in order. Nothing may be added meanwhile.
    pub(in crate::store) fn archive<E: From<StoreError>>(&self, line: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        archive::lines(&self.dir, line)
    }

    /// Says for the first time that there is a journal.
    pub(in crate::store) fn set_journal_position(&self, position: u64) -> Result<(), StoreError> {
        self.commit_covering(&Batch::default(), position)
    }

    /// Readers see the batch when it returns; a crash may undo it.
    pub(in crate::store) fn apply(&self, batch: &Batch) -> Result<(), StoreError> {
        self.write(batch, None, false)
    }

    /// Commits, together with everything that was applied before, and notes in the same batch that the journal is
    /// covered up to the file `through`.
    pub(in crate::store) fn commit_covering(&self, batch: &Batch, through: u64) -> Result<(), StoreError> {
        self.write(batch, Some(through), true)
    }

    /// Takes out the large values of which a crash has left only a part, as far as a journal in front has the key anew: what is read
    /// is in there. sled undoes a batch that a kill cuts short, but not one that an error or a panic of its own ends, as for want
    /// of memory: `RecoveryGuard` (sled 0.34.7, pagecache/mod.rs), dropped unsealed, undoes nothing.
    pub(in crate::store) fn drop_torn(&self, is_in_the_journal: impl Fn(&[u8]) -> bool) -> Result<(), StoreError> {
        let mut removal = Batch::default();
        self.read(|large| {
            for (key, value) in large.iter().filter(|(key, _)| is_in_the_journal(key)) {
                if self.pieces(key, *value)?.is_err() {
                    removal.remove(key.clone());
                }
            }
            Ok(())
        })?;
        if !removal.is_empty() {
            tracing::warn!(values = removal.writes.len(), "a crash has left a part of some large values; the journal has them whole");
        }
        self.commit(&removal)
    }

    /// Leaves a part of a large value, as a crash may.
    #[cfg(test)]
    pub(in crate::store) fn tear(&self, key: &[u8]) {
        self.db.remove(rows::chunk_key(key, 0)).expect("removed").expect("a chunk");
    }

    pub(in crate::store) fn failure(&self) -> Arc<Failure> {
        Arc::clone(&self.failure)
    }

    fn write(&self, batch: &Batch, journal: Option<u64>, durable: bool) -> Result<(), StoreError> {
        let Ok(mut lane) = self.lane.lock() else {
            return Err(StoreError::Poisoned { first: "a panic during a commit".to_owned() });
        };
        self.failure.check()?;
        let count = lane.count + 1;
        let archive = batch.archive.clone();
        let laid_out = rows::lay_out(batch, count, journal, &*self.readable()?);
        let written = laid_out.and_then(|(batch, large)| lane.committer.run(Job { batch, large, count, archive, durable }));
        written.map_err(|error| self.failure.note(error))?;
        lane.count = count;
        Ok(())
    }

    /// Runs a read; any failure of it fails the store, since what it could not read is part of its state.
    fn read<T>(&self, read: impl FnOnce(&LargeValues) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let large = self.readable()?;
        let result = guarded(|| read(&large)).unwrap_or_else(|panic| Err(unreadable(&self.dir, panic)));
        result.map_err(|error| self.failure.note(error))
    }

    fn readable(&self) -> Result<RwLockReadGuard<'_, LargeValues>, StoreError> {
        self.large.read().map_err(|_| match self.failure.check() {
            Err(poisoned) => poisoned,
            Ok(()) => StoreError::Poisoned { first: "a panic while a batch was applied".to_owned() },
        })
    }

    /// Puts the chunks of `key` together.
    fn assemble(&self, key: &[u8], large: Large) -> Result<Vec<u8>, StoreError> {
        self.pieces(key, large)?.map_err(|what| corrupt(&self.dir, what))
    }

    /// The chunks of `key` as one, or what is wrong with them; an error only where they cannot be read.
    fn pieces(&self, key: &[u8], large: Large) -> Result<Result<Vec<u8>, String>, StoreError> {
        let mut value = Vec::with_capacity(usize::try_from(large.len).unwrap_or(0));
        for number in 0..large.chunks() {
            let chunk = self.db.get(rows::chunk_key(key, number)).map_err(|e| damaged(&self.dir, e))?;
            let Some(chunk) = chunk else {
                return Ok(Err(format!("chunk {number} of {} is missing", record::printable(key))));
            };
            value.extend_from_slice(&chunk);
        }
        if value.len() as u64 != large.len || crc32fast::hash(&value) != large.crc {
            return Ok(Err(format!("the chunks of {} do not belong together", record::printable(key))));
        }
        Ok(Ok(value))
    }

    fn value(&self, large: &LargeValues, key: &[u8], row: &::sled::IVec) -> Result<Vec<u8>, StoreError> {
        match large.get(key) {
            Some(large) => self.assemble(key, *large),
            None => Ok(row.to_vec()),
        }
    }
}

impl Store for SledStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|large| match self.db.get(rows::row_key(key)).map_err(|e| damaged(&self.dir, e))? {
            Some(row) => self.value(large, key, &row).map(Some),
            None => Ok(None),
        })
    }

    fn scan(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        let start = rows::row_key(prefix.max(from));
        let prefix = rows::row_key(prefix);
        self.read(|large| {
            let mut found = Vec::new();
            for row in self.db.range(start..).take(limit) {
                let (key, row) = row.map_err(|e| damaged(&self.dir, e))?;
                if !key.starts_with(&prefix) {
                    break;
                }
                let key = key[1..].to_vec();
                let value = self.value(large, &key, &row)?;
                found.push((key, value));
            }
            Ok(found)
        })
    }

    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        if batch.is_empty() {
            return self.failure.check();
        }
        self.write(batch, None, true)
    }
}

fn check_settings(settings: &SledSettings) -> Result<(), StoreError> {
    let segment = settings.segment_bytes;
    if segment.is_power_of_two() && (MIN_SEGMENT_BYTES..=MAX_SEGMENT_BYTES).contains(&segment) {
        return Ok(());
    }
    let what = format!("segments of {segment} bytes; a power of two from {MIN_SEGMENT_BYTES} to {MAX_SEGMENT_BYTES} is needed");
    let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, what);
    Err(StoreError::Io { doing: "checking the settings of the store", source })
}

/// FORMAT says "creating" already; after this it says "ready", and the database can never be empty again.
fn create(dir: &Path, settings: &SledSettings) -> Result<(::sled::Db, Mark, u64), StoreError> {
    let db = opening::database(dir, settings.cache_bytes, settings.segment_bytes)?;
    db.insert(rows::COUNT_KEY, &0_u64.to_be_bytes()).map_err(|e| sled_error("writing the first row", e))?;
    db.flush().map_err(|e| sled_error("flushing the first row", e))?;
    std::fs::File::open(dir.join(directory::DB)).and_then(|db| db.sync_all()).map_err(directory::failed("syncing db of the store"))?;
    crash::point(Point::Creating);
    let mark = Mark::create(dir).map_err(directory::failed("creating COMMITTED of the store"))?;
    directory::sync_creation(dir)?;
    directory::set_state(dir, State::Ready)?;
    Ok((db, mark, 0))
}

fn open_ready(dir: &Path, settings: &SledSettings) -> Result<(::sled::Db, Mark, u64), StoreError> {
    directory::check_present(dir)?;
    directory::set_leftovers_aside(dir)?;
    let mark = Mark::open(dir).map_err(directory::failed("reading COMMITTED of the store"))?;
    let (mark, committed) = mark.ok_or_else(|| corrupt(dir, "COMMITTED is damaged"))?;
    let db = opening::database(dir, settings.cache_bytes, directory::segment_bytes(dir)?)?;
    let count = guarded(|| db.get(rows::COUNT_KEY)).map_err(|panic| unreadable(dir, panic))?;
    let Some(count) = count.map_err(|e| damaged(dir, e))? else {
        return Err(corrupt(dir, format!("db opens empty, but {committed} commits were durable")));
    };
    let count = count.as_ref().try_into().map(u64::from_be_bytes);
    let count = count.map_err(|_| corrupt(dir, "the commit count in db is damaged"))?;
    if count < committed {
        return Err(corrupt(dir, format!("db opens with {count} commits, but {committed} were durable")));
    }
    crash::point(Point::DatabaseOpen);
    // sled has written and renamed a snapshot.
    directory::sync_directory(dir)?;
    Ok((db, mark, count))
}

fn read_large(dir: &Path, db: &::sled::Db) -> Result<LargeValues, StoreError> {
    let mut all = LargeValues::new();
    for row in db.scan_prefix(rows::LARGE_PREFIX) {
        let (key, row) = row.map_err(|e| damaged(dir, e))?;
        let key = key[1..].to_vec();
        let Some(large) = Large::decode(&row) else {
            return Err(corrupt(dir, format!("the size of {} is damaged", record::printable(&key))));
        };
        all.insert(key, large);
    }
    Ok(all)
}

/// Runs a read of sled, which panics on some damage instead of returning an error.
fn guarded<T>(read: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read)).map_err(|panic| panic_text(&*panic))
}

fn unreadable(dir: &Path, panic: String) -> StoreError {
    corrupt(dir, format!("sled gave up reading db: {panic}"))
}

/// An error of a read: damage, unless the disk itself answered with an error.
fn damaged(dir: &Path, error: ::sled::Error) -> StoreError {
    match error {
        ::sled::Error::Io(source) => StoreError::Io { doing: "reading db of the store", source },
        other => corrupt(dir, format!("a page of db cannot be read: {other}")),
    }
}
