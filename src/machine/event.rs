//! What can happen: inbound events as the wire has parsed them, and those from inside (timers, outcomes, recovery).

use crate::model::actor::Actor;
use crate::model::agent::Survey;
use crate::model::ids::{AgentId, RemediationId, ReportId, SubjectKey, TenantId};
use crate::model::remediation::{ActionName, OutcomeCode, Parameters, RemediationType};
use crate::model::report::{AttackKind, Foothold, Identity, ReportText, Severity};
use crate::model::time::Timestamp;

/// One event of one tenant.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// CloudEvents `id`; becomes the `causationid` of what results.
    pub id: String,
    pub tenant: TenantId,
    /// When it happened, by its producer's clock. Decides order; arrival never does.
    pub time: Timestamp,
    /// W3C `traceparent`, carried through.
    pub traceparent: Option<String>,
    pub kind: EventKind,
}

/// Every type of messages.md that this version applies, and the three kinds from inside.
#[derive(Debug, Clone, PartialEq)]
pub enum EventKind {
    ReportCreated(Box<NewReport>),
    ReportRevised(Box<Revision>),
    ReportUpdated(Box<ReportUpdate>),
    CommentAdded {
        report: ReportId,
        data: Payload,
    },
    Approved(PlanDecision),
    Rejected {
        decision: PlanDecision,
        comment: String,
    },
    ManualCompleted(TaskRequest),
    ManualUncompleted(TaskRequest),
    RetryRequested(TaskRequest),
    CancelRequested(TaskRequest),
    ResolutionRequested(ReportRequest),
    Surveyed(Survey),
    /// The outcome of an attempt, from the executor.
    AttemptEnded(AttemptEnd),
    /// The subject's timer is due (its time is the time it was due at).
    TimerDue,
    /// After a start: every attempt found open has lost its agent (T12).
    Recovered,
    /// A parked event's time is over (R19).
    ParkingEnded(Box<Event>),
}

impl EventKind {
    /// The wire name; those from inside are named after what they are.
    pub fn name(&self) -> &'static str {
        match self {
            EventKind::ReportCreated(_) => "incident_report.created",
            EventKind::ReportRevised(_) => "incident_report.revised",
            EventKind::ReportUpdated(_) => "incident_report.updated",
            EventKind::CommentAdded { .. } => "incident_report.comment_added",
            EventKind::Approved(_) => "remediations.approved",
            EventKind::Rejected { .. } => "remediations.rejected",
            EventKind::ManualCompleted(_) => "remediation.completed",
            EventKind::ManualUncompleted(_) => "remediation.uncompleted",
            EventKind::RetryRequested(_) => "remediation.retry_requested",
            EventKind::CancelRequested(_) => "remediation.cancel_requested",
            EventKind::ResolutionRequested(_) => "incident_report.resolution_requested",
            EventKind::Surveyed(_) => "agent.surveyed",
            EventKind::AttemptEnded(_) => "remediation.attempted",
            EventKind::TimerDue => "timer.due",
            EventKind::Recovered => "service.recovered",
            EventKind::ParkingEnded(_) => "parking.ended",
        }
    }

    /// The person behind it, where there is one.
    pub fn actor(&self) -> Option<&Actor> {
        match self {
            EventKind::Approved(decision) | EventKind::Rejected { decision, .. } => Some(&decision.actor),
            EventKind::ManualCompleted(request)
            | EventKind::ManualUncompleted(request)
            | EventKind::RetryRequested(request)
            | EventKind::CancelRequested(request) => Some(&request.actor),
            EventKind::ResolutionRequested(request) => Some(&request.actor),
            EventKind::ReportCreated(_)
            | EventKind::ReportRevised(_)
            | EventKind::ReportUpdated(_)
            | EventKind::CommentAdded { .. }
            | EventKind::Surveyed(_)
            | EventKind::AttemptEnded(_)
            | EventKind::TimerDue
            | EventKind::Recovered => None,
            EventKind::ParkingEnded(event) => event.kind.actor(),
        }
    }

    /// What the event is about, as far as it says so itself.
    pub fn address(&self) -> Address {
        match self {
            EventKind::ReportCreated(new) => Address::NewReport { report: new.id, subject: new.subject_key() },
            EventKind::ReportRevised(revision) => Address::Report(revision.report),
            EventKind::ReportUpdated(update) => Address::Report(update.report),
            EventKind::CommentAdded { report, .. } => Address::Report(*report),
            EventKind::Approved(decision) | EventKind::Rejected { decision, .. } => Address::Report(decision.report),
            EventKind::ManualCompleted(request)
            | EventKind::ManualUncompleted(request)
            | EventKind::RetryRequested(request)
            | EventKind::CancelRequested(request) => Address::Report(request.report),
            EventKind::ResolutionRequested(request) => Address::Report(request.report),
            EventKind::Surveyed(survey) => Address::Subject(SubjectKey::Agent(survey.agent_id)),
            EventKind::AttemptEnded(end) => Address::Report(end.report),
            EventKind::TimerDue | EventKind::Recovered => Address::Given,
            EventKind::ParkingEnded(event) => event.kind.address(),
        }
    }
}

/// How an event names its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Address {
    /// The subject that the report belongs to, by the index.
    Report(ReportId),
    /// A new report and the subject it will belong to, unless the report is known already.
    NewReport {
        report: ReportId,
        subject: SubjectKey,
    },
    Subject(SubjectKey),
    /// The engine raised it for a subject that it holds.
    Given,
}

/// A JSON object kept as text and passed on unread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload(pub String);

/// An item of a plan, as issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanItem {
    pub id: RemediationId,
    pub kind: RemediationType,
    pub action: ActionName,
    pub parameters: Parameters,
    pub simulate: Vec<OutcomeCode>,
}

/// `incident_report.created`, status `sent`, with a complete plan of unique ids and fingerprints.
#[derive(Debug, Clone, PartialEq)]
pub struct NewReport {
    pub id: ReportId,
    pub agent_id: Option<AgentId>,
    pub identity: Option<Identity>,
    pub platform: String,
    pub hostname: Option<String>,
    pub severity: Severity,
    pub attack_kind: AttackKind,
    pub text: ReportText,
    pub simulated: bool,
    pub isolate_host: bool,
    pub plan_revision: u64,
    pub items: Vec<PlanItem>,
    pub footholds: Vec<Foothold>,
    pub sent_at: Timestamp,
    pub updated_at: Timestamp,
    pub status_updated_at: Timestamp,
}

impl NewReport {
    /// Agent, else identity, else the report itself (lifecycle.md, Remediation).
    pub fn subject_key(&self) -> SubjectKey {
        match (self.agent_id, &self.identity) {
            (Some(agent), _) => SubjectKey::Agent(agent),
            (None, Some(identity)) => SubjectKey::Identity(identity.id),
            (None, None) => SubjectKey::Report(self.id),
        }
    }
}

/// `incident_report.revised`.
#[derive(Debug, Clone, PartialEq)]
pub struct Revision {
    pub report: ReportId,
    pub plan_revision: u64,
    pub items: Vec<PlanItem>,
    /// `None`: the links of the known footholds move by fingerprint.
    pub footholds: Option<Vec<Foothold>>,
    pub comment: Option<String>,
}

/// `incident_report.updated`: the changed fields that the service knows, and all of them to pass on.
#[derive(Debug, Clone, PartialEq)]
pub struct ReportUpdate {
    pub report: ReportId,
    /// `updated_at`, else `status_updated_at`, else the event's time.
    pub updated_at: Timestamp,
    pub severity: Option<Severity>,
    pub subject: Option<String>,
    pub summary: Option<String>,
    pub body: Option<String>,
    pub data: Payload,
}

/// The common part of `remediations.approved` and `.rejected`.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanDecision {
    pub report: ReportId,
    pub plan_revision: u64,
    /// `None`: all unapproved ones.
    pub remediations: Option<Vec<RemediationId>>,
    pub actor: Actor,
}

/// A request about one remediation of the current plan.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskRequest {
    pub report: ReportId,
    pub remediation: RemediationId,
    pub reason: Option<String>,
    pub actor: Actor,
}

/// A request about a whole report.
#[derive(Debug, Clone, PartialEq)]
pub struct ReportRequest {
    pub report: ReportId,
    pub reason: Option<String>,
    pub actor: Actor,
}

/// `remediation.attempted`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptEnd {
    pub report: ReportId,
    /// The plan revision of the item.
    pub revision: u64,
    pub remediation: RemediationId,
    pub attempt_id: String,
    pub code: OutcomeCode,
    pub tries: u32,
}
