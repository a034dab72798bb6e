//! How rows and large values lie in the one sled tree.
//!
//! sled moves a page above a quarter of a segment into a file of its own under `blobs/`, which it never
//! syncs. A leaf holds up to about 20 rows, so no row may come near 1/80 of a segment: a value above
//! [`CHUNK_BYTES`] is cut into chunk rows, written in the same atomic batch as everything else.
//!
//! ```text
//! 00                      commit count, in every batch
//! 00 01                   the newest file that is covered of a journal in front
//! 01 key                  the value; empty for a large one (the row holds its place in scans)
//! 02 key                  for a large value: length u64, crc32 u32 (big-endian)
//! 03 key chunk-number u32 for a large value: its chunks
//! ```
//! The first byte is ours, so callers may use any key and never see a chunk. Which keys are large is kept
//! in memory ([`LargeValues`], read from `02` at open): ordinary writes cost no read.
//!
//! Must never: write a row above [`CHUNK_BYTES`], or leave a chunk behind that no `02` row covers. (A batch that sled itself has
//! left in part, see `SledStore::drop_torn`, may leave one, which then takes up room and nothing else.)

use std::collections::{BTreeMap, HashMap};

use crate::store::{Batch, MAX_KEY_BYTES, MAX_VALUE_BYTES, StoreError};

/// The longest value kept in one row, and the length of a chunk: 20 rows of it with their keys stay below
/// 640 KiB, under a third of what sled 0.34 keeps in line with 8 MiB segments (2 MiB).
pub const CHUNK_BYTES: usize = 30 * 1024;

pub(super) const COUNT_KEY: &[u8] = &[0];
pub(super) const JOURNAL_KEY: &[u8] = &[0, 1];
const ROW: u8 = 1;
const LARGE: u8 = 2;
const CHUNK: u8 = 3;

/// What is known of one large value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Large {
    pub(super) len: u64,
    pub(super) crc: u32,
}

/// Every large value of the store, by key.
pub(super) type LargeValues = BTreeMap<Vec<u8>, Large>;
/// Those a batch changes: `None` is no longer large (or gone).
pub(super) type LargeChanges = HashMap<Vec<u8>, Option<Large>>;

impl Large {
    fn of(value: &[u8]) -> Large {
        Large { len: value.len() as u64, crc: crc32fast::hash(value) }
    }

    /// Below 600: a value has at most [`MAX_VALUE_BYTES`].
    pub(super) fn chunks(self) -> u32 {
        u32::try_from(self.len.div_ceil(CHUNK_BYTES as u64)).unwrap_or(u32::MAX)
    }

    fn encode(self) -> Vec<u8> {
        [&self.len.to_be_bytes()[..], &self.crc.to_be_bytes()].concat()
    }

    /// `None` when `bytes` cannot have been written by [`Large::encode`].
    pub(super) fn decode(bytes: &[u8]) -> Option<Large> {
        let (len, rest) = bytes.split_first_chunk::<8>()?;
        let large = Large { len: u64::from_be_bytes(*len), crc: u32::from_be_bytes(rest.try_into().ok()?) };
        let possible = CHUNK_BYTES as u64 + 1..=MAX_VALUE_BYTES as u64;
        possible.contains(&large.len).then_some(large)
    }
}

fn tagged(tag: u8, key: &[u8]) -> Vec<u8> {
    let mut tagged = Vec::with_capacity(1 + key.len());
    tagged.push(tag);
    tagged.extend_from_slice(key);
    tagged
}

pub(super) fn row_key(key: &[u8]) -> Vec<u8> {
    tagged(ROW, key)
}

/// All keys of large values begin with it.
pub(super) const LARGE_PREFIX: &[u8] = &[LARGE];

pub(super) fn chunk_key(key: &[u8], chunk: u32) -> Vec<u8> {
    let mut chunk_key = tagged(CHUNK, key);
    chunk_key.extend_from_slice(&chunk.to_be_bytes());
    chunk_key
}

/// Lays `batch` out as one sled batch, counted as commit `count`.
///
/// # Errors
/// [`StoreError::TooLarge`] for a key or value over the limits of the port.
pub(super) fn lay_out(
    batch: &Batch,
    count: u64,
    journal: Option<u64>,
    known: &LargeValues,
) -> Result<(::sled::Batch, LargeChanges), StoreError> {
    let mut out = ::sled::Batch::default();
    let mut changes = LargeChanges::new();
    for (key, value) in &batch.writes {
        check_limits(key, value.as_deref())?;
        let before = match changes.get(key.as_ref()) {
            Some(change) => *change,
            None => known.get(key.as_ref()).copied(),
        };
        let after = value.as_deref().filter(|v| v.len() > CHUNK_BYTES).map(Large::of);
        match (value, after) {
            (None, _) => out.remove(row_key(key)),
            (Some(value), None) => out.insert(row_key(key), value.as_ref()),
            (Some(value), Some(large)) => {
                out.insert(row_key(key), &[] as &[u8]);
                out.insert(tagged(LARGE, key), large.encode());
                for (number, chunk) in (0..).zip(value.chunks(CHUNK_BYTES)) {
                    out.insert(chunk_key(key, number), chunk);
                }
            }
        }
        if let Some(before) = before {
            for number in after.map_or(0, Large::chunks)..before.chunks() {
                out.remove(chunk_key(key, number));
            }
            if after.is_none() {
                out.remove(tagged(LARGE, key));
            }
        }
        if before.is_some() || after.is_some() {
            changes.insert(key.to_vec(), after);
        }
    }
    out.insert(COUNT_KEY, &count.to_be_bytes());
    if let Some(through) = journal {
        out.insert(JOURNAL_KEY, &through.to_be_bytes());
    }
    Ok((out, changes))
}

/// Both engines refuse the same.
pub(in crate::store) fn check_limits(key: &[u8], value: Option<&[u8]>) -> Result<(), StoreError> {
    let value_bytes = value.map_or(0, <[u8]>::len);
    if key.len() > MAX_KEY_BYTES {
        return Err(StoreError::TooLarge { what: "a key", bytes: key.len(), limit: MAX_KEY_BYTES });
    }
    if value_bytes > MAX_VALUE_BYTES {
        return Err(StoreError::TooLarge { what: "a value", bytes: value_bytes, limit: MAX_VALUE_BYTES });
    }
    Ok(())
}

/// Takes over what a batch changed, once it is applied.
pub(super) fn take_over(known: &mut LargeValues, changes: LargeChanges) {
    for (key, change) in changes {
        match change {
            Some(large) => known.insert(key, large),
            None => known.remove(&key),
        };
    }
}
