//! Floor 2, the wire: JSON to events, notices to JSON (messages.md).
//!
//! Never here: AMQP, the store, rules about what an event *does*, logging, a clock. Bytes and headers come
//! in as [`Raw`]; a value that cannot be wrong leaves ([`Inbound`]), or a [`Rejection`] that says why not.
//!
//! ```text
//! Raw ─▶ envelope (mode, attributes) ─▶ json (strict) ─▶ inbound (type, fields, plan) ─▶ Inbound
//! Notice ─▶ outbound ─▶ Outbound (final bytes)
//! ```
//!
//! Invariants:
//! 1. [`decode`] is total: any bytes give an [`Inbound`] or a [`Rejection`]; it never panics, and its depth
//!    of recursion, time and memory are bounded by [`limits`].
//! 2. A detail names the field and the rule, and never quotes a string value: it travels in headers and
//!    logs, the value is a customer's.
//! 3. [`encode`] is a function of tenant and notice alone: a re-publication is byte-identical.

pub mod envelope;
pub mod inbound;
pub mod json;
pub mod limits;
mod media_type;
pub mod outbound;
pub mod schema;
mod time;
mod trace;
mod words;

pub use envelope::Raw;
pub use inbound::{Inbound, InboundType, decode};
pub use outbound::{Outbound, encode};

use crate::model::ids::TenantId;

/// Why a message can never be applied: the closed list of messages.md.
///
/// [`decode`] gives all but `IdReused` and `Orphan`, which only the pipeline can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// Bytes, UTF-8, JSON, depth, duplicate keys, attributes of the envelope.
    Malformed,
    /// The data against its type: field, range, enum.
    Invalid,
    /// Any limit.
    TooLarge,
    UnsupportedType,
    /// A higher major `schemaversion`: can be replayed after an upgrade.
    UnsupportedVersion,
    /// The dedupe key is known with other bytes.
    IdReused,
    TenantMismatch,
    /// A gate cannot be kept over tasks it does not know.
    PlanIncomplete,
    /// What it is about never came.
    Orphan,
}

impl Reason {
    pub const ALL: [Reason; 9] = [
        Reason::Malformed,
        Reason::Invalid,
        Reason::TooLarge,
        Reason::UnsupportedType,
        Reason::UnsupportedVersion,
        Reason::IdReused,
        Reason::TenantMismatch,
        Reason::PlanIncomplete,
        Reason::Orphan,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Malformed => "malformed",
            Reason::Invalid => "invalid",
            Reason::TooLarge => "too_large",
            Reason::UnsupportedType => "unsupported_type",
            Reason::UnsupportedVersion => "unsupported_version",
            Reason::IdReused => "id_reused",
            Reason::TenantMismatch => "tenant_mismatch",
            Reason::PlanIncomplete => "plan_incomplete",
            Reason::Orphan => "orphan",
        }
    }
}

/// A message that can never be applied, and as much of its envelope as could be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", reason.as_str())]
pub struct Rejection {
    pub reason: Reason,
    /// The field and the rule; at most [`limits::DETAIL_BYTES`], without any string value of the message.
    pub detail: String,
    /// CloudEvents `id`.
    pub id: Option<String>,
    pub tenant: Option<TenantId>,
    /// CloudEvents `type`.
    pub event_type: Option<String>,
}

/// A [`Rejection`] before the envelope's part is added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub reason: Reason,
    pub detail: String,
}

impl Fault {
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        let mut detail = detail.into();
        if detail.len() > limits::DETAIL_BYTES {
            detail.truncate(detail.floor_char_boundary(limits::DETAIL_BYTES));
        }
        Self { reason, detail }
    }

    fn malformed(detail: impl Into<String>) -> Self {
        Self::new(Reason::Malformed, detail)
    }

    fn invalid(detail: impl Into<String>) -> Self {
        Self::new(Reason::Invalid, detail)
    }

    fn too_large(detail: impl Into<String>) -> Self {
        Self::new(Reason::TooLarge, detail)
    }

    fn over(path: &str, limit: usize, what: &str) -> Self {
        Self::too_large(format!("{path}: more than {limit} {what}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_distinct_names() {
        let names: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(names.len(), Reason::ALL.len());
    }

    #[test]
    fn a_detail_is_cut_at_a_character() {
        let fault = Fault::invalid("é".repeat(limits::DETAIL_BYTES));
        assert_eq!(fault.detail.len(), limits::DETAIL_BYTES);
        let fault = Fault::invalid(format!("x{}", "é".repeat(limits::DETAIL_BYTES)));
        assert_eq!(fault.detail.len(), limits::DETAIL_BYTES - 1);
    }
}
