//! Dead letters: what can never be applied, with the reason, as a message for the queue and as a row for
//! people; and back from that message to the one that came. Never here: the decision that something is one.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::broker::{HeaderValue, Message};
use crate::model::ids::TenantId;
use crate::model::time::Timestamp;
use crate::store::{Store, keys, record};
use crate::wire::Rejection;

use super::batch::Writes;
use super::rows::{DeadLetterRow, OutboxRow};

/// Rows kept of one tenant. The messages themselves are in the queue, however many; the rows are what
/// `dead-letters list` shows, and a flood of rubbish must not fill the disk.
const MAX_ROWS_PER_TENANT: usize = 1_000;
/// What the broker adds when it moves a message itself, and what routes it elsewhere: never sent on
/// (before 4.0 the broker acts on them).
const STRIPPED: [&str; 4] = ["x-death", "x-delivery-count", "CC", "BCC"];
const STRIPPED_PREFIXES: [&str; 2] = ["x-first-death-", "x-last-death-"];
/// Headers must fit into one AMQP frame (131,072 bytes as negotiated by default); what is over this is left out.
const MAX_KEPT_HEADER_BYTES: usize = 32 * 1024;
/// Of a detail, which may quote input.
const MAX_DETAIL_CHARS: usize = 500;

/// Row numbers by tenant, oldest first.
#[derive(Debug, Default)]
pub(super) struct DeadLetters {
    rows: HashMap<Option<TenantId>, BTreeMap<u64, ()>>,
    next: u64,
}

impl DeadLetters {
    /// Takes up a row found at the start.
    pub fn restore(&mut self, tenant: Option<TenantId>, number: u64) {
        self.next = self.next.max(number + 1);
        self.rows.entry(tenant).or_default().insert(number, ());
    }

    /// Writes the row and gives the message to publish.
    pub fn add<S: Store>(
        &mut self,
        writes: &mut Writes<S>,
        message: &Message,
        rejection: &Rejection,
        now: Timestamp,
        queue: &str,
    ) -> OutboxRow {
        let detail: String = rejection.detail.chars().take(MAX_DETAIL_CHARS).collect();
        let row = DeadLetterRow {
            reason: rejection.reason.as_str().into(),
            detail: detail.clone(),
            event_id: rejection.id.clone(),
            event_type: rejection.event_type.clone(),
            tenant: rejection.tenant,
            failed_at: now,
            original_exchange: message.exchange.clone(),
            original_routing_key: message.routing_key.clone(),
            body_bytes: message.body.len(),
        };
        let number = self.next;
        self.restore(rejection.tenant, number);
        writes.put(keys::dead_letter(rejection.tenant, number), record::encode(&row));
        if let Some(rows) = self.rows.get_mut(&rejection.tenant)
            && rows.len() > MAX_ROWS_PER_TENANT
            && let Some((oldest, ())) = rows.pop_first()
        {
            writes.remove(keys::dead_letter(rejection.tenant, oldest));
        }
        OutboxRow { message: Arc::new(dead_letter(message, rejection.reason.as_str(), detail, now, queue)), order_key: None }
    }
}

/// A dead letter as it lies in the queue: what it says of itself, and the message that it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    pub reason: String,
    pub detail: String,
    pub failed_at: Option<Timestamp>,
    /// Who had sent it, as the broker had checked.
    pub user_id: Option<String>,
    /// With the exchange and the routing key that it came by, and no header of ours or of the broker's.
    pub original: Message,
}

impl Letter {
    /// The reverse of what made it. What somebody else has put into the queue has no reason.
    pub fn of(message: Message) -> Self {
        let header = |name: &str| {
            message.headers.iter().find(|(header, _)| header == name).and_then(|(_, value)| match value {
                HeaderValue::Text(text) => Some(text.clone()),
                HeaderValue::Integer(_) | HeaderValue::Bool(_) | HeaderValue::Other(_) => None,
            })
        };
        let said = |name: &str| header(name).unwrap_or_default();
        Self {
            reason: said("reason"),
            detail: said("detail"),
            failed_at: header("failed-at").and_then(|at| at.parse().ok()),
            user_id: header("original-user-id"),
            original: Message {
                exchange: said("original-exchange"),
                routing_key: said("original-routing-key"),
                user_id: None,
                headers: message.headers.iter().filter(|(name, _)| !is_stripped(name)).cloned().collect(),
                ..message
            },
        }
    }
}

/// The message as it came, addressed to the dead letter queue.
fn dead_letter(message: &Message, reason: &str, detail: String, now: Timestamp, queue: &str) -> Message {
    let mut headers: Vec<(String, HeaderValue)> = message.headers.iter().filter(|(name, _)| !is_stripped(name)).cloned().collect();
    let bytes: usize = headers.iter().map(|(name, value)| name.len() + value_bytes(value)).sum();
    if bytes > MAX_KEPT_HEADER_BYTES {
        headers.clear();
        headers.push(("original-headers".into(), HeaderValue::Text(format!("left out: {bytes} bytes"))));
    }
    let mut add = |name: &str, text: String| headers.push((name.into(), HeaderValue::Text(text)));
    add("reason", reason.into());
    add("detail", detail);
    add("original-exchange", message.exchange.clone());
    add("original-routing-key", message.routing_key.clone());
    add("failed-at", now.to_string());
    // the broker refuses a user_id that is not the publisher's own
    if let Some(user) = &message.user_id {
        add("original-user-id", user.clone());
    }
    Message { exchange: String::new(), routing_key: queue.into(), user_id: None, headers, ..message.clone() }
}

fn is_stripped(name: &str) -> bool {
    // names that we set ourselves are replaced when a dead letter fails a second time
    const OURS: [&str; 6] = ["reason", "detail", "original-exchange", "original-routing-key", "failed-at", "original-user-id"];
    STRIPPED.contains(&name) || OURS.contains(&name) || STRIPPED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn value_bytes(value: &HeaderValue) -> usize {
    match value {
        HeaderValue::Text(text) | HeaderValue::Other(text) => text.len(),
        HeaderValue::Integer(_) => 8,
        HeaderValue::Bool(_) => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_gives_back_the_message_that_it_was() {
        let header = |name: &str, text: &str| (name.to_owned(), HeaderValue::Text(text.into()));
        let original = Message {
            exchange: "remedyd.events".into(),
            routing_key: "agent.surveyed.5.4".into(),
            content_type: Some("application/json".into()),
            message_id: Some("m-1".into()),
            timestamp: Some(7),
            headers: vec![header("tenantid", "5.4"), ("n".into(), HeaderValue::Integer(3))],
            body: b"{}".to_vec(),
            ..Message::default()
        };
        let came = Message {
            user_id: Some("portal".into()),
            headers: [original.headers.clone(), vec![header("x-death", "x"), header("x-first-death-queue", "q")]].concat(),
            ..original.clone()
        };
        let now = Timestamp::from_second(1_795_425_600).expect("in range");
        let letter = Letter::of(dead_letter(&came, "invalid", "why".into(), now, "dead-letters"));
        assert_eq!((letter.reason.as_str(), letter.detail.as_str(), letter.failed_at), ("invalid", "why", Some(now)));
        assert_eq!((letter.user_id.as_deref(), letter.original), (Some("portal"), original));
    }
}
