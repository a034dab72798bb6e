//! The audit: an append-only row per decision of a person or a policy (actor, role, reason, before, after). Never
//! here: a way to change one.

use serde::{Deserialize, Serialize};

use crate::machine::decision::{Decision, Refused};
use crate::machine::event::{Event, EventKind};
use crate::machine::gate;
use crate::machine::notice::{Author, Body};
use crate::machine::policy::mix;
use crate::machine::subject::Subject;
use crate::model::actor::Actor;
use crate::model::agent::FirewallStatus;
use crate::model::ids::{AgentId, RemediationId, ReportId};
use crate::model::remediation::State;
use crate::model::report::{Phase, ReportStatus};
use crate::model::time::Timestamp;
use crate::mutation::{self, Defect};
use crate::store::{Store, StoreError, keys, record};

use super::batch::Writes;

/// `a/…`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditRow {
    /// When it was decided.
    pub at: Timestamp,
    /// The time of the event that was decided: what the decision was dated with (`approved_at`). None in older rows.
    #[serde(default)]
    pub asked_at: Option<Timestamp>,
    pub event_id: String,
    /// The type of the request, or the name of the policy's row of the lifecycle.
    pub request: String,
    /// None where a policy decided.
    pub actor: Option<Actor>,
    pub reason: Option<String>,
    pub incident_report_id: Option<ReportId>,
    pub remediation_id: Option<RemediationId>,
    pub agent_id: Option<AgentId>,
    /// `applied`, `without_effect`, `parked`, or `refused: <code>`.
    pub outcome: String,
    pub before: Standing,
    pub after: Standing,
}

/// How things stood, as far as the decision is about them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    pub status: Option<ReportStatus>,
    pub phase: Option<Phase>,
    pub state: Option<State>,
    pub firewall_status: Option<FirewallStatus>,
}

/// Writes what a person has decided with `event`, and what a policy did on the way.
pub(super) fn write<S: Store>(
    writes: &mut Writes<S>,
    event: &Event,
    now: Timestamp,
    before: &Subject,
    decision: &Decision,
) -> Result<(), StoreError> {
    // a parked event is written when it is decided, or given up
    if matches!(decision, Decision::Park { .. }) || mutation::seeded(Defect::AuditMissing) {
        return Ok(());
    }
    let asked = Asked::of(&event.kind);
    let after = match decision {
        Decision::Applied(applied) => &applied.subject,
        _ => before,
    };
    let row = |request: &str, asked: &Asked<'_>, outcome: String| AuditRow {
        at: now,
        asked_at: Some(event.time),
        event_id: event.id.clone(),
        request: request.into(),
        actor: asked.actor.cloned(),
        reason: asked.reason.map(str::to_owned),
        incident_report_id: asked.report,
        remediation_id: asked.remediation,
        agent_id: asked.agent,
        outcome,
        before: standing(before, asked),
        after: standing(after, asked),
    };
    let mut rows = Vec::new();
    if asked.actor.is_some() {
        rows.push(row(event.kind.name(), &asked, outcome(decision)));
    }
    if let Decision::Applied(applied) = decision {
        for notice in &applied.notices {
            let (Body::StatusChanged { cause, actor: Some(Author::Policy), .. }, crate::machine::notice::About::Report { report, agent }) =
                (&notice.body, notice.about)
            else {
                continue;
            };
            let by_policy = Asked { actor: None, reason: None, report: Some(report), remediation: None, agent };
            rows.push(row(&format!("policy: {cause}"), &by_policy, "applied".into()));
        }
    }
    for row in rows {
        // the first free place within the millisecond: rows are only ever added
        let mut n = event.id.bytes().fold(0, |hash, byte| mix(hash ^ u64::from(byte)));
        while writes.get(&keys::audit(event.tenant, now, n))?.is_some() {
            n = n.wrapping_add(1);
        }
        writes.put(keys::audit(event.tenant, now, n), record::encode(&row));
    }
    Ok(())
}

fn outcome(decision: &Decision) -> String {
    match decision {
        Decision::Applied(applied) => match applied.refused {
            None => "applied".into(),
            Some(Refused::Request(code)) => format!("refused: {}", code.as_str()),
            Some(Refused::Resolution) => "refused: blocked".into(),
        },
        Decision::Ignored(_) => "without_effect".into(),
        Decision::Park { .. } => "parked".into(),
        Decision::Orphan { .. } => "refused: orphan".into(),
        Decision::Invalid { .. } => "refused: invalid".into(),
        Decision::UnknownAgent { .. } => "refused: unknown_agent".into(),
    }
}

/// Who asked for what about which.
struct Asked<'a> {
    actor: Option<&'a Actor>,
    reason: Option<&'a str>,
    report: Option<ReportId>,
    remediation: Option<RemediationId>,
    agent: Option<AgentId>,
}

impl<'a> Asked<'a> {
    fn of(kind: &'a EventKind) -> Self {
        let nothing = Asked { actor: kind.actor(), reason: None, report: None, remediation: None, agent: None };
        match kind {
            EventKind::Approved(decision) => Asked { report: Some(decision.report), ..nothing },
            EventKind::Rejected { decision, comment } => Asked { report: Some(decision.report), reason: Some(comment), ..nothing },
            EventKind::ManualCompleted(request)
            | EventKind::ManualUncompleted(request)
            | EventKind::RetryRequested(request)
            | EventKind::CancelRequested(request)
            | EventKind::Waived(request) => {
                Asked { report: Some(request.report), remediation: Some(request.remediation), reason: request.reason.as_deref(), ..nothing }
            }
            EventKind::ResolutionRequested(request)
            | EventKind::DismissalRequested(request)
            | EventKind::ReopenRequested(request)
            | EventKind::SocSupportRequested { request, .. } => {
                Asked { report: Some(request.report), reason: request.reason.as_deref(), ..nothing }
            }
            EventKind::IsolationRequested(request) | EventKind::ReleaseRequested(request) => {
                Asked { agent: Some(request.agent), reason: request.reason.as_deref(), ..nothing }
            }
            EventKind::ParkingEnded(event) => Asked::of(&event.kind),
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
            | EventKind::Recovered => nothing,
        }
    }
}

fn standing(subject: &Subject, asked: &Asked<'_>) -> Standing {
    let report = asked.report.and_then(|id| subject.reports.get(&id));
    Standing {
        status: report.map(|report| report.status),
        phase: report.and_then(|report| gate::phase(report)),
        state: report.zip(asked.remediation).and_then(|(report, id)| report.item(id)).map(|item| item.state),
        firewall_status: asked.agent.and(subject.agent.as_ref()).map(|agent| agent.firewall_status),
    }
}
