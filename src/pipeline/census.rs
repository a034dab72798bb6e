//! The census: how many reports are open, by where they stand, without asking the store again and again.
//!
//! One scan of the reports at the start, on a thread of its own and never more than a quarter of the time; from then on
//! the engine tells what each commit has changed. So the engine pays one `Arc` a changed report, and a million agents
//! cost nothing: what is kept is some 150 bytes an *open* report.
//!
//! Never here: a decision, a write, or anything that the engine waits for. It may be behind by a moment; when it could
//! not follow, it counts anew and says so until it is done.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use crate::machine::gate;
use crate::model::ids::{ReportId, TenantId};
use crate::model::remediation::State;
use crate::model::report::{Phase, Report, ReportStatus, Severity};
use crate::model::time::{Stopwatch, Timestamp};
use crate::store::{Store, StoreError, keys};

use super::reading;

/// Commits that the census may be behind; a batch's worth of reports each, and the next makes it count anew.
const BEHIND: usize = 1_024;
/// Reports read between two looks at what the engine tells.
const PAGE: usize = 64;
/// For each moment of scanning so many of rest: a quarter of one core at the most.
const REST: u32 = 3;

/// Where an open report stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Standing {
    Blocked,
    AwaitingApproval,
    InRevision,
    Remediating,
    Ready,
    /// Without people: `auto_remediating`.
    Automatic,
}

impl Standing {
    pub const ALL: [Standing; 6] =
        [Standing::Blocked, Standing::AwaitingApproval, Standing::InRevision, Standing::Remediating, Standing::Ready, Standing::Automatic];

    pub fn as_str(self) -> &'static str {
        match self {
            Standing::Blocked => Phase::Blocked.as_str(),
            Standing::AwaitingApproval => Phase::AwaitingApproval.as_str(),
            Standing::InRevision => Phase::InRevision.as_str(),
            Standing::Remediating => Phase::Remediating.as_str(),
            Standing::Ready => Phase::Ready.as_str(),
            Standing::Automatic => ReportStatus::AutoRemediating.as_str(),
        }
    }

    /// `None` for a report that is not open.
    fn of(report: &Report) -> Option<Self> {
        if !report.status.is_open() {
            return None;
        }
        Some(match gate::phase(report) {
            Some(Phase::Blocked) => Standing::Blocked,
            Some(Phase::AwaitingApproval) => Standing::AwaitingApproval,
            Some(Phase::InRevision) => Standing::InRevision,
            Some(Phase::Remediating) => Standing::Remediating,
            Some(Phase::Ready) => Standing::Ready,
            None => Standing::Automatic,
        })
    }
}

/// What is kept of an open report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    pub standing: Standing,
    pub severity: Severity,
    pub sent_at: Timestamp,
    /// Tasks that wait for their next attempt.
    pub retries: u32,
}

/// A report with where it stands.
pub type OpenReport = (TenantId, ReportId, Open);

impl Open {
    fn of(report: &Report) -> Option<Self> {
        let standing = Standing::of(report)?;
        let retries = report.remediations.iter().filter(|item| item.state == State::RetryWait).count() as u32;
        Some(Self { standing, severity: report.severity, sent_at: report.sent_at, retries })
    }
}

type Key = (TenantId, ReportId);

/// The open reports. Shared: the census's thread writes, whoever watches reads.
#[derive(Debug, Default)]
pub struct Census(Mutex<Counted>);

#[derive(Debug, Default)]
struct Counted {
    /// The scan has been through.
    complete: bool,
    open: BTreeMap<Key, Open>,
    by_standing: BTreeMap<(Standing, Severity), u64>,
    by_tenant: HashMap<TenantId, u64>,
    retries: u64,
}

/// The census at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Totals {
    /// False while the reports are still being counted.
    pub complete: bool,
    pub open: u64,
    /// Where there are any.
    pub by_standing: BTreeMap<(Standing, Severity), u64>,
    /// Those with the most open reports, most first, and how many the rest have.
    pub top_tenants: Vec<(TenantId, u64)>,
    pub other_tenants: u64,
    pub tenants: u64,
    /// Tasks of open reports that wait for their next attempt.
    pub retries: u64,
}

impl Census {
    /// With the `top` tenants by name.
    pub fn totals(&self, top: usize) -> Totals {
        let counted = self.lock();
        let mut tenants: Vec<(TenantId, u64)> = counted.by_tenant.iter().map(|(tenant, open)| (*tenant, *open)).collect();
        tenants.sort_unstable_by_key(|(tenant, open)| (std::cmp::Reverse(*open), *tenant));
        Totals {
            complete: counted.complete,
            open: counted.open.len() as u64,
            by_standing: counted.by_standing.clone(),
            other_tenants: tenants.iter().skip(top).map(|(_, open)| open).sum(),
            tenants: tenants.len() as u64,
            top_tenants: {
                tenants.truncate(top);
                tenants
            },
            retries: counted.retries,
        }
    }

    /// The open reports that need people most, as [`Self::by_urgency`] orders them.
    pub fn most_urgent(&self, limit: usize) -> Vec<OpenReport> {
        let counted = self.lock();
        let mut open: Vec<_> = counted.open.iter().map(|((tenant, report), open)| (*tenant, *report, *open)).collect();
        drop(counted);
        Self::by_urgency(&mut open);
        open.truncate(limit);
        open
    }

    /// Blocked before the others, then by severity, then the oldest.
    pub fn by_urgency(open: &mut [OpenReport]) {
        let urgency =
            |open: &Open| (open.standing > Standing::AwaitingApproval, std::cmp::Reverse(open.severity), open.standing, open.sent_at);
        open.sort_unstable_by_key(|(tenant, report, open)| (urgency(open), *tenant, *report));
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Totals {
    /// With another partition's, whose tenants are others. `top`: the tenants that both name at most.
    #[must_use]
    pub fn with(mut self, other: Self, top: usize) -> Self {
        let Self { complete, open, by_standing, top_tenants, other_tenants, tenants, retries } = other;
        self.complete &= complete;
        self.open += open;
        for (key, count) in by_standing {
            *self.by_standing.entry(key).or_default() += count;
        }
        self.top_tenants.extend(top_tenants);
        self.top_tenants.sort_unstable_by_key(|(tenant, open)| (std::cmp::Reverse(*open), *tenant));
        self.other_tenants += other_tenants + self.top_tenants.iter().skip(top).map(|(_, open)| open).sum::<u64>();
        self.top_tenants.truncate(top);
        self.tenants += tenants;
        self.retries += retries;
        self
    }
}

impl Counted {
    fn set(&mut self, key: Key, open: Option<Open>) {
        let before = match open {
            Some(open) => self.open.insert(key, open),
            None => self.open.remove(&key),
        };
        if let Some(before) = before {
            subtract(&mut self.by_standing, (before.standing, before.severity));
            if let Some(count) = self.by_tenant.get_mut(&key.0) {
                *count -= 1;
                if *count == 0 {
                    self.by_tenant.remove(&key.0);
                }
            }
            self.retries -= u64::from(before.retries);
        }
        if let Some(open) = open {
            *self.by_standing.entry((open.standing, open.severity)).or_default() += 1;
            *self.by_tenant.entry(key.0).or_default() += 1;
            self.retries += u64::from(open.retries);
        }
    }
}

fn subtract(counts: &mut BTreeMap<(Standing, Severity), u64>, key: (Standing, Severity)) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

/// The engine's end.
pub(super) struct Feed {
    changed: SyncSender<Vec<(TenantId, Arc<Report>)>>,
    /// Something was not told, for want of room.
    missed: Arc<AtomicBool>,
}

impl Feed {
    /// Reports as a commit has left them. Never waits.
    pub fn tell(&self, changed: Vec<(TenantId, Arc<Report>)>) {
        if !changed.is_empty() && self.changed.try_send(changed).is_err() {
            self.missed.store(true, Relaxed);
        }
    }
}

/// Begins to count, on a thread that ends with the engine's end of it.
pub(super) fn start<S: Store>(store: &Arc<S>) -> Result<(Feed, Arc<Census>), StoreError> {
    let (changed, told) = sync_channel(BEHIND);
    let missed = Arc::new(AtomicBool::new(false));
    let census = Arc::new(Census::default());
    let clerk = Clerk { store: Arc::downgrade(store), told, missed: Arc::clone(&missed), census: Arc::clone(&census) };
    let span = tracing::Span::current();
    let spawned = thread::Builder::new().name("census".into()).spawn(move || span.in_scope(|| clerk.run()));
    spawned.map_err(|source| StoreError::Io { doing: "starting the thread of the census", source })?;
    Ok((Feed { changed, missed }, census))
}

/// Who counts.
struct Clerk<S> {
    /// Held only while it is read: the store is closed when the service lets go of it.
    store: Weak<S>,
    told: Receiver<Vec<(TenantId, Arc<Report>)>>,
    missed: Arc<AtomicBool>,
    census: Arc<Census>,
}

/// The engine is gone.
struct Ended;

impl<S: Store> Clerk<S> {
    fn run(self) {
        loop {
            self.missed.store(false, Relaxed);
            *self.census.lock() = Counted::default();
            match self.scan() {
                Ok(Ok(())) => {}
                Ok(Err(Ended)) => return,
                Err(error) => {
                    // the engine will meet the same row; until then the census stays what it is: not complete
                    tracing::warn!(error = %error, "the open reports could not be counted");
                    while self.told.recv().is_ok() {}
                    return;
                }
            }
            self.census.lock().complete = true;
            if self.follow().is_err() {
                return;
            }
        }
    }

    /// Every report as the store has it; what the engine tells meanwhile is newer.
    fn scan(&self) -> Result<Result<(), Ended>, StoreError> {
        let Some(store) = self.store.upgrade() else { return Ok(Err(Ended)) };
        let mut newer: HashSet<Key> = HashSet::new();
        let mut worked = Stopwatch::start();
        for (number, read) in reading::reports(store.as_ref(), None).enumerate() {
            let (key, report) = read?;
            if number % PAGE == PAGE - 1 {
                let rest = worked.elapsed() * REST;
                match self.hear_for(rest, &mut newer) {
                    Ok(()) => {}
                    Err(Ended) => return Ok(Err(Ended)),
                }
                worked = Stopwatch::start();
            }
            let Some(key) = keys::report_parts(&key) else { continue };
            if let Some(open) = Open::of(&report)
                && !newer.contains(&key)
            {
                self.census.lock().set(key, Some(open));
            }
        }
        Ok(Ok(()))
    }

    /// Rests, and listens.
    fn hear_for(&self, rest: Duration, newer: &mut HashSet<Key>) -> Result<(), Ended> {
        let resting = Stopwatch::start();
        loop {
            match self.told.recv_timeout(rest.saturating_sub(resting.elapsed())) {
                Ok(changed) => {
                    newer.extend(changed.iter().map(|(tenant, report)| (*tenant, report.id)));
                    self.hear(&changed);
                }
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => return Err(Ended),
            }
        }
    }

    /// Until something has been missed.
    fn follow(&self) -> Result<(), Ended> {
        while !self.missed.load(Relaxed) {
            self.hear(&self.told.recv().map_err(|_| Ended)?);
        }
        // what is still in the channel is older than what a scan finds
        loop {
            match self.told.try_recv() {
                Ok(_) => {}
                Err(TryRecvError::Empty) => return Ok(()),
                Err(TryRecvError::Disconnected) => return Err(Ended),
            }
        }
    }

    fn hear(&self, changed: &[(TenantId, Arc<Report>)]) {
        // the machine's part outside the lock
        let standings: Vec<_> = changed.iter().map(|(tenant, report)| ((*tenant, report.id), Open::of(report))).collect();
        let mut counted = self.census.lock();
        standings.into_iter().for_each(|(key, open)| counted.set(key, open));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_partitions_are_one_census() {
        let tenant = |organization| TenantId { account: 1, organization };
        let partition = |first: u64, opened: &[u64]| {
            let census = Census::default();
            for (number, count) in opened.iter().enumerate() {
                for report in 0..*count {
                    let open = Open { standing: Standing::Ready, severity: Severity::Low, sent_at: Timestamp::UNIX_EPOCH, retries: 1 };
                    census.lock().set((tenant(first + number as u64), ReportId(report)), Some(open));
                }
            }
            census.lock().complete = true;
            census.totals(2)
        };
        let both = partition(10, &[5, 1, 3]).with(partition(20, &[4, 2]), 2);
        assert_eq!(both.top_tenants, [(tenant(10), 5), (tenant(20), 4)]);
        assert_eq!((both.open, both.other_tenants, both.tenants, both.retries, both.complete), (15, 6, 5, 15, true));
        assert_eq!(both.by_standing, BTreeMap::from([((Standing::Ready, Severity::Low), 15)]));
        assert!(!both.with(Totals::default(), 2).complete, "one is still counting");
    }

    #[test]
    fn every_count_follows_each_change() {
        let key = |organization, report| (TenantId { account: 1, organization }, ReportId(report));
        let open = |standing, severity, retries| Some(Open { standing, severity, sent_at: Timestamp::UNIX_EPOCH, retries });
        let census = Census::default();
        for (key, open) in [
            (key(1, 1), open(Standing::Blocked, Severity::Low, 2)),
            (key(1, 2), open(Standing::Ready, Severity::Critical, 0)),
            (key(2, 1), open(Standing::Blocked, Severity::Critical, 1)),
            (key(1, 1), open(Standing::Remediating, Severity::Low, 1)),
            (key(3, 1), open(Standing::Automatic, Severity::High, 0)),
            (key(3, 1), None),
            (key(4, 9), None),
        ] {
            census.lock().set(key, open);
        }
        let totals = census.totals(1);
        assert_eq!((totals.open, totals.retries, totals.tenants, totals.other_tenants), (3, 2, 2, 1));
        assert_eq!(totals.top_tenants, [(TenantId { account: 1, organization: 1 }, 2)]);
        let expected = [
            ((Standing::Blocked, Severity::Critical), 1),
            ((Standing::Remediating, Severity::Low), 1),
            ((Standing::Ready, Severity::Critical), 1),
        ];
        assert_eq!(totals.by_standing, BTreeMap::from(expected));
        let urgent: Vec<_> = census.most_urgent(2).into_iter().map(|(tenant, report, _)| (tenant, report)).collect();
        assert_eq!(urgent, [key(2, 1), key(1, 2)]);
    }
}
