//! The broker's URL: a secret, since it holds a password.
//!
//! The text itself leaves only through [`AmqpUrl::expose`]; every printed form is redacted. A URL that would
//! send a password in the clear over a network is not taken at all.

use std::fmt;
use std::net::IpAddr;

use lapin::uri::{AMQPScheme, AMQPUri};

/// What stands in place of a secret.
pub const REDACTED: &str = "<redacted>";

/// A URL that the broker's client can use.
#[derive(Clone, PartialEq, Eq)]
pub struct AmqpUrl(String);

impl AmqpUrl {
    /// `Err` says what is wrong in words that contain nothing of the text.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        if text.contains(REDACTED) {
            return Err("it is a printed form without its password");
        }
        // the client's own parser: what passes here is what it will understand
        let uri: AMQPUri = text.parse().map_err(|_| "it is not an AMQP URL")?;
        if !is_loopback(&uri.authority.host) {
            if matches!(uri.scheme, AMQPScheme::AMQP) {
                return Err("it is not encrypted and does not lead to loopback");
            }
            if uri.authority.userinfo.username == "guest" {
                return Err("it names no user, or guest, and does not lead to loopback");
            }
        }
        Ok(Self(text.to_owned()))
    }

    /// Whether it leads to a broker by TLS.
    pub(super) fn is_encrypted(&self) -> bool {
        self.0.parse::<AMQPUri>().is_ok_and(|uri| uri.scheme == AMQPScheme::AMQPS)
    }

    /// The text with its password: for the connection, never for output.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl fmt::Display for AmqpUrl {
    /// Everything before the last `@` and everything after a `?` is hidden, by text and not by parts: where a
    /// parser and a person disagree about what the password is, both are hidden.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, rest) = self.0.split_once("://").unwrap_or(("amqp", REDACTED));
        let (user, rest) = match rest.rsplit_once('@') {
            Some((_, after)) => (format!("{REDACTED}@"), after),
            None => (String::new(), rest),
        };
        let (place, query) = match rest.split_once('?') {
            Some((place, _)) => (place, format!("?{REDACTED}")),
            None => (rest, String::new()),
        };
        write!(f, "{scheme}://{user}{place}{query}")
    }
}

impl fmt::Debug for AmqpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AmqpUrl({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_shown_without_its_secret() {
        for (text, shown) in [
            ("amqp://127.0.0.1:5672/%2f", "amqp://127.0.0.1:5672/%2f"),
            ("amqp://u:CANARY@127.0.0.1:5672/%2f", "amqp://<redacted>@127.0.0.1:5672/%2f"),
            ("amqps://u:CANARY@mq.example/v?heartbeat=10", "amqps://<redacted>@mq.example/v?<redacted>"),
            ("amqps://u:CAN%40ARY@mq.example:5671/v", "amqps://<redacted>@mq.example:5671/v"),
        ] {
            let url = AmqpUrl::parse(text).unwrap();
            assert_eq!(url.to_string(), shown);
            assert_eq!(format!("{url:?}"), format!("AmqpUrl({shown})"));
            assert_eq!(url.expose(), text);
        }
    }

    #[test]
    fn is_taken_only_where_a_password_is_safe() {
        for text in ["amqp://localhost", "amqp://[::1]:5672", "amqp://guest:guest@127.0.0.9/x", "amqps://u:p@mq.example"] {
            assert!(AmqpUrl::parse(text).is_ok(), "{text} was refused");
        }
        for text in [
            "",
            "127.0.0.1:5672",
            "http://127.0.0.1",
            "amqp://u:p@mq.example",
            "amqp://127.0.0.1.mq.example",
            "amqps://mq.example",
            "amqps://guest:p@mq.example",
            "amqp://<redacted>@127.0.0.1",
        ] {
            assert!(AmqpUrl::parse(text).is_err(), "{text} was taken");
        }
    }
}
