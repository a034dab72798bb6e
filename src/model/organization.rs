//! An organization's settings (`organization.updated`), with the defaults that hold without any.

use serde::{Deserialize, Serialize};

/// Business hours, in the organization's own time zone (lifecycle.md, SLA).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BusinessHours {
    /// IANA name, e.g. `Australia/Sydney`.
    pub time_zone: String,
    /// Minutes after midnight, inclusive.
    pub opens: u16,
    /// Minutes after midnight, exclusive; later than `opens`.
    pub closes: u16,
    /// Working days, Monday first.
    pub days: [bool; 7],
}

impl Default for BusinessHours {
    fn default() -> Self {
        Self { time_zone: "UTC".into(), opens: 9 * 60, closes: 17 * 60, days: [true, true, true, true, true, false, false] }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct OrganizationSettings {
    pub business_hours: BusinessHours,
    /// A resolution that the gate refused is carried out as soon as the gate opens, in the name of the asker.
    pub resolve_when_unblocked: bool,
}
