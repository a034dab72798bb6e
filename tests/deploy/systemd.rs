//! The unit: how closed it is, whether the service can live in it, and what the service tells systemd.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::outside::{Outside, Sent};
use crate::process::{Process, within};
use crate::service::{remedyd, sample};
use crate::tools::{check, read, run};
use tempfile::TempDir;
use tokio::net::UnixDatagram;

const UNIT: &str = "deploy/systemd/remedyd.service";
/// Nobody listens there.
const NO_BROKER: &str = "amqp://127.0.0.1:1/%2f";

#[test]
fn the_unit_is_valid_and_closed() {
    check("systemd-analyze", ["security", "--offline=true", "--threshold=20", UNIT]);
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("remedyd.service");
    let as_path = |path: &Path| path.to_str().unwrap().to_owned();
    // it would notice
    fs::write(&path, "[Service]\nExecStart=/bin/true\n").unwrap();
    assert!(!run("systemd-analyze", ["security", "--offline=true", "--threshold=20", &as_path(&path)]).well, "a unit that closes nothing");

    // with the program where it is here
    let unit = read(UNIT).replace("/usr/bin/remedyd", env!("CARGO_BIN_EXE_remedyd"));
    fs::write(&path, &unit).unwrap();
    let verified = run("systemd-analyze", ["verify", "--man=no", "--recursive-errors=no", &as_path(&path)]);
    assert!(verified.well && verified.all().is_empty(), "{}", verified.all());
    fs::write(&path, unit.replace("WatchdogSec=", "WatchdogSeconds=")).unwrap();
    let verified = run("systemd-analyze", ["verify", "--man=no", "--recursive-errors=no", &as_path(&path)]);
    assert!(verified.all().contains("WatchdogSeconds"), "a key that does not exist: {}", verified.all());
}

/// What systemd hears, line by line.
struct Manager {
    socket: UnixDatagram,
    dir: TempDir,
    heard: Vec<String>,
}

impl Manager {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        Self { socket, dir, heard: Vec::new() }
    }

    /// Starts it as a unit with this watchdog would be started.
    fn start(&self, mut command: Command, watchdog: Option<Duration>) -> Process {
        command.env("NOTIFY_SOCKET", self.dir.path().join("notify"));
        if let Some(watchdog) = watchdog {
            command.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        }
        Process::start(command)
    }

    async fn receive(&mut self) -> Vec<String> {
        let mut buffer = [0; 4096];
        let length = within("a word to systemd", self.socket.recv(&mut buffer)).await.unwrap();
        let lines: Vec<String> = std::str::from_utf8(&buffer[..length]).unwrap().lines().map(str::to_owned).collect();
        self.heard.extend(lines.clone());
        lines
    }

    async fn wait_for(&mut self, line: &str) {
        while !self.receive().await.iter().any(|heard| heard == line) {}
    }
}

/// Without a broker: it has started all the same, it lives, and it stops.
#[tokio::test]
async fn systemd_is_told_of_start_life_and_stop() {
    let (mut manager, dir) = (Manager::new(), TempDir::new().unwrap());
    let mut command = remedyd(["serve", "--clock", "events", "--store"]);
    command.arg(dir.path()).env("REMEDYD_AMQP_URL", NO_BROKER);
    let service = manager.start(command, Some(Duration::from_millis(150)));
    assert_eq!(manager.receive().await, ["READY=1", "STATUS=connecting to the broker"]);
    for _ in 0..5 {
        manager.wait_for("WATCHDOG=1").await;
    }
    service.signal("TERM");
    manager.wait_for("STOPPING=1").await;
    let mut service = service;
    assert_eq!(service.end().await.code(), Some(0), "{:#?}", service.log);
    assert_eq!(manager.heard.iter().filter(|line| *line == "READY=1").count(), 1, "{:#?}", manager.heard);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_follows_the_broker() {
    let (mut manager, dir, outside) = (Manager::new(), TempDir::new().unwrap(), Outside::connect("notify").await);
    let service = manager.start(outside.serve(dir.path()), None);
    manager.wait_for("STATUS=ready").await;
    service.stop().await;
    manager.wait_for("STOPPING=1").await;
    assert!(!manager.heard.iter().any(|line| line == "WATCHDOG=1"), "beats that nobody asked for: {:#?}", manager.heard);
    outside.clean().await;
}

/// What a process that stops answering looks like from outside: its beats end with it. And a manager that does not listen is
/// not waited for.
#[tokio::test]
async fn a_service_that_hangs_is_not_heard() {
    let (mut manager, dir) = (Manager::new(), TempDir::new().unwrap());
    let mut command = remedyd(["serve", "--clock", "events", "--store"]);
    command.arg(dir.path()).env("REMEDYD_AMQP_URL", NO_BROKER);
    let service = manager.start(command, Some(Duration::from_millis(60)));
    manager.wait_for("WATCHDOG=1").await;
    service.signal("STOP");
    // what had been sent before the signal took effect
    while tokio::time::timeout(Duration::from_millis(500), manager.receive()).await.is_ok() {}
    service.signal("CONT");
    manager.wait_for("WATCHDOG=1").await;
    service.stop().await;
}

/// The sets of system calls as this machine's systemd knows them.
fn call_sets() -> BTreeMap<String, Vec<String>> {
    let mut sets: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut current = String::new();
    for line in check("systemd-analyze", ["syscall-filter"]).lines() {
        match line.strip_prefix("    ") {
            Some(entry) if !entry.trim_start().starts_with('#') => sets.entry(current.clone()).or_default().push(entry.trim().to_owned()),
            Some(_) => {}
            None if line.starts_with('@') => current = line.trim().to_owned(),
            None => {}
        }
    }
    sets
}

fn calls(sets: &BTreeMap<String, Vec<String>>, name: &str) -> BTreeSet<String> {
    if !name.starts_with('@') {
        return BTreeSet::from([name.to_owned()]);
    }
    sets.get(name).unwrap_or_else(|| panic!("no set {name}")).iter().flat_map(|entry| calls(sets, entry)).collect()
}

/// The service under work makes no system call that its unit forbids. systemd is not there to start it; the filter is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_can_live_in_its_filter() {
    let sets = call_sets();
    let mut allowed = BTreeSet::new();
    for filter in read(UNIT).lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        match filter.strip_prefix('~') {
            None => allowed.extend(filter.split(' ').flat_map(|name| calls(&sets, name))),
            Some(denied) => {
                let denied: BTreeSet<String> = denied.split(' ').flat_map(|name| calls(&sets, name)).collect();
                allowed.retain(|call| !denied.contains(call));
            }
        }
    }
    assert!(allowed.contains("fdatasync") && !allowed.contains("mount") && !allowed.contains("chown"), "{allowed:?}");

    let (dir, mut outside) = (TempDir::new().unwrap(), Outside::connect("filter").await);
    let trace = dir.path().join("trace");
    let plain = outside.serve(&dir.path().join("store"));
    let mut traced = Command::new("strace");
    traced.args(["-f", "-qq", "-e", "signal=none", "-o"]).arg(&trace).arg(plain.get_program()).args(plain.get_args()).env_clear();
    traced.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    traced.env("REMEDYD_OPS__LISTEN", "127.0.0.1:0");
    let mut service = Process::start(traced);
    service.line("ready").await;
    outside.listen().await;
    for event in sample("critical-isolated") {
        outside.send(&Sent::structured(&event)).await;
    }
    outside.barrier().await;
    // strace hands the signal on to nobody: its child is meant
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", service.id())).unwrap();
    check("kill", ["-TERM", children.trim()]);
    assert_eq!(service.end().await.code(), Some(0), "{:#?}", service.log);
    let text = fs::read_to_string(&trace).unwrap();
    let call = |line: &str| {
        let line = line.split_once(' ')?.1.trim_start();
        let name = line.strip_prefix("<... ").unwrap_or(line).split(['(', ' ']).next()?;
        name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_').then(|| name.to_owned())
    };
    let made: BTreeSet<String> = text.lines().filter_map(call).collect();
    assert!(made.contains("fdatasync") && made.contains("connect") && made.contains("epoll_wait"), "{made:?}");
    // systemd itself starts the program, before the filter counts
    let forbidden: Vec<&String> = made.iter().filter(|call| !allowed.contains(*call)).collect();
    assert!(forbidden.is_empty(), "the unit forbids {forbidden:?}");
    outside.clean().await;
}
