//! The one thread that writes: applies a batch, pushes it out of sled, and makes it durable.
//!
//! ```text
//! archive, fdatasync -> apply_batch -> flush -> fdatasync on our own descriptor of db -> COMMITTED -> Ok
//! ```
//! `flush` of sled 0.34 ends in `sync_file_range`, which writes neither the file's metadata nor the disk's
//! cache (sled#1351, #1452): killing the process never shows it, a power cut does. The `fdatasync` is ours; what
//! else was tried, and what it rests on, is in `docs/adr/0001-durable-commits.md`.
//! Its descriptor is opened separately because the kernel reports a failed write-back once per open file:
//! sled's flusher consuming (and only logging) an error leaves ours to be seen.
//!
//! A caller waits with a time limit, since a write lost by sled or a hung disk would hold it for ever.
//!
//! Must never: sync again after a failure, or write after one.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, RwLock};
use std::thread;
use std::time::Duration;

use super::archive::Archive;
use super::directory::{self, failed};
use super::failure::{self, Failure, panic_text};
use super::mark::Mark;
use super::rows::{LargeChanges, LargeValues, take_over};
use crate::crash::{self, Point};
use crate::model::time::Stopwatch;
use crate::store::StoreError;

/// A commit takes milliseconds, a healthy disk under full load tens of them. What takes longer than this
/// is taken for hanging (reliability: a sync over 10 s aborts).
pub const SYNC_LIMIT: Duration = Duration::from_secs(10);
/// How often a waiting caller looks for a dead thread of sled.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A batch laid out for sled.
pub(super) struct Job {
    pub(super) batch: ::sled::Batch,
    pub(super) large: LargeChanges,
    /// Its number, which is also in the batch.
    pub(super) count: u64,
    pub(super) archive: Vec<Vec<u8>>,
    /// Otherwise it is only applied.
    pub(super) durable: bool,
}

/// The caller's end. Closing it closes the database.
pub(super) struct Committer {
    jobs: Option<SyncSender<Job>>,
    results: Receiver<Result<(), StoreError>>,
    failure: Arc<Failure>,
}

struct Writer {
    db: ::sled::Db,
    file: File,
    mark: Mark,
    archive: Archive,
    large: Arc<RwLock<LargeValues>>,
    failure: Arc<Failure>,
    dir: PathBuf,
}

impl Committer {
    pub(super) fn start(
        dir: &Path,
        db: ::sled::Db,
        mark: Mark,
        large: Arc<RwLock<LargeValues>>,
        failure: Arc<Failure>,
    ) -> Result<Committer, StoreError> {
        let file = File::open(dir.join(directory::DB)).map_err(failed("opening db of the store for syncing"))?;
        let writer = Writer { db, file, mark, archive: Archive::new(dir), large, failure: Arc::clone(&failure), dir: dir.to_owned() };
        // One job at a time: the store holds a lock around `run`.
        let (jobs, job_rx) = mpsc::sync_channel(1);
        let (result_tx, results) = mpsc::sync_channel(1);
        thread::Builder::new()
            .name(failure::COMMIT_THREAD.to_owned())
            .spawn(move || writer.run(&job_rx, &result_tx))
            .map_err(failed("starting the thread that writes the store"))?;
        Ok(Committer { jobs: Some(jobs), results, failure })
    }

    /// Returns when `job` is durable. After an `Err` it must not be called again: a late result would be
    /// taken for that of the next job.
    pub(super) fn run(&self, job: Job) -> Result<(), StoreError> {
        let sent = self.jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        if !sent {
            return Err(StoreError::Io {
                doing: "handing a batch to the writing thread",
                source: io::Error::other("the thread has ended"),
            });
        }
        self.wait()
    }

    fn wait(&self) -> Result<(), StoreError> {
        wait_for(&self.results, &self.failure)
    }
}

/// Waits for what a writing thread answers, at most [`SYNC_LIMIT`]. After an `Err` it must not be called again: a late
/// answer would be taken for the next one.
pub(in crate::store) fn wait_for(results: &Receiver<Result<(), StoreError>>, failure: &Failure) -> Result<(), StoreError> {
    let waiting = Stopwatch::start();
    loop {
        match results.recv_timeout(LOOK_EVERY) {
            Ok(result) => return result,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(io_error("writing a batch", "the writing thread has ended".to_owned()));
            }
            Err(RecvTimeoutError::Timeout) if failure.sled_panicked() => {
                return Err(io_error("writing a batch", "a background thread of sled panicked".to_owned()));
            }
            Err(RecvTimeoutError::Timeout) if waiting.elapsed() >= SYNC_LIMIT => {
                return Err(StoreError::SyncTooSlow { limit_s: SYNC_LIMIT.as_secs() });
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        self.jobs = None;
        // A failed store is left as it is: its thread may never come back.
        if !self.failure.is_of_storage()
            && let Err(error) = self.wait()
        {
            tracing::error!(%error, "the store did not close cleanly; every commit that succeeded is durable");
        }
    }
}

impl Writer {
    fn run(mut self, jobs: &Receiver<Job>, results: &SyncSender<Result<(), StoreError>>) {
        for job in jobs {
            let result = catch_unwind(AssertUnwindSafe(|| self.make_durable(job)))
                .unwrap_or_else(|panic| Err(io_error("writing a batch", panic_text(&*panic))));
            let result = result.map_err(|error| self.failure.note(error));
            let stop = result.is_err();
            if results.send(result).is_err() || stop {
                break;
            }
        }
        let closed = self.close();
        drop(results.send(closed));
    }

    fn make_durable(&mut self, job: Job) -> Result<(), StoreError> {
        self.archive.append(&job.archive)?;
        {
            // Readers see a batch as a whole: sled alone locks per row read, not per scan. A panic in here
            // poisons the lock, so what is half applied is never read.
            let mut large = self.large.write().map_err(|_| io_error("applying a batch", "an earlier one panicked".to_owned()))?;
            self.db.apply_batch(job.batch).map_err(|e| sled_error("applying a batch", e))?;
            take_over(&mut large, job.large);
        }
        crash::point(Point::Applied);
        if !job.durable {
            return Ok(());
        }
        self.db.flush().map_err(|e| sled_error("flushing a batch", e))?;
        crash::point(Point::Flushed);
        self.file.sync_data().map_err(failed("syncing db of the store"))?;
        crash::point(Point::Synced);
        self.mark.set(job.count).map_err(failed("writing COMMITTED of the store"))
    }

    /// Nothing here is needed for durability. After a failure sled is not even closed: it would write.
    fn close(self) -> Result<(), StoreError> {
        if self.failure.is_of_storage() {
            #[expect(clippy::mem_forget, reason = "dropping it would make sled write on after a failed sync")]
            std::mem::forget(self.db);
            return Ok(());
        }
        let Writer { db, file, mark, dir, .. } = self;
        drop(db);
        file.sync_data().map_err(failed("syncing db of the store"))?;
        mark.sync().map_err(failed("syncing COMMITTED of the store"))?;
        crash::point(Point::FinalFlush);
        directory::check_no_blobs(&dir)
    }
}

fn io_error(doing: &'static str, what: String) -> StoreError {
    StoreError::Io { doing, source: io::Error::other(what) }
}

pub(super) fn sled_error(doing: &'static str, error: ::sled::Error) -> StoreError {
    let source = match error {
        ::sled::Error::Io(source) => source,
        other => io::Error::other(other),
    };
    StoreError::Io { doing, source }
}
