//! Opening sled so that nothing it does can pass for a success, or take the process with it.
//!
//! On damaged files sled 0.34 does one of four things: return an error, panic, wait for ever, or drop what
//! it cannot read and open with less. The first three are caught here, on a thread of its own; the fourth
//! by the commit count (mark.rs).
//!
//! Needs `panic = "unwind"`. Must never: retry on damage.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use super::directory::{self, corrupt};
use super::failure::{self, panic_text};
use crate::crash::{self, Point};
use crate::model::time::Stopwatch;
use crate::store::StoreError;

/// A million events reopen in 2 s; a hundred times that is not an opening any more.
const OPEN_LIMIT: Duration = Duration::from_secs(200);
/// How long sled's I/O threads of a store closed a moment ago in this process may hold its file. Our own
/// lock is already ours at that point, so nobody else legitimately does.
const CLOSING_LIMIT: Duration = Duration::from_secs(2);
const CLOSING_STEP: Duration = Duration::from_millis(5);
/// sled collects half-empty segments only on its flusher thread, so that thread must run: without it the
/// file grows for ever. Its own syncs are not what durability rests on (their errors are only logged).
const FLUSH_EVERY_MS: u64 = 500;

/// Opens the database in `dir`, whose lock the caller holds.
pub(super) fn database(dir: &Path, cache_bytes: u64, segment_bytes: usize) -> Result<::sled::Db, StoreError> {
    let config =
        ::sled::Config::new().path(dir).cache_capacity(cache_bytes).segment_size(segment_bytes).flush_every_ms(Some(FLUSH_EVERY_MS));
    crash::point(Point::Opening);
    let (tx, rx) = mpsc::sync_channel(1);
    let spawned = thread::Builder::new().name(failure::OPENING_THREAD.to_owned()).spawn(move || {
        let result = catch_unwind(AssertUnwindSafe(|| open_when_closed(&config)));
        // The receiver is gone only after OPEN_LIMIT; the database is closed again then.
        drop(tx.send(result));
    });
    spawned.map_err(directory::failed("starting the thread that opens the store"))?;
    match rx.recv_timeout(OPEN_LIMIT) {
        Ok(Ok(Ok(db))) => Ok(db),
        Ok(Ok(Err(error))) => Err(refusal(dir, error)),
        Ok(Err(panic)) => Err(corrupt(dir, format!("sled gave up on db: {}", panic_text(&*panic)))),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            Err(corrupt(dir, format!("sled did not finish opening db within {} s", OPEN_LIMIT.as_secs())))
        }
    }
}

fn open_when_closed(config: &::sled::Config) -> Result<::sled::Db, ::sled::Error> {
    let trying = Stopwatch::start();
    loop {
        match config.open() {
            Err(error) if is_lock_error(&error) && trying.elapsed() < CLOSING_LIMIT => thread::sleep(CLOSING_STEP),
            other => return other,
        }
    }
}

/// sled has no variant for it.
fn is_lock_error(error: &::sled::Error) -> bool {
    matches!(error, ::sled::Error::Io(e) if e.to_string().starts_with("could not acquire lock"))
}

fn refusal(dir: &Path, error: ::sled::Error) -> StoreError {
    if is_lock_error(&error) {
        return StoreError::Locked { path: dir.to_owned(), lock: dir.join(directory::DB) };
    }
    match error {
        ::sled::Error::Io(source) => StoreError::Io { doing: "opening the database of the store", source },
        other => corrupt(dir, format!("sled refuses db or its snapshot: {other}")),
    }
}
