//! Ingest: from the link to the engine. Decodes, checks whom the message may speak for, and hands on; never
//! settles, never decides, never drops.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::broker::{Lane, Link, Message, Token};
use crate::config::{Authority, Publishers};
use crate::crash::{self, Point};
use crate::model::time::Stopwatch;
use crate::wire::{Inbound, Reason, Rejection};

use super::counters::Counters;
use super::rows;

/// A message on its way to the engine.
#[derive(Debug)]
pub struct Arrival {
    pub token: Token,
    pub message: Message,
    pub decoded: Result<Inbound, Rejection>,
    /// Since it was here.
    pub since: Stopwatch,
}

/// Runs until the link stops consuming or the engine is gone. What is not handed on is not acked, and comes again.
pub(super) async fn ingest<L: Link>(
    link: Arc<L>,
    lane: Lane,
    users: Arc<Publishers>,
    counters: Arc<Counters>,
    engine: mpsc::Sender<Arrival>,
) {
    while let Some(delivery) = link.next(lane).await {
        let since = Stopwatch::start();
        Counters::add(&counters.received, 1);
        crash::point(Point::Received);
        let decoded = rows::decode(&delivery.message).and_then(|inbound| admit(&users, &delivery.message, inbound));
        crash::point(Point::Decoded);
        let arrival = Arrival { token: delivery.token, message: delivery.message, decoded, since };
        if engine.send(arrival).await.is_err() {
            return;
        }
    }
}

/// Whom a tenant's message may come from (messages.md).
fn admit(users: &Publishers, message: &Message, inbound: Inbound) -> Result<Inbound, Rejection> {
    let event = &inbound.event;
    let detail = match (users.authority(message.user_id.as_deref(), event.tenant.account, event.kind.name()), event.kind.actor()) {
        (Authority::Refused { detail }, _) => detail,
        (Authority::Allowed { role_believed: false }, Some(_)) => {
            "data.actor: this user is not a portal, whose word on roles is taken".into()
        }
        (Authority::Allowed { .. }, _) => match &inbound.header_tenant {
            Some(header) if *header != event.tenant.to_string() => {
                format!("tenantid: the header says {header:?}, the event {}", event.tenant)
            }
            Some(_) | None => return Ok(inbound),
        },
    };
    Err(Rejection {
        reason: Reason::TenantMismatch,
        detail,
        id: Some(event.id.clone()),
        // its row is filed under no tenant: a stranger must not push out those of the one that he claims to be
        tenant: None,
        event_type: Some(event.kind.name().into()),
    })
}
