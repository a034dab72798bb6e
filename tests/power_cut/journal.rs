//! The journal's files on a disk, looked at from outside: what the store was doing when the power went.
//!
//! Never here: whether it is right; the store says that when it opens them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::writer::CHECKPOINT_BYTES;

/// Of a file's head, and of a frame's (src/store/journal/log.rs, frame.rs).
const HEAD_BYTES: usize = 24;
const FRAME_MAGIC: &[u8] = b"rjF1";
const FRAME_HEADER_BYTES: usize = 12;

/// What there is in `journal/`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Files {
    /// The number of the newest file; 0 if there is none.
    pub newest: u64,
    /// The one before it is still there.
    pub before: bool,
    /// Where the last whole batch of the newest ends; at its head, or before, there is none.
    pub end: usize,
    /// The newest ends in the middle of a batch.
    pub torn: bool,
}

impl Files {
    pub fn of(store: &Path) -> Self {
        let dir = store.join("journal");
        let names = fs::read_dir(&dir).into_iter().flatten().map_while(Result::ok);
        let number = |name: String| name.strip_suffix(".log").and_then(|number| number.parse::<u64>().ok());
        let numbers: Vec<u64> = names.filter_map(|entry| number(entry.file_name().to_string_lossy().into_owned())).collect();
        let Some(newest) = numbers.iter().copied().max() else { return Self::default() };
        // a file that is removed just now is as good as empty
        let bytes = fs::read(path(&dir, newest)).unwrap_or_default();
        let (end, torn) = end_of(&bytes);
        Self { newest, before: numbers.contains(&(newest - 1)), end, torn }
    }

    /// The newest has no batch.
    pub fn begun(&self) -> bool {
        self.end <= HEAD_BYTES
    }

    /// An overlay was frozen, which closed the file before, and has not got into sled. `opened`: the file begun when the store
    /// was opened.
    pub fn frozen(&self, opened: u64) -> bool {
        self.newest > opened && self.before
    }

    /// The overlay above it is full as well, which is when its checkpoint begins; at the end the file before is removed.
    pub fn in_checkpoint(&self, opened: u64) -> bool {
        self.frozen(opened) && self.end as u64 >= CHECKPOINT_BYTES
    }
}

/// Leaves the first half of a batch at the end of the newest file, as a disk may that has lost its power while it wrote: one
/// that was never acked. What the disk has torn by itself stays as it is.
pub fn tear(store: &Path) -> Files {
    let files = Files::of(store);
    let newest = path(&store.join("journal"), files.newest);
    let bytes = fs::read(&newest).unwrap_or_default();
    if files.newest == 0 || files.torn || files.begun() {
        return files;
    }
    let half = HEAD_BYTES + first_frame_bytes(&bytes) / 2;
    let file = File::options().write(true).open(&newest).expect("the newest file");
    let end = end_of(&bytes).0 as u64;
    file.write_all_at(&bytes[HEAD_BYTES..half], end).and_then(|()| file.sync_all()).expect("written");
    Files::of(store)
}

fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016}.log"))
}

fn first_frame_bytes(file: &[u8]) -> usize {
    let header = &file[HEAD_BYTES..HEAD_BYTES + FRAME_HEADER_BYTES];
    FRAME_HEADER_BYTES + u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize
}

/// Where the last whole batch ends, and whether anything but zeros follows.
fn end_of(bytes: &[u8]) -> (usize, bool) {
    let Some(mut rest) = bytes.get(HEAD_BYTES..) else { return (0, !bytes.is_empty()) };
    while let Some((header, behind)) = rest.split_at_checked(FRAME_HEADER_BYTES) {
        let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        match behind.get(length..) {
            Some(behind) if header.starts_with(FRAME_MAGIC) => rest = behind,
            _ => break,
        }
    }
    (bytes.len() - rest.len(), rest.iter().any(|byte| *byte != 0))
}
