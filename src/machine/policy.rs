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
/// A critical report is to be answered within this (SLA).
pub const CRITICAL_RESPONSE: Span = minutes(15);
/// A high one within this.
pub const HIGH_RESPONSE: Span = minutes(60);
/// A low one within this many business minutes: 8 business hours.
pub const LOW_RESPONSE_MINUTES: i64 = 8 * 60;

/// What `decide` needs to know beside subject and event.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// How often an agent is expected to survey.
    pub survey_interval: Span,
    pub organization: OrganizationSettings,
}

impl Default for Policy {
    fn default() -> Self {
        Self { survey_interval: minutes(15), organization: OrganizationSettings::default() }
    }
}

/// What a person may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Permission {
    /// Approve, reject, complete, uncomplete, retry, cancel.
    Work,
    /// Resolve.
    Conclude,
}

/// The roles paragraph of lifecycle.md.
pub fn may(role: Role, permission: Permission) -> bool {
    match (role, permission) {
        (Role::Admin | Role::SecurityEngineer, Permission::Work | Permission::Conclude) | (Role::User, Permission::Work) => true,
        (Role::User, Permission::Conclude)
        | (Role::ReadOnly | Role::Finance | Role::Marketing | Role::Provisioner, Permission::Work | Permission::Conclude) => false,
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
