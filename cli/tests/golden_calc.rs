//! `bulrush replay` on clusters whose states Calico's own calculation gave.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../../lib/model/tests/golden/mod.rs"]
mod golden;

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use golden::Verdicts;
use serde_json::{Map, Value, json};

/// Sections that are lists, by what names their items.
const LISTS: [(&str, &str); 2] = [("routes", "dst"), ("vteps", "node")];

fn replay(case: &Path, node: &str) -> Vec<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulrush"));
    let output = command.arg("replay").arg(case).args(["--node", node]).output().unwrap();
    assert!(output.status.success(), "{}: {output:?}", case.display());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A state without what says nothing about a node: the ids that Calico gives its rules for
/// statistics, and which objects its filter takes for missing, which shows in all the rest.
fn comparable(mut state: Value) -> Value {
    for (section, name) in LISTS {
        let items = state[section].as_array().unwrap().iter();
        let items = items.map(|item| (item[name].as_str().unwrap().to_owned(), item.clone()));
        state[section] = Value::Object(items.collect());
    }
    state.as_object_mut().unwrap().remove("validation_dropped");
    without_rule_ids(&mut state);
    state
}

fn without_rule_ids(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("rule_id");
            fields.values_mut().for_each(without_rule_ids);
        }
        Value::Array(items) => items.iter_mut().for_each(without_rule_ids),
        _ => {}
    }
}

/// Where two values differ, down to the last fields of maps.
fn differences(path: &str, ours: &Value, theirs: &Value, found: &mut Vec<(String, Value, Value)>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
                differences(&format!("{path}.{key}"), &ours[key], &theirs[key], found);
            }
        }
        _ if ours == theirs => {}
        _ => found.push((path.to_owned(), ours.clone(), theirs.clone())),
    }
}

/// A value in a few words.
fn brief(value: &Value) -> String {
    let text = match value {
        Value::Null => return "nothing".to_owned(),
        value => value.to_string(),
    };
    match text.char_indices().nth(100) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[test]
fn a_nodes_state_is_what_calico_calculates() {
    let Some(folder) = golden::folder() else { return };
    let mut verdicts = Verdicts::new("calc/*.json");
    let mut files = fs::read_dir(folder.join("calc"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect::<Vec<_>>();
    files.sort();
    for file in files {
        let case: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let id = case["id"].as_str().unwrap();
        let mut found = Vec::new();
        for (node, views) in case["views"].as_object().unwrap() {
            let states = replay(&file, node);
            let steps = case["expected_after"].as_array().unwrap();
            assert_eq!(states.len(), steps.len(), "{id}: a state for each step that is asked for");
            for ((ours, theirs), step) in
                states.into_iter().zip(views.as_array().unwrap()).zip(steps)
            {
                let (ours, theirs) = (comparable(ours), comparable(theirs.clone()));
                let path = format!("{node}, step {step}");
                let mut differ = Vec::new();
                differences(&path, &ours, &theirs, &mut differ);
                // What a newly started Felix shows is as good: ours remembers nothing.
                let fresh = &case["fresh_differs"][node][step.to_string()];
                if let Some(fresh) = fresh.as_object() {
                    let mut state = theirs.as_object().unwrap().clone();
                    let lists = LISTS.map(|(section, _)| (section.to_owned(), json!([])));
                    let mut sections = Map::from_iter(lists);
                    sections.extend(fresh.clone());
                    let sections = comparable(Value::Object(sections));
                    for name in fresh.keys() {
                        state.insert(name.clone(), sections[name].clone());
                    }
                    let mut again = Vec::new();
                    differences(&path, &ours, &Value::Object(state), &mut again);
                    let still = again.iter().map(|(path, ..)| path).collect::<BTreeSet<_>>();
                    differ.retain(|(path, ..)| still.contains(path));
                }
                found.extend(differ);
            }
        }
        let texts = found.iter().map(|(path, ours, theirs)| {
            format!("{path}: ours {}, Calico's {}", brief(ours), brief(theirs))
        });
        let texts = texts.collect::<Vec<_>>();
        let (calico, ours) = found.first().map_or_else(Default::default, |(path, ours, theirs)| {
            let count = found.len();
            (format!("{path}: {}; {count} in all", brief(theirs)), brief(ours))
        });
        verdicts.judge(id, &texts, &calico, &ours);
    }
    verdicts.finish();
}
