//! The pattern that CRDs have for selectors takes every selector, and refuses most of the rest.

#![allow(clippy::expect_used, reason = "in a test a panic is a failure with its place")]

mod golden;

use std::fs;

use bulrush_model::{
    Kind,
    validate::{crd, schemas},
};
use regex::Regex;
use serde_json::Value;

#[test]
fn an_api_server_takes_every_selector_and_refuses_most_other_texts() {
    let Some(folder) = golden::folder() else { return };
    let schema = schemas().find(|schema| schema.kind == Kind::NetworkPolicy).expect("a schema");
    let definition = crd::definition(schema).expect("a definition");
    let pattern = definition.pointer(
        "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/selector/pattern",
    );
    let pattern = Regex::new(pattern.and_then(Value::as_str).expect("a pattern")).expect("one");
    let text = fs::read_to_string(folder.join("selectors.jsonl")).expect("selectors.jsonl");
    let (mut refused, mut passed) = (0, Vec::new());
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).expect("a case");
        let selector = case["selector"].as_str().expect("a selector");
        let matches = pattern.is_match(selector);
        if case["ok"] == true {
            assert!(matches, "{}: {selector}", case["id"]);
        } else if matches {
            passed.push(selector.to_owned());
        } else {
            refused += 1;
        }
    }
    println!("{refused} are refused, {} of those that aren't selectors pass", passed.len());
    // Those with parentheses that don't match, or labels that are too long.
    assert!(passed.len() * 20 < refused, "of {refused} these pass: {passed:#?}");
}
