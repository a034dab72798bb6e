//! `remedyd replay` from outside: each sample's output to the byte, the worked report step by step, and what the
//! command promises about files, times, seeds and stores.
//!
//! The golden files are in `tests/replay/`; `INSTA_UPDATE=always cargo test --test replay` writes them anew.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod service;
#[path = "service/tell.rs"]
mod tell;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use service::{Replayed, check_same_state, check_sequences, join, remedyd, replay, replay_lines, sample, sample_path, state};
use tell::{check_story, outcome};

const SAMPLES: [&str; 5] = ["able-moose", "critical-isolated", "disorder", "no-remediation", "reject-and-revise"];

fn file(name: &str) -> String {
    format!("{name}.ndjson")
}

/// Both streams are those of the golden file; sequences are gapless.
#[track_caller]
fn check_golden(name: &str) {
    let replayed = replay([file(name)]);
    check_sequences(&replayed.events());
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let both = format!("{}--- stderr\n{}", text(&replayed.stdout), text(&replayed.stderr));
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("replay");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(name, both));
}

#[test]
fn golden_able_moose() {
    check_golden("able-moose");
}

#[test]
fn golden_critical_isolated() {
    check_golden("critical-isolated");
}

#[test]
fn golden_disorder() {
    check_golden("disorder");
}

#[test]
fn golden_no_remediation() {
    check_golden("no-remediation");
}

#[test]
fn golden_reject_and_revise() {
    check_golden("reject-and-revise");
}

/// The acceptance story of the service, every published step of it.
#[test]
fn the_worked_report_is_told_step_by_step() {
    let replayed = replay([file("able-moose")]);
    let events = replayed.events();
    check_story(
        &events,
        "
        survey-12-1 | agent 12: - -> online

        soc-1001-1 | report: - -> sent (awaiting_approval), created
        soc-1001-1 | triage: within_hour, malware_persistence, both, review_plan, isolation Enabled
        soc-1001-1 | task 1: - -> unapproved, attempt 0, tries 0
        soc-1001-1 | task 2: - -> unapproved, attempt 0, tries 0
        soc-1001-1 | task 3: - -> unapproved, attempt 0, tries 0
        soc-1001-1 | task 4: - -> unapproved, attempt 0, tries 0

        p-1 | resolution refused: not_reviewed 1, not_reviewed 2, not_reviewed 3, not_reviewed 4
        p-2 | remediations.approved refused: role_not_allowed

        p-3 | task 1: unapproved -> queued, attempt 0, tries 0
        p-3 | task 2: unapproved -> queued, attempt 0, tries 0
        p-3 | task 3: unapproved -> awaiting_human, attempt 0, tries 0
        p-3 | task 4: unapproved -> awaiting_human, attempt 0, tries 0
        p-3 | phase: awaiting_approval -> remediating

        survey-12-2 | task 1: queued -> delivered, attempt 1, tries 0
        survey-12-2 | task 2: queued -> held, attempt 0, tries 0
        survey-12-2 | task 1: delivered -> completed, attempt 1, tries 1
        survey-12-2 | task 2: held -> queued, attempt 0, tries 0
        survey-12-2 | task 2: queued -> delivered, attempt 1, tries 0
        survey-12-2 | task 2: delivered -> retry_wait, attempt 1, tries 3, file_in_use

        p-4 | task 3: awaiting_human -> completed, attempt 0, tries 0
        p-5 | resolution refused: task_pending 2

        survey-12-3 | task 2: retry_wait -> queued, attempt 1, tries 3, file_in_use
        survey-12-3 | task 2: queued -> delivered, attempt 2, tries 0
        survey-12-3 | task 1: verified
        survey-12-3 | task 2: delivered -> completed, attempt 2, tries 2
        survey-12-3 | phase: remediating -> ready
        survey-12-3 | resolution unblocked

        survey-12-4 | task 2: verified

        p-6 | report: sent -> closed (-), resolved
        p-6 | task 4: awaiting_human -> completed, attempt 0, tries 0, acknowledged
        ",
    );
    check_sequences(&events);
    assert_eq!(replayed.dead_letters, Vec::<Value>::new());
    assert_eq!(replayed.count("attempts"), 3);

    // what is in the way at 09:12, to the field
    let refused: Vec<&Value> =
        events.iter().filter(|event| event["causationid"] == "p-5").map(|event| &event["data"]["blockers"]).collect();
    let waiting = events.iter().find(|event| event["data"]["to"] == "retry_wait").unwrap();
    let next_attempt_at = &waiting["data"]["next_attempt_at"];
    assert_eq!(
        refused,
        [&json!([{
            "code": "task_pending", "remediation_id": 2, "plan_revision": 1, "action": "Quarantine File", "state": "retry_wait",
            "attempt": 1, "max_attempts": 5, "reason": "file_in_use", "next_attempt_at": next_attempt_at,
            "deliver_by": "2026-11-30T09:04:00Z", "agent_id": 12, "clears_by": "the agent running it at a survey",
        }])]
    );
    // T9: the survey's time and one interval of 15 minutes, less 5 to 20 per cent
    let next = next_attempt_at.as_str().unwrap();
    assert!(("2026-11-23T09:17:00Z".."2026-11-23T09:19:15.001Z").contains(&next), "next attempt at {next}");
    // the first refusal names who can clear it, and no deadline that has not begun
    let first = &events.iter().find(|event| event["causationid"] == "p-1").unwrap()["data"]["blockers"][1];
    assert_eq!(first["state"], "unapproved");
    assert_eq!(first["clears_by"], "approval or rejection by an admin, security_engineer or user");
    assert_eq!([&first["next_attempt_at"], &first["deliver_by"], &first["reason"]], [&Value::Null; 3]);
}

/// The page goes out at once and once, containment is respected until remediation is over, and what failed is in the
/// way until it has been done.
#[test]
fn a_critical_report_is_paged_contained_retried_resolved_and_released() {
    let replayed = replay([file("critical-isolated")]);
    let events = replayed.events();
    check_story(
        &events,
        "
        soc-1003-1 | report: - -> sent (awaiting_approval), created
        soc-1003-1 | triage: page_now, unknown, both, read_report, isolation Pending Isolation
        soc-1003-1 | task 21: - -> unapproved, attempt 0, tries 0
        soc-1003-1 | task 22: - -> unapproved, attempt 0, tries 0
        soc-1003-1 | task 23: - -> unapproved, attempt 0, tries 0
        soc-1003-1 | paged: critical_report
        soc-1003-1 | agent 14: - -> known
        soc-1003-1 | isolation of 14: Enabled -> Pending Isolation, held by [1003], incident_report.created

        p-20 | SOC support: callback, other

        p-21 | task 21: unapproved -> queued, attempt 0, tries 0
        p-21 | task 22: unapproved -> queued, attempt 0, tries 0
        p-21 | task 23: unapproved -> awaiting_human, attempt 0, tries 0
        p-21 | phase: awaiting_approval -> remediating

        survey-14-1 | task 21: queued -> delivered, attempt 1, tries 0
        survey-14-1 | task 22: queued -> held, attempt 0, tries 0
        survey-14-1 | agent 14: known -> online
        survey-14-1 | isolation of 14: Pending Isolation -> Isolated, held by [1003], -
        survey-14-1 | task 21: delivered -> completed, attempt 1, tries 1
        survey-14-1 | task 22: held -> queued, attempt 0, tries 0
        survey-14-1 | task 22: queued -> delivered, attempt 1, tries 0
        survey-14-1 | task 22: delivered -> failed, attempt 1, tries 1, access_denied
        survey-14-1 | phase: remediating -> blocked

        p-22 | agent.release_requested refused: isolation_held
        p-23 | resolution refused: task_failed 22

        p-24 | task 22: failed -> queued, attempt 0, tries 0
        p-24 | phase: blocked -> remediating

        survey-14-2 | task 22: queued -> delivered, attempt 1, tries 0
        survey-14-2 | task 22: delivered -> completed, attempt 1, tries 1
        survey-14-2 | phase: remediating -> ready
        survey-14-2 | resolution unblocked

        survey-14-3 | task 22: verified

        p-25 | report: sent -> closed (-), resolved
        p-25 | task 23: awaiting_human -> completed, attempt 0, tries 0, acknowledged
        p-25 | isolation of 14: Isolated -> Isolated, held by [], resolved

        p-26 | isolation of 14: Isolated -> Pending Release, held by [], remediated
        survey-14-4 | isolation of 14: Pending Release -> Enabled, held by [], -
        ",
    );
    check_sequences(&events);
    assert_eq!(replayed.dead_letters, Vec::<Value>::new());

    let page = events.iter().find(|event| event["type"] == "on_call.paged").unwrap();
    assert_eq!((&page["time"], &page["data"]["respond_by"]), (&json!("2026-11-23T22:10:00Z"), &json!("2026-11-23T22:25:00Z")));
    let refused = events.iter().find(|event| event["causationid"] == "p-23").unwrap();
    assert_eq!(
        refused["data"]["blockers"],
        json!([{
            "code": "task_failed", "remediation_id": 22, "plan_revision": 1, "action": "Delete Service", "state": "failed",
            "attempt": 1, "max_attempts": 5, "reason": "access_denied", "next_attempt_at": null,
            "deliver_by": "2026-11-30T22:13:00Z", "agent_id": 14,
            "clears_by": "a retry by an admin, security_engineer or user, a waiver by an admin, or a revised plan",
        }])
    );
}

#[test]
fn a_rejected_plan_is_revised_and_the_stale_approval_refused() {
    let replayed = replay([file("reject-and-revise")]);
    check_story(
        &replayed.events(),
        "
        soc-1002-1 | report: - -> sent (awaiting_approval), created
        soc-1002-1 | triage: business_day, malware_persistence, assisted, review_plan, isolation Enabled
        soc-1002-1 | task 11: - -> unapproved, attempt 0, tries 0
        soc-1002-1 | task 12: - -> unapproved, attempt 0, tries 0
        soc-1002-1 | agent 13: - -> known

        p-10 | task 11: unapproved -> cancelled, attempt 0, tries 0, rejected
        p-10 | task 12: unapproved -> cancelled, attempt 0, tries 0, rejected
        p-10 | phase: awaiting_approval -> in_revision

        soc-1002-2 | task 13: - -> unapproved, attempt 0, tries 0
        soc-1002-2 | phase: in_revision -> awaiting_approval

        p-11 | remediations.approved refused: stale_plan

        p-12 | task 13: unapproved -> queued, attempt 0, tries 0
        p-12 | phase: awaiting_approval -> remediating

        survey-13-1 | task 13: queued -> delivered, attempt 1, tries 0
        survey-13-1 | agent 13: known -> online
        survey-13-1 | task 13: delivered -> completed, attempt 1, tries 1
        survey-13-1 | phase: remediating -> ready

        survey-13-2 | task 13: verified

        p-13 | report: sent -> closed (-), resolved
        ",
    );
    assert_eq!(replayed.dead_letters, Vec::<Value>::new());
}

#[test]
fn a_report_without_a_plan_is_acknowledged() {
    let replayed = replay([file("no-remediation")]);
    check_story(
        &replayed.events(),
        "
        soc-1004-1 | report: - -> sent (ready), created
        soc-1004-1 | triage: business_day, identity_compromise, none, acknowledge, isolation -
        p-30 | report: sent -> closed (-), resolved
        ",
    );
    assert_eq!(replayed.dead_letters, Vec::<Value>::new());
}

#[test]
fn disorder_ends_as_order_would() {
    let replayed = replay([file("disorder")]);
    let events = replayed.events();
    check_sequences(&events);
    let ends = outcome(&events);
    assert_eq!(ends["incident_reports/1001 status"], "sent");
    assert_eq!(ends["incident_reports/1001 phase"], "ready");
    assert_eq!(replayed.count("duplicate"), 1);
    assert_eq!(replayed.count("parked"), 0);

    let told: Vec<(&Value, &Value, &Value)> =
        replayed.dead_letters.iter().map(|letter| (&letter["reason"], &letter["line"], &letter["id"])).collect();
    let expected = [json!(["id_reused", 5, "p-3"]), json!(["unsupported_type", 6, "x1"]), json!(["malformed", 9, null])];
    assert_eq!(told, expected.each_ref().map(|row| (&row[0], &row[1], &row[2])));
    for letter in &replayed.dead_letters {
        assert!(letter["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{letter}");
        assert_eq!(letter["file"], "disorder.ndjson");
    }

    // The same events in order. The plan that reused an id was never known, so it comes to the same either way.
    let mut sorted = sample("disorder");
    sorted.sort_by_key(|line| {
        let event: Value = serde_json::from_slice(line).unwrap_or_default();
        event["time"].as_str().unwrap_or("9").to_owned()
    });
    assert_ne!(sorted, sample("disorder"), "the sample is out of order");
    let in_order = replay_lines(&sorted, &[]);
    assert_eq!(outcome(&in_order.events()), ends);
    assert_eq!(in_order.count("duplicate"), 1);
    assert_eq!(in_order.count("dead_lettered"), 3);
}

#[test]
fn the_same_input_and_seed_give_the_same_bytes() {
    for name in SAMPLES {
        assert_eq!(replay([file(name)]), replay([file(name)]), "{name}");
        let seeded = |seed: &str| replay(["--model", "seeded", "--seed", seed, &file(name)]);
        assert_eq!(seeded("7"), seeded("7"), "{name} seeded");
    }
}

#[test]
fn another_seed_gives_other_outcomes() {
    let seeded = |seed: &str| replay(["--model", "seeded", "--seed", seed, "reject-and-revise.ndjson"]);
    let outputs: Vec<Vec<u8>> = ["1", "2", "3"].map(|seed| seeded(seed).stdout).to_vec();
    assert!(outputs[0] != outputs[1] && outputs[1] != outputs[2] && outputs[0] != outputs[2]);
    let steady = replay(["--seed", "1", "reject-and-revise.ndjson"]);
    assert_eq!(steady.stdout, replay(["--seed", "2", "reject-and-revise.ndjson"]).stdout, "the steady model has no seed");
    assert_ne!(steady.stdout, outputs[0]);
}

#[test]
fn a_second_replay_into_the_same_store_publishes_nothing() {
    for name in SAMPLES {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("store");
        let again = || replay([file(name).as_ref(), "--store".as_ref(), store.as_os_str()]);
        let first = again();
        assert_eq!(first.stdout, replay([file(name)]).stdout, "{name}: a named store changes nothing");
        let before = state(&store);
        let second = again();
        assert_eq!(String::from_utf8(second.stdout.clone()).unwrap(), "", "{name}");
        // dead letters left no trace to be a duplicate of
        assert_eq!(second.count("dead_lettered"), first.count("dead_lettered"), "{name}: {}", second.summary);
        // of an agent's surveys the last is a duplicate, and those before it are older than what is known
        let events: Vec<Value> = sample(name).iter().filter_map(|line| serde_json::from_slice(line).ok()).collect();
        let surveyed: Vec<u64> = events
            .iter()
            .map(|event| &event["data"])
            .filter(|data| data["surveyed_at"].is_string())
            .filter_map(|data| data["agent_id"].as_u64())
            .collect();
        let older = surveyed.len() as u64 - surveyed.iter().collect::<BTreeSet<_>>().len() as u64;
        assert_eq!(second.count("without_effect"), older, "{name}: {}", second.summary);
        assert_eq!(second.count("applied"), older, "{name}: {}", second.summary);
        let taken = first.count("applied") + first.count("duplicate");
        assert_eq!(second.count("duplicate") + older, taken, "{name}: {}", second.summary);
        assert_eq!(second.count("attempts"), 0, "{name}");
        check_same_state(&state(&store), &before);
    }
}

#[test]
fn until_is_inclusive() {
    let until = |time: &str| replay(["--until", time, "able-moose.ndjson"]);
    let causes = |replayed: &Replayed| -> Vec<String> {
        let mut causes: Vec<String> = replayed.events().iter().map(|event| event["causationid"].as_str().unwrap().to_owned()).collect();
        causes.dedup();
        causes
    };
    let before = until("2026-11-23T09:04:59.999Z");
    assert_eq!(causes(&before), ["survey-12-1", "soc-1001-1", "p-1", "p-2", "p-3"]);
    assert_eq!(before.count("events_in"), 5);
    let at = until("2026-11-23T09:05:00Z");
    assert_eq!(causes(&at), ["survey-12-1", "soc-1001-1", "p-1", "p-2", "p-3", "survey-12-2"]);
    assert_eq!(at.count("attempts"), 2);
    assert_eq!(until("2026-11-23T10:05:00+01:00"), at, "a time is a moment, however it is written");
}

/// An event waits 15 minutes for its report, in virtual time; `--until` lets them pass.
#[test]
fn an_orphan_is_told_with_the_line_it_came_in_on() {
    let lines = &sample("disorder")[..2];
    let early = replay_lines(lines, &["--until", "2026-11-23T09:18:59.999Z"]);
    assert_eq!((early.count("parked"), early.count("dead_lettered")), (1, 0));
    let late = replay_lines(lines, &["--until", "2026-11-23T09:19:00Z"]);
    assert_eq!((late.count("parked"), late.count("dead_lettered")), (0, 1));
    let letter = &late.dead_letters[0];
    assert_eq!([&letter["reason"], &letter["id"], &letter["line"]], [&json!("orphan"), &json!("p-3"), &json!(1)]);
}

#[test]
fn several_files_are_one_replay() {
    let (whole, dir) = (replay([file("able-moose")]), tempfile::tempdir().unwrap());
    let lines = sample("able-moose");
    let (first, second) = lines.split_at(5);
    let paths = [("1", first), ("2", second)].map(|(name, lines)| {
        let path = dir.path().join(name);
        fs::write(&path, join(lines, b"\n")).unwrap();
        path
    });
    assert_eq!(replay(&paths).stdout, whole.stdout);
    // the order given is the order played
    assert_ne!(replay(paths.iter().rev()).stdout, whole.stdout);
}

/// Line endings, blank lines and a missing end of line are not part of an event.
#[test]
fn lines_may_end_as_they_like() {
    for name in ["able-moose", "disorder"] {
        let (whole, dir, lines) = (replay([file(name)]), tempfile::tempdir().unwrap(), sample(name));
        let joined = join(&lines, b"\n");
        for (form, bytes) in [
            ("CRLF", join(&lines, b"\r\n")),
            ("blank lines", join(&lines, b"\n \t\r\n\n")),
            ("no end of line", joined[..joined.len() - 1].to_vec()),
        ] {
            let path = dir.path().join("events");
            fs::write(&path, bytes).unwrap();
            let replayed = replay([&path]);
            assert_eq!(replayed.stdout, whole.stdout, "{name}: {form}");
            assert_eq!(replayed.summary, whole.summary, "{name}: {form}");
        }
    }
}

#[test]
fn an_empty_file_is_a_replay_of_nothing() {
    let replayed = replay_lines(&[], &[]);
    assert_eq!(replayed.stdout, b"");
    assert_eq!((replayed.count("events_in"), replayed.dead_letters.len()), (0, 0));
}

/// Exit code, one line that names the culprit, nothing printed, nothing begun.
#[track_caller]
fn check_refused(args: &[&Path], store: &Path, exit: i32, named: &str) {
    let output = remedyd(["replay"]).args(args).arg("--store").arg(store).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(exit), "{stderr}");
    assert!(stderr.lines().count() == 1 && stderr.contains(named), "{stderr}");
    assert_eq!(output.stdout, b"");
    assert!(!store.exists(), "a store was begun");
}

#[test]
fn a_file_that_cannot_be_read_stops_before_anything_is_played() {
    let dir = tempfile::tempdir().unwrap();
    let (absent, store, good) = (dir.path().join("absent.ndjson"), dir.path().join("store"), sample_path("able-moose"));
    check_refused(&[&absent], &store, 65, "absent.ndjson");
    check_refused(&[&good, &absent], &store, 65, "absent.ndjson");
    check_refused(&[dir.path()], &store, 65, &dir.path().display().to_string());
}
