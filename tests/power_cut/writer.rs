//! The process that writes while the power is cut: this test binary, started once more.
//!
//! It opens the store, says how many batches it found (having compared every row), then commits batch after batch and
//! says so of each, until something fails:
//!
//! ```text
//! @opened 12
//! @acked 13
//! @acked 14
//! @failed store I/O failed while flushing a batch …
//! ```
//! Never here: an acknowledgement before `commit` has returned.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use remedyd::store::journal::JournalStore;
use remedyd::store::sled::{SledSettings, SledStore};
use remedyd::store::transfer::{Source, TransferError};
use remedyd::store::{Batch, Row, Store, StoreError};

use crate::content::{Content, check_archive};

const KIND: &str = "POWER_CUT_STORE";
const DIR: &str = "POWER_CUT_DIR";
const SEED: &str = "POWER_CUT_SEED";
/// The test that is the child when these are set.
const CHILD: &str = "the_writer_finds_what_it_wrote";
/// How long a writer may say nothing, and how long ours may take to find that its disk is gone.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Some 15 batches: a cut falls between two checkpoints as well as into one.
pub const CHECKPOINT_BYTES: u64 = 3_000_000;

/// What is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The service's own: a journal in front of sled.
    Store,
    /// What is behind the journal, without it: it keeps the contract as well.
    SledAlone,
    /// The first control: sled and its `flush`, without what the store does beyond that.
    BareSled,
    /// The second: the service's own, with a kernel that does nothing on `fdatasync` and says it has (strace).
    UnsyncedJournal,
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Store, Kind::SledAlone, Kind::BareSled, Kind::UnsyncedJournal];

    fn name(self) -> &'static str {
        match self {
            Kind::Store => "store",
            Kind::SledAlone => "sled alone",
            Kind::BareSled => "bare sled",
            Kind::UnsyncedJournal => "unsynced journal",
        }
    }

    /// It has to end when its disk has gone. A dead thread of bare sled keeps `flush` waiting for ever.
    pub fn must_end(self) -> bool {
        self != Kind::BareSled
    }

    /// Who looks at what it has left.
    pub fn reader(self) -> Self {
        match self {
            Kind::UnsyncedJournal => Kind::Store,
            kind => kind,
        }
    }

    /// Bare sled puts what is too large for a page into files of its own, which would be lost for another reason.
    pub fn content(self, seed: u64) -> Content {
        Content { seed, dead_letters: self != Kind::BareSled }
    }

    pub fn open(self, dir: &Path) -> Result<Box<dyn Written>, String> {
        let settings = SledSettings::default();
        let journal =
            |checkpoint_bytes| JournalStore::open_with(dir, settings.clone(), checkpoint_bytes).map_err(|error| error.to_string());
        let store: Box<dyn Written> = match self {
            Kind::Store => Box::new(journal(CHECKPOINT_BYTES)?),
            // no checkpoint: nothing but the journal's own sync can make the difference
            Kind::UnsyncedJournal => Box::new(journal(u64::MAX)?),
            Kind::SledAlone => Box::new(SledStore::open(dir, settings).map_err(|error| error.to_string())?),
            Kind::BareSled => Box::new(BareSled::open(dir).map_err(|error| error.to_string())?),
        };
        Ok(store)
    }

    /// The program, as this kind of writer.
    fn command(self) -> Command {
        let program = std::env::current_exe().expect("this binary");
        if self != Kind::UnsyncedJournal {
            return Command::new(program);
        }
        let mut command = Command::new("strace");
        command.args(["-f", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", "inject=fdatasync:retval=0"]).arg(program);
        command
    }
}

/// A store, and what is in its archive.
pub trait Written: Store {
    /// The batches that the archive has a line of; `None` where there is no archive to be asked.
    fn archived(&self) -> Result<Option<BTreeSet<u64>>, TransferError> {
        Ok(None)
    }
}

impl Written for JournalStore {
    fn archived(&self) -> Result<Option<BTreeSet<u64>>, TransferError> {
        let mut numbers = BTreeSet::new();
        self.snapshot()?.archive(&mut |line| {
            numbers.extend(std::str::from_utf8(line).ok().and_then(|line| line.parse::<u64>().ok()));
            Ok(())
        })?;
        Ok(Some(numbers))
    }
}

impl Written for SledStore {}
impl Written for BareSled {}

/// What a store is that takes sled's `flush` for a sync. Written like ours (same segments, rows that stay
/// in the one file), so that nothing but that can make the difference.
struct BareSled(sled::Db);

impl BareSled {
    fn open(dir: &Path) -> sled::Result<Self> {
        let segment_size = SledSettings::default().segment_bytes;
        sled::Config::new().path(dir).segment_size(segment_size).cache_capacity(SledSettings::default().cache_bytes).open().map(Self)
    }
}

impl Store for BareSled {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.0.get(key).map_err(sled_error)?.map(|value| value.to_vec()))
    }

    fn scan(&self, prefix: &[u8], _from: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        let rows = self.0.scan_prefix(prefix).take(limit);
        rows.map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())).map_err(sled_error)).collect()
    }

    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        let mut out = sled::Batch::default();
        for (key, value) in &batch.writes {
            match value {
                Some(value) => out.insert(key.as_ref(), value.as_ref()),
                None => out.remove(key.as_ref()),
            }
        }
        self.0.apply_batch(out).map_err(sled_error)?;
        self.0.flush().map(drop).map_err(sled_error)
    }
}

fn sled_error(error: sled::Error) -> StoreError {
    StoreError::Io { doing: "using sled", source: std::io::Error::other(error) }
}

/// Is the child, if this process is one; then it does not return.
pub fn be_the_child() {
    let Ok(kind) = std::env::var(KIND) else { return };
    let kind = Kind::ALL.into_iter().find(|known| known.name() == kind).expect("a known kind");
    let seed = std::env::var(SEED).expect("a seed").parse().expect("a number");
    let dir = std::env::var(DIR).expect("a directory");
    let failed = write(kind, Path::new(&dir), seed, u64::MAX, |line| println!("@{line}")).expect_err("it writes until something fails");
    println!("@failed {failed}");
    // without closing the store: the power is gone
    std::process::exit(1);
}

/// Writes until there are `until` batches. Says what it does through `say`.
pub fn write(kind: Kind, dir: &Path, seed: u64, until: u64, say: impl Fn(String)) -> Result<(), String> {
    let store = kind.open(dir)?;
    let content = kind.content(seed);
    let found = content.check(store.scan(b"", b"", usize::MAX).map_err(|error| error.to_string())?)?;
    // not each time: it freezes the overlay, and a cut is to find others as well, on a new disk above all
    if found % 3 == 2
        && let Some(lines) = store.archived().map_err(|error| error.to_string())?
    {
        check_archive(found, &lines)?;
    }
    say(format!("opened {found}"));
    for number in found + 1..=until {
        store.commit(&content.batch(number)).map_err(|error| error.to_string())?;
        say(format!("acked {number}"));
    }
    Ok(())
}

/// A line of the child.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    Opened(u64),
    Acked(u64),
    Failed(String),
}

impl Said {
    /// libtest writes on the same pipe, and does not always end its line.
    fn of(line: &str) -> Option<Self> {
        let (word, rest) = line.split_once('@')?.1.split_once(' ')?;
        match word {
            "opened" => rest.parse().ok().map(Self::Opened),
            "acked" => rest.parse().ok().map(Self::Acked),
            "failed" => Some(Self::Failed(rest.to_owned())),
            _ => None,
        }
    }
}

/// A running child. Dropping it kills it.
pub struct Writer {
    child: Child,
    said: Receiver<Said>,
}

impl Writer {
    pub fn start(kind: Kind, dir: &Path, seed: u64) -> Self {
        let mut command = kind.command();
        command.args(["--exact", CHILD, "--nocapture", "--test-threads=1"]);
        command.env(KIND, kind.name()).env(DIR, dir).env(SEED, seed.to_string());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts (the second control needs strace)");
        let (tell, said) = mpsc::channel();
        let stdout = child.stdout.take().expect("piped");
        thread::spawn(move || {
            for said in BufReader::new(stdout).lines().map_while(Result::ok).filter_map(|line| Said::of(&line)) {
                // a test that has ended reads no more
                let _ = tell.send(said);
            }
        });
        Self { child, said }
    }

    /// The next thing it says; `None` if it has ended, or says nothing any more.
    pub fn next(&self) -> Option<Said> {
        self.said.recv_timeout(PATIENCE).ok()
    }

    /// What it says in the next `time`.
    pub fn for_a(&self, time: Duration) -> Vec<Said> {
        let (until, mut all) = (Instant::now() + time, Vec::new());
        loop {
            match self.said.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(said) => all.push(said),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return all,
            }
        }
    }

    /// Everything it says until it ends by itself; whether it did so within `patience`.
    pub fn rest(mut self, patience: Duration) -> (Vec<Said>, bool) {
        let (until, mut all) = (Instant::now() + patience, Vec::new());
        loop {
            match self.said.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(said) => all.push(said),
                Err(RecvTimeoutError::Disconnected) => {
                    let ended = self.child.wait().is_ok();
                    return (all, ended);
                }
                Err(RecvTimeoutError::Timeout) => return (all, false),
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // it may have ended already
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
