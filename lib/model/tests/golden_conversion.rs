//! Kubernetes objects become the same Calico objects here as in Calico, in every golden case.

#![allow(clippy::expect_used, reason = "in a test a panic is a failure with its place")]

#[path = "golden/conversion.rs"]
mod conversion;
mod golden;

use bulrush_model::translate::translate;
use conversion::Answer;
use serde_json::{Value, json};

#[test]
fn every_object_is_translated_as_in_calico() {
    conversion::judge(|objects| {
        let answers = objects.iter().map(|object| {
            let translation = translate(object);
            Answer { objects: translation.objects, errors: translation.faults.len() }
        });
        answers.collect()
    });
}

#[test]
fn no_value_in_any_place_is_too_much() {
    let strange = [
        Value::Null,
        json!(-1),
        json!(1e300),
        json!("\u{0}'\"<nil>"),
        json!([[], null]),
        json!({ "": {} }),
    ];
    for object in conversion::objects() {
        for place in places(&object, String::new()) {
            for value in &strange {
                let mut object = object.clone();
                *object.pointer_mut(&place).expect("a place") = value.clone();
                let translation = translate(&object);
                for object in &translation.objects {
                    assert!(object["spec"].is_object(), "{place} as {value}: {object}");
                }
            }
        }
    }
}

/// The pointers to all values in it.
fn places(value: &Value, place: String) -> Vec<String> {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(fields) => {
            let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
            fields.iter().map(|(key, value)| (escaped(key), value)).collect()
        }
        Value::Array(items) => {
            items.iter().enumerate().map(|(index, item)| (index.to_string(), item)).collect()
        }
        _ => Vec::new(),
    };
    let below =
        children.into_iter().flat_map(|(key, child)| places(child, format!("{place}/{key}")));
    let below: Vec<String> = below.collect();
    [vec![place], below].concat()
}
