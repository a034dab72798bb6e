//! What can happen: inbound events as the wire has parsed them, and those from inside (timers, outcomes, recovery).

use std::sync::Arc;

use crate::model::actor::Actor;
use crate::model::agent::Survey;
use crate::model::ids::{AgentId, RemediationId, ReportId, SubjectKey, TenantId};
use crate::model::organization::SlaSettings;
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

/// Every type of messages.md that this version applies, and the kinds from inside.
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
    /// The SOC has withdrawn it.
    ReportDismissed {
        report: ReportId,
        reason: Option<String>,
    },
    /// It was closed upstream.
    ReportClosed {
        report: ReportId,
        status_updated_at: Timestamp,
    },
    Waived(TaskRequest),
    ResolutionRequested(ReportRequest),
    DismissalRequested(ReportRequest),
    ReopenRequested(ReportRequest),
    SocSupportRequested {
        request: ReportRequest,
        data: Payload,
    },
    IsolationRequested(AgentRequest),
    ReleaseRequested(AgentRequest),
    AgentRemoved {
        agent: AgentId,
        reason: Option<String>,
    },
    OrganizationUpdated(Box<SettingsChange>),
    OrganizationDeleted,
    FunnelCounted(FunnelCount),
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
            EventKind::ReportDismissed { .. } => "incident_report.dismissed",
            EventKind::ReportClosed { .. } => "incident_report.closed",
            EventKind::Waived(_) => "remediation.waived",
            EventKind::ResolutionRequested(_) => "incident_report.resolution_requested",
            EventKind::DismissalRequested(_) => "incident_report.dismissal_requested",
            EventKind::ReopenRequested(_) => "incident_report.reopen_requested",
            EventKind::SocSupportRequested { .. } => "soc_support.requested",
            EventKind::IsolationRequested(_) => "agent.isolation_requested",
            EventKind::ReleaseRequested(_) => "agent.release_requested",
            EventKind::AgentRemoved { .. } => "agent.removed",
            EventKind::OrganizationUpdated(_) => "organization.updated",
            EventKind::OrganizationDeleted => "organization.deleted",
            EventKind::FunnelCounted(_) => "funnel.counted",
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
            | EventKind::CancelRequested(request)
            | EventKind::Waived(request) => Some(&request.actor),
            EventKind::ResolutionRequested(request)
            | EventKind::DismissalRequested(request)
            | EventKind::ReopenRequested(request)
            | EventKind::SocSupportRequested { request, .. } => Some(&request.actor),
            EventKind::IsolationRequested(request) | EventKind::ReleaseRequested(request) => Some(&request.actor),
            EventKind::ReportCreated(_)
            | EventKind::ReportRevised(_)
            | EventKind::ReportUpdated(_)
            | EventKind::CommentAdded { .. }
            | EventKind::ReportDismissed { .. }
            | EventKind::ReportClosed { .. }
            | EventKind::AgentRemoved { .. }
            | EventKind::OrganizationUpdated(_)
            | EventKind::OrganizationDeleted
            | EventKind::FunnelCounted(_)
            | EventKind::Surveyed(_)
            | EventKind::AttemptEnded(_)
            | EventKind::TimerDue
            | EventKind::Recovered => None,
            EventKind::ParkingEnded(event) => event.kind.actor(),
        }
    }

    /// The long text that a report has from now on, if the event is applied.
    pub fn narrative(&self) -> Option<(ReportId, &str)> {
        match self {
            EventKind::ReportCreated(new) => Some((new.id, &new.body)),
            EventKind::ReportUpdated(update) => Some((update.report, update.body.as_deref()?)),
            EventKind::ParkingEnded(event) => event.kind.narrative(),
            _ => None,
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
            | EventKind::CancelRequested(request)
            | EventKind::Waived(request) => Address::Report(request.report),
            EventKind::ResolutionRequested(request)
            | EventKind::DismissalRequested(request)
            | EventKind::ReopenRequested(request)
            | EventKind::SocSupportRequested { request, .. } => Address::Report(request.report),
            EventKind::ReportDismissed { report, .. } | EventKind::ReportClosed { report, .. } => Address::Report(*report),
            EventKind::IsolationRequested(request) | EventKind::ReleaseRequested(request) => {
                Address::Subject(SubjectKey::Agent(request.agent))
            }
            EventKind::AgentRemoved { agent, .. } => Address::Subject(SubjectKey::Agent(*agent)),
            EventKind::OrganizationUpdated(_) | EventKind::OrganizationDeleted | EventKind::FunnelCounted(_) => Address::Organization,
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
    /// The tenant as a whole; see `machine::organization`.
    Organization,
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
    pub parameters: Arc<Parameters>,
    pub simulate: Arc<[OutcomeCode]>,
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
    pub text: Arc<ReportText>,
    /// No rule looks at it.
    pub body: String,
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

/// A request about an agent's isolation.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentRequest {
    pub agent: AgentId,
    pub reason: Option<String>,
    /// Release although a holding report is not ready (I6); needs a reason.
    pub force: bool,
    pub actor: Actor,
}

/// `organization.updated`: what it names is set, the rest stays.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SettingsChange {
    /// A zone of the IANA database.
    pub time_zone: Option<String>,
    /// Opening and closing, in minutes after midnight, and the working days, Monday first.
    pub business_hours: Option<(u16, u16, [bool; 7])>,
    pub managed_low: Option<bool>,
    pub managed_high: Option<bool>,
    pub managed_critical: Option<bool>,
    /// 2 to 90.
    pub unresponsive_after_days: Option<u16>,
    pub release_on_resolve: Option<bool>,
    pub auto_close_when_footholds_cleared: Option<bool>,
    pub close_on_agent_removed: Option<bool>,
    pub resolve_when_unblocked: Option<bool>,
    pub sla: Option<SlaSettings>,
}

/// `funnel.counted`: the upper three counts of a month; the fourth is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunnelCount {
    /// `2026-11`
    pub period: String,
    pub events_analysed: u64,
    pub signals: u64,
    pub signals_investigated: u64,
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
