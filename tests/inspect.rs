//! `inspect` after a replay of the sample stories and of small cases: the JSON, card and tables, and the ends it may
//! come to.

#![allow(clippy::expect_used, clippy::panic)]

mod looking;

use std::path::Path;

use serde_json::{Value, json};

use looking::{CRITICAL, WORKED, asks, assisted, event, played, remedyd, report, said, survey};

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
    looking::until(WORKED, last)
}

/// One value per line.
fn lines_of(store: &Path, args: &[&str]) -> Vec<Value> {
    said(store, args).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
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

#[test]
fn an_agent_with_its_isolation_its_reports_and_its_tasks() {
    let (_dir, store) = played(&looking::until(CRITICAL, "p-23"));
    let agent: Value = serde_json::from_str(&said(&store, &["inspect", "agent", "5.4", "14"])).expect("JSON");
    assert_eq!([&agent["presence"], &agent["last_survey_at"]], [&json!("online"), &json!("2026-11-23T22:15:00Z")]);
    assert_eq!([&agent["hostname"], &agent["platform"], &agent["agent_version"]], ["AMA-SRV-01", "windows", "0.14.2"]);
    assert_eq!([&agent["boot_id"], &agent["firewall_status"], &agent["holders"]], [&json!("boot-1"), &json!("Isolated"), &json!([1003])]);
    assert_eq!([&agent["open_reports"][0]["incident_report_id"], &agent["open_reports"][0]["phase"]], [&json!(1003), &json!("blocked")]);
    insta::assert_snapshot!(said(&store, &["inspect", "agent", "5.4", "14", "--format", "table"]), @r"
    agent       14 of tenant 5.4
    presence    online
    last survey Mon 23 Nov 2026 22:15 UTC
    host        AMA-SRV-01
    platform    windows
    version     0.14.2
    boot id     boot-1
    firewall    Isolated
    held by     report 1003

    report   severity status           phase            subject
    1003     critical sent             blocked          CRITICAL - Incident on
                                                        AMA-SRV-01 (Able Moose
                                                        Accounting)

    report   #     task                     state           attempt reason
    1003     21    Kill Process             completed       1
    1003     22    Delete Service           failed          1       access_denied
    ");
}

#[test]
fn tasks_are_listed_in_the_order_of_the_agent() {
    let first = json!([assisted(1, "Reboot Host", &[]), assisted(2, "Delete File", &["file_in_use", "file_in_use", "file_in_use"])]);
    let second = json!([assisted(1, "Uninstall Program", &[]), assisted(2, "Stop Service", &[])]);
    let approve = |id: u64| {
        asks("remediations.approved", &format!("2026-11-23T10:0{id}:00Z"), &json!({ "incident_report_id": id, "plan_revision": 1 }))
    };
    let (_dir, store) =
        played(&[report(1, "high", &first), report(2, "high", &second), approve(1), survey("2026-11-23T10:10:00Z", "boot-a")].concat());
    let agent: Value = serde_json::from_str(&said(&store, &["inspect", "agent", "5.4", "12"])).expect("JSON");
    assert_eq!(agent["boot_id"], "boot-a");
    let tasks: Vec<(u64, &str, &str)> = agent["tasks"]
        .as_array()
        .expect("list")
        .iter()
        .map(|task| {
            (
                task["incident_report_id"].as_u64().expect("id"),
                task["action"].as_str().expect("action"),
                task["state"].as_str().expect("state"),
            )
        })
        .collect();
    assert_eq!(
        tasks,
        [
            (2, "Stop Service", "unapproved"),
            (1, "Delete File", "retry_wait"),
            (2, "Uninstall Program", "unapproved"),
            (1, "Reboot Host", "held")
        ]
    );
}

#[test]
fn blockers_of_one_tenant_and_of_all() {
    let elsewhere = report(9, "low", &json!([assisted(1, "Delete File", &[])])).replace("\"5.4\"", "\"6.1\"");
    let elsewhere = elsewhere.replace("\"account_id\":5,", "\"account_id\":6,").replace("\"organization_id\":4,", "\"organization_id\":1,");
    let ready = report(8, "low", &json!([]));
    let (_dir, store) = played(&[looking::until(CRITICAL, "p-23"), elsewhere, ready].concat());
    let all = lines_of(&store, &["inspect", "blockers"]);
    let ids: Vec<(&Value, &Value)> = all.iter().map(|report| (&report["tenantid"], &report["incident_report_id"])).collect();
    assert_eq!(ids, [(&json!("5.4"), &json!(1003)), (&json!("6.1"), &json!(9))]);
    assert_eq!([&all[0]["status"], &all[0]["phase"], &all[0]["hostname"]], ["sent", "blocked", "AMA-SRV-01"]);
    // in the very form in which a refusal is published
    let report: Value = serde_json::from_str(&said(&store, &["inspect", "report", "5.4", "1003"])).expect("JSON");
    assert_eq!(all[0]["blockers"], report["blockers"]);
    assert_eq!(lines_of(&store, &["inspect", "blockers", "6.1"]), all[1..]);
    insta::assert_snapshot!(said(&store, &["inspect", "blockers", "--format", "table"]), @r"
    tenant   report   severity phase             remediation      blocker             next try         cleared by
    5.4      1003     critical blocked           #22 Delete       task_failed                          a retry by an admin,
                                                 Service          (access_denied)                      security_engineer or
                                                                                                       user, a waiver by an
                                                                                                       admin, or a revised
                                                                                                       plan
    6.1      9        low      awaiting_approval #1 Delete File   not_reviewed                         approval or rejection
                                                                                                       by an admin,
                                                                                                       security_engineer or
                                                                                                       user
    ");
}

#[test]
fn an_automatic_remediation_shows_what_its_own_closing_waits_for() {
    let settings = json!({ "managed_response": { "low": true } });
    let (_dir, store) = played(
        &[event("organization.updated", "2026-11-23T09:00:00Z", settings), report(1, "low", &json!([assisted(1, "Delete File", &[])]))]
            .concat(),
    );
    let all = lines_of(&store, &["inspect", "blockers", "5.4"]);
    assert_eq!([&all[0]["status"], &all[0]["phase"]], [&json!("auto_remediating"), &Value::Null]);
    assert_eq!([&all[0]["blockers"][0]["code"], &all[0]["blockers"][0]["state"]], ["task_pending", "queued"]);
}

#[test]
fn the_funnel_month_by_month() {
    let counted = |period: &str, analysed: u64| {
        let data = json!({ "period": period, "events_analysed": analysed, "signals": 340, "signals_investigated": 41 });
        event("funnel.counted", &format!("{period}-28T12:00:00Z"), data)
    };
    let (_dir, store) = played(&[counted("2026-10", 900_000), report(1, "low", &json!([])), counted("2026-11", 1_200_000)].concat());
    let funnel: Value = serde_json::from_str(&said(&store, &["inspect", "funnel", "5.4", "--period", "2026-11"])).expect("JSON");
    let month =
        json!({ "period": "2026-11", "events_analysed": 1_200_000, "signals": 340, "signals_investigated": 41, "incidents_reported": 1 });
    assert_eq!(funnel, json!({ "tenantid": "5.4", "months": [month] }));
    insta::assert_snapshot!(said(&store, &["inspect", "funnel", "5.4", "--format", "table"]), @r"
    month    events analysed  signals    signals investigated  incidents reported
    2026-10  900000           340        41                    0
    2026-11  1200000          340        41                    1
    ");
}

#[test]
fn the_audit_in_the_order_of_time() {
    let (_dir, store) = played(CRITICAL);
    let all = lines_of(&store, &["inspect", "audit", "5.4"]);
    let times: Vec<&str> = all.iter().map(|row| row["at"].as_str().expect("time")).collect();
    assert!(times.is_sorted() && all.len() == 7, "{times:?}");
    assert_eq!(
        [&all[2]["request"], &all[2]["outcome"], &all[2]["agent_id"]],
        [&json!("agent.release_requested"), &json!("refused: isolation_held"), &json!(14)]
    );
    let retry = &all[4];
    assert_eq!([&retry["actor"]["role"], &retry["reason"]], ["security_engineer", "ran as SYSTEM now"]);
    assert_eq!([&retry["before"]["state"], &retry["after"]["state"]], ["failed", "queued"]);
    assert_eq!([&retry["before"]["phase"], &retry["after"]["phase"]], ["blocked", "remediating"]);
    // about the report, not about its host
    assert_eq!(lines_of(&store, &["inspect", "audit", "5.4", "--report", "1003"]).len(), 5);
    assert_eq!(lines_of(&store, &["inspect", "audit", "5.4", "--limit", "2"]), all[5..]);
    insta::assert_snapshot!(said(&store, &["inspect", "audit", "5.4", "--format", "table", "--limit", "4"]), @r#"
    time (UTC)          about      who                 request                              before -> after   outcome
    2026-11-23 22:21:00 report     Security engineer   incident_report.resolution_requested sent, blocked     refused:
                        1003       on duty             "done"                               (unchanged)       blocked
                                   (security_engineer)
    2026-11-23 22:25:00 report     Security engineer   remediation.retry_requested "ran as  blocked ->        applied
                        1003 #22   on duty             SYSTEM now"                          remediating,
                                   (security_engineer)                                      failed -> queued
    2026-11-23 22:50:00 report     Account admin       incident_report.resolution_requested sent -> closed,   applied
                        1003       (admin)             "done"                               ready -> -
    2026-11-23 22:55:00 agent 14   Account admin       agent.release_requested "remediated" Isolated ->       applied
                                   (admin)                                                  Pending Release
    "#);
}

#[test]
fn what_nobody_has_heard_of_is_answered_by_exit_1() {
    let (dir, store) = played(WORKED);
    for (args, what) in [
        (["agent", "5.4", "99"].as_slice(), "tenant 5.4 has no agent 99"),
        (&["agent", "5.5", "12"], "tenant 5.5 has no agent 12"),
        (&["blockers", "5.5"], "tenant 5.5 has no reports"),
        (&["funnel", "5.5"], "tenant 5.5 has no counts"),
        (&["funnel", "5.4", "--period", "2020-01"], "tenant 5.4 has no counts for 2020-01"),
        (&["audit", "5.5"], "tenant 5.5 has no audit"),
        (&["audit", "5.4", "--report", "7"], "tenant 5.4 has no report 7"),
    ] {
        let ended = remedyd().arg("inspect").args(args).arg("--store").arg(&store).assert().code(1).stdout("");
        let said = String::from_utf8_lossy(&ended.get_output().stderr).into_owned();
        assert!(said.contains(what), "{args:?}: {said}");
    }
    for args in [["funnel", "5.4", "--period", "2026-13"].as_slice(), &["audit", "5.4", "--limit", "0"], &["agent", "5.4", "x"]] {
        remedyd().arg("inspect").args(args).arg("--store").arg(&store).assert().code(64).stdout("");
    }
    let nothing = dir.path().join("nothing");
    for args in [["agent", "5.4", "12"].as_slice(), &["blockers"], &["funnel", "5.4"], &["audit", "5.4"]] {
        remedyd().arg("inspect").args(args).arg("--store").arg(&nothing).assert().code(73).stdout("");
    }
    assert!(!nothing.exists(), "looking creates nothing");
    // nothing in the way is an answer too
    assert_eq!(said(&store, &["inspect", "blockers", "5.4"]), "");
}

#[test]
fn partitions_are_read_as_one_store() {
    let (dir, store) = played(WORKED);
    let data = dir.path().join("data");
    std::fs::create_dir(&data).expect("directory");
    let (_other, critical) = played(&looking::until(CRITICAL, "p-23"));
    std::fs::rename(&critical, data.join("p0")).expect("move");
    std::fs::rename(&store, data.join("p1")).expect("move");
    let audit = |args: &[&str]| {
        let output = remedyd().args(args).arg("--store").arg(&data).assert().success().get_output().stdout.clone();
        String::from_utf8(output).expect("UTF-8").lines().count()
    };
    let ours = |dir: &Path| said(dir, &["inspect", "audit", "5.4"]).lines().count();
    assert_eq!(audit(&["inspect", "audit", "5.4"]), ours(&data.join("p0")) + ours(&data.join("p1")));
    assert_eq!(audit(&["inspect", "blockers"]), 1);
    assert_eq!(audit(&["inspect", "agent", "5.4", "12", "--format", "table"]), 13);
}

#[test]
fn an_answer_that_cannot_be_written_is_no_internal_error() {
    let (_dir, store) = played(&report(1, "low", &json!([])));
    let full = std::fs::File::options().write(true).open("/dev/full").expect("Linux");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_remedyd"));
    let status = command.args(["inspect", "report", "5.4", "1", "--store"]).arg(&store).stdout(full).status().expect("it runs");
    assert_eq!(status.code(), Some(74));
}
