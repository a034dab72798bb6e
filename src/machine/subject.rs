//! The subject: everything one decision may read and change.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::agent::Agent;
use crate::model::ids::{ReportId, SubjectKey, TenantId};
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
}
