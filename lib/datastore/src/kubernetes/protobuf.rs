//! Core objects as API servers send them in protobuf, which costs both sides a third of what JSON does.
//!
//! Numbers of fields are beside their names in the tables of [`super::slim`]; what is read has the form of the JSON.

use std::borrow::Cow;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value};

use super::slim::Fields;

/// What a message in the form of Kubernetes begins with.
const MAGIC: &[u8] = b"k8s\0";

/// What is sent isn't protobuf, or isn't what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} of protobuf")]
pub(super) struct Malformed(&'static str);

/// One field of a message.
enum Part<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of a fixed size; nothing that is read has one.
    Other,
}

/// The fields of a message, in the order in which they come.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn next(&mut self) -> Result<Option<(u64, Part<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let head = self.number()?;
        let part = match head & 7 {
            0 => Part::Number(self.number()?),
            1 => self.take(8).map(|_| Part::Other)?,
            2 => {
                let length = self.number()?;
                Part::Bytes(self.take(usize::try_from(length).unwrap_or(usize::MAX))?)
            }
            5 => self.take(4).map(|_| Part::Other)?,
            _ => return Err(Malformed("an unknown type")),
        };
        Ok(Some((head >> 3, part)))
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(Malformed("a cut number"))?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Malformed("an endless number"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed("a cut field"))?;
        self.0 = rest;
        Ok(taken)
    }
}

/// The first bytes field of this number; nothing: it isn't there.
fn bytes_at(message: &[u8], number: u64) -> Result<&[u8], Malformed> {
    let mut parts = Parts(message);
    while let Some((at, part)) = parts.next()? {
        if let (true, Part::Bytes(bytes)) = (at == number, part) {
            return Ok(bytes);
        }
    }
    Ok(&[])
}

/// The message inside of Kubernetes' envelope; none: there is no envelope.
pub(super) fn unwrapped(bytes: &[u8]) -> Option<Result<&[u8], Malformed>> {
    bytes.strip_prefix(MAGIC).map(|unknown| bytes_at(unknown, 2))
}

/// The type of an event of a watch, and its object.
pub(super) fn event(frame: &[u8]) -> Result<(Cow<'_, str>, &[u8]), Malformed> {
    let object = bytes_at(bytes_at(frame, 2)?, 1)?;
    let object = unwrapped(object).ok_or(Malformed("an event without an object"))??;
    Ok((text(bytes_at(frame, 1)?), object))
}

impl Fields {
    /// Reads an object.
    pub(super) fn read_protobuf(&'static self, message: &[u8]) -> Result<Value, Malformed> {
        value(self, Part::Bytes(message)).map(Option::unwrap_or_default)
    }
}

/// None: what JSON would leave out.
fn value(fields: &'static Fields, part: Part<'_>) -> Result<Option<Value>, Malformed> {
    Ok(match (fields, part) {
        (Fields::Only(fields), Part::Bytes(message)) => {
            Some(Value::Object(object(fields, message)?))
        }
        (Fields::Number, Part::Number(number)) => Some(number.cast_signed().into()),
        (Fields::Flag, Part::Number(number)) => Some((number != 0).into()),
        (Fields::Text, Part::Bytes(bytes)) => {
            (!bytes.is_empty()).then(|| text(bytes).into_owned().into())
        }
        (Fields::Time, Part::Bytes(message)) => time(message)?.map(Value::String),
        (Fields::NumberOrText, Part::Bytes(message)) => {
            static PARTS: Fields = Fields::Only(&[
                ("type", 1, Fields::Number),
                ("number", 2, Fields::Number),
                ("text", 3, Fields::Text),
            ]);
            let mut parts = PARTS.read_protobuf(message)?;
            let is_text = parts["type"] == 1;
            Some(match (is_text, parts[if is_text { "text" } else { "number" }].take()) {
                (true, Value::Null) => "".into(),
                (false, Value::Null) => 0.into(),
                (_, value) => value,
            })
        }
        (Fields::All | Fields::Each(_) | Fields::Keys(_), _) => None,
        _ => return Err(Malformed("a field of another type")),
    })
}

fn object(
    fields: &'static [(&'static str, u64, Fields)],
    message: &[u8],
) -> Result<Map<String, Value>, Malformed> {
    let mut object = Map::new();
    let mut parts = Parts(message);
    while let Some((number, part)) = parts.next()? {
        let Some((name, _, fields)) = fields.iter().find(|(_, at, _)| *at == number) else {
            continue;
        };
        match (fields, part) {
            (Fields::Each(item), part) => {
                // In a list nothing is left out.
                let empty = || if matches!(item, Fields::Text) { "".into() } else { Value::Null };
                let item = value(item, part)?.unwrap_or_else(empty);
                match object.entry(*name).or_insert_with(|| Value::Array(Vec::new())) {
                    Value::Array(items) => items.push(item),
                    _ => return Err(Malformed("a field of another type")),
                }
            }
            (Fields::Keys(is_wanted), Part::Bytes(entry)) => {
                let key = text(bytes_at(entry, 1)?);
                if is_wanted(&key) {
                    let value = text(bytes_at(entry, 2)?).into_owned();
                    let entries = object.entry(*name).or_insert_with(|| Map::new().into());
                    entries[key.as_ref()] = value.into();
                }
            }
            (fields, part) => {
                if let Some(value) = value(fields, part)? {
                    object.insert((*name).to_owned(), value);
                }
            }
        }
    }
    Ok(object)
}

/// What isn't UTF-8 can't be in JSON either; it must not cost the object.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// As in JSON: whole seconds; none: never.
fn time(message: &[u8]) -> Result<Option<String>, Malformed> {
    let mut parts = Parts(message);
    while let Some((number, part)) = parts.next()? {
        if let (1, Part::Number(seconds)) = (number, part) {
            let time = Timestamp::from_second(seconds.cast_signed());
            return time.map(|time| Some(time.to_string())).map_err(|_| Malformed("a time"));
        }
    }
    Ok(None)
}
