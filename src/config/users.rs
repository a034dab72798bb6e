//! Whom a tenant's message may come from: the broker-validated publisher against accounts and event types.
//!
//! A message names its own tenant, and whoever may publish could name any; so what counts is the AMQP
//! `user_id`, which the broker checks against the login. Never here: what the person named in the message may
//! do (a rule, decided further up), only whether that name is to be believed.

use std::sync::{PoisonError, RwLock};

/// Who may publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Users {
    /// One user for everything: any publisher, or none named. For an MSP with a broker of its own.
    Anyone,
    /// Only these. A user may have several entries; they add up.
    Listed(Vec<User>),
}

/// [`Users`] that can be replaced while messages are judged by them.
#[derive(Debug)]
pub struct Publishers(RwLock<Users>);

impl Publishers {
    pub fn new(users: Users) -> Self {
        Self(RwLock::new(users))
    }

    /// From the next message on, these.
    pub fn replace(&self, users: Users) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = users;
    }

    /// As [`Users::authority`].
    pub fn authority(&self, user_id: Option<&str>, account: u64, event_type: &str) -> Authority {
        self.0.read().unwrap_or_else(PoisonError::into_inner).authority(user_id, account, event_type)
    }
}

/// One `[[users]]` entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The AMQP `user_id`.
    pub name: String,
    pub accounts: Accounts,
    /// Topic patterns over the event type: words with dots between, `*` any one word, `#` any number.
    pub types: Vec<String>,
    /// Whether `actor.role` in its messages may be believed.
    pub portal: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accounts {
    All,
    These(Vec<u64>),
}

impl Accounts {
    fn contains(&self, account: u64) -> bool {
        match self {
            Accounts::All => true,
            Accounts::These(accounts) => accounts.contains(&account),
        }
    }
}

/// The answer to: may this message come from there?
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authority {
    Allowed {
        role_believed: bool,
    },
    /// Dead letter `tenant_mismatch` with this detail.
    Refused {
        detail: String,
    },
}

impl Users {
    /// Whether `user_id` may send `event_type` for `account`.
    pub fn authority(&self, user_id: Option<&str>, account: u64, event_type: &str) -> Authority {
        let users = match self {
            Users::Anyone => return Authority::Allowed { role_believed: true },
            Users::Listed(users) => users,
        };
        let Some(name) = user_id else {
            return refused("the message has no user_id, and users are listed".to_owned());
        };
        let shown = excerpt(name);
        let mut entries = users.iter().filter(|user| user.name == name).peekable();
        if entries.peek().is_none() {
            return refused(format!("user {shown} is not listed"));
        }
        let mut entries = entries.filter(|user| user.accounts.contains(account)).peekable();
        if entries.peek().is_none() {
            return refused(format!("user {shown} may not speak for account {account}"));
        }
        let portals: Vec<bool> =
            entries.filter(|user| user.types.iter().any(|pattern| matches(pattern, event_type))).map(|user| user.portal).collect();
        if portals.is_empty() {
            return refused(format!("user {shown} may not send {} for account {account}", excerpt(event_type)));
        }
        Authority::Allowed { role_believed: portals.contains(&true) }
    }
}

fn refused(detail: String) -> Authority {
    Authority::Refused { detail }
}

/// The detail becomes a header: what a sender wrote is bounded and quoted in it.
fn excerpt(text: &str) -> String {
    format!("{:?}", text.chars().take(64).collect::<String>())
}

/// AMQP topic matching. Costs at most pattern words × type words steps, whatever the sender wrote.
fn matches(pattern: &str, event_type: &str) -> bool {
    let words: Vec<&str> = event_type.split('.').collect();
    // reached[i]: the pattern so far matches the first i words
    let mut reached = vec![false; words.len() + 1];
    reached[0] = true;
    for part in pattern.split('.') {
        if part == "#" {
            let first = reached.iter().position(|at| *at).unwrap_or(reached.len());
            reached[first..].fill(true);
        } else {
            for i in (0..words.len()).rev() {
                reached[i + 1] = reached[i] && (part == "*" || part == words[i]);
            }
            reached[0] = false;
        }
    }
    reached[words.len()]
}

/// Whether `pattern` is one we can match: words of `a-z`, `0-9`, `_`, or `*`, or `#`.
pub(super) fn is_pattern(pattern: &str) -> bool {
    let word = |part: &str| {
        !part.is_empty() && (part == "*" || part == "#" || part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'))
    };
    pattern.len() <= 255 && pattern.split('.').all(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_like_a_topic_exchange() {
        for (pattern, event_type, expected) in [
            ("#", "incident_report.created", true),
            ("#", "", true),
            ("*", "incident_report", true),
            ("*", "incident_report.created", false),
            ("incident_report.*", "incident_report.created", true),
            ("incident_report.*", "incident_report", false),
            ("incident_report.*", "incident_report.a.b", false),
            ("incident_report.#", "incident_report", true),
            ("incident_report.#", "incident_report.a.b", true),
            ("incident_report.#", "incident_reports.a", false),
            ("#.created", "incident_report.created", true),
            ("#.created", "created", true),
            ("#.created", "created.x", false),
            ("#.*.#", "a", true),
            ("a.#.b.#.c", "a.b.b.c", true),
            ("a.#.b.#.c", "a.c.b", false),
        ] {
            assert_eq!(matches(pattern, event_type), expected, "{pattern} on {event_type}");
        }
    }

    #[test]
    fn authority_is_by_user_account_and_type() {
        let user = |name: &str, accounts: Accounts, types: &[&str], portal| User {
            name: name.to_owned(),
            accounts,
            types: types.iter().map(|t| (*t).to_owned()).collect(),
            portal,
        };
        let users = Users::Listed(vec![
            user("soc", Accounts::All, &["incident_report.*", "agent.surveyed"], false),
            user("portal", Accounts::These(vec![5, 6]), &["remediations.*", "incident_report.resolution_requested"], true),
            user("portal", Accounts::These(vec![6]), &["incident_report.#"], false),
        ]);
        let allowed = |role_believed| Authority::Allowed { role_believed };
        for (user_id, account, event_type, expected) in [
            (Some("soc"), 5, "incident_report.created", allowed(false)),
            (Some("soc"), 99, "agent.surveyed", allowed(false)),
            (Some("soc"), 5, "remediations.approved", refused("user \"soc\" may not send \"remediations.approved\" for account 5".into())),
            (Some("portal"), 5, "remediations.approved", allowed(true)),
            (
                Some("portal"),
                5,
                "incident_report.closed",
                refused("user \"portal\" may not send \"incident_report.closed\" for account 5".into()),
            ),
            (Some("portal"), 6, "incident_report.closed", allowed(false)),
            (Some("portal"), 6, "incident_report.resolution_requested", allowed(true)),
            (Some("portal"), 7, "remediations.approved", refused("user \"portal\" may not speak for account 7".into())),
            (Some("eve"), 5, "remediations.approved", refused("user \"eve\" is not listed".into())),
            (Some("*"), 5, "remediations.approved", refused("user \"*\" is not listed".into())),
            (None, 5, "remediations.approved", refused("the message has no user_id, and users are listed".into())),
        ] {
            assert_eq!(users.authority(user_id, account, event_type), expected, "{user_id:?} {account} {event_type}");
        }
        assert_eq!(Users::Anyone.authority(None, 5, "x"), allowed(true));
        assert_eq!(Users::Anyone.authority(Some("anyone"), 5, "x"), allowed(true));
    }

    #[test]
    fn a_detail_is_bounded_whatever_the_sender_wrote() {
        let users = Users::Listed(vec![]);
        let Authority::Refused { detail } = users.authority(Some(&"\n".repeat(100_000)), 1, "x") else { panic!("allowed") };
        assert!(detail.len() < 200 && !detail.contains('\n'), "{detail}");
    }
}
