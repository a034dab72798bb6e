//! A scenario: the events of some tenants over some virtual hours, minute by minute, as a pure function of
//! its figures. The first n tenants of a seed send the same whatever their number.
//!
//! It is played in order: let time pass to the end of a minute, publish that minute's reports side and wait
//! until it has settled, then its surveys. Within either side no event depends on another one's outcome,
//! so that whoever settles in between has the same totals every time.
//!
//! Never here: a reaction. Nobody in a scenario sees what the service answers; people ask too early, twice
//! and in vain, as they do.

use serde_json::json;

use super::dice::Dice;
use super::noise;
use super::script::Script;
use crate::model::ids::TenantId;
use crate::model::time::{Timestamp, after, minutes};

/// How often an agent surveys.
const SURVEY_EVERY_MINUTES: u32 = 15;
/// A scenario is held in memory, at about 40 KiB a tenant: this is 400 MiB.
pub const MAX_TENANTS: u32 = 10_000;
/// A day; the longest deadline that matters within one is far shorter.
pub const MAX_MINUTES: u32 = 24 * 60;

/// What a scenario is made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scenario {
    pub seed: u64,
    /// At most [`MAX_TENANTS`]; more are cut off.
    pub tenants: u32,
    pub begins: Timestamp,
    /// At most [`MAX_MINUTES`]; more are cut off.
    pub minutes: u32,
}

/// One minute's events, as the bytes of their messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Minute {
    /// From 1.
    pub number: u32,
    /// No event of the minute bears a later time.
    pub ends: Timestamp,
    pub reports: Vec<Vec<u8>>,
    pub surveys: Vec<Vec<u8>>,
}

/// An event, and the minute in which it reaches the broker.
pub(super) struct Planned {
    pub arrives: u32,
    pub body: Vec<u8>,
}

/// An agent's habits.
pub(super) struct AgentPlan {
    pub tenant: TenantId,
    pub id: u64,
    pub hostname: String,
    /// The first minute in which it surveys.
    first: u32,
    /// It does not survey from here on, until it comes back.
    falls_silent: u32,
    comes_back: u32,
    /// It has another boot id from here on.
    reboots: u32,
    /// Every so many surveys one is sent twice, and one again when it is old.
    repeats_every: u32,
}

/// A scenario worked out.
pub struct Timeline {
    scenario: Scenario,
    /// By the minute of arrival.
    reports: Vec<Planned>,
    agents: Vec<AgentPlan>,
}

impl Scenario {
    pub fn timeline(mut self) -> Timeline {
        self.tenants = self.tenants.min(MAX_TENANTS);
        self.minutes = self.minutes.min(MAX_MINUTES);
        let mut timeline = Timeline { scenario: self, reports: Vec::new(), agents: Vec::new() };
        for number in 0..self.tenants {
            timeline.add_tenant(number);
        }
        timeline.reports.retain(|planned| planned.arrives <= self.minutes);
        // stable: what arrives in one minute keeps the order in which it was sent
        timeline.reports.sort_by_key(|planned| planned.arrives);
        timeline
    }

    pub(super) fn end_of(&self, minute: u32) -> Timestamp {
        after(self.begins, minutes(i64::from(minute)))
    }
}

impl Timeline {
    /// The minutes, in order.
    pub fn minutes(&self) -> impl Iterator<Item = Minute> {
        (1..=self.scenario.minutes).map(|number| {
            let from = self.reports.partition_point(|planned| planned.arrives < number);
            let to = self.reports.partition_point(|planned| planned.arrives <= number);
            Minute {
                number,
                ends: self.scenario.end_of(number),
                reports: self.reports[from..to].iter().map(|planned| planned.body.clone()).collect(),
                surveys: self.agents.iter().flat_map(|agent| agent.surveys(number, &self.scenario)).collect(),
            }
        })
    }

    fn add_tenant(&mut self, number: u32) {
        let mut dice = Dice::new(self.scenario.seed, u64::from(number));
        // twenty organizations an account
        let tenant = TenantId { account: 100 + u64::from(number / 20), organization: 1 + u64::from(number) };
        let agents: Vec<AgentPlan> =
            (0..dice.between(1, 3)).map(|index| AgentPlan::new(&mut dice, tenant, index, self.scenario.minutes)).collect();
        for index in 0..dice.between(1, 5) {
            Script::new(&mut dice, &self.scenario, tenant, 1_001 + u64::from(index), &mut self.reports).play(&agents);
        }
        noise::add(&mut dice, &self.scenario, tenant, &mut self.reports);
        self.agents.extend(agents);
    }
}

impl AgentPlan {
    fn new(dice: &mut Dice, tenant: TenantId, index: u32, minutes: u32) -> Self {
        let id = 11 + u64::from(index);
        let falls_silent = if dice.percent(6) { dice.between(30, minutes.max(31)) } else { u32::MAX };
        Self {
            tenant,
            id,
            hostname: format!("ORG{}-PC-{id}", tenant.organization),
            first: dice.between(1, SURVEY_EVERY_MINUTES),
            falls_silent,
            // half of them are back the same day: offline for at least two surveys, and online again
            comes_back: falls_silent.saturating_add(if dice.percent(50) { dice.between(40, 120) } else { u32::MAX }),
            reboots: if dice.percent(50) { dice.between(60, minutes.max(61)) } else { u32::MAX },
            repeats_every: dice.between(20, 60),
        }
    }

    /// What it sends in a minute: mostly nothing.
    fn surveys(&self, minute: u32, scenario: &Scenario) -> Vec<Vec<u8>> {
        let silent = (self.falls_silent..self.comes_back).contains(&minute);
        if minute < self.first || silent || !(minute - self.first).is_multiple_of(SURVEY_EVERY_MINUTES) {
            return Vec::new();
        }
        let number = (minute - self.first) / SURVEY_EVERY_MINUTES + 1;
        let mut surveys = vec![self.survey(number, scenario)];
        if (number + self.first).is_multiple_of(self.repeats_every) {
            surveys.push(self.survey(number, scenario));
        }
        if number > 1 && (number + self.first + 7).is_multiple_of(self.repeats_every) {
            surveys.push(self.survey(number - 1, scenario));
        }
        surveys
    }

    fn survey(&self, number: u32, scenario: &Scenario) -> Vec<u8> {
        let minute = self.first + (number - 1) * SURVEY_EVERY_MINUTES;
        let (tenant, id, at) = (self.tenant, self.id, scenario.end_of(minute).to_string());
        let boot = if minute >= self.reboots { 2 } else { 1 };
        let event = json!({
            "specversion": "1.0", "id": format!("survey-{id}-{number}"), "source": format!("agents/{tenant}"),
            "type": "agent.surveyed", "time": at, "tenantid": tenant.to_string(), "subject": format!("agents/{id}"),
            "data": { "agent_id": id, "surveyed_at": at, "hostname": self.hostname, "platform": "windows",
                "agent_version": "0.14.2", "boot_id": format!("boot-{boot}") },
        });
        event.to_string().into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(seed: u64, tenants: u32) -> Vec<Minute> {
        let begins = "2026-11-23T10:00:00Z".parse().expect("time");
        Scenario { seed, tenants, begins, minutes: 240 }.timeline().minutes().collect()
    }

    #[test]
    fn a_seed_repeats_itself_and_more_tenants_only_add() {
        let few = scenario(7, 5);
        assert_eq!(few, scenario(7, 5));
        assert_ne!(few, scenario(8, 5));
        for (few, many) in few.iter().zip(scenario(7, 20)) {
            assert!(few.reports.iter().all(|event| many.reports.contains(event)), "minute {}", few.number);
        }
    }

    #[test]
    fn no_event_is_from_the_future_of_its_minute() {
        for minute in scenario(7, 20) {
            for body in minute.reports.iter().chain(&minute.surveys) {
                let Ok(event) = serde_json::from_slice::<serde_json::Value>(body) else {
                    continue;
                };
                let time: Timestamp = event["time"].as_str().expect("time").parse().expect("time");
                assert!(time <= minute.ends, "{event}");
            }
        }
    }
}
