//! The metrics, in OpenMetrics text. Names and labels are an interface: base units, closed sets of labels, tenants only
//! as the ten with the most open reports and one for all others.
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

use super::facts::{Facts, Running};
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
        self.gauges("link_state", "Where the connection to the broker stands: 1 for one of them.", states)?;
        self.counter("link_reconnects", "Connections to the broker after the first.", None, running.reconnects)?;

        self.gauge("outbox_rows", "Messages that no confirm is known for.", None, running.outbox_rows)?;
        self.gauge("outbox_limit_rows", "At so many no more events are taken.", None, running.outbox_limit)?;
        self.gauge("timers", "Timers that are set.", None, running.timers)?;
        self.counter("timers_fired", "Timers that have fired.", None, running.count.timers_fired)?;
        self.counter("attempts", "Attempts at remediations handed to agents.", None, running.count.attempts)?;
        self.counter("messages_published", "Messages that the broker has confirmed.", None, running.count.published)?;
        self.counter("commits", "Durable batches.", None, running.count.commits)?;
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
        let about = "Events received: = applied + duplicate + refused + dead_lettered (remedyd_ledger_events_total) + parked + in flight.";
        self.counter("events_in", about, None, ledger.events_in)?;
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
        self.gauge("in_flight_events", "Events received and in no durable batch yet.", None, ledger.in_flight)?;
        self.gauge("ledger_imbalance", "Events missing from (positive) or too many in (negative) the ledger: 0.", None, ledger.imbalance)
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

    fn gauges<L: EncodeLabelSet>(&mut self, name: &str, about: &str, values: impl IntoIterator<Item = (L, u64)>) -> fmt::Result {
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
