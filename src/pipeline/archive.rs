//! Archiving: what is over for good leaves the map, whole, for the archive of the store.
//!
//! A report goes when it can no longer be opened again (R16, `REOPEN_WINDOW` after its end); a stub of it stays, so that
//! its id and its `sequence` are never used again. A row of the audit goes when it has been kept long enough. Some
//! with each batch, so that no batch grows with what has piled up.
//!
//! Never here: a decision, or the removal of something that is not in the archive's lines of the same batch.

use serde::Serialize;
use serde_json::value::RawValue;

use crate::machine::policy::REOPEN_WINDOW;
use crate::machine::subject::is_live;
use crate::model::ids::TenantId;
use crate::model::report::Report;
use crate::model::time::{Span, Timestamp, after, before, days, minutes};
use crate::store::{Store, StoreError, keys, record};

use super::batch::Writes;
use super::sweep::day_of;

/// Reports looked at with one batch.
const REPORTS_A_BATCH: usize = 32;
/// Rows of the audit looked at with one batch.
const AUDIT_A_BATCH: usize = 64;
/// Pause after which ended reports are looked for again once none was due.
const LOOK_AGAIN: Span = minutes(1);
/// A report that still has a task in the field (R13) when its time has come is looked at again then.
const POSTPONED: Span = days(1);

/// `archive/…`: one line, with the key under which the row stood.
#[derive(Serialize)]
struct Line<'a> {
    archived_at: Timestamp,
    key: &'a str,
    row: &'a RawValue,
}

/// Notes when a report that has ended is to be archived; takes that back when it has been opened again.
pub(super) fn schedule<S: Store>(writes: &mut Writes<S>, tenant: TenantId, before: Option<&Report>, report: &Report) {
    let due = |report: &Report| report.closed_at.map(|at| after(at, REOPEN_WINDOW));
    let (was, is) = (before.and_then(due), due(report));
    if was == is || report.archived_at.is_some() {
        return;
    }
    if let Some(was) = was {
        writes.remove(keys::ended(was, tenant, report.id));
    }
    if let Some(is) = is {
        writes.put(keys::ended(is, tenant, report.id), Vec::new());
    }
}

/// Where archiving is.
#[derive(Debug, Default)]
pub(super) struct Archiving {
    /// Before that no ended report is looked for.
    look_at: Option<Timestamp>,
    /// The day whose pass over the audit is done or under way.
    day: u32,
    /// Where that pass goes on; none when it is done.
    audit_from: Option<Vec<u8>>,
}

impl Archiving {
    /// Archives some of what is due.
    pub fn step<S: Store>(&mut self, writes: &mut Writes<S>, now: Timestamp, audit_kept: Span) -> Result<(), StoreError> {
        if self.look_at.is_none_or(|at| at <= now) {
            let full = reports(writes, now)?;
            self.look_at = (!full).then(|| after(now, LOOK_AGAIN));
        }
        if self.audit_from.is_none() && day_of(now) > self.day {
            self.day = day_of(now);
            self.audit_from = Some(Vec::new());
        }
        if let Some(from) = self.audit_from.take() {
            self.audit_from = audit(writes, from, before(now, audit_kept), now)?;
        }
        Ok(())
    }
}

/// Says whether there may be more.
fn reports<S: Store>(writes: &mut Writes<S>, now: Timestamp) -> Result<bool, StoreError> {
    let page = writes.store().scan(keys::ENDED, &[], REPORTS_A_BATCH)?;
    let full = page.len() == REPORTS_A_BATCH;
    for (ended, _) in page {
        let Some((due, tenant, id)) = keys::ended_parts(&ended) else { return Err(unreadable(&ended)) };
        if due > now {
            return Ok(false);
        }
        // the batch being built, or the one on its way, may have taken it back
        if writes.get(&ended)?.is_none() {
            continue;
        }
        writes.remove(ended);
        let key = keys::report(tenant, id);
        let Some(bytes) = writes.get(&key)? else { continue };
        let report: Report = record::decode(&key, &bytes)?;
        if is_live(&report) {
            writes.put(keys::ended(after(now, POSTPONED), tenant, id), Vec::new());
            continue;
        }
        writes.archive(line(&key, &bytes, now)?);
        let narrative = keys::narrative(tenant, id);
        if let Some(bytes) = writes.get(&narrative)? {
            writes.archive(line(&narrative, &bytes, now)?);
            writes.remove(narrative);
        }
        writes.put(key, record::encode(&report.stub(now)));
    }
    Ok(full)
}

/// Archives what is older than `until` among the next rows; gives where to go on.
fn audit<S: Store>(writes: &mut Writes<S>, from: Vec<u8>, until: Timestamp, now: Timestamp) -> Result<Option<Vec<u8>>, StoreError> {
    let page = writes.store().scan(keys::AUDIT, &from, AUDIT_A_BATCH)?;
    let mut last = None;
    for (key, bytes) in page {
        let Some((tenant, at)) = keys::audit_parts(&key) else { return Err(unreadable(&key)) };
        if at >= until {
            // a tenant's rows are in the order of time: on to the next tenant
            let mut next = keys::audit_of(tenant);
            next.push(0xff);
            return Ok(Some(next));
        }
        writes.archive(line(&key, &bytes, now)?);
        writes.remove(key.clone());
        last = Some(key);
    }
    Ok(last.map(|mut last| {
        // the next key in order
        last.push(0);
        last
    }))
}

fn line(key: &[u8], row: &[u8], archived_at: Timestamp) -> Result<Vec<u8>, StoreError> {
    let row: Box<RawValue> = record::decode(key, row)?;
    let key = record::printable(key);
    #[expect(clippy::expect_used, reason = "our own type; one without a JSON form is a defect that no input can cause")]
    Ok(serde_json::to_vec(&Line { archived_at, key: &key, row: &row }).expect("a line has a JSON form"))
}

fn unreadable(key: &[u8]) -> StoreError {
    StoreError::Record { key: record::printable(key), what: "the key has not the form of its kind".into() }
}
