//! What a survey says of footholds: completed work is verified (T7) or has come back (T15, R16), and a report
//! whose footholds are all gone may be closed (R11).

use crate::model::agent::Survey;
use crate::model::ids::ReportId;
use crate::model::remediation::{Cancellation, Remediation, State};
use crate::model::report::{Report, ReportStatus};
use crate::model::time::{Timestamp, after};

use super::draft::Draft;
use super::notice::{Author, Body, ReopenCause};
use super::policy::{MAX_REGRESSIONS, REOPEN_WINDOW};
use super::{closing, isolation, tasks};

/// Nothing, unless the survey has looked.
pub(super) fn surveyed(draft: &mut Draft<'_>, survey: &Survey) {
    let Some(present) = &survey.footholds_present else { return };
    let reports: Vec<ReportId> = draft.subject.reports.keys().copied().collect();
    for id in reports {
        verify(draft, id, present, survey.surveyed_at);
        come_back(draft, id, present, survey.surveyed_at);
        close_when_cleared(draft, id, present, survey.surveyed_at);
    }
}

/// A survey after the one in which the item was completed, by the agent's own clock; where no attempt was needed, by
/// ours.
fn is_later(item: &Remediation, surveyed_at: Timestamp) -> bool {
    item.last_attempt_survey.or(item.completed_at).is_some_and(|at| at < surveyed_at)
}

/// The second half of T7.
fn verify(draft: &mut Draft<'_>, id: ReportId, present: &[String], surveyed_at: Timestamp) {
    let Some(report) = draft.report(id).filter(|report| report.status != ReportStatus::Deleting) else { return };
    let proven = |item: &Remediation| {
        let mut linked = report.footholds.iter().filter(|foothold| foothold.remediation_ids.contains(&item.id)).peekable();
        item.revision == report.plan_revision
            && item.state == State::Completed
            && item.kind.is_task()
            && !item.verified
            && is_later(item, surveyed_at)
            && linked.peek().is_some()
            && linked.all(|foothold| !present.contains(&foothold.id))
    };
    let verified: Vec<usize> = report.remediations.iter().enumerate().filter(|(_, item)| proven(item)).map(|(index, _)| index).collect();
    for index in verified {
        let Some(item) = draft.change(id).and_then(|report| report.remediations.get_mut(index)) else { continue };
        item.verified = true;
        let (remediation_id, plan_revision) = (item.id, item.revision);
        draft.note(id, Body::RemediationVerified { remediation_id, plan_revision });
    }
}

/// T15, and R16 before it where the report was over.
fn come_back(draft: &mut Draft<'_>, id: ReportId, present: &[String], surveyed_at: Timestamp) {
    let Some(report) = draft.report(id) else { return };
    let over = match report.status {
        ReportStatus::Sent | ReportStatus::AutoRemediating => false,
        ReportStatus::Closed | ReportStatus::PartnerDismissed => true,
        ReportStatus::Dismissed | ReportStatus::Deleting => return,
    };
    if over && report.closed_at.is_none_or(|at| after(at, REOPEN_WINDOW) < surveyed_at) {
        return;
    }
    // a foothold that others are still to remove is no sign that this one has come back
    let was_gone = |report: &Report, ids: &[crate::model::ids::RemediationId]| {
        ids.iter().all(|id| report.item(*id).is_some_and(|item| item.state == State::Completed && is_later(item, surveyed_at)))
    };
    let mut returned: Vec<usize> = Vec::new();
    for foothold in report.footholds.iter().filter(|foothold| present.contains(&foothold.id)) {
        if foothold.remediation_ids.is_empty() || !was_gone(report, &foothold.remediation_ids) {
            continue;
        }
        returned.extend(report.remediations.iter().enumerate().filter_map(|(index, item)| {
            let linked = item.revision == report.plan_revision && foothold.remediation_ids.contains(&item.id);
            (linked && item.kind.is_task()).then_some(index)
        }));
    }
    returned.sort_unstable();
    returned.dedup();
    let first = returned.first().and_then(|index| report.remediations.get(*index)).map(|item| item.id);
    if let (true, Some(first)) = (over, first) {
        closing::reopen(draft, id, ReopenCause::FootholdReturned, Some(first), None);
    }
    for index in returned {
        let Some(item) = draft.report(id).and_then(|report| report.remediations.get(index)) else { continue };
        let regressions = item.regressions + 1;
        // invariant 3: a kept item (T1k) has no approval of its own revision to run by; a person's retry is one
        let approved = item.approved_at.is_some();
        let to = if regressions > MAX_REGRESSIONS || !approved { State::Failed } else { State::Queued };
        let now = draft.now;
        draft.move_item(id, index, to, |item| {
            if to == State::Queued {
                tasks::queue(item, surveyed_at, now);
            }
            item.regressions = regressions;
            item.verified = false;
            item.completed_at = None;
            item.reason = Some("regressed".into());
        });
        if to == State::Queued {
            isolation::hold_for(draft, id, index);
        }
    }
}

/// R11.
fn close_when_cleared(draft: &mut Draft<'_>, id: ReportId, present: &[String], surveyed_at: Timestamp) {
    if !draft.policy.organization.auto_close_when_footholds_cleared {
        return;
    }
    let Some(report) = draft.report(id) else { return };
    let in_the_way = |item: &Remediation| match item.state {
        State::Unapproved | State::Delivered | State::OutcomeUnknown | State::RebootPending => true,
        State::Failed | State::Expired => !item.waived,
        State::Queued | State::Held | State::RetryWait | State::AwaitingHuman | State::Completed | State::Cancelled(_) => false,
    };
    let counts = |item: &&Remediation| item.revision == report.plan_revision || item.state.is_in_the_field();
    let cleared = report.status == ReportStatus::Sent
        && !report.in_revision
        // a survey from before the plan, or before somebody's consent to it, says nothing of it
        && report.plan_issued_at < surveyed_at
        && report.remediations.iter().all(|item| item.approved_at.is_none_or(|at| at < surveyed_at))
        && !report.footholds.is_empty()
        && report.footholds.iter().all(|foothold| !present.contains(&foothold.id))
        && !report.remediations.iter().filter(counts).any(in_the_way);
    if !cleared {
        return;
    }
    for index in 0..report.remediations.len() {
        let waits = |item: &Remediation| item.state.waits();
        if draft.report(id).and_then(|report| report.remediations.get(index)).is_some_and(waits) {
            tasks::cancel(draft, id, index, Cancellation::Obsolete);
        }
    }
    closing::close(draft, id, "footholds_cleared", Some(Author::Policy));
}
