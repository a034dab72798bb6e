//! The I table: the isolation of a host, and who holds it.
//!
//! Containment is respected, not undone: nothing here releases a host by itself, except where the organization
//! has asked for it (`release_on_resolve`).

use crate::model::agent::{FirewallStatus, Holder, Survey};
use crate::model::ids::ReportId;
use crate::model::remediation::{Action, Cancellation, Remediation, RemediationType, State};
use crate::model::report::{Phase, ReportStatus, Severity};
use crate::model::time::{Timestamp, after};

use super::decision::{Decision, Ignored};
use super::draft::Draft;
use super::event::AgentRequest;
use super::notice::{Author, Body, PageReason, RefusalCode};
use super::policy::{ISOLATION_WINDOW, Permission, may};
use super::reports::role_message;
use super::{gate, tasks};

/// An item that *is* the isolation of the host: the I table moves it, not an attempt.
pub(super) fn is_isolation(item: &Remediation) -> bool {
    item.kind.is_task() && item.action.listed() == Some(Action::IsolateHost)
}

/// I1 for an item that has just been queued (T2, T2c, T15, T16), if it is one of these.
pub(super) fn hold_for(draft: &mut Draft<'_>, id: ReportId, index: usize) {
    let Some(item) = draft.report(id).and_then(|report| report.remediations.get(index)).filter(|item| is_isolation(item)) else { return };
    let author = match (draft.event.kind.actor(), item.kind) {
        (Some(actor), _) => Author::Person(actor.clone()),
        (None, RemediationType::Containment) => Author::Soc,
        (None, RemediationType::Assisted | RemediationType::Manual) => Author::Policy,
    };
    hold(draft, Holder::Report(id), Some("plan".into()), author);
}

/// I1, and I8 while a release is pending; a repeat only adds a holder.
pub(super) fn hold(draft: &mut Draft<'_>, holder: Holder, reason: Option<String>, author: Author) {
    let (since, fails_at) = (draft.event.time, after(draft.now, ISOLATION_WINDOW));
    let Some(agent) = draft.subject.agent.as_ref().map(|agent| agent.id) else { return };
    let agent = draft.change_agent(agent);
    let from = agent.firewall_status;
    let is_new = agent.isolation.holders.insert(holder);
    match from {
        FirewallStatus::Enabled | FirewallStatus::PendingRelease => {
            agent.firewall_status = FirewallStatus::PendingIsolation;
            agent.isolation.pending_since = Some(since);
            agent.isolation.fails_at = Some(fails_at);
            agent.isolation.failed = false;
            agent.isolation.drifted_surveys = 0;
        }
        FirewallStatus::PendingIsolation => {
            // asked again after a failure: it may fail again, and say so
            let asked_again = std::mem::take(&mut agent.isolation.failed);
            if asked_again {
                agent.isolation.fails_at = Some(fails_at);
            }
            if !is_new && !asked_again {
                return;
            }
        }
        FirewallStatus::Isolated if !is_new => return,
        FirewallStatus::Isolated => {}
    }
    note_change(draft, from, reason, Some(author));
}

/// A report that held the host is over (R9, R10, R14): I3 if the isolation was only pending, I6 if the
/// organization wants hosts released then; otherwise the host stays isolated until somebody releases it.
pub(super) fn drop_holder(draft: &mut Draft<'_>, report: ReportId, why: &str, author: Option<Author>) {
    let release = draft.policy.organization.release_on_resolve;
    let since = draft.event.time;
    let holder = Holder::Report(report);
    let Some(agent) = draft.subject.agent.as_ref().filter(|agent| agent.isolation.holders.contains(&holder)).map(|agent| agent.id) else {
        return;
    };
    let agent = draft.change_agent(agent);
    let from = agent.firewall_status;
    agent.isolation.holders.remove(&holder);
    if agent.isolation.holders.is_empty() {
        match from {
            FirewallStatus::PendingIsolation => set_status(agent, FirewallStatus::Enabled, None),
            FirewallStatus::Isolated if release => set_status(agent, FirewallStatus::PendingRelease, Some(since)),
            FirewallStatus::Isolated | FirewallStatus::PendingRelease | FirewallStatus::Enabled => {}
        }
    }
    // whoever ended the report let go of the host; only the release itself is the policy's
    let released = agent.firewall_status == FirewallStatus::PendingRelease && from == FirewallStatus::Isolated;
    let author = if released { Some(Author::Policy) } else { author };
    note_change(draft, from, Some(why.into()), author);
}

/// What a survey confirms (I2, I7), denies (I4, I10) or leaves.
pub(super) fn surveyed(draft: &mut Draft<'_>, survey: &Survey) {
    let Some(agent) = &draft.subject.agent else { return };
    let (id, from) = (agent.id, agent.firewall_status);
    let answers = agent.isolation.pending_since.is_none_or(|since| since <= survey.surveyed_at);
    match from {
        FirewallStatus::PendingIsolation if answers && survey.isolated == Some(false) => fail(draft, "agent_error"),
        FirewallStatus::PendingIsolation if answers => {
            set_status(draft.change_agent(id), FirewallStatus::Isolated, None);
            note_change(draft, from, None, None);
            settle(draft);
        }
        FirewallStatus::PendingRelease if answers => {
            set_status(draft.change_agent(id), FirewallStatus::Enabled, None);
            note_change(draft, from, None, None);
        }
        FirewallStatus::Isolated => {
            let agent = draft.change_agent(id);
            if survey.isolated != Some(false) {
                agent.isolation.drifted_surveys = 0;
                return;
            }
            agent.isolation.drifted_surveys += 1;
            // I10: once can be a survey that was under way; twice is drift
            if agent.isolation.drifted_surveys == 2 {
                agent.isolation.drifted_surveys = 0;
                let holders = agent.isolation.holders.iter().copied().collect();
                draft.note_agent(Body::IsolationDrifted { holders });
                note_change(draft, from, Some("drifted".into()), None);
            }
        }
        FirewallStatus::PendingIsolation | FirewallStatus::PendingRelease | FirewallStatus::Enabled => {}
    }
}

/// I4 by time.
pub(super) fn timer_due(draft: &mut Draft<'_>, due: Timestamp) {
    let overdue = |at: Option<Timestamp>| at.is_some_and(|at| at <= due);
    if draft.subject.agent.as_ref().is_some_and(|agent| overdue(agent.isolation.fails_at)) {
        fail(draft, "not_confirmed_in_time");
    }
}

/// I4: said once; it is tried again at every survey.
fn fail(draft: &mut Draft<'_>, why: &str) {
    let Some(id) = draft.subject.agent.as_ref().map(|agent| agent.id) else { return };
    let agent = draft.change_agent(id);
    agent.isolation.fails_at = None;
    if agent.isolation.failed {
        return;
    }
    agent.isolation.failed = true;
    agent.isolation.failed_because = Some(why.into());
    note_change(draft, FirewallStatus::PendingIsolation, Some("failed".into()), None);
    settle(draft);
    for report in holding_reports(draft) {
        let Some(held) = draft.report(report).filter(|report| report.severity == Severity::Critical && !report.simulated) else { continue };
        let (severity, respond_by) = (held.severity, held.sla.map_or(draft.now, |sla| sla.respond_by));
        draft.note(report, Body::Paged { reason: PageReason::IsolationFailed, severity, respond_by });
    }
}

/// What an `isolate_host` item has come to follows from the host's isolation alone: I2 completes it, I4 fails it, and
/// so does a release under its feet.
pub(super) fn settle(draft: &mut Draft<'_>) {
    let Some(agent) = &draft.subject.agent else { return };
    let (status, isolation, now) = (agent.firewall_status, agent.isolation.clone(), draft.now);
    let reports: Vec<ReportId> = draft.subject.reports.keys().copied().collect();
    for id in reports {
        let holds = isolation.holders.contains(&Holder::Report(id));
        for index in 0..draft.report(id).map_or(0, |report| report.remediations.len()) {
            let Some(item) = draft.report(id).and_then(|report| report.remediations.get(index)) else { continue };
            if !is_isolation(item) {
                continue;
            }
            let open = matches!(item.state, State::Queued | State::Held);
            let late = holds && matches!(item.state, State::Failed | State::Expired);
            match status {
                FirewallStatus::Isolated if open || late => draft.move_item(id, index, State::Completed, |item| {
                    item.reason = None;
                    item.completed_at = Some(now);
                }),
                FirewallStatus::PendingIsolation if open && isolation.failed => {
                    let why = isolation.failed_because.clone();
                    draft.move_item(id, index, State::Failed, |item| item.reason = why);
                }
                FirewallStatus::Enabled | FirewallStatus::PendingRelease if open => {
                    draft.move_item(id, index, State::Failed, |item| item.reason = Some("released".into()));
                }
                FirewallStatus::Isolated | FirewallStatus::PendingIsolation | FirewallStatus::Enabled | FirewallStatus::PendingRelease => {}
            }
        }
    }
}

fn holding_reports(draft: &Draft<'_>) -> Vec<ReportId> {
    let holders = draft.subject.agent.iter().flat_map(|agent| agent.isolation.holders.iter());
    holders
        .filter_map(|holder| match holder {
            Holder::Report(id) => Some(*id),
            Holder::Manual => None,
        })
        .collect()
}

/// I1 by a person.
pub(super) fn isolation_requested(mut draft: Draft<'_>, request: &AgentRequest) -> Decision {
    if draft.subject.agent.is_none() {
        return Decision::UnknownAgent { agent: request.agent };
    }
    if !may(request.actor.role, Permission::Conclude) {
        return draft.refuse_agent(RefusalCode::RoleNotAllowed, role_message(&request.actor));
    }
    hold(&mut draft, Holder::Manual, request.reason.clone(), Author::Person(request.actor.clone()));
    draft.finish()
}

/// I6 from isolated, I3 from pending isolation.
pub(super) fn release_requested(mut draft: Draft<'_>, request: &AgentRequest) -> Decision {
    let Some(agent) = &draft.subject.agent else { return Decision::UnknownAgent { agent: request.agent } };
    let from = agent.firewall_status;
    if !may(request.actor.role, Permission::Conclude) {
        return draft.refuse_agent(RefusalCode::RoleNotAllowed, role_message(&request.actor));
    }
    let to = match from {
        FirewallStatus::Enabled => return draft.refuse_agent(RefusalCode::WrongState, "the host is not isolated".into()),
        FirewallStatus::PendingRelease => return Decision::Ignored(Ignored::Nothing),
        FirewallStatus::PendingIsolation => FirewallStatus::Enabled,
        FirewallStatus::Isolated => FirewallStatus::PendingRelease,
    };
    let unfinished = |id: &ReportId| {
        draft.report(*id).is_some_and(|report| report.status == ReportStatus::Sent && gate::phase(report) != Some(Phase::Ready))
    };
    let held_by: Vec<ReportId> = holding_reports(&draft).into_iter().filter(unfinished).collect();
    if let Some(report) = held_by.first() {
        if !request.force {
            let message = format!("report {report} holds the host and is not ready; `force` with a reason releases it all the same");
            return draft.refuse_agent(RefusalCode::IsolationHeld, message);
        }
        if request.reason.as_deref().is_none_or(|reason| reason.trim().is_empty()) {
            return draft.refuse_agent(RefusalCode::EmptyComment, "a release by force needs a reason".into());
        }
    }
    for report in held_by {
        if let Some(report) = draft.change(report) {
            report.released_early = true;
        }
    }
    // nobody holds the host any more: an item that is the isolation can neither be confirmed nor fail (T18)
    for report in holding_reports(&draft) {
        for index in 0..draft.report(report).map_or(0, |report| report.remediations.len()) {
            let open = |item: &Remediation| is_isolation(item) && matches!(item.state, State::Queued | State::Held);
            if draft.report(report).and_then(|report| report.remediations.get(index)).is_some_and(open) {
                tasks::cancel(&mut draft, report, index, Cancellation::Requested);
            }
        }
    }
    let since = draft.event.time;
    let agent = draft.change_agent(request.agent);
    agent.isolation.holders.clear();
    set_status(agent, to, (to == FirewallStatus::PendingRelease).then_some(since));
    note_change(&mut draft, from, request.reason.clone(), Some(Author::Person(request.actor.clone())));
    draft.finish()
}

fn set_status(agent: &mut crate::model::agent::Agent, to: FirewallStatus, pending_since: Option<Timestamp>) {
    agent.firewall_status = to;
    agent.isolation.pending_since = pending_since;
    agent.isolation.fails_at = None;
    agent.isolation.failed = false;
    agent.isolation.drifted_surveys = 0;
}

fn note_change(draft: &mut Draft<'_>, from: FirewallStatus, reason: Option<String>, actor: Option<Author>) {
    let Some(agent) = &draft.subject.agent else { return };
    let body = Body::IsolationChanged {
        from,
        to: agent.firewall_status,
        holders: agent.isolation.holders.iter().copied().collect(),
        reason,
        actor,
    };
    draft.note_agent(body);
}
