//! From the tree of values to [`Settings`]: every key checked, every error kept.
//!
//! Never here: a stop at the first error, or a secret in an error line. A wrong value leaves its default in the
//! settings, which are thrown away with the errors.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use config::{Value, ValueKind};

use super::keys::{self, Key, Kind};
use super::partitions::PartitionChoice;
use super::sources::Tree;
use super::tls::{PemFile, Tls};
use super::url::{AmqpUrl, REDACTED};
use super::users::{Accounts, User, Users, is_pattern};
use super::{Agents, Amqp, ClockSource, Executor, Limits, Log, LogFormat, Ops, OutcomeModel, Settings, StoreSettings, Token};

/// A URL or a token is far shorter; a larger file is a wrong path.
const MAX_SECRET_BYTES: usize = 4096;
/// An MSP has a handful of publishers; each message is compared with all of them.
const MAX_USERS: usize = 1_000;

/// The settings, and what is wrong with them.
pub(super) fn settings(tree: &Tree) -> (Settings, Vec<String>) {
    let mut reader = Reader { tree, errors: Vec::new() };
    reader.unknown_keys();
    let (url, url_file) = reader.url();
    let tls = reader.tls(&url);
    let partitions = reader.number(&keys::PARTITIONS);
    let partition = reader.partition(partitions);
    let settings = Settings {
        amqp: Amqp {
            url,
            url_file,
            tls,
            // the bounds of the key table are within the types they are cast to
            prefetch_reports: reader.number(&keys::PREFETCH_REPORTS) as u16,
            prefetch_surveys: reader.number(&keys::PREFETCH_SURVEYS) as u16,
            publish_window: reader.number(&keys::PUBLISH_WINDOW) as usize,
            prefix: reader.text(&keys::PREFIX, is_prefix),
            partition,
            partitions: partitions as u32,
            apply_topology: reader.flag(&keys::APPLY_TOPOLOGY),
        },
        store: StoreSettings {
            dir: reader.text(&keys::STORE_DIR, is_path).into(),
            cache_mib: reader.number(&keys::CACHE_MIB),
            audit_days: reader.number(&keys::AUDIT_DAYS) as i64,
        },
        agents: Agents {
            executor: reader.word(&keys::EXECUTOR, Executor::of, Executor::Simulated),
            model: reader.word(&keys::MODEL, OutcomeModel::of, OutcomeModel::Steady),
            seed: reader.number(&keys::SEED),
            survey_interval_minutes: reader.number(&keys::SURVEY_INTERVAL) as i64,
        },
        clock: reader.word(&keys::CLOCK, ClockSource::of, ClockSource::System),
        limits: Limits {
            outbox_rows: reader.number(&keys::OUTBOX_ROWS) as usize,
            batch_events: reader.number(&keys::BATCH_EVENTS) as usize,
            drain_seconds: reader.number(&keys::DRAIN_SECONDS),
        },
        log: Log {
            format: reader.word(&keys::LOG_FORMAT, LogFormat::of, LogFormat::Pretty),
            filter: reader.text(&keys::LOG_FILTER, is_filter),
        },
        ops: reader.ops(),
        users: reader.users(),
    };
    (settings, reader.errors)
}

struct Reader<'a> {
    tree: &'a Tree,
    errors: Vec<String>,
}

impl<'a> Reader<'a> {
    fn unknown_keys(&mut self) {
        let mut sections: Vec<_> = self.tree.iter().collect();
        sections.sort_by_key(|(name, _)| name.as_str());
        for (section, value) in sections {
            let known = keys::names(section);
            match &value.kind {
                _ if section == "users" => {}
                _ if known.is_empty() => {
                    let mut all: Vec<&str> = keys::ALL.iter().map(|key| key.section()).collect();
                    all.dedup();
                    self.errors.push(format!(
                        "{section} ({}): there is no such section; expected {}, users",
                        origin(value),
                        all.join(", ")
                    ));
                }
                ValueKind::Table(table) => {
                    let mut unknown: Vec<_> = table.iter().filter(|(name, _)| !known.contains(&name.as_str())).collect();
                    unknown.sort_by_key(|(name, _)| name.as_str());
                    for (name, value) in unknown {
                        let origin = origin(value);
                        self.errors.push(format!("{section}.{name} ({origin}): there is no such key; expected {}", known.join(", ")));
                    }
                }
                _ => self.errors.push(format!("{section} ({}): {}; expected a section", origin(value), shown(value))),
            }
        }
    }

    fn value(&self, key: &Key) -> Option<&'a Value> {
        match &self.tree.get(key.section())?.kind {
            ValueKind::Table(table) => table.get(key.name()),
            _ => None,
        }
    }

    fn wrong(&mut self, key: &Key, expected: &str) {
        let line = match (self.value(key), &key.kind) {
            (None, _) => format!("{} (default): expected {expected}", key.path),
            (Some(value), Kind::Secret { .. }) => format!("{} ({}): {REDACTED}; expected {expected}", key.path, origin(value)),
            (Some(value), _) => format!("{} ({}): {}; expected {expected}", key.path, origin(value), shown(value)),
        };
        self.errors.push(line);
    }

    /// The value as `take` reads it, or the default.
    fn taken<T>(&mut self, key: &Key, default: T, take: impl FnOnce(&ValueKind) -> Option<T>) -> T {
        let Some(value) = self.value(key) else { return default };
        take(&value.kind).unwrap_or_else(|| {
            self.wrong(key, &key.expected());
            default
        })
    }

    fn number(&mut self, key: &Key) -> u64 {
        let Kind::Number { default, min, max, .. } = key.kind else { return 0 };
        let is_text = self.is_text(key);
        self.taken(key, default, |value| {
            let number = match value {
                ValueKind::I64(number) => u64::try_from(*number).ok(),
                ValueKind::String(text) if is_text => text.parse().ok(),
                _ => None,
            };
            number.filter(|number| (min..=max).contains(number))
        })
    }

    fn flag(&mut self, key: &Key) -> bool {
        let Kind::Flag { default } = key.kind else { return false };
        let is_text = self.is_text(key);
        self.taken(key, default, |value| match value {
            ValueKind::Boolean(flag) => Some(*flag),
            ValueKind::String(text) if is_text => text.parse().ok(),
            _ => None,
        })
    }

    fn word<T>(&mut self, key: &Key, of: impl Fn(&str) -> Option<T>, fallback: T) -> T {
        let default = match key.kind {
            Kind::Word { default, .. } => of(default).unwrap_or(fallback),
            _ => fallback,
        };
        self.taken(key, default, |value| match value {
            ValueKind::String(word) => of(word),
            _ => None,
        })
    }

    fn text(&mut self, key: &Key, is_right: impl Fn(&str) -> bool) -> String {
        let (Kind::Text { default, .. } | Kind::Secret { default, .. }) = key.kind else { return String::new() };
        self.taken(key, default.to_owned(), |value| match value {
            ValueKind::String(text) if is_right(text) => Some(text.clone()),
            _ => None,
        })
    }

    /// In the file one partition is a number; everything else, and everything from elsewhere, is text.
    fn partition(&mut self, partitions: u64) -> PartitionChoice {
        let default = PartitionChoice::All;
        let Some(value) = self.value(&keys::PARTITION) else { return default };
        let parsed = match &value.kind {
            ValueKind::String(text) => PartitionChoice::parse(text, partitions),
            ValueKind::I64(number) => PartitionChoice::parse(&number.to_string(), partitions),
            _ => Err(String::new()),
        };
        parsed.unwrap_or_else(|why| {
            let expected = keys::PARTITION.expected();
            self.wrong(&keys::PARTITION, &if why.is_empty() { expected } else { format!("{expected}; {why}") });
            default
        })
    }

    /// A variable or a flag can only be text; in the file a number in quotes is a mistake.
    fn is_text(&self, key: &Key) -> bool {
        self.value(key).is_some_and(|value| value.origin().is_some())
    }

    /// The URL, from `url` or the file that `url_file` names: the one set in the higher layer.
    fn url(&mut self) -> (AmqpUrl, Option<PathBuf>) {
        let default = || match keys::URL.kind {
            Kind::Secret { default, .. } => AmqpUrl::parse(default),
            _ => Err(""),
        };
        let in_place = self.value(&keys::URL).map(layer);
        let in_file = self.value(&keys::URL_FILE).map(layer);
        let text = self.text(&keys::URL, |_| true);
        let file = Some(self.text(&keys::URL_FILE, |_| true)).filter(|path| !path.is_empty()).map(PathBuf::from);
        let parsed = match &file {
            Some(_) if in_place == in_file => {
                let line = format!(
                    "amqp.url and amqp.url_file ({}): both are set; expected one of the two",
                    self.value(&keys::URL_FILE).map_or("", origin)
                );
                self.errors.push(line);
                default()
            }
            Some(path) if in_file > in_place => match read_secret(path) {
                Ok(text) => AmqpUrl::parse(&text).inspect_err(|why| {
                    let line = format!(
                        "amqp.url_file: the content of {} cannot be used: {why}; expected {}",
                        shown_path(path),
                        keys::URL.expected()
                    );
                    self.errors.push(line);
                }),
                Err(why) => {
                    let line = format!(
                        "amqp.url_file ({}): {}: {why}; expected {}",
                        self.value(&keys::URL_FILE).map_or("", origin),
                        shown_path(path),
                        keys::URL_FILE.expected()
                    );
                    self.errors.push(line);
                    default()
                }
            },
            _ => AmqpUrl::parse(&text).inspect_err(|why| self.wrong(&keys::URL, &format!("{}; {why}", keys::URL.expected()))),
        };
        let file = file.filter(|_| in_file > in_place);
        // the default is a constant that its test parses
        let url = parsed.or_else(|_| default()).unwrap_or_else(|_| unreachable!("the default URL parses"));
        (url, file)
    }

    /// The ops port: never off loopback without a token.
    fn ops(&mut self) -> Ops {
        let address = |text: &str| text.parse::<SocketAddr>().ok();
        let listen = address(&self.text(&keys::OPS_LISTEN, |text| text.is_empty() || address(text).is_some()));
        let token_file = Some(self.text(&keys::OPS_TOKEN_FILE, |_| true)).filter(|path| !path.is_empty()).map(PathBuf::from);
        let token = token_file.as_deref().and_then(|path| match read_secret(path) {
            Ok(text) if is_token(&text) => Some(Token(text)),
            Ok(_) => {
                self.wrong(&keys::OPS_TOKEN_FILE, &format!("{}; its content is not that", keys::OPS_TOKEN_FILE.expected()));
                None
            }
            Err(why) => {
                self.wrong(&keys::OPS_TOKEN_FILE, &format!("{}; {why}", keys::OPS_TOKEN_FILE.expected()));
                None
            }
        });
        if listen.is_some_and(|address| !address.ip().is_loopback()) && token_file.is_none() {
            self.wrong(&keys::OPS_LISTEN, "an address on loopback, or a token in ops.token_file");
        }
        Ops { listen, token_file, token }
    }

    /// A file that would be of no use is refused: whoever names one believes that it protects something.
    fn tls(&mut self, url: &AmqpUrl) -> Tls {
        let tls = Tls {
            ca: self.pem(&keys::TLS_CA_FILE, "CERTIFICATE", url),
            certificate: self.pem(&keys::TLS_CERT_FILE, "CERTIFICATE", url),
            key: self.pem(&keys::TLS_KEY_FILE, "PRIVATE KEY", url),
        };
        for (one, other) in [(&keys::TLS_CERT_FILE, &keys::TLS_KEY_FILE), (&keys::TLS_KEY_FILE, &keys::TLS_CERT_FILE)] {
            if self.names_file(one) && !self.names_file(other) {
                let expected = format!("{} beside it", other.path);
                self.wrong(one, &expected);
            }
        }
        tls
    }

    fn names_file(&self, key: &Key) -> bool {
        matches!(self.value(key).map(|value| &value.kind), Some(ValueKind::String(text)) if !text.is_empty())
    }

    fn pem(&mut self, key: &Key, label: &str, url: &AmqpUrl) -> Option<PemFile> {
        let path = PathBuf::from(self.text(key, |text| text.is_empty() || is_path(text)));
        if path.as_os_str().is_empty() {
            return None;
        }
        let read = if url.is_encrypted() { PemFile::read(&path, label) } else { Err("amqp.url is not amqps://".to_owned()) };
        read.map_err(|why| {
            let line =
                format!("{} ({}): {}: {why}; expected {}", key.path, self.value(key).map_or("", origin), shown_path(&path), key.expected());
            self.errors.push(line);
        })
        .ok()
    }

    fn users(&mut self) -> Users {
        let Some(value) = self.tree.get("users") else { return Users::Anyone };
        let ValueKind::Array(entries) = &value.kind else {
            self.errors.push(format!("users ({}): {}; expected [[users]] entries", origin(value), shown(value)));
            return Users::Anyone;
        };
        if entries.len() > MAX_USERS {
            self.errors.push(format!("users ({}): {} entries; expected at most {MAX_USERS}", origin(value), entries.len()));
        }
        let users: Vec<User> = entries.iter().enumerate().map(|(i, entry)| self.user(i, entry)).collect();
        let anyone = User { name: "*".to_owned(), accounts: Accounts::All, types: vec!["#".to_owned()], portal: true };
        if users == [anyone] {
            return Users::Anyone;
        }
        if users.iter().any(|user| user.name == "*") {
            self.errors.push(format!(
                "users ({}): \"*\" is one user for all; expected it to be the only entry, with accounts = \"*\", types = [\"#\"], portal = true",
                origin(value)
            ));
        }
        Users::Listed(users)
    }

    fn user(&mut self, index: usize, entry: &Value) -> User {
        let from = origin(entry);
        let mut user = User { name: String::new(), accounts: Accounts::These(vec![]), types: vec![], portal: false };
        let ValueKind::Table(table) = &entry.kind else {
            self.errors.push(format!("users[{index}] ({from}): {}; expected a [[users]] entry", shown(entry)));
            return user;
        };
        let mut wrong =
            |key: &str, got: &str, expected: &str| self.errors.push(format!("users[{index}].{key} ({from}): {got}; expected {expected}"));
        const NAMES: [&str; 4] = ["name", "accounts", "types", "portal"];
        let mut unknown: Vec<_> = table.keys().filter(|key| !NAMES.contains(&key.as_str())).collect();
        unknown.sort();
        for key in unknown {
            wrong(key, "there is no such key", &NAMES.join(", "));
        }
        let got = |key: &str| table.get(key).map_or_else(|| "missing".to_owned(), shown);
        match table.get("name").map(|v| &v.kind) {
            Some(ValueKind::String(name)) if !name.is_empty() && name.len() <= 255 => user.name.clone_from(name),
            _ => wrong("name", &got("name"), "the AMQP user's name, 1 to 255 bytes"),
        }
        match table.get("accounts").and_then(accounts) {
            Some(accounts) => user.accounts = accounts,
            None => wrong("accounts", &got("accounts"), "\"*\" or a list of account ids such as [5, 7]"),
        }
        match table.get("types").and_then(patterns) {
            Some(types) => user.types = types,
            None => wrong("types", &got("types"), "a list of event-type patterns such as [\"incident_report.*\", \"#\"]"),
        }
        match table.get("portal").map(|v| &v.kind) {
            None => {}
            Some(ValueKind::Boolean(portal)) => user.portal = *portal,
            Some(_) => wrong("portal", &got("portal"), "true or false"),
        }
        user
    }
}

fn accounts(value: &Value) -> Option<Accounts> {
    match &value.kind {
        ValueKind::String(all) if all == "*" => Some(Accounts::All),
        ValueKind::Array(ids) if !ids.is_empty() => {
            let id = |value: &Value| match value.kind {
                ValueKind::I64(id) => u64::try_from(id).ok(),
                _ => None,
            };
            ids.iter().map(id).collect::<Option<_>>().map(Accounts::These)
        }
        _ => None,
    }
}

fn patterns(value: &Value) -> Option<Vec<String>> {
    let ValueKind::Array(list) = &value.kind else { return None };
    let pattern = |value: &Value| match &value.kind {
        ValueKind::String(pattern) if is_pattern(pattern) => Some(pattern.clone()),
        _ => None,
    };
    Some(list.iter().map(pattern).collect::<Option<Vec<_>>>()?).filter(|list| !list.is_empty())
}

fn is_prefix(text: &str) -> bool {
    let rest = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b);
    (1..=64).contains(&text.len()) && text.as_bytes()[0].is_ascii_lowercase() && text.bytes().all(rest)
}

/// A URL is refused: it would show a password in the name of a directory.
fn is_path(text: &str) -> bool {
    !text.is_empty() && !text.contains("://") && !text.contains('\0')
}

fn is_filter(text: &str) -> bool {
    !text.is_empty() && tracing_subscriber::EnvFilter::try_new(text).is_ok()
}

/// Long enough that nobody guesses it, and fit for a header.
fn is_token(text: &str) -> bool {
    (16..=512).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn read_secret(path: &Path) -> Result<String, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("cannot be read: {e}"))?;
    if text.len() > MAX_SECRET_BYTES {
        return Err(format!("{} bytes are no secret", text.len()));
    }
    Ok(text.trim().to_owned())
}

/// Where a value came from. Only the file's values bear no origin.
fn origin(value: &Value) -> &str {
    value.origin().unwrap_or("file")
}

/// Which layer a value came from; a higher one wins.
fn layer(value: &Value) -> u8 {
    match value.origin() {
        None => 0,
        Some(origin) if origin.starts_with("credential") => 1,
        Some(origin) if origin.starts_with("environment") => 2,
        Some(_) => 3,
    }
}

/// A value for an error line: bounded, and never what may be a URL with a password.
fn shown(value: &Value) -> String {
    match &value.kind {
        ValueKind::String(text) => shown_text(text),
        ValueKind::Table(_) => "a section".to_owned(),
        ValueKind::Array(list) => {
            let first: Vec<String> = list.iter().take(8).map(shown).collect();
            format!("[{}{}]", first.join(", "), if list.len() > 8 { ", …" } else { "" })
        }
        ValueKind::Nil => "nothing".to_owned(),
        other => other.to_string(),
    }
}

fn shown_text(text: &str) -> String {
    if text.contains("://") || text.contains('@') {
        return REDACTED.to_owned();
    }
    format!("{:?}", text.chars().take(64).collect::<String>())
}

fn shown_path(path: &Path) -> String {
    shown_text(&path.to_string_lossy())
}
