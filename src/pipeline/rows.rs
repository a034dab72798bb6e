//! Rows: the stored forms of the pipeline's own records, and how each is framed. Never here: a decision.

use std::borrow::Cow;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::broker::{HeaderValue, Message};
use crate::model::agent::Agent;
use crate::model::ids::{ReportId, TenantId};
use crate::model::time::Timestamp;
use crate::store::{StoreError, record};
use crate::wire;

/// `s/…`: a subject without its reports, which have rows of their own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SubjectRow {
    pub agent: Option<Agent>,
    /// The reports that a survey or a timer may still touch.
    pub live_reports: Vec<ReportId>,
}

/// `i/…`: an event that was applied (or is parked), by the hash of its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InboxRow {
    /// Hash of the bytes: the same id with others is `id_reused`.
    pub digest: [u8; 16],
    /// Day of arrival, counted from 1970; the row is dropped a week later.
    pub day: u32,
}

impl InboxRow {
    pub fn encode(self) -> Vec<u8> {
        // no JSON: these are the most numerous rows, and an ordinary one is 20 bytes
        let mut bytes = self.digest.to_vec();
        bytes.extend_from_slice(&self.day.to_be_bytes());
        bytes
    }

    pub fn decode(key: &[u8], bytes: &[u8]) -> Result<Self, StoreError> {
        let parts = bytes.split_first_chunk::<16>().and_then(|(digest, day)| Some((*digest, u32::from_be_bytes(day.try_into().ok()?))));
        let (digest, day) = parts.ok_or_else(|| damaged(key, "an inbox row has 20 bytes"))?;
        Ok(Self { digest, day })
    }
}

/// A message with everything that a re-publication must repeat to the byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct MessageHead<'a> {
    exchange: Cow<'a, str>,
    routing_key: Cow<'a, str>,
    content_type: Option<Cow<'a, str>>,
    message_id: Option<Cow<'a, str>>,
    app_id: Option<Cow<'a, str>>,
    timestamp: Option<u64>,
    headers: Vec<(Cow<'a, str>, StoredHeader<'a>)>,
    /// What the order is kept within; none for dead letters.
    order_key: Option<Cow<'a, str>>,
    body_crc: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum StoredHeader<'a> {
    Bool(bool),
    Integer(i64),
    Text(Cow<'a, str>),
}

/// `o/…`: a message to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxRow {
    pub message: Arc<Message>,
    /// Messages of one key arrive in the order of their rows (`<tenant>:<subject>`).
    pub order_key: Option<Arc<str>>,
}

impl OutboxRow {
    pub fn encode(&self) -> Vec<u8> {
        frame(&self.message, self.order_key.as_deref())
    }

    pub fn decode(key: &[u8], bytes: &[u8]) -> Result<Self, StoreError> {
        let (message, order_key) = unframe(key, bytes)?;
        Ok(Self { message: Arc::new(message), order_key: order_key.map(Arc::from) })
    }
}

/// `p/…`: an event that is ahead of what is known, as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParkedRow {
    pub message: Message,
    pub until: Timestamp,
}

impl ParkedRow {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = self.until.as_millisecond().to_be_bytes().to_vec();
        bytes.extend_from_slice(&frame(&self.message, None));
        bytes
    }

    pub fn decode(key: &[u8], bytes: &[u8]) -> Result<Self, StoreError> {
        let (until, message) = bytes.split_first_chunk::<8>().ok_or_else(|| damaged(key, "too short for a parked event"))?;
        let until = Timestamp::from_millisecond(i64::from_be_bytes(*until)).map_err(|_| damaged(key, "the time is out of range"))?;
        Ok(Self { message: unframe(key, message)?.0, until })
    }
}

/// `d/…`: a message that can never be applied, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetterRow {
    pub reason: String,
    pub detail: String,
    pub event_id: Option<String>,
    pub event_type: Option<String>,
    pub tenant: Option<TenantId>,
    pub failed_at: Timestamp,
    pub original_exchange: String,
    pub original_routing_key: String,
    pub body_bytes: usize,
}

/// A message as the wire's decoder takes it.
pub fn decode(message: &Message) -> Result<wire::Inbound, wire::Rejection> {
    let headers: Vec<(String, String)> = message.headers.iter().map(|(name, value)| (name.clone(), header_text(value))).collect();
    wire::decode(&wire::Raw { content_type: message.content_type.as_deref(), headers: &headers, body: &message.body })
}

fn header_text(value: &HeaderValue) -> String {
    match value {
        HeaderValue::Text(text) | HeaderValue::Other(text) => text.clone(),
        HeaderValue::Integer(number) => number.to_string(),
        HeaderValue::Bool(flag) => flag.to_string(),
    }
}

/// Layout: u32 length of the head, the head as a record, the body.
fn frame(message: &Message, order_key: Option<&str>) -> Vec<u8> {
    fn stored((name, value): &(String, HeaderValue)) -> (Cow<'_, str>, StoredHeader<'_>) {
        let value = match value {
            HeaderValue::Text(text) | HeaderValue::Other(text) => StoredHeader::Text(text.into()),
            HeaderValue::Integer(number) => StoredHeader::Integer(*number),
            HeaderValue::Bool(flag) => StoredHeader::Bool(*flag),
        };
        (name.into(), value)
    }
    let head = record::encode(&MessageHead {
        exchange: (&message.exchange).into(),
        routing_key: (&message.routing_key).into(),
        content_type: message.content_type.as_deref().map(Cow::Borrowed),
        message_id: message.message_id.as_deref().map(Cow::Borrowed),
        app_id: message.app_id.as_deref().map(Cow::Borrowed),
        timestamp: message.timestamp,
        headers: message.headers.iter().map(stored).collect(),
        order_key: order_key.map(Cow::Borrowed),
        body_crc: crc32fast::hash(&message.body),
    });
    let mut bytes = Vec::with_capacity(4 + head.len() + message.body.len());
    bytes.extend_from_slice(&(head.len() as u32).to_be_bytes());
    bytes.extend_from_slice(&head);
    bytes.extend_from_slice(&message.body);
    bytes
}

fn unframe(key: &[u8], bytes: &[u8]) -> Result<(Message, Option<String>), StoreError> {
    let split = bytes.split_first_chunk::<4>().and_then(|(length, rest)| rest.split_at_checked(u32::from_be_bytes(*length) as usize));
    let (head, body) = split.ok_or_else(|| damaged(key, "shorter than its head says"))?;
    let head: MessageHead<'_> = record::decode(key, head)?;
    if crc32fast::hash(body) != head.body_crc {
        return Err(damaged(key, "the checksum of the body does not match"));
    }
    let restored = |value| match value {
        StoredHeader::Text(text) => HeaderValue::Text(text.into_owned()),
        StoredHeader::Integer(number) => HeaderValue::Integer(number),
        StoredHeader::Bool(flag) => HeaderValue::Bool(flag),
    };
    let message = Message {
        exchange: head.exchange.into_owned(),
        routing_key: head.routing_key.into_owned(),
        content_type: head.content_type.map(Cow::into_owned),
        message_id: head.message_id.map(Cow::into_owned),
        app_id: head.app_id.map(Cow::into_owned),
        user_id: None,
        timestamp: head.timestamp,
        headers: head.headers.into_iter().map(|(name, value)| (name.into_owned(), restored(value))).collect(),
        body: body.to_vec(),
    };
    Ok((message, head.order_key.map(Cow::into_owned)))
}

fn damaged(key: &[u8], what: &str) -> StoreError {
    StoreError::Record { key: String::from_utf8_lossy(key).into_owned(), what: what.into() }
}
