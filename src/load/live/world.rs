//! The world of a load run: its tenants, their agents, and the story of each report. Gives one event after the
//! other, as the bytes of its message.
//!
//! Never here: I/O, a clock (both times are arguments), or a look at what the service answers, except in
//! [`World::mend`], which brings every report to its end once the sending is over.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use super::bodies::{self, ACCOUNT, Header, Task};
use super::mix::{Mix, Shape};
use crate::load::dice::Dice;
use crate::model::ids::{AgentId, TenantId};
use crate::model::report::Severity;
use crate::model::time::{Timestamp, minutes};

/// The tenant that is noisy when one is.
pub const NOISY_TENANT: u32 = 0;
/// How much louder.
pub const NOISE_FACTOR: u32 = 100;
/// More reports than any run makes; keeps the ids of runs that share a store apart.
const IDS_OF_A_RUN: u64 = 10_000_000;
/// Ids end at 2^53: the seconds since this moment last until 2054.
const IDS_BEGIN: i64 = 1_767_225_600;
/// Past the pause before a second attempt, 15 minutes at most.
const NEXT_SURVEY_MS: i64 = minutes(16).as_millis() as i64;
/// The service takes no survey from more than a day ahead; agents with clocks as far ahead get no task to retry.
const FAR_AHEAD_MS: i64 = minutes(10 * 60).as_millis() as i64;
/// Of a hundred reports with a plan, those that somebody tries to resolve before reading it.
const HASTY_PERCENT: u32 = 15;
/// Of a hundred reports with assisted tasks, those in which a task needs a second try within its attempt.
const BUMPY_PERCENT: u32 = 20;
/// Manual steps are numbered from here, assisted tasks from 1.
const FIRST_MANUAL: u64 = 11;

/// Names this run in the ids of its events, reports and agents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Ends with `-`; a number follows in the id of an event.
    pub token: String,
    base: u64,
}

impl Run {
    pub fn new(now: Timestamp) -> Self {
        let seconds = u64::try_from(now.as_second() - IDS_BEGIN).unwrap_or(0);
        Self { token: format!("load-{:x}-", now.as_millisecond()), base: seconds * IDS_OF_A_RUN }
    }

    /// The number in an id of ours.
    pub fn index(&self, id: u64) -> Option<usize> {
        let index = id.checked_sub(self.base + 1).filter(|index| *index < IDS_OF_A_RUN)?;
        usize::try_from(index).ok()
    }

    pub fn number(&self, event_id: &str) -> Option<usize> {
        event_id.strip_prefix(&self.token)?.parse().ok()
    }

    /// Of the malformed message with this number; no event has it.
    pub fn malformed_id(&self, number: usize) -> String {
        format!("{}m{number}", self.token)
    }

    pub fn malformed_number(&self, id: &str) -> Option<usize> {
        id.strip_prefix(&self.token)?.strip_prefix('m')?.parse().ok()
    }

    /// Of the report, or the agent, with this number.
    pub fn id(&self, index: usize) -> u64 {
        self.base + 1 + index as u64
    }
}

/// What an event must lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Published events; a page among them, if critical.
    Report { critical: bool },
    /// Published events.
    Decision,
    /// Published events only if there is something to tell.
    Survey,
}

/// An event to send.
pub struct Event {
    pub tenant: u32,
    pub kind: Kind,
    pub routing_key: String,
    pub tenantid: String,
    pub body: Vec<u8>,
}

/// Where a report is, as told by the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    Unheard,
    AwaitingApproval,
    Blocked,
    Remediating,
    Ready,
    Closed,
    /// Where none of ours should ever be.
    Elsewhere,
}

/// How the tasks of a report are meant to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Smooth,
    Bumpy,
    /// The first attempt is in vain.
    Retried,
    /// Fails; somebody asks for it to be tried again.
    Refused,
    /// Fails, and nobody asks: the report stays blocked.
    Stuck,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Ask,
    Approve,
    Survey,
    SurveyLater,
    Retry,
    SurveyAgain,
    Resolve,
}

#[derive(Debug, Clone, Copy)]
struct Report {
    tenant: u32,
    /// In [`World::agents`].
    agent: usize,
    fate: Fate,
    assisted: bool,
}

/// Everything that a run sends. Equal mixes and times give equal events.
pub struct World {
    mix: Mix,
    dice: Dice,
    run: Run,
    pub noisy: bool,
    /// The time of each agent's last survey, milliseconds; those of a tenant side by side.
    agents: Vec<Option<i64>>,
    /// Per tenant, whose turn it is to survey.
    turns: Vec<u32>,
    reports: Vec<Report>,
    /// When, which report, what.
    due: BinaryHeap<Reverse<(u64, usize, Step)>>,
    sent: usize,
    /// Since the mix was last restarted, as the surveys are.
    sent_with_mix: usize,
    surveys: usize,
}

impl World {
    pub fn new(mix: Mix, run: Run) -> Self {
        let tenants = mix.tenants as usize;
        Self {
            dice: Dice::new(mix.seed, 0),
            run,
            noisy: false,
            agents: vec![None; tenants * mix.agents as usize],
            turns: vec![0; tenants],
            reports: Vec::new(),
            due: BinaryHeap::new(),
            sent: 0,
            sent_with_mix: 0,
            surveys: 0,
            mix,
        }
    }

    /// The event that is sent at `at_us`, by the clock of the run: the step of a report that is due, or something new.
    pub fn next(&mut self, at_us: u64, now: Timestamp) -> Event {
        if let Some(Reverse((due_us, report, step))) = self.due.peek().copied()
            && due_us <= at_us
        {
            self.due.pop();
            return self.step(report, step, at_us, now);
        }
        let tenant = self.any_tenant();
        if self.sends_surveys_alone() || self.surveys * 100 < self.sent_with_mix * self.mix.survey_percent as usize {
            let agent = self.next_agent(tenant);
            return self.survey(tenant, agent, 0, now);
        }
        self.report(tenant, at_us, now)
    }

    /// A report without a plan, for [`Standing::Ready`] at once: the cheapest thing that is answered.
    pub fn informational(&mut self, tenant: u32, now: Timestamp) -> Event {
        let agent = self.next_agent(tenant);
        self.create(tenant, agent, Shape::None, Severity::Low, Fate::Smooth, now)
    }

    /// Whether there are no new reports, only steps of those that were there before.
    pub fn sends_surveys_alone(&self) -> bool {
        self.mix.survey_percent >= 100
    }

    /// From now on: of a hundred events so many surveys.
    pub fn set_survey_percent(&mut self, survey_percent: u32) {
        self.mix.survey_percent = survey_percent;
    }

    /// What was sent so far, to bring reports to their ends above all, no longer counts towards the mix.
    pub fn restart_mix(&mut self) {
        (self.sent_with_mix, self.surveys) = (0, 0);
    }

    /// The steps that have not been sent are given up: `mend` takes the reports to their ends.
    pub fn forget_steps(&mut self) {
        self.due.clear();
    }

    /// A request to resolve each report that is not yet where it is meant to end. Its answer is the last thing published
    /// about the report, so whoever has seen it knows where the report is.
    pub fn ask(&mut self, standings: &[Standing], now: Timestamp) -> Vec<Event> {
        let heard = |index: &usize| standings.get(*index).is_some_and(|standing| *standing != Standing::Unheard);
        let asked: Vec<usize> = self.misplaced(standings).into_iter().filter(heard).collect();
        asked.into_iter().map(|index| self.decision(index, Step::Resolve, now)).collect()
    }

    /// What each report needs that is not yet where it is meant to end. To be called with the answers to [`World::ask`]:
    /// an approval of what has just been approved would have no answer.
    pub fn mend(&mut self, standings: &[Standing], now: Timestamp) -> Vec<Event> {
        let mut events = Vec::new();
        let mut surveyed = BTreeSet::new();
        for index in self.misplaced(standings) {
            let report = self.reports[index];
            match standings.get(index).copied().unwrap_or(Standing::Unheard) {
                Standing::AwaitingApproval => events.push(self.decision(index, Step::Approve, now)),
                Standing::Blocked => events.push(self.decision(index, Step::Retry, now)),
                Standing::Remediating => {
                    if surveyed.insert(report.agent) {
                        events.push(self.survey(report.tenant, report.agent, NEXT_SURVEY_MS, now));
                    }
                }
                Standing::Unheard | Standing::Ready | Standing::Closed | Standing::Elsewhere => {}
            }
        }
        events
    }

    /// The reports that are not where they are meant to end.
    pub fn misplaced(&self, standings: &[Standing]) -> Vec<usize> {
        let meant = |report: &Report| if report.fate == Fate::Stuck { Standing::Blocked } else { Standing::Closed };
        let ends = self.reports.iter().enumerate();
        ends.filter(|(index, report)| standings.get(*index) != Some(&meant(report))).map(|(index, _)| index).collect()
    }

    /// Agents that have surveyed, and the time of their last one.
    pub fn last_surveys(&self) -> impl Iterator<Item = (TenantId, AgentId, Timestamp)> {
        let known = self.agents.iter().enumerate().filter_map(|(index, last_ms)| Some((index, (*last_ms)?)));
        known.filter_map(|(index, last_ms)| {
            let organization = index as u64 / u64::from(self.mix.agents) + 1;
            Some((TenantId { account: ACCOUNT, organization }, AgentId(self.run.id(index)), Timestamp::from_millisecond(last_ms).ok()?))
        })
    }

    fn any_tenant(&mut self) -> u32 {
        let tenants = self.mix.tenants;
        if !self.noisy {
            return self.dice.between(0, tenants - 1);
        }
        // the noisy one has as many tickets as it is louder
        self.dice.between(0, tenants - 1 + NOISE_FACTOR - 1).saturating_sub(NOISE_FACTOR - 1)
    }

    fn next_agent(&mut self, tenant: u32) -> usize {
        let turn = &mut self.turns[tenant as usize];
        let agent = tenant * self.mix.agents + *turn;
        *turn = (*turn + 1) % self.mix.agents;
        agent as usize
    }

    fn report(&mut self, tenant: u32, at_us: u64, now: Timestamp) -> Event {
        let agent = self.next_agent(tenant);
        let (shape, severity) = (self.mix.shape(&mut self.dice), self.mix.severity(&mut self.dice));
        let assisted = matches!(shape, Shape::Assisted | Shape::Both);
        let far_ahead = self.agents[agent].is_some_and(|last_ms| last_ms > now.as_millisecond() + FAR_AHEAD_MS);
        let fate = if assisted && !far_ahead { self.fate() } else { Fate::Smooth };
        let index = self.reports.len();
        let event = self.create(tenant, agent, shape, severity, fate, now);
        let step = match shape {
            Shape::None => Step::Resolve,
            _ if self.dice.percent(HASTY_PERCENT) => Step::Ask,
            _ => Step::Approve,
        };
        self.later(index, step, at_us);
        event
    }

    fn fate(&mut self) -> Fate {
        if self.dice.percent(self.mix.fail_percent) {
            return *self.dice.pick(&[Fate::Retried, Fate::Retried, Fate::Refused, Fate::Stuck]);
        }
        if self.dice.percent(BUMPY_PERCENT) { Fate::Bumpy } else { Fate::Smooth }
    }

    fn create(&mut self, tenant: u32, agent: usize, shape: Shape, severity: Severity, fate: Fate, now: Timestamp) -> Event {
        let index = self.reports.len();
        let (assisted, manual) = match shape {
            Shape::Assisted => (self.dice.between(1, 3), 0),
            Shape::Manual => (0, self.dice.between(1, 2)),
            Shape::Both => (self.dice.between(1, 3), self.dice.between(1, 2)),
            Shape::None => (0, 0),
        };
        self.reports.push(Report { tenant, agent, fate, assisted: assisted > 0 });
        let outcomes: &[&str] = match fate {
            Fate::Smooth => &["ok"],
            Fate::Bumpy => &["file_in_use", "ok"],
            Fate::Retried => &["agent_busy", "agent_busy", "agent_busy", "ok"],
            Fate::Refused | Fate::Stuck => &["access_denied", "ok"],
        };
        let tasks: Vec<Task<'_>> =
            (1..=u64::from(assisted)).map(|id| Task { id, outcomes: if id == 1 { outcomes } else { &["ok"] } }).collect();
        let manual: Vec<u64> = (FIRST_MANUAL..).take(manual as usize).collect();
        let report =
            bodies::Report { id: self.run.id(index), agent: self.run.id(agent), shape, severity, assisted: &tasks, manual: &manual };
        let kind = Kind::Report { critical: severity == Severity::Critical };
        self.event(tenant, kind, "incident_report.created", now, |header| bodies::created(header, &report))
    }

    fn step(&mut self, index: usize, step: Step, at_us: u64, now: Timestamp) -> Event {
        let Report { tenant, agent, fate, assisted } = self.reports[index];
        let (event, next) = match step {
            Step::Ask => (self.decision(index, Step::Resolve, now), Some(Step::Approve)),
            Step::Approve => (self.decision(index, step, now), Some(if assisted { Step::Survey } else { Step::Resolve })),
            Step::Survey => {
                let next = match fate {
                    Fate::Retried => Step::SurveyLater,
                    Fate::Refused => Step::Retry,
                    Fate::Smooth | Fate::Bumpy | Fate::Stuck => Step::Resolve,
                };
                (self.survey(tenant, agent, 0, now), Some(next))
            }
            Step::SurveyLater => (self.survey(tenant, agent, NEXT_SURVEY_MS, now), Some(Step::Resolve)),
            Step::Retry => (self.decision(index, step, now), Some(Step::SurveyAgain)),
            Step::SurveyAgain => (self.survey(tenant, agent, 0, now), Some(Step::Resolve)),
            Step::Resolve => (self.decision(index, step, now), None),
        };
        if let Some(next) = next {
            self.later(index, next, at_us);
        }
        event
    }

    fn later(&mut self, index: usize, step: Step, at_us: u64) {
        let at_us = at_us + self.mix.approval_delay.draw_us(&mut self.dice);
        self.due.push(Reverse((at_us, index, step)));
    }

    fn decision(&mut self, index: usize, step: Step, now: Timestamp) -> Event {
        let (tenant, report) = (self.reports[index].tenant, self.run.id(index));
        match step {
            Step::Approve => self.event(tenant, Kind::Decision, "remediations.approved", now, |header| bodies::approved(header, report)),
            Step::Retry => {
                self.event(tenant, Kind::Decision, "remediation.retry_requested", now, |header| bodies::retry_requested(header, report, 1))
            }
            Step::Ask | Step::Resolve | Step::Survey | Step::SurveyLater | Step::SurveyAgain => {
                let kind = "incident_report.resolution_requested";
                self.event(tenant, Kind::Decision, kind, now, |header| bodies::resolution_requested(header, report))
            }
        }
    }

    /// A survey `ahead_ms` after the agent's last one, or now. Never two in one millisecond: those are the same survey.
    fn survey(&mut self, tenant: u32, agent: usize, ahead_ms: i64, now: Timestamp) -> Event {
        let last_ms = self.agents[agent].unwrap_or(0);
        let at_ms = now.as_millisecond().max(last_ms + 1).max(if ahead_ms > 0 { last_ms + ahead_ms } else { 0 });
        self.agents[agent] = Some(at_ms);
        self.surveys += 1;
        let (id, at) = (self.run.id(agent), Timestamp::from_millisecond(at_ms).unwrap_or(now));
        self.event(tenant, Kind::Survey, "agent.surveyed", at, |header| bodies::surveyed(header, id))
    }

    fn event(&mut self, tenant: u32, kind: Kind, name: &str, time: Timestamp, body: impl FnOnce(&Header<'_>) -> Vec<u8>) -> Event {
        let organization = u64::from(tenant) + 1;
        let id = format!("{}{}", self.run.token, self.sent);
        self.sent += 1;
        self.sent_with_mix += 1;
        let tenantid = format!("{ACCOUNT}.{organization}");
        let body = body(&Header { id: &id, organization, time });
        Event { tenant, kind, routing_key: format!("{name}.{tenantid}"), tenantid, body }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::live::mix::{DelayMs, Weights};

    fn world(survey_percent: u32, tenants: u32) -> World {
        let mix = Mix {
            seed: 3,
            tenants,
            agents: 4,
            shapes: Weights([2, 1, 3, 1]),
            severities: Weights([3, 2, 1]),
            approval_delay: DelayMs { least: 10, most: 20 },
            fail_percent: 20,
            survey_percent,
        };
        let now: Timestamp = "2026-11-23T10:00:00Z".parse().expect("time");
        World::new(mix, Run::new(now))
    }

    fn events(world: &mut World, count: u64) -> Vec<Event> {
        let now: Timestamp = "2026-11-23T10:00:00Z".parse().expect("time");
        (0..count).map(|n| world.next(n * 1_000, now)).collect()
    }

    #[test]
    fn a_seed_repeats_itself_and_the_mix_is_kept() {
        let (mut one, mut two) = (world(50, 10), world(50, 10));
        let (sent, again) = (events(&mut one, 4_000), events(&mut two, 4_000));
        assert!(sent.iter().zip(&again).all(|(one, two)| one.body == two.body));
        let surveys = sent.iter().filter(|event| event.kind == Kind::Survey).count();
        assert!((1_990..2_100).contains(&surveys), "{surveys}");
        let critical = sent.iter().filter(|event| event.kind == Kind::Report { critical: true }).count();
        let created = sent.iter().filter(|event| matches!(event.kind, Kind::Report { .. })).count();
        assert!(created > 400 && (created / 9..created / 4).contains(&critical), "{critical} of {created}");
        assert_eq!(one.reports.len(), created);
    }

    #[test]
    fn surveys_only_means_that() {
        assert!(events(&mut world(100, 10), 500).iter().all(|event| event.kind == Kind::Survey));
    }

    #[test]
    fn a_noisy_tenant_sends_a_hundred_times_the_share_of_another() {
        let mut world = world(50, 101);
        world.noisy = true;
        let noisy = events(&mut world, 4_000).iter().filter(|event| event.tenant == NOISY_TENANT).count();
        assert!((1_800..2_200).contains(&noisy), "{noisy}");
    }

    #[test]
    fn an_agent_never_surveys_twice_in_a_millisecond() {
        let mut world = world(100, 1);
        let mut bodies: Vec<String> = Vec::new();
        for event in events(&mut world, 40) {
            let body: serde_json::Value = serde_json::from_slice(&event.body).expect("JSON");
            bodies.push(format!("{} {}", body["data"]["agent_id"], body["data"]["surveyed_at"]));
        }
        let distinct: BTreeSet<&String> = bodies.iter().collect();
        assert_eq!(distinct.len(), 40);
        assert_eq!(world.last_surveys().count(), 4);
    }

    #[test]
    fn what_is_not_at_its_end_is_mended_by_one_step() {
        let mut world = world(0, 10);
        events(&mut world, 200);
        let reports = world.reports.len();
        let now: Timestamp = "2026-11-23T10:00:01Z".parse().expect("time");
        let unheard = vec![Standing::Unheard; reports];
        assert!(world.ask(&unheard, now).is_empty() && world.mend(&unheard, now).is_empty(), "nothing mends what was lost");
        assert_eq!(world.misplaced(&vec![Standing::Ready; reports]).len(), reports);
        assert_eq!(world.ask(&vec![Standing::Ready; reports], now).len(), reports);
        assert_eq!(world.mend(&vec![Standing::AwaitingApproval; reports], now).len(), reports);
        let stuck = world.misplaced(&vec![Standing::Closed; reports]).len();
        assert!(stuck > 0 && stuck < reports / 5, "{stuck} of {reports}");
        assert_eq!(world.misplaced(&vec![Standing::Blocked; reports]).len(), reports - stuck);
    }

    #[test]
    fn the_mix_is_kept_after_reports_were_brought_to_their_ends() {
        let mut world = world(50, 10);
        events(&mut world, 200);
        world.forget_steps();
        let now: Timestamp = "2026-11-23T10:00:01Z".parse().expect("time");
        let reports = world.reports.len();
        world.ask(&vec![Standing::Ready; reports], now);
        world.restart_mix();
        let surveys = events(&mut world, 100).iter().filter(|event| event.kind == Kind::Survey).count();
        assert!((50..60).contains(&surveys), "{surveys}");
    }

    #[test]
    fn ids_tell_their_run() {
        let now: Timestamp = "2026-11-23T10:00:00Z".parse().expect("time");
        let (run, other) = (Run::new(now), Run::new(crate::model::time::after(now, minutes(1))));
        assert_eq!(run.index(run.id(7)), Some(7));
        assert_eq!(other.index(run.id(7)), None);
        assert_eq!(run.index(other.id(7)), None);
        assert_eq!(run.number(&format!("{}12", run.token)), Some(12));
        assert_eq!(run.number("survey-12"), None);
        assert_eq!((run.malformed_number(&run.malformed_id(12)), run.number(&run.malformed_id(12))), (Some(12), None));
        assert_eq!(run.malformed_number(&format!("{}12", run.token)), None);
    }
}
