//! Outbound events as lines of a story, for people and for tables in tests.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;

use serde_json::Value;

/// One line an event: what caused it, and what it says. Every type has its own form; an unknown one fails.
#[track_caller]
pub fn tell(event: &Value) -> String {
    let data = &event["data"];
    let cause = event["causationid"].as_str().unwrap();
    let said = match event["type"].as_str().unwrap() {
        "agent.status_changed" => format!("agent {}: {}", data["agent_id"], change(data)),
        "agent.isolation_changed" => {
            format!("isolation of {}: {}, held by {}, {}", data["agent_id"], change(data), data["holders"], word(&data["reason"]))
        }
        "agent.isolation_drifted" => format!("isolation of {} drifted, held by {}", data["agent_id"], data["holders"]),
        "funnel.updated" => format!("funnel {}: {}", word(&data["period"]), data["incidents_reported"]),
        "incident_report.status_changed" => format!("report: {} ({}), {}", change(data), word(&data["phase"]), word(&data["cause"])),
        "incident_report.triaged" => format!(
            "triage: {}, {}, {}, {}, isolation {}",
            word(&data["urgency"]),
            word(&data["finding"]["attack_kind"]),
            word(&data["plan_shape"]),
            word(&data["next_action"]),
            word(&data["isolation"]),
        ),
        "incident_report.phase_changed" => format!("phase: {}", change(data)),
        "incident_report.resolution_refused" => format!("resolution refused: {}", blockers(&data["blockers"])),
        "incident_report.resolution_unblocked" => "resolution unblocked".to_owned(),
        "incident_report.reopened" => format!("reopened: {}, task {}", word(&data["cause"]), data["remediation_id"]),
        "incident_report.residual_cleared" => "residual cleared".to_owned(),
        "incident_report.updated" => format!("updated: severity {}", word(&data["severity"])),
        "incident_report.comment_added" => "comment".to_owned(),
        "soc_support.requested" => format!("SOC support: {}, {}", word(&data["channel"]), word(&data["reason"])),
        "sla.warning" | "sla.breached" => format!("{}: by {}", word(&event["type"]), word(&data["respond_by"])),
        "request.refused" => format!("{} refused: {}", word(&data["request_type"]), word(&data["code"])),
        "on_call.paged" => format!("paged: {}", word(&data["reason"])),
        "remediation.verified" => format!("task {}: verified", data["remediation_id"]),
        "remediation.status_changed" => {
            let told = format!("task {}: {}, attempt {}, tries {}", data["remediation_id"], change(data), data["attempt"], data["tries"]);
            if data["reason"].is_null() { told } else { format!("{told}, {}", word(&data["reason"])) }
        }
        other => panic!("no way to tell {other}: {event}"),
    };
    format!("{cause} | {said}")
}

fn change(data: &Value) -> String {
    format!("{} -> {}", word(&data["from"]), word(&data["to"]))
}

fn blockers(blockers: &Value) -> String {
    let one = |blocker: &Value| match &blocker["remediation_id"] {
        Value::Null => word(&blocker["code"]).to_owned(),
        id => format!("{} {id}", word(&blocker["code"])),
    };
    blockers.as_array().unwrap().iter().map(one).collect::<Vec<_>>().join(", ")
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

/// The story is exactly the table: `cause | what`, blank lines and indentation aside.
#[track_caller]
pub fn check_story(events: &[Value], table: &str) {
    let expected: Vec<&str> = table.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let told: Vec<String> = events.iter().map(tell).collect();
    assert_eq!(told, expected);
}

/// Where everything stands after these events: per subject the status and the phase, per task state, attempt and
/// tries. Times and sequence numbers are left out.
pub fn outcome(events: &[Value]) -> BTreeMap<String, String> {
    let mut stands = BTreeMap::new();
    for event in events {
        let (subject, data) = (event["subject"].as_str().unwrap(), &event["data"]);
        let to = word(&data["to"]).to_owned();
        match event["type"].as_str().unwrap() {
            "agent.status_changed" | "incident_report.status_changed" => {
                stands.insert(format!("{subject} status"), to);
                if let Some(phase) = data["phase"].as_str() {
                    stands.insert(format!("{subject} phase"), phase.to_owned());
                }
            }
            "incident_report.phase_changed" => {
                stands.insert(format!("{subject} phase"), to);
            }
            "remediation.status_changed" => {
                let task = format!("{subject} revision {} task {}", data["plan_revision"], data["remediation_id"]);
                stands.insert(task, format!("{to}, attempt {}, tries {}", data["attempt"], data["tries"]));
            }
            _ => {}
        }
    }
    stands
}
