//! The partitions of this process: for each a store, a link and a pipeline with an engine's thread of its own.
//!
//! ```text
//! settings ─▶ stores, opened side by side ─▶ links, and partitions recovered side by side ─▶ pipelines ─▶ one end for all
//! ```
//! Never here: anything that two of them share but the settings and who may publish. All start, or the process does not; the
//! first whose store fails ends it.

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::{join_all, select_all, try_join_all};
use tokio::sync::watch;
use tracing::Span;

use crate::agent::simulated::Model;
use crate::broker::amqp::settings::{AtConnect, Prefetch};
use crate::broker::amqp::{AmqpLink, AmqpSettings};
use crate::broker::topology::Topology;
use crate::broker::{Link as _, LinkState, links};
use crate::cli::exit::{Exit, store_exit};
use crate::config::{ClockSource, OutcomeModel, PemFile, Publishers, Settings, Tls};
use crate::machine::policy::Policy;
use crate::model::organization::OrganizationSettings;
use crate::model::time::{days, minutes};
use crate::ops::backup;
use crate::ops::watched::{self, Watched};
use crate::pipeline::clock::Clock;
use crate::pipeline::engine::Limits;
use crate::pipeline::partition::PartitionSettings;
use crate::pipeline::{self, Pipeline, Recovered};
use crate::store::StoreError;
use crate::store::journal::JournalStore;
use crate::store::sled::SledSettings;
use crate::store::transfer;

/// Running partitions, one or more. Dropping them stops them at once.
pub(super) struct Partitions {
    all: Vec<Partition>,
    /// The state of all links together.
    link: watch::Receiver<LinkState>,
}

struct Partition {
    name: Name,
    store: Arc<JournalStore>,
    link: Arc<AmqpLink>,
    pipeline: Pipeline,
}

/// A partition in the log and in errors: by its number, unless it is the only one of its process.
#[derive(Clone)]
struct Name {
    number: u16,
    is_one_of_several: bool,
    /// Of error, so that no filter that shows errors hides whose they are.
    span: Span,
}

impl Name {
    fn of(number: u16, partitions: usize) -> Self {
        let is_one_of_several = partitions > 1;
        let span = if is_one_of_several { tracing::error_span!("partition", number) } else { Span::none() };
        Self { number, is_one_of_several, span }
    }

    fn error(&self, error: anyhow::Error) -> anyhow::Error {
        if self.is_one_of_several { error.context(format!("partition {}", self.number)) } else { error }
    }
}

impl Partitions {
    /// Opens all stores and reads them; takes nothing before all have been read.
    pub async fn start(settings: &Settings, users: &Arc<Publishers>) -> anyhow::Result<Self> {
        let served = settings.amqp.served();
        let names = served.iter().map(|number| Name::of(*number, served.len()));
        let opened = all(join_all(names.map(|name| open_store(settings, name))).await)?;
        let topology = Topology::with_prefix(&settings.amqp.prefix, u16::try_from(settings.amqp.partitions)?).context(Exit::Config)?;
        let recovering = opened.into_iter().map(|(name, store)| recover(name, store, settings, &topology, users));
        let recovered = all(join_all(recovering).await)?;
        let partitions = all(recovered.into_iter().map(Waiting::begin).collect())?;
        let link = links::together(partitions.iter().map(|partition| partition.link.state()).collect());
        Ok(Self { all: partitions, link })
    }

    pub fn links(&self) -> Vec<Arc<AmqpLink>> {
        self.all.iter().map(|partition| Arc::clone(&partition.link)).collect()
    }

    /// The state of all links together.
    pub fn link(&self) -> watch::Receiver<LinkState> {
        self.link.clone()
    }

    pub fn watch(&self, outbox_limit: u64) -> anyhow::Result<Watched<JournalStore>> {
        let each = self.all.iter().map(|partition| partition.watch(outbox_limit));
        Ok(Watched::new(each.collect::<anyhow::Result<_>>()?, self.link.clone()))
    }

    /// Waits for the first to end by itself, which each does only when its store fails.
    pub async fn ended(&mut self) -> anyhow::Result<()> {
        let ends = self
            .all
            .iter_mut()
            .map(|Partition { name, pipeline, .. }| Box::pin(async move { pipeline.ended().await.map_err(|error| failed(name, error)) }));
        let (first, _, _) = select_all(ends).await;
        first
    }

    /// Takes no more, finishes what is under way within the limit, and ends: all side by side, and at once if a store fails.
    pub async fn drain(self) -> anyhow::Result<()> {
        let drains =
            self.all.into_iter().map(async |Partition { name, pipeline, .. }| pipeline.drain().await.map_err(|error| failed(&name, error)));
        try_join_all(drains).await.map(drop)
    }
}

impl Partition {
    fn watch(&self, outbox_limit: u64) -> anyhow::Result<watched::Partition<JournalStore>> {
        let view = self.name.span.in_scope(|| self.pipeline.watch(&self.store)).map_err(|error| self.name.error(store_exit(error)))?;
        let (measured, copied) = (Arc::clone(&self.store), Arc::clone(&self.store));
        let store_bytes = move || measured.size_bytes().ok();
        let backup = move || {
            let snapshot = copied.snapshot()?;
            let writing: backup::Writing = Box::new(move |out| transfer::export(&snapshot, out));
            Ok(writing)
        };
        Ok(watched::Partition::new(self.name.number, view, self.link.state(), outbox_limit, store_bytes, backup))
    }
}

/// All of them, or the first that has failed, in their order; the log says what became of the others that have.
fn all<T>(results: Vec<anyhow::Result<T>>) -> anyhow::Result<Vec<T>> {
    for error in results.iter().filter_map(|result| result.as_ref().err()).skip(1) {
        tracing::error!(error = format!("{error:#}"), "another partition cannot start either");
    }
    results.into_iter().collect()
}

/// The process ends by it; the log says of several whose it was.
fn failed(name: &Name, error: StoreError) -> anyhow::Error {
    if name.is_one_of_several {
        name.span.in_scope(|| tracing::error!(error = %error, "the store has failed: all partitions stop"));
    }
    name.error(store_exit(error))
}

async fn open_store(settings: &Settings, name: Name) -> anyhow::Result<(Name, Arc<JournalStore>)> {
    let dir = settings.partition_dir(name.number);
    let cache_bytes = settings.store.cache_mib * 1024 * 1024;
    let (opened, span) = (dir.clone(), name.span.clone());
    let open = move || {
        let _span = span.enter();
        if let Some(parent) = opened.parent() {
            // customer data: for this service's account alone, as the store below it is
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(parent)
                .with_context(|| format!("creating {}", parent.display()))
                .context(Exit::StoreOpen)?;
        }
        JournalStore::open(&opened, SledSettings { cache_bytes, ..SledSettings::default() }).map_err(store_exit)
    };
    let store = tokio::task::spawn_blocking(open).await.context("opening the store")?.map_err(|error| name.error(error))?;
    name.span.in_scope(|| warn_of_open_doors(&dir));
    Ok((name, Arc::new(store)))
}

/// A directory that was there before us stays as somebody has made it; others must not read customer data by mistake.
fn warn_of_open_doors(dir: &Path) {
    let modes = dir.ancestors().take(2).filter_map(|dir| dir.metadata().ok()).map(|found| found.permissions().mode());
    // one closed door is enough
    if modes.fold(0o077, |open, mode| open & mode) != 0 {
        tracing::warn!(dir = %dir.display(), "other accounts of this machine can read the store: chmod 700");
    }
}

/// A partition that has been read, and takes nothing yet.
struct Waiting {
    name: Name,
    store: Arc<JournalStore>,
    link: Arc<AmqpLink>,
    recovered: Recovered<JournalStore>,
}

impl Waiting {
    fn begin(self) -> anyhow::Result<Partition> {
        let Self { name, store, link, recovered } = self;
        let thread = format!("engine-p{}", name.number);
        let begun = name.span.in_scope(|| pipeline::start(&thread, recovered, Arc::clone(&link)));
        let pipeline = begun.map_err(|error| name.error(store_exit(error)))?;
        Ok(Partition { name, store, link, pipeline })
    }
}

/// Connects, and recovers on a thread that may block.
async fn recover(
    name: Name,
    store: Arc<JournalStore>,
    settings: &Settings,
    topology: &Topology,
    users: &Arc<Publishers>,
) -> anyhow::Result<Waiting> {
    let link = Arc::new(name.span.in_scope(|| connect(settings, topology.clone(), name.number)).map_err(|error| name.error(error))?);
    let pipeline_settings = pipeline_settings(settings, topology, Arc::clone(users));
    let recovering = {
        let (span, store) = (name.span.clone(), Arc::clone(&store));
        move || {
            let _span = span.enter();
            Recovered::read(store, pipeline_settings)
        }
    };
    let recovered = tokio::task::spawn_blocking(recovering).await.context("recovering from the store")?;
    let recovered = recovered.map_err(|error| name.error(store_exit(error)))?;
    Ok(Waiting { name, store, link, recovered })
}

fn connect(settings: &Settings, topology: Topology, partition: u16) -> anyhow::Result<AmqpLink> {
    let mut amqp = AmqpSettings::new(settings.amqp.url.expose(), topology, partition).context(Exit::Config)?;
    amqp.prefetch = Prefetch { reports: settings.amqp.prefetch_reports, surveys: settings.amqp.prefetch_surveys };
    amqp.publish_window = settings.amqp.publish_window;
    amqp.at_connect = if settings.amqp.apply_topology { AtConnect::Apply } else { AtConnect::Check };
    let Tls { ca, certificate, key } = &settings.amqp.tls;
    let identity = certificate.as_ref().zip(key.as_ref()).map(|(certificate, key)| (certificate.expose(), key.expose()));
    amqp.tls = crate::broker::amqp::settings::Tls::new(ca.as_ref().map(PemFile::expose), identity);
    amqp.time_outs.close = stop_within(settings) / 10;
    // partitions that have lost the broker together do not come back all at once
    amqp.jitter_seed = u64::from(std::process::id()) | u64::from(partition) << 32;
    AmqpLink::connect(amqp).context(Exit::Config)
}

/// How long a stop may take in all, whatever the broker does.
fn stop_within(settings: &Settings) -> Duration {
    Duration::from_secs(settings.limits.drain_seconds)
}

fn pipeline_settings(settings: &Settings, topology: &Topology, users: Arc<Publishers>) -> pipeline::Settings {
    pipeline::Settings {
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
    }
}
