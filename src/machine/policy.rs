//! The figures and permissions of lifecycle.md, in one place.

use crate::model::actor::Role;
use crate::model::organization::OrganizationSettings;
use crate::model::remediation::Action;
use crate::model::time::{Span, days, hours, minutes};

/// Attempts of one generation (T9, T11).
pub const MAX_ATTEMPTS: u32 = 5;
/// How long an agent has an attempt before its outcome counts as unknown (T5, T12).
pub const LEASE: Span = minutes(10);
/// How long an event about something not yet known waits for it (R19).
pub const PARKING: Span = minutes(15);
/// The multiples of the survey interval between attempts (T9).
pub const RETRY_STEPS: [i64; 4] = [1, 2, 4, 8];
/// Pages of one critical report, the first included (SLA).
pub const CRITICAL_PAGES: u32 = 4;
/// How long a report that is over can be opened again (R16).
pub const REOPEN_WINDOW: Span = days(30);
/// How often a completed task may come back before it counts as failed (T15).
pub const MAX_REGRESSIONS: u32 = 3;
/// Surveys that may be missed before an agent counts as offline (A2).
pub const MISSED_SURVEYS: i32 = 2;
/// How long an agent that never surveyed is waited for (A3).
pub const NEVER_SEEN: Span = days(3);
/// How long an isolation may be pending (I4).
pub const ISOLATION_WINDOW: Span = hours(72);

/// What `decide` needs to know beside subject and event.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// How often an agent is expected to survey.
    pub survey_interval: Span,
    pub organization: OrganizationSettings,
    /// Surveys that were waiting when the service started have been taken: silence is silence (A2, A3).
    pub surveys_caught_up: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self { survey_interval: minutes(15), organization: OrganizationSettings::default(), surveys_caught_up: true }
    }
}

/// What a person may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Permission {
    /// Approve, reject, complete, uncomplete, retry, cancel.
    Work,
    /// Resolve, dismiss, reopen, isolate, release, SOC support.
    Conclude,
    /// Waive.
    Waive,
}

/// The roles paragraph of lifecycle.md.
pub fn may(role: Role, permission: Permission) -> bool {
    match (role, permission) {
        (Role::Admin, Permission::Work | Permission::Conclude | Permission::Waive)
        | (Role::SecurityEngineer, Permission::Work | Permission::Conclude)
        | (Role::User, Permission::Work) => true,
        (Role::SecurityEngineer, Permission::Waive)
        | (Role::User, Permission::Conclude | Permission::Waive)
        | (
            Role::ReadOnly | Role::Finance | Role::Marketing | Role::Provisioner,
            Permission::Work | Permission::Conclude | Permission::Waive,
        ) => false,
    }
}

/// How long a task may wait for its agent (T2).
pub fn delivery_window(action: Option<Action>) -> Span {
    match action {
        Some(Action::RebootHost) => hours(24),
        Some(Action::IsolateHost) => hours(72),
        Some(Action::UninstallAgent) => days(30),
        Some(_) | None => days(7),
    }
}

/// When the next attempt may start, counted from the survey of the one that failed (T9): k survey intervals,
/// shortened by 5 to 20 % so that it falls before the survey it is meant for.
///
/// The share is derived from (remediation id, attempt) alone: the same report replayed waits equally long.
pub fn retry_pause(survey_interval: Span, remediation: u64, attempt: u32) -> Span {
    let step = RETRY_STEPS[(attempt.max(1) as usize - 1).min(RETRY_STEPS.len() - 1)];
    // in hundred-thousandths: 0.05 ..= 0.20
    let cut = 5_000 + (mix(remediation ^ (u64::from(attempt) << 56)) % 15_001) as i64;
    let full_ms = survey_interval.as_millis() as i64 * step;
    Span::from_millis(full_ms - (i128::from(full_ms) * i128::from(cut) / 100_000) as i64)
}

/// SplitMix64's finaliser: spreads neighbouring numbers evenly.
pub fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_stay_within_the_share_of_t9() {
        for remediation in 0..2_000 {
            for (attempt, k) in [(1, 1), (2, 2), (3, 4), (4, 8)] {
                let pause = retry_pause(minutes(15), remediation, attempt).as_millis();
                let full = minutes(15).as_millis() * k;
                assert!(pause >= full * 80 / 100 && pause <= full * 95 / 100, "{remediation}/{attempt}: {pause} of {full}");
            }
        }
    }
}
