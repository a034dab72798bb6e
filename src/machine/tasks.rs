//! The T table: remediations, and as tasks what the agent makes of them.

use crate::model::agent::{Presence, Survey};
use crate::model::ids::{AgentId, ReportId, TenantId};
use crate::model::remediation::{Attempt, Cancellation, OutcomeClass, Remediation, RemediationType, State};
use crate::model::report::{Report, ReportStatus};
use crate::model::time::{Timestamp, after};
use crate::mutation::{self, Defect};

use super::decision::{AttemptOrder, Decision, Ignored};
use super::draft::Draft;
use super::event::AttemptEnd;
use super::isolation::{self, is_isolation};
use super::order::{has_open_forerunner, rank};
use super::policy::{LEASE, MAX_ATTEMPTS, delivery_window, retry_pause};
use super::timers::plays_surveys;

/// Whether a row of the T table leads from one state to the other (invariant 7).
pub fn is_transition(from: State, to: State) -> bool {
    use State::{
        AwaitingHuman, Cancelled, Completed, Delivered, Expired, Failed, Held, OutcomeUnknown, Queued, RebootPending, RetryWait, Unapproved,
    };
    match (from, to) {
        // T2, T2c, T2m
        (Unapproved, Queued | AwaitingHuman)
        // T1k, when the equal item of the old plan ends well only after the revision
        | (Unapproved | Queued | Held | RetryWait | AwaitingHuman, Completed)
        // T4, T5
        | (Queued, Held | Delivered)
        | (Held, Queued)
        // T7, T8, T9, T11, T12
        | (Delivered, Completed | RebootPending | RetryWait | Failed | OutcomeUnknown)
        | (RebootPending, Completed)
        // T10
        | (RetryWait, Queued)
        // T13
        | (OutcomeUnknown, Completed | RetryWait | Failed)
        // T14
        | (Queued | Held | RetryWait | OutcomeUnknown, Expired)
        // T16
        | (Failed | Expired | Cancelled(Cancellation::Requested), Queued)
        // T20
        | (Completed, AwaitingHuman)
        // T15
        | (Completed, Queued | Failed)
        // R12 and I4, and an isolation that is confirmed after all
        | (Queued | Held | RetryWait | RebootPending, Failed)
        | (Failed | Expired, Completed)
        // R16
        | (Cancelled(Cancellation::Dismissed | Cancellation::Obsolete), Unapproved) => true,
        // R17
        (from, Cancelled(Cancellation::Obsolete)) => !from.is_terminal(),
        // R9, R14
        (AwaitingHuman | Delivered | OutcomeUnknown | RebootPending, Cancelled(Cancellation::Dismissed))
        // T19
        | (Delivered | OutcomeUnknown, Cancelled(Cancellation::Requested)) => true,
        // T3
        (Unapproved, Cancelled(why)) => why != Cancellation::Requested,
        // T18
        (Queued | Held | RetryWait, Cancelled(_)) => true,
        // R8 supersedes what is not completed; what was in the field is superseded at its end
        (AwaitingHuman | Failed | Expired | Delivered | OutcomeUnknown | RebootPending, Cancelled(Cancellation::Superseded)) => true,
        _ => false,
    }
}

/// The states that an admin may waive (T17).
pub fn is_waivable(state: State) -> bool {
    matches!(state, State::Failed | State::Expired | State::Cancelled(Cancellation::Requested) | State::RebootPending)
}

/// T2, T2m and T2c: consent is given, by approval or because containment needs none.
pub(super) fn consent(draft: &mut Draft<'_>, id: ReportId, index: usize) {
    let Some(item) = draft.report(id).and_then(|report| report.remediations.get(index)) else { return };
    let (now, approved_at) = (draft.now, draft.event.time);
    if item.kind == RemediationType::Manual {
        draft.move_item(id, index, State::AwaitingHuman, |item| item.approved_at = Some(approved_at));
    } else {
        draft.move_item(id, index, State::Queued, |item| queue(item, approved_at, now));
        isolation::hold_for(draft, id, index);
    }
}

/// A new generation (T2, T2c, T16): attempts count anew.
pub(super) fn queue(item: &mut Remediation, approved_at: Timestamp, now: Timestamp) {
    item.reason = None;
    item.waived = false;
    item.approved_at = Some(approved_at);
    item.deliver_by = Some(after(now, delivery_window(item.action.listed())));
    item.generation += 1;
    item.attempt = 0;
    item.tries = 0;
    item.next_attempt_at = None;
    item.cancel_asked = false;
    item.completed_at = None;
    item.verified = false;
}

/// T3, T18 and the supersession of R8.
pub(super) fn cancel(draft: &mut Draft<'_>, id: ReportId, index: usize, why: Cancellation) {
    draft.move_item(id, index, State::Cancelled(why), |item| {
        item.reason = Some(why.as_str().into());
        item.next_attempt_at = None;
        item.open_attempt = None;
    });
}

/// What a survey does for the tasks of its agent: T8, T13, T10, then T4 and T5 in the order of ranks.
pub(super) fn survey_tasks(draft: &mut Draft<'_>, survey: &Survey) {
    for (id, index) in all_tasks(draft) {
        let Some(report) = draft.report(id) else { continue };
        let Some(item) = report.remediations.get(index) else { continue };
        match item.state {
            State::OutcomeUnknown => settle_unknown(draft, id, index, survey),
            State::RebootPending => reboot_seen(draft, id, index, survey),
            _ => {}
        }
        let due = |item: &Remediation| item.state == State::RetryWait && item.next_attempt_at.is_some_and(|at| at <= survey.surveyed_at);
        if draft.report(id).and_then(|report| report.remediations.get(index)).is_some_and(due) {
            // T10
            draft.move_item(id, index, State::Queued, |item| item.next_attempt_at = None);
        }
    }
    deliver(draft, survey.surveyed_at);
}

/// T13. The attempt counts: it may have run.
fn settle_unknown(draft: &mut Draft<'_>, id: ReportId, index: usize, survey: &Survey) {
    let Some(report) = draft.report(id) else { return };
    let Some(item) = report.remediations.get(index) else { return };
    if item.open_attempt.as_ref().is_none_or(|attempt| attempt.survey_at >= survey.surveyed_at) {
        return;
    }
    let mut linked = report.footholds.iter().filter(|foothold| foothold.remediation_ids.contains(&item.id)).peekable();
    let gone = item.revision == report.plan_revision
        && linked.peek().is_some()
        && survey.footholds_present.as_ref().is_some_and(|present| linked.all(|foothold| !present.contains(&foothold.id)));
    if gone {
        complete(draft, id, index, Some("foothold_gone"));
    } else {
        attempt_failed(draft, id, index, "outcome_unknown");
    }
}

/// The second half of T8.
fn reboot_seen(draft: &mut Draft<'_>, id: ReportId, index: usize, survey: &Survey) {
    let Some(seen) = &survey.boot_id else { return };
    let before = draft.report(id).and_then(|report| report.remediations.get(index)?.open_attempt.as_ref()?.boot_id.clone());
    match before {
        Some(before) if before == *seen => {}
        Some(_) => complete(draft, id, index, Some("rebooted")),
        // no boot was known at delivery: this survey's is the one to compare with
        None => {
            if let Some(attempt) = draft.change(id).and_then(|report| report.remediations.get_mut(index)?.open_attempt.as_mut()) {
                attempt.boot_id = Some(seen.clone());
            }
        }
    }
}

/// T7, and T13 where the foothold is gone; then T1k for the equal item of the current plan.
fn complete(draft: &mut Draft<'_>, id: ReportId, index: usize, reason: Option<&str>) {
    let now = draft.now;
    draft.move_item(id, index, State::Completed, |item| {
        item.reason = reason.map(str::to_owned);
        item.completed_at = Some(now);
        item.open_attempt = None;
        item.next_attempt_at = None;
    });
    let Some(report) = draft.report(id) else { return };
    let Some(done) = report.remediations.get(index) else { return };
    if done.revision == report.plan_revision {
        return;
    }
    let twin = report.remediations.iter().position(|item| {
        let waits = matches!(item.state, State::Unapproved | State::Queued | State::Held | State::RetryWait | State::AwaitingHuman);
        item.revision == report.plan_revision && waits && item.same_fingerprint(done)
    });
    if let Some(twin) = twin {
        draft.move_item(id, twin, State::Completed, |item| {
            item.reason = Some("kept".into());
            item.completed_at = Some(now);
            item.next_attempt_at = None;
        });
    }
}

/// Why an item does not go on after an attempt that did not succeed: its plan is superseded (R8), its report is
/// dismissed (R9), or, after a transient outcome, a person has asked to cancel it (T19).
fn ends_with_attempt(report: &Report, item: &Remediation, transient: bool) -> Option<Cancellation> {
    if item.revision != report.plan_revision {
        return Some(Cancellation::Superseded);
    }
    match report.status {
        ReportStatus::Dismissed | ReportStatus::PartnerDismissed => Some(Cancellation::Dismissed),
        ReportStatus::Deleting => Some(Cancellation::Obsolete),
        ReportStatus::Sent | ReportStatus::AutoRemediating | ReportStatus::Closed => {
            (transient && item.cancel_asked && !mutation::seeded(Defect::CancelForgotten)).then_some(Cancellation::Requested)
        }
    }
}

/// T9 or, with the attempts used up, T11.
fn attempt_failed(draft: &mut Draft<'_>, id: ReportId, index: usize, reason: &str) {
    let Some(report) = draft.report(id) else { return };
    let Some(item) = report.remediations.get(index) else { return };
    if let Some(why) = ends_with_attempt(report, item, true) {
        cancel(draft, id, index, why);
        return;
    }
    let survey_at = item.open_attempt.as_ref().map(|attempt| attempt.survey_at);
    let most = if mutation::seeded(Defect::AttemptsOffByOne) { MAX_ATTEMPTS + 1 } else { MAX_ATTEMPTS };
    let next = survey_at.filter(|_| item.attempt < most);
    let pause = retry_pause(draft.policy.survey_interval, item.id.0, item.attempt);
    let to = if next.is_some() { State::RetryWait } else { State::Failed };
    draft.move_item(id, index, to, |item| {
        item.reason = Some(reason.into());
        item.open_attempt = None;
        item.next_attempt_at = next.map(|at| after(at, pause));
    });
}

/// T4 as far as it follows from the state alone: an unresponsive agent holds its tasks; otherwise those are
/// released whose forerunners have ended.
pub(super) fn settle_holds(draft: &mut Draft<'_>) {
    let unresponsive = draft.subject.agent.as_ref().is_some_and(|agent| agent.presence == Presence::Unresponsive);
    for (id, index) in all_tasks(draft) {
        let Some(item) = draft.report(id).and_then(|report| report.remediations.get(index)) else { continue };
        match item.state {
            State::Queued if unresponsive => draft.move_item(id, index, State::Held, |_| {}),
            State::Held if !unresponsive && !has_open_forerunner(&draft.subject, id, item) => {
                draft.move_item(id, index, State::Queued, |_| {});
            }
            _ => {}
        }
    }
}

/// T4 outside a survey: forerunners have ended by somebody's decision. Where no agent surveys, what they held goes
/// on at once; nothing else would set it off.
pub(super) fn forerunners_ended(draft: &mut Draft<'_>) {
    if plays_surveys(draft.subject.key) {
        let now = draft.now;
        deliver(draft, now);
    }
}

/// T5 for every queued task that may run in this survey, T4 for those that have to wait for another.
fn deliver(draft: &mut Draft<'_>, surveyed_at: Timestamp) {
    settle_holds(draft);
    for (id, index) in all_tasks(draft) {
        let Some(item) = draft.report(id).and_then(|report| report.remediations.get(index)) else { continue };
        let may_run = item.state == State::Queued
            && !is_isolation(item)
            && item.approved_at.is_some_and(|approved| approved <= surveyed_at)
            && item.last_attempt_survey.is_none_or(|last| last < surveyed_at)
            && item.deliver_by.is_some_and(|by| draft.now < by);
        if !may_run {
            continue;
        }
        if has_open_forerunner(&draft.subject, id, item) {
            draft.move_item(id, index, State::Held, |_| {});
        } else {
            start_attempt(draft, id, index, surveyed_at);
        }
    }
}

/// T5. The attempt is in the record, and so in the commit, before the order for it leaves the process.
fn start_attempt(draft: &mut Draft<'_>, id: ReportId, index: usize, surveyed_at: Timestamp) {
    let tenant = draft.subject.tenant;
    let boot_id = draft.subject.agent.as_ref().and_then(|agent| agent.boot_id.clone());
    let lease_until = after(draft.now, LEASE);
    let (cause, traceparent) = (draft.event.id.clone(), draft.event.traceparent.clone());
    draft.move_item(id, index, State::Delivered, |item| {
        item.attempt += 1;
        item.tries = 0;
        item.reason = None;
        item.next_attempt_at = None;
        item.last_attempt_survey = Some(surveyed_at);
        item.open_attempt =
            Some(Attempt { id: attempt_id(tenant, id, item), survey_at: surveyed_at, lease_until, boot_id, cause, traceparent });
    });
    let started_at = draft.now;
    let Some(item) = draft.report(id).and_then(|report| report.remediations.get(index)) else { return };
    let Some(attempt) = &item.open_attempt else { return };
    let order = AttemptOrder {
        report: id,
        revision: item.revision,
        remediation: item.id,
        attempt_id: attempt.id.clone(),
        action: item.action.clone(),
        started_at,
        simulate: item.simulate.clone(),
        simulate_cursor: item.simulate_cursor,
        cause: attempt.cause.clone(),
        traceparent: attempt.traceparent.clone(),
    };
    draft.start_attempt(order);
}

fn attempt_id(tenant: TenantId, report: ReportId, item: &Remediation) -> String {
    let attempt = if mutation::seeded(Defect::AttemptIdRepeats) { 1 } else { item.attempt };
    format!("{tenant}/{report}/{}/{}/g{}/a{attempt}", item.revision, item.id, item.generation)
}

/// T7, T8, T9, T11: the outcome of the attempt that is open; then the next in order, within the same survey.
pub(super) fn attempt_ended(mut draft: Draft<'_>, end: &AttemptEnd) -> Decision {
    let is_it = |item: &Remediation| {
        item.id == end.remediation
            && item.revision == end.revision
            && item.state == State::Delivered
            && item.open_attempt.as_ref().is_some_and(|attempt| attempt.id == end.attempt_id)
    };
    let Some(index) = draft.report(end.report).and_then(|report| report.remediations.iter().position(is_it)) else {
        return Decision::Ignored(Ignored::Nothing);
    };
    let id = end.report;
    let mut surveyed_at = None;
    if let Some(item) = draft.change(id).and_then(|report| report.remediations.get_mut(index)) {
        item.tries = end.tries;
        item.simulate_cursor = item.simulate_cursor.saturating_add(end.tries);
        surveyed_at = item.open_attempt.as_ref().map(|attempt| attempt.survey_at);
    }
    match end.code.class() {
        OutcomeClass::Success => complete(&mut draft, id, index, (end.code.0 != "ok").then_some(end.code.0.as_str())),
        OutcomeClass::NeedsReboot => {
            draft.move_item(id, index, State::RebootPending, |item| item.reason = Some(end.code.0.clone()));
        }
        OutcomeClass::Transient => attempt_failed(&mut draft, id, index, &end.code.0),
        OutcomeClass::Permanent => fail(&mut draft, id, index, &end.code.0),
    }
    if let Some(surveyed_at) = surveyed_at {
        deliver(&mut draft, surveyed_at);
    }
    draft.finish()
}

/// T11 for a permanent outcome, and R12.
pub(super) fn fail(draft: &mut Draft<'_>, id: ReportId, index: usize, reason: &str) {
    let Some(report) = draft.report(id) else { return };
    let Some(item) = report.remediations.get(index) else { return };
    if let Some(why) = ends_with_attempt(report, item, false) {
        cancel(draft, id, index, why);
        return;
    }
    draft.move_item(id, index, State::Failed, |item| {
        item.reason = Some(reason.into());
        item.open_attempt = None;
        item.next_attempt_at = None;
    });
}

/// T12 for the leases and T14 for the deliveries that are due, and a played survey where no agent makes one.
pub(super) fn timer_due(draft: &mut Draft<'_>, due: Timestamp) {
    // a played survey that comes late must not deliver what has expired meanwhile
    let expired_by = if plays_surveys(draft.subject.key) { draft.now.max(due) } else { due };
    for (id, index) in all_tasks(draft) {
        let Some(item) = draft.report(id).and_then(|report| report.remediations.get(index)) else { continue };
        let lease_passed = item.open_attempt.as_ref().is_some_and(|attempt| attempt.lease_until <= due);
        if item.state == State::Delivered && lease_passed {
            lose_outcome(draft, id, index, "lease_passed");
        }
        let Some(item) = draft.report(id).and_then(|report| report.remediations.get(index)) else { continue };
        let waits = matches!(item.state, State::Queued | State::Held | State::RetryWait | State::OutcomeUnknown);
        if waits && item.deliver_by.is_some_and(|by| by <= expired_by) {
            expire(draft, id, index);
        }
    }
    if plays_surveys(draft.subject.key) {
        let played = Survey {
            agent_id: AgentId(0),
            // it looks when it is played, also when that is late: pauses between attempts run from then
            surveyed_at: draft.now.max(due),
            hostname: None,
            platform: None,
            agent_version: None,
            boot_id: None,
            footholds_present: None,
            isolated: None,
        };
        survey_tasks(draft, &played);
    }
}

/// T14.
fn expire(draft: &mut Draft<'_>, id: ReportId, index: usize) {
    let Some(report) = draft.report(id) else { return };
    let Some(item) = report.remediations.get(index) else { return };
    if let Some(why) = ends_with_attempt(report, item, false) {
        cancel(draft, id, index, why);
        return;
    }
    draft.move_item(id, index, State::Expired, |item| {
        item.reason = Some("deliver_by_passed".into());
        item.open_attempt = None;
        item.next_attempt_at = None;
    });
}

/// T12 after a start: whoever ran the attempts is gone with the process.
pub(super) fn recovered(mut draft: Draft<'_>) -> Decision {
    let mut any = false;
    for (id, index) in all_tasks(&draft) {
        if draft.report(id).and_then(|report| report.remediations.get(index)).is_some_and(|item| item.state == State::Delivered) {
            lose_outcome(&mut draft, id, index, "service_restarted");
            any = true;
        }
    }
    if any { draft.finish() } else { Decision::Ignored(Ignored::Nothing) }
}

/// T12.
fn lose_outcome(draft: &mut Draft<'_>, id: ReportId, index: usize, reason: &str) {
    draft.move_item(id, index, State::OutcomeUnknown, |item| item.reason = Some(reason.into()));
}

/// Every task of every report of the subject, in the order in which an agent takes them.
fn all_tasks(draft: &Draft<'_>) -> Vec<(ReportId, usize)> {
    let mut tasks: Vec<_> = draft
        .subject
        .reports
        .values()
        .flat_map(|report| report.remediations.iter().enumerate().map(move |(index, item)| (report.id, index, item)))
        .filter(|(_, _, item)| item.kind.is_task())
        .map(|(id, index, item)| (rank(item), id, item.id, item.revision, index))
        .collect();
    tasks.sort_unstable();
    tasks.into_iter().map(|(_, id, _, _, index)| (id, index)).collect()
}
