//! Strict JSON: one value, valid UTF-8, no duplicate key, no number that would be altered, all of it bounded.
//!
//! Never here: what the value means. Depth and integers are checked by a flat scan of the text first, so
//! that the recursive parser never sees more than [`limits::DEPTH`] levels.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{Fault, limits};

/// Parses `bytes`. `root` is the path of the whole value in error details: empty for an event, `data` for
/// the body of binary mode.
pub fn parse(bytes: &[u8], root: &str) -> Result<Value, Fault> {
    if bytes.len() > limits::MESSAGE_BYTES {
        return Err(Fault::too_large(format!("message: more than {} bytes", limits::MESSAGE_BYTES)));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| Fault::malformed(format!("invalid UTF-8 at byte {}", error.valid_up_to())))?;
    scan(text.as_bytes())?;

    let mut trace = Trace::default();
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let parsed = Node { limit: limits::TEXT_BYTES, trace: &mut trace }.deserialize(&mut deserializer);
    let value = parsed.map_err(|error| trace.fault(root, &error))?;
    deserializer.end().map_err(|error| Fault::malformed(error.to_string()))?;
    Ok(value)
}

/// Depth and integer range, without recursion. Whether it is JSON at all is left to the parser.
fn scan(text: &[u8]) -> Result<(), Fault> {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => at = end_of_string(text, at),
            b'{' | b'[' => {
                depth += 1;
                if depth > limits::DEPTH {
                    return Err(Fault::malformed(format!("more than {} nesting levels at byte {at}", limits::DEPTH)));
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'-' | b'0'..=b'9' => {
                let end = end_of_number(text, at);
                if !integer_fits(&text[at..end]) {
                    return Err(Fault::malformed(format!("number out of range at byte {at}")));
                }
                at = end - 1;
            }
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

/// The closing quote's place, or the end of the text.
fn end_of_string(text: &[u8], open: usize) -> usize {
    let mut at = open + 1;
    while let Some(byte) = text.get(at) {
        match byte {
            b'"' => return at,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    text.len()
}

/// The first place after the number that begins at `start`; always beyond `start`.
fn end_of_number(text: &[u8], start: usize) -> usize {
    let more = text[start + 1..].iter().take_while(|byte| matches!(byte, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')).count();
    start + 1 + more
}

/// serde_json would turn an integer beyond 64 bits into a float, that is into another number.
fn integer_fits(token: &[u8]) -> bool {
    let digits = token.strip_prefix(b"-").unwrap_or(token);
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return true; // a float, or no number: the parser's business
    }
    let Ok(token) = std::str::from_utf8(token) else {
        return true;
    };
    if token.starts_with('-') { token.parse::<i64>().is_ok() } else { token.parse::<u64>().is_ok() }
}

/// Where parsing failed: filled only on the way out of an error, innermost segment first.
#[derive(Default)]
struct Trace {
    segments: Vec<Segment>,
    over: Option<usize>,
}

enum Segment {
    Key(String),
    Index(usize),
}

impl Trace {
    fn fault(&self, root: &str, error: &serde_json::Error) -> Fault {
        let mut path = String::from(root);
        for segment in self.segments.iter().rev() {
            match segment {
                Segment::Key(key) => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(printable(key));
                }
                Segment::Index(index) => path.push_str(&format!("[{index}]")),
            }
        }
        if path.is_empty() {
            path.push_str("message");
        }
        match self.over {
            Some(limit) => Fault::over(&path, limit, "bytes"),
            None => Fault::malformed(format!("{path}: {error}")),
        }
    }
}

/// A key as a detail may show it. Ours are words; anything else may be a customer's text in the wrong place.
fn printable(key: &str) -> &str {
    let is_word = !key.is_empty() && key.len() <= 64 && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
    if is_word { key } else { "?" }
}

/// One value. `limit` is for the value itself if it is a string.
struct Node<'t> {
    limit: usize,
    trace: &'t mut Trace,
}

impl Node<'_> {
    fn string<E: serde::de::Error>(self, length: usize) -> Result<(), E> {
        if length > self.limit {
            self.trace.over = Some(self.limit);
            return Err(E::custom("too large"));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.string(value.len())?;
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: serde::de::Error>(self, value: String) -> Result<Value, E> {
        self.string(value.len())?;
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        loop {
            let element = Node { limit: limits::TEXT_BYTES, trace: &mut *self.trace };
            match seq.next_element_seed(element) {
                Ok(Some(value)) => values.push(value),
                Ok(None) => return Ok(Value::Array(values)),
                Err(error) => {
                    self.trace.segments.push(Segment::Index(values.len()));
                    return Err(error);
                }
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            if key.len() > limits::TEXT_BYTES {
                self.trace.over = Some(limits::TEXT_BYTES);
                self.trace.segments.push(Segment::Key(key));
                return Err(A::Error::custom("too large"));
            }
            if values.contains_key(&key) {
                self.trace.segments.push(Segment::Key(key));
                return Err(A::Error::custom("duplicate key"));
            }
            let limit = if key == "body" { limits::BODY_BYTES } else { limits::TEXT_BYTES };
            match map.next_value_seed(Node { limit, trace: &mut *self.trace }) {
                Ok(value) => values.insert(key, value),
                Err(error) => {
                    self.trace.segments.push(Segment::Key(key));
                    return Err(error);
                }
            };
        }
        Ok(Value::Object(values))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Reason;

    fn check(text: impl AsRef<[u8]>, reason: Reason, detail: &str) {
        let text = text.as_ref();
        let shown = String::from_utf8_lossy(&text[..text.len().min(80)]).into_owned();
        let fault = parse(text, "").expect_err(&shown);
        assert_eq!(fault.reason, reason, "{shown}: {}", fault.detail);
        assert!(fault.detail.starts_with(detail), "{shown}: {} is not {detail}", fault.detail);
    }

    #[test]
    fn json_is_taken_unaltered() {
        for text in [r#"{"a":[1,-1,18446744073709551615,-9223372036854775808,1.5,true,null,"é\n"]}"#, "[]", "\"x\"", "0"] {
            let value = parse(text.as_bytes(), "").unwrap();
            assert_eq!(value, serde_json::from_str::<Value>(text).unwrap());
        }
    }

    #[test]
    fn what_is_not_strict_json_is_malformed() {
        for (text, detail) in [
            (&b""[..], "message: EOF"),
            (b"\xff", "invalid UTF-8 at byte 0"),
            (b"\"a\xc3\"", "invalid UTF-8 at byte 2"),
            (b"\xef\xbb\xbf{}", "message: expected value"),
            (b"{} {}", "trailing characters"),
            (b"{}\0", "trailing characters"),
            (b"{\"a\":1,}", "message: trailing comma"),
            (b"{'a':1}", "message: key must be a string"),
            (b"{\"a\":01}", "a: "),
            (b"{\"a\":1.}", "a: "),
            (b"{\"a\":-}", "a: "),
            (b"{\"a\":NaN}", "a: expected"),
            (b"{\"a\":\"\\ud800\"}", "a: "),
            (b"{\"a\":\"\n\"}", "a: control character"),
            (b"{\"a\":\"b", "a: EOF"),
            (b"\"\\", "message: EOF"),
            (b"{\"a\":1,\"a\":1}", "a: duplicate key"),
            (b"{\"a\":1,\"\\u0061\":2}", "a: duplicate key"),
            (b"{\"x\":[{},{\"secret words\":1,\"secret words\":1}]}", "x[1].?: duplicate key"),
            (b"{\"a\":1e999}", "a: number out of range"),
            (b"{\"a\":18446744073709551616}", "number out of range at byte 5"),
            (b"[-9223372036854775809]", "number out of range at byte 1"),
        ] {
            check(text, Reason::Malformed, detail);
        }
    }

    #[test]
    fn depth_is_bounded_without_recursion() {
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(parse(nested(limits::DEPTH).as_bytes(), "").is_ok());
        check(nested(limits::DEPTH + 1), Reason::Malformed, "more than 32 nesting levels at byte 32");
        check("[".repeat(200_000), Reason::Malformed, "more than 32 nesting levels");
        check("{\"a\":".repeat(40_000), Reason::Malformed, "more than 32 nesting levels");
        // brackets in strings are no levels
        assert!(parse(format!("\"{}\\\"[\"", "[".repeat(100)).as_bytes(), "").is_ok());
    }

    #[test]
    fn strings_are_bounded_where_they_stand() {
        let text = |key: &str, length: usize| format!("{{\"d\":[{{\"{key}\":\"{}\"}}]}}", "x".repeat(length));
        assert!(parse(text("a", limits::TEXT_BYTES).as_bytes(), "").is_ok());
        check(text("a", limits::TEXT_BYTES + 1), Reason::TooLarge, "d[0].a: more than 4096 bytes");
        assert!(parse(text("body", limits::BODY_BYTES).as_bytes(), "").is_ok());
        check(text("body", limits::BODY_BYTES + 1), Reason::TooLarge, "d[0].body: more than 65536 bytes");
        let key = |length: usize| format!("{{\"{}\":1}}", "x".repeat(length));
        assert!(parse(key(limits::TEXT_BYTES).as_bytes(), "").is_ok());
        check(key(limits::TEXT_BYTES + 1), Reason::TooLarge, "?: more than 4096 bytes");
        // the measure is what is kept, not how it is escaped
        let escaped = format!("\"{}\"", "\\u0041".repeat(limits::TEXT_BYTES));
        assert!(parse(escaped.as_bytes(), "").is_ok());
    }

    #[test]
    fn the_message_is_bounded_before_it_is_read() {
        let padded = |length: usize| format!("{{}}{}", " ".repeat(length - 2));
        assert!(parse(padded(limits::MESSAGE_BYTES).as_bytes(), "").is_ok());
        check(padded(limits::MESSAGE_BYTES + 1), Reason::TooLarge, "message: more than 262144 bytes");
        check(vec![0xff; limits::MESSAGE_BYTES + 1], Reason::TooLarge, "message: more than");
    }
}
