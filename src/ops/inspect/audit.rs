//! `inspect audit`: who has decided what, and what came of it. Without a limit the rows are printed as they are
//! read; with one, so many are in memory.

use std::collections::VecDeque;

use serde::Serialize;

use super::stores::Stores;
use super::text::columns;
use super::{AuditQuestion, Format, Out, Page, Told, unknown};
use crate::model::actor::Actor;
use crate::model::ids::{AgentId, RemediationId, ReportId, TenantId};
use crate::model::remediation::State;
use crate::model::report::{Phase, ReportStatus};
use crate::model::time::Timestamp;
use crate::pipeline::audit::{AuditRow, Standing};
use crate::store::Store;

/// The most rows that are held back to find the last ones: below 100 MiB.
pub(crate) const MAX_LIMIT: i64 = 100_000;
/// 120 columns.
const WIDTHS: [usize; 6] = [19, 10, 19, 36, 17, 14];

#[derive(Serialize)]
struct AuditForm<'a> {
    tenantid: TenantId,
    at: Timestamp,
    asked_at: Option<Timestamp>,
    event_id: &'a str,
    request: &'a str,
    /// null where a policy decided.
    actor: Option<&'a Actor>,
    reason: Option<&'a str>,
    incident_report_id: Option<ReportId>,
    remediation_id: Option<RemediationId>,
    agent_id: Option<AgentId>,
    outcome: &'a str,
    before: StandingForm,
    after: StandingForm,
}

#[derive(Serialize)]
struct StandingForm {
    status: Option<&'static str>,
    phase: Option<&'static str>,
    state: Option<&'static str>,
    firewall_status: Option<&'static str>,
}

impl From<&Standing> for StandingForm {
    fn from(standing: &Standing) -> Self {
        Self {
            status: standing.status.map(ReportStatus::as_str),
            phase: standing.phase.map(Phase::as_str),
            state: standing.state.map(State::as_str),
            firewall_status: standing.firewall_status.map(|status| status.as_str()),
        }
    }
}

pub(super) fn told<S: Store>(
    stores: &Stores<S>,
    asked: &AuditQuestion,
    format: Format,
    page: &Page,
    out: &mut dyn Out,
) -> anyhow::Result<Told> {
    let AuditQuestion { tenant, report, limit } = *asked;
    let about = |row: &AuditRow| report.is_none() || row.incident_report_id == report;
    if page.is_first() {
        let known = match report {
            Some(id) => stores.report(tenant, id)?.is_some(),
            None => stores.organization(tenant)?.is_some(),
        };
        // a request can be about what was never known, and is on record all the same
        if !known && !stores.audit(tenant, None).any(|read| read.as_ref().map_or(true, |(_, row)| about(row))) {
            let what = report.map_or_else(|| "audit".to_owned(), |id| format!("report {id}"));
            return Ok(unknown(tenant, &what));
        }
        if format == Format::Table {
            out.text(&columns(WIDTHS, ["time (UTC)", "about", "who", "request", "before -> after", "outcome"].map(str::to_owned)))?;
        }
    }
    let print = |out: &mut dyn Out, row: &AuditRow| -> anyhow::Result<()> {
        out.text(&match format {
            Format::Json => json(tenant, row)? + "\n",
            Format::Table => table_row(row),
        })
    };
    let Some(limit) = limit else {
        let mut turn = page.turn();
        for read in stores.audit(tenant, page.after.as_deref()) {
            let (key, row) = read?;
            if about(&row) {
                print(out, &row)?;
            }
            if turn.is_over(&key, out) {
                break;
            }
        }
        return Ok(turn.told());
    };
    let mut last: VecDeque<AuditRow> = VecDeque::new();
    for read in stores.audit(tenant, None) {
        let (_, row) = read?;
        if about(&row) {
            if last.len() == limit as usize {
                last.pop_front();
            }
            last.push_back(row);
        }
    }
    for row in &last {
        print(out, row)?;
    }
    Ok(Told::All)
}

fn json(tenant: TenantId, row: &AuditRow) -> serde_json::Result<String> {
    serde_json::to_string(&AuditForm {
        tenantid: tenant,
        at: row.at,
        asked_at: row.asked_at,
        event_id: &row.event_id,
        request: &row.request,
        actor: row.actor.as_ref(),
        reason: row.reason.as_deref(),
        incident_report_id: row.incident_report_id,
        remediation_id: row.remediation_id,
        agent_id: row.agent_id,
        outcome: &row.outcome,
        before: StandingForm::from(&row.before),
        after: StandingForm::from(&row.after),
    })
}

fn table_row(row: &AuditRow) -> String {
    let report = row.incident_report_id.map(|id| format!("report {id}"));
    let item = row.remediation_id.map(|id| format!("#{id}"));
    let agent = row.agent_id.filter(|_| report.is_none()).map(|id| format!("agent {id}"));
    let about: Vec<String> = [report, item, agent].into_iter().flatten().collect();
    let mut request = row.request.clone();
    if let Some(reason) = &row.reason {
        request += &format!(" \"{reason}\"");
    }
    columns(
        WIDTHS,
        [
            row.at.strftime("%Y-%m-%d %H:%M:%S").to_string(),
            about.join(" "),
            row.actor.as_ref().map_or_else(|| "policy".to_owned(), person),
            request,
            change(&row.before, &row.after),
            row.outcome.clone(),
        ],
    )
}

/// A person and the role in which they asked.
pub(crate) fn person(actor: &Actor) -> String {
    let name = actor.name.clone().or_else(|| actor.email.clone()).unwrap_or_else(|| format!("user {}", actor.id));
    format!("{name} ({})", actor.role.as_str())
}

/// What differs; how things stood where nothing does.
fn change(before: &Standing, after: &Standing) -> String {
    let (before, after) = (StandingForm::from(before), StandingForm::from(after));
    let pairs = [
        (before.status, after.status),
        (before.phase, after.phase),
        (before.state, after.state),
        (before.firewall_status, after.firewall_status),
    ];
    let named = |value: Option<&'static str>| value.unwrap_or("-");
    let changed: Vec<String> =
        pairs.iter().filter(|(from, to)| from != to).map(|(from, to)| format!("{} -> {}", named(*from), named(*to))).collect();
    if !changed.is_empty() {
        return changed.join(", ");
    }
    let stood: Vec<&str> = pairs.iter().filter_map(|(from, _)| *from).collect();
    if stood.is_empty() { "-".to_owned() } else { format!("{} (unchanged)", stood.join(", ")) }
}
