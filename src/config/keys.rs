//! The table of keys: name, kind, bounds, default, and why the bounds are where they are.
//!
//! Users (`[[users]]`) are a list and have a file of their own.

use super::{ClockSource, Executor, LogFormat, OutcomeModel};

/// One key of the settings.
#[derive(Debug)]
pub struct Key {
    /// `section.name`.
    pub path: &'static str,
    pub kind: Kind,
    /// What it decides and why its bounds are these; printed as a comment.
    pub about: &'static [&'static str],
}

#[derive(Debug)]
pub enum Kind {
    /// A whole number within `min..=max`.
    Number {
        default: u64,
        min: u64,
        max: u64,
        unit: &'static str,
    },
    Flag {
        default: bool,
    },
    Word {
        default: &'static str,
        of: &'static [&'static str],
    },
    /// Free text; `expected` says what the reader takes.
    Text {
        default: &'static str,
        expected: &'static str,
    },
    /// As `Text`, and its value is never shown as it is.
    Secret {
        default: &'static str,
        expected: &'static str,
    },
}

impl Key {
    /// The part before the dot.
    pub fn section(&self) -> &'static str {
        self.path.split_once('.').map_or(self.path, |(section, _)| section)
    }

    /// The part after the dot.
    pub fn name(&self) -> &'static str {
        self.path.split_once('.').map_or(self.path, |(_, name)| name)
    }

    /// What a value must be, for an error line.
    pub fn expected(&self) -> String {
        match self.kind {
            Kind::Number { min, max, unit, .. } => {
                let unit = if unit.is_empty() { String::new() } else { format!(" ({unit})") };
                format!("a whole number from {min} to {max}{unit}")
            }
            Kind::Flag { .. } => "true or false".to_owned(),
            Kind::Word { of: [only], .. } => format!("{only:?}"),
            Kind::Word { of, .. } => format!("one of {}", of.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ")),
            Kind::Text { expected, .. } | Kind::Secret { expected, .. } => expected.to_owned(),
        }
    }
}

pub const URL: Key = Key {
    path: "amqp.url",
    kind: Kind::Secret {
        default: "amqp://127.0.0.1:5672/%2f",
        expected: "amqps://user:password@host:port/vhost (amqp:// and the user guest only on loopback)",
    },
    about: &["The broker. Holds a password: rather REMEDYD_AMQP_URL, or url_file. Off loopback only amqps:// and not as guest."],
};
pub const URL_FILE: Key = Key {
    path: "amqp.url_file",
    kind: Kind::Text { default: "", expected: "a readable file that holds only the broker's URL" },
    about: &["A file that holds the URL instead (a mounted secret); \"\" for none. Not beside url in the same place."],
};
pub const TLS_CA_FILE: Key = Key {
    path: "amqp.tls_ca_file",
    kind: Kind::Text { default: "", expected: "a readable PEM file of certificates, at most 1 MiB; only with amqps://" },
    about: &["Certificates to trust besides the system's, for a broker whose certificate is from an authority of your own; \"\" for none."],
};
pub const TLS_CERT_FILE: Key = Key {
    path: "amqp.tls_cert_file",
    kind: Kind::Text { default: "", expected: "a readable PEM file of certificates, at most 1 MiB; only with amqps:// and tls_key_file" },
    about: &["This service's own certificate with its chain, for a broker that asks for one; \"\" for none. Needs tls_key_file."],
};
pub const TLS_KEY_FILE: Key = Key {
    path: "amqp.tls_key_file",
    kind: Kind::Text { default: "", expected: "a readable PEM file of a private key, at most 1 MiB; only with amqps:// and tls_cert_file" },
    about: &["Its private key, without a password (PKCS #8, PKCS #1 or SEC 1). Read at the start: a new one needs a restart."],
};
pub const PREFETCH_REPORTS: Key = Key {
    path: "amqp.prefetch_reports",
    kind: Kind::Number { default: 2_000, min: 1, max: 2_000, unit: "messages" },
    about: &[
        "Reports and decisions handed out and not yet settled: among these tenants take turns, the broker keeps one",
        "order for all. All may sit in memory at 256 KiB each: 2000 are 500 MiB for each partition at the worst.",
    ],
};
pub const PREFETCH_SURVEYS: Key = Key {
    path: "amqp.prefetch_surveys",
    kind: Kind::Number { default: 2_000, min: 1, max: 10_000, unit: "messages" },
    about: &["The same for surveys, which are some 400 bytes. Beyond 2000 throughput no longer grows."],
};
pub const PUBLISH_WINDOW: Key = Key {
    path: "amqp.publish_window",
    kind: Kind::Number { default: 1_000, min: 1, max: 10_000, unit: "messages" },
    about: &[
        "Publications of a partition on their way without a confirm. A crash repeats at most this many, and some more where",
        "the broker has refused some; a window of one is ten times slower.",
    ],
};
pub const PREFIX: Key = Key {
    path: "amqp.prefix",
    kind: Kind::Text { default: "remedyd", expected: "1 to 64 of a-z, 0-9, '.', '_', '-', beginning with a letter" },
    about: &["Begins the name of every exchange and queue. AMQP names end at 255 bytes."],
};
pub const PARTITION: Key = Key {
    path: "amqp.partition",
    kind: Kind::Text { default: "all", expected: "\"all\", one (2), a range (\"0-3\") or a list (\"0,2,5-7\"), counted from 0" },
    about: &[
        "The partitions this process serves, each with an engine's thread, two connections, a store and its cache of its own.",
        "Other processes may serve the others, never the same: the broker picks a consumer for each queue, two would get one each.",
    ],
};
pub const PARTITIONS: Key = Key {
    path: "amqp.partitions",
    kind: Kind::Number { default: 1, min: 1, max: 256, unit: "partitions" },
    about: &[
        "How many there are; fixed when the topology is applied. Each is two quorum queues,",
        "and a broker keeps a replicated log in memory for each of those.",
    ],
};
pub const APPLY_TOPOLOGY: Key = Key {
    path: "amqp.apply_topology",
    kind: Kind::Flag { default: false },
    about: &["Declare exchanges and queues at start-up instead of only checking them. Needs the right to configure."],
};
pub const STORE_DIR: Key = Key {
    path: "store.dir",
    kind: Kind::Text { default: "data", expected: "the path of a directory" },
    about: &["Where state is kept; partition p in p<p> below it. A local disk that honours fsync."],
};
pub const CACHE_MIB: Key = Key {
    path: "store.cache_mib",
    kind: Kind::Number { default: 96, min: 64, max: 256, unit: "MiB" },
    about: &[
        "Page cache of each partition's store; a third more of memory. Below 64 a survey herd reads from disk; above 96 a",
        "million agents no longer fit in 512 MiB.",
    ],
};
pub const AUDIT_DAYS: Key = Key {
    path: "store.audit_days",
    kind: Kind::Number { default: 400, min: 30, max: 36_500, unit: "days" },
    about: &["Audit rows older than this leave the store for its archive (p<p>/archive/*.ndjson); a year and a month for the auditors."],
};
pub const EXECUTOR: Key = Key {
    path: "agents.executor",
    kind: Kind::Word { default: "simulated", of: Executor::WORDS },
    about: &["Who runs approved tasks. \"simulated\": the service plays the hosts itself."],
};
pub const MODEL: Key = Key {
    path: "agents.model",
    kind: Kind::Word { default: "steady", of: OutcomeModel::WORDS },
    about: &["How simulated hosts answer: \"steady\" is always ok, \"seeded\" by chance from the seed."],
};
pub const SEED: Key = Key {
    path: "agents.seed",
    kind: Kind::Number { default: 1, min: 0, max: i64::MAX as u64, unit: "" },
    about: &["Same seed, same events: same outcomes. The upper end is the largest number TOML knows."],
};
pub const SURVEY_INTERVAL: Key = Key {
    path: "agents.survey_interval_minutes",
    kind: Kind::Number { default: 15, min: 1, max: 1_440, unit: "minutes" },
    about: &[
        "How often an agent is expected to survey. Paces retries and tells when it is offline; a day at most, or that is found too late.",
    ],
};
pub const CLOCK: Key = Key {
    path: "clock.source",
    kind: Kind::Word { default: "system", of: ClockSource::WORDS },
    about: &["Where \"now\" comes from. \"events\" (the greatest event time seen) is for tests against a real broker."],
};
pub const OUTBOX_ROWS: Key = Key {
    path: "limits.outbox_rows",
    kind: Kind::Number { default: 100_000, min: 10_000, max: 10_000_000, unit: "rows" },
    about: &[
        "Events of a partition waiting for their confirm; its consuming pauses when it is full. At about 1 KiB each the default is",
        "100 MiB of disk. The smallest still holds one batch of the largest size.",
    ],
};
pub const BATCH_EVENTS: Key = Key {
    path: "limits.batch_events",
    kind: Kind::Number { default: 256, min: 1, max: 1_024, unit: "events" },
    about: &["Events decided into one durable commit. One sync costs the same for all of them; beyond 1024 only latency grows."],
};
pub const DRAIN_SECONDS: Key = Key {
    path: "limits.drain_seconds",
    kind: Kind::Number { default: 10, min: 1, max: 10, unit: "seconds" },
    about: &["How long a stop may take to finish its batch and flush. 10 is promised, and every supervisor waits at least that."],
};
pub const LOG_FORMAT: Key = Key {
    path: "log.format",
    kind: Kind::Word { default: "pretty", of: LogFormat::WORDS },
    about: &["\"pretty\" for people, \"json\" for collectors."],
};
pub const LOG_FILTER: Key = Key {
    path: "log.filter",
    kind: Kind::Text { default: "info", expected: "filter directives such as info,remedyd=debug" },
    about: &["What is logged. Customer data appears only at debug and below."],
};
pub const OPS_LISTEN: Key = Key {
    path: "ops.listen",
    kind: Kind::Text { default: "127.0.0.1:9464", expected: "an address and port such as 127.0.0.1:9464 or [::1]:9464, or \"\"" },
    about: &[
        "Health, metrics, the status page and what `inspect --url` asks; read-only. \"\" switches it off. It tells customers'",
        "data and speaks plain HTTP: off loopback only with token_file, and there behind something that speaks TLS.",
    ],
};
pub const OPS_TOKEN_FILE: Key = Key {
    path: "ops.token_file",
    kind: Kind::Text { default: "", expected: "a readable file that holds only a token of 16 to 512 printable ASCII characters" },
    about: &["A file with the token that requests must bear (Authorization: Bearer …); probes need none. \"\" for none, on loopback only."],
};

/// Every key, in the order of the file.
pub const ALL: [&Key; 27] = [
    &URL,
    &URL_FILE,
    &TLS_CA_FILE,
    &TLS_CERT_FILE,
    &TLS_KEY_FILE,
    &PREFETCH_REPORTS,
    &PREFETCH_SURVEYS,
    &PUBLISH_WINDOW,
    &PREFIX,
    &PARTITION,
    &PARTITIONS,
    &APPLY_TOPOLOGY,
    &STORE_DIR,
    &CACHE_MIB,
    &AUDIT_DAYS,
    &EXECUTOR,
    &MODEL,
    &SEED,
    &SURVEY_INTERVAL,
    &CLOCK,
    &OUTBOX_ROWS,
    &BATCH_EVENTS,
    &DRAIN_SECONDS,
    &LOG_FORMAT,
    &LOG_FILTER,
    &OPS_LISTEN,
    &OPS_TOKEN_FILE,
];

/// The key of that path.
pub fn find(path: &str) -> Option<&'static Key> {
    ALL.into_iter().find(|key| key.path == path)
}

/// The names of the keys of a section, in order.
pub fn names(section: &str) -> Vec<&'static str> {
    ALL.iter().filter(|key| key.section() == section).map(|key| key.name()).collect()
}
