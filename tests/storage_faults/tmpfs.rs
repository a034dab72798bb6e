//! A disk that is full: a small tmpfs and a file that takes up all that is left of it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A store in its first minutes takes 8 to 16 MiB (segments).
const BYTES: u64 = 96 * 1024 * 1024;
/// What is taken at a time.
const STEP_BYTES: usize = 64 * 1024;

/// A mounted tmpfs. Dropping it unmounts it.
pub struct SmallDisk {
    mount: PathBuf,
}

impl SmallDisk {
    /// `None` for whoever may not mount.
    pub fn mount(dir: &Path) -> Option<Self> {
        let mount = dir.join("small");
        fs::create_dir_all(&mount).expect("a directory to mount on");
        let size = format!("size={BYTES}");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&mount).status();
        done.is_ok_and(|status| status.success()).then_some(Self { mount })
    }

    pub fn path(&self) -> &Path {
        &self.mount
    }

    fn ballast(&self) -> PathBuf {
        self.mount.join("ballast")
    }

    /// Takes all the space there is.
    pub fn fill(&self) {
        let mut file = File::options().append(true).create(true).open(self.ballast()).expect("a file");
        for step in [STEP_BYTES, 4096, 1] {
            let bytes = vec![1; step];
            let full = loop {
                if let Err(error) = file.write_all(&bytes) {
                    break error;
                }
            };
            assert_eq!(full.kind(), io::ErrorKind::StorageFull, "{full}");
        }
    }

    /// Gives it back.
    pub fn make_room(&self) {
        fs::remove_file(self.ballast()).expect("it was full");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        match Command::new("umount").arg(&self.mount).status() {
            Ok(status) if status.success() => {}
            other => eprintln!("{} stays mounted: {other:?}", self.mount.display()),
        }
    }
}
