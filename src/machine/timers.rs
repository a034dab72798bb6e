//! Timers: one a subject, derived from its records, so that none can leak or be forgotten.
//!
//! A task has two clocks: the lease of an attempt (T12) and the time by which it must have been delivered
//! (T14); a report has its SLA and, once closed, the window in which it can be reopened; an agent its presence and
//! the deadline of a pending isolation. Where there is no agent to survey, a timer plays the survey.
//!
//! Invariant: what [`next_due`] names, `decide` on `TimerDue` at that time ends; the next due time is later.

use crate::model::ids::{ReportId, SubjectKey};
use crate::model::remediation::{Remediation, State};
use crate::model::report::Report;
use crate::model::time::{Span, Timestamp, after};

use super::decision::Decision;
use super::draft::Draft;
use super::policy::REOPEN_WINDOW;
use super::subject::Subject;
use super::{isolation, presence, sla, tasks};

/// When the subject needs a `TimerDue` next.
pub fn next_due(subject: &Subject) -> Option<Timestamp> {
    let plays_surveys = plays_surveys(subject.key);
    let tasks = subject.reports.values().flat_map(|report| report.remediations.iter()).filter(|item| item.kind.is_task());
    let task_due = |item: &Remediation| [task_clock(item), plays_surveys.then(|| survey_due(item)).flatten()].into_iter().flatten().min();
    let of_tasks = tasks.filter_map(task_due).min();
    let of_reports = subject.reports.values().flat_map(|report| [sla_due(report), watched_until(report)]).flatten().min();
    let of_agent = subject.agent.iter().flat_map(|agent| [agent.presence_due, agent.isolation.fails_at]).flatten().min();
    [of_tasks, of_reports, of_agent].into_iter().flatten().min()
}

/// Everything that is due.
pub(super) fn fire(mut draft: Draft<'_>) -> Decision {
    let due = draft.event.time;
    isolation::timer_due(&mut draft, due);
    tasks::timer_due(&mut draft, due);
    let reports: Vec<ReportId> = draft.subject.reports.keys().copied().collect();
    for id in reports {
        sla::timer_due(&mut draft, id, due);
        if draft.report(id).is_some_and(|report| watched_until(report).is_some_and(|until| until <= due))
            && let Some(report) = draft.change(id)
        {
            report.watched = false;
        }
    }
    presence::timer_due(&mut draft, due);
    draft.finish()
}

fn sla_due(report: &Report) -> Option<Timestamp> {
    report.sla.and_then(|sla| sla.next_at)
}

/// R16: how long footholds of a report that is over are looked for.
fn watched_until(report: &Report) -> Option<Timestamp> {
    report.closed_at.filter(|_| report.watched).map(|at| after(at, REOPEN_WINDOW))
}

/// The subject has no agent that surveys (lifecycle.md, Remediation).
pub fn plays_surveys(key: SubjectKey) -> bool {
    match key {
        SubjectKey::Agent(_) => false,
        SubjectKey::Identity(_) | SubjectKey::Report(_) => true,
    }
}

/// The lease (T12) or the delivery deadline (T14) of a task.
fn task_clock(item: &Remediation) -> Option<Timestamp> {
    match item.state {
        State::Delivered => item.open_attempt.as_ref().map(|attempt| attempt.lease_until),
        State::Queued | State::Held | State::RetryWait | State::OutcomeUnknown => item.deliver_by,
        State::Unapproved
        | State::RebootPending
        | State::AwaitingHuman
        | State::Completed
        | State::Failed
        | State::Expired
        | State::Cancelled(_) => None,
    }
}

/// When a played survey would move the task on: at approval, at next_attempt_at, and at the end of the lease of an
/// attempt whose outcome is unknown.
fn survey_due(item: &Remediation) -> Option<Timestamp> {
    let after_last = item.last_attempt_survey.map(|at| after(at, Span::from_millis(1)));
    match item.state {
        State::Queued => item.approved_at.max(after_last),
        State::RetryWait => item.next_attempt_at.max(after_last),
        // not before the lease is over, also when a restart has lost the outcome earlier
        State::OutcomeUnknown => item.open_attempt.as_ref().map(|attempt| attempt.lease_until).max(after_last),
        State::Unapproved
        | State::Held
        | State::Delivered
        | State::RebootPending
        | State::AwaitingHuman
        | State::Completed
        | State::Failed
        | State::Expired
        | State::Cancelled(_) => None,
    }
}
