//! The archive: what has left the map for good, as lines of JSON in files that are only added to.
//!
//! ```text
//! archive/<16 digits>.ndjson    the number counts files; a new one is begun at every open and at 64 MiB
//! ```
//! Nothing in here is ever read by the service but for a backup; it is for people and for their own databases. A
//! file that is not the newest does not change any more and may be moved away. Every file is complete but for a last
//! line that a crash has cut short; that line comes again, whole, in the next file.
//!
//! Must never: lose a line whose rows are gone, or write into a file of an earlier run.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::directory::{failed, sync_directory};
use crate::store::StoreError;

/// Under the store's directory.
const ARCHIVE: &str = "archive";
const EXTENSION: &str = "ndjson";
/// A file of this size compresses to a few megabytes and opens in an editor.
const FILE_BYTES: u64 = 64 * 1024 * 1024;

pub(super) struct Archive {
    dir: PathBuf,
    open: Option<Growing>,
}

struct Growing {
    file: File,
    bytes: u64,
}

impl Archive {
    pub(super) fn new(store: &Path) -> Self {
        Self { dir: store.join(ARCHIVE), open: None }
    }

    /// Returns when the lines are durable.
    pub(super) fn append(&mut self, lines: &[Vec<u8>]) -> Result<(), StoreError> {
        if lines.is_empty() {
            return Ok(());
        }
        let mut growing = match self.open.take().filter(|growing| growing.bytes < FILE_BYTES) {
            Some(growing) => growing,
            None => Growing { file: self.next_file()?, bytes: 0 },
        };
        let mut text = lines.join(&b'\n');
        text.push(b'\n');
        growing.file.write_all(&text).and_then(|()| growing.file.sync_data()).map_err(failed("writing the archive"))?;
        growing.bytes += text.len() as u64;
        self.open = Some(growing);
        Ok(())
    }

    fn next_file(&self) -> Result<File, StoreError> {
        self.newest().and_then(|newest| self.create(newest + 1)).map_err(failed("beginning a file of the archive")).and_then(|file| {
            sync_directory(&self.dir)?;
            self.dir.parent().map_or(Ok(()), sync_directory)?;
            Ok(file)
        })
    }

    fn create(&self, number: u64) -> io::Result<File> {
        let path = self.dir.join(format!("{number:016}.{EXTENSION}"));
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
    }

    /// The highest number of a file that is there; 0 for none.
    fn newest(&self) -> io::Result<u64> {
        if !self.dir.is_dir() {
            DirBuilder::new().mode(0o700).create(&self.dir)?;
        }
        let mut newest = 0;
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
            newest = newest.max(number.unwrap_or(0));
        }
        Ok(newest)
    }
}

/// Gives each whole line of the archive in order. Nothing may be added meanwhile.
pub(super) fn lines<E: From<StoreError>>(store: &Path, line: &mut dyn FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    let reading = failed("reading the archive");
    for path in files(&store.join(ARCHIVE)).map_err(&reading)? {
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::warn!(file = %path.display(), "a file of the archive has been moved away while it was to be read");
                continue;
            }
            Err(error) => return Err(reading(error).into()),
        };
        let (mut file, mut text) = (BufReader::new(file), Vec::new());
        loop {
            text.clear();
            file.read_until(b'\n', &mut text).map_err(&reading)?;
            // without its end a crash has cut it short, and it stands whole in the next file
            let Some(whole) = text.strip_suffix(b"\n") else { break };
            line(whole)?;
        }
    }
    Ok(())
}

fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut files: Vec<PathBuf> = fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == EXTENSION));
    // names have the same length
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_run_begins_a_file_and_lines_keep_their_order() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut archive = Archive::new(dir.path());
        archive.append(&[]).expect("nothing to do");
        assert!(!dir.path().join(ARCHIVE).exists());
        archive.append(&[b"1".to_vec(), b"2".to_vec()]).expect("appended");
        archive.append(&[b"3".to_vec()]).expect("appended");
        Archive::new(dir.path()).append(&[b"4".to_vec()]).expect("appended");
        let text = |number: u64| fs::read_to_string(dir.path().join(ARCHIVE).join(format!("{number:016}.ndjson"))).expect("there");
        assert_eq!((text(1).as_str(), text(2).as_str()), ("1\n2\n3\n", "4\n"));
    }

    #[test]
    fn a_full_file_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut archive = Archive::new(dir.path());
        archive.append(&[b"1".to_vec()]).expect("appended");
        if let Some(growing) = &mut archive.open {
            growing.bytes = FILE_BYTES;
        }
        archive.append(&[b"2".to_vec()]).expect("appended");
        assert_eq!(fs::read_dir(dir.path().join(ARCHIVE)).expect("listed").count(), 2);
    }
}
