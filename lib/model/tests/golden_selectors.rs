//! The selector language agrees with Calico's in every golden case.

#![allow(clippy::expect_used, reason = "in a test a panic is a failure with its place")]

mod golden;

use std::{collections::BTreeMap, fs};

use bulrush_model::selector::Selector;
use golden::Verdicts;
use serde_json::{Value, json};

/// The fields of a case that a selector determines, as we compute them.
fn ours(case: &Value) -> Value {
    let text = case["selector"].as_str().expect("a selector");
    let Ok(selector) = Selector::parse(text) else { return json!({ "ok": false }) };
    let restrictions: BTreeMap<_, _> = selector
        .restrictions()
        .into_iter()
        .map(|(label, it)| {
            let one_of =
                it.one_of.map(|values| values.iter().map(ToString::to_string).collect::<Vec<_>>());
            let restriction = json!({
                "must_be_present": it.must_be_present,
                "must_be_absent": it.must_be_absent,
                "one_of": one_of,
            });
            (label.to_string(), restriction)
        })
        .collect();
    let matches: Vec<_> = evaluations(case)
        .map(|evaluation| {
            let labels: BTreeMap<String, String> =
                serde_json::from_value(evaluation["labels"].clone()).expect("labels");
            selector.matches(&labels)
        })
        .collect();
    json!({
        "ok": true,
        "canonical": selector.to_string(),
        "unique_id": selector.unique_id(),
        "restrictions": restrictions,
        "matches": matches,
    })
}

fn evaluations(case: &Value) -> impl Iterator<Item = &Value> {
    case["evals"].as_array().into_iter().flatten()
}

fn calicos(case: &Value) -> Value {
    if case["ok"] == false {
        return json!({ "ok": false });
    }
    let matches: Vec<_> = evaluations(case).map(|evaluation| &evaluation["match"]).collect();
    let mut expected = json!({ "ok": true, "matches": matches });
    for field in ["canonical", "unique_id", "restrictions"] {
        expected[field] = case[field].clone();
    }
    expected
}

fn canonical(meaning: &Value) -> &str {
    meaning["canonical"].as_str().unwrap_or_default()
}

#[test]
fn every_selector_parses_prints_restricts_and_matches_as_in_calico() {
    let Some(folder) = golden::folder() else { return };
    let text = fs::read_to_string(folder.join("selectors.jsonl")).expect("selectors.jsonl");
    let mut verdicts = Verdicts::new("selectors.jsonl");
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).expect("a case");
        let id = case["id"].as_str().expect("an id");
        let (got, want) = (ours(&case), calicos(&case));
        let fields = want.as_object().expect("an object");
        let disagreements: Vec<String> = fields
            .iter()
            .filter(|(field, value)| got[field.as_str()] != **value)
            .map(|(field, value)| {
                format!("{field} of {}: want {value}, got {}", case["selector"], got[field])
            })
            .collect();
        let (theirs, our) = (canonical(&want), canonical(&got));
        // Our text is a fixed point, and Calico's, read again, is ours.
        for text in [our, theirs] {
            let again = Selector::parse(text).map(|selector| selector.to_string());
            if got["ok"] == true && again.as_deref() != Ok(our) {
                verdicts.wrong(id, &format!("{text:?} is read as {again:?}, not as {our:?}"));
            }
        }
        if got["matches"] != want["matches"] {
            verdicts.wrong(id, &format!("matches {}, not {}", got["matches"], want["matches"]));
        }
        verdicts.judge(id, &disagreements, theirs, our);
    }
    verdicts.finish();
}
