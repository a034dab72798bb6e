//! The frame of one stored record: what every value of the pipeline looks like in a store.
//!
//! ```text
//! byte 0      format version (1)
//! bytes 1..5  crc32 (IEEE) of the payload, little-endian
//! bytes 5..   payload: JSON
//! ```
//! The checksum is our own although the store below has one: it covers the way through the store and
//! back, and it is what makes a damaged row an error instead of a different decision.
//!
//! Must never: guess at a record it cannot read, fall back to a default, or put any of a record's
//! content into an error (errors are logged; records hold customer data).

use std::cell::RefCell;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StoreError;

/// The version this build writes, and the newest it reads.
pub const RECORD_VERSION: u8 = 1;
/// Version byte and checksum.
const HEADER_BYTES: usize = 5;
/// What is kept of the buffer that records are written into: more than an ordinary one has.
const SCRATCH_BYTES: usize = 64 * 1024;
/// How much of a key an error shows. Ours stay below 200 bytes.
const SHOWN_KEY_BYTES: usize = 200;

thread_local! {
    /// Where records are written before their length is known.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The stored form of `record`.
///
/// # Panics
/// When `T` has no JSON form (a map whose keys are not strings): a defect of the type, not of its
/// content, which the golden test every stored type has would show.
pub fn encode<T: Serialize + ?Sized>(record: &T) -> Vec<u8> {
    SCRATCH.with_borrow_mut(|bytes| {
        bytes.clear();
        bytes.extend_from_slice(&[0; HEADER_BYTES]);
        #[expect(clippy::expect_used, reason = "our own types; one without a JSON form is a defect that no input can cause")]
        serde_json::to_writer(&mut *bytes, record).expect("a stored type has a JSON form");
        let crc = crc32fast::hash(&bytes[HEADER_BYTES..]);
        bytes[0] = RECORD_VERSION;
        bytes[1..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        // as long as it is, and no longer: it is kept for a while
        let record = bytes.to_vec();
        bytes.clear();
        bytes.shrink_to(SCRATCH_BYTES);
        record
    })
}

/// Reads what [`encode`] wrote. `key` is only named in errors.
///
/// # Errors
/// [`StoreError::Record`] for a version above [`RECORD_VERSION`], a row cut short, a checksum that does
/// not match, or a payload that is not a `T`.
pub fn decode<T: DeserializeOwned>(key: &[u8], bytes: &[u8]) -> Result<T, StoreError> {
    let refuse = |what: String| StoreError::Record { key: printable(key), what };
    let Some((&version, rest)) = bytes.split_first() else {
        return Err(refuse("is empty".to_owned()));
    };
    if version != RECORD_VERSION {
        return Err(refuse(format!("has version {version}, this build reads {RECORD_VERSION}")));
    }
    let Some((crc, payload)) = rest.split_first_chunk::<4>() else {
        return Err(refuse(format!("is cut short at {} bytes", bytes.len())));
    };
    let (stored, actual) = (u32::from_le_bytes(*crc), crc32fast::hash(payload));
    if stored != actual {
        return Err(refuse(format!("is damaged: its {} bytes have checksum {actual:08x}, stored is {stored:08x}", payload.len())));
    }
    // serde_json's own message quotes the value it did not like, so only the place is passed on.
    serde_json::from_slice(payload)
        .map_err(|e| refuse(format!("does not have the expected form ({:?} error at byte {})", e.classify(), e.column())))
}

/// The payload of a row that is a whole record, as it stands there.
pub(super) fn payload(bytes: &[u8]) -> Option<&[u8]> {
    let (&version, rest) = bytes.split_first()?;
    let (crc, payload) = rest.split_first_chunk::<4>()?;
    (version == RECORD_VERSION && u32::from_le_bytes(*crc) == crc32fast::hash(payload)).then_some(payload)
}

/// The row whose payload this is.
pub(super) fn framed(payload: &[u8]) -> Vec<u8> {
    let crc = crc32fast::hash(payload);
    [&[RECORD_VERSION][..], &crc.to_le_bytes(), payload].concat()
}

/// `key` for people: ASCII as it is, the rest escaped, cut at [`SHOWN_KEY_BYTES`].
pub fn printable(key: &[u8]) -> String {
    let shown = &key[..key.len().min(SHOWN_KEY_BYTES)];
    let cut = if shown.len() < key.len() { "…" } else { "" };
    format!("{}{cut}", shown.escape_ascii())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sample {
        agent: String,
        sequence: u64,
    }

    fn sample() -> Sample {
        Sample { agent: "a-1".to_owned(), sequence: 7 }
    }

    /// These bytes are on disks. If this fails, RECORD_VERSION has to go up and version 1 stay readable.
    #[test]
    fn golden() {
        let mut expected = vec![1, 0x25, 0x3d, 0x67, 0x89];
        expected.extend_from_slice(br#"{"agent":"a-1","sequence":7}"#);
        assert_eq!(encode(&sample()), expected);
        assert_eq!(decode::<Sample>(b"s/a-1", &expected).unwrap(), sample());
    }

    #[test]
    fn every_flip_of_a_bit_and_every_cut_is_refused() {
        let good = encode(&sample());
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode::<Sample>(b"k", &bad).is_err(), "bit {bit}");
        }
        for len in 0..good.len() {
            assert!(decode::<Sample>(b"k", &good[..len]).is_err(), "cut at {len}");
        }
    }

    #[track_caller]
    fn check_refused(bytes: &[u8], message: &str) {
        assert_eq!(decode::<Sample>(b"s/\xff1", bytes).unwrap_err().to_string(), message);
    }

    #[test]
    fn errors_name_key_and_reason_but_no_content() {
        check_refused(&[], r"record under key s/\xff1: is empty");
        check_refused(&[2], r"record under key s/\xff1: has version 2, this build reads 1");
        check_refused(&[1, 0, 0], r"record under key s/\xff1: is cut short at 3 bytes");
        let other_form = encode(&"secret");
        check_refused(&other_form, r"record under key s/\xff1: does not have the expected form (Data error at byte 8)");
    }
}
