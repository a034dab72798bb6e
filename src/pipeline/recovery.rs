//! Recovery: what a partition takes up from its store at the start. Everything that then happens goes
//! through the same door as live traffic; running it twice changes nothing.

use std::sync::Arc;

use crate::crash::{self, Point};
use crate::model::time::Timestamp;
use crate::mutation::{self, Defect};
use crate::store::{Store, StoreError, keys, record};

use super::batch::pages;
use super::clock::Clock;
use super::counters::Counters;
use super::partition::{Partition, PartitionSettings};
use super::rows::{OutboxRow, ParkedRow};

/// What recovery gives: the partition, and the outbox rows that no confirm is known for, in order.
type Recovered<S> = (Partition<S>, Vec<(u64, OutboxRow)>);

/// A partition as the store has it, and the outbox rows that no confirm is known for, in order.
pub fn open<S: Store>(store: Arc<S>, settings: PartitionSettings) -> Result<Recovered<S>, StoreError> {
    let mut partition = Partition::empty(store, settings);
    if let Clock::Events { .. } = partition.settings.clock
        && let Some(bytes) = partition.writes.get(keys::CLOCK)?
    {
        let stored: Timestamp = record::decode(keys::CLOCK, &bytes)?;
        partition.settings.clock.advance(stored);
    }
    let unreadable = |key: &[u8]| StoreError::Record { key: String::from_utf8_lossy(key).into_owned(), what: "not a key of ours".into() };

    let mut outbox = Vec::new();
    pages(partition.writes.store(), keys::OUTBOX, |key, value| {
        let number = keys::outbox_number(key).ok_or_else(|| unreadable(key))?;
        outbox.push((number, OutboxRow::decode(key, value)?));
        crash::point(Point::OutboxRead);
        Ok(())
    })?;
    partition.unconfirmed = outbox.len();
    partition.next_outbox = outbox.last().map_or(0, |(number, _)| number + 1);

    let mut timers = Vec::new();
    pages(partition.writes.store(), keys::TIMERS, |key, _| {
        timers.push(keys::timer_parts(key).ok_or_else(|| unreadable(key))?);
        Ok(())
    })?;
    if !mutation::seeded(Defect::TimersLost) {
        partition.timers.extend(timers);
    }

    let mut parked = Vec::new();
    pages(partition.writes.store(), keys::PARKED, |key, value| {
        let (tenant, report, number) = keys::parked_parts(key).ok_or_else(|| unreadable(key))?;
        parked.push((ParkedRow::decode(key, value)?.until, tenant, report, number));
        Ok(())
    })?;
    for parked in parked.into_iter().filter(|_| !mutation::seeded(Defect::ParkedLost)) {
        partition.parking.restore(parked);
    }
    // what an earlier process parked came in there; it is counted in here, so that the balance holds
    let waiting = partition.parking.len() as u64;
    Counters::add(&partition.counters.parked, waiting);
    Counters::add(&partition.counters.events_in, waiting);
    Counters::add(&partition.counters.received, waiting);
    partition.counters.settle(partition.counters.settled());
    partition.gauge();

    let mut dead_letters = Vec::new();
    pages(partition.writes.store(), keys::DEAD_LETTERS, |key, _| {
        dead_letters.push(keys::dead_letter_parts(key).ok_or_else(|| unreadable(key))?);
        Ok(())
    })?;
    for (tenant, number) in dead_letters {
        partition.dead_letters.restore(tenant, number);
    }

    let mut open_attempts = Vec::new();
    pages(partition.writes.store(), keys::OPEN_ATTEMPTS, |key, _| {
        open_attempts.push(keys::open_attempts_parts(key).ok_or_else(|| unreadable(key))?);
        Ok(())
    })?;
    for (tenant, subject) in open_attempts.into_iter().filter(|_| !mutation::seeded(Defect::AttemptsLeftOpen)) {
        partition.raise_recovered(tenant, subject);
    }
    crash::point(Point::Recovered);
    Ok((partition, outbox))
}
