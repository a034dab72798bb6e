//! The ops port of `remedyd serve`, asked from outside: health through a broker's absence, metrics by two readers, the
//! ledger held against a replay, the same answers as from the store of the stopped service, and the status page as a
//! browser makes it.
//!
//! Needs a broker (`REMEDYD_TEST_AMQP_URL`), Chromium and python3-prometheus-client, and fails without one of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "service/outside.rs"]
mod outside;
#[path = "service/process.rs"]
mod process;
#[path = "support/proxy.rs"]
mod proxy;
mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use outside::{Outside, Sent, broker_url};
use process::{PATIENCE, Process, within};
use proxy::Proxy;
use remedyd::broker::Message;
use remedyd::pipeline::rows::OutboxRow;
use remedyd::store::sled::{SledSettings, SledStore};
use remedyd::store::{Batch, Store as _, keys};
use serde_json::Value;
use service::{remedyd, replay_lines, sample};
use tempfile::TempDir;

/// Nobody listens there.
const NO_BROKER: &str = "amqp://127.0.0.1:1/%2f";
const TOKEN: &str = "a-token-of-some-length";
/// The labels of what is told of each partition, here of the only one.
const P0: &str = "partition=\"0\"";
const HOSTILE: &str = "<script>document.title='owned'</script> & \"quoted\"";

/// An answer over HTTP.
#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

/// One request with these header lines beside `Host`.
fn request(method: &str, address: SocketAddr, path: &str, headers: &[&str]) -> Answer {
    let mut stream = TcpStream::connect(address).expect("the ops port takes connections");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let host = if headers.iter().any(|line| line.starts_with("Host:")) { String::new() } else { format!("Host: {address}\r\n") };
    let more: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
    write!(stream, "{method} {path} HTTP/1.1\r\n{host}{more}Connection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {path}: {text:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

fn get(address: SocketAddr, path: &str) -> Answer {
    request("GET", address, path, &[])
}

/// A supervisor asks until the service has started; so do we.
async fn started(address: SocketAddr) {
    let asking = async {
        let mut every = tokio::time::interval(Duration::from_millis(20));
        while get(address, "/startupz").status != 200 {
            every.tick().await;
        }
    };
    within("the end of the start", asking).await;
}

#[track_caller]
fn check_health(address: SocketAddr, path: &str, expected: Result<(), &str>) {
    let answer = get(address, path);
    match expected {
        Ok(()) => assert_eq!((answer.status, answer.body.as_str()), (200, "ok\n"), "{path}"),
        Err(why) => assert!(answer.status == 503 && answer.body.contains(why), "{path}: {answer:?}"),
    }
}

fn serve_alone(store: &Path) -> Command {
    let mut command = remedyd(["serve", "--clock", "events", "--store"]);
    command.arg(store).env("REMEDYD_AMQP_URL", NO_BROKER);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_goes_away_makes_it_not_ready_and_never_not_live() {
    let (outside, dir) = (Outside::connect("ops.health").await, TempDir::new().unwrap());
    let (credentials, target) = {
        let url = broker_url();
        let (scheme, rest) = url.split_once("://").unwrap();
        let (user, rest) = rest.rsplit_once('@').unwrap();
        let (host, vhost) = rest.split_once('/').unwrap();
        let (host, port) = host.rsplit_once(':').unwrap();
        ((format!("{scheme}://{user}@"), vhost.to_owned()), (host.to_owned(), port.parse().unwrap()))
    };
    let proxy = Proxy::start(target);
    let mut command = outside.serve(dir.path());
    command.env("REMEDYD_AMQP_URL", format!("{}{}/{}", credentials.0, proxy.address, credentials.1));
    let (mut service, address) = Process::watched(command).await;
    service.line("ready").await;
    for path in ["/livez", "/readyz", "/startupz"] {
        check_health(address, path, Ok(()));
    }

    proxy.refuse();
    service.line_with(&["the connection to the broker is lost"]).await;
    check_health(address, "/livez", Ok(()));
    check_health(address, "/startupz", Ok(()));
    check_health(address, "/readyz", Err("broker: not connected"));
    assert_eq!(metrics(address).value("remedyd_link_state", "state=\"connecting\""), 1.0);
    assert!(get(address, "/").body.contains("broker: connecting"));

    proxy.admit();
    service.line_with(&["connected again"]).await;
    check_health(address, "/readyz", Ok(()));
    let found = metrics(address);
    assert_eq!((found.value("remedyd_link_state", "state=\"ready\""), found.value("remedyd_ready", "")), (1.0, 1.0));
    assert!(found.value("remedyd_link_reconnects_total", P0) >= 1.0);
    service.stop().await;
    assert!(TcpStream::connect(address).is_err(), "the port outlives the service");
    outside.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_is_seen_and_so_is_a_start_without_a_broker() {
    let dir = TempDir::new().unwrap();
    // something to publish, which nobody takes: the drain waits for it
    let row =
        OutboxRow { message: Message { exchange: "e".into(), routing_key: "k".into(), ..Message::default() }.into(), order_key: None };
    let mut batch = Batch::default();
    batch.put(keys::outbox(0), row.encode());
    SledStore::open(&dir.path().join("p0"), SledSettings::default()).unwrap().commit(&batch).unwrap();

    let (mut service, address) = Process::watched(serve_alone(dir.path())).await;
    started(address).await;
    check_health(address, "/livez", Ok(()));
    check_health(address, "/readyz", Err("broker: not connected"));
    assert_eq!(metrics(address).value("remedyd_outbox_rows", P0), 1.0);
    service.signal("TERM");
    service.line_with(&["stopping: taking no more"]).await;
    let draining = async {
        let mut every = tokio::time::interval(Duration::from_millis(5));
        while !get(address, "/readyz").body.contains("service: stopping") {
            every.tick().await;
        }
    };
    within("a drain that is seen", draining).await;
    check_health(address, "/livez", Ok(()));
    check_health(address, "/startupz", Ok(()));
    assert!(get(address, "/").body.contains("draining"));
    service.signal("TERM");
    assert_eq!(service.end().await.code(), Some(1), "{:#?}", service.log);
}

/// A sample of every kind: applied, without effect, refused, duplicate, parked, dead.
fn events() -> Vec<Vec<u8>> {
    let mut lines = [sample("able-moose"), sample("critical-isolated"), sample("reject-and-revise")].concat();
    let edited = |line: &[u8], edit: &dyn Fn(&mut Value)| {
        let mut event: Value = serde_json::from_slice(line).unwrap();
        edit(&mut event);
        serde_json::to_vec(&event).unwrap()
    };
    let kind = |line: &[u8]| serde_json::from_slice::<Value>(line).unwrap()["type"].as_str().unwrap().to_owned();
    let first = |wanted: &str| lines.iter().find(|line| kind(line) == wanted).unwrap().clone();
    let (created, approved) = (first("incident_report.created"), first("remediations.approved"));
    let more = vec![
        created.clone(),
        // the same id with other bytes
        edited(&created, &|event| event["data"]["incident_report"]["subject"] = "another".into()),
        // about a report that nobody knows
        edited(&approved, &|event| {
            event["id"] = "ahead".into();
            event["data"]["incident_report_id"] = 987_654.into();
        }),
        edited(&created, &|event| {
            event["id"] = "hostile".into();
            event["data"]["incident_report"]["id"] = 4_711.into();
            event["data"]["incident_report"]["subject"] = HOSTILE.into();
        }),
    ];
    lines.extend(more);
    lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_balances_and_the_answers_are_those_of_the_stopped_store() {
    let (mut outside, dir) = (Outside::connect("ops.ledger").await, TempDir::new().unwrap());
    let (mut service, address) = Process::watched(outside.serve(dir.path())).await;
    service.line("ready").await;
    outside.listen().await;
    let lines = events();
    for line in &lines {
        outside.send(&Sent::structured(line)).await;
        outside.barrier().await;
    }
    // each barrier is two messages that nobody can read
    let markers = 2.0 * lines.len() as f64;
    let replayed = replay_lines(&lines, &[]);
    let count = |name: &str| replayed.count(name) as f64;
    let refused = count("refused") + count("resolutions_refused");
    let found = metrics(address);
    let outcome = |name: &str| found.value("remedyd_ledger_events_total", &format!("outcome=\"{name}\""));
    let classes = [
        ("applied", outcome("applied"), count("applied") - refused),
        ("duplicate", outcome("duplicate"), count("duplicate")),
        ("refused", outcome("refused"), refused),
        ("dead_lettered", outcome("dead_lettered"), count("dead_lettered") + markers),
        ("parked", found.value("remedyd_parked_events", ""), count("parked")),
        ("in flight", found.value("remedyd_in_flight_events", P0), 0.0),
    ];
    for (name, found, expected) in classes {
        assert_eq!(found, expected, "{name}");
    }
    for name in ["applied", "duplicate", "dead_lettered"] {
        assert!(outcome(name) > 0.0, "no event was {name}");
    }
    assert_eq!(found.value("remedyd_parked_events", ""), 1.0);
    assert_eq!(found.value("remedyd_events_in_total", P0), classes.iter().map(|(_, found, _)| found).sum::<f64>());
    assert_eq!(found.value("remedyd_events_in_total", P0), lines.len() as f64 + markers);
    assert_eq!(found.value("remedyd_ledger_imbalance", P0), 0.0);
    assert_eq!(found.value("remedyd_dead_letters_total", "reason=\"id_reused\""), 1.0);
    assert_eq!(found.value("remedyd_dead_letters_total", "reason=\"malformed\""), markers);
    assert!(found.value("remedyd_page_latency_seconds_count", "") > 0.0, "no page was measured");
    assert!(found.value("remedyd_decision_latency_seconds_count", "") > 0.0);

    check_with_the_reference_parser(&get(address, "/metrics").body);

    // the census follows the commits; what it says in the end is what the store says
    let page = settled_page(address, &found).await;
    assert!(page.contains("balanced") && page.contains("&lt;script&gt;"), "{page}");
    browser(address);

    let questions: [&[&str]; 12] = [
        &["inspect", "report", "5.4", "1001"],
        &["inspect", "report", "5.4", "4711", "--format", "card"],
        &["inspect", "agent", "5.4", "12"],
        &["inspect", "agent", "5.4", "12", "--format", "table"],
        &["inspect", "blockers"],
        &["inspect", "blockers", "5.4", "--format", "table"],
        &["inspect", "funnel", "5.4"],
        &["inspect", "audit", "5.4"],
        &["inspect", "audit", "5.4", "--limit", "2", "--format", "table"],
        &["inspect", "dead-letters"],
        &["inspect", "report", "5.4", "31337"],
        &["explain", "5.4", "1001"],
    ];
    let ask = |question: &[&str], place: [&str; 2]| {
        let output = remedyd(question.iter().chain(&place)).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let url = format!("http://{address}");
    let running = questions.map(|question| ask(question, ["--url", &url]));
    service.stop().await;
    let store = dir.path().join("p0");
    for (question, running) in questions.iter().zip(running) {
        let stopped = ask(question, ["--store", store.to_str().unwrap()]);
        assert_eq!(running, stopped, "{question:?}");
        let expected = if question.contains(&"31337") { Some(1) } else { Some(0) };
        assert_eq!((running.0, running.1.is_empty()), (expected, expected == Some(1)), "{question:?}");
    }
    // the service is gone: a code of its own
    assert_eq!(ask(&["inspect", "blockers"], ["--url", &url]).0, Some(69));
    outside.clean().await;
}

/// The page, when as many reports are listed as are open.
async fn settled_page(address: SocketAddr, found: &Metrics) -> String {
    let open: f64 = found.all("remedyd_open_reports").sum();
    let mut every = tokio::time::interval(Duration::from_millis(20));
    let asking = async {
        loop {
            let page = get(address, "/").body;
            let now: f64 = metrics(address).all("remedyd_open_reports").sum();
            if now >= open.max(1.0) && page.contains("tenant 5.4") && page.contains("/api/v1/reports/5.4/4711") {
                return page;
            }
            every.tick().await;
        }
    };
    within("the report on the page", asking).await
}

/// As a person sees it: the page in a real browser, which runs nothing of what reports say.
fn browser(address: SocketAddr) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/ops");
    fs::create_dir_all(&folder).unwrap();
    let (screenshot, profile) = (folder.join("status.png"), TempDir::new().unwrap());
    // of an earlier run
    let _ = fs::remove_file(&screenshot);
    let chromium = |more: &[String]| {
        let output = Command::new("chromium")
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"])
            .args(["--disable-component-update", "--disable-sync", "--hide-scrollbars", "--window-size=1280,1400"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .args(more)
            .arg(format!("http://{address}/"))
            .output()
            .expect("Chromium; run `make test`, which installs it, or: apt-get install chromium");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let dom = chromium(&["--dump-dom".to_owned()]);
    for part in ["<h1>remedyd</h1>", "balanced", "What needs people", "Open reports", "Dead letters", "&lt;script&gt;document.title"] {
        assert!(dom.contains(part), "{part:?} is not on the page:\n{dom}");
    }
    assert!(!dom.contains("<script") && !dom.contains("<title>owned"), "{dom}");
    chromium(&[format!("--screenshot={}", screenshot.display())]);
    let image = fs::read(&screenshot).expect("a screenshot");
    assert!(image.starts_with(b"\x89PNG") && image.len() > 20_000, "{} bytes are no picture of the page", image.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_who_may_ask_is_answered_and_only_to_read() {
    let dir = TempDir::new().unwrap();
    let token_file = dir.path().join("token");
    fs::write(&token_file, format!("{TOKEN}\n")).unwrap();

    // without a token: on loopback, under a name of this machine
    let (service, address) = Process::watched(serve_alone(&dir.path().join("a"))).await;
    started(address).await;
    assert_eq!(request("GET", address, "/metrics", &["Host: localhost:9464"]).status, 200);
    assert_eq!(request("GET", address, "/metrics", &["Host: rebound.example:9464"]).status, 421);
    for (method, path, status) in [
        ("POST", "/", 405),
        ("DELETE", "/api/v1/reports/5.4/1", 405),
        ("GET", "/api/v1/nothing", 404),
        ("GET", "/api/v1/reports/5.4/1", 404),
        ("GET", "/api/v1/reports/05.4/1", 400),
        ("GET", "/api/v1/reports/5.4/x", 400),
        ("GET", "/api/v1/blockers?page=2", 400),
        ("GET", "/api/v1/blockers?limit=2", 400),
        ("GET", "/api/v1/audit/5.4?limit=0", 400),
        ("GET", "/api/v1/funnel/5.4?period=now", 400),
        ("GET", "/style.css", 200),
        ("HEAD", "/", 200),
    ] {
        let answer = request(method, address, path, &[]);
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        assert!(answer.head.contains("content-security-policy: default-src 'none'"), "{answer:?}");
    }
    drop(service);

    // with one: whoever bears it; probes need none
    let mut command = serve_alone(&dir.path().join("b"));
    command.env("REMEDYD_OPS__TOKEN_FILE", &token_file);
    let (mut service, address) = Process::watched(command).await;
    started(address).await;
    check_health(address, "/livez", Ok(()));
    for path in ["/", "/metrics", "/api/v1/blockers", "/style.css", "/nothing"] {
        for wrong in ["X-Nothing: 1".to_owned(), format!("Authorization: Bearer {TOKEN}x"), format!("Authorization: Basic {TOKEN}")] {
            assert_eq!(request("GET", address, path, &[&wrong]).status, 401, "{path} with {wrong}");
        }
    }
    let right = format!("Authorization: Bearer {TOKEN}");
    assert_eq!(request("GET", address, "/metrics", &[&right, "Host: ops.example"]).status, 200);
    let url = format!("http://{address}");
    let ask = |more: &[&str]| remedyd(["inspect", "blockers", "--url", &url].iter().chain(more)).output().unwrap().status.code();
    assert_eq!(ask(&[]), Some(64));
    assert_eq!(ask(&["--token-file", token_file.to_str().unwrap()]), Some(0));
    service.signal("TERM");
    assert_eq!(service.end().await.code(), Some(0), "{:#?}", service.log);
    assert!(!service.log.concat().contains(TOKEN), "{:#?}", service.log);
}

#[tokio::test]
async fn a_port_that_cannot_be_had_is_one_clear_line() {
    let dir = TempDir::new().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = serve_alone(&dir.path().join("store"));
    command.env("REMEDYD_OPS__LISTEN", &address);
    let mut service = Process::start(command);
    assert_eq!(service.end().await.code(), Some(71), "{:#?}", service.log);
    let [line] = service.log.as_slice() else { panic!("{:#?}", service.log) };
    assert!(line.contains("the ops port cannot be opened") && line.contains(&address) && line.contains("in use"), "{line}");
    assert!(!dir.path().join("store").exists(), "a store was begun");
}

/// Every event that comes of another carries that one's trace (W3C).
#[test]
fn the_trace_of_an_event_is_on_everything_that_comes_of_it() {
    let mut traces = BTreeMap::new();
    let lines: Vec<Vec<u8>> = sample("able-moose")
        .iter()
        .enumerate()
        .map(|(number, line)| {
            let mut event: Value = serde_json::from_slice(line).unwrap();
            let trace = format!("00-{:032x}-{:016x}-01", number + 1, number + 1);
            event["traceparent"] = trace.as_str().into();
            traces.insert(event["id"].as_str().unwrap().to_owned(), trace);
            serde_json::to_vec(&event).unwrap()
        })
        .collect();
    let mut carried = BTreeSet::new();
    for event in replay_lines(&lines, &[]).events() {
        let cause = event["causationid"].as_str().unwrap();
        match traces.get(cause) {
            Some(trace) => {
                assert_eq!(event["traceparent"], trace.as_str(), "{event}");
                carried.insert(trace);
            }
            None => assert!(cause.starts_with("timer:") && event["traceparent"].is_null(), "{event}"),
        }
    }
    assert!(carried.len() >= 3, "only {} traces were carried on", carried.len());
}

/// The parser of the makers of Prometheus, in Python.
#[track_caller]
fn check_with_the_reference_parser(text: &str) {
    const PARSE: &str = "import sys; from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse; \
                         print(sum(len(family.samples) for family in parse(sys.stdin.read())))";
    let mut parser = Command::new("/usr/bin/python3")
        .args(["-c", PARSE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Python; run `make test`, which installs what it needs");
    parser.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = parser.wait_with_output().unwrap();
    assert!(output.status.success(), "the reference parser refuses:\n{text}");
    let samples = text.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), samples.to_string());
}

/// The metrics as a scraper reads them.
struct Metrics(BTreeMap<(String, String), f64>);

impl Metrics {
    /// Of this name and these labels, as written.
    #[track_caller]
    fn value(&self, name: &str, labels: &str) -> f64 {
        *self.0.get(&(name.to_owned(), labels.to_owned())).unwrap_or_else(|| panic!("no {name}{{{labels}}} in {:#?}", self.0.keys()))
    }

    fn all(&self, name: &str) -> impl Iterator<Item = f64> {
        self.0.iter().filter(move |((known, _), _)| known == name).map(|(_, value)| *value)
    }
}

/// Reads OpenMetrics by its rules: families declared before their samples and once, suffixes by type, units last in the
/// name, histograms cumulative up to +Inf, nothing behind `# EOF`.
#[track_caller]
fn metrics(address: SocketAddr) -> Metrics {
    let answer = get(address, "/metrics");
    assert!(answer.status == 200 && answer.head.contains("application/openmetrics-text; version=1.0.0"), "{}", answer.head);
    let text = answer.body.strip_suffix("# EOF\n").expect("it ends with # EOF");
    let (mut types, mut samples) = (BTreeMap::new(), BTreeMap::new());
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            assert!(name.starts_with("remedyd_"), "{line}");
            assert_eq!(types.insert(name.to_owned(), kind.to_owned()), None, "declared twice: {line}");
        } else if let Some(rest) = line.strip_prefix("# UNIT ") {
            let (name, unit) = rest.split_once(' ').unwrap();
            assert!(["seconds", "bytes"].contains(&unit) && name.ends_with(unit), "{line}");
        } else if !line.starts_with("# HELP ") {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.strip_suffix('}').map_or((series, ""), |series| series.split_once('{').unwrap());
            let suffixes = |kind: &str| match kind {
                "counter" => &["_total"][..],
                "gauge" => &[""],
                "info" => &["_info"],
                "histogram" => &["_bucket", "_sum", "_count"],
                other => panic!("no type {other}"),
            };
            let declared = types.iter().any(|(family, kind)| suffixes(kind).iter().any(|suffix| name == format!("{family}{suffix}")));
            assert!(declared, "without a type: {line}");
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
            assert_eq!(samples.insert((name.to_owned(), labels.to_owned()), value), None, "twice: {line}");
        }
    }
    for (family, _) in types.iter().filter(|(_, kind)| *kind == "histogram") {
        let bound = |labels: &str| labels.trim_start_matches("le=\"").trim_end_matches('"').parse::<f64>().unwrap();
        let mut buckets: Vec<(f64, f64)> =
            samples.iter().filter(|((name, _), _)| *name == format!("{family}_bucket")).map(|((_, le), n)| (bound(le), *n)).collect();
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        assert!(buckets.windows(2).all(|pair| pair[0].1 <= pair[1].1), "{family} is not cumulative: {buckets:?}");
        let last = buckets.last().unwrap();
        assert_eq!((last.0, Some(&last.1)), (f64::INFINITY, samples.get(&(format!("{family}_count"), String::new()))), "{family}");
    }
    Metrics(samples)
}
