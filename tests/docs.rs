//! Documents that say what the code does are held against it: `docs/state-machine.md` against the tables of the machine,
//! `docs/operations.md` against exit codes, settings and metrics.
//!
//! `DOCS_UPDATE=1 cargo test --test docs` writes the list of rows anew; the pictures are drawn by hand.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

const PAGE: &str = "docs/state-machine.md";
/// Between these the rows are written.
const MARKS: [&str; 2] = ["<!-- rows -->\n", "<!-- end of rows -->\n"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// An arrow of one of the pictures; `from` is empty at the beginning.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Arrow {
    of: &'static str,
    from: String,
    to: String,
}

/// A scenario of a table: the row ids in its title, whether it is against them, and the arrows that it comes to.
struct Scenario {
    file: String,
    rows: BTreeSet<String>,
    against: bool,
    arrows: BTreeSet<Arrow>,
}

/// Every row id, with what sets it off. Rows that are not built yet begin with `later:`.
fn rows() -> Vec<(String, String)> {
    let listed = text("tests/machine/rows.txt");
    let rows = listed.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    rows.map(|line| line.split_once(' ').map(|(id, trigger)| (id.to_owned(), trigger.to_owned())).unwrap()).collect()
}

fn scenarios() -> Vec<Scenario> {
    let known: BTreeSet<String> = rows().into_iter().map(|(id, _)| id).collect();
    let mut paths: Vec<PathBuf> = fs::read_dir(root().join("tests/machine")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let mut found: Vec<Scenario> = Vec::new();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|ending| ending == "txt") && !path.ends_with("rows.txt")) {
        let file = path.file_stem().unwrap().to_str().unwrap().to_owned();
        for line in fs::read_to_string(path).unwrap().lines() {
            if let Some(title) = line.strip_prefix("## ") {
                let ids = title.split(':').next().unwrap();
                let against = ids.starts_with("against");
                let rows = ids.split_whitespace().filter(|word| known.contains(*word)).map(str::to_owned).collect();
                found.push(Scenario { file: file.clone(), rows, against, arrows: BTreeSet::new() });
            } else if let (Some(said), Some(scenario)) = (line.strip_prefix("> "), found.last_mut()) {
                scenario.arrows.extend(arrow(said));
            }
        }
    }
    assert!(found.len() > 100, "{}", found.len());
    found
}

/// `[TIME] report 1: remediation 2 queued -> delivered; …` and its like.
fn arrow(said: &str) -> Option<Arrow> {
    let (about, change) = said.split_once(": ")?;
    let (from, to) = change.split(';').next()?.split_once("-> ")?;
    let of_report = about.contains("report ");
    let (of, from) = if let Some(task) = from.strip_prefix("remediation ").filter(|_| of_report) {
        // the item's number, then its state
        ("remediation", task.split_once(' ').map_or("", |(_, state)| state))
    } else if let Some(phase) = from.strip_prefix("phase ").filter(|_| of_report) {
        ("phase", phase)
    } else if let Some(isolation) = from.strip_prefix("isolation ") {
        ("isolation", isolation)
    } else if of_report {
        ("status", from)
    } else if about.contains("agent ") {
        ("presence", from)
    } else {
        return None;
    };
    Some(Arrow { of, from: state(from), to: state(to) })
}

/// Which cancellation it was, and what else is said beside the state, is no state of its own.
fn state(text: &str) -> String {
    let bare = text.split(['(', ',', '"', '[']).next().unwrap_or_default().trim();
    bare.to_lowercase().replace(' ', "_")
}

/// Every arrow that is drawn, with the rows beside it.
fn drawn() -> BTreeMap<Arrow, BTreeSet<String>> {
    let page = text(PAGE);
    let mut found = BTreeMap::new();
    let mut of = None;
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            of = [
                ("status", "Report: status"),
                ("phase", "Report: phase"),
                ("remediation", "Remediation"),
                ("isolation", "Isolation"),
                ("presence", "Presence"),
            ]
            .into_iter()
            .find_map(|(of, start)| heading.starts_with(start).then_some(of));
        } else if let (Some(of), Some((from, rest))) = (of, line.split_once(" --> ")) {
            let (to, beside) = rest.split_once(" : ").unwrap_or_else(|| panic!("no row beside: {line}"));
            let from = from.trim().trim_start_matches("[*]").to_owned();
            let arrow = Arrow { of, from, to: to.to_owned() };
            let rows = beside.split(' ').map(str::to_owned).collect();
            assert!(found.insert(arrow, rows).is_none(), "drawn twice: {line}");
        }
    }
    assert!(found.len() > 60, "{}", found.len());
    found
}

#[test]
fn the_pictures_show_what_the_machine_does_and_nothing_else() {
    let (drawn, scenarios) = (drawn(), scenarios());
    let known: BTreeSet<String> = rows().into_iter().map(|(id, _)| id).collect();
    let mut wrong = Vec::new();
    for arrow in scenarios.iter().flat_map(|scenario| &scenario.arrows).collect::<BTreeSet<_>>() {
        if !drawn.contains_key(arrow) {
            wrong.push(format!("not drawn: {} {} --> {}", arrow.of, arrow.from, arrow.to));
        }
    }
    for (arrow, beside) in &drawn {
        wrong.extend(beside.iter().filter(|row| !known.contains(*row)).map(|row| format!("{row} is no row: {arrow:?}")));
        let showing: BTreeSet<&String> =
            scenarios.iter().filter(|scenario| scenario.arrows.contains(arrow)).flat_map(|s| &s.rows).collect();
        if !beside.iter().any(|row| showing.contains(row)) {
            wrong.push(format!("{} {} --> {}: in no scenario of {beside:?}, but of {showing:?}", arrow.of, arrow.from, arrow.to));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_row_is_listed_with_where_it_is_shown() {
    let scenarios = scenarios();
    let mut table = "| row | what sets it off | shown in | against in |\n|---|---|---|---|\n".to_owned();
    for (id, trigger) in rows() {
        let files = |against: bool| {
            let of_row = scenarios.iter().filter(|scenario| scenario.against == against && scenario.rows.contains(&id));
            of_row.map(|scenario| scenario.file.as_str()).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(", ")
        };
        let later = trigger.starts_with("later:");
        assert_eq!(files(false).is_empty(), later, "{id}: {}", files(false));
        writeln!(table, "| {id} | {trigger} | {} | {} |", files(false), files(true)).unwrap();
    }
    let page = text(PAGE);
    let (head, rest) = page.split_once(MARKS[0]).expect("the mark before the rows");
    let (listed, tail) = rest.split_once(MARKS[1]).expect("the mark behind the rows");
    if std::env::var_os("DOCS_UPDATE").is_some() {
        fs::write(root().join(PAGE), format!("{head}{}{table}{}{tail}", MARKS[0], MARKS[1])).unwrap();
    } else {
        assert!(listed == table, "{PAGE}: the rows have changed: DOCS_UPDATE=1 cargo test --test docs");
    }
}

/// The lines of a page between two marks.
fn between<'p>(page: &'p str, mark: &str) -> Vec<&'p str> {
    let (_, rest) = page.split_once(&format!("<!-- {mark} -->\n")).unwrap_or_else(|| panic!("no mark {mark}"));
    rest.split_once(&format!("<!-- end of {mark} -->")).unwrap().0.lines().collect()
}

#[test]
fn the_guide_for_operators_names_what_there_is() {
    let page = text("docs/operations.md");
    for exit in remedyd::cli::exit::Exit::ALL {
        let row = format!("| {} | {} |", exit.code(), exit.meaning());
        assert!(page.contains(&row), "no row {row}");
    }
    let reloadable: Vec<String> = remedyd::config::RELOADABLE.iter().map(|path| format!("- `{path}`")).collect();
    assert_eq!(between(&page, "reloadable"), reloadable);
    // settings and commands that are named exist
    let quoted: BTreeSet<&str> = page.split('`').skip(1).step_by(2).collect();
    let sections: BTreeSet<&str> = remedyd::config::keys::ALL.iter().map(|key| key.section()).collect();
    for name in &quoted {
        if let Some((section, key)) = name.split_once('.')
            && sections.contains(section)
            && key.chars().all(|letter| letter.is_ascii_lowercase() || letter == '_')
        {
            assert!(remedyd::config::keys::find(name).is_some(), "there is no setting {name}");
        }
    }
    // a metric's name in the source stands without prefix, unit and `_total`
    let source = text("src/ops/metrics.rs");
    let named: Vec<&str> = quoted.iter().filter_map(|name| name.strip_prefix("remedyd_")).collect();
    assert!(named.len() > 8, "{named:?}");
    for name in named {
        let bare = ["_seconds", "_bytes", "_total"].iter().fold(name, |name, ending| name.strip_suffix(ending).unwrap_or(name));
        assert!(source.contains(&format!("\"{bare}\"")), "there is no metric {name}");
    }
}
