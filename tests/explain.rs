//! `explain`: the sentences after the worked report, the samples and small cases; nothing in them that no record
//! holds.

#![allow(clippy::expect_used, clippy::panic)]

mod looking;

use std::path::Path;

use serde_json::json;

use looking::{CRITICAL, WORKED, asks, assisted, event, played, remedyd, report, said, survey, until};

fn explained(store: &Path, id: &str) -> String {
    let text = said(store, &["explain", "5.4", id]);
    assert!(text.lines().all(|line| line.chars().count() <= 80 && line == line.trim_end()), "wider than 80 columns:\n{text}");
    text
}

/// What is said of report 1 after these events, on one line.
fn of_case(events: &[String]) -> String {
    let (_dir, store) = played(&events.concat());
    explained(&store, "1").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn check(events: &[String], sentences: &[&str]) {
    let text = of_case(events);
    for sentence in sentences {
        assert!(text.contains(sentence), "{sentence:?} is not in:\n{text}");
    }
}

fn approved(time: &str) -> String {
    asks("remediations.approved", time, &json!({ "incident_report_id": 1, "plan_revision": 1 }))
}

fn about_item(kind: &str, time: &str, reason: &str) -> String {
    asks(kind, time, &json!({ "incident_report_id": 1, "remediation_id": 1, "reason": reason }))
}

fn one(severity: &str, simulate: &[&str]) -> String {
    report(1, severity, &json!([assisted(1, "Delete Service", simulate)]))
}

#[test]
fn a_report_that_nobody_has_reviewed() {
    let (_dir, store) = played(&until(WORKED, "soc-1001-1"));
    insta::assert_snapshot!(explained(&store, "1001"), @r#"
    Report 1001 of tenant 5.4
    HIGH - Incident on AMA-LAPTOP-04 (Able Moose Accounting)

    What it is
      The SOC reported malware persistence on the host AMA-LAPTOP-04 (agent 12) on
      Mon 23 Nov 2026 09:00 UTC. Its severity is high.
      In the SOC's words: "An unauthorised scheduled task starts powershell.exe -enc
      at user logon. Account office.manager@ablemoose.example. No lateral movement
      observed."
      Its plan has 4 remediations and is in part for the agent to carry out once it
      is approved, in part for people.
      2 footholds were found by which an attacker could come back; 2 remain.
      The agent is online. Its last survey is of Mon 23 Nov 2026 08:50 UTC.

    Why it is where it is
      It is open and waits for approval (awaiting_approval): 4 remediations have not
      been reviewed.
      - #1 Delete Scheduled Task (assisted) has not been reviewed. It is cleared
        by approval or rejection by an admin, security_engineer or user.
      - #2 Quarantine File (assisted) has not been reviewed. It is cleared by
        approval or rejection by an admin, security_engineer or user.
      - #3 Rotate the local administrator password (manual) has not been reviewed.
        It is cleared by approval or rejection by an admin, security_engineer or
        user.
      - #4 Ask the user what was downloaded that day (manual) has not been
        reviewed. It is cleared by approval or rejection by an admin,
        security_engineer or user.

    What happens next by itself
      If nobody has acted on it by Mon 23 Nov 2026 09:45 UTC, a warning is
      published; the time to respond ends on Mon 23 Nov 2026 10:00 UTC.

    What somebody has to do
      An admin, security_engineer or user has to review #1, #2, #3, #4 and approve
      or reject.
    "#);
}

#[test]
fn a_report_that_waits_for_a_retry() {
    let (_dir, store) = played(&until(WORKED, "p-5"));
    insta::assert_snapshot!(explained(&store, "1001"), @r#"
    Report 1001 of tenant 5.4
    HIGH - Incident on AMA-LAPTOP-04 (Able Moose Accounting)

    What it is
      The SOC reported malware persistence on the host AMA-LAPTOP-04 (agent 12) on
      Mon 23 Nov 2026 09:00 UTC. Its severity is high.
      In the SOC's words: "An unauthorised scheduled task starts powershell.exe -enc
      at user logon. Account office.manager@ablemoose.example. No lateral movement
      observed."
      Its plan has 4 remediations and is in part for the agent to carry out once it
      is approved, in part for people.
      2 footholds were found by which an attacker could come back; 1 remains.
      The agent is online. Its last survey is of Mon 23 Nov 2026 09:05 UTC.

    Why it is where it is
      It is open and being remediated (remediating): at least one approved task has
      not ended.
      Its resolution was asked for by Security engineer on duty (security_engineer)
      on Mon 23 Nov 2026 09:12 UTC: "task is gone"; it was refused, because of what
      was in the way.
      - #2 Quarantine File (assisted) waits for another attempt. Approved by
        Helpdesk (user) on Mon 23 Nov 2026 09:04 UTC. Attempt 1 of 5, after 3 tries,
        ended with file_in_use (the file was in use). The next attempt is made at
        the first survey from Mon 23 Nov 2026 09:18 UTC on. It is cleared by the
        agent running it at a survey.
      - #4 Ask the user what was downloaded that day (manual) is for people and
        not ticked off yet; that does not block. Approved by Helpdesk (user) on Mon
        23 Nov 2026 09:04 UTC.

    What happens next by itself
      - #2 is tried again at the first survey from Mon 23 Nov 2026 09:18 UTC on;
        if that has not come to an end by Mon 30 Nov 2026 09:04 UTC it expires.
      As soon as nothing is in the way any more it is published that the report can
      be resolved.

    What somebody has to do
      Do 1 step by hand: #4 Ask the user what was downloaded that day. Resolving the
      report acknowledges it.
    "#);
}

#[test]
fn a_report_that_is_blocked_on_an_isolated_host() {
    let (_dir, store) = played(&until(CRITICAL, "p-23"));
    insta::assert_snapshot!(explained(&store, "1003"), @r#"
    Report 1003 of tenant 5.4
    CRITICAL - Incident on AMA-SRV-01 (Able Moose Accounting)

    What it is
      The SOC reported an attack of unknown kind on the host AMA-SRV-01 (agent 14)
      on Mon 23 Nov 2026 22:10 UTC. Its severity is critical.
      In the SOC's words: "Ransomware precursor activity; the host has been
      isolated."
      Its plan has 3 remediations and is in part for the agent to carry out once it
      is approved, in part for people.
      1 foothold was found by which an attacker could come back; 1 remains.
      The agent is online. Its last survey is of Mon 23 Nov 2026 22:15 UTC.

    Why it is where it is
      It is open and blocked: at least one approved task has come to an end without
      success, and it does not go on by itself.
      Its resolution was asked for by Security engineer on duty (security_engineer)
      on Mon 23 Nov 2026 22:21 UTC: "done"; it was refused, because of what was in
      the way.
      - #22 Delete Service (assisted) has failed. Approved by Security engineer on
        duty (security_engineer) on Mon 23 Nov 2026 22:13 UTC. Attempt 1 of 5 ended
        with access_denied (the agent was denied access). It is cleared by a retry
        by an admin, security_engineer or user, a waiver by an admin, or a revised
        plan.
      - #23 Re-image the host (manual) is for people and not ticked off yet; that
        does not block. Approved by Security engineer on duty (security_engineer) on
        Mon 23 Nov 2026 22:13 UTC.
      AMA-SRV-01 is isolated from the network. It is held so by report 1003. Its
      release was asked for by Security engineer on duty (security_engineer) on Mon
      23 Nov 2026 22:20 UTC: "user wants to work"; it was refused (isolation_held).

    What happens next by itself
      As soon as nothing is in the way any more it is published that the report can
      be resolved.

    What somebody has to do
      Find out why #22 did not succeed and mend it; then an admin, security_engineer
      or user asks for a retry. What is not needed an admin may waive, with a
      reason; the SOC may also revise the plan.
      Do 1 step by hand: #23 Re-image the host. Resolving the report acknowledges
      it.
      Leave AMA-SRV-01 isolated until the remediation is done.
    "#);
}

#[test]
fn a_report_that_is_closed() {
    let (_dir, store) = played(CRITICAL);
    insta::assert_snapshot!(explained(&store, "1003"), @r#"
    Report 1003 of tenant 5.4
    CRITICAL - Incident on AMA-SRV-01 (Able Moose Accounting)

    What it is
      The SOC reported an attack of unknown kind on the host AMA-SRV-01 (agent 14)
      on Mon 23 Nov 2026 22:10 UTC. Its severity is critical.
      In the SOC's words: "Ransomware precursor activity; the host has been
      isolated."
      Its plan has 3 remediations and is in part for the agent to carry out once it
      is approved, in part for people.
      1 foothold was found by which an attacker could come back; none remains by
      what the tasks have reported.
      The agent is online. Its last survey is of Mon 23 Nov 2026 23:00 UTC.

    Why it is where it is
      It is closed: it was resolved by Account admin (admin) on Mon 23 Nov 2026
      22:50 UTC: "done".

    What happens next by itself
      Until Wed 23 Dec 2026 22:50 UTC it is opened again when a survey sees what a
      completed task had removed.

    What somebody has to do
      Nothing for the report. Should it have to be opened again, an admin or
      security_engineer can ask for that until Wed 23 Dec 2026 22:50 UTC.
    "#);
}

#[test]
fn a_rejected_plan_waits_for_the_soc() {
    let rejected = asks(
        "remediations.rejected",
        "2026-11-23T10:05:00Z",
        &json!({ "incident_report_id": 1, "plan_revision": 1, "comment": "it is ours" }),
    );
    check(
        &[one("high", &[]), rejected],
        &["The plan was rejected by Kim (admin) on Mon 23 Nov 2026 10:05 UTC: \"it is ours\".", "The SOC has to issue the plan again."],
    );
}

#[test]
fn a_retry_a_waiver_and_a_cancellation_have_their_authors() {
    let failed = [one("high", &["access_denied", "access_denied"]), approved("2026-11-23T10:05:00Z"), survey("2026-11-23T10:10:00Z", "a")];
    let retried = about_item("remediation.retry_requested", "2026-11-23T10:20:00Z", "as SYSTEM");
    check(
        &[failed.as_slice(), std::slice::from_ref(&retried)].concat(),
        &[
            "A retry was asked for by Kim (admin) on Mon 23 Nov 2026 10:20 UTC: \"as SYSTEM\".",
            "#1 is started at the agent's next survey; if",
        ],
    );
    check(
        &[failed.as_slice(), &[retried, survey("2026-11-23T10:25:00Z", "a")]].concat(),
        &[
            "#1 Delete Service (assisted) has failed.",
            "ended with access_denied (the agent was denied access).",
            "Find out why #1 did not succeed",
        ],
    );
    let waived = about_item("remediation.waived", "2026-11-23T10:20:00Z", "re-imaged");
    check(
        &[failed.as_slice(), &[waived]].concat(),
        &["has been waived by Kim (admin) on Mon 23 Nov 2026 10:20 UTC: \"re-imaged\"; it does not block.", "can resolve the report."],
    );
    let cancelled = about_item("remediation.cancel_requested", "2026-11-23T10:06:00Z", "not now");
    check(
        &[one("high", &[]), approved("2026-11-23T10:05:00Z"), cancelled],
        &["is cancelled (requested). Approved by Kim (admin) on Mon 23 Nov 2026 10:05 UTC. Cancelled by Kim (admin)"],
    );
}

#[test]
fn a_reboot_is_for_people() {
    check(
        &[one("high", &["ok_reboot_required"]), approved("2026-11-23T10:05:00Z"), survey("2026-11-23T10:10:00Z", "a")],
        &["takes effect with a reboot of the host.", "nobody reboots the host by itself", "Reboot the host, for #1;"],
    );
}

#[test]
fn a_managed_response_asks_nobody() {
    let settings = event("organization.updated", "2026-11-23T09:00:00Z", json!({ "managed_response": { "low": true } }));
    check(
        &[settings, one("low", &[])],
        &[
            "It is being remediated automatically (auto_remediating)",
            "Approved by the organization's managed response on Mon 23 Nov 2026 10:00 UTC.",
            "When its last task has ended well the report closes;",
            "What somebody has to do Nothing.",
        ],
    );
}

#[test]
fn an_account_has_no_agent_that_surveys() {
    let items = json!([assisted(1, "Revoke Sessions", &["network", "network", "network"])]);
    let on_account =
        report(1, "high", &items).replace("\"agent_id\":12", "\"agent_id\":null,\"identity\":{\"id\":77,\"name\":\"kit@msp.example\"}");
    let on_account = on_account.replace("\"host\":{\"hostname\":\"PC-12\"},", "");
    let text = of_case(&[on_account, approved("2026-11-23T10:05:00Z")]);
    assert!(text.contains("on the account kit@msp.example (77)"), "{text}");
    assert!(text.contains("#1 is tried again by a timer on Mon 23 Nov 2026 10:18 UTC;"), "{text}");
    assert!(!text.contains("survey"), "nobody surveys: {text}");
}

#[test]
fn an_agent_that_is_gone_runs_no_retry() {
    let removed = event("agent.removed", "2026-11-23T10:06:00Z", json!({ "agent_id": 12 }));
    check(
        &[one("high", &[]), approved("2026-11-23T10:05:00Z"), removed],
        &[
            "The agent is removed. It never surveyed.",
            "Reason: agent_removed (the agent was removed).",
            "The agent is gone. #1 an admin may waive",
        ],
    );
}

#[test]
fn a_silent_agent_is_for_people_to_look_after() {
    let later = event(
        "funnel.counted",
        "2026-11-27T10:00:00Z",
        json!({ "period": "2026-11", "events_analysed": 1, "signals": 1, "signals_investigated": 1 }),
    );
    check(
        &[one("high", &[]), approved("2026-11-23T10:05:00Z"), later],
        &[
            "is held, because its agent is unresponsive.",
            "It is cleared by the agent surveying again.",
            "#1 goes on when the agent surveys again;",
            "Find out why the agent is not heard of",
        ],
    );
}

#[test]
fn a_plan_that_is_withdrawn_says_by_whom() {
    let dismissed = asks(
        "incident_report.dismissal_requested",
        "2026-11-23T10:05:00Z",
        &json!({ "incident_report_id": 1, "reason": "a test of ours" }),
    );
    check(&[one("high", &[]), dismissed], &["It is dismissed, by Kim (admin) on Mon 23 Nov 2026 10:05 UTC: \"a test of ours\"."]);
}

#[test]
fn a_name_is_given_only_by_the_decision_that_is_meant() {
    // an approval that arrives late is dated by its own time, also in the audit
    let late = approved("2026-11-23T10:05:00Z");
    check(
        &[one("high", &[]), survey("2026-11-23T10:10:00Z", "a"), late],
        &["#1 Delete Service (assisted) waits for the agent's next survey. Approved by Kim (admin) on Mon 23 Nov 2026 10:05 UTC."],
    );
}

#[test]
fn every_other_end_says_why() {
    let (dir, store) = played(WORKED);
    for (tenant, id) in [("5.4", "7"), ("5.5", "1001")] {
        let ended = remedyd().args(["explain", tenant, id, "--store"]).arg(&store).assert().code(1).stdout("");
        let said = String::from_utf8_lossy(&ended.get_output().stderr).into_owned();
        assert!(said.contains(&format!("tenant {tenant} has no report {id}")), "{said}");
    }
    remedyd().args(["explain", "5.4", "--store"]).arg(&store).assert().code(64);
    let nothing = dir.path().join("nothing");
    remedyd().args(["explain", "5.4", "1001", "--store"]).arg(&nothing).assert().code(73).stdout("");
    assert!(!nothing.exists(), "looking creates nothing");
}

#[test]
fn what_an_attacker_has_named_does_not_reach_the_terminal() {
    let (_dir, store) = played(&WORKED.replace("powershell.exe", "\\u001b[2J\\u001b[31mall is well"));
    assert!(!explained(&store, "1001").contains('\u{1b}'));
}
