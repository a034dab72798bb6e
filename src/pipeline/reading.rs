//! Reading: what a store says, for commands that look and do not serve.
//!
//! Never here: a write, a decision, a guess. A row that cannot be read is an error, not an absence. What may be long
//! is an iterator that holds one page of rows, however many there are.

use std::marker::PhantomData;

use serde::de::DeserializeOwned;

use crate::model::agent::Agent;
use crate::model::ids::{AgentId, ReportId, SubjectKey, TenantId};
use crate::model::organization::Organization;
use crate::model::report::Report;
use crate::store::{Row, Store, StoreError, keys, record};

use super::audit::AuditRow;
use super::rows::{DeadLetterRow, SubjectRow};

/// Rows read at a time. The largest ordinary ones are reports of some ten kilobytes.
const PAGE_ROWS: usize = 64;

/// A report with the agent that it is about, as of the last commit.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredReport {
    pub tenant: TenantId,
    pub report: Report,
    /// `None` where the report is not about a host.
    pub agent: Option<Agent>,
    pub organization: Organization,
}

/// An agent with the reports on it that a survey or a timer may still touch, by id.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredAgent {
    pub tenant: TenantId,
    pub agent: Agent,
    pub reports: Vec<Report>,
}

/// The report by this id; `None` if the tenant has none.
pub fn report<S: Store>(store: &S, tenant: TenantId, id: ReportId) -> Result<Option<StoredReport>, StoreError> {
    let Some(report) = record_at::<S, Report>(store, &keys::report(tenant, id))? else { return Ok(None) };
    with_subject(store, tenant, report).map(Some)
}

/// The report together with what else its store says of its subject and its organization.
pub fn with_subject<S: Store>(store: &S, tenant: TenantId, report: Report) -> Result<StoredReport, StoreError> {
    let subject = record_at::<S, SubjectRow>(store, &keys::subject(tenant, report.subject_key))?;
    let organization = organization(store, tenant)?.unwrap_or_default();
    Ok(StoredReport { tenant, report, agent: subject.and_then(|subject| subject.agent), organization })
}

/// The agent by this id; `None` if the tenant has none.
pub fn agent<S: Store>(store: &S, tenant: TenantId, id: AgentId) -> Result<Option<StoredAgent>, StoreError> {
    let key = keys::subject(tenant, SubjectKey::Agent(id));
    let Some(SubjectRow { agent: Some(agent), mut live_reports }) = record_at(store, &key)? else { return Ok(None) };
    live_reports.sort_unstable();
    let read = |id: ReportId| {
        let missing = || StoreError::Record { key: record::printable(&key), what: format!("names report {id}, which is not there") };
        record_at(store, &keys::report(tenant, id))?.ok_or_else(missing)
    };
    let reports = live_reports.into_iter().map(read).collect::<Result<_, _>>()?;
    Ok(Some(StoredAgent { tenant, agent, reports }))
}

/// The organization's record; `None` for one of which nothing has been heard.
pub fn organization<S: Store>(store: &S, tenant: TenantId) -> Result<Option<Organization>, StoreError> {
    record_at(store, &keys::organization(tenant))
}

/// Every report of the tenant, or of all tenants, in the order of their keys.
pub fn reports<S: Store>(store: &S, tenant: Option<TenantId>) -> Records<'_, S, Report> {
    Records::new(store, tenant.map_or_else(|| keys::REPORTS.to_vec(), keys::reports_of))
}

/// The tenant's audit, in the order of time.
pub fn audit<S: Store>(store: &S, tenant: TenantId) -> Records<'_, S, AuditRow> {
    Records::new(store, keys::audit_of(tenant))
}

/// The rows of dead letters, in the order of their keys: of one tenant, or of all and of none.
pub fn dead_letters<S: Store>(store: &S, tenant: Option<TenantId>) -> Records<'_, S, DeadLetterRow> {
    Records::new(store, tenant.map_or_else(|| keys::DEAD_LETTERS.to_vec(), keys::dead_letters_of))
}

fn record_at<S: Store, T: DeserializeOwned>(store: &S, key: &[u8]) -> Result<Option<T>, StoreError> {
    store.get(key)?.map(|bytes| record::decode(key, &bytes)).transpose()
}

/// The records below a prefix with their keys, in ascending order. Ends after the first error.
pub struct Records<'a, S, T> {
    store: &'a S,
    prefix: Vec<u8>,
    /// Where the next page begins; none after the last.
    from: Option<Vec<u8>>,
    page: std::vec::IntoIter<Row>,
    record: PhantomData<T>,
}

impl<'a, S: Store, T: DeserializeOwned> Records<'a, S, T> {
    fn new(store: &'a S, prefix: Vec<u8>) -> Self {
        Self { store, prefix, from: Some(Vec::new()), page: Vec::new().into_iter(), record: PhantomData }
    }

    /// Only what stands behind this key.
    #[must_use]
    pub fn after(mut self, key: Option<&[u8]>) -> Self {
        if let Some(key) = key {
            self.from = Some([key, &[0]].concat());
        }
        self
    }

    fn row(&mut self) -> Result<Option<Row>, StoreError> {
        if self.page.as_slice().is_empty()
            && let Some(from) = self.from.take()
        {
            let page = self.store.scan(&self.prefix, &from, PAGE_ROWS)?;
            if page.len() == PAGE_ROWS {
                // the least key above the last one
                self.from = page.last().map(|(key, _)| [key.as_slice(), &[0]].concat());
            }
            self.page = page.into_iter();
        }
        Ok(self.page.next())
    }
}

impl<S: Store, T: DeserializeOwned> Iterator for Records<'_, S, T> {
    type Item = Result<(Vec<u8>, T), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let read = self.row().and_then(|row| match row {
            Some((key, bytes)) => record::decode(&key, &bytes).map(|record| Some((key, record))),
            None => Ok(None),
        });
        if read.is_err() {
            self.from = None;
            self.page = Vec::new().into_iter();
        }
        read.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::Timestamp;
    use crate::store::Batch;
    use crate::store::memory::MemoryStore;

    const TENANT: TenantId = TenantId { account: 5, organization: 4 };

    fn holding(rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> MemoryStore {
        let (store, mut batch) = (MemoryStore::new(), Batch::default());
        rows.into_iter().for_each(|(key, value)| batch.put(key, value));
        store.commit(&batch).expect("commit");
        store
    }

    fn row(n: i64) -> AuditRow {
        AuditRow {
            at: Timestamp::from_millisecond(n).expect("in range"),
            asked_at: None,
            event_id: n.to_string(),
            request: "remediations.approved".into(),
            actor: None,
            reason: None,
            incident_report_id: None,
            remediation_id: None,
            agent_id: None,
            outcome: "applied".into(),
            before: Default::default(),
            after: Default::default(),
        }
    }

    #[test]
    fn absent_is_none_and_damaged_is_an_error() {
        let (report_id, agent_id) = (ReportId(1), AgentId(2));
        let empty = MemoryStore::new();
        assert_eq!(report(&empty, TENANT, report_id).expect("read"), None);
        assert_eq!(agent(&empty, TENANT, agent_id).expect("read"), None);
        assert_eq!(organization(&empty, TENANT).expect("read"), None);
        assert_eq!(reports(&empty, None).count() + audit(&empty, TENANT).count(), 0);
        let damaged = holding(
            [
                keys::report(TENANT, report_id),
                keys::subject(TENANT, SubjectKey::Agent(agent_id)),
                keys::organization(TENANT),
                keys::audit(TENANT, Timestamp::UNIX_EPOCH, 0),
            ]
            .map(|key| (key, b"damaged".to_vec())),
        );
        assert!(report(&damaged, TENANT, report_id).is_err());
        assert!(agent(&damaged, TENANT, agent_id).is_err());
        assert!(organization(&damaged, TENANT).is_err());
        assert!(reports(&damaged, Some(TENANT)).all(|read| read.is_err()));
        assert_eq!(audit(&damaged, TENANT).map(|read| read.is_err()).collect::<Vec<_>>(), [true], "it ends there");
    }

    #[test]
    fn pages_join_without_gap_or_repetition() {
        for count in [0, 1, PAGE_ROWS as i64 - 1, PAGE_ROWS as i64, PAGE_ROWS as i64 + 1, 3 * PAGE_ROWS as i64] {
            let other = (keys::audit(TenantId { account: 5, organization: 40 }, Timestamp::UNIX_EPOCH, 0), record::encode(&row(0)));
            let rows = (0..count).map(|n| (keys::audit(TENANT, row(n).at, 7), record::encode(&row(n))));
            let store = holding(rows.chain([other]));
            let read: Vec<String> = audit(&store, TENANT).map(|read| read.expect("read").1.event_id).collect();
            assert_eq!(read, (0..count).map(|n| n.to_string()).collect::<Vec<_>>());
            let after = keys::audit(TENANT, row(40).at, 7);
            let rest = audit(&store, TENANT).after(Some(&after)).count() as i64;
            assert_eq!(rest, (count - 41).max(0));
        }
    }
}
