//! What is in the journal and not yet in sled, as readers see it. Never here: a file.

use std::collections::BTreeMap;
use std::collections::btree_map::{Entry, Range};
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::mutation::{self, Defect};
use crate::store::{Batch, Row, StoreError, keys};

/// By key what is newest of it. Copies, which are smaller than a share in what the batch has.
type Rows = BTreeMap<Box<[u8]>, Newest>;

/// Of a layer's rows those from some key on.
type Within<'a> = Peekable<Range<'a, Box<[u8]>, Newest>>;

pub(super) enum Newest {
    Removed,
    Put {
        value: Box<[u8]>,
        /// Nothing that is beneath has the key: when it is removed, nothing need be known of it any more.
        new: bool,
    },
}

impl Newest {
    pub fn value(&self) -> Option<&[u8]> {
        match self {
            Newest::Removed => None,
            Newest::Put { value, .. } => Some(value),
        }
    }

    fn is_new(&self) -> bool {
        matches!(self, Newest::Put { new: true, .. })
    }
}

/// The sum of some batches.
#[derive(Default)]
pub(super) struct Layer {
    pub rows: Rows,
    pub archive: Vec<Vec<u8>>,
    /// Bytes of all batches in it, what they have replaced included: as many as the journal has.
    pub bytes: u64,
}

impl Layer {
    /// A batch that the journal had at an open. Of its rows, any may have got to sled in a checkpoint that did not end.
    pub fn replay(&mut self, batch: &Batch) {
        self.take(batch, |key| mutation::seeded(Defect::RemovalForgotten) && keys::is_never_overwritten(key));
    }

    fn take(&mut self, batch: &Batch, is_new: impl Fn(&[u8]) -> bool) {
        for (key, value) in &batch.writes {
            self.bytes += (key.len() + value.as_ref().map_or(0, Bytes::len)) as u64;
            match (self.rows.entry(Box::from(key.as_ref())), value) {
                (Entry::Occupied(entry), None) if entry.get().is_new() => drop(entry.remove()),
                (Entry::Occupied(mut entry), Some(value)) => {
                    let new = entry.get().is_new();
                    entry.insert(Newest::Put { value: Box::from(value.as_ref()), new });
                }
                (Entry::Vacant(entry), Some(value)) => {
                    entry.insert(Newest::Put { value: Box::from(value.as_ref()), new: is_new(key) });
                }
                (entry, None) => drop(entry.insert_entry(Newest::Removed)),
            }
        }
        self.bytes += batch.archive.iter().map(|line| line.len() as u64).sum::<u64>();
        self.archive.extend_from_slice(&batch.archive);
    }

    fn within<'a>(&'a self, from: &[u8]) -> Within<'a> {
        self.rows.range::<[u8], _>((Bound::Included(from), Bound::Unbounded)).peekable()
    }
}

/// The layer that commits go to, and the one that is on its way into sled, which is older.
pub(super) struct Layers {
    pub active: Layer,
    pub frozen: Option<Arc<Layer>>,
}

impl Layers {
    /// A batch that has been committed.
    pub fn apply(&mut self, batch: &Batch) {
        let frozen = self.frozen.as_deref().filter(|_| !mutation::seeded(Defect::RemovalForgotten));
        // where a layer has it as removed, sled may have it still
        self.active.take(batch, |key| keys::is_never_overwritten(key) && frozen.is_none_or(|frozen| !frozen.rows.contains_key(key)));
    }

    /// Whether a layer says something of the key, and what.
    pub fn get(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        let of_frozen = || self.frozen.as_ref().and_then(|frozen| frozen.rows.get(key));
        self.active.rows.get(key).or_else(of_frozen).map(Newest::value)
    }

    /// The active layer becomes the frozen one; there must be none.
    pub fn freeze(&mut self) -> Arc<Layer> {
        let frozen = Arc::new(std::mem::take(&mut self.active));
        self.frozen = Some(Arc::clone(&frozen));
        frozen
    }

    /// [`crate::store::Store::scan`], with `below` to scan what lies beneath.
    pub fn scan(
        &self,
        prefix: &[u8],
        from: &[u8],
        limit: usize,
        below: impl Fn(&[u8], usize) -> Result<Vec<Row>, StoreError>,
    ) -> Result<Vec<Row>, StoreError> {
        let empty = Layer::default();
        let start = prefix.max(from);
        let mut active = self.active.within(start);
        let mut frozen = self.frozen.as_deref().unwrap_or(&empty).within(start);
        let mut found = Vec::new();
        let mut from = start.to_vec();
        while found.len() < limit {
            let page = below(&from, limit)?;
            // beyond the last row of a full page nothing is known yet of what lies beneath
            let known_until = page.last().filter(|_| page.len() == limit).map(|(key, _)| key.clone());
            let mut page = page.into_iter().peekable();
            while found.len() < limit {
                let above = [active.peek(), frozen.peek()].into_iter().flatten().map(|(key, _)| key.as_ref()).min();
                let above =
                    above.filter(|key| key.starts_with(prefix) && known_until.as_ref().is_none_or(|until| *key <= until.as_slice()));
                match (page.peek(), above) {
                    (None, None) => break,
                    (Some(_), None) => found.extend(page.next()),
                    (Some((key, _)), Some(above)) if key.as_slice() < above => found.extend(page.next()),
                    (_, Some(above)) => {
                        let above = above.to_vec();
                        let _replaced = page.next_if(|(key, _)| *key == above);
                        let older = frozen.next_if(|(key, _)| ***key == *above);
                        let newest = active.next_if(|(key, _)| ***key == *above).or(older);
                        if let Some(value) = newest.and_then(|(_, newest)| newest.value()) {
                            found.push((above, value.to_vec()));
                        }
                    }
                }
            }
            let Some(until) = known_until else { break };
            // the next key in order
            from = until;
            from.push(0);
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use crate::store::memory::MemoryStore;

    fn batch(writes: &[(&str, Option<&str>)]) -> Batch {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let write = |(key, value): &(&str, Option<&str>)| (bytes(key), value.map(bytes));
        Batch { writes: writes.iter().map(write).collect(), ..Batch::default() }
    }

    #[test]
    fn a_scan_sees_three_layers_as_one_whatever_the_limit() {
        let beneath = MemoryStore::new();
        beneath
            .commit(&batch(&[("a/1", Some("s")), ("a/2", Some("s")), ("a/3", Some("s")), ("a/7", Some("s")), ("b/1", Some("s"))]))
            .expect("commit");
        let mut layers = Layers { active: Layer::default(), frozen: None };
        layers.apply(&batch(&[("a/2", None), ("a/3", Some("f")), ("a/4", Some("f")), ("a/5", Some("f"))]));
        layers.freeze();
        layers.apply(&batch(&[
            ("a/0", Some("a")),
            ("a/1", None),
            ("a/4", None),
            ("a/2", Some("a")),
            ("a/8", Some("a")),
            ("b/0", Some("a")),
        ]));
        let expected = ["a/0 a", "a/2 a", "a/3 f", "a/5 f", "a/7 s", "a/8 a"];
        let scan = |from: &str, limit| {
            let rows = layers.scan(b"a/", from.as_bytes(), limit, |from, limit| beneath.scan(b"a/", from, limit)).expect("scan");
            rows.iter().map(|(key, value)| format!("{} {}", key.escape_ascii(), value.escape_ascii())).collect::<Vec<_>>()
        };
        for limit in 0..8 {
            assert_eq!(scan("", limit), expected[..limit.min(expected.len())], "limit {limit}");
        }
        for (index, from) in ["a/0", "a/1", "a/3", "a/4", "a/6", "a/8", "a/9"].into_iter().enumerate() {
            assert_eq!(scan(from, usize::MAX), expected[index.min(expected.len())..], "from {from}");
        }
        assert_eq!((layers.get(b"a/1"), layers.get(b"a/5"), layers.get(b"a/7")), (Some(None), Some(Some(&b"f"[..])), None));
    }

    /// Beside a row that may be overwritten.
    #[test]
    fn of_a_new_row_that_is_removed_nothing_is_left() {
        let known = |layer: &Layer| layer.rows.iter().map(|(key, newest)| (key.to_vec(), newest.value().is_some())).collect::<Vec<_>>();
        let (put, removal) = (batch(&[("o/1", Some("x")), ("r/1", Some("x"))]), batch(&[("o/1", None), ("r/1", None)]));
        let removed = |keys: &[&str]| keys.iter().map(|key| (key.as_bytes().to_vec(), false)).collect::<Vec<_>>();

        let mut layers = Layers { active: Layer::default(), frozen: None };
        for _ in 0..2 {
            layers.apply(&put);
            layers.apply(&removal);
            assert_eq!(known(&layers.active), removed(&["r/1"]));
        }
        // the frozen one has it: it may be on its way into sled
        layers.apply(&put);
        layers.freeze();
        layers.apply(&removal);
        assert_eq!(known(&layers.active), removed(&["o/1", "r/1"]));
        assert_eq!(layers.get(b"o/1"), Some(None));
        layers.apply(&put);
        layers.apply(&removal);
        assert_eq!(known(&layers.active), removed(&["o/1", "r/1"]));
        // the frozen one has it as removed, and its checkpoint leaves out what the other one says something of
        layers.frozen = None;
        layers.freeze();
        layers.apply(&put);
        layers.frozen = None;
        layers.apply(&removal);
        assert_eq!(known(&layers.active), removed(&["o/1", "r/1"]));
        // a checkpoint that did not end may have brought it into sled
        let mut layer = Layer::default();
        layer.replay(&put);
        layer.replay(&removal);
        assert_eq!(known(&layer), removed(&["o/1", "r/1"]));
    }
}
