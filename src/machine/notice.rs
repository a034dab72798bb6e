//! What is published: one notice is one outbound event, typed and numbered, before it becomes JSON.

use crate::model::actor::Actor;
use crate::model::agent::{FirewallStatus, Holder, Presence};
use crate::model::ids::{AgentId, RemediationId, ReportId};
use crate::model::organization::FunnelMonth;
use crate::model::remediation::{ActionName, RemediationType, State};
use crate::model::report::{AttackKind, Foothold, Phase, ReportStatus, Severity};
use crate::model::time::Timestamp;

use super::event::Payload;

/// What an outbound event is about: its `subject`, and what its `sequence` counts per.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum About {
    Report { report: ReportId, agent: Option<AgentId> },
    Agent(AgentId),
    Organization,
}

/// One outbound event. Tenant, cause and trace context are those of the event that was decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Notice {
    pub about: About,
    /// Per (tenant, subject), from 1, gapless.
    pub sequence: u64,
    /// When it was decided; for a timer, when it was due.
    pub time: Timestamp,
    /// When a timer really fired, if more than a second after it was due.
    pub fired_at: Option<Timestamp>,
    /// Id of the event behind it.
    pub cause: String,
    pub traceparent: Option<String>,
    pub body: Body,
}

/// The outbound types of messages.md that this version publishes.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    Triaged(Box<Triage>),
    StatusChanged {
        from: Option<ReportStatus>,
        to: ReportStatus,
        phase: Option<Phase>,
        cause: &'static str,
        actor: Option<Author>,
        counts: Counts,
        /// Approved tasks that go on although the report was closed upstream (R13).
        residual: Option<u32>,
    },
    PhaseChanged {
        from: Phase,
        to: Phase,
    },
    ResolutionRefused {
        blockers: Vec<Blocker>,
    },
    ResolutionUnblocked,
    Reopened {
        cause: ReopenCause,
        remediation_id: Option<RemediationId>,
    },
    ResidualCleared,
    /// The inbound event of the same name, in the report's sequence.
    Updated(Payload),
    CommentAdded(Payload),
    SocSupportRequested(Payload),
    RemediationStatusChanged(Box<RemediationChange>),
    RemediationVerified {
        remediation_id: RemediationId,
        plan_revision: u64,
    },
    AgentStatusChanged {
        from: Option<Presence>,
        to: Presence,
    },
    IsolationChanged {
        from: FirewallStatus,
        to: FirewallStatus,
        holders: Vec<Holder>,
        reason: Option<String>,
        actor: Option<Author>,
    },
    IsolationDrifted {
        holders: Vec<Holder>,
    },
    SlaWarning {
        severity: Severity,
        respond_by: Timestamp,
    },
    SlaBreached {
        severity: Severity,
        respond_by: Timestamp,
    },
    FunnelUpdated {
        period: String,
        month: FunnelMonth,
    },
    Paged {
        reason: PageReason,
        severity: Severity,
        respond_by: Timestamp,
    },
    RequestRefused {
        request_type: &'static str,
        code: RefusalCode,
        message: String,
    },
}

impl Body {
    /// The outbound `type`.
    pub fn name(&self) -> &'static str {
        match self {
            Body::Triaged(_) => "incident_report.triaged",
            Body::StatusChanged { .. } => "incident_report.status_changed",
            Body::PhaseChanged { .. } => "incident_report.phase_changed",
            Body::ResolutionRefused { .. } => "incident_report.resolution_refused",
            Body::ResolutionUnblocked => "incident_report.resolution_unblocked",
            Body::Reopened { .. } => "incident_report.reopened",
            Body::ResidualCleared => "incident_report.residual_cleared",
            Body::SocSupportRequested(_) => "soc_support.requested",
            Body::RemediationVerified { .. } => "remediation.verified",
            Body::IsolationChanged { .. } => "agent.isolation_changed",
            Body::IsolationDrifted { .. } => "agent.isolation_drifted",
            Body::SlaWarning { .. } => "sla.warning",
            Body::SlaBreached { .. } => "sla.breached",
            Body::FunnelUpdated { .. } => "funnel.updated",
            Body::Updated(_) => "incident_report.updated",
            Body::CommentAdded(_) => "incident_report.comment_added",
            Body::RemediationStatusChanged(_) => "remediation.status_changed",
            Body::AgentStatusChanged { .. } => "agent.status_changed",
            Body::Paged { .. } => "on_call.paged",
            Body::RequestRefused { .. } => "request.refused",
        }
    }
}

/// Who is behind a change.
#[derive(Debug, Clone, PartialEq)]
pub enum Author {
    Person(Actor),
    /// A rule that the organization has switched on (managed response, auto-close, resolve when unblocked).
    Policy,
    /// The SOC.
    Soc,
}

/// Why a report was opened again (R16).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReopenCause {
    Requested,
    FootholdReturned,
    ResidualFailed,
}

impl ReopenCause {
    pub fn as_str(self) -> &'static str {
        match self {
            ReopenCause::Requested => "requested",
            ReopenCause::FootholdReturned => "foothold_returned",
            ReopenCause::ResidualFailed => "residual_failed",
        }
    }
}

/// The helpdesk's four questions (mission.md).
#[derive(Debug, Clone, PartialEq)]
pub struct Triage {
    pub severity: Severity,
    pub urgency: Urgency,
    pub respond_by: Timestamp,
    pub finding: Finding,
    pub plan_shape: PlanShape,
    pub next_action: NextAction,
    /// `None` where there is no host.
    pub isolation: Option<FirewallStatus>,
    /// No foothold is left to come back by.
    pub containment_alone_enough: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Finding {
    pub attack_kind: AttackKind,
    pub subject: String,
    pub summary: String,
    pub indicator_types: Vec<String>,
    pub hosts: Vec<String>,
    pub identities: Vec<String>,
    pub footholds: Vec<Foothold>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    PageNow,
    WithinHour,
    BusinessDay,
}

impl Urgency {
    pub fn as_str(self) -> &'static str {
        match self {
            Urgency::PageNow => "page_now",
            Urgency::WithinHour => "within_hour",
            Urgency::BusinessDay => "business_day",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanShape {
    Assisted,
    Manual,
    Both,
    None,
}

impl PlanShape {
    pub fn as_str(self) -> &'static str {
        match self {
            PlanShape::Assisted => "assisted",
            PlanShape::Manual => "manual",
            PlanShape::Both => "both",
            PlanShape::None => "none",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextAction {
    ReadReport,
    ReviewPlan,
    WalkManualSteps,
    Acknowledge,
}

impl NextAction {
    pub fn as_str(self) -> &'static str {
        match self {
            NextAction::ReadReport => "read_report",
            NextAction::ReviewPlan => "review_plan",
            NextAction::WalkManualSteps => "walk_manual_steps",
            NextAction::Acknowledge => "acknowledge",
        }
    }
}

/// `counts` of `incident_report.status_changed`: items of the current plan by what is left to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    pub unapproved: u32,
    /// Approved and not ended.
    pub open: u32,
    pub completed: u32,
    /// Failed or expired.
    pub failed: u32,
    pub cancelled: u32,
    pub footholds_remaining: u32,
}

/// One thing between a report and its closing.
#[derive(Debug, Clone, PartialEq)]
pub struct Blocker {
    pub code: BlockerCode,
    /// The rest is there where the blocker is about one remediation.
    pub task: Option<BlockedTask>,
    pub agent_id: Option<AgentId>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct BlockedTask {
    pub remediation_id: RemediationId,
    pub plan_revision: u64,
    pub action: ActionName,
    pub state: State,
    pub attempt: u32,
    pub max_attempts: u32,
    pub reason: Option<String>,
    pub next_attempt_at: Option<Timestamp>,
    pub deliver_by: Option<Timestamp>,
}

/// In the order in which the first match is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlockerCode {
    RoleNotAllowed,
    NotActive,
    InRevision,
    NotReviewed,
    TaskFailed,
    TaskExpired,
    TaskCancelled,
    TaskOutcomeUnknown,
    RebootPending,
    AgentUnresponsive,
    TaskPending,
}

impl BlockerCode {
    pub fn as_str(self) -> &'static str {
        match self {
            BlockerCode::RoleNotAllowed => "role_not_allowed",
            BlockerCode::NotActive => "not_active",
            BlockerCode::InRevision => "in_revision",
            BlockerCode::NotReviewed => "not_reviewed",
            BlockerCode::TaskFailed => "task_failed",
            BlockerCode::TaskExpired => "task_expired",
            BlockerCode::TaskCancelled => "task_cancelled",
            BlockerCode::TaskOutcomeUnknown => "task_outcome_unknown",
            BlockerCode::RebootPending => "reboot_pending",
            BlockerCode::AgentUnresponsive => "agent_unresponsive",
            BlockerCode::TaskPending => "task_pending",
        }
    }
}

impl Blocker {
    /// Who or what can clear it.
    pub fn clears_by(&self) -> &'static str {
        match self.code {
            BlockerCode::RoleNotAllowed => "a request by an admin or security_engineer",
            BlockerCode::NotActive => "the report becoming active again (a reopen request within 30 days)",
            BlockerCode::InRevision => "the SOC issuing a revised plan",
            BlockerCode::NotReviewed => "approval or rejection by an admin, security_engineer or user",
            BlockerCode::TaskFailed | BlockerCode::TaskExpired | BlockerCode::TaskCancelled => {
                "a retry by an admin, security_engineer or user, a waiver by an admin, or a revised plan"
            }
            BlockerCode::TaskOutcomeUnknown | BlockerCode::TaskPending if self.agent_id.is_none() => {
                "the next attempt, which is made without an agent"
            }
            BlockerCode::TaskOutcomeUnknown => "the agent's next survey",
            BlockerCode::RebootPending => "a reboot of the host, or a waiver by an admin",
            BlockerCode::AgentUnresponsive => "the agent surveying again",
            BlockerCode::TaskPending => "the agent running it at a survey",
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct RemediationChange {
    pub remediation_id: RemediationId,
    pub kind: RemediationType,
    pub action: ActionName,
    pub from: Option<State>,
    pub to: State,
    pub verified: bool,
    pub waived: bool,
    pub attempt: u32,
    pub max_attempts: u32,
    pub tries: u32,
    pub reason: Option<String>,
    pub next_attempt_at: Option<Timestamp>,
    pub deliver_by: Option<Timestamp>,
    pub plan_revision: u64,
    /// There while an attempt is open.
    pub attempt_id: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageReason {
    /// A critical report arrived, or became one.
    CriticalReport,
    /// Nobody has acted on a critical report yet.
    NotActedOn,
    /// The time to respond to a high report is over.
    SlaBreached,
    /// The host of a critical report could not be isolated (I4).
    IsolationFailed,
}

impl PageReason {
    pub fn as_str(self) -> &'static str {
        match self {
            PageReason::CriticalReport => "critical_report",
            PageReason::NotActedOn => "not_acted_on",
            PageReason::SlaBreached => "sla_breached",
            PageReason::IsolationFailed => "isolation_failed",
        }
    }
}

/// Why a request other than a resolution was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RefusalCode {
    RoleNotAllowed,
    StalePlan,
    EmptyComment,
    WrongState,
    IsolationHeld,
    NotCritical,
    UnknownRemediation,
    UnknownAgent,
}

impl RefusalCode {
    pub fn as_str(self) -> &'static str {
        match self {
            RefusalCode::RoleNotAllowed => "role_not_allowed",
            RefusalCode::StalePlan => "stale_plan",
            RefusalCode::EmptyComment => "empty_comment",
            RefusalCode::WrongState => "wrong_state",
            RefusalCode::IsolationHeld => "isolation_held",
            RefusalCode::NotCritical => "not_critical",
            RefusalCode::UnknownRemediation => "unknown_remediation",
            RefusalCode::UnknownAgent => "unknown_agent",
        }
    }
}
