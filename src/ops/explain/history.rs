//! The decisions behind a report, from the audit. A decision is told of only where its row is the one meant.

use std::collections::VecDeque;

use crate::model::actor::Actor;
use crate::model::ids::{AgentId, RemediationId};
use crate::model::remediation::{Remediation, RemediationType};
use crate::model::report::Report;
use crate::ops::inspect::audit::person;
use crate::ops::inspect::text::shown;
use crate::pipeline::audit::AuditRow;

/// Decisions that are remembered; older ones are no longer what a report waits for.
const MAX_ROWS: usize = 1_000;

pub(super) struct History(VecDeque<AuditRow>);

impl History {
    /// What was decided about the report, and about the host that it is on.
    pub fn of(report: &Report, audit: impl Iterator<Item = anyhow::Result<AuditRow>>) -> anyhow::Result<Self> {
        let mut rows = VecDeque::new();
        for row in audit {
            let row = row?;
            let on_its_host = row.incident_report_id.is_none() && row.agent_id.is_some() && row.agent_id == report.agent_id;
            if row.incident_report_id == Some(report.id) || on_its_host {
                if rows.len() == MAX_ROWS {
                    rows.pop_front();
                }
                rows.push_back(row);
            }
        }
        Ok(Self(rows))
    }

    /// The last decision of this name that took effect.
    pub fn last_applied(&self, request: &str) -> Option<&AuditRow> {
        self.0.iter().rev().find(|row| row.request == request && row.outcome == "applied")
    }

    /// The decision of this name that ended the report: not one that had ended it before it was opened again.
    pub fn ended_by(&self, request: &str, report: &Report) -> Option<&AuditRow> {
        self.last_applied(request).filter(|row| Some(row.at) == report.closed_at)
    }

    pub fn refused_resolution_of(&self, asker: &Actor) -> Option<&AuditRow> {
        let is_it = |row: &&AuditRow| {
            row.request == "incident_report.resolution_requested" && row.outcome.starts_with("refused") && row.actor.as_ref() == Some(asker)
        };
        self.0.iter().rev().find(is_it)
    }

    pub fn last_on_item(&self, request: &str, id: RemediationId) -> Option<&AuditRow> {
        self.0.iter().rev().find(|row| row.request == request && row.outcome == "applied" && row.remediation_id == Some(id))
    }

    /// The last decision about the isolation of the host.
    pub fn last_about_host(&self, agent: AgentId) -> Option<&AuditRow> {
        self.0.iter().rev().find(|row| row.incident_report_id.is_none() && row.agent_id == Some(agent))
    }

    /// How the item came to be under way: the decision that is dated as its consent is.
    pub fn consent(&self, item: &Remediation) -> Option<String> {
        let at = item.approved_at?;
        let when = shown(at);
        if item.kind == RemediationType::Containment && item.generation <= 1 {
            return Some(format!("The SOC started it without asking for approval ({when})."));
        }
        let meant = |row: &&AuditRow| {
            let about_it = row.remediation_id.is_none_or(|id| id == item.id);
            row.outcome == "applied" && row.incident_report_id.is_some() && row.asked_at.unwrap_or(row.at) == at && about_it
        };
        for row in self.0.iter().filter(meant) {
            match (row.request.as_str(), &row.actor) {
                ("remediations.approved", Some(actor)) => return Some(format!("Approved by {} on {when}.", person(actor))),
                ("remediation.retry_requested", Some(actor)) => {
                    return Some(format!("A retry was asked for by {} on {when}{}.", person(actor), quoted(row)));
                }
                ("policy: created", None) if item.generation == 1 => {
                    return Some(format!("Approved by the organization's managed response on {when}."));
                }
                _ => {}
            }
        }
        if item.regressions > 0 {
            return Some(format!("A survey of {when} saw again what it had removed; so it was queued again."));
        }
        Some(format!("Approved on {when}; the audit does not say by whom."))
    }
}

/// The reason somebody gave, as it follows a sentence.
pub(super) fn quoted(row: &AuditRow) -> String {
    row.reason.as_deref().map(str::trim).filter(|reason| !reason.is_empty()).map(|reason| format!(": \"{reason}\"")).unwrap_or_default()
}

/// Who decided, and when.
pub(super) fn by_whom(row: &AuditRow) -> String {
    let who = row.actor.as_ref().map_or_else(|| "a policy of the organization".to_owned(), person);
    format!("by {who} on {}{}", shown(row.at), quoted(row))
}
