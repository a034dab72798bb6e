//! Noise: what can never be applied, one message for each reason. Never here: anything that could be.

use serde_json::{Value, json};

use super::dice::Dice;
use super::people::actor;
use super::scenario::{Planned, Scenario};
use crate::model::actor::Role;
use crate::model::ids::TenantId;

/// No script uses reports from here on.
const UNKNOWN_REPORT: u64 = 9_000;
/// Over the limit for a string that is not a `body`.
const TOO_LONG: usize = 5_000;

/// Two tenants in five send one or two.
pub(super) fn add(dice: &mut Dice, scenario: &Scenario, tenant: TenantId, out: &mut Vec<Planned>) {
    if !dice.percent(40) {
        return;
    }
    for number in 0..dice.between(1, 2) {
        let arrives = dice.between(1, scenario.minutes.max(1));
        let at = scenario.end_of(arrives).to_string();
        let id = format!("noise-{number}");
        let event = |kind: &str, data: Value| {
            json!({ "specversion": "1.0", "id": id, "source": format!("noise/{tenant}"), "type": kind, "time": at,
                "tenantid": tenant.to_string(), "data": data })
        };
        let about = UNKNOWN_REPORT + u64::from(number);
        let report = |organization: u64, has_more: bool| {
            json!({ "incident_report": { "id": about, "account_id": tenant.account, "organization_id": organization,
                "severity": "low", "status": "sent", "remediations": { "has_more": has_more, "items": [] } } })
        };
        let approval = json!({ "incident_report_id": about, "plan_revision": 1, "actor": actor(Role::User) });
        let comment = |text: &str| json!({ "incident_report_id": about, "comment": text });
        let body = match dice.between(1, 8) {
            1 => "{\"this is not\":\"an event\"".to_owned(),
            2 => event("no.such.type", json!({})).to_string(),
            3 => {
                let mut newer = event("incident_report.comment_added", comment("from the future"));
                newer["schemaversion"] = json!("2");
                newer.to_string()
            }
            4 => event("remediations.approved", json!({ "incident_report_id": about })).to_string(),
            5 => event("incident_report.comment_added", comment(&"x".repeat(TOO_LONG))).to_string(),
            6 => event("incident_report.created", report(tenant.organization + 1, false)).to_string(),
            7 => event("incident_report.created", report(tenant.organization, true)).to_string(),
            _ => {
                // parked for a report that never comes; a second one takes its id with other bytes
                let reused = event("remediations.approved", approval.clone()).to_string().replace("\"Helpdesk\"", "\"Somebody\"");
                out.push(Planned { arrives: arrives + 2, body: reused.into_bytes() });
                event("remediations.approved", approval).to_string()
            }
        };
        out.push(Planned { arrives, body: body.into_bytes() });
    }
}
