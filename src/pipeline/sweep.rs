//! The sweep of the inbox: rows older than the dedupe window are dropped, some with each batch. Never here: a
//! lookup; whether an event is a duplicate is asked when it arrives.
//!
//! One pass a day over the whole inbox. Rows are keyed by the event's id alone, so that a lookup is one read; the
//! day stands in the row.

use crate::crash::{self, Point};
use crate::model::time::Timestamp;
use crate::store::{Store, StoreError, keys};

use super::batch::Writes;
use super::rows::InboxRow;

/// Days for which an event is known again (the stated dedupe window).
pub const DEDUPE_DAYS: u32 = 7;
/// Rows looked at with one batch: at 1,000 batches a day the pass still covers a day's 200,000 events, and a busy
/// partition commits that often in minutes.
const ROWS_A_BATCH: usize = 256;

/// Day number of a point in time, counted from 1970.
pub fn day_of(at: Timestamp) -> u32 {
    u32::try_from(at.as_second().max(0) / 86_400).unwrap_or(u32::MAX)
}

/// Where the pass of the day is.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// The day whose pass is done or under way.
    day: u32,
    /// The next key to look at; none when the pass is done.
    next: Option<Vec<u8>>,
}

impl Sweep {
    /// Removes what is too old among the next rows.
    pub fn step<S: Store>(&mut self, writes: &mut Writes<S>, now: Timestamp) -> Result<(), StoreError> {
        let today = day_of(now);
        if today > self.day {
            self.day = today;
            self.next = Some(Vec::new());
        }
        let Some(from) = self.next.take() else { return Ok(()) };
        let page = writes.store().scan(keys::INBOX, &from, ROWS_A_BATCH)?;
        for (key, value) in &page {
            if InboxRow::decode(key, value)?.day + DEDUPE_DAYS < today {
                writes.remove(key.clone());
                crash::point(Point::InboxSwept);
            }
        }
        if let Some((last, _)) = page.last().filter(|_| page.len() == ROWS_A_BATCH) {
            let mut next = last.clone();
            // the next key in order
            next.push(0);
            self.next = Some(next);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::ids::TenantId;
    use crate::store::memory::MemoryStore;

    #[test]
    fn rows_are_dropped_a_week_after_their_day_and_not_before() {
        let mut writes = Writes::new(Arc::new(MemoryStore::new()));
        let tenant = TenantId { account: 1, organization: 1 };
        let key = |n: u32| {
            let mut hash = [0; 16];
            hash[..4].copy_from_slice(&n.to_be_bytes());
            keys::inbox(tenant, &hash)
        };
        // 1,000 rows of day 100 and 1,000 of day 101
        for n in 0..2_000 {
            writes.put(key(n), InboxRow { digest: [0; 16], day: 100 + n % 2 }.encode());
        }
        let sealed = writes.seal();
        writes.store().commit(&sealed.batch).expect("commit");
        writes.committed(&sealed);
        let left_on = |writes: &mut Writes<MemoryStore>, sweep: &mut Sweep, day: i64| {
            let now = Timestamp::from_second(day * 86_400 + 60).expect("in range");
            for _ in 0..20 {
                sweep.step(writes, now).expect("sweep");
                let sealed = writes.seal();
                writes.store().commit(&sealed.batch).expect("commit");
                writes.committed(&sealed);
            }
            writes.store().scan(keys::INBOX, &[], usize::MAX).expect("scan").len()
        };
        let mut sweep = Sweep::default();
        assert_eq!(left_on(&mut writes, &mut sweep, 107), 2_000);
        assert_eq!(left_on(&mut writes, &mut sweep, 108), 1_000);
        assert_eq!(left_on(&mut writes, &mut sweep, 109), 0);
    }
}
