//! `bulrush validate`, run as people and scripts run it.

#![allow(clippy::expect_used, reason = "in a test a panic is a failure with its place")]

mod batch;
#[path = "../../lib/model/tests/golden/mod.rs"]
mod golden;

use std::{fs, process::Output};

use serde_json::{Value, json};

/// Runs `bulrush validate` with these arguments and this input.
fn validate(args: &[&str], input: &str) -> Output {
    batch::run("validate", args, input)
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("UTF-8")
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("UTF-8")
}

const POOL: &str = r#"{"apiVersion":"projectcalico.org/v3","kind":"IPPool","metadata":{"name":"p"},"spec":{"cidr":"10.0.0.0/16"}}"#;

/// That the verdicts are right is the library's test; here, that they arrive.
#[test]
fn a_batch_answers_every_golden_case_as_the_library_does_in_order() {
    let Some(folder) = golden::folder() else { return };
    let text = fs::read_to_string(folder.join("validation.jsonl")).expect("validation.jsonl");
    let cases: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("a case")).collect();
    let questions: Vec<String> = cases
        .iter()
        .map(|case| {
            let mut question = json!({ "id": case["id"], "object": case["object"] });
            if let Some(old) = case.get("old") {
                question["old"] = old.clone();
            }
            question.to_string()
        })
        .collect();
    let answers = batch::answers("validate", &questions);
    assert_eq!(answers.len(), cases.len());
    for (case, answer) in cases.iter().zip(&answers) {
        let verdict = model::validate::validate(&case["object"], case.get("old"));
        assert_eq!(answer["id"], case["id"]);
        assert_eq!(answer["valid"], verdict.valid, "{}", case["id"]);
        assert_eq!(answer["defaulted"], verdict.defaulted.unwrap_or_default(), "{}", case["id"]);
        let fields = |errors: &Value| -> Vec<Value> {
            errors.as_array().expect("errors").iter().map(|it| it["field"].clone()).collect()
        };
        let ours: Vec<Value> = verdict.errors.iter().map(|it| it.field.clone().into()).collect();
        assert_eq!(fields(&answer["errors"]), ours, "{}", case["id"]);
    }
}

#[test]
fn lines_that_are_no_question_are_answered_and_the_rest_goes_on() {
    let lines = [
        "{".to_owned(),
        r#"{"id":"no-object"}"#.to_owned(),
        r#"{"id":"null","object":null}"#.to_owned(),
        String::new(),
        format!(r#"{{"id":"good","object":{POOL},"old":null}}"#),
    ];
    let answers = batch::answers("validate", &lines);
    let verdicts: Vec<_> =
        answers.iter().map(|answer| (answer["id"].clone(), answer["valid"].clone())).collect();
    let expected = [
        (Value::Null, false.into()),
        ("no-object".into(), false.into()),
        ("null".into(), false.into()),
        ("good".into(), true.into()),
    ];
    assert_eq!(verdicts, expected);
    for answer in &answers[..3] {
        assert!(!answer["errors"][0]["rule"].as_str().expect("a rule").is_empty());
        assert_eq!(answer["defaulted"], Value::Null);
    }
    assert_eq!(answers[3]["defaulted"]["spec"]["blockSize"], 26);
}

#[test]
fn a_person_reads_file_document_object_field_value_rule_and_the_way_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let good = folder.path().join("a.json");
    fs::write(&good, POOL).expect("written");
    let bad = folder.path().join("b.yaml");
    let text = "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: p}\n\
                spec: {ingress: [{action: allow, sorce: {}}]}\n---\n\
                apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: q}\n---\n\
                apiVersion: projectcalico.org/v3\nkind: IPPoolList\nitems:\n\
                - {apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: x}, spec: {cidr: 10.0.0.1/16}}\n";
    fs::write(&bad, text).expect("written");
    let output = validate(&["-f", folder.path().to_str().expect("UTF-8")], "");
    assert_eq!(output.status.code(), Some(1));
    let bad = bad.display();
    let expected = format!(
        "Failed to validate {bad}, document 1, line 4: NetworkPolicy p: spec.ingress[0].sorce: \
         unknown field; did you mean source?\n\
         Failed to validate {bad}, document 2, line 6: NetworkPolicy: apiVersion: \
         \"networking.k8s.io/v1\" is Kubernetes' own: kubectl takes it; here write \
         projectcalico.org/v3\n\
         Failed to validate IPPool(x) ({bad}, document 3, item 1, line 13): spec.cidr: \
         \"10.0.0.1/16\": must be an address, or a network without host bits such as \
         10.0.0.0/8; without its host bits it is 10.0.0.0/16\n"
    );
    assert_eq!(stderr(&output), expected);
    assert_eq!(stdout(&output), "Successfully validated 1 of 4 resource(s)\n");
}

#[test]
fn objects_without_faults_end_well() {
    let output = validate(&["-f", "-"], POOL);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(stdout(&output), "Successfully validated 1 'IPPool' resource(s)\n");
}

#[test]
fn what_is_no_manifest_is_named_and_so_is_a_file_that_is_not_there() {
    let output = validate(&["-f", "-"], "a: [\n");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("stdin, document 1: line 1, column 4: no YAML"), "{output:?}");
    let output = validate(&["-f", "/nowhere/x.yaml"], "");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere/x.yaml"), "{output:?}");
}
