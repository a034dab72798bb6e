//! Crash points: named places where a test can have the process killed, as a power cut or `kill -9` would, to see
//! that nothing is lost there. Without the feature `crash-points` a point is nothing at all: no branch, no
//! variable, no code.
//!
//! With it, `REMEDYD_CHECKPOINT_BYTES` makes checkpoints as frequent as a test needs them to come to the points in one,
//! and `REMEDYD_CRASH_AT=CP07:3` ends the process by SIGKILL, without a destructor or a flushed buffer, when it
//! comes to CP07 for the third time; a line on standard error says so before.
//!
//! Never here: anything that a service without the feature would do differently. A point is no place for work.

/// One row a point: name in the code, the place it stands for.
macro_rules! points {
    ($($point:ident: $place:literal;)*) => {
        /// A place where the process may die. The order is that of their numbers.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Point { $($point),* }

        /// Every point there is.
        pub const ALL: &[Point] = &[$(Point::$point),*];

        impl Point {
            /// What has just happened at it.
            pub const fn place(self) -> &'static str {
                match self { $(Point::$point => $place),* }
            }
        }
    };
}

points! {
    Received: "a delivery has been taken from the link";
    Decoded: "it has been decoded and checked";
    DuplicateFound: "its id is known with the same bytes";
    DeadLettered: "it can never be applied, and its dead letter is in the batch";
    Decided: "an event has been decided, and nothing is written";
    BatchBuilt: "a batch is complete, and not yet handed to the store";
    JournalWritten: "the journal has been given the batch, and not synced";
    JournalSynced: "the journal has it on the disk, and its COMMITTED does not count it yet";
    JournalBegun: "the next file of the journal is there, and nothing is in it";
    CheckpointBegun: "a closed file of the journal is about to go into sled";
    Applied: "sled has the rows of a checkpoint in memory";
    Flushed: "sled has written them";
    Synced: "they are on the disk, and sled's COMMITTED does not count them yet";
    CheckpointDurable: "sled covers the file, which is still there";
    JournalRemoved: "the file is gone, and its directory not synced";
    Committed: "the store has said so, and nothing of what follows has happened";
    SomeAcked: "acks of one lane are on the wire";
    AllAcked: "acks of both lanes are on the wire";
    OutboxRead: "recovery has read a row of the outbox";
    Published: "a message is on the wire, and not confirmed";
    Confirmed: "the broker has confirmed it, and its row is still there";
    RowDropped: "the removal of a confirmed row is in the batch";
    RowDroppedDurably: "that batch is durable";
    IntentSynced: "the intent of an attempt is durable, and nothing has run";
    Dispatched: "the attempt has run";
    OutcomeDecided: "its outcome has been decided, and is not durable";
    TimerFired: "a timer has been decided, and is not durable";
    TimerCommitted: "it is durable";
    InboxSwept: "the removal of an old id is in the batch";
    Creating: "a new store has its first row, and does not say that it is ready";
    Locked: "the store is locked";
    Opening: "sled is about to be opened";
    DatabaseOpen: "sled is open, and what it holds has been held against COMMITTED";
    Opened: "sled is ready, and the journal not read";
    JournalRead: "what the journal alone holds has been read again";
    Recovered: "the partition is as the store has it";
    ConsumersCancelled: "a stop has cancelled the consumers";
    FinalFlush: "a stop has closed and synced the store";
}

impl Point {
    /// `CP01` and so on.
    pub fn code(self) -> String {
        format!("CP{:02}", self as usize + 1)
    }
}

#[cfg(not(feature = "crash-points"))]
mod armed {
    use super::Point;

    /// Nothing.
    #[inline(always)]
    pub fn point(_: Point) {}

    /// Nothing; the condition is never asked for.
    #[inline(always)]
    pub fn point_if(_: Point, _: impl FnOnce() -> bool) {}

    /// As they are.
    #[inline(always)]
    pub fn checkpoint_bytes(bytes: u64) -> u64 {
        bytes
    }
}

#[cfg(feature = "crash-points")]
mod armed {
    use std::io::Write;
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{ALL, Point};

    const VARIABLE: &str = "REMEDYD_CRASH_AT";
    const CHECKPOINT_BYTES: &str = "REMEDYD_CHECKPOINT_BYTES";

    /// Where to die, and how many times the process may still come there.
    static TARGET: LazyLock<Option<(Point, AtomicU64)>> = LazyLock::new(|| {
        let text = std::env::var(VARIABLE).ok()?;
        let (code, hits) = text.split_once(':').unwrap_or((&text, "1"));
        let point = ALL.iter().copied().find(|point| point.code() == code);
        match (point, hits.parse()) {
            (Some(point), Ok(hits @ 1..)) => Some((point, AtomicU64::new(hits))),
            // a test that believes in a crash which never comes would prove nothing
            _ => end(&format!("{VARIABLE}={text}: there is no such crash point, or no such number of hits")),
        }
    });

    /// Ends the process here if this is the place and the time.
    pub fn point(at: Point) {
        if let Some((point, hits)) = &*TARGET
            && *point == at
            && hits.fetch_sub(1, Ordering::SeqCst) == 1
        {
            end(&format!("crash point {} reached: {}", at.code(), at.place()));
        }
    }

    /// The same for a place that is one only under a condition.
    pub fn point_if(at: Point, condition: impl FnOnce() -> bool) {
        if TARGET.as_ref().is_some_and(|(point, _)| *point == at) && condition() {
            point(at);
        }
    }

    /// How much is journalled before a checkpoint: what the test says, or as it is.
    pub fn checkpoint_bytes(bytes: u64) -> u64 {
        let Ok(text) = std::env::var(CHECKPOINT_BYTES) else { return bytes };
        text.parse().unwrap_or_else(|_| end(&format!("{CHECKPOINT_BYTES}={text}: not a number of bytes")))
    }

    fn end(why: &str) -> ! {
        // written in one piece and unbuffered; who reads it finds it as the last line
        let _ = std::io::stderr().write_all(format!("{why}\n").as_bytes());
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // not reached: the signal cannot be caught
        std::process::abort()
    }
}

pub use armed::{checkpoint_bytes, point, point_if};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_the_table() {
        let codes: Vec<String> = ALL.iter().map(|point| point.code()).collect();
        assert_eq!((codes[0].as_str(), codes.last().map(String::as_str)), ("CP01", Some(format!("CP{:02}", ALL.len()).as_str())));
        assert!(ALL.is_sorted());
    }
}
