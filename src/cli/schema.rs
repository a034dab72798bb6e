//! `remedyd schema`: the contracts for others, as JSON Schemas and as one AsyncAPI document.
//!
//! Never here: what a field is; the types of the wire say that. The examples are events of the tests.

mod asyncapi;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Args;
use serde_json::{Map, Value};

use super::exit::Exit;
use crate::wire::schema::{Direction, documents};
use crate::wire::{Raw, decode, outbound};

/// Events that are taken: the first of a type is its example.
const TAKEN: [&str; 6] = [
    include_str!("../../tests/samples/able-moose.ndjson"),
    include_str!("../../tests/samples/critical-isolated.ndjson"),
    include_str!("../../tests/samples/no-remediation.ndjson"),
    include_str!("../../tests/samples/reject-and-revise.ndjson"),
    include_str!("../../tests/samples/disorder.ndjson"),
    include_str!("../../tests/wire/events.ndjson"),
];
/// One event of each type that is published, as a replay has printed it.
const PUBLISHED: &str = include_str!("../../tests/contracts/published.ndjson");

#[derive(Args)]
pub struct SchemaArgs {
    /// Only this one: asyncapi, inbound/TYPE or outbound/TYPE
    #[arg(value_name = "NAME", conflicts_with = "out")]
    name: Option<String>,
    /// Write each to its file below DIR, instead of printing all as one JSON object
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub fn run(args: SchemaArgs) -> anyhow::Result<ExitCode> {
    let mut contracts = contracts()?;
    if let Some(dir) = &args.out {
        for (name, contract) in &contracts {
            write(&dir.join(format!("{name}.json")), contract)?;
        }
        println!("{} files are in {}", contracts.len(), dir.display());
    } else if let Some(name) = &args.name {
        let Some(contract) = contracts.remove(name) else {
            let known: Vec<&str> = contracts.keys().map(String::as_str).collect();
            return Err(anyhow::anyhow!("there is no {name}; there are\n  {}", known.join("\n  "))).context(Exit::Config);
        };
        println!("{}", serde_json::to_string_pretty(&contract)?);
    } else {
        println!("{}", serde_json::to_string_pretty(&contracts)?);
    }
    Ok(Exit::Ok.into())
}

/// All of them by name, which is also their path without its ending.
fn contracts() -> anyhow::Result<BTreeMap<String, Value>> {
    let examples = Examples::read()?;
    let mut contracts = BTreeMap::new();
    for document in documents() {
        let mut schema = document.schema;
        schema["examples"] = vec![examples.of(document.direction, document.event_type)?.clone()].into();
        contracts.insert(format!("{}/{}", document.direction.as_str(), document.event_type), schema);
    }
    contracts.insert("asyncapi".to_owned(), asyncapi::document(&examples)?);
    Ok(contracts)
}

fn write(path: &Path, contract: &Value) -> anyhow::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
    let text = serde_json::to_string_pretty(contract)? + "\n";
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// An event of each type.
struct Examples(Map<String, Value>);

impl Examples {
    fn read() -> anyhow::Result<Self> {
        let mut found = Map::new();
        let mut note = |direction: Direction, line: &str| -> anyhow::Result<()> {
            let event: Value = serde_json::from_str(line)?;
            let event_type = event["type"].as_str().unwrap_or_default();
            found.entry(format!("{}/{event_type}", direction.as_str())).or_insert(event);
            Ok(())
        };
        for line in TAKEN.iter().flat_map(|lines| lines.lines()) {
            let raw = Raw { content_type: Some(outbound::CONTENT_TYPE), headers: &[], body: line.as_bytes() };
            // two of them are wrong on purpose
            if decode(&raw).is_ok() {
                note(Direction::Inbound, line)?;
            }
        }
        for line in PUBLISHED.lines() {
            note(Direction::Outbound, line)?;
        }
        Ok(Self(found))
    }

    fn of(&self, direction: Direction, event_type: &str) -> anyhow::Result<&Value> {
        let name = format!("{}/{event_type}", direction.as_str());
        self.0.get(&name).with_context(|| format!("no example of {name}"))
    }
}
