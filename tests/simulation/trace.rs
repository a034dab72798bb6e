//! The trace: what happened in a simulation, in order. All of it goes into one hash; the tail is kept for a person.

use std::collections::VecDeque;

use super::scene::Faults;

/// Lines that are shown of a failing seed.
const TAIL: usize = 200;

#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    tail: VecDeque<String>,
    /// What has really been injected.
    pub faults: Faults,
}

impl Trace {
    /// Adds what happened at `ms` of virtual time.
    pub fn add(&mut self, ms: u64, line: std::fmt::Arguments<'_>) {
        let line = format!("{ms:>10} {line}");
        // FNV-1a
        let start = if self.hash == 0 { 0xcbf2_9ce4_8422_2325 } else { self.hash };
        self.hash = line.bytes().fold(start, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        self.tail.push_back(line);
        if self.tail.len() > TAIL {
            self.tail.pop_front();
        }
    }

    /// Of every line so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn tail(&self) -> Vec<String> {
        self.tail.iter().cloned().collect()
    }
}
