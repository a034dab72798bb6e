//! What happens in a partition by itself: timers, the ends of parkings, outcomes of attempts, recovery. Each comes in
//! by the same door as live traffic, at the time it was due. Never here: waiting for that time.

use std::collections::btree_map::Entry;

use crate::agent::simulated;
use crate::crash::{self, Point};
use crate::machine::decision::AttemptOrder;
use crate::machine::event::{AttemptEnd, Event, EventKind};
use crate::model::ids::{SubjectKey, TenantId};
use crate::model::time::{Timestamp, after};
use crate::store::{Store, StoreError, keys};
use crate::wire::{Inbound, Reason};

use super::counters::Counters;
use super::partition::{Disposition, Partition, rejection};
use super::rows;

impl<S: Store> Partition<S> {
    /// Lets time pass up to `to`: whatever is due on the way happens first, each at its own time. Says whether it got
    /// there: virtual time stops before a timer of a subject with an attempt that has not been run yet. Real time
    /// cannot; but virtual hours pass between two commits, and every lease would.
    pub fn advance(&mut self, to: Timestamp) -> Result<bool, StoreError> {
        while let Some(due) = self.next_due().filter(|due| *due <= to) {
            if self.is_virtual() && self.overtakes_an_attempt(due) {
                return Ok(false);
            }
            self.settings.clock.advance(due);
            self.fire(due)?;
        }
        self.settings.clock.advance(to);
        Ok(true)
    }

    /// [`Self::advance`] to the time of an event that has arrived.
    pub fn advance_for(&mut self, event: &Event) -> Result<bool, StoreError> {
        if self.too_far_ahead(event).is_some() {
            return Ok(true);
        }
        self.advance(self.settings.clock.after_event(event.time))
    }

    /// Whether what is due then is a timer whose subject still waits for an attempt to be run.
    fn overtakes_an_attempt(&self, due: Timestamp) -> bool {
        let outcome_first = self.next_outcome().is_some_and(|at| at <= due);
        !outcome_first && self.timers.first().is_some_and(|(at, tenant, key)| *at <= due && self.ordered.contains_key(&(*tenant, *key)))
    }

    /// When something happens by itself next.
    pub fn next_due(&self) -> Option<Timestamp> {
        let timer = self.timers.first().map(|(due, ..)| *due);
        let outcome = self.outcomes.first_key_value().map(|((due, _), _)| *due);
        [timer, outcome, self.parking.next_due()].into_iter().flatten().min()
    }

    /// In virtual time an attempt's outcome is not waited for: time passes to the moment of it.
    pub fn next_outcome(&self) -> Option<Timestamp> {
        self.outcomes.first_key_value().map(|((due, _), _)| *due)
    }

    /// The one thing that is due first: outcomes before timers, so that a lease ending in the same instant is in time.
    fn fire(&mut self, due: Timestamp) -> Result<(), StoreError> {
        if let Some(entry) = self.outcomes.first_entry().filter(|entry| entry.key().0 <= due) {
            let (key, event) = entry.remove();
            self.decide_one(event, Some(key))?;
            crash::point(Point::OutcomeDecided);
            return Ok(());
        }
        if let Some((at, tenant, key)) = self.timers.first().copied().filter(|(at, ..)| *at <= due) {
            return self.fire_timer(at, tenant, key);
        }
        self.end_parking(due)
    }

    fn fire_timer(&mut self, at: Timestamp, tenant: TenantId, key: SubjectKey) -> Result<(), StoreError> {
        Counters::add(&self.counters.timers_fired, 1);
        let event = Event { id: format!("timer:{tenant}:{key}:{at}"), tenant, time: at, traceparent: None, kind: EventKind::TimerDue };
        self.decide_one(event, Some(key))?;
        crash::point(Point::TimerFired);
        // what a timer names it ends (machine::timers). One that stays is a defect of ours, and would fire for ever: it
        // rests until its subject changes, so that the partition's other tenants are served
        if self.timers.remove(&(at, tenant, key)) {
            tracing::error!(due = %at, "a timer has not ended what it was for");
        }
        Ok(())
    }

    /// R19, the end of waiting.
    fn end_parking(&mut self, due: Timestamp) -> Result<(), StoreError> {
        let Some((parked, row)) = self.parking.pop_due(&self.writes, due)? else { return Ok(()) };
        self.parking.remove(&mut self.writes, parked);
        Counters::take(&self.counters.parked, 1);
        let inbound = match rows::decode(&row.message) {
            Ok(inbound) => inbound,
            // this version does not take what an earlier one parked
            Err(rejection) => {
                self.dead_letter(&row.message, &rejection);
                return Ok(());
            }
        };
        let Inbound { event: inner, key, .. } = inbound;
        let event = Event {
            id: inner.id.clone(),
            tenant: inner.tenant,
            time: row.until,
            traceparent: inner.traceparent.clone(),
            kind: EventKind::ParkingEnded(Box::new(inner.clone())),
        };
        match self.decide_one(event, None)? {
            Disposition::Orphan { report } | Disposition::Park { report, .. } => {
                // its replay is new
                self.writes.remove(keys::inbox(inner.tenant, &key));
                let detail = format!("nothing that it applies to became known about report {report} in time");
                self.dead_letter(&row.message, &rejection(&inner, Reason::Orphan, detail));
            }
            Disposition::Invalid { detail } => {
                self.writes.remove(keys::inbox(inner.tenant, &key));
                self.dead_letter(&row.message, &rejection(&inner, Reason::Invalid, detail));
            }
            Disposition::Applied => Counters::add(&self.counters.applied, 1),
            Disposition::WithoutEffect(_) => {
                Counters::add(&self.counters.applied, 1);
                Counters::add(&self.counters.without_effect, 1);
            }
        }
        Ok(())
    }

    /// After a start: the attempts that were in the field have lost whoever ran them (T12).
    pub(super) fn raise_recovered(&mut self, tenant: TenantId, key: SubjectKey) {
        let now = self.settings.clock.now();
        let event =
            Event { id: format!("recovery:{tenant}:{key}:{now}"), tenant, time: now, traceparent: None, kind: EventKind::Recovered };
        self.raise(now, key, event);
    }

    fn raise(&mut self, at: Timestamp, key: SubjectKey, event: Event) {
        self.outcomes.insert((at, self.next_outcome), (key, event));
        self.next_outcome += 1;
    }

    /// Plays an attempt whose intent is durable; its outcome comes in when it is due.
    pub fn run_attempt(&mut self, tenant: TenantId, key: SubjectKey, order: AttemptOrder) {
        if let Entry::Occupied(mut ordered) = self.ordered.entry((tenant, key)) {
            *ordered.get_mut() -= 1;
            if *ordered.get() == 0 {
                ordered.remove();
            }
        }
        let played = simulated::play(&order, self.settings.model);
        let ended_at = after(order.started_at, played.took);
        let end = AttemptEnd {
            report: order.report,
            revision: order.revision,
            remediation: order.remediation,
            attempt_id: order.attempt_id,
            code: played.code,
            tries: played.tries,
        };
        let event = Event { id: order.cause, tenant, time: ended_at, traceparent: order.traceparent, kind: EventKind::AttemptEnded(end) };
        self.raise(ended_at, key, event);
    }
}
