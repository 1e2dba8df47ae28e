//! Patches: merge (RFC 7386) and JSON Patch (RFC 6902), applied to a JSON value.

use serde::Deserialize;
use serde_json::{Map, Value};

/// Merges a patch into a value: null removes a field, maps are merged, all else is replaced. It is
/// what a strategic merge does to these kinds, none of whose lists is merged by a key.
pub(crate) fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(fields) = target else { return };
    for (name, value) in patch {
        if value.is_null() {
            fields.remove(&name);
        } else {
            merge(fields.entry(name).or_insert(Value::Null), value);
        }
    }
}

/// One operation of a JSON Patch.
#[derive(Debug, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase", deny_unknown_fields)]
enum Operation {
    Add { path: String, value: Value },
    Remove { path: String },
    Replace { path: String, value: Value },
    Move { from: String, path: String },
    Copy { from: String, path: String },
    Test { path: String, value: Value },
}

/// Carries out a JSON Patch, all of it or nothing.
pub(crate) fn json_patch(target: &mut Value, patch: Value) -> Result<(), String> {
    let operations: Vec<Operation> = serde_json::from_value(patch).map_err(|error| {
        format!(
            "a JSON patch is a list of operations such as \
             [{{\"op\": \"replace\", \"path\": \"/spec/order\", \"value\": 1}}]: {error}"
        )
    })?;
    let mut patched = target.clone();
    for operation in operations {
        match operation {
            Operation::Add { path, value } => add(&mut patched, &path, value)?,
            Operation::Remove { path } => drop(remove(&mut patched, &path)?),
            Operation::Replace { path, value } => {
                *patched.pointer_mut(&path).ok_or_else(|| missing(&path))? = value;
            }
            Operation::Move { from, path } => {
                let value = remove(&mut patched, &from)?;
                add(&mut patched, &path, value)?;
            }
            Operation::Copy { from, path } => {
                let value = patched.pointer(&from).cloned().ok_or_else(|| missing(&from))?;
                add(&mut patched, &path, value)?;
            }
            Operation::Test { path, value } => match patched.pointer(&path) {
                Some(found) if *found == value => {}
                found => {
                    let found = found.map_or_else(|| "not there".to_owned(), Value::to_string);
                    return Err(format!("test {path:?}: it is {found}, not {value}"));
                }
            },
        }
    }
    *target = patched;
    Ok(())
}

fn missing(path: &str) -> String {
    format!("{path:?} is not there; a path is for example /spec/order")
}

/// The map or list that the path ends in, and its last step.
fn parent<'a>(target: &'a mut Value, path: &str) -> Result<(&'a mut Value, String), String> {
    let (parent, last) = path.rsplit_once('/').ok_or_else(|| missing(path))?;
    let parent = target.pointer_mut(parent).ok_or_else(|| missing(path))?;
    Ok((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn add(target: &mut Value, path: &str, value: Value) -> Result<(), String> {
    if path.is_empty() {
        *target = value;
        return Ok(());
    }
    match parent(target, path)? {
        (Value::Object(fields), name) => {
            fields.insert(name, value);
        }
        (Value::Array(items), last) => {
            let index = if last == "-" { Some(items.len()) } else { index(&last) };
            let index = index.filter(|index| *index <= items.len()).ok_or_else(|| missing(path))?;
            items.insert(index, value);
        }
        _ => return Err(missing(path)),
    }
    Ok(())
}

fn remove(target: &mut Value, path: &str) -> Result<Value, String> {
    let removed = match parent(target, path)? {
        (Value::Object(fields), name) => fields.remove(&name),
        (Value::Array(items), last) => {
            index(&last).filter(|index| *index < items.len()).map(|index| items.remove(index))
        }
        _ => None,
    };
    removed.ok_or_else(|| missing(path))
}

/// An index has no sign and no leading zeros.
fn index(step: &str) -> Option<usize> {
    let is_plain = step == "0" || !step.starts_with(['0', '+']);
    step.parse().ok().filter(|_| is_plain)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_merge_replaces_lists_merges_maps_and_removes_nulls() {
        // The examples of RFC 7386, appendix A.
        for (mut target, patch, merged) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (
                json!({"a": {"b": "c"}}),
                json!({"a": {"b": "d", "c": null}}),
                json!({"a": {"b": "d"}}),
            ),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ] {
            merge(&mut target, patch);
            assert_eq!(target, merged);
        }
    }

    #[test]
    fn operations_are_carried_out_in_order_and_only_together() {
        let object = json!({"a": {"b": [1, 2]}, "c/d": 1});
        let patched = |patch: Value| {
            let mut target = object.clone();
            let result = json_patch(&mut target, patch);
            if result.is_err() {
                assert_eq!(target, object, "a failed patch changes nothing");
            }
            result.map(|()| target)
        };
        for (patch, expected) in [
            (
                json!([{"op": "add", "path": "/a/b/1", "value": 9}]),
                json!({"a": {"b": [1, 9, 2]}, "c/d": 1}),
            ),
            (
                json!([{"op": "add", "path": "/a/b/-", "value": 9}]),
                json!({"a": {"b": [1, 2, 9]}, "c/d": 1}),
            ),
            (json!([{"op": "remove", "path": "/c~1d"}]), json!({"a": {"b": [1, 2]}})),
            (
                json!([{"op": "test", "path": "/a/b/0", "value": 1}, {"op": "replace", "path": "/a/b", "value": []}]),
                json!({"a": {"b": []}, "c/d": 1}),
            ),
            (
                json!([{"op": "move", "from": "/a/b/0", "path": "/e"}]),
                json!({"a": {"b": [2]}, "c/d": 1, "e": 1}),
            ),
            (
                json!([{"op": "copy", "from": "/a/b/1", "path": "/a/b/0"}]),
                json!({"a": {"b": [2, 1, 2]}, "c/d": 1}),
            ),
        ] {
            assert_eq!(patched(patch.clone()), Ok(expected), "{patch}");
        }
        for (patch, reason) in [
            (json!({}), "a JSON patch is a list"),
            (json!([{"op": "add", "path": "/x/y", "value": 1}]), "\"/x/y\" is not there"),
            (json!([{"op": "add", "path": "/a/b/3", "value": 1}]), "\"/a/b/3\" is not there"),
            (
                json!([{"op": "remove", "path": "/c~1d"}, {"op": "remove", "path": "/z"}]),
                "\"/z\" is not there",
            ),
            (json!([{"op": "replace", "path": "/a/b/01", "value": 1}]), "is not there"),
            (json!([{"op": "test", "path": "/a/b/0", "value": 2}]), "it is 1, not 2"),
            (json!([{"op": "frob", "path": "/a"}]), "frob"),
        ] {
            let error = patched(patch.clone()).unwrap_err();
            assert!(error.contains(reason), "{patch}: {error}");
        }
    }
}
