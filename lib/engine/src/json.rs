//! Objects as canonical JSON: sorted keys, and nothing that differs between stores.

use std::fmt::Write;

use serde_json::{Map, Value};

/// Metadata that a store makes itself.
const OF_THE_STORE: &[&str] =
    &["uid", "resourceVersion", "managedFields", "creationTimestamp", "generation"];

/// Writes a whole object, without the metadata that its store makes.
pub(crate) fn object(out: &mut String, value: &Value) {
    let Value::Object(fields) = value else {
        write(out, value);
        return;
    };
    map(out, fields, |out, key, value| match value {
        Value::Object(metadata) if key == "metadata" => {
            let kept = |name: &str| !OF_THE_STORE.contains(&name);
            map_where(out, metadata, kept, |out, _, value| write(out, value));
        }
        _ => write(out, value),
    });
}

/// A part of an object, as it is.
pub(crate) fn canonical(value: &Value) -> String {
    let mut out = String::new();
    write(&mut out, value);
    out
}

fn write(out: &mut String, value: &Value) {
    match value {
        Value::Object(fields) => map(out, fields, |out, _, value| write(out, value)),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write(out, item);
            }
            out.push(']');
        }
        Value::String(text) => string(out, text),
        Value::Null => out.push_str("null"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => {
            // Writing to a string can't fail.
            let _ = write!(out, "{number}");
        }
    }
}

fn map(out: &mut String, fields: &Map<String, Value>, value: impl Fn(&mut String, &str, &Value)) {
    map_where(out, fields, |_| true, value);
}

fn map_where(
    out: &mut String,
    fields: &Map<String, Value>,
    keep: impl Fn(&str) -> bool,
    write_value: impl Fn(&mut String, &str, &Value),
) {
    // `serde_json` sorts its maps, unless another crate of the build asked for their order.
    let sorted = fields.keys().is_sorted();
    let mut write_all = |entries: &mut dyn Iterator<Item = (&String, &Value)>| {
        out.push('{');
        let mut first = true;
        for (key, value) in entries.filter(|(key, _)| keep(key)) {
            if !first {
                out.push(',');
            }
            first = false;
            string(out, key);
            out.push(':');
            write_value(out, key, value);
        }
        out.push('}');
    };
    if sorted {
        write_all(&mut fields.iter());
    } else {
        let mut entries = fields.iter().collect::<Vec<_>>();
        entries.sort_unstable_by_key(|(key, _)| *key);
        write_all(&mut entries.into_iter());
    }
}

fn string(out: &mut String, text: &str) {
    if is_plain(text.as_bytes()) {
        out.reserve(text.len() + 2);
        out.push('"');
        out.push_str(text);
        out.push('"');
    } else {
        // Escapes as `serde_json` writes them.
        let _ = write!(out, "{}", Value::from(text));
    }
}

/// Nothing of it has to be escaped.
fn is_plain(text: &[u8]) -> bool {
    let Some(last) = text.last_chunk::<8>() else {
        return text.iter().all(|b| *b >= 0x20 && *b != b'"' && *b != b'\\');
    };
    // The last bytes may be looked at twice.
    text.as_chunks::<8>().0.iter().chain([last]).all(|word| eight_are_plain(*word))
}

/// The same of eight bytes at once. What is below a limit borrows from the highest bit of its byte, and where the first
/// such byte is, is right.
fn eight_are_plain(text: [u8; 8]) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = ONES << 7;
    let word = u64::from_le_bytes(text);
    let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit) & !word;
    let is = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    (below(word, 0x20) | is(b'"') | is(b'\\')) & HIGH == 0
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_has_to_be_escaped_is_found_anywhere() {
        for length in 0..20 {
            assert!(is_plain(&vec![b'~'; length]) && is_plain(&vec![0xff; length]));
            for place in 0..length {
                for byte in 0..=u8::MAX {
                    let mut text = vec![b'a'; length];
                    text[place] = byte;
                    let plain = byte >= 0x20 && byte != b'"' && byte != b'\\';
                    assert_eq!(is_plain(&text), plain, "{byte} at {place} of {length}");
                }
            }
        }
    }

    #[test]
    fn an_object_is_written_without_what_its_store_adds() {
        let value = json!({
            "spec": {"b": [1, 2.5, null, true], "a": "x\"\\\n\u{7f}é"},
            "metadata": {
                "uid": "u", "resourceVersion": "7", "generation": 1, "name": "n",
                "creationTimestamp": null, "managedFields": [], "labels": {"uid": "kept"},
            },
            "kind": "K",
        });
        let object = |value: &Value| {
            let mut text = String::new();
            object(&mut text, value);
            text
        };
        assert_eq!(
            object(&value),
            r#"{"kind":"K","metadata":{"labels":{"uid":"kept"},"name":"n"},"spec":{"a":"x\"\\\n"#
                .to_owned()
                + "\u{7f}é\",\"b\":[1,2.5,null,true]}}"
        );
        for other in [json!(null), json!([]), json!("x")] {
            assert_eq!(object(&other), other.to_string());
        }
    }
}
