//! `inspect report` after a replay of the sample stories: the JSON, the card, and the ends it may come to.

#![allow(clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The worked report as the demonstration tells it.
const WORKED: &str = include_str!("../src/cli/demo/worked_report.ndjson");

fn remedyd() -> Command {
    Command::cargo_bin("remedyd").expect("binary")
}

/// A store in which the events of `lines` have been played.
fn played(lines: &str) -> (TempDir, PathBuf) {
    let dir = TempDir::new().expect("directory");
    let (file, store) = (dir.path().join("events.ndjson"), dir.path().join("store"));
    std::fs::write(&file, lines).expect("write");
    remedyd().arg("replay").arg(&file).arg("--store").arg(&store).assert().success();
    (dir, store)
}

fn inspect(store: &Path, tenant: &str, id: &str, format: &str) -> assert_cmd::assert::Assert {
    remedyd().args(["inspect", "report", tenant, id, "--format", format, "--store"]).arg(store).assert()
}

fn json_of(store: &Path, id: &str) -> Value {
    let output = inspect(store, "5.4", id, "json").success().stderr("").get_output().stdout.clone();
    serde_json::from_slice(&output).expect("JSON")
}

fn card_of(store: &Path, id: &str) -> String {
    let output = inspect(store, "5.4", id, "card").success().stderr("").get_output().stdout.clone();
    let card = String::from_utf8(output).expect("UTF-8");
    assert!(card.lines().all(|line| line.chars().count() <= 80), "wider than 80 columns:\n{card}");
    card
}

/// The worked report up to the event `last`.
fn until(last: &str) -> String {
    let at = WORKED.find(&format!("\"id\":\"{last}\"")).expect("an event of the story");
    let end = WORKED[at..].find('\n').map_or(WORKED.len(), |line| at + line + 1);
    WORKED[..end].to_owned()
}

#[test]
fn every_sample_ends_as_its_story_says() {
    for (sample, id, status, phase, shape, items) in [
        ("able-moose", "1001", "closed", Value::Null, "both", 4),
        ("critical-isolated", "1003", "closed", Value::Null, "both", 3),
        ("disorder", "1001", "sent", json!("ready"), "both", 4),
        ("no-remediation", "1004", "closed", Value::Null, "none", 0),
        ("reject-and-revise", "1002", "closed", Value::Null, "assisted", 1),
    ] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples").join(sample).with_extension("ndjson");
        let (_dir, store) = played(&std::fs::read_to_string(file).expect("sample"));
        let report = json_of(&store, id);
        assert_eq!([&report["status"], &report["phase"]], [&json!(status), &phase], "{sample}");
        assert_eq!(report["triage"]["plan_shape"], shape, "{sample}");
        assert_eq!(report["plan"].as_array().map(Vec::len), Some(items), "{sample}");
        assert!(card_of(&store, id).contains(&format!("Report {id} of tenant 5.4: {status}")), "{sample}");
    }
}

#[test]
fn a_report_that_waits_for_a_retry_says_so() {
    let (_dir, store) = played(&until("p-5"));
    let report = json_of(&store, "1001");
    assert_eq!([&report["status"], &report["phase"]], [&json!("sent"), &json!("remediating")]);
    assert_eq!([&report["tenantid"], &report["agent_id"], &report["severity"]], [&json!("5.4"), &json!(12), &json!("high")]);
    assert_eq!([&report["plan_revision"], &report["sequence"]], [&json!(1), &json!(21)]);
    assert_eq!(report["triage"]["respond_by"], "2026-11-23T10:00:00Z");
    assert_eq!(report["triage"]["finding"]["hosts"], json!(["AMA-LAPTOP-04"]));
    let remaining: Vec<&Value> = report["footholds"].as_array().expect("list").iter().map(|foothold| &foothold["remaining"]).collect();
    assert_eq!(remaining, [&json!(false), &json!(true)]);
    let states: Vec<&Value> = report["plan"].as_array().expect("list").iter().map(|item| &item["state"]).collect();
    assert_eq!(states, ["completed", "retry_wait", "completed", "awaiting_human"]);
    // the very blocker that was published with the refusal
    assert_eq!(
        report["blockers"],
        json!([{ "code": "task_pending", "remediation_id": 2, "plan_revision": 1, "action": "Quarantine File", "state": "retry_wait",
            "attempt": 1, "max_attempts": 5, "reason": "file_in_use", "next_attempt_at": "2026-11-23T09:18:47.253Z",
            "deliver_by": "2026-11-30T09:04:00Z", "agent_id": 12, "clears_by": "the agent running it at a survey" }])
    );
}

#[test]
fn the_card_of_a_report_that_waits_for_a_retry() {
    let (_dir, store) = played(&until("p-5"));
    insta::assert_snapshot!(card_of(&store, "1001"), @r"
    ================================================================================
    Report 1001 of tenant 5.4: sent (remediating)
    HIGH - Incident on AMA-LAPTOP-04 (Able Moose Accounting)
    ================================================================================
    Tonight?    HIGH: act within the hour. Respond by Mon 23 Nov 2026 10:00 UTC.
    Found?      malware persistence on AMA-LAPTOP-04. An unauthorised scheduled task
                starts powershell.exe -enc at user logon. Account
                office.manager@ablemoose.example. No lateral movement observed.
                - scheduled_task removed: \Microsoft\Windows\OneDriveSync starts
                powershell.exe -enc at logon
                - file remains: C:\ProgramData\sync\svc.exe
    Plan?       assisted and manual: the agent does its part once it is approved,
                people do theirs. Revision 1.
    Isolated?   no
    --------------------------------------------------------------------------------
    #    type        action                 state           tried  remark (UTC)
    1    assisted    Delete Scheduled Task  completed       1 of 5
         task: \Microsoft\Windows\OneDriveSync
    2    assisted    Quarantine File        retry_wait      1 of 5 file_in_use, next
                                                                   09:18
         path: C:\ProgramData\sync\svc.exe
    3    manual      Rotate the local       completed       -
                     administrator password
    4    manual      Ask the user what was  awaiting_human  -
                     downloaded that day
    --------------------------------------------------------------------------------
    In the way of closing:
    * #2 Quarantine File: task_pending
                next try from Mon 23 Nov 2026 09:18 UTC
                cleared by the agent running it at a survey
    --------------------------------------------------------------------------------
    Next:       nothing by hand: the agent goes on at its next survey. Look again
                then; only if the host stays away, see after it.
    ");
}

#[test]
fn the_next_thing_to_do_follows_the_story() {
    for (last, next) in [
        ("soc-1001-1", "review the plan and approve or reject #1, #2, #3, #4."),
        ("p-3", "nothing by hand: the agent goes on"),
        ("survey-12-3", "do the manual steps #4, then resolve"),
        ("p-6", "nothing. The report is closed (Mon 23 Nov 2026 09:52 UTC), by: resolved."),
    ] {
        let (_dir, store) = played(&until(last));
        let card = card_of(&store, "1001");
        let (_, shown) = card.rsplit_once("Next:").expect("a next thing");
        let shown = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(shown.starts_with(next), "after {last}: {shown}");
    }
}

#[test]
fn a_failed_task_names_who_can_clear_it() {
    let failing = until("survey-12-2").replace("\"simulate\":[\"ok\"]", "\"simulate\":[\"access_denied\"]");
    let (_dir, store) = played(&failing);
    let report = json_of(&store, "1001");
    assert_eq!([&report["phase"], &report["blockers"][0]["code"]], ["blocked", "task_failed"]);
    let card = card_of(&store, "1001").split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(card.contains("* #1 Delete Scheduled Task: task_failed cleared by a retry by an admin, security_engineer or user"), "{card}");
    assert!(card.contains("ask for a retry of #1 (access_denied)."), "{card}");
}

#[test]
fn what_an_attacker_has_named_does_not_reach_the_terminal() {
    let (_dir, store) = played(&WORKED.replace("C:\\\\ProgramData\\\\sync\\\\svc.exe", "\\u001b[2J\\u001b[31mall is well"));
    assert!(!card_of(&store, "1001").contains('\u{1b}'));
}

#[test]
fn the_directory_of_a_service_is_searched_partition_by_partition() {
    let (dir, store) = played(WORKED);
    let data = dir.path().join("data");
    std::fs::create_dir(&data).expect("directory");
    let (_other, empty) = played("");
    std::fs::rename(&empty, data.join("p0")).expect("move");
    std::fs::rename(&store, data.join("p1")).expect("move");
    assert_eq!(json_of(&data, "1001")["status"], "closed");
}

#[test]
fn every_other_end_says_why() {
    let (dir, store) = played(WORKED);
    for (tenant, id) in [("5.4", "7"), ("5.5", "1001")] {
        let ended = inspect(&store, tenant, id, "json").code(1).stdout("");
        let said = String::from_utf8_lossy(&ended.get_output().stderr).into_owned();
        assert!(said.contains(&format!("tenant {tenant} has no report {id}")), "{said}");
    }
    inspect(&store, "05.4", "1001", "json").code(64);

    let nothing = dir.path().join("nothing");
    inspect(&nothing, "5.4", "1001", "json").code(73).stdout("");
    assert!(!nothing.exists(), "looking creates nothing");
    inspect(dir.path(), "5.4", "1001", "json").code(73).stdout("");

    let held = std::fs::File::open(store.join("LOCK")).expect("lock file");
    held.try_lock().expect("nobody has it");
    inspect(&store, "5.4", "1001", "card").code(73).stdout("");
    drop(held);

    std::fs::write(store.join("FORMAT"), "damaged").expect("write");
    inspect(&store, "5.4", "1001", "json").code(73).stdout("");
}
