//! A lab without typha: each agent reads the store itself, and policy decides by real packets who reaches whom, whatever
//! is restarted.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod lab_support;

use std::{
    io::Write as _,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use lab_support::{Connects, Lab, Reach, possible};

/// How long a change may take to reach all kernels; with the store away, an agent that starts waits 10 s before it runs
/// from its saved view.
const PATIENCE: Duration = Duration::from_secs(30);

const ALL: Connects = |_, _| true;
const ONLY_BLUE_TO_RED: Connects = |from, to| to.starts_with("blue/") || from.starts_with("blue/");

const POLICY: &str = r#"
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: from-blue, namespace: red}
spec:
  selector: all()
  types: [Ingress]
  ingress:
  - {action: Allow, source: {namespaceSelector: projectcalico.org/name == "blue"}}
"#;

fn bulrush(args: &[&str], stdin: &str) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulrush"));
    let command = command.args(args).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::null()).spawn().expect("bulrush starts");
    child.stdin.take().expect("its input").write_all(stdin.as_bytes()).expect("it reads");
    assert!(child.wait().expect("it ends").success(), "{args:?}");
}

/// Probes until it is as expected.
fn becomes(lab: &Lab, when: &str, connects: Connects) {
    let (expected, deadline) = (Reach::of(connects), Instant::now() + PATIENCE);
    loop {
        let wrong = lab.probe("80").differences(&expected);
        if wrong.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{when}:\n  {}", wrong.join("\n  "));
    }
}

#[test]
fn without_typha_agents_enforce_what_the_store_says_and_keep_it_while_the_store_is_away() {
    if !possible() {
        return;
    }
    let lab = Lab::new();
    let said = lab.run(&["up", "--without-typha"]);
    let store = said.trim().strip_prefix("ready store=").expect("where the store is").to_owned();
    assert_eq!(lab.probe("80"), Reach::of(ALL));
    let status = lab.run(&["status"]);
    assert!(!status.contains("typha"), "{status}");

    bulrush(&["apply", "--store", &store, "-f", "-"], POLICY);
    becomes(&lab, "with the policy", ONLY_BLUE_TO_RED);

    lab.run(&["restart", "agent", "node-1"]);
    assert_eq!(lab.probe("80"), Reach::of(ONLY_BLUE_TO_RED), "after a restart of an agent");
    lab.run(&["stop", "store"]);
    assert_eq!(lab.probe("80"), Reach::of(ONLY_BLUE_TO_RED), "while the store is away");
    lab.run(&["restart", "agent", "node-2"]);
    becomes(&lab, "after a restart of an agent without a store", ONLY_BLUE_TO_RED);

    lab.run(&["start", "store"]);
    let policy = ["networkpolicy", "from-blue", "-n", "red"];
    bulrush(&[&["delete", "--store", &store], &policy[..]].concat(), "");
    becomes(&lab, "without the policy", ALL);
}
