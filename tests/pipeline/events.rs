//! Events as producers send them. Minutes are counted from one morning, so that a test reads as a timetable.

use remedyd::model::time::{Timestamp, after, minutes};
use serde_json::{Value, json};

/// The time of minute `minute`.
pub fn minute(minute: i64) -> Timestamp {
    after(super::rig::at("2026-11-23T09:00:00Z"), minutes(minute))
}

pub fn event(id: &str, kind: &str, at: i64, data: Value) -> Value {
    json!({
        "specversion": "1.0", "id": id, "source": "test", "type": kind, "time": minute(at).to_string(),
        "tenantid": "5.4", "datacontenttype": "application/json", "data": data,
    })
}

fn person() -> Value {
    json!({"id": 31, "name": "Security engineer", "email": "seceng@msp.example", "role": "security_engineer"})
}

/// A report about agent 12 with one assisted task, which removes its one foothold.
pub fn created(report: u64, at: i64) -> Value {
    created_with(report, at, json!([]))
}

/// As `created`; the task's tries come to `simulate`.
pub fn created_with(report: u64, at: i64, simulate: Value) -> Value {
    let time = minute(at).to_string();
    let data = json!({"incident_report": {
        "id": report, "account_id": 5, "organization_id": 4, "agent_id": 12, "platform": "windows", "severity": "high",
        "status": "sent", "subject": "s", "summary": "s", "body": "b", "created_at": time, "sent_at": time,
        "status_updated_at": time, "updated_at": time, "plan_revision": 1, "attack_kind": "malware_persistence",
        "remediations": {"total_count": 1, "has_more": false, "items": [
            {"id": 1, "type": "assisted", "action": "Quarantine File", "status": "unapproved", "simulate": simulate,
             "parameters": [{"name": "path", "description": "C:\\x.exe"}]},
        ]},
        "footholds": [{"id": "fh-1", "kind": "file", "description": "d", "remediation_ids": [1]}],
    }});
    event(&format!("created-{report}"), "incident_report.created", at, data)
}

pub fn approved(report: u64, at: i64) -> Value {
    let data = json!({"incident_report_id": report, "plan_revision": 1, "actor": person()});
    event(&format!("approved-{report}-{at}"), "remediations.approved", at, data)
}

pub fn resolution_requested(report: u64, at: i64) -> Value {
    let data = json!({"incident_report_id": report, "reason": "done", "actor": person()});
    event(&format!("resolve-{report}-{at}"), "incident_report.resolution_requested", at, data)
}

pub fn comment(report: u64, number: usize, at: i64) -> Value {
    let data = json!({"incident_report_id": report, "comment": "c"});
    event(&format!("comment-{report}-{number}"), "incident_report.comment_added", at, data)
}

pub fn surveyed(at: i64) -> Value {
    let time = minute(at).to_string();
    let data = json!({"agent_id": 12, "surveyed_at": time, "hostname": "h", "platform": "windows", "agent_version": "1"});
    event(&format!("survey-{at}"), "agent.surveyed", at, data)
}

/// A type that nobody knows, from this tenant.
pub fn unknown_type(number: usize, at: i64) -> Value {
    event(&format!("unknown-{number}"), "never.heard_of", at, json!({}))
}
