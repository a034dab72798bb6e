//! Every fixture of the tests against the schemas: what is taken, what is refused, and what is published.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::thread;

use jsonschema::Validator;
use remedyd::wire::{InboundType, Raw, Reason, Rejection, decode};
use serde_json::{Value, json};

use crate::edits::edit;
use crate::service::replay;
use crate::{faults, root, schemas, updating, validator};

/// Where one event of each published type stands: the examples of the schemas.
const PUBLISHED: &str = "tests/contracts/published.ndjson";
/// What was passed on has fields that only its sender knows.
const PASSED_ON: [&str; 3] = ["incident_report.updated", "incident_report.comment_added", "soc_support.requested"];

fn validators(direction: &str) -> BTreeMap<String, Validator> {
    let of = |(name, schema): (String, Value)| Some((name.strip_prefix(direction)?.to_owned(), validator(&schema)));
    schemas().into_iter().filter_map(of).collect()
}

/// Files of events: path from the root, and until when time goes on in a replay.
fn event_files() -> Vec<(PathBuf, Option<String>)> {
    let table = fs::read_to_string(root().join("tests/replay/cases/README.md")).unwrap();
    let until = |name: &str| {
        let row = table.lines().find(|line| line.starts_with(&format!("| `{name}`")))?;
        let cell = row.trim_matches('|').split('|').nth(1)?.trim().to_owned();
        (cell != "-").then_some(cell)
    };
    let mut found = Vec::new();
    for folder in ["tests/samples", "tests/replay/cases"] {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ending| ending == "ndjson") {
                let until = until(path.file_stem().unwrap().to_str().unwrap());
                found.push((path, until));
            }
        }
    }
    found.sort();
    assert!(found.len() > 40, "{}", found.len());
    found
}

fn taken(line: &[u8]) -> Result<(), Rejection> {
    decode(&Raw { content_type: Some("application/cloudevents+json"), headers: &[], body: line }).map(drop)
}

#[test]
fn what_is_taken_validates() {
    let validators = validators("inbound/");
    let mut seen = BTreeSet::new();
    let mut lines: Vec<(String, Vec<u8>)> = Vec::new();
    let files = event_files().into_iter().map(|(path, _)| path).chain([root().join("tests/wire/events.ndjson")]);
    for path in files {
        let bytes = fs::read(&path).unwrap();
        lines.extend(
            bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(|line| (path.display().to_string(), line.to_vec())),
        );
    }
    assert!(lines.len() > 300, "{}", lines.len());
    for (path, line) in &lines {
        let event: Value = serde_json::from_slice(line).unwrap_or_default();
        let event_type = event["type"].as_str().unwrap_or_default();
        match (taken(line), validators.get(event_type)) {
            (Ok(()), Some(validator)) => {
                assert_eq!(faults(validator, &event), Vec::<String>::new(), "{path}: {event}");
                seen.insert(event_type.to_owned());
            }
            (Ok(()), None) => panic!("{event_type} has no schema"),
            (Err(rejection), Some(validator)) if matches!(rejection.reason, Reason::Malformed | Reason::Invalid | Reason::TooLarge) => {
                assert!(!validator.is_valid(&event), "{path}: {rejection} validates: {event}");
            }
            (Err(_), _) => {}
        }
    }
    let applied: BTreeSet<String> =
        InboundType::ALL.iter().map(|kind| kind.as_str().to_owned()).filter(|name| name != "remediation.attempted").collect();
    assert_eq!(seen, applied, "a type of which no fixture is taken");
}

/// The cases of `tests/wire/cases.txt` that are refused although they validate: the rule is between fields, or
/// between what JSON Schema calls the same and this service does not. Whatever else is refused must not validate.
const BEYOND_A_SCHEMA: [&str; 19] = [
    r#"soc-1001-1 | ~/id = 1.0"#,
    r#"soc-1001-1 | ~/remediations/total_count = 3"#,
    r#"soc-1001-1 | ~/remediations/items/1/id = 1"#,
    r#"soc-1001-1 | ~/remediations/items/3/action = "rotate the-LOCAL administrator_password""#,
    r#"soc-1001-1 | ~/remediations/items/1/action = "delete-scheduled task" && ~/remediations/items/1/parameters = [{"name":"task","description":"\\Microsoft\\Windows\\OneDriveSync"}]"#,
    r#"soc-1001-1 | ~/footholds/1/id = "fh-1""#,
    r#"soc-1001-1 | ~/footholds/0/remediation_ids = [1,9]"#,
    r#"soc-1005-1 | ~/remediations/items/1/action = "Kill Process""#,
    r#"soc-1005-1 | ~/remediations/items/0/action = "isolate host""#,
    r#"soc-1002-2 | /data/footholds = [{"id":"a","kind":"k","remediation_ids":[11]}]"#,
    r#"org-1 | /data/time_zone = "Australia/Atlantis""#,
    r#"org-1 | /data/time_zone = "Etc/Unknown""#,
    r#"org-1 | /data/business_hours/opens = "17:00""#,
    r#"org-1 | /data/business_hours/opens = "22:00" && /data/business_hours/closes = "06:00""#,
    r#"org-1 | /data/business_hours/opens = "24:00" && /data/business_hours/closes = "24:00""#,
    r#"org-1 | /data/unresponsive_after_days = 21.0"#,
    r#"org-1 | /data/sla/high_warning_minutes = 30"#,
    r#"org-1 | /data/sla = {"high_minutes":45}"#,
    r#"org-1 | /data/sla = {"high_warning_minutes":60}"#,
];

#[test]
fn what_is_refused_does_not_validate_where_a_schema_can_say_so() {
    let validators = validators("inbound/");
    let mut events = BTreeMap::new();
    // the ids of the cases are used by several
    let files = event_files().into_iter().map(|(path, _)| path).filter(|path| path.parent().unwrap().ends_with("samples"));
    for path in files.chain([root().join("tests/wire/events.ndjson")]) {
        for line in fs::read_to_string(path).unwrap().lines() {
            if let Ok(event) = serde_json::from_str::<Value>(line) {
                events.entry(event["id"].as_str().unwrap_or_default().to_owned()).or_insert(event);
            }
        }
    }
    let cases = fs::read_to_string(root().join("tests/wire/cases.txt")).unwrap();
    let (mut beyond, mut refused) = (Vec::new(), 0);
    for line in cases.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let columns: Vec<&str> = line.split(" | ").map(str::trim).collect();
        let [base, edits, verdict, ..] = columns[..] else { panic!("three columns at least: {line}") };
        let edited = edits.split(" && ").fold(events[base].clone(), edit);
        // another type or version is no matter of this type's schema
        let Some(validator) = edited["type"].as_str().and_then(|event_type| validators.get(event_type)) else { continue };
        let valid = validator.is_valid(&edited);
        match verdict {
            "ok" => assert_eq!(faults(validator, &edited), Vec::<String>::new(), "{line}"),
            // told of fields that differ, not of a value
            "tenant_mismatch" | "plan_incomplete" => {}
            _ if valid => beyond.push(format!("{base} | {edits}")),
            _ => refused += 1,
        }
    }
    assert!(refused > 100, "{refused}");
    assert_eq!(beyond, BEYOND_A_SCHEMA, "which refusals a schema does not see");
}

#[test]
fn limits_are_in_the_schemas() {
    let validators = validators("inbound/");
    let base = |id: &str| -> Value {
        let lines = fs::read_to_string(root().join("tests/samples/able-moose.ndjson")).unwrap();
        lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).find(|event| event["id"] == id).expect(id)
    };
    let report = base("soc-1001-1");
    let many = |count: usize| (1..=count).map(|id| json!({"id": id, "type": "manual", "action": format!("step {id}")})).collect::<Vec<_>>();
    let footholds = |count: usize| (1..=count).map(|id| json!({"id": format!("f{id}"), "kind": "k"})).collect::<Vec<_>>();
    for (pointer, within, over) in [
        ("/id", json!("x".repeat(255)), json!("x".repeat(256))),
        ("/source", json!("x".repeat(255)), json!("a\u{7}b")),
        ("/data/incident_report/body", json!("x".repeat(65_536)), json!("x".repeat(65_537))),
        ("/data/incident_report/summary", json!("x".repeat(4_096)), json!("x".repeat(4_097))),
        ("/data/incident_report/remediations/items", json!(many(200)), json!(many(201))),
        ("/data/incident_report/footholds", json!(footholds(200)), json!(footholds(201))),
        ("/data/incident_report/indicator_types", json!(vec!["a"; 64]), json!(vec!["a"; 65])),
        ("/data/incident_report/remediations/items/1/simulate", json!(vec!["ok"; 100]), json!(vec!["ok"; 101])),
    ] {
        for (value, fits) in [(within, true), (over, false)] {
            let mut event = report.clone();
            if pointer.ends_with("/items") {
                // what is left of the plan is not what this is about
                event["data"]["incident_report"]["footholds"] = json!([]);
                event["data"]["incident_report"]["remediations"]["total_count"] = Value::Null;
            }
            *event.pointer_mut(pointer).unwrap() = value;
            assert_eq!(taken(event.to_string().as_bytes()).is_ok(), fits, "{pointer}");
            assert_eq!(validators["incident_report.created"].is_valid(&event), fits, "{pointer}");
        }
    }
    let mut survey = base("survey-12-1");
    for (count, fits) in [(2_000, true), (2_001, false)] {
        survey["data"]["footholds_present"] = json!(vec!["f"; count]);
        assert_eq!(taken(survey.to_string().as_bytes()).is_ok(), fits, "{count}");
        assert_eq!(validators["agent.surveyed"].is_valid(&survey), fits, "{count}");
    }
}

/// Strict: also a field that the schema does not name is a fault.
fn closed(mut schema: Value) -> Value {
    fn close(schema: &mut Value) {
        match schema {
            Value::Object(members) => {
                if members.get("properties").is_some_and(Value::is_object) && members.get("type").is_some_and(|kind| kind == "object") {
                    members.insert("additionalProperties".to_owned(), json!(false));
                }
                members.iter_mut().filter(|(name, _)| *name != "examples").for_each(|(_, value)| close(value));
            }
            Value::Array(items) => items.iter_mut().for_each(close),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    close(&mut schema);
    schema
}

#[test]
fn what_is_published_validates_and_says_nothing_more() {
    let outbound = |(name, schema): (String, Value)| {
        let event_type = name.strip_prefix("outbound/")?.to_owned();
        let schema = if PASSED_ON.contains(&event_type.as_str()) { schema } else { closed(schema) };
        Some((event_type, validator(&schema)))
    };
    let validators: BTreeMap<String, Validator> = schemas().into_iter().filter_map(outbound).collect();
    let replays: Vec<_> = event_files()
        .chunks(8)
        .flat_map(|files| {
            let running: Vec<_> = files
                .iter()
                .cloned()
                .map(|(path, until)| {
                    thread::spawn(move || {
                        let until = until.iter().flat_map(|until| ["--until", until]);
                        replay(until.chain([path.to_str().unwrap()])).lines()
                    })
                })
                .collect();
            running.into_iter().map(|replay| replay.join().unwrap()).collect::<Vec<_>>()
        })
        .collect();
    let mut first: BTreeMap<String, String> = BTreeMap::new();
    let mut count = 0;
    for line in replays.iter().flatten() {
        let event: Value = serde_json::from_slice(line).unwrap();
        let event_type = event["type"].as_str().unwrap();
        let validator = validators.get(event_type).unwrap_or_else(|| panic!("{event_type} has no schema"));
        assert_eq!(faults(validator, &event), Vec::<String>::new(), "{event}");
        first.entry(event_type.to_owned()).or_insert_with(|| String::from_utf8(line.clone()).unwrap());
        count += 1;
    }
    assert!(count > 800, "{count}");
    let seen: Vec<&String> = first.keys().collect();
    assert_eq!(seen, validators.keys().collect::<Vec<_>>(), "a type that no replay publishes");
    let found: String = first.values().map(|line| format!("{line}\n")).collect();
    if updating() {
        fs::write(root().join(PUBLISHED), &found).unwrap();
    }
    let kept = fs::read_to_string(root().join(PUBLISHED)).unwrap();
    assert_eq!(kept, found, "{PUBLISHED} is no longer what is published: CONTRACTS_UPDATE=1 cargo test --test contracts, twice");
}
