//! From a notice to the bytes that are published: one structured CloudEvent per notice.
//!
//! Never here: a clock, randomness, hash maps. The bytes go into the commit, and a re-publication after a
//! crash must be the same bytes; fields stand in the order in which they are declared ([`forms`]).
//!
//! A key of `data` is there whether or not it has a value (`null`); only `fired_at` comes and goes.

pub(super) mod forms;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};

use self::forms::{
    AboutAgent, AboutOrganization, AboutReport, AgentStatusChanged, Author, AuthorRole, Bare, BlockerFields, CountsFields, Finding,
    FoundFoothold, FunnelUpdated, HolderField, IsolationChanged, IsolationDrifted, Paged, PhaseChanged, RemediationStatusChanged,
    RemediationVerified, Reopened, RequestRefused, ResolutionRefused, Shown, Sla, StatusChanged, Triaged,
};
use super::words::OneOf;
use crate::machine::notice::{self, About, Blocker, Body, Counts, Notice, RemediationChange, Triage};
use crate::model::agent::Holder;
use crate::model::ids::TenantId;
use crate::model::organization::FunnelMonth;
use crate::model::remediation::State;
use crate::model::report::Foothold;
use crate::model::time::Timestamp;

pub const CONTENT_TYPE: &str = "application/cloudevents+json";
pub const SOURCE: &str = "remedyd";
/// Most events are shorter.
const ORDINARY_BYTES: usize = 1024;

/// What the relay publishes and the outbox keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outbound {
    /// `<type>.<tenantid>`
    pub routing_key: String,
    /// The CloudEvents `id`.
    pub message_id: String,
    pub content_type: &'static str,
    /// AMQP `timestamp`: the event's time in whole seconds.
    pub timestamp_s: u64,
    pub body: Vec<u8>,
    /// For the AMQP header that partitions go by.
    pub tenantid: String,
}

/// The event of `notice`, as published for `tenant`.
pub fn encode(tenant: TenantId, notice: &Notice) -> Outbound {
    // put together, not formatted, which takes longer: each message has them
    let [mut one, mut other] = [itoa::Buffer::new(); 2];
    let tenantid = [one.format(tenant.account), ".", other.format(tenant.organization)].concat();
    let subject = match notice.about {
        About::Report { report, .. } => ["incident_reports/", one.format(report.0)].concat(),
        About::Agent(agent) => ["agents/", one.format(agent.0)].concat(),
        About::Organization => "organization".to_owned(),
    };
    let message_id = [&tenantid, ":", &subject, ":", one.format(notice.sequence)].concat();
    let event = Event {
        specversion: "1.0",
        id: &message_id,
        source: SOURCE,
        kind: notice.body.name(),
        subject: &subject,
        time: Shown(notice.time),
        datacontenttype: "application/json",
        tenantid: &tenantid,
        schemaversion: "1",
        sequence: Shown(notice.sequence),
        causationid: &notice.cause,
        traceparent: notice.traceparent.as_deref(),
        data: data(notice),
    };
    let mut body = Vec::with_capacity(ORDINARY_BYTES);
    // proven: every map key is a string and no Serialize of ours fails
    #[expect(clippy::expect_used, reason = "strings, integers and lists of them; no input can make it fail")]
    serde_json::to_writer(&mut body, &event).expect("an event of strings and integers is JSON");
    Outbound {
        routing_key: [notice.body.name(), ".", &tenantid].concat(),
        message_id,
        content_type: CONTENT_TYPE,
        timestamp_s: u64::try_from(notice.time.as_second()).unwrap_or(0),
        body,
        tenantid,
    }
}

/// One outbound event: a CloudEvent in structured mode.
#[derive(Serialize, JsonSchema)]
pub(super) struct Event<'a, D> {
    #[schemars(extend("const" = "1.0"))]
    specversion: &'static str,
    /// Derived from tenant, subject and sequence: the same event has it again after a crash.
    id: &'a str,
    #[schemars(extend("const" = SOURCE))]
    source: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    subject: &'a str,
    /// When it was decided; of a timer's event, when it was due.
    time: Shown<Timestamp>,
    #[schemars(extend("const" = "application/json"))]
    datacontenttype: &'static str,
    /// <account_id>.<organization_id>
    #[schemars(regex(pattern = TENANT_PATTERN))]
    tenantid: &'a str,
    #[schemars(extend("const" = "1"))]
    schemaversion: &'static str,
    /// From 1, without a gap, for each subject of a tenant. Take what is next and pass over the rest: what comes before its
    /// turn, because the broker has refused one before it, comes again in its turn.
    sequence: Shown<u64>,
    /// The id of the event that caused it.
    causationid: &'a str,
    /// W3C trace context of the event that caused it, if it had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    data: D,
}

/// `tenantid`: two ids, one spelling each.
pub(super) const TENANT_PATTERN: &str = "^[1-9][0-9]{0,15}\\.[1-9][0-9]{0,15}$";

/// What it is about, what is said, and when the timer really fired.
#[derive(Serialize, JsonSchema)]
#[schemars(inline)]
pub(super) struct Data<A, B> {
    #[serde(flatten)]
    about: A,
    #[serde(flatten)]
    body: B,
    /// When the timer really fired, if more than a second after it was due.
    #[serde(skip_serializing_if = "Option::is_none")]
    fired_at: Option<Shown<Timestamp>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum AboutFields {
    Report(AboutReport),
    Agent(AboutAgent),
    Organization(AboutOrganization),
}

#[derive(Serialize)]
#[serde(untagged)]
enum BodyFields<'a> {
    Triaged(Triaged<'a>),
    StatusChanged(StatusChanged<'a>),
    PhaseChanged(PhaseChanged),
    ResolutionRefused(ResolutionRefused<'a>),
    Reopened(Reopened),
    Bare(Bare),
    PassedOn(Map<String, Value>),
    RemediationStatusChanged(RemediationStatusChanged<'a>),
    RemediationVerified(RemediationVerified),
    AgentStatusChanged(AgentStatusChanged),
    IsolationChanged(IsolationChanged<'a>),
    IsolationDrifted(IsolationDrifted),
    Sla(Sla),
    FunnelUpdated(FunnelUpdated<'a>),
    Paged(Paged),
    RequestRefused(RequestRefused<'a>),
}

fn data(notice: &Notice) -> Data<AboutFields, BodyFields<'_>> {
    let about = match notice.about {
        About::Report { report, agent } => AboutFields::Report(AboutReport { incident_report_id: report, agent_id: agent }),
        About::Agent(agent) => AboutFields::Agent(AboutAgent { agent_id: agent }),
        About::Organization => AboutFields::Organization(AboutOrganization {}),
    };
    Data { about, body: body(&notice.body), fired_at: notice.fired_at.map(Shown) }
}

fn body(body: &Body) -> BodyFields<'_> {
    match body {
        Body::Triaged(triage) => BodyFields::Triaged(triage_fields(triage)),
        Body::StatusChanged { from, to, phase, cause, actor, counts, residual } => BodyFields::StatusChanged(StatusChanged {
            from: from.map(OneOf),
            to: OneOf(*to),
            phase: phase.map(OneOf),
            cause,
            actor: actor.as_ref().map(author),
            counts: counts_fields(*counts),
            residual: *residual,
        }),
        Body::PhaseChanged { from, to } => BodyFields::PhaseChanged(PhaseChanged { from: OneOf(*from), to: OneOf(*to) }),
        Body::ResolutionRefused { blockers } => {
            BodyFields::ResolutionRefused(ResolutionRefused { blockers: blockers.iter().map(blocker_fields).collect() })
        }
        Body::Reopened { cause, remediation_id } => {
            BodyFields::Reopened(Reopened { cause: OneOf(*cause), remediation_id: *remediation_id })
        }
        Body::ResolutionUnblocked | Body::ResidualCleared => BodyFields::Bare(Bare {}),
        Body::Updated(payload) | Body::CommentAdded(payload) | Body::SocSupportRequested(payload) => {
            BodyFields::PassedOn(passed_on(&payload.0))
        }
        Body::RemediationStatusChanged(change) => BodyFields::RemediationStatusChanged(change_fields(change)),
        Body::RemediationVerified { remediation_id, plan_revision } => {
            BodyFields::RemediationVerified(RemediationVerified { remediation_id: *remediation_id, plan_revision: *plan_revision })
        }
        Body::AgentStatusChanged { from, to } => {
            BodyFields::AgentStatusChanged(AgentStatusChanged { from: from.map(OneOf), to: OneOf(*to) })
        }
        Body::IsolationChanged { from, to, holders, reason, actor } => BodyFields::IsolationChanged(IsolationChanged {
            from: OneOf(*from),
            to: OneOf(*to),
            holders: holder_fields(holders),
            reason: reason.as_deref(),
            actor: actor.as_ref().map(author),
        }),
        Body::IsolationDrifted { holders } => BodyFields::IsolationDrifted(IsolationDrifted { holders: holder_fields(holders) }),
        Body::SlaWarning { severity, respond_by } | Body::SlaBreached { severity, respond_by } => {
            BodyFields::Sla(Sla { severity: OneOf(*severity), respond_by: Shown(*respond_by) })
        }
        Body::FunnelUpdated { period, month } => {
            let FunnelMonth { events_analysed, signals, signals_investigated, incidents_reported, counted_at: _ } = *month;
            BodyFields::FunnelUpdated(FunnelUpdated { period, events_analysed, signals, signals_investigated, incidents_reported })
        }
        Body::Paged { reason, severity, respond_by } => {
            BodyFields::Paged(Paged { reason: OneOf(*reason), severity: OneOf(*severity), respond_by: Shown(*respond_by) })
        }
        Body::RequestRefused { request_type, code, message } => {
            BodyFields::RequestRefused(RequestRefused { request_type, code: OneOf(*code), message })
        }
    }
}

/// The fields of an inbound `data`, without those that we say ourselves: no key may stand twice.
fn passed_on(payload: &str) -> Map<String, Value> {
    let mut fields: Map<String, Value> = serde_json::from_str(payload).unwrap_or_default();
    for ours in ["incident_report_id", "agent_id", "fired_at"] {
        fields.remove(ours);
    }
    fields
}

fn triage_fields(triage: &Triage) -> Triaged<'_> {
    Triaged {
        severity: OneOf(triage.severity),
        urgency: OneOf(triage.urgency),
        respond_by: Shown(triage.respond_by),
        finding: finding_fields(&triage.finding),
        plan_shape: OneOf(triage.plan_shape),
        next_action: OneOf(triage.next_action),
        isolation: triage.isolation.map(OneOf),
        containment_alone_enough: triage.containment_alone_enough,
    }
}

/// A triage block in the form in which it is published.
pub(crate) fn triage_form(triage: &Triage) -> impl Serialize + '_ {
    triage_fields(triage)
}

fn finding_fields(finding: &notice::Finding) -> Finding<'_> {
    Finding {
        attack_kind: OneOf(finding.attack_kind),
        subject: &finding.subject,
        summary: &finding.summary,
        indicator_types: &finding.indicator_types,
        hosts: &finding.hosts,
        identities: &finding.identities,
        footholds: finding.footholds.iter().map(foothold_fields).collect(),
    }
}

fn foothold_fields(foothold: &Foothold) -> FoundFoothold<'_> {
    FoundFoothold { id: &foothold.id, kind: &foothold.kind, description: &foothold.description, remediation_ids: &foothold.remediation_ids }
}

/// Whoever it is, the same shape: a reader that knows people needs no second form for what no person did.
fn author(author: &notice::Author) -> Author<'_> {
    let nobody = |role: AuthorRole, name| Author { id: None, name: Some(name), email: None, role: OneOf(role) };
    match author {
        notice::Author::Person(actor) => Author {
            id: Some(actor.id),
            name: actor.name.as_deref(),
            email: actor.email.as_deref(),
            role: OneOf(AuthorRole::Person(actor.role)),
        },
        notice::Author::Policy => nobody(AuthorRole::Policy, "policy"),
        notice::Author::Soc => nobody(AuthorRole::Soc, "soc"),
    }
}

fn holder_fields(holders: &[Holder]) -> Vec<HolderField> {
    let field = |holder: &Holder| match holder {
        Holder::Report(report) => HolderField::Report(*report),
        Holder::Manual => HolderField::Manual("manual"),
    };
    holders.iter().map(field).collect()
}

fn counts_fields(counts: Counts) -> CountsFields {
    let Counts { unapproved, open, completed, failed, cancelled, footholds_remaining } = counts;
    CountsFields { unapproved, open, completed, failed, cancelled, footholds_remaining }
}

fn blocker_fields(blocker: &Blocker) -> BlockerFields<'_> {
    let task = blocker.task.as_ref();
    BlockerFields {
        code: OneOf(blocker.code),
        remediation_id: task.map(|task| task.remediation_id),
        plan_revision: task.map(|task| task.plan_revision),
        action: task.map(|task| task.action.original()),
        state: task.map(|task| OneOf(task.state)),
        attempt: task.map(|task| task.attempt),
        max_attempts: task.map(|task| task.max_attempts),
        reason: task.and_then(|task| reason(&task.reason, task.state)),
        next_attempt_at: task.and_then(|task| task.next_attempt_at).map(Shown),
        deliver_by: task.and_then(|task| task.deliver_by).map(Shown),
        agent_id: blocker.agent_id,
        clears_by: blocker.clears_by(),
    }
}

/// Blockers in the form in which they are published.
pub(crate) fn blockers_form(blockers: &[Blocker]) -> impl Serialize + '_ {
    blockers.iter().map(blocker_fields).collect::<Vec<_>>()
}

fn change_fields(change: &RemediationChange) -> RemediationStatusChanged<'_> {
    RemediationStatusChanged {
        remediation_id: change.remediation_id,
        kind: OneOf(change.kind),
        action: change.action.original(),
        from: change.from.map(OneOf),
        to: OneOf(change.to),
        status: OneOf(change.to.status()),
        verified: change.verified,
        waived: change.waived,
        attempt: change.attempt,
        max_attempts: change.max_attempts,
        tries: change.tries,
        reason: reason(&change.reason, change.to),
        next_attempt_at: change.next_attempt_at.map(Shown),
        deliver_by: change.deliver_by.map(Shown),
        plan_revision: change.plan_revision,
        attempt_id: change.attempt_id.as_deref(),
    }
}

/// `cancelled` is one state on the wire; which cancellation it was is its reason.
fn reason(given: &Option<String>, state: State) -> Option<&str> {
    match state {
        State::Cancelled(cancellation) => Some(cancellation.as_str()),
        State::Unapproved
        | State::Queued
        | State::Held
        | State::Delivered
        | State::RetryWait
        | State::RebootPending
        | State::OutcomeUnknown
        | State::AwaitingHuman
        | State::Completed
        | State::Failed
        | State::Expired => given.as_deref(),
    }
}
