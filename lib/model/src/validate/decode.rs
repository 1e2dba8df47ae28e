//! Reading JSON by a schema, as Go's decoder reads it into Calico's types.
//!
//! Null is absent. Unknown fields are left out and remembered. `26.0` is no whole number. Values
//! with several notations, such as ports, come out in the one that is written.

use serde_json::{Map, Number, Value};

use crate::kinds::parse_time;

use super::{
    fault::{Faults, Path},
    notation,
    schema::{Keep, Object, Type},
};

/// Reads one object.
pub(super) struct Decoder<'a> {
    pub(super) faults: &'a mut Faults,
    /// Paths of the fields that the schema doesn't have.
    pub(super) unknown: Vec<String>,
}

impl Decoder<'_> {
    pub(super) fn object(
        &mut self,
        object: &Object,
        raw: &Map<String, Value>,
        path: &Path<'_>,
    ) -> Map<String, Value> {
        for name in raw.keys() {
            if !object.fields.iter().any(|field| field.name == name) {
                self.unknown.push(path.field(name).to_string());
            }
        }
        let mut read = Map::new();
        for field in object.fields {
            let Some(raw) = raw.get(field.name) else { continue };
            // Calico reads durations with code of its own, which null reaches too unless the
            // field is a pointer.
            let is_read = matches!(field.shape.ty, Type::Duration) && field.keep == Keep::Always;
            if raw.is_null() && !is_read {
                continue;
            }
            if let Some(value) = self.value(&field.shape.ty, raw, &path.field(field.name)) {
                read.insert(field.name.to_owned(), value);
            }
        }
        read
    }

    fn value(&mut self, ty: &Type, raw: &Value, path: &Path<'_>) -> Option<Value> {
        let read = match (ty, raw) {
            (Type::Any, raw)
            | (Type::Bool, raw @ Value::Bool(_))
            | (Type::Text | Type::IntOrText, raw @ Value::String(_)) => Ok(raw.clone()),
            (Type::Int(min, max) | Type::MaybeInt(min, max), Value::Number(number)) => {
                whole(number, *min, *max)
            }
            (Type::Float, Value::Number(number)) => float(number),
            (Type::Duration, Value::String(text)) => notation::duration(text)
                .map(|nanos| notation::duration_text(nanos).into())
                .ok_or_else(|| "a duration such as 90s or 1h30m".to_owned()),
            (Type::Time, Value::String(text)) => {
                let written =
                    |text: String| if text.is_empty() { Value::Null } else { text.into() };
                parse_time(text)
                    .map(written)
                    .ok_or_else(|| "a time such as 2026-01-31T12:00:00Z".to_owned())
            }
            (Type::Port, raw) => port(raw),
            (Type::NameOrByte, raw) => name_or_byte(raw),
            (Type::AsNumber, raw) => as_number(raw),
            (Type::IntOrText, Value::Number(number)) => {
                whole(number, i32::MIN.into(), i32::MAX.into())
            }
            (Type::List(items), Value::Array(raw)) => {
                let items = raw.iter().enumerate().filter_map(|(index, raw)| {
                    if raw.is_null() {
                        Some(zero(&items.ty))
                    } else {
                        self.value(&items.ty, raw, &path.index(index))
                    }
                });
                return Some(items.collect());
            }
            (Type::Map(values), Value::Object(raw)) => {
                let mut read = Map::new();
                for (key, raw) in raw {
                    let value = if raw.is_null() {
                        Some(zero(&values.ty))
                    } else {
                        self.value(&values.ty, raw, &path.field(key))
                    };
                    read.extend(value.map(|value| (key.clone(), value)));
                }
                return Some(read.into());
            }
            (Type::Object(object), Value::Object(raw)) => {
                return Some(self.object(object, raw, path).into());
            }
            _ => Err(named(ty)),
        };
        match read {
            Ok(value) => Some(value),
            Err(expected) => {
                self.faults.add(path, "", raw, format!("must be {expected}"), hint(ty, raw));
                None
            }
        }
    }
}

/// What is written where a value is zero in Go.
pub(super) fn zero(ty: &Type) -> Value {
    match ty {
        Type::Bool => false.into(),
        Type::Int(..)
        | Type::Float
        | Type::Port
        | Type::NameOrByte
        | Type::AsNumber
        | Type::IntOrText => 0.into(),
        Type::Text => "".into(),
        Type::Duration => "0s".into(),
        Type::MaybeInt(..) | Type::Time | Type::Any | Type::List(_) | Type::Map(_) => Value::Null,
        Type::Object(_) => Map::new().into(),
    }
}

fn named(ty: &Type) -> String {
    let name = match ty {
        Type::Bool => "true or false",
        Type::Int(min, max) => return whole_named(*min, *max),
        Type::MaybeInt(min, max) => {
            return format!("null, or {}", whole_named(*min, *max));
        }
        Type::Float => "a number",
        Type::Text => "a text",
        Type::Duration => "a duration as text, such as \"90s\"",
        Type::Time => "a time as text, such as \"2026-01-31T12:00:00Z\"",
        Type::Port => PORT,
        Type::NameOrByte => NAME_OR_BYTE,
        Type::AsNumber => AS_NUMBER,
        Type::IntOrText => "a number or a text",
        Type::Any => "JSON",
        Type::List(_) => "a list",
        Type::Map(_) => "a map",
        Type::Object(_) => "an object with fields",
    };
    name.to_owned()
}

fn hint(ty: &Type, raw: &Value) -> String {
    match (ty, raw) {
        (Type::Duration, Value::Number(number)) => format!("seconds are \"{number}s\""),
        (Type::Text, Value::Number(_) | Value::Bool(_)) => {
            format!("put it in quotes: \"{raw}\"")
        }
        (Type::Int(..) | Type::Float, Value::String(text)) if text.parse::<f64>().is_ok() => {
            format!("without quotes: {text}")
        }
        (Type::Bool, Value::String(text)) => match text.to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "enabled" => "write true, without quotes".to_owned(),
            "false" | "no" | "off" | "disabled" => "write false, without quotes".to_owned(),
            _ => String::new(),
        },
        (Type::List(_), raw) if !raw.is_array() => format!("put it in a list: [{raw}]"),
        _ => String::new(),
    }
}

const PORT: &str = "a port number from 0 to 65535, a range such as 80:90, or the name of a port";
const NAME_OR_BYTE: &str = "a name such as TCP, or a number from 0 to 255";
const AS_NUMBER: &str = "an AS number from 0 to 4294967295, or two such as 1.10";

fn whole_named(min: i64, max: i64) -> String {
    if min == i64::MIN {
        "a whole number, without fraction and exponent".to_owned()
    } else {
        format!("a whole number from {min} to {max}, without fraction and exponent")
    }
}

fn whole(number: &Number, min: i64, max: i64) -> Result<Value, String> {
    number
        .as_i64()
        .filter(|number| (min..=max).contains(number))
        .map(Value::from)
        .ok_or_else(|| whole_named(min, max))
}

/// A float, written without a fraction where it has none: `10` and `10.0` are one number.
fn float(number: &Number) -> Result<Value, String> {
    /// Below it, every whole float is an `i64` of the same value.
    const EXACT: f64 = 9e18;
    let number = number.as_f64().filter(|number| number.is_finite()).ok_or("a 64-bit number")?;
    if number.fract() == 0.0 && number.abs() < EXACT {
        #[allow(clippy::cast_possible_truncation, reason = "whole and small enough")]
        return Ok(Value::from(number as i64));
    }
    Ok(Value::from(number))
}

/// A port as it is written: a number, or a text for a range or a name.
fn port(raw: &Value) -> Result<Value, String> {
    match raw {
        Value::Number(number) => whole(number, 0, u16::MAX.into()),
        Value::String(text) => notation::port(text),
        _ => Err(PORT.to_owned()),
    }
    .map_err(|_| PORT.to_owned())
}

/// A name or a number of 8 bits as it is written: a text of digits is a number.
fn name_or_byte(raw: &Value) -> Result<Value, String> {
    match raw {
        Value::Number(number) => {
            whole(number, 0, u8::MAX.into()).map_err(|_| NAME_OR_BYTE.to_owned())
        }
        Value::String(text) => Ok(notation::digits::<u8>(text).map_or(raw.clone(), Value::from)),
        _ => Err(NAME_OR_BYTE.to_owned()),
    }
}

fn as_number(raw: &Value) -> Result<Value, String> {
    match raw {
        Value::Number(number) => whole(number, 0, u32::MAX.into()).ok(),
        Value::String(text) => notation::as_number(text).map(Value::from),
        _ => None,
    }
    .ok_or_else(|| AS_NUMBER.to_owned())
}
