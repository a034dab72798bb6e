//! The R table: reports.

use crate::model::actor::Actor;
use crate::model::ids::{RemediationId, ReportId};
use crate::model::remediation::{Cancellation, Remediation, RemediationType, State};
use crate::model::report::{Foothold, Report, ReportStatus, Severity};
use crate::model::time::after;

use super::decision::{Decision, Ignored};
use super::draft::{Draft, item_index};
use super::event::{NewReport, Payload, PlanDecision, PlanItem, ReportRequest, ReportUpdate, Revision};
use super::gate;
use super::notice::{Body, PageReason, RefusalCode};
use super::policy::{PARKING, Permission, may};
use super::{presence, tasks, triage};

/// R1.
pub(super) fn created(mut draft: Draft<'_>, new: &NewReport) -> Decision {
    if draft.report(new.id).is_some() {
        return Decision::Ignored(Ignored::Duplicate);
    }
    draft.create(Report {
        id: new.id,
        subject_key: draft.subject.key,
        agent_id: new.agent_id,
        identity: new.identity.clone(),
        platform: new.platform.clone(),
        hostname: new.hostname.clone(),
        severity: new.severity,
        status: ReportStatus::Sent,
        attack_kind: new.attack_kind,
        text: new.text.clone(),
        simulated: new.simulated,
        isolate_host: new.isolate_host,
        plan_revision: new.plan_revision,
        in_revision: false,
        remediations: plan(&new.items, new.plan_revision),
        footholds: new.footholds.clone(),
        sent_at: new.sent_at,
        updated_at: new.updated_at,
        status_updated_at: new.status_updated_at,
        closed_at: None,
        closed_by: None,
        refused_resolution: None,
        sequence: 0,
    });
    draft.note_status(new.id, None, "created", None);
    issue_plan(&mut draft, new.id);
    if let Some(agent) = new.agent_id {
        presence::named(&mut draft, agent, new);
    }
    let isolation = draft.subject.agent.as_ref().map(|agent| agent.firewall_status);
    let Some(report) = draft.report(new.id) else { return Decision::Ignored(Ignored::Nothing) };
    let triage = triage::triage(report, isolation, &draft.policy.organization.business_hours);
    let respond_by = triage.respond_by;
    draft.note_triage(new.id, Body::Triaged(Box::new(triage)));
    if new.severity == Severity::Critical && !new.simulated {
        draft.note(new.id, Body::Paged { reason: PageReason::CriticalReport, severity: new.severity, respond_by });
    }
    draft.unpark(new.id);
    draft.finish()
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
    let revision = report.plan_revision;
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
            }
            draft.note_new_item(id, index);
        } else {
            // T1
            draft.note_new_item(id, index);
            if kind == RemediationType::Containment {
                // T2c
                tasks::consent(draft, id, index);
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
    if !may(decision.actor.role, Permission::Work) {
        return refuse(draft, RefusalCode::RoleNotAllowed, role_message(&decision.actor));
    }
    if status != ReportStatus::Sent {
        return refuse(draft, RefusalCode::WrongState, format!("the report is {}", status.as_str()));
    }
    if decision.plan_revision < current {
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
    if unapproved.is_empty() {
        return Err(Box::new(Decision::Ignored(Ignored::Nothing)));
    }
    Ok((draft, unapproved))
}

/// R6.
pub(super) fn approved(draft: Draft<'_>, decision: &PlanDecision) -> Decision {
    let (mut draft, items) = match reviewable(draft, decision, false) {
        Ok(reviewable) => reviewable,
        Err(answer) => return *answer,
    };
    for index in items {
        tasks::consent(&mut draft, decision.report, index);
    }
    draft.finish()
}

/// R7. Items approved earlier go on.
pub(super) fn rejected(draft: Draft<'_>, decision: &PlanDecision, comment: &str) -> Decision {
    let (mut draft, items) = match reviewable(draft, decision, comment.trim().is_empty()) {
        Ok(reviewable) => reviewable,
        Err(answer) => return *answer,
    };
    for index in items {
        tasks::cancel(&mut draft, decision.report, index, Cancellation::Rejected);
    }
    if let Some(report) = draft.change(decision.report) {
        report.in_revision = true;
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
    if report.status != ReportStatus::Sent {
        return Decision::Ignored(Ignored::NotOpen);
    }
    if revision.plan_revision > report.plan_revision + 1 {
        return Decision::Park { report: id, until: after(draft.now, PARKING) };
    }
    // the old plan: what an agent may be running goes on to its end, what is completed stays, the rest is superseded
    for index in 0..report.remediations.len() {
        let state = draft.report(id).and_then(|report| report.remediations.get(index)).map(|item| item.state);
        match state {
            Some(State::Completed | State::Cancelled(_) | State::Delivered | State::OutcomeUnknown | State::RebootPending) | None => {}
            Some(
                State::Unapproved | State::Queued | State::Held | State::RetryWait | State::AwaitingHuman | State::Failed | State::Expired,
            ) => tasks::cancel(&mut draft, id, index, Cancellation::Superseded),
        }
    }
    if let Some(report) = draft.change(id) {
        let new_plan = plan(&revision.items, revision.plan_revision);
        report.footholds = match &revision.footholds {
            Some(footholds) => footholds.clone(),
            None => relink(report, &new_plan),
        };
        report.plan_revision = revision.plan_revision;
        report.in_revision = false;
        report.remediations.extend(new_plan);
        prune(report);
    }
    issue_plan(&mut draft, id);
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

/// Bounds what a report remembers of old plans: cancelled items of plans before the last two are of no
/// consequence for any row, and a SOC that revises for ever must not grow the record for ever.
fn prune(report: &mut Report) {
    let keep_from = report.plan_revision.saturating_sub(1);
    report.remediations.retain(|item| item.revision >= keep_from || !matches!(item.state, State::Cancelled(_)));
}

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
    let items = draft.report(id).map_or(0, |report| report.remediations.len());
    for index in 0..items {
        let waits = |report: &Report| report.remediations.get(index).is_some_and(|item| item.state == State::AwaitingHuman);
        if draft.report(id).is_some_and(waits) {
            draft.move_item(id, index, State::Completed, |item| item.reason = Some("acknowledged".into()));
        }
    }
    let now = draft.now;
    if let Some(report) = draft.change(id) {
        report.closed_at = Some(now);
        report.closed_by = Some("resolved".into());
        report.status_updated_at = now;
        report.refused_resolution = None;
    }
    draft.set_status(id, ReportStatus::Closed, "resolved", Some(actor));
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
    if let Some(report) = draft.change(update.report) {
        report.updated_at = update.updated_at;
        if let Some(severity) = update.severity {
            report.severity = severity;
        }
        for (field, new) in [
            (&mut report.text.subject, &update.subject),
            (&mut report.text.summary, &update.summary),
            (&mut report.text.body, &update.body),
        ] {
            if let Some(new) = new {
                field.clone_from(new);
            }
        }
    }
    draft.note(update.report, Body::Updated(update.data.clone()));
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

pub(super) fn role_message(actor: &Actor) -> String {
    format!("role {} may not do this", actor.role.as_str())
}

/// The item of the current plan that a request names, in a report that a person may still work on.
pub(super) fn requested_item<'a>(
    draft: Draft<'a>,
    report: ReportId,
    remediation: RemediationId,
    actor: &Actor,
) -> Result<(Draft<'a>, usize), Box<Decision>> {
    let Some(known) = draft.report(report) else { return Err(Box::new(Decision::Ignored(Ignored::Nothing))) };
    let (status, index) = (known.status, item_index(known, remediation));
    let (code, message) = if !may(actor.role, Permission::Work) {
        (RefusalCode::RoleNotAllowed, role_message(actor))
    } else if status != ReportStatus::Sent {
        (RefusalCode::WrongState, format!("the report is {}", status.as_str()))
    } else if let Some(index) = index {
        return Ok((draft, index));
    } else {
        (RefusalCode::UnknownRemediation, format!("the current plan has no remediation {remediation}"))
    };
    Err(Box::new(draft.refuse(report, code, message)))
}
