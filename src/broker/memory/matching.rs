//! Where exchanges lead: topic patterns, and the hash of a tenant.
//!
//! Never here: state.

use crate::broker::topology::TENANT_HEADER;
use crate::broker::{HeaderValue, Message};

/// AMQP topic matching: words between dots, `*` one word, `#` none or more.
pub fn topic_matches(binding_key: &str, routing_key: &str) -> bool {
    fn words(key: &str) -> Vec<&str> {
        if key.is_empty() { Vec::new() } else { key.split('.').collect() }
    }
    let (pattern, key) = (words(binding_key), words(routing_key));
    // `reached[n]`: the pattern so far matches the first n words. One row per word of the pattern, so that
    // many `#` cost no more than few.
    let mut reached = vec![false; key.len() + 1];
    reached[0] = true;
    for word in pattern {
        if word == "#" {
            for n in 1..=key.len() {
                reached[n] |= reached[n - 1];
            }
        } else {
            for n in (1..=key.len()).rev() {
                reached[n] = reached[n - 1] && (word == "*" || word == key[n - 1]);
            }
            reached[0] = false;
        }
    }
    reached[key.len()]
}

/// FNV-1a over the tenant. Which partition a tenant has differs from RabbitMQ's; that it has one does not.
pub fn tenant_hash(message: &Message) -> u64 {
    let tenant = message.headers.iter().find(|(name, _)| name == TENANT_HEADER);
    let bytes: &[u8] = match tenant {
        Some((_, HeaderValue::Text(text) | HeaderValue::Other(text))) => text.as_bytes(),
        Some((_, HeaderValue::Integer(number))) => &number.to_be_bytes(),
        Some((_, HeaderValue::Bool(flag))) => &[u8::from(*flag)],
        None => &[],
    };
    let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, fold)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topics_match_by_words() {
        for (binding_key, routing_key, expected) in [
            ("agent.surveyed.#", "agent.surveyed.5.4", true),
            ("agent.surveyed.#", "agent.surveyed", true),
            ("agent.surveyed.#", "agent.surveyedx.5.4", false),
            ("*.*.5.4", "incident_report.triaged.5.4", true),
            ("*.*.5.4", "incident_report.triaged.5.40", false),
            ("*.*.5.4", "triaged.5.4", false),
            ("#", "", true),
            ("#", "a.b", true),
            ("", "", true),
            ("", "a", false),
            ("*", "", false),
            ("#.b.#", "a.b.c", true),
            ("#.#.#", "a", true),
            ("a.#.b", "a.b", true),
            ("a.#.b", "a.c", false),
        ] {
            let found = topic_matches(binding_key, routing_key);
            assert_eq!(found, expected, "{binding_key:?} over {routing_key:?}");
        }
    }
}
