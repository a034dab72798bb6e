//! A store as a file of lines, for backups and for the way into another engine.
//!
//! ```text
//! {"remedyd":"store","version":1,"taken_at":"2026-11-23T10:00:00Z","commits":4711}
//! {"key":"r/5.4/1001","record":{…}}           a row that is a record; its frame is made again when it is read
//! {"key":"o/0000000000000007","hex":"…"}      any other row
//! {"key_hex":"692f…","hex":"…"}               with a key that is no text
//! {"archived":{…}}                            a line of the archive
//! {"end":{"rows":812,"archived":3,"sha256":"…"}}
//! ```
//! Rows stand in the order of their keys. The digest is that of every byte before the last line, so that a file that was
//! cut short, or changed, is not taken for a whole one.
//!
//! Must never: leave out a row it cannot make sense of; take a file without its end.

mod read;
mod write;

use serde::{Deserialize, Serialize};

use super::{Row, StoreError};
use crate::model::time::Timestamp;

pub use read::{check, import};
pub use write::export;

/// The version this build writes, and the newest it reads.
pub const VERSION: u32 = 1;
const TITLE: &str = "store";

/// What can be written down: a store that does not change meanwhile.
pub trait Source {
    /// Batches since its creation.
    fn commits(&self) -> u64;

    /// Rows with keys from `from` on, in order, at most `limit`.
    ///
    /// # Errors
    /// [`TransferError::Store`], [`TransferError::GivenUp`].
    fn scan(&self, from: &[u8], limit: usize) -> Result<Vec<Row>, TransferError>;

    /// Every line of the archive, in order.
    ///
    /// # Errors
    /// As above, and whatever `line` answers.
    fn archive(&self, line: &mut dyn FnMut(&[u8]) -> Result<(), TransferError>) -> Result<(), TransferError>;
}

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    remedyd: String,
    pub version: u32,
    pub taken_at: Timestamp,
    /// Batches that the store had committed by then.
    pub commits: u64,
}

/// The last line: how much there is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    pub rows: u64,
    pub archived: u64,
    /// Of every byte before, in hexadecimal digits.
    pub sha256: String,
}

#[derive(Serialize)]
struct End {
    end: Totals,
}

/// Why a store could not be written down, or read.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("another backup of this store is under way")]
    Busy,
    #[error(
        "the backup was given up: the service has committed so much meanwhile that the store had to be written; take it at a quieter time, or to a faster place"
    )]
    GivenUp,
    #[error("writing the lines")]
    Write(#[source] std::io::Error),
    #[error("reading the lines")]
    Read(#[source] std::io::Error),
    #[error("line {line}: {what}")]
    Damaged { line: u64, what: String },
    #[error("the store is not empty")]
    NotEmpty,
}
