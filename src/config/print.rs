//! The settings in force, as a TOML file that explains itself.
//!
//! What it prints can be read back, but for a secret: that is shown redacted, and refused when read.

use std::fmt::Write as _;

use super::keys::{self, Key, Kind};
use super::{Accounts, PartitionChoice, PemFile, Settings, Sources, User, Users};

const HEAD: &str = "\
# Settings of remedyd. Each key stands with its default; leave out what you do not change.
# Stronger than this file: the environment, REMEDYD_<SECTION>__<KEY> (REMEDYD_AMQP__PREFIX), also REMEDYD_AMQP_URL
# and REMEDYD_STORE; stronger still: flags. `remedyd config check` names everything that is wrong at once, and
# `remedyd config print --sources` says where each value comes from.
# Under systemd the credentials amqp-url, tls-ca, tls-cert, tls-key and ops-token (LoadCredential=) are the files of
# amqp.url_file, amqp.tls_*_file and ops.token_file: stronger than this file, weaker than the environment.
# SIGHUP reads it all again: log.filter and [[users]] change at once, the rest at the next start. A file with a mistake
# changes nothing.
";

const USERS: &str = "
# Whom a message may come from: the AMQP user_id, as the broker has checked it. Anything else is dead-lettered
# as tenant_mismatch. One entry \"*\" for all is the default, and the only case in which a message without
# user_id is taken. Otherwise list every publisher; several entries for one user add up. Only in this file.
#   name      the AMQP user
#   accounts  account ids it may speak for, or \"*\"
#   types     event types it may send: words with dots between, * is one word, # any number
#   portal    whether the role of the person named in its messages is believed (default false)
";

pub(super) fn toml(settings: &Settings) -> String {
    let mut out = HEAD.to_owned();
    let mut section = "";
    for key in keys::ALL {
        if key.section() != section {
            section = key.section();
            line(&mut out, format_args!("\n[{section}]"));
        }
        for about in key.about {
            line(&mut out, format_args!("# {about}"));
        }
        line(&mut out, format_args!("# {}", bounds(key)));
        match value(settings, key) {
            Some(value) => line(&mut out, format_args!("{} = {value}", key.name())),
            None => line(&mut out, format_args!("# {} is read from url_file", key.name())),
        }
    }
    out.push_str(USERS);
    let anyone = [User { name: "*".to_owned(), accounts: Accounts::All, types: vec!["#".to_owned()], portal: true }];
    let users = match &settings.users {
        Users::Anyone => &anyone[..],
        Users::Listed(users) => users,
    };
    for user in users {
        let types: Vec<String> = user.types.iter().map(|pattern| quoted(pattern)).collect();
        line(&mut out, format_args!("[[users]]\nname = {}", quoted(&user.name)));
        line(&mut out, format_args!("accounts = {}", accounts(&user.accounts)));
        line(&mut out, format_args!("types = [{}]\nportal = {}", types.join(", "), user.portal));
    }
    if users.is_empty() {
        line(&mut out, format_args!("users = []"));
    }
    out
}

/// A line for each key: its value, and where that came from.
pub(super) fn sourced(settings: &Settings, sources: &Sources) -> String {
    let url_is_stronger = settings.amqp.url_file.is_none();
    let mut lines: Vec<(String, String)> = keys::ALL
        .iter()
        .map(|key| {
            let source = sources.of_key(key.path);
            match value(settings, key) {
                None => (format!("# {} is read from amqp.url_file", key.path), String::new()),
                Some(value) if key.path == "amqp.url_file" && url_is_stronger && source != "default" => {
                    (format!("{} = {value}", key.path), format!("{source}, not used: amqp.url is stronger"))
                }
                Some(value) => (format!("{} = {value}", key.path), source.to_owned()),
            }
        })
        .collect();
    let users = match &settings.users {
        Users::Anyone => "anyone".to_owned(),
        Users::Listed(users) => users.iter().map(|user| user.name.as_str()).collect::<Vec<_>>().join(" "),
    };
    lines.push((format!("users = {}", quoted(&users)), sources.of_key("users").to_owned()));
    let width = lines.iter().filter(|(_, source)| !source.is_empty()).map(|(setting, _)| setting.chars().count()).max().unwrap_or(0);
    let mut out = String::new();
    for (setting, source) in lines {
        match source.as_str() {
            "" => line(&mut out, format_args!("{setting}")),
            source => line(&mut out, format_args!("{setting:width$}  # {source}")),
        }
    }
    out
}

/// Writing to a `String` cannot fail.
fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    let _ = writeln!(out, "{text}");
}

fn bounds(key: &Key) -> String {
    match key.kind {
        Kind::Number { default, min, max, unit: "" } => format!("{min} to {max}; default {default}"),
        Kind::Number { default, min, max, unit } => format!("{min} to {max} {unit}; default {default}"),
        Kind::Flag { default } => format!("true or false; default {default}"),
        Kind::Word { default, of } => {
            format!("{}; default {}", of.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" or "), quoted(default))
        }
        Kind::Text { default, expected } | Kind::Secret { default, expected } => format!("{expected}; default {}", quoted(default)),
    }
}

/// The value of a key as TOML; `None` where another key speaks for it.
pub(super) fn value(settings: &Settings, key: &Key) -> Option<String> {
    let Settings { amqp, store, agents, clock, limits, log, ops, users: _ } = settings;
    let value = match key.path {
        "amqp.url" if amqp.url_file.is_some() => return None,
        "amqp.url" => quoted(&amqp.url.to_string()),
        "amqp.url_file" => quoted(&amqp.url_file.as_deref().unwrap_or(std::path::Path::new("")).to_string_lossy()),
        "amqp.tls_ca_file" => path(amqp.tls.ca.as_ref()),
        "amqp.tls_cert_file" => path(amqp.tls.certificate.as_ref()),
        "amqp.tls_key_file" => path(amqp.tls.key.as_ref()),
        "amqp.prefetch_reports" => amqp.prefetch_reports.to_string(),
        "amqp.prefetch_surveys" => amqp.prefetch_surveys.to_string(),
        "amqp.publish_window" => amqp.publish_window.to_string(),
        "amqp.prefix" => quoted(&amqp.prefix),
        "amqp.partition" => partition(&amqp.partition),
        "amqp.partitions" => amqp.partitions.to_string(),
        "amqp.apply_topology" => amqp.apply_topology.to_string(),
        "store.dir" => quoted(&store.dir.to_string_lossy()),
        "store.cache_mib" => store.cache_mib.to_string(),
        "store.audit_days" => store.audit_days.to_string(),
        "agents.executor" => quoted(agents.executor.as_str()),
        "agents.model" => quoted(agents.model.as_str()),
        "agents.seed" => agents.seed.to_string(),
        "agents.survey_interval_minutes" => agents.survey_interval_minutes.to_string(),
        "clock.source" => quoted(clock.as_str()),
        "limits.outbox_rows" => limits.outbox_rows.to_string(),
        "limits.batch_events" => limits.batch_events.to_string(),
        "limits.drain_seconds" => limits.drain_seconds.to_string(),
        "log.format" => quoted(log.format.as_str()),
        "log.filter" => quoted(&log.filter),
        "ops.listen" => quoted(&ops.listen.map_or_else(String::new, |address| address.to_string())),
        "ops.token_file" => quoted(&ops.token_file.as_deref().unwrap_or(std::path::Path::new("")).to_string_lossy()),
        _ => return None,
    };
    Some(value)
}

/// One partition is a number, as whoever starts a process for each writes it.
fn partition(choice: &PartitionChoice) -> String {
    let text = choice.to_string();
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text } else { quoted(&text) }
}

fn path(file: Option<&PemFile>) -> String {
    quoted(&file.map_or("".into(), |file| file.path.to_string_lossy()))
}

fn accounts(accounts: &Accounts) -> String {
    match accounts {
        Accounts::All => quoted("*"),
        Accounts::These(ids) => format!("[{}]", ids.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")),
    }
}

/// A TOML basic string. Debug's `\u{7f}` is not TOML; its other escapes of control characters are not either.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
