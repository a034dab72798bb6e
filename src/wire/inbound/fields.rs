//! The wire's scalars, and how `data` is read into a form.
//!
//! Never here: rules that span fields. A form's error names the path of the field; it never quotes a string
//! value, because it becomes a header of the dead letter.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::RangeInclusive;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::Value;

use crate::model::actor::{Actor, Role};
use crate::model::time::Timestamp;
use crate::wire::words::OneOf;
use crate::wire::{Fault, limits, time};

/// Reads `data` into a form of its type.
pub fn read<T: DeserializeOwned>(data: Value) -> Result<T, Fault> {
    if data.is_null() {
        return Err(Fault::invalid("data: missing"));
    }
    serde_path_to_error::deserialize::<_, Object<T>>(data).map(|object| object.0).map_err(|error| {
        let path = error.path().to_string();
        let path = if path == "." { "data".to_owned() } else { format!("data.{path}") };
        Fault::invalid(format!("{path}: {}", unquoted(&error.inner().to_string())))
    })
}

/// serde's message without the string value that it quotes; the expectation stands after the value.
fn unquoted(message: &str) -> String {
    for kind in ["invalid type: string ", "invalid value: string "] {
        if message.starts_with(kind) {
            let expected = message.rfind(", expected ").map_or("", |at| &message[at..]);
            return format!("{}{expected}", kind.trim_end());
        }
    }
    message.to_owned()
}

/// A JSON object, and not the array that serde's derived forms would take as well.
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Members<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_map(Members(PhantomData)).map(Object)
    }
}

/// The form's own.
impl<T: JsonSchema> JsonSchema for Object<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// An id or a revision: 1 ..= 2^53, a JSON integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Id(pub u64);

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        integer(deserializer, 1, limits::ID).map(Id)
    }
}

impl JsonSchema for Id {
    fn schema_name() -> Cow<'static, str> {
        "Id".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 1, "maximum": limits::ID })
    }
}

/// How many there are: 0 ..= 2^53, a JSON integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Count(pub u64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        integer(deserializer, 0, limits::ID).map(Count)
    }
}

impl JsonSchema for Count {
    fn schema_name() -> Cow<'static, str> {
        "Count".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 0, "maximum": limits::ID })
    }
}

/// A setting with a range of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Within<const LEAST: u16, const MOST: u16>(pub u16);

impl<'de, const LEAST: u16, const MOST: u16> Deserialize<'de> for Within<LEAST, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = integer(deserializer, LEAST.into(), MOST.into())?;
        u16::try_from(value).map(Within).map_err(D::Error::custom)
    }
}

impl<const LEAST: u16, const MOST: u16> JsonSchema for Within<LEAST, MOST> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Within{LEAST}To{MOST}").into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": LEAST, "maximum": MOST })
    }
}

/// A JSON integer, both ends of the range in it.
fn integer<'de, D: Deserializer<'de>>(deserializer: D, least: u64, most: u64) -> Result<u64, D::Error> {
    struct InRange(RangeInclusive<u64>);

    impl Visitor<'_> for InRange {
        type Value = u64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "an integer from {} to {}", self.0.start(), self.0.end())
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<u64, E> {
            if self.0.contains(&value) { Ok(value) } else { Err(E::invalid_value(de::Unexpected::Unsigned(value), &self)) }
        }
    }

    deserializer.deserialize_u64(InRange(least..=most))
}

/// A point in time, as [`time::parse`] reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At(pub Timestamp);

impl<'de> Deserialize<'de> for At {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        time::parse(&text).map(At).ok_or_else(|| D::Error::custom(format_args!("not {}", time::EXPECTED)))
    }
}

impl JsonSchema for At {
    fn schema_name() -> Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "RFC 3339 with any offset, from 1970 on; read to milliseconds",
            "type": "string",
            "format": "date-time",
            "pattern": time::PATTERN,
        })
    }
}

/// Who asked.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "Actor")]
pub struct ActorForm {
    id: Id,
    #[schemars(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[schemars(skip_serializing_if = "Option::is_none")]
    email: Option<String>,
    role: OneOf<Role>,
}

impl ActorForm {
    pub fn actor(self) -> Actor {
        Actor { id: self.id.0, name: self.name, email: self.email, role: self.role.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::report::Severity;
    use serde_json::json;

    #[derive(Deserialize)]
    struct Form {
        #[allow(dead_code)]
        id: Option<Id>,
        #[allow(dead_code)]
        at: Option<At>,
        #[allow(dead_code)]
        severity: Option<OneOf<Severity>>,
        #[allow(dead_code)]
        actor: Option<Object<ActorForm>>,
        #[allow(dead_code)]
        flag: Option<bool>,
    }

    #[test]
    fn errors_name_the_field_and_never_quote_a_string() {
        for (data, detail) in [
            (json!(null), "data: missing"),
            (json!([1]), "data: invalid type: sequence, expected an object"),
            (json!({"id": 0}), "data.id: invalid value: integer `0`, expected an integer from 1 to"),
            (json!({"id": -1}), "data.id: invalid type: integer `-1`, expected an integer from 1 to"),
            (json!({"id": 9007199254740993_u64}), "data.id: invalid value: integer `9007199254740993`"),
            (json!({"id": 1.5}), "data.id: invalid type: floating point `1.5`"),
            (json!({"id": "SECRET, expected x"}), "data.id: invalid type: string, expected "),
            (json!({"at": "SECRET"}), "data.at: not an RFC 3339 time"),
            (json!({"severity": "SECRET"}), "data.severity: unknown variant, expected one of low, high, critical"),
            (json!({"severity": {"low": null}}), "data.severity: invalid type: map, expected a string"),
            (json!({"flag": "SECRET"}), "data.flag: invalid type: string, expected a boolean"),
            (json!({"actor": [1, "SECRET", "SECRET", "admin"]}), "data.actor: invalid type: sequence"),
            (json!({"actor": {"id": 1}}), "data.actor: missing field `role`"),
            (json!({"actor": {"id": 1, "role": "SECRET"}}), "data.actor.role: unknown variant, expected one of admin"),
        ] {
            let fault = read::<Form>(data.clone()).err().unwrap_or_else(|| panic!("{data} was taken"));
            assert!(fault.detail.starts_with(detail), "{data}: {} is not {detail}", fault.detail);
            assert!(!fault.detail.contains("SECRET"), "{}", fault.detail);
        }
    }

    #[test]
    fn null_is_absent_and_the_ends_of_the_range_are_in_it() {
        for data in [
            json!({"id": null, "at": null, "severity": null, "actor": null, "flag": null, "more": 1}),
            json!({"id": 1}),
            json!({"id": limits::ID}),
        ] {
            assert!(read::<Form>(data.clone()).is_ok(), "{data}");
        }
    }
}
