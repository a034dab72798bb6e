//! `cases.txt`: one edit of a good event, and what the wire says of it.

use std::collections::BTreeSet;

use remedyd::wire::Reason;
use serde_json::Value;

use super::edits::edit;
use super::{EVENTS, event, structured};

#[test]
fn every_case_is_judged_as_written() {
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for line in include_str!("cases.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let columns: Vec<&str> = line.split(" | ").map(str::trim).collect();
        let [base, edits, verdict, ..] = columns[..] else { panic!("three columns at least: {line}") };
        let detail = columns.get(3).copied().unwrap_or_default();
        assert_eq!(verdict == "ok", detail.is_empty(), "a refusal has a detail: {line}");
        let edited = edits.split(" && ").fold(event(base), edit);
        match structured(edited.to_string().as_bytes()) {
            Ok(_) if verdict == "ok" => {}
            Err(rejection) if rejection.reason.as_str() == verdict && rejection.detail.starts_with(detail) => {
                seen.insert(rejection.reason.as_str());
            }
            other => wrong.push(format!("{line}\n    -> {:?}", other.map(|_| "ok").map_err(|no| no.to_string()))),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));

    // too_large has its own tests; the other two only the pipeline can know
    let elsewhere = [Reason::TooLarge, Reason::IdReused, Reason::Orphan];
    for reason in Reason::ALL {
        assert_eq!(seen.contains(reason.as_str()), !elsewhere.contains(&reason), "{reason:?}");
    }
}

#[test]
fn a_rejection_says_whose_it_was() {
    let mut broken = event("soc-1001-1");
    broken["data"]["incident_report"]["severity"] = "medium".into();
    let rejection = structured(broken.to_string().as_bytes()).unwrap_err();
    assert_eq!(rejection.id.as_deref(), Some("soc-1001-1"));
    assert_eq!(rejection.tenant.map(|tenant| tenant.to_string()).as_deref(), Some("5.4"));
    assert_eq!(rejection.event_type.as_deref(), Some("incident_report.created"));

    let rejection = structured(b"{\"id\":\"a\"").unwrap_err();
    assert_eq!((rejection.id, rejection.tenant, rejection.event_type), (None, None, None));
}

#[test]
fn no_detail_quotes_what_a_customer_wrote() {
    const CANARY: &str = "CANARY, expected `CANARY`";
    /// Every string of the event, one at a time.
    fn places(value: &Value, at: String, found: &mut Vec<String>) {
        match value {
            Value::Object(members) => members.iter().for_each(|(key, value)| places(value, format!("{at}/{key}"), found)),
            Value::Array(items) => items.iter().enumerate().for_each(|(index, value)| places(value, format!("{at}/{index}"), found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => found.push(at),
        }
    }
    let mut refused = 0;
    let lines = EVENTS.iter().flat_map(|(_, lines)| lines.lines());
    for good in lines.filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let mut found = Vec::new();
        places(&good, String::new(), &mut found);
        for place in found {
            for canary in [Value::from(CANARY), serde_json::json!([CANARY]), serde_json::json!({CANARY: CANARY})] {
                let mut bad = good.clone();
                *bad.pointer_mut(&place).unwrap() = canary;
                if let Err(rejection) = structured(bad.to_string().as_bytes()) {
                    refused += 1;
                    assert!(!rejection.detail.contains("CANARY"), "{place}: {}", rejection.detail);
                }
            }
        }
    }
    assert!(refused > 1_000, "{refused}");
}
