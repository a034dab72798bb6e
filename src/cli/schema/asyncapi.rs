//! The AsyncAPI 3 document: which messages go through which exchange, in both directions, and what is in them.
//!
//! Never here: a name or an argument of the topology (all are in [`Topology`]), or the form of an event (the wire's
//! schemas). The schemas stand in draft 07, which AsyncAPI's own tools read; the files beside it are the same in 2020-12.

use anyhow::Context as _;
use serde_json::{Map, Value, json};

use super::Examples;
use crate::broker::topology::{ExchangeKind, TENANT_HEADER, Topology};
use crate::wire::schema::{Direction, EventSchema, shared};
use crate::wire::{Reason, limits, outbound};

const SCHEMAS: &str = "/components/schemas";
const BINDING: &str = "0.3.0";

pub(super) fn document(examples: &Examples) -> anyhow::Result<Value> {
    let topology = Topology::new(1)?;
    let (events, definitions) = shared(SCHEMAS);
    let mut schemas = definitions;
    let mut messages = Map::new();
    for event in &events {
        let name = name(event);
        let example = examples.of(event.direction, event.event_type)?;
        messages.insert(name.clone(), message(event, example));
        schemas.insert(name, event.schema.clone());
    }
    messages.insert("dead-letter".to_owned(), dead_letter());
    Ok(json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "remedyd",
            "version": env!("CARGO_PKG_VERSION"),
            "description": format!(
                "{}. Events in and out are CloudEvents 1.0 over AMQP 0-9-1. Published are events in structured mode; taken is \
                 binary mode too (attributes as headers cloudEvents_<name>, data as the body). A message has at most {} bytes. \
                 Names of exchanges and queues begin with the prefix of the installation, here {}.",
                env!("CARGO_PKG_DESCRIPTION"),
                limits::MESSAGE_BYTES,
                topology.prefix(),
            ),
            "license": { "name": env!("CARGO_PKG_LICENSE") },
        },
        "defaultContentType": outbound::CONTENT_TYPE,
        "servers": {
            "broker": {
                "host": "{host}:5671",
                "protocol": "amqps",
                "description": "RabbitMQ 3.10 or newer",
                "variables": { "host": { "default": "localhost", "description": "The broker of the installation" } },
            },
        },
        "channels": {
            "events": routed(&topology, &topology.events(), "What producers publish.", &events, Direction::Inbound)?,
            "status": routed(&topology, &topology.status(), "What consumers bind their queues to.", &events, Direction::Outbound)?,
            "dead-letters": {
                "address": topology.dead_letters(),
                "description": "What can never be applied, as it came. Read it with a queue of your own policy; listing it by requeuing counts against its delivery limit.",
                "messages": { "dead-letter": { "$ref": "#/components/messages/dead-letter" } },
                "bindings": { "amqp": {
                    "is": "queue",
                    "queue": { "name": topology.dead_letters(), "durable": true, "exclusive": false, "autoDelete": false, "vhost": "/" },
                    "bindingVersion": BINDING,
                } },
            },
        },
        "operations": {
            "take-events": {
                "action": "receive",
                "channel": { "$ref": "#/channels/events" },
                "summary": "Takes what it can apply, once; the rest becomes a dead letter.",
                "bindings": { "amqp": { "ack": true, "bindingVersion": BINDING } },
            },
            "publish-status": {
                "action": "send",
                "channel": { "$ref": "#/channels/status" },
                "summary": "Says what has changed, each change once and in the order of its subject. After a crash an event may come again, byte for byte.",
                "bindings": { "amqp": { "deliveryMode": 2, "mandatory": true, "timestamp": true, "bindingVersion": BINDING } },
            },
            "put-aside": {
                "action": "send",
                "channel": { "$ref": "#/channels/dead-letters" },
                "summary": "Keeps what cannot be applied, with the reason.",
                "bindings": { "amqp": { "deliveryMode": 2, "mandatory": true, "bindingVersion": BINDING } },
            },
        },
        "components": { "messages": messages, "schemas": schemas },
    }))
}

fn name(event: &EventSchema) -> String {
    format!("{}.{}", event.direction.as_str(), event.event_type)
}

/// A channel that is an exchange and a pattern of routing keys.
fn routed(topology: &Topology, exchange: &str, about: &str, events: &[EventSchema], direction: Direction) -> anyhow::Result<Value> {
    let declared = topology.exchanges.iter().find(|known| known.name == exchange).context("an exchange that is not declared")?;
    let messages: Map<String, Value> = events
        .iter()
        .filter(|event| event.direction == direction)
        .map(|event| (name(event), json!({ "$ref": format!("#/components/messages/{}", name(event)) })))
        .collect();
    let kind = match declared.kind {
        ExchangeKind::Topic | ExchangeKind::Fanout => declared.kind.wire_name(),
        ExchangeKind::TenantHash => anyhow::bail!("{exchange} is no exchange for others"),
    };
    Ok(json!({
        "address": "{type}.{tenantid}",
        "description": about,
        "parameters": {
            "type": { "description": "The type of the event" },
            "tenantid": { "description": "<account_id>.<organization_id>, e.g. 5.4" },
        },
        "messages": messages,
        "bindings": { "amqp": {
            "is": "routingKey",
            "exchange": { "name": declared.name, "type": kind, "durable": true, "autoDelete": false, "vhost": "/" },
            "bindingVersion": BINDING,
        } },
    }))
}

fn message(event: &EventSchema, example: &Value) -> Value {
    let headers = json!({
        "type": "object",
        "properties": { TENANT_HEADER: { "description": "The tenantid of the event; partitions go by it", "type": "string" } },
    });
    json!({
        "name": event.event_type,
        "title": event.event_type,
        "contentType": outbound::CONTENT_TYPE,
        "headers": headers,
        "payload": { "$ref": format!("#{SCHEMAS}/{}", name(event)) },
        "bindings": { "amqp": { "messageType": event.event_type, "bindingVersion": BINDING } },
        "examples": [{ "name": event.event_type.replace('.', "-"), "payload": example }],
    })
}

fn dead_letter() -> Value {
    let text = json!({ "type": "string" });
    let reasons: Vec<&str> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    json!({
        "name": "dead-letter",
        "title": "A message that cannot be applied",
        "description": "Body, content type and headers are as they came; these headers are added.",
        "contentType": "application/octet-stream",
        "headers": {
            "type": "object",
            "required": ["reason", "detail", "original-exchange", "original-routing-key", "failed-at"],
            "properties": {
                "reason": { "type": "string", "enum": reasons },
                "detail": { "description": "The field and the rule, never a value", "type": "string", "maxLength": limits::DETAIL_BYTES },
                "original-exchange": text,
                "original-routing-key": text,
                "original-user-id": text,
                "failed-at": { "type": "string", "format": "date-time" },
            },
        },
        "payload": { "description": "The bytes as they came; whether they are JSON is not known" },
    })
}
