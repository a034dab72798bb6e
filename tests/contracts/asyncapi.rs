//! The AsyncAPI document, judged by AsyncAPI's own parser (npm: @asyncapi/parser).

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::tool::{installed, run};
use crate::{committed, root, schemas};

const NEEDS: &str = "This test needs node and npm (Debian: apt-get install nodejs npm), and npm's registry once.";

/// What the parser says of the document.
fn judged(document: &Value) -> Value {
    let folder = root().join("tests/contracts/asyncapi");
    let place = installed("asyncapi", "tests/contracts/asyncapi/package-lock.json", |dir| {
        for name in ["package.json", "package-lock.json"] {
            fs::copy(folder.join(name), dir.join(name)).unwrap();
        }
        run(Command::new("npm").args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"]).current_dir(dir), NEEDS);
    });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("asyncapi.json");
    fs::write(&file, document.to_string()).unwrap();
    let output = run(Command::new("node").arg(folder.join("judge.cjs")).arg(place.join("node_modules")).arg(&file), NEEDS);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Diagnostics that are more than a recommendation.
fn complaints(judged: &Value) -> Vec<String> {
    let diagnostics = judged["diagnostics"].as_array().unwrap().iter();
    let serious = diagnostics.filter(|diagnostic| ["error", "warning"].contains(&diagnostic["severity"].as_str().unwrap()));
    serious.map(|diagnostic| format!("{}: {} ({})", diagnostic["path"], diagnostic["message"], diagnostic["code"])).collect()
}

#[test]
fn the_parser_of_asyncapi_understands_the_document() {
    let document: Value = serde_json::from_str(&fs::read_to_string(committed().join("asyncapi.json")).unwrap()).unwrap();
    let good = judged(&document);
    assert_eq!(complaints(&good), Vec::<String>::new());
    assert_eq!(good["version"], "3.0.0");
    let messages: BTreeSet<String> = good["messages"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()).collect();
    for name in schemas().keys() {
        let id = name.replacen('/', ".", 1);
        assert!(messages.contains(&id), "no message {id} in {messages:?}");
    }
    assert_eq!(good["operations"].as_array().unwrap().len(), 3);

    // and it would tell: a word that is none, a reference to nowhere, a schema that is none, a binding that is none
    let spoilt: [(&str, Value); 4] = [
        ("/operations/take-events/action", json!("listen")),
        ("/components/schemas/Surveyed/required", json!("agent_id")),
        ("/components/messages/inbound.agent.surveyed/payload/$ref", json!("#/components/schemas/nothing")),
        ("/channels/events/bindings/amqp/is", json!("topic")),
    ];
    for (pointer, value) in spoilt {
        let mut bad = document.clone();
        *bad.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer} is nowhere")) = value;
        assert_ne!(complaints(&judged(&bad)), Vec::<String>::new(), "{pointer}");
    }
}
