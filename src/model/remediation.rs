//! A remediation: one item of a plan, and as a *task* what an agent makes of it.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::ids::RemediationId;
use super::time::Timestamp;
use super::{is_false, is_zero};

/// The vendor's `type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RemediationType {
    /// The agent runs it after approval.
    Assisted,
    /// People do it.
    Manual,
    /// The SOC acts without approval.
    Containment,
}

impl RemediationType {
    pub fn as_str(self) -> &'static str {
        match self {
            RemediationType::Assisted => "assisted",
            RemediationType::Manual => "manual",
            RemediationType::Containment => "containment",
        }
    }

    /// An agent runs it: the gate asks for its end.
    pub fn is_task(self) -> bool {
        match self {
            RemediationType::Assisted | RemediationType::Containment => true,
            RemediationType::Manual => false,
        }
    }
}

/// The vendor's `status`; [`State`] is finer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Unapproved,
    Approved,
    Completed,
    Failed,
    Cancelled,
}

/// Why an item was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cancellation {
    Rejected,
    Superseded,
    Dismissed,
    Obsolete,
    Requested,
}

impl Cancellation {
    pub fn as_str(self) -> &'static str {
        match self {
            Cancellation::Rejected => "rejected",
            Cancellation::Superseded => "superseded",
            Cancellation::Dismissed => "dismissed",
            Cancellation::Obsolete => "obsolete",
            Cancellation::Requested => "requested",
        }
    }
}

/// Where an item stands (lifecycle.md, Remediation).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Unapproved,
    Queued,
    Held,
    Delivered,
    RetryWait,
    RebootPending,
    OutcomeUnknown,
    AwaitingHuman,
    Completed,
    Failed,
    Expired,
    Cancelled(Cancellation),
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            State::Unapproved => "unapproved",
            State::Queued => "queued",
            State::Held => "held",
            State::Delivered => "delivered",
            State::RetryWait => "retry_wait",
            State::RebootPending => "reboot_pending",
            State::OutcomeUnknown => "outcome_unknown",
            State::AwaitingHuman => "awaiting_human",
            State::Completed => "completed",
            State::Failed => "failed",
            State::Expired => "expired",
            State::Cancelled(_) => "cancelled",
        }
    }

    /// The vendor's coarser value.
    pub fn status(self) -> Status {
        match self {
            State::Unapproved => Status::Unapproved,
            State::Queued
            | State::Held
            | State::Delivered
            | State::RetryWait
            | State::RebootPending
            | State::OutcomeUnknown
            | State::AwaitingHuman => Status::Approved,
            State::Completed => Status::Completed,
            State::Failed | State::Expired => Status::Failed,
            State::Cancelled(_) => Status::Cancelled,
        }
    }

    /// An agent may be at work on it, or may have been: it is not ours to end (rows R8, R14; invariant 1).
    pub fn is_in_the_field(self) -> bool {
        match self {
            State::Delivered | State::OutcomeUnknown | State::RebootPending => true,
            State::Unapproved
            | State::Queued
            | State::Held
            | State::RetryWait
            | State::AwaitingHuman
            | State::Completed
            | State::Failed
            | State::Expired
            | State::Cancelled(_) => false,
        }
    }

    /// It waits for its agent: it can still be cancelled.
    pub fn waits(self) -> bool {
        matches!(self, State::Queued | State::Held | State::RetryWait)
    }

    /// Approved, for an agent, and not ended.
    pub fn is_under_way(self) -> bool {
        self.waits() || self.is_in_the_field()
    }

    /// Nothing more happens by itself.
    pub fn is_terminal(self) -> bool {
        match self {
            State::Completed | State::Failed | State::Expired | State::Cancelled(_) => true,
            State::Unapproved
            | State::Queued
            | State::Held
            | State::Delivered
            | State::RetryWait
            | State::RebootPending
            | State::OutcomeUnknown
            | State::AwaitingHuman => false,
        }
    }
}

/// The listed actions. An unlisted one is carried as text and is `unsupported` when run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    KillProcess,
    StopService,
    DeleteService,
    DeleteScheduledTask,
    DeleteFile,
    QuarantineFile,
    DeleteRegistryValue,
    DeleteRegistryKey,
    UninstallProgram,
    BlockIp,
    RebootHost,
    UninstallAgent,
    IsolateHost,
    DisableIdentity,
    RevokeSessions,
    DisableInboxRule,
}

impl Action {
    pub const ALL: [Action; 16] = [
        Action::KillProcess,
        Action::StopService,
        Action::DeleteService,
        Action::DeleteScheduledTask,
        Action::DeleteFile,
        Action::QuarantineFile,
        Action::DeleteRegistryValue,
        Action::DeleteRegistryKey,
        Action::UninstallProgram,
        Action::BlockIp,
        Action::RebootHost,
        Action::UninstallAgent,
        Action::IsolateHost,
        Action::DisableIdentity,
        Action::RevokeSessions,
        Action::DisableInboxRule,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Action::KillProcess => "kill_process",
            Action::StopService => "stop_service",
            Action::DeleteService => "delete_service",
            Action::DeleteScheduledTask => "delete_scheduled_task",
            Action::DeleteFile => "delete_file",
            Action::QuarantineFile => "quarantine_file",
            Action::DeleteRegistryValue => "delete_registry_value",
            Action::DeleteRegistryKey => "delete_registry_key",
            Action::UninstallProgram => "uninstall_program",
            Action::BlockIp => "block_ip",
            Action::RebootHost => "reboot_host",
            Action::UninstallAgent => "uninstall_agent",
            Action::IsolateHost => "isolate_host",
            Action::DisableIdentity => "disable_identity",
            Action::RevokeSessions => "revoke_sessions",
            Action::DisableInboxRule => "disable_inbox_rule",
        }
    }

    /// It is done in the cloud, on an account; everything else needs a host and its agent.
    pub fn is_identity_action(self) -> bool {
        matches!(self, Action::DisableIdentity | Action::RevokeSessions | Action::DisableInboxRule)
    }
}

/// An action as it was written, and as it is compared. Which listed one it is, is found out once: every survey asks it
/// of every item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct ActionName {
    text: String,
    listed: Option<Action>,
}

impl ActionName {
    pub fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        let normalised = normalise(&text);
        let listed = Action::ALL.into_iter().find(|action| action.as_str() == normalised);
        Self { text, listed }
    }

    /// As the SOC wrote it; this is what is published.
    pub fn original(&self) -> &str {
        &self.text
    }

    /// Lower case, spaces and hyphens as `_`: "Delete Scheduled Task" = `delete_scheduled_task`.
    pub fn normalised(&self) -> String {
        normalise(&self.text)
    }

    pub fn listed(&self) -> Option<Action> {
        self.listed
    }
}

impl From<String> for ActionName {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<ActionName> for String {
    fn from(name: ActionName) -> Self {
        name.text
    }
}

fn normalise(text: &str) -> String {
    text.to_lowercase().replace([' ', '-'], "_")
}

/// Polymorphic, as in the vendor's API (messages.md, Inbound).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Parameters {
    Named(Vec<Parameter>),
    Text(String),
    #[default]
    None,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    pub name: String,
    pub description: String,
}

/// What an attempt (or one try of it) came to. The list is open: an unknown code is a permanent failure (T11).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OutcomeCode(pub String);

impl OutcomeCode {
    pub fn new(code: impl Into<String>) -> Self {
        Self(code.into())
    }

    pub fn class(&self) -> OutcomeClass {
        match self.0.as_str() {
            "ok" | "not_found" => OutcomeClass::Success,
            "ok_reboot_required" => OutcomeClass::NeedsReboot,
            "file_in_use" | "profile_not_loaded" | "agent_busy" | "timeout" | "network" | "agent_restarted" => OutcomeClass::Transient,
            _ => OutcomeClass::Permanent,
        }
    }
}

impl fmt::Display for OutcomeCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How the tables treat an outcome code (rows T7, T8, T9, T11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutcomeClass {
    Success,
    NeedsReboot,
    Transient,
    Permanent,
}

/// A task at an agent: recorded durably before the agent hears of it (T5).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// `<tenant>/<report>/<revision>/<remediation>/g<generation>/a<attempt>`; the agent runs an id at most once.
    pub id: String,
    /// The survey that delivered it.
    pub survey_at: Timestamp,
    pub lease_until: Timestamp,
    /// The host's boot when it was delivered; a later survey with another one has rebooted (T8).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// Id of the survey's event: the cause of what the outcome publishes.
    pub cause: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// One item of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remediation {
    pub id: RemediationId,
    /// The plan revision it belongs to. Items are keyed (report, revision, id).
    pub revision: u64,
    #[serde(rename = "type")]
    pub kind: RemediationType,
    pub action: ActionName,
    #[serde(default)]
    pub parameters: Arc<Parameters>,

    pub state: State,
    /// The code behind the state: an outcome, `kept`, `acknowledged`, `lease_passed`, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(default, skip_serializing_if = "is_false")]
    pub waived: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub verified: bool,

    /// When the consent (approval, or the retry request) was given; a survey before it does not run the task (T5).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approved_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deliver_by: Option<Timestamp>,
    /// Counts approvals and retry requests of the item, from 1; attempts are numbered within one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub generation: u32,
    /// The number of the last attempt of this generation.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub attempt: u32,
    /// Tries within the last attempt.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tries: u32,
    /// The attempt that has not ended: there while delivered, outcome_unknown or reboot_pending.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_attempt: Option<Attempt>,
    /// The survey of the previous attempt, across generations: one survey, at most one attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_attempt_survey: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_attempt_at: Option<Timestamp>,

    /// When it was completed; a later survey verifies that or shows the contrary (T7, T15).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completed_at: Option<Timestamp>,
    /// How often it came back after it had been completed (T15).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub regressions: u32,
    /// A person asked to cancel it while an agent had it (T19).
    #[serde(default, skip_serializing_if = "is_false")]
    pub cancel_asked: bool,

    /// For the simulated host: one outcome per try; after its end `ok`.
    #[serde(default, skip_serializing_if = "no_outcomes")]
    pub simulate: Arc<[OutcomeCode]>,
    /// How many tries the simulated host has played, over the item's whole life.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub simulate_cursor: u32,
}

fn no_outcomes(codes: &Arc<[OutcomeCode]>) -> bool {
    codes.is_empty()
}

impl Remediation {
    /// Equal (type, normalised action, parameters): the same work (T1).
    pub fn same_fingerprint(&self, other: &Remediation) -> bool {
        self.kind == other.kind
            && self.action.listed == other.action.listed
            && self.parameters == other.parameters
            && self.action.normalised() == other.action.normalised()
    }
}
