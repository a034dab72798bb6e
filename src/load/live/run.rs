//! A run from its beginning to its figures: which phases there are, in which order, and what is concluded.
//!
//! ```text
//! warm-up [─▶ fan-out] ─▶ reference ─▶ maximum ─▶ (reference ─▶ maximum …) ─▶ surveys ─▶ half [─▶ noisy ─▶ backlog] [─▶ alone ─▶ beside malformed messages] ─▶ reference ─▶ audit
//! ```
//! A phase behind the warm-up tells the fan-out that the bare relay is given; the size is that of all that has come out by then. Never here: how a phase is done.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinSet;

use super::books::Audit;
use super::child::Child;
use super::figures::{self, Fairness, Figures, Malformed, Phase, TenantFigures, latency, median};
use super::host::{self, Host};
use super::mix::Mix;
use super::phases::{Measured, Stage};
use super::relay::Work;
use super::rig::{Rig, Site};
use super::world::{Kind, NOISE_FACTOR, NOISY_TENANT, Run, World};
use crate::broker::amqp::Endpoint;
use crate::broker::topology::Topology;
use crate::model::ids::{AgentId, TenantId};
use crate::model::time::{Stopwatch, Timestamp, system_now};
use crate::pipeline::reading;
use crate::store::journal::JournalStore;
use crate::store::sled::SledSettings;

/// Enough to warm the caches.
const WARM_UP_SECONDS: f64 = 3.0;
/// Enough to tell how much is published for an event.
const FAN_OUT_SECONDS: f64 = 5.0;
/// Of the maximum, what is sent beside malformed messages, where no rate is given: so little that a decision waits for
/// nothing but them.
const MODEST_SHARE: f64 = 0.1;
/// Reports of each tenant in the backlog; the noisy one has a hundred times as many. So many that the beginning, served in the
/// order of arrival until there is something to choose from, is a small part.
const BACKLOG_PER_TENANT: u32 = 20;
/// The service under load stops taking events when so many of its publications wait for their confirm. With its default
/// of ten times as many, the first minute of a maximum would be spent in filling that.
const OUTBOX_ROWS: &str = "10000";

/// What to run.
#[derive(Debug, Clone)]
pub struct Plan {
    pub url: String,
    pub prefix: String,
    /// Where the service of this run keeps its state; `None` for one that is running already.
    pub store: Option<PathBuf>,
    /// As many has the topology, and all of them the service.
    pub partitions: u16,
    pub mix: Mix,
    pub seconds: f64,
    /// Instead of the maximum and its half.
    pub per_s: Option<f64>,
    pub surveys_only: bool,
    /// How many references the maximum is held against; 0 for none.
    pub pairs: u32,
    pub noisy_tenant: bool,
    /// So many malformed messages a second beside the load.
    pub malformed_per_s: Option<f64>,
    /// As typed, for the report.
    pub command: String,
}

/// Does it.
pub async fn run(plan: &Plan) -> anyhow::Result<Figures> {
    let (began, clock) = (system_now(), Stopwatch::start());
    let endpoint = Endpoint::parse(&plan.url)?;
    let broker_pid = host::listener_pid(endpoint.address().1);
    let site = Site { endpoint, topology: Topology::with_prefix(&plan.prefix, plan.partitions)?, owned: plan.store.is_some() };
    let reference_site = Site {
        endpoint: site.endpoint.clone(),
        topology: Topology::with_prefix(&format!("{}.reference", plan.prefix), plan.partitions)?,
        owned: true,
    };
    let bar = progress_bar();

    let id = Run::new(began);
    let rig = Rig::open(&site, World::new(mix_of(plan), id.clone()), id.clone(), clock).await?;
    let worker = match &plan.store {
        Some(store) => Some(start_service(plan, store).await?),
        None => None,
    };
    let mut stage = Stage { rig, worker, broker_pid, bar: bar.clone(), relays: false };
    let mut reference = None;
    if plan.pairs > 0 {
        let rig = Rig::open(&reference_site, World::new(mix_of(plan), id.clone()), id, clock).await?;
        reference = Some(Stage { rig, worker: None, broker_pid, bar: bar.clone(), relays: true });
    }

    let outcome = measure(plan, &mut stage, reference.as_mut()).await;
    bar.finish_and_clear();
    let mut results = outcome?;

    let mut warnings = Vec::new();
    if let Some(service) = stage.worker.take() {
        warnings = service.stop().await?;
    }
    stage.rig.listen_to_the_end().await?;
    let audit = audit(plan, &stage).await?;
    let outbound = stage.rig.books().outbound();
    if let Some(malformed) = &mut results.malformed {
        let buried = stage.rig.books().buried();
        (malformed.dead_lettered, malformed.lost) = (buried.dead_lettered, buried.lost);
    }
    if let Some(dead) = stage.rig.books().first_dead_letter() {
        warnings.push(format!("the first dead letter: {dead}"));
    }
    stage.rig.close(&site).await?;
    if let Some(reference) = reference {
        reference.rig.close(&reference_site).await?;
    }
    let half = results.half.take();
    Ok(Figures {
        what: "remedyd load",
        commit: host::commit(),
        host: Host::look(),
        began_at: began.to_string(),
        settings: settings(plan),
        events_per_s: results.events_per_s,
        outbound_per_s: results.outbound_per_s,
        fan_out: results.fan_out,
        outbound_bytes: outbound.1.checked_div(outbound.0),
        reference_relay_per_s: median(&results.references),
        ratio_to_reference: median(&results.ratios()),
        pair_ratios: results.ratios(),
        surveys_per_s: results.surveys_per_s,
        decision_latency_ms: half.and_then(|half| half.decisions),
        page_latency_ms: half.and_then(|half| half.pages),
        report_latency_ms: half.and_then(|half| half.reports),
        fairness: results.fairness,
        malformed: results.malformed,
        audit,
        phases: results.phases,
        service_warnings: warnings,
    })
}

/// What the phases come to.
#[derive(Default)]
struct Results {
    phases: Vec<Phase>,
    /// Events per second of each reference; one more than maxima.
    references: Vec<f64>,
    maxima: Vec<f64>,
    events_per_s: Option<f64>,
    outbound_per_s: Option<f64>,
    fan_out: Option<f64>,
    surveys_per_s: Option<f64>,
    half: Option<Latencies>,
    fairness: Fairness,
    malformed: Option<Malformed>,
}

#[derive(Clone, Copy)]
struct Latencies {
    decisions: Option<figures::Latency>,
    pages: Option<figures::Latency>,
    reports: Option<figures::Latency>,
}

impl Results {
    /// Each maximum over the mean of the references around it.
    fn ratios(&self) -> Vec<f64> {
        self.references.windows(2).zip(&self.maxima).map(|(around, maximum)| maximum * 2.0 / around.iter().sum::<f64>()).collect()
    }
}

async fn measure(plan: &Plan, stage: &mut Stage, mut reference: Option<&mut Stage>) -> anyhow::Result<Results> {
    let mut results = Results::default();
    stage.saturate("warm-up", plan.seconds.min(WARM_UP_SECONDS)).await?;
    let mut work = Work { fan_out: 0.0, bytes: 0 };
    if let Some(reference) = &mut reference {
        // not that of the warm-up, in which every agent is heard of for the first time and says so
        work.fan_out = stage.saturate("fan-out", plan.seconds.min(FAN_OUT_SECONDS)).await?.phase.fan_out;
        let (outbound, bytes) = stage.rig.books().outbound();
        work.bytes = usize::try_from(bytes.checked_div(outbound).unwrap_or(0))?;
        relay(plan, reference, work, &mut results).await?;
    }
    let maximum = if plan.surveys_only { "surveys" } else { "maximum" };
    for _ in 0..plan.pairs.max(1) {
        let Measured { phase, sent } = match plan.per_s {
            Some(per_s) => stage.pace("steady rate", per_s, plan.seconds).await?,
            None => stage.saturate(maximum, plan.seconds).await?,
        };
        if plan.per_s.is_some() {
            results.half = Some(latencies(stage, sent));
        }
        results.maxima.push(phase.events_per_s);
        results.outbound_per_s = Some(phase.outbound_per_s);
        results.fan_out = Some(phase.fan_out);
        results.phases.push(phase);
        if let Some(reference) = &mut reference
            && results.maxima.len() < plan.pairs as usize
        {
            relay(plan, reference, work, &mut results).await?;
        }
    }
    results.events_per_s = median(&results.maxima);
    let of_maxima: Vec<f64> = results.phases.iter().filter(|phase| phase.name == maximum).map(|phase| phase.outbound_per_s).collect();
    results.outbound_per_s = median(&of_maxima).or(results.outbound_per_s);
    if plan.surveys_only {
        results.surveys_per_s = results.events_per_s;
    } else if plan.per_s.is_none() {
        halves(plan, stage, &mut results).await?;
    }
    if let Some(per_s) = plan.malformed_per_s {
        beside_malformed(plan, stage, per_s, &mut results).await?;
    }
    if let Some(reference) = &mut reference {
        relay(plan, reference, work, &mut results).await?;
    }
    Ok(results)
}

/// What is measured at half of the maximum, and the maximum of surveys alone.
async fn halves(plan: &Plan, stage: &mut Stage, results: &mut Results) -> anyhow::Result<()> {
    stage.rig.world.set_survey_percent(100);
    let surveys = stage.saturate("surveys", plan.seconds).await?.phase;
    stage.rig.world.set_survey_percent(plan.mix.survey_percent);
    results.surveys_per_s = Some(surveys.events_per_s);
    results.phases.push(surveys);
    let half_per_s = results.events_per_s.unwrap_or(0.0) / 2.0;
    let Measured { phase, sent: quiet } = stage.pace("half of maximum", half_per_s, plan.seconds).await?;
    results.half = Some(latencies(stage, quiet.clone()));
    results.phases.push(phase);
    let mut noisy = 0..0;
    if plan.noisy_tenant {
        // the others send what they sent before; the noisy one a hundred times that
        let tenants = f64::from(plan.mix.tenants);
        let noisy_per_s = half_per_s * (tenants - 1.0 + f64::from(NOISE_FACTOR)) / tenants;
        stage.rig.world.noisy = true;
        let measured = stage.pace("half of maximum, one tenant noisy", noisy_per_s, plan.seconds).await?;
        stage.rig.world.noisy = false;
        results.phases.push(measured.phase);
        noisy = measured.sent;
        let (jain, backlogged) = stage.backlog("backlog", plan.mix.tenants, BACKLOG_PER_TENANT).await?;
        (results.fairness.jain, results.fairness.backlogged_tenants) = (jain, Some(backlogged));
    }
    fairness(plan, stage, quiet, noisy, &mut results.fairness);
    Ok(())
}

/// Decisions of a load beside nothing malformed, then beside so much of it from one tenant more.
async fn beside_malformed(plan: &Plan, stage: &mut Stage, asked_per_s: f64, results: &mut Results) -> anyhow::Result<()> {
    let load_per_s = plan.per_s.unwrap_or(results.events_per_s.unwrap_or(0.0) * MODEST_SHARE);
    let alone = stage.pace("beside nothing malformed", load_per_s, plan.seconds).await?;
    let flood = stage.rig.flood(u64::from(plan.mix.tenants) + 1).await?;
    stage.rig.take_dead_letters(false);
    // a task of its own, so that neither makes the other late; it ends with the set
    let mut flooding = JoinSet::from_iter([flood.run(asked_per_s, plan.seconds)]);
    let beside = stage.pace("beside malformed messages", load_per_s, plan.seconds).await?;
    let flooded = flooding.join_next().await.context("the malformed messages")???;
    // the phase may have ended before the last of them
    stage.rig.settle().await?;
    let p99 = |sent| latencies(stage, sent).decisions.map(|decisions| decisions.p99);
    let (p99_alone_ms, p99_beside_ms) = (p99(alone.sent), p99(beside.sent));
    results.phases.extend([alone.phase, beside.phase]);
    results.malformed = Some(Malformed {
        asked_per_s,
        sent_per_s: flooded.sent_per_s,
        unsent: flooded.unsent,
        dead_lettered: 0,
        lost: 0,
        decision_p99_ratio: p99_beside_ms.zip(p99_alone_ms).map(|(beside, alone)| beside / alone),
        p99_alone_ms,
        p99_beside_ms,
    });
    Ok(())
}

async fn relay(plan: &Plan, reference: &mut Stage, work: Work, results: &mut Results) -> anyhow::Result<()> {
    let arguments = [work.fan_out.to_string(), work.bytes.to_string(), plan.partitions.to_string()];
    let prefix = format!("{}.reference", plan.prefix);
    let args = ["load", "--prefix", &prefix, "--relay", &arguments[0], &arguments[1], "--partitions", &arguments[2]];
    reference.worker = Some(Child::start("bare relay", &args, &[("REMEDYD_AMQP_URL", &plan.url)]).await?);
    let measured = reference.saturate("reference", plan.seconds).await?;
    // killed: it has nothing to finish
    reference.worker = None;
    results.references.push(measured.phase.events_per_s);
    results.phases.push(measured.phase);
    Ok(())
}

fn latencies(stage: &Stage, sent: std::ops::Range<usize>) -> Latencies {
    let books = stage.rig.books();
    let sent = &books.sent()[sent];
    let of = |wanted: fn(Kind) -> bool| sent.iter().filter(move |sent| wanted(sent.kind));
    Latencies {
        decisions: latency(of(|kind| kind == Kind::Decision).filter_map(figures::answer_us)),
        pages: latency(of(|kind| kind == Kind::Report { critical: true }).filter_map(figures::page_us)),
        reports: latency(of(|kind| matches!(kind, Kind::Report { .. })).filter_map(figures::answer_us)),
    }
}

/// Compares tenants in the quiet phase and, if there was one, in the noisy one.
fn fairness(plan: &Plan, stage: &Stage, quiet: std::ops::Range<usize>, noisy: std::ops::Range<usize>, fairness: &mut Fairness) {
    let books = stage.rig.books();
    let by_tenant = |phase: std::ops::Range<usize>| {
        let mut times: Vec<Vec<u64>> = vec![Vec::new(); plan.mix.tenants as usize];
        for sent in books.sent()[phase].iter().filter(|sent| sent.kind != Kind::Survey) {
            times[sent.tenant as usize].extend(figures::answer_us(sent));
        }
        times
    };
    let (quiet, noisy) = (by_tenant(quiet), by_tenant(noisy));
    let p99 = |times: &[u64]| latency(times.iter().copied()).map(|latency| latency.p99);
    fairness.tenants = (0..plan.mix.tenants)
        .map(|tenant| {
            let (quiet, noisy) = (&quiet[tenant as usize], &noisy[tenant as usize]);
            let (answers, noisy_answers) = (quiet.len() as u64, noisy.len() as u64);
            TenantFigures { tenant: tenant + 1, answers, p99_ms: p99(quiet), noisy_answers, noisy_p99_ms: p99(noisy) }
        })
        .collect();
    if plan.noisy_tenant {
        let others = |times: &[Vec<u64>]| p99(&times[NOISY_TENANT as usize + 1..].concat());
        (fairness.quiet_p99_ms, fairness.noisy_p99_ms) = (others(&quiet), others(&noisy));
        fairness.quiet_p99_ratio = fairness.noisy_p99_ms.zip(fairness.quiet_p99_ms).map(|(noisy, quiet)| noisy / quiet);
    }
}

async fn audit(plan: &Plan, stage: &Stage) -> anyhow::Result<Audit> {
    // the service has given back what it had not acked
    let left = stage.rig.depth().waiting;
    let (misplaced, lasts) = {
        let standings = stage.rig.books().standings().to_vec();
        (stage.rig.world.misplaced(&standings).len() as u64, stage.rig.world.last_surveys().collect::<Vec<_>>())
    };
    let behind = match plan.store.clone() {
        Some(store) => {
            let dirs: Vec<PathBuf> = (0..plan.partitions).map(|partition| store.join(format!("p{partition}"))).collect();
            Some(tokio::task::spawn_blocking(move || surveys_behind(&dirs, &lasts)).await.context("reading the store")??)
        }
        None => None,
    };
    Ok(stage.rig.books().audit(misplaced, left, behind))
}

/// Agents whose last survey no partition's store knows.
fn surveys_behind(dirs: &[PathBuf], lasts: &[(TenantId, AgentId, Timestamp)]) -> anyhow::Result<u64> {
    let open = |dir: &PathBuf| JournalStore::open(dir, SledSettings::default()).context("opening a store of the run");
    let stores: Vec<JournalStore> = dirs.iter().map(open).collect::<anyhow::Result<_>>()?;
    let mut behind = 0;
    for (tenant, agent, last) in lasts {
        let mut known = None;
        for store in &stores {
            let here = reading::agent(store, *tenant, *agent).context("reading a store of the run")?;
            known = known.max(here.and_then(|known| known.agent.last_survey_at));
        }
        if known != Some(*last) {
            if behind == 0 {
                eprintln!("tenant {tenant}, agent {agent}: last surveyed at {last}; the store has {known:?}");
            }
            behind += 1;
        }
    }
    Ok(behind)
}

async fn start_service(plan: &Plan, store: &Path) -> anyhow::Result<Child> {
    let store = store.to_str().context("the path of the store is not UTF-8")?;
    let args = ["serve", "--store", store, "--clock", "system", "--log-format", "pretty", "--log-filter", "info"];
    let mut environment = vec![("REMEDYD_AMQP_URL", plan.url.as_str()), ("REMEDYD_AMQP__PREFIX", plan.prefix.as_str())];
    let partitions = plan.partitions.to_string();
    environment.extend([("REMEDYD_AMQP__PARTITION", "all"), ("REMEDYD_AMQP__PARTITIONS", partitions.as_str())]);
    if std::env::var_os("REMEDYD_LIMITS__OUTBOX_ROWS").is_none() {
        environment.push(("REMEDYD_LIMITS__OUTBOX_ROWS", OUTBOX_ROWS));
    }
    Child::start("service", &args, &environment).await
}

fn mix_of(plan: &Plan) -> Mix {
    Mix { survey_percent: if plan.surveys_only { 100 } else { plan.mix.survey_percent }, ..plan.mix.clone() }
}

fn settings(plan: &Plan) -> figures::Settings {
    let mix = mix_of(plan);
    figures::Settings {
        command: plan.command.clone(),
        seed: mix.seed,
        partitions: plan.partitions,
        tenants: mix.tenants,
        agents_per_tenant: mix.agents,
        shapes: mix.shapes.0,
        severities: mix.severities.0,
        approval_delay_ms: [mix.approval_delay.least, mix.approval_delay.most],
        fail_percent: mix.fail_percent,
        survey_percent: mix.survey_percent,
        seconds_per_phase: plan.seconds as u64,
        pairs: plan.pairs,
    }
}

/// On standard error, and only on a terminal; elsewhere each phase is a line.
fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::new(1);
    if let Ok(style) = ProgressStyle::with_template("{prefix:>18} [{bar:30}] {msg}") {
        bar.set_style(style.progress_chars("#>."));
    }
    bar
}
