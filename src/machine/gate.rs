//! The gate: phase, blockers and counts, all derived from the report and never stored.
//!
//! Invariant: `phase == Ready` exactly when `blockers` is empty for a caller who may resolve; `blocks`
//! below is the single place that says what keeps a report open.

use crate::model::agent::{Agent, Presence};
use crate::model::remediation::{Cancellation, Remediation, State};
use crate::model::report::{Phase, Report, ReportStatus};
use crate::mutation::{self, Defect};

use super::notice::{BlockedTask, Blocker, BlockerCode, Counts};
use super::policy::MAX_ATTEMPTS;

/// The phase of a `sent` report; `None` for any other status.
pub fn phase(report: &Report) -> Option<Phase> {
    if report.status != ReportStatus::Sent {
        return None;
    }
    if report.in_revision {
        return Some(Phase::InRevision);
    }
    let codes = || report.remediations.iter().filter_map(|item| blocks(report, item));
    if codes().any(|code| code == BlockerCode::NotReviewed) {
        return Some(Phase::AwaitingApproval);
    }
    let needs_a_person = |code| matches!(code, BlockerCode::TaskFailed | BlockerCode::TaskExpired | BlockerCode::TaskCancelled);
    if codes().any(needs_a_person) {
        return Some(Phase::Blocked);
    }
    if codes().next().is_some() {
        return Some(Phase::Remediating);
    }
    Some(Phase::Ready)
}

/// Everything between the report and a resolution, in the order in which it is published: the report as a
/// whole first, then by remediation id. Empty: the gate is open.
pub fn blockers(report: &Report, agent: Option<&Agent>, role_allowed: bool) -> Vec<Blocker> {
    let whole = |code| Blocker { code, task: None, agent_id: report.agent_id };
    let mut blockers = Vec::new();
    if !role_allowed {
        blockers.push(whole(BlockerCode::RoleNotAllowed));
    }
    if report.status != ReportStatus::Sent {
        blockers.push(whole(BlockerCode::NotActive));
        return blockers;
    }
    if report.in_revision {
        blockers.push(whole(BlockerCode::InRevision));
    }
    let unresponsive = agent.is_some_and(|agent| agent.presence == Presence::Unresponsive);
    let mut items: Vec<_> = report.remediations.iter().filter_map(|item| Some((item, blocks(report, item)?))).collect();
    items.sort_by_key(|(item, _)| (item.id, item.revision));
    blockers.extend(items.into_iter().map(|(item, code)| {
        let waits = item.state.waits();
        let code = if unresponsive && waits { BlockerCode::AgentUnresponsive } else { code };
        Blocker { code, task: Some(blocked_task(item)), agent_id: report.agent_id }
    }));
    blockers
}

fn blocked_task(item: &Remediation) -> BlockedTask {
    BlockedTask {
        remediation_id: item.id,
        plan_revision: item.revision,
        action: item.action.clone(),
        state: item.state,
        attempt: item.attempt,
        max_attempts: MAX_ATTEMPTS,
        reason: item.reason.clone(),
        next_attempt_at: item.next_attempt_at,
        deliver_by: item.deliver_by,
    }
}

/// Whether and how one item keeps its report open.
fn blocks(report: &Report, item: &Remediation) -> Option<BlockerCode> {
    if item.revision != report.plan_revision {
        // of an old plan only what an agent may still be running counts (R8)
        return match item.state {
            State::Delivered => Some(BlockerCode::TaskPending),
            State::OutcomeUnknown => Some(BlockerCode::TaskOutcomeUnknown),
            State::RebootPending if !item.waived => Some(BlockerCode::RebootPending),
            State::RebootPending
            | State::Unapproved
            | State::Queued
            | State::Held
            | State::RetryWait
            | State::AwaitingHuman
            | State::Completed
            | State::Failed
            | State::Expired
            | State::Cancelled(_) => None,
        };
    }
    match item.state {
        State::Unapproved => Some(BlockerCode::NotReviewed),
        State::Failed if mutation::seeded(Defect::GateIgnoresFailed) => None,
        State::Failed if !item.waived => Some(BlockerCode::TaskFailed),
        State::Expired if !item.waived => Some(BlockerCode::TaskExpired),
        State::Cancelled(Cancellation::Requested) if !item.waived => Some(BlockerCode::TaskCancelled),
        State::RebootPending if !item.waived => Some(BlockerCode::RebootPending),
        State::OutcomeUnknown => Some(BlockerCode::TaskOutcomeUnknown),
        State::Queued | State::Held | State::Delivered | State::RetryWait => Some(BlockerCode::TaskPending),
        State::AwaitingHuman | State::Completed | State::Failed | State::Expired | State::RebootPending | State::Cancelled(_) => None,
    }
}

/// `counts` of incident_report.status_changed, over the current plan.
pub fn counts(report: &Report) -> Counts {
    let mut counts = Counts { footholds_remaining: footholds_remaining(report), ..Counts::default() };
    for item in report.plan() {
        let counter = match item.state {
            State::Unapproved => &mut counts.unapproved,
            State::Queued
            | State::Held
            | State::Delivered
            | State::RetryWait
            | State::RebootPending
            | State::OutcomeUnknown
            | State::AwaitingHuman => &mut counts.open,
            State::Completed => &mut counts.completed,
            State::Failed | State::Expired => &mut counts.failed,
            State::Cancelled(_) => &mut counts.cancelled,
        };
        *counter += 1;
    }
    counts
}

/// Footholds that are not known to be gone. One is gone when everything that was to remove it is completed;
/// one that nothing is linked to remains.
pub fn footholds_remaining(report: &Report) -> u32 {
    let gone = |ids: &[crate::model::ids::RemediationId]| {
        !ids.is_empty() && ids.iter().all(|id| report.item(*id).is_some_and(|item| item.state == State::Completed))
    };
    report.footholds.iter().filter(|foothold| !gone(&foothold.remediation_ids)).count() as u32
}
