//! The ecosystem's own tools, started as an operator starts them. A tool that is not there fails the test, with the name
//! of the package that has it.
//!
//! Never here: what a file should contain.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// How a tool ended, and everything it said.
#[derive(Debug)]
pub struct Said {
    pub well: bool,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    pub fn all(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[track_caller]
pub fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The files below `dir` (of the project) that `wanted` takes, as paths from the project's root.
pub fn files(dir: &str, wanted: impl Fn(&Path) -> bool + Copy) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join(dir)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{dir}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&path, wanted));
        } else if wanted(Path::new(&path)) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Runs a program that `tests/run.sh` installs, from the project's root.
#[track_caller]
pub fn run<A: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = A>) -> Said {
    run_with(program, args, "")
}

#[track_caller]
pub fn run_with<A: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = A>, input: &str) -> Said {
    let mut command = Command::new(program);
    command.args(args).current_dir(root());
    said(command, input)
}

#[track_caller]
pub fn said(mut command: Command, input: &str) -> Said {
    let program = command.get_program().to_string_lossy().into_owned();
    // files and not pipes: a tool that fills one pipe while we write another would wait for ever
    let (mut out, mut err) = (tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
    let mut given = tempfile::tempfile().unwrap();
    given.write_all(input.as_bytes()).unwrap();
    std::io::Seek::rewind(&mut given).unwrap();
    command.stdin(given).stdout(Stdio::from(out.reopen().unwrap())).stderr(Stdio::from(err.reopen().unwrap()));
    let status = command.status().unwrap_or_else(|error| {
        panic!("{program} cannot be started ({error}): tests/run.sh installs what these tests need, see NEEDED there")
    });
    let text = |file: &mut tempfile::NamedTempFile| {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(file, &mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    Said { well: status.success(), code: status.code(), stdout: text(&mut out), stderr: text(&mut err) }
}

/// As [`run`]; it must succeed. Returns what it printed.
#[track_caller]
pub fn check<A: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = A>) -> String {
    let said = run(program, args);
    assert!(said.well, "{program} ended with {:?}:\n{}", said.code, said.all());
    said.stdout
}

/// The directory of the validators that come from PyPI, installed if need be.
#[track_caller]
pub fn validators() -> PathBuf {
    PathBuf::from(check("tests/deploy/tools.sh", [""; 0]).trim())
}
