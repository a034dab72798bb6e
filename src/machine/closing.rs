//! How a report ends, and begins again: the rows of the R table from R4 on that close, dismiss, reopen or delete.

use crate::model::actor::Actor;
use crate::model::agent::Presence;
use crate::model::ids::{RemediationId, ReportId};
use crate::model::remediation::{Cancellation, Remediation, State};
use crate::model::report::{Phase, Report, ReportStatus};
use crate::model::time::{Timestamp, after};

use super::decision::{Decision, Ignored};
use super::draft::Draft;
use super::event::ReportRequest;
use super::gate;
use super::notice::{Author, Body, RefusalCode, ReopenCause};
use super::policy::{Permission, REOPEN_WINDOW, may};
use super::reports::role_message;
use super::{isolation, sla, tasks};

/// R10 and R10b.
pub(super) fn resolution_requested(mut draft: Draft<'_>, request: &ReportRequest) -> Decision {
    let id = request.report;
    let Some(report) = draft.report(id) else { return Decision::Ignored(Ignored::Nothing) };
    let allowed = may(request.actor.role, Permission::Conclude);
    let active = report.status == ReportStatus::Sent;
    let blockers = gate::blockers(report, draft.subject.agent.as_ref(), allowed);
    if !blockers.is_empty() {
        draft.note(id, Body::ResolutionRefused { blockers });
        if allowed
            && active
            && let Some(report) = draft.change(id)
        {
            report.refused_resolution = Some(request.actor.clone());
        }
        draft.resolution_refused();
        return draft.finish();
    }
    resolve(&mut draft, id, request.actor.clone());
    draft.finish()
}

/// R10: T20a for the manual steps that nobody marked, then closed.
fn resolve(draft: &mut Draft<'_>, id: ReportId, actor: Actor) {
    let now = draft.now;
    for index in items_in(draft, id, |item| item.state == State::AwaitingHuman) {
        draft.move_item(id, index, State::Completed, |item| {
            item.reason = Some("acknowledged".into());
            item.completed_at = Some(now);
        });
    }
    close(draft, id, "resolved", Some(Author::Person(actor)));
}

/// Closed, by whatever row; the holder of an isolation goes with it.
pub(super) fn close(draft: &mut Draft<'_>, id: ReportId, closed_by: &'static str, author: Option<Author>) {
    end(draft, id, ReportStatus::Closed, closed_by, author);
}

fn end(draft: &mut Draft<'_>, id: ReportId, to: ReportStatus, cause: &'static str, author: Option<Author>) {
    let now = draft.now;
    if let Some(report) = draft.change(id) {
        report.closed_at = Some(now);
        report.closed_by = Some(cause.into());
        report.refused_resolution = None;
        // the SOC's withdrawal is final; anything else can be reopened
        report.watched = to != ReportStatus::Dismissed && !report.footholds.is_empty();
        sla::stop(report);
    }
    draft.set_status(id, to, cause, author.clone());
    draft.withdraw_page(id);
    // tasks that go on, an isolation among them, keep the host as it is (R13)
    if !draft.report(id).is_some_and(|report| report.residual) {
        isolation::drop_holder(draft, id, cause, author);
    }
    tasks::forerunners_ended(draft);
}

/// R9. What an agent is running ends as audit only.
pub(super) fn dismissed_by_soc(mut draft: Draft<'_>, id: ReportId) -> Decision {
    if !draft.report(id).is_some_and(|report| report.status.is_open()) {
        return Decision::Ignored(Ignored::NotOpen);
    }
    cancel_waiting(&mut draft, id);
    end(&mut draft, id, ReportStatus::Dismissed, "dismissed", Some(Author::Soc));
    draft.finish()
}

/// R14.
pub(super) fn dismissal_requested(mut draft: Draft<'_>, request: &ReportRequest) -> Decision {
    let id = request.report;
    let Some(report) = draft.report(id) else { return Decision::Ignored(Ignored::Nothing) };
    let in_the_field = report.remediations.iter().any(|item| item.kind.is_task() && item.state.is_in_the_field());
    let status = report.status;
    if !may(request.actor.role, Permission::Conclude) {
        return draft.refuse(id, RefusalCode::RoleNotAllowed, role_message(&request.actor));
    }
    if status != ReportStatus::Sent {
        return draft.refuse(id, RefusalCode::WrongState, format!("the report is {}", status.as_str()));
    }
    if request.reason.as_deref().is_none_or(|reason| reason.trim().is_empty()) {
        return draft.refuse(id, RefusalCode::EmptyComment, "a dismissal needs a reason".into());
    }
    if in_the_field {
        return draft.refuse(id, RefusalCode::WrongState, "a task is with the agent; its outcome has to come first".into());
    }
    cancel_waiting(&mut draft, id);
    end(&mut draft, id, ReportStatus::PartnerDismissed, "partner_dismissed", Some(Author::Person(request.actor.clone())));
    draft.finish()
}

/// What R9 and R14 cancel: all that waits for somebody or something.
fn cancel_waiting(draft: &mut Draft<'_>, id: ReportId) {
    let waits = |item: &Remediation| {
        matches!(item.state, State::Unapproved | State::Queued | State::Held | State::RetryWait | State::AwaitingHuman)
    };
    for index in items_in(draft, id, waits) {
        tasks::cancel(draft, id, index, Cancellation::Dismissed);
    }
}

/// R13.
pub(super) fn closed_upstream(mut draft: Draft<'_>, id: ReportId, status_updated_at: Timestamp) -> Decision {
    let Some(report) = draft.report(id) else { return Decision::Ignored(Ignored::Nothing) };
    if !report.status.is_open() {
        return Decision::Ignored(Ignored::NotOpen);
    }
    if status_updated_at <= report.status_updated_at {
        return Decision::Ignored(Ignored::Older);
    }
    for index in items_in(&draft, id, |item| item.state == State::Unapproved) {
        tasks::cancel(&mut draft, id, index, Cancellation::Obsolete);
    }
    if let Some(report) = draft.change(id) {
        report.status_updated_at = status_updated_at;
        report.residual = residual_tasks(report) > 0;
    }
    end(&mut draft, id, ReportStatus::Closed, "closed_upstream", Some(Author::Soc));
    draft.finish()
}

/// Approved tasks that go on.
pub(super) fn residual_tasks(report: &Report) -> u32 {
    let open = |item: &&Remediation| item.kind.is_task() && item.state.is_under_way();
    report.remediations.iter().filter(open).count() as u32
}

/// R12.
pub(super) fn agent_removed(draft: &mut Draft<'_>) {
    let open: Vec<ReportId> =
        draft.subject.reports.values().filter(|report| report.status.is_open() || report.residual).map(|report| report.id).collect();
    for id in open {
        let open_task = |item: &Remediation| item.kind.is_task() && item.state.is_under_way();
        for index in items_in(draft, id, open_task) {
            tasks::fail(draft, id, index, "agent_removed");
        }
        let sent = draft.report(id).is_some_and(|report| report.status.is_open());
        if sent && draft.policy.organization.close_on_agent_removed {
            if let Some(report) = draft.change(id) {
                report.disposition = Some("unverified".into());
            }
            close(draft, id, "agent_removed", Some(Author::Policy));
        }
    }
}

/// R16 by request.
pub(super) fn reopen_requested(mut draft: Draft<'_>, request: &ReportRequest) -> Decision {
    let id = request.report;
    let Some(report) = draft.report(id) else { return Decision::Ignored(Ignored::Nothing) };
    let (status, closed_at) = (report.status, report.closed_at);
    if !may(request.actor.role, Permission::Conclude) {
        return draft.refuse(id, RefusalCode::RoleNotAllowed, role_message(&request.actor));
    }
    let message = match status {
        ReportStatus::Closed | ReportStatus::PartnerDismissed => {
            if closed_at.is_none_or(|at| after(at, REOPEN_WINDOW) < draft.event.time) {
                Some("it was closed more than 30 days ago".to_owned())
            } else {
                agent_is_removed(&draft).then(|| "its agent has been removed".to_owned())
            }
        }
        ReportStatus::Sent | ReportStatus::AutoRemediating | ReportStatus::Dismissed | ReportStatus::Deleting => {
            Some(format!("the report is {}", status.as_str()))
        }
    };
    if let Some(message) = message {
        return draft.refuse(id, RefusalCode::WrongState, message);
    }
    reopen(&mut draft, id, ReopenCause::Requested, None, Some(Author::Person(request.actor.clone())));
    draft.finish()
}

fn agent_is_removed(draft: &Draft<'_>) -> bool {
    draft.subject.agent.as_ref().is_some_and(|agent| agent.presence == Presence::Removed)
}

/// R16.
pub(super) fn reopen(
    draft: &mut Draft<'_>,
    id: ReportId,
    cause: ReopenCause,
    remediation_id: Option<RemediationId>,
    author: Option<Author>,
) {
    if let Some(report) = draft.change(id) {
        report.closed_at = None;
        report.closed_by = None;
        report.disposition = None;
        report.residual = false;
        report.watched = false;
    }
    draft.set_status(id, ReportStatus::Sent, cause.as_str(), author);
    // what was given up because the report was over is to be reviewed again; otherwise the gate would look past it
    let given_up = |item: &Remediation| matches!(item.state, State::Cancelled(Cancellation::Dismissed | Cancellation::Obsolete));
    for index in items_in(draft, id, given_up) {
        if draft.report(id).is_some_and(|report| report.remediations.get(index).is_some_and(|item| item.revision == report.plan_revision)) {
            // as T1 left it: nothing of the consent that was withdrawn, not even its deadline
            draft.move_item(id, index, State::Unapproved, |item| {
                item.reason = None;
                item.approved_at = None;
                item.deliver_by = None;
                item.attempt = 0;
                item.tries = 0;
            });
        }
    }
    draft.note(id, Body::Reopened { cause, remediation_id });
    sla::start(draft, id, draft.event.time);
}

/// R17, for the reports of one subject.
pub(super) fn organization_deleted(mut draft: Draft<'_>) -> Decision {
    let reports: Vec<ReportId> = draft.subject.reports.keys().copied().collect();
    for id in reports {
        if draft.report(id).is_none_or(|report| report.status == ReportStatus::Deleting) {
            continue;
        }
        for index in items_in(&draft, id, |item| !item.state.is_terminal()) {
            tasks::cancel(&mut draft, id, index, Cancellation::Obsolete);
        }
        if let Some(report) = draft.change(id) {
            report.residual = false;
            report.watched = false;
            sla::stop(report);
        }
        draft.set_status(id, ReportStatus::Deleting, "organization_deleted", None);
    }
    if let Some(id) = draft.subject.agent.as_ref().map(|agent| agent.id) {
        let agent = draft.change_agent(id);
        agent.presence_due = None;
        agent.isolation = Default::default();
    }
    draft.finish()
}

/// What follows from the state that a decision has led to, whichever event it was: the end of an automatic
/// remediation (R4, R5), of residual tasks (R13), and resolutions that were only waiting for the gate.
pub(super) fn settle(draft: &mut Draft<'_>) {
    for id in draft.touched() {
        let Some(report) = draft.report(id) else { continue };
        match report.status {
            ReportStatus::AutoRemediating => settle_automatic(draft, id),
            ReportStatus::Closed if report.residual => settle_residual(draft, id),
            ReportStatus::Sent => resolve_when_unblocked(draft, id),
            ReportStatus::Closed | ReportStatus::Dismissed | ReportStatus::PartnerDismissed | ReportStatus::Deleting => {}
        }
    }
}

/// R4 and R5.
fn settle_automatic(draft: &mut Draft<'_>, id: ReportId) {
    let Some(report) = draft.report(id) else { return };
    let tasks = || report.remediations.iter().filter(|item| item.kind.is_task());
    if tasks().any(|item| matches!(item.state, State::Failed | State::Expired)) {
        hand_over(draft, id, "remediation_failed", Author::Policy);
    } else if tasks().all(|item| item.state.is_terminal()) {
        close(draft, id, "auto", Some(Author::Policy));
    }
}

/// R5 and R5b: from the automatism to people; the SLA starts now.
pub(super) fn hand_over(draft: &mut Draft<'_>, id: ReportId, cause: &'static str, author: Author) {
    draft.set_status(id, ReportStatus::Sent, cause, Some(author));
    sla::start(draft, id, draft.decided_at());
}

/// The end of R13.
fn settle_residual(draft: &mut Draft<'_>, id: ReportId) {
    let Some(report) = draft.report(id) else { return };
    let gone_wrong = |item: &&Remediation| {
        item.revision == report.plan_revision && item.kind.is_task() && matches!(item.state, State::Failed | State::Expired) && !item.waived
    };
    // what had failed before it was closed upstream is not residual: only what this decision has touched can be
    let failed = report.remediations.iter().filter(gone_wrong).map(|item| item.id).find(|item| draft.moved(id, *item));
    if let Some(failed) = failed
        && !agent_is_removed(draft)
    {
        reopen(draft, id, ReopenCause::ResidualFailed, Some(failed), None);
    } else if residual_tasks(report) == 0 {
        if let Some(report) = draft.change(id) {
            report.residual = false;
        }
        draft.note(id, Body::ResidualCleared);
        isolation::drop_holder(draft, id, "residual_cleared", None);
    }
}

/// The organization's option: the gate has opened, and somebody had asked.
fn resolve_when_unblocked(draft: &mut Draft<'_>, id: ReportId) {
    if !draft.policy.organization.resolve_when_unblocked {
        return;
    }
    let Some(report) = draft.report(id) else { return };
    if gate::phase(report) != Some(Phase::Ready) || draft.phase_before(id) == Some(Phase::Ready) {
        return;
    }
    if let Some(asker) = report.refused_resolution.clone() {
        draft.note(id, Body::ResolutionUnblocked);
        resolve(draft, id, asker);
    }
}

fn items_in(draft: &Draft<'_>, id: ReportId, matches: impl Fn(&Remediation) -> bool) -> Vec<usize> {
    let items = draft.report(id).into_iter().flat_map(|report| report.remediations.iter().enumerate());
    items.filter(|(_, item)| matches(item)).map(|(index, _)| index).collect()
}
