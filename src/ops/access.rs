//! Who may ask. With a token: who bears it. Without one, on loopback only: who comes by a name of this machine.
//!
//! Never here: a comparison that takes longer the more of a guess is right.

use axum::http::header::{AUTHORIZATION, HOST};
use axum::http::{HeaderMap, StatusCode};
use subtle::ConstantTimeEq as _;

use crate::config::Token;

/// What a request has to show.
#[derive(Debug, Clone)]
pub enum Access {
    Token(Token),
    /// Nothing, but it must have been meant for this machine: a web page that has its own name point to 127.0.0.1 would
    /// otherwise read customers' data through the browser of whoever looks at it.
    Loopback,
}

impl Access {
    /// The status to refuse with, and why.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), (StatusCode, &'static str)> {
        match self {
            Access::Token(token) => {
                let shown = headers.get(AUTHORIZATION).and_then(|value| bearer(value.as_bytes())).unwrap_or_default();
                // of different lengths it says no at once, which tells no more than the length
                if bool::from(shown.ct_eq(token.expose().as_bytes())) {
                    Ok(())
                } else {
                    Err((StatusCode::UNAUTHORIZED, "a token is needed: Authorization: Bearer …\n"))
                }
            }
            Access::Loopback => {
                let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
                if is_of_this_machine(host) { Ok(()) } else { Err((StatusCode::MISDIRECTED_REQUEST, "not a name of this machine\n")) }
            }
        }
    }
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

fn is_of_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine() {
        for (host, own) in [
            ("127.0.0.1:9464", true),
            ("127.0.0.1", true),
            ("localhost:1", true),
            ("LOCALHOST", true),
            ("[::1]:9464", true),
            ("[::1]", true),
            ("", false),
            ("evil.example:9464", false),
            ("localhost.evil.example", false),
            ("10.0.0.1:9464", false),
            ("127.0.0.1.evil.example", false),
        ] {
            assert_eq!(is_of_this_machine(host), own, "{host:?}");
        }
    }

    #[test]
    fn bearers() {
        for (value, token) in [("Bearer abc", Some("abc")), ("bearer abc", Some("abc")), ("Bearer", None), ("Basic abc", None), ("", None)]
        {
            assert_eq!(bearer(value.as_bytes()), token.map(str::as_bytes), "{value:?}");
        }
    }
}
