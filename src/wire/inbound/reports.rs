//! `incident_report.created`, `.revised`, `.updated`, `.comment_added`, `.dismissed`, `.closed`: what the SOC says.
//!
//! Never here: whether the report is known or the revision the next one.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::fields::{At, Id, Object, read};
use super::plan::{self, FootholdForm, Host, PlanForm};
use crate::machine::event::{EventKind, NewReport, Payload, ReportUpdate, Revision};
use crate::model::ids::{AgentId, IdentityId, ReportId};
use crate::model::report::{AttackKind, Identity, ReportText, Severity};
use crate::wire::envelope::Envelope;
use crate::wire::words::OneOf;
use crate::wire::{Fault, Reason, limits};

/// A report is issued, with its plan.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ReportCreated")]
pub(super) struct Created {
    incident_report: Object<ReportForm>,
}

/// The vendor's names and values, and fields of ours.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "IncidentReport", extend("allOf" = [{
    "if": { "properties": { "isolate_host": { "const": true } }, "required": ["isolate_host"] },
    "then": { "properties": { "agent_id": { "type": "integer" } }, "required": ["agent_id"] },
}]))]
struct ReportForm {
    id: Id,
    account_id: Id,
    organization_id: Id,
    agent_id: Option<Id>,
    platform: Option<String>,
    severity: OneOf<Severity>,
    /// A report is issued as sent.
    #[schemars(extend("const" = "sent"))]
    status: String,
    subject: Option<String>,
    summary: Option<String>,
    body: Option<String>,
    #[schemars(length(max = limits::INDICATOR_TYPES))]
    indicator_types: Option<Vec<String>>,
    created_at: Option<At>,
    sent_at: Option<At>,
    status_updated_at: Option<At>,
    updated_at: Option<At>,
    remediations: Object<PlanForm>,
    /// 1 if absent.
    plan_revision: Option<Id>,
    #[schemars(length(max = limits::FOOTHOLDS))]
    footholds: Option<Vec<Object<FootholdForm>>>,
    /// For a report without an agent.
    identity: Option<Object<IdentityForm>>,
    host: Option<Object<HostForm>>,
    /// unknown if absent.
    attack_kind: Option<OneOf<AttackKind>>,
    /// Isolate the host at once; needs agent_id.
    isolate_host: Option<bool>,
    /// A drill: nobody is paged.
    simulated: Option<bool>,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "Identity")]
struct IdentityForm {
    id: Id,
    name: Option<String>,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "Host")]
struct HostForm {
    hostname: Option<String>,
}

pub fn created(data: Value, envelope: &Envelope) -> Result<EventKind, Fault> {
    const AT: &str = "data.incident_report";
    let Object(form) = read::<Created>(data)?.incident_report;
    check_tenant(&form, envelope, AT)?;
    if form.status != "sent" {
        return Err(Fault::invalid(format!("{AT}.status: a report is issued as sent")));
    }
    let indicator_types = form.indicator_types.unwrap_or_default();
    if indicator_types.len() > limits::INDICATOR_TYPES {
        return Err(Fault::over(&format!("{AT}.indicator_types"), limits::INDICATOR_TYPES, "types"));
    }
    let host = if form.agent_id.is_some() { Host::Agent } else { Host::None };
    let isolate_host = form.isolate_host.unwrap_or(false);
    if isolate_host && host == Host::None {
        return Err(Fault::invalid(format!("{AT}.isolate_host: the report has no agent_id")));
    }
    let items = plan::items(form.remediations.0, &format!("{AT}.remediations"), host)?;
    let footholds = plan::footholds(form.footholds.unwrap_or_default(), &format!("{AT}.footholds"), &items)?;

    let at = |given: Option<At>| given.or(form.created_at).map_or(envelope.time, |At(at)| at);
    Ok(EventKind::ReportCreated(Box::new(NewReport {
        id: ReportId(form.id.0),
        agent_id: form.agent_id.map(|Id(id)| AgentId(id)),
        identity: form.identity.map(|Object(identity)| Identity { id: IdentityId(identity.id.0), name: identity.name.unwrap_or_default() }),
        platform: form.platform.unwrap_or_default(),
        hostname: form.host.and_then(|Object(host)| host.hostname).filter(|name| !name.is_empty()),
        severity: form.severity.0,
        attack_kind: form.attack_kind.map_or(AttackKind::Unknown, |OneOf(kind)| kind),
        text: Arc::new(ReportText {
            subject: form.subject.unwrap_or_default(),
            summary: form.summary.unwrap_or_default(),
            indicator_types,
        }),
        body: form.body.unwrap_or_default(),
        simulated: form.simulated.unwrap_or(false),
        isolate_host,
        plan_revision: form.plan_revision.map_or(1, |Id(revision)| revision),
        items,
        footholds,
        sent_at: at(form.sent_at),
        updated_at: at(form.updated_at),
        status_updated_at: at(form.status_updated_at),
    })))
}

/// The envelope routes, the report belongs: they must name the same tenant.
fn check_tenant(form: &ReportForm, envelope: &Envelope, at: &str) -> Result<(), Fault> {
    let differs = |field: &str| Fault::new(Reason::TenantMismatch, format!("{at}.{field}: differs from tenantid"));
    if form.account_id.0 != envelope.tenant.account {
        return Err(differs("account_id"));
    }
    if form.organization_id.0 != envelope.tenant.organization {
        return Err(differs("organization_id"));
    }
    Ok(())
}

/// A new plan in place of the one that was sent back.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ReportRevised")]
pub(super) struct Revised {
    incident_report_id: Id,
    plan_revision: Id,
    remediations: Object<PlanForm>,
    /// Those of the report stay as they are if absent.
    #[schemars(length(max = limits::FOOTHOLDS))]
    footholds: Option<Vec<Object<FootholdForm>>>,
    comment: Option<String>,
}

pub fn revised(data: Value) -> Result<EventKind, Fault> {
    let form = read::<Revised>(data)?;
    let items = plan::items(form.remediations.0, "data.remediations", Host::Unstated)?;
    let footholds = match form.footholds {
        Some(forms) => Some(plan::footholds(forms, "data.footholds", &items)?),
        None => None,
    };
    Ok(EventKind::ReportRevised(Box::new(Revision {
        report: ReportId(form.incident_report_id.0),
        plan_revision: form.plan_revision.0,
        items,
        footholds,
        comment: form.comment,
    })))
}

/// What has changed of a report. Further fields are passed on as they are.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ReportUpdated")]
pub(in crate::wire) struct Updated {
    incident_report_id: Id,
    #[schemars(skip_serializing_if = "Option::is_none")]
    updated_at: Option<At>,
    #[schemars(skip_serializing_if = "Option::is_none")]
    status_updated_at: Option<At>,
    #[schemars(skip_serializing_if = "Option::is_none")]
    severity: Option<OneOf<Severity>>,
    #[schemars(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[schemars(skip_serializing_if = "Option::is_none")]
    summary: Option<String>,
    #[schemars(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
}

pub fn updated(data: Value, envelope: &Envelope) -> Result<EventKind, Fault> {
    let payload = Payload(data.to_string());
    let form = read::<Updated>(data)?;
    Ok(EventKind::ReportUpdated(Box::new(ReportUpdate {
        report: ReportId(form.incident_report_id.0),
        updated_at: form.updated_at.or(form.status_updated_at).map_or(envelope.time, |At(at)| at),
        severity: form.severity.map(|OneOf(severity)| severity),
        subject: form.subject,
        summary: form.summary,
        body: form.body,
        data: payload,
    })))
}

/// Somebody has commented on a report. Further fields are passed on as they are.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "CommentAdded")]
pub(in crate::wire) struct CommentAdded {
    incident_report_id: Id,
    #[serde(rename = "comment")]
    #[schemars(skip_serializing_if = "Option::is_none")]
    _comment: Option<String>,
}

pub fn comment_added(data: Value) -> Result<EventKind, Fault> {
    let payload = Payload(data.to_string());
    let form = read::<CommentAdded>(data)?;
    Ok(EventKind::CommentAdded { report: ReportId(form.incident_report_id.0), data: payload })
}

/// The SOC takes a report back.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ReportDismissed")]
pub(super) struct Dismissed {
    incident_report_id: Id,
    reason: Option<String>,
}

pub fn dismissed(data: Value) -> Result<EventKind, Fault> {
    let form = read::<Dismissed>(data)?;
    Ok(EventKind::ReportDismissed { report: ReportId(form.incident_report_id.0), reason: form.reason })
}

/// The SOC has closed a report on its side.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "ReportClosed")]
pub(super) struct Closed {
    incident_report_id: Id,
    status_updated_at: Option<At>,
}

pub fn closed(data: Value, envelope: &Envelope) -> Result<EventKind, Fault> {
    let form = read::<Closed>(data)?;
    Ok(EventKind::ReportClosed {
        report: ReportId(form.incident_report_id.0),
        status_updated_at: form.status_updated_at.map_or(envelope.time, |At(at)| at),
    })
}
