//! `remedyd serve`: the service. Opens the stores of its partitions, keeps to the broker, works until told to stop.
//!
//! Never here: a rule, or a reason to give up on the broker. It ends by itself only when a store fails.

mod partitions;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use futures_util::future::join_all;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::broker::{Link as _, LinkState};
use crate::config::{Publishers, Settings, in_ranges};
use crate::ops::Access;
use crate::ops::port::{self, Port};
use crate::ops::systemd::Supervisor;
use crate::store::journal::JournalStore;

use self::partitions::Partitions;
use super::config::SettingsArgs;
use super::exit::Exit;
use super::reload::Reload;

pub fn run(args: SettingsArgs) -> anyhow::Result<ExitCode> {
    let settings = args.load()?;
    super::run_on(super::workers_for(settings.amqp.served().len()), serve(args, settings))
}

async fn serve(args: SettingsArgs, settings: Settings) -> anyhow::Result<ExitCode> {
    let filter = super::log::start(&settings.log)?;
    // before anything is opened: a signal during start-up ends it as well, at once
    let mut stop = Stop::new()?;
    let hangup = signal(SignalKind::hangup())?;
    let publishers = Arc::new(Publishers::new(settings.users.clone()));
    let reload = Reload { args, in_force: settings.clone(), filter, publishers: Arc::clone(&publishers) };
    let reloading = tokio::spawn(reload.on(hangup));
    #[cfg(feature = "otlp")]
    let traces = super::traces::Traces::start()?;
    // the first of all: a supervisor sees from here that it is starting
    let ops = open_port(&settings).await?;
    if let served @ [_, _, ..] = settings.amqp.served().as_slice() {
        tracing::info!(partitions = in_ranges(served.iter().copied()), "serves several partitions: reading their stores");
    }
    let partitions = tokio::select! {
        started = Partitions::start(&settings, &publishers) => started?,
        () = stop.asked() => {
            tracing::info!("stopped while it was starting: nothing has been taken");
            return Ok(Exit::Ok.into());
        }
    };
    let supervisor = watch(&settings, &partitions, ops.as_ref())?;
    let announcing = tokio::spawn(announce(partitions.link()));
    let links = partitions.links();
    let result = work(partitions, ops.as_ref(), supervisor.as_ref(), &mut stop).await;
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
        join_all(links.iter().map(|link| link.close())).await;
        tracing::info!("stopped");
    }
    result.map(ExitCode::from)
}

/// The service has started: whoever watches it is told, and told of from now on.
fn watch(settings: &Settings, partitions: &Partitions, ops: Option<&Port<JournalStore>>) -> anyhow::Result<Option<Supervisor>> {
    if ops.is_none() && !Supervisor::listens() {
        return Ok(None);
    }
    let watched = Arc::new(partitions.watch(settings.limits.outbox_rows as u64)?);
    let (ailments, link) = (watched.ailments(), watched.link.clone());
    if let Some(ops) = ops {
        ops.started(watched);
    }
    let supervisor = Supervisor::listens().then(|| Supervisor::started(ailments, link));
    supervisor.transpose().context("starting the thread that tells systemd")
}

/// Until a signal or the end of a store; then drains, unless a second signal says not to.
async fn work(
    mut partitions: Partitions,
    ops: Option<&Port<JournalStore>>,
    supervisor: Option<&Supervisor>,
    stop: &mut Stop,
) -> anyhow::Result<Exit> {
    tokio::select! {
        ended = partitions.ended() => {
            // the others stop at once as well: what they had not acked comes again
            ended?;
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
        drained = partitions.drain() => {
            drained?;
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

/// Says when all links are up and when they are not. The first time they are, the service is `ready`.
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
