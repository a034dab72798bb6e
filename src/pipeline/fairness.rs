//! Fairness: whose event is decided next. Deficit round robin over tenants (Shreedhar and Varghese, 1995), reports before
//! surveys.
//!
//! What waits here has been handed out by the broker, so the prefetch bounds it; a tenant that sends more than that in a
//! burst is served as much as every other, and its own events stay in their order. A message that nobody can be named
//! for (rubbish) waits in a line of its own.
//!
//! Never here: an event dropped, or two of one tenant and lane exchanged.

use std::collections::{HashMap, VecDeque};

use crate::broker::Lane;
use crate::model::ids::TenantId;
use crate::mutation::{self, Defect};

use super::ingest::Arrival;

/// Credit of a tenant and round, in bytes: an ordinary report of one, or some surveys.
const QUANTUM: usize = 4 * 1_024;
/// What an event costs beside its bytes: deciding and committing it.
const EACH: usize = 512;
/// While there are reports, each so manieth event is a survey, so that no flood of reports makes hosts look silent.
const SURVEY_EVERY: u32 = 8;

/// A line is far longer than the others when it has more than one of so many that wait, or is so many times as long as
/// a line is on average.
const LARGE_PART: usize = 4;
const FAR_LONGER: usize = 8;

/// Whose line an event waits in.
type Flow = Option<TenantId>;

#[derive(Default)]
struct Line {
    waiting: VecDeque<Arrival>,
    credit: usize,
}

/// The lines of one lane.
#[derive(Default)]
struct RoundRobin {
    lines: HashMap<Flow, Line>,
    /// Lines with something in them, the one being served first.
    round: VecDeque<Flow>,
    len: usize,
}

impl RoundRobin {
    fn push(&mut self, flow: Flow, arrival: Arrival) {
        let line = self.lines.entry(flow).or_default();
        if line.waiting.is_empty() {
            line.credit = QUANTUM;
            self.round.push_back(flow);
        }
        line.waiting.push_back(arrival);
        self.len += 1;
    }

    fn pop(&mut self) -> Option<Arrival> {
        loop {
            let flow = *self.round.front()?;
            let line = self.lines.get_mut(&flow)?;
            let cost = line.waiting.front()?.message.body.len() + EACH;
            if line.credit < cost {
                // saved up over the rounds for what is larger than a quantum
                line.credit += QUANTUM;
                self.round.rotate_left(1);
                continue;
            }
            line.credit -= cost;
            let arrival = line.waiting.pop_front();
            if line.waiting.is_empty() {
                self.lines.remove(&flow);
                self.round.pop_front();
            }
            self.len -= 1;
            return arrival;
        }
    }
}

/// Arrivals that wait for their turn.
#[derive(Default)]
pub(super) struct Waiting {
    reports: RoundRobin,
    surveys: RoundRobin,
    /// In one line for all: in virtual time the order of arrival is part of the result.
    one_line: bool,
    since_survey: u32,
}

impl Waiting {
    pub fn new(one_line: bool) -> Self {
        Self { one_line, ..Self::default() }
    }

    /// `surveys_in_line`: surveys are served in the order of their arrival for now.
    pub fn push(&mut self, arrival: Arrival, surveys_in_line: bool) {
        let in_line = self.one_line || (surveys_in_line && arrival.token.lane == Lane::Surveys) || mutation::seeded(Defect::OneLineForAll);
        let tenant = arrival.decoded.as_ref().ok().map(|inbound| inbound.event.tenant);
        let flow = tenant.filter(|_| !in_line);
        match arrival.token.lane {
            Lane::Reports => self.reports.push(flow, arrival),
            Lane::Surveys => self.surveys.push(flow, arrival),
        }
    }

    pub fn pop(&mut self) -> Option<Arrival> {
        let survey_is_due = self.since_survey + 1 >= SURVEY_EVERY && !self.one_line;
        let first = if survey_is_due { self.surveys.pop() } else { None };
        let arrival = first.or_else(|| self.reports.pop()).or_else(|| self.surveys.pop())?;
        match arrival.token.lane {
            Lane::Reports => self.since_survey += 1,
            Lane::Surveys => self.since_survey = 0,
        }
        Some(arrival)
    }

    /// Whether one tenant has far more waiting than the others. They then depend on what is handed out next.
    pub fn is_one_sided(&self, lane: Lane) -> bool {
        let RoundRobin { lines, len, .. } = match lane {
            Lane::Reports => &self.reports,
            Lane::Surveys => &self.surveys,
        };
        let longest = lines.values().map(|line| line.waiting.len()).max().unwrap_or(0);
        longest * LARGE_PART > *len || longest * lines.len() > FAR_LONGER * len
    }

    pub fn is_empty(&self) -> bool {
        self.reports.len == 0 && self.surveys.len == 0
    }

    pub fn has_surveys(&self) -> bool {
        self.surveys.len > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{Message, Token};
    use crate::model::time::Stopwatch;
    use crate::pipeline::rows;

    fn arrival(lane: Lane, tenant: u64, tag: u64, padding: usize) -> Arrival {
        let data = match lane {
            Lane::Reports => serde_json::json!({ "incident_report_id": 1, "comment": "x".repeat(padding) }),
            Lane::Surveys => serde_json::json!({ "agent_id": 1, "surveyed_at": "2026-11-23T09:00:00Z" }),
        };
        let kind = if lane == Lane::Reports { "incident_report.comment_added" } else { "agent.surveyed" };
        let event = serde_json::json!({ "specversion": "1.0", "id": tag.to_string(), "source": "s", "type": kind,
            "time": "2026-11-23T09:00:00Z", "tenantid": format!("1.{tenant}"), "data": data });
        let message = Message {
            body: event.to_string().into_bytes(),
            content_type: Some("application/cloudevents+json".into()),
            ..Message::default()
        };
        let decoded = rows::decode(&message);
        assert!(decoded.is_ok(), "{decoded:?}");
        Arrival { token: Token { epoch: 1, lane, tag }, message, decoded, since: Stopwatch::start() }
    }

    fn served(waiting: &mut Waiting, events: usize) -> Vec<(u64, u64)> {
        let next =
            || waiting.pop().map(|arrival| (arrival.decoded.map_or(0, |inbound| inbound.event.tenant.organization), arrival.token.tag));
        std::iter::from_fn(next).take(events).collect()
    }

    #[test]
    fn a_flood_of_one_tenant_is_served_as_much_as_each_of_the_others() {
        let mut waiting = Waiting::new(false);
        (0..1_000).for_each(|tag| waiting.push(arrival(Lane::Reports, 1, tag, 0), false));
        (0..9).for_each(|n| (0..20).for_each(|tag| waiting.push(arrival(Lane::Reports, 2 + n, 10_000 + 100 * n + tag, 0), false)));
        let served = served(&mut waiting, 150);
        for tenant in 1..=10 {
            let tags: Vec<u64> = served.iter().filter(|(of, _)| *of == tenant).map(|(_, tag)| *tag).collect();
            assert!((10..=20).contains(&tags.len()), "tenant {tenant}: {} of 150", tags.len());
            assert!(tags.is_sorted(), "tenant {tenant}: {tags:?}");
        }
    }

    #[test]
    fn one_tenant_with_far_more_than_the_others_makes_it_one_sided() {
        let one_sided = |of_one: u64, others: u64, of_each: u64| {
            let mut waiting = Waiting::new(false);
            (0..of_one).for_each(|tag| waiting.push(arrival(Lane::Reports, 1, tag, 0), false));
            (0..others).for_each(|n| (0..of_each).for_each(|tag| waiting.push(arrival(Lane::Reports, 2 + n, tag, 0), false)));
            assert!(!waiting.is_one_sided(Lane::Surveys));
            waiting.is_one_sided(Lane::Reports)
        };
        assert!(!one_sided(0, 0, 0) && !one_sided(10, 9, 10) && !one_sided(30, 19, 10));
        assert!(one_sided(30, 3, 20), "a third of all");
        assert!(one_sided(30, 300, 2), "fifteen times as many as the others");
    }

    #[test]
    fn large_events_cost_what_they_weigh() {
        let mut waiting = Waiting::new(false);
        for tag in 0..100 {
            waiting.push(arrival(Lane::Reports, 1, tag, 3_000), false);
            waiting.push(arrival(Lane::Reports, 2, 100 + tag, 0), false);
        }
        let of_small = served(&mut waiting, 60).iter().filter(|(tenant, _)| *tenant == 2).count();
        assert!((38..=54).contains(&of_small), "{of_small} of 60");
    }

    #[test]
    fn reports_go_first_and_surveys_do_not_starve() {
        let mut waiting = Waiting::new(false);
        (0..20).for_each(|tag| waiting.push(arrival(Lane::Surveys, 1, tag, 0), false));
        (100..200).for_each(|tag| waiting.push(arrival(Lane::Reports, 1, tag, 0), false));
        let served = served(&mut waiting, 64);
        let surveys: Vec<usize> = (0..64).filter(|at| served[*at].1 < 100).collect();
        assert_eq!(surveys, [7, 15, 23, 31, 39, 47, 55, 63]);
    }

    #[test]
    fn in_one_line_everything_keeps_its_order() {
        let mut waiting = Waiting::new(true);
        for tag in 0..30 {
            waiting.push(arrival(Lane::Reports, 1 + tag % 3, tag, if tag % 5 == 0 { 4_000 } else { 0 }), false);
        }
        let tags: Vec<u64> = served(&mut waiting, 30).into_iter().map(|(_, tag)| tag).collect();
        assert!(tags.is_sorted() && waiting.is_empty(), "{tags:?}");
    }
}
