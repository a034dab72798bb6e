//! How `remedyd serve` starts and refuses to start: settings, stores, a second process, a broker that is not there.
//!
//! Tests with a broker need `REMEDYD_TEST_AMQP_URL` and fail without it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "service/outside.rs"]
mod outside;
#[path = "service/process.rs"]
mod process;
mod service;

use std::collections::BTreeMap;
use std::fs;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use outside::{Outside, Sent};
use process::Process;
use service::{remedyd, replay, sample};
use tempfile::TempDir;

/// Nobody listens there: port 1 is reserved and unused.
const NO_BROKER: &str = "amqp://127.0.0.1:1/%2f";

/// The lines on stderr of a command that must end by itself, at once, with this exit code.
async fn check_refused(command: Command, exit: i32) -> Vec<String> {
    let (started, mut process) = (Instant::now(), Process::start(command));
    let status = process.end().await;
    assert_eq!(status.code(), Some(exit), "{:#?}", process.log);
    assert!(started.elapsed() < Duration::from_secs(30), "it took {:?} to refuse", started.elapsed());
    process.log.clone()
}

fn serve(store: &Path) -> Command {
    let mut command = remedyd(["serve", "--clock", "events", "--store"]);
    command.arg(store).env("REMEDYD_AMQP_URL", NO_BROKER);
    command
}

/// One clear line, with everything in `parts` in it.
#[track_caller]
fn check_line(lines: &[String], parts: &[&str]) {
    let [line] = lines else { panic!("expected one line: {lines:#?}") };
    assert!(line.starts_with("remedyd: ") && parts.iter().all(|part| line.contains(part)), "{line}");
}

#[tokio::test]
async fn wrong_settings_are_listed_all_at_once() {
    let dir = TempDir::new().unwrap();
    let (file, store) = (dir.path().join("remedyd.toml"), dir.path().join("store"));
    fs::write(&file, "[amqp]\nprefetch_reports = 0\n\n[limits]\ndrain = 3\n").unwrap();
    let mut command = remedyd(["serve", "--model", "hopeful", "--seed=-1", "--store"]);
    command.arg(&store).arg("--config").arg(&file).env("REMEDYD_CLOCK__SOURCE", "moon").env("REMEDYD_AMQP_URL", "http://u:secret@h");
    let lines = check_refused(command, 64).await;
    assert_eq!(lines.len(), 7, "{lines:#?}");
    assert!(lines[0].ends_with("6 wrong settings"), "{}", lines[0]);
    for (key, origin) in [
        ("amqp.url", "environment REMEDYD_AMQP_URL"),
        ("amqp.prefetch_reports", "file"),
        ("agents.model", "flag --model"),
        ("agents.seed", "flag --seed"),
        ("clock.source", "environment REMEDYD_CLOCK__SOURCE"),
        ("limits.drain", "file"),
    ] {
        let named = |line: &&String| line.trim_start().starts_with(&format!("{key} ({origin})"));
        assert_eq!(lines.iter().filter(named).count(), 1, "{key} of {origin} in {lines:#?}");
    }
    assert!(!lines.concat().contains("secret"), "{lines:#?}");
    assert!(!store.exists(), "a store was begun");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_service_on_the_same_store_ends_at_once() {
    let dir = TempDir::new().unwrap();
    let mut outside = Outside::connect("second").await;
    let service = outside.start(dir.path()).await;
    outside.listen().await;
    let lines = check_refused(outside.serve(dir.path()), 73).await;
    check_line(&lines, &["in use by another process", &dir.path().display().to_string()]);
    // the first has not noticed
    outside.send(&Sent::structured(&sample("no-remediation")[0])).await;
    assert_eq!(outside.status().await.event()["causationid"], "soc-1004-1");
    service.stop().await;
    outside.clean().await;
}

/// A store with content, damaged by `damage`: refused twice, and left as it was.
async fn check_store_refused(damage: impl Fn(&Path), parts: &[&str]) {
    let dir = TempDir::new().unwrap();
    let partition = dir.path().join("p0");
    replay(["able-moose.ndjson".as_ref(), "--store".as_ref(), partition.as_os_str()]);
    damage(&partition);
    let before = files(&partition);
    // twice: a refusal must not turn into an acceptance by what the first attempt left behind
    for _ in 0..2 {
        let lines = check_refused(serve(dir.path()), 73).await;
        check_line(&lines, parts);
        assert!(files(&partition) == before, "the store was changed");
    }
}

fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
    files.map(|file| (file.file_name().to_string_lossy().into_owned(), fs::read(file.path()).unwrap())).collect()
}

#[tokio::test]
async fn a_store_of_a_newer_version_is_refused() {
    let newer = |dir: &Path| {
        let text = fs::read_to_string(dir.join("FORMAT")).unwrap();
        assert!(text.contains("\nformat 1\n"), "{text}");
        fs::write(dir.join("FORMAT"), text.replace("\nformat 1\n", "\nformat 2\n")).unwrap();
    };
    check_store_refused(newer, &["has format 2, this version reads up to 1"]).await;
}

#[tokio::test]
async fn a_damaged_store_is_refused() {
    let cut = |dir: &Path| fs::File::options().write(true).open(dir.join("db")).unwrap().set_len(0).unwrap();
    check_store_refused(cut, &["cannot be opened", "db is empty"]).await;
    let remove = |dir: &Path| fs::remove_file(dir.join("COMMITTED")).unwrap();
    check_store_refused(remove, &["cannot be opened", "COMMITTED is missing"]).await;
}

/// Passes connections on to the broker once it is opened; until then it hangs up on everybody.
struct Gate {
    address: SocketAddr,
    open: Arc<AtomicBool>,
}

impl Gate {
    fn closed(broker: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, open) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(false)));
        let is_open = Arc::clone(&open);
        thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                if !is_open.load(Ordering::SeqCst) {
                    near.shutdown(Shutdown::Both).unwrap();
                    continue;
                }
                let far = TcpStream::connect(&broker).unwrap();
                for (mut from, mut to) in
                    [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far.try_clone().unwrap(), near.try_clone().unwrap())]
                {
                    thread::spawn(move || {
                        // either side's end, in whatever way, ends both
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
                    });
                }
            }
        });
        Self { address, open }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_broker_it_keeps_trying_until_there_is_one() {
    let dir = TempDir::new().unwrap();
    let mut outside = Outside::connect("absent").await;
    let (credentials, rest) = outside.url.rsplit_once('@').unwrap();
    let (host, vhost) = rest.split_once('/').unwrap();
    let gate = Gate::closed(host.to_owned());
    let mut command = outside.serve(dir.path());
    command.env("REMEDYD_AMQP_URL", format!("{credentials}@{}/{vhost}", gate.address));
    let mut service = Process::start(command);
    for _ in 0..4 {
        let line = service.line_with(&["connection lost", "retry_ms"]).await;
        assert!(!line.contains("guest:guest"), "a password in the log: {line}");
    }
    assert!(!service.log.iter().any(|line| line.ends_with("ready")), "ready without a broker: {:#?}", service.log);
    gate.open.store(true, Ordering::SeqCst);
    service.line("ready").await;
    outside.listen().await;
    outside.send(&Sent::structured(&sample("no-remediation")[0])).await;
    assert_eq!(outside.status().await.event()["causationid"], "soc-1004-1");
    service.stop().await;
    outside.clean().await;
}

/// A signal is obeyed also by a service that has never had a broker.
#[tokio::test]
async fn without_a_broker_it_can_be_stopped() {
    let dir = TempDir::new().unwrap();
    let mut service = Process::start(serve(dir.path()));
    service.line_with(&["connection lost"]).await;
    service.stop().await;
}

/// Without --apply-topology it only looks: it says what is missing, loudly, and goes on once somebody declares it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_queues_it_waits_for_them() {
    let dir = TempDir::new().unwrap();
    let mut outside = Outside::connect("queues").await;
    let mut command = serve(dir.path());
    command.env("REMEDYD_AMQP_URL", &outside.url).env("REMEDYD_AMQP__PREFIX", &outside.prefix);
    let mut service = Process::start(command);
    let line = service.line_with(&["ERROR", "the broker refuses us: configuration"]).await;
    assert!(line.contains(&format!("{}.status", outside.prefix)), "{line}");
    outside.apply_topology();
    service.line("ready").await;
    outside.listen().await;
    outside.send(&Sent::structured(&sample("no-remediation")[0])).await;
    assert_eq!(outside.status().await.event()["causationid"], "soc-1004-1");
    service.signal("TERM");
    assert_eq!(service.end().await.code(), Some(0), "{:#?}", service.log);
    outside.clean().await;
}
