//! `bulrush selector`, run as people and scripts run it.

#![allow(clippy::expect_used, reason = "in a test a panic is a failure with its place")]

mod batch;
#[path = "../../lib/model/tests/golden/mod.rs"]
mod golden;

use std::{
    fs,
    process::{Command, Output},
};

use golden::Verdicts;
use serde_json::{Value, json};

/// Runs `bulrush selector` with these arguments and this input.
fn selector(args: &[&str], input: &str) -> Output {
    batch::run("selector", args, input)
}

#[test]
fn a_batch_answers_every_golden_case_as_calico_does() {
    let Some(folder) = golden::folder() else { return };
    let text = fs::read_to_string(folder.join("selectors.jsonl")).expect("selectors.jsonl");
    let cases: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("a case")).collect();
    let questions: Vec<String> = cases
        .iter()
        .map(|case| {
            let evaluations = case["evals"].as_array().into_iter().flatten();
            let labels: Vec<&Value> = evaluations.map(|evaluation| &evaluation["labels"]).collect();
            json!({ "id": case["id"], "selector": case["selector"], "labels": labels }).to_string()
        })
        .collect();
    let answers = batch::answers("selector", &questions);
    assert_eq!(answers.len(), cases.len());
    let mut verdicts = Verdicts::new("selectors.jsonl");
    for (case, answer) in cases.iter().zip(&answers) {
        let id = case["id"].as_str().expect("an id");
        let evaluations = case["evals"].as_array().into_iter().flatten();
        let matches: Vec<&Value> = evaluations.map(|evaluation| &evaluation["match"]).collect();
        let mut disagreements = Vec::new();
        let mut check = |field: &str, want: &Value| {
            if answer[field] != *want {
                disagreements.push(format!("{field}: want {want}, got {}", answer[field]));
            }
        };
        check("id", &case["id"]);
        check("ok", &case["ok"]);
        if case["ok"] == true {
            check("matches", &json!(matches));
            for field in ["canonical", "unique_id", "restrictions"] {
                check(field, &case[field]);
            }
        } else {
            assert!(answer["error"].is_string(), "{answer}");
        }
        let canonical = |value: &Value| value["canonical"].as_str().unwrap_or_default().to_owned();
        verdicts.judge(id, &disagreements, &canonical(case), &canonical(answer));
    }
    verdicts.finish();
}

#[test]
fn a_wrong_line_is_answered_and_disturbs_no_other() {
    let lines = [
        r#"{"id": 1, "selector": "has(a)", "labels": [{"a": ""}, {}]}"#,
        "this is no JSON",
        r#"{"id": {"any": ["thing"]}, "selector": "a = 'b'"}"#,
        "",
        r#"{"id": "x"}"#,
        r#"{"id": "y", "selector": "all()", "labels": [{"a": 5}]}"#,
        r#"{"selector": ""}"#,
    ];
    let answers = batch::answers("selector", &lines.map(str::to_owned));
    let brief: Vec<Value> =
        answers.iter().map(|answer| json!([answer["id"], answer["ok"]])).collect();
    assert_eq!(
        json!(brief),
        json!([
            [1, true],
            [null, false],
            [{"any": ["thing"]}, false],
            ["x", false],
            ["y", false],
            [null, true],
        ])
    );
    assert_eq!(answers[0]["matches"], json!([true, false]));
    assert_eq!(
        answers[2]["error"],
        "selector \"a = 'b'\": at byte 2: expected ==, !=, in, not in, contains, starts with or \
         ends with after the label, found \"= 'b'\" (write == with two characters)"
    );
    let errors = answers.iter().filter(|answer| answer["ok"] == false);
    assert!(errors.into_iter().all(|answer| answer["error"].is_string()));
}

#[test]
fn a_line_that_is_too_long_is_refused_and_the_next_is_answered() {
    let long = format!(r#"{{"id": 1, "selector": "{}"}}"#, " ".repeat(16 << 20));
    let answers =
        batch::answers("selector", &[long, r#"{"id": 2, "selector": "all()"}"#.to_owned()]);
    assert_eq!(answers.len(), 2);
    assert_eq!(answers[0]["error"], "line 1 is longer than 16777216 bytes; split it");
    assert_eq!(answers[1]["canonical"], "all()");
}

#[test]
fn a_person_sees_the_meaning() {
    let output = selector(&["a in {'y','x'} && !has(b)"], "");
    assert!(output.status.success());
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "canonical  (a in {\"x\", \"y\"} && !has(b))\n\
         id         s:0SicTw6YNlLiBK0krZD-srey9E-o41Byj1DZOA\n\
         demands    a: must be present, one of \"x\", \"y\"\n           \
         b: must be absent\n"
    );
}

#[test]
fn a_person_sees_where_the_error_is() {
    let output = selector(&["app == web"], "");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "error: not a selector, at byte 7: expected a value in ' or \", found \"web\" \
         (values are quoted: app == 'web')\n\n  app == web\n         ^\n"
    );
}

#[test]
fn a_mistyped_command_or_flag_names_the_nearest() {
    let run = |args: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_bulrush")).args(args).output();
        let output = output.expect("bulrush starts");
        assert_eq!(output.status.code(), Some(1));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(run(&["selectr"]).contains("'selector'"));
    assert!(run(&["selector", "--stdn"]).contains("'--stdin'"));
}
