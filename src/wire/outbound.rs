//! From a notice to the bytes that are published: one structured CloudEvent per notice.
//!
//! Never here: a clock, randomness, hash maps. The bytes go into the commit, and a re-publication after a
//! crash must be the same bytes; fields stand in the order in which they are declared here.
//!
//! A key of `data` is there whether or not it has a value (`null`); only `fired_at` comes and goes.

use std::fmt::Display;

use serde::{Serialize, Serializer};
use serde_json::{Map, Value};

use crate::machine::notice::{About, Author, Blocker, Body, Counts, Finding, Notice, RemediationChange, Triage};
use crate::model::agent::Holder;
use crate::model::ids::{AgentId, RemediationId, ReportId, TenantId};
use crate::model::organization::FunnelMonth;
use crate::model::remediation::{State, Status};
use crate::model::report::Foothold;
use crate::model::time::Timestamp;

pub const CONTENT_TYPE: &str = "application/cloudevents+json";
pub const SOURCE: &str = "remedyd";

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
    let tenantid = tenant.to_string();
    let subject = match notice.about {
        About::Report { report, .. } => format!("incident_reports/{report}"),
        About::Agent(agent) => format!("agents/{agent}"),
        About::Organization => "organization".to_owned(),
    };
    let message_id = format!("{tenantid}:{subject}:{}", notice.sequence);
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
    // proven: every map key is a string and no Serialize of ours fails
    #[expect(clippy::expect_used, reason = "strings, integers and lists of them; no input can make it fail")]
    let body = serde_json::to_vec(&event).expect("an event of strings and integers is JSON");
    Outbound {
        routing_key: format!("{}.{tenantid}", notice.body.name()),
        message_id,
        content_type: CONTENT_TYPE,
        timestamp_s: u64::try_from(notice.time.as_second()).unwrap_or(0),
        body,
        tenantid,
    }
}

#[derive(Serialize)]
struct Event<'a> {
    specversion: &'static str,
    id: &'a str,
    source: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    subject: &'a str,
    time: Shown<Timestamp>,
    datacontenttype: &'static str,
    tenantid: &'a str,
    schemaversion: &'static str,
    sequence: Shown<u64>,
    causationid: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    data: Data<'a>,
}

/// As its text: times are UTC with `Z`, `sequence` is a decimal string.
struct Shown<T>(T);

impl<T: Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// What it is about, what is said, and when the timer really fired.
#[derive(Serialize)]
struct Data<'a> {
    #[serde(flatten)]
    about: AboutFields,
    #[serde(flatten)]
    body: BodyFields<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fired_at: Option<Shown<Timestamp>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum AboutFields {
    Report { incident_report_id: ReportId, agent_id: Option<AgentId> },
    Agent { agent_id: AgentId },
    Organization {},
}

#[derive(Serialize)]
#[serde(untagged)]
enum BodyFields<'a> {
    Triaged(TriageFields<'a>),
    StatusChanged {
        from: Option<&'static str>,
        to: &'static str,
        phase: Option<&'static str>,
        cause: &'static str,
        actor: Option<ActorFields<'a>>,
        counts: CountsFields,
        residual: Option<u32>,
    },
    PhaseChanged {
        from: &'static str,
        to: &'static str,
    },
    ResolutionRefused {
        blockers: Vec<BlockerFields<'a>>,
    },
    Reopened {
        cause: &'static str,
        remediation_id: Option<RemediationId>,
    },
    /// The event is all there is to say.
    Bare {},
    PassedOn(Map<String, Value>),
    RemediationStatusChanged(ChangeFields<'a>),
    RemediationVerified {
        remediation_id: RemediationId,
        plan_revision: u64,
    },
    AgentStatusChanged {
        from: Option<&'static str>,
        to: &'static str,
    },
    IsolationChanged {
        from: &'static str,
        to: &'static str,
        holders: Vec<HolderField>,
        reason: Option<&'a str>,
        actor: Option<ActorFields<'a>>,
    },
    IsolationDrifted {
        holders: Vec<HolderField>,
    },
    Sla {
        severity: &'static str,
        respond_by: Shown<Timestamp>,
    },
    FunnelUpdated {
        period: &'a str,
        events_analysed: u64,
        signals: u64,
        signals_investigated: u64,
        incidents_reported: u64,
    },
    Paged {
        reason: &'static str,
        severity: &'static str,
        respond_by: Shown<Timestamp>,
    },
    RequestRefused {
        request_type: &'static str,
        code: &'static str,
        message: &'a str,
    },
}

fn data(notice: &Notice) -> Data<'_> {
    let about = match notice.about {
        About::Report { report, agent } => AboutFields::Report { incident_report_id: report, agent_id: agent },
        About::Agent(agent) => AboutFields::Agent { agent_id: agent },
        About::Organization => AboutFields::Organization {},
    };
    Data { about, body: body(&notice.body), fired_at: notice.fired_at.map(Shown) }
}

fn body(body: &Body) -> BodyFields<'_> {
    match body {
        Body::Triaged(triage) => BodyFields::Triaged(triage_fields(triage)),
        Body::StatusChanged { from, to, phase, cause, actor, counts, residual } => BodyFields::StatusChanged {
            from: from.map(|status| status.as_str()),
            to: to.as_str(),
            phase: phase.map(|phase| phase.as_str()),
            cause,
            actor: actor.as_ref().map(actor_fields),
            counts: counts_fields(*counts),
            residual: *residual,
        },
        Body::PhaseChanged { from, to } => BodyFields::PhaseChanged { from: from.as_str(), to: to.as_str() },
        Body::ResolutionRefused { blockers } => BodyFields::ResolutionRefused { blockers: blockers.iter().map(blocker_fields).collect() },
        Body::Reopened { cause, remediation_id } => BodyFields::Reopened { cause: cause.as_str(), remediation_id: *remediation_id },
        Body::ResolutionUnblocked | Body::ResidualCleared => BodyFields::Bare {},
        Body::Updated(payload) | Body::CommentAdded(payload) | Body::SocSupportRequested(payload) => {
            BodyFields::PassedOn(passed_on(&payload.0))
        }
        Body::RemediationStatusChanged(change) => BodyFields::RemediationStatusChanged(change_fields(change)),
        Body::RemediationVerified { remediation_id, plan_revision } => {
            BodyFields::RemediationVerified { remediation_id: *remediation_id, plan_revision: *plan_revision }
        }
        Body::AgentStatusChanged { from, to } => {
            BodyFields::AgentStatusChanged { from: from.map(|presence| presence.as_str()), to: to.as_str() }
        }
        Body::IsolationChanged { from, to, holders, reason, actor } => BodyFields::IsolationChanged {
            from: from.as_str(),
            to: to.as_str(),
            holders: holder_fields(holders),
            reason: reason.as_deref(),
            actor: actor.as_ref().map(actor_fields),
        },
        Body::IsolationDrifted { holders } => BodyFields::IsolationDrifted { holders: holder_fields(holders) },
        Body::SlaWarning { severity, respond_by } | Body::SlaBreached { severity, respond_by } => {
            BodyFields::Sla { severity: severity.as_str(), respond_by: Shown(*respond_by) }
        }
        Body::FunnelUpdated { period, month } => {
            let FunnelMonth { events_analysed, signals, signals_investigated, incidents_reported, counted_at: _ } = *month;
            BodyFields::FunnelUpdated { period, events_analysed, signals, signals_investigated, incidents_reported }
        }
        Body::Paged { reason, severity, respond_by } => {
            BodyFields::Paged { reason: reason.as_str(), severity: severity.as_str(), respond_by: Shown(*respond_by) }
        }
        Body::RequestRefused { request_type, code, message } => BodyFields::RequestRefused { request_type, code: code.as_str(), message },
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

#[derive(Serialize)]
struct TriageFields<'a> {
    severity: &'static str,
    urgency: &'static str,
    respond_by: Shown<Timestamp>,
    finding: FindingFields<'a>,
    plan_shape: &'static str,
    next_action: &'static str,
    isolation: Option<&'static str>,
    containment_alone_enough: bool,
}

#[derive(Serialize)]
struct FindingFields<'a> {
    attack_kind: &'static str,
    subject: &'a str,
    summary: &'a str,
    indicator_types: &'a [String],
    hosts: &'a [String],
    identities: &'a [String],
    footholds: Vec<FootholdFields<'a>>,
}

#[derive(Serialize)]
struct FootholdFields<'a> {
    id: &'a str,
    kind: &'a str,
    description: &'a str,
    remediation_ids: &'a [RemediationId],
}

fn triage_fields(triage: &Triage) -> TriageFields<'_> {
    TriageFields {
        severity: triage.severity.as_str(),
        urgency: triage.urgency.as_str(),
        respond_by: Shown(triage.respond_by),
        finding: finding_fields(&triage.finding),
        plan_shape: triage.plan_shape.as_str(),
        next_action: triage.next_action.as_str(),
        isolation: triage.isolation.map(|status| status.as_str()),
        containment_alone_enough: triage.containment_alone_enough,
    }
}

/// A triage block in the form in which it is published.
pub(crate) fn triage_form(triage: &Triage) -> impl Serialize + '_ {
    triage_fields(triage)
}

fn finding_fields(finding: &Finding) -> FindingFields<'_> {
    FindingFields {
        attack_kind: finding.attack_kind.as_str(),
        subject: &finding.subject,
        summary: &finding.summary,
        indicator_types: &finding.indicator_types,
        hosts: &finding.hosts,
        identities: &finding.identities,
        footholds: finding.footholds.iter().map(foothold_fields).collect(),
    }
}

fn foothold_fields(foothold: &Foothold) -> FootholdFields<'_> {
    FootholdFields {
        id: &foothold.id,
        kind: &foothold.kind,
        description: &foothold.description,
        remediation_ids: &foothold.remediation_ids,
    }
}

/// Whoever it is, the same shape: a reader that knows people needs no second form for what no person did.
#[derive(Serialize)]
struct ActorFields<'a> {
    id: Option<u64>,
    name: Option<&'a str>,
    email: Option<&'a str>,
    role: &'static str,
}

fn actor_fields(author: &Author) -> ActorFields<'_> {
    let nobody = |name| ActorFields { id: None, name: Some(name), email: None, role: name };
    match author {
        Author::Person(actor) => {
            ActorFields { id: Some(actor.id), name: actor.name.as_deref(), email: actor.email.as_deref(), role: actor.role.as_str() }
        }
        Author::Policy => nobody("policy"),
        Author::Soc => nobody("soc"),
    }
}

/// A report by its id, or `"manual"`.
#[derive(Serialize)]
#[serde(untagged)]
enum HolderField {
    Report(ReportId),
    Manual(&'static str),
}

fn holder_fields(holders: &[Holder]) -> Vec<HolderField> {
    let field = |holder: &Holder| match holder {
        Holder::Report(report) => HolderField::Report(*report),
        Holder::Manual => HolderField::Manual("manual"),
    };
    holders.iter().map(field).collect()
}

#[derive(Serialize)]
struct CountsFields {
    unapproved: u32,
    open: u32,
    completed: u32,
    failed: u32,
    cancelled: u32,
    footholds_remaining: u32,
}

fn counts_fields(counts: Counts) -> CountsFields {
    let Counts { unapproved, open, completed, failed, cancelled, footholds_remaining } = counts;
    CountsFields { unapproved, open, completed, failed, cancelled, footholds_remaining }
}

/// Flat: a blocker of the whole report has `null` for what is said of a task.
#[derive(Serialize)]
struct BlockerFields<'a> {
    code: &'static str,
    remediation_id: Option<RemediationId>,
    plan_revision: Option<u64>,
    action: Option<&'a str>,
    state: Option<&'static str>,
    attempt: Option<u32>,
    max_attempts: Option<u32>,
    reason: Option<&'a str>,
    next_attempt_at: Option<Shown<Timestamp>>,
    deliver_by: Option<Shown<Timestamp>>,
    agent_id: Option<AgentId>,
    clears_by: &'static str,
}

fn blocker_fields(blocker: &Blocker) -> BlockerFields<'_> {
    let task = blocker.task.as_ref();
    BlockerFields {
        code: blocker.code.as_str(),
        remediation_id: task.map(|task| task.remediation_id),
        plan_revision: task.map(|task| task.plan_revision),
        action: task.map(|task| task.action.original()),
        state: task.map(|task| task.state.as_str()),
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

#[derive(Serialize)]
struct ChangeFields<'a> {
    remediation_id: RemediationId,
    #[serde(rename = "type")]
    kind: &'static str,
    action: &'a str,
    from: Option<&'static str>,
    to: &'static str,
    status: &'static str,
    verified: bool,
    waived: bool,
    attempt: u32,
    max_attempts: u32,
    tries: u32,
    reason: Option<&'a str>,
    next_attempt_at: Option<Shown<Timestamp>>,
    deliver_by: Option<Shown<Timestamp>>,
    plan_revision: u64,
    attempt_id: Option<&'a str>,
}

fn change_fields(change: &RemediationChange) -> ChangeFields<'_> {
    ChangeFields {
        remediation_id: change.remediation_id,
        kind: change.kind.as_str(),
        action: change.action.original(),
        from: change.from.map(|state| state.as_str()),
        to: change.to.as_str(),
        status: status(change.to.status()),
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

fn status(status: Status) -> &'static str {
    match status {
        Status::Unapproved => "unapproved",
        Status::Approved => "approved",
        Status::Completed => "completed",
        Status::Failed => "failed",
        Status::Cancelled => "cancelled",
    }
}
