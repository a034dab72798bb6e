//! A partition's working state: one event after the other goes through `decide`, and becomes rows.
//!
//! Synchronous, and the only place where decisions meet records. Live traffic, timers, outcomes of attempts
//! and recovery come in here by the same door, [`Partition::decide_one`]. Never here: the broker, waiting, a thread.
//!
//! Invariant: nothing that has been decided is visible outside before the batch it is in has been committed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use lru::LruCache;

use crate::agent::simulated::{self, Model};
use crate::broker::{Message, Token};
use crate::crash::{self, Point};
use crate::machine::decision::{Applied, Decision, Ignored, Refused};
use crate::machine::event::{Address, Event, EventKind};
use crate::machine::policy::Policy;
use crate::machine::subject::{Subject, is_live};
use crate::machine::{decide, invariants, timers};
use crate::model::ids::{ReportId, SubjectKey, TenantId};
use crate::model::report::Report;
use crate::model::time::{Span, Timestamp, after, hours};
use crate::mutation::{self, Defect};
use crate::store::{Store, StoreError, keys, record};
use crate::wire::{self, Inbound, Reason, Rejection};

use super::archive::{self, Archiving};
use super::audit;
use super::batch::{Sealed, Writes};
use super::clock::Clock;
use super::counters::Counters;
use super::dead_letters::DeadLetters;
use super::organizations::Organizations;
use super::parking::Parking;
use super::rows::{self, InboxRow, OutboxRow, SubjectRow};
use super::sweep::{Sweep, day_of};

/// Subjects kept decoded: at about 2 KiB each some 32 MiB.
const CACHED_SUBJECTS: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();

/// How far ahead of ours a producer's clock may be. A survey from the far future would make every later one
/// of its agent "older", and the agent deaf for good.
const MAX_AHEAD: Span = hours(24);

/// What a partition is told at its start.
#[derive(Debug, Clone)]
pub struct PartitionSettings {
    pub clock: Clock,
    pub policy: Policy,
    pub model: Model,
    /// The queue for what can never be applied.
    pub dead_letter_queue: String,
    /// The exchange for what is published.
    pub status_exchange: String,
    /// How long rows of the audit stay in the store before they go to its archive.
    pub audit_kept: Span,
}

pub struct Partition<S> {
    pub(super) writes: Writes<S>,
    pub(super) settings: PartitionSettings,
    pub(super) organizations: Organizations,
    subjects: LruCache<(TenantId, SubjectKey), Subject>,
    /// Whose live reports are, so that an event about one needs no read.
    homes: LruCache<(TenantId, ReportId), SubjectKey>,
    pub(super) timers: BTreeSet<(Timestamp, TenantId, SubjectKey)>,
    pub(super) parking: Parking,
    pub(super) dead_letters: DeadLetters,
    /// Outcomes of attempts (and what recovery raises), by the time at which they are there.
    pub(super) outcomes: BTreeMap<(Timestamp, u64), (SubjectKey, Event)>,
    pub(super) next_outcome: u64,
    /// Attempts by subject that were ordered and have not been run: their orders are not durable yet.
    pub(super) ordered: BTreeMap<(TenantId, SubjectKey), usize>,
    pub(super) next_outbox: u64,
    /// Outbox rows that no confirm is known for, the batch being built included.
    pub(super) unconfirmed: usize,
    /// Confirmed rows, still to be removed: that can wait for a batch that is written anyway.
    confirmed_rows: Vec<u64>,
    sweep: Sweep,
    archiving: Archiving,
    pub(super) counters: Arc<Counters>,
}

/// What became of an event.
pub(super) enum Disposition {
    Applied,
    WithoutEffect(Ignored),
    Park { report: ReportId, until: Timestamp },
    Orphan { report: ReportId },
    Invalid { detail: String },
}

impl<S: Store> Partition<S> {
    pub(super) fn empty(store: Arc<S>, settings: PartitionSettings) -> Self {
        Self {
            writes: Writes::new(store),
            settings,
            organizations: Organizations::default(),
            subjects: LruCache::new(CACHED_SUBJECTS),
            homes: LruCache::new(CACHED_SUBJECTS),
            timers: BTreeSet::new(),
            parking: Parking::default(),
            dead_letters: DeadLetters::default(),
            outcomes: BTreeMap::new(),
            next_outcome: 0,
            ordered: BTreeMap::new(),
            next_outbox: 0,
            unconfirmed: 0,
            confirmed_rows: Vec::new(),
            sweep: Sweep::default(),
            archiving: Archiving::default(),
            counters: Arc::new(Counters::default()),
        }
    }

    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Takes a message from the broker. Its ack follows the commit of the batch being built, whatever it came to.
    pub fn take_delivery(&mut self, token: Token, message: Message, decoded: Result<Inbound, Rejection>) -> Result<(), StoreError> {
        Counters::add(&self.counters.events_in, 1);
        self.writes.followers.acks.push(token);
        match decoded {
            Ok(inbound) => {
                self.counters.count_type(Some(inbound.event.kind.name()));
                self.take_inbound(message, inbound)
            }
            Err(rejection) => {
                self.counters.count_type(rejection.event_type.as_deref());
                self.dead_letter(&message, &rejection);
                Ok(())
            }
        }
    }

    fn take_inbound(&mut self, message: Message, inbound: Inbound) -> Result<(), StoreError> {
        let Inbound { event, key, digest, dedupe, .. } = inbound;
        if let Some(detail) = self.too_far_ahead(&event) {
            self.dead_letter(&message, &rejection(&event, Reason::Invalid, detail));
            return Ok(());
        }
        self.advance(self.settings.clock.after_event(event.time))?;
        let tenant = event.tenant;
        let inbox_key = keys::inbox(tenant, &key);
        if dedupe
            && !mutation::seeded(Defect::DedupeSkipped)
            && let Some(known) = self.writes.get(&inbox_key)?
        {
            if InboxRow::decode(&inbox_key, &known)?.digest == digest || mutation::seeded(Defect::OtherBytesPass) {
                Counters::add(&self.counters.duplicate, 1);
                crash::point(Point::DuplicateFound);
            } else {
                let detail = "id: an event with this id from the same source had other bytes".into();
                self.dead_letter(&message, &rejection(&event, Reason::IdReused, detail));
            }
            return Ok(());
        }
        let inbox_row = InboxRow { digest, day: day_of(self.settings.clock.now()) };
        let (id, name) = (event.id.clone(), event.kind.name());
        match self.decide_one(event, None)? {
            Disposition::Applied => Counters::add(&self.counters.applied, 1),
            Disposition::WithoutEffect(Ignored::Duplicate) => {
                Counters::add(&self.counters.duplicate, 1);
                if !dedupe {
                    return Ok(());
                }
            }
            Disposition::WithoutEffect(_) => {
                Counters::add(&self.counters.applied, 1);
                Counters::add(&self.counters.without_effect, 1);
                if !dedupe {
                    return Ok(());
                }
            }
            Disposition::Park { report, until } => {
                if !self.parking.has_room(tenant) {
                    let detail = format!("report {report} is not known, and the tenant has as many parked events as it may");
                    let rejection =
                        Rejection { reason: Reason::Orphan, detail, id: Some(id), tenant: Some(tenant), event_type: Some(name.into()) };
                    self.dead_letter(&message, &rejection);
                    return Ok(());
                }
                self.parking.park(&mut self.writes, tenant, report, until, message);
                Counters::add(&self.counters.parked, 1);
            }
            Disposition::Invalid { detail } => {
                let rejection =
                    Rejection { reason: Reason::Invalid, detail, id: Some(id), tenant: Some(tenant), event_type: Some(name.into()) };
                self.dead_letter(&message, &rejection);
                return Ok(());
            }
            // only the end of parking makes one
            Disposition::Orphan { .. } => {}
        }
        if dedupe {
            self.writes.put(inbox_key, inbox_row.encode());
        }
        Ok(())
    }

    /// A producer's clock that cannot be right. Virtual time is what the events say it is.
    pub(super) fn too_far_ahead(&self, event: &Event) -> Option<String> {
        if !self.is_virtual() && event.time > after(self.now(), MAX_AHEAD) {
            return Some(format!("time: {} is more than a day ahead of this service's clock", event.time));
        }
        let stated: &[(&str, Timestamp)] = match &event.kind {
            EventKind::Surveyed(survey) => &[("surveyed_at", survey.surveyed_at)],
            EventKind::ReportCreated(new) => &[
                ("incident_report.sent_at", new.sent_at),
                ("incident_report.updated_at", new.updated_at),
                ("incident_report.status_updated_at", new.status_updated_at),
            ],
            EventKind::ReportUpdated(update) => &[("updated_at", update.updated_at)],
            EventKind::ReportClosed { status_updated_at, .. } => &[("status_updated_at", *status_updated_at)],
            _ => &[],
        };
        let (field, at) = stated.iter().find(|(_, at)| *at > after(event.time, MAX_AHEAD))?;
        Some(format!("data.{field}: {at} is more than a day after the event's own time"))
    }

    /// The one door to `decide`. `given` is the subject of an event that the engine itself has raised.
    pub(super) fn decide_one(&mut self, event: Event, given: Option<SubjectKey>) -> Result<Disposition, StoreError> {
        let mut reoffer = VecDeque::new();
        let disposition = self.decide_and_apply(event, given, &mut reoffer)?;
        // what was parked for a report that has just changed
        while let Some((tenant, report)) = reoffer.pop_front() {
            for (parked, row) in self.parking.take_due_for(&self.writes, tenant, report)? {
                let Ok(Inbound { event, key, .. }) = rows::decode(&row.message) else { continue };
                let disposition = self.decide_and_apply(event.clone(), None, &mut reoffer)?;
                match &disposition {
                    // still ahead: it keeps its place and its time
                    Disposition::Park { .. } | Disposition::Orphan { .. } => continue,
                    Disposition::Applied => Counters::add(&self.counters.applied, 1),
                    Disposition::WithoutEffect(_) => {
                        Counters::add(&self.counters.applied, 1);
                        Counters::add(&self.counters.without_effect, 1);
                    }
                    Disposition::Invalid { detail } => {
                        self.writes.remove(keys::inbox(tenant, &key));
                        self.dead_letter(&row.message, &rejection(&event, Reason::Invalid, detail.clone()));
                    }
                }
                self.parking.remove(&mut self.writes, parked);
                Counters::take(&self.counters.parked, 1);
            }
        }
        Ok(disposition)
    }

    fn decide_and_apply(
        &mut self,
        mut event: Event,
        given: Option<SubjectKey>,
        reoffer: &mut VecDeque<(TenantId, ReportId)>,
    ) -> Result<Disposition, StoreError> {
        let (tenant, now) = (event.tenant, self.settings.clock.now());
        let (deleted, policy) = self.policy(tenant)?;
        if deleted {
            // R17
            return Ok(Disposition::WithoutEffect(Ignored::NotOpen));
        }
        if event.kind.address() == Address::Organization {
            let applied = self.decide_organization(&event)?;
            return Ok(if applied { Disposition::Applied } else { Disposition::WithoutEffect(Ignored::Older) });
        }
        let subject = self.addressed(&event, given)?;
        if let EventKind::Surveyed(survey) = &mut event.kind {
            simulated::observe(&subject, survey, self.settings.model);
        }
        let decision = decide(&subject, &event, now, &policy);
        crash::point(Point::Decided);
        audit::write(&mut self.writes, &event, now, &subject, &decision)?;
        match decision {
            Decision::Applied(applied) => {
                match applied.refused {
                    Some(Refused::Request(_)) => Counters::add(&self.counters.refused, 1),
                    Some(Refused::Resolution) => Counters::add(&self.counters.resolutions_refused, 1),
                    None => {}
                }
                reoffer.extend(applied.unpark.iter().map(|report| (tenant, *report)));
                if applied.created {
                    self.count_report(tenant, event.time)?;
                }
                match event.kind.narrative() {
                    Some((report, text)) if !text.is_empty() => self.writes.put(keys::narrative(tenant, report), record::encode(text)),
                    Some((report, _)) if !applied.created => self.writes.remove(keys::narrative(tenant, report)),
                    Some(_) | None => {}
                }
                self.apply(&subject, *applied)?;
                Ok(Disposition::Applied)
            }
            Decision::Ignored(why) => Ok(Disposition::WithoutEffect(why)),
            Decision::Park { report, until } => Ok(Disposition::Park { report, until }),
            Decision::Orphan { report } => Ok(Disposition::Orphan { report }),
            Decision::Invalid { detail } => Ok(Disposition::Invalid { detail }),
            Decision::UnknownAgent { agent } => {
                self.refuse_unknown_agent(&event, agent)?;
                Counters::add(&self.counters.refused, 1);
                Ok(Disposition::Applied)
            }
        }
    }

    /// The subject of an event, with the report that it names even if that is closed.
    fn addressed(&mut self, event: &Event, given: Option<SubjectKey>) -> Result<Subject, StoreError> {
        let tenant = event.tenant;
        let (report, fallback) = match event.kind.address() {
            Address::Report(report) => (Some(report), SubjectKey::Report(report)),
            Address::NewReport { report, subject } => (Some(report), subject),
            Address::Subject(key) => (None, key),
            Address::Given | Address::Organization => (None, given.unwrap_or(SubjectKey::Report(ReportId(0)))),
        };
        let Some(id) = report else {
            return self.subject(tenant, fallback);
        };
        if let Some(home) = self.homes.get(&(tenant, id)).copied() {
            let subject = self.subject(tenant, home)?;
            if subject.reports.contains_key(&id) {
                return Ok(subject);
            }
        }
        let Some(known) = self.report(tenant, id)? else {
            // nothing by this id: the event's own idea of the subject
            return self.subject(tenant, fallback);
        };
        let mut subject = self.subject(tenant, known.subject_key)?;
        subject.reports.entry(id).or_insert_with(|| Arc::new(known));
        Ok(subject)
    }

    pub(super) fn subject(&mut self, tenant: TenantId, key: SubjectKey) -> Result<Subject, StoreError> {
        if let Some(subject) = self.subjects.get(&(tenant, key)) {
            return Ok(subject.clone());
        }
        let mut subject = Subject::unknown(tenant, key);
        let row_key = keys::subject(tenant, key);
        if let Some(bytes) = self.writes.get(&row_key)? {
            let row: SubjectRow = record::decode(&row_key, &bytes)?;
            subject.agent = row.agent;
            for id in row.live_reports {
                let report = self.report(tenant, id)?.ok_or_else(|| StoreError::Record {
                    key: String::from_utf8_lossy(&row_key).into_owned(),
                    what: format!("it names report {id}, which has no row"),
                })?;
                subject.reports.insert(id, Arc::new(report));
            }
        }
        self.subjects.put((tenant, key), subject.clone());
        Ok(subject)
    }

    fn report(&self, tenant: TenantId, id: ReportId) -> Result<Option<Report>, StoreError> {
        let key = keys::report(tenant, id);
        self.writes.get(&key)?.map(|bytes| record::decode(&key, &bytes)).transpose()
    }

    /// Turns a decision into rows and followers of the batch being built.
    pub(super) fn apply(&mut self, before: &Subject, applied: Applied) -> Result<(), StoreError> {
        let Applied { mut subject, agent_changed, reports_changed, notices, attempts, .. } = applied;
        let (tenant, key) = (subject.tenant, subject.key);
        // invariant 16
        assert!((before.tenant, before.key) == (tenant, key), "a decision about one subject has come out as another's");
        for id in &reports_changed {
            if let Some(report) = subject.reports.get(id) {
                invariants::assert_kept(before.reports.get(id).map(Arc::as_ref), report);
                self.homes.put((tenant, *id), key);
                self.writes.put(keys::report(tenant, *id), record::encode(report.as_ref()));
                archive::schedule(&mut self.writes, tenant, before.reports.get(id).map(Arc::as_ref), report);
                self.writes.followers.changed.push((tenant, Arc::clone(report)));
            }
        }
        let due = (timers::next_due(before), timers::next_due(&subject));
        let in_field = (before.has_open_attempts(), subject.has_open_attempts());
        subject.reports.retain(|_, report| is_live(report));
        if agent_changed
            || !before.reports.values().filter(|report| is_live(report)).map(|report| report.id).eq(subject.reports.keys().copied())
        {
            let row = SubjectRow { agent: subject.agent.clone(), live_reports: subject.reports.keys().copied().collect() };
            self.writes.put(keys::subject(tenant, key), record::encode(&row));
        }
        self.move_timer(tenant, key, due.0, due.1);
        match in_field {
            (false, true) => self.writes.put_blind(keys::open_attempts(tenant, key), Vec::new()),
            (true, false) => self.writes.remove_blind(keys::open_attempts(tenant, key)),
            (true, true) | (false, false) => {}
        }
        for notice in &notices {
            self.publish_event(wire::encode(tenant, notice));
        }
        Counters::add(&self.counters.attempts, attempts.len() as u64);
        if !attempts.is_empty() {
            *self.ordered.entry((tenant, key)).or_default() += attempts.len();
        }
        for order in attempts {
            if mutation::seeded(Defect::AttemptBeforeIntent) {
                self.run_attempt(tenant, key, order);
            } else {
                self.writes.followers.attempts.push((tenant, key, order));
            }
        }
        self.subjects.put((tenant, key), subject);
        Ok(())
    }

    pub(super) fn publish_event(&mut self, outbound: wire::Outbound) {
        self.publish(super::outbound::row(outbound, &self.settings.status_exchange));
    }

    fn move_timer(&mut self, tenant: TenantId, key: SubjectKey, from: Option<Timestamp>, to: Option<Timestamp>) {
        if from == to {
            return;
        }
        if let Some(from) = from {
            self.timers.remove(&(from, tenant, key));
            self.writes.remove_blind(keys::timer(from, tenant, key));
        }
        if let Some(to) = to {
            self.timers.insert((to, tenant, key));
            self.writes.put_blind(keys::timer(to, tenant, key), Vec::new());
        }
    }

    pub(super) fn publish(&mut self, row: OutboxRow) {
        let number = self.next_outbox;
        self.next_outbox += 1;
        self.unconfirmed += 1;
        self.writes.put_blind(keys::outbox(number), row.encode());
        self.writes.followers.outbox.push((number, row));
    }

    pub(super) fn dead_letter(&mut self, message: &Message, rejection: &Rejection) {
        let now = self.settings.clock.now();
        let row = self.dead_letters.add(&mut self.writes, message, rejection, now, &self.settings.dead_letter_queue);
        if !mutation::seeded(Defect::DeadLetterDropped) {
            self.publish(row);
        }
        Counters::add(&self.counters.dead_lettered, 1);
        self.counters.count_reason(rejection.reason);
        crash::point(Point::DeadLettered);
    }

    /// Rows whose messages the broker has confirmed. A crash before they are removed publishes them once more,
    /// identically.
    pub fn confirmed(&mut self, numbers: &[u64]) {
        Counters::add(&self.counters.published, numbers.len() as u64);
        self.unconfirmed -= numbers.len();
        self.confirmed_rows.extend_from_slice(numbers);
    }

    /// Outbox rows that no confirm is known for: in the store, on their way to it, and decided a moment ago.
    pub fn unconfirmed(&self) -> usize {
        self.unconfirmed
    }

    /// Whether somebody waits for the batch being built to be committed.
    pub fn has_work(&self) -> bool {
        !self.writes.is_empty()
    }

    /// Confirmed rows that are waiting to be removed.
    pub fn confirmed_rows(&self) -> usize {
        self.confirmed_rows.len()
    }

    /// Closes the batch being built, confirmed rows included; `None` if there is nothing in it.
    pub fn seal(&mut self) -> Result<Option<Sealed>, StoreError> {
        let confirmed = std::mem::take(&mut self.confirmed_rows);
        let removed_rows = confirmed.len();
        for number in confirmed {
            self.writes.remove_blind(keys::outbox(number));
            crash::point(Point::RowDropped);
        }
        if self.writes.is_empty() {
            return Ok(None);
        }
        if let Clock::Events { now } = self.settings.clock {
            self.writes.put(keys::CLOCK.to_vec(), record::encode(&now));
        }
        let now = self.settings.clock.now();
        self.sweep.step(&mut self.writes, now)?;
        self.archiving.step(&mut self.writes, now, self.settings.audit_kept)?;
        self.writes.followers.settled = self.counters.settled();
        self.gauge();
        let mut sealed = self.writes.seal();
        sealed.removed_rows = removed_rows;
        Ok(Some(sealed))
    }

    /// The batch is durable.
    pub fn committed(&mut self, sealed: &Sealed) {
        self.writes.committed(sealed);
        crash::point_if(Point::RowDroppedDurably, || sealed.removed_rows > 0);
        crash::point_if(Point::TimerCommitted, || sealed.ends_timer(self.now()));
        if mutation::seeded(Defect::OutboxDroppedEarly) {
            self.confirmed_rows.extend(sealed.followers.outbox.iter().map(|(number, _)| *number));
        }
        Counters::add(&self.counters.commits, 1);
        self.counters.settle(sealed.followers.settled);
    }

    /// Says how much waits.
    pub(super) fn gauge(&self) {
        self.counters.outbox_rows.store(self.unconfirmed as u64, Relaxed);
        self.counters.timers.store(self.timers.len() as u64, Relaxed);
    }

    /// How many rows the batch being built writes.
    pub fn rows(&self) -> usize {
        self.writes.rows()
    }

    /// How many bytes the batch being built has taken so far.
    pub fn bytes(&self) -> usize {
        self.writes.bytes()
    }

    pub fn is_virtual(&self) -> bool {
        self.settings.clock.is_virtual()
    }

    pub fn now(&self) -> Timestamp {
        self.settings.clock.now()
    }
}

pub(super) fn rejection(event: &Event, reason: Reason, detail: String) -> Rejection {
    Rejection { reason, detail, id: Some(event.id.clone()), tenant: Some(event.tenant), event_type: Some(event.kind.name().into()) }
}
