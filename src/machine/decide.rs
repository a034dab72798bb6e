//! `decide`: one event against one subject. Total: every event has a decision, none panics or waits.

use crate::model::time::{Timestamp, after};

use super::decision::{Decision, Ignored};
use super::draft::Draft;
use super::event::{Address, Event, EventKind};
use super::notice::RefusalCode;
use super::policy::{PARKING, Policy};
use super::subject::Subject;
use super::{closing, isolation, presence, reports, requests, tasks, timers};

/// What `event` means for `subject` at `now`. Pure; see the module docs of [`super`].
pub fn decide(subject: &Subject, event: &Event, now: Timestamp, policy: &Policy) -> Decision {
    // R19: about a report that is not known (yet)
    if let Address::Report(report) = event.kind.address()
        && !subject.reports.contains_key(&report)
    {
        return match event.kind {
            EventKind::ParkingEnded(_) => Decision::Orphan { report },
            EventKind::AttemptEnded(_) => Decision::Ignored(Ignored::Nothing),
            _ => Decision::Park { report, until: after(now, PARKING) },
        };
    }
    let draft = Draft::new(subject, event, now, policy);
    match &event.kind {
        EventKind::ReportCreated(new) => reports::created(draft, new),
        EventKind::ReportRevised(revision) => reports::revised(draft, revision),
        EventKind::ReportUpdated(update) => reports::updated(draft, update),
        EventKind::CommentAdded { report, data } => reports::comment_added(draft, *report, data),
        EventKind::Approved(decision) => reports::approved(draft, decision),
        EventKind::Rejected { decision, comment } => reports::rejected(draft, decision, comment),
        EventKind::SocSupportRequested { request, data } => reports::soc_support_requested(draft, request, data),
        EventKind::ReportDismissed { report, .. } => closing::dismissed_by_soc(draft, *report),
        EventKind::ReportClosed { report, status_updated_at } => closing::closed_upstream(draft, *report, *status_updated_at),
        EventKind::ResolutionRequested(request) => closing::resolution_requested(draft, request),
        EventKind::DismissalRequested(request) => closing::dismissal_requested(draft, request),
        EventKind::ReopenRequested(request) => closing::reopen_requested(draft, request),
        EventKind::OrganizationDeleted => closing::organization_deleted(draft),
        // the organization's own record answers these
        EventKind::OrganizationUpdated(_) | EventKind::FunnelCounted(_) => Decision::Ignored(Ignored::Nothing),
        EventKind::ManualCompleted(request) => requests::manual_completed(draft, request),
        EventKind::ManualUncompleted(request) => requests::manual_uncompleted(draft, request),
        EventKind::RetryRequested(request) => requests::retry_requested(draft, request),
        EventKind::CancelRequested(request) => requests::cancel_requested(draft, request),
        EventKind::Waived(request) => requests::waived(draft, request),
        EventKind::IsolationRequested(request) => isolation::isolation_requested(draft, request),
        EventKind::ReleaseRequested(request) => isolation::release_requested(draft, request),
        EventKind::AgentRemoved { agent, .. } => presence::removed(draft, *agent),
        EventKind::Surveyed(survey) => presence::surveyed(draft, survey),
        EventKind::AttemptEnded(end) => tasks::attempt_ended(draft, end),
        EventKind::TimerDue => timers::fire(draft),
        EventKind::Recovered => tasks::recovered(draft),
        EventKind::ParkingEnded(parked) => parking_ended(draft, parked),
    }
}

/// R19, the end of waiting: what still is ahead of its report is given up; a decision is answered, anything
/// else becomes an orphan.
fn parking_ended(draft: Draft<'_>, parked: &Event) -> Decision {
    match decide(&draft.subject, parked, draft.now, draft.policy) {
        Decision::Park { report, .. } => match &parked.kind {
            EventKind::Approved(decision) | EventKind::Rejected { decision, .. } => {
                let current = draft.report(report).map_or(0, |report| report.plan_revision);
                let message = format!("plan revision {} was decided, the current one is {current}", decision.plan_revision);
                draft.refuse(report, RefusalCode::StalePlan, message)
            }
            _ => Decision::Orphan { report },
        },
        other => other,
    }
}
