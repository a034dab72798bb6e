//! The frame of one batch in a journal file.
//!
//! ```text
//! magic   4 bytes  "rjF1"
//! length  u32      of the payload
//! crc32   u32      of the payload
//! payload          number of the batch u64, writes u32, archive lines u32,
//!                  each write: key length u16, value length u32 (all ones: removed), key, value
//!                  each line: length u32, bytes
//! ```
//! Numbers are little-endian. Must never: give a batch that is not whole.

use bytes::Bytes;

use crate::store::Batch;

pub(super) const MAGIC: [u8; 4] = *b"rjF1";
pub(super) const HEADER_BYTES: usize = 12;
const REMOVED: u32 = u32::MAX;

/// A batch is below 4 GiB by far: the engine bounds its rows, and a value has at most 17 MiB.
pub(super) fn encode(number: u64, batch: &Batch) -> Vec<u8> {
    let rows: usize = batch.writes.iter().map(|(key, value)| 6 + key.len() + value.as_ref().map_or(0, Bytes::len)).sum();
    let mut bytes = Vec::with_capacity(HEADER_BYTES + 16 + rows);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&[0; 8]);
    bytes.extend_from_slice(&number.to_le_bytes());
    bytes.extend_from_slice(&(batch.writes.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&(batch.archive.len() as u32).to_le_bytes());
    for (key, value) in &batch.writes {
        bytes.extend_from_slice(&(key.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&value.as_ref().map_or(REMOVED, |value| value.len() as u32).to_le_bytes());
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value.as_deref().unwrap_or_default());
    }
    for line in &batch.archive {
        bytes.extend_from_slice(&(line.len() as u32).to_le_bytes());
        bytes.extend_from_slice(line);
    }
    let payload = &bytes[HEADER_BYTES..];
    let (length, crc) = (payload.len() as u32, crc32fast::hash(payload));
    bytes[4..8].copy_from_slice(&length.to_le_bytes());
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The frame that `bytes` begin with: its number, its batch and its length; `None` if there is no whole one.
pub(super) fn decode(bytes: &[u8]) -> Option<(u64, Batch, usize)> {
    let mut header = Reader(bytes);
    if header.take(4)? != MAGIC {
        return None;
    }
    let (length, crc) = (header.u32()? as usize, header.u32()?);
    let payload = header.take(length)?;
    if crc32fast::hash(payload) != crc {
        return None;
    }
    let mut payload = Reader(payload);
    let number = u64::from_le_bytes(payload.take(8)?.try_into().ok()?);
    let (writes, lines) = (payload.u32()?, payload.u32()?);
    let mut batch = Batch::default();
    for _ in 0..writes {
        let key = usize::from(u16::from_le_bytes(payload.take(2)?.try_into().ok()?));
        let value = payload.u32()?;
        let key = Bytes::copy_from_slice(payload.take(key)?);
        let value = if value == REMOVED { None } else { Some(Bytes::copy_from_slice(payload.take(value as usize)?)) };
        batch.writes.push((key, value));
    }
    for _ in 0..lines {
        let length = payload.u32()? as usize;
        batch.archive.push(payload.take(length)?.to_vec());
    }
    payload.0.is_empty().then_some((number, batch, HEADER_BYTES + length))
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut batch = Batch::default();
        batch.put(&b"k"[..], &b"value"[..]);
        batch.put(Vec::new(), Vec::new());
        batch.remove(&b"gone"[..]);
        batch.archive.push(b"{}".to_vec());
        encode(7, &batch)
    }

    #[test]
    fn a_frame_comes_back_as_it_went_in() {
        let bytes = sample();
        let (number, batch, length) = decode(&bytes).expect("whole");
        assert_eq!((number, length), (7, bytes.len()));
        let row = |key, value: Option<&'static [u8]>| (Bytes::from_static(key), value.map(Bytes::from_static));
        let writes = vec![row(b"k", Some(b"value")), row(b"", Some(b"")), row(b"gone", None)];
        assert_eq!((batch.writes, batch.archive), (writes, vec![b"{}".to_vec()]));
    }

    #[test]
    fn every_flip_of_a_bit_and_every_cut_is_noticed() {
        let good = sample();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad).is_none(), "bit {bit}");
        }
        for length in 0..good.len() {
            assert!(decode(&good[..length]).is_none(), "cut at {length}");
        }
    }
}
