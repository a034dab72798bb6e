//! JSON Schemas of every event that is taken or published, made from the types that read and write them.
//!
//! Never here: the AMQP side (exchanges, headers), examples, or a field that no type of the wire has. A schema says what
//! one value can say: rules between fields (ids that occur twice, a total that does not fit, who may ask for what) are
//! for the reader and the machine, so an event that validates may still be refused. None that is taken fails to.
//!
//! Bounds on strings are bounds in bytes ([`limits`]); a schema counts characters, of which there are at most as many.

use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema, json_schema};
use serde_json::{Map, Value, json};

use super::inbound::{self, InboundType, fields::At};
use super::limits;
use super::outbound::forms::{
    AboutAgent, AboutOrganization, AboutReport, AgentStatusChanged, Bare, FunnelUpdated, IsolationChanged, IsolationDrifted, Paged,
    PhaseChanged, RemediationStatusChanged, RemediationVerified, Reopened, RequestRefused, ResolutionRefused, Sla, StatusChanged, Triaged,
};
use super::outbound::{Data, Event, TENANT_PATTERN};

/// The schema of one event, envelope included.
#[derive(Debug, Clone, PartialEq)]
pub struct EventSchema {
    pub direction: Direction,
    /// CloudEvents `type`.
    pub event_type: &'static str,
    pub schema: Value,
}

/// As the service sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    Inbound,
    Outbound,
}

impl Direction {
    pub fn as_str(self) -> &'static str {
        match self {
            Direction::Inbound => "inbound",
            Direction::Outbound => "outbound",
        }
    }
}

/// Every event as a document of its own, JSON Schema 2020-12.
pub fn documents() -> Vec<EventSchema> {
    let mut documents = Vec::new();
    for (direction, event_type) in every_type() {
        let mut generator = settings(direction, SchemaSettings::draft2020_12()).into_generator();
        let Some(mut schema) = event(direction, event_type, &mut generator) else { continue };
        let definitions = generator.take_definitions(true);
        if !definitions.is_empty() {
            schema.insert("$defs".to_owned(), definitions.into());
        }
        schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
        schema.insert("$id".to_owned(), json!(format!("urn:remedyd:1:{}:{event_type}", direction.as_str())));
        documents.push(EventSchema { direction, event_type, schema: finished(direction, schema) });
    }
    documents
}

/// Every event in draft 07, which AsyncAPI speaks, and what they share, to stand at `path` of one document.
pub fn shared(path: &'static str) -> (Vec<EventSchema>, Map<String, Value>) {
    let (mut events, mut definitions) = (Vec::new(), Map::new());
    for direction in [Direction::Inbound, Direction::Outbound] {
        let placed = SchemaSettings::draft07().with(|settings| {
            settings.definitions_path = path.into();
            settings.meta_schema = None;
        });
        let mut generator = settings(direction, placed).into_generator();
        for (_, event_type) in every_type().filter(|(of, _)| *of == direction) {
            let Some(schema) = event(direction, event_type, &mut generator) else { continue };
            events.push(EventSchema { direction, event_type, schema: finished(direction, schema) });
        }
        for (name, schema) in generator.take_definitions(true) {
            let schema = if direction == Direction::Inbound { bounded(schema) } else { schema };
            definitions.insert(name, schema);
        }
    }
    (events, definitions)
}

fn settings(direction: Direction, settings: SchemaSettings) -> SchemaSettings {
    match direction {
        Direction::Inbound => settings.for_deserialize(),
        Direction::Outbound => settings.for_serialize(),
    }
}

fn every_type() -> impl Iterator<Item = (Direction, &'static str)> {
    let taken = InboundType::ALL.iter().map(|inbound_type| (Direction::Inbound, inbound_type.as_str()));
    let published = PUBLISHED.iter().map(|(event_type, _)| (Direction::Outbound, *event_type));
    taken.chain(published)
}

fn event(direction: Direction, event_type: &'static str, generator: &mut SchemaGenerator) -> Option<Schema> {
    let mut schema = match direction {
        Direction::Inbound => taken(InboundType::from_name(event_type)?, generator)?,
        Direction::Outbound => {
            let (_, forms) = PUBLISHED.iter().find(|(known, _)| *known == event_type)?;
            let mut schemas: Vec<Value> = forms.iter().map(|form| form(generator).to_value()).collect();
            schemas.iter_mut().for_each(|schema| schema["properties"]["type"] = json!({ "const": event_type }));
            match schemas.len() {
                1 => Schema::try_from(schemas.remove(0)).ok()?,
                _ => json_schema!({ "anyOf": schemas }),
            }
        }
    };
    schema.insert("title".to_owned(), json!(event_type));
    generator.transforms_mut().for_each(|transform| transform.transform(&mut schema));
    Some(schema)
}

fn finished(direction: Direction, schema: Schema) -> Value {
    match direction {
        Direction::Inbound => bounded(schema.to_value()),
        Direction::Outbound => schema.to_value(),
    }
}

/// The envelope as [`super::envelope`] reads it in structured mode. `null` is absent there.
fn taken(inbound_type: InboundType, generator: &mut SchemaGenerator) -> Option<Schema> {
    let data = inbound::data_schema(inbound_type, generator)?;
    let name = || json!({ "type": "string", "minLength": 1, "maxLength": limits::ATTRIBUTE_BYTES, "pattern": NO_CONTROL_CHARACTER });
    let mut required = vec!["specversion", "id", "source", "type", "time", "tenantid"];
    if inbound_type != InboundType::OrganizationDeleted {
        required.push("data");
    }
    Some(json_schema!({
        "description": format!(
            "At most {} bytes and {} levels of nesting; no key twice; fields that are not named here are ignored.",
            limits::MESSAGE_BYTES,
            limits::DEPTH
        ),
        "type": "object",
        "required": required,
        "properties": {
            "specversion": { "const": "1.0" },
            "id": name(),
            "source": name(),
            "type": { "const": inbound_type.as_str() },
            "time": generator.subschema_for::<At>(),
            "tenantid": { "description": "<account_id>.<organization_id>", "type": "string", "pattern": TENANT_PATTERN },
            "schemaversion": {
                "description": "1 if absent; 1.x is read as 1",
                "anyOf": [
                    { "type": "string", "pattern": "^0*1(\\.[0-9]+)*$" },
                    { "type": "number", "minimum": 1, "exclusiveMaximum": 2 },
                    { "type": "null" },
                ],
            },
            "datacontenttype": { "description": "A JSON media type", "type": ["string", "null"] },
            "data_base64": { "type": "null" },
            "traceparent": { "description": "W3C trace context, carried on to what this causes; a broken one is dropped" },
            "data": data,
        },
    }))
}

/// Attributes become headers and log fields.
const NO_CONTROL_CHARACTER: &str = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$";

type Make = fn(&mut SchemaGenerator) -> Schema;

/// Every type that is published, and the forms of it: one for each kind of thing that it can be about.
const PUBLISHED: [(&str, &[Make]); 20] = [
    ("incident_report.triaged", &[published::<AboutReport, Triaged<'static>>]),
    ("incident_report.status_changed", &[published::<AboutReport, StatusChanged<'static>>]),
    ("incident_report.phase_changed", &[published::<AboutReport, PhaseChanged>]),
    ("incident_report.resolution_refused", &[published::<AboutReport, ResolutionRefused<'static>>]),
    ("incident_report.resolution_unblocked", &[published::<AboutReport, Bare>]),
    ("incident_report.reopened", &[published::<AboutReport, Reopened>]),
    ("incident_report.residual_cleared", &[published::<AboutReport, Bare>]),
    ("incident_report.updated", &[published::<AboutReport, inbound::reports::Updated>]),
    ("incident_report.comment_added", &[published::<AboutReport, inbound::reports::CommentAdded>]),
    ("soc_support.requested", &[published::<AboutReport, inbound::requests::SupportRequested>]),
    ("remediation.status_changed", &[published::<AboutReport, RemediationStatusChanged<'static>>]),
    ("remediation.verified", &[published::<AboutReport, RemediationVerified>]),
    ("agent.status_changed", &[published::<AboutAgent, AgentStatusChanged>]),
    ("agent.isolation_changed", &[published::<AboutAgent, IsolationChanged<'static>>]),
    ("agent.isolation_drifted", &[published::<AboutAgent, IsolationDrifted>]),
    ("on_call.paged", &[published::<AboutReport, Paged>]),
    ("sla.warning", &[published::<AboutReport, Sla>]),
    ("sla.breached", &[published::<AboutReport, Sla>]),
    ("funnel.updated", &[published::<AboutOrganization, FunnelUpdated<'static>>]),
    (
        "request.refused",
        &[
            published::<AboutReport, RequestRefused<'static>>,
            published::<AboutAgent, RequestRefused<'static>>,
            // an agent that nobody has heard of has no sequence of its own
            published::<AboutOrganization, RequestRefused<'static>>,
        ],
    ),
];

/// What an event can be about, and the `subject` that says so.
trait Subject: JsonSchema {
    const PATTERN: &'static str;
}

impl Subject for AboutReport {
    const PATTERN: &'static str = "^incident_reports/[1-9][0-9]*$";
}

impl Subject for AboutAgent {
    const PATTERN: &'static str = "^agents/[1-9][0-9]*$";
}

impl Subject for AboutOrganization {
    const PATTERN: &'static str = "^organization$";
}

fn published<A: Subject, B: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = <Event<'static, Data<A, B>>>::json_schema(generator);
    // the envelope is the same for all; what the event says is the form's own description
    let description = B::json_schema(generator).get("description").cloned();
    if let Some(description) = description {
        schema.insert("description".to_owned(), description);
    }
    // what is passed on names its report too; the two forms are laid over each other
    if let Some(Value::Array(required)) = schema.pointer_mut("/properties/data/required") {
        let mut known = std::collections::BTreeSet::new();
        required.retain(|name| known.insert(name.to_string()));
    }
    if let Some(subject) = schema.pointer_mut("/properties/subject") {
        *subject = json!({ "type": "string", "pattern": A::PATTERN });
    }
    schema
}

/// Gives every string that has no bound of its own the one of [`super::json`], which goes by the key it stands at.
fn bounded(mut schema: Value) -> Value {
    bound(&mut schema, limits::TEXT_BYTES);
    schema
}

fn bound(schema: &mut Value, limit: usize) {
    let Value::Object(members) = schema else { return };
    let is_string = match members.get("type") {
        Some(Value::String(kind)) => kind == "string",
        Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "string"),
        _ => false,
    };
    if is_string && !["maxLength", "enum", "const", "format"].iter().any(|bound| members.contains_key(*bound)) {
        members.insert("maxLength".to_owned(), json!(limit));
    }
    for (keyword, value) in members.iter_mut() {
        match (keyword.as_str(), value) {
            ("properties", Value::Object(properties)) => {
                for (name, property) in properties.iter_mut() {
                    bound(property, if name == "body" { limits::BODY_BYTES } else { limits::TEXT_BYTES });
                }
            }
            ("$defs", Value::Object(definitions)) => definitions.values_mut().for_each(|definition| bound(definition, limits::TEXT_BYTES)),
            ("items", items) => bound(items, limits::TEXT_BYTES),
            ("anyOf" | "allOf", Value::Array(schemas)) => schemas.iter_mut().for_each(|schema| bound(schema, limit)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_that_is_applied_has_a_schema() {
        let documents = documents();
        let of = |direction| documents.iter().filter(|document| document.direction == direction).count();
        assert_eq!(of(Direction::Inbound), InboundType::ALL.len() - 1, "all but remediation.attempted");
        assert_eq!(of(Direction::Outbound), PUBLISHED.len());
    }

    #[test]
    fn what_both_directions_share_is_the_same() {
        // `shared` puts both into one map: a name must not stand for two things
        let defined = |direction| {
            let mut generator = settings(direction, SchemaSettings::draft07()).into_generator();
            for (_, event_type) in every_type().filter(|(of, _)| *of == direction) {
                event(direction, event_type, &mut generator);
            }
            generator.take_definitions(true)
        };
        let (taken, published) = (defined(Direction::Inbound), defined(Direction::Outbound));
        for (name, schema) in &taken {
            if let Some(other) = published.get(name) {
                assert_eq!(schema, other, "{name}");
            }
            assert!(!name.ends_with(|last: char| last.is_ascii_digit()), "{name}: two types have one name");
        }
    }

    #[test]
    fn no_string_that_is_taken_is_unbounded() {
        fn unbounded(schema: &Value, at: &str, found: &mut Vec<String>) {
            if let Value::Object(members) = schema {
                let has = |keyword: &str| members.contains_key(keyword);
                let is_string = members
                    .get("type")
                    .is_some_and(|kind| kind == "string" || kind.as_array().is_some_and(|k| k.contains(&json!("string"))));
                if is_string && !["maxLength", "enum", "const", "format"].into_iter().any(has) {
                    found.push(at.to_owned());
                }
                // what stands under `if` and `then` only narrows what stands beside it
                for (key, value) in members.iter().filter(|(key, _)| !["if", "then"].contains(&key.as_str())) {
                    unbounded(value, &format!("{at}/{key}"), found);
                }
            } else if let Value::Array(items) = schema {
                items.iter().for_each(|item| unbounded(item, at, found));
            }
        }
        for document in documents().into_iter().filter(|document| document.direction == Direction::Inbound) {
            let mut found = Vec::new();
            unbounded(&document.schema, document.event_type, &mut found);
            assert_eq!(found, Vec::<String>::new());
            let body = document.schema.pointer("/$defs/IncidentReport/properties/body/maxLength");
            assert!(body.is_none_or(|bound| *bound == json!(limits::BODY_BYTES)), "{body:?}");
        }
    }
}
