//! The helpdesk's four questions (mission.md): what the severity means for tonight, what was found, what the
//! plan's shape and the next action are, and whether isolation is in play.

use jiff::civil::Time;
use jiff::tz::TimeZone;

use crate::model::agent::FirewallStatus;
use crate::model::organization::{BusinessHours, OrganizationSettings};
use crate::model::remediation::RemediationType;
use crate::model::report::{AttackKind, Report, Severity};
use crate::model::time::{Timestamp, after, minutes};

use super::gate;
use super::notice::{Finding, NextAction, PlanShape, Triage, Urgency};

pub fn triage(report: &Report, isolation: Option<FirewallStatus>, settings: &OrganizationSettings) -> Triage {
    let shape = plan_shape(report);
    Triage {
        severity: report.severity,
        urgency: match report.severity {
            Severity::Critical => Urgency::PageNow,
            Severity::High => Urgency::WithinHour,
            Severity::Low => Urgency::BusinessDay,
        },
        respond_by: respond_by(report.severity, report.sent_at, settings),
        finding: Finding {
            attack_kind: report.attack_kind,
            subject: report.text.subject.clone(),
            summary: report.text.summary.clone(),
            indicator_types: report.text.indicator_types.clone(),
            hosts: report.hostname.iter().cloned().collect(),
            identities: report.identity.iter().map(|identity| identity.name.clone()).collect(),
            footholds: report.footholds.clone(),
        },
        plan_shape: shape,
        next_action: next_action(report.attack_kind, shape),
        isolation,
        containment_alone_enough: gate::footholds_remaining(report) == 0,
    }
}

/// The four plan shapes (mission.md, rule 6). Containment does not count.
pub fn plan_shape(report: &Report) -> PlanShape {
    let has = |kind| report.plan().any(|item| item.kind == kind);
    match (has(RemediationType::Assisted), has(RemediationType::Manual)) {
        (true, true) => PlanShape::Both,
        (true, false) => PlanShape::Assisted,
        (false, true) => PlanShape::Manual,
        (false, false) => PlanShape::None,
    }
}

fn next_action(attack_kind: AttackKind, shape: PlanShape) -> NextAction {
    match (attack_kind, shape) {
        (AttackKind::Unknown, _) => NextAction::ReadReport,
        (AttackKind::Phishing | AttackKind::MalwarePersistence | AttackKind::IdentityCompromise, shape) => match shape {
            PlanShape::Assisted | PlanShape::Both => NextAction::ReviewPlan,
            PlanShape::Manual => NextAction::WalkManualSteps,
            PlanShape::None => NextAction::Acknowledge,
        },
    }
}

/// Until when somebody has to have acted (lifecycle.md, SLA), counted from `start`.
pub fn respond_by(severity: Severity, start: Timestamp, settings: &OrganizationSettings) -> Timestamp {
    match severity {
        Severity::Critical => after(start, minutes(i64::from(settings.sla.critical_minutes))),
        Severity::High => after(start, minutes(i64::from(settings.sla.high_minutes))),
        Severity::Low => after_business_minutes(start, i64::from(settings.sla.low_business_minutes), &settings.business_hours),
    }
}

const DAY_MINUTES: u16 = 24 * 60;
/// Ten years: 168 business hours (the most that can be set) at one half-hour working day a week. Beyond it minutes are
/// simply minutes.
const MAX_DAYS: u32 = 3_660;

/// `start` plus so many minutes of business time, in the organization's zone.
///
/// Counted on the wall clock of each working day, so that a day with a daylight-saving change still opens and
/// closes at its usual hours. An unknown zone counts as UTC (settings are checked when they are taken in).
fn after_business_minutes(start: Timestamp, wanted: i64, hours: &BusinessHours) -> Timestamp {
    let zone = TimeZone::get(&hours.time_zone).unwrap_or(TimeZone::UTC);
    let at = |date: jiff::civil::Date, minute: u16| {
        // 1440 closes with the day
        let (date, minute) = if minute >= DAY_MINUTES { (date.tomorrow()?, minute - DAY_MINUTES) } else { (date, minute) };
        let time = Time::midnight().saturating_add(minutes(i64::from(minute)));
        date.to_datetime(time).to_zoned_datetime(zone.clone()).map(|zoned| zoned.timestamp())
    };
    let mut left = minutes(wanted);
    let mut date = start.to_zoned_datetime(zone.clone()).date();
    for _ in 0..MAX_DAYS {
        if hours.days[usize::from(date.weekday().to_monday_zero_offset().unsigned_abs())]
            && let (Ok(opens), Ok(closes)) = (at(date, hours.opens), at(date, hours.closes))
        {
            let from = opens.max(start);
            let open_for = closes.duration_since(from);
            if open_for >= left {
                return after(from, left);
            }
            if open_for.is_positive() {
                left -= open_for;
            }
        }
        let Ok(next) = date.tomorrow() else { break };
        date = next;
    }
    after(start, minutes(wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn low(start: &str, zone: &str) -> String {
        let hours = BusinessHours { time_zone: zone.into(), ..BusinessHours::default() };
        let settings = OrganizationSettings { business_hours: hours, ..OrganizationSettings::default() };
        respond_by(Severity::Low, start.parse().expect("time"), &settings).to_string()
    }

    #[test]
    fn low_severity_counts_business_hours() {
        for (start, zone, due) in [
            // a whole day, from the opening
            ("2026-11-23T09:00:00Z", "UTC", "2026-11-23T17:00:00Z"),
            // before the opening counts from it
            ("2026-11-23T03:00:00Z", "UTC", "2026-11-23T17:00:00Z"),
            // the rest of the day, then the next
            ("2026-11-23T10:00:00Z", "UTC", "2026-11-24T10:00:00Z"),
            // over a week-end
            ("2026-11-27T16:30:00Z", "UTC", "2026-11-30T16:30:00Z"),
            // Friday 16:30 in Sydney (UTC+11): Monday 16:30 there
            ("2026-11-27T05:30:00Z", "Australia/Sydney", "2026-11-30T05:30:00Z"),
            // over the end of daylight saving (5 April 2026, UTC+11 to UTC+10): the wall clock stays
            ("2026-04-03T05:30:00Z", "Australia/Sydney", "2026-04-06T06:30:00Z"),
        ] {
            assert_eq!(low(start, zone), due, "{start} {zone}");
        }
    }
}
