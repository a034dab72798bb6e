//! The clock port: what time it is for decisions. System time, or the greatest event time seen.

use crate::model::time::{Timestamp, system_now};

/// Where `now` comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    System,
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
            Clock::Events { now } => *now,
        }
    }

    /// What `now` becomes when an event of this time arrives.
    pub fn after_event(&self, time: Timestamp) -> Timestamp {
        match self {
            Clock::System => system_now(),
            Clock::Events { now } => time.max(*now),
        }
    }

    pub fn is_virtual(&self) -> bool {
        matches!(self, Clock::Events { .. })
    }

    /// Moves virtual time forward; the system's moves itself.
    pub fn advance(&mut self, to: Timestamp) {
        if let Clock::Events { now } = self {
            *now = to.max(*now);
        }
    }
}
