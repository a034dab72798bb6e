//! A RabbitMQ node of a test's own, for what would disturb every other test: kills, restarts, alarms, rights, TLS.
//!
//! Never here: a node that anybody else uses. It costs some seconds; a test that can do with the common one uses that.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// A running node. Dropping it stops it.
pub struct Node {
    dir: TempDir,
}

impl Node {
    pub fn start() -> Self {
        Self::start_with("")
    }

    /// With further lines of `rabbitmq.conf`, in which `@TLS_PORT@` stands for a free port.
    pub fn start_with(conf: &str) -> Self {
        let dir = TempDir::with_prefix("remedyd-node-").unwrap();
        let node = Self { dir };
        let conf_file = node.dir.path().join("further.conf");
        fs::write(&conf_file, conf).unwrap();
        node.script("start", &[&conf_file]);
        node
    }

    /// For an administrator, unencrypted.
    pub fn url(&self) -> String {
        self.read("url")
    }

    pub fn tls_port(&self) -> u16 {
        self.read("tls_port").parse().unwrap()
    }

    /// As a crash would end it.
    pub fn kill(&self) {
        self.script("kill", &[]);
    }

    /// Starts what was killed; returns when it serves.
    pub fn again(&self) {
        self.script("again", &[]);
    }

    /// Returns when each of its quorum queues has a leader, and says which have needed help: after `kill -9` RabbitMQ 3.10 now
    /// and then leaves a queue that had a busy consumer without an election, for good. An operator would do the same.
    pub fn elect(&self) -> Vec<String> {
        let helped = self.ctl(&[
            "eval",
            "Without = fun() -> [Name || {Name, State} <- ets:tab2list(ra_state), State =/= leader] end,
             Wait = fun Wait(_, []) -> []; Wait(0, Names) -> Names; Wait(N, _) -> timer:sleep(20), Wait(N - 1, Without()) end,
             Left = Wait(150, Without()),
             [ok = ra:trigger_election({Name, node()}) || Name <- Left],
             [] = Wait(500, Without()),
             Left.",
        ]);
        let names = helped.split('\'').skip(1).step_by(2).map(str::to_owned);
        names.collect()
    }

    /// It keeps its connections and does nothing, as a machine that hangs.
    pub fn freeze(&self) {
        self.signal("STOP");
    }

    pub fn thaw(&self) {
        self.signal("CONT");
    }

    /// `rabbitmqctl`, which must succeed. Returns what it prints.
    #[track_caller]
    pub fn ctl(&self, args: &[&str]) -> String {
        let env = self.dir.path().join("env");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", ". \"$0\"; exec \"$RABBITMQCTL\" --quiet \"$@\""]).arg(env).args(args);
        succeed(command, &format!("rabbitmqctl {}", args.join(" ")))
    }

    fn signal(&self, name: &str) {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "kill -\"$0\" \"$1\"", name, &self.read("node.pid")]);
        succeed(command, &format!("SIG{name}"));
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap().trim().to_owned()
    }

    #[track_caller]
    fn script(&self, action: &str, more: &[&Path]) {
        let script: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/rabbitmq.sh");
        let mut command = Command::new(script);
        command.arg(action).arg(self.dir.path()).args(more);
        succeed(command, &format!("rabbitmq.sh {action}"));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // the console has its start, the other files what it thinks of its clients
            let files = fs::read_dir(self.dir.path().join("log")).into_iter().flatten().flatten();
            for file in files.map(|file| file.path()) {
                eprintln!("{}:\n{}", file.display(), fs::read_to_string(&file).unwrap_or_default());
            }
        }
        // a frozen one takes no other signal
        if self.dir.path().join("node.pid").exists() {
            self.thaw();
        }
        self.script("stop", &[]);
    }
}

#[track_caller]
fn succeed(mut command: Command, what: &str) -> String {
    // not piped: the node inherits its starter's output, and would hold a pipe open
    let (out, err) = (tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
    command.stdin(std::process::Stdio::null()).stdout(out.reopen().unwrap()).stderr(err.reopen().unwrap());
    // seconds, in which the other tasks of the test go on
    let Output { status, .. } = tokio::task::block_in_place(|| command.output()).unwrap_or_else(|error| panic!("{what}: {error}"));
    let read = |file: &tempfile::NamedTempFile| String::from_utf8_lossy(&fs::read(file.path()).unwrap()).into_owned();
    assert!(status.success(), "{what}: {status}\n{}{}", read(&out), read(&err));
    read(&out)
}
