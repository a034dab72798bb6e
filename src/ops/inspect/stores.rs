//! The stores of a command: one, or a service's partitions, each tenant's rows taken from whichever holds them.
//!
//! Never here: how a store is opened. Each question may be given a budget of rows, so that none reads for ever.

use std::iter::Peekable;
use std::sync::Arc;

use crate::model::ids::{AgentId, ReportId, TenantId};
use crate::model::organization::Organization;
use crate::model::report::Report;
use crate::pipeline::audit::AuditRow;
use crate::pipeline::reading::{self, StoredAgent, StoredReport};
use crate::pipeline::rows::DeadLetterRow;
use crate::store::{Store, StoreError};

pub struct Stores<S> {
    stores: Vec<Arc<S>>,
    budget: Option<usize>,
}

/// The question would have to read more rows than it may.
#[derive(Debug, thiserror::Error)]
#[error("more than {0} rows would have to be read for this; ask for less, or ask the store of the stopped service")]
pub struct TooMuch(usize);

impl<S: Store> Stores<S> {
    /// `budget`: the rows that one listing may read; none for a command of its own.
    pub fn new(stores: Vec<Arc<S>>, budget: Option<usize>) -> Self {
        Self { stores, budget }
    }

    pub fn report(&self, tenant: TenantId, id: ReportId) -> anyhow::Result<Option<StoredReport>> {
        self.newest(|store: &S| reading::report(store, tenant, id), |stored| stored.report.sequence)
    }

    pub fn agent(&self, tenant: TenantId, id: AgentId) -> anyhow::Result<Option<StoredAgent>> {
        self.newest(|store: &S| reading::agent(store, tenant, id), |stored| stored.agent.sequence)
    }

    pub fn organization(&self, tenant: TenantId) -> anyhow::Result<Option<Organization>> {
        self.newest(|store: &S| reading::organization(store, tenant), |organization| organization.sequence)
    }

    /// Which partition a tenant lives in is the broker's to say. Should two know it (after a change of the number of
    /// partitions), the one that has published more about it is the newer.
    fn newest<T>(&self, read: impl Fn(&S) -> Result<Option<T>, StoreError>, sequence: fn(&T) -> u64) -> anyhow::Result<Option<T>> {
        let mut found: Option<T> = None;
        for store in &self.stores {
            let here = read(store)?;
            if let Some(here) = here.filter(|here| found.as_ref().is_none_or(|found| sequence(found) < sequence(here))) {
                found = Some(here);
            }
        }
        Ok(found)
    }

    /// Every report of the tenant (or of all) behind the key `after`, in the order of the keys, one page of each store
    /// in memory.
    pub fn reports(&self, tenant: Option<TenantId>, after: Option<&[u8]>) -> impl Iterator<Item = anyhow::Result<(Vec<u8>, &S, Report)>> {
        let sources = self.stores.iter().map(|store| reading::reports(store.as_ref(), tenant).after(after)).collect();
        self.bounded(Merged::new(sources, Some(|report: &Report| report.sequence)))
            .map(|read| read.map(|(key, source, report)| (key, self.stores[source].as_ref(), report)))
    }

    /// The tenant's audit behind the key `after`, in the order of time.
    pub fn audit(&self, tenant: TenantId, after: Option<&[u8]>) -> impl Iterator<Item = anyhow::Result<(Vec<u8>, AuditRow)>> {
        let sources = self.stores.iter().map(|store| reading::audit(store.as_ref(), tenant).after(after)).collect();
        // a row never changes: of two under one key either will do
        self.bounded(Merged::new(sources, Some(|_: &AuditRow| 0))).map(|read| read.map(|(key, _, row)| (key, row)))
    }

    /// The rows of dead letters behind the key `after`: of one tenant, or of all and of none. Several may follow each other
    /// under one key: each partition counts its own, and what has no tenant is in any of them.
    pub fn dead_letters(
        &self,
        tenant: Option<TenantId>,
        after: Option<&[u8]>,
    ) -> impl Iterator<Item = anyhow::Result<(Vec<u8>, DeadLetterRow)>> {
        let sources = self.stores.iter().map(|store| reading::dead_letters(store.as_ref(), tenant).after(after)).collect();
        self.bounded(Merged::new(sources, None)).map(|read| read.map(|(key, _, row)| (key, row)))
    }

    fn bounded<T>(&self, rows: impl Iterator<Item = Result<T, StoreError>>) -> impl Iterator<Item = anyhow::Result<T>> {
        let budget = self.budget;
        rows.enumerate().map(move |(number, row)| match budget.filter(|budget| number >= *budget) {
            Some(budget) => Err(TooMuch(budget).into()),
            None => Ok(row?),
        })
    }
}

/// Ascending sources as one: each key once, from the source with the greatest sequence for it. Without sequences, what
/// stands under one key in several sources is several rows.
struct Merged<I: Iterator, T> {
    sources: Vec<Peekable<I>>,
    sequence: Option<fn(&T) -> u64>,
}

impl<T, I: Iterator<Item = Result<(Vec<u8>, T), StoreError>>> Merged<I, T> {
    fn new(sources: Vec<I>, sequence: Option<fn(&T) -> u64>) -> Self {
        Self { sources: sources.into_iter().map(Iterator::peekable).collect(), sequence }
    }
}

impl<T, I: Iterator<Item = Result<(Vec<u8>, T), StoreError>>> Iterator for Merged<I, T> {
    type Item = Result<(Vec<u8>, usize, T), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut least: Option<Vec<u8>> = None;
        for source in &mut self.sources {
            match source.peek() {
                Some(Ok((key, _))) if least.as_ref().is_none_or(|least| key < least) => least = Some(key.clone()),
                Some(Ok(_)) | None => {}
                Some(Err(_)) => {
                    if let Some(Err(error)) = source.next() {
                        return Some(Err(error));
                    }
                }
            }
        }
        let least = least?;
        let mut newest: Option<(usize, T)> = None;
        for (number, source) in self.sources.iter_mut().enumerate() {
            let Some(Ok((_, here))) = source.next_if(|next| next.as_ref().is_ok_and(|(key, _)| *key == least)) else { continue };
            let Some(sequence) = self.sequence else { return Some(Ok((least, number, here))) };
            if newest.as_ref().is_none_or(|(_, newest)| sequence(newest) < sequence(&here)) {
                newest = Some((number, here));
            }
        }
        newest.map(|(number, record)| Ok((least, number, record)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_merged_by_key_and_the_newest_wins() {
        let merged = merged(Some(|sequence| *sequence));
        assert_eq!(merged, [("a".into(), 0, 1), ("b".into(), 1, 1), ("c".into(), 0, 9), ("d".into(), 1, 2)]);
        let failing = vec![vec![Err(StoreError::SyncTooSlow { limit_s: 1 })].into_iter(), source(&[("b", 1)])];
        assert!(Merged::new(failing, Some(|sequence: &u64| *sequence)).next().is_some_and(|first| first.is_err()));
    }

    #[test]
    fn rows_that_only_share_a_key_are_all_there() {
        let expected = [("a", 0, 1), ("b", 1, 1), ("c", 0, 9), ("c", 1, 8), ("d", 0, 1), ("d", 1, 2)];
        assert_eq!(merged(None), expected.map(|(key, source, sequence)| (key.to_owned(), source, sequence)));
    }

    type Source = std::vec::IntoIter<Result<(Vec<u8>, u64), StoreError>>;

    fn source(rows: &[(&str, u64)]) -> Source {
        rows.iter().map(|(key, sequence)| Ok((key.as_bytes().to_vec(), *sequence))).collect::<Vec<_>>().into_iter()
    }

    fn merged(sequence: Option<fn(&u64) -> u64>) -> Vec<(String, usize, u64)> {
        let sources = vec![source(&[("a", 1), ("c", 9), ("d", 1)]), source(&[("b", 1), ("c", 8), ("d", 2)])];
        let merged = Merged::new(sources, sequence);
        let text = |key: Vec<u8>| String::from_utf8_lossy(&key).into_owned();
        merged.map(|read| read.map(|(key, source, record)| (text(key), source, record)).expect("read")).collect()
    }
}
