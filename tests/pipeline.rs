//! The pipeline against crashes, a failing disk and a difficult broker: what it promises between a delivery and its
//! ack, and between a commit and its publications.
//!
//! Never here: the rules of reports and tasks; the events are only as many as it takes to see an effect.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "pipeline/events.rs"]
mod events;
#[path = "pipeline/rig.rs"]
mod rig;
mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use remedyd::config::{Accounts, User, Users};
use remedyd::model::ids::ReportId;
use remedyd::model::report::{Report, ReportStatus};
use remedyd::model::time::after;
use remedyd::pipeline::reading;
use remedyd::store::memory::CommitFault;
use remedyd::store::{Batch, Store as _, StoreError, keys};
use serde_json::json;

use events::{approved, comment, created, created_with, event, minute, resolution_requested, surveyed, unknown_type};
use rig::{Rig, Run, Seen, until};
use support::within;

/// The bodies of what an undisturbed run tells about these events.
async fn undisturbed(events: &[serde_json::Value]) -> BTreeMap<String, Vec<u8>> {
    let rig = Rig::new();
    let run = rig.start();
    for event in events {
        rig.publish(event);
        rig.settle(&run).await;
    }
    run.end().await;
    rig.judge();
    rig.bodies()
}

/// The lines about attempts and their ends.
fn tasks(rig: &Rig) -> Vec<String> {
    rig.told()
        .into_iter()
        .filter(|line| line.contains("remediation.status_changed"))
        .map(|line| line.split_once(' ').unwrap().1.to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ack_comes_after_the_commit_is_durable_and_once() {
    let rig = Rig::new();
    let run = rig.start();
    run.store.inner.hold_durability();
    rig.publish(&created(1, 0));
    run.store.held().await;
    // the next event is decided meanwhile: the engine is not waiting, it could have acked
    rig.publish(&comment(1, 1, 1));
    until("the second event is decided", || run.count().events_in == 2).await;
    assert_eq!((rig.acks(), rig.publications()), (0, 0));
    run.store.inner.release_durability();
    rig.settle(&run).await;
    assert_eq!(rig.acks(), 2);
    assert_eq!(run.count().applied, 2);
    run.end().await;
    rig.judge();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failed_commit_nothing_is_acked_or_published() {
    for fault in [CommitFault::Lost, CommitFault::Kept] {
        let rig = Rig::new();
        let mut run = rig.start();
        rig.publish(&created(1, 0));
        rig.settle(&run).await;
        let (acks, publications) = (rig.acks(), rig.publications());
        run.store.fail_next_commit(fault);
        for number in 0..100 {
            rig.publish(&comment(1, number, 1));
        }
        let ended = within("the pipeline ends", run.pipeline.ended()).await;
        assert!(matches!(ended, Err(StoreError::Io { .. })), "{fault:?}: {ended:?}");
        // what is published now lies in the queue
        rig.publish(&comment(1, 100, 2));
        // the last thing that the pipeline has done to its broker or its disk is the commit that failed
        within("no answer is owed any more", run.pipeline.quiesced()).await;
        assert_eq!((rig.acks(), rig.publications()), (acks, publications), "{fault:?}");
        rig.crash(run).await;
        // the next process takes it all up, and nothing is told twice
        let run = rig.start();
        rig.settle(&run).await;
        assert_eq!(rig.told().iter().filter(|line| line.contains("comment_added")).count(), 101, "{fault:?}");
        run.end().await;
        rig.judge();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_committed_and_not_published_is_published_after_a_restart() {
    let rig = Rig::new();
    let run = rig.start();
    rig.broker.block("alarm");
    rig.publish(&created(1, 0));
    within("acked", rig.broker.idle()).await;
    assert_eq!(rig.arrived().len(), 0);
    rig.crash(run).await;
    rig.broker.unblock();
    let run = rig.start();
    rig.settle(&run).await;
    assert_eq!(rig.bodies(), undisturbed(&[created(1, 0)]).await);
    assert_eq!(run.store.rows(keys::OUTBOX), 0);
    run.end().await;
    rig.judge();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_published_and_not_confirmed_is_published_again_identically() {
    let rig = Rig::new();
    let run = rig.start();
    rig.broker.hold_confirms();
    rig.publish(&created(1, 0));
    until("a first event arrives", || !rig.arrived().is_empty()).await;
    let before = rig.arrived();
    rig.crash(run).await;
    rig.broker.release_confirms();
    let run = rig.start();
    rig.settle(&run).await;
    for message in before {
        assert_eq!(rig.arrived().iter().filter(|other| **other == message).count(), 2, "{:?}", message.message_id);
    }
    assert_eq!(rig.bodies(), undisturbed(&[created(1, 0)]).await);
    run.end().await;
    rig.judge();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_overtakes_a_refused_publication_comes_once_more_after_it() {
    for refuse in [remedyd::broker::memory::MemoryBroker::nack_next, remedyd::broker::memory::MemoryBroker::return_next] {
        let mut rig = Rig::new();
        rig.refused = true;
        let run = rig.start();
        refuse(&rig.broker, 1);
        rig.publish(&created(1, 0));
        rig.settle(&run).await;
        let ids: Vec<_> = rig.arrived().into_iter().filter_map(|message| message.message_id).collect();
        let first = ids.iter().position(|id| id == "5.4:incident_reports/1:1");
        assert!(first > Some(0) && ids.iter().filter(|id| id.ends_with("/1:2")).count() == 2, "nothing has overtaken it: {ids:?}");
        assert_eq!(rig.publications(), ids.len() + 1, "besides what was refused, only what has arrived");
        run.end().await;
        rig.judge();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_again_after_a_lost_connection_has_no_second_effect() {
    let rig = Rig::new();
    let run = rig.start();
    let events = [created(1, 0), approved(1, 1), comment(1, 1, 2), surveyed(3), comment(1, 2, 4)];
    run.store.inner.hold_durability();
    for event in &events[..3] {
        rig.publish(event);
    }
    run.store.held().await;
    // decided, not durable, and the connection that could be acked on is gone
    until("all are decided", || run.count().events_in == 3).await;
    rig.broker.drop_connections();
    until("all have come again", || run.count().events_in == 6).await;
    run.store.inner.release_durability();
    rig.settle(&run).await;
    rig.broker.duplicate_next(2);
    for event in &events[3..] {
        rig.publish(event);
        rig.settle(&run).await;
    }
    let count = run.count();
    assert_eq!((count.applied, count.duplicate), (5, 5));
    assert!(count.balances());
    assert_eq!(rig.bodies(), undisturbed(&events).await);
    run.end().await;
    rig.judge();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_that_was_in_the_field_at_a_crash_is_settled_by_the_next_survey() {
    let rig = Rig::new();
    let mut run = rig.start();
    rig.publish(&created(1, 0));
    rig.publish(&approved(1, 1));
    rig.settle(&run).await;
    // durable, but nobody hears of it: the attempt is never handed out
    run.store.fail_next_commit(CommitFault::Kept);
    rig.publish(&surveyed(5));
    within("the pipeline ends", run.pipeline.ended()).await.unwrap_err();
    rig.crash(run).await;

    let run = rig.start();
    rig.settle(&run).await;
    assert_eq!(tasks(&rig).last().unwrap(), "remediation.status_changed 1 delivered -> outcome_unknown, attempt 1");
    for at in [20, 35, 50] {
        rig.publish(&surveyed(at));
        rig.settle(&run).await;
    }
    rig.publish(&resolution_requested(1, 51));
    rig.settle(&run).await;
    let told = tasks(&rig);
    assert_eq!(
        told.iter().skip_while(|line| !line.contains("delivered ->")).collect::<Vec<_>>(),
        [
            "remediation.status_changed 1 delivered -> outcome_unknown, attempt 1",
            "remediation.status_changed 1 outcome_unknown -> retry_wait, attempt 1",
            "remediation.status_changed 1 retry_wait -> queued, attempt 1",
            "remediation.status_changed 1 queued -> delivered, attempt 2",
            "remediation.status_changed 1 delivered -> completed, attempt 2",
        ]
    );
    assert!(rig.told().iter().any(|line| line.contains("sent -> closed")), "{:#?}", rig.told());
    run.end().await;
    rig.judge();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recovery_twice_changes_nothing_more() {
    let rig = Rig::new();
    let run = rig.start();
    rig.publish(&created_with(1, 0, json!(["file_in_use", "file_in_use", "file_in_use"])));
    rig.publish(&approved(1, 1));
    rig.publish(&comment(7, 1, 1));
    rig.settle(&run).await;
    rig.publish(&surveyed(5));
    rig.settle(&run).await;
    run.end().await;
    let bodies = rig.bodies();
    for _ in 0..3 {
        let run = rig.start();
        rig.settle(&run).await;
        assert_eq!(run.count().parked, 1);
        rig.crash(run).await;
    }
    assert_eq!(rig.bodies(), bodies);
    rig.judge();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parked_event_survives_a_restart_and_waits_for_its_report_no_longer_than_it_may() {
    let rig = Rig::new();
    let run = rig.start();
    rig.publish(&approved(1, 0));
    rig.publish(&comment(2, 1, 0));
    rig.settle(&run).await;
    assert_eq!((run.count().parked, run.store.rows(keys::PARKED), rig.arrived().len()), (2, 2, 0));
    rig.crash(run).await;

    let run = rig.start();
    assert_eq!(run.count().parked, 2);
    // known in time: it applies, after its report
    rig.publish(&created(1, 14));
    rig.settle(&run).await;
    assert_eq!(tasks(&rig).last().unwrap(), "remediation.status_changed 1 unapproved -> queued");
    run.pipeline.advance(after(minute(15), -remedyd::model::time::Span::from_millis(1))).await;
    rig.settle(&run).await;
    assert_eq!((run.count().parked, rig.dead_letters().len()), (1, 0));
    run.pipeline.advance(minute(15)).await;
    rig.settle(&run).await;
    let count = run.count();
    assert_eq!((count.parked, count.dead_lettered, rig.dead_letters()), (0, 1, vec!["orphan".to_owned()]));
    assert!(count.balances(), "{count:?}");
    assert_eq!((run.store.rows(keys::PARKED), run.store.rows(keys::DEAD_LETTERS)), (0, 1));
    // its replay is new
    rig.publish(&comment(2, 1, 0));
    rig.settle(&run).await;
    assert_eq!(run.count().parked, 1);
    run.end().await;
    rig.judge();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_parks_a_thousand_events_and_no_more() {
    let rig = Rig::new();
    let run = rig.start();
    for number in 0..1_001 {
        rig.publish(&comment(1, number, 0));
    }
    rig.settle(&run).await;
    let count = run.count();
    assert_eq!((count.parked, count.dead_lettered, rig.dead_letters()), (1_000, 1, vec!["orphan".to_owned()]));
    // also when it parked them in an earlier life
    rig.crash(run).await;
    let run = rig.start();
    rig.publish(&comment(1, 1_001, 0));
    rig.settle(&run).await;
    assert_eq!((run.count().parked, rig.dead_letters().len()), (1_000, 2));
    // the report comes: all apply, in order
    rig.publish(&created(1, 1));
    rig.settle(&run).await;
    let count = run.count();
    assert_eq!((count.parked, run.store.rows(keys::PARKED)), (0, 0));
    assert!(count.balances(), "{count:?}");
    assert_eq!(rig.told().iter().filter(|line| line.contains("comment_added")).count(), 1_000);
    run.end().await;
    rig.judge();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_outbox_pauses_consuming_and_its_end_resumes_it() {
    const ROOM: usize = 20;
    let mut rig = Rig::new();
    rig.limits.outbox_rows = ROOM;
    let run = rig.start();
    rig.publish(&created(1, 0));
    rig.settle(&run).await;
    rig.broker.hold_confirms();
    for number in 0..200 {
        rig.publish(&comment(1, number, 1));
    }
    // one comment is one row; of one report a few are under way at a time
    let comments = || rig.told().iter().filter(|line| line.contains("comment_added")).count();
    for arrived in 0..200 {
        until("the next arrives", || comments() > arrived).await;
        rig.broker.release_confirms();
        rig.broker.hold_confirms();
    }
    rig.broker.release_confirms();
    rig.settle(&run).await;
    assert_eq!(run.count().applied, 201);
    run.end().await;
    rig.judge();
    let most = most_unconfirmed(&rig);
    assert!((ROOM / 2..=ROOM).contains(&most), "{most} rows waited at a time");
}

/// The most outbox rows that stood in the store at a time.
fn most_unconfirmed(rig: &Rig) -> usize {
    let (mut rows, mut most) = (0, 0);
    for seen in rig.journal.lock().unwrap().iter() {
        if let Seen::Durable(batch) = seen {
            for (_, value) in batch.writes.iter().filter(|(key, _)| key.starts_with(keys::OUTBOX)) {
                if value.is_some() { rows += 1 } else { rows -= 1 }
            }
            most = most.max(rows);
        }
    }
    most
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_finishes_its_batch_and_leaves_the_rest_to_the_next_process() {
    let rig = Rig::new();
    let run = rig.start();
    run.store.inner.hold_durability();
    rig.publish(&created(1, 0));
    run.store.held().await;
    let Run { pipeline, store, link } = run;
    let drained = tokio::spawn(within("the drain", pipeline.drain()));
    // consuming has stopped: a later event stays in its queue
    within("consuming stops", async { while remedyd::broker::Link::next(&*link, remedyd::broker::Lane::Surveys).await.is_some() {} }).await;
    rig.publish(&comment(1, 1, 1));
    store.inner.release_durability();
    drained.await.unwrap().unwrap();
    assert_eq!((rig.acks(), store.rows(keys::OUTBOX)), (1, 0));
    assert!(!rig.arrived().is_empty());
    drop((store, link));
    let run = rig.start();
    rig.settle(&run).await;
    assert_eq!(rig.acks(), 2);
    run.end().await;
    rig.judge();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_without_a_broker_ends_in_time_and_keeps_the_rows() {
    let mut rig = Rig::new();
    rig.limits.drain = Duration::from_millis(100);
    let run = rig.start();
    rig.broker.hold_confirms();
    rig.publish(&created(1, 0));
    within("acked", rig.broker.idle()).await;
    rig.broker.go_down();
    let Run { pipeline, store, link } = run;
    within("the drain", pipeline.drain()).await.unwrap();
    assert_eq!(store.rows(keys::OUTBOX), undisturbed(&[created(1, 0)]).await.len());
    drop((store, link));
    rig.broker.come_up();
    rig.broker.release_confirms();
    let run = rig.start();
    rig.settle(&run).await;
    assert_eq!(rig.bodies(), undisturbed(&[created(1, 0)]).await);
    run.end().await;
    rig.judge();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_pipeline_stops_at_once_and_leaves_the_rest_to_the_next_process() {
    let rig = Rig::new();
    let run = rig.start();
    rig.broker.block("alarm");
    rig.publish(&created(1, 0));
    within("acked", rig.broker.idle()).await;
    let Run { pipeline, store, link } = run;
    let held = std::sync::Arc::downgrade(&store);
    drop((pipeline, store));
    until("the engine lets go of the store", || held.strong_count() == 0).await;
    remedyd::broker::Link::close(&*link).await;
    rig.broker.unblock();
    let run = rig.start();
    rig.settle(&run).await;
    assert_eq!((rig.acks(), rig.bodies()), (1, undisturbed(&[created(1, 0)]).await));
    run.end().await;
    rig.judge();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_speaks_for_its_tenant_only_from_whom_it_may_come() {
    let mut rig = Rig::new();
    let user = |name: &str, account, types: &[&str], portal| User {
        name: name.into(),
        accounts: Accounts::These(vec![account]),
        types: types.iter().map(|name| (*name).into()).collect(),
        portal,
    };
    rig.users = Users::Listed(vec![
        user("soc", 5, &["incident_report.*"], false),
        user("portal", 5, &["remediations.*"], true),
        user("bridge", 5, &["#"], false),
        user("other", 6, &["#"], true),
    ]);
    let run = rig.start();
    rig.publish_as(&created(1, 0), Some("soc"), Some("5.4"));
    rig.settle(&run).await;
    assert_eq!(run.count().applied, 1);
    let applied = rig.arrived().len();
    for (user, header) in [
        // no account, no name, another type, another tenant in the header, and a person's word from no portal
        (Some("other"), None),
        (None, None),
        (Some("eve"), None),
        (Some("soc"), None),
        (Some("portal"), Some("5.5")),
        (Some("bridge"), None),
    ] {
        let before = rig.dead_letters().len();
        rig.publish_as(&approved(1, 1), user, header);
        rig.settle(&run).await;
        assert_eq!(rig.dead_letters()[before..], ["tenant_mismatch"], "{user:?} {header:?}");
    }
    assert_eq!(rig.arrived().len(), applied, "a refused message had an effect");
    // none of them has used up the event's id
    rig.publish_as(&approved(1, 1), Some("portal"), Some("5.4"));
    rig.settle(&run).await;
    assert_eq!(tasks(&rig).last().unwrap(), "remediation.status_changed 1 unapproved -> queued");
    assert!(run.count().balances());
    run.end().await;
    rig.judge();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_dead_letters_are_bounded_and_the_messages_are_all_in_the_queue() {
    let rig = Rig::new();
    let run = rig.start();
    for number in 0..1_010 {
        rig.publish(&unknown_type(number, 0));
    }
    rig.settle(&run).await;
    assert_eq!((rig.dead_letters().len(), run.store.rows(keys::DEAD_LETTERS)), (1_010, 1_000));
    rig.crash(run).await;
    let run = rig.start();
    rig.publish(&unknown_type(1_010, 0));
    // without a tenant: a bound of its own
    rig.publish(&json!("rubbish"));
    rig.settle(&run).await;
    assert_eq!((rig.dead_letters().len(), run.store.rows(keys::DEAD_LETTERS)), (1_012, 1_001));
    run.end().await;
    rig.judge();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_events_are_not_committed_many_at_a_time() {
    const LARGE: usize = 1024 * 1024;
    const EVENTS: usize = 40;
    let rig = Rig::new();
    let run = rig.start();
    run.store.inner.hold_durability();
    rig.publish(&created(1, 0));
    run.store.held().await;
    for number in 0..EVENTS {
        rig.publish(&json!(format!("{number}{}", "x".repeat(LARGE))));
    }
    let delivered = || rig.journal.lock().unwrap().iter().filter(|seen| matches!(seen, Seen::Delivered(..))).count();
    until("everything has been delivered", || delivered() == 1 + EVENTS).await;
    run.store.inner.release_durability();
    rig.settle(&run).await;
    assert_eq!(rig.dead_letters().len(), EVENTS);
    run.end().await;
    rig.judge();
    let bytes = |batch: &Batch| -> usize {
        batch.writes.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, |value| value.len())).sum()
    };
    let largest =
        rig.journal.lock().unwrap().iter().filter_map(|seen| if let Seen::Durable(batch) = seen { Some(bytes(batch)) } else { None }).max();
    // an event is written twice (its row, and the message to publish), and the last one may begin just below the bound
    let bound = 8 * LARGE..8 * LARGE + 3 * LARGE;
    assert!(largest.is_some_and(|largest| bound.contains(&largest)), "{largest:?} bytes in a batch");
}

/// Minutes of a day.
const DAY: i64 = 24 * 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_over_goes_to_the_archive_whole_and_its_id_stays_taken() {
    let rig = Rig::new();
    let run = rig.start();
    let updated = event("updated-1", "incident_report.updated", 2, json!({"incident_report_id": 1, "body": "what is known by now"}));
    for event in [created(1, 0), approved(1, 1), updated, surveyed(15), surveyed(30), resolution_requested(1, 31)] {
        rig.publish(&event);
        rig.settle(&run).await;
    }
    let stored = |run: &Run| reading::report(run.store.as_ref(), rig::tenant(), ReportId(1)).unwrap().unwrap().report;
    let whole = stored(&run);
    assert_eq!((whole.status, whole.archived_at, whole.remediations.len()), (ReportStatus::Closed, None, 1));
    // a crash on the way changes nothing: it is scheduled by a row
    rig.crash(run).await;
    let run = rig.start();
    rig.publish(&surveyed(30 * DAY));
    rig.settle(&run).await;
    assert_eq!((stored(&run).archived_at, rig.archive().len()), (None, 0));
    rig.publish(&surveyed(31 * DAY));
    rig.settle(&run).await;
    let stub = stored(&run);
    assert!(stub.archived_at.is_some() && stub.remediations.is_empty() && stub.text.summary.is_empty(), "{stub:?}");
    assert_eq!((stub.status, stub.sequence, stub.closed_at), (whole.status, whole.sequence, whole.closed_at));
    let lines = rig.archive();
    let narrative = keys::narrative(rig::tenant(), ReportId(1));
    assert_eq!(run.store.get(&narrative).unwrap(), None);
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!((&lines[0]["key"], &lines[1]["key"]), (&json!("r/5.4/1"), &json!("n/5.4/1")));
    assert_eq!(lines[1]["row"], "what is known by now");
    // by then its footholds are not looked for any more
    assert_eq!(serde_json::from_value::<Report>(lines[0]["row"].clone()).unwrap(), Report { watched: false, ..whole });
    // the SOC sends the id once more, a person wants it back: neither begins a new one, and the answer is next in sequence
    let again = |minute| {
        let mut event = created(1, minute);
        event["id"] = json!("created-again");
        event
    };
    for event in [again(31 * DAY + 1), comment(1, 1, 31 * DAY + 2), approved(1, 31 * DAY + 3)] {
        rig.publish(&event);
        rig.settle(&run).await;
    }
    assert_eq!(stored(&run).status, ReportStatus::Closed);
    // the rows of the audit follow when they have been kept long enough
    let kept = |run: &Run| run.store.rows(keys::AUDIT);
    assert_eq!(kept(&run), 3);
    rig.publish(&surveyed(401 * DAY));
    rig.settle(&run).await;
    rig.publish(&surveyed(401 * DAY + 15));
    rig.settle(&run).await;
    assert_eq!((kept(&run), rig.archive().len()), (1, 4));
    run.end().await;
    rig.judge();
}
