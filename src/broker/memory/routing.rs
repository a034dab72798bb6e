//! Where a message goes: from its exchange over the bindings into queues and taps.
//!
//! Never here: what becomes of it there.

use std::collections::BTreeSet;

use super::matching::{tenant_hash, topic_matches};
use super::state::{State, Stored, Tap};
use crate::broker::Message;
use crate::broker::topology::{Destination, ExchangeKind};

/// How far exchanges may feed exchanges. Ours are four deep; a loop ends here.
const MAX_HOPS: u8 = 8;

impl State {
    /// Puts the message where its exchange leads. Returns how many queues and taps took it.
    pub(super) fn route(&mut self, message: Message) -> usize {
        let mut queues = BTreeSet::new();
        let mut taps = BTreeSet::new();
        if message.exchange.is_empty() {
            // The default exchange: every queue is bound by its name, and a tap on it by the name that it watches.
            if self.queues.contains_key(&message.routing_key) {
                queues.insert(message.routing_key.clone());
            }
            let watching = |tap: &Tap| tap.exchange.is_empty() && tap.binding_key == message.routing_key;
            taps.extend(self.taps.iter().enumerate().filter(|(_, tap)| watching(tap)).map(|(index, _)| index));
        } else {
            self.follow(&message.exchange, &message, MAX_HOPS, &mut queues, &mut taps);
        }
        let place = (self.next_message, 0);
        self.next_message += 1;
        for name in &queues {
            if let Some(queue) = self.queues.get_mut(name) {
                let stored = Stored { place, redelivered: false, message: message.clone() };
                queue.ready.insert(place, stored);
                if queue.max_length.is_some_and(|length| queue.ready.len() > length) {
                    queue.ready.pop_first();
                }
            }
        }
        for index in &taps {
            // A tap whose reader has gone takes it all the same, as a queue without a consumer does.
            let _ = self.taps[*index].outlet.send(message.clone());
        }
        queues.len() + taps.len()
    }

    fn follow(&self, name: &str, message: &Message, hops: u8, queues: &mut BTreeSet<String>, taps: &mut BTreeSet<usize>) {
        let (Some(exchange), Some(hops)) = (self.exchanges.get(name), hops.checked_sub(1)) else {
            return;
        };
        let matched: Vec<&Destination> = match exchange.kind {
            ExchangeKind::Fanout => exchange.bindings.iter().map(|(_, to)| to).collect(),
            ExchangeKind::Topic => {
                let matches = |(key, _): &&(String, _)| topic_matches(key, &message.routing_key);
                exchange.bindings.iter().filter(matches).map(|(_, to)| to).collect()
            }
            ExchangeKind::TenantHash => {
                let bound = exchange.bindings.len().max(1) as u64;
                let slot = (tenant_hash(message) % bound) as usize;
                exchange.bindings.get(slot).map(|(_, to)| to).into_iter().collect()
            }
        };
        // As in RabbitMQ, the alternate exchange is for what no binding of this exchange matches, wherever
        // the bindings that do match lead in the end.
        let mut unmatched = matched.is_empty();
        for (index, tap) in self.taps.iter().enumerate() {
            let bound = tap.exchange == name
                && match exchange.kind {
                    ExchangeKind::Topic => topic_matches(&tap.binding_key, &message.routing_key),
                    ExchangeKind::Fanout | ExchangeKind::TenantHash => true,
                };
            if bound {
                unmatched = false;
                taps.insert(index);
            }
        }
        for destination in matched {
            match destination {
                Destination::Queue(queue) => {
                    queues.insert(queue.clone());
                }
                Destination::Exchange(next) => self.follow(next, message, hops, queues, taps),
            }
        }
        if unmatched && let Some(alternate) = &exchange.alternate {
            self.follow(alternate, message, hops, queues, taps);
        }
    }
}
