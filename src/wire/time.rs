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

/// A time as AMQP has it: whole seconds since 1970 (AMQP 0-9-1) or milliseconds (AMQP 1.0, whose form CloudEvents
/// libraries use for both). One number is never a likely time in both.
pub fn parse_amqp(text: &str) -> Option<Timestamp> {
    /// As seconds the year 5138, as milliseconds March 1973.
    const MILLISECONDS_FROM: i64 = 100_000_000_000;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: i64 = text.parse().ok()?;
    if number < MILLISECONDS_FROM { Timestamp::from_second(number).ok() } else { Timestamp::from_millisecond(number).ok() }
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
    fn amqp_has_two_units() {
        for (text, utc) in [
            ("0", "1970-01-01T00:00:00Z"),
            ("1795424700", "2026-11-23T09:05:00Z"),
            ("1795424700250", "2026-11-23T09:05:00.25Z"),
            ("99999999999", "5138-11-16T09:46:39Z"),
            ("100000000000", "1973-03-03T09:46:40Z"),
        ] {
            assert_eq!(parse_amqp(text).map(|at| at.to_string()).as_deref(), Some(utc), "{text}");
        }
        for text in ["", "-1", "1.5", "1e9", "9223372036854775807", "99999999999999999999", "Timestamp(1)"] {
            assert_eq!(parse_amqp(text), None, "{text:?} was taken");
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
