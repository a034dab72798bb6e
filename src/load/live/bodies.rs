//! The bytes of what is sent, written out by hand: a generator that shares the machine with what it measures has
//! no cycles for a tree of JSON values. Never here: a decision on what is sent when.
//!
//! Nothing that is put in needs escaping: numbers, times, and words of our own.

use std::fmt::Write as _;

use super::mix::Shape;
use crate::model::report::Severity;
use crate::model::time::Timestamp;
use crate::wire::limits;

/// The account of all tenants of load runs.
pub const ACCOUNT: u64 = 700;
/// Makes a report as long as real ones are, 2 to 4 KiB.
const NARRATIVE: &str = "A scheduled task starts an encoded command at every logon of the user. The parent process is a document \
    that arrived by mail; the binary that it starts is not signed and was written to a folder that any user may write to. No other host \
    of the organization has been seen with it. No lateral movement was observed. ";
const NARRATIVES: usize = 4;
/// What every body begins with; the id follows.
const HEAD: &str = r#"{"specversion":"1.0","id":""#;

/// What every event says of itself.
pub struct Header<'a> {
    /// Unique within the run.
    pub id: &'a str,
    pub organization: u64,
    pub time: Timestamp,
}

/// A task that is run by an agent, and what will come of its tries.
pub struct Task<'a> {
    pub id: u64,
    pub outcomes: &'a [&'a str],
}

/// What the SOC reports.
pub struct Report<'a> {
    pub id: u64,
    pub agent: u64,
    pub shape: Shape,
    pub severity: Severity,
    pub assisted: &'a [Task<'a>],
    /// The ids of the steps that people do.
    pub manual: &'a [u64],
}

const ACTIONS: [(&str, &str, &str); 3] =
    [("Kill Process", "process", "process"), ("Delete Scheduled Task", "task", "scheduled_task"), ("Quarantine File", "path", "file")];
/// The approver, who may also resolve.
const ACTOR: &str =
    r#""actor":{"id":31,"name":"Security engineer on duty","email":"security_engineer@msp.example","role":"security_engineer"}"#;

pub fn created(header: &Header<'_>, report: &Report<'_>) -> Vec<u8> {
    let (id, agent, organization, time) = (report.id, report.agent, header.organization, header.time);
    let severity = report.severity.as_str();
    let kind = if report.shape == Shape::None { "unknown" } else { "malware_persistence" };
    let mut data = String::with_capacity(3_500);
    put(
        &mut data,
        format_args!(
            r#""incident_report":{{"id":{id},"account_id":{ACCOUNT},"organization_id":{organization},"agent_id":{agent},"platform":"windows","severity":"{severity}","status":"sent","subject":"Incident {id} on PC-{agent}","summary":"{NARRATIVE}","body":"{}","indicator_types":["footholds"],"created_at":"{time}","sent_at":"{time}","status_updated_at":"{time}","updated_at":"{time}","host":{{"hostname":"PC-{agent}"}},"attack_kind":"{kind}","plan_revision":1,"remediations":{{"has_more":false,"items":["#,
            NARRATIVE.repeat(NARRATIVES)
        ),
    );
    let mut comma = "";
    for (number, task) in report.assisted.iter().enumerate() {
        let (action, parameter, kind) = ACTIONS[number % ACTIONS.len()];
        put(
            &mut data,
            format_args!(
                r#"{comma}{{"id":{0},"type":"assisted","action":"{action}","status":"unapproved","parameters":[{{"name":"{parameter}","description":"{kind}-{0}"}}],"simulate":["#,
                task.id
            ),
        );
        for (number, outcome) in task.outcomes.iter().enumerate() {
            put(&mut data, format_args!("{}\"{outcome}\"", if number == 0 { "" } else { "," }));
        }
        data.push_str("]}");
        comma = ",";
    }
    for id in report.manual {
        put(
            &mut data,
            format_args!(
                r#"{comma}{{"id":{id},"type":"manual","action":"Ask the user what was downloaded that day ({id})","status":"unapproved"}}"#
            ),
        );
        comma = ",";
    }
    data.push_str("]},\"footholds\":[");
    for (number, task) in report.assisted.iter().enumerate() {
        let (_, _, kind) = ACTIONS[number % ACTIONS.len()];
        let comma = if number == 0 { "" } else { "," };
        put(
            &mut data,
            format_args!(r#"{comma}{{"id":"fh-{id}-{0}","kind":"{kind}","description":"{kind}-{0}","remediation_ids":[{0}]}}"#, task.id),
        );
    }
    data.push_str("]}");
    event(header, "incident_report.created", "incident_reports", id, &data)
}

pub fn approved(header: &Header<'_>, report: u64) -> Vec<u8> {
    let data = format!(r#""incident_report_id":{report},"plan_revision":1,{ACTOR}"#);
    event(header, "remediations.approved", "incident_reports", report, &data)
}

pub fn retry_requested(header: &Header<'_>, report: u64, remediation: u64) -> Vec<u8> {
    let data = format!(r#""incident_report_id":{report},"remediation_id":{remediation},"reason":"the file is free now",{ACTOR}"#);
    event(header, "remediation.retry_requested", "incident_reports", report, &data)
}

pub fn resolution_requested(header: &Header<'_>, report: u64) -> Vec<u8> {
    let data = format!(r#""incident_report_id":{report},"reason":"all done",{ACTOR}"#);
    event(header, "incident_report.resolution_requested", "incident_reports", report, &data)
}

pub fn surveyed(header: &Header<'_>, agent: u64) -> Vec<u8> {
    let data = format!(
        r#""agent_id":{agent},"surveyed_at":"{}","hostname":"PC-{agent}","platform":"windows","agent_version":"0.14.2","boot_id":"boot-1""#,
        header.time
    );
    event(header, "agent.surveyed", "agents", agent, &data)
}

/// What the service can never apply, in one of four forms by its number: the JSON ends early, nobody knows the type, a
/// field is missing, it is too deep.
pub fn malformed(header: &Header<'_>, number: usize) -> Vec<u8> {
    let approved_but = |data: &str| event(header, "remediations.approved", "incident_reports", 1, data);
    match number % 4 {
        0 => {
            let mut body = approved(header, 1);
            body.truncate(body.len() - 10);
            body
        }
        1 => event(header, "no.such.type", "incident_reports", 1, ""),
        2 => approved_but(&format!(r#""plan_revision":1,{ACTOR}"#)),
        _ => approved_but(&format!(r#""deep":{}{}"#, "[".repeat(limits::DEPTH), "]".repeat(limits::DEPTH))),
    }
}

/// The id in a body of ours, also in one that is malformed.
pub fn id_of(body: &[u8]) -> Option<&str> {
    let id = body.strip_prefix(HEAD.as_bytes())?.split(|byte| *byte == b'"').next()?;
    std::str::from_utf8(id).ok()
}

fn event(header: &Header<'_>, kind: &str, subject: &str, subject_id: u64, data: &str) -> Vec<u8> {
    let Header { id, organization, time } = header;
    let mut body = String::with_capacity(data.len() + 300);
    put(
        &mut body,
        format_args!(
            r#"{HEAD}{id}","source":"remedyd/load","type":"{kind}","time":"{time}","tenantid":"{ACCOUNT}.{organization}","subject":"{subject}/{subject_id}","datacontenttype":"application/json","data":{{{data}}}}}"#
        ),
    );
    body.into_bytes()
}

fn put(text: &mut String, args: std::fmt::Arguments<'_>) {
    // writing to a String does not fail
    let _ = text.write_fmt(args);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{self, Raw};

    #[track_caller]
    fn check(body: &[u8], kind: &str) {
        let raw = Raw { content_type: Some("application/cloudevents+json"), headers: &[], body };
        let inbound = wire::decode(&raw).unwrap_or_else(|rejection| panic!("{rejection:?}: {}", String::from_utf8_lossy(body)));
        assert_eq!(inbound.event.kind.name(), kind);
    }

    #[test]
    fn the_service_reads_every_body() {
        let header = Header { id: "run-1", organization: 4, time: "2026-11-23T10:00:00.123Z".parse().expect("time") };
        let tasks = [Task { id: 1, outcomes: &["ok"] }, Task { id: 2, outcomes: &["file_in_use", "ok"] }];
        for (shape, assisted, manual) in
            [(Shape::Assisted, &tasks[..], &[][..]), (Shape::Manual, &[], &[3, 4]), (Shape::Both, &tasks, &[3]), (Shape::None, &[], &[])]
        {
            let body = created(&header, &Report { id: 9, agent: 8, shape, severity: Severity::Critical, assisted, manual });
            assert!((2_000..4_096).contains(&body.len()), "{} bytes", body.len());
            check(&body, "incident_report.created");
        }
        check(&approved(&header, 9), "remediations.approved");
        check(&retry_requested(&header, 9, 1), "remediation.retry_requested");
        check(&resolution_requested(&header, 9), "incident_report.resolution_requested");
        check(&surveyed(&header, 8), "agent.surveyed");
    }

    #[test]
    fn the_service_reads_no_malformed_body_and_the_id_is_in_each() {
        let header = Header { id: "run-1", organization: 4, time: "2026-11-23T10:00:00.123Z".parse().expect("time") };
        let told = (0..4).map(|number| {
            let body = malformed(&header, number);
            assert_eq!(id_of(&body), Some("run-1"), "{number}");
            let raw = Raw { content_type: Some("application/cloudevents+json"), headers: &[], body: &body };
            let rejection = wire::decode(&raw).expect_err("malformed");
            format!("{}: {}", rejection.reason.as_str(), rejection.detail)
        });
        let told: Vec<String> = told.collect();
        for (told, expected) in told.iter().zip(["malformed: ", "unsupported_type: ", "invalid: ", "malformed: more than 32 nesting"]) {
            assert!(told.starts_with(expected), "{told}");
        }
        assert_eq!(id_of(b"marker 1"), None);
    }
}
