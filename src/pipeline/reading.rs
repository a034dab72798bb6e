//! Reading: what a store says about a report, for commands that look and do not serve.
//!
//! Never here: a write, a decision, a guess. A row that cannot be read is an error, not an absence.

use crate::model::agent::Agent;
use crate::model::ids::{ReportId, TenantId};
use crate::model::organization::Organization;
use crate::model::report::Report;
use crate::store::{Store, StoreError, keys, record};

use super::rows::SubjectRow;

/// A report with the agent that it is about, as of the last commit.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredReport {
    pub tenant: TenantId,
    pub report: Report,
    /// `None` where the report is not about a host.
    pub agent: Option<Agent>,
    pub organization: Organization,
}

/// The report by this id; `None` if the tenant has none.
pub fn report<S: Store>(store: &S, tenant: TenantId, id: ReportId) -> Result<Option<StoredReport>, StoreError> {
    let key = keys::report(tenant, id);
    let Some(bytes) = store.get(&key)? else { return Ok(None) };
    let report: Report = record::decode(&key, &bytes)?;
    let key = keys::subject(tenant, report.subject_key);
    let agent = match store.get(&key)? {
        Some(bytes) => record::decode::<SubjectRow>(&key, &bytes)?.agent,
        None => None,
    };
    Ok(Some(StoredReport { tenant, report, agent, organization: organization(store, tenant)? }))
}

/// The organization's record; the defaults where it has none.
pub fn organization<S: Store>(store: &S, tenant: TenantId) -> Result<Organization, StoreError> {
    let key = keys::organization(tenant);
    Ok(store.get(&key)?.map(|bytes| record::decode(&key, &bytes)).transpose()?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Batch;
    use crate::store::memory::MemoryStore;

    #[test]
    fn absent_is_none_and_damaged_is_an_error() {
        let (store, tenant) = (MemoryStore::new(), TenantId { account: 5, organization: 4 });
        assert_eq!(report(&store, tenant, ReportId(1)).expect("read"), None);
        let mut batch = Batch::default();
        batch.put(keys::report(tenant, ReportId(1)), b"damaged".to_vec());
        store.commit(&batch).expect("commit");
        assert!(report(&store, tenant, ReportId(1)).is_err());
    }
}
