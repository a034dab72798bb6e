//! The tenant as a whole: its settings, its funnel, its end. Pure, like `decide`; its unit of consistency is the
//! organization's own record.

use crate::model::ids::AgentId;
use crate::model::organization::{ManagedResponse, Organization, SlaSettings};
use crate::model::time::Timestamp;

use super::event::{Event, EventKind, FunnelCount, SettingsChange};
use super::notice::{About, Body, Notice, RefusalCode};

/// Months of the funnel that are kept: two years and the current one.
const MAX_MONTHS: usize = 25;

/// What an event means for the organization itself.
#[derive(Debug, Clone, PartialEq)]
pub enum OrganizationDecision {
    Applied {
        organization: Organization,
        notices: Vec<Notice>,
    },
    /// Older than what is known, or nothing new.
    Ignored,
}

/// Decides the events whose address is the organization. Any other kind is ignored.
pub fn decide_organization(before: &Organization, event: &Event, now: Timestamp) -> OrganizationDecision {
    let mut organization = before.clone();
    let mut bodies = Vec::new();
    match &event.kind {
        EventKind::OrganizationUpdated(change) => {
            if before.settings_at.is_some_and(|at| event.time <= at) {
                return OrganizationDecision::Ignored;
            }
            organization.settings_at = Some(event.time);
            apply(&mut organization, change);
        }
        EventKind::OrganizationDeleted if before.deleted => return OrganizationDecision::Ignored,
        // R17; the reports follow, subject by subject
        EventKind::OrganizationDeleted => organization.deleted = true,
        EventKind::FunnelCounted(count) => {
            if before.funnel.get(&count.period).is_some_and(|month| month.counted_at.is_some_and(|at| event.time <= at)) {
                return OrganizationDecision::Ignored;
            }
            bodies.push(counted(&mut organization, count, event.time));
        }
        _ => return OrganizationDecision::Ignored,
    }
    let notices = bodies.into_iter().map(|body| notice(&mut organization, event, now, body)).collect();
    OrganizationDecision::Applied { organization, notices }
}

/// A report has been created: the fourth count of its month.
pub fn count_report(organization: &mut Organization, at: Timestamp) {
    let period: String = at.to_string().chars().take("2026-11".len()).collect();
    organization.funnel.entry(period).or_default().incidents_reported += 1;
    forget_old_months(organization);
}

/// The answer to a request about an agent that the tenant does not have (R19).
pub fn refuse_unknown_agent(organization: &mut Organization, event: &Event, now: Timestamp, agent: AgentId) -> Notice {
    let message = format!("the organization has no agent {agent}");
    let body = Body::RequestRefused { request_type: event.kind.name(), code: RefusalCode::UnknownAgent, message };
    notice(organization, event, now, body)
}

fn apply(organization: &mut Organization, change: &SettingsChange) {
    let settings = &mut organization.settings;
    if let Some(zone) = &change.time_zone {
        settings.business_hours.time_zone.clone_from(zone);
    }
    if let Some((opens, closes, days)) = change.business_hours {
        settings.business_hours.opens = opens;
        settings.business_hours.closes = closes;
        settings.business_hours.days = days;
    }
    let ManagedResponse { low, high, critical } = &mut settings.managed_response;
    for (setting, new) in [
        (low, change.managed_low),
        (high, change.managed_high),
        (critical, change.managed_critical),
        (&mut settings.release_on_resolve, change.release_on_resolve),
        (&mut settings.auto_close_when_footholds_cleared, change.auto_close_when_footholds_cleared),
        (&mut settings.close_on_agent_removed, change.close_on_agent_removed),
        (&mut settings.resolve_when_unblocked, change.resolve_when_unblocked),
    ] {
        *setting = new.unwrap_or(*setting);
    }
    settings.unresponsive_after_days = change.unresponsive_after_days.unwrap_or(settings.unresponsive_after_days);
    let sla: SlaSettings = change.sla.unwrap_or(settings.sla);
    settings.sla = sla;
}

fn counted(organization: &mut Organization, count: &FunnelCount, at: Timestamp) -> Body {
    let month = organization.funnel.entry(count.period.clone()).or_default();
    month.events_analysed = count.events_analysed;
    month.signals = count.signals;
    month.signals_investigated = count.signals_investigated;
    month.counted_at = Some(at);
    let month = *month;
    forget_old_months(organization);
    Body::FunnelUpdated { period: count.period.clone(), month }
}

fn forget_old_months(organization: &mut Organization) {
    while organization.funnel.len() > MAX_MONTHS {
        organization.funnel.pop_first();
    }
}

fn notice(organization: &mut Organization, event: &Event, now: Timestamp, body: Body) -> Notice {
    organization.sequence += 1;
    Notice {
        about: About::Organization,
        sequence: organization.sequence,
        time: now,
        fired_at: None,
        cause: event.id.clone(),
        traceparent: event.traceparent.clone(),
        body,
    }
}
