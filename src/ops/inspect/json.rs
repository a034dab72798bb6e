//! A report as JSON: names and values as on the wire, triage and blockers in the very form in which they are
//! published. Never here: a field of the store that says nothing outside it.

use serde::Serialize;

use super::Inspected;
use crate::machine::policy::MAX_ATTEMPTS;
use crate::model::agent::{Agent, Presence};
use crate::model::ids::{AgentId, RemediationId, ReportId, TenantId};
use crate::model::remediation::{Parameters, Remediation, RemediationType, State, Status};
use crate::model::report::{Identity, Phase, ReportStatus, Severity};
use crate::model::time::Timestamp;
use crate::wire::outbound;

#[derive(Serialize)]
struct ReportForm<'a, T, B> {
    tenantid: TenantId,
    incident_report_id: ReportId,
    agent_id: Option<AgentId>,
    identity: Option<&'a Identity>,
    hostname: Option<&'a str>,
    platform: &'a str,
    subject: &'a str,
    severity: Severity,
    status: ReportStatus,
    phase: Option<Phase>,
    plan_revision: u64,
    sequence: u64,
    simulated: bool,
    sent_at: Timestamp,
    updated_at: Timestamp,
    status_updated_at: Timestamp,
    closed_at: Option<Timestamp>,
    closed_by: Option<&'a str>,
    agent: Option<AgentForm<'a>>,
    triage: T,
    footholds: Vec<FootholdForm<'a>>,
    plan: Vec<ItemForm<'a>>,
    /// What is remembered of plans before the current one.
    earlier_plans: Vec<ItemForm<'a>>,
    blockers: B,
}

#[derive(Serialize)]
struct AgentForm<'a> {
    agent_id: AgentId,
    hostname: Option<&'a str>,
    presence: Presence,
    last_survey_at: Option<Timestamp>,
    firewall_status: &'static str,
    agent_version: Option<&'a str>,
}

#[derive(Serialize)]
struct FootholdForm<'a> {
    id: &'a str,
    kind: &'a str,
    description: &'a str,
    remediation_ids: &'a [RemediationId],
    remaining: bool,
}

#[derive(Serialize)]
pub(super) struct ItemForm<'a> {
    remediation_id: RemediationId,
    plan_revision: u64,
    #[serde(rename = "type")]
    kind: RemediationType,
    action: &'a str,
    parameters: &'a Parameters,
    state: &'static str,
    status: Status,
    reason: Option<&'a str>,
    waived: bool,
    verified: bool,
    attempt: u32,
    max_attempts: u32,
    tries: u32,
    next_attempt_at: Option<Timestamp>,
    deliver_by: Option<Timestamp>,
}

pub(super) fn json(inspected: &Inspected) -> serde_json::Result<String> {
    let (stored, report) = (&inspected.stored, &inspected.stored.report);
    let current = |item: &&Remediation| item.revision == report.plan_revision;
    let form = ReportForm {
        tenantid: stored.tenant,
        incident_report_id: report.id,
        agent_id: report.agent_id,
        identity: report.identity.as_ref(),
        hostname: report.hostname.as_deref(),
        platform: &report.platform,
        subject: &report.text.subject,
        severity: report.severity,
        status: report.status,
        phase: inspected.phase,
        plan_revision: report.plan_revision,
        sequence: report.sequence,
        simulated: report.simulated,
        sent_at: report.sent_at,
        updated_at: report.updated_at,
        status_updated_at: report.status_updated_at,
        closed_at: report.closed_at,
        closed_by: report.closed_by.as_deref(),
        agent: stored.agent.as_ref().map(agent_form),
        triage: outbound::triage_form(&inspected.triage),
        footholds: report
            .footholds
            .iter()
            .map(|foothold| FootholdForm {
                id: &foothold.id,
                kind: &foothold.kind,
                description: &foothold.description,
                remediation_ids: &foothold.remediation_ids,
                remaining: inspected.remains(foothold),
            })
            .collect(),
        plan: report.remediations.iter().filter(current).map(item_form).collect(),
        earlier_plans: report.remediations.iter().filter(|item| !current(item)).map(item_form).collect(),
        blockers: outbound::blockers_form(&inspected.blockers),
    };
    serde_json::to_string_pretty(&form)
}

fn agent_form(agent: &Agent) -> AgentForm<'_> {
    AgentForm {
        agent_id: agent.id,
        hostname: agent.hostname.as_deref(),
        presence: agent.presence,
        last_survey_at: agent.last_survey_at,
        firewall_status: agent.firewall_status.as_str(),
        agent_version: agent.agent_version.as_deref(),
    }
}

pub(super) fn item_form(item: &Remediation) -> ItemForm<'_> {
    ItemForm {
        remediation_id: item.id,
        plan_revision: item.revision,
        kind: item.kind,
        action: item.action.original(),
        parameters: &item.parameters,
        state: item.state.as_str(),
        status: item.state.status(),
        reason: reason(item),
        waived: item.waived,
        verified: item.verified,
        attempt: item.attempt,
        max_attempts: MAX_ATTEMPTS,
        tries: item.tries,
        next_attempt_at: item.next_attempt_at,
        deliver_by: item.deliver_by,
    }
}

/// Which cancellation it was, or the code behind the state.
pub(super) fn reason(item: &Remediation) -> Option<&str> {
    match item.state {
        State::Cancelled(why) => Some(why.as_str()),
        _ => item.reason.as_deref(),
    }
}
