//! From lines to a store that is empty.

use std::io::{BufRead, Read as _};

use serde::Deserialize;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::{Head, TITLE, Totals, TransferError, VERSION};
use crate::store::{Batch, MAX_VALUE_BYTES, Store, record};

/// Rows of one batch, and bytes: what the engine of the service commits at most, roughly.
const ROWS_A_BATCH: usize = 1_000;
const BATCH_BYTES: usize = 4 * 1024 * 1024;
/// The largest value in hexadecimal digits, with its key.
const MAX_LINE_BYTES: u64 = 2 * MAX_VALUE_BYTES as u64 + 16 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    key: Option<String>,
    key_hex: Option<String>,
    #[serde(borrow)]
    record: Option<&'a RawValue>,
    hex: Option<String>,
    #[serde(borrow)]
    archived: Option<&'a RawValue>,
    archived_hex: Option<String>,
    end: Option<Totals>,
}

/// Brings all of `lines` into `store`. After an `Err` the store has a part of them and must be thrown away.
///
/// # Errors
/// [`TransferError::NotEmpty`]; [`TransferError::Damaged`], naming the line; [`TransferError::Store`] when a commit fails.
pub fn import<S: Store>(lines: impl BufRead, store: &S) -> Result<(Head, Totals), TransferError> {
    if !store.scan(&[], &[], 1)?.is_empty() {
        return Err(TransferError::NotEmpty);
    }
    read(lines, &mut |batch| Ok(store.commit(batch)?))
}

/// Whether `lines` are whole and as they were written.
///
/// # Errors
/// As [`import`].
pub fn check(lines: impl BufRead) -> Result<(Head, Totals), TransferError> {
    read(lines, &mut |_| Ok(()))
}

fn read(lines: impl BufRead, commit: &mut dyn FnMut(&Batch) -> Result<(), TransferError>) -> Result<(Head, Totals), TransferError> {
    let mut lines = Lines { lines, text: Vec::new(), number: 0, digest: Sha256::new() };
    let head = lines.head()?;
    let (mut batch, mut bytes, mut last_key) = (Batch::default(), 0, None::<Vec<u8>>);
    let (mut rows, mut archived) = (0, 0);
    loop {
        let before = hex::encode(lines.digest.clone().finalize());
        if !lines.next()? {
            return Err(lines.damaged("the file ends before its end: it was cut short"));
        }
        let line: Line<'_> = serde_json::from_slice(&lines.text).map_err(|error| lines.unreadable(&error))?;
        if let Some(end) = line.end {
            let found = Totals { rows, archived, sha256: before };
            if end != found {
                return Err(lines.damaged(&differs(&end, &found)));
            }
            if lines.next()? {
                return Err(lines.damaged("something follows the end"));
            }
            commit(&batch)?;
            return Ok((head, end));
        }
        let archived_line = line.archived.map(|text| text.get().as_bytes().to_vec());
        let archived_line = match (archived_line, line.archived_hex) {
            (Some(line), None) => Some(line),
            (None, Some(digits)) => Some(hex::decode(digits).map_err(|_| lines.damaged("archived_hex: not hexadecimal digits"))?),
            (None, None) => None,
            (Some(_), Some(_)) => return Err(lines.damaged("neither a row nor a line of the archive")),
        };
        if let Some(line) = archived_line {
            bytes += line.len();
            batch.archive.push(line);
            archived += 1;
        } else {
            let key = match (line.key, line.key_hex) {
                (Some(key), None) => key.into_bytes(),
                (None, Some(digits)) => hex::decode(digits).map_err(|_| lines.damaged("key_hex: not hexadecimal digits"))?,
                (None, None) | (Some(_), Some(_)) => return Err(lines.damaged("neither a row nor a line of the archive")),
            };
            let value = match (line.record, line.hex) {
                (Some(record), None) => record::framed(record.get().as_bytes()),
                (None, Some(digits)) => hex::decode(digits).map_err(|_| lines.damaged("hex: not hexadecimal digits"))?,
                (None, None) | (Some(_), Some(_)) => return Err(lines.damaged("a row has either record or hex")),
            };
            if last_key.as_ref().is_some_and(|last| *last >= key) {
                return Err(lines.damaged("the row is out of order"));
            }
            bytes += key.len() + value.len();
            last_key = Some(key.clone());
            batch.put(key, value);
            rows += 1;
        }
        if batch.writes.len() + batch.archive.len() >= ROWS_A_BATCH || bytes >= BATCH_BYTES {
            commit(&std::mem::take(&mut batch))?;
            bytes = 0;
        }
    }
}

fn differs(said: &Totals, found: &Totals) -> String {
    if (said.rows, said.archived) != (found.rows, found.archived) {
        return format!(
            "the end says {} rows and {} archived lines, there are {} and {}",
            said.rows, said.archived, found.rows, found.archived
        );
    }
    "the digest is another one: the file was changed or damaged after it was written".to_owned()
}

struct Lines<R> {
    lines: R,
    text: Vec<u8>,
    number: u64,
    /// Of every line so far, the one that is being looked at included.
    digest: Sha256,
}

impl<R: BufRead> Lines<R> {
    /// Reads the next line; says whether there is one.
    fn next(&mut self) -> Result<bool, TransferError> {
        self.text.clear();
        self.number += 1;
        let mut bounded = self.lines.by_ref().take(MAX_LINE_BYTES);
        bounded.read_until(b'\n', &mut self.text).map_err(TransferError::Read)?;
        if self.text.is_empty() {
            return Ok(false);
        }
        if self.text.last() != Some(&b'\n') {
            return Err(self.damaged("it has no end: the file was cut short, or the line is too long"));
        }
        self.digest.update(&self.text);
        Ok(true)
    }

    fn head(&mut self) -> Result<Head, TransferError> {
        let no_head = |lines: &Self| lines.damaged("not a file that `store export` or `store backup` has written");
        if !self.next()? {
            return Err(no_head(self));
        }
        let head: Head = serde_json::from_slice(&self.text).map_err(|_| no_head(self))?;
        if head.remedyd != TITLE {
            return Err(no_head(self));
        }
        if head.version > VERSION {
            return Err(self.damaged(&format!("the file has version {}, this build reads up to {VERSION}", head.version)));
        }
        Ok(head)
    }

    fn damaged(&self, what: &str) -> TransferError {
        TransferError::Damaged { line: self.number, what: what.to_owned() }
    }

    /// serde_json's own message quotes the value it did not like, which is a customer's.
    fn unreadable(&self, error: &serde_json::Error) -> TransferError {
        self.damaged(&format!("not readable ({:?} error at byte {})", error.classify(), error.column()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;
    use crate::store::transfer::{Source, export};
    use crate::store::{Row, StoreError};

    struct Rows(Vec<Row>, Vec<Vec<u8>>);

    impl Source for Rows {
        fn commits(&self) -> u64 {
            3
        }

        fn scan(&self, from: &[u8], limit: usize) -> Result<Vec<Row>, TransferError> {
            Ok(self.0.iter().filter(|(key, _)| key.as_slice() >= from).take(limit).cloned().collect())
        }

        fn archive(&self, line: &mut dyn FnMut(&[u8]) -> Result<(), TransferError>) -> Result<(), TransferError> {
            self.1.iter().try_for_each(|text| line(text))
        }
    }

    /// Records, rubbish, empty values, keys that are no text, and more than one page of them.
    fn sample() -> Rows {
        let mut rows: Vec<Row> = (0..600_u32).map(|n| (format!("r/5.4/{n:04}").into_bytes(), record::encode(&n))).collect();
        rows.push((b"t/x".to_vec(), Vec::new()));
        rows.push((b"u/\x00\xff".to_vec(), vec![0, 255, 10]));
        rows.push(("v/\"\u{e4}\\".as_bytes().to_vec(), record::encode(&"a\nb \u{2028} \"q\"")));
        // a record with blanks around it, and one with a wrong checksum
        rows.push((b"w/1".to_vec(), record::framed(b" 1 ")));
        rows.push((b"w/2".to_vec(), [&[1, 0, 0, 0, 0][..], b"{}"].concat()));
        Rows(rows, vec![br#"{"archived_at":1}"#.to_vec(), b"no JSON".to_vec()])
    }

    fn exported() -> Vec<u8> {
        let mut file = Vec::new();
        export(&sample(), &mut file).expect("exported");
        file
    }

    #[test]
    fn every_byte_comes_back() {
        let (file, store) = (exported(), MemoryStore::new());
        let (head, totals) = import(&file[..], &store).expect("imported");
        assert_eq!((head.commits, totals.rows, totals.archived), (3, 605, 2));
        let Rows(rows, archive) = sample();
        assert_eq!(store.scan(b"", b"", usize::MAX).expect("read"), rows);
        assert_eq!(store.disk().take_archive(), archive);
        assert!(matches!(import(&file[..], &store), Err(TransferError::NotEmpty)));
    }

    #[test]
    fn a_file_that_is_cut_or_changed_anywhere_is_refused() {
        let file = exported();
        let mut refused = 0;
        for at in (0..file.len()).step_by(97) {
            let cut = import(&file[..at], &MemoryStore::new());
            assert!(matches!(cut, Err(TransferError::Damaged { .. })), "cut at {at}: {cut:?}");
            let mut changed = file.clone();
            changed[at] ^= 1;
            assert!(import(&changed[..], &MemoryStore::new()).is_err(), "changed at {at}");
            refused += 1;
        }
        assert!(refused > 100);
        let twice = [file.clone(), file].concat();
        assert!(import(&twice[..], &MemoryStore::new()).is_err());
    }

    #[test]
    fn a_store_that_fails_ends_it() {
        let store = MemoryStore::new();
        store.fail_next_commit(crate::store::memory::CommitFault::Lost);
        assert!(matches!(import(&exported()[..], &store), Err(TransferError::Store(StoreError::Io { .. }))));
    }
}
