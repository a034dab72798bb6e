//! Letters as a file that a person can edit: a JSON array with one object a letter.
//!
//! Never here: a body that was not edited and comes back with other bytes.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::seen::Seen;
use crate::broker::{HeaderValue, Message};
use crate::cli::exit::Exit;
use crate::pipeline::rows::decode;

/// One letter. What comes after `routing_key` is sent as it stands; the rest only says which letter it is, and why.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LetterFile {
    letter: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    detail: String,
    #[serde(default)]
    failed_at: Option<String>,
    #[serde(default)]
    sent_by: Option<String>,
    routing_key: String,
    #[serde(default)]
    content_type: Option<String>,
    #[serde(default)]
    message_id: Option<String>,
    #[serde(default)]
    app_id: Option<String>,
    #[serde(default)]
    timestamp: Option<u64>,
    #[serde(default)]
    headers: Map<String, Value>,
    /// The body: JSON, or a text that is none, or bytes that are no text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body_text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    body_hex: Option<String>,
}

impl LetterFile {
    pub fn of(seen: &Seen) -> Self {
        let original = &seen.letter.original;
        let header = |value: &HeaderValue| match value {
            HeaderValue::Text(text) | HeaderValue::Other(text) => Value::from(text.as_str()),
            HeaderValue::Integer(number) => Value::from(*number),
            HeaderValue::Bool(flag) => Value::from(*flag),
        };
        let text = std::str::from_utf8(&original.body).ok();
        let json = text.and_then(|text| RawValue::from_string(text.to_owned()).ok());
        // blanks around it would be lost
        let json = json.filter(|json| json.get().len() == original.body.len());
        Self {
            letter: seen.name.clone(),
            reason: seen.letter.reason.clone(),
            detail: seen.letter.detail.clone(),
            failed_at: seen.letter.failed_at.map(|at| at.to_string()),
            sent_by: seen.letter.user_id.clone(),
            routing_key: original.routing_key.clone(),
            content_type: original.content_type.clone(),
            message_id: original.message_id.clone(),
            app_id: original.app_id.clone(),
            timestamp: original.timestamp,
            headers: original.headers.iter().map(|(name, value)| (name.clone(), header(value))).collect(),
            body_text: text.filter(|_| json.is_none()).map(str::to_owned),
            body_hex: text.is_none().then(|| hex::encode(&original.body)),
            body: json,
        }
    }

    fn message(self) -> Result<Message, String> {
        let body = match (self.body, self.body_text, self.body_hex) {
            (Some(json), None, None) => json.get().as_bytes().to_vec(),
            (None, Some(text), None) => text.into_bytes(),
            (None, None, Some(digits)) => hex::decode(digits).map_err(|_| "body_hex: not hexadecimal digits")?,
            _ => return Err("there has to be one of body, body_text and body_hex".to_owned()),
        };
        let header = |(name, value): (String, Value)| match value {
            Value::String(text) => Ok((name, HeaderValue::Text(text))),
            Value::Bool(flag) => Ok((name, HeaderValue::Bool(flag))),
            Value::Number(number) if number.is_i64() => Ok((name, HeaderValue::Integer(number.as_i64().unwrap_or_default()))),
            Value::Null | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                Err(format!("headers.{name}: a header is a text, a whole number, true or false"))
            }
        };
        Ok(Message {
            exchange: String::new(),
            routing_key: self.routing_key,
            content_type: self.content_type,
            message_id: self.message_id,
            app_id: self.app_id,
            user_id: None,
            timestamp: self.timestamp,
            headers: self.headers.into_iter().map(header).collect::<Result<_, _>>()?,
            body,
        })
    }
}

/// Letters put right, by name. Two with one name are two that were equal.
#[derive(Debug, Default)]
pub struct Corrections(BTreeMap<String, Vec<Message>>);

impl Corrections {
    /// Reads files of letters. All of them have to be right before the first is sent; `force`: also what the service
    /// would refuse again.
    pub fn read(paths: &[PathBuf], force: bool) -> anyhow::Result<Self> {
        let mut corrections = Self::default();
        for path in paths {
            let text = fs::read(path).with_context(|| format!("cannot read {}", path.display())).context(Exit::Input)?;
            let parsed: Result<Vec<LetterFile>, _> = serde_json::from_slice(&text);
            let letters = parsed.with_context(|| format!("{} is not an array of letters, as `show` writes it", path.display()));
            for letter in letters.context(Exit::Input)? {
                let name = letter.letter.clone();
                let wrong = |what: String| anyhow::anyhow!("{}: letter {name}: {what}", path.display()).context(Exit::Input);
                let message = letter.message().map_err(wrong)?;
                if let Err(rejection) = decode(&message)
                    && !force
                {
                    return Err(wrong(format!("it would be refused again, {rejection}")));
                }
                corrections.0.entry(name).or_default().push(message);
            }
        }
        // the first of two is for the first in the queue
        corrections.0.values_mut().for_each(|messages| messages.reverse());
        Ok(corrections)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn take(&mut self, name: &str) -> Option<Message> {
        let messages = self.0.get_mut(name)?;
        let message = messages.pop();
        if messages.is_empty() {
            self.0.remove(name);
        }
        message
    }

    /// Letters that have not been taken.
    pub fn left(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_that_nobody_edited_comes_back_to_the_byte() {
        for body in [&br#"{"b": 1.0,  "a":[ ]}"#[..], b" {} ", b"no JSON", b"\xff\x00", b"", b"{\"a\":1,\"a\":2}"] {
            let original = Message {
                routing_key: "k".into(),
                message_id: Some("m".into()),
                headers: vec![("flag".into(), HeaderValue::Bool(true)), ("n".into(), HeaderValue::Integer(-3))],
                body: body.to_vec(),
                ..Message::default()
            };
            let written = serde_json::to_vec_pretty(&[LetterFile::of(&Seen::of(original.clone()))]).expect("JSON");
            let mut read: Vec<LetterFile> = serde_json::from_slice(&written).expect("an array of letters");
            // without headers of ours there is no routing key to go back to
            let message = read.remove(0).message().expect("a message");
            assert_eq!(message, Message { routing_key: String::new(), ..original });
        }
    }
}
