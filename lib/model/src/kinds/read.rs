//! Reads fields of JSON objects, and names the ones that don't fit.
//!
//! A missing field and `null` are the same: the type's zero, as in Go. A field of the wrong type is
//! an [`Invalid`]; whether it costs the object, a part of it or nothing is the caller's decision.

use std::{cell::RefCell, fmt};

use arcstr::ArcStr;
use serde_json::{Map, Value};

use super::{Invalid, Labels, Texts, show};

/// Where a value lies in its object; becomes text only when something is wrong.
#[derive(Clone, Copy)]
pub(super) struct Path<'a> {
    texts: &'a RefCell<Texts>,
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Index(usize),
}

impl<'a> Path<'a> {
    /// `texts`: what is shared of what lies below.
    pub(super) fn root(texts: &'a RefCell<Texts>) -> Self {
        Self { texts, parent: None, step: Step::Root }
    }

    pub(super) fn field(&'a self, name: &'a str) -> Self {
        Self { texts: self.texts, parent: Some(self), step: Step::Field(name) }
    }

    pub(super) fn index(&'a self, index: usize) -> Self {
        Self { texts: self.texts, parent: Some(self), step: Step::Index(index) }
    }

    /// A text that other objects have too.
    fn shared(&self, text: &str) -> ArcStr {
        self.texts.borrow_mut().get(text)
    }

    /// That the value here is wrong.
    pub(super) fn invalid(&self, value: &Value, reason: impl Into<String>) -> Invalid {
        Invalid { field: self.to_string(), value: show(value), reason: reason.into() }
    }

    /// That a value is missing here.
    pub(super) fn missing(&self, reason: impl Into<String>) -> Invalid {
        Invalid { field: self.to_string(), value: String::new(), reason: reason.into() }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Field(name) if self.parent.is_none_or(|p| matches!(p.step, Step::Root)) => {
                f.write_str(name)
            }
            Step::Field(name) => write!(f, ".{name}"),
            Step::Index(index) => write!(f, "[{index}]"),
        }
    }
}

/// Values in messages are cut after this many characters.
const SHOWN: usize = 80;

pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// The fields of one JSON object.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    path: &'a Path<'a>,
    map: Option<&'a Map<String, Value>>,
    /// The [`bit`]s of the names that are there: most fields that are looked for are not.
    names: u64,
}

/// One of 64 bits. Names rarely share it with another one of their object.
#[inline]
fn bit(name: &str) -> u64 {
    let name = name.as_bytes();
    let first = name.first().copied().unwrap_or(0);
    1 << ((usize::from(first) + 7 * name.len()) % 64)
}

impl<'a> Fields<'a> {
    pub(super) fn empty(path: &'a Path<'a>) -> Self {
        Self { path, map: None, names: 0 }
    }

    pub(super) fn of(path: &'a Path<'a>, value: Option<&'a Value>) -> Result<Self, Invalid> {
        match value {
            None | Some(Value::Null) => Ok(Self::empty(path)),
            Some(Value::Object(map)) => {
                let names = map.keys().fold(0, |names, name| names | bit(name));
                Ok(Self { path, map: Some(map), names })
            }
            Some(other) => Err(path.invalid(other, "must be an object")),
        }
    }

    pub(super) fn map(&self) -> Option<&'a Map<String, Value>> {
        self.map
    }

    /// The path of a field of this object.
    pub(super) fn path(&self, name: &'a str) -> Path<'a> {
        self.path.field(name)
    }

    /// The value of a field that is there and isn't `null`.
    #[inline]
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        if self.names & bit(name) == 0 {
            return None;
        }
        self.map?.get(name).filter(|value| !value.is_null())
    }

    /// None is there.
    pub(super) fn is_empty(&self) -> bool {
        self.names == 0
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The object in a field. `path` is [`Fields::path`] of that field: the caller keeps it.
    pub(super) fn child<'b>(&self, path: &'b Path<'b>) -> Result<Fields<'b>, Invalid>
    where
        'a: 'b,
    {
        let value = match path.step {
            Step::Field(name) => self.get(name),
            Step::Root | Step::Index(_) => None,
        };
        Fields::of(path, value)
    }

    pub(super) fn str(&self, name: &'a str) -> Result<&'a str, Invalid> {
        match self.get(name) {
            None => Ok(""),
            Some(Value::String(text)) => Ok(text),
            Some(other) => Err(self.path(name).invalid(other, "must be text")),
        }
    }

    pub(super) fn text(&self, name: &'a str) -> Result<ArcStr, Invalid> {
        self.str(name).map(ArcStr::from)
    }

    /// A text that other objects have too.
    pub(super) fn shared(&self, name: &'a str) -> Result<ArcStr, Invalid> {
        Ok(match self.str(name)? {
            "" => ArcStr::new(),
            text => self.path.shared(text),
        })
    }

    pub(super) fn flag(&self, name: &'a str) -> Result<Option<bool>, Invalid> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.path(name).invalid(other, "must be true or false")),
        }
    }

    pub(super) fn float(&self, name: &'a str) -> Result<Option<f64>, Invalid> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Number(number)) => Ok(number.as_f64()),
            Some(other) => Err(self.path(name).invalid(other, "must be a number")),
        }
    }

    /// A whole number from `min` to `max`.
    pub(super) fn int<T>(&self, name: &'a str, min: T, max: T) -> Result<Option<T>, Invalid>
    where
        T: TryFrom<u64> + PartialOrd + fmt::Display + Copy,
    {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = value.as_u64().and_then(|number| T::try_from(number).ok());
        match number {
            Some(number) if (min..=max).contains(&number) => Ok(Some(number)),
            _ => Err(self
                .path(name)
                .invalid(value, format!("must be a whole number from {min} to {max}"))),
        }
    }

    pub(super) fn list(&self, name: &'a str) -> Result<&'a [Value], Invalid> {
        match self.get(name) {
            None => Ok(&[]),
            Some(Value::Array(items)) => Ok(items),
            Some(other) => Err(self.path(name).invalid(other, "must be a list")),
        }
    }

    /// Texts that other objects have too.
    pub(super) fn texts(&self, name: &'a str) -> Result<Vec<ArcStr>, Invalid> {
        let path = self.path(name);
        self.list(name)?
            .iter()
            .enumerate()
            .map(|(index, value)| match value {
                Value::String(text) => Ok(path.shared(text)),
                other => Err(path.index(index).invalid(other, "must be text")),
            })
            .collect()
    }

    /// A map from text to text, sorted by key.
    pub(super) fn labels(&self, name: &'a str) -> Result<Labels, Invalid> {
        let path = self.path(name);
        let Some(map) = self.child(&path)?.map else { return Ok(Labels::new()) };
        let mut labels = map
            .iter()
            .map(|(key, value)| match value {
                Value::Null => Ok((path.shared(key), ArcStr::new())),
                Value::String(text) => Ok((path.shared(key), path.shared(text))),
                other => Err(path.field(key).invalid(other, "must be text")),
            })
            .collect::<Result<Labels, Invalid>>()?;
        // `serde_json` sorts its maps, unless another crate asked for their order.
        labels.sort_unstable();
        Ok(labels)
    }
}
