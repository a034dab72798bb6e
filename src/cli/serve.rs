//! `remedyd serve`: the service. Opens the store, keeps to the broker, works until told to stop.
//!
//! Never here: a rule, or a reason to give up on the broker. It ends by itself only when the store fails.

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::agent::simulated::Model;
use crate::broker::amqp::settings::{AtConnect, Prefetch};
use crate::broker::amqp::{AmqpLink, AmqpSettings};
use crate::broker::topology::Topology;
use crate::broker::{Link as _, LinkState};
use crate::config::{ClockSource, OutcomeModel, PemFile, Publishers, Settings, Tls};
use crate::machine::policy::Policy;
use crate::model::organization::OrganizationSettings;
use crate::model::time::{days, minutes};
use crate::ops::port::{self, Port, Watched};
use crate::ops::systemd::Supervisor;
use crate::ops::{Access, backup};
use crate::pipeline::clock::Clock;
use crate::pipeline::engine::Limits;
use crate::pipeline::partition::PartitionSettings;
use crate::pipeline::{self, Pipeline};
use crate::store::journal::JournalStore;
use crate::store::sled::SledSettings;
use crate::store::transfer;

use super::config::SettingsArgs;
use super::exit::{Exit, store_exit};
use super::reload::Reload;

pub async fn run(args: SettingsArgs) -> anyhow::Result<ExitCode> {
    let settings = args.load()?;
    let filter = super::log::start(&settings.log)?;
    // before anything is opened: a signal during start-up ends it in order as well
    let mut stop = Stop::new()?;
    let hangup = signal(SignalKind::hangup())?;
    let publishers = Arc::new(Publishers::new(settings.users.clone()));
    let reload = Reload { args, in_force: settings.clone(), filter, publishers: Arc::clone(&publishers) };
    let reloading = tokio::spawn(reload.on(hangup));
    #[cfg(feature = "otlp")]
    let traces = super::traces::Traces::start()?;
    // the first of all: a supervisor sees from here that it is starting
    let ops = open_port(&settings).await?;
    let store = open_store(&settings).await?;
    let topology = Topology::with_prefix(&settings.amqp.prefix, u16::try_from(settings.amqp.partitions)?).context(Exit::Config)?;
    let link = Arc::new(connect(&settings, topology.clone())?);
    let pipeline =
        pipeline::start(Arc::clone(&store), Arc::clone(&link), pipeline_settings(&settings, &topology, publishers)?).map_err(store_exit)?;
    let supervisor = watch(&settings, &pipeline, &store, &link, ops.as_ref())?;
    let announcing = tokio::spawn(announce(link.state()));
    let result = work(pipeline, ops.as_ref(), supervisor.as_ref(), &mut stop).await;
    announcing.abort();
    reloading.abort();
    if let Some(ops) = ops {
        ops.close().await;
    }
    #[cfg(feature = "otlp")]
    if let Some(traces) = traces {
        traces.stop().await;
    }
    if let Ok(Exit::Ok) = result {
        link.close().await;
        tracing::info!("stopped");
    }
    result.map(ExitCode::from)
}

/// The service has started: whoever watches it is told, and told of from now on.
fn watch(
    settings: &Settings,
    pipeline: &Pipeline,
    store: &Arc<JournalStore>,
    link: &AmqpLink,
    ops: Option<&Port<JournalStore>>,
) -> anyhow::Result<Option<Supervisor>> {
    if ops.is_none() && !Supervisor::listens() {
        return Ok(None);
    }
    let view = pipeline.watch(store).map_err(store_exit)?;
    let vitals = Arc::clone(&view.vitals);
    if let Some(ops) = ops {
        let (measured, copied) = (Arc::clone(store), Arc::clone(store));
        let store_bytes = move || measured.size_bytes().ok();
        let backup = move || {
            let snapshot = copied.snapshot()?;
            let writing: backup::Writing = Box::new(move |out| transfer::export(&snapshot, out));
            Ok(writing)
        };
        ops.started(Watched::new(view, link.state(), settings.limits.outbox_rows as u64, store_bytes, backup));
    }
    let supervisor = Supervisor::listens().then(|| Supervisor::started(vitals, link.state()));
    supervisor.transpose().context("starting the thread that tells systemd")
}

/// Until a signal or the end of the store; then drains, unless a second signal says not to.
async fn work(
    mut pipeline: Pipeline,
    ops: Option<&Port<JournalStore>>,
    supervisor: Option<&Supervisor>,
    stop: &mut Stop,
) -> anyhow::Result<Exit> {
    tokio::select! {
        ended = pipeline.ended() => {
            ended.map_err(store_exit)?;
            return Ok(Exit::Ok);
        }
        () = stop.asked() => tracing::info!("stopping: taking no more, finishing what is under way"),
    }
    if let Some(ops) = ops {
        ops.draining();
    }
    if let Some(supervisor) = supervisor {
        supervisor.stopping();
    }
    tokio::select! {
        drained = pipeline.drain() => {
            drained.map_err(store_exit)?;
            Ok(Exit::Ok)
        }
        () = stop.asked() => {
            tracing::warn!("asked twice: stopping at once; what was not acked comes again");
            Ok(Exit::Negative)
        }
    }
}

async fn open_port(settings: &Settings) -> anyhow::Result<Option<Port<JournalStore>>> {
    let Some(listen) = settings.ops.listen else { return Ok(None) };
    let bound = port::bind(listen).await.with_context(|| format!("ops.listen: {listen}")).context(Exit::Port)?;
    tracing::info!(address = %bound.address(), "the ops port is open");
    let access = settings.ops.token.clone().map_or(Access::Loopback, Access::Token);
    Ok(Some(bound.serve(access)))
}

async fn open_store(settings: &Settings) -> anyhow::Result<Arc<JournalStore>> {
    let dir = settings.partition_dir();
    let cache_bytes = settings.store.cache_mib * 1024 * 1024;
    let open = move || {
        if let Some(parent) = dir.parent() {
            // customer data: for this service's account alone, as the store below it is
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(parent)
                .with_context(|| format!("creating {}", parent.display()))
                .context(Exit::StoreOpen)?;
        }
        JournalStore::open(&dir, SledSettings { cache_bytes, ..SledSettings::default() }).map_err(store_exit)
    };
    let store = tokio::task::spawn_blocking(open).await.context("opening the store")??;
    warn_of_open_doors(&settings.partition_dir());
    Ok(Arc::new(store))
}

/// A directory that was there before us stays as somebody has made it; others must not read customer data by mistake.
fn warn_of_open_doors(dir: &Path) {
    let modes = dir.ancestors().take(2).filter_map(|dir| dir.metadata().ok()).map(|found| found.permissions().mode());
    // one closed door is enough
    if modes.fold(0o077, |open, mode| open & mode) != 0 {
        tracing::warn!(dir = %dir.display(), "other accounts of this machine can read the store: chmod 700");
    }
}

fn connect(settings: &Settings, topology: Topology) -> anyhow::Result<AmqpLink> {
    let partition = u16::try_from(settings.amqp.partition)?;
    let mut amqp = AmqpSettings::new(settings.amqp.url.expose(), topology, partition).context(Exit::Config)?;
    amqp.prefetch = Prefetch { reports: settings.amqp.prefetch_reports, surveys: settings.amqp.prefetch_surveys };
    amqp.publish_window = settings.amqp.publish_window;
    amqp.at_connect = if settings.amqp.apply_topology { AtConnect::Apply } else { AtConnect::Check };
    let Tls { ca, certificate, key } = &settings.amqp.tls;
    let identity = certificate.as_ref().zip(key.as_ref()).map(|(certificate, key)| (certificate.expose(), key.expose()));
    amqp.tls = crate::broker::amqp::settings::Tls::new(ca.as_ref().map(PemFile::expose), identity);
    amqp.time_outs.close = stop_within(settings) / 10;
    amqp.jitter_seed = u64::from(std::process::id());
    AmqpLink::connect(amqp).context(Exit::Config)
}

/// How long a stop may take in all, whatever the broker does.
fn stop_within(settings: &Settings) -> Duration {
    Duration::from_secs(settings.limits.drain_seconds)
}

fn pipeline_settings(settings: &Settings, topology: &Topology, users: Arc<Publishers>) -> anyhow::Result<pipeline::Settings> {
    Ok(pipeline::Settings {
        partition: PartitionSettings {
            clock: match settings.clock {
                ClockSource::System => Clock::System,
                ClockSource::Events => Clock::EVENTS,
            },
            policy: Policy {
                survey_interval: minutes(settings.agents.survey_interval_minutes),
                organization: OrganizationSettings::default(),
                surveys_caught_up: settings.clock == ClockSource::Events,
            },
            model: match settings.agents.model {
                OutcomeModel::Steady => Model::Steady,
                OutcomeModel::Seeded => Model::Seeded { seed: settings.agents.seed },
            },
            dead_letter_queue: topology.dead_letters(),
            status_exchange: topology.status(),
            audit_kept: days(settings.store.audit_days),
        },
        limits: Limits {
            batch_events: settings.limits.batch_events,
            outbox_rows: settings.limits.outbox_rows,
            repeats: settings.amqp.publish_window,
            // the two halves of closing the link have a tenth each
            drain: stop_within(settings) * 8 / 10,
        },
        users,
        publish_window: settings.amqp.publish_window,
    })
}

/// Says when the link is up and when it is not. The first time it is, the service is `ready`.
async fn announce(mut state: tokio::sync::watch::Receiver<LinkState>) {
    let mut announced = None;
    loop {
        let now = state.borrow_and_update().clone();
        match now {
            LinkState::Ready { .. } if announced.is_none() => tracing::info!("ready"),
            LinkState::Ready { epoch } if announced != Some(epoch) => tracing::info!(epoch, "connected again"),
            LinkState::Blocked { reason, .. } => tracing::warn!(reason, "the broker has blocked publishing"),
            LinkState::Connecting if announced.is_some() => tracing::warn!("the connection to the broker is lost, connecting"),
            LinkState::Ready { .. } | LinkState::Connecting | LinkState::Closed => {}
        }
        if let LinkState::Ready { epoch } = *state.borrow() {
            announced = Some(epoch);
        }
        if state.changed().await.is_err() {
            return;
        }
    }
}

/// SIGTERM and SIGINT.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> anyhow::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
