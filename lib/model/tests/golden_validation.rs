//! Objects are accepted, refused and stored as Calico does, apart from the listed differences.

#![allow(clippy::expect_used, reason = "in a test a panic is a failure with its place")]

mod golden;

use std::{collections::BTreeMap, fs};

use bulrush_model::{
    Key, Kind, Stored, kinds,
    validate::{FieldError, Verdict, validate},
};
use golden::Verdicts;
use serde_json::Value;

/// The result in the words of the list of differences.
fn in_words(is_valid: bool, stored: Option<&Value>) -> String {
    let valid = if is_valid { "valid" } else { "invalid" };
    let stored = if stored.is_some() { "stored" } else { "refused" };
    format!("{valid}, {stored}")
}

/// What disagrees in a case.
fn disagreements(case: &Value, verdict: &Verdict) -> Vec<String> {
    let stored = Some(&case["defaulted"]).filter(|stored| !stored.is_null());
    let want = in_words(case["valid"] == true, stored);
    let got = in_words(verdict.valid, verdict.defaulted.as_ref());
    let mut wrong = Vec::new();
    if want != got {
        let texts: Vec<_> = verdict.errors.iter().map(FieldError::to_string).collect();
        wrong.push(format!(
            "want {want}, got {got}: {}\n  Calico: {}\n  ours: {texts:?}",
            case["object"], case["error"]
        ));
    } else if let (Some(want), Some(got)) = (stored, &verdict.defaulted)
        && want != got
    {
        wrong.push(format!("want stored {want}\n     got stored {got}\n"));
    }
    // Whoever is refused is told why, and only then.
    let is_fine = verdict.valid && verdict.defaulted.is_some();
    if is_fine != verdict.errors.is_empty() {
        wrong.push(format!("{got} with errors {:?}", verdict.errors));
    }
    wrong
}

#[test]
fn every_object_is_judged_and_stored_as_in_calico() {
    let Some(folder) = golden::folder() else { return };
    let text = fs::read_to_string(folder.join("validation.jsonl")).expect("validation.jsonl");
    let mut verdicts = Verdicts::new("validation.jsonl");
    let mut kinds: BTreeMap<String, [usize; 2]> = BTreeMap::new();
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).expect("a case");
        let id = case["id"].as_str().expect("an id");
        let kind = case["kind"].as_str().expect("a kind");
        let [agree, all] = kinds.entry(kind.to_owned()).or_default();
        *all += 1;
        let verdict = validate(&case["object"], case.get("old"));
        let wrong = disagreements(&case, &verdict);
        *agree += usize::from(wrong.is_empty());
        let stored = Some(&case["defaulted"]).filter(|stored| !stored.is_null());
        let calico = in_words(case["valid"] == true, stored);
        verdicts.judge(id, &wrong, &calico, &in_words(verdict.valid, verdict.defaulted.as_ref()));
    }
    for (kind, [agree, all]) in &kinds {
        println!("{kind}: {agree} of {all} agree");
    }
    verdicts.finish();
}

#[test]
fn objects_of_the_older_api_version_are_read_and_judged_as_those_of_the_newer() {
    let Some(folder) = golden::folder() else { return };
    let text = fs::read_to_string(folder.join("validation.jsonl")).expect("validation.jsonl");
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).expect("a case");
        if !case["object"].is_object() {
            continue;
        }
        let kind: Kind = case["kind"].as_str().expect("a kind").parse().expect("a kind of ours");
        // The one field that has another type in the older one: there it is text.
        if kind == Kind::BlockAffinity && case["object"]["spec"]["deleted"].is_string() {
            continue;
        }
        let [newer, older] = ["projectcalico.org/v3", "crd.projectcalico.org/v1"].map(|version| {
            let mut object = case["object"].clone();
            object["apiVersion"] = version.into();
            let key = Key::namespaced(kind, "ns", "name");
            let read = kinds::decode(&key, &Stored::Json(object.clone()));
            (read, validate(&object, case.get("old")))
        });
        assert_eq!(newer, older, "{}", case["id"]);
    }
}
