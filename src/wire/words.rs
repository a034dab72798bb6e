//! Words of closed lists as the wire writes them: read from a word, written as it, and listed in the schemas.
//!
//! Never here: what a word means. A list is whole because its `match` has to be; the words of the model are the model's own.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize, Serializer};

use crate::machine::notice::{BlockerCode, NextAction, PageReason, PlanShape, RefusalCode, ReopenCause, Urgency};
use crate::model::actor::Role;
use crate::model::agent::{FirewallStatus, Presence};
use crate::model::remediation::{Cancellation, RemediationType, State, Status};
use crate::model::report::{AttackKind, Phase, ReportStatus, Severity};

/// A word of a closed list.
pub trait Word: Sized + Copy + 'static {
    /// The list's name in the schemas.
    const NAME: &'static str;
    const ALL: &'static [Self];
    fn word(self) -> &'static str;
}

/// [`Word`], as a field.
pub struct OneOf<T>(pub T);

impl<'de, T: Word> Deserialize<'de> for OneOf<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        T::ALL.iter().copied().find(|word| word.word() == text).map(OneOf).ok_or_else(|| {
            let words: Vec<_> = T::ALL.iter().map(|word| word.word()).collect();
            D::Error::custom(format_args!("unknown variant, expected one of {}", words.join(", ")))
        })
    }
}

impl<T: Word> Serialize for OneOf<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.word())
    }
}

impl<T: Word> JsonSchema for OneOf<T> {
    fn schema_name() -> Cow<'static, str> {
        T::NAME.into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let words: Vec<_> = T::ALL.iter().map(|word| word.word()).collect();
        json_schema!({ "type": "string", "enum": words })
    }
}

macro_rules! words {
    ($($type:ident $name:literal: $($variant:ident)+;)*) => {$(
        impl Word for $type {
            const NAME: &'static str = $name;
            const ALL: &'static [Self] = &[$($type::$variant),+];

            fn word(self) -> &'static str {
                // the match is the check that the list is whole
                match self {
                    $($type::$variant => self.as_str(),)+
                }
            }
        }
    )*};
}

words! {
    Severity "Severity": Low High Critical;
    AttackKind "AttackKind": Phishing MalwarePersistence IdentityCompromise Unknown;
    RemediationType "RemediationType": Assisted Manual Containment;
    Role "Role": Admin SecurityEngineer User ReadOnly Finance Marketing Provisioner;
    ReportStatus "ReportStatus": Sent AutoRemediating Closed Dismissed PartnerDismissed Deleting;
    Phase "Phase": InRevision AwaitingApproval Blocked Remediating Ready;
    Presence "Presence": Known Online Offline Unresponsive Removed;
    FirewallStatus "FirewallStatus": Enabled PendingIsolation Isolated PendingRelease;
    Urgency "Urgency": PageNow WithinHour BusinessDay;
    PlanShape "PlanShape": Assisted Manual Both None;
    NextAction "NextAction": ReadReport ReviewPlan WalkManualSteps Acknowledge;
    ReopenCause "ReopenCause": Requested FootholdReturned ResidualFailed;
    PageReason "PageReason": CriticalReport NotActedOn SlaBreached IsolationFailed;
    BlockerCode "BlockerCode": RoleNotAllowed NotActive InRevision NotReviewed TaskFailed TaskExpired TaskCancelled TaskOutcomeUnknown
        RebootPending AgentUnresponsive TaskPending;
    RefusalCode "RefusalCode": RoleNotAllowed StalePlan EmptyComment WrongState IsolationHeld NotCritical UnknownRemediation UnknownAgent;
}

/// The vendor's `status` of a remediation.
impl Word for Status {
    const NAME: &'static str = "RemediationStatus";
    const ALL: &'static [Self] = &[Status::Unapproved, Status::Approved, Status::Completed, Status::Failed, Status::Cancelled];

    fn word(self) -> &'static str {
        match self {
            Status::Unapproved => "unapproved",
            Status::Approved => "approved",
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Cancelled => "cancelled",
        }
    }
}

/// `cancelled` is one word, whichever cancellation it was.
impl Word for State {
    const NAME: &'static str = "TaskState";
    const ALL: &'static [Self] = &[
        State::Unapproved,
        State::Queued,
        State::Held,
        State::Delivered,
        State::RetryWait,
        State::RebootPending,
        State::OutcomeUnknown,
        State::AwaitingHuman,
        State::Completed,
        State::Failed,
        State::Expired,
        State::Cancelled(Cancellation::Requested),
    ];

    fn word(self) -> &'static str {
        match self {
            State::Unapproved
            | State::Queued
            | State::Held
            | State::Delivered
            | State::RetryWait
            | State::RebootPending
            | State::OutcomeUnknown
            | State::AwaitingHuman
            | State::Completed
            | State::Failed
            | State::Expired
            | State::Cancelled(_) => self.as_str(),
        }
    }
}

/// A closed list that only the wire knows: the enum and its words in one.
macro_rules! word_list {
    ($(#[$doc:meta])* $visibility:vis $type:ident { $($variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $visibility enum $type {
            $($variant,)+
        }

        impl $crate::wire::words::Word for $type {
            const NAME: &'static str = stringify!($type);
            const ALL: &'static [Self] = &[$($type::$variant),+];

            fn word(self) -> &'static str {
                match self {
                    $($type::$variant => $word,)+
                }
            }
        }
    };
}
pub(super) use word_list;

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Word>() {
        let words: std::collections::BTreeSet<_> = T::ALL.iter().map(|word| word.word()).collect();
        assert_eq!(words.len(), T::ALL.len(), "{}: a word stands for two", T::NAME);
    }

    #[test]
    fn each_word_stands_for_one_thing() {
        check::<Severity>();
        check::<AttackKind>();
        check::<RemediationType>();
        check::<Role>();
        check::<ReportStatus>();
        check::<Phase>();
        check::<Presence>();
        check::<FirewallStatus>();
        check::<Urgency>();
        check::<PlanShape>();
        check::<NextAction>();
        check::<ReopenCause>();
        check::<PageReason>();
        check::<BlockerCode>();
        check::<RefusalCode>();
        check::<Status>();
        check::<State>();
    }
}
