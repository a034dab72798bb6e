//! `remedyd serve` as a child process: its log line by line, its end, and signals to it.
//!
//! Never here: a broker, or a sleep. What a test waits for is a line or the end of the process.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

/// How long anything may take before a test fails. Generous: the machine may be building at the same time.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for `what`, and fails the test if it does not come.
pub async fn within<T>(what: &str, awaited: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, awaited).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// A running process. Dropping it kills it.
pub struct Process {
    pid: u32,
    lines: mpsc::UnboundedReceiver<String>,
    end: Option<oneshot::Receiver<ExitStatus>>,
    /// The lines read so far.
    pub log: Vec<String>,
}

impl Process {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let (pid, stderr) = (child.id(), child.stderr.take().expect("piped"));
        let (line_in, lines) = mpsc::unbounded_channel();
        let (ended, end) = oneshot::channel();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines() {
                // a test that has ended reads no more; the pipe is emptied all the same, or the child would block
                let _ = line_in.send(line.unwrap_or_else(|error| format!("unreadable: {error}")));
            }
            let _ = ended.send(child.wait().expect("a child can be waited for"));
        });
        Self { pid, lines, end: Some(end), log: Vec::new() }
    }

    /// With the ops port on any free port, and that port.
    pub async fn watched(mut command: Command) -> (Self, SocketAddr) {
        command.env("REMEDYD_OPS__LISTEN", "127.0.0.1:0");
        let mut process = Self::start(command);
        let line = process.line_with(&["the ops port is open"]).await;
        let address = line.rsplit_once("address=").unwrap().1.trim().parse().unwrap();
        (process, address)
    }

    /// Waits for the next line that ends with `text`.
    pub async fn line(&mut self, text: &str) {
        let reading = async {
            while let Some(line) = self.lines.recv().await {
                let found = line.ends_with(text);
                self.log.push(line);
                if found {
                    return true;
                }
            }
            false
        };
        match tokio::time::timeout(PATIENCE, reading).await {
            Ok(true) => {}
            Ok(false) => panic!("it ended without a line {text:?}:\n{}", self.log.join("\n")),
            Err(_) => panic!("no line {text:?} within {PATIENCE:?}:\n{}", self.log.join("\n")),
        }
    }

    /// Waits for the next line that contains all of `parts`.
    pub async fn line_with(&mut self, parts: &[&str]) -> String {
        loop {
            let Ok(line) = tokio::time::timeout(PATIENCE, self.lines.recv()).await else {
                panic!("no line with {parts:?} within {PATIENCE:?}:\n{}", self.log.join("\n"));
            };
            let line = line.unwrap_or_else(|| panic!("it ended without a line with {parts:?}:\n{}", self.log.join("\n")));
            self.log.push(line.clone());
            if parts.iter().all(|part| line.contains(part)) {
                return line;
            }
        }
    }

    pub fn id(&self) -> u32 {
        self.pid
    }

    /// Everything that it has logged so far.
    pub fn read_log(&mut self) -> &[String] {
        while let Ok(line) = self.lines.try_recv() {
            self.log.push(line);
        }
        &self.log
    }

    /// `TERM`, `KILL` …
    pub fn signal(&self, name: &str) {
        // the shell's own kill: there is no other in the standard library, nor on every machine
        let sent = Command::new("/bin/sh").args(["-c", "kill -\"$1\" \"$2\"", "kill", name, &self.pid.to_string()]).status();
        assert!(sent.expect("a shell").success(), "SIG{name} could not be sent");
    }

    /// From now on its private memory may grow by so much and no more. (Not its address space, of which the allocator
    /// reserves far more than it uses.)
    pub fn limit_memory(&self, spare_kib: u64) {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("it runs");
        let size = status.lines().find_map(|line| line.strip_prefix("VmData:")).and_then(|text| text.trim().strip_suffix(" kB"));
        let size_kib: u64 = size.and_then(|text| text.trim().parse().ok()).expect("a size");
        let limit = format!("--data={}", (size_kib + spare_kib) * 1024);
        let set = Command::new("prlimit").args(["--pid", &self.pid.to_string(), &limit]).status();
        assert!(set.expect("prlimit (util-linux)").success(), "the limit could not be set");
    }

    /// Waits for its end; the whole log is then in `log`.
    pub async fn end(&mut self) -> ExitStatus {
        let end = self.end.take().expect("it has ended once already");
        let status = within("the end of the process", end).await.expect("it is waited for");
        while let Some(line) = self.lines.recv().await {
            self.log.push(line);
        }
        status
    }

    /// As [`Self::end`], but whoever waits may give up, do something else and wait again. However long it takes.
    pub async fn ended(&mut self) -> ExitStatus {
        let end = self.end.as_mut().expect("it has ended once already");
        let status = end.await.expect("it is waited for");
        self.end = None;
        while let Some(line) = self.lines.recv().await {
            self.log.push(line);
        }
        status
    }

    /// As a power cut or the out-of-memory killer would.
    pub async fn kill(mut self) {
        self.signal("KILL");
        assert_eq!(self.end().await.code(), None, "it was not ended by the signal:\n{}", self.log.join("\n"));
    }

    /// SIGTERM: it must end in order, within the 10 seconds that are promised.
    pub async fn stop(mut self) {
        let asked = tokio::time::Instant::now();
        self.signal("TERM");
        let status = self.end().await;
        assert_eq!(status.code(), Some(0), "{}", self.log.join("\n"));
        assert!(asked.elapsed() <= Duration::from_secs(10), "it took {:?}", asked.elapsed());
        // lapin may see the broker's end of the socket go before it has noted that the closing was agreed on
        let wrong = |line: &&String| {
            line.contains("panicked") || (line.contains(" ERROR ") && !line.contains("IO error") && !line.contains("io_loop"))
        };
        let wrong: Vec<&String> = self.log.iter().filter(wrong).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.end.as_mut().is_some_and(|end| matches!(end.try_recv(), Err(oneshot::error::TryRecvError::Empty))) {
            self.signal("KILL");
        }
    }
}
