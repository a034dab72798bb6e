//! A letter as it is seen in the queue: its name, whose it is, and whether it would be refused again.
//!
//! Never here: the queue.

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::broker::topology::TENANT_HEADER;
use crate::broker::{HeaderValue, Message};
use crate::model::ids::TenantId;
use crate::model::time::Timestamp;
use crate::pipeline::dead_letters::Letter;
use crate::pipeline::rows::decode;
use crate::wire::Rejection;

/// Of a letter's name: 64 bits, far more than a queue can hold.
pub const LETTER_DIGITS: usize = 16;

#[derive(Debug)]
pub struct Seen {
    /// Made of what it holds, so that it is the same each time it is looked at. Two that are equal in everything have
    /// one name.
    pub name: String,
    pub letter: Letter,
    /// As far as it can be read.
    pub tenant: Option<TenantId>,
    pub event_type: Option<String>,
    pub event_id: Option<String>,
    pub report: Option<u64>,
    /// Why it cannot be read, by the rules of this build; what only the service can know is not in here.
    pub refused: Option<Rejection>,
}

impl Seen {
    pub fn of(message: Message) -> Self {
        let letter = Letter::of(message);
        let original = &letter.original;
        let (tenant, event_type, event_id, refused) = match decode(original) {
            Ok(inbound) => (Some(inbound.event.tenant), Some(inbound.event.kind.name().to_owned()), Some(inbound.event.id), None),
            Err(rejection) => {
                let tenant = rejection.tenant.or_else(|| tenant_header(original));
                (tenant, rejection.event_type.clone(), rejection.id.clone(), Some(rejection))
            }
        };
        let event: Value = serde_json::from_slice(&original.body).unwrap_or_default();
        // in binary mode the body is the data
        let data = event.get("data").unwrap_or(&event);
        let report = data.pointer("/incident_report/id").or_else(|| data.get("incident_report_id")).and_then(Value::as_u64);
        Self { name: name(&letter), tenant, event_type, event_id, report, refused, letter }
    }
}

fn tenant_header(message: &Message) -> Option<TenantId> {
    let header = message.headers.iter().find(|(name, _)| name == TENANT_HEADER);
    match header {
        Some((_, HeaderValue::Text(text))) => text.parse().ok(),
        Some(_) | None => None,
    }
}

fn name(letter: &Letter) -> String {
    let original = &letter.original;
    let failed_at = letter.failed_at.map(|at| at.to_string()).unwrap_or_default();
    let parts = [letter.reason.as_bytes(), failed_at.as_bytes(), original.routing_key.as_bytes(), &original.body];
    let mut digest = Sha256::new();
    for part in [&parts[..], &[original.message_id.as_deref().unwrap_or_default().as_bytes()]].concat() {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    let mut name = hex::encode(digest.finalize());
    name.truncate(LETTER_DIGITS);
    name
}

/// Which letters are meant.
#[derive(Debug, Default)]
pub struct Selection {
    /// Nothing at all: a file says which.
    pub none: bool,
    pub letters: Vec<String>,
    pub tenants: Vec<TenantId>,
    pub types: Vec<String>,
    pub reasons: Vec<String>,
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
}

impl Selection {
    pub fn takes(&self, seen: &Seen) -> bool {
        (self.letters.is_empty() || self.letters.iter().any(|letter| seen.name.starts_with(letter)))
            && self.takes_row(seen.tenant, seen.event_type.as_deref(), &seen.letter.reason, seen.letter.failed_at)
    }

    /// Without the names, which rows do not have.
    pub fn takes_row(&self, tenant: Option<TenantId>, event_type: Option<&str>, reason: &str, failed_at: Option<Timestamp>) -> bool {
        fn any<T>(wanted: &[T], is: impl Fn(&T) -> bool) -> bool {
            wanted.is_empty() || wanted.iter().any(is)
        }
        !self.none
            && any(&self.tenants, |wanted| Some(*wanted) == tenant)
            && any(&self.types, |wanted| Some(wanted.as_str()) == event_type)
            && any(&self.reasons, |wanted| wanted == reason)
            && self.since.is_none_or(|since| failed_at.is_some_and(|at| at >= since))
            && self.until.is_none_or(|until| failed_at.is_some_and(|at| at < until))
    }

    /// Names that none of `seen` has.
    pub fn missing<'a>(&'a self, seen: &'a [String]) -> impl Iterator<Item = &'a String> {
        self.letters.iter().filter(|letter| !seen.iter().any(|name| name.starts_with(letter.as_str())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(reason: &str, body: &str) -> Message {
        let header = |name: &str, text: &str| (name.to_owned(), HeaderValue::Text(text.into()));
        Message {
            routing_key: "remedyd.dead-letters".into(),
            headers: vec![
                header("tenantid", "5.4"),
                header("reason", reason),
                header("original-routing-key", "agent.surveyed.5.4"),
                header("failed-at", "2026-11-23T10:00:00Z"),
            ],
            body: body.as_bytes().to_vec(),
            ..Message::default()
        }
    }

    #[test]
    fn what_can_be_read_is_read() {
        let seen = Seen::of(message("malformed", "no JSON"));
        assert_eq!((seen.tenant.map(|tenant| tenant.to_string()).as_deref(), seen.report), (Some("5.4"), None));
        assert!(seen.refused.is_some());
        assert_eq!(seen.name.len(), LETTER_DIGITS);
        assert_eq!(seen.name, Seen::of(message("malformed", "no JSON")).name);
        assert_ne!(seen.name, Seen::of(message("malformed", "no JSON ")).name);
        assert_eq!(Seen::of(message("invalid", r#"{"data":{"incident_report":{"id":7}}}"#)).report, Some(7));
        assert_eq!(Seen::of(message("invalid", r#"{"incident_report_id":8}"#)).report, Some(8));
    }

    #[test]
    fn every_filter_has_to_let_it_through() {
        let seen = Seen::of(message("malformed", "no JSON"));
        let takes = |change: fn(&mut Selection)| {
            let mut selection = Selection::default();
            change(&mut selection);
            selection.takes(&seen)
        };
        assert!(takes(|_| {}));
        assert!(!takes(|selection| selection.none = true));
        assert!(takes(|selection| selection.reasons = vec!["orphan".into(), "malformed".into()]));
        assert!(!takes(|selection| selection.reasons = vec!["orphan".into()]));
        assert!(takes(|selection| selection.tenants = vec!["5.4".parse().expect("a tenant")]));
        assert!(!takes(|selection| selection.tenants = vec!["5.5".parse().expect("a tenant")]));
        assert!(!takes(|selection| selection.types = vec!["agent.surveyed".into()]));
        assert!(takes(|selection| selection.since = "2026-11-23T10:00:00Z".parse().ok()));
        assert!(!takes(|selection| selection.until = "2026-11-23T10:00:00Z".parse().ok()));
        assert!(!takes(|selection| selection.letters = vec!["zzzzzz".into()]));
    }
}
