//! JSON values as YAML, spelled as Calico's tools spell it: sorted keys, lists not indented.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// The value as a YAML document, with a newline at its end.
pub(crate) fn to_string(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => block_map(&mut out, map, 0, false),
        Value::Array(items) if !items.is_empty() => block_list(&mut out, items, 0, false),
        other => {
            scalar(&mut out, other, 0);
            out.push('\n');
        }
    }
    out
}

fn indent(out: &mut String, depth: usize) {
    out.extend(std::iter::repeat_n(' ', depth));
}

/// `is_started`: the first line already stands at the right column, after a `- `.
fn block_map(out: &mut String, map: &Map<String, Value>, depth: usize, mut is_started: bool) {
    // They are in the order of their keys.
    for (key, value) in map {
        if !is_started {
            indent(out, depth);
        }
        is_started = false;
        text(out, key);
        out.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                out.push('\n');
                block_map(out, inner, depth + 2, false);
            }
            Value::Array(items) if !items.is_empty() => {
                out.push('\n');
                block_list(out, items, depth, false);
            }
            other => {
                out.push(' ');
                scalar(out, other, depth + 2);
                out.push('\n');
            }
        }
    }
}

fn block_list(out: &mut String, items: &[Value], depth: usize, mut is_started: bool) {
    for item in items {
        if !is_started {
            indent(out, depth);
        }
        is_started = false;
        out.push_str("- ");
        match item {
            Value::Object(inner) if !inner.is_empty() => block_map(out, inner, depth + 2, true),
            Value::Array(inner) if !inner.is_empty() => block_list(out, inner, depth + 2, true),
            other => {
                scalar(out, other, depth + 2);
                out.push('\n');
            }
        }
    }
}

/// A value on one line, but for texts of several lines, which are indented by `depth`.
fn scalar(out: &mut String, value: &Value, depth: usize) {
    match value {
        Value::String(string) if is_block(string) => {
            out.push_str(if string.ends_with('\n') { "|" } else { "|-" });
            for line in string.strip_suffix('\n').unwrap_or(string).split('\n') {
                out.push('\n');
                if !line.is_empty() {
                    indent(out, depth);
                    out.push_str(line);
                }
            }
        }
        Value::String(string) => text(out, string),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        other => {
            // Writing to a String doesn't fail.
            let _ = write!(out, "{other}");
        }
    }
}

/// Whether a text of several lines can be written as a literal block and read back unchanged.
fn is_block(text: &str) -> bool {
    text.contains('\n')
        && !text.starts_with([' ', '\n', '\t'])
        && !text.ends_with("\n\n")
        && text.lines().all(|line| !line.ends_with([' ', '\t']))
        && text.chars().all(|char| char == '\n' || is_printable(char))
}

fn is_printable(char: char) -> bool {
    !char.is_control() && !matches!(char, '\u{feff}' | '\u{2028}' | '\u{2029}')
}

fn text(out: &mut String, string: &str) {
    let is_ascii_printable = string.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if !is_ascii_printable && !string.chars().all(is_printable) {
        // JSON's escapes are YAML's.
        let _ = write!(out, "{}", Value::from(string));
    } else if is_another_type(string) {
        out.extend(["\"", string, "\""]);
    } else if is_plain(string) {
        out.push_str(string);
    } else {
        out.extend(["'", &string.replace('\'', "''"), "'"]);
    }
}

/// Whether YAML 1.1 or 1.2 would take the plain text for a null, boolean, number or time.
fn is_another_type(text: &str) -> bool {
    const WORDS: &[&str] =
        &["", "~", "null", "true", "false", "yes", "no", "on", "off", "y", "n", ".inf", ".nan"];
    // Most texts: no number starts with a letter.
    if text.as_bytes().first().is_some_and(u8::is_ascii_alphabetic) {
        return WORDS.iter().any(|word| word.eq_ignore_ascii_case(text));
    }
    let lower = text.to_ascii_lowercase();
    let unsigned = lower.strip_prefix(['+', '-']).unwrap_or(&lower);
    if WORDS.contains(&lower.as_str()) || unsigned == ".inf" {
        return true;
    }
    let digits = unsigned.replace('_', "");
    let is_radix = [("0x", 16), ("0o", 8), ("0b", 2)].into_iter().any(|(prefix, radix)| {
        digits.strip_prefix(prefix).is_some_and(|rest| u128::from_str_radix(rest, radix).is_ok())
    });
    let starts_numeric = digits.starts_with(|char: char| char.is_ascii_digit() || char == '.');
    // A time starts with its date.
    let is_date = digits.len() >= 8
        && digits.bytes().take(4).all(|byte| byte.is_ascii_digit())
        && digits.as_bytes()[4] == b'-'
        && digits.bytes().all(|byte| byte.is_ascii_digit() || b"-:.tz+ ".contains(&byte))
        && digits.split('-').nth(1).is_some_and(|month| matches!(month.len(), 1 | 2));
    is_radix || is_date || is_base_60(&digits) || (starts_numeric && digits.parse::<f64>().is_ok())
}

/// Whether YAML 1.1 takes it for a number to the base of 60, such as 12:30:45.
fn is_base_60(digits: &str) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|it| it.is_ascii_digit());
    let mut parts = digits.split('.').next().unwrap_or_default().split(':');
    let first = parts.next().is_some_and(is_number);
    let rest: Vec<_> = parts.collect();
    let is_below_60 = |part: &&str| is_number(part) && part.parse::<u8>().is_ok_and(|it| it < 60);
    first && !rest.is_empty() && rest.iter().all(is_below_60)
}

/// Whether a text needs no quotes.
fn is_plain(text: &str) -> bool {
    let first_ok = match text.as_bytes()[0] {
        b'-' | b'?' | b':' => text.as_bytes().get(1).is_some_and(|next| *next != b' '),
        first => !b",[]{}#&*!|>'\"%@`".contains(&first),
    };
    first_ok
        && !text.starts_with([' ', '\t'])
        && !text.ends_with([' ', '\t', ':'])
        && !text.contains(": ")
        && !text.contains(" #")
        && !text.starts_with("---")
        && !text.starts_with("...")
        && text != "="
        && text != "<<"
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn it_looks_as_calicos_does() {
        let value = json!({
            "metadata": {"name": "a", "resourceVersion": "12", "labels": {}},
            "apiVersion": "projectcalico.org/v3",
            "spec": {
                "nets": ["10.0.0.0/8", "fd00::/8"],
                "rules": [{"action": "Allow", "ports": [80, "90:91", "90:51"]}, [1, [2]]],
                "selector": "app == 'web'",
                "interfaceName": "*",
                "time": "2024-01-01T00:00:00Z",
                "uid": "00000000-0000-4000-8000-000000000001",
                "none": null,
                "empty": "",
                "several": "a\nb",
            },
        });
        assert_eq!(
            to_string(&value),
            "apiVersion: projectcalico.org/v3\n\
             metadata:\n  labels: {}\n  name: a\n  resourceVersion: \"12\"\n\
             spec:\n  empty: \"\"\n  interfaceName: '*'\n  nets:\n  - 10.0.0.0/8\n  - fd00::/8\n  \
             none: null\n  rules:\n  - action: Allow\n    ports:\n    - 80\n    - 90:91\n    - \"90:51\"\n  - - 1\n    - - 2\n  \
             selector: app == 'web'\n  several: |-\n    a\n    b\n  time: \"2024-01-01T00:00:00Z\"\n  \
             uid: 00000000-0000-4000-8000-000000000001\n"
        );
    }

    /// Text that is likely to be misread.
    fn string() -> impl Strategy<Value = String> {
        prop_oneof![
            "[-+:#&*!|>'\"%@`{}\\[\\], \t\n~a0-9.exyn_]{0,8}",
            any::<String>(),
            prop::sample::select(vec![
                "yes",
                "No",
                "on",
                "0x1f",
                "1_000",
                "1e3",
                ".5",
                "-.inf",
                "2024-01-01",
                "12:30",
                "0o17",
                "017",
                "null",
                "~",
                "- a",
                "a: b",
                "a #b",
                "---",
                "...",
                "<<",
                "=",
                "\u{2028}",
                "{{a}}",
                "!a",
                "a\n",
                "a\n\n",
                " a\nb",
                "\n",
                "? a",
                "?",
                "-",
                ":",
            ])
            .prop_map(str::to_owned),
        ]
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1_000_000_i32..1_000_000).prop_map(|it| Value::from(f64::from(it) / 8.0)),
            string().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 30, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(string(), inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn what_is_written_is_read_back(value in value()) {
            let text = to_string(&value);
            let read: Value = serde_saphyr::from_str(&text)
                .unwrap_or_else(|error| panic!("{error}\n{text}"));
            prop_assert_eq!(read, value, "{}", text);
        }
    }
}
