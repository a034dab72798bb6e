//! The journal's files: written at the end only, read only at an open.
//!
//! ```text
//! journal/COMMITTED          how many batches have been made durable (as sled's: sled/mark.rs)
//! journal/<16 digits>.log    head (magic, number of the file, number of the batch before its first, crc32), frames,
//!                            zeros up to the end
//! ```
//! A file is begun at each open, and when the overlay is frozen. The newest may end in a frame that a crash has cut short: that
//! batch was never committed, and is cut off. Everything else that is not whole is damage.
//!
//! Zeros are written ahead of the frames: a sync that has to make a longer file durable as well costs the file system a
//! commit of its own journal, and now and then some milliseconds of waiting for it.
//!
//! Must never: write after a failed write or sync; take damage for the end.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{self, JoinHandle};

use super::frame;
use crate::crash::{self, Point};
use crate::store::sled::{Failure, Mark, corrupt, failed, sync_directory, wait_for};
use crate::store::{Batch, StoreError};

const JOURNAL: &str = "journal";
const EXTENSION: &str = "log";
const MAGIC: [u8; 4] = *b"rjL1";
const HEAD_BYTES: usize = 24;
/// Written ahead at a time: some thousand events' worth, which one sync in a while pays for.
static AHEAD: [u8; 1024 * 1024] = [0; 1024 * 1024];
/// Files are counted from 1.
pub(super) const NONE_COVERED: u64 = 0;

/// What an open has found.
pub(super) struct Recovered {
    /// The last batch's.
    pub number: u64,
    /// The newest file's that was begun.
    file: u64,
    /// How many files it took.
    pub files: usize,
    mark: Mark,
}

/// Gives every batch that sled does not cover to `apply`, in order. `covered`: the newest file that sled covers; `None`
/// if there has never been a journal.
pub(super) fn recover(store: &Path, covered: Option<u64>, mut apply: impl FnMut(Batch)) -> Result<Recovered, StoreError> {
    let dir = store.join(JOURNAL);
    let Some(covered) = covered else { return create(store, &dir) };
    if !dir.is_dir() {
        return Err(corrupt(store, "journal/ is missing"));
    }
    let mark = Mark::open(&dir).map_err(failed("reading COMMITTED of the journal"))?;
    let (mark, committed) = mark.ok_or_else(|| corrupt(store, "journal/COMMITTED is damaged"))?;
    let numbers = files(&dir)?;
    let (old, new): (Vec<u64>, Vec<u64>) = numbers.into_iter().partition(|number| *number <= covered);
    remove(&dir, &old)?;
    let (mut last, mut newest) = (None, covered);
    for (expected, number) in (covered + 1..).zip(&new) {
        if *number != expected {
            return Err(corrupt(store, format!("journal/{} is missing", name(expected))));
        }
        let is_newest = new.last() == Some(number);
        if let Some(read) = read(store, &dir, *number, last, is_newest, &mut apply)? {
            (last, newest) = (Some(read), *number);
        }
    }
    // that file was begun, durably, before sled covered the ones before
    if covered > NONE_COVERED && newest == covered {
        return Err(corrupt(store, format!("journal/{} is missing or empty", name(covered + 1))));
    }
    let number = last.unwrap_or(0);
    if number < committed {
        return Err(corrupt(store, format!("the journal ends with batch {number}, but {committed} were committed")));
    }
    Ok(Recovered { number, file: newest, files: new.len(), mark })
}

/// The directory of a new journal. A crash before sled knows of it leads here again.
fn create(store: &Path, dir: &Path) -> Result<Recovered, StoreError> {
    if !dir.is_dir() {
        DirBuilder::new().mode(0o700).create(dir).map_err(failed("creating journal/ of the store"))?;
    }
    if let Some(first) = files(dir)?.first() {
        return Err(corrupt(store, format!("db knows of no journal, but there is journal/{}", name(*first))));
    }
    let mark = Mark::create(dir).map_err(failed("creating COMMITTED of the journal"))?;
    sync_directory(dir)?;
    sync_directory(store)?;
    Ok(Recovered { number: 0, file: NONE_COVERED, files: 0, mark })
}

/// Reads one file; gives the number of the last batch up to its end, `None` for a file that was never begun. `last` is
/// that of the file before.
fn read(
    store: &Path,
    dir: &Path,
    number: u64,
    last: Option<u64>,
    is_newest: bool,
    apply: &mut impl FnMut(Batch),
) -> Result<Option<u64>, StoreError> {
    let path = dir.join(name(number));
    let bytes = fs::read(&path).map_err(failed("reading the journal"))?;
    let damaged = |what: &str| corrupt(store, format!("journal/{}: {what}", name(number)));
    let Some(base) = head_of(&bytes, number) else {
        // nothing is written before the head is durable
        if is_newest && later_frame(&bytes, 0).is_none() {
            return Ok(None);
        }
        return Err(damaged("the head is damaged"));
    };
    if last.is_some_and(|last| last != base) {
        return Err(damaged("it does not go on where the file before ends"));
    }
    let (mut at, mut last) = (HEAD_BYTES, base);
    while at < bytes.len() {
        match frame::decode(&bytes[at..]) {
            Some((number, batch, length)) if number == last + 1 => {
                apply(batch);
                (at, last) = (at + length, number);
            }
            Some(_) => return Err(damaged("a batch is missing")),
            None if bytes[at..].iter().all(|byte| *byte == 0) => break,
            None if is_newest && later_frame(&bytes[at..], last + 1).is_none() => {
                tracing::warn!(file = %path.display(), at, bytes = bytes.len() - at, "a batch that a crash has cut short is cut off the journal");
                let cut =
                    || OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(at as u64).and_then(|()| file.sync_all()));
                cut().map_err(failed("cutting the end off the journal"))?;
                break;
            }
            None => return Err(damaged(&format!("a batch at byte {at} is damaged"))),
        }
    }
    Ok(Some(last))
}

/// A whole frame somewhere in `bytes`, of a batch after `number`: what is broken before it is not the end.
fn later_frame(bytes: &[u8], number: u64) -> Option<u64> {
    let starts = bytes.windows(frame::MAGIC.len()).enumerate().filter(|(_, window)| *window == frame::MAGIC);
    starts.filter_map(|(at, _)| frame::decode(&bytes[at..])).map(|(found, ..)| found).find(|found| *found > number)
}

fn head(number: u64, base: u64) -> [u8; HEAD_BYTES] {
    let mut bytes = [0; HEAD_BYTES];
    bytes[..4].copy_from_slice(&MAGIC);
    bytes[4..12].copy_from_slice(&number.to_le_bytes());
    bytes[12..20].copy_from_slice(&base.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..20]);
    bytes[20..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The number of the batch before the file's first.
fn head_of(bytes: &[u8], number: u64) -> Option<u64> {
    let found = bytes.first_chunk::<HEAD_BYTES>()?;
    let base = u64::from_le_bytes(found[12..20].try_into().ok()?);
    (*found == head(number, base)).then_some(base)
}

fn name(number: u64) -> String {
    format!("{number:016}.{EXTENSION}")
}

/// The numbers of the files that are there, ascending.
fn files(dir: &Path) -> Result<Vec<u64>, StoreError> {
    let list = || -> io::Result<Vec<u64>> {
        let mut numbers = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                numbers.extend(path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<u64>().ok()));
            }
        }
        numbers.sort_unstable();
        Ok(numbers)
    };
    list().map_err(failed("listing the journal"))
}

fn remove(dir: &Path, numbers: &[u64]) -> Result<(), StoreError> {
    for number in numbers {
        fs::remove_file(dir.join(name(*number))).map_err(failed("removing a file of the journal"))?;
        crash::point(Point::JournalRemoved);
    }
    if numbers.is_empty() { Ok(()) } else { sync_directory(dir) }
}

/// Removes the files that sled covers now.
pub(super) fn remove_through(store: &Path, through: u64) -> Result<(), StoreError> {
    let dir = store.join(JOURNAL);
    let covered: Vec<u64> = files(&dir)?.into_iter().filter(|number| *number <= through).collect();
    remove(&dir, &covered)
}

/// The end of the journal that is written to, on a thread of its own: a disk that hangs would hold its caller for ever.
pub(super) struct Log {
    /// The file written to.
    file: u64,
    /// There until the end.
    jobs: Option<SyncSender<Job>>,
    results: Receiver<Result<(), StoreError>>,
    thread: Option<JoinHandle<()>>,
    failure: Arc<Failure>,
}

enum Job {
    Append {
        frame: Vec<u8>,
        number: u64,
    },
    /// The next file.
    Begin {
        file: u64,
    },
}

struct Writer {
    dir: PathBuf,
    file: File,
    /// Where the last frame in it ends.
    end: u64,
    /// How long it is, with the zeros.
    length: u64,
    mark: Mark,
    /// The last batch written.
    number: u64,
}

impl Log {
    pub(super) fn start(store: &Path, recovered: Recovered, failure: Arc<Failure>) -> Result<Self, StoreError> {
        let Recovered { number, file, mark, .. } = recovered;
        let (dir, file) = (store.join(JOURNAL), file + 1);
        let head = HEAD_BYTES as u64;
        let mut writer = Writer { file: begin(&dir, file, number)?, end: head, length: head, dir, mark, number };
        // one job at a time: the store holds a lock around it
        let (jobs, queue) = mpsc::sync_channel(1);
        let (done, results) = mpsc::sync_channel(1);
        let run = move || {
            for job in queue {
                let result = writer.run(job);
                let stop = result.is_err();
                if done.send(result).is_err() || stop {
                    return;
                }
            }
            writer.cut();
        };
        let thread = thread::Builder::new().name("store-journal".into()).spawn(run);
        let thread = thread.map_err(failed("starting the thread that writes the journal"))?;
        Ok(Self { file, jobs: Some(jobs), results, thread: Some(thread), failure })
    }

    /// Returns when the frame of batch `number` is durable. After an `Err` nothing may be written any more.
    pub(super) fn append(&self, frame: Vec<u8>, number: u64) -> Result<(), StoreError> {
        self.run(Job::Append { frame, number })
    }

    /// Closes the file and begins the next; gives the number of the closed one.
    pub(super) fn rotate(&mut self) -> Result<u64, StoreError> {
        let closed = self.file;
        self.run(Job::Begin { file: closed + 1 })?;
        self.file = closed + 1;
        Ok(closed)
    }

    fn run(&self, job: Job) -> Result<(), StoreError> {
        // a thread that has ended has closed the results as well
        let _ = self.jobs.as_ref().map(|jobs| jobs.send(job));
        wait_for(&self.results, &self.failure)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.jobs = None;
        // one whose disk has failed may never end
        if self.failure.check().is_ok()
            && let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that writes the journal has died");
        }
    }
}

impl Writer {
    fn run(&mut self, job: Job) -> Result<(), StoreError> {
        match job {
            Job::Append { frame, number } => {
                self.append(&frame)?;
                self.number = number;
                self.mark.set(number).map_err(failed("writing COMMITTED of the journal"))
            }
            Job::Begin { file } => {
                self.cut();
                self.file = begin(&self.dir, file, self.number)?;
                (self.end, self.length) = (HEAD_BYTES as u64, HEAD_BYTES as u64);
                Ok(())
            }
        }
    }

    fn append(&mut self, frame: &[u8]) -> Result<(), StoreError> {
        let end = self.end + frame.len() as u64;
        if end > self.length {
            // behind the frame; the sync makes both durable
            self.file.write_all_at(&AHEAD, end).map_err(failed("writing the journal"))?;
            self.length = end + AHEAD.len() as u64;
        }
        self.file.write_all(frame).map_err(failed("writing the journal"))?;
        self.end = end;
        crash::point(Point::JournalWritten);
        self.file.sync_data().map_err(failed("syncing the journal"))?;
        crash::point(Point::JournalSynced);
        Ok(())
    }

    /// Takes the zeros off a file that is closed. For the disk's sake only: they may as well stay.
    fn cut(&mut self) {
        if let Err(error) = self.file.set_len(self.end) {
            tracing::debug!(%error, "a closed file of the journal keeps its zeros");
        }
    }
}

/// Creates a file, durably, with its head. One that an open has found without a head is written over.
fn begin(dir: &Path, number: u64, base: u64) -> Result<File, StoreError> {
    let create = || -> io::Result<File> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(dir.join(name(number)))?;
        file.write_all(&head(number, base))?;
        file.sync_all()?;
        Ok(file)
    };
    let file = create().map_err(failed("beginning a file of the journal"))?;
    sync_directory(dir)?;
    crash::point(Point::JournalBegun);
    Ok(file)
}
