//! The draft of a decision: the subject being changed, and what the changes say, collected in any order and
//! published in the one order of lifecycle.md (report status, tasks by id, phase, the rest; then the agent).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::agent::{Agent, FirewallStatus, Isolation, Presence};
use crate::model::ids::{AgentId, RemediationId, ReportId};
use crate::model::remediation::{Remediation, State};
use crate::model::report::{Phase, Report, ReportStatus};
use crate::model::time::{Span, Timestamp};
use crate::mutation::{self, Defect};

use super::decision::{Applied, AttemptOrder, Decision, Refused};
use super::event::{Event, EventKind};
use super::gate;
use super::notice::{About, Author, Body, Notice, PageReason, RefusalCode, RemediationChange};
use super::policy::{MAX_ATTEMPTS, Policy};
use super::subject::Subject;
use super::{closing, isolation, tasks};

/// A timer that fires later than this bears the time at which it did.
const LATE: Span = Span::from_secs(1);

pub(super) struct Draft<'a> {
    pub subject: Subject,
    pub event: &'a Event,
    pub now: Timestamp,
    pub policy: &'a Policy,
    agent_changed: bool,
    reports: BTreeMap<ReportId, ReportDraft>,
    agent_notices: Vec<Body>,
    attempts: Vec<AttemptOrder>,
    unpark: BTreeSet<ReportId>,
    created: bool,
    refused: Option<Refused>,
}

/// What one decision says about one report.
#[derive(Default)]
struct ReportDraft {
    phase_before: Option<Phase>,
    status: Option<StatusChange>,
    triage: Option<Body>,
    tasks: Vec<RemediationChange>,
    rest: Vec<Body>,
}

struct StatusChange {
    from: Option<ReportStatus>,
    cause: &'static str,
    actor: Option<Author>,
}

impl<'a> Draft<'a> {
    pub fn new(subject: &Subject, event: &'a Event, now: Timestamp, policy: &'a Policy) -> Self {
        Self {
            subject: subject.clone(),
            event,
            now,
            policy,
            agent_changed: false,
            reports: BTreeMap::new(),
            agent_notices: Vec::new(),
            attempts: Vec::new(),
            unpark: BTreeSet::new(),
            created: false,
            refused: None,
        }
    }

    pub fn report(&self, id: ReportId) -> Option<&Report> {
        self.subject.reports.get(&id).map(Arc::as_ref)
    }

    /// The report, to change; a report asked for is written.
    pub fn change(&mut self, id: ReportId) -> Option<&mut Report> {
        let report = self.subject.reports.get_mut(&id)?;
        self.reports.entry(id).or_insert_with(|| ReportDraft { phase_before: gate::phase(report), ..ReportDraft::default() });
        Some(Arc::make_mut(report))
    }

    /// A report that was not there before: it has no phase to change from.
    pub fn create(&mut self, report: Report) {
        self.created = true;
        self.reports.insert(report.id, ReportDraft::default());
        self.subject.reports.insert(report.id, Arc::new(report));
    }

    /// The agent, to change; made `known` first if it is not there (A0).
    pub fn change_agent(&mut self, id: AgentId) -> &mut Agent {
        self.agent_changed = true;
        self.subject.agent.get_or_insert(Agent {
            id,
            presence: Presence::Known,
            hostname: None,
            platform: None,
            agent_version: None,
            boot_id: None,
            last_survey_at: None,
            firewall_status: FirewallStatus::Enabled,
            isolation: Isolation::default(),
            removed_at: None,
            presence_due: None,
            sequence: 0,
        })
    }

    pub fn set_status(&mut self, id: ReportId, to: ReportStatus, cause: &'static str, actor: Option<Author>) {
        let Some(report) = self.change(id) else { return };
        let from = report.status;
        report.status = to;
        self.note_status(id, Some(from), cause, actor);
    }

    pub fn note_status(&mut self, id: ReportId, from: Option<ReportStatus>, cause: &'static str, actor: Option<Author>) {
        if let Some(draft) = self.reports.get_mut(&id) {
            draft.status = Some(StatusChange { from, cause, actor });
        }
    }

    pub fn note_triage(&mut self, id: ReportId, body: Body) {
        if let Some(draft) = self.reports.get_mut(&id) {
            draft.triage = Some(body);
        }
    }

    /// A notice about the report that belongs behind its status, tasks and phase.
    pub fn note(&mut self, id: ReportId, body: Body) {
        // asking for the change makes sure that the report's sequence is written
        if self.change(id).is_some()
            && let Some(draft) = self.reports.get_mut(&id)
        {
            draft.rest.push(body);
        }
    }

    /// The report is over with the very decision that would have paged for it: nobody is woken.
    pub fn withdraw_page(&mut self, id: ReportId) {
        if let Some(draft) = self.reports.get_mut(&id) {
            draft.rest.retain(|body| !matches!(body, Body::Paged { reason: PageReason::CriticalReport, .. }));
        }
    }

    pub fn note_agent(&mut self, body: Body) {
        self.agent_notices.push(body);
    }

    /// Says that an item has come into being, in the state it has.
    pub fn note_new_item(&mut self, id: ReportId, index: usize) {
        self.note_item(id, index, None);
    }

    /// Moves an item to another state and says so. `change` is applied between the two.
    ///
    /// Invariant 7: the transition is one of the tables. A violation is a defect of this crate, and going on
    /// would make it durable.
    pub fn move_item(&mut self, id: ReportId, index: usize, to: State, change: impl FnOnce(&mut Remediation)) {
        let Some(item) = self.change(id).and_then(|report| report.remediations.get_mut(index)) else { return };
        let from = item.state;
        assert!(tasks::is_transition(from, to), "no row leads from {from:?} to {to:?} (remediation {} of report {id})", item.id);
        item.state = to;
        change(item);
        // a waiver is for the state that it was given for, or one as bad (T17)
        item.waived &= tasks::is_waivable(to);
        self.note_item(id, index, Some(from));
    }

    /// Says that something about an item has changed that is not its state (T17).
    pub fn note_same_item(&mut self, id: ReportId, index: usize, state: State) {
        self.note_item(id, index, Some(state));
    }

    fn note_item(&mut self, id: ReportId, index: usize, from: Option<State>) {
        let Some(item) = self.report(id).and_then(|report| report.remediations.get(index)) else { return };
        let change = RemediationChange {
            remediation_id: item.id,
            kind: item.kind,
            action: item.action.clone(),
            from,
            to: item.state,
            verified: item.verified,
            waived: item.waived,
            attempt: item.attempt,
            max_attempts: MAX_ATTEMPTS,
            tries: item.tries,
            reason: item.reason.clone(),
            next_attempt_at: item.next_attempt_at,
            deliver_by: item.deliver_by,
            plan_revision: item.revision,
            attempt_id: item.open_attempt.as_ref().map(|attempt| attempt.id.clone()),
        };
        if let Some(draft) = self.reports.get_mut(&id) {
            draft.tasks.push(change);
        }
    }

    pub fn start_attempt(&mut self, order: AttemptOrder) {
        self.attempts.push(order);
    }

    pub fn unpark(&mut self, report: ReportId) {
        self.unpark.insert(report);
    }

    /// Answers a request about a report with `request.refused`; nothing else changes.
    pub fn refuse(mut self, report: ReportId, code: RefusalCode, message: String) -> Decision {
        let body = self.refusal(code, message);
        self.note(report, body);
        self.finish()
    }

    /// The same for a request about the agent.
    pub fn refuse_agent(mut self, code: RefusalCode, message: String) -> Decision {
        let body = self.refusal(code, message);
        self.note_agent(body);
        // its sequence is written
        self.agent_changed = true;
        self.finish()
    }

    fn refusal(&mut self, code: RefusalCode, message: String) -> Body {
        self.refused = Some(Refused::Request(code));
        let request_type = match &self.event.kind {
            EventKind::ParkingEnded(event) => event.kind.name(),
            kind => kind.name(),
        };
        Body::RequestRefused { request_type, code, message }
    }

    /// The reports that the decision has touched so far.
    pub fn touched(&self) -> Vec<ReportId> {
        self.reports.keys().copied().collect()
    }

    /// The phase that a touched report was in before.
    pub fn phase_before(&self, id: ReportId) -> Option<Phase> {
        self.reports.get(&id).and_then(|draft| draft.phase_before)
    }

    /// Whether the decision has moved an item.
    pub fn moved(&self, id: ReportId, item: RemediationId) -> bool {
        self.reports.get(&id).is_some_and(|draft| draft.tasks.iter().any(|change| change.remediation_id == item))
    }

    /// The time that the decision speaks of: when a timer was due, otherwise now.
    pub fn decided_at(&self) -> Timestamp {
        match self.event.kind {
            EventKind::TimerDue | EventKind::ParkingEnded(_) => self.event.time,
            _ => self.now,
        }
    }

    pub fn resolution_refused(&mut self) {
        self.refused = Some(Refused::Resolution);
    }

    /// Draws what follows from the state by itself, then numbers and orders what was said.
    pub fn finish(mut self) -> Decision {
        isolation::settle(&mut self);
        tasks::settle_holds(&mut self);
        closing::settle(&mut self);
        let time = self.decided_at();
        let mut notices = Vec::new();
        for (id, draft) in std::mem::take(&mut self.reports) {
            let Some(report) = self.subject.reports.get_mut(&id) else { continue };
            let report = Arc::make_mut(report);
            let about = About::Report { report: id, agent: report.agent_id };
            for body in draft.into_bodies(report) {
                let skips = matches!(body, Body::RequestRefused { .. }) && mutation::seeded(Defect::SequenceSkipped);
                report.sequence += if skips { 2 } else { 1 };
                notices.push(notice(about, report.sequence, self.event, time, self.now, body));
            }
            self.reports.insert(id, ReportDraft::default());
        }
        if let Some(agent) = &mut self.subject.agent {
            for body in self.agent_notices {
                agent.sequence += 1;
                notices.push(notice(About::Agent(agent.id), agent.sequence, self.event, time, self.now, body));
            }
        }
        Decision::Applied(Box::new(Applied {
            subject: self.subject,
            agent_changed: self.agent_changed,
            reports_changed: self.reports.into_keys().collect(),
            notices,
            attempts: self.attempts,
            unpark: self.unpark,
            created: self.created,
            refused: self.refused,
        }))
    }
}

impl ReportDraft {
    /// The bodies in publication order.
    fn into_bodies(self, report: &Report) -> Vec<Body> {
        let phase = gate::phase(report);
        let mut bodies = Vec::new();
        let closing = self.status.is_some();
        if let Some(StatusChange { from, cause, actor }) = self.status {
            let residual = report.residual.then(|| closing::residual_tasks(report));
            bodies.push(Body::StatusChanged { from, to: report.status, phase, cause, actor, counts: gate::counts(report), residual });
        }
        bodies.extend(self.triage);
        let mut tasks = self.tasks;
        // stable: the steps of one item stay in the order in which they were taken
        tasks.sort_by_key(|change| (change.remediation_id, change.plan_revision));
        bodies.extend(tasks.into_iter().map(|change| Body::RemediationStatusChanged(Box::new(change))));
        let became_ready = phase == Some(Phase::Ready) && self.phase_before != phase;
        if let (Some(from), Some(to), false) = (self.phase_before, phase, closing)
            && from != to
        {
            bodies.push(Body::PhaseChanged { from, to });
        }
        bodies.extend(self.rest);
        if became_ready && report.refused_resolution.is_some() {
            bodies.push(Body::ResolutionUnblocked);
        }
        bodies
    }
}

fn notice(about: About, sequence: u64, event: &Event, time: Timestamp, now: Timestamp, body: Body) -> Notice {
    Notice {
        about,
        sequence,
        time,
        fired_at: (now.duration_since(time) > LATE).then_some(now),
        cause: event.id.clone(),
        traceparent: event.traceparent.clone(),
        body,
    }
}

/// The index of an item of the current plan.
pub(super) fn item_index(report: &Report, id: RemediationId) -> Option<usize> {
    report.remediations.iter().position(|item| item.id == id && item.revision == report.plan_revision)
}
