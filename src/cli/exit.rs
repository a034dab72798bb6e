//! How a command ends: the exit codes, a contract with supervisors and scripts.
//!
//! The codes from 64 up are those of `sysexits.h`, so that a service manager can tell what a restart may mend
//! (69, 70, 71, 74) from what it cannot (64, 65, 73).

use std::fmt;
use std::process::ExitCode;

use crate::config::ConfigErrors;
use crate::store::StoreError;

/// Every way a command can end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exit {
    Ok,
    /// The question was answered, and the answer is no: a difference found, a check not passed.
    Negative,
    /// A setting or the command line is wrong; nothing was started.
    Config,
    /// A file handed in cannot be used.
    Input,
    /// Only for commands that need the broker (or a running service) at once; `serve` waits for the broker instead.
    Broker,
    /// A broken invariant of our own.
    Internal,
    /// The ops port is taken, or not ours to open. A restart may mend it.
    Port,
    /// The store is locked, damaged, or written by a newer version. It was left as it is.
    StoreOpen,
    /// Reading, writing or syncing the store failed. Nothing was acked after that.
    StoreIo,
}

impl Exit {
    pub const ALL: [Exit; 9] =
        [Exit::Ok, Exit::Negative, Exit::Config, Exit::Input, Exit::Broker, Exit::Internal, Exit::Port, Exit::StoreOpen, Exit::StoreIo];

    pub const fn code(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::Negative => 1,
            Exit::Config => 64,
            Exit::Input => 65,
            Exit::Broker => 69,
            Exit::Internal => 70,
            Exit::Port => 71,
            Exit::StoreOpen => 73,
            Exit::StoreIo => 74,
        }
    }

    pub const fn meaning(self) -> &'static str {
        match self {
            Exit::Ok => "done",
            Exit::Negative => "difference found, or the answer is no",
            Exit::Config => "wrong settings or usage",
            Exit::Input => "unusable input data",
            Exit::Broker => "the broker, or the service that is asked, cannot be reached",
            Exit::Internal => "internal error",
            Exit::Port => "the ops port cannot be opened",
            Exit::StoreOpen => "the store cannot be opened (locked, damaged or newer)",
            Exit::StoreIo => "reading or writing the store failed",
        }
    }

    /// The code an error carries: the [`Exit`] attached to it with `anyhow::Context`, or what its type says.
    pub fn of(error: &anyhow::Error) -> Exit {
        if let Some(exit) = error.downcast_ref::<Exit>() {
            return *exit;
        }
        if error.is::<ConfigErrors>() { Exit::Config } else { Exit::Internal }
    }
}

/// A failed store, with the code that says whether it could not be opened or failed later.
pub fn store_exit(error: StoreError) -> anyhow::Error {
    let exit = match error {
        StoreError::Locked { .. } | StoreError::Corrupt { .. } | StoreError::NewerFormat { .. } | StoreError::Record { .. } => {
            Exit::StoreOpen
        }
        StoreError::Io { .. } | StoreError::SyncTooSlow { .. } | StoreError::Poisoned { .. } | StoreError::TooLarge { .. } => Exit::StoreIo,
    };
    anyhow::Error::from(error).context(exit)
}

/// So that `.context(Exit::StoreOpen)` reads well in the chain of causes.
impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.meaning())
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit.code())
    }
}

/// The list, as `--help` ends with it.
pub const HELP: &str = "\
Exit codes:
   0  done
   1  difference found, or the answer is no
  64  wrong settings or usage
  65  unusable input data
  69  the broker, or the service that is asked, cannot be reached
  70  internal error
  71  the ops port cannot be opened
  73  the store cannot be opened (locked, damaged or newer)
  74  reading or writing the store failed";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_help_names_every_code() {
        let listed: Vec<String> = HELP.lines().skip(1).map(str::to_owned).collect();
        let ours: Vec<String> = Exit::ALL.iter().map(|exit| format!("{:4}  {}", exit.code(), exit.meaning())).collect();
        assert_eq!(listed, ours);
    }

    #[test]
    fn an_error_carries_its_code() {
        let plain = anyhow::anyhow!("disk on fire");
        assert_eq!(Exit::of(&plain), Exit::Internal);
        assert_eq!(Exit::of(&plain.context(Exit::StoreIo)), Exit::StoreIo);
        assert_eq!(Exit::of(&anyhow::Error::from(ConfigErrors(vec!["x".into()])).context("loading")), Exit::Config);
    }
}
