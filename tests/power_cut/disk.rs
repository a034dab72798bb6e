//! A disk that loses power: an ext4 file system in an image file behind a loop device.
//!
//! ```text
//! image ── loop device (direct I/O) ── ext4 ── what the writer sees
//!   └ copy, taken when the power is cut ── loop device ── ext4 (replays its journal) ── what is left
//! ```
//! The power is cut by the file system's own switch for it (FS_IOC_SHUTDOWN without flushing the log, which the file
//! system tests of the kernel use): from that instant on nothing more gets from its caches to the device, and every
//! write and sync fails. So the copy is one moment's state, which a copy of a disk in use would not be. Direct I/O
//! keeps the loop device from having a cache of its own.
//!
//! What this disk does not have is a cache inside of the drive: what has reached the device is safe here at once,
//! on a real drive only after the flush that ends every `fdatasync`.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Room for the longest chain of cuts of the long form; sparse.
const IMAGE_BYTES: u64 = 1 << 30;
/// `_IOR('X', 125, __u32)` of linux/fs.h.
const FS_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587d;
/// Neither the log nor the data is flushed first.
const GOING_FLAGS_NOLOGFLUSH: u32 = 2;

/// A mounted image. Dropping it unmounts it.
pub struct Disk {
    image: PathBuf,
    device: String,
    mount: PathBuf,
}

impl Disk {
    /// An empty file system in `dir`.
    pub fn create(dir: &Path, name: &str) -> io::Result<Self> {
        let image = dir.join(format!("{name}.img"));
        File::create(&image)?.set_len(IMAGE_BYTES)?;
        run("mkfs.ext4", &["-q", "-F", text(&image)])?;
        Self::attach(image)
    }

    /// Mounts an image; the file system replays its journal.
    fn attach(image: PathBuf) -> io::Result<Self> {
        let mount = image.with_extension("mnt");
        fs::create_dir_all(&mount)?;
        let device = run("losetup", &["--direct-io=on", "--find", "--show", text(&image)])?;
        let disk = Self { image, device, mount };
        run("mount", &["-t", "ext4", &disk.device, text(&disk.mount)])?;
        Ok(disk)
    }

    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// Cuts the power. What is in use on this disk fails from here on.
    pub fn cut(&self) {
        let root = File::open(&self.mount).expect("the mount point opens");
        // SAFETY: the descriptor is open, and the request reads one u32 behind the pointer.
        let done = unsafe { libc::ioctl(root.as_raw_fd(), FS_IOC_SHUTDOWN, &GOING_FLAGS_NOLOGFLUSH) };
        assert_eq!(done, 0, "the power could not be cut: {}", io::Error::last_os_error());
    }

    /// What a disk that was cut has kept, on a disk of its own. Nobody may use this one any more.
    pub fn after_the_cut(self, name: &str) -> Self {
        // before unmounting, so that nothing an unmount writes can be in it
        let copy = self.image.with_file_name(format!("{name}.img"));
        run("cp", &["--sparse=always", text(&self.image), text(&copy)]).expect("the image is copied");
        drop(self);
        Self::attach(copy).expect("the copy is mounted")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let done = run("umount", &[text(&self.mount)]).and_then(|_| run("losetup", &["--detach", &self.device]));
        if let Err(error) = done {
            eprintln!("{}: {error}", self.mount.display());
        }
        drop(fs::remove_file(&self.image));
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// What `program` prints.
fn run(program: &str, args: &[&str]) -> io::Result<String> {
    let output = Command::new(program).args(args).output().map_err(|error| io::Error::new(error.kind(), format!("{program}: {error}")))?;
    if !output.status.success() {
        return Err(io::Error::other(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
