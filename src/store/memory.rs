//! The store in memory, for tests and simulation: the same contract, and faults on demand.
//!
//! What is durable lives in a [`MemoryDisk`] that outlives the store, so a test can cut the power and open
//! the disk again.
//!
//! Must never: be a faster store for production, or keep anything in the disk that was not durable.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::sled::check_limits;
use super::{Batch, Row, Store, StoreError, keys};

type Rows = BTreeMap<Vec<u8>, Arc<[u8]>>;
/// A batch that readers see and the disk does not have yet.
type Held = BTreeMap<Vec<u8>, Option<Arc<[u8]>>>;

/// What survives a power cut. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk {
    shared: Arc<Mutex<Durable>>,
}

#[derive(Debug, Default)]
struct Durable {
    rows: Rows,
    archive: Vec<Vec<u8>>,
    open: bool,
}

impl MemoryDisk {
    /// The archive's lines so far; it begins anew.
    pub fn take_archive(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.lock().archive)
    }

    fn lock(&self) -> MutexGuard<'_, Durable> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is to go wrong with the next commit that has something to write. Either way it fails, and with
/// it every later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitFault {
    /// The error came before anything reached the disk.
    Lost,
    /// The error came although the batch had become durable.
    Kept,
}

/// A [`Store`] in memory over a [`MemoryDisk`].
#[derive(Debug)]
pub struct MemoryStore {
    disk: MemoryDisk,
    state: Mutex<State>,
    changed: Condvar,
    /// Held for a whole commit, so that batches become durable in the order of the calls.
    lane: Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    pending: Held,
    failed: Option<String>,
    fault: Option<CommitFault>,
    hold: bool,
    /// A commit is applied and waits for [`MemoryStore::release_durability`].
    held: bool,
    power_cut: bool,
}

impl MemoryStore {
    /// A store over a disk of its own.
    pub fn new() -> MemoryStore {
        MemoryStore::over(MemoryDisk::default())
    }

    /// Opens `disk`.
    ///
    /// # Errors
    /// [`StoreError::Locked`] when a store over it is open.
    pub fn open(disk: &MemoryDisk) -> Result<MemoryStore, StoreError> {
        if disk.lock().open {
            return Err(StoreError::Locked { path: "memory".into(), lock: "memory".into() });
        }
        Ok(MemoryStore::over(disk.clone()))
    }

    fn over(disk: MemoryDisk) -> MemoryStore {
        disk.lock().open = true;
        MemoryStore { disk, state: Mutex::default(), changed: Condvar::new(), lane: Mutex::new(()) }
    }

    pub fn disk(&self) -> &MemoryDisk {
        &self.disk
    }

    /// The next commit with something to write fails.
    pub fn fail_next_commit(&self, fault: CommitFault) {
        self.state().fault = Some(fault);
    }

    /// From now on commits are applied (readers see them) but wait to become durable.
    pub fn hold_durability(&self) {
        self.state().hold = true;
    }

    /// Blocks until a commit waits to become durable, after [`MemoryStore::hold_durability`].
    pub fn wait_until_held(&self) {
        let state = self.changed.wait_while(self.state(), |s| !s.held);
        drop(state.unwrap_or_else(PoisonError::into_inner));
    }

    /// Lets waiting and future commits become durable.
    pub fn release_durability(&self) {
        self.state().hold = false;
        self.changed.notify_all();
    }

    /// Ends this store as a power cut would: what is not durable is gone, waiting and later commits fail,
    /// and the disk can be opened again.
    pub fn power_cut(&self) {
        let mut state = self.state();
        // In this order under one lock: no commit can slip onto the disk once it may be opened again.
        state.power_cut = true;
        state.failed.get_or_insert_with(|| "the power was cut".to_owned());
        state.pending.clear();
        self.disk.lock().open = false;
        drop(state);
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        MemoryStore::new()
    }
}

impl Drop for MemoryStore {
    fn drop(&mut self) {
        // After a power cut the disk may be another store's by now.
        if !self.state().power_cut {
            self.disk.lock().open = false;
        }
    }
}

impl Store for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let state = self.state();
        state.check_power()?;
        match state.pending.get(key) {
            Some(value) => Ok(value.as_deref().map(<[u8]>::to_vec)),
            None => Ok(self.disk.lock().rows.get(key).map(|value| value.to_vec())),
        }
    }

    fn scan(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        let state = self.state();
        state.check_power()?;
        let start = prefix.max(from).to_vec();
        let within = |key: &Vec<u8>| key.starts_with(prefix);
        let durable = self.disk.lock();
        let rows = durable.rows.range(start.clone()..).take_while(|(key, _)| within(key));
        if state.pending.is_empty() {
            return Ok(rows.take(limit).map(|(key, value)| (key.clone(), value.to_vec())).collect());
        }
        let mut seen: BTreeMap<&Vec<u8>, Option<&Arc<[u8]>>> = rows.map(|(key, value)| (key, Some(value))).collect();
        seen.extend(state.pending.range(start..).take_while(|(key, _)| within(key)).map(|(key, value)| (key, value.as_ref())));
        let there = seen.into_iter().filter_map(|(key, value)| Some((key.clone(), value?.to_vec())));
        Ok(there.take(limit).collect())
    }

    fn commit(&self, batch: &Batch) -> Result<(), StoreError> {
        let _lane = self.lane.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.state();
        if let Some(first) = &state.failed {
            return Err(StoreError::Poisoned { first: first.clone() });
        }
        if batch.is_empty() {
            return Ok(());
        }
        for (key, value) in &batch.writes {
            if let Err(error) = check_limits(key, value.as_deref()) {
                return Err(state.fail(error));
            }
        }
        if let Some(fault) = state.fault.take() {
            if fault == CommitFault::Kept {
                apply(batch, &mut self.disk.lock());
            }
            return Err(state.fail(io_error("injected")));
        }
        if state.hold {
            state.pending = batch.writes.iter().map(|(key, value)| (key.to_vec(), value.as_deref().map(Arc::from))).collect();
        }
        while state.hold && !state.power_cut {
            state.held = true;
            self.changed.notify_all();
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.held = false;
        if state.power_cut {
            return Err(io_error("the power was cut"));
        }
        apply(batch, &mut self.disk.lock());
        state.pending.clear();
        Ok(())
    }
}

impl State {
    fn check_power(&self) -> Result<(), StoreError> {
        if self.power_cut {
            return Err(StoreError::Poisoned { first: "the power was cut".to_owned() });
        }
        Ok(())
    }

    fn fail(&mut self, error: StoreError) -> StoreError {
        self.failed.get_or_insert_with(|| error.to_string());
        error
    }
}

fn io_error(what: &str) -> StoreError {
    StoreError::Io { doing: "syncing (memory)", source: io::Error::other(what.to_owned()) }
}

fn apply(batch: &Batch, disk: &mut Durable) {
    disk.archive.extend_from_slice(&batch.archive);
    for (key, value) in &batch.writes {
        let before = match value {
            Some(value) => disk.rows.insert(key.to_vec(), Arc::from(value.as_ref())),
            None => disk.rows.remove(key.as_ref()),
        };
        let overwritten = before.is_some() && value.is_some();
        debug_assert!(!overwritten || !keys::is_never_overwritten(key), "{} is there already", key.escape_ascii());
    }
}
