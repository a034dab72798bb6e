//! What is in the journal and not yet in sled, as readers see it. Never here: a file.

use std::collections::BTreeMap;
use std::collections::btree_map::Range;
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::store::{Batch, Row, StoreError};

/// By key the newest value; `None` is removed.
type Rows = BTreeMap<Bytes, Option<Bytes>>;

/// Of a layer's rows those from some key on.
type Within<'a> = Peekable<Range<'a, Bytes, Option<Bytes>>>;

/// The sum of some batches.
#[derive(Default)]
pub(super) struct Layer {
    pub rows: Rows,
    pub archive: Vec<Vec<u8>>,
    /// Bytes of all batches in it, what they have replaced included: as many as the journal has.
    pub bytes: u64,
}

impl Layer {
    pub fn apply(&mut self, batch: &Batch) {
        for (key, value) in &batch.writes {
            self.bytes += (key.len() + value.as_ref().map_or(0, Bytes::len)) as u64;
            self.rows.insert(key.clone(), value.clone());
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
    /// Whether a layer says something of the key, and what.
    pub fn get(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        let of_frozen = || self.frozen.as_ref().and_then(|frozen| frozen.rows.get(key));
        self.active.rows.get(key).or_else(of_frozen).map(Option::as_deref)
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
                        let older = frozen.next_if(|(key, _)| **key == above);
                        let newest = active.next_if(|(key, _)| **key == above).or(older);
                        if let Some((_, Some(value))) = newest {
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
        layers.active.apply(&batch(&[("a/2", None), ("a/3", Some("f")), ("a/4", Some("f")), ("a/5", Some("f"))]));
        layers.freeze();
        layers.active.apply(&batch(&[
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
}
