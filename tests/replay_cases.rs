//! Cases as they come in, each replayed and held against its golden file: the table in `tests/replay/cases/README.md`
//! says which there are, how far time goes on after the last event, and what is to be seen.
//!
//! `INSTA_UPDATE=always cargo test --test replay_cases` writes the golden files anew.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod service;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use serde_json::{Map, Value};
use service::{Replayed, check_sequences, replay};

/// A row of the table.
struct Case {
    name: String,
    until: Option<String>,
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/replay/cases")
}

/// Rows are `| name | until | … |`; an `until` of `-` means that the last event is the end.
fn cases() -> Vec<Case> {
    let table = fs::read_to_string(directory().join("README.md")).unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| {
        let mut cells = row.trim_matches('|').split('|').map(str::trim);
        let name = cells.next().unwrap().trim_matches('`').to_owned();
        let until = cells.next().unwrap_or_else(|| panic!("no time in the row of {name}"));
        Case { name, until: (until != "-").then(|| until.to_owned()) }
    })
    .collect()
}

impl Case {
    fn replay(&self) -> Replayed {
        let file = directory().join(format!("{}.ndjson", self.name)).display().to_string();
        let until = self.until.iter().flat_map(|until| ["--until", until]);
        replay(until.chain([file.as_str()]))
    }

    fn check(&self) {
        let replayed = self.replay();
        check_sequences(&replayed.events());
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path("replay/cases");
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        settings.bind(|| insta::assert_snapshot!(self.name.as_str(), shown(&replayed)));
    }
}

/// A line an event, for people to read: when, about what, because of what, which, and what it says. What is null,
/// false or empty is left out, and what the line has said already.
fn shown(replayed: &Replayed) -> String {
    let mut text = String::new();
    for event in replayed.events() {
        let word = |name: &str| event[name].as_str().unwrap();
        let mut data = event["data"].as_object().unwrap().clone();
        let change = data.remove("to").map(|to| format!("{} -> {}", plain(&data.remove("from").unwrap_or_default()), plain(&to)));
        let task = data.remove("remediation_id").filter(Value::is_number).map(|id| format!("#{id}"));
        for said in ["incident_report_id", "agent_id", "max_attempts"] {
            data.remove(said);
        }
        let rest = brief(&Value::Object(data));
        let parts = [Some(word("type").to_owned()), task, change, (rest != Value::Object(Map::new())).then(|| rest.to_string())];
        let said = parts.into_iter().flatten().collect::<Vec<_>>().join(" ");
        writeln!(text, "{} {} {} [{}] {said}", word("time"), word("tenantid"), word("subject"), word("causationid")).unwrap();
    }
    for letter in &replayed.dead_letters {
        let mut letter = letter.as_object().unwrap().clone();
        // where the repository lies is no part of it
        letter.remove("file");
        writeln!(text, "dead letter {}", Value::Object(letter)).unwrap();
    }
    writeln!(text, "{}", brief(&replayed.summary["summary"])).unwrap();
    text
}

fn plain(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

/// Without what says nothing. Nobody's mail address helps to read a case either.
fn brief(value: &Value) -> Value {
    let says_nothing = |value: &Value| match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_u64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    };
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(name, value)| !says_nothing(value) && *name != "email");
            Value::Object(kept.map(|(name, value)| (name.clone(), brief(value))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(brief).collect()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

#[test]
fn every_case_comes_to_its_golden_file() {
    let wrong: Vec<String> = cases()
        .into_iter()
        .filter_map(|case| {
            let name = case.name.clone();
            // a case of its own thread: one that is wrong does not hide the others
            thread::spawn(move || case.check()).join().is_err().then_some(name)
        })
        .collect();
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn the_table_names_every_file() {
    let named = |extension: &str| {
        let files = fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().path());
        let mut names: Vec<String> = files
            .filter(|path| path.extension().is_some_and(|found| found == extension))
            .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    let mut table: Vec<String> = cases().into_iter().map(|case| case.name).collect();
    table.sort();
    assert!(table.len() >= 20, "{} cases", table.len());
    assert_eq!(named("ndjson"), table);
    assert_eq!(named("snap"), table);
}
