//! The CloudEvents envelope, structured or binary: attributes checked, `data` still unread JSON.
//!
//! Never here: what the data means; whether the AMQP header `tenantid` agrees with the event's (it is
//! handed on, the pipeline knows who the publisher is).
//!
//! Each attribute is read once, in [`read`]. A higher major version is refused before the type is looked
//! at: types we do not know may be its news.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::media_type::MediaType;
use super::trace::traceparent;
use super::{Fault, Reason, Rejection, json, limits, time};
use crate::model::ids::TenantId;
use crate::model::time::Timestamp;

/// A message as it arrived, as far as the wire is concerned.
#[derive(Debug, Clone, Copy)]
pub struct Raw<'a> {
    pub content_type: Option<&'a str>,
    /// In text form, whatever their AMQP type.
    pub headers: &'a [(String, String)],
    pub body: &'a [u8],
}

/// An event whose attributes are in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    pub id: String,
    pub source: String,
    pub event_type: String,
    /// To milliseconds.
    pub time: Timestamp,
    pub tenant: TenantId,
    /// The AMQP header `tenantid` (what a hash exchange goes by), unchecked.
    pub header_tenant: Option<String>,
    /// Well-formed, or absent.
    pub traceparent: Option<String>,
    /// `Null` if there is none.
    pub data: Value,
    /// Prefix of the SHA-256 of what makes two messages with one key the same message.
    pub digest: [u8; 16],
}

/// What of the envelope can be told of a message that is refused.
#[derive(Default)]
struct Known {
    id: Option<String>,
    tenant: Option<TenantId>,
    event_type: Option<String>,
}

/// Opens the envelope of `raw`.
pub fn open(raw: &Raw<'_>) -> Result<Envelope, Rejection> {
    let mut known = Known::default();
    read(raw, &mut known).map_err(|fault| Rejection {
        reason: fault.reason,
        detail: fault.detail,
        id: known.id,
        tenant: known.tenant,
        event_type: known.event_type,
    })
}

fn read(raw: &Raw<'_>, known: &mut Known) -> Result<Envelope, Fault> {
    match mode(raw)? {
        Mode::Structured => match json::parse(raw.body, "")? {
            Value::Object(mut event) => {
                let data = event.remove("data").unwrap_or_default();
                let digest = prefix(Sha256::new().chain_update(raw.body));
                attributes(&Attributes::Members(&event), known, raw, data, digest)
            }
            _ => Err(Fault::malformed("message: an event is a JSON object")),
        },
        Mode::Binary => {
            let headers = Attributes::Headers(context_headers(raw.headers)?);
            headers.tell(known);
            let data = if raw.body.is_empty() { Value::Null } else { json::parse(raw.body, "data")? };
            let digest = headers.digest(raw.body);
            attributes(&headers, known, raw, data, digest)
        }
    }
}

/// Reads every attribute of the table in messages.md.
fn attributes(from: &Attributes<'_>, known: &mut Known, raw: &Raw<'_>, data: Value, digest: [u8; 16]) -> Result<Envelope, Fault> {
    from.tell(known);
    match from.required("specversion")?.as_ref() {
        "1.0" => {}
        _ => return Err(Fault::malformed("specversion: only 1.0 is known")),
    }
    let id = name("id", &from.required("id")?)?;
    let source = name("source", &from.required("source")?)?;
    let event_type = name("type", &from.required("type")?)?;
    let time = from.time()?.ok_or_else(|| Fault::malformed(format!("time: not {}", time::EXPECTED)))?;
    let tenant = tenant(&from.required("tenantid")?).ok_or_else(|| Fault::malformed("tenantid: not <account_id>.<organization_id>"))?;
    if let Some(version) = from.text("schemaversion")? {
        schema_version(&version)?;
    }
    if let Some(content) = from.text("datacontenttype")?
        && !MediaType::parse(&content, "datacontenttype")?.is_json()
    {
        return Err(Fault::malformed("datacontenttype: only JSON is read"));
    }
    if from.text("data_base64")?.is_some() {
        return Err(Fault::malformed("data_base64: only JSON data is read"));
    }
    let traceparent = from.peek("traceparent").and_then(traceparent);
    let header_tenant = raw.headers.iter().find(|(name, _)| name == "tenantid").map(|(_, value)| value.clone());
    Ok(Envelope { id, source, event_type, time, tenant, header_tenant, traceparent, data, digest })
}

enum Mode {
    Structured,
    Binary,
}

fn mode(raw: &Raw<'_>) -> Result<Mode, Fault> {
    let Some(content_type) = raw.content_type.filter(|text| !text.is_empty()) else {
        // a bare publish: binary if it has the attributes as headers, else the event must be in the body
        let has_attributes = raw.headers.iter().any(|(name, _)| attribute(name) == Some("specversion"));
        return Ok(if has_attributes { Mode::Binary } else { Mode::Structured });
    };
    let media = MediaType::parse(content_type, "content type")?;
    if media.essence == "application/cloudevents+json" {
        Ok(Mode::Structured)
    } else if media.is_json() && !media.essence.starts_with("application/cloudevents") {
        Ok(Mode::Binary)
    } else {
        Err(Fault::malformed("content type: neither application/cloudevents+json nor JSON data"))
    }
}

/// Where the attributes are.
enum Attributes<'a> {
    Members(&'a Map<String, Value>),
    /// By attribute name, so sorted.
    Headers(BTreeMap<&'a str, &'a str>),
}

impl Attributes<'_> {
    /// `null` is absent. An integer is read as its text: JSON has both forms for an extension.
    fn text(&self, name: &str) -> Result<Option<Cow<'_, str>>, Fault> {
        match self {
            Attributes::Members(members) => match members.get(name) {
                None | Some(Value::Null) => Ok(None),
                Some(Value::String(text)) => Ok(Some(Cow::Borrowed(text))),
                Some(Value::Number(number)) if name == "schemaversion" => Ok(Some(number.to_string().into())),
                Some(_) => Err(Fault::malformed(format!("{name}: not a string"))),
            },
            Attributes::Headers(headers) => Ok(headers.get(name).map(|value| Cow::Borrowed(*value))),
        }
    }

    fn required(&self, name: &str) -> Result<Cow<'_, str>, Fault> {
        self.text(name)?.ok_or_else(|| Fault::malformed(format!("{name}: missing")))
    }

    /// `time`. AMQP has a type for times, which a client's library may use for the header.
    fn time(&self) -> Result<Option<Timestamp>, Fault> {
        let text = self.required("time")?;
        Ok(time::parse(&text).or_else(|| match self {
            Attributes::Members(_) => None,
            Attributes::Headers(_) => time::parse_amqp(&text),
        }))
    }

    /// The text of an attribute whose faults do not matter.
    fn peek(&self, name: &str) -> Option<&str> {
        match self {
            Attributes::Members(members) => members.get(name)?.as_str(),
            Attributes::Headers(headers) => headers.get(name).copied(),
        }
    }

    /// Notes what a rejection can name, however broken the rest is.
    fn tell(&self, known: &mut Known) {
        let name = |attribute: &str| self.peek(attribute).and_then(|text| name(attribute, text).ok());
        known.id = name("id");
        known.event_type = name("type");
        known.tenant = self.peek("tenantid").and_then(tenant);
    }

    /// Binary mode: the attributes, each with its length before it, then the body.
    fn digest(&self, body: &[u8]) -> [u8; 16] {
        let mut hash = Sha256::new();
        if let Attributes::Headers(headers) = self {
            for text in headers.iter().flat_map(|(name, value)| [name, value]) {
                hash.update((text.len() as u64).to_be_bytes());
                hash.update(text.as_bytes());
            }
        }
        prefix(hash.chain_update(body))
    }
}

/// The CloudEvents attribute that an AMQP header carries, if it does.
fn attribute(header: &str) -> Option<&str> {
    const PREFIX: &str = "cloudEvents";
    let (prefix, rest) = header.split_at_checked(PREFIX.len())?;
    let name = rest.strip_prefix(['_', ':'])?;
    prefix.eq_ignore_ascii_case(PREFIX).then_some(name)
}

fn context_headers(headers: &[(String, String)]) -> Result<BTreeMap<&str, &str>, Fault> {
    let mut found = BTreeMap::new();
    for (header, value) in headers {
        let Some(name) = attribute(header) else {
            continue;
        };
        // both spellings of one attribute are fine as long as they say the same
        if found.insert(name, value.as_str()).is_some_and(|other| other != value) {
            return Err(Fault::malformed("headers: one attribute with two values"));
        }
    }
    Ok(found)
}

/// `id`, `source`, `type`: non-empty, bounded, printable.
fn name(attribute: &str, text: &str) -> Result<String, Fault> {
    if text.is_empty() {
        return Err(Fault::malformed(format!("{attribute}: empty")));
    }
    if text.len() > limits::ATTRIBUTE_BYTES {
        return Err(Fault::over(attribute, limits::ATTRIBUTE_BYTES, "bytes"));
    }
    if text.chars().any(char::is_control) {
        return Err(Fault::malformed(format!("{attribute}: control character")));
    }
    Ok(text.to_owned())
}

/// One spelling per tenant ([`TenantId`]), both numbers in the range of ids.
fn tenant(text: &str) -> Option<TenantId> {
    let tenant = text.parse::<TenantId>().ok()?;
    let is_id = |number: u64| (1..=limits::ID).contains(&number);
    (is_id(tenant.account) && is_id(tenant.organization)).then_some(tenant)
}

/// `<major>[.<minor>…]`; major 1 is ours.
fn schema_version(text: &str) -> Result<(), Fault> {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if text.len() > limits::ATTRIBUTE_BYTES || !text.split('.').all(is_number) {
        return Err(Fault::malformed("schemaversion: not <major>[.<minor>]"));
    }
    let major = text.split('.').next().unwrap_or_default();
    match major.trim_start_matches('0') {
        "1" => Ok(()),
        "" => Err(Fault::malformed("schemaversion: 0 was never published")),
        _ => Err(Fault::new(Reason::UnsupportedVersion, "schemaversion: only major version 1 is read")),
    }
}

/// The first 16 bytes: 128 bits are beyond accident within one tenant's dedupe window.
pub(super) fn prefix(hash: Sha256) -> [u8; 16] {
    let full: [u8; 32] = hash.finalize().into();
    let mut prefix = [0; 16];
    prefix.copy_from_slice(&full[..16]);
    prefix
}

#[cfg(test)]
mod tests;
