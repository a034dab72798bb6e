//! Tables for the envelope: both modes, each attribute, digests.

use super::*;

const STRUCTURED: &str = "application/cloudevents+json";

fn event(edit: impl FnOnce(&mut Map<String, Value>)) -> String {
    let mut event = serde_json::json!({
        "specversion": "1.0", "id": "e1", "source": "soc", "type": "t", "time": "2026-11-23T09:00:00.1239Z",
        "tenantid": "5.4", "data": {"n": 1},
    });
    edit(event.as_object_mut().unwrap());
    event.to_string()
}

fn open_body(content_type: Option<&str>, body: &str) -> Result<Envelope, Rejection> {
    open(&Raw { content_type, headers: &[], body: body.as_bytes() })
}

fn headers(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

const BINARY: [(&str, &str); 6] = [
    ("cloudEvents_specversion", "1.0"),
    ("cloudEvents_id", "e1"),
    ("cloudEvents:source", "soc"),
    ("cloudEvents_type", "t"),
    ("cloudEvents_time", "2026-11-23T09:00:00.1239Z"),
    ("cloudEvents_tenantid", "5.4"),
];

#[test]
fn both_modes_give_the_same_envelope() {
    let structured = open_body(Some(STRUCTURED), &event(|_| ())).unwrap();
    assert_eq!(structured.time.to_string(), "2026-11-23T09:00:00.123Z");
    let mut pairs = BINARY.to_vec();
    pairs.push(("tenantid", "6.6"));
    let binary = open(&Raw { content_type: Some("application/json"), headers: &headers(&pairs), body: b"{\"n\":1}" }).unwrap();
    assert_ne!(binary.digest, structured.digest);
    assert_eq!(binary.header_tenant.as_deref(), Some("6.6"));
    assert_eq!(Envelope { digest: structured.digest, header_tenant: None, ..binary }, structured);
}

#[test]
fn content_types() {
    let body = event(|_| ());
    for structured in [
        None,
        Some(""),
        Some(STRUCTURED),
        Some("Application/CloudEvents+JSON; charset=UTF-8"),
        Some("application/cloudevents+json;charset=\"utf-8\";x=y"),
    ] {
        assert!(open_body(structured, &body).is_ok(), "{structured:?}");
    }
    for (refused, detail) in [
        ("text/plain", "content type: neither"),
        ("application/cloudevents-batch+json", "content type: neither"),
        ("application/cloudevents+avro", "content type: neither"),
        ("application/cloudevents+json; charset=latin1", "content type: only UTF-8"),
        // JSON data without attributes as headers
        ("application/json", "specversion: missing"),
    ] {
        let rejection = open_body(Some(refused), &body).expect_err(refused);
        assert_eq!(rejection.reason, Reason::Malformed, "{refused}");
        assert!(rejection.detail.starts_with(detail), "{refused}: {}", rejection.detail);
    }
    let bare = open(&Raw { content_type: None, headers: &headers(&BINARY), body: b"{\"n\":1}" });
    assert_eq!(bare.unwrap().data["n"], 1);
}

#[test]
fn attributes_are_checked_in_both_modes() {
    let long = "x".repeat(limits::ATTRIBUTE_BYTES + 1);
    let cases: [(&str, Option<&str>, Reason, &str); 24] = [
        ("specversion", None, Reason::Malformed, "specversion: missing"),
        ("specversion", Some("0.3"), Reason::Malformed, "specversion: only 1.0"),
        ("id", None, Reason::Malformed, "id: missing"),
        ("id", Some(""), Reason::Malformed, "id: empty"),
        ("id", Some("a\0b"), Reason::Malformed, "id: control character"),
        ("id", Some(&long), Reason::TooLarge, "id: more than 255 bytes"),
        ("source", None, Reason::Malformed, "source: missing"),
        ("source", Some(&long), Reason::TooLarge, "source: more than 255 bytes"),
        ("type", None, Reason::Malformed, "type: missing"),
        ("type", Some(""), Reason::Malformed, "type: empty"),
        ("type", Some(&long), Reason::TooLarge, "type: more than 255 bytes"),
        ("time", None, Reason::Malformed, "time: missing"),
        ("time", Some("yesterday"), Reason::Malformed, "time: not an RFC 3339 time"),
        ("tenantid", None, Reason::Malformed, "tenantid: missing"),
        ("tenantid", Some("05.4"), Reason::Malformed, "tenantid: not <account_id>"),
        ("tenantid", Some("0.4"), Reason::Malformed, "tenantid: not <account_id>"),
        ("tenantid", Some("5.9007199254740993"), Reason::Malformed, "tenantid: not <account_id>"),
        ("schemaversion", Some("2"), Reason::UnsupportedVersion, "schemaversion: only major"),
        ("schemaversion", Some("10.1"), Reason::UnsupportedVersion, "schemaversion: only major"),
        ("schemaversion", Some("99999999999999999999"), Reason::UnsupportedVersion, "schemaversion"),
        ("schemaversion", Some("v1"), Reason::Malformed, "schemaversion: not <major>"),
        ("schemaversion", Some("0.9"), Reason::Malformed, "schemaversion: 0"),
        ("datacontenttype", Some("text/xml"), Reason::Malformed, "datacontenttype: only JSON"),
        ("data_base64", Some("e30="), Reason::Malformed, "data_base64: only JSON"),
    ];
    for (attribute, value, reason, detail) in cases {
        let body = event(|event| match value {
            Some(value) => drop(event.insert(attribute.into(), value.into())),
            None => drop(event.remove(attribute)),
        });
        let mut pairs = headers(&BINARY);
        pairs.retain(|(name, _)| super::attribute(name) != Some(attribute));
        pairs.extend(value.map(|value| (format!("cloudEvents_{attribute}"), value.to_string())));
        let binary = Raw { content_type: Some("application/json"), headers: &pairs, body: b"{}" };
        for rejection in [open_body(Some(STRUCTURED), &body), open(&binary)] {
            let rejection = rejection.expect_err(attribute);
            assert_eq!(rejection.reason, reason, "{attribute} {value:?}: {rejection}");
            assert!(rejection.detail.starts_with(detail), "{attribute} {value:?}: {rejection}");
            let known =
                [(rejection.id.is_some(), "id"), (rejection.event_type.is_some(), "type"), (rejection.tenant.is_some(), "tenantid")];
            for (is_known, name) in known {
                assert_eq!(is_known, name != attribute, "{attribute}: {name}");
            }
        }
    }
}

#[test]
fn attributes_at_their_limits_are_taken() {
    let full = "x".repeat(limits::ATTRIBUTE_BYTES);
    for (attribute, value) in [
        ("id", Value::from(full.as_str())),
        ("source", full.as_str().into()),
        ("type", full.as_str().into()),
        ("tenantid", "9007199254740992.1".into()),
        ("schemaversion", "1".into()),
        ("schemaversion", "1.2".into()),
        ("schemaversion", 1.into()),
        ("schemaversion", Value::Null),
        ("datacontenttype", "application/json; charset=utf-8".into()),
        ("datacontenttype", "application/vnd.x+json".into()),
        ("data_base64", Value::Null),
        ("another", serde_json::json!({"extension": true})),
    ] {
        let body = event(|event| drop(event.insert(attribute.into(), value.clone())));
        assert!(open_body(Some(STRUCTURED), &body).is_ok(), "{attribute} {value}");
    }
}

#[test]
fn a_header_may_not_contradict_itself() {
    let mut pairs = BINARY.to_vec();
    pairs.push(("cloudEvents:id", "e1"));
    let id = |pairs: &[(&str, &str)]| {
        let headers = headers(pairs);
        open(&Raw { content_type: None, headers: &headers, body: b"{}" }).map(|open| open.id)
    };
    assert_eq!(id(&pairs).as_deref(), Ok("e1"));
    pairs.push(("CLOUDEVENTS_id", "e2"));
    assert_eq!(id(&pairs).unwrap_err().detail, "headers: one attribute with two values");
}

#[test]
fn the_digest_covers_every_byte() {
    let plain = open_body(Some(STRUCTURED), &event(|_| ())).unwrap();
    let spaced = open_body(Some(STRUCTURED), &format!("{} ", event(|_| ()))).unwrap();
    assert_ne!(plain.digest, spaced.digest);

    let digest = |pairs: &[(&str, &str)], body: &[u8]| open(&Raw { content_type: None, headers: &headers(pairs), body }).unwrap().digest;
    let mut turned = BINARY;
    turned.reverse();
    assert_eq!(digest(&BINARY, b"{}"), digest(&turned, b"{}"));
    assert_ne!(digest(&BINARY, b"{}"), digest(&BINARY, b"{ }"));
    let mut other = BINARY;
    other[2].1 = "noc";
    assert_ne!(digest(&BINARY, b"{}"), digest(&other, b"{}"));
}

#[test]
fn a_broken_trace_context_is_dropped_and_the_event_taken() {
    for broken in [Value::from("00-xyz"), 5.into()] {
        let body = event(|event| drop(event.insert("traceparent".into(), broken)));
        assert_eq!(open_body(Some(STRUCTURED), &body).unwrap().traceparent, None);
    }
}
