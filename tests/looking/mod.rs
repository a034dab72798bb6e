//! Stores to look into: events that are played first, and a witness that looking has written nothing.

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use remedyd::store::journal::JournalStore;
use remedyd::store::sled::SledSettings;
use remedyd::store::{Row, Store as _};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The worked report as the demonstration tells it.
pub const WORKED: &str = include_str!("../../src/cli/demo/worked_report.ndjson");
pub const CRITICAL: &str = include_str!("../samples/critical-isolated.ndjson");

pub fn remedyd() -> Command {
    Command::cargo_bin("remedyd").expect("binary")
}

/// A store in which the events of `lines` have been played.
pub fn played(lines: &str) -> (TempDir, PathBuf) {
    let dir = TempDir::new().expect("directory");
    let (file, store) = (dir.path().join("events.ndjson"), dir.path().join("store"));
    std::fs::write(&file, lines).expect("write");
    remedyd().arg("replay").arg(&file).arg("--store").arg(&store).assert().success();
    (dir, store)
}

/// `story` up to the event `last`.
pub fn until(story: &str, last: &str) -> String {
    let at = story.find(&format!("\"id\":\"{last}\"")).expect("an event of the story");
    let end = story[at..].find('\n').map_or(story.len(), |line| at + line + 1);
    story[..end].to_owned()
}

/// Standard output of a command that has to succeed without a word on standard error, and to leave every row as it
/// was.
pub fn said(store: &Path, args: &[&str]) -> String {
    let before = rows(store);
    let output = remedyd().args(args).arg("--store").arg(store).assert().success().stderr("").get_output().stdout.clone();
    assert!(rows(store) == before, "{args:?} has written");
    String::from_utf8(output).expect("UTF-8")
}

fn rows(store: &Path) -> (u64, Vec<Row>) {
    let store = JournalStore::open(store, SledSettings::default()).expect("store");
    (store.commits(), store.scan(b"", b"", usize::MAX).expect("scan"))
}

/// One event of tenant 5.4; its id is its type and time.
pub fn event(kind: &str, time: &str, data: Value) -> String {
    let source = match kind.split_once('.') {
        Some(("incident_report", "created" | "revised" | "dismissed" | "closed") | ("funnel", _)) => "vendor/soc",
        Some(("agent", "surveyed")) => "agents",
        Some(("organization", _)) => "vendor/account",
        _ => "msp/portal",
    };
    let event = json!({ "specversion": "1.0", "id": format!("{kind}@{time}"), "source": source, "type": kind, "time": time,
        "tenantid": "5.4", "data": data });
    format!("{event}\n")
}

/// A report of 10:00 on agent 12 (host PC-12) with these remediations.
pub fn report(id: u64, severity: &str, items: &Value) -> String {
    let at = "2026-11-23T10:00:00Z";
    let count = items.as_array().map_or(0, Vec::len);
    event(
        "incident_report.created",
        at,
        json!({ "incident_report": { "id": id, "account_id": 5, "organization_id": 4, "agent_id": 12, "platform": "windows",
            "severity": severity, "status": "sent", "subject": format!("Incident {id} on PC-12"), "summary": "A service starts at boot.",
            "body": "", "indicator_types": ["footholds"], "indicator_counts": { "footholds": 0 }, "created_at": at, "sent_at": at,
            "status_updated_at": at, "updated_at": at, "closed_at": null,
            "remediations": { "total_count": count, "has_more": false, "items": items }, "plan_revision": 1, "footholds": [],
            "isolate_host": false, "simulated": false, "host": { "hostname": "PC-12" }, "attack_kind": "malware_persistence" } }),
    )
    .replace("incident_report.created@", &format!("report-{id}@"))
}

/// An assisted item, with the outcomes that the simulated host plays.
pub fn assisted(id: u64, action: &str, simulate: &[&str]) -> Value {
    json!({ "id": id, "type": "assisted", "action": action, "status": "unapproved", "parameters": [{ "name": "target", "description": "svc" }], "simulate": simulate })
}

/// What Kim, an admin, asks for.
pub fn asks(kind: &str, time: &str, data: &Value) -> String {
    let mut data = data.clone();
    data["actor"] = json!({ "id": 7, "name": "Kim", "role": "admin" });
    event(kind, time, data)
}

pub fn survey(time: &str, boot_id: &str) -> String {
    event("agent.surveyed", time, json!({ "agent_id": 12, "surveyed_at": time, "hostname": "PC-12", "boot_id": boot_id }))
}
