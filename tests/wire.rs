//! The wire from outside: the corpus of bad events, the limits, the samples, mutants, and golden output.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "wire/corpus.rs"]
mod corpus;
#[path = "wire/edits.rs"]
mod edits;
#[path = "wire/limits.rs"]
mod limits;
#[path = "wire/mutants.rs"]
mod mutants;
#[path = "wire/outbound.rs"]
mod outbound;
#[path = "wire/samples.rs"]
mod samples;

use remedyd::wire::{Inbound, Raw, Rejection, decode};
use serde_json::Value;

const STRUCTURED: &str = "application/cloudevents+json";

const EVENTS: [(&str, &str); 6] = [
    ("able-moose", include_str!("samples/able-moose.ndjson")),
    ("critical-isolated", include_str!("samples/critical-isolated.ndjson")),
    ("disorder", include_str!("samples/disorder.ndjson")),
    ("no-remediation", include_str!("samples/no-remediation.ndjson")),
    ("reject-and-revise", include_str!("samples/reject-and-revise.ndjson")),
    ("events", include_str!("wire/events.ndjson")),
];

fn structured(body: &[u8]) -> Result<Inbound, Rejection> {
    decode(&Raw { content_type: Some(STRUCTURED), headers: &[], body })
}

/// An event of the samples or of `wire/events.ndjson`.
fn event(id: &str) -> Value {
    EVENTS
        .iter()
        .flat_map(|(_, lines)| lines.lines())
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|event| event["id"] == id)
        .unwrap_or_else(|| panic!("no event {id}"))
}
