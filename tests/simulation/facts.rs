//! Facts: what the world has sent, as the world knows it. The judge holds the service against these, and reads no
//! inbound message by the service's own decoder.

use remedyd::broker::{Lane, Message};
use remedyd::model::time::Timestamp;

/// What kind of event, as far as a rule depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Created,
    Revised,
    Updated,
    Comment,
    DismissedBySoc,
    ClosedUpstream,
    Approved,
    Rejected,
    Completed,
    Uncompleted,
    Retry,
    Cancel,
    Waive,
    Resolve,
    Dismiss,
    Reopen,
    Isolate,
    Release,
    Survey,
    AgentRemoved,
    Organization,
    Rubbish,
}

impl Kind {
    /// Asked for by a person, who gets an answer and a row of the audit.
    pub fn is_request(self) -> bool {
        use Kind::{Approved, Cancel, Completed, Dismiss, Isolate, Rejected, Release, Reopen, Resolve, Retry, Uncompleted, Waive};
        matches!(
            self,
            Approved | Rejected | Completed | Uncompleted | Retry | Cancel | Waive | Resolve | Dismiss | Reopen | Isolate | Release
        )
    }

    pub fn lane(self) -> Lane {
        if self == Kind::Survey { Lane::Surveys } else { Lane::Reports }
    }
}

/// One event as it was sent.
#[derive(Debug, Clone)]
pub struct Facts {
    pub kind: Kind,
    pub tenant: &'static str,
    pub id: String,
    /// Its `time`, which is its `updated_at` and its `status_updated_at` as well.
    pub at: Timestamp,
    pub message: Message,
    pub report: Option<u64>,
    pub revision: Option<u64>,
    /// What an approval names; all of the plan if none.
    pub named: Option<Vec<u64>>,
    pub item: Option<u64>,
    pub role: &'static str,
    pub agent: Option<u64>,
    pub surveyed_ms: Option<i64>,
    /// The reasons for which it may become a dead letter.
    pub may_die_of: &'static [&'static str],
    /// Items of the plan that it brings: id and type.
    pub plan: Vec<(u64, &'static str)>,
}

/// Admins, security engineers and users work on tasks; see lifecycle.md, Roles.
pub fn may_work(role: &str) -> bool {
    matches!(role, "admin" | "security_engineer" | "user")
}

pub fn may_conclude(role: &str) -> bool {
    matches!(role, "admin" | "security_engineer")
}
