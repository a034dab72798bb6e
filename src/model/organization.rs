//! An organization's settings (`organization.updated`), with the defaults that hold without any.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::time::Timestamp;

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

/// How soon somebody has to act, by severity (lifecycle.md, SLA).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SlaSettings {
    /// Critical: to respond, and between two pages.
    pub critical_minutes: u16,
    /// High: until the warning.
    pub high_warning_minutes: u16,
    /// High: until the breach.
    pub high_minutes: u16,
    /// Low: in business minutes.
    pub low_business_minutes: u16,
}

impl Default for SlaSettings {
    fn default() -> Self {
        Self { critical_minutes: 15, high_warning_minutes: 45, high_minutes: 60, low_business_minutes: 8 * 60 }
    }
}

/// For which severities the SOC acts without the partner's approval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ManagedResponse {
    pub low: bool,
    pub high: bool,
    pub critical: bool,
}

/// What an organization has set; the defaults hold where it has not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OrganizationSettings {
    pub business_hours: BusinessHours,
    pub sla: SlaSettings,
    pub managed_response: ManagedResponse,
    /// Days without a survey until an agent counts as unresponsive (A3).
    pub unresponsive_after_days: u16,
    /// A host is released when the last report that holds it is resolved (I6).
    pub release_on_resolve: bool,
    /// R11.
    pub auto_close_when_footholds_cleared: bool,
    /// R12.
    pub close_on_agent_removed: bool,
    /// A resolution that the gate refused is carried out as soon as the gate opens, in the name of the asker.
    pub resolve_when_unblocked: bool,
}

impl Default for OrganizationSettings {
    fn default() -> Self {
        Self {
            business_hours: BusinessHours::default(),
            sla: SlaSettings::default(),
            managed_response: ManagedResponse::default(),
            unresponsive_after_days: 21,
            release_on_resolve: false,
            auto_close_when_footholds_cleared: false,
            close_on_agent_removed: false,
            resolve_when_unblocked: false,
        }
    }
}

/// The funnel of one month (mission.md, rule 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FunnelMonth {
    pub events_analysed: u64,
    pub signals: u64,
    pub signals_investigated: u64,
    /// Counted by the service itself.
    pub incidents_reported: u64,
    /// The time of the last `funnel.counted`; an older one is not applied.
    pub counted_at: Option<Timestamp>,
}

/// A tenant as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Organization {
    #[serde(default)]
    pub settings: OrganizationSettings,
    /// The time of the last `organization.updated` that was applied; an older one is not.
    pub settings_at: Option<Timestamp>,
    /// Deleted: whatever comes for it is ignored (R17).
    pub deleted: bool,
    /// By period, `2026-11`.
    pub funnel: BTreeMap<String, FunnelMonth>,
    /// The `sequence` of the last event published about the organization.
    pub sequence: u64,
}
