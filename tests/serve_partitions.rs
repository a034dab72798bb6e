//! One process that serves several partitions: what it publishes is what a replay says, whatever happens to it on the way;
//! each partition keeps to itself, and whatever is wrong names the one that it is about.
//!
//! Needs a broker (`REMEDYD_TEST_AMQP_URL`) and strace, and fails without one of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "service/outside.rs"]
mod outside;
#[path = "service/process.rs"]
mod process;
mod service;
#[path = "service/steps.rs"]
mod steps;
#[path = "storage_faults/strace.rs"]
mod strace;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use outside::{Outside, Sent};
use process::{PATIENCE, Process, within};
use remedyd::broker::Message;
use remedyd::pipeline::rows::OutboxRow;
use remedyd::store::sled::{SledSettings, SledStore};
use remedyd::store::{Batch, Store as _, keys};
use serde_json::{Value, json};
use service::{check_same_state, check_sequences, outbox_rows, remedyd, replay_lines, sample, state};
use steps::{Ledger, by_subject};
use strace::{Attached, Injection, NEWEST};
use tempfile::TempDir;

const PARTITIONS: u16 = 4;
/// So many that no partition is without one.
const TENANTS: std::ops::Range<u64> = 100..140;
const REPORTS: u64 = 6;

/// Reports of many tenants, each created and then acknowledged. All at one time: how tenants take turns does not matter.
fn events() -> Vec<Vec<u8>> {
    let of = |line: &[u8], tenant: u64, report: u64| {
        let mut event: Value = serde_json::from_slice(line).unwrap();
        event["id"] = json!(format!("{}-{report}", event["id"].as_str().unwrap()));
        event["tenantid"] = json!(format!("5.{tenant}"));
        event["time"] = json!("2026-11-23T22:10:00Z");
        event.as_object_mut().unwrap().remove("subject");
        let data = &mut event["data"];
        if data["incident_report"].is_object() {
            data["incident_report"]["id"] = json!(report);
            data["incident_report"]["organization_id"] = json!(tenant);
            data["incident_report"]["identity"]["id"] = json!(report);
        } else {
            data["incident_report_id"] = json!(report);
        }
        serde_json::to_vec(&event).unwrap()
    };
    let lines = sample("no-remediation");
    let each = (1..=REPORTS).flat_map(|report| TENANTS.map(move |tenant| (tenant, report)));
    lines.iter().flat_map(|line| each.clone().map(|(tenant, report)| of(line, tenant, report)).collect::<Vec<_>>()).collect()
}

/// One answer of the ops port: status and body.
fn request(method: &str, address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("the ops port takes connections");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {path}: {text:?}"));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

/// Asks `path` until the answer is `expected`.
async fn answers(address: SocketAddr, path: &str, expected: impl Fn(&(u16, String)) -> bool) -> String {
    let mut every = tokio::time::interval(Duration::from_millis(20));
    let asking = async {
        loop {
            let answer = request("GET", address, path);
            if expected(&answer) {
                return answer.1;
            }
            every.tick().await;
        }
    };
    within(path, asking).await
}

/// The sample of this name and labels.
#[track_caller]
fn metric(address: SocketAddr, series: &str) -> f64 {
    let (_, text) = request("GET", address, "/metrics");
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {series} in {text}")).parse().unwrap()
}

fn run<const N: usize>(args: [&str; N]) -> Output {
    remedyd(args).output().unwrap()
}

/// What `inspect` says.
#[track_caller]
fn inspect(question: [&str; 4]) -> String {
    let said = remedyd(["inspect"].into_iter().chain(question).filter(|word| !word.is_empty())).output().unwrap();
    assert_eq!(said.status.code(), Some(0), "{question:?}: {said:?}");
    String::from_utf8(said.stdout).unwrap()
}

/// Tenants of the reports in a stopped partition's store.
fn tenants(dir: &Path) -> BTreeSet<String> {
    state(dir).iter().filter_map(|(key, _)| keys::report_parts(key)).map(|(tenant, _)| tenant.to_string()).collect()
}

fn partition_dirs(dir: &Path) -> Vec<std::path::PathBuf> {
    (0..PARTITIONS).map(|partition| dir.join(format!("p{partition}"))).collect()
}

/// With small batches and a short prefetch, so that a kill finds most of a backlog still in the queues.
fn slowly(outside: &Outside, dir: &Path) -> Command {
    let mut command = outside.serve(dir);
    command.env("REMEDYD_LIMITS__BATCH_EVENTS", "4").env("REMEDYD_AMQP__PREFETCH_REPORTS", "8");
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_serves_all_partitions_through_a_kill_and_is_asked_and_backed_up() {
    let (events, dir) = (events(), TempDir::new().unwrap());
    let expected = by_subject(&replay_lines(&events, &[]).lines());
    let total: usize = expected.values().map(Vec::len).sum();
    let mut outside = Outside::partitioned("parts", PARTITIONS).await;
    outside.apply_topology();
    outside.listen().await;
    for event in &events {
        outside.send(&Sent::structured(event)).await;
    }
    let mut service = Process::start(slowly(&outside, dir.path()));
    service.line("ready").await;
    let threads = fs::read_dir(format!("/proc/{}/task", service.id())).unwrap();
    let names: BTreeSet<String> = threads.map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap()).collect();
    for partition in 0..PARTITIONS {
        assert!(names.contains(&format!("engine-p{partition}\n")), "{names:?}");
    }
    let mut ledger = Ledger::default();
    while ledger.outbound.len() < total / 3 {
        let got = outside.status().await;
        ledger.hear(&got);
    }
    service.kill().await;
    assert!(ledger.outbound.len() < total, "all of it was done already");

    let (mut service, address) = Process::watched(slowly(&outside, dir.path())).await;
    service.line("ready").await;
    // what nobody can read has no tenant, and each partition numbers its own
    for tenant in TENANTS {
        let headers = vec![("tenantid".to_owned(), format!("5.{tenant}"))];
        outside
            .send(&Sent { routing_key: "rubbish".into(), headers, body: format!("rubbish {tenant}").into_bytes(), ..Sent::default() })
            .await;
    }
    while ledger.outbound.len() < total {
        let got = outside.status().await;
        ledger.hear(&got);
    }
    // all that was sent has been decided, and is in one sum
    let rubbish = TENANTS.count();
    let letters = format!("\nremedyd_ledger_events_total{{outcome=\"dead_lettered\"}} {rubbish}\n");
    let none = |partition| format!("\nremedyd_in_flight_events{{partition=\"{partition}\"}} 0\n");
    let idle = |text: &str| (0..PARTITIONS).all(|partition| text.contains(&none(partition)));
    answers(address, "/metrics", |(_, text)| idle(text) && text.contains(&letters)).await;
    assert_eq!(metric(address, "remedyd_ready"), 1.0);
    for partition in 0..PARTITIONS {
        let of = |name: &str| metric(address, &format!("remedyd_{name}{{partition=\"{partition}\"}}"));
        assert_eq!((of("ledger_imbalance"), of("outbox_limit_rows")), (0.0, 100_000.0), "partition {partition}");
        assert!(of("commits_total") > 0.0 && of("events_in_total") > 0.0, "nothing came to partition {partition}");
    }
    let decided = metric(address, "remedyd_ledger_events_total{outcome=\"applied\"}")
        + metric(address, "remedyd_ledger_events_total{outcome=\"duplicate\"}");
    assert!(decided > 0.0 && decided <= events.len() as f64, "{decided}");

    // asked over HTTP, each partition's reports are found, and rows of all of them
    for tenant in TENANTS {
        let (status, report) = request("GET", address, &format!("/api/v1/reports/5.{tenant}/{REPORTS}"));
        assert_eq!(status, 200, "{tenant}: {report}");
    }
    let url = format!("http://{address}");
    let questions = [["dead-letters", "", "--url", &url], ["blockers", "5.100", "--url", &url], ["audit", "5.139", "--url", &url]];
    let running = questions.map(inspect);
    assert_eq!(running[0].lines().count(), rubbish, "{}", running[0]);

    // backed up one at a time
    let backup = dir.path().join("backup.ndjson");
    let backup = backup.to_str().unwrap();
    for (query, status, says) in [
        ("", 400, "this process serves the partitions 0-3"),
        ("?partition=9", 404, "partition 9: this process serves 0-3"),
        ("?part=1", 400, "part"),
    ] {
        let (found, why) = request("POST", address, &format!("/api/v1/backup{query}"));
        assert!(found == status && why.contains(says), "{query}: {found} {why}");
    }
    assert_eq!(run(["store", "backup", "--url", &url, "--out", backup, "--partition", "9"]).status.code(), Some(64));
    let refused = run(["store", "backup", "--url", &url, "--out", backup]);
    assert_eq!(refused.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("say which: --partition 0,"), "{refused:?}");
    // no room for it: the kernel refuses what is beyond this size
    let mut full = Command::new("bash");
    full.args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$@\"", "full", env!("CARGO_BIN_EXE_remedyd"), "store", "backup"]);
    let full = full.args(["--url", &url, "--out", backup, "--partition", "2"]).output().unwrap();
    assert_eq!(full.status.code(), Some(74), "{full:?}");
    let taken = run(["store", "backup", "--url", &url, "--out", backup, "--partition", "2"]);
    assert_eq!(taken.status.code(), Some(0), "{taken:?}");
    service.stop().await;
    let store = dir.path().to_str().unwrap();
    let stopped = questions.map(|[about, tenant, ..]| inspect([about, tenant, "--store", store]));
    assert_eq!(running, stopped, "asked for running and found stopped");

    ledger.finish(&mut outside).await;
    let found: Vec<Vec<u8>> = ledger.outbound.iter().map(|(_, body)| body.clone()).collect();
    assert_eq!(by_subject(&found), expected);
    check_sequences(&found.iter().map(|body| serde_json::from_slice(body).unwrap()).collect::<Vec<Value>>());

    // each tenant in one partition, and none without
    let mut homes: BTreeMap<String, u16> = BTreeMap::new();
    for (partition, dir) in (0..).zip(partition_dirs(dir.path())) {
        assert_eq!(outbox_rows(&dir), 0, "unpublished rows after an orderly stop");
        let here = tenants(&dir);
        assert!(!here.is_empty(), "nobody lives in partition {partition}");
        for tenant in here {
            assert_eq!(homes.insert(tenant.clone(), partition), None, "{tenant} lives in two partitions");
        }
    }
    assert_eq!(homes.len(), TENANTS.count());
    let restored = dir.path().join("restored");
    let imported = run(["store", "import", backup, "--store", restored.to_str().unwrap(), "--partition", "2"]);
    assert_eq!(imported.status.code(), Some(0), "{imported:?}");
    check_same_state(&state(&restored.join("p2")), &state(&dir.path().join("p2")));
    outside.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_names_its_partition() {
    let (outside, dir) = (Outside::partitioned("parts.health", 3).await, TempDir::new().unwrap());
    outside.apply_topology();
    // it only checks: what is not there stays so
    let mut command = remedyd(["serve", "--clock", "events", "--store"]);
    command.arg(dir.path()).env("REMEDYD_AMQP_URL", &outside.url).env("REMEDYD_AMQP__PREFIX", &outside.prefix);
    command.env("REMEDYD_AMQP__PARTITIONS", "3").env("REMEDYD_AMQP__PARTITION", "1-2");
    let (mut service, address) = Process::watched(command).await;
    service.line("ready").await;
    assert_eq!(request("GET", address, "/readyz"), (200, "ok\n".to_owned()));
    assert!(!dir.path().join("p0").exists(), "a partition that it does not serve");

    outside.delete_queue("p2.surveys").await;
    service.line("the connection to the broker is lost, connecting").await;
    service.line_with(&["partition{number=2}", "the broker"]).await;
    let why = answers(address, "/readyz", |(status, _)| *status == 503).await;
    assert!(!why.contains("partition 1"), "{why}");
    answers(address, "/readyz", |(_, why)| why == "partition 2: broker: not connected, trying\n").await;
    assert_eq!(request("GET", address, "/livez").0, 200);
    assert_eq!(metric(address, "remedyd_link_state{state=\"connecting\"}"), 1.0);
    outside.apply_topology();
    service.line_with(&["connected again"]).await;
    assert_eq!(request("GET", address, "/readyz").0, 200);
    // only the one that was away has connected again
    let reconnects = |partition| metric(address, &format!("remedyd_link_reconnects_total{{partition=\"{partition}\"}}"));
    assert!(reconnects(1) == 0.0 && reconnects(2) >= 1.0, "{} and {}", reconnects(1), reconnects(2));
    service.signal("TERM");
    assert_eq!(service.end().await.code(), Some(0), "{:#?}", service.log);
    outside.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_full_outbox_makes_it_not_ready() {
    const ROWS: u64 = 10_000;
    let dir = TempDir::new().unwrap();
    let message = Message { exchange: "e".into(), routing_key: "k".into(), ..Message::default() };
    let row = OutboxRow { message: message.into(), order_key: None }.encode();
    let mut batch = Batch::default();
    (0..ROWS).for_each(|number| batch.put(keys::outbox(number), row.clone()));
    SledStore::open(&dir.path().join("p1"), SledSettings::default()).unwrap().commit(&batch).unwrap();
    let mut command = remedyd(["serve", "--clock", "events", "--store"]);
    // nobody listens there
    command.arg(dir.path()).env("REMEDYD_AMQP_URL", "amqp://127.0.0.1:1/%2f").env("REMEDYD_AMQP__PARTITIONS", "3");
    command.env("REMEDYD_LIMITS__OUTBOX_ROWS", ROWS.to_string());
    let (service, address) = Process::watched(command).await;
    answers(address, "/startupz", |(status, _)| *status == 200).await;
    let lost = |partition| format!("partition {partition}: broker: not connected, trying\n");
    let full = format!("partition 1: outbox: full ({ROWS} of {ROWS} rows wait for their confirm)\n");
    assert_eq!(request("GET", address, "/readyz"), (503, [lost(0), lost(1), full, lost(2)].concat()));
    for (partition, rows) in [(0, 0.0), (1, 1e4), (2, 0.0)] {
        let of = |name: &str| metric(address, &format!("remedyd_{name}{{partition=\"{partition}\"}}"));
        assert_eq!((of("outbox_rows"), of("outbox_limit_rows")), (rows, 1e4), "partition {partition}");
    }
    let page = request("GET", address, "/").1;
    assert!(page.contains("partition 1 <span class=\"badge bad\">outbox full"), "{page}");
    service.kill().await;
}

/// A partition that another process serves is refused by its store, whichever of the two serves more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_is_served_by_one_process() {
    let (outside, dir) = (Outside::partitioned("parts.lock", 3).await, TempDir::new().unwrap());
    let serving = |which: &str| {
        let mut command = outside.serve(dir.path());
        command.args(["--partition", which]);
        command
    };
    let mut several = Process::start(serving("0-1"));
    several.line("ready").await;
    // the third is free
    let mut another = Process::start(serving("2"));
    another.line("ready").await;
    for (which, whose) in [("1", None), ("all", Some("partition 0: ")), ("1-2", Some("partition 1: "))] {
        let mut refused = Process::start(serving(which));
        assert_eq!(refused.end().await.code(), Some(73), "{which}: {:#?}", refused.log);
        let line = refused.log.last().unwrap();
        assert!(line.contains("in use by another process"), "{which}: {line}");
        let named = line.strip_prefix("remedyd: ").filter(|rest| rest.starts_with("partition")).map(|rest| &rest[.."partition 0: ".len()]);
        assert_eq!(named, whose, "{which}: {line}");
    }
    several.stop().await;
    another.stop().await;
    outside.clean().await;
}

/// One partition's disk fails: nothing more is acked by any, and the log says whose it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_store_ends_the_process_and_is_named() {
    let (mut outside, dir) = (Outside::partitioned("parts.fail", 2).await, TempDir::new().unwrap());
    let mut service = outside.start(dir.path()).await;
    outside.listen().await;
    let fault = Injection { rule: "write:error=EIO", file: NEWEST };
    let strace = Attached::to(service.id(), fault, &dir.path().join("p1"), &dir.path().join("trace"));
    let events = events();
    for event in &events[..TENANTS.count()] {
        outside.send(&Sent::structured(event)).await;
    }
    assert_eq!(service.end().await.code(), Some(74), "{:#?}", service.log);
    assert!(strace.injected() > 0, "nothing was written there");
    let said = |parts: &[&str]| service.log.iter().filter(|line| parts.iter().all(|part| line.contains(part))).count();
    assert_eq!(said(&["ERROR", "partition{number=1}", "the store has failed: all partitions stop"]), 1, "{:#?}", service.log);
    assert_eq!(said(&["remedyd: partition 1: ", "Input/output error"]), 1, "{:#?}", service.log);

    // what was not acked comes again, to both
    let expected = by_subject(&replay_lines(&events[..TENANTS.count()], &[]).lines());
    let total: usize = expected.values().map(Vec::len).sum();
    let service = outside.start(dir.path()).await;
    let mut ledger = Ledger::default();
    while ledger.outbound.len() < total {
        let got = outside.status().await;
        ledger.hear(&got);
    }
    service.stop().await;
    ledger.finish(&mut outside).await;
    let found: Vec<Vec<u8>> = ledger.outbound.iter().map(|(_, body)| body.clone()).collect();
    assert_eq!(by_subject(&found), expected);
    outside.clean().await;
}
