//! System calls that fail: strace, attached to a running service or around one that starts.
//!
//! Never here: what should come of it.

// Each test binary compiles this file and uses its part of it.
#![allow(dead_code)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

/// Answers of the kernel that strace gives in its place.
#[derive(Debug, Clone, Copy)]
pub struct Injection {
    /// As strace writes it: the call and what happens to it.
    pub rule: &'static str,
    /// The file of the store whose calls are meant; empty: every file. One of the journal: [`NEWEST`], [`NEXT`].
    pub file: &'static str,
}

/// The file of the journal that was begun last.
pub const NEWEST: &str = "the newest file of the journal";
/// The one that will be begun next.
pub const NEXT: &str = "the next file of the journal";

/// Where `file` is now.
fn path(partition: &Path, file: &str) -> PathBuf {
    let ahead = match file {
        NEWEST => 0,
        NEXT => 1,
        file => return partition.join(file),
    };
    let journal = partition.join("journal");
    let names = fs::read_dir(&journal).expect("a journal").map(|entry| entry.expect("an entry").file_name());
    let number = |name: String| name.strip_suffix(".log").and_then(|number| number.parse::<u64>().ok());
    let newest = names.filter_map(|name| number(name.to_string_lossy().into_owned())).max().expect("a file");
    journal.join(format!("{:016}.log", newest + ahead))
}

impl Injection {
    fn arguments(self, partition: &Path, trace: &Path) -> Vec<String> {
        let call = self.rule.split(':').next().unwrap_or_default();
        let mut arguments = vec!["-f".to_owned(), "-o".to_owned(), text(trace)];
        arguments.extend(["-e".to_owned(), format!("trace={call}"), "-e".to_owned(), format!("inject={}", self.rule)]);
        if !self.file.is_empty() {
            arguments.extend(["-P".to_owned(), text(&path(partition, self.file))]);
        }
        arguments
    }

    /// `service` under strace from its first moment.
    pub fn around(self, partition: &Path, trace: &Path, service: &Command) -> Command {
        let mut command = Command::new("strace");
        command.args(self.arguments(partition, trace)).arg(service.get_program()).args(service.get_args()).env_clear();
        for (name, value) in service.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        command
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("a path in UTF-8").to_owned()
}

/// How often the trace says that a call was answered in the kernel's place.
pub fn injected(trace: &Path) -> usize {
    fs::read_to_string(trace).unwrap_or_default().lines().filter(|line| line.contains("(INJECTED)")).count()
}

/// strace on a running process: from when this is there, the calls fail.
pub struct Attached {
    child: Child,
    trace: PathBuf,
}

impl Attached {
    pub fn to(process: u32, injection: Injection, partition: &Path, trace: &Path) -> Self {
        let mut command = Command::new("strace");
        command.args(injection.arguments(partition, trace)).args(["-p", &process.to_string()]);
        let mut child =
            command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("strace is needed (Debian: apt-get install strace)");
        let mut said = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
        let first = said.next().unwrap_or_default();
        assert!(first.contains("attached"), "strace could not attach: {first}");
        // it goes on to say so of every thread, and would end without a reader
        thread::spawn(move || said.for_each(drop));
        Self { child, trace: trace.to_owned() }
    }

    /// How many calls were answered in the kernel's place. The process must have ended.
    pub fn injected(mut self) -> usize {
        self.child.wait().expect("strace ends with the process");
        injected(&self.trace)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        // it may have ended already
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
