//! The incident report and what it carries.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::actor::Actor;
use super::ids::{AgentId, RemediationId, ReportId, SubjectKey};
use super::is_false;
use super::organization::SlaSettings;
use super::remediation::Remediation;
use super::time::Timestamp;

/// What a report means for tonight (mission.md, rule 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Low,
    High,
    Critical,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Low => "low",
            Severity::High => "high",
            Severity::Critical => "critical",
        }
    }
}

/// The vendor's public status values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReportStatus {
    /// "Active": the SOC is still on it.
    Sent,
    AutoRemediating,
    Closed,
    /// The SOC withdrew it.
    Dismissed,
    PartnerDismissed,
    /// A tombstone: the organization is being deleted.
    Deleting,
}

impl ReportStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            ReportStatus::Sent => "sent",
            ReportStatus::AutoRemediating => "auto_remediating",
            ReportStatus::Closed => "closed",
            ReportStatus::Dismissed => "dismissed",
            ReportStatus::PartnerDismissed => "partner_dismissed",
            ReportStatus::Deleting => "deleting",
        }
    }

    /// Open: something may still be done under it (the word of rows R9, R12, R13 and R18).
    pub fn is_open(self) -> bool {
        match self {
            ReportStatus::Sent | ReportStatus::AutoRemediating => true,
            ReportStatus::Closed | ReportStatus::Dismissed | ReportStatus::PartnerDismissed | ReportStatus::Deleting => false,
        }
    }
}

/// Where a `sent` report stands. Derived by `machine::gate`, never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    InRevision,
    AwaitingApproval,
    Blocked,
    Remediating,
    Ready,
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::InRevision => "in_revision",
            Phase::AwaitingApproval => "awaiting_approval",
            Phase::Blocked => "blocked",
            Phase::Remediating => "remediating",
            Phase::Ready => "ready",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttackKind {
    Phishing,
    MalwarePersistence,
    IdentityCompromise,
    Unknown,
}

impl AttackKind {
    pub fn as_str(self) -> &'static str {
        match self {
            AttackKind::Phishing => "phishing",
            AttackKind::MalwarePersistence => "malware_persistence",
            AttackKind::IdentityCompromise => "identity_compromise",
            AttackKind::Unknown => "unknown",
        }
    }
}

/// A way back in for the attacker (mission.md, rule 5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Foothold {
    pub id: String,
    pub kind: String,
    #[serde(default)]
    pub description: String,
    /// The items of the *current* plan that remove it.
    #[serde(default)]
    pub remediation_ids: Vec<RemediationId>,
}

/// The account a report without a host is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub id: super::ids::IdentityId,
    #[serde(default)]
    pub name: String,
}

/// The short parts of a report that people read, decided upon by no rule. The long one, its `body`, is kept apart: it is
/// in no decision, and has up to 64 KiB.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReportText {
    pub subject: String,
    pub summary: String,
    pub indicator_types: Vec<String>,
}

/// A running SLA (lifecycle.md, Report).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sla {
    pub started_at: Timestamp,
    pub respond_by: Timestamp,
    /// When the next of its steps is due; none when all have been taken.
    pub next_at: Option<Timestamp>,
    /// The organization's times when it started; a later change is for later reports.
    pub settings: SlaSettings,
    /// Steps taken: pages of a critical report, warning and breach of a high one, breach of a low one.
    pub step: u32,
}

/// A report as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub id: ReportId,
    pub subject_key: SubjectKey,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_id: Option<AgentId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    pub platform: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    pub severity: Severity,
    pub status: ReportStatus,
    pub attack_kind: AttackKind,
    pub text: Arc<ReportText>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub simulated: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub isolate_host: bool,

    /// Counts the SOC's issues of the plan, from 1.
    pub plan_revision: u64,
    /// The current plan was rejected and has not been issued again (R7).
    #[serde(default, skip_serializing_if = "is_false")]
    pub in_revision: bool,
    /// Items of the current plan, and those of old plans (`revision` tells).
    pub remediations: Vec<Remediation>,
    pub footholds: Vec<Foothold>,

    /// When the current plan was issued; a survey before that says nothing of it.
    pub plan_issued_at: Timestamp,
    pub sent_at: Timestamp,
    pub updated_at: Timestamp,
    pub status_updated_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed_at: Option<Timestamp>,
    /// Who or what closed it: `resolved`, or the cause of the row that did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closed_by: Option<String>,

    /// It could not be said that the threat is gone, only that the host is (`unverified`, R12).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disposition: Option<String>,
    /// Its host was released by force before the report was ready (I6).
    #[serde(default, skip_serializing_if = "is_false")]
    pub released_early: bool,
    /// Closed upstream while approved tasks went on (R13).
    #[serde(default, skip_serializing_if = "is_false")]
    pub residual: bool,
    /// It is over, and its footholds are looked for until it cannot be reopened any more (R16).
    #[serde(default, skip_serializing_if = "is_false")]
    pub watched: bool,
    /// When everything but what stands here was moved to the archive: the window for opening it again was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived_at: Option<Timestamp>,
    /// The SLA that is running; none once somebody has acted, while in revision, and for simulated reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sla: Option<Sla>,

    /// The gate has refused a resolution since the phase was last `ready`; who asked last (resolution_unblocked).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused_resolution: Option<Actor>,

    /// The `sequence` of the last event published about this report.
    pub sequence: u64,
}

impl Report {
    /// What is kept of a report in the archive, so that its id is never given to another and its `sequence` goes on.
    pub fn stub(self, archived_at: Timestamp) -> Self {
        Self {
            identity: None,
            hostname: None,
            text: Arc::default(),
            remediations: Vec::new(),
            footholds: Vec::new(),
            refused_resolution: None,
            sla: None,
            watched: false,
            archived_at: Some(archived_at),
            ..self
        }
    }

    /// Items of the current plan.
    pub fn plan(&self) -> impl Iterator<Item = &Remediation> {
        self.remediations.iter().filter(|item| item.revision == self.plan_revision)
    }

    /// An item of the current plan.
    pub fn item(&self, id: RemediationId) -> Option<&Remediation> {
        self.plan().find(|item| item.id == id)
    }
}
