//! From an opened envelope to the machine's event: which type, and is the data right for it.
//!
//! Never here: state. Whether the report is known, the revision current or the role allowed is decided by
//! the machine; here an event is judged by itself alone.
//!
//! Adding a type: give it a variant in [`EventKind`], then replace its arm in [`kind`]. Nothing else knows.

mod agents;
pub(super) mod fields;
mod organization;
mod plan;
pub(super) mod reports;
pub(super) mod requests;

use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::envelope::{self, Envelope, Raw};
use super::{Fault, Reason, Rejection};
use crate::machine::event::{Event, EventKind};
use crate::model::ids::TenantId;
use crate::mutation::{self, Defect};

/// A message that may be decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Inbound {
    pub event: Event,
    /// CloudEvents `source`.
    pub source: String,
    /// The AMQP header `tenantid`, unchecked: whether it may differ is the caller's rule.
    pub header_tenant: Option<String>,
    /// The dedupe key: prefix of the SHA-256 of `source`, a zero byte and `id`. Neither may hold a zero.
    pub key: [u8; 16],
    /// Same key and same digest: a duplicate. Same key, other digest: `id_reused`.
    pub digest: [u8; 16],
    /// False for surveys, which are known by (agent, surveyed_at) instead.
    pub dedupe: bool,
}

macro_rules! inbound_types {
    ($($variant:ident = $name:literal,)*) => {
        /// Every inbound type of messages.md.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum InboundType {
            $($variant,)*
        }

        impl InboundType {
            pub const ALL: &[InboundType] = &[$(InboundType::$variant,)*];

            pub fn as_str(self) -> &'static str {
                match self {
                    $(InboundType::$variant => $name,)*
                }
            }

            pub fn from_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(InboundType::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

inbound_types! {
    ReportCreated = "incident_report.created",
    ReportRevised = "incident_report.revised",
    ReportUpdated = "incident_report.updated",
    CommentAdded = "incident_report.comment_added",
    ReportDismissed = "incident_report.dismissed",
    ReportClosed = "incident_report.closed",
    Approved = "remediations.approved",
    Rejected = "remediations.rejected",
    ManualCompleted = "remediation.completed",
    ManualUncompleted = "remediation.uncompleted",
    RetryRequested = "remediation.retry_requested",
    CancelRequested = "remediation.cancel_requested",
    Waived = "remediation.waived",
    Attempted = "remediation.attempted",
    ResolutionRequested = "incident_report.resolution_requested",
    DismissalRequested = "incident_report.dismissal_requested",
    ReopenRequested = "incident_report.reopen_requested",
    SupportRequested = "soc_support.requested",
    Surveyed = "agent.surveyed",
    IsolationRequested = "agent.isolation_requested",
    ReleaseRequested = "agent.release_requested",
    AgentRemoved = "agent.removed",
    OrganizationUpdated = "organization.updated",
    OrganizationDeleted = "organization.deleted",
    FunnelCounted = "funnel.counted",
}

/// Reads one message. Total: see the module docs of [`crate::wire`].
pub fn decode(raw: &Raw<'_>) -> Result<Inbound, Rejection> {
    let mut envelope = envelope::open(raw)?;
    let data = envelope.data.take();
    if mutation::seeded(Defect::TenantOfBody)
        && let [Some(account), Some(organization)] = ["account_id", "organization_id"].map(|name| data["incident_report"][name].as_u64())
    {
        envelope.tenant = TenantId { account, organization };
    }
    let kind = match InboundType::from_name(&envelope.event_type) {
        Some(inbound_type) => kind(inbound_type, data, &envelope),
        None => Err(Fault::new(Reason::UnsupportedType, "type: unknown")),
    };
    match kind {
        Ok(kind) => Ok(inbound(envelope, kind)),
        Err(fault) => Err(Rejection {
            reason: fault.reason,
            detail: fault.detail,
            id: Some(envelope.id),
            tenant: Some(envelope.tenant),
            event_type: Some(envelope.event_type),
        }),
    }
}

/// The one place that says what this version applies.
fn kind(inbound_type: InboundType, data: Value, envelope: &Envelope) -> Result<EventKind, Fault> {
    match inbound_type {
        InboundType::ReportCreated => reports::created(data, envelope),
        InboundType::ReportRevised => reports::revised(data),
        InboundType::ReportUpdated => reports::updated(data, envelope),
        InboundType::CommentAdded => reports::comment_added(data),
        InboundType::ReportDismissed => reports::dismissed(data),
        InboundType::ReportClosed => reports::closed(data, envelope),
        InboundType::Approved => requests::approved(data),
        InboundType::Rejected => requests::rejected(data),
        InboundType::ManualCompleted => Ok(EventKind::ManualCompleted(requests::about_task(data)?)),
        InboundType::ManualUncompleted => Ok(EventKind::ManualUncompleted(requests::about_task(data)?)),
        InboundType::RetryRequested => Ok(EventKind::RetryRequested(requests::about_task(data)?)),
        InboundType::CancelRequested => Ok(EventKind::CancelRequested(requests::about_task(data)?)),
        InboundType::Waived => Ok(EventKind::Waived(requests::about_task(data)?)),
        InboundType::ResolutionRequested => Ok(EventKind::ResolutionRequested(requests::about_report(data)?)),
        InboundType::DismissalRequested => Ok(EventKind::DismissalRequested(requests::about_report(data)?)),
        InboundType::ReopenRequested => Ok(EventKind::ReopenRequested(requests::about_report(data)?)),
        InboundType::SupportRequested => requests::support_requested(data),
        InboundType::Surveyed => agents::surveyed(data),
        InboundType::IsolationRequested => Ok(EventKind::IsolationRequested(requests::about_agent(data)?)),
        InboundType::ReleaseRequested => Ok(EventKind::ReleaseRequested(requests::about_agent(data)?)),
        InboundType::AgentRemoved => agents::removed(data),
        InboundType::OrganizationUpdated => organization::updated(data),
        InboundType::OrganizationDeleted => organization::deleted(data),
        InboundType::FunnelCounted => organization::counted(data),
        // outcomes come from our own executor; taking them from outside is for real agents
        InboundType::Attempted => {
            Err(Fault::new(Reason::UnsupportedType, format!("type: {} is not applied by this version yet", inbound_type.as_str())))
        }
    }
}

/// The schema of `data` by type; `None` for what this version does not apply. It follows [`kind`] arm by arm.
pub(super) fn data_schema(inbound_type: InboundType, generator: &mut SchemaGenerator) -> Option<Schema> {
    Some(match inbound_type {
        InboundType::ReportCreated => generator.subschema_for::<reports::Created>(),
        InboundType::ReportRevised => generator.subschema_for::<reports::Revised>(),
        InboundType::ReportUpdated => generator.subschema_for::<reports::Updated>(),
        InboundType::CommentAdded => generator.subschema_for::<reports::CommentAdded>(),
        InboundType::ReportDismissed => generator.subschema_for::<reports::Dismissed>(),
        InboundType::ReportClosed => generator.subschema_for::<reports::Closed>(),
        InboundType::Approved => generator.subschema_for::<requests::Approved>(),
        InboundType::Rejected => generator.subschema_for::<requests::Rejected>(),
        InboundType::ManualCompleted
        | InboundType::ManualUncompleted
        | InboundType::RetryRequested
        | InboundType::CancelRequested
        | InboundType::Waived => generator.subschema_for::<requests::AboutTask>(),
        InboundType::ResolutionRequested | InboundType::DismissalRequested | InboundType::ReopenRequested => {
            generator.subschema_for::<requests::AboutReport>()
        }
        InboundType::SupportRequested => generator.subschema_for::<requests::SupportRequested>(),
        InboundType::Surveyed => generator.subschema_for::<agents::Surveyed>(),
        InboundType::IsolationRequested | InboundType::ReleaseRequested => generator.subschema_for::<requests::AboutAgent>(),
        InboundType::AgentRemoved => generator.subschema_for::<agents::Removed>(),
        InboundType::OrganizationUpdated => generator.subschema_for::<organization::Updated>(),
        InboundType::OrganizationDeleted => json_schema!({ "type": ["object", "null"] }),
        InboundType::FunnelCounted => generator.subschema_for::<organization::Counted>(),
        InboundType::Attempted => return None,
    })
}

fn inbound(envelope: Envelope, kind: EventKind) -> Inbound {
    let hash = Sha256::new().chain_update(envelope.source.as_bytes()).chain_update([0]).chain_update(envelope.id.as_bytes());
    Inbound {
        key: envelope::prefix(hash),
        digest: envelope.digest,
        dedupe: !matches!(kind, EventKind::Surveyed(_)),
        source: envelope.source,
        header_tenant: envelope.header_tenant,
        event: Event { id: envelope.id, tenant: envelope.tenant, time: envelope.time, traceparent: envelope.traceparent, kind },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_is_found_by_its_name() {
        assert_eq!(InboundType::ALL.len(), 25);
        for inbound_type in InboundType::ALL {
            assert_eq!(InboundType::from_name(inbound_type.as_str()), Some(*inbound_type));
        }
        assert_eq!(InboundType::from_name("incident_report.triaged"), None);
    }
}
