//! What is known of the machine and of this build, and how much processor time each process has taken.
//! Never here: a judgement. What cannot be found out is `None`; nothing of a measurement hangs on it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Serialize;

/// Ticks a second in `/proc/<pid>/stat`; Linux shows 100 to user space on every architecture.
const TICKS_A_SECOND: f64 = 100.0;

#[derive(Debug, Clone, Serialize)]
pub struct Host {
    pub processors: usize,
    pub processor: Option<String>,
    pub memory_mib: Option<u64>,
    pub kernel: Option<String>,
    /// The build: figures of a debug build are of no use to anybody.
    pub build: &'static str,
}

impl Host {
    pub fn look() -> Self {
        let line_of = |path: &str, name: &str| {
            let text = fs::read_to_string(path).ok()?;
            text.lines().find_map(|line| line.strip_prefix(name)?.split_once(':').map(|(_, value)| value.trim().to_owned()))
        };
        let memory = line_of("/proc/meminfo", "MemTotal");
        Self {
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            processor: line_of("/proc/cpuinfo", "model name"),
            memory_mib: memory.and_then(|text| text.split(' ').next()?.parse::<u64>().ok()).map(|kib| kib / 1_024),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|text| text.trim().to_owned()),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
        }
    }
}

/// The commit of this program: what the build was told, or what the repository says in which the program lies.
pub fn commit() -> String {
    if let Some(commit) = option_env!("REMEDYD_COMMIT") {
        return commit.to_owned();
    }
    let described = || {
        let program = std::env::current_exe().ok()?;
        let directory = program.parent()?;
        let output = Command::new("git").arg("-C").arg(directory).args(["describe", "--always", "--dirty", "--abbrev=12"]).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
    };
    described().unwrap_or_else(|| "unknown".to_owned())
}

/// Processor seconds that a process has taken so far, in user and kernel mode.
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    ticks(&stat).map(|ticks| ticks as f64 / TICKS_A_SECOND)
}

/// The fields utime and stime of a line of `/proc/<pid>/stat`. The name before them may hold anything but its end.
fn ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let (user, system) = (fields.next()?, fields.next()?);
    Some(user.parse::<u64>().ok()? + system.parse::<u64>().ok()?)
}

/// The process of this machine that listens on a TCP port; `None` if it is another user's, or elsewhere.
pub fn listener_pid(port: u16) -> Option<u32> {
    let mut inodes = BTreeSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        inodes.extend(fs::read_to_string(table).unwrap_or_default().lines().filter_map(|line| listening(line, port)).map(str::to_owned));
    }
    let sockets: BTreeSet<String> = inodes.iter().map(|inode| format!("socket:[{inode}]")).collect();
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        holds(&entry.path(), &sockets).then_some(pid)
    })
}

/// The inode of a line of `/proc/net/tcp`, if it is a socket that listens on the port.
fn listening(line: &str, port: u16) -> Option<&str> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
    let is_listening = fields.get(3) == Some(&"0A") && u16::from_str_radix(local_port, 16) == Ok(port);
    if is_listening { fields.get(9).copied() } else { None }
}

fn holds(process: &Path, sockets: &BTreeSet<String>) -> bool {
    let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    descriptors
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|target| target.to_str().is_some_and(|target| sockets.contains(target)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_found_behind_any_name() {
        assert_eq!(ticks("12 (a) b) (c) S 1 2 3 4 5 6 7 8 9 10 30 12 1 1 20 0"), Some(42));
        assert_eq!(ticks("12 (a) S 1"), None);
        assert!(cpu_seconds(std::process::id()).is_some());
        assert_eq!(cpu_seconds(0), None);
    }

    #[test]
    fn a_listening_socket_leads_to_its_process() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = socket.local_addr().expect("address").port();
        assert_eq!(listener_pid(port), Some(std::process::id()));
        drop(socket);
        assert_eq!(listener_pid(port), None);
    }
}
