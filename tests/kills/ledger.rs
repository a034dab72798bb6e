//! The external ledger: what was published and confirmed, what came back, when somebody died. Each entry is on the
//! disk before the next step is taken: before a publication, and before what was heard is acked.
//!
//! Never here: a judgement, or a look at what the service has stored.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// About to be published, once more if the connection was lost before its confirm.
    Sending(Sending),
    /// The broker has it in a queue.
    Confirmed {
        id: String,
        digest: String,
    },
    /// An outbound event.
    Heard(Heard),
    DeadLetter(Heard),
    /// The service was killed, or lost its broker: where or how.
    Crash {
        how: String,
    },
    /// A report that has to be closed in the end.
    Wanted {
        tenant: String,
        report: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sending {
    /// Of the event; rubbish has one for the ledger only.
    pub id: String,
    pub kind: String,
    pub tenant: String,
    pub digest: String,
    pub fate: Fate,
}

/// What has to come of a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// Outbound events of these types name it as their cause, each of them once for the same thing.
    Applied { effects: Vec<String>, report: u64 },
    /// A survey: what comes of it depends on when it comes.
    Observed,
    /// The same bytes as an earlier one: nothing.
    Duplicate,
    /// A dead letter with this reason.
    Refused { reason: String },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Heard {
    /// The broker has handed it to us before: a copy of ours, not of the service's.
    pub redelivered: bool,
    pub routing_key: String,
    /// Everything beside the body, printed.
    pub properties: String,
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

pub struct Ledger {
    file: File,
    unwritten: Vec<u8>,
}

impl Ledger {
    pub fn create(path: &Path) -> Self {
        let file = OpenOptions::new().create_new(true).append(true).open(path).expect("a new ledger");
        Self { file, unwritten: Vec::new() }
    }

    pub fn note(&mut self, entry: &Entry) {
        serde_json::to_writer(&mut self.unwritten, entry).unwrap();
        self.unwritten.push(b'\n');
    }

    /// What was noted is on the disk when this returns.
    pub fn sync(&mut self) {
        if !self.unwritten.is_empty() {
            self.file.write_all(&self.unwritten).expect("the ledger can be written");
            self.file.sync_data().expect("the ledger can be synced");
            self.unwritten.clear();
        }
    }
}

pub fn read(path: &Path) -> Vec<Entry> {
    let lines = BufReader::new(File::open(path).expect("a ledger")).lines();
    lines.map(|line| serde_json::from_str(&line.unwrap()).expect("a whole entry")).collect()
}

/// Names bytes in the ledger.
pub fn digest(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
