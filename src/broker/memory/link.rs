//! A link to the broker in memory: what [`Link`] asks for, under the broker's lock.
//!
//! Never here: anything in the background. A call does its work at once, or waits for a change.

use std::sync::Arc;

use tokio::sync::watch;

use super::state::{Shared, State};
use crate::broker::{Delivery, Lane, Link, LinkState, Message, PublishError, Settlement, Token};

/// A link to the broker in this process. Dropping it without closing is a crash: what it had unsettled comes
/// again.
pub struct MemoryLink {
    pub(super) shared: Arc<Shared>,
    pub(super) index: usize,
}

impl MemoryLink {
    fn end(&self) {
        let mut state = self.shared.lock();
        if !state.links[self.index].closed {
            self.shared.disconnect(&mut state, self.index);
            state.links[self.index].closed = true;
            state.links[self.index].consuming = false;
            state.announce(self.index);
        }
        drop(state);
        self.shared.changed.notify_waiters();
    }
}

/// What became of a publication at the first look.
enum Outcome {
    Done(Result<(), PublishError>),
    /// Routed; the confirm comes with the release after this one, in this epoch only.
    Held {
        releases: u64,
        epoch: u64,
    },
}

impl Link for MemoryLink {
    async fn next(&self, lane: Lane) -> Option<Delivery> {
        let index = self.index;
        let partition = self.shared.lock().links[index].partition;
        let queue = self.shared.topology.queue(partition, lane);
        let look = |state: &mut State| {
            if state.links[index].consuming { state.take(index, lane, &queue).map(Some) } else { Some(None) }
        };
        self.shared.wait(look).await
    }

    fn settle(&self, token: Token, how: Settlement) {
        let mut state = self.shared.lock();
        let State { links, queues, .. } = &mut *state;
        let link = &mut links[self.index];
        if link.epoch != token.epoch {
            return;
        }
        let Some(mut stored) = link.unsettled.remove(&(token.lane, token.tag)) else {
            return;
        };
        if how == Settlement::Requeue {
            let queue = self.shared.topology.queue(link.partition, token.lane);
            stored.redelivered = true;
            if let Some(queue) = queues.get_mut(&queue) {
                queue.ready.insert(stored.place, stored);
            }
        }
        drop(state);
        self.shared.changed.notify_waiters();
    }

    async fn publish_in(&self, only_in: Option<u64>, message: impl Into<Arc<Message>> + Send) -> Result<(), PublishError> {
        let (index, message) = (self.index, message.into());
        let look = |state: &mut State| {
            let link = &state.links[index];
            if link.closed {
                return Some(Outcome::Done(Err(PublishError::Closed)));
            }
            if state.down || state.blocked.is_some() {
                return None;
            }
            let epoch = link.epoch;
            if only_in.is_some_and(|only_in| only_in != epoch) {
                return Some(Outcome::Done(Err(PublishError::Lost("the connection it was for has ended".to_owned()))));
            }
            let faults = &mut state.faults;
            if faults.nack > 0 {
                faults.nack -= 1;
                return Some(Outcome::Done(Err(PublishError::Nacked)));
            }
            if faults.give_back > 0 {
                faults.give_back -= 1;
                let reason = "312 NO_ROUTE".to_owned();
                return Some(Outcome::Done(Err(PublishError::Returned(reason))));
            }
            if state.route(Message::clone(&message)) == 0 {
                let reason = "312 NO_ROUTE".to_owned();
                return Some(Outcome::Done(Err(PublishError::Returned(reason))));
            }
            if state.faults.hold_confirms {
                let releases = state.faults.releases;
                return Some(Outcome::Held { releases, epoch });
            }
            Some(Outcome::Done(Ok(())))
        };
        let outcome = self.shared.wait(look).await;
        self.shared.changed.notify_waiters();
        match outcome {
            Outcome::Done(verdict) => verdict,
            Outcome::Held { releases, epoch } => {
                let look = |state: &mut State| {
                    if state.links[index].closed || state.links[index].epoch != epoch || state.down {
                        let reason = "the connection ended".to_owned();
                        return Some(Err(PublishError::Lost(reason)));
                    }
                    (state.faults.releases > releases).then_some(Ok(()))
                };
                self.shared.wait(look).await
            }
        }
    }

    fn publishing_epoch(&self) -> u64 {
        self.shared.lock().links[self.index].epoch
    }

    fn stop_consuming(&self) {
        let mut state = self.shared.lock();
        state.links[self.index].consuming = false;
        self.shared.cancel(&mut state, self.index);
        drop(state);
        self.shared.changed.notify_waiters();
    }

    fn state(&self) -> watch::Receiver<LinkState> {
        self.shared.lock().links[self.index].state.subscribe()
    }

    async fn close(&self) {
        self.end();
    }
}

impl Drop for MemoryLink {
    fn drop(&mut self) {
        self.end();
    }
}
