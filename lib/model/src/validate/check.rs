//! Applying the rules of a schema to an object as it is written.

use std::{collections::HashSet, sync::LazyLock};

use serde_json::{Map, Value};

use super::{
    fault::{Faults, Path},
    schema::{Check, Keep, Object, Scope, Shape, Type},
};

/// Finds the fields that must be there and aren't. What counts is what was given: a list without
/// items is there, though it isn't written.
pub(super) fn required(
    object: &Object,
    read: &Map<String, Value>,
    path: &Path<'_>,
    faults: &mut Faults,
) {
    static NONE: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
    for field in object.fields {
        let path = path.field(field.name);
        let found = read.get(field.name).unwrap_or(&Value::Null);
        if field.is_required && (found.is_null() || found == "") {
            faults.add(&path, "", found, "must be set", "");
        }
        match (&field.shape.ty, found) {
            (Type::Object(of), Value::Object(read)) => required(of, read, &path, faults),
            (Type::Object(of), _) if field.keep != Keep::IfPresent => {
                required(of, &NONE, &path, faults);
            }
            (Type::List(Shape { ty: Type::Object(of), .. }), Value::Array(items)) => {
                for (index, item) in items.iter().enumerate() {
                    required(of, item.as_object().unwrap_or(&NONE), &path.index(index), faults);
                }
            }
            _ => {}
        }
    }
}

/// Applies all rules of `object` to what is written, those of its fields first.
pub(super) fn object(object: &Object, scope: Scope<'_>, path: &Path<'_>, faults: &mut Faults) {
    for field in object.fields {
        let path = path.field(field.name);
        match scope.fields.get(field.name) {
            None | Some(Value::Null) => {}
            Some(found) => value(&field.shape, found, scope.read, &path, faults),
        }
    }
    for rule in object.rules {
        if let Some(breach) = (rule.breach)(&scope) {
            let found = find(scope.fields, &breach.at);
            faults.add(path, &breach.at, found, rule.says, breach.hint);
        }
    }
}

/// Applies the rules of a shape to one value.
pub(super) fn value(
    shape: &Shape,
    found: &Value,
    read: &Map<String, Value>,
    path: &Path<'_>,
    faults: &mut Faults,
) {
    for check in shape.checks {
        if let Some((rule, hint)) = breach(check, found) {
            faults.add(path, "", found, rule, hint);
        }
    }
    match (&shape.ty, found) {
        (Type::Object(of), Value::Object(fields)) => {
            object(of, Scope { fields, read }, path, faults);
        }
        (Type::List(items), Value::Array(found)) => {
            for (index, found) in found.iter().enumerate() {
                value(items, found, read, &path.index(index), faults);
            }
        }
        (Type::Map(values), Value::Object(found)) if !values.checks.is_empty() => {
            for (key, found) in found {
                value(values, found, read, &path.field(key), faults);
            }
        }
        _ => {}
    }
}

/// What is left of a word when case, dashes and blanks don't count: `Cross-SubNet` is `CrossSubnet`.
fn letters(word: &str) -> impl Iterator<Item = char> {
    word.chars().filter(|char| char.is_alphanumeric()).map(|char| char.to_ascii_lowercase())
}

/// The rule and the way out, where the check fails.
fn breach(check: &Check, found: &Value) -> Option<(String, String)> {
    let text = found.as_str();
    let items = found.as_array();
    match check {
        Check::OneOf(allowed) => {
            let text = text.filter(|text| !allowed.contains(text))?;
            let alike = allowed.iter().find(|allowed| letters(allowed).eq(letters(text)));
            let hint = alike.map(|alike| format!("did you mean {alike}?")).unwrap_or_default();
            Some((format!("must be one of {}", allowed.join(", ")), hint))
        }
        Check::Pattern(pattern) => {
            text.filter(|text| !pattern.matches(text))?;
            Some((format!("must match {}", pattern.text), String::new()))
        }
        Check::MaxLength(max) => {
            let length = text?.chars().count();
            let hint = format!("it has {length}");
            (length > *max).then(|| (format!("must have at most {max} characters"), hint))
        }
        Check::Range(min, max) => {
            let number = found.as_f64()?;
            let is_within = (*min as f64..=*max as f64).contains(&number);
            (!is_within).then(|| (format!("must be from {min} to {max}"), String::new()))
        }
        Check::MinItems(min) => (items?.len() < *min)
            .then(|| (format!("must have at least {min} items"), String::new())),
        Check::MaxItems(max) => {
            let count = items?.len();
            (count > *max)
                .then(|| (format!("must have at most {max} items"), format!("it has {count}")))
        }
        Check::Unique => {
            let mut seen = HashSet::new();
            let twice = items?.iter().find(|item| !seen.insert(item.to_string()))?;
            Some(("must have no item twice".to_owned(), format!("{twice} is there again")))
        }
        Check::Is(format) => {
            let hint = (format.breach)(found)?;
            Some((format!("must be {}", format.says), hint))
        }
    }
}

/// What is at a relative path such as `source.nets[1]`; null: nothing.
fn find<'a>(fields: &'a Map<String, Value>, path: &str) -> &'a Value {
    static NULL: Value = Value::Null;
    let mut found: Option<&Value> = None;
    for step in path.split(['.', '[']).filter(|step| !step.is_empty()) {
        let next = match (found, step.trim_end_matches(']')) {
            (None, name) => fields.get(name),
            (Some(Value::Object(fields)), name) => fields.get(name),
            (Some(Value::Array(items)), index) => {
                index.parse::<usize>().ok().and_then(|index| items.get(index))
            }
            _ => None,
        };
        let Some(next) = next else { return &NULL };
        found = Some(next);
    }
    found.unwrap_or(&NULL)
}
