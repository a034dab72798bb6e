//! What the broker holds: queues with their messages, links with what they have out, faults to come.
//!
//! Never here: where an exchange leads, or a link's own calls.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc, watch};

use crate::broker::topology::{Destination, ExchangeKind, Topology};
use crate::broker::{Delivery, Lane, LinkState, Message, Token};

pub(super) struct Shared {
    pub(super) topology: Topology,
    pub(super) state: Mutex<State>,
    /// Something has changed that somebody may wait for.
    pub(super) changed: Notify,
}

pub(super) struct State {
    pub(super) exchanges: BTreeMap<String, Exchange>,
    pub(super) queues: BTreeMap<String, Queue>,
    pub(super) taps: Vec<Tap>,
    pub(super) links: Vec<LinkEntry>,
    pub(super) faults: Faults,
    /// Numbers messages in the order in which they were published.
    pub(super) next_message: u64,
    pub(super) down: bool,
    pub(super) blocked: Option<String>,
}

pub(super) struct Exchange {
    pub(super) kind: ExchangeKind,
    pub(super) alternate: Option<String>,
    pub(super) bindings: Vec<(String, Destination)>,
}

#[derive(Default)]
pub(super) struct Queue {
    /// By place in the queue, so that what is given back returns to its place. The second number tells copies.
    pub(super) ready: BTreeMap<(u64, u32), Stored>,
    pub(super) max_length: Option<usize>,
    /// Links that want this queue, oldest first; only the first is served (single active consumer).
    pub(super) consumers: VecDeque<usize>,
}

#[derive(Clone)]
pub(super) struct Stored {
    pub(super) place: (u64, u32),
    pub(super) redelivered: bool,
    pub(super) message: Message,
}

pub(super) struct Tap {
    pub(super) exchange: String,
    pub(super) binding_key: String,
    pub(super) outlet: mpsc::UnboundedSender<Message>,
}

pub(super) struct LinkEntry {
    pub(super) partition: u16,
    pub(super) prefetch: usize,
    pub(super) epoch: u64,
    pub(super) consuming: bool,
    pub(super) closed: bool,
    pub(super) next_tag: u64,
    pub(super) unsettled: BTreeMap<(Lane, u64), Stored>,
    pub(super) state: watch::Sender<LinkState>,
}

#[derive(Default)]
pub(super) struct Faults {
    pub(super) nack: u32,
    pub(super) give_back: u32,
    pub(super) duplicate: u32,
    pub(super) hold_confirms: bool,
    /// Counts releases, so that a confirm waits for the next one only.
    pub(super) releases: u64,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a failed test; the others' messages are still what they were.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `look` finds something.
    pub(super) async fn wait<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Before looking, so that a change right after is not missed.
            changed.as_mut().enable();
            let found = look(&mut self.lock());
            if let Some(found) = found {
                return found;
            }
            changed.await;
        }
    }

    pub(super) fn connect(&self, state: &mut State, index: usize) {
        let link = &mut state.links[index];
        link.epoch += 1;
        link.next_tag = 1;
        if link.consuming {
            for queue in self.queues_of(link.partition) {
                if let Some(queue) = state.queues.get_mut(&queue) {
                    queue.consumers.push_back(index);
                }
            }
        }
        state.announce(index);
    }

    /// What the link had unsettled goes back to its place.
    pub(super) fn disconnect(&self, state: &mut State, index: usize) {
        let State { links, queues, .. } = state;
        let link = &mut links[index];
        for ((lane, _), mut stored) in std::mem::take(&mut link.unsettled) {
            stored.redelivered = true;
            if let Some(queue) = queues.get_mut(&self.topology.queue(link.partition, lane)) {
                queue.ready.insert(stored.place, stored);
            }
        }
        self.cancel(state, index);
    }

    pub(super) fn cancel(&self, state: &mut State, index: usize) {
        for queue in self.queues_of(state.links[index].partition) {
            if let Some(queue) = state.queues.get_mut(&queue) {
                queue.consumers.retain(|consumer| *consumer != index);
            }
        }
    }

    pub(super) fn queues_of(&self, partition: u16) -> [String; 2] {
        [Lane::Reports, Lane::Surveys].map(|lane| self.topology.queue(partition, lane))
    }
}

impl State {
    /// Hands out the next delivery, if the link may have one.
    pub(super) fn take(&mut self, index: usize, lane: Lane, queue: &str) -> Option<Delivery> {
        let link = &mut self.links[index];
        let out = link.unsettled.keys().filter(|(of, _)| *of == lane).count();
        let queue = self.queues.get_mut(queue)?;
        if queue.consumers.front() != Some(&index) || out >= link.prefetch {
            return None;
        }
        let (_, stored) = queue.ready.pop_first()?;
        if self.faults.duplicate > 0 {
            self.faults.duplicate -= 1;
            let mut copy = stored.clone();
            copy.place.1 += 1;
            copy.redelivered = true;
            queue.ready.insert(copy.place, copy);
        }
        let token = Token { epoch: link.epoch, lane, tag: link.next_tag };
        link.next_tag += 1;
        let delivery = Delivery { token, redelivered: stored.redelivered, message: stored.message.clone() };
        link.unsettled.insert((lane, token.tag), stored);
        Some(delivery)
    }

    pub(super) fn is_idle(&self, topology: &Topology) -> bool {
        let lanes = [Lane::Reports, Lane::Surveys];
        let empty = |partition: u16| {
            lanes.iter().all(|lane| {
                let queue = self.queues.get(&topology.queue(partition, *lane));
                queue.is_none_or(|queue| queue.ready.is_empty())
            })
        };
        (0..topology.partitions()).all(empty) && self.links.iter().all(|link| link.unsettled.is_empty())
    }

    pub(super) fn announce(&mut self, index: usize) {
        let link = &self.links[index];
        let now = match (link.closed, self.down, &self.blocked) {
            (true, _, _) => LinkState::Closed,
            (false, true, _) => LinkState::Connecting,
            (false, false, None) => LinkState::Ready { epoch: link.epoch },
            (false, false, Some(reason)) => LinkState::Blocked { epoch: link.epoch, reason: reason.clone() },
        };
        link.state.send_replace(now);
    }
}
