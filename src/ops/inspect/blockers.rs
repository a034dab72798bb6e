//! `inspect blockers`: what is in the way, over all open reports. One report is in memory at a time.
//!
//! A report that is remediated automatically cannot be resolved by a person at all; what is shown of it is what its
//! own closing waits for.

use serde::Serialize;

use super::stores::Stores;
use super::text::{columns, shown};
use super::{Format, Out, Page, Told, unknown};
use crate::machine::gate;
use crate::machine::notice::Blocker;
use crate::model::ids::{AgentId, ReportId, TenantId};
use crate::model::report::{Phase, Report, ReportStatus, Severity};
use crate::pipeline::reading::{self, StoredReport};
use crate::store::{Store, keys};
use crate::wire::outbound;

/// 120 columns.
const WIDTHS: [usize; 8] = [8, 8, 8, 17, 16, 19, 16, 21];

#[derive(Serialize)]
struct BlockedForm<'a, B> {
    tenantid: TenantId,
    incident_report_id: ReportId,
    agent_id: Option<AgentId>,
    hostname: Option<&'a str>,
    subject: &'a str,
    severity: Severity,
    status: ReportStatus,
    phase: Option<Phase>,
    plan_revision: u64,
    blockers: B,
}

pub(super) fn told<S: Store>(
    stores: &Stores<S>,
    tenant: Option<TenantId>,
    format: Format,
    page: &Page,
    out: &mut dyn Out,
) -> anyhow::Result<Told> {
    if let Some(tenant) = tenant
        && page.is_first()
        && stores.organization(tenant)?.is_none()
        && stores.reports(Some(tenant), None).next().is_none()
    {
        return Ok(unknown(tenant, "reports"));
    }
    if format == Format::Table && page.is_first() {
        let titles = ["tenant", "report", "severity", "phase", "remediation", "blocker", "next try", "cleared by"];
        out.text(&columns(WIDTHS, titles.map(str::to_owned)))?;
    }
    let mut turn = page.turn();
    for read in stores.reports(tenant, page.after.as_deref()) {
        let (key, store, report) = read?;
        if report.status.is_open()
            && let Some((tenant, _)) = keys::report_parts(&key)
        {
            let stored = reading::with_subject(store, tenant, report)?;
            let blockers = blockers(&stored);
            if !blockers.is_empty() {
                out.text(&match format {
                    Format::Json => json(&stored, &blockers)? + "\n",
                    Format::Table => blockers.iter().map(|blocker| row(&stored, blocker)).collect(),
                })?;
            }
        }
        if turn.is_over(&key, out) {
            break;
        }
    }
    Ok(turn.told())
}

/// The gate's, and for an automatic remediation those that the gate would name if the report were with people.
pub(in crate::ops) fn blockers(stored: &StoredReport) -> Vec<Blocker> {
    let agent = stored.agent.as_ref();
    match stored.report.status {
        ReportStatus::AutoRemediating => {
            let with_people = Report { status: ReportStatus::Sent, ..stored.report.clone() };
            gate::blockers(&with_people, agent, true)
        }
        ReportStatus::Sent | ReportStatus::Closed | ReportStatus::Dismissed | ReportStatus::PartnerDismissed | ReportStatus::Deleting => {
            gate::blockers(&stored.report, agent, true)
        }
    }
}

fn json(stored: &StoredReport, blockers: &[Blocker]) -> serde_json::Result<String> {
    let report = &stored.report;
    serde_json::to_string(&BlockedForm {
        tenantid: stored.tenant,
        incident_report_id: report.id,
        agent_id: report.agent_id,
        hostname: report.hostname.as_deref(),
        subject: &report.text.subject,
        severity: report.severity,
        status: report.status,
        phase: gate::phase(report),
        plan_revision: report.plan_revision,
        blockers: outbound::blockers_form(blockers),
    })
}

fn row(stored: &StoredReport, blocker: &Blocker) -> String {
    let report = &stored.report;
    let task = blocker.task.as_ref();
    let code = match task.and_then(|task| task.reason.as_ref()) {
        Some(reason) => format!("{} ({reason})", blocker.code.as_str()),
        None => blocker.code.as_str().to_owned(),
    };
    columns(
        WIDTHS,
        [
            stored.tenant.to_string(),
            report.id.to_string(),
            report.severity.as_str().to_owned(),
            gate::phase(report).map_or(report.status.as_str(), Phase::as_str).to_owned(),
            task.map_or_else(|| "the whole report".to_owned(), |task| format!("#{} {}", task.remediation_id, task.action.original())),
            code,
            task.and_then(|task| task.next_attempt_at).map_or_else(String::new, shown),
            blocker.clears_by().to_owned(),
        ],
    )
}
