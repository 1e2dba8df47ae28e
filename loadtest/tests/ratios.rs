//! `loadtest ratios` at small scale: every case comes to its end and says what it measured. Nothing here is timed.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use serde_json::Value;

/// The rows of a case with few agents: the figure, and both medians.
fn rows(case: &str, args: &[&str]) -> Vec<(String, Option<f64>, Option<f64>)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    command.args(["ratios", "--only", case, "--idle", "0", "--churn", "2", "--rounds", "1"]);
    let output = command.args(args).args(["-o", "json"]).env_remove("RUST_LOG").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{case}: {text}");
    let table: Value = serde_json::from_slice(&output.stdout).unwrap();
    let value = |row: &Value, column: &str| row[column][0].as_f64();
    let row = |row: &Value| {
        (row["figure"].as_str().unwrap().to_owned(), value(row, "first"), value(row, "second"))
    };
    table["rows"].as_array().unwrap().iter().map(row).collect()
}

#[test]
fn views_of_nodes_take_fewer_bytes_than_the_full_view_and_fewest_where_namespaces_are_apart() {
    let rows = rows("views", &["--agents", "120"]);
    let ratio = |figure: &str| {
        let row = rows.iter().find(|(name, ..)| name == figure);
        let (_, full, node) = row.unwrap_or_else(|| panic!("{figure}: {rows:?}"));
        node.unwrap() / full.unwrap()
    };
    let inside = ratio("inside a namespace: bytes of a change");
    let across = ratio("across ten namespaces: bytes of a change");
    let all = ratio("all(): bytes of a change");
    // On 60 nodes every node has every team.
    assert!(inside < across * 0.8 && inside < all * 0.8, "{inside} {across} {all}");
    assert!(across < 0.8 && all < 0.8, "{across} {all}");
}

#[test]
fn after_a_restart_agents_resume_what_they_hold_with_few_bytes() {
    let rows = rows("restart", &["--agents", "40"]);
    let [bytes, _, (_, _, resumed)] = rows.as_slice() else { panic!("{rows:?}") };
    let (figure, first, again) = bytes;
    assert_eq!(figure, "after a restart, bytes per agent");
    assert!(again.unwrap() < first.unwrap() / 2.0, "{rows:?}");
    assert_eq!(*resumed, Some(100.0), "{rows:?}");
}

#[test]
fn agents_that_reconnect_with_their_state_take_fewer_bytes_than_those_with_nothing() {
    let rows = rows("storm", &["--agents", "40"]);
    let of = |figure: &str| rows.iter().find(|(name, ..)| name == figure).unwrap().2.unwrap();
    let (state, nothing) =
        (of("back with its state, bytes per agent"), of("back with nothing, bytes per agent"));
    assert!(state < nothing / 2.0, "{rows:?}");
}

#[test]
fn agents_that_were_stuck_get_what_they_missed_and_nothing_is_left_behind() {
    let rows = rows("stuck", &["--agents", "20", "--stuck", "2"]);
    let figures: Vec<&str> = rows.iter().map(|(figure, ..)| figure.as_str()).collect();
    let latency = ["latency at the others, p50", "latency at the others, p99"];
    assert_eq!(figures, ["memory", "memory of sockets", latency[0], latency[1]]);
    assert!(rows[2].2.unwrap() > 0.0, "{rows:?}");
}

#[test]
fn the_other_cases_of_many_agents_come_to_their_end() {
    for (case, args, figures) in [
        ("many", ["--agents", "10"], vec!["500 changes/s to 100 agents, p99"]),
        (
            "affected",
            ["--agents", "20"],
            vec!["CPU of a change that 5 agents need", "CPU of a change that 10 agents need"],
        ),
        ("full-sync", ["--agents", "20"], vec!["1200 endpoints to 2 agents at once"]),
    ] {
        let args = [args.as_slice(), &["--endpoints", "1600"]].concat();
        let rows = rows(case, &args);
        for figure in figures {
            assert!(rows.iter().any(|(name, ..)| name == figure), "{case}: {rows:?}");
        }
    }
}
