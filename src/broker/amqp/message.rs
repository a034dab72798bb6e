//! [`Message`] to and from what lapin sends and receives.
//!
//! Never here: what a body means.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use crate::broker::{HeaderValue, Message};

/// AMQP `delivery_mode`: survives a restart of the broker.
const PERSISTENT: u8 = 2;

/// A message as lapin publishes it.
pub struct Outgoing {
    pub exchange: ShortString,
    pub routing_key: ShortString,
    pub properties: BasicProperties,
}

/// Fails with the name of what AMQP cannot carry: names and properties end at 255 bytes.
pub fn outgoing(message: &Message) -> Result<Outgoing, String> {
    let mut properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
    if let Some(value) = &message.content_type {
        properties = properties.with_content_type(short("content_type", value)?);
    }
    if let Some(value) = &message.message_id {
        properties = properties.with_message_id(short("message_id", value)?);
    }
    if let Some(value) = &message.app_id {
        properties = properties.with_app_id(short("app_id", value)?);
    }
    // `user_id` stays unset: the broker would check it against the connection's user, and close the channel
    // over a message that was copied from somebody else.
    if let Some(seconds) = message.timestamp {
        properties = properties.with_timestamp(seconds);
    }
    if !message.headers.is_empty() {
        let mut headers = FieldTable::default();
        for (name, value) in &message.headers {
            let value = match value {
                HeaderValue::Text(text) | HeaderValue::Other(text) => AMQPValue::LongString(text.as_str().into()),
                HeaderValue::Integer(number) => AMQPValue::LongLongInt(*number),
                HeaderValue::Bool(flag) => AMQPValue::Boolean(*flag),
            };
            headers.insert(short("header name", name)?, value);
        }
        properties = properties.with_headers(headers);
    }
    Ok(Outgoing { exchange: short("exchange", &message.exchange)?, routing_key: short("routing key", &message.routing_key)?, properties })
}

/// What arrived, or came back.
pub fn incoming(exchange: &ShortString, routing_key: &ShortString, properties: &BasicProperties, body: Vec<u8>) -> Message {
    let text = |value: &Option<ShortString>| value.as_ref().map(ToString::to_string);
    let headers = properties.headers().as_ref().map_or_else(Vec::new, |table| {
        let entry = |(name, value): (&ShortString, &AMQPValue)| (name.to_string(), header(value));
        table.inner().iter().map(entry).collect()
    });
    Message {
        exchange: exchange.to_string(),
        routing_key: routing_key.to_string(),
        content_type: text(properties.content_type()),
        message_id: text(properties.message_id()),
        app_id: text(properties.app_id()),
        user_id: text(properties.user_id()),
        timestamp: *properties.timestamp(),
        headers,
        body,
    }
}

fn header(value: &AMQPValue) -> HeaderValue {
    match value {
        AMQPValue::Boolean(flag) => HeaderValue::Bool(*flag),
        AMQPValue::ShortShortInt(number) => HeaderValue::Integer((*number).into()),
        AMQPValue::ShortShortUInt(number) => HeaderValue::Integer((*number).into()),
        AMQPValue::ShortInt(number) => HeaderValue::Integer((*number).into()),
        AMQPValue::ShortUInt(number) => HeaderValue::Integer((*number).into()),
        AMQPValue::LongInt(number) => HeaderValue::Integer((*number).into()),
        AMQPValue::LongUInt(number) => HeaderValue::Integer((*number).into()),
        AMQPValue::LongLongInt(number) => HeaderValue::Integer(*number),
        // seconds since 1970; no clock reaches the end of the range
        AMQPValue::Timestamp(seconds) => HeaderValue::Integer(i64::try_from(*seconds).unwrap_or(i64::MAX)),
        AMQPValue::ShortString(text) => HeaderValue::Text(text.to_string()),
        AMQPValue::LongString(text) => match std::str::from_utf8(text.as_bytes()) {
            Ok(text) => HeaderValue::Text(text.to_owned()),
            Err(_) => HeaderValue::Other(text.to_string()),
        },
        AMQPValue::Float(_)
        | AMQPValue::Double(_)
        | AMQPValue::DecimalValue(_)
        | AMQPValue::FieldArray(_)
        | AMQPValue::FieldTable(_)
        | AMQPValue::ByteArray(_)
        | AMQPValue::Void => HeaderValue::Other(format!("{value:?}")),
    }
}

fn short(what: &str, value: &str) -> Result<ShortString, String> {
    // `ShortString::from` panics instead.
    ShortString::try_new(value).map_err(|_| format!("{what} of {} bytes (at most 255)", value.len()))
}
