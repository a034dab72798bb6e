//! A snapshot: everything that was committed up to one moment, read row by row while the service goes on committing.
//!
//! ```text
//! snapshot ─▶ no frozen overlay left ─▶ journal file closed, overlay frozen ─▶ commits go on, into a new overlay
//! reading:     frozen overlay over sled, which nothing writes while the frozen overlay waits
//! dropped:     the frozen overlay rests as any other would
//! ```
//! sled has no snapshots of its own, and needs none here: it changes in checkpoints only, and the one that would change
//! it next is put off. That costs memory, the overlay of what is committed meanwhile; before it gets so large that commits
//! would have to wait for that checkpoint, the snapshot is given up: the service comes first.
//!
//! Must never: hold up a commit for longer than beginning a file of the journal takes; give a row that is not of its moment.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::overlay::{Layer, Layers};
use super::{JournalStore, Shared, half_done};
use crate::store::transfer::{Source, TransferError};
use crate::store::{Row, StoreError};

/// How often it is looked whether the checkpoint under way has ended.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// See the module docs. Dropping it lets checkpoints go on.
pub struct Snapshot {
    hold: Arc<Hold>,
    /// The frozen overlay alone.
    layers: Layers,
    shared: Arc<Shared>,
    commits: u64,
}

/// There for as long as somebody reads sled as it is.
#[derive(Default)]
struct Hold {
    given_up: AtomicBool,
}

/// A frozen overlay whose checkpoint waits: for the next overlay to be full, and for a snapshot that reads it.
pub(super) struct Resting {
    /// Of the snapshot, if there is one.
    hold: Weak<Hold>,
    pub frozen: Arc<Layer>,
    /// The newest file of the journal that is in it.
    pub through: u64,
}

impl Resting {
    /// Of which there is no snapshot.
    pub fn unread(frozen: Arc<Layer>, through: u64) -> Self {
        Self { hold: Weak::new(), frozen, through }
    }

    pub fn is_read(&self) -> bool {
        self.hold.strong_count() > 0
    }

    /// Whatever is read from now on is not given any more.
    pub fn give_up(&self) {
        if let Some(hold) = self.hold.upgrade() {
            hold.given_up.store(true, Ordering::SeqCst);
        }
    }
}

impl JournalStore {
    /// Everything that has been committed by now, at the boundary between two batches. Blocks until what is frozen already is
    /// in sled; commits go on meanwhile.
    ///
    /// # Errors
    /// [`TransferError::Busy`] while there is another one; otherwise as [`crate::store::Store::commit`].
    pub fn snapshot(&self) -> Result<Snapshot, TransferError> {
        loop {
            {
                let Ok(mut lane) = self.lane.lock() else { return Err(half_done().into()) };
                self.shared.failure.check()?;
                if lane.resting.as_ref().is_some_and(Resting::is_read) {
                    return Err(TransferError::Busy);
                }
                lane.begin_resting();
                lane.checkpoints.look(&self.shared)?;
                if !lane.checkpoints.is_busy() {
                    lane.awaited = false;
                    let frozen = lane.freeze(&self.shared).map_err(|error| self.shared.failure.note(error))?;
                    let hold = Arc::new(Hold::default());
                    lane.resting = Some(Resting { hold: Arc::downgrade(&hold), frozen: Arc::clone(&frozen.0), through: frozen.1 });
                    let layers = Layers { active: Layer::default(), frozen: Some(frozen.0) };
                    return Ok(Snapshot { hold, layers, shared: Arc::clone(&self.shared), commits: lane.number });
                }
                lane.awaited = true;
                lane.checkpoints.hurry();
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

impl Snapshot {
    fn still_holds(&self) -> Result<(), TransferError> {
        if self.hold.given_up.load(Ordering::SeqCst) { Err(TransferError::GivenUp) } else { Ok(()) }
    }
}

impl Source for Snapshot {
    fn commits(&self) -> u64 {
        self.commits
    }

    fn scan(&self, from: &[u8], limit: usize) -> Result<Vec<Row>, TransferError> {
        let rows = self.layers.scan(&[], from, limit, |from, limit| self.shared.sled_scan(from, limit))?;
        // looked at after the reading: what a checkpoint has changed meanwhile is not given
        self.still_holds()?;
        Ok(rows)
    }

    fn archive(&self, line: &mut dyn FnMut(&[u8]) -> Result<(), TransferError>) -> Result<(), TransferError> {
        let mut given = |text: &[u8]| {
            self.still_holds()?;
            line(text)
        };
        self.shared.sled.archive(&mut given)?;
        // on their way to the files
        let frozen = self.layers.frozen.iter().flat_map(|frozen| &frozen.archive);
        frozen.map(Vec::as_slice).try_for_each(given)
    }
}

impl Shared {
    fn sled_scan(&self, from: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        use crate::store::Store as _;
        self.sled.scan(&[], from, limit)
    }
}
