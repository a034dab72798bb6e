//! The figures of a run, in the shape of its JSON report. Rates are per second, times in milliseconds unless they
//! say otherwise; what was not measured is `null`. Never here: how they are measured.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::books::{Audit, Sent};
use super::host::Host;

/// Ten minutes: an answer that takes longer is counted as that.
const LONGEST_US: u64 = 600_000_000;

/// The whole report.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// What this is, for those who find the file.
    pub what: &'static str,
    pub commit: String,
    pub host: Host,
    pub began_at: String,
    pub settings: Settings,
    /// The most that the service has sustained; with `--rate`, what it has done of that.
    pub events_per_s: Option<f64>,
    pub outbound_per_s: Option<f64>,
    /// Published for each event, counted to the end of every report.
    pub fan_out: Option<f64>,
    /// Mean length of what is published, bytes.
    pub outbound_bytes: Option<u64>,
    /// Events of the bare relay with that fan-out, the median of its phases.
    pub reference_relay_per_s: Option<f64>,
    /// The median over the pairs of a maximum and the mean of the references before and after it.
    pub ratio_to_reference: Option<f64>,
    pub pair_ratios: Vec<f64>,
    /// The most with nothing but surveys.
    pub surveys_per_s: Option<f64>,
    /// From when a decision should have been sent to the first event that it caused, at half of the maximum.
    pub decision_latency_ms: Option<Latency>,
    /// From when a critical report should have been sent to its page, at half of the maximum.
    pub page_latency_ms: Option<Latency>,
    /// From when any report should have been sent to the first event about it, at half of the maximum.
    pub report_latency_ms: Option<Latency>,
    pub fairness: Fairness,
    pub malformed: Option<Malformed>,
    pub audit: Audit,
    pub phases: Vec<Phase>,
    /// Warnings and errors that the service has logged.
    pub service_warnings: Vec<String>,
}

/// What was asked for.
#[derive(Debug, Clone, Serialize)]
pub struct Settings {
    pub command: String,
    pub seed: u64,
    pub partitions: u16,
    pub tenants: u32,
    pub agents_per_tenant: u32,
    pub shapes: [u32; 4],
    pub severities: [u32; 3],
    pub approval_delay_ms: [u32; 2],
    pub fail_percent: u32,
    pub survey_percent: u32,
    pub seconds_per_phase: u64,
    pub pairs: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Latency {
    pub count: u64,
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct Fairness {
    /// Jain's index of what was served to each tenant that still waited when half of a backlog was done, in which one
    /// tenant had a hundred times as much as any other.
    pub jain: Option<f64>,
    pub backlogged_tenants: Option<usize>,
    /// p99 of all tenants but the noisy one, with its noise and without.
    pub quiet_p99_ratio: Option<f64>,
    pub quiet_p99_ms: Option<f64>,
    pub noisy_p99_ms: Option<f64>,
    /// Of each tenant, in the quiet phase and in the noisy one.
    pub tenants: Vec<TenantFigures>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct TenantFigures {
    pub tenant: u32,
    pub answers: u64,
    pub p99_ms: Option<f64>,
    pub noisy_answers: u64,
    pub noisy_p99_ms: Option<f64>,
}

/// Malformed messages of one tenant's beside a steady load of the others'.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Malformed {
    pub asked_per_s: f64,
    /// Confirmed by the broker.
    pub sent_per_s: f64,
    /// Asked for, but not taken by the broker in time.
    pub unsent: u64,
    /// Of those that were sent, each counted once.
    pub dead_lettered: u64,
    /// Sent, and without a dead letter.
    pub lost: u64,
    /// p99 from when a decision should have been sent to its answer, beside them over alone.
    pub decision_p99_ratio: Option<f64>,
    pub p99_alone_ms: Option<f64>,
    pub p99_beside_ms: Option<f64>,
}

/// One phase of the run.
#[derive(Debug, Clone, Serialize)]
pub struct Phase {
    pub name: String,
    pub seconds: f64,
    /// What was to be sent; `null` at saturation.
    pub target_per_s: Option<f64>,
    /// Taken from the queues, malformed messages among them; bounded by what was published, where that lags behind.
    pub events_per_s: f64,
    pub consumed_per_s: f64,
    pub outbound_per_s: f64,
    pub fan_out: f64,
    /// How far behind its own plan the generator was at worst.
    pub generator_late_ms: f64,
    /// Processors in use, 1.0 is one.
    pub cpu: Cpu,
    /// Over time.
    pub series: Vec<Point>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Cpu {
    pub generator: Option<f64>,
    /// The service, or the bare relay.
    pub worker: Option<f64>,
    pub broker: Option<f64>,
}

/// A moment of a phase, seconds from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    pub at_s: f64,
    pub events_per_s: f64,
    pub outbound_per_s: f64,
    pub waiting: u64,
    pub unanswered: u64,
}

/// The distribution of times in microseconds; `None` of none.
pub fn latency(times_us: impl Iterator<Item = u64>) -> Option<Latency> {
    let mut histogram: Histogram<u64> = Histogram::new_with_bounds(1, LONGEST_US, 3).ok()?;
    times_us.for_each(|us| histogram.saturating_record(us.max(1)));
    let ms = |us: u64| us as f64 / 1_000.0;
    let at = |quantile| ms(histogram.value_at_quantile(quantile));
    let some = Latency { count: histogram.len(), p50: at(0.5), p95: at(0.95), p99: at(0.99), p999: at(0.999), max: ms(histogram.max()) };
    (some.count > 0).then_some(some)
}

/// From intended to answered; of what was not answered, nothing (the audit has it).
pub fn answer_us(sent: &Sent) -> Option<u64> {
    (sent.answered_us > 0).then(|| sent.answered_us.saturating_sub(sent.intended_us))
}

pub fn page_us(sent: &Sent) -> Option<u64> {
    (sent.paged_us > 0).then(|| sent.paged_us.saturating_sub(sent.intended_us))
}

/// Jain's index, 1 for equal shares and 1/n for all to one; `None` of none.
pub fn jain(shares: &[f64]) -> Option<f64> {
    let (sum, squares): (f64, f64) = (shares.iter().sum(), shares.iter().map(|share| share * share).sum());
    (squares > 0.0).then(|| sum * sum / (shares.len() as f64 * squares))
}

pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted.get(sorted.len().checked_sub(1)? / 2)?, sorted.get(sorted.len() / 2)?);
    Some((low + high) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_what_was_recorded() {
        let latency = latency((1..=1_000).map(|ms| ms * 1_000)).expect("some");
        assert_eq!(latency.count, 1_000);
        for (found, expected) in
            [(latency.p50, 500.0), (latency.p95, 950.0), (latency.p99, 990.0), (latency.p999, 999.0), (latency.max, 1_000.0)]
        {
            assert!((found - expected).abs() / expected < 0.002, "{found} for {expected}");
        }
        assert_eq!(super::latency(std::iter::empty()), None);
    }

    #[test]
    fn jain_and_the_median_are_what_they_are() {
        assert_eq!(jain(&[3.0, 3.0, 3.0]), Some(1.0));
        assert_eq!(jain(&[1.0, 0.0, 0.0, 0.0]), Some(0.25));
        assert_eq!(jain(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }
}
