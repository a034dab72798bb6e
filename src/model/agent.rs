//! The vendor's agent on a host, and what a survey tells of it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::ids::{AgentId, ReportId};
use super::time::Timestamp;

/// Whether we hear of an agent (lifecycle.md, Agent presence).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Presence {
    /// A report names it; it has not surveyed yet.
    Known,
    Online,
    Offline,
    Unresponsive,
    Removed,
}

impl Presence {
    pub fn as_str(self) -> &'static str {
        match self {
            Presence::Known => "known",
            Presence::Online => "online",
            Presence::Offline => "offline",
            Presence::Unresponsive => "unresponsive",
            Presence::Removed => "removed",
        }
    }
}

/// The vendor's `firewall_status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FirewallStatus {
    /// Not isolated.
    #[serde(rename = "Enabled")]
    Enabled,
    #[serde(rename = "Pending Isolation")]
    PendingIsolation,
    #[serde(rename = "Isolated")]
    Isolated,
    #[serde(rename = "Pending Release")]
    PendingRelease,
}

impl FirewallStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            FirewallStatus::Enabled => "Enabled",
            FirewallStatus::PendingIsolation => "Pending Isolation",
            FirewallStatus::Isolated => "Isolated",
            FirewallStatus::PendingRelease => "Pending Release",
        }
    }
}

/// Who keeps a host isolated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Holder {
    Report(ReportId),
    /// A person asked for it outside any report.
    Manual,
}

/// The isolation of one host (lifecycle.md, Isolation).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Isolation {
    pub holders: BTreeSet<Holder>,
    /// While pending: when it was asked for; a survey before that does not confirm it.
    pub pending_since: Option<Timestamp>,
    /// While pending isolation: when it counts as failed (I4).
    pub fails_at: Option<Timestamp>,
    /// The failure has been said.
    #[serde(default)]
    pub failed: bool,
    /// Why it failed last (I4).
    #[serde(default)]
    pub failed_because: Option<String>,
    /// Surveys in a row that said "not isolated" (I10).
    pub drifted_surveys: u32,
}

/// An agent as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    pub id: AgentId,
    pub presence: Presence,
    pub hostname: Option<String>,
    pub platform: Option<String>,
    pub agent_version: Option<String>,
    pub boot_id: Option<String>,
    pub last_survey_at: Option<Timestamp>,
    pub firewall_status: FirewallStatus,
    #[serde(default)]
    pub isolation: Isolation,
    /// When it was removed (A4); a survey from before that does not bring it back.
    #[serde(default)]
    pub removed_at: Option<Timestamp>,
    /// When its presence is looked at again (A2, A3); surveys do not move it.
    #[serde(default)]
    pub presence_due: Option<Timestamp>,
    /// The `sequence` of the last event published about this agent.
    pub sequence: u64,
}

/// `agent.surveyed`: the agent's regular look at its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    pub agent_id: AgentId,
    pub surveyed_at: Timestamp,
    pub hostname: Option<String>,
    pub platform: Option<String>,
    pub agent_version: Option<String>,
    pub boot_id: Option<String>,
    /// Ids of the footholds it sees; `None`: it did not look.
    pub footholds_present: Option<Vec<String>>,
    pub isolated: Option<bool>,
}
