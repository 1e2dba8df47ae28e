//! Collects what of an object can't be translated, with the place of each fault.

use std::fmt::Write as _;

use serde_json::Value;

use super::decode::{Unknown, shown};
use crate::kinds::Invalid;

/// The faults found so far, and the place where the translation is now.
pub(super) struct Report {
    path: Vec<Step>,
    /// What follows from a fault found now; empty: nothing that is said.
    consequence: &'static str,
    is_strict: bool,
    faults: Vec<Invalid>,
}

/// A field or an index on the way to a value.
#[derive(Clone, Copy)]
pub(super) enum Step {
    Field(&'static str),
    Index(usize),
}

impl From<&'static str> for Step {
    fn from(field: &'static str) -> Self {
        Self::Field(field)
    }
}

impl From<usize> for Step {
    fn from(index: usize) -> Self {
        Self::Index(index)
    }
}

impl Report {
    pub(super) fn new() -> Self {
        Self { path: Vec::new(), consequence: "", is_strict: false, faults: Vec::new() }
    }

    /// For whoever refuses the object, as an API server does: of what would become of it nothing is said.
    pub(super) fn strict() -> Self {
        Self { is_strict: true, ..Self::new() }
    }

    /// Notes what an API server refuses of the value here, and what is translated all the same.
    pub(super) fn refuse(&mut self, value: impl Into<Value>, reason: impl Into<String>) {
        if self.is_strict {
            self.fault(value, reason);
        }
    }

    /// Goes into a field or an item.
    pub(super) fn at<T>(&mut self, step: impl Into<Step>, then: impl FnOnce(&mut Self) -> T) -> T {
        self.path.push(step.into());
        let result = then(self);
        self.path.pop();
        result
    }

    /// Says with each fault that is found inside what follows from it.
    pub(super) fn with_consequence<T>(
        &mut self,
        consequence: &'static str,
        then: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let outer = std::mem::replace(&mut self.consequence, consequence);
        let result = then(self);
        self.consequence = outer;
        result
    }

    /// Notes that the value here can't be translated, and what would be right.
    pub(super) fn fault(&mut self, value: impl Into<Value>, reason: impl Into<String>) {
        let value = value.into();
        let value = if value.is_null() { String::new() } else { shown(&value) };
        let field = self.place();
        // What was refused already needn't be said in other words.
        if self.is_strict
            && self
                .faults
                .iter()
                .any(|it| it.field == field && it.value == value && !value.is_empty())
        {
            return;
        }
        let mut reason = reason.into();
        if !self.is_strict && !self.consequence.is_empty() {
            // Writing to a String can't fail.
            let _ = write!(reason, "; {}", self.consequence);
        }
        self.faults.push(Invalid { field, value, reason });
    }

    /// Notes fields of what is here that are not known; whether there are none.
    pub(super) fn knows_all(&mut self, unknown: &[Unknown]) -> bool {
        let place = self.place();
        for it in unknown {
            self.fault(Value::Null, it.reason());
            if let Some(fault) = self.faults.last_mut() {
                fault.field = format!("{place}.{}", it.field);
            }
        }
        unknown.is_empty()
    }

    fn place(&self) -> String {
        let mut place = String::new();
        for step in &self.path {
            let _ = match step {
                Step::Field(name) if place.is_empty() => write!(place, "{name}"),
                Step::Field(name) => write!(place, ".{name}"),
                Step::Index(index) => write!(place, "[{index}]"),
            };
        }
        place
    }

    pub(super) fn into_faults(self) -> Vec<Invalid> {
        self.faults
    }
}
