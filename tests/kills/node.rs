//! A RabbitMQ node of the test's own, to be killed, frozen and started again on what it had on its disk.
//!
//! Never here: another node's processes. What is signalled is the process id that the node wrote down itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

pub struct Node {
    dir: TempDir,
    pub url: String,
}

impl Node {
    pub fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let started = script().arg("start").arg(dir.path()).stdin(Stdio::null()).stdout(Stdio::null()).status();
        assert!(started.unwrap().success(), "a private broker starts");
        let url = fs::read_to_string(dir.path().join("url")).unwrap().trim().to_owned();
        Self { dir, url }
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&self) {
        self.shell(
            r#". "$0/pids"; kill -KILL "$(cat "$0/node.pid")"
               while kill -0 "$server" 2>/dev/null && ! grep -qs '^State:[[:space:]]*Z' "/proc/$server/status"; do sleep 0.05; done
               rm -f "$0/node.pid""#,
        );
    }

    /// Starts it again under its name, on its ports and its data; returns when it serves.
    pub fn restart(&self) {
        self.shell(
            r#". "$0/env"; . "$0/pids"
               setsid "${RABBITMQCTL%/*}/rabbitmq-server" >>"$0/log/console.log" 2>&1 </dev/null &
               printf 'epmd=%s\nserver=%s\n' "$epmd" "$!" >"$0/pids"
               tenths=1200
               until [ -s "$0/node.pid" ]; do tenths=$((tenths - 1)); [ "$tenths" -gt 0 ] || exit 1; sleep 0.1; done
               "$RABBITMQCTL" --quiet await_startup --timeout 120 >/dev/null"#,
        );
    }

    /// It keeps its connections and does nothing, as a machine that hangs.
    pub fn freeze(&self) {
        self.shell(r#"kill -STOP "$(cat "$0/node.pid")""#);
    }

    pub fn thaw(&self) {
        self.shell(r#"kill -CONT "$(cat "$0/node.pid")""#);
    }

    fn shell(&self, script: &str) {
        let ran = Command::new("bash").args(["-euc", script]).arg(self.dir.path()).stdin(Stdio::null()).stdout(Stdio::null()).status();
        assert!(ran.unwrap().success(), "{script}");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // a frozen one takes no signal but this
        let pid = fs::read_to_string(self.dir.path().join("node.pid")).unwrap_or_default();
        if !pid.trim().is_empty() {
            let _ = Command::new("/bin/sh").args(["-c", "kill -CONT \"$0\"", pid.trim()]).stderr(Stdio::null()).status();
        }
        let _ = script().arg("stop").arg(self.dir.path()).stdin(Stdio::null()).stdout(Stdio::null()).status();
    }
}

fn script() -> Command {
    Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/rabbitmq.sh"))
}
