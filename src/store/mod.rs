//! The store port: what the pipeline needs of a disk, and nothing more.
//!
//! A store is an ordered map of byte keys to byte values for one partition, written by one process
//! in atomic batches. It knows nothing of reports, of the wire or of the broker: keys and records are
//! laid out by [`keys`] and [`record`], above it.
//!
//! ## The durability contract
//! Every implementation keeps all of it; `tests/store.rs` runs one suite over each.
//!
//! 1. [`Store::commit`] is atomic: after a crash at any instant, a batch is there as a whole or not at all.
//! 2. When `commit` has returned `Ok`, the batch *survives a power cut*, not only the death of the process.
//! 3. Batches become durable in the order of the calls; a later one is never there without an earlier one.
//! 4. When `commit` has returned `Err`, nothing may be concluded about the batch, every later `commit`
//!    fails as well ([`StoreError::Poisoned`]), and the process must stop taking, acking and publishing:
//!    a failed sync is never tried again, since the kernel may have thrown the dirty pages away.
//! 5. `get` and `scan` see every batch whose `commit` has returned, and never a part of one.
//! 6. Values of up to [`MAX_VALUE_BYTES`] are kept, keys of up to [`MAX_KEY_BYTES`].
//! 7. Lines for the archive are durable before the batch they come with is; after a crash between the two, the next
//!    batch brings them again, identically.
//! 8. Opening never starts empty where something was: a locked, damaged or newer store is an error.
//!
//! Whoever commits puts a row that is never overwritten ([`keys::is_never_overwritten`]) only where there is none of its key.

pub mod journal;
pub mod keys;
pub mod memory;
pub mod record;
pub mod sled;
pub mod transfer;

use std::path::PathBuf;

use bytes::Bytes;

/// The largest value a store must take: an inbound message of the largest size the broker passes on
/// (16 MiB, the limit of RabbitMQ 4) is kept whole when it is dead-lettered.
pub const MAX_VALUE_BYTES: usize = 17 * 1024 * 1024;
/// The longest key. Ours stay below 200 bytes; the bound guards against a key made from unbounded input.
pub const MAX_KEY_BYTES: usize = 512;

/// One atomic set of writes. A later write to a key replaces an earlier one of the same batch.
#[derive(Debug, Default, Clone)]
pub struct Batch {
    /// `None` removes the key (which need not be there). Shared, not copied, with whoever keeps them.
    pub writes: Vec<(Bytes, Option<Bytes>)>,
    /// Lines (without their ends) for the archive: what leaves the map for good.
    pub archive: Vec<Vec<u8>>,
}

impl Batch {
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.writes.push((key.into(), Some(value.into())));
    }

    pub fn remove(&mut self, key: impl Into<Bytes>) {
        self.writes.push((key.into(), None));
    }

    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.archive.is_empty()
    }
}

/// A key and its value, as read.
pub type Row = (Vec<u8>, Vec<u8>);

/// See the module docs for the contract. All methods block: call them off the async threads.
pub trait Store: Send + Sync + 'static {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Rows whose keys begin with `prefix` and are `>= from` (an empty `from` means the start), in
    /// ascending order, at most `limit`.
    fn scan(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Row>, StoreError>;

    /// Applies `batch` atomically and returns when it is durable.
    fn commit(&self, batch: &Batch) -> Result<(), StoreError>;
}

/// Why a store could not do what was asked. Every variant but [`StoreError::Locked`] is a reason to stop.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the store {path} is in use by another process (lock file {lock})")]
    Locked { path: PathBuf, lock: PathBuf },
    #[error("the store {path} cannot be opened: {what}; {remedy}")]
    Corrupt { path: PathBuf, what: String, remedy: String },
    #[error("the store {path} has format {found}, this version reads up to {supported}: use the version that wrote it, or a newer one")]
    NewerFormat { path: PathBuf, found: u32, supported: u32 },
    #[error("record under key {key}: {what}")]
    Record { key: String, what: String },
    #[error("store I/O failed while {doing}")]
    Io {
        doing: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("a sync of the store took longer than {limit_s} s")]
    SyncTooSlow { limit_s: u64 },
    #[error("the store has failed before in this process ({first}); nothing more is written")]
    Poisoned { first: String },
    #[error("{what} of {bytes} bytes is over the limit of {limit}")]
    TooLarge { what: &'static str, bytes: usize, limit: usize },
}
