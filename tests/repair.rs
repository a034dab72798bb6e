//! What an operator repairs with: dead letters made, listed, put right and replayed; a service backed up under load and
//! restored; a store verified; events watched. At a real RabbitMQ, by the binary alone.
//!
//! Needs a broker (`REMEDYD_TEST_AMQP_URL`) and fails without one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "repair/broker.rs"]
mod broker;
#[path = "repair/command.rs"]
mod command;
#[path = "service/http.rs"]
mod http;
#[path = "service/outside.rs"]
mod outside;
#[path = "service/process.rs"]
mod process;
mod service;
#[path = "service/steps.rs"]
mod steps;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use broker::Broker;
use command::{Ledger as Loss, Watched, at, run, run_at, start};
use http::{request, send_request};
use outside::{Outside, Sent};
use process::within;
use remedyd::store::memory::MemoryStore;
use remedyd::store::transfer::{Source, TransferError, export, import};
use remedyd::store::{Batch, Row, Store as _, keys, record};
use serde_json::{Value, json};
use service::{check_sequences, replay_lines, sample, sample_path};
use steps::{Ledger, by_subject};
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// A report that is created and one that is acknowledged: the two events of the sample, for another report.
fn events_of(report: u64) -> [Value; 2] {
    let lines = sample("no-remediation");
    let event = |line: &[u8]| {
        let mut event: Value = serde_json::from_slice(line).unwrap();
        event["id"] = json!(format!("{}-{report}", event["id"].as_str().unwrap()));
        event.as_object_mut().unwrap().remove("subject");
        let data = &mut event["data"];
        if data["incident_report"].is_object() {
            data["incident_report"]["id"] = json!(report);
            data["incident_report"]["identity"]["id"] = json!(report);
        } else {
            data["incident_report_id"] = json!(report);
        }
        event
    };
    [event(&lines[0]), event(&lines[1])]
}

fn bytes(event: &Value) -> Vec<u8> {
    serde_json::to_vec(event).unwrap()
}

/// Of another tenant, so late that whatever is parked has waited long enough.
fn much_later() -> Vec<u8> {
    let [created, _] = events_of(9_999);
    let later = "2026-11-24T12:00:00Z";
    let mut event = created;
    (event["time"], event["tenantid"]) = (json!(later), json!("8.1"));
    let report = &mut event["data"]["incident_report"];
    (report["account_id"], report["organization_id"]) = (json!(8), json!(1));
    bytes(&event)
}

/// Waits until as many letters are in the queue.
async fn letters_waiting(broker: &Broker, queue: &str, count: u32) {
    let waiting = async {
        let mut every = tokio::time::interval(std::time::Duration::from_millis(20));
        while broker.waiting(queue).await != count {
            every.tick().await;
        }
    };
    within("the dead letters", waiting).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_of_three_kinds_are_put_right_replayed_in_order_and_gone() {
    let (outside, broker, dir) = (Outside::connect("repair.letters").await, Broker::connect().await, TempDir::new().unwrap());
    let queue = format!("{}.dead-letters", outside.prefix);
    let (service, address) = start(outside.serve(dir.path())).await;
    let url = format!("http://{address}");
    let mut ear = broker.ear(&format!("{}.status", outside.prefix)).await;

    // malformed: a comma too many; invalid: a severity that there is not; orphan: what is about the first of them
    let ([first, acknowledged], [second, _]) = (events_of(1), events_of(2));
    let broken = String::from_utf8(bytes(&first)).unwrap().replacen("{\"data\"", "{,\"data\"", 1);
    assert!(serde_json::from_str::<Value>(&broken).is_err());
    let mut wrong = second.clone();
    wrong["data"]["incident_report"]["severity"] = json!("catastrophic");
    let addressed = Sent::structured(&bytes(&first));
    outside.send(&Sent { body: broken.into_bytes(), ..addressed }).await;
    outside.send(&Sent::structured(&bytes(&wrong))).await;
    outside.send(&Sent::structured(&bytes(&acknowledged))).await;
    outside.send(&Sent::structured(&much_later())).await;
    letters_waiting(&broker, &queue, 3).await;
    let before = Loss::settled(address).await;
    assert_eq!((before.events_in, before.dead_lettered, before.applied, before.parked), (4, 3, 1, 0), "{before:?}");

    let list = |args: &[&str]| run_at(&outside, [&["dead-letters", "list", "--format", "json"], args].concat()).code(0).json_lines();
    let reasons = |letters: &[Value]| letters.iter().map(|letter| letter["reason"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let letters = list(&[]);
    assert_eq!(reasons(&letters), ["malformed", "invalid", "orphan"]);
    assert_eq!(letters, list(&[]), "looking has changed what is there");
    for (filters, found) in [
        (&["--reason", "orphan"][..], &["orphan"][..]),
        (&["--reason", "orphan", "--reason", "invalid"], &["invalid", "orphan"]),
        (&["--tenant", "5.4", "--type", "incident_report.resolution_requested"], &["orphan"]),
        (&["--tenant", "8.1"], &[]),
        (&["--since", "2026-11-24T00:00:00Z"], &["orphan"]),
        (&["--until", "2026-11-24T00:00:00Z"], &["malformed", "invalid"]),
        (&["--limit", "2"], &["malformed", "invalid"]),
    ] {
        assert_eq!(reasons(&list(filters)), found, "{filters:?}");
    }
    let rows = list(&["--url", &url, "--reason", "invalid"]);
    assert_eq!((reasons(&rows), rows[0]["event_id"].as_str()), (vec!["invalid".to_owned()], second["id"].as_str()));
    assert_eq!(list(&["--url", &url, "--limit", "2"]).len(), 2);
    let table = run_at(&outside, ["dead-letters", "list"]).code(0);
    assert!(table.stdout.contains("malformed") && table.stderr.contains("3 listed, of 3 in the queue"), "{table:?}");

    // nothing is touched that was not named, and nothing goes that would only come back
    let replay = |args: &[&str]| run_at(&outside, [&["dead-letters", "replay"], args].concat());
    replay(&[]).code(64);
    let dry = replay(&["--all", "--dry-run"]).code(1);
    assert!(dry.stderr.contains("1 would be replayed, 2 left in their place"), "{dry:?}");
    assert!(dry.stderr.contains("goes ahead of"), "the orphan is about the report of the malformed one: {dry:?}");
    assert_eq!(list(&[]), letters);

    let fixes = dir.path().join("fixes.json");
    let names: Vec<&str> = letters.iter().map(|letter| letter["letter"].as_str().unwrap()).collect();
    let path = fixes.to_str().unwrap();
    run_at(&outside, ["dead-letters", "show", names[0], &names[1][..8], "--out", path]).code(0);
    run_at(&outside, ["dead-letters", "show", "--out", path]).code(64);
    run_at(&outside, ["dead-letters", "show", "ffffffffffffffff"]).code(1);
    replay(&["--from", path]).code(65);
    let mut shown: Value = serde_json::from_slice(&fs::read(&fixes).unwrap()).unwrap();
    assert!(shown[0]["body"].is_null() && shown[0]["body_text"].is_string(), "{shown}");
    assert_eq!(shown[1]["body"], wrong);
    assert_eq!(shown[1]["headers"]["tenantid"], "5.4");
    (shown[0]["body"], shown[1]["body"]) = (first.clone(), second.clone());
    shown[0].as_object_mut().unwrap().remove("body_text");
    fs::write(&fixes, shown.to_string()).unwrap();
    let replayed = replay(&["--from", path, "--reason", "orphan", "--rate", "50"]).code(0);
    let told: Vec<&str> = replayed.stdout.lines().map(|line| line.split(':').next().unwrap()).collect();
    let [one, two, three] = [names[0], names[1], names[2]];
    assert_eq!(told, [format!("{one} replayed as put right"), format!("{two} replayed as put right"), format!("{three} replayed")]);

    assert_eq!(list(&[]), Vec::<Value>::new());
    let heard = [much_later(), bytes(&first), bytes(&second), bytes(&acknowledged)];
    let expected = replay_lines(&heard, &[]).lines();
    let mut ledger = Ledger::default();
    while ledger.outbound.len() < expected.len() {
        ledger.hear(&ear.next().await);
    }
    let found: Vec<Vec<u8>> = ledger.outbound.iter().map(|(_, body)| body.clone()).collect();
    assert_eq!(by_subject(&found), by_subject(&expected));
    assert_eq!(ledger.copies, 0);
    let after = Loss::settled(address).await;
    assert_eq!((after.events_in, after.dead_lettered, after.applied, after.parked), (7, 3, 4, 0), "{after:?}");

    service.stop().await;
    run(["store", "verify", "--store", dir.path().to_str().unwrap()]).code(0);
    outside.clean().await;
}

/// Letters for 60 reports of three tenants in turn, in a queue that no service has anything to do with.
async fn sixty_letters(outside: &Outside, broker: &Broker) -> Vec<Value> {
    outside.apply_topology();
    let mut events = Vec::new();
    for number in 0..60_u64 {
        let [mut event, _] = events_of(number);
        let tenant = 1 + number % 3;
        event["tenantid"] = json!(format!("{tenant}.1"));
        let report = &mut event["data"]["incident_report"];
        (report["account_id"], report["organization_id"]) = (json!(tenant), json!(1));
        let headers = [
            ("tenantid", event["tenantid"].as_str().unwrap()),
            ("reason", "orphan"),
            ("detail", "for a test"),
            ("original-exchange", "somewhere.else"),
            ("original-routing-key", "incident_report.created.1.1"),
            ("failed-at", "2026-11-23T10:00:00Z"),
            ("x-death", "that the broker would act on"),
        ];
        broker.publish("", &format!("{}.dead-letters", outside.prefix), &headers, &bytes(&event)).await;
        events.push(event);
    }
    events
}

fn ids<'a>(events: impl IntoIterator<Item = &'a Value>, tenant: &str) -> Vec<String> {
    let of_tenant = events.into_iter().filter(|event| event["tenantid"] == tenant);
    of_tenant.map(|event| event["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_that_is_killed_loses_nothing_and_leaves_the_rest_in_its_place() {
    let (outside, broker) = (Outside::connect("repair.killed").await, Broker::connect().await);
    let events = sixty_letters(&outside, &broker).await;
    let reports = format!("{}.p0.reports", outside.prefix);
    let list = || run_at(&outside, ["dead-letters", "list", "--format", "json"]).code(0).json_lines();
    let names = |letters: &[Value]| letters.iter().map(|letter| letter["event_id"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(&list()), names(&events.iter().map(|event| json!({ "event_id": event["id"] })).collect::<Vec<_>>()));

    let args = ["dead-letters", "replay", "--tenant", "2.1", "--rate", "20"];
    let mut killed = Watched::start(at(&outside, args));
    let sent: Vec<String> = (0..3).map(|_| killed.line()).collect();
    assert_eq!(killed.signal("KILL"), None);
    assert!(sent.iter().all(|line| line.contains(" replayed: 2.1 ")), "{sent:?}");
    // what it had sent is out of the queue, but perhaps for the last; everything else is as it was
    let left = list();
    assert!((54..=57).contains(&left.len()), "{}", left.len());
    let others = |letters: &[Value]| letters.iter().filter(|letter| letter["tenantid"] != "2.1").cloned().collect::<Vec<_>>();
    let all = events.iter().filter(|event| event["tenantid"] != "2.1").map(|event| event["id"].as_str().unwrap().to_owned());
    assert_eq!(names(&others(&left)), all.collect::<Vec<_>>());

    let again = run_at(&outside, ["dead-letters", "replay", "--tenant", "2.1", "--rate", "1000"]).code(0);
    assert!(again.stderr.contains("40 left in their place"), "{again:?}");
    let got = broker.drain(&reports).await;
    for got in &got {
        assert_eq!(got.routing_key, "incident_report.created.1.1");
        let headers: Vec<&str> = got.headers.keys().map(String::as_str).collect();
        assert_eq!(headers, ["tenantid"], "ours and the broker's are not sent on");
        assert!(got.properties.user_id().is_some(), "the service would not know who sent it");
    }
    let mut arrived: Vec<String> = got.iter().map(|got| got.event()["id"].as_str().unwrap().to_owned()).collect();
    assert!(arrived.len() <= 21, "more than the one that was under way came twice: {arrived:?}");
    arrived.dedup();
    assert_eq!(arrived, ids(&events, "2.1"));

    let discard = ["dead-letters", "discard", "--tenant", "3.1"];
    let dry = run_at(&outside, [&discard[..], &["--dry-run"]].concat()).code(0);
    assert!(dry.stderr.contains("20 would be discarded"), "{dry:?}");
    assert_eq!(run_at(&outside, discard).code(0).stdout.lines().count(), 20);
    assert_eq!(names(&list()), ids(&events, "1.1"));
    outside.clean().await;
}

/// Two consumers of one queue would take it out of its order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_else_may_take_letters_meanwhile() {
    let (outside, broker) = (Outside::connect("repair.two").await, Broker::connect().await);
    sixty_letters(&outside, &broker).await;
    let mut first = Watched::start(at(&outside, ["dead-letters", "replay", "--all", "--rate", "1"]));
    first.line();
    let second = run_at(&outside, ["dead-letters", "list"]).code(1);
    assert!(second.stderr.contains("1 others consume"), "{second:?}");
    assert_eq!(first.signal("INT"), Some(1));
    let left = run_at(&outside, ["dead-letters", "list", "--format", "json"]).code(0).json_lines().len();
    assert_eq!(left as u32 + broker.waiting(&format!("{}.p0.reports", outside.prefix)).await, 60);
    outside.clean().await;
}

/// Reports that are created, and then all acknowledged.
fn load(reports: u64) -> Vec<Vec<u8>> {
    let events: Vec<[Value; 2]> = (1..=reports).map(events_of).collect();
    let side = |side: usize| events.iter().map(move |pair| bytes(&pair[side])).collect::<Vec<_>>();
    [side(0), side(1)].concat()
}

/// A producer that stops for nothing but its end.
struct Producer {
    stop: Arc<AtomicBool>,
    sending: JoinHandle<Vec<Vec<u8>>>,
}

impl Producer {
    /// Report after report is created and acknowledged, an event each two milliseconds.
    fn start(outside: &Outside) -> Self {
        let (stop, exchange) = (Arc::new(AtomicBool::new(false)), format!("{}.events", outside.prefix));
        let stopped = Arc::clone(&stop);
        let sending = tokio::spawn(async move {
            let (broker, mut sent) = (Broker::connect().await, Vec::new());
            let mut pace = tokio::time::interval(std::time::Duration::from_millis(2));
            for event in (1..).flat_map(events_of) {
                pace.tick().await;
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let event = Sent::structured(&bytes(&event));
                broker.publish(&exchange, &event.routing_key, &[("tenantid", "5.4")], &event.body).await;
                sent.push(event.body);
            }
            sent
        });
        Self { stop, sending }
    }

    /// Gives what it has sent.
    async fn stop(self) -> Vec<Vec<u8>> {
        self.stop.store(true, Ordering::SeqCst);
        within("the last event", self.sending).await.unwrap()
    }
}

/// What a stopped service knows of its tenants, by what `store export` writes; nothing is left to publish.
fn check_state(store: &Path, events: &[Vec<u8>]) {
    let dir = TempDir::new().unwrap();
    let (lines, replayed) = (dir.path().join("events.ndjson"), dir.path().join("store"));
    fs::write(&lines, service::join(events, b"\n")).unwrap();
    service::replay([lines.as_os_str(), "--store".as_ref(), replayed.as_os_str()]);
    let state = |store: &Path| {
        let exported = run(["store", "export", "--store", store.to_str().unwrap()]).code(0);
        let rows: Vec<String> = exported.stdout.lines().map(str::to_owned).collect();
        assert!(!rows.iter().any(|row| row.starts_with("{\"key\":\"o/")), "something is left to publish");
        // reports, subjects, timers, attempts, parked events, ids applied, the time
        let kinds = ["r/", "s/", "t/", "x/", "p/", "m/"].map(|kind| format!("{{\"key\":\"{kind}"));
        let ids = "{\"key_hex\":\"692f";
        rows.into_iter().filter(|row| row.starts_with(ids) || kinds.iter().any(|kind| row.starts_with(kind))).collect::<Vec<_>>()
    };
    let (found, expected) = (state(store), state(&replayed));
    assert!(expected.len() > events.len(), "a report and two ids for each two events: {}", expected.len());
    assert_eq!(found, expected);
}

/// So that a backlog lasts, and most of it is still in the queue.
fn slow(outside: &Outside, store: &Path) -> std::process::Command {
    let mut command = outside.serve(store);
    command.env("REMEDYD_LIMITS__BATCH_EVENTS", "4").env("REMEDYD_AMQP__PREFETCH_REPORTS", "16");
    command
}

/// A backup is taken while the service is busy. It goes on, and then its disk is lost, with everything that it had acked
/// since. The backup is restored, and the producers' events are played again from a copy of them that the broker has
/// kept: what the backup knows is a duplicate, what it does not is decided as it was the first time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_under_load_restores_to_a_service_that_goes_on_without_a_lost_or_doubled_event() {
    let (outside, broker, dir) = (Outside::connect("repair.restore").await, Broker::connect().await, TempDir::new().unwrap());
    let (store, backup) = (dir.path().join("data"), dir.path().join("backup.ndjson"));
    let (store_arg, backup_arg) = (store.to_str().unwrap(), backup.to_str().unwrap());
    outside.apply_topology();
    // not all of `events`: what any binding of it takes does not go on to the reports
    let kept = broker.queue_on(&format!("{}.kept", outside.prefix), &format!("{}.events.rest", outside.prefix), "", false).await;
    broker.bind(&kept, &format!("{}.events", outside.prefix), "agent.surveyed.#").await;
    let mut ear = broker.ear(&format!("{}.status", outside.prefix)).await;
    let token = dir.path().join("token");
    fs::write(&token, "a-token-of-some-length\n").unwrap();
    let mut command = outside.serve(&store);
    command.env("REMEDYD_OPS__TOKEN_FILE", &token);
    let (service, address) = start(command).await;
    let url = format!("http://{address}");
    let (producer, mut ledger) = (Producer::start(&outside), Ledger::default());
    while ledger.outbound.len() < 50 {
        ledger.hear(&ear.next().await);
    }
    let take = |more: &[&str]| run([&["store", "backup", "--url", &url, "--out", backup_arg], more].concat());
    take(&[]).code(64);
    assert!(!backup.exists());
    let bearer = "Authorization: Bearer a-token-of-some-length";
    assert_eq!(request("POST", address, "/api/v1/backup", &[bearer, "Origin: http://127.0.0.1"]).0, 403);
    assert_eq!(request("GET", address, "/api/v1/backup", &[bearer]).0, 405);
    // somebody who asks and does not wait for the answer is in nobody's way for long
    drop(send_request("POST", address, "/api/v1/backup", &[bearer]));
    let mut every = tokio::time::interval(std::time::Duration::from_millis(20));
    while request("POST", address, "/api/v1/backup", &[bearer]).0 == 409 {
        every.tick().await;
    }
    let taken = take(&["--token-file", token.to_str().unwrap()]).code(0);
    take(&["--token-file", token.to_str().unwrap()]).code(64);
    run(["store", "verify", backup_arg]).code(0);
    assert_eq!(backup.metadata().unwrap().permissions().mode() & 0o777, 0o600, "others may read the backup");
    // it has gone on, and published what the backup does not know
    let known = Loss::now_as(address, bearer).applied;
    while Loss::now_as(address, bearer).applied < known + 50 {
        ledger.hear(&ear.next().await);
    }
    service.kill().await;
    fs::remove_dir_all(&store).unwrap();
    let events = producer.stop().await;
    let expected = by_subject(&replay_lines(&events, &[]).lines());
    let total: usize = expected.values().map(Vec::len).sum();

    let restored = run(["store", "import", backup_arg, "--store", store_arg]).code(0);
    let rows = |text: &str| text.split(" rows").next().unwrap().to_owned();
    assert_eq!(rows(&taken.stdout), rows(&restored.stdout));
    run(["store", "import", backup_arg, "--store", store_arg]).code(73);
    for lane in ["reports", "surveys"] {
        broker.purge(&format!("{}.p0.{lane}", outside.prefix)).await;
    }
    let (service, address) = start({
        let mut command = outside.serve(&store);
        command.env("REMEDYD_OPS__TOKEN_FILE", "");
        command
    })
    .await;
    let again = broker.drain(&kept).await;
    assert_eq!(again.len(), events.len());
    broker.delete(&kept).await;
    for got in &again {
        outside.send(&Sent::structured(&got.body)).await;
    }
    while ledger.outbound.len() < total {
        ledger.hear(&ear.next().await);
    }
    let loss = Loss::settled(address).await;
    assert_eq!(loss.events_in, events.len() as u64);
    assert!(loss.duplicate > 0 && loss.applied > 0, "{loss:?}");
    service.stop().await;
    assert!(ledger.copies > 0, "nothing was published between the backup and the loss: it proves nothing");
    let found: Vec<Vec<u8>> = ledger.outbound.iter().map(|(_, body)| body.clone()).collect();
    assert_eq!(by_subject(&found), expected);
    check_state(&store, &events);
    outside.clean().await;
}

/// A service is stopped in the middle of its work, its store written down and made anew in another engine; the next
/// service goes on with it. Nothing has to be played again, and nothing comes twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_moves_between_two_batches_loses_and_doubles_nothing() {
    let (outside, broker, dir) = (Outside::connect("repair.move").await, Broker::connect().await, TempDir::new().unwrap());
    outside.apply_topology();
    let mut ear = broker.ear(&format!("{}.status", outside.prefix)).await;
    let events = load(200);
    let expected = by_subject(&replay_lines(&events, &[]).lines());
    let total: usize = expected.values().map(Vec::len).sum();
    for event in &events {
        outside.send(&Sent::structured(event)).await;
    }
    let mut ledger = Ledger::default();
    let mut store = dir.path().join("first");
    for engine in ["sled", "journal"] {
        let (service, _) = start(slow(&outside, &store)).await;
        let then = ledger.outbound.len();
        while ledger.outbound.len() < then + 20 {
            ledger.hear(&ear.next().await);
        }
        service.stop().await;
        assert!(broker.waiting(&format!("{}.p0.reports", outside.prefix)).await > 0, "it was done already: make it longer");
        let (file, next) = (dir.path().join(format!("to-{engine}.ndjson")), dir.path().join(engine));
        let [file, from, to] = [&file, &store, &next].map(|path| path.to_str().unwrap());
        run(["store", "export", "--store", from, "--out", file]).code(0);
        run(["store", "import", file, "--store", to, "--engine", engine]).code(0);
        store = next;
    }
    let (service, _) = start(outside.serve(&store)).await;
    let locked = run(["store", "export", "--store", store.to_str().unwrap()]).code(73);
    assert!(locked.stderr.contains("remedyd store backup --url"), "{locked:?}");
    while ledger.outbound.len() < total {
        ledger.hear(&ear.next().await);
    }
    service.stop().await;
    assert_eq!(ledger.copies, 0);
    let found: Vec<Vec<u8>> = ledger.outbound.iter().map(|(_, body)| body.clone()).collect();
    assert_eq!(by_subject(&found), expected);
    check_state(&store, &events);
    outside.clean().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tail_shows_what_is_published_and_what_is_asked_for() {
    let (outside, dir) = (Outside::connect("repair.tail").await, TempDir::new().unwrap());
    let missing = run_at(&outside, ["tail", "--count", "1"]).code(69);
    assert!(missing.stderr.contains(&format!("{}.status", outside.prefix)), "{missing:?}");
    let service = outside.start(dir.path()).await;
    let events = load(3);
    let expected = replay_lines(&events, &[]);
    let of_report = |report: u64| {
        let events = expected.events();
        let wanted = events.into_iter().filter(move |event| event["data"]["incident_report_id"] == report);
        wanted.collect::<Vec<_>>()
    };
    let count = of_report(2).len().to_string();
    let watch = |args: &[&str]| {
        let mut watched = Watched::start(at(&outside, [&["tail"], args].concat()));
        watched.until("listening");
        watched
    };
    let mut as_json = watch(&["--json", "--report", "2", "--count", &count]);
    let mut told = watch(&["--tenant", "5.4", "--type", "incident_report.status_changed", "--report", "3", "--count", "1"]);
    let mut other = watch(&["--tenant", "5.5"]);
    for event in &events {
        outside.send(&Sent::structured(event)).await;
    }
    let mut heard = Vec::new();
    for _ in 0..of_report(2).len() {
        heard.push(serde_json::from_str::<Value>(&as_json.line()).unwrap());
    }
    assert_eq!(as_json.end(), Some(0));
    check_sequences(&heard);
    assert_eq!(heard, of_report(2));
    let line = told.line();
    assert!(line.contains(" 5.4 incident_reports/3 #") && line.contains(" incident_report.status_changed: "), "{line}");
    assert_eq!(told.end(), Some(0));
    assert_eq!(other.signal("INT"), Some(0));
    assert_eq!(other.line(), "");
    service.stop().await;
    outside.clean().await;
}

/// A store in memory, to be written down.
struct Rows(MemoryStore);

impl Source for Rows {
    fn commits(&self) -> u64 {
        1
    }

    fn scan(&self, from: &[u8], limit: usize) -> Result<Vec<Row>, TransferError> {
        Ok(self.0.scan(b"", from, limit)?)
    }

    fn archive(&self, _: &mut dyn FnMut(&[u8]) -> Result<(), TransferError>) -> Result<(), TransferError> {
        Ok(())
    }
}

/// Each kind of damage that no checksum of the engine would show, and what is said of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verify_names_what_does_not_belong_together() {
    let dir = TempDir::new().unwrap();
    let sound = dir.path().join("sound");
    // a task waits for its next attempt
    let until = "2026-11-23T09:07:00Z";
    let mut replaying = service::remedyd(["replay", "--until", until, "--store"]);
    let replayed = replaying.arg(&sound).arg(sample_path("able-moose")).output().unwrap();
    assert!(replayed.status.success(), "{}", String::from_utf8_lossy(&replayed.stderr));
    let [file, harmed] = ["sound.ndjson", "harmed.ndjson"].map(|name| dir.path().join(name).to_str().unwrap().to_owned());
    let sound = sound.to_str().unwrap();
    run(["store", "verify", "--store", sound]).code(0);
    run(["store", "export", "--store", sound, "--out", &file]).code(0);

    type Harm = fn(&MemoryStore, &mut Batch);
    fn row(store: &MemoryStore, prefix: &[u8]) -> (Vec<u8>, Vec<u8>) {
        store.scan(prefix, b"", 1).unwrap().remove(0)
    }
    fn edited(value: &[u8], edit: impl Fn(&mut Value)) -> Vec<u8> {
        let mut record: Value = record::decode(b"test", value).unwrap();
        edit(&mut record);
        record::encode(&record)
    }
    let harms: [(&str, Harm); 9] = [
        ("no kind of row begins like this", |_, batch| batch.put(b"q/1".to_vec(), Vec::new())),
        ("is damaged", |store, batch| {
            let (key, mut value) = row(store, keys::REPORTS);
            *value.last_mut().unwrap() ^= 1;
            batch.put(key, value);
        }),
        ("no timer is set then", |store, batch| batch.remove(row(store, keys::TIMERS).0)),
        ("nothing of the subject is due first then", |store, batch| {
            let (due, tenant, subject) = keys::timer_parts(&row(store, keys::TIMERS).0).unwrap();
            batch.put(keys::timer(remedyd::model::time::after(due, remedyd::model::time::minutes(1)), tenant, subject), Vec::new());
        }),
        ("which has no row", |store, batch| batch.remove(row(store, keys::REPORTS).0)),
        ("its subject agents/", |store, batch| {
            let (key, value) = row(store, keys::SUBJECTS);
            batch.put(key, edited(&value, |subject| subject["live_reports"] = json!([])));
        }),
        ("no attempt is with this subject", |store, batch| {
            let (tenant, subject) = keys::subject_parts(&row(store, keys::SUBJECTS).0).unwrap();
            batch.put(keys::open_attempts(tenant, subject), Vec::new());
        }),
        ("it was resolved over", |store, batch| {
            let (key, value) = row(store, keys::REPORTS);
            batch.put(key, edited(&value, |report| report["closed_by"] = json!("resolved")));
        }),
        ("it is over, and no row says when it is to be archived", |store, batch| {
            let (key, value) = row(store, keys::REPORTS);
            batch.put(key, edited(&value, |report| report["closed_at"] = json!("2026-11-23T09:00:00Z")));
        }),
    ];
    let mut said = BTreeSet::new();
    for (expected, harm) in harms {
        let store = MemoryStore::new();
        import(&fs::read(&file).unwrap()[..], &store).unwrap();
        let mut batch = Batch::default();
        harm(&store, &mut batch);
        store.commit(&batch).unwrap();
        export(&Rows(store), &mut fs::File::create(&harmed).unwrap()).unwrap();
        let verified = run(["store", "verify", &harmed]).code(1);
        let wrong: Vec<&str> = verified.stdout.lines().filter(|line| line.starts_with("wrong: ")).collect();
        assert!(wrong.iter().any(|line| line.contains(expected)), "{expected}: {verified:?}");
        said.extend(wrong.into_iter().map(str::to_owned));
    }
    assert!(said.len() >= 9, "{said:#?}");
}

/// A file that is not whole makes no store, and leaves nothing behind that looks like one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_cut_or_changed_is_not_restored() {
    let dir = TempDir::new().unwrap();
    let (store, file, cut) = (dir.path().join("store"), dir.path().join("whole.ndjson"), dir.path().join("cut.ndjson"));
    service::replay([sample_path("able-moose").as_os_str(), "--store".as_ref(), store.as_os_str()]);
    let [store, file, cut, target] = [&store, &file, &cut, &dir.path().join("data")].map(|path| path.to_str().unwrap().to_owned());
    run(["store", "export", "--store", &store, "--out", &file]).code(0);
    let whole = fs::read(&file).unwrap();
    let half = whole.len() / 2;
    let mut changed = whole.clone();
    changed[half] ^= 1;
    for damaged in [&whole[..half], &whole[..whole.len() - 1], &changed[..], b""] {
        fs::write(&cut, damaged).unwrap();
        run(["store", "verify", &cut]).code(65);
        run(["store", "import", &cut, "--store", &target]).code(65);
        assert_eq!(fs::read_dir(&target).unwrap().count(), 0);
    }
    run(["store", "import", &file, "--store", &target, "--partition", "3"]).code(0);
    let again = dir.path().join("again.ndjson");
    run(["store", "export", "--store", &target, "--partition", "3", "--out", again.to_str().unwrap()]).code(0);
    let rows = |bytes: &[u8]| {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines[1..lines.len() - 1].to_vec()
    };
    assert_eq!(rows(&fs::read(&again).unwrap()), rows(&whole));
}
