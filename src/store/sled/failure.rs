//! The first failure of a store, kept for the rest of the process: after it nothing is written.
//!
//! Also where the death of one of sled's background threads is noticed. sled 0.34 itself does not tell: a
//! panic on an I/O thread leaves the write undone and `flush` waiting for ever, one on the flusher thread
//! ends garbage collection. Both pools serve the whole process, so every open store is failed.
//!
//! Must never: let a failed store recover. A failed sync is not tried again.

use std::any::Any;
use std::panic;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Once, OnceLock};
use std::thread;

use crate::store::StoreError;

/// The thread `opening` runs sled on: its panics are reported as an error, not on stderr.
pub(super) const OPENING_THREAD: &str = "store-open";
/// The committer: likewise.
pub(super) const COMMIT_THREAD: &str = "store-commit";
/// The names sled 0.34 gives its threads (threadpool.rs, db.rs).
const SLED_IO_PREFIX: &str = "sled-io-";
const SLED_FLUSHER: &str = "log flusher";

/// Background threads of sled that panicked in this process.
static SLED_PANICS: AtomicU64 = AtomicU64::new(0);

/// Whether this store has failed, and how.
pub(in crate::store) struct Failure {
    first: OnceLock<String>,
    /// It was the storage that failed, not the caller that asked for too much.
    storage: AtomicBool,
    panics_before: u64,
}

impl Failure {
    /// Of a store about to be opened; sled's threads are watched from here on.
    pub(super) fn none() -> Failure {
        watch_sled_threads();
        Failure { first: OnceLock::new(), storage: AtomicBool::new(false), panics_before: SLED_PANICS.load(Ordering::SeqCst) }
    }

    /// # Errors
    /// [`StoreError::Poisoned`] once anything has failed.
    pub(in crate::store) fn check(&self) -> Result<(), StoreError> {
        if self.sled_panicked() {
            self.first.get_or_init(|| "a background thread of sled panicked".to_owned());
        }
        match self.first.get() {
            Some(first) => Err(StoreError::Poisoned { first: first.clone() }),
            None => Ok(()),
        }
    }

    pub(super) fn sled_panicked(&self) -> bool {
        SLED_PANICS.load(Ordering::SeqCst) != self.panics_before
    }

    /// Whether the disk must not be touched any more, not even to close sled.
    pub(super) fn is_of_storage(&self) -> bool {
        self.storage.load(Ordering::SeqCst) || self.sled_panicked()
    }

    /// Keeps `error` as the first failure, with its causes, and hands it on.
    pub(in crate::store) fn note(&self, error: StoreError) -> StoreError {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(inner) = cause {
            text = format!("{text}: {inner}");
            cause = inner.source();
        }
        if !matches!(error, StoreError::TooLarge { .. } | StoreError::Poisoned { .. }) {
            self.storage.store(true, Ordering::SeqCst);
        }
        // Only the first is kept: what follows a failure says less about it.
        self.first.get_or_init(|| text);
        error
    }
}

/// The message of a caught panic.
pub(super) fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic without a message").replace('\n', " ")
}

/// Puts a hook in front of the process's panic hook, once. A hook set later without calling this one hides
/// such panics from us; the time limit of a commit then finds them.
fn watch_sled_threads() {
    static WATCHING: Once = Once::new();
    WATCHING.call_once(|| {
        let next = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let thread = thread::current();
            let name = thread.name().unwrap_or_default();
            if name.starts_with(SLED_IO_PREFIX) || name == SLED_FLUSHER {
                SLED_PANICS.fetch_add(1, Ordering::SeqCst);
            }
            if name != OPENING_THREAD && name != COMMIT_THREAD {
                next(info);
            }
        }));
    });
}
