//! What the end-to-end tests share: the binary itself, run as a user runs it.
//!
//! Never here: an assertion on what the service decides, or a sleep to wait for something.

// Each test binary compiles this file and uses its part of it.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use remedyd::store::journal::JournalStore;
use remedyd::store::sled::SledSettings;
use remedyd::store::{Row, Store, keys};
use serde_json::Value;

/// `remedyd` with nothing of this process's environment, which may hold settings, and without the ops port: tests run side
/// by side.
pub fn remedyd<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remedyd"));
    command.env_clear().env("REMEDYD_OPS__LISTEN", "").args(args);
    command
}

pub fn sample_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples").join(format!("{name}.ndjson"))
}

/// The events of a sample, one each.
pub fn sample(name: &str) -> Vec<Vec<u8>> {
    let bytes = fs::read(sample_path(name)).unwrap();
    bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect()
}

/// The lines as a file.
pub fn join(lines: &[Vec<u8>], ending: &[u8]) -> Vec<u8> {
    lines.iter().flat_map(|line| [line.as_slice(), ending].concat()).collect()
}

/// What a replay came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Replayed {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub dead_letters: Vec<Value>,
    pub summary: Value,
}

impl Replayed {
    /// The bodies of the outbound events.
    pub fn lines(&self) -> Vec<Vec<u8>> {
        self.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect()
    }

    pub fn events(&self) -> Vec<Value> {
        self.lines().iter().map(|line| serde_json::from_slice(line).unwrap()).collect()
    }

    #[track_caller]
    pub fn count(&self, counter: &str) -> u64 {
        self.summary["summary"][counter].as_u64().unwrap_or_else(|| panic!("no counter {counter} in {}", self.summary))
    }
}

/// Runs `remedyd replay` among the samples. It must end well, and everything in it must balance.
#[track_caller]
pub fn replay<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Replayed {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples");
    let output = remedyd(["replay"]).args(args).current_dir(samples).output().unwrap();
    let Output { status, stdout, stderr } = output;
    let text = String::from_utf8(stderr.clone()).unwrap();
    assert!(status.success(), "{status}: {text}");
    let mut lines: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in stderr: {line}"))).collect();
    let summary = lines.pop().expect("a summary line on stderr");
    assert_eq!(summary["balances"], true, "{summary}");
    Replayed { stdout, stderr, dead_letters: lines, summary }
}

/// Replays `lines` from a file of their own.
#[track_caller]
pub fn replay_lines(lines: &[Vec<u8>], args: &[&str]) -> Replayed {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("events.ndjson");
    fs::write(&file, join(lines, b"\n")).unwrap();
    replay(std::iter::once(file.as_os_str()).chain(args.iter().map(OsStr::new)))
}

/// `sequence` counts 1, 2, 3 … per tenant and subject, and the ids say the same.
#[track_caller]
pub fn check_sequences(events: &[Value]) {
    let mut last: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for event in events {
        let (tenant, subject) = (event["tenantid"].as_str().unwrap(), event["subject"].as_str().unwrap());
        let sequence: u64 = event["sequence"].as_str().unwrap().parse().unwrap();
        let last = last.entry((tenant, subject)).or_default();
        assert_eq!(sequence, *last + 1, "a gap in the sequence of {tenant} {subject}: {event}");
        assert_eq!(event["id"], format!("{tenant}:{subject}:{sequence}"));
        *last = sequence;
    }
}

/// Everything a stopped service knows of its tenants: reports, subjects, timers, parked events, ids applied, the
/// time. Outbox and dead letters are for the broker's side to judge.
pub fn state(store: &Path) -> Vec<Row> {
    let store = JournalStore::open(store, SledSettings::default()).expect("the store opens");
    let all = |prefix: &[u8]| store.scan(prefix, b"", usize::MAX).unwrap();
    let kinds = [keys::REPORTS, keys::SUBJECTS, keys::TIMERS, keys::OPEN_ATTEMPTS, keys::PARKED, keys::INBOX, keys::CLOCK];
    kinds.into_iter().flat_map(all).collect()
}

/// Rows that nobody has confirmed.
pub fn outbox_rows(store: &Path) -> usize {
    let store = JournalStore::open(store, SledSettings::default()).expect("the store opens");
    store.scan(keys::OUTBOX, b"", usize::MAX).unwrap().len()
}

/// The same rows, told by their keys if they are not.
#[track_caller]
pub fn check_same_state(found: &[Row], expected: &[Row]) {
    let shown = |rows: &[Row]| -> Vec<(String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        rows.iter().map(|(key, value)| (text(key), text(value))).collect()
    };
    assert!(!expected.is_empty(), "there is no state to compare with");
    assert_eq!(shown(found), shown(expected));
}
