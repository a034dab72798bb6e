//! The tally: what can be told of the service from outside, out of nothing but what it publishes.
//!
//! Never here: the service's own counters, except to be compared with. Bounded by the number of reports and
//! items of the scenario.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use crate::broker::HeaderValue;
use crate::cli::embedded::Embedded;
use crate::pipeline::counters::Count;

#[derive(Default)]
pub struct Tally {
    /// Published events and dead letters.
    received: u64,
    /// Per tenant and subject, the last sequence.
    sequences: HashMap<String, u64>,
    first_gap: Option<String>,
    /// Per report, `<status>` or `<status> <phase>`.
    reports: HashMap<String, String>,
    /// Per task, its state.
    tasks: HashMap<String, String>,
    attempts: u64,
    retries: u64,
    resolutions_refused: u64,
    refusals: BTreeMap<String, u64>,
    dead_letters: BTreeMap<String, u64>,
}

impl Tally {
    /// Takes up what has been published since the last time, and gives back the events.
    pub fn take(&mut self, embedded: &mut Embedded) -> Vec<Value> {
        for message in embedded.take_dead_letters() {
            self.received += 1;
            let reason = message.headers.iter().find(|(name, _)| name == "reason").map(|(_, value)| value);
            let reason = if let Some(HeaderValue::Text(reason)) = reason { reason.clone() } else { "?".into() };
            *self.dead_letters.entry(reason).or_default() += 1;
        }
        let messages = embedded.take_outbound();
        messages
            .iter()
            .map(|message| {
                self.received += 1;
                let event = serde_json::from_slice(&message.body).unwrap_or_default();
                self.add(&event);
                event
            })
            .collect()
    }

    fn add(&mut self, event: &Value) {
        let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or("?");
        let data = event.get("data").unwrap_or(&Value::Null);
        let field = |name: &str| data.get(name).and_then(Value::as_str);
        let subject = format!("{} {}", text("tenantid"), text("subject"));
        self.number(&subject, text("sequence"));
        match text("type") {
            "incident_report.status_changed" => {
                let status = match (field("to"), field("phase")) {
                    (Some(status), Some(phase)) => format!("{status} {phase}"),
                    (status, _) => status.unwrap_or("?").to_owned(),
                };
                self.reports.insert(subject, status);
            }
            "incident_report.phase_changed" => {
                self.reports.insert(subject, format!("sent {}", field("to").unwrap_or("?")));
            }
            "remediation.status_changed" if field("type") != Some("manual") => {
                let state = field("to").unwrap_or("?");
                if state == "delivered" {
                    self.attempts += 1;
                    if data.get("attempt").and_then(Value::as_u64).unwrap_or(0) > 1 {
                        self.retries += 1;
                    }
                }
                let number = |name: &str| data.get(name).and_then(Value::as_u64).unwrap_or(0);
                self.tasks.insert(format!("{subject}/{}/{}", number("plan_revision"), number("remediation_id")), state.to_owned());
            }
            "incident_report.resolution_refused" => self.resolutions_refused += 1,
            "request.refused" => *self.refusals.entry(field("code").unwrap_or("?").to_owned()).or_default() += 1,
            _ => {}
        }
    }

    /// 1, 2, 3 … of each subject, and nothing twice.
    fn number(&mut self, subject: &str, sequence: &str) {
        let last = self.sequences.get(subject).copied().unwrap_or(0);
        if sequence.parse() == Ok(last + 1) {
            self.sequences.insert(subject.to_owned(), last + 1);
        } else {
            self.first_gap.get_or_insert_with(|| format!("{subject}: {sequence} after {last}"));
        }
    }

    pub fn received(&self) -> u64 {
        self.received
    }

    pub fn is_gapless(&self) -> bool {
        self.first_gap.is_none()
    }

    /// How many reports are `open`, phase by phase, or ended, status by status.
    pub fn reports(&self, open: bool) -> BTreeMap<&str, u64> {
        let of_kind = self.reports.values().filter(|status| status.starts_with("sent") == open);
        count(of_kind.map(|status| status.strip_prefix("sent ").unwrap_or(status)))
    }

    pub fn tasks(&self) -> BTreeMap<&str, u64> {
        count(self.tasks.values().map(String::as_str))
    }

    pub fn attempts(&self) -> u64 {
        self.attempts
    }

    pub fn retries(&self) -> u64 {
        self.retries
    }

    pub fn resolutions_refused(&self) -> u64 {
        self.resolutions_refused
    }

    /// The books, line by line.
    pub fn closing(&self, count: &Count) -> String {
        let mut books = String::from("\n3. The books\n\n");
        let mut line = |name: &str, what: String| books.push_str(&format!("  {name:<22}{what}\n"));
        line("reports ended", listed(&self.reports(false)));
        line("reports open", listed(&self.reports(true)));
        line("tasks", listed(&self.tasks()));
        line("attempts", format!("{}, {} of them retries", grouped(self.attempts), grouped(self.retries)));
        line("resolutions refused", grouped(self.resolutions_refused));
        line("requests refused", listed(&self.refusals.iter().map(|(code, n)| (code.as_str(), *n)).collect()));
        line("dead letters", listed(&self.dead_letters.iter().map(|(reason, n)| (reason.as_str(), *n)).collect()));
        let Count { events_in, applied, duplicate, dead_lettered, parked, .. } = *count;
        let sign = if count.balances() { "=" } else { "IS NOT" };
        let [events_in, applied, duplicate, dead_lettered, parked] = [events_in, applied, duplicate, dead_lettered, parked].map(grouped);
        line(
            "balance",
            format!(
                "{events_in} events in {sign} {applied} applied + {duplicate} duplicate + {dead_lettered} dead-lettered + {parked} parked"
            ),
        );
        line("published", format!("{} by the service, {} received", grouped(count.published), grouped(self.received)));
        let sequences = match &self.first_gap {
            None => format!("{} subjects, each numbered 1, 2, 3 ... without a gap", grouped(self.sequences.len() as u64)),
            Some(gap) => format!("A GAP: {gap}"),
        };
        line("sequences", sequences);
        books
    }
}

fn count<'a>(values: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, u64> {
    let mut counts = BTreeMap::new();
    for value in values {
        *counts.entry(value).or_default() += 1;
    }
    counts
}

/// `blocked 3, ready 1,204`.
pub fn listed(counts: &BTreeMap<&str, u64>) -> String {
    let parts: Vec<String> = counts.iter().map(|(name, n)| format!("{name} {}", grouped(*n))).collect();
    if parts.is_empty() { "none".into() } else { parts.join(", ") }
}

/// With a comma before every three digits.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_a_repetition_and_a_late_start_are_found() {
        for (sequences, gapless) in [(vec!["1", "2", "3"], true), (vec!["1", "3"], false), (vec!["1", "1"], false), (vec!["2"], false)] {
            let mut tally = Tally::default();
            for sequence in &sequences {
                tally.number("5.4 agents/1", sequence);
            }
            assert_eq!(tally.is_gapless(), gapless, "{sequences:?}");
        }
    }

    #[test]
    fn figures_are_grouped() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
