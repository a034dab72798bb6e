//! From an encoded event to the message and outbox row that carry it. Never here: what an event says.

use std::sync::Arc;

use crate::broker::{HeaderValue, Message};
use crate::wire::Outbound;

use super::rows::OutboxRow;

/// `app_id` of everything that the service publishes (messages.md).
pub const APP_ID: &str = "remedyd";

pub(super) fn row(outbound: Outbound, exchange: &str) -> OutboxRow {
    let Outbound { routing_key, message_id, content_type, timestamp_s, body, tenantid } = outbound;
    // the id is <tenant>:<subject>:<sequence>; order is kept within the first two
    let order_key = message_id.rsplit_once(':').map_or(message_id.as_str(), |(key, _)| key).into();
    OutboxRow {
        message: Arc::new(Message {
            exchange: exchange.into(),
            routing_key,
            content_type: Some(content_type.into()),
            message_id: Some(message_id),
            app_id: Some(APP_ID.into()),
            user_id: None,
            timestamp: Some(timestamp_s),
            headers: vec![("tenantid".into(), HeaderValue::Text(tenantid))],
            body,
        }),
        order_key: Some(order_key),
    }
}
