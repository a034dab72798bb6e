//! The subject: everything one decision may read and change.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::agent::Agent;
use crate::model::ids::{ReportId, SubjectKey, TenantId};
use crate::model::remediation::State;
use crate::model::report::Report;

/// One agent (or identity, or lone report) with the reports on it that a rule may still touch.
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    pub tenant: TenantId,
    pub key: SubjectKey,
    /// There for agents that are known.
    pub agent: Option<Agent>,
    pub reports: BTreeMap<ReportId, Arc<Report>>,
}

impl Subject {
    /// Nothing is known of it yet.
    pub fn unknown(tenant: TenantId, key: SubjectKey) -> Self {
        Self { tenant, key, agent: None, reports: BTreeMap::new() }
    }

    /// An attempt is with the agent: its outcome would be lost with this process.
    pub fn has_open_attempts(&self) -> bool {
        self.reports.values().any(|report| report.remediations.iter().any(|item| item.state == State::Delivered))
    }
}

/// A survey or a timer may still touch the report: it is open, has tasks under way, or its footholds are watched
/// for as long as it can be reopened (R16).
pub fn is_live(report: &Report) -> bool {
    report.status.is_open() || report.watched || report.remediations.iter().any(|item| item.kind.is_task() && item.state.is_under_way())
}
