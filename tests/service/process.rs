//! `remedyd serve` as a child process: its log line by line, its end, and signals to it.
//!
//! Never here: a broker, or a sleep. What a test waits for is a line or the end of the process.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{BufRead, BufReader};
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
            let line = within("a line of the log", self.lines.recv()).await;
            let line = line.unwrap_or_else(|| panic!("it ended without a line with {parts:?}:\n{}", self.log.join("\n")));
            self.log.push(line.clone());
            if parts.iter().all(|part| line.contains(part)) {
                return line;
            }
        }
    }

    /// `TERM`, `KILL` …
    pub fn signal(&self, name: &str) {
        // the shell's own kill: there is no other in the standard library, nor on every machine
        let sent = Command::new("/bin/sh").args(["-c", "kill -\"$1\" \"$2\"", "kill", name, &self.pid.to_string()]).status();
        assert!(sent.expect("a shell").success(), "SIG{name} could not be sent");
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
