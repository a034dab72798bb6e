//! The lifecycle as text tables: given, when, then. The files are `machine/*.txt`, the language is described in
//! `machine/language.rs`, and the rows that have to be shown are listed in `machine/rows.txt`.
//!
//! What is published is compared exactly and in order. `UPDATE_TABLES=1 cargo test --test machine` writes down what the
//! machine says instead; every line so changed is to be read against the lifecycle before it is kept.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use remedyd::machine::decide;
use remedyd::machine::decision::Decision;
use remedyd::machine::notice::About;
use remedyd::model::time::Timestamp;

#[path = "machine/language.rs"]
mod language;
#[path = "machine/words.rs"]
mod words;
#[path = "machine/world.rs"]
mod world;

use language::{Happening, Line, Parsed};
use world::{Step, World};

/// A file each, by theme.
const FILES: [&str; 15] = [
    "agents",
    "attempts",
    "disorder",
    "endings",
    "gate",
    "identities",
    "isolation",
    "managed",
    "order",
    "organization",
    "plans",
    "requests",
    "returns",
    "sla",
    "story",
];

#[test]
fn agents() {
    check("agents");
}

#[test]
fn attempts() {
    check("attempts");
}

#[test]
fn disorder() {
    check("disorder");
}

#[test]
fn endings() {
    check("endings");
}

#[test]
fn gate() {
    check("gate");
}

#[test]
fn identities() {
    check("identities");
}

#[test]
fn isolation() {
    check("isolation");
}

#[test]
fn managed() {
    check("managed");
}

#[test]
fn order() {
    check("order");
}

#[test]
fn organization() {
    check("organization");
}

#[test]
fn plans() {
    check("plans");
}

#[test]
fn requests() {
    check("requests");
}

#[test]
fn returns() {
    check("returns");
}

#[test]
fn sla() {
    check("sla");
}

#[test]
fn story() {
    check("story");
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/machine")
}

fn read(name: &str) -> (PathBuf, String) {
    let path = folder().join(format!("{name}.txt"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    (path, text)
}

/// Plays every scenario of a file and compares what is published with what the file says.
fn check(name: &str) {
    let (path, text) = read(name);
    let parsed = language::parse(&format!("tests/machine/{name}.txt"), &text);
    let played = play(name, &parsed);
    let mut wrong = String::new();
    let mut kept = Vec::new();
    let mut title = "";
    let raw: Vec<&str> = text.lines().collect();
    for (place, line) in parsed.iter().enumerate() {
        match &line.line {
            Line::Heading { title: is, .. } => title = is,
            Line::Then(_) => continue,
            Line::Prose | Line::Settings(_) | Line::When { .. } => {}
        }
        kept.extend(raw[line.number - 1..line.number - 1 + line.height].iter().map(|line| (*line).to_owned()));
        let Some(said) = played.get(&line.number) else { continue };
        kept.extend(said.iter().map(|line| format!("> {line}")));
        let then = parsed[place + 1..].iter().map_while(|line| match &line.line {
            Line::Then(then) => Some(then.clone()),
            Line::Prose | Line::Heading { .. } | Line::Settings(_) | Line::When { .. } => None,
        });
        let expected: Vec<String> = then.collect();
        if expected != *said {
            let _ =
                write!(wrong, "\n{title}\ntests/machine/{name}.txt:{}: {}\n{}", line.number, raw[line.number - 1], diff(&expected, said));
        }
    }
    if !wrong.is_empty() && std::env::var_os("UPDATE_TABLES").is_some() {
        std::fs::write(&path, kept.join("\n") + "\n").unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        return;
    }
    assert!(wrong.is_empty(), "- expected, + published\n{wrong}");
}

/// What each compared line published, by line number.
fn play(name: &str, parsed: &[Parsed]) -> BTreeMap<usize, Vec<String>> {
    let mut said = BTreeMap::new();
    let mut world = World::new(Timestamp::UNIX_EPOCH);
    let mut sequences = BTreeMap::new();
    let mut last = None;
    let mut after_given = true;
    for Parsed { number, line, .. } in parsed {
        let place = format!("tests/machine/{name}.txt:{number}");
        match line {
            Line::Prose => {}
            Line::Then(then) => assert!(!after_given, "{place}: nothing is compared here: {then}"),
            Line::Heading { .. } => {
                world = World::new(Timestamp::UNIX_EPOCH);
                sequences.clear();
                last = None;
                after_given = true;
            }
            Line::Settings(change) => world.set((**change).clone()),
            Line::When { at, given, happening } => {
                assert!(*at >= world.now, "{place}: time runs backwards");
                match happening {
                    Happening::Event(event, silent) => {
                        world.silent.extend(silent);
                        world.arrive(*at, (**event).clone());
                        last = Some(event.clone());
                    }
                    Happening::Again => {
                        let event = last.clone().unwrap_or_else(|| panic!("{place}: nothing has happened yet"));
                        world.arrive(*at, *event);
                    }
                    Happening::Restart => world.restart(*at),
                    Happening::CaughtUp(caught_up) => {
                        world.advance(*at);
                        world.policy.surveys_caught_up = *caught_up;
                    }
                    Happening::TimePasses => world.advance(*at),
                }
                let steps = world.take_steps();
                judge(&place, &steps, &mut sequences);
                after_given = *given;
                if *given {
                    let effect = steps.iter().any(|step| matches!(step.decision, Decision::Applied(_)));
                    assert!(
                        effect || matches!(happening, Happening::TimePasses | Happening::CaughtUp(_)),
                        "{place}: what is given had no effect"
                    );
                } else {
                    let lines: Vec<String> = steps.iter().flat_map(|step| words::lines(step, *at)).collect();
                    said.insert(*number, if lines.is_empty() { vec!["nothing published".into()] } else { lines });
                }
            }
        }
    }
    said
}

/// What holds for every scenario: the same question has the same answer, and sequences run 1, 2, 3 … per report,
/// agent and organization.
fn judge(place: &str, steps: &[Step], sequences: &mut BTreeMap<String, u64>) {
    for step in steps {
        if !step.of_organization {
            let again = decide(&step.before, &step.event, step.now, &step.policy);
            assert_eq!(again, step.decision, "{place}: asked again, the machine decides otherwise");
        }
        let Decision::Applied(applied) = &step.decision else { continue };
        for notice in &applied.notices {
            let about = match notice.about {
                About::Report { report, .. } => format!("report {report}"),
                About::Agent(agent) => format!("agent {agent}"),
                About::Organization => "organization".into(),
            };
            let sequence = sequences.entry(about.clone()).or_insert(0);
            *sequence += 1;
            assert_eq!(notice.sequence, *sequence, "{place}: the sequence of {about} has a gap at {notice:?}");
        }
    }
}

/// Line by line; what both have stands without a mark.
fn diff(expected: &[String], said: &[String]) -> String {
    // the longest common subsequence, from behind
    let mut longest = vec![vec![0; said.len() + 1]; expected.len() + 1];
    for i in (0..expected.len()).rev() {
        for j in (0..said.len()).rev() {
            longest[i][j] = if expected[i] == said[j] { longest[i + 1][j + 1] + 1 } else { longest[i + 1][j].max(longest[i][j + 1]) };
        }
    }
    let (mut i, mut j, mut text) = (0, 0, String::new());
    while i < expected.len() || j < said.len() {
        if i < expected.len() && j < said.len() && expected[i] == said[j] {
            let _ = writeln!(text, "    > {}", said[j]);
            (i, j) = (i + 1, j + 1);
        } else if i < expected.len() && (j == said.len() || longest[i + 1][j] >= longest[i][j + 1]) {
            let _ = writeln!(text, "  - > {}", expected[i]);
            i += 1;
        } else {
            let _ = writeln!(text, "  + > {}", said[j]);
            j += 1;
        }
    }
    text
}

/// Every row of the lifecycle is shown, and shown against its guard; the ones to come are not claimed.
#[test]
fn every_row_is_shown_and_shown_against_its_guard() {
    let (mut shown, mut against) = (BTreeSet::new(), BTreeSet::new());
    for name in FILES {
        for parsed in language::parse(&format!("tests/machine/{name}.txt"), &read(name).1) {
            if let Line::Heading { shown: here, against: against_here, .. } = parsed.line {
                shown.extend(here);
                against.extend(against_here);
            }
        }
    }
    let mut wrong = Vec::new();
    let mut known = BTreeSet::new();
    for line in read("rows").1.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (id, trigger) = line.split_once(' ').unwrap_or_else(|| panic!("rows.txt: {line:?} says nothing"));
        assert!(known.insert(id.to_owned()), "rows.txt: {id} stands there twice");
        match (trigger.trim_start().starts_with("later: "), shown.contains(id), against.contains(id)) {
            (false, true, true) | (true, false, false) => {}
            (false, false, _) => wrong.push(format!("{id} is not shown")),
            (false, _, false) => wrong.push(format!("{id} is not shown against its guard")),
            (true, ..) => wrong.push(format!("{id} is marked `later` and is shown")),
        }
    }
    wrong.extend(shown.union(&against).filter(|id| !known.contains(*id)).map(|id| format!("{id} is no row of rows.txt")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A table that no test plays would be believed and never checked.
#[test]
fn every_file_is_played() {
    let entries = std::fs::read_dir(folder()).unwrap_or_else(|error| panic!("{error}"));
    let names = entries.filter_map(|entry| entry.ok()?.path().file_name()?.to_str()?.strip_suffix(".txt").map(str::to_owned));
    let played = FILES.iter().map(|name| (*name).to_owned()).chain(["rows".to_owned()]).collect::<BTreeSet<_>>();
    assert_eq!(names.collect::<BTreeSet<_>>(), played);
}
