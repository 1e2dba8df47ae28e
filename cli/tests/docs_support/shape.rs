//! Whether two outputs are the same but for what differs from run to run.

use serde_json::Value;

/// Lines that are chance: how far something is, and what else the machine did.
const CHANCE: &[&str] = &["waiting: ", "limited by "];

/// Whether what was printed has the shape of what is written: numbers, identities and the width of columns aside. A line
/// `...` is any number of lines.
pub(crate) fn is_same(written: &str, printed: &str) -> bool {
    if let (Ok(written), Ok(printed)) =
        (serde_json::from_str(written), serde_json::from_str(printed))
    {
        return is_same_value(&written, &printed);
    }
    fits(&lines(written), &lines(printed))
}

fn fits(written: &[String], printed: &[String]) -> bool {
    match written.split_first() {
        None => printed.is_empty(),
        Some((line, rest)) if line == "..." => {
            (0..=printed.len()).any(|skipped| fits(rest, &printed[skipped..]))
        }
        Some((line, rest)) => printed.first() == Some(line) && fits(rest, &printed[1..]),
    }
}

fn lines(text: &str) -> Vec<String> {
    let told = text.lines().filter(|line| !CHANCE.iter().any(|it| line.contains(it)));
    told.map(normal).collect()
}

/// What was printed otherwise than is written in lines `ready name=value …`: addresses, which later commands name.
pub(crate) fn addresses(written: &str, printed: &str) -> Vec<(String, String)> {
    let of_line = |text: &str| {
        let line = text.lines().find(|line| line.starts_with("ready ")).unwrap_or_default();
        let values = line.split_whitespace().filter_map(|field| field.split_once('='));
        values.map(|(_, value)| value.to_owned()).collect::<Vec<_>>()
    };
    of_line(written).into_iter().zip(of_line(printed)).collect()
}

/// The same keys, and values of the same types.
fn is_same_value(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.keys().eq(b.keys()) && a.iter().zip(b).all(|(a, b)| is_same_value(a.1, b.1))
        }
        (Value::Array(_), Value::Array(_))
        | (Value::Number(_), Value::Number(_))
        | (Value::String(_), Value::String(_)) => true,
        (a, b) => a == b,
    }
}

/// A line with every number and identity as `#`, and every run of blanks or dashes as one.
pub(crate) fn normal(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line.trim_end();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            ' ' => run(rest, |it| it == ' '),
            '-' => run(rest, |it| it == '-'),
            _ if first.is_ascii_alphanumeric() => run(rest, |it| it.is_ascii_alphanumeric()),
            _ => first.len_utf8(),
        };
        let word = &rest[..length];
        rest = &rest[length..];
        match first {
            ' ' | '-' => out.push(first),
            _ if first.is_ascii_digit() || is_identity(word) => {
                // 127.0.0.1, 3.5 and 2026-11-21 are one thing each.
                if out.ends_with("#.") || out.ends_with("#-") {
                    out.pop();
                } else {
                    out.push('#');
                }
                // The unit of a number.
                if !is_identity(word) {
                    out.push_str(word.trim_start_matches(|it: char| it.is_ascii_digit()));
                }
            }
            _ => out.push_str(word),
        }
    }
    out
}

fn run(text: &str, is_in: impl Fn(char) -> bool) -> usize {
    text.find(|it| !is_in(it)).unwrap_or(text.len())
}

/// Hexadecimal digits that nobody chose.
fn is_identity(word: &str) -> bool {
    word.len() >= 8
        && word.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        && word.bytes().any(|byte| byte.is_ascii_digit())
}

#[test]
fn what_differs_from_run_to_run_is_left_out_and_nothing_else() {
    for (written, printed) in [
        ("ready store=http://127.0.0.1:30517\n", "ready store=http://127.0.0.1:9\n"),
        ("p50 ms      1.25  8f5d28ba\n", "p50 ms   11.5  0e5d28ba  \n"),
        ("age 5s\n", "age 12s\n"),
        ("waiting: a\nb\n", "b\nwaiting: c\nwaiting: d\n"),
        ("a\n...\nc\n", "a\nb\nb\nc\n"),
        ("a\n...\n", "a\n"),
        ("{\"a\": 1, \"b\": [\"x\"]}", "{\n \"b\": [], \"a\": 2.5}"),
    ] {
        assert!(is_same(written, printed), "{written}");
    }
    for (written, printed) in [
        ("yes no\n", "yes yes\n"),
        ("pod-1 x\n", "pod x\n"),
        ("age 5s\n", "age 5m\n"),
        ("a\n", "a\nb\n"),
        ("a\n...\nc\n", "a\nb\n"),
        ("{\"a\": 1}", "{\"a\": 1, \"b\": 2}"),
        ("{\"a\": 1}", "{\"a\": \"1\"}"),
    ] {
        assert!(!is_same(written, printed), "{written}");
    }
}
