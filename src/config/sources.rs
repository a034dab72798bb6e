//! Where settings come from, laid over each other: file, credentials, environment, flags.
//!
//! Never here: what a key means. Values keep where they came from (a value without origin came from the file),
//! so that an error can say it. What one source has wrong does not hide what another has.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use config::{ConfigError, File, FileFormat, Source as _, Value, ValueKind};

use super::keys;

/// Sections by name.
pub(super) type Tree = config::Map<String, Value>;

/// The prefix of our environment variables.
const PREFIX: &str = "REMEDYD_";
/// Short names beside `REMEDYD_<SECTION>__<KEY>`.
const ALIASES: [(&str, &str); 2] = [("REMEDYD_AMQP_URL", "amqp.url"), ("REMEDYD_STORE", "store.dir")];
/// Where systemd puts what `LoadCredential=` names.
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";
/// Credentials by name, and the key whose file each one is.
const CREDENTIALS: [(&str, &str); 5] = [
    ("amqp-url", "amqp.url_file"),
    ("tls-ca", "amqp.tls_ca_file"),
    ("tls-cert", "amqp.tls_cert_file"),
    ("tls-key", "amqp.tls_key_file"),
    ("ops-token", "ops.token_file"),
];
/// A settings file is some kilobytes; a larger one is a wrong path.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// Marks a variable whose value is not UTF-8; no such text can come from the environment itself.
const NOT_UTF8: &str = "\0";

/// Settings given as flags.
#[derive(Clone, Default)]
pub struct Overrides(Vec<(&'static str, &'static str, String)>);

impl Overrides {
    /// `flag` (as typed, for error lines) sets `key` (`section.name`), if it was given.
    #[must_use]
    pub fn set(mut self, flag: &'static str, key: &'static str, value: Option<&str>) -> Self {
        self.0.extend(value.map(|value| (flag, key, value.to_owned())));
        self
    }
}

impl fmt::Debug for Overrides {
    /// Without the values: one may be a URL.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().map(|(flag, _, _)| flag)).finish()
    }
}

/// The variables of this process that may be ours.
pub(super) fn process_environment() -> Vec<(String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name.starts_with(PREFIX) || name == CREDENTIALS_DIRECTORY)
        .map(|(name, value)| (name, value.into_string().unwrap_or_else(|_| NOT_UTF8.to_owned())))
        .collect()
}

/// One tree of all layers, and what is wrong with the layers themselves.
pub(super) fn layered(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    overrides: &Overrides,
) -> (Tree, Vec<String>) {
    let mut errors = Vec::new();
    let mut tree = match file.map(read_file) {
        Some(Ok(tree)) => tree,
        Some(Err(error)) => {
            errors.push(error);
            Tree::new()
        }
        None => Tree::new(),
    };
    let environment: Vec<(String, String)> = environment.into_iter().collect();
    for (origin, path, value) in from_credentials(&environment) {
        lay_over(&mut tree, path, Value::new(Some(&origin), value));
    }
    let set = from_environment(environment, &mut errors);
    let flags = overrides.0.iter().map(|(flag, key, value)| (format!("flag {flag}"), (*key).to_owned(), value.clone()));
    for (origin, path, value) in set.into_iter().chain(flags) {
        if keys::find(&path).is_none() {
            errors.push(format!("{path} ({origin}): there is no such key"));
        } else {
            lay_over(&mut tree, &path, Value::new(Some(&origin), value));
        }
    }
    (tree, errors)
}

fn read_file(path: &Path) -> Result<Tree, String> {
    let shown = path.display();
    let length = std::fs::metadata(path).map_err(|e| format!("file {shown}: cannot be read: {e}"))?.len();
    if length > MAX_FILE_BYTES {
        return Err(format!("file {shown}: {length} bytes is no settings file; expected at most {MAX_FILE_BYTES}"));
    }
    let text = std::fs::read_to_string(path).map_err(|e| format!("file {shown}: cannot be read: {e}"))?;
    File::from_str(&text, FileFormat::Toml).collect().map_err(|error| {
        let cause = match &error {
            ConfigError::FileParse { cause, .. } => cause.to_string(),
            other => other.to_string(),
        };
        format!("file {shown}: not TOML: {}", without_excerpt(&cause))
    })
}

/// The parser shows the line it failed at, and a password may stand on it.
fn without_excerpt(cause: &str) -> String {
    let is_excerpt = |line: &str| line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ').starts_with('|');
    cause.lines().filter(|line| !is_excerpt(line)).collect::<Vec<_>>().join(": ")
}

/// (origin, key path, file) of every credential that is there.
fn from_credentials(environment: &[(String, String)]) -> Vec<(String, &'static str, String)> {
    let Some((_, directory)) = environment.iter().find(|(name, _)| name == CREDENTIALS_DIRECTORY) else { return Vec::new() };
    let there = CREDENTIALS.iter().map(|(name, path)| (name, path, Path::new(directory).join(name))).filter(|(.., file)| file.exists());
    there.map(|(name, path, file)| (format!("credential {name}"), *path, file.to_string_lossy().into_owned())).collect()
}

/// (origin, key path, text) of every variable that is a setting.
///
/// Only names with `__` are, beside the aliases: Kubernetes itself sets `REMEDYD_SERVICE_HOST`,
/// `REMEDYD_PORT` and the like for a service of our name.
fn from_environment(environment: impl IntoIterator<Item = (String, String)>, errors: &mut Vec<String>) -> Vec<(String, String, String)> {
    let mut variables: Vec<(String, String)> = environment.into_iter().collect();
    // the order of an environment is chance; that of the error lines is not
    variables.sort();
    let mut set: Vec<(String, String, String)> = Vec::new();
    for (name, value) in variables {
        let alias = ALIASES.iter().find(|(alias, _)| *alias == name).map(|(_, path)| (*path).to_owned());
        let nested = || name.strip_prefix(PREFIX).filter(|rest| rest.contains("__")).map(|rest| rest.to_lowercase().replacen("__", ".", 1));
        let Some(path) = alias.or_else(nested) else { continue };
        let origin = format!("environment {name}");
        if value == NOT_UTF8 {
            errors.push(format!("{path} ({origin}): expected UTF-8"));
        } else if path == "users" || path.starts_with("users.") {
            errors.push(format!("{path} ({origin}): users can be listed only in the file"));
        } else if let Some((other, _, _)) = set.iter().find(|(_, known, _)| *known == path) {
            errors.push(format!("{path} ({origin}): already set by {other}; expected one of the two"));
        } else {
            set.push((origin, path, value));
        }
    }
    set
}

/// Sets one key, whatever a lower layer had there.
fn lay_over(tree: &mut Tree, path: &str, value: Value) {
    let (section, name) = path.split_once('.').unwrap_or((path, ""));
    let slot = tree.entry(section.to_owned()).or_insert_with(|| Value::new(None, Tree::new()));
    // a section that is no table is reported by the reader; the value on top of it has nowhere to go
    if let ValueKind::Table(table) = &mut slot.kind {
        table.insert(name.to_owned(), value);
    }
}

/// Where the value of each key came from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sources(BTreeMap<String, String>);

impl Sources {
    pub(super) fn of(tree: &Tree, file: Option<&Path>) -> Self {
        let in_file = || file.map_or_else(|| "file".to_owned(), |path| format!("file {}", path.display()));
        let origin = |value: &Value| value.origin().map_or_else(in_file, str::to_owned);
        let mut found = BTreeMap::new();
        for (section, value) in tree {
            match &value.kind {
                ValueKind::Table(table) => {
                    found.extend(table.iter().map(|(name, value)| (format!("{section}.{name}"), origin(value))));
                }
                _ => drop(found.insert(section.clone(), origin(value))),
            }
        }
        Self(found)
    }

    /// `file …`, `credential …`, `environment …`, `flag …`, or `default`.
    pub fn of_key(&self, path: &str) -> &str {
        self.0.get(path).map_or("default", String::as_str)
    }
}
