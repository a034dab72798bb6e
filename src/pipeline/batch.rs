//! The batch being built, and the rows that are written but not yet durable.
//!
//! What may leave the process exists only inside a [`Sealed`] batch, and comes out of it when the batch has
//! been committed: that is the one way from a decision to an ack, a publication or an attempt.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::broker::Token;
use crate::machine::decision::AttemptOrder;
use crate::model::ids::{SubjectKey, TenantId};
use crate::model::report::Report;
use crate::model::time::{Stopwatch, Timestamp};
use crate::store::{Batch, Row, Store, StoreError, keys};

use super::counters::Settled;
use super::rows::OutboxRow;

/// What follows a commit.
#[derive(Debug, Default)]
pub struct Followers {
    pub acks: Vec<Token>,
    /// With their outbox numbers, ascending.
    pub outbox: Vec<(u64, OutboxRow)>,
    pub attempts: Vec<(TenantId, SubjectKey, AttemptOrder)>,
    /// Reports as they are now, for whoever watches (`census`).
    pub changed: Vec<(TenantId, Arc<Report>)>,
    /// What has been counted when this is durable.
    pub settled: Settled,
    /// Since when the first event of the batch has been here.
    pub since: Option<Stopwatch>,
}

/// A batch that is complete: to be committed, and then its followers released.
#[derive(Debug)]
pub struct Sealed {
    pub number: u64,
    pub batch: Batch,
    pub followers: Followers,
    /// Confirmed messages that it takes out of the outbox.
    pub removed_rows: usize,
    /// How many of its writes, the first ones, have been laid over the store.
    laid_over: usize,
}

impl Sealed {
    /// Whether a timer that was due by `now` ends with it.
    pub fn ends_timer(&self, now: Timestamp) -> bool {
        let removed = self.batch.writes.iter().filter(|(_, value)| value.is_none());
        removed.filter_map(|(key, _)| keys::timer_parts(key)).any(|(due, ..)| due <= now)
    }
}

/// The store, with the writes that are on their way to it laid over.
pub struct Writes<S> {
    store: Arc<S>,
    /// The batch that is being built.
    number: u64,
    /// Per key the newest write that is not known to be durable, and the batch it is in.
    pending: BTreeMap<Bytes, (u64, Option<Bytes>)>,
    keys: Vec<Bytes>,
    /// Of the batch that is being built: what is not laid over the store.
    blind: Vec<(Bytes, Option<Bytes>)>,
    archive: Vec<Vec<u8>>,
    /// Of the batch that is being built: keys, values and lines, what it has written twice counted twice.
    bytes: usize,
    pub followers: Followers,
}

impl<S: Store> Writes<S> {
    pub fn new(store: Arc<S>) -> Self {
        Self {
            store,
            number: 1,
            pending: BTreeMap::new(),
            keys: Vec::new(),
            blind: Vec::new(),
            archive: Vec::new(),
            bytes: 0,
            followers: Followers::default(),
        }
    }

    pub fn store(&self) -> &S {
        &self.store
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match self.pending.get(key) {
            Some((_, value)) => Ok(value.clone()),
            None => Ok(self.store.get(key)?.map(Bytes::from)),
        }
    }

    /// Every row under a prefix, in order, as it will be.
    pub fn scan_all(&self, prefix: &[u8]) -> Result<Vec<Row>, StoreError> {
        let mut rows: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        pages(self.store.as_ref(), prefix, |key, value| {
            rows.insert(key.to_vec(), value.to_vec());
            Ok(())
        })?;
        for (key, (_, value)) in
            self.pending.range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded)).take_while(|(key, _)| key.starts_with(prefix))
        {
            match value {
                Some(value) => rows.insert(key.to_vec(), value.to_vec()),
                None => rows.remove(key.as_ref()),
            };
        }
        Ok(rows.into_iter().collect())
    }

    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.write(key.into(), Some(value.into()));
    }

    pub fn remove(&mut self, key: Vec<u8>) {
        self.write(key.into(), None);
    }

    /// A blind write: of a row that is only read at a start, and by those who look at the store. [`Writes::get`] does not see it
    /// before it is durable, and every write to its key is one of these. Put only where there is none: see
    /// [`keys::is_never_overwritten`].
    pub fn put_blind(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.write_blind(key, Some(value));
    }

    /// As [`Writes::put_blind`].
    pub fn remove_blind(&mut self, key: Vec<u8>) {
        self.write_blind(key, None);
    }

    fn write_blind(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        debug_assert!(keys::is_never_overwritten(&key));
        self.bytes += key.len() + value.as_ref().map_or(0, Vec::len);
        self.blind.push((key.into(), value.map(Bytes::from)));
    }

    /// A line for the archive, with this batch.
    pub fn archive(&mut self, line: Vec<u8>) {
        self.bytes += line.len();
        self.archive.push(line);
    }

    fn write(&mut self, key: Bytes, value: Option<Bytes>) {
        self.bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
        match self.pending.entry(key) {
            Entry::Occupied(mut entry) => {
                if entry.get().0 != self.number {
                    self.keys.push(entry.key().clone());
                }
                entry.insert((self.number, value));
            }
            Entry::Vacant(entry) => {
                self.keys.push(entry.key().clone());
                entry.insert((self.number, value));
            }
        }
    }

    /// Nothing has been written or is waiting for the batch being built.
    pub fn is_empty(&self) -> bool {
        self.rows() == 0 && self.followers.acks.is_empty()
    }

    /// How many rows the batch being built writes.
    pub fn rows(&self) -> usize {
        self.keys.len() + self.blind.len()
    }

    /// How many bytes the batch being built has taken so far.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Closes the batch and begins the next. Its writes stay readable until [`Writes::committed`].
    pub fn seal(&mut self) -> Sealed {
        let number = self.number;
        self.number += 1;
        self.bytes = 0;
        let mut batch = Batch { archive: std::mem::take(&mut self.archive), ..Batch::default() };
        for key in std::mem::take(&mut self.keys) {
            if let Some((_, value)) = self.pending.get(&key) {
                batch.writes.push((key, value.clone()));
            }
        }
        let laid_over = batch.writes.len();
        batch.writes.append(&mut self.blind);
        Sealed { number, batch, followers: std::mem::take(&mut self.followers), removed_rows: 0, laid_over }
    }

    /// The store has the batch: what was laid over it for it is taken off.
    pub fn committed(&mut self, sealed: &Sealed) {
        for (key, _) in &sealed.batch.writes[..sealed.laid_over] {
            if self.pending.get(key).is_some_and(|(number, _)| *number == sealed.number) {
                self.pending.remove(key);
            }
        }
    }
}

/// Every row of a store under a prefix, in order, some at a time.
pub fn pages<S: Store>(store: &S, prefix: &[u8], mut row: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>) -> Result<(), StoreError> {
    const PAGE: usize = 1_000;
    let mut from = Vec::new();
    loop {
        let page = store.scan(prefix, &from, PAGE)?;
        for (key, value) in &page {
            row(key, value)?;
        }
        match page.last() {
            Some((last, _)) if page.len() == PAGE => {
                from.clone_from(last);
                // the next key in order
                from.push(0);
            }
            _ => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    #[test]
    fn a_later_write_outlives_the_commit_of_an_earlier_one() {
        let mut writes = Writes::new(Arc::new(MemoryStore::new()));
        writes.put(b"a".to_vec(), b"1".to_vec());
        writes.put(b"b".to_vec(), b"1".to_vec());
        let first = writes.seal();
        writes.put(b"a".to_vec(), b"2".to_vec());
        writes.store().commit(&first.batch).expect("commit");
        writes.committed(&first);
        assert_eq!(writes.get(b"a").expect("read").as_deref(), Some(&b"2"[..]));
        assert_eq!(writes.get(b"b").expect("read").as_deref(), Some(&b"1"[..]));
        let second = writes.seal();
        assert_eq!(second.batch.writes, vec![(Bytes::from_static(b"a"), Some(Bytes::from_static(b"2")))]);
    }

    #[test]
    fn a_blind_write_is_seen_when_it_is_durable() {
        let mut writes = Writes::new(Arc::new(MemoryStore::new()));
        writes.put_blind(b"o/1".to_vec(), b"1".to_vec());
        writes.put(b"s/1".to_vec(), b"1".to_vec());
        assert_eq!((writes.rows(), writes.bytes(), writes.get(b"o/1").expect("read")), (2, 8, None));
        let first = writes.seal();
        writes.remove_blind(b"o/1".to_vec());
        assert!(!writes.is_empty());
        writes.store().commit(&first.batch).expect("commit");
        writes.committed(&first);
        assert_eq!(writes.get(b"o/1").expect("read").as_deref(), Some(&b"1"[..]));
        let second = writes.seal();
        assert_eq!(second.batch.writes, vec![(Bytes::from_static(b"o/1"), None)]);
        assert!(writes.is_empty());
    }

    #[test]
    fn a_removed_key_is_gone_before_the_commit() {
        let mut writes = Writes::new(Arc::new(MemoryStore::new()));
        writes.put(b"a".to_vec(), b"1".to_vec());
        let first = writes.seal();
        writes.store().commit(&first.batch).expect("commit");
        writes.committed(&first);
        writes.remove(b"a".to_vec());
        assert_eq!(writes.get(b"a").expect("read"), None);
    }
}
