//! `bulrush convert`, run as people and scripts run it.

#![allow(clippy::expect_used, reason = "in a test a panic is a failure with its place")]

mod batch;
#[path = "../../lib/model/tests/golden/conversion.rs"]
mod conversion;
#[path = "../../lib/model/tests/golden/mod.rs"]
mod golden;

use std::process::Output;

use conversion::Answer;
use serde_json::{Value, json};

/// Runs `bulrush convert` with these arguments and this input.
fn convert(args: &[&str], input: &str) -> Output {
    batch::run("convert", args, input)
}

#[test]
fn a_batch_answers_every_golden_case_as_calico_does() {
    conversion::judge(|objects| {
        let lines: Vec<_> = objects
            .iter()
            .enumerate()
            .map(|(id, object)| json!({ "id": id, "object": object }).to_string())
            .collect();
        let answers =
            batch::answers("convert", &lines).into_iter().enumerate().map(|(id, mut answer)| {
                assert_eq!(answer["id"], id);
                let errors = answer["errors"].as_array().expect("a list of errors").len();
                let Value::Array(objects) = answer["objects"].take() else { panic!("{answer}") };
                Answer { objects, errors }
            });
        answers.collect()
    });
}

/// A policy with one rule that is fine, and one whose port isn't.
const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: web
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
  - from: [{namespaceSelector: {}}]
    ports: [{port: 80}, {port: 81}]
  - ports: [{port: 70000}]
";

#[test]
fn a_person_gets_what_can_be_translated_and_reads_what_cannot() {
    let output = convert(&["-f", "-", "-n", "shop"], POLICY);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata:
  name: web
  namespace: shop
spec:
  ingress:
  - action: Allow
    destination:
      ports:
      - 80:81
    protocol: TCP
    source:
      namespaceSelector: all()
      selector: projectcalico.org/orchestrator == 'k8s'
  order: 1000
  selector: projectcalico.org/orchestrator == 'k8s' && app == 'web'
  tier: default
  types:
  - Ingress
"
    );
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "error: stdin, document 1: NetworkPolicy shop/web: spec.ingress[1].ports[0].port: \
         \"70000\": must be from 0 to 65535; the rule is left out\n"
    );
}

#[test]
fn fields_that_the_kind_does_not_have_are_named_once_each() {
    let policy = POLICY.replace("  podSelector:", "  policyType: [Egress]\n  podSelector:");
    let policy = policy.replace("port: 81}", "port: 81, last: 82}").replace("70000", "82");
    let output = convert(&["-f", "-", "-n", "shop"], &policy);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "error: stdin, document 1: NetworkPolicy shop/web: spec.ingress[0].ports[1].last: unknown field; \
         known here are protocol, port, endPort; the rule is left out\n\
         error: stdin, document 1: NetworkPolicy shop/web: spec.policyType: unknown field; \
         known here are podSelector, policyTypes, ingress, egress; it is ignored\n"
    );
}

#[test]
fn all_objects_of_a_stream_and_of_lists_are_translated() {
    let stream = r"
apiVersion: v1
kind: Namespace
metadata: {name: shop, uid: 6ba7b810-9dad-41d1-80b4-00c04fd430c8}
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: ServiceAccount
  metadata: {name: clerk, uid: 6ba7b810-9dad-41d1-80b4-00c04fd430c9}
---
apiVersion: v1
kind: PodList
items:
- metadata: {name: till, namespace: shop}
  spec: {nodeName: a}
";
    let output = convert(&["-f", "-", "-o", "json"], stream);
    assert!(output.status.success(), "{output:?}");
    let list: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let items = list["items"].as_array().expect("items").iter();
    let names: Vec<_> = items.map(|item| (&item["kind"], &item["metadata"]["name"])).collect();
    assert_eq!(
        json!(names),
        json!([
            ["Profile", "kns.shop"],
            ["Profile", "ksa.default.clerk"],
            ["WorkloadEndpoint", "a-k8s-till-eth0"],
        ])
    );
}

#[test]
fn an_object_that_is_no_subject_is_named_with_what_could_be_one() {
    let output = convert(
        &["-f", "-"],
        "{kind: Deployment, apiVersion: apps/v1, metadata: {name: web}}\n---\nkind: NetworkPolicy\n\
         apiVersion: projectcalico.org/v3\n---\n[\n",
    );
    assert_eq!(output.status.code(), Some(1));
    let errors = String::from_utf8_lossy(&output.stderr);
    let errors: Vec<_> = errors.lines().collect();
    assert_eq!(
        errors[..2],
        [
            "error: stdin, document 1: Deployment default/web: kind: \"Deployment\": can't be \
             translated; it must be one of NetworkPolicy, ClusterNetworkPolicy, Namespace, Pod, \
             ServiceAccount",
            "error: stdin, document 2: NetworkPolicy without a name: apiVersion: \
             \"projectcalico.org/v3\": can't be translated; a NetworkPolicy must be of networking.k8s.io/v1",
        ]
    );
    assert!(errors[2].starts_with("error: stdin, document 3: line 6"), "{errors:?}");
    assert!(output.stdout.is_empty());
}

#[test]
fn a_wrong_line_is_answered_and_disturbs_no_other() {
    let lines = [
        r#"{"id": 1, "object": {"kind": "Namespace", "metadata": {"name": "a"}}}"#,
        "this is no JSON",
        r#"{"id": {"any": ["thing"]}, "object": 5}"#,
        "",
        r#"{"id": "x"}"#,
        r#"{"id": 2, "object": {"kind": "Pod", "metadata": {"name": "p"}, "spec": {"nodeName": "n"}}}"#,
    ];
    let answers = batch::answers("convert", &lines.map(str::to_owned));
    let brief: Vec<_> = answers
        .iter()
        .map(|answer| {
            let count = |field: &str| answer[field].as_array().map(Vec::len);
            json!([answer["id"], count("objects"), count("errors")])
        })
        .collect();
    assert_eq!(
        json!(brief),
        json!([[1, 0, 1], [null, 0, 1], [{"any": ["thing"]}, 0, 1], ["x", 0, 1], [2, 1, 0]])
    );
    assert_eq!(
        answers[0]["errors"][0],
        "Namespace a: metadata.uid: \"\": must be a UUID such as \
         6ba7b810-9dad-41d1-80b4-00c04fd430c8; the object is left out"
    );
}
