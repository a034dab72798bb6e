//! The R table: reports.

use std::sync::Arc;

use crate::model::actor::Actor;
use crate::model::agent::Holder;
use crate::model::ids::{RemediationId, ReportId};
use crate::model::remediation::{Action, Cancellation, Remediation, RemediationType, State};
use crate::model::report::{Foothold, Report, ReportStatus, Severity};
use crate::model::time::after;
use crate::mutation::{self, Defect};

use super::decision::{Decision, Ignored};
use super::draft::Draft;
use super::event::{NewReport, Payload, PlanDecision, PlanItem, ReportRequest, ReportUpdate, Revision};
use super::notice::{Author, Body, RefusalCode};
use super::policy::{PARKING, Permission, Policy, may};
use super::{isolation, presence, sla, tasks, triage};

/// R1, R2 and R3.
pub(super) fn created(mut draft: Draft<'_>, new: &NewReport) -> Decision {
    if draft.report(new.id).is_some() {
        return Decision::Ignored(Ignored::Duplicate);
    }
    if new.agent_id.is_none() && asks_for_a_host(&new.items) {
        return Decision::Invalid { detail: HOSTLESS.into() };
    }
    let managed = managed_response(draft.policy, new);
    draft.create(Report {
        id: new.id,
        subject_key: draft.subject.key,
        agent_id: new.agent_id,
        identity: new.identity.clone(),
        platform: new.platform.clone(),
        hostname: new.hostname.clone(),
        severity: new.severity,
        status: if managed == Managed::Whole { ReportStatus::AutoRemediating } else { ReportStatus::Sent },
        attack_kind: new.attack_kind,
        text: new.text.clone(),
        simulated: new.simulated,
        isolate_host: new.isolate_host,
        plan_revision: new.plan_revision,
        in_revision: false,
        remediations: plan(&new.items, new.plan_revision),
        footholds: new.footholds.clone(),
        plan_issued_at: new.sent_at,
        sent_at: new.sent_at,
        updated_at: new.updated_at,
        status_updated_at: new.status_updated_at,
        closed_at: None,
        closed_by: None,
        disposition: None,
        released_early: false,
        residual: false,
        watched: false,
        archived_at: None,
        sla: None,
        refused_resolution: None,
        sequence: 0,
    });
    draft.note_status(new.id, None, "created", (managed != Managed::No).then_some(Author::Policy));
    if let Some(agent) = new.agent_id {
        presence::named(&mut draft, agent, new);
    }
    issue_plan(&mut draft, new.id);
    if managed != Managed::No {
        approve_by_policy(&mut draft, new.id);
    }
    if new.isolate_host {
        isolation::hold(&mut draft, Holder::Report(new.id), Some("incident_report.created".into()), Author::Soc);
    }
    let isolation = draft.subject.agent.as_ref().map(|agent| agent.firewall_status);
    let Some(report) = draft.report(new.id) else { return Decision::Ignored(Ignored::Nothing) };
    let triage = triage::triage(report, isolation, &draft.policy.organization);
    draft.note_triage(new.id, Body::Triaged(Box::new(triage)));
    sla::start(&mut draft, new.id, new.sent_at);
    draft.unpark(new.id);
    draft.finish()
}

/// How far the SOC acts without the partner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Managed {
    No,
    /// R3: what can be approved without a person is; people do the rest.
    Partly,
    /// R2: nobody is asked at all.
    Whole,
}

fn managed_response(policy: &Policy, new: &NewReport) -> Managed {
    let managed = policy.organization.managed_response;
    let assisted = |item: &PlanItem| item.kind == RemediationType::Assisted;
    match new.severity {
        Severity::Low => {
            let by_itself = new.items.iter().any(assisted)
                && !new.items.iter().any(|item| item.kind == RemediationType::Manual || item.action.listed() == Some(Action::RebootHost));
            if managed.low && by_itself { Managed::Whole } else { Managed::No }
        }
        Severity::High if managed.high => Managed::Partly,
        Severity::Critical if managed.critical => Managed::Partly,
        Severity::High | Severity::Critical => Managed::No,
    }
}

/// R2 and R3: the assisted items but reboots.
fn approve_by_policy(draft: &mut Draft<'_>, id: ReportId) {
    let Some(report) = draft.report(id) else { return };
    let by_policy = |item: &Remediation| {
        item.revision == report.plan_revision
            && item.state == State::Unapproved
            && item.kind == RemediationType::Assisted
            && item.action.listed() != Some(Action::RebootHost)
    };
    let items: Vec<usize> = report.remediations.iter().enumerate().filter(|(_, item)| by_policy(item)).map(|(index, _)| index).collect();
    for index in items {
        tasks::consent(draft, id, index);
    }
}

const HOSTLESS: &str = "remediations: an action on a host, in a report without an agent";

/// A host action among the tasks; a report without an agent cannot have one (lifecycle.md, Remediation).
fn asks_for_a_host(items: &[PlanItem]) -> bool {
    items.iter().any(|item| item.kind.is_task() && item.action.listed().is_some_and(|action| !action.is_identity_action()))
}

fn plan(items: &[PlanItem], revision: u64) -> Vec<Remediation> {
    let mut plan: Vec<_> = items
        .iter()
        .map(|item| Remediation {
            id: item.id,
            revision,
            kind: item.kind,
            action: item.action.clone(),
            parameters: item.parameters.clone(),
            state: State::Unapproved,
            reason: None,
            waived: false,
            verified: false,
            approved_at: None,
            deliver_by: None,
            generation: 0,
            attempt: 0,
            tries: 0,
            open_attempt: None,
            last_attempt_survey: None,
            next_attempt_at: None,
            completed_at: None,
            regressions: 0,
            cancel_asked: false,
            simulate: item.simulate.clone(),
            simulate_cursor: 0,
        })
        .collect();
    plan.sort_by_key(|item| item.id);
    plan
}

/// T1, T1k and T2c for the items of the current plan, which have just been issued.
fn issue_plan(draft: &mut Draft<'_>, id: ReportId) {
    let Some(report) = draft.report(id) else { return };
    let (now, revision) = (draft.now, report.plan_revision);
    let completed: Vec<Remediation> =
        report.remediations.iter().filter(|item| item.revision != revision && item.state == State::Completed).cloned().collect();
    for index in 0..report.remediations.len() {
        let Some(item) = draft.report(id).and_then(|report| report.remediations.get(index)) else { continue };
        if item.revision != revision {
            continue;
        }
        let kind = item.kind;
        if completed.iter().any(|old| old.same_fingerprint(item)) {
            // T1k
            if let Some(item) = draft.change(id).and_then(|report| report.remediations.get_mut(index)) {
                item.state = State::Completed;
                item.reason = Some("kept".into());
                item.completed_at = Some(now);
            }
            draft.note_new_item(id, index);
        } else {
            // T1
            draft.note_new_item(id, index);
            if kind == RemediationType::Containment {
                // T2c
                let is_isolation =
                    draft.report(id).is_some_and(|report| report.remediations.get(index).is_some_and(isolation::is_isolation));
                tasks::consent(draft, id, index);
                if is_isolation {
                    isolation::hold(draft, Holder::Report(id), Some("plan".into()), Author::Soc);
                }
            }
        }
    }
}

/// What R6 and R7 ask before anything else, and the items that they are about; `Err` is the answer.
fn reviewable<'a>(draft: Draft<'a>, decision: &PlanDecision, empty_comment: bool) -> Result<(Draft<'a>, Vec<usize>), Box<Decision>> {
    let id = decision.report;
    let Some(report) = draft.report(id) else { return Err(Box::new(Decision::Ignored(Ignored::Nothing))) };
    let (status, current) = (report.status, report.plan_revision);
    let refuse = |draft: Draft<'_>, code, message| Err(Box::new(draft.refuse(id, code, message)));
    if !may(decision.actor.role, Permission::Work) && !mutation::seeded(Defect::RoleIgnored) {
        return refuse(draft, RefusalCode::RoleNotAllowed, role_message(&decision.actor));
    }
    if !status.is_open() {
        return refuse(draft, RefusalCode::WrongState, format!("the report is {}", status.as_str()));
    }
    if decision.plan_revision < current && !mutation::seeded(Defect::RevisionIgnored) {
        let message = format!("plan revision {} was decided, the current one is {current}", decision.plan_revision);
        return refuse(draft, RefusalCode::StalePlan, message);
    }
    if decision.plan_revision > current {
        return Err(Box::new(Decision::Park { report: id, until: after(draft.now, PARKING) }));
    }
    if empty_comment {
        return refuse(draft, RefusalCode::EmptyComment, "a rejection needs a comment for the SOC".into());
    }
    let unknown = decision.remediations.iter().flatten().find(|named| report.item(**named).is_none()).copied();
    if let Some(unknown) = unknown {
        let message = format!("the plan of revision {current} has no remediation {unknown}");
        return refuse(draft, RefusalCode::UnknownRemediation, message);
    }
    let named = |item: &Remediation| decision.remediations.as_ref().is_none_or(|named| named.contains(&item.id));
    let unapproved: Vec<usize> = report
        .remediations
        .iter()
        .enumerate()
        .filter(|(_, item)| item.revision == current && item.state == State::Unapproved && named(item))
        .map(|(index, _)| index)
        .collect();
    Ok((draft, unapproved))
}

/// R6.
pub(super) fn approved(draft: Draft<'_>, decision: &PlanDecision) -> Decision {
    let (mut draft, items) = match reviewable(draft, decision, false) {
        Ok(reviewable) => reviewable,
        Err(answer) => return *answer,
    };
    if items.is_empty() {
        return Decision::Ignored(Ignored::Nothing);
    }
    for index in items {
        tasks::consent(&mut draft, decision.report, index);
    }
    if let Some(report) = draft.change(decision.report) {
        sla::stop(report);
    }
    draft.finish()
}

/// R7. Items approved earlier go on. An automatic remediation is taken back to people first (R5b).
pub(super) fn rejected(draft: Draft<'_>, decision: &PlanDecision, comment: &str) -> Decision {
    let (mut draft, items) = match reviewable(draft, decision, comment.trim().is_empty()) {
        Ok(reviewable) => reviewable,
        Err(answer) => return *answer,
    };
    let id = decision.report;
    let automatic = draft.report(id).is_some_and(|report| report.status == ReportStatus::AutoRemediating);
    if automatic {
        // a person has acted: no SLA starts
        draft.set_status(id, ReportStatus::Sent, "rejected", Some(Author::Person(decision.actor.clone())));
    } else if items.is_empty() {
        return Decision::Ignored(Ignored::Nothing);
    }
    let anything_left = !items.is_empty();
    for index in items {
        tasks::cancel(&mut draft, id, index, Cancellation::Rejected);
    }
    if let Some(report) = draft.change(id).filter(|_| anything_left) {
        report.in_revision = true;
        sla::stop(report);
    }
    draft.finish()
}

/// R8.
pub(super) fn revised(mut draft: Draft<'_>, revision: &Revision) -> Decision {
    let id = revision.report;
    let Some(report) = draft.report(id) else { return Decision::Ignored(Ignored::Nothing) };
    if revision.plan_revision <= report.plan_revision {
        return Decision::Ignored(Ignored::Older);
    }
    if !report.status.is_open() {
        return Decision::Ignored(Ignored::NotOpen);
    }
    if revision.plan_revision > report.plan_revision + 1 {
        return Decision::Park { report: id, until: after(draft.now, PARKING) };
    }
    if report.agent_id.is_none() && asks_for_a_host(&revision.items) {
        return Decision::Invalid { detail: HOSTLESS.into() };
    }
    let (items, automatic) = (report.remediations.len(), report.status == ReportStatus::AutoRemediating);
    if automatic {
        draft.set_status(id, ReportStatus::Sent, "revised", Some(Author::Soc));
    }
    // the old plan: what an agent may be running goes on to its end, what is completed stays, the rest is superseded
    for index in 0..items {
        let state = draft.report(id).and_then(|report| report.remediations.get(index)).map(|item| item.state);
        match state {
            Some(State::Completed | State::Cancelled(_) | State::Delivered | State::OutcomeUnknown | State::RebootPending) | None => {}
            Some(
                State::Unapproved | State::Queued | State::Held | State::RetryWait | State::AwaitingHuman | State::Failed | State::Expired,
            ) => tasks::cancel(&mut draft, id, index, Cancellation::Superseded),
        }
    }
    let issued_at = draft.event.time;
    if let Some(report) = draft.change(id) {
        let new_plan = plan(&revision.items, revision.plan_revision);
        report.footholds = match &revision.footholds {
            Some(footholds) => footholds.clone(),
            None => relink(report, &new_plan),
        };
        report.plan_revision = revision.plan_revision;
        report.in_revision = false;
        report.remediations.extend(new_plan);
        report.plan_issued_at = issued_at;
    }
    issue_plan(&mut draft, id);
    if let Some(report) = draft.change(id) {
        prune(report);
    }
    tasks::forerunners_ended(&mut draft);
    let at = draft.event.time;
    sla::start(&mut draft, id, at);
    draft.unpark(id);
    draft.finish()
}

/// The known footholds with their links moved to the new plan by fingerprint.
fn relink(report: &Report, new_plan: &[Remediation]) -> Vec<Foothold> {
    let moved = |old: &RemediationId| {
        let old = report.item(*old)?;
        new_plan.iter().find(|new| new.same_fingerprint(old)).map(|new| new.id)
    };
    report
        .footholds
        .iter()
        .map(|foothold| Foothold { remediation_ids: foothold.remediation_ids.iter().filter_map(moved).collect(), ..foothold.clone() })
        .collect()
}

/// Bounds what a report remembers: of old plans only what an agent may still be running. What was completed has been
/// taken over where the new plan has it (T1k), and a SOC that revises for ever must not grow the record for ever.
fn prune(report: &mut Report) {
    let revision = report.plan_revision;
    report.remediations.retain(|item| item.revision == revision || item.state.is_in_the_field());
}

/// R18, incident_report.updated.
pub(super) fn updated(mut draft: Draft<'_>, update: &ReportUpdate) -> Decision {
    let Some(report) = draft.report(update.report) else { return Decision::Ignored(Ignored::Nothing) };
    if !report.status.is_open() {
        return Decision::Ignored(Ignored::NotOpen);
    }
    if update.updated_at <= report.updated_at {
        return Decision::Ignored(Ignored::Older);
    }
    let raised = update.severity.is_some_and(|severity| severity > report.severity);
    let lowered = update.severity.is_some_and(|severity| severity < report.severity);
    if raised && report.status == ReportStatus::AutoRemediating {
        // R5b
        draft.set_status(update.report, ReportStatus::Sent, "severity_raised", Some(Author::Soc));
    }
    if let Some(report) = draft.change(update.report) {
        report.updated_at = update.updated_at;
        if let Some(severity) = update.severity {
            report.severity = severity;
        }
        let text = Arc::make_mut(&mut report.text);
        for (field, new) in [(&mut text.subject, &update.subject), (&mut text.summary, &update.summary)] {
            if let Some(new) = new {
                field.clone_from(new);
            }
        }
    }
    draft.note(update.report, Body::Updated(update.data.clone()));
    if raised {
        let at = draft.event.time;
        sla::start(&mut draft, update.report, at);
    } else if lowered {
        sla::relax(&mut draft, update.report);
    }
    draft.finish()
}

/// R18, incident_report.comment_added.
pub(super) fn comment_added(mut draft: Draft<'_>, id: ReportId, data: &Payload) -> Decision {
    if !draft.report(id).is_some_and(|report| report.status.is_open()) {
        return Decision::Ignored(Ignored::NotOpen);
    }
    draft.note(id, Body::CommentAdded(data.clone()));
    draft.finish()
}

/// R18, soc_support.requested.
pub(super) fn soc_support_requested(mut draft: Draft<'_>, request: &ReportRequest, data: &Payload) -> Decision {
    let id = request.report;
    let Some(report) = draft.report(id) else { return Decision::Ignored(Ignored::Nothing) };
    let (status, severity) = (report.status, report.severity);
    if !may(request.actor.role, Permission::Conclude) {
        return draft.refuse(id, RefusalCode::RoleNotAllowed, role_message(&request.actor));
    }
    if !status.is_open() {
        return draft.refuse(id, RefusalCode::WrongState, format!("the report is {}", status.as_str()));
    }
    if severity != Severity::Critical {
        let message = format!("SOC support is for critical reports, this one is {}", severity.as_str());
        return draft.refuse(id, RefusalCode::NotCritical, message);
    }
    draft.note(id, Body::SocSupportRequested(data.clone()));
    draft.finish()
}

pub(super) fn role_message(actor: &Actor) -> String {
    format!("role {} may not do this", actor.role.as_str())
}
