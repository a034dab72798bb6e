//! Runbooks: one for each alert, all of them listed, and every command in them one that there is.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::observability::alerts;
use crate::tools::{files, read, root, said};
use tempfile::TempDir;

const LIST: &str = "deploy/runbooks/README.md";

fn runbooks() -> Vec<String> {
    files("deploy/runbooks", |path| path.extension().is_some_and(|ending| ending == "md"))
}

#[test]
fn every_alert_has_a_runbook_and_every_runbook_is_listed() {
    for (alert, severity, runbook) in alerts() {
        assert!(["critical", "warning"].contains(&severity.as_str()), "{alert}: {severity}");
        assert!(runbook.starts_with("deploy/runbooks/") && root().join(&runbook).is_file(), "{alert}: no runbook {runbook}");
        assert!(read(&runbook).contains(&format!("`{alert}`")), "{runbook} does not speak of {alert}");
    }
    let list = read(LIST);
    for runbook in runbooks().iter().filter(|path| *path != LIST) {
        let name = Path::new(runbook).file_name().unwrap().to_str().unwrap();
        assert!(list.contains(&format!("({name})")), "{name} is not listed");
        assert!(read(runbook).contains("**For customers:**"), "{name} does not say what it means for customers");
    }
    for runbook in runbooks() {
        let text = read(&runbook);
        for link in text.split("](").skip(1).map(|rest| rest.split([')', '#']).next().unwrap()) {
            assert!(root().join("deploy/runbooks").join(link).is_file(), "{runbook} leads to {link}");
        }
    }
}

/// The commands of a runbook that are ours: whole lines of its examples, and what stands between backticks.
fn commands(text: &str) -> Vec<String> {
    let ours = |line: &&str| ["remedyd ", "remedyd-new ", "./remedyd-new "].iter().any(|program| line.starts_with(program));
    let lines = text.lines().map(str::trim).filter(ours);
    let inline = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2)).filter(ours);
    lines.chain(inline).map(|line| line.replace("./remedyd-new", "remedyd-new").replace('…', "")).collect()
}

/// Where there are several partitions these have to be told which one, or how many.
#[test]
fn commands_say_which_partition_or_how_many() {
    let told = ["store backup --", "store export --store /var/lib/remedyd", "topology check", "topology apply"];
    let mut seen = BTreeSet::new();
    for page in runbooks().into_iter().chain(["docs/operations.md", "docs/repairing.md"].map(str::to_owned)) {
        for command in commands(&read(&page)) {
            for what in told.iter().filter(|what| command.contains(**what)) {
                assert!(command.contains(" --partition"), "{page}: {command}");
                seen.insert(what);
            }
        }
    }
    assert_eq!(seen.len(), told.len(), "{seen:?}");
}

/// Each is given to the shell as it stands, with a program in place of ours that only asks ours whether it understands it.
#[test]
fn every_command_is_one_that_there_is() {
    let understood = |line: &str| {
        let dir = TempDir::new().unwrap();
        let mut shell = Command::new("bash");
        let ask = r#"remedyd() { "$REMEDYD" "$@" --help; }; remedyd-new() { remedyd "$@"; }; set -e; eval "$LINE""#;
        shell.args(["-c", ask]).env("REMEDYD", env!("CARGO_BIN_EXE_remedyd")).env("LINE", line).current_dir(dir.path());
        said(shell, "")
    };
    let mut seen = 0;
    for runbook in runbooks() {
        for command in commands(&read(&runbook)) {
            let answer = understood(&command);
            assert!(answer.well, "{runbook}: {command}\n{}", answer.all());
            seen += 1;
        }
    }
    assert!(seen >= 40, "only {seen} commands were found");
    assert!(!understood("remedyd inspect blockers --colour").well, "a flag that does not exist");
}
