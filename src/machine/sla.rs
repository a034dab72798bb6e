//! The SLA: how soon somebody has to act, and who hears of it when nobody does (lifecycle.md, Report).
//!
//! It runs from the report's `sent_at` (a revision, a reopening: from that event's time) until a person acts. Steps
//! whose time is past when it starts are due at once. Simulated reports have none.

use crate::model::ids::ReportId;
use crate::model::report::{Report, ReportStatus, Severity, Sla};
use crate::model::time::{Timestamp, after, minutes};

use super::draft::Draft;
use super::notice::{Body, PageReason};
use super::policy::CRITICAL_PAGES;
use super::triage::respond_by;

/// Starts it anew, and pages at once for a critical report.
pub(super) fn start(draft: &mut Draft<'_>, id: ReportId, at: Timestamp) {
    let settings = draft.policy.organization.clone();
    let Some(report) = draft.change(id) else { return };
    if report.simulated || report.status != ReportStatus::Sent {
        report.sla = None;
        return;
    }
    let severity = report.severity;
    let respond_by = respond_by(severity, at, &settings);
    let mut sla = Sla { started_at: at, respond_by, next_at: None, settings: settings.sla, step: 0 };
    sla.step = u32::from(severity == Severity::Critical);
    sla.next_at = step_at(severity, &sla);
    report.sla = Some(sla);
    if severity == Severity::Critical {
        draft.note(id, Body::Paged { reason: PageReason::CriticalReport, severity, respond_by });
    }
}

/// A lower severity: the same start, the times of the new one, and no page for having started.
pub(super) fn relax(draft: &mut Draft<'_>, id: ReportId) {
    let settings = draft.policy.organization.clone();
    let Some(report) = draft.change(id) else { return };
    let severity = report.severity;
    let Some(running) = report.sla else { return };
    let respond_by = respond_by(severity, running.started_at, &settings);
    let mut sla = Sla { respond_by, settings: settings.sla, step: u32::from(severity == Severity::Critical), ..running };
    sla.next_at = step_at(severity, &sla);
    report.sla = Some(sla);
}

/// Somebody has acted, or nothing is to be acted on.
pub(super) fn stop(report: &mut Report) {
    report.sla = None;
}

/// The step that is due, if one is.
pub(super) fn timer_due(draft: &mut Draft<'_>, id: ReportId, due: Timestamp) {
    let Some(report) = draft.report(id) else { return };
    let severity = report.severity;
    let Some(mut sla) = report.sla.filter(|sla| sla.next_at.is_some_and(|at| at <= due)) else { return };
    let taken = sla.step;
    sla.step += 1;
    sla.next_at = step_at(severity, &sla);
    if let Some(report) = draft.change(id) {
        report.sla = Some(sla);
    }
    let respond_by = sla.respond_by;
    let page = |reason| Body::Paged { reason, severity, respond_by };
    match (severity, taken) {
        (Severity::Critical, 1) => {
            draft.note(id, Body::SlaBreached { severity, respond_by });
            draft.note(id, page(PageReason::NotActedOn));
        }
        (Severity::Critical, _) => draft.note(id, page(PageReason::NotActedOn)),
        (Severity::High, 0) => draft.note(id, Body::SlaWarning { severity, respond_by }),
        (Severity::High, _) => {
            draft.note(id, Body::SlaBreached { severity, respond_by });
            draft.note(id, page(PageReason::SlaBreached));
        }
        (Severity::Low, _) => draft.note(id, Body::SlaBreached { severity, respond_by }),
    }
}

/// When the step after those taken is due.
fn step_at(severity: Severity, sla: &Sla) -> Option<Timestamp> {
    let in_minutes = |n: u32| after(sla.started_at, minutes(i64::from(n)));
    match (severity, sla.step) {
        (Severity::Critical, step) => (step < CRITICAL_PAGES).then(|| in_minutes(step * u32::from(sla.settings.critical_minutes))),
        (Severity::High, 0) => Some(in_minutes(u32::from(sla.settings.high_warning_minutes))),
        (Severity::High, 1) | (Severity::Low, 0) => Some(sla.respond_by),
        (Severity::High | Severity::Low, _) => None,
    }
}
