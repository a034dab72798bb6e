//! Mutations: defects that are seeded on purpose (MUTnn), one at a time, to see whether the suite notices them. A suite
//! that lets one pass proves nothing by being green. Without the feature `mutations` there is none: [`seeded`] is a
//! constant, and what it guards is not compiled into anything.
//!
//! With it, `REMEDYD_MUTATION=MUT03` puts that one defect into the process; `tests/mutations.sh` does so with each in turn.
//! The hooks are one line each, where a person could make the same mistake.
//!
//! Never here: anything that a service without the feature would do differently; a defect that no invariant or table names.

/// One row a defect: name in the code, the invariant (design) or row of the tables that it breaks, what it does.
macro_rules! defects {
    ($($defect:ident: $breaks:literal, $does:literal;)*) => {
        /// A defect that can be seeded. The order is that of their numbers.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Defect { $($defect),* }

        /// Every defect there is.
        pub const ALL: &[Defect] = &[$(Defect::$defect),*];

        impl Defect {
            /// The number of the invariant, or the row, that does not hold with it.
            pub const fn breaks(self) -> &'static str {
                match self { $(Defect::$defect => $breaks),* }
            }

            /// What is wrong with it.
            pub const fn does(self) -> &'static str {
                match self { $(Defect::$defect => $does),* }
            }
        }
    };
}

defects! {
    AckBeforeSync: "8", "a delivery is acked before its effect is durable";
    DedupeSkipped: "10", "an event whose id is known is decided again";
    OtherBytesPass: "10", "other bytes under a known id pass for a duplicate";
    OutboxDroppedEarly: "11", "a row leaves the outbox when it is handed to the relay";
    LostIsConfirmed: "11", "no answer to a publication passes for its confirm";
    ReturnedIsConfirmed: "11", "a message that the broker has returned passes for confirmed";
    NotRequestedIsConfirm: "11", "confirms are not asked for, and what the library then says passes for one";
    FailedSyncIsDurable: "21", "a commit that has failed passes for durable";
    RevisionIgnored: "3", "the approval of an older plan sets off the current one";
    RoleIgnored: "3", "the approval of somebody who may only read counts";
    AttemptsOffByOne: "6", "a task is attempted once too often";
    AttemptIdRepeats: "5", "all attempts of a task have one id";
    AttemptBeforeIntent: "3", "an attempt runs before its intent is durable";
    GateIgnoresFailed: "1", "the gate looks past a failed task";
    SequenceSkipped: "2", "a refusal takes two numbers of the sequence";
    TenantOfBody: "16", "the tenant of a new report is what its body says";
    TimersLost: "15", "a start does not take up the timers";
    AttemptsLeftOpen: "T12", "a start leaves the attempts that were in the field to their leases";
    CancelForgotten: "T19", "a task that was to be cancelled is tried again at the next survey";
    DeadLetterDropped: "8", "what can never be applied is acked and nothing else";
    AuditMissing: "20", "a decision by a person leaves no row of the audit";
    ParkedLost: "8", "a start does not take up what was parked";
    JournalNotReplayed: "8", "an open does not read the journal again";
    JournalRemovedEarly: "8", "a file of the journal is removed before its checkpoint is durable";
    OvertakenIsDone: "2", "what has overtaken a refused message is not sent again behind it";
    OneLineForAll: "19", "a tenant waits behind everything that another has sent before";
    EpochIgnored: "2", "what was lost with its connection is published on the next one beside what stands behind it";
    RemovalForgotten: "11", "a row leaves the overlay with nothing behind it although sled may have it";
}

impl Defect {
    /// `MUT01` and so on.
    pub fn code(self) -> String {
        format!("MUT{:02}", self as usize + 1)
    }
}

#[cfg(not(feature = "mutations"))]
mod armed {
    use super::Defect;

    /// Never.
    #[inline(always)]
    pub const fn seeded(_: Defect) -> bool {
        false
    }
}

#[cfg(feature = "mutations")]
mod armed {
    use std::io::Write;
    use std::sync::LazyLock;

    use super::{ALL, Defect};

    const VARIABLE: &str = "REMEDYD_MUTATION";

    static SEEDED: LazyLock<Option<Defect>> = LazyLock::new(|| {
        let code = std::env::var(VARIABLE).ok()?;
        let found = ALL.iter().copied().find(|defect| defect.code() == code);
        if found.is_none() {
            // a check that believes in a defect which is not there would believe in its tests as well
            let _ = std::io::stderr().write_all(format!("{VARIABLE}={code}: there is no such mutation\n").as_bytes());
            std::process::abort();
        }
        found
    });

    /// Whether this process has the defect.
    #[inline]
    pub fn seeded(defect: Defect) -> bool {
        *SEEDED == Some(defect)
    }
}

pub use armed::seeded;

#[cfg(test)]
mod tests {
    use super::*;

    /// `tests/mutations.sh` reads the table from what this prints.
    #[test]
    fn numbers_follow_the_table() {
        for defect in ALL {
            println!("{}|{}|{}", defect.code(), defect.breaks(), defect.does());
        }
        let codes: Vec<String> = ALL.iter().map(|defect| defect.code()).collect();
        assert_eq!((codes[0].as_str(), codes.last().cloned()), ("MUT01", Some(format!("MUT{:02}", ALL.len()))));
        assert!(ALL.is_sorted() && ALL.len() >= 15);
    }
}
