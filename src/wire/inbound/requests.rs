//! What people at the MSP ask for: approvals, rejections, and requests about a task, a report or a host.
//!
//! Never here: whether they may. An empty comment, a stale plan or a lacking role is answered by the
//! machine, to the asker; a dead letter is answered to nobody.

use std::collections::HashSet;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::fields::{ActorForm, Id, Object, read};
use crate::machine::event::{AgentRequest, EventKind, Payload, PlanDecision, ReportRequest, TaskRequest};
use crate::model::ids::{AgentId, RemediationId, ReportId};
use crate::wire::words::{OneOf, Word as _, word_list};
use crate::wire::{Fault, limits};

/// A person consents to the plan, or to some of it.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "Approved")]
pub(super) struct Approved {
    incident_report_id: Id,
    /// Required: consent is to a plan that was read.
    plan_revision: Id,
    /// All of the plan if absent.
    #[schemars(length(max = limits::REMEDIATIONS))]
    remediation_ids: Option<Vec<Id>>,
    actor: Object<ActorForm>,
}

pub fn approved(data: Value) -> Result<EventKind, Fault> {
    let form = read::<Approved>(data)?;
    let remediations = match form.remediation_ids {
        Some(ids) if ids.len() > limits::REMEDIATIONS => {
            return Err(Fault::over("data.remediation_ids", limits::REMEDIATIONS, "remediations"));
        }
        // an empty list names none; only an absent one means all
        Some(ids) => Some(without_repeats(ids)),
        None => None,
    };
    Ok(EventKind::Approved(PlanDecision {
        report: ReportId(form.incident_report_id.0),
        plan_revision: form.plan_revision.0,
        remediations,
        actor: form.actor.0.actor(),
    }))
}

fn without_repeats(ids: Vec<Id>) -> Vec<RemediationId> {
    let mut seen = HashSet::new();
    ids.into_iter().map(|Id(id)| RemediationId(id)).filter(|id| seen.insert(*id)).collect()
}

/// A person sends the plan back to the SOC.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "Rejected")]
pub(super) struct Rejected {
    incident_report_id: Id,
    plan_revision: Id,
    /// What is wrong with it; without one the rejection is refused.
    comment: Option<String>,
    #[serde(rename = "useful")]
    _useful: Option<bool>,
    actor: Object<ActorForm>,
}

pub fn rejected(data: Value) -> Result<EventKind, Fault> {
    let form = read::<Rejected>(data)?;
    Ok(EventKind::Rejected {
        decision: PlanDecision {
            report: ReportId(form.incident_report_id.0),
            plan_revision: form.plan_revision.0,
            remediations: None,
            actor: form.actor.0.actor(),
        },
        comment: form.comment.unwrap_or_default(),
    })
}

/// A request about one remediation.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "TaskRequest")]
pub(super) struct AboutTask {
    incident_report_id: Id,
    remediation_id: Id,
    reason: Option<String>,
    actor: Object<ActorForm>,
}

pub fn about_task(data: Value) -> Result<TaskRequest, Fault> {
    let form = read::<AboutTask>(data)?;
    Ok(TaskRequest {
        report: ReportId(form.incident_report_id.0),
        remediation: RemediationId(form.remediation_id.0),
        reason: form.reason,
        actor: form.actor.0.actor(),
    })
}

/// A request about a report.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ReportRequest")]
pub(super) struct AboutReport {
    incident_report_id: Id,
    reason: Option<String>,
    actor: Object<ActorForm>,
}

pub fn about_report(data: Value) -> Result<ReportRequest, Fault> {
    let form = read::<AboutReport>(data)?;
    Ok(ReportRequest { report: ReportId(form.incident_report_id.0), reason: form.reason, actor: form.actor.0.actor() })
}

word_list! {
    /// How the SOC is to come back to the asker.
    pub(in crate::wire) Channel {
        Callback = "callback",
        Chat = "chat",
        Email = "email",
    }
}

word_list! {
    /// What the asker believes the finding to be.
    pub(in crate::wire) SupportReason {
        LegitimateAdminTool = "legitimate_admin_tool",
        RmmScript = "rmm_script",
        PenetrationTest = "penetration_test",
        Other = "other",
    }
}

/// A person asks the SOC for help. Further fields are passed on as they are.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "SupportRequested")]
pub(in crate::wire) struct SupportRequested {
    incident_report_id: Id,
    #[serde(rename = "channel")]
    _channel: OneOf<Channel>,
    reason: OneOf<SupportReason>,
    #[serde(rename = "comment")]
    #[schemars(skip_serializing_if = "Option::is_none")]
    _comment: Option<String>,
    actor: Object<ActorForm>,
}

/// Channel and comment are for the SOC: they are checked here and passed on unread.
pub fn support_requested(data: Value) -> Result<EventKind, Fault> {
    let payload = Payload(data.to_string());
    let form = read::<SupportRequested>(data)?;
    Ok(EventKind::SocSupportRequested {
        request: ReportRequest {
            report: ReportId(form.incident_report_id.0),
            reason: Some(form.reason.0.word().to_owned()),
            actor: form.actor.0.actor(),
        },
        data: payload,
    })
}

/// A request about a host.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "AgentRequest")]
pub(super) struct AboutAgent {
    agent_id: Id,
    reason: Option<String>,
    force: Option<bool>,
    actor: Object<ActorForm>,
}

pub fn about_agent(data: Value) -> Result<AgentRequest, Fault> {
    let form = read::<AboutAgent>(data)?;
    Ok(AgentRequest {
        agent: AgentId(form.agent_id.0),
        reason: form.reason,
        force: form.force.unwrap_or(false),
        actor: form.actor.0.actor(),
    })
}
