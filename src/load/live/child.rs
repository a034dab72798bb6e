//! This program again, as a child: the service under load, or the bare relay. Never here: what it does.
//!
//! A child never outlives the run: dropping it kills it.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::oneshot;

/// Opening a large store takes seconds.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// A service stops within 10 seconds; after this it is killed.
const STOPS_WITHIN: Duration = Duration::from_secs(15);
/// Kept of what it logs: the last lines, and as many warnings.
const KEPT_LINES: usize = 50;

pub struct Child {
    process: std::process::Child,
    name: &'static str,
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    last: VecDeque<String>,
    warnings: Vec<String>,
}

impl Child {
    /// Starts `remedyd` with these arguments and waits until it says that it is ready. `name` is for messages.
    pub async fn start(name: &'static str, args: &[&str], environment: &[(&str, &str)]) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("finding this program")?;
        let mut command = Command::new(program);
        command.args(args).env_remove("REMEDYD_CONFIG").envs(environment.iter().copied());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().with_context(|| format!("starting the {name}"))?;
        let stderr = process.stderr.take();
        let child = Self { process, name, log: Arc::default() };
        let (ready, is_ready) = oneshot::channel();
        let log = Arc::clone(&child.log);
        std::thread::spawn(move || {
            let mut ready = Some(ready);
            for line in stderr.into_iter().flat_map(|stderr| BufReader::new(stderr).lines()).map_while(Result::ok) {
                if line.ends_with("ready")
                    && let Some(ready) = ready.take()
                {
                    // who waits may have given up
                    let _ = ready.send(());
                }
                log.lock().unwrap_or_else(PoisonError::into_inner).take(line);
            }
        });
        match tokio::time::timeout(READY_WITHIN, is_ready).await {
            Ok(Ok(())) => Ok(child),
            Ok(Err(_)) => bail!("the {name} ended at its start:\n{}", child.last_lines()),
            Err(_) => bail!("the {name} is not ready after {} s:\n{}", READY_WITHIN.as_secs(), child.last_lines()),
        }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Fails if it has ended by itself.
    pub fn check(&mut self) -> anyhow::Result<()> {
        match self.process.try_wait() {
            Ok(None) => Ok(()),
            ended => bail!("the {} has ended by itself ({ended:?}):\n{}", self.name, self.last_lines()),
        }
    }

    /// In order, as a supervisor stops it. Gives the warnings and errors that it has logged.
    pub async fn stop(mut self) -> anyhow::Result<Vec<String>> {
        self.signal("TERM")?;
        let mut waited = Duration::ZERO;
        while self.process.try_wait().with_context(|| format!("waiting for the {}", self.name))?.is_none() {
            if waited >= STOPS_WITHIN {
                bail!("the {} has not stopped within {} s:\n{}", self.name, STOPS_WITHIN.as_secs(), self.last_lines());
            }
            // there is nothing in std to wait for a process with a limit
            let pause = Duration::from_millis(20);
            tokio::time::sleep(pause).await;
            waited += pause;
        }
        Ok(std::mem::take(&mut self.log.lock().unwrap_or_else(PoisonError::into_inner).warnings))
    }

    /// Nothing more is done by it until [`Child::go_on`].
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal("STOP")
    }

    pub fn go_on(&self) -> anyhow::Result<()> {
        self.signal("CONT")
    }

    fn signal(&self, name: &str) -> anyhow::Result<()> {
        // the shell's own kill: there is none in the standard library, and no other on every machine
        let pid = self.pid().to_string();
        let sent = Command::new("/bin/sh").args(["-c", "kill -\"$1\" \"$2\"", "kill", name, &pid]).status();
        let sent = sent.with_context(|| format!("sending {name} to the {}", self.name))?;
        anyhow::ensure!(sent.success(), "{name} could not be sent to the {}", self.name);
        Ok(())
    }

    fn last_lines(&self) -> String {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.last.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

impl Log {
    fn take(&mut self, line: String) {
        if self.warnings.len() < KEPT_LINES && (line.contains(" WARN ") || line.contains(" ERROR ")) {
            self.warnings.push(line.clone());
        }
        if self.last.len() == KEPT_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // it may have ended already
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
