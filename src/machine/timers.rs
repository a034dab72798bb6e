//! Timers: one a subject, derived from its records, so that none can leak or be forgotten.
//!
//! A task has two clocks: the lease of an attempt (T12) and the time by which it must have been delivered
//! (T14). Where there is no agent to survey, a timer plays the survey.
//!
//! Invariant: what [`next_due`] names, `decide` on `TimerDue` at that time ends; the next due time is later.

use crate::model::ids::SubjectKey;
use crate::model::remediation::{Remediation, State};
use crate::model::time::{Span, Timestamp, after};

use super::subject::Subject;

/// When the subject needs a `TimerDue` next.
pub fn next_due(subject: &Subject) -> Option<Timestamp> {
    let plays_surveys = plays_surveys(subject.key);
    subject
        .reports
        .values()
        .flat_map(|report| report.remediations.iter())
        .filter(|item| item.kind.is_task())
        .filter_map(|item| [task_clock(item), plays_surveys.then(|| survey_due(item)).flatten()].into_iter().flatten().min())
        .min()
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

/// When a played survey would move the task on: at approval, at next_attempt_at, and once its outcome is unknown.
fn survey_due(item: &Remediation) -> Option<Timestamp> {
    let after_last = item.last_attempt_survey.map(|at| after(at, Span::from_millis(1)));
    match item.state {
        State::Queued => item.approved_at.max(after_last),
        State::RetryWait => item.next_attempt_at.max(after_last),
        State::OutcomeUnknown => after_last,
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
