//! The metrics, in OpenMetrics text. Names and labels are an interface: base units, closed sets of labels, tenants only
//! as the ten with the most open reports and one for all others. What tells that a partition is ill is told of each partition
//! by its number, all else of all together.
//!
//! Never here: a figure of its own; what is shown comes from [`Facts`].

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::model::report::Severity;
use crate::pipeline::census::Standing;
use crate::pipeline::histogram::{BOUNDS, Distribution};

use super::facts::{Facts, Figures, Running};
use super::health::{LINK_STATES, link_state};

pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The label of tenants that are not named.
const OTHER: &str = "other";
const MICROS_PER_SECOND: f64 = 1e6;

pub fn text(facts: Facts) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("remedyd");
    registry.register_collector(Box::new(facts));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

impl Collector for Facts {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut out = Encoding(encoder);
        out.info("build", "What is running.", &[("version", env!("CARGO_PKG_VERSION"))])?;
        out.gauge("start_time", "When the process began, since 1970.", Some(Unit::Seconds), self.started_at.as_millisecond() as f64 / 1e3)?;
        out.gauge("live", "1 unless only a restart helps (/livez).", None, i64::from(self.not_live.is_empty()))?;
        out.gauge("ready", "1 if events are taken and published (/readyz).", None, i64::from(self.not_ready.is_empty()))?;
        if let Some(bytes) = self.process.resident_bytes {
            out.gauge("process_resident_memory", "Memory in use.", Some(Unit::Bytes), bytes)?;
        }
        if let Some(seconds) = self.process.cpu_seconds {
            out.counter("process_cpu", "Processor time of all threads.", Some(Unit::Seconds), seconds)?;
        }
        if let Some(fds) = self.process.open_fds {
            out.gauge("process_open_fds", "Open file descriptors.", None, fds)?;
        }
        self.running.as_ref().map_or(Ok(()), |running| out.running(running))
    }
}

struct Encoding<'a>(DescriptorEncoder<'a>);

impl Encoding<'_> {
    fn running(&mut self, running: &Running) -> fmt::Result {
        self.ledger(running)?;
        let types = running.by_type.iter().map(|(name, count)| ([("type", *name)], *count));
        self.counters("events_by_type", "Events taken, by what they say they are.", types)?;
        let reasons = running.by_reason.iter().map(|(reason, count)| ([("reason", *reason)], *count));
        self.counters("dead_letters", "Events that can never be applied.", reasons)?;

        let states = LINK_STATES.map(|state| ([("state", state)], u64::from(state == link_state(&running.link))));
        self.gauges("link_state", "Where the connections to the broker stand, all as the worst of them: 1 for one of these.", states)?;
        let about = "Connections of a partition to the broker after its first.";
        self.counters("link_reconnects", about, each(running, |one| one.reconnects))?;

        self.gauges("outbox_rows", "Messages of a partition that no confirm is known for.", each(running, |one| one.outbox_rows))?;
        self.gauges("outbox_limit_rows", "At so many a partition takes no more events.", each(running, |one| one.outbox_limit))?;
        self.gauge("timers", "Timers that are set.", None, running.timers)?;
        self.counter("timers_fired", "Timers that have fired.", None, running.count.timers_fired)?;
        self.counter("attempts", "Attempts at remediations handed to agents.", None, running.count.attempts)?;
        self.counter("messages_published", "Messages that the broker has confirmed.", None, running.count.published)?;
        let about = "Times that the broker has handed a message back or refused it. It is published again.";
        self.counter("publications_refused", about, None, running.count.publications_refused)?;
        self.counters("commits", "Durable batches of a partition.", each(running, |one| one.commits))?;
        if let Some(bytes) = running.store_bytes {
            self.gauge("store_size", "The store's files.", Some(Unit::Bytes), bytes)?;
        }
        self.histogram("commit_duration", "How long a batch took to become durable.", Some(Unit::Seconds), &running.commit)?;
        self.histogram("batch_events", "Events of a durable batch.", None, &running.batch)?;
        let about = "From the arrival of a batch's first event until the batch was durable: no event of it waited longer.";
        self.histogram("decision_latency", about, Some(Unit::Seconds), &running.decision)?;
        let about = "From the commit of a page (on_call.paged) until the broker has confirmed it.";
        self.histogram("page_latency", about, Some(Unit::Seconds), &running.page)?;
        self.census(running)
    }

    fn ledger(&mut self, running: &Running) -> fmt::Result {
        let ledger = running.ledger;
        let about = "Events that a partition has received. Of all together: = applied + duplicate + refused + dead_lettered \
                     (remedyd_ledger_events_total) + parked + in flight.";
        self.counters("events_in", about, each(running, |one| one.ledger.events_in))?;
        let classes = [
            ("applied", ledger.applied),
            ("duplicate", ledger.duplicate),
            ("refused", ledger.refused),
            ("dead_lettered", ledger.dead_lettered),
        ];
        self.counters(
            "ledger_events",
            "Events that are done with, by what became of them.",
            classes.map(|(name, n)| ([("outcome", name)], n)),
        )?;
        self.gauge("parked_events", "Events that wait for what they are about.", None, ledger.parked)?;
        let about = "Events that a partition has received and that are in no durable batch yet.";
        self.gauges("in_flight_events", about, each(running, |one| one.ledger.in_flight))?;
        let about = "Events missing from (positive) or too many in (negative) a partition's ledger: 0.";
        self.gauges("ledger_imbalance", about, each(running, |one| one.ledger.imbalance))
    }

    fn census(&mut self, running: &Running) -> fmt::Result {
        let census = &running.census;
        self.gauge("census_complete", "0 while the open reports are still being counted.", None, i64::from(census.complete))?;
        let severities = [Severity::Critical, Severity::High, Severity::Low];
        let every = Standing::ALL.into_iter().flat_map(|standing| severities.map(|severity| (standing, severity)));
        let open = every.map(|key| {
            let count = census.by_standing.get(&key).copied().unwrap_or(0);
            ([("phase", key.0.as_str()), ("severity", key.1.as_str())], count)
        });
        self.gauges("open_reports", "Open incident reports, by where they stand.", open)?;
        let names: Vec<(String, u64)> = census.top_tenants.iter().map(|(tenant, open)| (tenant.to_string(), *open)).collect();
        let named = names.iter().map(|(tenant, open)| ([("tenant", tenant.as_str())], *open));
        let about = "Open incident reports of the ten tenants with the most, and of all others.";
        self.gauges("tenant_open_reports", about, named.chain([([("tenant", OTHER)], census.other_tenants)]))?;
        self.gauge("tenants_with_open_reports", "Tenants with an open report.", None, census.tenants)?;
        self.gauge("waiting_retries", "Remediations of open reports that wait for their next attempt.", None, census.retries)
    }

    fn info(&mut self, name: &str, about: &str, labels: &[(&str, &str)]) -> fmt::Result {
        self.0.encode_descriptor(name, about, None, MetricType::Info)?.encode_info(&labels)
    }

    fn gauge(&mut self, name: &str, about: &str, unit: Option<Unit>, value: impl EncodeGaugeValue) -> fmt::Result {
        self.0.encode_descriptor(name, about, unit.as_ref(), MetricType::Gauge)?.encode_gauge(&value)
    }

    fn counter<N: EncodeCounterValue>(&mut self, name: &str, about: &str, unit: Option<Unit>, value: N) -> fmt::Result {
        self.0.encode_descriptor(name, about, unit.as_ref(), MetricType::Counter)?.encode_counter::<NoLabelSet, N, u64>(&value, None)
    }

    fn gauges<L, N>(&mut self, name: &str, about: &str, values: impl IntoIterator<Item = (L, N)>) -> fmt::Result
    where
        L: EncodeLabelSet,
        N: EncodeGaugeValue,
    {
        let mut family = self.0.encode_descriptor(name, about, None, MetricType::Gauge)?;
        values.into_iter().try_for_each(|(labels, value)| family.encode_family(&labels)?.encode_gauge(&value))
    }

    fn counters<L: EncodeLabelSet>(&mut self, name: &str, about: &str, values: impl IntoIterator<Item = (L, u64)>) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, about, None, MetricType::Counter)?;
        values
            .into_iter()
            .try_for_each(|(labels, value)| family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&value, None))
    }

    /// Seconds are counted in microseconds.
    fn histogram(&mut self, name: &str, about: &str, unit: Option<Unit>, taken: &Distribution) -> fmt::Result {
        let of_one = if unit.is_some() { MICROS_PER_SECOND } else { 1.0 };
        let bounds = BOUNDS.iter().map(|bound| *bound as f64 / of_one).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(taken.buckets).collect();
        let mut encoder = self.0.encode_descriptor(name, about, unit.as_ref(), MetricType::Histogram)?;
        encoder.encode_histogram::<NoLabelSet>(taken.sum as f64 / of_one, taken.count(), &buckets, None)
    }
}

/// A figure of each partition, with its label.
fn each<N>(running: &Running, figure: impl Fn(&Figures) -> N) -> impl Iterator<Item = ([(&'static str, u16); 1], N)> {
    running.each.iter().map(move |one| ([("partition", one.number)], figure(one)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::facts::tests::of_partitions;
    use crate::pipeline::counters::Ledger;

    #[test]
    fn what_tells_that_a_partition_is_ill_is_told_of_each() {
        let well = Ledger { events_in: 9, applied: 9, imbalance: -1, ..Ledger::default() };
        let ill = Ledger { events_in: 7, in_flight: 7, imbalance: 1, ..Ledger::default() };
        let text = text(of_partitions(&[(well, 0, 0), (ill, 100, 3)])).expect("a text");
        for (series, [first, second]) in [
            ("events_in_total", ["9", "7"]),
            ("in_flight_events", ["0", "7"]),
            ("ledger_imbalance", ["-1", "1"]),
            ("commits_total", ["5", "5"]),
            ("outbox_rows", ["0", "100"]),
            ("outbox_limit_rows", ["100", "100"]),
            ("link_reconnects_total", ["0", "3"]),
        ] {
            let of = |line: &&str| line.strip_prefix("remedyd_").is_some_and(|line| line.split(['{', ' ']).next() == Some(series));
            let told: Vec<&str> = text.lines().filter(of).collect();
            let expected = [(0, first), (1, second)].map(|(number, value)| format!("remedyd_{series}{{partition=\"{number}\"}} {value}"));
            assert_eq!(told, expected);
        }
        // of all together
        assert!(text.contains("\nremedyd_ledger_events_total{outcome=\"applied\"} 9\n"), "{text}");
    }
}
