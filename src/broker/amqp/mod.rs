//! The [`Link`] over AMQP 0-9-1, by lapin.
//!
//! Never here: automatic recovery (a confirm or a tag of an old connection must not look like one of the new),
//! and waiting without a time-out.
//!
//! ```text
//!  next ◀── buffer (prefetch) ◀── consume ◀═ connection 1 ═ broker
//!  settle ─▶ ledger ─▶ frames ──▶ consume ═▶
//!  publish ─▶ jobs (window) ────▶ publish ═▶ connection 2 ═ broker
//! ```
//! Beside the link: [`declare`] (the topology), [`pass`] and [`tap`] (for people who look into a queue).
//!
//! Two connections, since the broker blocks one that publishes as a whole. Each has its [`supervisor`].

pub mod connection;
pub mod declare;
pub mod pass;
pub mod settings;
pub mod tap;

mod consume;
mod ledger;
mod message;
mod publish;
mod retry;
mod standing;
mod supervisor;

use std::sync::Arc;

use tokio::sync::{Mutex, Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;

pub use connection::AmqpError;
pub use settings::{AmqpSettings, Endpoint, Prefetch, SettingsError};

use super::{Delivery, Lane, Link, LinkState, Message, PublishError, Settlement, Token};
use consume::{Consuming, Intake, Outlets};
use ledger::Ledger;
use publish::{Job, Publishing};
use standing::Standing;

/// Keeps the seeds of the two connections' jitter apart.
const PUBLISHER_SEED: u64 = 0x5075_626c_6973_6865;

/// One partition's link. Dropping it closes it, in the background.
pub struct AmqpLink {
    reports: Mutex<mpsc::Receiver<Delivery>>,
    surveys: Mutex<mpsc::Receiver<Delivery>>,
    intake: Arc<Intake>,
    jobs: mpsc::Sender<Job>,
    standing: Arc<Standing>,
    closing: CancellationToken,
    tasks: TaskTracker,
}

impl AmqpLink {
    /// Starts connecting, and keeps at it until closed. Returns at once; wait for [`LinkState::Ready`] with
    /// [`Link::state`]. Must be called within a tokio runtime.
    pub fn connect(settings: AmqpSettings) -> Result<Self, SettingsError> {
        settings.validate()?;
        let (reports_in, reports) = mpsc::channel(settings.prefetch.reports.into());
        let (surveys_in, surveys) = mpsc::channel(settings.prefetch.surveys.into());
        // As many again as are in flight, so that the publisher never waits for its next message, and no fewer than the relay
        // has under way: beyond its capacity a channel no longer keeps the order of those who ask.
        let (jobs_in, jobs) = mpsc::channel(settings.publish_window);
        let intake = Arc::new(Intake {
            reports: Ledger::new(settings.prefetch.reports),
            surveys: Ledger::new(settings.prefetch.surveys),
            settled: Notify::new(),
            stopping: CancellationToken::new(),
        });
        let standing = Arc::new(Standing::new());
        let (closing, tasks) = (CancellationToken::new(), TaskTracker::new());
        let seed = settings.jitter_seed;

        let consuming = Consuming {
            settings: settings.clone(),
            intake: intake.clone(),
            standing: standing.clone(),
            closing: closing.clone(),
            outlets: Some(Outlets { reports: reports_in, surveys: surveys_in }),
        };
        let publishing = Publishing { settings: settings.clone(), standing: standing.clone(), closing: closing.clone(), jobs };
        // what they log is about the partition that connects
        tasks.spawn(supervisor::supervise(consuming, settings.clone(), closing.clone(), seed).in_current_span());
        tasks.spawn(supervisor::supervise(publishing, settings, closing.clone(), seed ^ PUBLISHER_SEED).in_current_span());
        tasks.close();
        Ok(Self { reports: Mutex::new(reports), surveys: Mutex::new(surveys), intake, jobs: jobs_in, standing, closing, tasks })
    }
}

impl Link for AmqpLink {
    async fn next(&self, lane: Lane) -> Option<Delivery> {
        let buffer = match lane {
            Lane::Reports => &self.reports,
            Lane::Surveys => &self.surveys,
        };
        let mut buffer = buffer.lock().await;
        loop {
            let delivery = buffer.recv().await?;
            // What is left of an older connection comes again on the new one.
            if self.intake.ledger(lane).is_current(delivery.token.epoch) {
                return Some(delivery);
            }
        }
    }

    fn settle(&self, token: Token, how: Settlement) {
        let ledger = self.intake.ledger(token.lane);
        if ledger.settle(token.epoch, token.tag, how) {
            self.intake.settled.notify_one();
        }
    }

    fn hold_acks(&self, lane: Lane, may: bool) {
        self.intake.ledger(lane).hold(may);
    }

    async fn publish_in(&self, epoch: Option<u64>, message: impl Into<Arc<Message>> + Send) -> Result<(), PublishError> {
        if self.closing.is_cancelled() {
            return Err(PublishError::Closed);
        }
        let (answer, verdict) = oneshot::channel();
        let job = Job { message: message.into(), epoch, answer };
        // Turns are given in the order of asking. Unconstrained, because a task that asks for many at once would
        // otherwise run out of its budget at the 128th, which would then be put off behind all the others.
        let asking = tokio::task::unconstrained(self.jobs.send(job));
        asking.await.map_err(|_| PublishError::Closed)?;
        verdict.await.unwrap_or(Err(PublishError::Closed))
    }

    fn publishing_epoch(&self) -> u64 {
        self.standing.publishing_epoch()
    }

    fn stop_consuming(&self) {
        self.intake.stopping.cancel();
    }

    fn state(&self) -> watch::Receiver<LinkState> {
        self.standing.state()
    }

    async fn close(&self) {
        self.intake.stopping.cancel();
        self.closing.cancel();
        self.tasks.wait().await;
        self.standing.closed();
    }
}

impl Drop for AmqpLink {
    fn drop(&mut self) {
        self.intake.stopping.cancel();
        self.closing.cancel();
    }
}
