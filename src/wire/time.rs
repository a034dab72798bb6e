//! RFC 3339 and nothing more lenient, to milliseconds. Never reads a clock.

use crate::model::time::{Timestamp, millis};

/// What the errors say of a text that [`parse`] refuses.
pub const EXPECTED: &str = "an RFC 3339 time from 1970 on";

/// The shape that [`parse`] takes, for the schemas. That a date exists is beyond it.
pub const PATTERN: &str = "^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})$";

/// `2026-11-23T09:00:00Z`, with a fraction of up to 9 digits and any offset; cut to milliseconds.
///
/// Times before 1970 are refused: none is meant, and stored keys and the AMQP timestamp are unsigned.
pub fn parse(text: &str) -> Option<Timestamp> {
    // jiff reads more than RFC 3339 (bracketed zones, missing seconds, basic format): the shape comes first
    if !has_shape(text.as_bytes()) {
        return None;
    }
    let at = millis(text.parse::<Timestamp>().ok()?);
    (at >= Timestamp::UNIX_EPOCH).then_some(at)
}

fn has_shape(text: &[u8]) -> bool {
    let Some((seconds, rest)) = text.split_at_checked(19) else {
        return false;
    };
    let fits = |text: &[u8], shape: &[u8]| {
        text.len() == shape.len()
            && text.iter().zip(shape).all(|(byte, wanted)| match wanted {
                b'0' => byte.is_ascii_digit(),
                b'T' => matches!(byte, b'T' | b't'),
                b'+' => matches!(byte, b'+' | b'-'),
                exact => byte == exact,
            })
    };
    if !fits(seconds, b"0000-00-00T00:00:00") {
        return false;
    }
    let offset = match rest.strip_prefix(b".") {
        Some(fraction) => {
            let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
            if !(1..=9).contains(&digits) {
                return false;
            }
            &fraction[digits..]
        }
        None => rest,
    };
    matches!(offset, b"Z" | b"z") || fits(offset, b"+00:00")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_3339_in_any_offset_to_milliseconds() {
        for (text, utc) in [
            ("2026-11-23T09:00:00Z", "2026-11-23T09:00:00Z"),
            ("2026-11-23t09:00:00z", "2026-11-23T09:00:00Z"),
            ("2026-11-23T09:00:00.5+02:00", "2026-11-23T07:00:00.5Z"),
            ("2026-11-23T09:00:00.123456789-00:00", "2026-11-23T09:00:00.123Z"),
            ("2026-11-23T09:00:00.0009Z", "2026-11-23T09:00:00Z"),
            ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
            ("2016-12-31T23:59:60Z", "2016-12-31T23:59:59Z"),
        ] {
            assert_eq!(parse(text).map(|at| at.to_string()).as_deref(), Some(utc), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "now",
            "1700000000",
            "2026-11-23",
            "2026-11-23T09:00Z",
            "2026-11-23T09:00:00",
            "2026-11-23 09:00:00Z",
            "2026-11-23T09:00:00.Z",
            "2026-11-23T09:00:00.1234567890Z",
            "2026-11-23T09:00:00+0200",
            "2026-11-23T09:00:00+02",
            "2026-11-23T09:00:00Z[UTC]",
            "20261123T090000Z",
            "2026-13-23T09:00:00Z",
            "2026-02-29T09:00:00Z",
            "2026-11-23T25:00:00Z",
            "1969-12-31T23:59:59Z",
            "0000-01-01T00:00:00+23:00",
            "9999-12-31T23:59:59-23:00",
            "２026-11-23T09:00:00Z",
        ] {
            assert_eq!(parse(text), None, "{text:?} was taken");
        }
    }
}
