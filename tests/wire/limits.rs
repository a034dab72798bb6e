//! Every limit, at the limit and one beyond it. (Depth, strings and attributes: beside the code.)

use remedyd::wire::{Reason, limits};
use serde_json::{Value, json};

use super::{event, structured};

/// `make(n)` is taken at `limit` and refused as `reason` at `field` beyond it.
fn check(limit: usize, reason: Reason, field: &str, make: impl Fn(usize) -> Value) {
    if let Err(rejection) = structured(make(limit).to_string().as_bytes()) {
        panic!("at {limit}: {rejection}");
    }
    let rejection = structured(make(limit + 1).to_string().as_bytes()).expect_err(field);
    assert_eq!(rejection.reason, reason, "{rejection}");
    assert!(rejection.detail.starts_with(&format!("{field}: ")), "{rejection} is not about {field}");
    assert!(rejection.detail.contains(&limit.to_string()), "{rejection} does not say {limit}");
}

fn with(id: &str, pointer: &str, value: Value) -> Value {
    let mut event = event(id);
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    event.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(key.into(), value);
    event
}

fn many<T: Into<Value>>(n: usize, make: impl Fn(usize) -> T) -> Value {
    (1..=n).map(|index| make(index).into()).collect()
}

fn items(n: usize) -> Value {
    many(n, |index| json!({"id": index, "type": "manual", "action": format!("step {index}")}))
}

#[test]
fn lists() {
    const REPORT: &str = "/data/incident_report";
    const ITEM: &str = "/data/incident_report/remediations/items/1";
    let too_large = Reason::TooLarge;
    check(limits::REMEDIATIONS, too_large, "data.incident_report.remediations.items", |n| {
        let mut event = with("soc-1001-1", &format!("{REPORT}/remediations"), json!({"total_count": n, "items": items(n)}));
        event["data"]["incident_report"]["footholds"] = json!([]);
        event
    });
    check(limits::REMEDIATIONS, too_large, "data.remediations.items", |n| {
        with("soc-1002-2", "/data/remediations", json!({"total_count": n, "items": items(n)}))
    });
    check(limits::REMEDIATIONS, too_large, "data.remediation_ids", |n| with("p-3", "/data/remediation_ids", many(n, |index| index)));
    check(limits::FOOTHOLDS, too_large, "data.incident_report.footholds", |n| {
        with("soc-1001-1", &format!("{REPORT}/footholds"), many(n, |index| json!({"id": index.to_string(), "kind": "k"})))
    });
    check(limits::FOOTHOLDS_PRESENT, too_large, "data.footholds_present", |n| {
        with("survey-12-1", "/data/footholds_present", many(n, |index| index.to_string()))
    });
    check(limits::INDICATOR_TYPES, too_large, "data.incident_report.indicator_types", |n| {
        with("soc-1001-1", &format!("{REPORT}/indicator_types"), many(n, |index| index.to_string()))
    });
    check(limits::PARAMETERS, too_large, "data.incident_report.remediations.items[1].parameters", |n| {
        with("soc-1001-1", &format!("{ITEM}/parameters"), many(n, |index| json!({"name": index.to_string()})))
    });
    check(limits::SIMULATED_TRIES, too_large, "data.incident_report.remediations.items[1].simulate", |n| {
        with("soc-1001-1", &format!("{ITEM}/simulate"), many(n, |_| "timeout"))
    });
    check(limits::OUTCOME_CODE_BYTES, too_large, "data.incident_report.remediations.items[1].simulate[0]", |n| {
        with("soc-1001-1", &format!("{ITEM}/simulate"), json!(["x".repeat(n)]))
    });
}

#[test]
fn texts() {
    check(limits::TEXT_BYTES, Reason::TooLarge, "data.incident_report.summary", |n| {
        with("soc-1001-1", "/data/incident_report/summary", "x".repeat(n).into())
    });
    check(limits::TEXT_BYTES, Reason::TooLarge, "data.incident_report.unknown[0]", |n| {
        with("soc-1001-1", "/data/incident_report/unknown", json!(["x".repeat(n)]))
    });
    check(limits::BODY_BYTES, Reason::TooLarge, "data.incident_report.body", |n| {
        with("soc-1001-1", "/data/incident_report/body", "x".repeat(n).into())
    });
    check(limits::BODY_BYTES, Reason::TooLarge, "data.body", |n| with("soc-1001-2", "/data/body", "x".repeat(n).into()));
    check(limits::ATTRIBUTE_BYTES, Reason::TooLarge, "id", |n| with("p-3", "/id", "x".repeat(n).into()));
}

#[test]
fn depth_in_both_modes() {
    let nested = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!([inner]));
    // the event and its data are two of the levels
    let event = |levels: usize| with("survey-12-1", "/data/unknown", nested(levels - 2)).to_string();
    assert!(structured(event(limits::DEPTH).as_bytes()).is_ok());
    let rejection = structured(event(limits::DEPTH + 1).as_bytes()).unwrap_err();
    assert_eq!(rejection.reason, Reason::Malformed, "{rejection}");
}

#[test]
fn the_whole_message() {
    let padded = |n: usize| {
        let event = event("survey-12-1").to_string();
        format!("{event}{}", " ".repeat(n - event.len()))
    };
    assert!(structured(padded(limits::MESSAGE_BYTES).as_bytes()).is_ok());
    let rejection = structured(padded(limits::MESSAGE_BYTES + 1).as_bytes()).unwrap_err();
    assert_eq!(rejection.reason, Reason::TooLarge, "{rejection}");
}
