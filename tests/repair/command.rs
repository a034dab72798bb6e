//! `remedyd` run as an operator runs it, and the ops port of a service asked over HTTP.
//!
//! Never here: an expectation of what it prints.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::http::request;
use crate::outside::Outside;
use crate::process::Process;
use crate::service::remedyd;

/// What a command came to.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// It must have ended with this code.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:#?}");
        self
    }

    pub fn json_lines(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

pub fn run<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Ran {
    ran(remedyd(args))
}

/// With the broker and the prefix of an installation.
pub fn run_at<A: AsRef<OsStr>>(outside: &Outside, args: impl IntoIterator<Item = A>) -> Ran {
    ran(at(outside, args))
}

pub fn at<A: AsRef<OsStr>>(outside: &Outside, args: impl IntoIterator<Item = A>) -> Command {
    let mut command = remedyd(args);
    command.env("REMEDYD_AMQP_URL", &outside.url).env("REMEDYD_AMQP__PREFIX", &outside.prefix);
    command
}

fn ran(mut command: Command) -> Ran {
    // seconds, in which the other tasks of the test go on
    let output = tokio::task::block_in_place(|| command.stdin(Stdio::null()).output()).unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// A command that is watched while it runs. Dropping it kills it.
pub struct Watched {
    child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Watched {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    /// Waits until it says this on standard error.
    pub fn until(&mut self, said: &str) {
        let stderr = BufReader::new(self.child.stderr.take().unwrap());
        let mut lines = tokio::task::block_in_place(|| {
            stderr.lines().map_while(Result::ok).take_while(|line| !line.contains(said)).collect::<Vec<_>>()
        });
        lines.retain(|line| !line.is_empty());
        assert!(self.child.try_wait().unwrap().is_none(), "it ended before {said:?}: {lines:?}");
    }

    pub fn line(&mut self) -> String {
        let mut line = String::new();
        tokio::task::block_in_place(|| self.stdout.read_line(&mut line)).unwrap();
        line.trim_end().to_owned()
    }

    /// `KILL`, `INT`; waits for its end and gives the code.
    pub fn signal(&mut self, name: &str) -> Option<i32> {
        let pid = self.child.id().to_string();
        let sent = Command::new("/bin/sh").args(["-c", "kill -\"$1\" \"$2\"", "kill", name, &pid]).status();
        assert!(sent.unwrap().success());
        self.end()
    }

    pub fn end(&mut self) -> Option<i32> {
        tokio::task::block_in_place(|| self.child.wait()).unwrap().code()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // it may have ended
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The service with the ops port on any free port, ready, and that port.
pub async fn start(command: Command) -> (Process, SocketAddr) {
    let (mut process, address) = Process::watched(command).await;
    process.line("ready").await;
    (process, address)
}

/// The loss ledger: events received, and what became of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ledger {
    pub events_in: u64,
    pub applied: u64,
    pub duplicate: u64,
    pub refused: u64,
    pub dead_lettered: u64,
    pub parked: u64,
    pub in_flight: u64,
}

impl Ledger {
    /// Once nothing is in flight any more; it must balance.
    pub async fn settled(address: SocketAddr) -> Self {
        let mut every = tokio::time::interval(std::time::Duration::from_millis(20));
        loop {
            every.tick().await;
            let ledger = Self::now(address);
            if ledger.in_flight == 0 {
                return ledger;
            }
        }
    }

    /// It must balance at every moment.
    #[track_caller]
    pub fn now(address: SocketAddr) -> Self {
        Self::now_as(address, "Accept: */*")
    }

    /// With a line that says who asks.
    #[track_caller]
    pub fn now_as(address: SocketAddr, who: &str) -> Self {
        let (status, text) = request("GET", address, "/metrics", &[who]);
        assert_eq!(status, 200, "{text}");
        let value = |name: &str| -> i64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
        };
        let count = |name: &str| u64::try_from(value(name)).unwrap();
        let outcome = |name: &str| count(&format!("remedyd_ledger_events_total{{outcome=\"{name}\"}}"));
        let ledger = Self {
            events_in: count("remedyd_events_in_total{partition=\"0\"}"),
            applied: outcome("applied"),
            duplicate: outcome("duplicate"),
            refused: outcome("refused"),
            dead_lettered: outcome("dead_lettered"),
            parked: count("remedyd_parked_events"),
            in_flight: count("remedyd_in_flight_events{partition=\"0\"}"),
        };
        assert_eq!(value("remedyd_ledger_imbalance{partition=\"0\"}"), 0, "{text}");
        let Self { events_in, applied, duplicate, refused, dead_lettered, parked, in_flight } = ledger;
        assert_eq!(events_in, applied + duplicate + refused + dead_lettered + parked + in_flight, "{ledger:?}");
        ledger
    }
}
