//! Organizations in a partition: their records, the policy that follows from them, and their end (R17).
//! Never here: what a setting means.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::machine::decide;
use crate::machine::decision::Decision;
use crate::machine::event::Event;
use crate::machine::organization::{OrganizationDecision, count_report, decide_organization, refuse_unknown_agent};
use crate::machine::policy::Policy;
use crate::machine::subject::Subject;
use crate::model::ids::{AgentId, SubjectKey, TenantId};
use crate::model::organization::Organization;
use crate::model::report::Report;
use crate::model::time::Timestamp;
use crate::store::{Store, StoreError, keys, record};
use crate::wire;

use super::partition::Partition;

/// Organizations kept decoded. A record is some hundred bytes; 100,000 are more tenants than a partition has.
const MAX_CACHED: usize = 100_000;

/// The organizations that have been asked for, with the policy made of each.
#[derive(Debug, Default)]
pub(super) struct Organizations(HashMap<TenantId, (Organization, Arc<Policy>)>);

impl<S: Store> Partition<S> {
    /// Whether the tenant has been deleted, and the policy for its decisions.
    pub(super) fn policy(&mut self, tenant: TenantId) -> Result<(bool, Arc<Policy>), StoreError> {
        if let Some((organization, policy)) = self.organizations.0.get(&tenant) {
            return Ok((organization.deleted, Arc::clone(policy)));
        }
        let organization = self.organization(tenant)?;
        let deleted = organization.deleted;
        Ok((deleted, self.remember(tenant, organization)))
    }

    /// Surveys that were waiting at the start have been taken; silence counts from now on (A2, A3).
    pub fn surveys_caught_up(&mut self) {
        self.settings.policy.surveys_caught_up = true;
        self.organizations.0.clear();
    }

    fn organization(&self, tenant: TenantId) -> Result<Organization, StoreError> {
        if let Some((organization, _)) = self.organizations.0.get(&tenant) {
            return Ok(organization.clone());
        }
        let key = keys::organization(tenant);
        Ok(self.writes.get(&key)?.map(|bytes| record::decode(&key, &bytes)).transpose()?.unwrap_or_default())
    }

    fn remember(&mut self, tenant: TenantId, organization: Organization) -> Arc<Policy> {
        if self.organizations.0.len() >= MAX_CACHED {
            self.organizations.0.clear();
        }
        let policy = Arc::new(Policy { organization: organization.settings.clone(), ..self.settings.policy.clone() });
        self.organizations.0.insert(tenant, (organization, Arc::clone(&policy)));
        policy
    }

    fn write_organization(&mut self, tenant: TenantId, organization: Organization) {
        self.writes.put(keys::organization(tenant), record::encode(&organization));
        self.remember(tenant, organization);
    }

    /// An event about the organization itself; says whether anything came of it.
    pub(super) fn decide_organization(&mut self, event: &Event) -> Result<bool, StoreError> {
        let now = self.settings.clock.now();
        let before = self.organization(event.tenant)?;
        match decide_organization(&before, event, now) {
            OrganizationDecision::Ignored => Ok(false),
            OrganizationDecision::Applied { organization, notices } => {
                let deleted = organization.deleted;
                self.write_organization(event.tenant, organization);
                for notice in &notices {
                    self.publish_event(wire::encode(event.tenant, notice));
                }
                if deleted {
                    self.delete_reports(event)?;
                }
                Ok(true)
            }
        }
    }

    /// The funnel's fourth count.
    pub(super) fn count_report(&mut self, tenant: TenantId, at: Timestamp) -> Result<(), StoreError> {
        let mut organization = self.organization(tenant)?;
        count_report(&mut organization, at);
        self.write_organization(tenant, organization);
        Ok(())
    }

    /// R19: a request about an agent that the tenant does not have.
    pub(super) fn refuse_unknown_agent(&mut self, event: &Event, agent: AgentId) -> Result<(), StoreError> {
        let now = self.settings.clock.now();
        let mut organization = self.organization(event.tenant)?;
        let notice = refuse_unknown_agent(&mut organization, event, now, agent);
        self.write_organization(event.tenant, organization);
        self.publish_event(wire::encode(event.tenant, &notice));
        Ok(())
    }

    /// R17, subject by subject, the reports that are long over included.
    fn delete_reports(&mut self, event: &Event) -> Result<(), StoreError> {
        let (_, policy) = self.policy(event.tenant)?;
        for subject in self.subjects_with_all_reports(event.tenant)? {
            match decide(&subject, event, self.settings.clock.now(), &policy) {
                Decision::Applied(applied) => self.apply(&subject, *applied)?,
                Decision::Ignored(_)
                | Decision::Park { .. }
                | Decision::Orphan { .. }
                | Decision::Invalid { .. }
                | Decision::UnknownAgent { .. } => {}
            }
        }
        Ok(())
    }

    fn subjects_with_all_reports(&mut self, tenant: TenantId) -> Result<Vec<Subject>, StoreError> {
        let mut reports: BTreeMap<SubjectKey, Vec<Report>> = BTreeMap::new();
        for (key, bytes) in self.writes.scan_all(&keys::subjects_of(tenant))? {
            if let Some(subject) = keys::subject_of(&key) {
                reports.entry(subject).or_default();
            }
            drop(bytes);
        }
        for (key, bytes) in self.writes.scan_all(&keys::reports_of(tenant))? {
            let report: Report = record::decode(&key, &bytes)?;
            reports.entry(report.subject_key).or_default().push(report);
        }
        let mut subjects = Vec::with_capacity(reports.len());
        for (key, reports) in reports {
            let mut subject = self.subject(tenant, key)?;
            for report in reports {
                subject.reports.entry(report.id).or_insert_with(|| Arc::new(report));
            }
            subjects.push(subject);
        }
        Ok(subjects)
    }
}
