//! `remedyd serve` against a real RabbitMQ, driven from outside: another client publishes, and what comes out is
//! held against the replay of the same events, to the byte.
//!
//! Needs a broker (`REMEDYD_TEST_AMQP_URL`) and fails without one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "service/outside.rs"]
mod outside;
#[path = "service/process.rs"]
mod process;
mod service;
#[path = "service/steps.rs"]
mod steps;
#[path = "service/tell.rs"]
mod tell;

use outside::{Outside, Pika, Sent};
use process::Process;
use serde_json::{Value, json};
use service::{check_same_state, check_sequences, replay_lines, sample};
use steps::{Ledger, by_subject, replayed_state, steps, stopped_state};
use tell::outcome;
use tempfile::TempDir;

/// Plays a sample by pika, each event after what the one before it came to. After each number of events in
/// `kills` the service is killed and started again on the same store. In the end everything must be as in a replay.
async fn check_sample(test: &str, name: &str, kills: &[usize]) {
    let (steps, dir) = (steps(name), TempDir::new().unwrap());
    let mut outside = Outside::connect(test).await;
    let mut service = outside.start(dir.path()).await;
    outside.listen().await;
    let mut pika = Pika::start(&outside);
    let mut ledger = Ledger::default();
    for played in 0..=steps.len() {
        if kills.contains(&played) {
            service.kill().await;
            service = outside.start(dir.path()).await;
        }
        if let Some(step) = steps.get(played) {
            pika.send(&Sent::structured(&step.event));
            ledger.settle(&mut outside, step).await;
        }
    }
    service.stop().await;
    ledger.finish(&mut outside).await;
    ledger.check_against(&outside, &steps);
    check_same_state(&stopped_state(dir.path()), &replayed_state(name));
    if kills.is_empty() {
        assert_eq!(ledger.copies, 0, "published twice without a crash");
    }
    outside.clean().await;
}

/// As [`check_sample`], in an installation of its own for each gap: one kill a run.
async fn check_killed_once(test: &str, name: &str, gaps: impl IntoIterator<Item = usize>) {
    for gap in gaps {
        check_sample(&format!("{test}.{gap}"), name, &[gap]).await;
    }
}

macro_rules! samples {
    ($($test:ident: $name:literal, killed after $kills:expr;)*) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            check_sample(stringify!($test), $name, &$kills).await;
        })*
    };
}

samples! {
    able_moose: "able-moose", killed after [];
    critical_isolated: "critical-isolated", killed after [];
    disorder: "disorder", killed after [];
    no_remediation: "no-remediation", killed after [];
    reject_and_revise: "reject-and-revise", killed after [];
    able_moose_killed_in_every_gap: "able-moose", killed after [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    disorder_killed_in_every_gap: "disorder", killed after [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn able_moose_killed_once_early() {
    check_killed_once("moose-early", "able-moose", 0..=4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn able_moose_killed_once_in_the_middle() {
    check_killed_once("moose-middle", "able-moose", 5..=8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn able_moose_killed_once_late() {
    check_killed_once("moose-late", "able-moose", 9..=12).await;
}

/// kill -9 as soon as an event has come to anything at all: tasks may be at the host by then, and what became of them is
/// not known. What comes out differs from a replay, but the sequences are whole, no copy differs from its original,
/// and the report is closed only over completed tasks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn able_moose_killed_inside_every_step() {
    let (steps, dir) = (steps("able-moose"), TempDir::new().unwrap());
    let mut outside = Outside::connect("inside").await;
    let mut service = outside.start(dir.path()).await;
    outside.listen().await;
    let mut ledger = Ledger::default();
    for step in &steps {
        outside.send(&Sent::structured(&step.event)).await;
        let known = ledger.outbound.len();
        while !step.outbound.is_empty() && ledger.outbound.len() == known {
            let got = outside.status().await;
            ledger.hear(&got);
        }
        service.kill().await;
        service = outside.start(dir.path()).await;
        outside.barrier().await;
    }
    // how many attempts were lost is chance; four more surveys, far enough apart, are enough for any number
    let later = |line: usize, id: &str, time: &str| {
        let mut event: Value = serde_json::from_slice(&steps[line].event).unwrap();
        (event["id"], event["time"]) = (json!(id), json!(time));
        if event["data"]["surveyed_at"].is_string() {
            event["data"]["surveyed_at"] = json!(time);
        }
        Sent::structured(event.to_string().as_bytes())
    };
    for hour in ["11", "13", "15", "17"] {
        outside.send(&later(10, &format!("survey-at-{hour}"), &format!("2026-11-23T{hour}:00:00Z"))).await;
        outside.barrier().await;
    }
    outside.send(&later(11, "p-7", "2026-11-23T18:00:00Z")).await;
    outside.barrier().await;
    service.stop().await;
    ledger.finish(&mut outside).await;
    let events: Vec<Value> = ledger.outbound.iter().map(|(_, body)| serde_json::from_slice(body).unwrap()).collect();
    check_sequences(&events);
    let stands = outcome(&events);
    assert_eq!(stands["incident_reports/1001 status"], "closed", "{stands:#?}");
    for task in 1..=4 {
        let state = &stands[&format!("incident_reports/1001 revision 1 task {task}")];
        assert!(state.starts_with("completed"), "task {task}: {state}");
    }
    stopped_state(dir.path());
    outside.clean().await;
}

/// Many reports in one lane, each created and acknowledged.
fn burst(reports: usize) -> Vec<Vec<u8>> {
    let event = |line: &[u8], number: usize| {
        let mut event: Value = serde_json::from_slice(line).unwrap();
        event["id"] = json!(format!("{}-{number}", event["id"].as_str().unwrap()));
        event.as_object_mut().unwrap().remove("subject");
        let data = &mut event["data"];
        if data["incident_report"].is_object() {
            data["incident_report"]["id"] = json!(number);
            data["incident_report"]["identity"]["id"] = json!(number);
        } else {
            data["incident_report_id"] = json!(number);
        }
        serde_json::to_vec(&event).unwrap()
    };
    let lines = sample("no-remediation");
    lines.iter().flat_map(|line| (1..=reports).map(|number| event(line, number))).collect()
}

/// A backlog that is interrupted `times` times by `interrupt`, each time as soon as the service has published
/// something new; the next process goes on with it. In the end everything is as in a replay.
async fn check_backlog(test: &str, times: usize, interrupt: impl AsyncFn(Process)) -> Ledger {
    let (events, dir) = (burst(300), TempDir::new().unwrap());
    let expected = by_subject(&replay_lines(&events, &[]).lines());
    let total: usize = expected.values().map(Vec::len).sum();
    let mut outside = Outside::connect(test).await;
    outside.apply_topology();
    outside.listen().await;
    for event in &events {
        outside.send(&Sent::structured(event)).await;
    }
    let mut ledger = Ledger::default();
    for round in 0..=times {
        // small batches and a short prefetch, so that it finds most of the backlog still in the queue
        let mut command = outside.serve(dir.path());
        command.env("REMEDYD_LIMITS__BATCH_EVENTS", "8").env("REMEDYD_AMQP__PREFETCH_REPORTS", "64");
        let mut service = Process::start(command);
        service.line("ready").await;
        assert!(ledger.outbound.len() < total, "round {round}: the backlog is done already, make it larger");
        let wanted = if round < times { ledger.outbound.len() + 1 } else { total };
        while ledger.outbound.len() < wanted {
            let got = outside.status().await;
            ledger.hear(&got);
        }
        if round < times {
            interrupt(service).await
        } else {
            service.stop().await
        }
        ledger.finish(&mut outside).await;
    }
    let found: Vec<Vec<u8>> = ledger.outbound.iter().map(|(_, body)| body.clone()).collect();
    assert_eq!(by_subject(&found), expected);
    stopped_state(dir.path());
    outside.clean().await;
    ledger
}

/// What was taken is finished, what was not stays in the queue; nothing is lost, and nothing comes twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stops_in_the_middle_of_a_backlog() {
    let ledger = check_backlog("stops", 3, Process::stop).await;
    assert_eq!(ledger.copies, 0, "published twice without a crash");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_in_the_middle_of_a_backlog() {
    check_backlog("kills", 3, Process::kill).await;
}
