//! The floors, kept by a test: who may import whom, who may read the clock, what every file must have.
//!
//! It reads source text, not types: `use crate::…` trees and `crate::` paths, with comments and strings taken
//! out first. Each rule is also run on a small made-up tree that breaks it, so that a rule that has gone
//! blind fails here and not years later.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Longer files hold more than one concept.
const MAX_LINES: usize = 600;
/// A judge that keeps its own copy of the rules, so as not to believe the code, may be longer.
const MAX_TEST_LINES: usize = 1_400;

/// (module, floor, what it may import). A new module has to be given its place here.
///
/// `crash` may be used where something has effects: what is pure (model, machine, wire) cannot be caught half-way.
/// `mutation` is a constant in everything but the check of the suite: rules may have seeded defects as well.
const MODULES: [(&str, u8, &[&str]); 13] = [
    ("crash", 0, &[]),
    ("mutation", 0, &[]),
    ("model", 0, &[]),
    ("machine", 1, &["model", "mutation"]),
    ("wire", 2, &["model", "machine", "mutation"]),
    ("store", 2, &["model", "crash", "mutation"]),
    ("broker", 2, &["crash", "mutation"]),
    ("agent", 2, &["model", "machine"]),
    ("config", 2, &["model"]),
    ("pipeline", 3, &["model", "crash", "mutation", "machine", "wire", "store", "broker", "agent", "config"]),
    ("ops", 4, &["model", "machine", "wire", "store", "broker", "agent", "config", "pipeline"]),
    ("load", 4, &["model", "machine", "wire", "store", "broker", "agent", "config", "pipeline"]),
    ("cli", 4, &["model", "machine", "wire", "store", "broker", "agent", "config", "pipeline", "ops", "load"]),
];
/// Above every floor.
const TOP: [&str; 2] = ["lib", "main"];
/// The one file that reads the system's clock.
const CLOCK: &str = "src/model/time.rs";
/// Time-outs and pauses of the network are tokio's, and only here.
const MAY_USE_TOKIO_TIME: [&str; 2] = ["broker", "pipeline"];

#[test]
fn the_tree_keeps_its_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = BTreeMap::new();
    for folder in ["src", "tests"] {
        collect(root, &root.join(folder), &mut files);
    }
    assert!(files.contains_key("src/lib.rs") && files.contains_key("tests/architecture.rs"), "the tree was not read");
    let broken = violations(&files);
    assert!(broken.is_empty(), "{} broken rules:\n{}", broken.len(), broken.join("\n"));
}

#[test]
fn each_rule_can_fail() {
    let fails = |path: &str, text: &str, message: &str| {
        let broken = violations(&BTreeMap::from([(path.to_owned(), text.to_owned())]));
        assert_eq!(broken, [message], "{path}:\n{text}");
    };
    fails("src/model/a.rs", "//! A.\nuse crate::machine::decide;", "src/model/a.rs: imports upwards: model (floor 0) -> machine (floor 1)");
    fails(
        "src/machine/mod.rs",
        "//! A.\npub use crate::{model::ids, wire::{self, x}};",
        "src/machine/mod.rs: imports upwards: machine (floor 1) -> wire (floor 2)",
    );
    fails(
        "src/store/a.rs",
        "//! A.\nfn f() { crate::broker::topology::f() }",
        "src/store/a.rs: imports sideways: store -> broker, both on floor 2",
    );
    fails(
        "src/wire/a.rs",
        "//! A.\npub(crate) use crate :: store as s;",
        "src/wire/a.rs: imports sideways: wire -> store, both on floor 2",
    );
    fails("src/store/a.rs", "//! A.\nuse crate::machine::x;", "src/store/a.rs: store may not import machine");
    fails("src/broker/a.rs", "//! A.\nuse crate::{\n  // why\n  model,\n};", "src/broker/a.rs: broker may not import model");
    fails(
        "src/broker/a.rs",
        "//! A.\nuse super::super::model;",
        "src/broker/a.rs: super::super: write crate::, so that the floor can be seen",
    );
    fails("src/model/a.rs", "//! A.\nuse crate::*;", "src/model/a.rs: imports the whole crate");
    fails("src/model/a.rs", "//! A.\nuse crate::util::x;", "src/model/a.rs: util has no floor: give it one in tests/architecture.rs");
    fails("src/helpers.rs", "//! A.", "src/helpers.rs: helpers has no floor: give it one in tests/architecture.rs");
    fails("src/model/a.rs", "// A.\n//! B.", "src/model/a.rs: does not open with //!");
    fails("src/model/a.rs", &format!("//! A.{}", "\n".repeat(MAX_LINES + 1)), "src/model/a.rs: 601 lines, more than 600");
    fails("src/machine/a.rs", "//! A.\nfn f() { Timestamp::now(); }", "src/machine/a.rs: reads the clock (Timestamp::now)");
    fails("src/cli/a.rs", "//! A.\nfn f() { std::time::SystemTime::now(); }", "src/cli/a.rs: reads the clock (SystemTime::now)");
    fails(
        "src/store/a.rs",
        "//! A.\nuse tokio::time::Instant;\nfn f() { Instant::now(); }",
        "src/store/a.rs: reads the clock (Instant::now)",
    );
    fails(
        "src/broker/a.rs",
        "//! A.\nuse std::time::{Duration, Instant};\nfn f() { Instant::now(); }",
        "src/broker/a.rs: reads the clock (Instant::now)",
    );
    fails("tests/a.rs", "//! A.\nfn f() { std::thread::sleep(D); }", "tests/a.rs: a test sleeps (thread::sleep)");
    fails("tests/a.rs", "//! A.\nuse tokio::time::{Duration, sleep};", "tests/a.rs: a test sleeps (time::sleep)");
    fails(
        "src/broker/a.rs",
        "//! A.\n#[cfg(test)]\nmod tests { fn f() { tokio::time::sleep(D); } }",
        "src/broker/a.rs: a test sleeps (time::sleep)",
    );
}

#[test]
fn cycles_between_modules_are_found() {
    let tree = BTreeMap::from([
        ("src/ops/a.rs".to_owned(), "//! A.\nuse crate::load::x;".to_owned()),
        ("src/load/a.rs".to_owned(), "//! A.\nuse crate::ops::y;".to_owned()),
    ]);
    let broken = violations(&tree);
    assert!(broken.iter().any(|line| line == "cycle: load -> ops -> load"), "{broken:#?}");
    // the search itself, on a longer way round that the table of modules would not even allow
    let edges = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "b")];
    let graph = edges.iter().fold(Graph::new(), |mut graph, (from, to)| {
        graph.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        graph
    });
    assert_eq!(cycle(&graph), Some("b -> c -> d -> b".to_owned()));
}

#[test]
fn what_is_allowed_passes() {
    let tree: BTreeMap<String, String> = [
        ("src/lib.rs", "//! A.\npub mod cli;"),
        ("src/main.rs", "//! A.\nuse remedyd::cli;"),
        ("src/model/time.rs", "//! A.\nfn f() { Timestamp::now(); SystemTime::now(); }"),
        ("src/model/b.rs", "//! A. [`crate::wire`]\n// crate::wire\n/* crate::wire /* nested */ crate::wire */\nconst X: &str = \"crate::wire \\\" crate::wire\";"),
        ("src/model/c.rs", "//! A.\nconst X: &str = r#\"crate::wire \" SystemTime::now\"#; const C: char = '\"'; fn f<'a>(x: &'a str) {} use super::time;"),
        ("src/machine/a.rs", "//! A.\nuse crate::{model::{ids::ReportId, time}, machine::policy};"),
        ("src/broker/a.rs", "//! A.\nuse tokio::time::{Instant, sleep};\nfn f() { Instant::now(); sleep(D); }"),
        ("src/pipeline/a.rs", "//! A.\nfn f() { tokio::time::Instant::now(); }"),
        ("src/cli/a.rs", "//! A.\nuse crate::{config, load, ops, pipeline};"),
        ("src/broker/b.rs", "//! A.\nuse super::supervisor::Session;"),
        ("tests/a.rs", "//! A.\nconst X: &str = \"thread::sleep\";"),
    ]
    .into_iter()
    .map(|(path, text)| (path.to_owned(), text.to_owned()))
    .collect();
    assert_eq!(violations(&tree), Vec::<String>::new());
}

type Graph = BTreeMap<String, BTreeSet<String>>;

/// Every broken rule of a tree of files (path from the root, text).
fn violations(files: &BTreeMap<String, String>) -> Vec<String> {
    let mut broken = Vec::new();
    let mut graph = Graph::new();
    for (path, text) in files {
        if !text.starts_with("//!") {
            broken.push(format!("{path}: does not open with //!"));
        }
        let lines = text.lines().count();
        let most = if path.starts_with("tests/") { MAX_TEST_LINES } else { MAX_LINES };
        if lines > most {
            broken.push(format!("{path}: {lines} lines, more than {most}"));
        }
        let code = bare(text);
        if path.starts_with("tests/") {
            sleeps(path, &code, &mut broken);
            continue;
        }
        if let Some((_, tests)) = code.split_once("#[cfg(test)]") {
            sleeps(path, tests, &mut broken);
        }
        let module = module_of(path);
        clock_reads(path, module, &code, &mut broken);
        if TOP.contains(&module) {
            continue;
        }
        if floor(module).is_none() {
            broken.push(format!("{path}: {module} has no floor: give it one in tests/architecture.rs"));
            continue;
        }
        if code.contains("super::super::") {
            broken.push(format!("{path}: super::super: write crate::, so that the floor can be seen"));
        }
        for target in crate_imports(&code) {
            if target == module {
                continue;
            }
            graph.entry(module.to_owned()).or_default().insert(target.clone());
            broken.extend(import_error(module, &target).map(|what| format!("{path}: {what}")));
        }
    }
    broken.extend(cycle(&graph).map(|way| format!("cycle: {way}")));
    broken
}

fn import_error(from: &str, to: &str) -> Option<String> {
    if to == "*" || to == "self" {
        return Some("imports the whole crate".to_owned());
    }
    let Some((above, _)) = floor(to) else {
        return Some(format!("{to} has no floor: give it one in tests/architecture.rs"));
    };
    let (own, allowed) = floor(from)?;
    if allowed.contains(&to) {
        None
    } else if above > own {
        Some(format!("imports upwards: {from} (floor {own}) -> {to} (floor {above})"))
    } else if above == own {
        Some(format!("imports sideways: {from} -> {to}, both on floor {own}"))
    } else {
        Some(format!("{from} may not import {to}"))
    }
}

fn floor(module: &str) -> Option<(u8, &'static [&'static str])> {
    MODULES.iter().find(|(name, _, _)| *name == module).map(|(_, floor, allowed)| (*floor, *allowed))
}

/// `src/broker/amqp.rs` is in `broker`, `src/config.rs` in `config`.
fn module_of(path: &str) -> &str {
    let inside = path.strip_prefix("src/").unwrap_or(path);
    inside.split(['/', '.']).next().unwrap_or(inside)
}

/// The first way round the graph, if there is one, beginning with its alphabetically first start.
fn cycle(graph: &Graph) -> Option<String> {
    fn walk<'a>(graph: &'a Graph, at: &'a str, way: &mut Vec<&'a str>, done: &mut BTreeSet<&'a str>) -> Option<String> {
        if let Some(start) = way.iter().position(|seen| *seen == at) {
            return Some([&way[start..], &[at]].concat().join(" -> "));
        }
        if !done.insert(at) {
            return None;
        }
        way.push(at);
        let found = graph.get(at).into_iter().flatten().find_map(|next| walk(graph, next, way, done));
        way.pop();
        found
    }
    let mut done = BTreeSet::new();
    graph.keys().find_map(|start| walk(graph, start, &mut Vec::new(), &mut done))
}

fn clock_reads(path: &str, module: &str, code: &str, broken: &mut Vec<String>) {
    if path == CLOCK {
        return;
    }
    let imports = imported_paths(code);
    for read in ["Timestamp::now", "SystemTime::now", "Zoned::now", "Instant::now"] {
        let by_std = code.contains("std::time::Instant") || imports.iter().any(|import| import == "std::time::Instant");
        let by_tokio = code.contains("tokio::time::Instant") || imports.iter().any(|import| import == "tokio::time::Instant");
        let may = read == "Instant::now" && MAY_USE_TOKIO_TIME.contains(&module) && by_tokio && !by_std;
        if code.contains(read) && !may {
            broken.push(format!("{path}: reads the clock ({read})"));
        }
    }
}

fn sleeps(path: &str, code: &str, broken: &mut Vec<String>) {
    let imports = imported_paths(code);
    for sleep in ["thread::sleep", "time::sleep"] {
        if code.contains(sleep) || imports.iter().any(|import| import.ends_with(sleep)) {
            broken.push(format!("{path}: a test sleeps ({sleep})"));
        }
    }
}

/// The top-level modules that the code names by `crate::`, in `use` trees or in place.
fn crate_imports(code: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate") {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        if let Some(rest) = code[at + "crate".len()..].trim_start().strip_prefix("::") {
            let mut paths = Vec::new();
            expand(rest, "", &mut paths);
            found.extend(paths.iter().filter_map(|path| path.split("::").next()).map(str::to_owned));
        }
    }
    found
}

/// Every path that a `use` brings in, trees written out.
fn imported_paths(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for (at, _) in code.match_indices("use ") {
        if code[..at].chars().next_back().is_none_or(|c| c.is_whitespace() || c == ';' || c == '{' || c == '}') {
            expand(&code[at + "use ".len()..], "", &mut paths);
        }
    }
    paths
}

/// Writes out a use tree; returns what stands behind it.
fn expand<'a>(text: &'a str, prefix: &str, paths: &mut Vec<String>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start();
            if let Some(after) = rest.strip_prefix('}') {
                return after;
            }
            let before = rest.len();
            rest = expand(rest, prefix, paths).trim_start();
            // `as name`
            rest = rest.trim_start_matches(|c| c != ',' && c != '}');
            rest = rest.strip_prefix(',').unwrap_or(rest);
            if rest.len() == before {
                return rest;
            }
        }
    }
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '*')).unwrap_or(text.len());
    let path = if prefix.is_empty() { text[..end].to_owned() } else { format!("{prefix}::{}", &text[..end]) };
    match text[end..].trim_start().strip_prefix("::") {
        Some(rest) => expand(rest, &path, paths),
        None => {
            paths.push(path);
            &text[end..]
        }
    }
}

/// The code without comments and without what is in strings.
fn bare(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    while i < chars.len() {
        match (at(i), at(i + 1)) {
            ('/', '/') => {
                while i < chars.len() && at(i) != '\n' {
                    i += 1;
                }
            }
            ('/', '*') => {
                let mut depth = 0;
                loop {
                    match (at(i), at(i + 1)) {
                        ('/', '*') => (depth, i) = (depth + 1, i + 2),
                        ('*', '/') => (depth, i) = (depth - 1, i + 2),
                        _ => i += 1,
                    }
                    if depth == 0 || i >= chars.len() {
                        break;
                    }
                }
            }
            ('r', '"' | '#') if !out.ends_with(|c: char| c.is_alphanumeric() || c == '_') || out.ends_with('b') => {
                let hashes = (i + 1..).take_while(|j| at(*j) == '#').count();
                if at(i + 1 + hashes) == '"' {
                    i += 2 + hashes;
                    while i < chars.len() && !(at(i) == '"' && (1..=hashes).all(|j| at(i + j) == '#')) {
                        i += 1;
                    }
                    i += 1 + hashes;
                    out.push_str("\"\"");
                } else {
                    out.push('r');
                    i += 1;
                }
            }
            ('"', _) => {
                i += 1;
                while i < chars.len() && at(i) != '"' {
                    i += if at(i) == '\\' { 2 } else { 1 };
                }
                i += 1;
                out.push_str("\"\"");
            }
            // a character, not a lifetime
            ('\'', '\\') => {
                i += 3;
                while i < chars.len() && at(i) != '\'' {
                    i += 1;
                }
                i += 1;
            }
            ('\'', _) if at(i + 2) == '\'' => i += 3,
            (c, _) => {
                out.push(c);
                i += 1;
            }
        }
    }
    out
}

fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, files);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            let name = path.strip_prefix(root).unwrap().to_string_lossy().replace('\\', "/");
            files.insert(name, fs::read_to_string(&path).unwrap());
        }
    }
}
