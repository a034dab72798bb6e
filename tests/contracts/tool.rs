//! Tools of others, installed below target/ the first time that a test needs one, from a lock file.
//!
//! Never here: a test that passes because a tool is missing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::root;

/// A directory of target/ for what `lock` (a path from the root) pins; `install` fills it unless that has been done.
pub fn installed(name: &str, lock: &str, install: impl FnOnce(&Path)) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("contracts").join(name);
    let stamp = dir.join("installed");
    let lock = fs::read_to_string(root().join(lock)).unwrap();
    if fs::read_to_string(&stamp).is_ok_and(|of| of == lock) {
        return dir;
    }
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    install(&dir);
    fs::write(stamp, lock).unwrap();
    dir
}

/// Runs it to its end, which must be a good one.
#[track_caller]
pub fn run(command: &mut Command, needs: &str) -> Output {
    let shown = format!("{command:?}");
    let output = command.output().unwrap_or_else(|error| panic!("{shown}: {error}. {needs}"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{shown}: {}\n{told}{}\n{needs}", output.status, String::from_utf8_lossy(&output.stdout));
    output
}
