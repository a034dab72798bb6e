//! What each step of an event costs: decode, decide by kind of row, encode, commit by size of batch, a whole partition, and
//! the whole pipeline on the memory link.
//!
//! `cargo bench --bench steps`. Absolute figures move by a factor of two with the machine's neighbours: compare runs of
//! one hour only (`-- --save-baseline`, `-- --baseline`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BatchSize, BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use remedyd::agent::simulated::Model;
use remedyd::broker::memory::MemoryBroker;
use remedyd::broker::topology::Topology;
use remedyd::broker::{Lane, Link as _, Message, Token};
use remedyd::config::{Publishers, Users};
use remedyd::machine::decide;
use remedyd::machine::decision::Decision;
use remedyd::machine::event::{Event, EventKind};
use remedyd::machine::policy::Policy;
use remedyd::machine::subject::Subject;
use remedyd::model::ids::{AgentId, SubjectKey, TenantId};
use remedyd::model::time::{Timestamp, after, days, minutes};
use remedyd::pipeline::clock::Clock;
use remedyd::pipeline::engine::Limits;
use remedyd::pipeline::partition::{Partition, PartitionSettings};
use remedyd::pipeline::{self, Recovered, Settings, recovery, rows};
use remedyd::store::journal::JournalStore;
use remedyd::store::memory::MemoryStore;
use remedyd::store::sled::{SledSettings, SledStore};
use remedyd::store::{Batch, Store};
use remedyd::wire;
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const TENANT: TenantId = TenantId { account: 1, organization: 1 };

fn at(minute: i64) -> Timestamp {
    after("2026-11-23T09:00:00Z".parse().unwrap(), minutes(minute))
}

fn message(id: &str, kind: &str, minute: i64, data: &Value) -> Message {
    let event = json!({ "specversion": "1.0", "id": id, "source": "bench", "type": kind, "time": at(minute).to_string(),
        "tenantid": "1.1", "data": data });
    Message {
        routing_key: format!("{kind}.1.1"),
        content_type: Some("application/cloudevents+json".into()),
        body: event.to_string().into_bytes(),
        ..Message::default()
    }
}

/// A report with three tasks, a manual step and a body of some length: about 3 KiB.
fn report(n: u64) -> Message {
    report_about(n, 7)
}

fn report_about(n: u64, agent: u64) -> Message {
    let time = at(0).to_string();
    let task = |id: u64, action: &str| {
        json!({ "id": id, "type": "assisted", "action": action,
        "parameters": [{ "name": "path", "description": "C:\\Users\\Public\\updater.exe" }] })
    };
    let data = json!({ "incident_report": { "id": n, "account_id": 1, "organization_id": 1, "agent_id": agent, "platform": "windows",
        "severity": "high", "status": "sent", "subject": "Persistence on host", "summary": "An autorun was found.", "body": "x".repeat(2_000),
        "sent_at": time, "updated_at": time, "status_updated_at": time, "plan_revision": 1,
        "remediations": { "total_count": 4, "has_more": false, "items": [task(1, "Kill Process"), task(2, "Delete File"),
            task(3, "Delete Service"), { "id": 4, "type": "manual", "action": "Change the password" }] },
        "footholds": [{ "id": format!("fh-{n}"), "kind": "autorun", "description": "d", "remediation_ids": [2] }] } });
    message(&format!("r-{n}"), "incident_report.created", 0, &data)
}

fn survey(minute: i64) -> Message {
    survey_of(7, minute)
}

fn survey_of(agent: u64, minute: i64) -> Message {
    let data =
        json!({ "agent_id": agent, "surveyed_at": at(minute).to_string(), "hostname": "h", "platform": "windows", "agent_version": "1" });
    message(&format!("s-{agent}-{minute}"), "agent.surveyed", minute, &data)
}

fn request(kind: &str, minute: i64) -> Message {
    request_about(1, kind, minute)
}

fn request_about(report: u64, kind: &str, minute: i64) -> Message {
    let data = json!({ "incident_report_id": report, "plan_revision": 1, "reason": "done", "actor": { "id": 1, "role": "admin" } });
    message(&format!("{kind}-{report}-{minute}"), kind, minute, &data)
}

fn event(message: &Message) -> Event {
    rows::decode(message).unwrap().event
}

fn applied(subject: &Subject, event: &Event) -> Subject {
    match decide(subject, event, event.time, &Policy::default()) {
        Decision::Applied(applied) => applied.subject,
        other => panic!("{other:?}"),
    }
}

fn decoding(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    for (name, message) in [("survey", survey(15)), ("report of 3 KiB", report(1)), ("approval", request("remediations.approved", 1))] {
        group.throughput(Throughput::Bytes(message.body.len() as u64));
        group.bench_function(name, |b| b.iter(|| rows::decode(black_box(&message)).unwrap()));
    }
}

fn deciding(c: &mut Criterion) {
    let mut group = c.benchmark_group("decide");
    let unknown = Subject::unknown(TENANT, SubjectKey::Agent(AgentId(7)));
    let created = applied(&unknown, &event(&report(1)));
    let approved = applied(&created, &event(&request("remediations.approved", 1)));
    let known = applied(&unknown, &event(&survey(15)));
    let timer = Event { id: "t".into(), tenant: TENANT, time: at(16), traceparent: None, kind: EventKind::TimerDue };
    let cases: [(&str, &Subject, Event); 7] = [
        ("A1 survey of a quiet agent", &known, event(&survey(30))),
        ("A1 survey older than the last", &known, event(&survey(15))),
        ("R1 report", &unknown, event(&report(1))),
        ("R3 T2 approval of three tasks", &created, event(&request("remediations.approved", 1))),
        ("T5 survey that delivers three tasks", &approved, event(&survey(15))),
        ("R10 resolution refused by the gate", &approved, event(&request("incident_report.resolution_requested", 2))),
        ("timer with nothing due", &approved, timer),
    ];
    for (name, subject, event) in &cases {
        group.bench_function(*name, |b| b.iter(|| decide(black_box(subject), black_box(event), event.time, &Policy::default())));
    }
}

fn encoding(c: &mut Criterion) {
    let unknown = Subject::unknown(TENANT, SubjectKey::Agent(AgentId(7)));
    let Decision::Applied(applied) = decide(&unknown, &event(&report(1)), at(0), &Policy::default()) else { panic!("not created") };
    let mut group = c.benchmark_group("encode");
    group.throughput(Throughput::Elements(applied.notices.len() as u64));
    group.bench_function("what a report publishes", |b| {
        b.iter(|| applied.notices.iter().map(|notice| wire::encode(TENANT, black_box(notice))).collect::<Vec<_>>());
    });
}

/// Rows as an event has them: a subject, an inbox row, two outbox rows and the removal of two earlier ones.
fn batch(number: u64, events: u64) -> Batch {
    let mut batch = Batch::default();
    for n in number * events..(number + 1) * events {
        batch.put(format!("s/1.{}/agents/{}", n % 500, n % 4_000).into_bytes(), vec![b'x'; 400]);
        batch.put(format!("i/1.{}/{n:016x}", n % 500).into_bytes(), vec![b'x'; 20]);
        for copy in [2 * n, 2 * n + 1] {
            batch.put(format!("o/{copy:016x}").into_bytes(), vec![b'x'; 700]);
            batch.remove(format!("o/{:016x}", copy.saturating_sub(4 * events)).into_bytes());
        }
    }
    batch
}

fn committing(c: &mut Criterion) {
    let mut group = c.benchmark_group("commit, durably");
    group.sample_size(20);
    for events in [1, 16, 64, 256] {
        group.throughput(Throughput::Elements(events));
        let mut run = |name: &str, store: &dyn Store| {
            let mut number = 0;
            group.bench_function(BenchmarkId::new(name, events), |b| {
                b.iter_batched(
                    || {
                        number += 1;
                        batch(number, events)
                    },
                    |batch| store.commit(&batch).unwrap(),
                    BatchSize::PerIteration,
                );
            });
        };
        let dir = tempfile::tempdir().unwrap();
        run("journal", &JournalStore::open(dir.path(), SledSettings::default()).unwrap());
        let dir = tempfile::tempdir().unwrap();
        run("sled alone", &SledStore::open(dir.path(), SledSettings::default()).unwrap());
    }
}

fn partition<S: Store>(store: S) -> (Partition<S>, Arc<S>) {
    let store = Arc::new(store);
    (recovery::open(Arc::clone(&store), settings("dead".into(), "status".into())).unwrap().0, store)
}

fn settings(dead_letter_queue: String, status_exchange: String) -> PartitionSettings {
    let (clock, policy, model) = (Clock::EVENTS, Policy::default(), Model::Steady);
    PartitionSettings { clock, policy, model, dead_letter_queue, status_exchange, audit_kept: days(400) }
}

/// 64 surveys of a quiet agent each, decoded, decided and committed.
fn whole(c: &mut Criterion) {
    let mut group = c.benchmark_group("partition");
    group.throughput(Throughput::Elements(64));
    let mut minute = 0;
    let mut run = |name: &str, turn: &mut dyn FnMut(Vec<Message>)| {
        group.bench_function(name, |b| {
            b.iter_batched(
                || {
                    let next = (0..64).map(|n| survey(minute + n)).collect();
                    minute += 64;
                    next
                },
                |messages: Vec<Message>| turn(messages),
                BatchSize::PerIteration,
            );
        });
    };
    let (mut in_memory, memory) = partition(MemoryStore::new());
    run("64 surveys, memory", &mut |messages| turn(&mut in_memory, &memory, messages));
    let dir = tempfile::tempdir().unwrap();
    let (mut on_disk, disk) = partition(JournalStore::open(dir.path(), SledSettings::default()).unwrap());
    run("64 surveys, journal", &mut |messages| turn(&mut on_disk, &disk, messages));
}

fn turn<S: Store>(partition: &mut Partition<S>, store: &Arc<S>, messages: Vec<Message>) {
    for message in messages {
        let decoded = rows::decode(&message);
        partition.take_delivery(Token { epoch: 1, lane: Lane::Surveys, tag: 1 }, message, decoded).unwrap();
    }
    while let Some(sealed) = partition.seal().unwrap() {
        store.commit(&sealed.batch).unwrap();
        partition.committed(&sealed);
        let numbers: Vec<u64> = sealed.followers.outbox.iter().map(|(number, _)| *number).collect();
        partition.confirmed(&numbers);
    }
}

const HOSTS: u64 = 64;

/// Of 64 hosts each a report, its approval and the survey that runs its three tasks, from the queue to the confirm.
fn piped(c: &mut Criterion) {
    let mut group = c.benchmark_group("pipeline");
    group.throughput(Throughput::Elements(3 * HOSTS));
    pipe(&mut group, "memory", MemoryStore::new());
    let dir = tempfile::tempdir().unwrap();
    pipe(&mut group, "journal", JournalStore::open(dir.path(), SledSettings::default()).unwrap());
}

fn pipe(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, store: impl Store) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let topology = Topology::new(1).unwrap();
    let broker = MemoryBroker::new(&topology);
    let mut status = broker.declare_tap(&topology.status(), "#");
    let link = Arc::new(broker.link(0, 2_000));
    let settings = Settings {
        partition: settings(topology.dead_letters(), topology.status()),
        limits: Limits { batch_events: 256, outbox_rows: 100_000, repeats: 1_000, drain: Duration::from_secs(10) },
        users: Arc::new(Publishers::new(Users::Anyone)),
        publish_window: 1_000,
    };
    let pipeline = runtime.block_on(async {
        let recovered = Recovered::read(Arc::new(store), settings).unwrap();
        pipeline::start("engine", recovered, Arc::clone(&link)).unwrap()
    });
    // ids begin with 1
    let mut hosts = 1;
    group.bench_function(name, |b| {
        b.iter_batched(
            || {
                hosts += HOSTS;
                let hosts = hosts - HOSTS..hosts;
                let reports = hosts.clone().map(|n| report_about(n, n));
                let decided = reports.chain(hosts.clone().map(|n| request_about(n, "remediations.approved", 1)));
                [decided.collect::<Vec<_>>(), hosts.map(|n| survey_of(n, 2)).collect()]
            },
            |lanes| {
                // one after the other: a survey that overtakes the approval runs nothing
                for messages in lanes {
                    for message in messages {
                        broker.publish(Message { exchange: topology.events(), ..message });
                    }
                    runtime.block_on(async {
                        broker.idle().await;
                        pipeline.quiesced().await;
                    });
                }
                let published = std::iter::from_fn(|| status.try_recv().ok());
                let completed = published.filter(|message| String::from_utf8_lossy(&message.body).contains(r#""to":"completed""#)).count();
                assert_eq!(completed as u64, 3 * HOSTS);
            },
            BatchSize::PerIteration,
        );
    });
    runtime.block_on(async {
        pipeline.drain().await.unwrap();
        link.close().await;
    });
}

criterion_group!(benches, decoding, deciding, encoding, committing, whole, piped);
criterion_main!(benches);
