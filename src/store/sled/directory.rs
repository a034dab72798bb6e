//! A store directory around sled's own files: lock, format, leftovers, durable creation.
//!
//! ```text
//! LOCK       held for as long as the store is open
//! FORMAT     written durably: "creating" before sled's first file, "ready" after its first sync
//! COMMITTED  see mark.rs
//! aside/     what a crash left behind and sled would stumble over
//! conf db snap.<16 hex digits> blobs/    sled's
//! ```
//! While FORMAT says "creating", `open` has never returned, so no commit can exist and starting over loses
//! nothing. From "ready" on, whatever is missing is a loss and refused.
//!
//! Must never: remove a file of a store that is ready, or let sled create what should have been there.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::mark;
use crate::store::StoreError;

/// The layout of the directory and of the rows in sled. From the first release on it goes up with any change
/// an older build would misread.
pub(super) const FORMAT_VERSION: u32 = 1;

const LOCK: &str = "LOCK";
const FORMAT: &str = "FORMAT";
const FORMAT_NEW: &str = "FORMAT.new";
const FORMAT_TITLE: &str = "remedyd store";
const ASIDE: &str = "aside";
pub(super) const DB: &str = "db";
const CONF: &str = "conf";
const BLOBS: &str = "blobs";
const SNAPSHOT_PREFIX: &str = "snap.";
/// One a crash during an open; more means that something is wrong with the machine.
const MAX_ASIDE: usize = 1000;

const RESTORE: &str = "restore the whole directory from a backup, or move it away to start without its history";

/// Whether the store has ever been opened successfully.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Creating,
    Ready,
}

/// What must be wrong with the directory `dir`, and what an operator can do.
pub(in crate::store) fn corrupt(dir: &Path, what: impl Into<String>) -> StoreError {
    StoreError::Corrupt { path: dir.to_owned(), what: what.into(), remedy: RESTORE.to_owned() }
}

/// Names what was being done in an I/O error.
pub(in crate::store) fn failed(doing: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError::Io { doing, source }
}

/// Makes the entries of `dir` (created, renamed files) durable.
pub(in crate::store) fn sync_directory(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(failed("syncing the store directory"))
}

/// Creates `dir` for its owner only, with its parents, durably; an existing one stays as it is.
pub(super) fn create(dir: &Path) -> Result<(), StoreError> {
    if dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("creating the store directory"))?;
    let absolute = dir.canonicalize().map_err(failed("creating the store directory"))?;
    // How many of its parents are new is not known, and syncing an old one costs nothing that matters.
    absolute.ancestors().skip(1).take_while(|parent| parent.parent().is_some()).try_for_each(|parent| match sync_directory(parent) {
        Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        other => other,
    })
}

/// Takes the lock at once or fails. It ends with the returned file.
pub(super) fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join(LOCK);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let file = options.open(&path).map_err(failed("opening the lock file of the store"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked { path: dir.to_owned(), lock: path }),
        Err(TryLockError::Error(source)) => Err(StoreError::Io { doing: "locking the store", source }),
    }
}

/// Reads FORMAT. `None`: there is no store here, and nothing that could be the rest of one.
pub(super) fn state(dir: &Path) -> Result<Option<State>, StoreError> {
    let text = match fs::read(dir.join(FORMAT)) {
        Ok(bytes) => String::from_utf8(bytes).map_err(|_| corrupt(dir, "FORMAT is damaged"))?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return match store_files(dir)?.first() {
                Some(file) => Err(corrupt(dir, format!("FORMAT is missing although there is {file}"))),
                None => Ok(None),
            };
        }
        Err(e) => return Err(failed("reading FORMAT of the store")(e)),
    };
    let damaged = || corrupt(dir, "FORMAT is damaged");
    let found = text.strip_prefix(FORMAT_TITLE).and_then(|rest| rest.strip_prefix("\nformat ")).ok_or_else(damaged)?;
    let found: u32 = found.lines().next().and_then(|n| n.parse().ok()).ok_or_else(damaged)?;
    if found > FORMAT_VERSION {
        return Err(StoreError::NewerFormat { path: dir.to_owned(), found, supported: FORMAT_VERSION });
    }
    [State::Creating, State::Ready].into_iter().find(|s| format_text(*s) == text).map(Some).ok_or_else(damaged)
}

fn format_text(state: State) -> String {
    let word = match state {
        State::Creating => "creating",
        State::Ready => "ready",
    };
    let text = format!("{FORMAT_TITLE}\nformat {FORMAT_VERSION}\nstate {word}\n");
    let crc = crc32fast::hash(text.as_bytes());
    format!("{text}crc {crc:08x}\n")
}

/// Replaces FORMAT; durable when it returns.
pub(super) fn set_state(dir: &Path, state: State) -> Result<(), StoreError> {
    let new = dir.join(FORMAT_NEW);
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(format_text(state).as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, dir.join(FORMAT))
    };
    write().map_err(failed("writing FORMAT of the store"))?;
    sync_directory(dir)
}

/// The names of the files here that are sled's or part of a store's content.
fn store_files(dir: &Path) -> Result<Vec<String>, StoreError> {
    let names = names(dir)?.into_iter();
    let part = |name: &String| [DB, CONF, BLOBS, mark::FILE_NAME].contains(&name.as_str()) || name.starts_with(SNAPSHOT_PREFIX);
    Ok(names.filter(part).collect())
}

/// In order, so that what is reported does not depend on the file system.
fn names(dir: &Path) -> Result<Vec<String>, StoreError> {
    let read = || -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    };
    read().map_err(failed("listing the store directory"))
}

/// Moves the files of a creation that never ended out of the way.
pub(super) fn start_over(dir: &Path) -> Result<(), StoreError> {
    set_aside(dir, &store_files(dir)?)
}

/// Moves away what a kill or a full disk during `sled::open` leaves: sled would take a
/// `snap.<lsn>.generating` for the newest snapshot and fail for ever (sled#1527, #1533).
pub(super) fn set_leftovers_aside(dir: &Path) -> Result<(), StoreError> {
    let whole = |name: &String| {
        name.strip_prefix(SNAPSHOT_PREFIX).is_none_or(|lsn| lsn.len() == 16 && lsn.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F')))
    };
    let leftovers: Vec<String> = names(dir)?.into_iter().filter(|name| !whole(name)).collect();
    set_aside(dir, &leftovers)
}

fn set_aside(dir: &Path, files: &[String]) -> Result<(), StoreError> {
    if files.is_empty() {
        return Ok(());
    }
    let aside = dir.join(ASIDE);
    DirBuilder::new().recursive(true).mode(0o700).create(&aside).map_err(failed("creating aside/ in the store"))?;
    for file in files {
        let free: Option<PathBuf> = (0..MAX_ASIDE).map(|n| aside.join(format!("{file}.{n}"))).find(|path| !path.exists());
        let free = free.ok_or_else(|| corrupt(dir, format!("aside/ holds {MAX_ASIDE} files called {file}")))?;
        tracing::warn!(file, to = %free.display(), "a file an interrupted start left in the store is set aside");
        fs::rename(dir.join(file), free).map_err(failed("setting a leftover file of the store aside"))?;
    }
    sync_directory(&aside)?;
    sync_directory(dir)
}

/// Refuses a store that is ready but has lost one of the files sled would silently create again.
pub(super) fn check_present(dir: &Path) -> Result<(), StoreError> {
    for file in [DB, CONF, mark::FILE_NAME] {
        match fs::metadata(dir.join(file)) {
            Ok(meta) if meta.is_file() && meta.len() > 0 => {}
            Ok(_) => return Err(corrupt(dir, format!("{file} is empty"))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(corrupt(dir, format!("{file} is missing")));
            }
            Err(e) => return Err(failed("looking at the files of the store")(e)),
        }
    }
    check_no_blobs(dir)
}

/// sled never syncs the files under `blobs/`; rows are kept so small that there are none (rows.rs).
pub(super) fn check_no_blobs(dir: &Path) -> Result<(), StoreError> {
    match fs::read_dir(dir.join(BLOBS)).map(|mut entries| entries.next().is_some()) {
        Ok(false) => Ok(()),
        Ok(true) => Err(corrupt(dir, "blobs/ is not empty: rows lie outside of the synced file")),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed("looking into blobs/ of the store")(e)),
    }
}

/// The segment size the database was created with, from sled's `conf`: sled refuses any other, and only
/// warns when the file's checksum is wrong, so that is checked here.
pub(super) fn segment_bytes(dir: &Path) -> Result<usize, StoreError> {
    let bytes = fs::read(dir.join(CONF)).map_err(failed("reading conf of the store"))?;
    let parse = || {
        let (text, crc) = bytes.split_last_chunk::<4>()?;
        if crc32fast::hash(text).to_le_bytes() != *crc {
            return None;
        }
        std::str::from_utf8(text).ok()?.lines().find_map(|l| l.strip_prefix("segment_size: "))?.parse().ok()
    };
    parse().ok_or_else(|| corrupt(dir, "conf is damaged"))
}

/// Makes the files sled created, but did not sync, durable: `conf` and the entries of the directories.
pub(super) fn sync_creation(dir: &Path) -> Result<(), StoreError> {
    File::open(dir.join(CONF)).and_then(|f| f.sync_all()).map_err(failed("syncing conf of the store"))?;
    sync_directory(&dir.join(BLOBS))?;
    sync_directory(dir)
}
