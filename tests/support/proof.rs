//! What a proof has measured, for people and for machines: one line of the summary that ends `make test`, and its
//! figures in `target/reliability.json`.
//!
//! A proof is a test that counts: crashes, seeds, power cuts. Never here: a judgement; a proof that fails, fails as a
//! test, and records nothing.

#![allow(dead_code)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Where proofs leave their figures; `tests/run.sh` empties it first and joins what it finds.
fn directory() -> PathBuf {
    let root = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    root.join("reliability")
}

/// Records a proof. `name` orders the summary (`10-crash-points`), `line` is what stands in it, and `figures` say the
/// same in numbers, with the seed and the faults really injected.
pub fn record(name: &str, line: &str, figures: &Value) {
    let directory = directory();
    std::fs::create_dir_all(&directory).expect("a directory for figures");
    std::fs::write(directory.join(format!("{name}.txt")), format!("{line}\n")).expect("written");
    std::fs::write(directory.join(format!("{name}.json")), format!("{figures}\n")).expect("written");
    println!("{line}");
}

/// How long a proof goes on. Without a budget it does its short form, a fixed number of rounds.
pub struct Budget {
    until: Option<Instant>,
    short: u64,
}

impl Budget {
    /// The short form is `short` rounds; with `PROOF_SECONDS` set (`make soak`) it goes on for so long instead.
    pub fn rounds(short: u64) -> Self {
        let seconds = std::env::var("PROOF_SECONDS").ok().map(|text| text.parse().expect("PROOF_SECONDS is a number of seconds"));
        Self { until: seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds)), short }
    }

    /// Whether another round is to be done after `done`.
    pub fn goes_on(&self, done: u64) -> bool {
        match self.until {
            Some(until) => Instant::now() < until,
            None => done < self.short,
        }
    }

    /// Whether this is the long form.
    pub fn is_long(&self) -> bool {
        self.until.is_some()
    }
}

/// The seed of a proof: `PROOF_SEED`, or the fixed one, so that two runs of one commit do the same.
pub fn seed(fixed: u64) -> u64 {
    std::env::var("PROOF_SEED").ok().map_or(fixed, |text| text.parse().expect("PROOF_SEED is a number"))
}
