//! `decide`: one event against one subject. Total: every event has a decision, none panics or waits.

use crate::model::time::{Timestamp, after};

use super::decision::{Decision, Ignored};
use super::draft::Draft;
use super::event::{Address, Event, EventKind};
use super::notice::RefusalCode;
use super::policy::{PARKING, Policy};
use super::subject::Subject;
use super::{presence, reports, tasks};

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
        EventKind::ResolutionRequested(request) => reports::resolution_requested(draft, request),
        EventKind::ManualCompleted(request) => tasks::manual_completed(draft, request),
        EventKind::ManualUncompleted(request) => tasks::manual_uncompleted(draft, request),
        EventKind::RetryRequested(request) => tasks::retry_requested(draft, request),
        EventKind::CancelRequested(request) => tasks::cancel_requested(draft, request),
        EventKind::Surveyed(survey) => presence::surveyed(draft, survey),
        EventKind::AttemptEnded(end) => tasks::attempt_ended(draft, end),
        EventKind::TimerDue => tasks::timer_due(draft),
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
