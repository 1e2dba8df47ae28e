//! What differs between two states.

use serde_json::{Value, json};

/// Each place where the two differ, with what each has there; null: nothing. A place is a list of fields.
pub(crate) fn of(first: &Value, second: &Value) -> Vec<Value> {
    let mut found = Vec::new();
    collect(&mut Vec::new(), first, second, &mut found);
    found
}

fn collect<'a>(
    path: &mut Vec<&'a str>,
    first: &'a Value,
    second: &'a Value,
    found: &mut Vec<Value>,
) {
    if first == second {
        return;
    }
    let (Value::Object(left), Value::Object(right)) = (first, second) else {
        found.push(json!({ "path": path, "first": first, "second": second }));
        return;
    };
    let more = right.keys().filter(|field| !left.contains_key(*field));
    for field in left.keys().chain(more) {
        path.push(field);
        let of = |object: &'a Value| object.get(field).unwrap_or(&Value::Null);
        collect(path, of(first), of(second), found);
        path.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_named_with_its_place() {
        let first = json!({ "same": [1], "sets": { "a": { "members": ["x"] }, "gone": 1 } });
        let second = json!({ "same": [1], "sets": { "a": { "members": ["y"] }, "new": {} } });
        assert_eq!(of(&first, &first), [] as [Value; 0]);
        assert_eq!(
            of(&first, &second),
            [
                json!({ "path": ["sets", "a", "members"], "first": ["x"], "second": ["y"] }),
                json!({ "path": ["sets", "gone"], "first": 1, "second": null }),
                json!({ "path": ["sets", "new"], "first": null, "second": {} }),
            ]
        );
    }
}
