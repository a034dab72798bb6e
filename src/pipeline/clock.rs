//! The clock port: what time it is for decisions. System time, the runtime's own, or the greatest event time seen.

use tokio::time::Instant;

use crate::model::time::{Span, Timestamp, after, millis, system_now};

/// Where `now` comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    System,
    /// As the system's, counted by the runtime's timer from a moment that was `epoch`: where a runtime's time is paused
    /// or wound forward, deadlines and pauses are by one clock.
    Runtime {
        epoch: Timestamp,
        since: Instant,
    },
    /// Virtual: the greatest event time seen. Timers fire as it passes them. Kept in the store.
    Events {
        now: Timestamp,
    },
}

impl Clock {
    /// Virtual time that has not begun.
    pub const EVENTS: Clock = Clock::Events { now: Timestamp::UNIX_EPOCH };

    pub fn now(&self) -> Timestamp {
        match self {
            Clock::System => system_now(),
            Clock::Runtime { epoch, since } => millis(after(*epoch, Span::try_from(since.elapsed()).unwrap_or(Span::MAX))),
            Clock::Events { now } => *now,
        }
    }

    /// What `now` becomes when an event of this time arrives.
    pub fn after_event(&self, time: Timestamp) -> Timestamp {
        match self {
            Clock::System | Clock::Runtime { .. } => self.now(),
            Clock::Events { now } => time.max(*now),
        }
    }

    pub fn is_virtual(&self) -> bool {
        matches!(self, Clock::Events { .. })
    }

    /// Moves virtual time forward; the others move themselves.
    pub fn advance(&mut self, to: Timestamp) {
        if let Clock::Events { now } = self {
            *now = to.max(*now);
        }
    }
}
