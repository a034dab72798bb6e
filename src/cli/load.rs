//! `remedyd load`: what a real service at a real broker comes to under load.
//!
//! Never here: how it is measured; that is `load::live`. Names of its own keep it away from any topology in use, and a
//! broker on another machine has to be asked for.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;

use super::exit::Exit;
use crate::broker::amqp::Endpoint;
use crate::broker::topology::{DEFAULT_PREFIX, MAX_PARTITIONS, Topology};
use crate::load::live::BrokerFailed;
use crate::load::live::figures::{Figures, Latency, Malformed};
use crate::load::live::html;
use crate::load::live::mix::{DelayMs, Mix, Weights};
use crate::load::live::relay::{self, Work};
use crate::load::live::run::{self, Plan};

/// Enough to keep a service busy, few enough to be warm after seconds.
const TENANTS: u32 = 100;
/// With a noisy one among them.
const TENANTS_BESIDE_A_NOISY_ONE: u32 = 1_000;

/// Measure a service under load at a real broker
///
/// Applies a topology of its own, starts `serve` as a child and sends what many tenants' SOC, people and agents would:
/// as much as is taken (the maximum), surveys alone, then half of the maximum, where latencies are measured from the
/// time at which each event was due. Ends with an audit of everything that was published; exit 1 if it is not clean.
#[derive(Args)]
pub struct LoadArgs {
    /// The broker
    #[arg(
        long,
        value_name = "URL",
        env = "REMEDYD_AMQP_URL",
        hide_env_values = true,
        default_value = "amqp://guest:guest@127.0.0.1:5672/%2f"
    )]
    amqp_url: String,
    /// What all names start with; never that of an installation in use
    #[arg(long, value_name = "NAME", default_value = "remedyd-load")]
    prefix: String,
    /// Allow a broker on another machine
    #[arg(long)]
    remote_broker: bool,
    /// Directory for the store of the service under load, on the disk that is to be measured
    #[arg(long, value_name = "DIR", required_unless_present_any = ["attach", "relay"], conflicts_with = "attach")]
    store: Option<PathBuf>,
    /// Use a service that runs with this prefix, instead of starting one
    #[arg(long)]
    attach: bool,
    /// How many partitions the topology gets, all served by the one service; with --attach, how many the running one serves
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_PARTITIONS)))]
    partitions: u16,
    /// Seed of everything that is left to chance
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Tenants [default: 100; 1000 with --noisy-tenant]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    tenants: Option<u32>,
    /// Agents of each tenant
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    agents: u32,
    /// Shapes of plans: assisted:manual:both:none
    #[arg(long, value_name = "WEIGHTS", default_value = "2:1:3:1")]
    shapes: Weights<4>,
    /// Severities: low:high:critical
    #[arg(long, value_name = "WEIGHTS", default_value = "3:2:1")]
    severities: Weights<3>,
    /// From a report to its approval, and between the steps that follow
    #[arg(long, value_name = "MS-MS", default_value = "500-2000")]
    approval_delay_ms: DelayMs,
    /// Of a hundred reports with tasks, those whose tasks fail at first
    #[arg(long, value_name = "PERCENT", default_value_t = 8, value_parser = clap::value_parser!(u32).range(0..=100))]
    fail_percent: u32,
    /// Of a hundred events, at least so many surveys
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(0..=100))]
    survey_percent: u32,
    /// Seconds that each phase is measured for
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    duration: u64,
    /// Send so many events a second instead of finding the maximum
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// Find the maximum of surveys alone, and nothing else
    #[arg(long, conflicts_with_all = ["rate", "noisy_tenant", "malformed"])]
    surveys_only: bool,
    /// Run the bare relay before and after, and give the ratio
    #[arg(long)]
    reference: bool,
    /// So many pairs of reference and maximum; implies --reference
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pairs: Option<u32>,
    /// One tenant at a hundred times its share beside the others at half of the maximum; then a backlog of that kind
    #[arg(long, conflicts_with = "rate")]
    noisy_tenant: bool,
    /// So many malformed messages a second from one more tenant, beside the rate that is given or a tenth of the maximum;
    /// before them the same load alone
    #[arg(long, value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    malformed: Option<u32>,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the figures as a page with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Be the bare relay: its fan-out, and the length of what it publishes
    #[arg(long, hide = true, num_args = 2, value_names = ["FAN_OUT", "BYTES"])]
    relay: Option<Vec<String>>,
}

impl LoadArgs {
    /// What this process works on itself: the relay has as many workers as the service; what measures needs one partition's.
    pub fn partitions_served(&self) -> usize {
        if self.relay.is_some() { self.partitions.into() } else { 1 }
    }
}

pub async fn run(args: LoadArgs) -> anyhow::Result<ExitCode> {
    check(&args)?;
    if let Some(work) = &args.relay {
        let [fan_out, bytes] = work.as_slice() else { anyhow::bail!(wrong("--relay", "expected FAN_OUT BYTES")) };
        let work = Work { fan_out: fan_out.parse().context(Exit::Config)?, bytes: bytes.parse().context(Exit::Config)? };
        relay::run(&args.amqp_url, &Topology::with_prefix(&args.prefix, args.partitions)?, work).await?;
        return Ok(Exit::Ok.into());
    }
    // found out before the run, not after it
    for file in [&args.json, &args.html].into_iter().flatten() {
        std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(file)
            .with_context(|| format!("writing {}", file.display()))
            .context(Exit::Config)?;
    }
    let plan = plan(&args);
    let figures = tokio::select! {
        figures = Box::pin(run::run(&plan)) => figures.map_err(coded)?,
        // dropping what runs ends its children
        _ = tokio::signal::ctrl_c() => return Ok(Exit::Negative.into()),
    };
    if let Some(file) = &args.json {
        write(file, &serde_json::to_string_pretty(&figures)?)?;
    }
    if let Some(file) = &args.html {
        write(file, &html::page(&figures))?;
    }
    say(&told(&figures))?;
    Ok(if figures.audit.is_clean() { Exit::Ok } else { Exit::Negative }.into())
}

/// What clap cannot check.
fn check(args: &LoadArgs) -> anyhow::Result<()> {
    let endpoint = Endpoint::parse(&args.amqp_url).context("--amqp-url").context(Exit::Config)?;
    let host = endpoint.address().0;
    let is_local = host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback());
    if !is_local && !args.remote_broker {
        return Err(wrong("--amqp-url", &format!("{host} is another machine: a load run there needs --remote-broker")));
    }
    Topology::with_prefix(&args.prefix, 1).context("--prefix").context(Exit::Config)?;
    if args.prefix == DEFAULT_PREFIX {
        return Err(wrong("--prefix", "that is what an installation in use is called"));
    }
    if args.noisy_tenant && args.tenants.is_some_and(|tenants| tenants < 2) {
        return Err(wrong("--tenants", "one tenant has nobody to be noisier than"));
    }
    Ok(())
}

fn wrong(flag: &str, why: &str) -> anyhow::Error {
    anyhow::anyhow!("{flag}: {why}").context(Exit::Config)
}

fn coded(error: anyhow::Error) -> anyhow::Error {
    if error.is::<BrokerFailed>() { error.context(Exit::Broker) } else { error }
}

fn plan(args: &LoadArgs) -> Plan {
    let tenants = args.tenants.unwrap_or(if args.noisy_tenant { TENANTS_BESIDE_A_NOISY_ONE } else { TENANTS });
    Plan {
        url: args.amqp_url.clone(),
        prefix: args.prefix.clone(),
        store: args.store.clone(),
        partitions: args.partitions,
        mix: Mix {
            seed: args.seed,
            tenants,
            agents: args.agents,
            shapes: args.shapes,
            severities: args.severities,
            approval_delay: args.approval_delay_ms,
            fail_percent: args.fail_percent,
            survey_percent: args.survey_percent,
        },
        seconds: args.duration as f64,
        per_s: args.rate.map(f64::from),
        surveys_only: args.surveys_only,
        pairs: args.pairs.unwrap_or(u32::from(args.reference)),
        noisy_tenant: args.noisy_tenant,
        malformed_per_s: args.malformed.map(f64::from),
        command: command(),
    }
}

/// As typed, without what may be a password.
fn command() -> String {
    let mut hidden = false;
    let words = std::env::args().skip(1).map(|word| {
        let shown = match word.split_once('=') {
            _ if hidden => "...".to_owned(),
            Some(("--amqp-url", _)) => "--amqp-url=...".to_owned(),
            _ => word.clone(),
        };
        hidden = word == "--amqp-url";
        shown
    });
    format!("remedyd {}", words.collect::<Vec<_>>().join(" "))
}

fn told(figures: &Figures) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| text.push_str(&format!("{name:<28}{value}\n"));
    let rate = |value: Option<f64>| value.map_or_else(|| "not measured".to_owned(), |value| format!("{value:.0}/s"));
    let ratio = |value: Option<f64>| value.map_or_else(|| "not measured".to_owned(), |value| format!("{value:.2}"));
    let latency = |latency: &Option<Latency>| match latency {
        Some(Latency { count, p50, p95, p99, p999, max }) => {
            format!("p50 {p50:.1}  p95 {p95:.1}  p99 {p99:.1}  p99.9 {p999:.1}  max {max:.1} ms of {count}")
        }
        None => "not measured".to_owned(),
    };
    line("commit", format!("{} ({} build)", figures.commit, figures.host.build));
    for phase in &figures.phases {
        let cpu = [phase.cpu.generator, phase.cpu.worker, phase.cpu.broker];
        let [generator, worker, broker] = cpu.map(|cpu| cpu.map_or_else(|| "?".to_owned(), |cpu| format!("{cpu:.2}")));
        line(
            &phase.name,
            format!(
                "{:.0} events/s, {:.0} published/s, fan-out {:.2}; processors: generator {generator}, {} {worker}, broker {broker}",
                phase.events_per_s,
                phase.outbound_per_s,
                phase.fan_out,
                if phase.name == "reference" { "relay" } else { "service" },
            ),
        );
    }
    line("events", rate(figures.events_per_s));
    line("surveys alone", rate(figures.surveys_per_s));
    line("bare relay", rate(figures.reference_relay_per_s));
    line("ratio to the bare relay", ratio(figures.ratio_to_reference));
    line("decision to answer", latency(&figures.decision_latency_ms));
    line("critical report to page", latency(&figures.page_latency_ms));
    line("report to first answer", latency(&figures.report_latency_ms));
    line("Jain's index of a backlog", ratio(figures.fairness.jain));
    line("quiet tenants' p99 ratio", ratio(figures.fairness.quiet_p99_ratio));
    line("malformed messages", figures.malformed.as_ref().map_or_else(|| "not measured".to_owned(), told_of_malformed));
    let audit = &figures.audit;
    line(
        "audit",
        format!(
            "{} sent {} {} answered + {} surveys + lost and dead letters; lost {}, gaps {}, late {}, changed {}, misplaced {}, dead letters {}, duplicates {}, surveys behind {}",
            audit.sent,
            if audit.balances { "=" } else { "IS NOT" },
            audit.answered,
            audit.surveys,
            audit.lost,
            audit.gaps,
            audit.late,
            audit.changed,
            audit.misplaced,
            audit.dead_letters,
            audit.duplicates,
            audit.surveys_behind.map_or_else(|| "not looked at".to_owned(), |count| count.to_string()),
        ),
    );
    for warning in &figures.service_warnings {
        line("the service logged", warning.clone());
    }
    line("verdict", if audit.is_clean() { "clean" } else { "NOT CLEAN" }.to_owned());
    text
}

fn told_of_malformed(malformed: &Malformed) -> String {
    let Malformed { asked_per_s, sent_per_s, unsent, dead_lettered, lost, decision_p99_ratio, p99_alone_ms, p99_beside_ms } = malformed;
    let [ratio, alone, beside] = [(decision_p99_ratio, 2), (p99_alone_ms, 1), (p99_beside_ms, 1)]
        .map(|(value, places)| value.map_or_else(|| "?".to_owned(), |value| format!("{value:.places$}")));
    format!(
        "{sent_per_s:.0}/s of {asked_per_s:.0}/s, {unsent} unsent, {dead_lettered} dead letters, {lost} lost; \
         p99 of decisions {alone} ms alone, {beside} ms beside them, ratio {ratio}"
    )
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

fn say(text: &str) -> anyhow::Result<()> {
    std::io::stdout().write_all(text.as_bytes()).context("writing to standard output")
}
