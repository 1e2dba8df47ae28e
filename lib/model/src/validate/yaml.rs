//! JSON values as YAML that people can read: blocks, sorted keys, texts as in JSON.

use std::fmt::Write;

use serde_json::Value;

/// The value as one YAML document, with a newline at its end.
pub fn document(value: &Value) -> String {
    let mut out = String::new();
    block(&mut out, value, 0);
    out.trim_start_matches('\n').to_owned() + "\n"
}

/// Writes what stands behind `key:` or `- `, from the middle of a line to the end of the last.
fn block(out: &mut String, value: &Value, depth: usize) {
    let margin = "  ".repeat(depth);
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(key, _)| *key);
            for (index, (key, value)) in fields.into_iter().enumerate() {
                // The first key of an item stands behind its dash.
                if index > 0 || !out.ends_with("- ") {
                    let _ = write!(out, "\n{margin}");
                }
                let _ = write!(out, "{}:", plain(key));
                block(out, value, depth + 1);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            let margin = "  ".repeat(depth.saturating_sub(1));
            for item in items {
                let _ = write!(out, "\n{margin}- ");
                match item {
                    // JSON is YAML.
                    Value::Array(_) => out.push_str(&item.to_string()),
                    _ => block(out, item, depth),
                }
            }
        }
        scalar => {
            if !out.ends_with("- ") {
                out.push(' ');
            }
            match scalar {
                Value::String(text) => out.push_str(&plain(text)),
                other => {
                    let _ = write!(out, "{other}");
                }
            }
        }
    }
}

/// The text without quotes where YAML can't take it for anything else.
fn plain(text: &str) -> String {
    let is_word = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-./_".contains(&byte));
    let starts_well = text.starts_with(|first: char| first.is_ascii_alphabetic());
    let words = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let is_keyword = words.contains(&text.to_ascii_lowercase().as_str());
    if is_word && starts_well && !is_keyword {
        text.to_owned()
    } else {
        Value::from(text).to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_is_made_of_blocks_and_texts_keep_their_type() {
        let value = json!({
            "b": [{"x": 1, "a": {"z": []}}, "true", ["in"], {}],
            "a": {"$ref": "on", "name": "v1.2"},
            "c": "a: b",
        });
        let want = "a:\n  \"$ref\": \"on\"\n  name: v1.2\nb:\n- a:\n    z: []\n  x: 1\n- \"true\"\n- [\"in\"]\n- {}\nc: \"a: b\"\n";
        assert_eq!(document(&value), want);
    }
}
