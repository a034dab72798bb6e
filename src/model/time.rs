//! Points in time and spans. The only file that reads the system's clocks.
//!
//! Everything is UTC at millisecond precision: what is stored, compared and published is the same value,
//! so that a decision replayed from its record gives the same bytes.

use std::time::{Duration, Instant};

use jiff::SignedDuration;
pub use jiff::Timestamp;

/// A span of time. Ours are whole milliseconds.
pub type Span = SignedDuration;

/// The system's clock, cut to milliseconds.
pub fn system_now() -> Timestamp {
    millis(Timestamp::now())
}

/// How long something takes, by the monotonic clock: for limits on waiting, never for a decision.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// `at` cut to milliseconds.
pub fn millis(at: Timestamp) -> Timestamp {
    // as_millisecond rounds towards zero; a Timestamp made of its own milliseconds is in range
    Timestamp::from_millisecond(at.as_millisecond()).unwrap_or(at)
}

/// `at + span`, held at the end of representable time instead of wrapping or panicking.
pub fn after(at: Timestamp, span: Span) -> Timestamp {
    at.checked_add(span).unwrap_or(if span.is_negative() { Timestamp::MIN } else { Timestamp::MAX })
}

/// The mirror of [`after`].
pub fn before(at: Timestamp, span: Span) -> Timestamp {
    after(at, -span)
}

pub const fn minutes(n: i64) -> Span {
    Span::from_secs(n * 60)
}

pub const fn hours(n: i64) -> Span {
    Span::from_secs(n * 3_600)
}

pub const fn days(n: i64) -> Span {
    Span::from_secs(n * 86_400)
}
