//! Everything that metrics and page show, gathered at one moment. Never here: how it is shown, or a row of the store.

use std::sync::atomic::Ordering::Relaxed;

use crate::broker::LinkState;
use crate::model::time::{Timestamp, system_now};
use crate::pipeline::census::Totals;
use crate::pipeline::counters::{Count, Ledger};
use crate::pipeline::histogram::Distribution;
use crate::store::Store;
use crate::wire::{InboundType, Reason};

use super::health::{self, Flow, Stage, Whose};
use super::process::Process;
use super::watched::{Partition, Watched};

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

/// What there is to say once there are pipelines: of all partitions together, but for `each`.
#[derive(Debug)]
pub struct Running {
    /// In ranges.
    pub partitions: String,
    pub each: Vec<Figures>,
    pub link: LinkState,
    pub ledger: Ledger,
    pub count: Count,
    pub by_type: Vec<(&'static str, u64)>,
    pub by_reason: Vec<(&'static str, u64)>,
    pub timers: u64,
    pub census: Totals,
    pub store_bytes: Option<u64>,
    pub commit: Distribution,
    pub batch: Distribution,
    pub decision: Distribution,
    pub page: Distribution,
}

/// Of one partition what tells that it is ill. In a sum, partitions that are well would hide it.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    pub number: u16,
    pub whose: Whose,
    pub ledger: Ledger,
    pub commits: u64,
    pub outbox_rows: u64,
    pub outbox_limit: u64,
    pub reconnects: u64,
}

impl Figures {
    pub fn outbox_is_full(&self) -> bool {
        self.outbox_rows >= self.outbox_limit
    }
}

impl Facts {
    pub fn gather<S: Store>(stage: Stage, started_at: Timestamp, watched: Option<&Watched<S>>) -> Self {
        let flows: Vec<Flow> = watched.into_iter().flat_map(Watched::partitions).map(flow).collect();
        Self {
            at: system_now(),
            started_at,
            stage,
            not_live: health::not_live(stage, || watched.map_or_else(Vec::new, |watched| watched.ailments()())),
            not_ready: health::not_ready(stage, &flows),
            process: Process::now(),
            running: watched.and_then(Running::gather),
        }
    }
}

fn flow<S>((whose, partition): (Whose, &Partition<S>)) -> Flow {
    let outbox_rows = partition.view.counters.outbox_rows.load(Relaxed);
    Flow { whose, link: partition.link.borrow().clone(), outbox_rows, outbox_limit: partition.outbox_limit }
}

impl Running {
    /// All partitions together; none only if there is no partition.
    fn gather<S: Store>(watched: &Watched<S>) -> Option<Self> {
        watched.partitions().map(|(whose, partition)| Self::of(whose, partition, watched)).reduce(Self::with)
    }

    fn of<S: Store>(whose: Whose, partition: &Partition<S>, watched: &Watched<S>) -> Self {
        let counters = &partition.view.counters;
        let (ledger, count) = (counters.ledger(), counters.count());
        let names = InboundType::ALL.iter().map(|known| known.as_str()).chain([UNREADABLE]);
        Self {
            partitions: watched.served(),
            each: vec![Figures {
                number: partition.number,
                whose,
                ledger,
                commits: count.commits,
                outbox_rows: counters.outbox_rows.load(Relaxed),
                outbox_limit: partition.outbox_limit,
                reconnects: partition.reconnects(),
            }],
            link: watched.link.borrow().clone(),
            ledger,
            count,
            by_type: names.zip(&counters.by_type).map(|(name, count)| (name, count.load(Relaxed))).collect(),
            by_reason: Reason::ALL.iter().zip(&counters.by_reason).map(|(reason, count)| (reason.as_str(), count.load(Relaxed))).collect(),
            timers: counters.timers.load(Relaxed),
            census: partition.view.census.totals(TOP_TENANTS),
            store_bytes: (partition.store_bytes)(),
            commit: counters.commit.distribution(),
            batch: counters.batch.distribution(),
            decision: counters.decision.distribution(),
            page: counters.page.distribution(),
        }
    }

    /// With another partition's. Which there are, and how their link stands, is said of all already.
    fn with(self, other: Self) -> Self {
        // both are in the order of the same table
        let added = |ours: Vec<(&'static str, u64)>, theirs: Vec<(&'static str, u64)>| {
            ours.into_iter().zip(theirs).map(|((name, a), (_, b))| (name, a + b)).collect()
        };
        Self {
            partitions: self.partitions,
            each: [self.each, other.each].concat(),
            link: self.link,
            ledger: self.ledger + other.ledger,
            count: self.count + other.count,
            by_type: added(self.by_type, other.by_type),
            by_reason: added(self.by_reason, other.by_reason),
            timers: self.timers + other.timers,
            census: self.census.with(other.census, TOP_TENANTS),
            store_bytes: self.store_bytes.zip(other.store_bytes).map(|(a, b)| a + b),
            commit: self.commit + other.commit,
            batch: self.batch + other.batch,
            decision: self.decision + other.decision,
            page: self.page + other.page,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::pipeline::histogram::Histogram;

    /// Of a service whose partitions, from 0 on, have these figures: ledger, outbox rows of 100, connections after the first.
    pub fn of_partitions(each: &[(Ledger, u64, u64)]) -> Facts {
        let figures = |(number, (ledger, outbox_rows, reconnects)): (u16, &(Ledger, u64, u64))| Figures {
            number,
            whose: Whose::of(number, each.len()),
            ledger: *ledger,
            commits: 5,
            outbox_rows: *outbox_rows,
            outbox_limit: 100,
            reconnects: *reconnects,
        };
        let none = Histogram::default().distribution();
        let running = Running {
            partitions: "0-1".to_owned(),
            each: (0..).zip(each).map(figures).collect(),
            link: LinkState::Ready { epoch: 1 },
            ledger: each.iter().map(|(ledger, ..)| *ledger).fold(Ledger::default(), std::ops::Add::add),
            count: Count::default(),
            by_type: Vec::new(),
            by_reason: Vec::new(),
            timers: 0,
            census: Totals::default(),
            store_bytes: None,
            commit: none,
            batch: none,
            decision: none,
            page: none,
        };
        Facts {
            at: system_now(),
            started_at: system_now(),
            stage: Stage::Running,
            not_live: Vec::new(),
            not_ready: Vec::new(),
            process: Process::default(),
            running: Some(running),
        }
    }
}
