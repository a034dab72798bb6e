//! The contracts for others: what `remedyd schema` prints is what is committed, and it is true. Whatever the service
//! takes or publishes validates, what is refused does not where one value can say so, and tools that are not ours
//! understand it: a JSON Schema validator, AsyncAPI's parser, a CloudEvents library.
//!
//! `CONTRACTS_UPDATE=1 cargo test --test contracts` writes the committed files anew.
//! Two tests install their tool once into target/: by npm, and by pip for Debian's Python.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "contracts/asyncapi.rs"]
mod asyncapi;
#[path = "wire/edits.rs"]
mod edits;
#[path = "contracts/fixtures.rs"]
mod fixtures;
#[path = "contracts/interop.rs"]
mod interop;
#[path = "service/outside.rs"]
mod outside;
#[path = "service/process.rs"]
mod process;
mod service;
#[path = "contracts/tool.rs"]
mod tool;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use jsonschema::Validator;
use serde_json::Value;

/// Where the committed ones are.
pub fn committed() -> PathBuf {
    root().join("docs/schema")
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether the committed files are to be written anew instead of compared.
pub fn updating() -> bool {
    std::env::var_os("CONTRACTS_UPDATE").is_some()
}

/// Every file below `dir`, by its path from there.
fn files(dir: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                let name = entry.path().strip_prefix(dir).unwrap().display().to_string();
                found.insert(name, fs::read_to_string(entry.path()).unwrap());
            }
        }
    }
    found
}

/// The JSON Schemas by name: `inbound/TYPE`, `outbound/TYPE`.
pub fn schemas() -> BTreeMap<String, Value> {
    let json = |(name, text): (String, String)| Some((name.strip_suffix(".json")?.to_owned(), serde_json::from_str(&text).expect(&name)));
    files(&committed()).into_iter().filter_map(json).filter(|(name, _)| name.contains('/')).collect()
}

/// Judges by `schema`, formats included.
pub fn validator(schema: &Value) -> Validator {
    jsonschema::options().should_validate_formats(true).build(schema).unwrap_or_else(|error| panic!("{error}"))
}

/// What is wrong with `event`, one line each.
pub fn faults(validator: &Validator, event: &Value) -> Vec<String> {
    validator.iter_errors(event).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

#[test]
fn what_is_printed_is_what_is_committed() {
    let dir = tempfile::tempdir().unwrap();
    let out = if updating() { committed() } else { dir.path().to_owned() };
    let written = service::remedyd(["schema", "--out"]).arg(&out).output().unwrap();
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    let (printed, committed) = (files(&out), files(&committed()));
    let names = |files: &BTreeMap<String, String>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&printed), names(&committed), "a schema came or went: CONTRACTS_UPDATE=1 cargo test --test contracts");
    let differing: Vec<&String> = printed.iter().filter(|(name, text)| committed[*name] != **text).map(|(name, _)| name).collect();
    assert!(
        differing.is_empty(),
        "other than committed: {differing:?}; CONTRACTS_UPDATE=1 cargo test --test contracts, and look at the difference"
    );
    assert!(printed.len() > 40, "{}", printed.len());
}

#[test]
fn one_or_all_are_printed() {
    let all = service::remedyd(["schema"]).output().unwrap();
    let all: BTreeMap<String, Value> = serde_json::from_slice(&all.stdout).unwrap();
    assert_eq!(all.len(), files(&committed()).len());
    let one = service::remedyd(["schema", "outbound/on_call.paged"]).output().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&one.stdout).unwrap(), all["outbound/on_call.paged"]);
    let none = service::remedyd(["schema", "on_call.paged"]).output().unwrap();
    assert_eq!(none.status.code(), Some(64));
    let told = String::from_utf8(none.stderr).unwrap();
    assert!(told.contains("there is no on_call.paged") && told.contains("outbound/on_call.paged"), "{told}");
}

#[test]
fn every_schema_is_one_and_its_example_validates() {
    for (name, schema) in schemas() {
        jsonschema::meta::validate(&schema).unwrap_or_else(|error| panic!("{name}: {error}"));
        let validator = validator(&schema);
        let examples = schema["examples"].as_array().unwrap_or_else(|| panic!("{name}: no example"));
        assert_eq!(examples.len(), 1, "{name}");
        assert_eq!(faults(&validator, &examples[0]), Vec::<String>::new(), "{name}");
        assert_eq!(examples[0]["type"], schema["title"], "{name}");
    }
}
