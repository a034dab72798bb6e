//! The report as one page that needs nothing but itself: no scripts, no fonts, no addresses. Never here: a figure
//! that is not in the JSON report.

use super::figures::{Figures, Latency, Phase};
use super::svg::{Plot, Series, escaped, figure};

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:#222}\
    table{border-collapse:collapse;margin:.5em 0}td,th{padding:.25em .8em;border-bottom:1px solid #ddd;text-align:right}\
    td:first-child,th:first-child{text-align:left}svg{width:100%;height:auto}svg text{font-size:11px;fill:#333}\
    svg .small{font-size:9px;fill:#777}code{background:#f3f3f3;padding:.1em .3em}.bad{color:#b00020;font-weight:600}";

/// The whole page.
pub fn page(figures: &Figures) -> String {
    let sections =
        [summary(figures), throughput(&figures.phases), latencies(figures), fairness(figures), phases(&figures.phases), audit(figures)];
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>remedyd under load</title><style>{STYLE}</style></head>\n\
         <body><h1>remedyd under load</h1>\n{}\n</body></html>\n",
        sections.join("\n")
    )
}

fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let row = |cells: &[String], tag: &str| {
        let cells: String = cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect();
        format!("<tr>{cells}</tr>")
    };
    let head: Vec<String> = head.iter().map(|name| (*name).to_owned()).collect();
    let rows: String = rows.iter().map(|cells| row(cells, "td")).collect();
    format!("<table>{}{rows}</table>", row(&head, "th"))
}

fn shown(value: Option<f64>) -> String {
    value.map_or_else(|| "not measured".to_owned(), figure)
}

fn summary(figures: &Figures) -> String {
    let host = &figures.host;
    let p99 = |latency: &Option<Latency>| shown(latency.as_ref().map(|latency| latency.p99));
    let rows = [
        ("events a second", shown(figures.events_per_s)),
        ("published a second", shown(figures.outbound_per_s)),
        ("published for each event", shown(figures.fan_out)),
        ("bare relay, events a second", shown(figures.reference_relay_per_s)),
        ("ratio to the bare relay", shown(figures.ratio_to_reference)),
        ("surveys a second", shown(figures.surveys_per_s)),
        ("decision to answer, p99 ms", p99(&figures.decision_latency_ms)),
        ("critical report to page, p99 ms", p99(&figures.page_latency_ms)),
        ("Jain's index of a backlog", shown(figures.fairness.jain)),
        ("p99 of the quiet tenants, noisy over quiet", shown(figures.fairness.quiet_p99_ratio)),
        ("malformed messages a second", shown(figures.malformed.map(|malformed| malformed.sent_per_s))),
        ("p99 of decisions, beside those over alone", shown(figures.malformed.and_then(|malformed| malformed.decision_p99_ratio))),
    ];
    let rows: Vec<Vec<String>> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    let verdict = if figures.audit.is_clean() { "<p>The audit is clean.</p>" } else { "<p class=\"bad\">The audit is not clean.</p>" };
    format!(
        "<p>Commit <code>{}</code>, {} build, {}; {} processors ({}), Linux {}.<br><code>{}</code></p>{verdict}{}",
        escaped(&figures.commit),
        host.build,
        escaped(&figures.began_at),
        host.processors,
        escaped(host.processor.as_deref().unwrap_or("unknown")),
        escaped(host.kernel.as_deref().unwrap_or("unknown")),
        escaped(&figures.settings.command),
        table(&["figure", "value"], &rows)
    )
}

/// All phases one after the other.
fn throughput(phases: &[Phase]) -> String {
    let (mut events, mut outbound, mut waiting, mut unanswered, mut sections) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut began = 0.0;
    for phase in phases {
        sections.push((began, phase.name.clone()));
        for point in &phase.series {
            let at = began + point.at_s;
            events.push((at, point.events_per_s));
            outbound.push((at, point.outbound_per_s));
            waiting.push((at, point.waiting as f64));
            unanswered.push((at, point.unanswered as f64));
        }
        began += phase.seconds;
    }
    let line = |name, points| Series { name, points, dots: false };
    let plot =
        |y_label, series| Plot { x_label: "seconds of measuring", y_label, series, x_ticks: Vec::new(), sections: sections.clone() }.svg();
    format!(
        "<h2>Throughput</h2>{}<h2>Backlog</h2>{}",
        plot("a second", vec![line("events taken", events), line("published", outbound)]),
        plot("events", vec![line("waiting in the queues", waiting), line("reports and decisions unanswered", unanswered)])
    )
}

fn latencies(figures: &Figures) -> String {
    let kinds = [
        ("decision to answer", &figures.decision_latency_ms),
        ("critical report to page", &figures.page_latency_ms),
        ("report to first answer", &figures.report_latency_ms),
    ];
    let measured: Vec<(&str, &Latency)> = kinds.iter().filter_map(|(name, latency)| Some((*name, latency.as_ref()?))).collect();
    if measured.is_empty() {
        return "<h2>Latency</h2><p>Not measured in this run.</p>".to_owned();
    }
    // each nine is as wide as the one before
    let steps =
        |latency: &Latency| vec![(0.3, latency.p50), (1.3, latency.p95), (2.0, latency.p99), (3.0, latency.p999), (4.0, latency.max)];
    let ticks = [(0.3, "p50"), (1.3, "p95"), (2.0, "p99"), (3.0, "p99.9"), (4.0, "max")];
    let plot = Plot {
        x_label: "",
        y_label: "ms",
        series: measured.iter().map(|(name, latency)| Series { name, points: steps(latency), dots: false }).collect(),
        x_ticks: ticks.iter().map(|(x, name)| (*x, (*name).to_owned())).collect(),
        sections: Vec::new(),
    };
    let rows: Vec<Vec<String>> = measured
        .iter()
        .map(|(name, latency)| {
            let times = [latency.p50, latency.p95, latency.p99, latency.p999, latency.max].map(figure);
            [vec![(*name).to_owned(), latency.count.to_string()], times.to_vec()].concat()
        })
        .collect();
    format!(
        "<h2>Latency</h2><p>Milliseconds from when an event should have been sent.</p>{}{}",
        plot.svg(),
        table(&["", "count", "p50", "p95", "p99", "p99.9", "max"], &rows)
    )
}

fn fairness(figures: &Figures) -> String {
    let tenants = &figures.fairness.tenants;
    let dots =
        |of: &dyn Fn(usize) -> Option<f64>| (0..tenants.len()).filter_map(|at| Some((f64::from(tenants[at].tenant), of(at)?))).collect();
    let quiet = Series { name: "quiet phase", points: dots(&|at| tenants[at].p99_ms), dots: true };
    let noisy = Series { name: "tenant 1 noisy", points: dots(&|at| tenants[at].noisy_p99_ms), dots: true };
    let mut series = vec![quiet, noisy];
    series.retain(|series| !series.points.is_empty());
    if series.is_empty() {
        return "<h2>Fairness</h2><p>Not measured in this run.</p>".to_owned();
    }
    let plot = Plot { x_label: "tenant", y_label: "p99 ms", series, x_ticks: Vec::new(), sections: Vec::new() };
    format!("<h2>Fairness</h2><p>p99 from event to answer of each tenant.</p>{}", plot.svg())
}

fn phases(phases: &[Phase]) -> String {
    let rows: Vec<Vec<String>> = phases
        .iter()
        .map(|phase| {
            let cpu = [phase.cpu.generator, phase.cpu.worker, phase.cpu.broker].map(|cpu| cpu.map_or_else(|| "?".to_owned(), figure));
            let rates = [phase.seconds, phase.events_per_s, phase.outbound_per_s, phase.fan_out, phase.generator_late_ms].map(figure);
            [vec![phase.name.clone()], rates.to_vec(), cpu.to_vec()].concat()
        })
        .collect();
    let head = ["phase", "s", "events/s", "published/s", "fan-out", "late ms", "CPU generator", "CPU service/relay", "CPU broker"];
    format!("<h2>Phases</h2>{}", table(&head, &rows))
}

fn audit(figures: &Figures) -> String {
    let audit = &figures.audit;
    let counts = [
        ("sent", audit.sent),
        ("answered", audit.answered),
        ("surveys", audit.surveys),
        ("lost", audit.lost),
        ("gaps", audit.gaps),
        ("late", audit.late),
        ("changed", audit.changed),
        ("misplaced reports", audit.misplaced),
        ("dead letters", audit.dead_letters),
        ("duplicates", audit.duplicates),
    ];
    let mut rows: Vec<Vec<String>> = counts.iter().map(|(name, count)| vec![(*name).to_owned(), count.to_string()]).collect();
    rows.push(vec![
        "surveys behind".to_owned(),
        audit.surveys_behind.map_or_else(|| "not looked at".to_owned(), |count| count.to_string()),
    ]);
    rows.push(vec!["balances".to_owned(), if audit.balances { "yes" } else { "no" }.to_owned()]);
    format!("<h2>Audit</h2>{}", table(&["", "count"], &rows))
}
