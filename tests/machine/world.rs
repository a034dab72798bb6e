//! A partition in memory: what lies around `decide` in the service, without store, broker or waiting.
//! Subjects by key, the report index, a virtual clock, timers, parked events, outcomes on their way.
//!
//! Never here: a rule of the lifecycle. It does what `pipeline::partition` does around a decision (what is due
//! happens at its own time, outcomes before timers before the end of parking; a changed report has its parked
//! events offered again, what is long over is loaded only for an event that names it, the organization's settings
//! are those of its own record), and it keeps every step for its caller to judge.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use remedyd::agent::simulated::{Model, play};
use remedyd::machine::decision::{Applied, AttemptOrder, Decision, Ignored};
use remedyd::machine::event::{Address, AttemptEnd, Event, EventKind, SettingsChange};
use remedyd::machine::notice::Notice;
use remedyd::machine::organization::{OrganizationDecision, count_report, decide_organization, refuse_unknown_agent};
use remedyd::machine::policy::Policy;
use remedyd::machine::subject::{Subject, is_live};
use remedyd::machine::{decide, timers};
use remedyd::model::ids::{RemediationId, ReportId, SubjectKey, TenantId};
use remedyd::model::organization::Organization;
use remedyd::model::remediation::State;
use remedyd::model::report::Report;
use remedyd::model::time::{Timestamp, after};

pub const TENANT: TenantId = TenantId { account: 5, organization: 4 };

/// One call of `decide`, or of `decide_organization`: then `before` knows nothing and only notices are decided.
pub struct Step {
    pub before: Subject,
    pub event: Event,
    pub now: Timestamp,
    /// What held when it was decided.
    pub policy: Policy,
    pub decision: Decision,
    pub of_organization: bool,
}

struct Parked {
    until: Timestamp,
    report: ReportId,
    number: u64,
    event: Event,
}

pub struct World {
    pub now: Timestamp,
    pub policy: Policy,
    pub organization: Organization,
    /// Items whose attempts the simulated host does not answer for.
    pub silent: BTreeSet<(ReportId, RemediationId)>,
    subjects: BTreeMap<SubjectKey, Subject>,
    /// Every report as it was last written; subjects hold those that a survey or a timer may still touch.
    reports: BTreeMap<ReportId, Arc<Report>>,
    parked: Vec<Parked>,
    outcomes: BTreeMap<(Timestamp, u64), (SubjectKey, Event)>,
    numbers: u64,
    steps: Vec<Step>,
}

impl World {
    pub fn new(now: Timestamp) -> Self {
        Self {
            now,
            policy: Policy::default(),
            organization: Organization::default(),
            silent: BTreeSet::new(),
            subjects: BTreeMap::new(),
            reports: BTreeMap::new(),
            parked: Vec::new(),
            outcomes: BTreeMap::new(),
            numbers: 0,
            steps: Vec::new(),
        }
    }

    pub fn take_steps(&mut self) -> Vec<Step> {
        std::mem::take(&mut self.steps)
    }

    /// Settings that have always held.
    pub fn set(&mut self, change: SettingsChange) {
        let event = self.inside("settings".into(), Timestamp::MIN, EventKind::OrganizationUpdated(Box::new(change)));
        let before = Organization { settings_at: None, ..self.organization.clone() };
        if let OrganizationDecision::Applied { organization, .. } = decide_organization(&before, &event, self.now) {
            self.policy.organization = organization.settings.clone();
            self.organization = organization;
        }
    }

    /// An event arrives at `at`; then everything that is due by then.
    pub fn arrive(&mut self, at: Timestamp, event: Event) {
        self.advance(at);
        if let Some((report, until)) = self.decide_one(event.clone(), None) {
            self.numbers += 1;
            self.parked.push(Parked { until, report, number: self.numbers, event });
        }
        self.advance(at);
    }

    /// The process dies and comes back: outcomes on their way are lost, attempts found open are told so.
    pub fn restart(&mut self, at: Timestamp) {
        self.advance(at);
        self.outcomes.clear();
        let open = |subject: &Subject| {
            subject.reports.values().any(|report| report.remediations.iter().any(|item| item.state == State::Delivered))
        };
        let keys: Vec<_> = self.subjects.iter().filter(|(_, subject)| open(subject)).map(|(key, _)| *key).collect();
        for key in keys {
            self.decide_one(self.inside(format!("recovery:{key}"), self.now, EventKind::Recovered), Some(key));
        }
        self.advance(at);
    }

    /// Lets time pass: whatever is due on the way happens first, each at its own time.
    pub fn advance(&mut self, to: Timestamp) {
        loop {
            let outcome = self.outcomes.keys().next().map(|(due, _)| *due);
            let timer = self.subjects.iter().filter_map(|(key, subject)| Some((timers::next_due(subject)?, *key))).min();
            let parking = self.parked.iter().map(|parked| (parked.until, parked.number)).min();
            let all = [outcome, timer.map(|(due, _)| due), parking.map(|(due, _)| due)];
            let Some(due) = all.into_iter().flatten().min().filter(|due| *due <= to) else {
                break;
            };
            self.now = self.now.max(due);
            if outcome.is_some_and(|at| at <= due) {
                if let Some((_, (key, event))) = self.outcomes.pop_first() {
                    self.decide_one(event, Some(key));
                }
            } else if let Some((at, key)) = timer.filter(|(at, _)| *at <= due) {
                self.fire_timer(at, key);
            } else if let Some((until, number)) = parking {
                self.end_parking(until, number);
            }
        }
        self.now = self.now.max(to);
    }

    fn fire_timer(&mut self, at: Timestamp, key: SubjectKey) {
        self.decide_one(self.inside(format!("timer:{key}:{at}"), at, EventKind::TimerDue), Some(key));
        let next = self.subjects.get(&key).and_then(timers::next_due);
        assert!(next.is_none_or(|next| next > at), "the timer of {key} at {at} has not ended what it was for: next {next:?}");
    }

    fn end_parking(&mut self, until: Timestamp, number: u64) {
        let Some(place) = self.parked.iter().position(|parked| parked.number == number) else {
            return;
        };
        let parked = self.parked.remove(place);
        let event = Event { time: until, kind: EventKind::ParkingEnded(Box::new(parked.event.clone())), ..parked.event };
        let again = self.decide_one(event, None);
        assert!(again.is_none(), "an event whose parking has ended was parked again");
    }

    fn inside(&self, id: String, time: Timestamp, kind: EventKind) -> Event {
        Event { id, tenant: TENANT, time, traceparent: None, kind }
    }

    /// The one door to `decide`. `Some`: the event is to be parked.
    fn decide_one(&mut self, event: Event, given: Option<SubjectKey>) -> Option<(ReportId, Timestamp)> {
        let mut changed = VecDeque::new();
        let answer = self.decide_and_apply(event, given, &mut changed);
        while let Some(report) = changed.pop_front() {
            let mut waiting: Vec<_> =
                self.parked.iter().filter(|parked| parked.report == report).map(|parked| (parked.event.time, parked.number)).collect();
            waiting.sort_unstable();
            for (_, number) in waiting {
                let Some(event) = self.parked.iter().find(|parked| parked.number == number).map(|parked| parked.event.clone()) else {
                    continue;
                };
                if self.decide_and_apply(event, None, &mut changed).is_none() {
                    self.parked.retain(|parked| parked.number != number);
                } else {
                    // still ahead: it keeps its place and its time, and nobody hears of the attempt
                    self.steps.pop();
                }
            }
        }
        answer
    }

    fn decide_and_apply(
        &mut self,
        event: Event,
        given: Option<SubjectKey>,
        changed: &mut VecDeque<ReportId>,
    ) -> Option<(ReportId, Timestamp)> {
        if self.organization.deleted {
            // R17
            self.step_of_organization(event, Decision::Ignored(Ignored::NotOpen));
            return None;
        }
        if event.kind.address() == Address::Organization {
            self.decide_organization(event);
            return None;
        }
        let (key, before) = self.addressed(&event, given);
        let decision = decide(&before, &event, self.now, &self.policy);
        let answer = match &decision {
            Decision::Applied(applied) => {
                changed.extend(&applied.unpark);
                if applied.created {
                    count_report(&mut self.organization, event.time);
                }
                self.apply(key, applied);
                None
            }
            Decision::Park { report, until } => Some((*report, *until)),
            Decision::Ignored(_) | Decision::Orphan { .. } | Decision::Invalid { .. } | Decision::UnknownAgent { .. } => None,
        };
        let unknown = match &decision {
            Decision::UnknownAgent { agent } => Some((event.clone(), *agent)),
            _ => None,
        };
        self.steps.push(Step { before, event, now: self.now, policy: self.policy.clone(), decision, of_organization: false });
        if let Some((event, agent)) = unknown {
            let notice = refuse_unknown_agent(&mut self.organization, &event, self.now, agent);
            self.step_of_organization(event, said(vec![notice]));
        }
        answer
    }

    /// The subject of an event, with the report that it names even if that is long over.
    fn addressed(&self, event: &Event, given: Option<SubjectKey>) -> (SubjectKey, Subject) {
        let home = |report: &ReportId| self.reports.get(report).map(|report| report.subject_key);
        let (report, key) = match event.kind.address() {
            Address::Report(report) => (Some(report), home(&report).unwrap_or(SubjectKey::Report(report))),
            Address::NewReport { report, subject } => (Some(report), home(&report).unwrap_or(subject)),
            Address::Subject(key) => (None, key),
            Address::Given => (None, given.expect("an event from inside has its subject given")),
            Address::Organization => panic!("the organization is asked elsewhere"),
        };
        let mut subject = self.subjects.get(&key).cloned().unwrap_or_else(|| Subject::unknown(TENANT, key));
        if let Some((id, report)) = report.and_then(|id| Some((id, self.reports.get(&id)?))) {
            subject.reports.entry(id).or_insert_with(|| Arc::clone(report));
        }
        (key, subject)
    }

    fn decide_organization(&mut self, event: Event) {
        let decision = decide_organization(&self.organization, &event, self.now);
        assert_eq!(decision, decide_organization(&self.organization, &event, self.now), "asked again");
        let OrganizationDecision::Applied { organization, notices } = decision else {
            return self.step_of_organization(event, Decision::Ignored(Ignored::Older));
        };
        self.policy.organization = organization.settings.clone();
        let deleted = organization.deleted;
        self.organization = organization;
        self.step_of_organization(event.clone(), said(notices));
        if deleted {
            self.delete_reports(&event);
        }
    }

    /// R17, subject by subject, the reports that are long over included.
    fn delete_reports(&mut self, event: &Event) {
        for (key, mut before) in self.subjects.clone() {
            let all = self.reports.values().filter(|report| report.subject_key == key);
            before.reports.extend(all.map(|report| (report.id, Arc::clone(report))));
            let decision = decide(&before, event, self.now, &self.policy);
            if let Decision::Applied(applied) = &decision {
                self.apply(key, applied);
            }
            self.steps.push(Step {
                before,
                event: event.clone(),
                now: self.now,
                policy: self.policy.clone(),
                decision,
                of_organization: false,
            });
        }
    }

    fn step_of_organization(&mut self, event: Event, decision: Decision) {
        self.steps.push(Step {
            before: Subject::unknown(TENANT, SubjectKey::Report(ReportId(0))),
            event,
            now: self.now,
            policy: self.policy.clone(),
            decision,
            of_organization: true,
        });
    }

    fn apply(&mut self, key: SubjectKey, applied: &Applied) {
        for id in &applied.reports_changed {
            if let Some(report) = applied.subject.reports.get(id) {
                self.reports.insert(*id, Arc::clone(report));
            }
        }
        let mut subject = applied.subject.clone();
        subject.reports.retain(|_, report| is_live(report));
        assert_eq!(timers::next_due(&subject), timers::next_due(&applied.subject), "a report that is over has a timer");
        self.subjects.insert(key, subject);
        for order in &applied.attempts {
            if !self.silent.contains(&(order.report, order.remediation)) {
                self.run(key, order);
            }
        }
    }

    fn run(&mut self, key: SubjectKey, order: &AttemptOrder) {
        let played = play(order, Model::Steady);
        let ended_at = after(order.started_at, played.took);
        let end = AttemptEnd {
            report: order.report,
            revision: order.revision,
            remediation: order.remediation,
            attempt_id: order.attempt_id.clone(),
            code: played.code,
            tries: played.tries,
        };
        self.numbers += 1;
        let event = self.inside(order.cause.clone(), ended_at, EventKind::AttemptEnded(end));
        self.outcomes.insert((ended_at, self.numbers), (key, event));
    }
}

/// The organization says something, and nothing else changes.
fn said(notices: Vec<Notice>) -> Decision {
    Decision::Applied(Box::new(Applied {
        subject: Subject::unknown(TENANT, SubjectKey::Report(ReportId(0))),
        agent_changed: false,
        reports_changed: BTreeSet::new(),
        notices,
        attempts: Vec::new(),
        unpark: BTreeSet::new(),
        created: false,
        refused: None,
    }))
}
