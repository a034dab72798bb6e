//! The stores of a command: one, or a service's partitions, each tenant's rows taken from whichever holds them.
//!
//! Never here: a store brought into being by looking for it.

use std::iter::Peekable;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::cli::exit::{Exit, store_exit};
use crate::model::ids::{AgentId, ReportId, TenantId};
use crate::model::organization::Organization;
use crate::model::report::Report;
use crate::pipeline::audit::AuditRow;
use crate::pipeline::reading::{self, StoredAgent, StoredReport};
use crate::store::StoreError;
use crate::store::sled::{SledSettings, SledStore};

/// A look reads most rows once; what is kept of them would only be in the way of the other partitions.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;

pub(in crate::cli) struct Stores(Vec<SledStore>);

impl Stores {
    /// The store in `dir`, or the partitions' stores p0, p1, … below it.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        let settings = SledSettings { cache_bytes: CACHE_BYTES, ..SledSettings::default() };
        let open = |dir: PathBuf| SledStore::open(&dir, settings.clone()).map_err(store_exit);
        Ok(Self(directories(dir)?.into_iter().map(open).collect::<Result<_, _>>()?))
    }

    pub fn report(&self, tenant: TenantId, id: ReportId) -> anyhow::Result<Option<StoredReport>> {
        self.newest(|store| reading::report(store, tenant, id), |stored| stored.report.sequence)
    }

    pub fn agent(&self, tenant: TenantId, id: AgentId) -> anyhow::Result<Option<StoredAgent>> {
        self.newest(|store| reading::agent(store, tenant, id), |stored| stored.agent.sequence)
    }

    pub fn organization(&self, tenant: TenantId) -> anyhow::Result<Option<Organization>> {
        self.newest(|store| reading::organization(store, tenant), |organization| organization.sequence)
    }

    /// Which partition a tenant lives in is the broker's to say. Should two know it (after a change of the number of
    /// partitions), the one that has published more about it is the newer.
    fn newest<T>(&self, read: impl Fn(&SledStore) -> Result<Option<T>, StoreError>, sequence: fn(&T) -> u64) -> anyhow::Result<Option<T>> {
        let mut found: Option<T> = None;
        for store in &self.0 {
            let here = read(store).map_err(store_exit)?;
            if let Some(here) = here.filter(|here| found.as_ref().is_none_or(|found| sequence(found) < sequence(here))) {
                found = Some(here);
            }
        }
        Ok(found)
    }

    /// Every report of the tenant (or of all), in the order of the keys, one page of each store in memory.
    pub fn reports(&self, tenant: Option<TenantId>) -> impl Iterator<Item = anyhow::Result<(Vec<u8>, &SledStore, Report)>> {
        let sources = self.0.iter().map(|store| reading::reports(store, tenant)).collect();
        Merged::new(sources, |report: &Report| report.sequence).map(|read| {
            let (key, source, report) = read.map_err(store_exit)?;
            Ok((key, &self.0[source], report))
        })
    }

    /// The tenant's audit, in the order of time.
    pub fn audit(&self, tenant: TenantId) -> impl Iterator<Item = anyhow::Result<AuditRow>> {
        let sources = self.0.iter().map(|store| reading::audit(store, tenant)).collect();
        // a row never changes: of two under one key either will do
        Merged::new(sources, |_: &AuditRow| 0).map(|read| read.map(|(_, _, row)| row).map_err(store_exit))
    }
}

/// Opening a directory without a store would create one, so it is looked at first.
fn directories(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let is_store = |dir: &Path| dir.join("FORMAT").is_file();
    if is_store(dir) {
        return Ok(vec![dir.to_owned()]);
    }
    let entries = std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display())).context(Exit::StoreOpen)?;
    let mut partitions: Vec<(u16, PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let number = entry.file_name().to_str()?.strip_prefix('p')?.parse().ok()?;
            is_store(&entry.path()).then(|| (number, entry.path()))
        })
        .collect();
    if partitions.is_empty() {
        return Err(anyhow::anyhow!("there is no store in {}, nor in p0, p1, … below it", dir.display())).context(Exit::StoreOpen);
    }
    partitions.sort();
    Ok(partitions.into_iter().map(|(_, dir)| dir).collect())
}

/// Ascending sources as one: each key once, from the source with the greatest sequence for it.
struct Merged<I: Iterator, T> {
    sources: Vec<Peekable<I>>,
    sequence: fn(&T) -> u64,
}

impl<T, I: Iterator<Item = Result<(Vec<u8>, T), StoreError>>> Merged<I, T> {
    fn new(sources: Vec<I>, sequence: fn(&T) -> u64) -> Self {
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
            if newest.as_ref().is_none_or(|(_, newest)| (self.sequence)(newest) < (self.sequence)(&here)) {
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
        let source = |rows: &[(&str, u64)]| -> Vec<Result<(Vec<u8>, u64), StoreError>> {
            rows.iter().map(|(key, sequence)| Ok((key.as_bytes().to_vec(), *sequence))).collect()
        };
        let sources = vec![source(&[("a", 1), ("c", 9), ("d", 1)]).into_iter(), source(&[("b", 1), ("c", 8), ("d", 2)]).into_iter()];
        let merged: Vec<(String, usize, u64)> = Merged::new(sources, |sequence| *sequence)
            .map(|read| read.map(|(key, source, record)| (String::from_utf8_lossy(&key).into_owned(), source, record)).expect("read"))
            .collect();
        assert_eq!(merged, [("a".into(), 0, 1), ("b".into(), 1, 1), ("c".into(), 0, 9), ("d".into(), 1, 2)]);
        let failing = vec![vec![Err(StoreError::SyncTooSlow { limit_s: 1 })].into_iter(), source(&[("b", 1)]).into_iter()];
        assert!(Merged::new(failing, |sequence: &u64| *sequence).next().is_some_and(|first| first.is_err()));
    }
}
