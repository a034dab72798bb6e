//! Verifying: every row of a store is read, and held against its checksum, its key, the rows that it belongs with and
//! what the machine never leaves behind.
//!
//! Never here: a write, or a repair. What is wrong is said in a sentence that names the row and quotes nothing of it.
//!
//! One page of rows in memory, and the numbers of the reports that are over; a subject is put together from its rows as
//! recovery would.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::de::DeserializeOwned;

use crate::machine::invariants;
use crate::machine::policy::REOPEN_WINDOW;
use crate::machine::subject::{Subject, is_live};
use crate::machine::timers;
use crate::model::ids::{ReportId, SubjectKey, TenantId};
use crate::model::organization::Organization;
use crate::model::report::Report;
use crate::model::time::{Timestamp, after};
use crate::store::{Store, StoreError, keys, record};

use super::audit::AuditRow;
use super::batch::pages;
use super::rows::{DeadLetterRow, InboxRow, OutboxRow, ParkedRow, SubjectRow};

/// What was read, and what is wrong with it.
#[derive(Debug, Default)]
pub struct Findings {
    /// Rows by kind, as in the table of [`keys`].
    pub rows: BTreeMap<&'static str, u64>,
    /// One sentence each.
    pub wrong: Vec<String>,
}

/// The kinds of rows, by how their keys begin.
const KINDS: [(&[u8], &str); 13] = [
    (keys::SUBJECTS, "subjects"),
    (keys::REPORTS, "reports"),
    (keys::NARRATIVES, "narratives"),
    (keys::INBOX, "ids applied"),
    (keys::OUTBOX, "outbox"),
    (keys::TIMERS, "timers"),
    (keys::OPEN_ATTEMPTS, "subjects with open attempts"),
    (keys::PARKED, "parked events"),
    (keys::ORGANIZATIONS, "organizations"),
    (keys::AUDIT, "audit"),
    (keys::ENDED, "reports to archive"),
    (keys::DEAD_LETTERS, "dead letters"),
    (keys::CLOCK, "clock"),
];

/// Reads everything. What cannot be read of the store itself (a page, not a row) is an error.
///
/// # Errors
/// As [`Store::scan`].
pub fn verify<S: Store>(store: &S) -> Result<Findings, StoreError> {
    let mut verifying = Verifying { store, findings: Findings::default(), ended: BTreeMap::new(), sequences: BTreeMap::new() };
    verifying.keys()?;
    verifying.simple_rows()?;
    verifying.reports()?;
    verifying.subjects()?;
    verifying.timers()?;
    verifying.open_attempts()?;
    verifying.outbox()?;
    Ok(verifying.findings)
}

struct Verifying<'a, S> {
    store: &'a S,
    findings: Findings,
    /// Reports that wait to be archived.
    ended: BTreeMap<(TenantId, ReportId), Timestamp>,
    /// By tenant and subject of outbound events: the greatest sequence in the outbox.
    sequences: BTreeMap<(TenantId, String), u64>,
}

impl<S: Store> Verifying<'_, S> {
    fn wrong(&mut self, key: &[u8], what: impl std::fmt::Display) {
        self.findings.wrong.push(format!("{}: {what}", record::printable(key)));
    }

    /// `None`, and a finding, for what cannot be read.
    fn read<T>(&mut self, read: Result<T, StoreError>) -> Option<T> {
        match read {
            Ok(read) => Some(read),
            Err(StoreError::Record { key, what }) => {
                self.findings.wrong.push(format!("{key}: {what}"));
                None
            }
            Err(other) => {
                self.findings.wrong.push(other.to_string());
                None
            }
        }
    }

    fn each(&mut self, prefix: &[u8], mut row: impl FnMut(&mut Self, &[u8], &[u8]) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let store = self.store;
        pages(store, prefix, |key, value| row(self, key, value))
    }

    fn at<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, StoreError> {
        self.store.get(key)?.map(|bytes| record::decode(key, &bytes)).transpose()
    }

    /// Every row is of a kind that there is.
    fn keys(&mut self) -> Result<(), StoreError> {
        self.each(b"", |this, key, _| {
            match KINDS.iter().find(|(prefix, _)| key.starts_with(prefix)) {
                Some((_, kind)) => *this.findings.rows.entry(kind).or_default() += 1,
                None => this.wrong(key, "no kind of row begins like this"),
            }
            Ok(())
        })
    }

    /// Rows that stand for themselves.
    fn simple_rows(&mut self) -> Result<(), StoreError> {
        self.each(keys::INBOX, |this, key, value| {
            this.read(InboxRow::decode(key, value));
            Ok(())
        })?;
        self.each(keys::PARKED, |this, key, value| {
            this.read(ParkedRow::decode(key, value));
            this.key_form(key, keys::parked_parts(key));
            Ok(())
        })?;
        self.each(keys::ORGANIZATIONS, |this, key, value| {
            this.read(record::decode::<Organization>(key, value));
            Ok(())
        })?;
        self.each(keys::AUDIT, |this, key, value| {
            let row: Option<AuditRow> = this.read(record::decode(key, value));
            let parts = this.key_form(key, keys::audit_parts(key));
            if let (Some(row), Some((_, at))) = (row, parts)
                && row.at != at
            {
                this.wrong(key, "its time is not that of its key");
            }
            Ok(())
        })?;
        self.each(keys::DEAD_LETTERS, |this, key, value| {
            let row: Option<DeadLetterRow> = this.read(record::decode(key, value));
            let parts = this.key_form(key, keys::dead_letter_parts(key));
            if let (Some(row), Some((tenant, _))) = (row, parts)
                && row.tenant != tenant
            {
                this.wrong(key, "its tenant is not that of its key");
            }
            Ok(())
        })?;
        self.each(keys::ENDED, |this, key, _| {
            if let Some((due, tenant, report)) = this.key_form(key, keys::ended_parts(key))
                && this.ended.insert((tenant, report), due).is_some()
            {
                this.wrong(key, "the report is to be archived twice");
            }
            Ok(())
        })?;
        if let Some(bytes) = self.store.get(keys::CLOCK)? {
            self.read(record::decode::<Timestamp>(keys::CLOCK, &bytes));
        }
        Ok(())
    }

    fn key_form<T>(&mut self, key: &[u8], parts: Option<T>) -> Option<T> {
        if parts.is_none() {
            self.wrong(key, "the key has not the form of its kind");
        }
        parts
    }

    fn reports(&mut self) -> Result<(), StoreError> {
        self.each(keys::REPORTS, |this, key, value| {
            let Some(report) = this.read(record::decode::<Report>(key, value)) else { return Ok(()) };
            let Some((tenant, id)) = this.key_form(key, keys::report_parts(key)) else { return Ok(()) };
            if report.id != id {
                this.wrong(key, format_args!("it is report {}", report.id));
            }
            for what in invariants::broken(&report) {
                this.wrong(key, what);
            }
            let is_to_end = report.closed_at.is_some() && report.archived_at.is_none();
            match (is_to_end, this.ended.remove(&(tenant, id))) {
                (true, None) => this.wrong(key, "it is over, and no row says when it is to be archived"),
                (false, Some(_)) => this.wrong(key, "it is to be archived, and is not over or archived already"),
                (true, Some(due)) if report.closed_at.is_some_and(|at| due < after(at, REOPEN_WINDOW)) => {
                    this.wrong(key, "it is to be archived while it can still be opened again");
                }
                (true, Some(_)) | (false, None) => {}
            }
            if is_live(&report) {
                let home: Option<SubjectRow> = this.read(this.at(&keys::subject(tenant, report.subject_key))).flatten();
                if home.is_none_or(|home| !home.live_reports.contains(&id)) {
                    this.wrong(key, format_args!("it is live, and its subject {} does not name it", report.subject_key));
                }
            }
            Ok(())
        })?;
        self.each(keys::NARRATIVES, |this, key, value| {
            this.read(record::decode::<String>(key, value));
            let Some((tenant, id)) = this.key_form(key, keys::narrative_parts(key)) else { return Ok(()) };
            let report: Option<Report> = this.read(this.at(&keys::report(tenant, id))).flatten();
            if report.is_none_or(|report| report.archived_at.is_some()) {
                this.wrong(key, "there is no such report, or it is archived already");
            }
            Ok(())
        })?;
        for ((tenant, report), due) in std::mem::take(&mut self.ended) {
            self.wrong(&keys::ended(due, tenant, report), "there is no such report");
        }
        Ok(())
    }

    /// The subject with its live reports; `None` when it has no row, or one that cannot be read (which is told elsewhere).
    fn subject(&self, tenant: TenantId, key: SubjectKey) -> Option<Subject> {
        let row: SubjectRow = self.at(&keys::subject(tenant, key)).ok()??;
        let mut subject = Subject { agent: row.agent, ..Subject::unknown(tenant, key) };
        for id in row.live_reports {
            subject.reports.insert(id, Arc::new(self.at(&keys::report(tenant, id)).ok()??));
        }
        Some(subject)
    }

    fn subjects(&mut self) -> Result<(), StoreError> {
        self.each(keys::SUBJECTS, |this, key, value| {
            let Some(row) = this.read(record::decode::<SubjectRow>(key, value)) else { return Ok(()) };
            let Some((tenant, subject_key)) = this.key_form(key, keys::subject_parts(key)) else { return Ok(()) };
            if row.agent.as_ref().is_some_and(|agent| Some(agent.id) != subject_key.agent()) {
                this.wrong(key, "its agent is another one");
            }
            let mut whole = true;
            let named: BTreeSet<ReportId> = row.live_reports.iter().copied().collect();
            if named.len() != row.live_reports.len() {
                this.wrong(key, "it names a report twice");
            }
            for id in named {
                let Ok(report) = this.at::<Report>(&keys::report(tenant, id)) else {
                    whole = false;
                    continue;
                };
                match report {
                    None => this.wrong(key, format_args!("it names report {id}, which has no row")),
                    Some(report) if report.subject_key != subject_key => {
                        this.wrong(key, format_args!("it names report {id}, which is about {}", report.subject_key));
                    }
                    Some(report) if !is_live(&report) => this.wrong(key, format_args!("it names report {id}, which is not live")),
                    Some(_) => continue,
                }
                whole = false;
            }
            if let Some(subject) = this.subject(tenant, subject_key).filter(|_| whole) {
                if let Some(due) = timers::next_due(&subject)
                    && this.store.get(&keys::timer(due, tenant, subject_key))?.is_none()
                {
                    this.wrong(key, format_args!("something of it is due at {due}, and no timer is set then"));
                }
                let in_field = this.store.get(&keys::open_attempts(tenant, subject_key))?.is_some();
                if subject.has_open_attempts() && !in_field {
                    this.wrong(key, "an attempt is with it, and no row says so");
                }
            }
            Ok(())
        })
    }

    /// Invariant 15: no timer but those that the subjects need.
    fn timers(&mut self) -> Result<(), StoreError> {
        self.each(keys::TIMERS, |this, key, _| {
            let Some((due, tenant, subject)) = this.key_form(key, keys::timer_parts(key)) else { return Ok(()) };
            match this.subject(tenant, subject) {
                None => this.wrong(key, "a timer of a subject that cannot be read, or is not there"),
                Some(subject) => {
                    let needed = timers::next_due(&subject);
                    // a key has whole milliseconds
                    if needed.map(|at| keys::timer(at, tenant, subject.key)).as_deref() != Some(key) {
                        this.wrong(key, format_args!("a timer is set for {due}, and nothing of the subject is due first then"));
                    }
                }
            }
            Ok(())
        })
    }

    fn open_attempts(&mut self) -> Result<(), StoreError> {
        self.each(keys::OPEN_ATTEMPTS, |this, key, _| {
            let Some((tenant, subject)) = this.key_form(key, keys::open_attempts_parts(key)) else { return Ok(()) };
            if !this.subject(tenant, subject).is_some_and(|subject| subject.has_open_attempts()) {
                this.wrong(key, "no attempt is with this subject");
            }
            Ok(())
        })
    }

    /// Invariant 2, as far as one store can tell: nothing is to be published beyond what its subject counts.
    fn outbox(&mut self) -> Result<(), StoreError> {
        self.each(keys::OUTBOX, |this, key, value| {
            this.key_form(key, keys::outbox_number(key));
            let Some(row) = this.read(OutboxRow::decode(key, value)) else { return Ok(()) };
            // a dead letter has no order to keep
            if row.order_key.is_none() {
                return Ok(());
            }
            let parts = row.message.message_id.as_deref().and_then(numbered);
            let Some((tenant, subject, sequence)) = parts else {
                this.wrong(key, "the id of its event is not <tenant>:<subject>:<sequence>");
                return Ok(());
            };
            let last = this.sequences.entry((tenant, subject)).or_default();
            if sequence <= *last {
                this.findings.wrong.push(format!("{}: sequence {sequence} stands behind {last}", record::printable(key)));
            } else {
                *last = sequence;
            }
            Ok(())
        })?;
        for ((tenant, subject), sequence) in std::mem::take(&mut self.sequences) {
            let counted = self.counted(tenant, &subject);
            let Some(counted) = self.read(counted) else { continue };
            if counted.is_none_or(|counted| counted < sequence) {
                self.findings.wrong.push(format!(
                    "o/: event {tenant}:{subject}:{sequence} is to be published, and {subject} counts up to {}",
                    counted.map_or_else(|| "nothing".to_owned(), |counted| counted.to_string())
                ));
            }
        }
        Ok(())
    }

    /// The `sequence` of what an outbound event is about.
    fn counted(&self, tenant: TenantId, subject: &str) -> Result<Option<u64>, StoreError> {
        if subject == "organization" {
            return Ok(self.at::<Organization>(&keys::organization(tenant))?.map(|organization| organization.sequence));
        }
        let Some((kind, id)) = subject.split_once('/').and_then(|(kind, id)| Some((kind, id.parse().ok()?))) else { return Ok(None) };
        Ok(match kind {
            "incident_reports" => self.at::<Report>(&keys::report(tenant, ReportId(id)))?.map(|report| report.sequence),
            "agents" => {
                let row: Option<SubjectRow> = self.at(&keys::subject(tenant, SubjectKey::Agent(crate::model::ids::AgentId(id))))?;
                row.and_then(|row| row.agent).map(|agent| agent.sequence)
            }
            _ => None,
        })
    }
}

/// `<tenant>:<subject>:<sequence>`
fn numbered(id: &str) -> Option<(TenantId, String, u64)> {
    let (rest, sequence) = id.rsplit_once(':')?;
    let (tenant, subject) = rest.split_once(':')?;
    Some((tenant.parse().ok()?, subject.to_owned(), sequence.parse().ok()?))
}
