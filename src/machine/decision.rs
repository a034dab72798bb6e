//! What can come of an event. Effects are values; the pipeline carries them out after the commit.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::model::ids::{AgentId, RemediationId, ReportId};
use crate::model::remediation::{ActionName, OutcomeCode};
use crate::model::time::Timestamp;

use super::notice::{Notice, RefusalCode};
use super::subject::Subject;

/// The outcome of `decide`.
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    Applied(Box<Applied>),
    /// Nothing changes: it is known already, or older than what is known (R19).
    Ignored(Ignored),
    /// Ahead of what is known (R19): keep it until `until`, and try again when `report` changes.
    Park {
        report: ReportId,
        until: Timestamp,
    },
    /// It waited in vain (R19): dead letter `orphan`.
    Orphan {
        report: ReportId,
    },
    /// Wrong in a way that only the subject's records can tell: dead letter `invalid`.
    Invalid {
        detail: String,
    },
    /// A request about an agent that the tenant does not have: answered in the organization's sequence.
    UnknownAgent {
        agent: AgentId,
    },
}

/// Why an event changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ignored {
    /// The report, or the survey, is known already.
    Duplicate,
    /// Older than what is known.
    Older,
    /// Nothing left to do: no item is unapproved, or the outcome is of an attempt that has ended.
    Nothing,
    /// The report is not open any more, and the event needs no answer.
    NotOpen,
}

/// A changed subject and what follows from the change.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    pub subject: Subject,
    pub agent_changed: bool,
    pub reports_changed: BTreeSet<ReportId>,
    /// In publication order.
    pub notices: Vec<Notice>,
    /// To start once the commit is durable (T5).
    pub attempts: Vec<AttemptOrder>,
    /// Parked events about these reports may apply now.
    pub unpark: BTreeSet<ReportId>,
    /// A report has come into being (the funnel's fourth count).
    pub created: bool,
    /// Set where a person's request was answered with a refusal.
    pub refused: Option<Refused>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refused {
    /// `request.refused`.
    Request(RefusalCode),
    /// `incident_report.resolution_refused`.
    Resolution,
}

/// An attempt for the executor; recorded durably before it is handed out.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptOrder {
    pub report: ReportId,
    pub revision: u64,
    pub remediation: RemediationId,
    pub attempt_id: String,
    pub action: ActionName,
    pub started_at: Timestamp,
    /// For the simulated host.
    pub simulate: Arc<[OutcomeCode]>,
    pub simulate_cursor: u32,
    pub cause: String,
    pub traceparent: Option<String>,
}
