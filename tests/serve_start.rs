//! How `remedyd serve` starts and refuses to start: settings, stores, a second process, a broker that is not there.
//!
//! Tests with a broker need `REMEDYD_TEST_AMQP_URL` and fail without it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "support/node.rs"]
mod node;
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

use node::Node;
use outside::{Outside, Sent};
use process::Process;
use remedyd::broker::amqp::connection::Connection;
use remedyd::broker::amqp::settings::{TimeOuts, Tls};
use remedyd::broker::amqp::{Endpoint, declare};
use remedyd::broker::topology::Topology;
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

/// Whatever it waits for then: here, for the end of a file of the journal that never ends.
#[tokio::test]
async fn a_signal_ends_a_service_that_reads_its_store() {
    let dir = TempDir::new().unwrap();
    let store = dir.path().join("store");
    let (mut service, _) = Process::watched(serve(&store)).await;
    service.line_with(&["connection lost"]).await;
    service.stop().await;
    let journal = store.join("p0/journal");
    let newest = fs::read_dir(&journal).unwrap().filter_map(|entry| entry.unwrap().path().file_stem()?.to_str()?.parse::<u64>().ok()).max();
    let endless = journal.join(format!("{:016}.log", newest.unwrap() + 1));
    assert!(Command::new("mkfifo").arg(&endless).status().unwrap().success());
    let (mut service, _) = Process::watched(serve(&store)).await;
    service.signal("TERM");
    assert_eq!(service.end().await.code(), Some(0), "{:#?}", service.log);
    assert!(service.log.iter().any(|line| line.contains("stopped while it was starting")), "{:#?}", service.log);
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

/// Nobody starts half: what is wrong with secrets is told at once, all of it, and nothing of them.
#[tokio::test]
async fn secrets_that_cannot_be_read_are_named_at_once() {
    let dir = TempDir::new().unwrap();
    let (store, token) = (dir.path().join("store"), dir.path().join("token"));
    fs::write(&token, "canary").unwrap();
    let missing = dir.path().join("amqp-url");
    let mut command = remedyd(["serve", "--store"]);
    command.arg(&store).env("REMEDYD_AMQP__URL_FILE", &missing).env("REMEDYD_OPS__TOKEN_FILE", &token);
    let lines = check_refused(command, 64).await;
    let [first, secrets @ ..] = &lines[..] else { panic!("{lines:#?}") };
    assert!(first.ends_with("2 wrong settings") && secrets.len() == 2, "{lines:#?}");
    let named = |key: &str, path: &Path| secrets.iter().any(|line| line.contains(key) && line.contains(&path.display().to_string()));
    assert!(named("amqp.url_file", &missing) && named("ops.token_file", &token), "{lines:#?}");
    assert!(!lines.concat().contains("canary"), "{lines:#?}");
    assert!(!store.exists(), "a store was begun");
}

/// Does `what` where threads have to wait for a core: what a broker answers then arrives between any two of our steps.
async fn on_busy_cores(what: impl AsyncFnOnce()) {
    let over = Arc::new(AtomicBool::new(false));
    let threads = 3 * thread::available_parallelism().unwrap().get();
    let spin = |over: Arc<AtomicBool>| move || while !over.load(Ordering::Relaxed) {};
    let spinning: Vec<_> = (0..threads).map(|_| thread::spawn(spin(over.clone()))).collect();
    what().await;
    over.store(true, Ordering::Relaxed);
    spinning.into_iter().for_each(|thread| thread.join().unwrap());
}

/// A broker that lacks something of what the service needs: each is named, the service waits, and goes on once it is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_broker_lacks_is_named_and_waited_for() {
    const RIGHTS: [&str; 3] = ["^$", "^(need\\.status|amq\\.default)$", "^need\\."];
    let (node, dir) = (Node::start(), TempDir::new().unwrap());
    node.ctl(&["add_user", "svc", "secret"]);
    let permit = |rights: [&str; 3]| {
        node.ctl(&["set_permissions", "svc", rights[0], rights[1], rights[2]]);
    };
    permit(RIGHTS);
    let topology = |what: &str, url: &str| {
        let mut command = remedyd(["topology", what, "--prefix", "need"]);
        let output = command.env("REMEDYD_AMQP_URL", url).output().unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code(), text)
    };
    let url = node.url().replace("guest:guest", "svc:secret");
    let endpoint = Endpoint::parse(&url).unwrap();
    let apply = || assert_eq!(topology("apply", &node.url()).0, Some(0));
    apply();
    let start = |url: &str| {
        let mut command = serve(dir.path());
        command.env("REMEDYD_AMQP_URL", url).env("REMEDYD_AMQP__PREFIX", "need");
        Process::start(command)
    };
    assert_eq!(topology("check", &url), (Some(0), topology("check", &node.url()).1));

    // rights, one after the other
    for (rights, parts) in [
        ([RIGHTS[0], "^amq\\.default$", RIGHTS[2]], ["exchange need.status", "the right to write is lacking"]),
        ([RIGHTS[0], "^need\\.status$", RIGHTS[2]], ["the default exchange (for dead letters)", "the right to write is lacking"]),
        ([RIGHTS[0], RIGHTS[1], "^need\\.p0\\.surveys$"], ["need.p0.reports", "ACCESS_REFUSED"]),
    ] {
        permit(rights);
        let mut service = start(&url);
        let line = service.line_with(&["ERROR", "the broker refuses us: configuration"]).await;
        assert!(parts.iter().all(|part| line.contains(part)) && !line.contains("secret"), "{parts:?} is not in {line}");
        assert!(!service.log.iter().any(|line| line.ends_with("ready")), "{:#?}", service.log);
        permit(RIGHTS);
        service.line("ready").await;
        service.signal("TERM");
        assert_eq!(service.end().await.code(), Some(0), "{:#?}", service.log);
    }
    // a broker that blocks whoever publishes cannot be asked, and that is not held against it
    node.ctl(&["set_vm_memory_high_watermark", "0.000001"]);
    let mut service = start(&url);
    service.line("ready").await;
    node.ctl(&["set_vm_memory_high_watermark", "0.6"]);
    service.signal("TERM");
    assert_eq!(service.end().await.code(), Some(0), "{:#?}", service.log);

    permit([RIGHTS[0], "^$", RIGHTS[2]]);
    let (code, text) = topology("check", &url);
    assert!(code == Some(1) && text.matches("the right to write is lacking").count() == 2, "{code:?}: {text}");
    on_busy_cores(async || {
        for _ in 0..25 {
            let asking = Connection::open(&endpoint, "asking", &Tls::default(), TimeOuts::default()).await.unwrap();
            let lacking = declare::rights(asking, &Topology::with_prefix("need", 1).unwrap()).await;
            let objects: Vec<_> = lacking.unwrap().into_iter().map(|difference| difference.object).collect();
            assert_eq!(objects, ["exchange need.status", "the default exchange (for dead letters)"]);
        }
    })
    .await;
    permit(RIGHTS);

    // a queue with other arguments: the argument is named, by whoever may declare
    node.ctl(&["delete_queue", "need.p0.reports"]);
    let connection = lapin::Connection::connect(&node.url(), lapin::ConnectionProperties::default()).await.unwrap();
    let mut arguments = lapin::types::FieldTable::default();
    arguments.insert("x-queue-type".into(), lapin::types::AMQPValue::LongString("quorum".into()));
    arguments.insert("x-delivery-limit".into(), lapin::types::AMQPValue::LongLongInt(1_000_000));
    let options = lapin::options::QueueDeclareOptions { durable: true, ..lapin::options::QueueDeclareOptions::default() };
    let channel = connection.create_channel().await.unwrap();
    channel.queue_declare("need.p0.reports".into(), options, arguments).await.unwrap();
    let (code, text) = topology("check", &node.url());
    assert!(code == Some(1) && text.contains("queue need.p0.reports: x-single-active-consumer differs"), "{code:?}: {text}");
    let (code, text) = topology("apply", &node.url());
    assert!(code == Some(69) && text.contains("need.p0.reports") && text.contains("x-single-active-consumer"), "{code:?}: {text}");
    let mut service = start(&node.url());
    let line = service.line_with(&["ERROR", "the broker refuses us: configuration"]).await;
    assert!(line.contains("queue need.p0.reports: x-single-active-consumer differs"), "{line}");
    node.ctl(&["delete_queue", "need.p0.reports"]);
    apply();
    service.line("ready").await;
    service.signal("TERM");
    assert_eq!(service.end().await.code(), Some(0), "{:#?}", service.log);

    // and the command's own mistakes
    let (code, text) = topology("check", "amqp://user:secret@broker.example/");
    assert!(code == Some(64) && text.contains("amqps://") && !text.contains("secret"), "{code:?}: {text}");
    assert_eq!(topology("check", NO_BROKER).0, Some(69));
}
