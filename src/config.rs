//! Settings: what an operator may choose, typed and within bounds.
//!
//! ```text
//! defaults  <  file (TOML)  <  credentials (systemd)  <  environment (REMEDYD_…)  <  flags   ─▶  Settings, or every error
//! ```
//!
//! A restart that fails on one typing error after the other costs an evening; so nothing here stops at the
//! first. Every line of a [`ConfigErrors`] names the key, where its value came from and what is expected.
//!
//! Never here: the rest of the crate (this is a leaf; each floor takes plain values), defaults hidden in other
//! modules, and secrets in any printed form: the broker's URL is an [`AmqpUrl`], which shows itself redacted.
//!
//! [`keys`] is the table of all keys with bounds and reasons; the reader, the printer and the example file
//! (`deploy/remedyd.example.toml`) follow it.

pub mod keys;
mod partitions;
mod print;
mod read;
mod reload;
mod sources;
mod tls;
mod url;
mod users;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

pub use self::partitions::{PartitionChoice, in_ranges};
pub use self::reload::{Changes, RELOADABLE};
pub use self::sources::{Overrides, Sources};
pub use self::tls::{PemFile, Tls};
pub use self::url::AmqpUrl;
pub use self::users::{Accounts, Authority, Publishers, User, Users};

/// Everything that was wrong, one line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<String>);

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        write!(f, "{count} wrong setting{}", if count == 1 { "" } else { "s" })?;
        self.0.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// The settings in force.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub amqp: Amqp,
    pub store: StoreSettings,
    pub agents: Agents,
    pub clock: ClockSource,
    pub limits: Limits,
    pub log: Log,
    pub ops: Ops,
    pub users: Users,
}

/// The broker and this process's share of its queues.
#[derive(Debug, Clone, PartialEq)]
pub struct Amqp {
    /// What `url` said, or the file that `url_file` names.
    pub url: AmqpUrl,
    pub url_file: Option<PathBuf>,
    pub tls: Tls,
    pub prefetch_reports: u16,
    pub prefetch_surveys: u16,
    /// Publications not yet confirmed.
    pub publish_window: usize,
    /// Begins the name of every exchange and queue.
    pub prefix: String,
    /// Each always below `partitions`.
    pub partition: PartitionChoice,
    pub partitions: u32,
    pub apply_topology: bool,
}

impl Amqp {
    /// The partitions of this process, in order: at least one.
    pub fn served(&self) -> Vec<u16> {
        self.partition.of(self.partitions)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct StoreSettings {
    pub dir: PathBuf,
    pub cache_mib: u64,
    pub audit_days: i64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Agents {
    pub executor: Executor,
    pub model: OutcomeModel,
    pub seed: u64,
    pub survey_interval_minutes: i64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    pub outbox_rows: usize,
    pub batch_events: usize,
    pub drain_seconds: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    pub format: LogFormat,
    /// Directives of `tracing_subscriber::EnvFilter`; known to parse.
    pub filter: String,
}

/// The port for those who watch.
#[derive(Debug, Clone, PartialEq)]
pub struct Ops {
    /// `None`: switched off. Off loopback only with a token.
    pub listen: Option<SocketAddr>,
    pub token_file: Option<PathBuf>,
    /// What `token_file` holds.
    pub token: Option<Token>,
}

/// A secret that callers must show. Its printed form is never the secret.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The secret itself, for a comparison in constant time.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(url::REDACTED)
    }
}

/// A setting that is one of a few words; the words are part of the file format.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            fn of(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

words!(
    /// Who runs approved tasks.
    Executor {
        /// The service plays the hosts itself.
        Simulated = "simulated",
    }
);

words!(
    /// How simulated hosts answer where a remediation says nothing of its own.
    OutcomeModel {
        /// Always ok, at once.
        Steady = "steady",
        /// By chance, from `agents.seed`: the same seed and events give the same outcomes.
        Seeded = "seeded",
    }
);

words!(
    /// Where `now` comes from.
    ClockSource {
        System = "system",
        /// The greatest event time seen: for tests against a real broker.
        Events = "events",
    }
);

words!(
    LogFormat {
        Pretty = "pretty",
        Json = "json",
    }
);

impl Settings {
    /// Reads `file` (if any), the environment of this process and `overrides`.
    pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Self, ConfigErrors> {
        Self::load_with(file, sources::process_environment(), overrides)
    }

    /// As [`Settings::load`], with the environment as an argument.
    pub fn load_with(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        overrides: &Overrides,
    ) -> Result<Self, ConfigErrors> {
        Self::load_with_sources(file, environment, overrides).map(|(settings, _)| settings)
    }

    /// As [`Settings::load`], and where each came from.
    pub fn load_sourced(file: Option<&Path>, overrides: &Overrides) -> Result<(Self, Sources), ConfigErrors> {
        Self::load_with_sources(file, sources::process_environment(), overrides)
    }

    /// As [`Settings::load_with`], and where each came from.
    pub fn load_with_sources(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
        overrides: &Overrides,
    ) -> Result<(Self, Sources), ConfigErrors> {
        let (tree, mut errors) = sources::layered(file, environment, overrides);
        let (settings, wrong) = read::settings(&tree);
        errors.extend(wrong);
        if errors.is_empty() { Ok((settings, Sources::of(&tree, file))) } else { Err(ConfigErrors(errors)) }
    }

    /// The settings in force as a TOML file that says every key, its meaning and its default. Secrets are redacted.
    pub fn to_toml(&self) -> String {
        print::toml(self)
    }

    /// A line for each key: its value and where that came from. Secrets are redacted.
    pub fn with_sources(&self, sources: &Sources) -> String {
        print::sourced(self, sources)
    }

    /// Where a partition keeps its state: a store belongs to one.
    pub fn partition_dir(&self, partition: u16) -> PathBuf {
        self.store.dir.join(format!("p{partition}"))
    }
}

impl Default for Settings {
    fn default() -> Self {
        // no source, no error: a default that breaks its own bound is caught by the tests
        read::settings(&sources::Tree::new()).0
    }
}
