//! Parked events: ahead of what is known (R19), kept until it is known or their time is over. Never here: the
//! decision to park.

use std::collections::{BTreeSet, HashMap};

use crate::broker::Message;
use crate::model::ids::{ReportId, TenantId};
use crate::model::time::Timestamp;
use crate::store::{Store, StoreError, keys};

use super::batch::Writes;
use super::rows::{self, ParkedRow};

/// Parked events of one tenant (lifecycle.md, Ordering). The next one is an orphan at once, so that a producer that
/// never names its reports can fill neither disk nor memory.
const MAX_PER_TENANT: usize = 1_000;

/// A parked event: when its time is over, and where it is.
pub(super) type Parked = (Timestamp, TenantId, ReportId, u64);

/// The index over the rows; the rows hold the messages.
#[derive(Debug, Default)]
pub(super) struct Parking {
    by_time: BTreeSet<Parked>,
    by_report: HashMap<(TenantId, ReportId), Vec<Parked>>,
    by_tenant: HashMap<TenantId, usize>,
    next: u64,
}

impl Parking {
    pub fn has_room(&self, tenant: TenantId) -> bool {
        self.by_tenant.get(&tenant).copied().unwrap_or(0) < MAX_PER_TENANT
    }

    pub fn len(&self) -> usize {
        self.by_time.len()
    }

    pub fn next_due(&self) -> Option<Timestamp> {
        self.by_time.first().map(|(until, ..)| *until)
    }

    pub fn park<S: Store>(&mut self, writes: &mut Writes<S>, tenant: TenantId, report: ReportId, until: Timestamp, message: Message) {
        let parked = (until, tenant, report, self.next);
        writes.put(keys::parked(tenant, report, self.next), ParkedRow { message, until }.encode());
        self.restore(parked);
    }

    /// Takes up a row found at the start.
    pub fn restore(&mut self, parked: Parked) {
        let (_, tenant, report, number) = parked;
        self.next = self.next.max(number + 1);
        self.by_time.insert(parked);
        self.by_report.entry((tenant, report)).or_default().push(parked);
        *self.by_tenant.entry(tenant).or_default() += 1;
    }

    pub fn remove<S: Store>(&mut self, writes: &mut Writes<S>, parked: Parked) {
        let (_, tenant, report, number) = parked;
        writes.remove(keys::parked(tenant, report, number));
        if !self.by_time.remove(&parked) {
            return;
        }
        if let Some(of_report) = self.by_report.get_mut(&(tenant, report)) {
            of_report.retain(|other| *other != parked);
            if of_report.is_empty() {
                self.by_report.remove(&(tenant, report));
            }
        }
        if let Some(count) = self.by_tenant.get_mut(&tenant) {
            *count -= 1;
            if *count == 0 {
                self.by_tenant.remove(&tenant);
            }
        }
    }

    /// What waits for a report, in the order of the events' own times; arrival decides between equal ones.
    pub fn take_due_for<S: Store>(
        &self,
        writes: &Writes<S>,
        tenant: TenantId,
        report: ReportId,
    ) -> Result<Vec<(Parked, ParkedRow)>, StoreError> {
        let Some(of_report) = self.by_report.get(&(tenant, report)) else { return Ok(Vec::new()) };
        let mut waiting = Vec::with_capacity(of_report.len());
        for parked in of_report {
            if let Some(row) = read(writes, *parked)? {
                let time = rows::decode(&row.message).map_or(Timestamp::MAX, |inbound| inbound.event.time);
                waiting.push((time, *parked, row));
            }
        }
        waiting.sort_by_key(|(time, (.., number), _)| (*time, *number));
        Ok(waiting.into_iter().map(|(_, parked, row)| (parked, row)).collect())
    }

    /// The event whose time is over first, if it is by `due`.
    pub fn pop_due<S: Store>(&self, writes: &Writes<S>, due: Timestamp) -> Result<Option<(Parked, ParkedRow)>, StoreError> {
        let Some(parked) = self.by_time.first().copied().filter(|(until, ..)| *until <= due) else { return Ok(None) };
        match read(writes, parked)? {
            Some(row) => Ok(Some((parked, row))),
            None => Err(StoreError::Record {
                key: String::from_utf8_lossy(&keys::parked(parked.1, parked.2, parked.3)).into_owned(),
                what: "the row of a parked event is missing".into(),
            }),
        }
    }
}

fn read<S: Store>(writes: &Writes<S>, (_, tenant, report, number): Parked) -> Result<Option<ParkedRow>, StoreError> {
    let key = keys::parked(tenant, report, number);
    writes.get(&key)?.map(|bytes| ParkedRow::decode(&key, &bytes)).transpose()
}
