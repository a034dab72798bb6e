//! Checkpoints: a frozen overlay goes into sled, on a thread of its own, and its files go.
//!
//! In small pieces, so that a reader never waits long for sled. Rows that the overlay above has anew are left out: the
//! journal has them in a file that is not removed before they, too, are in sled. A write behind the last piece says up to which
//! file sled covers the journal; until it is durable, the journal covers all of them. It does not cover
//! what lay on sled's pages before, though, and sled gives a segment free when what was in it has moved two segments on:
//! so it is synced on the way as well, long before it has written as much.
//!
//! Nobody waits for it as a rule, and so it takes its time (`pace.rs`): done when commits have written
//! half as much as fills an overlay.
//!
//! Must never: remove a file before it is covered; let sled write two segments without a sync.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TryRecvError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;

use super::overlay::{Layer, Newest};
use super::pace::{Pace, Wish};
use super::{Shared, half_done, log};
use crate::crash::{self, Point};
use crate::model::time::Stopwatch;
use crate::mutation::{self, Defect};
use crate::store::sled::{failed, wait_for};
use crate::store::{Batch, Store, StoreError};

/// Rows applied to sled at a time: some milliseconds.
const ROWS_A_PIECE: usize = 256;
/// Rows looked at for one piece, most of which may be left out: readers and commits wait meanwhile.
const ROWS_LOOKED_AT: usize = 4_096;
/// sled is synced when as many bytes of rows have been applied, or as many rows: it writes a small row with up to a page
/// around it, a large one up to four times.
const SYNC_EACH_BYTES: usize = 1024 * 1024;
const SYNC_EACH_PIECES: u64 = 16;
/// How often who waits looks whether the store has failed.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A frozen overlay and the newest journal file that is in it.
type Job = (Arc<Layer>, u64);

pub(super) struct Checkpoints {
    /// The overlay is frozen when it has as many, and its checkpoint begun when the next one has.
    pub bytes: u64,
    busy: bool,
    jobs: Option<SyncSender<Job>>,
    done: Receiver<Result<(), StoreError>>,
    pace: Arc<Pace>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpoints {
    pub(super) fn start(store: &Path, shared: Arc<Shared>, bytes: u64) -> Result<Self, StoreError> {
        let (jobs, queue) = mpsc::sync_channel::<Job>(1);
        let (finished, done) = mpsc::sync_channel(1);
        let pace = Arc::new(Pace::default());
        let worker = Worker { store: store.to_owned(), shared, pace: Arc::clone(&pace), within: bytes / 2 };
        // what it logs is about the partition whose store it is
        let span = tracing::Span::current();
        let run = move || {
            let _span = span.enter();
            for (frozen, through) in queue {
                let result = worker.run(&frozen, through).map_err(|error| worker.shared.failure.note(error));
                let failed = result.is_err();
                if let Err(why) = worker.shared.failure.check() {
                    // the next commit says so as well, but there may be none for a long time
                    tracing::error!(%why, "a checkpoint has failed");
                }
                if finished.send(result).is_err() || failed {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("store-checkpoint".into()).spawn(run);
        let thread = Some(thread.map_err(failed("starting the thread that writes checkpoints"))?);
        Ok(Self { bytes, busy: false, jobs: Some(jobs), done, pace, thread })
    }

    pub(super) fn is_busy(&self) -> bool {
        self.busy
    }

    /// There must be none under way.
    pub(super) fn begin(&mut self, frozen: Arc<Layer>, through: u64) {
        self.pace.wish(Wish::Even);
        // a thread that has ended has closed `done` as well
        self.busy = self.jobs.as_ref().is_some_and(|jobs| jobs.send((frozen, through)).is_ok());
    }

    /// Learns whether the one under way has ended.
    pub(super) fn look(&mut self, shared: &Shared) -> Result<(), StoreError> {
        match self.done.try_recv() {
            Ok(ended) => self.ended(ended),
            Err(TryRecvError::Empty) => Ok(()),
            Err(TryRecvError::Disconnected) => shared.failure.check().and_then(|()| Err(half_done())),
        }
    }

    /// Has the one under way go on without a rest.
    pub(super) fn hurry(&self) {
        self.pace.wish(Wish::Hurry);
    }

    /// Waits for the end of the one under way. Each of its steps has a time limit.
    pub(super) fn wait(&mut self, shared: &Shared) -> Result<(), StoreError> {
        self.hurry();
        while self.busy {
            match self.done.recv_timeout(LOOK_EVERY) {
                Ok(ended) => self.ended(ended)?,
                Err(RecvTimeoutError::Timeout) => shared.failure.check()?,
                Err(RecvTimeoutError::Disconnected) => return shared.failure.check().and_then(|()| Err(half_done())),
            }
        }
        Ok(())
    }

    fn ended(&mut self, ended: Result<(), StoreError>) -> Result<(), StoreError> {
        self.busy = false;
        ended
    }
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        // what it would still write is in the journal
        self.pace.wish(Wish::Stop);
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // a panic in there has been told when it happened
            let _ = thread.join();
        }
    }
}

struct Worker {
    store: PathBuf,
    shared: Arc<Shared>,
    pace: Arc<Pace>,
    /// It is to be done when so many bytes have been committed meanwhile.
    within: u64,
}

impl Worker {
    fn run(&self, frozen: &Layer, through: u64) -> Result<(), StoreError> {
        if mutation::seeded(Defect::JournalRemovedEarly) {
            self.remove_through(through)?;
        }
        crash::point(Point::CheckpointBegun);
        let (mut pieces, mut bytes) = (0, 0);
        let (mut rows, begun_at) = (frozen.rows.iter(), self.active_bytes()?);
        while rows.len() > 0 {
            if self.pace.is_stopped() {
                return Ok(());
            }
            let worked = Stopwatch::start();
            let piece = self.piece(&mut rows)?;
            if piece.is_empty() {
                continue;
            }
            pieces += 1;
            bytes += bytes_of(&piece);
            if bytes >= SYNC_EACH_BYTES || pieces == SYNC_EACH_PIECES {
                self.shared.sled.commit(&piece)?;
                (pieces, bytes) = (0, 0);
            } else {
                self.shared.sled.apply(&piece)?;
            }
            let done = share(self.within, frozen.rows.len() - rows.len(), frozen.rows.len());
            self.pace.rest(worked.elapsed(), || self.active_bytes().is_ok_and(|bytes| bytes.saturating_sub(begun_at) >= done));
        }
        // alone: what says that the rows are there must not be in a batch with any of them, which could be left in part
        let last = Batch { archive: frozen.archive.clone(), ..Batch::default() };
        self.shared.sled.commit_covering(&last, through)?;
        crash::point(Point::CheckpointDurable);
        self.shared.layers.write().map_err(|_| half_done())?.frozen = None;
        self.shared.failure.check()?;
        self.remove_through(through)
    }

    fn active_bytes(&self) -> Result<u64, StoreError> {
        Ok(self.shared.layers()?.active.bytes)
    }

    /// The next rows that the overlay above has not replaced, as many as make a piece. Whatever that overlay has is durable
    /// in a newer file.
    fn piece<'a>(&self, rows: &mut impl Iterator<Item = (&'a Box<[u8]>, &'a Newest)>) -> Result<Batch, StoreError> {
        let layers = self.shared.layers()?;
        let (mut piece, mut bytes) = (Batch::default(), 0);
        for (key, newest) in rows.take(ROWS_LOOKED_AT).filter(|(key, _)| !layers.active.rows.contains_key(*key)) {
            let value = newest.value().map(Bytes::copy_from_slice);
            bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
            piece.writes.push((Bytes::copy_from_slice(key), value));
            if piece.writes.len() == ROWS_A_PIECE || bytes >= SYNC_EACH_BYTES {
                break;
            }
        }
        Ok(piece)
    }

    /// On a thread of its own: a disk that hangs would hold this one for ever, and with it whoever waits for its end.
    fn remove_through(&self, through: u64) -> Result<(), StoreError> {
        let (done, removed) = mpsc::sync_channel(1);
        let store = self.store.clone();
        // nobody listens any more when it has taken too long
        let remove = move || drop(done.send(log::remove_through(&store, through)));
        thread::Builder::new().name("store-removal".into()).spawn(remove).map_err(failed("starting the thread that removes files"))?;
        wait_for(&removed, &self.shared.failure)
    }
}

/// The part of `all` that `done` is of `of`.
fn share(all: u64, done: usize, of: usize) -> u64 {
    let part = u128::from(all) * done as u128 / of.max(1) as u128;
    u64::try_from(part).unwrap_or(all)
}

fn bytes_of(piece: &Batch) -> usize {
    piece.writes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Bytes::len)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_have_to_get_as_far_as_the_checkpoint() {
        assert_eq!([0, 1, 500, 999, 1_000].map(|done| share(16 << 20, done, 1_000)), [0, 16_777, 8 << 20, 16_760_438, 16 << 20]);
        // without rows there is nothing to wait for
        assert_eq!(share(16 << 20, 0, 0), 0);
        assert_eq!(share(u64::MAX, usize::MAX, usize::MAX), u64::MAX);
    }
}
