//! Reads JSON into the Kubernetes types, as leniently and as strictly as Kubernetes' own decoder.
//!
//! Names of fields match whatever their case, `null` is the type's zero wherever it stands, unknown
//! fields are ignored; a value of the wrong type costs the object.

use std::{collections::BTreeMap, fmt};

use serde_json::{Map, Value};

use crate::kinds::Invalid;

/// What can be read from JSON that isn't `null`; `null` is the default.
pub(super) trait Decode: Default {
    fn decode(value: &Value) -> Result<Self, Invalid>;

    /// Adds the fields at and below this place that a strict decoder would refuse.
    fn unknown(_value: &Value, _place: Place<'_>, _found: &mut Vec<Unknown>) {}
}

/// Where a value lies; becomes text only when something is wrong.
#[derive(Clone, Copy)]
pub(super) enum Place<'p> {
    /// Where the search began.
    Start,
    Field(&'p Place<'p>, &'p str),
    Item(&'p Place<'p>, usize),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => Ok(()),
            Self::Field(Self::Start, name) => f.write_str(name),
            Self::Field(of, name) => write!(f, "{of}.{name}"),
            Self::Item(of, index) => write!(f, "{of}[{index}]"),
        }
    }
}

/// A field that a strict decoder refuses.
#[derive(Clone, Debug)]
pub(super) struct Unknown {
    /// Its path from where the search began.
    pub(super) field: String,
    pub(super) fault: Misnamed,
}

/// What is wrong with the name of a field.
#[derive(Clone, Copy, Debug)]
pub(super) enum Misnamed {
    /// There is none of this name, only these.
    NoneOf(&'static [&'static str]),
    /// It is read, but for a strict decoder it is another one than this.
    Case(&'static str),
}

impl Unknown {
    /// What to do about it.
    pub(super) fn reason(&self) -> String {
        match self.fault {
            Misnamed::NoneOf(known) => {
                format!("unknown field; known here are {}", known.join(", "))
            }
            Misnamed::Case(name) => format!("unknown field; write {name}"),
        }
    }
}

/// What was read, and the fields in it that are not known here: each may be a condition.
#[derive(Clone, Debug, Default)]
pub(super) struct Whole<T> {
    pub(super) value: T,
    pub(super) unknown: Vec<Unknown>,
}

impl<T: Decode> Decode for Whole<T> {
    fn decode(value: &Value) -> Result<Self, Invalid> {
        let mut unknown = Vec::new();
        T::unknown(value, Place::Start, &mut unknown);
        unknown.retain(|it| matches!(it.fault, Misnamed::NoneOf(_)));
        Ok(Self { value: T::decode(value)?, unknown })
    }

    fn unknown(value: &Value, place: Place<'_>, found: &mut Vec<Unknown>) {
        T::unknown(value, place, found);
    }
}

/// Declares a type with its fields and their names in JSON, and behind `also` the names of those that don't matter.
macro_rules! object {
    (
        $(#[$meta:meta])* $name:ident { $($field:ident: $type:ty = $json:literal,)* }
        $(also $($other:literal),*)?
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default)]
        #[allow(clippy::struct_field_names, reason = "the names are the API's")]
        pub(super) struct $name {
            $(pub(super) $field: $type,)*
        }

        impl $crate::translate::decode::Decode for $name {
            fn decode(value: &serde_json::Value) -> Result<Self, $crate::kinds::Invalid> {
                let fields = $crate::translate::decode::fields(value)?;
                Ok(Self {
                    $($field: $crate::translate::decode::member(fields, $json)?,)*
                })
            }

            fn unknown(
                value: &serde_json::Value,
                place: $crate::translate::decode::Place<'_>,
                found: &mut Vec<$crate::translate::decode::Unknown>,
            ) {
                const KNOWN: &[&str] = &[$($json,)* $($($other,)*)?];
                for (name, value) in value.as_object().into_iter().flatten() {
                    let place = $crate::translate::decode::Place::Field(&place, name);
                    match $crate::translate::decode::known(name, place, KNOWN, found) {
                        $(Some($json) => {
                            <$type as $crate::translate::decode::Decode>::unknown(value, place, found);
                        })*
                        _ => {}
                    }
                }
            }
        }
    };
}
pub(super) use object;

pub(super) fn fields(value: &Value) -> Result<&Map<String, Value>, Invalid> {
    value.as_object().ok_or_else(|| mismatch(value, "must be an object"))
}

/// The field of this name, in whatever case; the exact one first.
pub(super) fn field<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let in_any_case = || fields.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
    fields.get(name).or_else(|| in_any_case().map(|(_, value)| value))
}

/// The text in a field of an object; empty: there is none.
pub(super) fn field_text<'a>(object: &'a Value, name: &str) -> &'a str {
    let value = object.as_object().and_then(|fields| field(fields, name));
    value.and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn member<T: Decode>(
    object: &Map<String, Value>,
    name: &'static str,
) -> Result<T, Invalid> {
    let Some(value) = field(object, name) else { return Ok(T::default()) };
    not_null(value).map_err(|invalid| below(name, invalid))
}

fn not_null<T: Decode>(value: &Value) -> Result<T, Invalid> {
    if value.is_null() { Ok(T::default()) } else { T::decode(value) }
}

fn below(step: &str, mut invalid: Invalid) -> Invalid {
    let dot = if invalid.field.is_empty() || invalid.field.starts_with('[') { "" } else { "." };
    invalid.field = format!("{step}{dot}{}", invalid.field);
    invalid
}

/// Which of the known fields has this name, in whatever case; what a strict decoder refuses is added.
pub(super) fn known(
    name: &str,
    place: Place<'_>,
    known: &'static [&'static str],
    found: &mut Vec<Unknown>,
) -> Option<&'static str> {
    let mut add = |fault| found.push(Unknown { field: place.to_string(), fault });
    if let Some(exact) = known.iter().find(|it| **it == name) {
        return Some(exact);
    }
    let near = known.iter().copied().find(|it| it.eq_ignore_ascii_case(name));
    add(near.map_or(Misnamed::NoneOf(known), Misnamed::Case));
    near
}

fn mismatch(value: &Value, reason: &str) -> Invalid {
    Invalid { field: String::new(), value: shown(value), reason: reason.to_owned() }
}

/// The value as JSON for messages, cut after 80 characters.
pub(super) fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(80) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

impl Decode for String {
    fn decode(value: &Value) -> Result<Self, Invalid> {
        value.as_str().map(str::to_owned).ok_or_else(|| mismatch(value, "must be text"))
    }
}

impl Decode for i32 {
    fn decode(value: &Value) -> Result<Self, Invalid> {
        let number = value.as_i64().and_then(|number| Self::try_from(number).ok());
        number
            .ok_or_else(|| mismatch(value, "must be a whole number from -2147483648 to 2147483647"))
    }
}

/// Only whether it is there and no empty list, not what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Present(pub(super) bool);

impl Decode for Present {
    fn decode(value: &Value) -> Result<Self, Invalid> {
        Ok(Self(!value.as_array().is_some_and(Vec::is_empty)))
    }
}

impl<T: Decode> Decode for Option<T> {
    fn decode(value: &Value) -> Result<Self, Invalid> {
        T::decode(value).map(Some)
    }

    fn unknown(value: &Value, place: Place<'_>, found: &mut Vec<Unknown>) {
        T::unknown(value, place, found);
    }
}

impl<T: Decode> Decode for Vec<T> {
    fn decode(value: &Value) -> Result<Self, Invalid> {
        let items = value.as_array().ok_or_else(|| mismatch(value, "must be a list"))?;
        let items = items.iter().enumerate();
        items
            .map(|(index, item)| {
                not_null(item).map_err(|invalid| below(&format!("[{index}]"), invalid))
            })
            .collect()
    }

    fn unknown(value: &Value, place: Place<'_>, found: &mut Vec<Unknown>) {
        for (index, item) in value.as_array().into_iter().flatten().enumerate() {
            T::unknown(item, Place::Item(&place, index), found);
        }
    }
}

impl Decode for BTreeMap<String, String> {
    fn decode(value: &Value) -> Result<Self, Invalid> {
        let entries = fields(value)?.iter();
        entries
            .map(|(key, value)| {
                let value = not_null(value).map_err(|invalid| below(key, invalid))?;
                Ok((key.clone(), value))
            })
            .collect()
    }
}
