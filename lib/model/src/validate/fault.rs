//! What is wrong with an object, and where.

use std::fmt;

use serde_json::Value;

/// The most faults that one object is told of; what comes after them is counted.
pub const MAX_FAULTS: usize = 100;

/// One thing that keeps an object from being valid, or from being written.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// Path of the field, for example `spec.ingress[0].source.nets[1]`; empty: the object itself.
    pub field: String,
    /// What it holds; null: nothing.
    pub value: Value,
    /// What must hold and doesn't.
    pub rule: String,
    /// The way out; empty: the rule says it.
    pub hint: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        if !self.value.is_null() {
            write!(f, "{}: ", shortened(&self.value.to_string()))?;
        }
        f.write_str(&self.rule)?;
        if !self.hint.is_empty() {
            write!(f, "; {}", self.hint)?;
        }
        Ok(())
    }
}

/// A text short enough for a message.
fn shortened(text: &str) -> String {
    match text.char_indices().nth(80) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// Where a value is: the way from the object down, kept on the stack until somebody asks.
#[derive(Clone, Copy)]
pub(super) struct Path<'a> {
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
    pub(super) const ROOT: Self = Path { parent: None, step: Step::Root };

    pub(super) fn field(&'a self, name: &'a str) -> Self {
        Path { parent: Some(self), step: Step::Field(name) }
    }

    pub(super) fn index(&'a self, index: usize) -> Self {
        Path { parent: Some(self), step: Step::Index(index) }
    }

    /// This path and, behind it, a relative one such as `source.nets[1]`.
    fn join(&self, relative: &str) -> String {
        let here = self.to_string();
        if here.is_empty() || relative.is_empty() || relative.starts_with('[') {
            here + relative
        } else {
            format!("{here}.{relative}")
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Index(index) => write!(f, "[{index}]"),
            // A key that isn't a plain name would be read as more of the path.
            Step::Field(name) if !is_plain(name) => write!(f, "[{name:?}]"),
            Step::Field(name) => {
                let is_first = self.parent.is_none_or(|parent| matches!(parent.step, Step::Root));
                write!(f, "{}{name}", if is_first { "" } else { "." })
            }
        }
    }
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// The faults of one object, without repetition, in the order of its fields.
#[derive(Default)]
pub(super) struct Faults {
    list: Vec<FieldError>,
    left_out: usize,
}

impl Faults {
    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Adds one at `path`, or at `relative` below it.
    pub(super) fn add(
        &mut self,
        path: &Path<'_>,
        relative: &str,
        value: &Value,
        rule: impl Into<String>,
        hint: impl Into<String>,
    ) {
        if self.list.len() == MAX_FAULTS {
            self.left_out += 1;
            return;
        }
        let fault = FieldError {
            field: path.join(relative),
            value: value.clone(),
            rule: rule.into(),
            hint: hint.into(),
        };
        if !self.list.contains(&fault) {
            self.list.push(fault);
        }
    }

    /// Adds those of `other` that aren't here yet.
    pub(super) fn merge(&mut self, other: Self) {
        for fault in other.list {
            let is_known = self
                .list
                .iter()
                .any(|known| known.field == fault.field && known.rule == fault.rule);
            if !is_known {
                self.list.push(fault);
            }
        }
        self.left_out += other.left_out;
    }

    pub(super) fn into_list(self) -> Vec<FieldError> {
        let mut list = self.list;
        if self.left_out > 0 {
            list.push(FieldError {
                field: String::new(),
                value: Value::Null,
                rule: format!("{} more faults", self.left_out),
                hint: "repair these first".to_owned(),
            });
        }
        list
    }
}
