//! Floor 0, the nouns: what a tenant, report, remediation and agent *are*. No rules, no I/O, no wire forms.

pub mod actor;
pub mod agent;
pub mod ids;
pub mod organization;
pub mod remediation;
pub mod report;
pub mod time;

/// For fields that a stored row leaves out.
fn is_false(flag: &bool) -> bool {
    !flag
}

/// As above.
fn is_zero(count: &u32) -> bool {
    *count == 0
}
