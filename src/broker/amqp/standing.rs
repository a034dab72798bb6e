//! Where the two connections stand, and the one [`LinkState`] that follows from it.
//!
//! Never here: a decision; this is what the rest of the process sees of the link.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::broker::LinkState;

pub struct Standing {
    inner: Mutex<Inner>,
    /// Asked for with every message.
    publishing_epoch: AtomicU64,
    state: watch::Sender<LinkState>,
}

#[derive(Default)]
struct Inner {
    consuming: Option<(Instant, u64)>,
    publishing: Option<(Instant, Option<String>)>,
    closed: bool,
}

impl Standing {
    pub fn new() -> Self {
        Self { inner: Mutex::default(), publishing_epoch: AtomicU64::new(1), state: watch::Sender::new(LinkState::Connecting) }
    }

    pub fn state(&self) -> watch::Receiver<LinkState> {
        self.state.subscribe()
    }

    pub fn consuming(&self, epoch: u64) {
        self.change(|inner| inner.consuming = Some((Instant::now(), epoch)));
    }

    /// Returns how long consuming had been possible.
    pub fn not_consuming(&self) -> Duration {
        self.change(|inner| inner.consuming.take()).map_or(Duration::ZERO, |(since, _)| since.elapsed())
    }

    pub fn publishing(&self) {
        self.change(|inner| inner.publishing = Some((Instant::now(), None)));
    }

    /// The broker blocks (`Some` reason) or no longer does.
    pub fn blocked(&self, reason: Option<String>) {
        self.change(|inner| {
            if let Some((_, blocked)) = &mut inner.publishing {
                *blocked = reason;
            }
        });
    }

    /// [`crate::broker::Link::publishing_epoch`].
    pub fn publishing_epoch(&self) -> u64 {
        self.publishing_epoch.load(Ordering::Acquire)
    }

    /// Ends the epoch of publishing; returns how long publishing had been possible.
    pub fn not_publishing(&self) -> Duration {
        let Some((since, _)) = self.change(|inner| inner.publishing.take()) else { return Duration::ZERO };
        self.publishing_epoch.fetch_add(1, Ordering::Release);
        since.elapsed()
    }

    pub fn closed(&self) {
        self.change(|inner| inner.closed = true);
    }

    fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.lock();
        let answer = change(&mut inner);
        let now = inner.state();
        // Under the lock, so that the states are seen in the order in which they came about.
        self.state.send_if_modified(|state| {
            let changed = *state != now;
            *state = now;
            changed
        });
        answer
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn state(&self) -> LinkState {
        match (self.closed, &self.consuming, &self.publishing) {
            (true, _, _) => LinkState::Closed,
            (false, Some((_, epoch)), Some((_, None))) => LinkState::Ready { epoch: *epoch },
            (false, Some((_, epoch)), Some((_, Some(reason)))) => LinkState::Blocked { epoch: *epoch, reason: reason.clone() },
            (false, None, _) | (false, _, None) => LinkState::Connecting,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_ends_with_a_session_that_had_one() {
        let standing = Standing::new();
        // a connection that was never made
        standing.not_publishing();
        assert_eq!(standing.publishing_epoch(), 1);
        standing.publishing();
        standing.not_publishing();
        standing.not_publishing();
        assert_eq!(standing.publishing_epoch(), 2);
    }
}
