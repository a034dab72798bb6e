//! What `data` of each outbound event says: its fields in the order in which they are published.
//!
//! Never here: how a notice becomes one of these. A key is there whether or not it has a value (`null`); the schemas are
//! made from these types, so a field that is missing here is neither published nor promised.

use std::borrow::Cow;
use std::fmt::Display;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Serialize, Serializer};

use crate::machine::notice::{BlockerCode, NextAction, PageReason, PlanShape, RefusalCode, ReopenCause, Urgency};
use crate::model::actor::Role;
use crate::model::agent::{FirewallStatus, Presence};
use crate::model::ids::{AgentId, RemediationId, ReportId};
use crate::model::remediation::{RemediationType, State, Status};
use crate::model::report::{AttackKind, Phase, ReportStatus, Severity};
use crate::model::time::Timestamp;
use crate::wire::words::{OneOf, Word};

/// As its text: times are UTC with `Z`, `sequence` is a decimal string.
pub(in crate::wire) struct Shown<T>(pub T);

impl<T: Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl JsonSchema for Shown<Timestamp> {
    fn schema_name() -> Cow<'static, str> {
        "UtcTime".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "RFC 3339 in UTC, to milliseconds",
            "type": "string",
            "format": "date-time",
            "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{1,3})?Z$",
        })
    }
}

impl JsonSchema for Shown<u64> {
    fn schema_name() -> Cow<'static, str> {
        "Sequence".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A decimal number, counted per tenant and subject from 1 without a gap",
            "type": "string",
            "pattern": "^[1-9][0-9]*$",
        })
    }
}

macro_rules! id_schemas {
    ($($type:ident)+) => {$(
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "integer", "minimum": 1 })
            }
        }
    )+};
}

id_schemas!(AgentId RemediationId ReportId);

#[derive(Serialize, JsonSchema)]
pub(in crate::wire) struct AboutReport {
    pub incident_report_id: ReportId,
    /// null for a report without an agent.
    pub agent_id: Option<AgentId>,
}

#[derive(Serialize, JsonSchema)]
pub(in crate::wire) struct AboutAgent {
    pub agent_id: AgentId,
}

#[derive(Serialize, JsonSchema)]
pub(in crate::wire) struct AboutOrganization {}

/// How urgent a new report is, what was found and what to do next.
#[derive(Serialize, JsonSchema)]
pub(in crate::wire) struct Triaged<'a> {
    pub severity: OneOf<Severity>,
    pub urgency: OneOf<Urgency>,
    pub respond_by: Shown<Timestamp>,
    pub finding: Finding<'a>,
    /// Containment does not count.
    pub plan_shape: OneOf<PlanShape>,
    pub next_action: OneOf<NextAction>,
    /// null where there is no host.
    pub isolation: Option<OneOf<FirewallStatus>>,
    /// No foothold is left to come back by.
    pub containment_alone_enough: bool,
}

#[derive(Serialize, JsonSchema)]
pub(in crate::wire) struct Finding<'a> {
    pub attack_kind: OneOf<AttackKind>,
    pub subject: &'a str,
    pub summary: &'a str,
    pub indicator_types: &'a [String],
    pub hosts: &'a [String],
    pub identities: &'a [String],
    pub footholds: Vec<FoundFoothold<'a>>,
}

#[derive(Serialize, JsonSchema)]
pub(in crate::wire) struct FoundFoothold<'a> {
    pub id: &'a str,
    pub kind: &'a str,
    pub description: &'a str,
    pub remediation_ids: &'a [RemediationId],
}

/// The public status of a report has changed.
#[derive(Serialize, JsonSchema)]
pub(in crate::wire) struct StatusChanged<'a> {
    /// null for a new report.
    pub from: Option<OneOf<ReportStatus>>,
    pub to: OneOf<ReportStatus>,
    /// null where the report is not open.
    pub phase: Option<OneOf<Phase>>,
    pub cause: &'static str,
    pub actor: Option<Author<'a>>,
    pub counts: CountsFields,
    /// Approved tasks that go on although the report was closed upstream.
    pub residual: Option<u32>,
}

/// Items of the current plan by what is left to do.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Counts")]
pub(in crate::wire) struct CountsFields {
    pub unapproved: u32,
    /// Approved and not ended.
    pub open: u32,
    pub completed: u32,
    /// Failed or expired.
    pub failed: u32,
    pub cancelled: u32,
    pub footholds_remaining: u32,
}

/// The phase of an open report has changed.
#[derive(Serialize, JsonSchema)]
pub(in crate::wire) struct PhaseChanged {
    pub from: OneOf<Phase>,
    pub to: OneOf<Phase>,
}

/// A report was not closed, and this is in the way.
#[derive(Serialize, JsonSchema)]
pub(in crate::wire) struct ResolutionRefused<'a> {
    pub blockers: Vec<BlockerFields<'a>>,
}

/// A report was opened again.
#[derive(Serialize, JsonSchema)]
pub(in crate::wire) struct Reopened {
    pub cause: OneOf<ReopenCause>,
    /// The remediation that had claimed success, if a foothold came back.
    pub remediation_id: Option<RemediationId>,
}

/// The event is all there is to say.
#[derive(Serialize, JsonSchema)]
pub(in crate::wire) struct Bare {}

/// A completed remediation was confirmed by a later survey.
#[derive(Serialize, JsonSchema)]
pub(in crate::wire) struct RemediationVerified {
    pub remediation_id: RemediationId,
    pub plan_revision: u64,
}

/// Whether an agent is heard has changed.
#[derive(Serialize, JsonSchema)]
pub(in crate::wire) struct AgentStatusChanged {
    /// null for a new agent.
    pub from: Option<OneOf<Presence>>,
    pub to: OneOf<Presence>,
}

/// The isolation of a host has changed.
#[derive(Serialize, JsonSchema)]
pub(in crate::wire) struct IsolationChanged<'a> {
    pub from: OneOf<FirewallStatus>,
    pub to: OneOf<FirewallStatus>,
    pub holders: Vec<HolderField>,
    pub reason: Option<&'a str>,
    pub actor: Option<Author<'a>>,
}

/// A host is not as isolated as it was believed to be.
#[derive(Serialize, JsonSchema)]
pub(in crate::wire) struct IsolationDrifted {
    pub holders: Vec<HolderField>,
}

/// The time to respond is nearly over, or over.
#[derive(Serialize, JsonSchema)]
pub(in crate::wire) struct Sla {
    pub severity: OneOf<Severity>,
    pub respond_by: Shown<Timestamp>,
}

/// The counts of a month, with the incidents reported as the service has counted them.
#[derive(Serialize, JsonSchema)]
pub(in crate::wire) struct FunnelUpdated<'a> {
    #[schemars(regex(pattern = r"^[0-9]{4}-[0-9]{2}$"))]
    pub period: &'a str,
    pub events_analysed: u64,
    pub signals: u64,
    pub signals_investigated: u64,
    pub incidents_reported: u64,
}

/// Somebody has to be woken.
#[derive(Serialize, JsonSchema)]
pub(in crate::wire) struct Paged {
    pub reason: OneOf<PageReason>,
    pub severity: OneOf<Severity>,
    pub respond_by: Shown<Timestamp>,
}

/// A request was not granted.
#[derive(Serialize, JsonSchema)]
pub(in crate::wire) struct RequestRefused<'a> {
    /// The type of the inbound event.
    pub request_type: &'static str,
    pub code: OneOf<RefusalCode>,
    pub message: &'a str,
}

/// A person, or what acted in place of one (then only name and role are there).
#[derive(Serialize, JsonSchema)]
pub(in crate::wire) struct Author<'a> {
    pub id: Option<u64>,
    pub name: Option<&'a str>,
    pub email: Option<&'a str>,
    pub role: OneOf<AuthorRole>,
}

/// A person's role, or what acted without one.
#[derive(Clone, Copy)]
pub(in crate::wire) enum AuthorRole {
    Person(Role),
    Policy,
    Soc,
}

impl Word for AuthorRole {
    const NAME: &'static str = "AuthorRole";
    const ALL: &'static [Self] = &[
        AuthorRole::Person(Role::Admin),
        AuthorRole::Person(Role::SecurityEngineer),
        AuthorRole::Person(Role::User),
        AuthorRole::Person(Role::ReadOnly),
        AuthorRole::Person(Role::Finance),
        AuthorRole::Person(Role::Marketing),
        AuthorRole::Person(Role::Provisioner),
        AuthorRole::Policy,
        AuthorRole::Soc,
    ];

    fn word(self) -> &'static str {
        match self {
            AuthorRole::Person(role) => role.as_str(),
            AuthorRole::Policy => "policy",
            AuthorRole::Soc => "soc",
        }
    }
}

/// A report by its id, or `"manual"`.
#[derive(Serialize)]
#[serde(untagged)]
pub(in crate::wire) enum HolderField {
    Report(ReportId),
    Manual(&'static str),
}

impl JsonSchema for HolderField {
    fn schema_name() -> Cow<'static, str> {
        "Holder".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A report by its id, or manual: a person outside any report",
            "anyOf": [generator.subschema_for::<ReportId>(), { "const": "manual" }],
        })
    }
}

/// One thing in the way of closing a report. Where it is about the whole report, what is said of a task is null.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Blocker")]
pub(in crate::wire) struct BlockerFields<'a> {
    pub code: OneOf<BlockerCode>,
    pub remediation_id: Option<RemediationId>,
    pub plan_revision: Option<u64>,
    pub action: Option<&'a str>,
    pub state: Option<OneOf<State>>,
    pub attempt: Option<u32>,
    pub max_attempts: Option<u32>,
    pub reason: Option<&'a str>,
    pub next_attempt_at: Option<Shown<Timestamp>>,
    pub deliver_by: Option<Shown<Timestamp>>,
    pub agent_id: Option<AgentId>,
    /// Who or what can clear it, for people.
    pub clears_by: &'static str,
}

/// A remediation is in another state.
#[derive(Serialize, JsonSchema)]
pub(in crate::wire) struct RemediationStatusChanged<'a> {
    pub remediation_id: RemediationId,
    #[serde(rename = "type")]
    pub kind: OneOf<RemediationType>,
    pub action: &'a str,
    /// null for a new item.
    pub from: Option<OneOf<State>>,
    pub to: OneOf<State>,
    /// The vendor's coarser value of the same.
    pub status: OneOf<Status>,
    /// Confirmed by a later survey.
    pub verified: bool,
    pub waived: bool,
    pub attempt: u32,
    pub max_attempts: u32,
    /// Of the attempt.
    pub tries: u32,
    pub reason: Option<&'a str>,
    pub next_attempt_at: Option<Shown<Timestamp>>,
    pub deliver_by: Option<Shown<Timestamp>>,
    pub plan_revision: u64,
    /// There while an attempt is open.
    pub attempt_id: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_can_be_an_author() {
        for role in Role::ALL {
            assert!(AuthorRole::ALL.iter().any(|known| known.word() == role.as_str()), "{role:?}");
        }
    }
}
