//! Everything that metrics and page show, gathered at one moment. Never here: how it is shown, or a row of the store.

use std::sync::atomic::Ordering::Relaxed;

use crate::broker::LinkState;
use crate::model::time::{Timestamp, system_now};
use crate::pipeline::census::Totals;
use crate::pipeline::counters::{Count, Ledger};
use crate::pipeline::histogram::Distribution;
use crate::store::Store;
use crate::wire::{InboundType, Reason};

use super::health::{self, Stage};
use super::port::Watched;
use super::process::Process;

/// Tenants that are named; all others are one figure.
pub const TOP_TENANTS: usize = 10;
/// The type of what could not be read, or is none of ours.
const UNREADABLE: &str = "unreadable";

#[derive(Debug)]
pub struct Facts {
    pub at: Timestamp,
    pub started_at: Timestamp,
    pub stage: Stage,
    pub not_live: Vec<String>,
    pub not_ready: Vec<String>,
    pub process: Process,
    /// None before the store has been read.
    pub running: Option<Running>,
}

/// What there is to say once there is a pipeline.
#[derive(Debug)]
pub struct Running {
    pub link: LinkState,
    pub reconnects: u64,
    pub ledger: Ledger,
    pub count: Count,
    pub by_type: Vec<(&'static str, u64)>,
    pub by_reason: Vec<(&'static str, u64)>,
    pub outbox_rows: u64,
    pub outbox_limit: u64,
    pub timers: u64,
    pub census: Totals,
    pub store_bytes: Option<u64>,
    pub commit: Distribution,
    pub batch: Distribution,
    pub decision: Distribution,
    pub page: Distribution,
}

impl Facts {
    pub fn gather<S: Store>(stage: Stage, started_at: Timestamp, watched: Option<&Watched<S>>) -> Self {
        let running = watched.map(Running::gather);
        let signs = watched.map(|watched| watched.view.vitals.signs());
        let (outbox_rows, outbox_limit) = running.as_ref().map_or((0, 0), |running| (running.outbox_rows, running.outbox_limit));
        Self {
            at: system_now(),
            started_at,
            stage,
            not_live: health::not_live(stage, signs.as_ref()),
            not_ready: health::not_ready(stage, running.as_ref().map(|running| &running.link), outbox_rows, outbox_limit),
            process: Process::now(),
            running,
        }
    }
}

impl Running {
    fn gather<S: Store>(watched: &Watched<S>) -> Self {
        let counters = &watched.view.counters;
        let names = InboundType::ALL.iter().map(|known| known.as_str()).chain([UNREADABLE]);
        Self {
            link: watched.link.borrow().clone(),
            reconnects: watched.reconnects(),
            ledger: counters.ledger(),
            count: counters.count(),
            by_type: names.zip(&counters.by_type).map(|(name, count)| (name, count.load(Relaxed))).collect(),
            by_reason: Reason::ALL.iter().zip(&counters.by_reason).map(|(reason, count)| (reason.as_str(), count.load(Relaxed))).collect(),
            outbox_rows: counters.outbox_rows.load(Relaxed),
            outbox_limit: watched.outbox_limit,
            timers: counters.timers.load(Relaxed),
            census: watched.view.census.totals(TOP_TENANTS),
            store_bytes: (watched.store_bytes)(),
            commit: counters.commit.distribution(),
            batch: counters.batch.distribution(),
            decision: counters.decision.distribution(),
            page: counters.page.distribution(),
        }
    }
}
