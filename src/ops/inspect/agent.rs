//! `inspect agent`: one host and all that is to be done on it. Never here: a rule; the order of tasks is the machine's.

use std::fmt::Write as _;

use serde::Serialize;

use super::json::{ItemForm, item_form, reason};
use super::text::{columns, harmless, shown};
use crate::machine::{gate, order};
use crate::model::agent::{Holder, Presence};
use crate::model::ids::{AgentId, ReportId, TenantId};
use crate::model::remediation::Remediation;
use crate::model::report::{Phase, Report, ReportStatus, Severity};
use crate::model::time::Timestamp;
use crate::pipeline::reading::StoredAgent;

/// Width of the names before the answers.
const NAMES: usize = 12;
const REPORTS: [usize; 5] = [8, 8, 16, 16, 28];
const TASKS: [usize; 6] = [8, 5, 24, 15, 7, 16];

#[derive(Serialize)]
struct AgentForm<'a> {
    tenantid: TenantId,
    agent_id: AgentId,
    presence: Presence,
    last_survey_at: Option<Timestamp>,
    hostname: Option<&'a str>,
    platform: Option<&'a str>,
    agent_version: Option<&'a str>,
    boot_id: Option<&'a str>,
    firewall_status: &'static str,
    /// Ids of reports, or `manual`.
    holders: Vec<HolderForm>,
    open_reports: Vec<OpenReportForm<'a>>,
    /// In the order in which the agent takes them.
    tasks: Vec<TaskForm<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum HolderForm {
    Report(ReportId),
    Manual(&'static str),
}

#[derive(Serialize)]
struct OpenReportForm<'a> {
    incident_report_id: ReportId,
    severity: Severity,
    status: ReportStatus,
    phase: Option<Phase>,
    subject: &'a str,
}

#[derive(Serialize)]
struct TaskForm<'a> {
    incident_report_id: ReportId,
    #[serde(flatten)]
    item: ItemForm<'a>,
}

fn open_reports(stored: &StoredAgent) -> impl Iterator<Item = &Report> {
    stored.reports.iter().filter(|report| report.status.is_open())
}

/// The tasks of the current plans of open reports, and whatever else has not ended, in the order of ranks: within a
/// report as the agent takes them, across reports with containment first and reboots last.
fn tasks(stored: &StoredAgent) -> Vec<(&Report, &Remediation)> {
    let shown = |report: &Report, item: &Remediation| {
        let current = report.status.is_open() && item.revision == report.plan_revision;
        item.kind.is_task() && (current || !item.state.is_terminal())
    };
    let all = stored.reports.iter().flat_map(|report| report.remediations.iter().map(move |item| (report, item)));
    let mut tasks: Vec<_> = all.filter(|(report, item)| shown(report, item)).collect();
    tasks.sort_by_key(|(report, item)| (order::rank(item), report.id, item.id, item.revision));
    tasks
}

pub(super) fn json(stored: &StoredAgent) -> serde_json::Result<String> {
    let agent = &stored.agent;
    let form = AgentForm {
        tenantid: stored.tenant,
        agent_id: agent.id,
        presence: agent.presence,
        last_survey_at: agent.last_survey_at,
        hostname: agent.hostname.as_deref(),
        platform: agent.platform.as_deref(),
        agent_version: agent.agent_version.as_deref(),
        boot_id: agent.boot_id.as_deref(),
        firewall_status: agent.firewall_status.as_str(),
        holders: agent
            .isolation
            .holders
            .iter()
            .map(|holder| match holder {
                Holder::Report(id) => HolderForm::Report(*id),
                Holder::Manual => HolderForm::Manual("manual"),
            })
            .collect(),
        open_reports: open_reports(stored)
            .map(|report| OpenReportForm {
                incident_report_id: report.id,
                severity: report.severity,
                status: report.status,
                phase: gate::phase(report),
                subject: &report.text.subject,
            })
            .collect(),
        tasks: tasks(stored).into_iter().map(|(report, item)| TaskForm { incident_report_id: report.id, item: item_form(item) }).collect(),
    };
    Ok(serde_json::to_string_pretty(&form)? + "\n")
}

pub(super) fn table(stored: &StoredAgent) -> String {
    let agent = &stored.agent;
    let said = |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), harmless);
    let holders: Vec<String> = agent.isolation.holders.iter().map(|holder| holder_text(*holder)).collect();
    let mut table = String::new();
    for (name, value) in [
        ("agent", format!("{} of tenant {}", agent.id, stored.tenant)),
        ("presence", agent.presence.as_str().to_owned()),
        ("last survey", agent.last_survey_at.map_or_else(|| "-".to_owned(), shown)),
        ("host", said(&agent.hostname)),
        ("platform", said(&agent.platform)),
        ("version", said(&agent.agent_version)),
        ("boot id", said(&agent.boot_id)),
        ("firewall", agent.firewall_status.as_str().to_owned()),
        ("held by", if holders.is_empty() { "-".to_owned() } else { holders.join(", ") }),
    ] {
        // writing to a String cannot fail
        let _ = writeln!(table, "{name:NAMES$}{value}");
    }
    table.push('\n');
    table += &columns(REPORTS, ["report", "severity", "status", "phase", "subject"].map(str::to_owned));
    for report in open_reports(stored) {
        let phase = gate::phase(report).map_or("-", Phase::as_str);
        let cells = [report.severity.as_str(), report.status.as_str(), phase, &report.text.subject].map(str::to_owned);
        let [severity, status, phase, subject] = cells;
        table += &columns(REPORTS, [report.id.to_string(), severity, status, phase, subject]);
    }
    table.push('\n');
    table += &columns(TASKS, ["report", "#", "task", "state", "attempt", "reason"].map(str::to_owned));
    for (report, item) in tasks(stored) {
        let state = if item.waived { format!("{} (waived)", item.state.as_str()) } else { item.state.as_str().to_owned() };
        let (action, reason) = (item.action.original().to_owned(), reason(item).unwrap_or("").to_owned());
        table += &columns(TASKS, [report.id.to_string(), item.id.to_string(), action, state, item.attempt.to_string(), reason]);
    }
    table
}

pub(crate) fn holder_text(holder: Holder) -> String {
    match holder {
        Holder::Report(id) => format!("report {id}"),
        Holder::Manual => "a person's request".to_owned(),
    }
}
