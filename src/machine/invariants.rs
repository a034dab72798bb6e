//! What the machine never leaves behind in a report (invariants 1, 3 and 6 of the specification, and what they stand on).
//!
//! Asked of every report that a decision has changed, before it is written, and of every report of a store that is verified.
//! Never here: a rule; what is wrong here was decided wrongly elsewhere. Never a reason to stop at a report that was wrong before:
//! the process would come to it again at every start.

use std::collections::BTreeSet;

use crate::model::remediation::State;
use crate::model::report::{Report, ReportStatus};

use super::gate;
use super::policy::MAX_ATTEMPTS;

/// Panics where a decision breaks a report that was whole: a defect of this crate, and going on would make it durable.
pub fn assert_kept(before: Option<&Report>, after: &Report) {
    let broken_now = broken(after);
    assert!(
        broken_now.is_empty() || before.is_some_and(|before| !broken(before).is_empty()),
        "report {}: {}",
        after.id,
        broken_now.join(", ")
    );
}

/// What is wrong with a report, a sentence each; nothing, unless this crate has a defect or a store is damaged.
pub fn broken(report: &Report) -> Vec<String> {
    let mut faults = Vec::new();
    // 1, by the gate itself, as it was when the report was resolved
    if report.closed_by.as_deref() == Some("resolved") && report.archived_at.is_none() {
        let open = Report { status: ReportStatus::Sent, ..report.clone() };
        for blocker in gate::blockers(&open, None, true) {
            let task = blocker.task.map_or_else(String::new, |task| format!(" (task {})", task.remediation_id));
            faults.push(format!("it was resolved over {}{task}", blocker.code.as_str()));
        }
    }
    let mut seen = BTreeSet::new();
    for item in &report.remediations {
        let mut fault = |what: &str| faults.push(format!("task {} of plan {}: {what}", item.id, item.revision));
        if !seen.insert((item.revision, item.id)) {
            fault("it is there twice");
        }
        if item.revision > report.plan_revision {
            fault("its plan has not been issued");
        }
        // 3
        if item.kind.is_task() && item.attempt > 0 && item.approved_at.is_none() {
            fault("it was attempted without an approval");
        }
        // 6
        if item.attempt > MAX_ATTEMPTS {
            fault("it was attempted too often");
        }
        if item.state == State::Delivered && item.open_attempt.is_none() {
            fault("it is delivered, and no attempt is open");
        }
        if item.open_attempt.is_some() && !item.state.is_in_the_field() {
            fault("an attempt is open, and it is not in the field");
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::report::ReportText;

    fn report(attempts: u32) -> Report {
        let at = "2026-11-26T08:00:00Z";
        let item = serde_json::json!({
            "id": 1, "revision": 1, "type": "assisted", "action": "quarantine_file", "state": "failed", "approved_at": at, "attempt": attempts,
        });
        let report = serde_json::json!({
            "id": 7, "subject_key": { "agent": 3 }, "platform": "windows", "severity": "high", "status": "sent", "attack_kind": "unknown",
            "text": ReportText::default(), "plan_revision": 1, "remediations": [item], "footholds": [], "plan_issued_at": at, "sent_at": at, "updated_at": at,
            "status_updated_at": at, "sequence": 9,
        });
        serde_json::from_value(report).expect("a report")
    }

    #[test]
    fn a_report_that_stays_whole_passes_and_so_does_one_that_was_broken_before() {
        assert_kept(None, &report(MAX_ATTEMPTS));
        assert_kept(Some(&report(1)), &report(MAX_ATTEMPTS));
        assert_kept(Some(&report(MAX_ATTEMPTS + 1)), &report(MAX_ATTEMPTS + 2));
    }

    #[test]
    #[should_panic(expected = "report 7: task 1 of plan 1: it was attempted too often")]
    fn a_decision_that_breaks_a_report_is_not_written() {
        assert_kept(Some(&report(MAX_ATTEMPTS)), &report(MAX_ATTEMPTS + 1));
    }
}
