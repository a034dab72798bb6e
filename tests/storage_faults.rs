//! Disks that fail: the real service, a real broker, and a kernel that says no.
//!
//! ```text
//! events, one by one ──▶ serve ──▶ store on a disk that fails just now (strace, a full tmpfs)
//!                          └──▶ exit 74, one clear line, nothing acked, nothing published
//! cause gone, started again ──▶ the same event once more ──▶ in the end everything as in a replay
//! ```
//! Faults are met one after the other by one installation, so that each also finds what the earlier ones have left.
//!
//! Needs a broker, strace, and for a full disk the right to mount a tmpfs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "storage_faults/damage.rs"]
mod damage;
#[path = "support/dice.rs"]
mod dice;
#[path = "service/outside.rs"]
mod outside;
#[path = "service/process.rs"]
mod process;
#[path = "support/proof.rs"]
mod proof;
mod service;
#[path = "service/steps.rs"]
mod steps;
#[path = "storage_faults/strace.rs"]
mod strace;
#[path = "storage_faults/tmpfs.rs"]
mod tmpfs;

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dice::Dice;
use outside::{Outside, Sent};
use process::Process;
use proof::Budget;
use remedyd::store::journal::JournalStore;
use remedyd::store::sled::SledSettings;
use serde_json::json;
use service::{check_same_state, sample};
use steps::{Ledger, Step, replayed_state_of, steps_of, stopped_state};
use strace::{Attached, Injection, NEWEST, NEXT};
use tempfile::TempDir;
use tmpfs::SmallDisk;

/// Of reading or writing the store (src/cli/exit.rs).
const STORE_IO: i32 = 74;
/// Of a store that is locked, damaged or newer.
const STORE_OPEN: i32 = 73;
/// A sync over 10 s is taken for hanging; the rest is the end of a process on a busy machine.
const HANGING: std::ops::Range<Duration> = Duration::from_secs(10)..Duration::from_secs(25);

/// A fault, and what the service has to say of it.
struct Fault {
    kind: &'static str,
    injection: Injection,
    says: [&'static str; 2],
}

const fn fault(kind: &'static str, rule: &'static str, file: &'static str, says: [&'static str; 2]) -> Fault {
    Fault { kind, injection: Injection { rule, file }, says }
}

const EIO: &str = "Input/output error";
const ENOSPC: &str = "No space left on device";
const HANGS: [&str; 2] = ["a sync of the store took longer than 10 s", ""];

/// While events are coming, each of which is a commit to the journal. A failed fdatasync is to be the last one, of
/// whatever file.
const RUNNING: [Fault; 7] = [
    fault("EIO on fdatasync", "fdatasync:error=EIO", "", ["syncing the journal", EIO]),
    fault("ENOSPC on fdatasync", "fdatasync:error=ENOSPC", "", ["syncing the journal", ENOSPC]),
    fault("EIO on write", "write:error=EIO", NEWEST, ["writing the journal", EIO]),
    fault("ENOSPC on write", "write:error=ENOSPC", NEWEST, ["writing the journal", ENOSPC]),
    fault("EIO on the journal's count", "pwrite64:error=EIO", "journal/COMMITTED", ["writing COMMITTED of the journal", EIO]),
    fault("hanging sync", "fdatasync:delay_enter=60000000", NEWEST, HANGS),
    fault("hanging write", "write:delay_enter=60000000", NEWEST, HANGS),
];

/// When an event has filled the overlay, and a file of the journal is begun: this fails the commit.
const ROTATING: [Fault; 2] = [
    fault("EIO on creating a file", "openat:error=EIO", NEXT, ["beginning a file of the journal", EIO]),
    fault("ENOSPC on the head of a file", "write:error=ENOSPC", NEXT, ["beginning a file of the journal", ENOSPC]),
];

/// While a checkpoint is under way: that commit has succeeded, the next is refused.
const CHECKPOINT: [Fault; 7] = [
    fault("EIO on fdatasync of sled", "fdatasync:error=EIO", "db", ["syncing db of the store", EIO]),
    fault("EIO on write of sled", "pwrite64:error=EIO", "db", ["store I/O failed", EIO]),
    fault("EIO on write-back of sled", "sync_file_range:error=EIO", "db", ["store I/O failed", EIO]),
    fault("EIO on the commit count", "pwrite64:error=EIO", "COMMITTED", ["writing COMMITTED of the store", EIO]),
    fault("EIO on removing a file", "unlink:error=EIO", "", ["removing a file of the journal", EIO]),
    fault("hanging sync of sled", "fdatasync:delay_enter=60000000", "db", HANGS),
    fault("hanging removal", "unlink:delay_enter=60000000", "", HANGS),
];

/// While it starts on what an earlier run has left.
const OPENING: [Fault; 5] = [
    fault("EIO on read at open", "pread64:error=EIO", "db", ["store I/O failed", EIO]),
    fault("EIO on reading the journal", "read:error=EIO", NEWEST, ["reading the journal", EIO]),
    fault("EIO on fsync at open", "fsync:error=EIO", "", ["store I/O failed", EIO]),
    fault("ENOSPC on creating a file at open", "openat:error=ENOSPC", NEXT, ["beginning a file of the journal", ENOSPC]),
    fault("ENOSPC on rename at open", "rename:error=ENOSPC", "", ["store I/O failed", ENOSPC]),
];

/// As sled leaves it behind when it is killed between writing and renaming its snapshot.
const KILLED_OPENING: Injection = Injection { rule: "rename:signal=KILL", file: "" };

/// Where an event is to begin a file of the journal, and the next one a checkpoint: less than an event writes, and more than
/// the removal of what it has published (src/store/journal/mod.rs).
const CHECKPOINT_BYTES: usize = 1024;

/// How often each kind of fault really happened.
#[derive(Default)]
struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    fn count(&mut self, kind: &'static str, times: u64) {
        *self.0.entry(kind).or_default() += times;
    }
}

/// One installation, and the events that are played into it.
struct Play {
    outside: Outside,
    ledger: Ledger,
    store: PathBuf,
    trace: PathBuf,
    steps: Vec<Step>,
    next: usize,
}

impl Play {
    async fn new(test: &str, store: &Path, scratch: &Path, lines: &[Vec<u8>]) -> Self {
        let mut outside = Outside::connect(test).await;
        outside.apply_topology();
        outside.listen().await;
        let (store, trace) = (store.to_owned(), scratch.join("trace"));
        Self { outside, ledger: Ledger::default(), store, trace, steps: steps_of(test, lines), next: 0 }
    }

    fn partition(&self) -> PathBuf {
        self.store.join("p0")
    }

    async fn start(&self) -> Process {
        self.outside.start(&self.store).await
    }

    /// Sends the next event.
    async fn send(&mut self) -> usize {
        let step = self.next;
        self.outside.send(&Sent::structured(&self.steps[step].event)).await;
        self.next += 1;
        step
    }

    /// Waits for what comes of an event.
    async fn settle(&mut self, step: usize) {
        self.ledger.settle(&mut self.outside, &self.steps[step]).await;
    }

    async fn play(&mut self) {
        let step = self.send().await;
        self.settle(step).await;
    }

    /// The service ends by itself, and says why in one line.
    async fn check_end(&self, mut service: Process, exit: i32, says: &[&str]) -> Vec<String> {
        let status = service.end().await;
        let said: Vec<&String> = service.log.iter().filter(|line| line.starts_with("remedyd: ")).collect();
        assert_eq!(status.code(), Some(exit), "{says:?}: {:#?}", service.log);
        assert!(said.len() == 1 && says.iter().all(|says| said[0].contains(says)), "{says:?}: {:#?}", service.log);
        assert!(!service.log.iter().any(|line| line.contains("panicked")), "{says:?}: {:#?}", service.log);
        service.log.clone()
    }

    /// A fault that meets the next event: nothing comes of it, until the service is started on a sound disk again.
    async fn fail(&mut self, mut service: Process, fault: &Fault, tally: &mut Tally) -> Process {
        let strace = Attached::to(service.id(), fault.injection, &self.partition(), &self.trace);
        let (began, step) = (Instant::now(), self.send().await);
        if fault.says == HANGS {
            service.line_with(&["remedyd: ", HANGS[0]]).await;
            assert!(HANGING.contains(&began.elapsed()), "{}: it took {:?}", fault.kind, began.elapsed());
        }
        let injected = self.end_under(strace, service, fault).await;
        assert!(injected > 0, "{}: not injected", fault.kind);
        if fault.injection.rule.starts_with("fdatasync") {
            assert_eq!(injected, 1, "{}: a failed sync was tried again", fault.kind);
        }
        tally.count(fault.kind, injected);
        self.check_silence(fault.kind).await;
        let service = self.start().await;
        self.settle(step).await;
        service
    }

    /// The end of a service that has met `fault`; how often it has met it.
    async fn end_under(&self, strace: Attached, service: Process, fault: &Fault) -> u64 {
        if fault.says == HANGS {
            // strace would hold the process for as long as the call that hangs
            drop(strace);
            self.check_end(service, STORE_IO, &fault.says).await;
            return 1;
        }
        self.check_end(service, STORE_IO, &fault.says).await;
        strace.injected() as u64
    }

    /// Gives sled something new, which makes its next open write a snapshot. The service must not be running.
    fn checkpoint(&self) {
        let store = JournalStore::open(&self.partition(), SledSettings::default()).unwrap();
        store.checkpoint().unwrap();
    }

    /// Starts the service anew, to be one whose next event begins a file of the journal, and whose second a checkpoint.
    async fn before_a_checkpoint(&self, service: Process) -> Process {
        service.stop().await;
        self.checkpoint();
        let mut command = self.outside.serve(&self.store);
        command.env("REMEDYD_CHECKPOINT_BYTES", CHECKPOINT_BYTES.to_string());
        let mut service = Process::start(command);
        service.line("ready").await;
        service
    }

    /// A fault that meets a checkpoint: the event that began it is safe, nothing comes of the next.
    async fn fail_in_checkpoint(&mut self, service: Process, fault: &Fault, tally: &mut Tally) -> Process {
        let mut service = self.before_a_checkpoint(service).await;
        self.play().await;
        let strace = Attached::to(service.id(), fault.injection, &self.partition(), &self.trace);
        let (began, first) = (Instant::now(), self.send().await);
        let said = service.line_with(&["a checkpoint has failed", fault.says[0], fault.says[1]]).await;
        assert!(fault.says != HANGS || HANGING.contains(&began.elapsed()), "{}: it took {:?}: {said}", fault.kind, began.elapsed());
        let second = self.send().await;
        let injected = self.end_under(strace, service, fault).await;
        assert!(injected > 0, "{}: not injected", fault.kind);
        if fault.injection.rule.starts_with("fdatasync") {
            assert_eq!(injected, 1, "{}: a failed sync was tried again", fault.kind);
        }
        tally.count(fault.kind, injected);
        let (status, dead_letters) = self.outside.rest().await;
        let too_late = status.iter().filter(|got| self.steps[second].outbound.contains(&got.body)).count();
        assert_eq!(too_late + dead_letters.len(), 0, "{}: published after the failure: {status:#?}, {dead_letters:#?}", fault.kind);
        status.iter().for_each(|got| self.ledger.hear(got));
        let service = self.start().await;
        self.settle(first).await;
        self.settle(second).await;
        service
    }

    /// Nothing was published that has not been heard.
    async fn check_silence(&mut self, kind: &str) {
        let (status, dead_letters) = self.outside.rest().await;
        let published = status.len() + dead_letters.len();
        assert_eq!(published, 0, "{kind}: published after the failure: {status:#?}, {dead_letters:#?}");
    }

    /// A fault that meets a start: it ends, and the next one is as if nothing had been.
    async fn fail_to_open(&mut self, fault: &Fault, tally: &mut Tally) {
        self.checkpoint();
        let command = fault.injection.around(&self.partition(), &self.trace, &self.outside.serve(&self.store));
        self.check_end(Process::start(command), STORE_IO, &fault.says).await;
        let injected = strace::injected(&self.trace) as u64;
        assert!(injected > 0, "{}: not injected", fault.kind);
        tally.count(fault.kind, injected);
        let service = self.start().await;
        self.play().await;
        service.stop().await;
    }

    /// Everything that was sent has come to what a replay says, and the store holds nothing else.
    async fn finish(mut self, lines: &[Vec<u8>]) {
        assert_eq!(self.next, self.steps.len(), "not every event was played");
        self.ledger.finish(&mut self.outside).await;
        self.ledger.check_against(&self.outside, &self.steps);
        check_same_state(&stopped_state(&self.store), &replayed_state_of(lines));
        self.outside.clean().await;
    }
}

/// `count` events: reports that are created, and closed by the next event. No host has a part in them, whose work would
/// not be known after a failure.
fn events(count: usize) -> Vec<Vec<u8>> {
    let pair = sample("no-remediation");
    let of = |report: usize| pair.iter().map(move |event| numbered(event, report));
    (2_001..).flat_map(of).take(count).collect()
}

fn numbered(event: &[u8], report: usize) -> Vec<u8> {
    let text = String::from_utf8(event.to_vec()).unwrap();
    text.replace("1004", &report.to_string()).replace("\"p-30\"", &format!("\"p-30-{report}\"")).into_bytes()
}

fn leftovers(partition: &Path) -> Vec<String> {
    let names = fs::read_dir(partition).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name.ends_with(".generating")).collect()
}

/// One installation meets every fault that strace can make, in an order from the seed.
async fn on_a_failing_disk(seed: u64, tally: &mut Tally) {
    let dir = TempDir::new().unwrap();
    let mut dice = Dice(seed);
    let lines = events(1 + RUNNING.len() + ROTATING.len() + 3 * CHECKPOINT.len() + 1 + OPENING.len() + 3 + 1);
    let mut play = Play::new("disk", &dir.path().join("store"), dir.path(), &lines).await;
    let mut service = play.start().await;
    play.play().await;
    let mut faults: VecDeque<&Fault> = RUNNING.iter().collect();
    while !faults.is_empty() {
        faults.rotate_left(dice.roll(faults.len() as u64) as usize);
        let fault = faults.pop_front().expect("not empty");
        service = play.fail(service, fault, tally).await;
    }
    for fault in &ROTATING {
        service = play.before_a_checkpoint(service).await;
        service = play.fail(service, fault, tally).await;
    }
    for fault in &CHECKPOINT {
        service = play.fail_in_checkpoint(service, fault, tally).await;
    }
    // a second process, which the first does not notice
    let second = Process::start(play.outside.serve(&play.store));
    play.check_end(second, STORE_OPEN, &["in use by another process"]).await;
    tally.count("second process", 1);
    play.play().await;
    service.stop().await;

    for fault in &OPENING {
        play.fail_to_open(fault, tally).await;
    }
    killed_while_opening(&mut play, tally).await;
    newer_format(&mut play, tally).await;
    let service = play.start().await;
    play.play().await;
    service.stop().await;
    let partition = play.partition();
    play.finish(&lines).await;
    damage::check(&partition, dir.path(), &mut dice, |kind, times| tally.count(kind, times));
}

/// What a kill leaves where sled writes its snapshot; and the same file empty, and cut.
async fn killed_while_opening(play: &mut Play, tally: &mut Tally) {
    let partition = play.partition();
    play.checkpoint();
    let command = KILLED_OPENING.around(&partition, &play.trace, &play.outside.serve(&play.store));
    let mut service = Process::start(command);
    assert_eq!(service.end().await.code(), None, "not ended by the signal: {:#?}", service.log);
    let left = leftovers(&partition);
    assert_eq!(left.len(), 1, "a kill while sled renames its snapshot leaves it behind");
    let whole = fs::read(partition.join(&left[0])).unwrap();
    tally.count("killed while opening", 1);
    for (kind, content) in
        [("killed while opening", &whole[..]), ("empty snapshot left behind", &[]), ("cut snapshot left behind", &whole[..whole.len() / 2])]
    {
        fs::write(partition.join("snap.00000000FFFFFFFF.generating"), content).unwrap();
        let service = play.start().await;
        assert!(leftovers(&partition).is_empty(), "{kind}: not set aside");
        play.play().await;
        service.stop().await;
        if content.len() < whole.len() {
            tally.count(kind, 1);
        }
    }
}

/// A store that a newer version has written is left alone.
async fn newer_format(play: &mut Play, tally: &mut Tally) {
    let format = play.partition().join("FORMAT");
    let text = fs::read_to_string(&format).unwrap();
    let newer = text.replace("\nformat 1\n", "\nformat 2\n");
    assert_ne!(newer, text);
    fs::write(&format, &newer).unwrap();
    let refused = Process::start(play.outside.serve(&play.store));
    play.check_end(refused, STORE_OPEN, &["has format 2, this version reads up to 1"]).await;
    assert_eq!(fs::read_to_string(&format).unwrap(), newer);
    fs::write(&format, text).unwrap();
    tally.count("newer format", 1);
}

/// A disk that is full before there is a store, while it is written, and when it is opened. Says whether it could be had.
async fn on_a_full_disk(tally: &mut Tally) -> bool {
    /// Sent at once. Their rows are more than the journal writes ahead, where the first still find room.
    const BURST: usize = 96;
    const BODY_BYTES: usize = 24 * 1024;
    let dir = TempDir::new().unwrap();
    let Some(disk) = SmallDisk::mount(dir.path()) else { return false };
    let body = format!("\"body\":\"{}", "x".repeat(BODY_BYTES));
    let lines =
        events(1 + BURST + 1).into_iter().map(|line| String::from_utf8(line).unwrap().replacen("\"body\":\"", &body, 1).into_bytes());
    let lines: Vec<Vec<u8>> = lines.collect();
    let mut play = Play::new("full", &disk.path().join("store"), dir.path(), &lines).await;
    disk.fill();
    play.check_end(Process::start(play.outside.serve(&play.store)), STORE_IO, &["store I/O failed", ENOSPC]).await;
    tally.count("disk full at creation", 1);
    disk.make_room();
    let service = play.start().await;
    play.play().await;

    disk.fill();
    let mut burst = Step { event: Vec::new(), outbound: Vec::new(), dead_letters: Vec::new() };
    for _ in 0..BURST {
        let step = play.send().await;
        burst.outbound.extend(play.steps[step].outbound.iter().cloned());
    }
    play.check_end(service, STORE_IO, &["store I/O failed", ENOSPC]).await;
    tally.count("disk full while running", 1);

    play.check_end(Process::start(play.outside.serve(&play.store)), STORE_IO, &["store I/O failed", ENOSPC]).await;
    tally.count("disk full at open", 1);
    disk.make_room();
    let service = play.start().await;
    play.ledger.settle(&mut play.outside, &burst).await;
    play.play().await;
    service.stop().await;
    play.finish(&lines).await;
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failing_disk_loses_nothing() {
    let (seed, budget) = (proof::seed(50), Budget::rounds(1));
    let (mut tally, mut rounds, mut full) = (Tally::default(), 0, true);
    while budget.goes_on(rounds) {
        on_a_failing_disk(seed.wrapping_add(rounds), &mut tally).await;
        full &= on_a_full_disk(&mut tally).await;
        rounds += 1;
    }
    let mut line =
        format!("storage faults {}", tally.0.iter().map(|(kind, times)| format!("{kind}={times}")).collect::<Vec<_>>().join(", "));
    if !full {
        line.push_str("; disk full=0 (needs the right to mount)");
    }
    proof::record(
        "50-storage-faults",
        &line,
        &json!({ "seed": seed, "rounds": rounds, "faults": tally.0, "full_disk_run": full, "acked_lost": 0 }),
    );
}
