//! The file `COMMITTED`: how many commits have been made durable, kept outside of sled's files.
//!
//! Its only use is at open: a database that knows fewer commits than this file has lost some, however
//! healthy it looks (sled treats a damaged record as the end of its log, drops what follows and opens;
//! after a power cut it has been seen to open empty).
//!
//! Two slots in two blocks are written in turn, *after* the commit they count is durable, so the file
//! never claims more than is there. It is not synced per commit: it is exact after the death of the
//! process, and after a power cut some seconds old, which only makes the check weaker.
//!
//! Must never: be ahead of the database, or be needed for anything but refusing.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

pub(super) const FILE_NAME: &str = "COMMITTED";
/// One block per slot, so that a torn write can only spoil the slot being written.
const SLOT_STRIDE: u64 = 4096;
const SLOTS: u64 = 2;
const SLOT_BYTES: usize = 12;

/// The open file.
pub(in crate::store) struct Mark {
    file: File,
}

impl Mark {
    /// Writes a new file that says 0, durably but for its directory entry.
    pub(in crate::store) fn create(dir: &Path) -> io::Result<Mark> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        let file = options.open(dir.join(FILE_NAME))?;
        file.set_len(SLOT_STRIDE * SLOTS)?;
        let mark = Mark { file };
        for slot in 0..SLOTS {
            mark.file.write_all_at(&encode(0), slot * SLOT_STRIDE)?;
        }
        mark.file.sync_all()?;
        Ok(mark)
    }

    /// Opens the file and returns its count; `None` when neither slot is whole.
    pub(in crate::store) fn open(dir: &Path) -> io::Result<Option<(Mark, u64)>> {
        let file = OpenOptions::new().read(true).write(true).open(dir.join(FILE_NAME))?;
        let mut count = None;
        for slot in 0..SLOTS {
            let mut bytes = [0; SLOT_BYTES];
            match file.read_exact_at(&mut bytes, slot * SLOT_STRIDE) {
                Ok(()) => count = count.max(decode(&bytes)),
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {}
                Err(e) => return Err(e),
            }
        }
        Ok(count.map(|count| (Mark { file }, count)))
    }

    /// Notes that `count` commits are durable.
    pub(in crate::store) fn set(&self, count: u64) -> io::Result<()> {
        self.file.write_all_at(&encode(count), count % SLOTS * SLOT_STRIDE)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

fn encode(count: u64) -> [u8; SLOT_BYTES] {
    let mut bytes = [0; SLOT_BYTES];
    bytes[..8].copy_from_slice(&count.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..8]);
    bytes[8..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; SLOT_BYTES]) -> Option<u64> {
    let (count, crc) = bytes.split_first_chunk::<8>()?;
    (crc32fast::hash(count).to_le_bytes().as_slice() == crc).then(|| u64::from_le_bytes(*count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_highest_whole_slot() {
        let dir = tempfile::tempdir().unwrap();
        let read = || Mark::open(dir.path()).unwrap().map(|(_, count)| count);
        let mark = Mark::create(dir.path()).unwrap();
        assert_eq!(read(), Some(0));
        for count in 1..=5 {
            mark.set(count).unwrap();
        }
        assert_eq!(read(), Some(5));
        mark.file.write_all_at(&[0xff], 5 % SLOTS * SLOT_STRIDE).unwrap();
        assert_eq!(read(), Some(4));
        mark.file.set_len(0).unwrap();
        assert_eq!(read(), None);
    }
}
