//! `bulrush` in calicoctl's place: what it prints and what it stores, on every store at hand.

#![allow(clippy::expect_used, reason = "in a test a panic is a failure with its place")]

#[path = "../../lib/model/tests/golden/mod.rs"]
mod golden;
mod store_support;

use std::{fs, path::Path};

use golden::Verdicts;
use serde_json::{Map, Value};
use store_support::{Contents, Run, Store};

/// The commands that exist; the cases of others are left out.
const COMMANDS: &[&str] = &[
    "get",
    "apply",
    "create",
    "replace",
    "validate",
    "delete",
    "patch",
    "label",
    "version",
    "datastore",
];
/// Those of `ipam`.
const IPAM_COMMANDS: &[&str] = &["show", "configure", "release", "split"];

fn cases(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("the cases");
    text.lines().map(|line| serde_json::from_str(line).expect("a case")).collect()
}

fn text<'a>(case: &'a Value, field: &str) -> &'a str {
    case[field].as_str().unwrap_or_default()
}

/// A map of paths to values; none: the key is gone.
fn changes(value: &Value) -> Map<String, Value> {
    let Value::Object(map) = with_placeholders(value) else { return Map::new() };
    map
}

/// The value with its uids, times and cluster identities as the cases write them.
fn with_placeholders(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let fields = map.iter().map(|(name, value)| {
                let value = match name.as_str() {
                    "uid" => Value::from("<uid>"),
                    "creationTimestamp" => Value::from("<time>"),
                    "clusterGUID" => Value::from("<guid>"),
                    _ => with_placeholders(value),
                };
                (name.clone(), value)
            });
            Value::Object(fields.collect())
        }
        Value::Array(items) => items.iter().map(with_placeholders).collect(),
        Value::String(text) if is_time(text) => "<time>".into(),
        other => other.clone(),
    }
}

/// Whether it is a time such as 2024-01-01T00:00:00Z.
fn is_time(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= 20
        && bytes[..4].iter().all(u8::is_ascii_digit)
        && (bytes[4], bytes[10], bytes[bytes.len() - 1]) == (b'-', b'T', b'Z')
}

/// What differs between two states, as the cases have it.
fn changed(before: &Contents, after: &Contents) -> Map<String, Value> {
    let mut changed = Map::new();
    for path in before.keys().chain(after.keys()) {
        let [old, new] = [before, after].map(|it| it.get(path).map(with_placeholders));
        if old != new {
            changed.insert(path.clone(), new.unwrap_or(Value::Null));
        }
    }
    changed
}

/// stdout with its resource versions as the cases write them.
fn without_revisions(stdout: &str) -> String {
    let lines = stdout.split('\n').map(|line| match line.split_once("resourceVersion") {
        Some((before, after)) => {
            let (colon, rest) = after.split_at(after.find(' ').map_or(0, |at| at + 1));
            let end = if rest.ends_with(',') { "," } else { "" };
            format!("{before}resourceVersion{colon}\"<rev>\"{end}")
        }
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Exit code and last line: what a case's result is called in the list of differences.
fn brief(code: i64, stdout: &str) -> String {
    let last = stdout.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    let words: Vec<_> = last.split_whitespace().collect();
    format!("exit {code}: {}", words.join(" "))
}

/// The case was written with blanks and dashes reduced.
fn collapsed(stdout: &str) -> String {
    let mut out = String::new();
    for char in stdout.chars() {
        if !(matches!(char, ' ' | '-') && out.ends_with(char)) {
            out.push(char);
        }
    }
    out
}

fn is_same_output(want: &str, got: &str) -> bool {
    let parsed = |text| serde_json::from_str::<Value>(text).ok();
    want == got || parsed(want).is_some_and(|want| parsed(got) == Some(want))
}

#[test]
fn it_prints_and_changes_what_calicoctl_does() {
    let Some(folder) = golden::folder() else { return };
    let folder = folder.join("store");
    let state = fs::read_to_string(folder.join("calicoctl-state.json")).expect("the state");
    let state: Value = serde_json::from_str(&state).expect("JSON");
    let state: Contents = serde_json::from_value(state["kvs"].clone()).expect("kvs");
    for store in Store::all() {
        println!("on {}", store.label);
        let mut verdicts = Verdicts::new("store/calicoctl-output.jsonl");
        for case in cases(&folder.join("calicoctl-output.jsonl")) {
            let arguments: Vec<&str> =
                case["argv"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            let is_there = COMMANDS.contains(&arguments[0])
                || arguments[0] == "ipam" && IPAM_COMMANDS.contains(&arguments[1]);
            // Nobody imitates a crash.
            if !is_there || case["crash"] == true {
                continue;
            }
            let mut contents = state.clone();
            for (path, value) in case["setup"].as_object().into_iter().flatten() {
                match value {
                    Value::Null => drop(contents.remove(path)),
                    value => drop(contents.insert(path.clone(), value.clone())),
                }
            }
            store.reset(&contents);
            let run = run_case(&store, &case, &arguments);
            let got = changed(&contents, &store.contents());
            let want = changes(&case["changed_kvs"]);
            let code = case["exit"].as_i64().expect("a code");
            let mut stdout = without_revisions(&run.stdout);
            if case["whitespace_collapsed"] == true {
                stdout = collapsed(&stdout);
            }
            let mut disagreements = Vec::new();
            if run.code.map(i64::from) != Some(code) {
                disagreements.push(format!("exit {:?}, not {code}: {}", run.code, run.stderr));
            }
            // calicoctl says some errors on stdout; the version is ours.
            let is_error =
                ["Error ", "Failed "].iter().any(|it| text(&case, "stdout").starts_with(it));
            let is_compared = match arguments[0] {
                "get" => !is_error,
                "version" => false,
                _ => code == 0,
            };
            if is_compared && !is_same_output(text(&case, "stdout"), &stdout) {
                disagreements.push(format!("want\n{}got\n{stdout}", text(&case, "stdout")));
            }
            if want != got {
                disagreements.push(format!("want changes {want:?}, got {got:?}"));
            }
            let ours = brief(run.code.unwrap_or(-1).into(), &stdout);
            let theirs = brief(code, text(&case, "stdout"));
            verdicts.judge(text(&case, "id"), &disagreements, &theirs, &ours);
        }
        verdicts.finish();
    }
}

fn run_case(store: &Store, case: &Value, arguments: &[&str]) -> Run {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in case["files"].as_object().into_iter().flatten() {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, text.as_str().expect("text")).expect("a file");
    }
    let variables = case["env"].as_object().into_iter().flatten();
    let environment: Vec<(&str, &str)> = variables
        .map(|(name, value)| {
            let value = value.as_str().expect("text");
            // The address of the etcd of then.
            let is_address = name.ends_with("ETCD_ENDPOINTS") && !value.is_empty();
            (name.as_str(), if is_address { store.endpoint.as_str() } else { value })
        })
        .collect();
    store.bulrush_in(folder.path(), arguments, text(case, "stdin"), &environment)
}

#[test]
fn it_accepts_and_stores_what_calicoctl_does() {
    let Some(folder) = golden::folder() else { return };
    let folder = folder.join("store");
    let initial = fs::read_to_string(folder.join("init-state.json")).expect("the initial keys");
    let initial: Contents = serde_json::from_str(&initial).expect("JSON");
    for store in Store::all() {
        println!("on {}", store.label);
        let mut verdicts = Verdicts::new("store/resources.jsonl");
        for case in cases(&folder.join("resources.jsonl")) {
            let command = text(&case, "command");
            if !COMMANDS.contains(&command) {
                continue;
            }
            store.reset(&Contents::new());
            for before in case["before"].as_array().into_iter().flatten() {
                let manifest = before["manifest"].to_string();
                let run = store.bulrush(&[text(before, "command"), "-f", "-"], &manifest);
                assert_eq!(run.code, Some(0), "{}: {run:?}", text(&case, "id"));
            }
            let before = store.contents();
            let manifest = match &case["manifest_text"] {
                Value::String(text) => text.clone(),
                _ => case["manifest"].to_string(),
            };
            let mut arguments = vec![command, "-f", "-"];
            arguments
                .extend(case["args"].as_array().into_iter().flatten().filter_map(Value::as_str));
            let run = store.bulrush(&arguments, &manifest);
            let accepted = run.code == Some(0);
            let got = stored(&case, &initial, &changed(&before, &store.contents()));
            let want = wanted(&case);
            let mut disagreements = Vec::new();
            if case["accepted"] != accepted {
                let theirs = text(&case, "message");
                disagreements.push(format!(
                    "accepted: {accepted}; Calico says {theirs:?}, we say {:?}",
                    run.stderr
                ));
            } else if want != got && !(command == "apply" && is_unchanged(&want, &before)) {
                disagreements.push(format!("want {want:?}\ngot  {got:?}"));
            }
            let said = |accepted: bool, stored: &Map<String, Value>| {
                let paths: Vec<_> = stored.keys().map(String::as_str).collect();
                format!("{} {}", if accepted { "accepted" } else { "refused" }, paths.join(" "))
                    .trim()
                    .to_owned()
            };
            let theirs = said(case["accepted"] == true, &want);
            verdicts.judge(text(&case, "id"), &disagreements, &theirs, &said(accepted, &got));
        }
        verdicts.finish();
    }
}

/// What the case says about the store.
fn wanted(case: &Value) -> Map<String, Value> {
    let mut wanted = changes(&case["kvs"]);
    if wanted.is_empty() && !case["value"].is_null() {
        wanted.insert(text(case, "key").to_owned(), with_placeholders(&case["value"]));
    }
    for path in case["deleted_keys"].as_array().into_iter().flatten() {
        wanted.insert(path.as_str().expect("a path").to_owned(), Value::Null);
    }
    wanted
}

/// What changed, without the keys that any first write creates unless the case is about them.
fn stored(case: &Value, initial: &Contents, changed: &Map<String, Value>) -> Map<String, Value> {
    let wanted = wanted(case);
    let is_noise = |path: &String| initial.contains_key(path) && !wanted.contains_key(path);
    changed
        .iter()
        .filter(|(path, _)| !is_noise(path))
        .map(|(path, value)| (path.clone(), value.clone()))
        .collect()
}

/// Whether what is wanted was there before, so that writing it again changed nothing to see.
fn is_unchanged(wanted: &Map<String, Value>, before: &Contents) -> bool {
    wanted
        .iter()
        .all(|(path, value)| before.get(path).map(with_placeholders).as_ref() == Some(value))
}
