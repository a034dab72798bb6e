//! What the kernel says of this process. Never here: anything that is not there on every Linux; elsewhere all is unknown.

use std::fs;

/// The kernel's `USER_HZ`, in which `/proc` counts processor time: part of its interface, 100 on every architecture that
/// we build for.
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Process {
    pub resident_bytes: Option<u64>,
    /// User and system time of all threads.
    pub cpu_seconds: Option<f64>,
    pub open_fds: Option<u64>,
}

impl Process {
    /// Three small files of `/proc`.
    pub fn now() -> Self {
        Self {
            resident_bytes: fs::read_to_string("/proc/self/status").ok().and_then(|text| resident_bytes(&text)),
            cpu_seconds: fs::read_to_string("/proc/self/stat").ok().and_then(|text| cpu_seconds(&text)),
            // the listing itself has one open
            open_fds: fs::read_dir("/proc/self/fd").ok().map(|fds| (fds.count() as u64).saturating_sub(1)),
        }
    }
}

fn resident_bytes(status: &str) -> Option<u64> {
    let kibibytes: u64 = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

fn cpu_seconds(stat: &str) -> Option<f64> {
    // the name of the program stands in brackets and may hold anything
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ').skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_forms_are_read() {
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t   1234 kB\nThreads:\t3\n"), Some(1_263_616));
        assert_eq!(cpu_seconds("12 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20"), Some(2.0));
        assert_eq!((resident_bytes(""), cpu_seconds("")), (None, None));
    }
}
