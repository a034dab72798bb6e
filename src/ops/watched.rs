//! What the port watches: the pipelines of the partitions that this process serves, each with its store.
//!
//! Never here: how it is asked, or shown.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::sync::watch;

use crate::broker::LinkState;
use crate::config::in_ranges;
use crate::pipeline::View;
use crate::pipeline::vitals::Vitals;
use crate::store::Store;
use crate::store::transfer::TransferError;

use super::backup;
use super::health::Whose;
use super::inspect::stores::Stores;

/// A running pipeline, and what else is to be seen of it.
pub struct Partition<S> {
    pub number: u16,
    pub view: View<S>,
    pub link: watch::Receiver<LinkState>,
    /// Outbox rows at which consuming pauses.
    pub outbox_limit: u64,
    /// The size of the store's files.
    pub store_bytes: Box<dyn Fn() -> Option<u64> + Send + Sync>,
    pub(super) backup: backup::Begin,
    epoch: AtomicU64,
}

impl<S> Partition<S> {
    pub fn new(
        number: u16,
        view: View<S>,
        link: watch::Receiver<LinkState>,
        outbox_limit: u64,
        store_bytes: impl Fn() -> Option<u64> + Send + Sync + 'static,
        backup: impl Fn() -> Result<backup::Writing, TransferError> + Send + Sync + 'static,
    ) -> Self {
        let (store_bytes, backup, epoch) = (Box::new(store_bytes), Arc::new(backup), AtomicU64::new(0));
        Self { number, view, link, outbox_limit, store_bytes, backup, epoch }
    }

    /// Connections after the first, as far as has been looked.
    pub(super) fn reconnects(&self) -> u64 {
        if let LinkState::Ready { epoch } | LinkState::Blocked { epoch, .. } = *self.link.borrow() {
            self.epoch.fetch_max(epoch, Relaxed);
        }
        self.epoch.load(Relaxed).saturating_sub(1)
    }
}

/// All of them.
pub struct Watched<S> {
    partitions: Vec<Partition<S>>,
    /// Of all together.
    pub link: watch::Receiver<LinkState>,
}

/// Which partition is meant cannot be said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unclear {
    #[error("partition {asked}: this process serves {served}")]
    NotServed { asked: u16, served: String },
    #[error("this process serves the partitions {served}: say which: --partition {first}, over HTTP ?partition={first}")]
    NotNamed { served: String, first: u16 },
}

impl<S: Store> Watched<S> {
    /// `partitions`: one or more. `link`: of all together.
    pub fn new(partitions: Vec<Partition<S>>, link: watch::Receiver<LinkState>) -> Self {
        Self { partitions, link }
    }

    /// Each, and how it is named where there are several.
    pub(super) fn partitions(&self) -> impl Iterator<Item = (Whose, &Partition<S>)> {
        self.partitions.iter().map(|partition| (Whose::of(partition.number, self.partitions.len()), partition))
    }

    /// Which there are, in ranges.
    pub(super) fn served(&self) -> String {
        in_ranges(self.partitions.iter().map(|partition| partition.number))
    }

    /// The partition of this number; without one, the only one.
    pub(super) fn partition(&self, asked: Option<u16>) -> Result<&Partition<S>, Unclear> {
        match (asked, self.partitions.as_slice()) {
            (None, [only]) => Ok(only),
            (None, several) => {
                Err(Unclear::NotNamed { served: self.served(), first: several.first().map_or(0, |partition| partition.number) })
            }
            (Some(asked), all) => {
                all.iter().find(|partition| partition.number == asked).ok_or_else(|| Unclear::NotServed { asked, served: self.served() })
            }
        }
    }

    /// For questions whose rows may be in any of them.
    pub(super) fn stores(&self, budget: usize) -> Stores<S> {
        Stores::new(self.partitions.iter().map(|partition| Arc::clone(&partition.view.store)).collect(), Some(budget))
    }

    /// Says, whenever it is asked, what only a restart can mend. Keeps no store open.
    pub fn ailments(&self) -> impl Fn() -> Vec<String> + Send + Sync + use<S> {
        let vitals: Vec<(Whose, Arc<Vitals>)> =
            self.partitions().map(|(whose, partition)| (whose, Arc::clone(&partition.view.vitals))).collect();
        move || vitals.iter().flat_map(|(whose, vitals)| whose.all(vitals.signs().ailments())).collect()
    }
}
