//! The model disk behind the store port: a durable half and a volatile one. A commit is in the volatile half at once
//! and in the durable half when its time is over; a crash in between keeps some of the oldest batches, each as a whole,
//! and loses the rest. A commit may be slow, fail, or hang; whether a failed one is there after a restart is not known.
//!
//! Never here: a real file, a thread, or a way for a process to see what it could not.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use remedyd::pipeline::batch::Sealed;
use remedyd::pipeline::engine::Commit;
use remedyd::store::{Batch, Row, Store, StoreError};
use tokio::time::{Instant, sleep_until};

use super::scene::{Scene, State};

pub type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// As of the service: a sync over 10 s is given up.
const LONGEST_SYNC: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub struct Disk {
    pub durable: Rows,
    /// Durable and volatile together: what a process reads.
    view: Rows,
    volatile: VecDeque<Batch>,
    /// A commit has failed in this life.
    pub failed: bool,
    /// Says that a commit is durable when it is not: the control of the judge.
    pub lies: bool,
}

/// A process's handle on the disk.
pub struct DiskHandle {
    pub scene: Arc<Scene>,
    pub life: u64,
}

enum Plan {
    Durable(Duration),
    Fails(Duration),
    Hangs,
}

impl DiskHandle {
    async fn commit_in_time(&self, batch: &Batch) -> Result<(), StoreError> {
        let plan = {
            let mut state = self.scene.lock();
            if !state.step(self.life) {
                return Err(over());
            }
            if state.disk.failed {
                return Err(StoreError::Poisoned { first: "injected".into() });
            }
            state.note(format_args!("commit of {} rows begins", batch.writes.len()));
            apply(batch, &mut state.disk.view);
            state.disk.volatile.push_back(batch.clone());
            let weather = state.weather;
            if state.dice.permille(weather.fail_commit) {
                Plan::Fails(Duration::from_millis(state.dice.between(0, 50)))
            } else if state.dice.permille(weather.hang_commit) {
                Plan::Hangs
            } else if state.dice.permille(weather.slow_commit) {
                state.fault("commit slow");
                Plan::Durable(Duration::from_millis(state.dice.between(100, 9_000)))
            } else {
                Plan::Durable(Duration::from_millis(state.dice.between(0, 8)))
            }
        };
        let (takes, result) = match plan {
            Plan::Durable(takes) => (takes, Ok(())),
            Plan::Fails(takes) => (takes, Err(StoreError::Io { doing: "syncing (model disk)", source: io::Error::other("injected") })),
            Plan::Hangs => (LONGEST_SYNC, Err(StoreError::SyncTooSlow { limit_s: LONGEST_SYNC.as_secs() })),
        };
        if !takes.is_zero() {
            sleep_until(Instant::now() + takes).await;
        }
        let mut state = self.scene.lock();
        if !state.step(self.life) {
            return Err(over());
        }
        if let Err(error) = &result {
            state.fault(if takes == LONGEST_SYNC { "commit hung" } else { "commit failed" });
            state.note(format_args!("commit fails: {error}"));
            state.disk.failed = true;
            state.judge.storage_failed(self.life);
            self.tell_when_known();
            return result;
        }
        if !state.disk.lies {
            state.becomes_durable();
        }
        Ok(())
    }
}

impl DiskHandle {
    /// Tells the judge as soon as the engine has heard of the failure, and before anything that the engine sets off by
    /// it. Tasks run in the order in which they were woken: the first of these two is before the engine, which the end of
    /// this commit is about to wake, and so the second is right behind it.
    fn tell_when_known(&self) {
        let (scene, life) = (Arc::clone(&self.scene), self.life);
        tokio::spawn(async move {
            tokio::spawn(async move {
                let mut state = scene.lock();
                state.note(format_args!("the engine of life {life} knows of the failure"));
                state.judge.failure_is_known(life);
            });
        });
    }
}

impl State {
    /// The oldest volatile batch reaches the durable half.
    fn becomes_durable(&mut self) {
        let Some(batch) = self.disk.volatile.pop_front() else { return };
        apply(&batch, &mut self.disk.durable);
        self.note(format_args!("durable: {} rows", batch.writes.len()));
        let ms = self.ms;
        let told = self.judge.durable(&batch, ms);
        for line in told {
            self.note(format_args!("  {line}"));
        }
    }

    pub fn crash_disk(&mut self) {
        let waiting = self.disk.volatile.len() as u64;
        if waiting > 0 {
            let kept = self.dice.between(0, waiting);
            for _ in 0..kept {
                self.fault("batch kept in a crash");
                self.becomes_durable();
            }
            if kept < waiting {
                self.fault("batch lost in a crash");
                self.note(format_args!("{} batches are lost", waiting - kept));
            }
        }
        self.disk.volatile.clear();
        self.disk.failed = false;
        self.disk.view = self.disk.durable.clone();
    }
}

impl Store for DiskHandle {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let state = self.scene.lock();
        if state.life == self.life { Ok(state.disk.view.get(key).cloned()) } else { Err(over()) }
    }

    fn scan(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Row>, StoreError> {
        let state = self.scene.lock();
        if state.life != self.life {
            return Err(over());
        }
        let rows = state.disk.view.range(prefix.max(from).to_vec()..).take_while(|(key, _)| key.starts_with(prefix));
        Ok(rows.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    /// The pipeline commits by [`commit_in_virtual_time`] alone.
    fn commit(&self, _: &Batch) -> Result<(), StoreError> {
        Err(StoreError::Poisoned { first: "a commit that blocks, in virtual time".into() })
    }
}

/// How the engine starts a commit here.
pub fn commit_in_virtual_time(store: Arc<DiskHandle>, sealed: Sealed) -> Commit {
    tokio::spawn(async move {
        let result = store.commit_in_time(&sealed.batch).await;
        (sealed, result)
    })
}

fn over() -> StoreError {
    StoreError::Poisoned { first: "this process is no more".into() }
}

pub fn apply(batch: &Batch, rows: &mut Rows) {
    for (key, value) in &batch.writes {
        match value {
            Some(value) => rows.insert(key.to_vec(), value.to_vec()),
            None => rows.remove(key.as_ref()),
        };
    }
}
