//! Writing an object that was read, as Go's encoder writes Calico's types.

use serde_json::{Map, Value};

use super::{
    decode::zero,
    schema::{Field, Keep, Literal, Object, Type},
};

/// The object as it is written: zero values are left out or filled in, field by field.
pub(super) fn object(object: &Object, read: &Map<String, Value>) -> Map<String, Value> {
    let mut written = Map::new();
    for field in object.fields {
        if let Some(value) = field_value(field, read.get(field.name)) {
            written.insert(field.name.to_owned(), value);
        }
    }
    written
}

fn field_value(field: &Field, read: Option<&Value>) -> Option<Value> {
    let ty = &field.shape.ty;
    let is_kept = match field.keep {
        Keep::Always => true,
        Keep::IfPresent => read.is_some(),
        Keep::UnlessZero => read.is_some_and(|value| !is_zero(ty, value)),
        // Go never leaves out a struct for being empty.
        Keep::UnlessEmpty => {
            matches!(ty, Type::Object(_)) || read.is_some_and(|value| !is_empty(value))
        }
    };
    is_kept.then(|| match read {
        Some(read) => self::value(ty, read),
        None => self::value(ty, &zero(ty)),
    })
}

fn value(ty: &Type, read: &Value) -> Value {
    match (ty, read) {
        (Type::Object(of), Value::Object(read)) => object(of, read).into(),
        (Type::List(items), Value::Array(read)) => {
            read.iter().map(|read| value(&items.ty, read)).collect()
        }
        _ => read.clone(),
    }
}

/// Whether Go's `omitempty` leaves it out.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

/// Whether it is Go's zero value: an empty list is not, it is a list.
fn is_zero(ty: &Type, value: &Value) -> bool {
    match (ty, value) {
        (_, Value::Null) => true,
        (Type::Object(object), Value::Object(fields)) => object.fields.iter().all(|field| {
            let value = fields.get(field.name);
            value.is_none_or(|value| {
                field.keep != Keep::IfPresent && is_zero(&field.shape.ty, value)
            })
        }),
        (_, Value::Array(_) | Value::Object(_)) => false,
        _ => is_empty(value),
    }
}

/// Fills in the defaults of the schema where nothing is written, at every depth.
pub(super) fn fill_in(object: &Object, written: &mut Map<String, Value>) {
    for field in object.fields {
        if let Some(default) = field.default
            && written.get(field.name).is_none_or(Value::is_null)
        {
            let default = match default {
                Literal::Text(text) => text.into(),
                Literal::Int(number) => number.into(),
                Literal::Bool(value) => value.into(),
            };
            written.insert(field.name.to_owned(), default);
        }
        match (&field.shape.ty, written.get_mut(field.name)) {
            (Type::Object(object), Some(Value::Object(written))) => fill_in(object, written),
            (Type::List(items), Some(Value::Array(written))) => {
                let Type::Object(object) = items.ty else { continue };
                for item in written.iter_mut().filter_map(Value::as_object_mut) {
                    fill_in(object, item);
                }
            }
            _ => {}
        }
    }
}
