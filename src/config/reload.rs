//! What may change while the service runs, and what two settings differ in.
//!
//! Never here: the doing. The list is short on purpose: what is in it can be changed in one place, at once, without a
//! moment in which half of it holds. Everything else decides what is opened, connected or sized at the start.

use super::{Settings, keys, print};

/// What a running service takes from a file that is read again. `users` is the list of `[[users]]`.
pub const RELOADABLE: [&str; 2] = ["log.filter", "users"];

/// What is different between two settings, by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Among [`RELOADABLE`].
    pub at_once: Vec<&'static str>,
    pub with_a_restart: Vec<&'static str>,
}

impl Changes {
    pub fn between(old: &Settings, new: &Settings) -> Self {
        let mut changes = Self::default();
        let keys = keys::ALL.iter().filter(|key| print::value(old, key) != print::value(new, key) || secrets_differ(old, new, key.path));
        for path in keys.map(|key| key.path).chain((old.users != new.users).then_some("users")) {
            let list = if RELOADABLE.contains(&path) { &mut changes.at_once } else { &mut changes.with_a_restart };
            list.push(path);
        }
        changes
    }
}

/// What is behind a key whose printed form does not say it: a password, or the content of a file.
fn secrets_differ(old: &Settings, new: &Settings, path: &str) -> bool {
    let (a, b) = (&old.amqp, &new.amqp);
    match path {
        "amqp.url" => a.url_file.is_none() && b.url_file.is_none() && a.url != b.url,
        "amqp.url_file" => a.url_file.is_some() && b.url_file.is_some() && a.url != b.url,
        "amqp.tls_ca_file" => a.tls.ca != b.tls.ca,
        "amqp.tls_cert_file" => a.tls.certificate != b.tls.certificate,
        "amqp.tls_key_file" => a.tls.key != b.tls.key,
        "ops.token_file" => old.ops.token != new.ops.token,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AmqpUrl, Users};

    #[test]
    fn what_differs_is_named_once_and_in_its_list() {
        let old = Settings::default();
        assert_eq!(Changes::between(&old, &old), Changes::default());
        let mut new = old.clone();
        new.log.filter = "debug".to_owned();
        new.users = Users::Listed(Vec::new());
        new.amqp.prefetch_reports = 7;
        new.amqp.url = AmqpUrl::parse("amqp://a:b@127.0.0.1:5672/%2f").unwrap();
        let changes = Changes::between(&old, &new);
        assert_eq!(changes.at_once, ["log.filter", "users"]);
        assert_eq!(changes.with_a_restart, ["amqp.url", "amqp.prefetch_reports"]);
        // a new password is a change, though both are shown as the same
        let mut other = new.clone();
        other.amqp.url = AmqpUrl::parse("amqp://a:c@127.0.0.1:5672/%2f").unwrap();
        assert_eq!(Changes::between(&new, &other).with_a_restart, ["amqp.url"]);
    }

    #[test]
    fn what_can_be_reloaded_is_a_setting() {
        for path in RELOADABLE {
            assert!(path == "users" || keys::find(path).is_some(), "{path}");
        }
    }
}
