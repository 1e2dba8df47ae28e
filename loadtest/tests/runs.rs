//! The program as a person runs it: whole runs, short ones.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use datastore::{Selection, StoreConfig};
use model::StreamIndex;
use serde_json::Value;
use support::assert_bad_input;

fn loadtest(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    command.args(args).env_remove("RUST_LOG").output().unwrap()
}

/// A run of a few agents for a second or two: its exit code and its report.
fn run(args: &[&str]) -> (Option<i32>, Value) {
    let rate: &[&str] = if args.contains(&"--rate") { &[] } else { &["--rate", "40"] };
    report_of(&[&["--agents", "20", "--for", "2s"], rate, args].concat())
}

fn report_of(args: &[&str]) -> (Option<i32>, Value) {
    let output = loadtest(&[args, &["-o", "json"]].concat());
    let text = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_slice(&output.stdout);
    (output.status.code(), report.unwrap_or_else(|error| panic!("{error}: {text}")))
}

/// What a person reads of a run that must fail at once: its first line.
fn failure(args: &[&str]) -> String {
    let output = loadtest(args);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert_eq!(output.stdout, b"");
    text.lines().next().unwrap_or_default().to_owned()
}

fn errors(report: &Value) -> [u64; 3] {
    ["order", "digest", "lost"].map(|kind| report["errors"][kind].as_u64().unwrap())
}

#[test]
fn every_profile_in_both_views_ends_without_errors_and_with_a_whole_report() {
    for profile in ["steady", "rolling-update", "node-loss", "policy-flip"] {
        for view in ["node", "full"] {
            let (code, report) = run(&["--profile", profile, "--view", view]);
            assert_eq!((code, errors(&report)), (Some(0), [0; 3]), "{profile} {view}: {report}");
            assert_eq!(report["agents"], 20);
            assert_eq!(report["seed"], 1);
            assert_eq!(report["events"], 80);
            // One agent needs each change of a steady churn in the node view; else all do.
            let everybody = profile != "steady" || view == "full";
            assert_eq!(report["deliveries"], if everybody { 1600 } else { 80 });
            assert!(report["commits"].as_u64().unwrap() >= 40, "{report}");
            let latency = |name: &str| report["latency_ms"][name].as_f64().unwrap();
            assert!(latency("p50") > 0.0, "{report}");
            assert!(latency("p50") <= latency("p99"), "{report}");
            assert!(latency("p99") <= latency("p99_99"), "{report}");
            assert!(latency("p99_99") <= latency("max"), "{report}");
            let server = |name: &str| report["server"][name].as_f64().unwrap();
            assert!(server("cpu_seconds") > 0.0, "{report}");
            assert!(server("rss_bytes") > 1e6, "{report}");
            // Each delivery has a frame and a Commit.
            assert!(server("bytes_sent") > report["commits"].as_f64().unwrap() * 50.0, "{report}");
            assert!(report["limited_by"].is_string(), "{report}");
        }
    }
}

#[test]
fn whoever_may_talk_to_whom_each_change_reaches_those_who_need_it_and_nobody_gets_another_one() {
    for (topology, nodes) in [("inside", 30), ("across", 90), ("all", 90)] {
        for view in ["node", "full"] {
            // Three namespaces, each on 30 nodes.
            let args = ["--agents", "90", "--topology", topology, "--pods", "2", "--view", view];
            let more = ["--for", "1s", "--profile", "rolling-update", "--rate", "40"];
            let (code, report) = report_of(&[args.as_slice(), &more].concat());
            assert_eq!((code, errors(&report)), (Some(0), [0; 3]), "{topology} {view}: {report}");
            let nodes = if view == "full" { 90 } else { nodes };
            assert_eq!(report["deliveries"], 40 * nodes, "{topology} {view}");
        }
    }
}

#[test]
fn agents_move_between_two_servers_without_errors() {
    for view in ["node", "full"] {
        let moves = ["--replicas", "2", "--move-every", "1s", "--check-every", "2"];
        let more = ["--agents", "20", "--for", "4s", "--rate", "40", "--view", view];
        let (code, report) = report_of(&[moves.as_slice(), &more].concat());
        assert_eq!((code, errors(&report)), (Some(0), [0; 3]), "{view}: {report}");
        assert_eq!(report["servers"], 2);
        // Two agents each second.
        assert!(report["reconnects"].as_u64().unwrap() >= 4, "{view}: {report}");
    }
}

#[test]
fn more_agents_than_a_process_may_have_files_are_served_by_two_servers() {
    // 200 agents, as `many` makes of 20.
    let run = r#"ulimit -n 355; exec "$0" ratios --only many --agents 20 --churn 2 -o json"#;
    let mut command = Command::new("sh");
    let output = command.args(["-c", run, env!("CARGO_BIN_EXE_loadtest")]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = &said["rows"][0];
    assert_eq!(row["figure"], "500 changes/s to 200 agents, p99", "{said}");
    let note = row["notes"][0].as_str().unwrap();
    assert!(note.contains("servers 2,"), "{note}");
}

#[test]
fn the_page_has_the_figures_and_four_plots_over_time_and_needs_nothing_from_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("page.html");
    let (code, report) = run(&["--html", &path.display().to_string(), "--rate", "100"]);
    assert_eq!(code, Some(0), "{report}");
    let page = std::fs::read_to_string(path).unwrap();
    assert_eq!(page.matches("<svg").count(), 4);
    assert!(page.matches("<path").count() >= 7, "two lines each, and one of bytes: {page}");
    assert!(page.contains("20 with the node view"), "{page}");
    assert!(page.contains("prefers-color-scheme: dark"));
    for elsewhere in ["<script", "http", "url(", "src=", "href="] {
        assert!(!page.contains(elsewhere), "{elsewhere}");
    }
    assert!(report["series"].as_array().unwrap().len() >= 4, "{report}");
    let points = report["series"].as_array().unwrap();
    let bytes = points.iter().map(|point| point["bytes_per_second"].as_f64().unwrap());
    assert!(bytes.fold(0.0, f64::max) > 0.0, "{report}");
}

#[test]
fn each_injected_fault_is_counted_as_what_it_is_and_fails_the_run() {
    for view in ["node", "full"] {
        for (inject, kind) in [("drop", 2), ("reorder", 0), ("dup", 0), ("stale", 0)] {
            let (code, report) = run(&["--inject", inject, "--view", view]);
            assert_eq!(code, Some(1), "{inject} {view}: {report}");
            assert!(errors(&report)[kind] > 0, "{inject} {view}: {report}");
            assert!(report["injected"].as_u64().unwrap() > 0, "{inject} {view}: {report}");
            assert!(!report["examples"][0].as_str().unwrap().is_empty());
        }
    }
}

#[test]
fn two_reports_are_compared_by_ratios_and_by_what_differs_in_their_settings() {
    let folder = tempfile::tempdir().unwrap();
    let report = |name: &str, args: &[&str]| {
        let path = folder.path().join(name);
        std::fs::write(&path, run(args).1.to_string()).unwrap();
        path.display().to_string()
    };
    let (a, b) = (report("a", &[]), report("b", &["--seed", "2"]));
    let compare = |args: &[&str]| {
        let output = loadtest(&[&["compare"], args].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let text = compare(&[&a, &b]);
    assert!(text.starts_with("the runs differ in seed: 1 and 2\n"), "{text}");
    let line = text.lines().find(|line| line.starts_with("latency p99 ms")).unwrap();
    assert_eq!(line.split_whitespace().count(), 6, "{line}");
    let same: Value = serde_json::from_str(&compare(&[&a, &a, "-o", "json"])).unwrap();
    assert_eq!(same["differences"], Value::Array(Vec::new()));
    for line in same["ratios"].as_array().unwrap() {
        assert!(line["ratio"] == 1.0 || line["a"] == 0.0, "{line}");
    }
}

/// A server that reads this store, on free ports.
async fn start_typha(store: &str) -> typha::Typha {
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    typha::Typha::start(typha::Config {
        store: StoreConfig::from_url(store).unwrap(),
        pod_cidrs: false,
        record: None,
        listen: any,
        tls: None,
        shared_name: None,
        plaintext: false,
        limits: typha::Limits::default(),
        max_connections: 100,
        min_connections: 400,
        alternatives: Vec::new(),
        health: any,
        metrics: any,
        status: any,
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_and_a_store_that_run_already_are_used_and_left_as_they_were() {
    let store = embedded::Server::start(embedded::Config::default()).await.unwrap();
    let url = format!("http://{}", store.addr());
    let typha = start_typha(&url).await;
    let server = typha.address().to_string();
    let pid = std::process::id().to_string();
    let args = ["--server", &server, "--store", &url, "--server-pid", &pid];
    let args = args.map(str::to_owned);
    let (code, report) =
        tokio::task::spawn_blocking(move || run(&args.each_ref().map(String::as_str)))
            .await
            .unwrap();
    assert_eq!((code, errors(&report)), (Some(0), [0; 3]), "{report}");
    assert!(report["server"]["cpu_seconds"].as_f64().unwrap() > 0.0, "{report}");

    let datastore = StoreConfig::from_url(&url).unwrap().connect().await.unwrap();
    let left = datastore.list(StreamIndex(0), Selection::everything()).await.unwrap();
    let mut left: Vec<String> = left.items.iter().map(|item| item.key.to_string()).collect();
    left.sort();
    assert_eq!(left, ["ClusterInformation default", "Tier default"]);
    typha.stop().await;
    store.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_with_the_cluster_of_another_load_test_is_refused() {
    let store = embedded::Server::start(embedded::Config::default()).await.unwrap();
    let url = format!("http://{}", store.addr());
    let datastore = StoreConfig::from_url(&url).unwrap().connect().await.unwrap();
    let pool = model::Key::global(model::Kind::IPPool, "loadtest");
    let value = serde_json::json!({"metadata": {"name": "loadtest"}, "spec": {}});
    datastore.create(&pool, &model::Stored::Json(value)).await.unwrap();
    let text = tokio::task::spawn_blocking(move || failure(&["--store", &url])).await.unwrap();
    assert_bad_input("loadtest: a store with another test's cluster", &text);
    assert!(datastore.get(&pool).await.unwrap().is_some(), "it is still the other's");
    store.shutdown().await.unwrap();
}

#[test]
fn flags_that_cannot_be_meant_are_refused_with_the_way_out() {
    let report = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(report.path(), "{}").unwrap();
    let path = report.path().display().to_string();
    let store = ["--store", "http://127.0.0.1:1"];
    let cases: [(&str, &[&str]); 10] = [
        ("loadtest: a page in a folder that isn't there", &["--html", "/nowhere/page.html"]),
        (
            "loadtest: a profile that goes with one topology",
            &["--topology", "inside", "--profile", "policy-flip"],
        ),
        (
            "loadtest: a server beyond loopback",
            &["--server", "192.0.2.1:5473", "--store", "http://192.0.2.1:2379"],
        ),
        ("loadtest: no address", &["--server", "nowhere", "--store", "http://127.0.0.1:1"]),
        ("loadtest: no rate", &["--rate", "0"]),
        ("loadtest: a time without a unit that we know", &["--for", "2d"]),
        ("loadtest: an unknown profile", &["--profile", "calm"]),
        ("loadtest: nodes without agents", &["--nodes", "10"]),
        ("loadtest: compare what is no report", &["compare", &path, &path]),
        ("loadtest: nobody answers at the store's address", &store),
    ];
    for (case, args) in cases {
        assert_bad_input(case, &failure(args));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_is_named_at_once_and_the_store_is_left_empty() {
    let store = embedded::Server::start(embedded::Config::default()).await.unwrap();
    let url = format!("http://{}", store.addr());
    let arg = url.clone();
    let args = move || failure(&["--agents", "5", "--server", "127.0.0.1:1", "--store", &arg]);
    let text = tokio::task::spawn_blocking(args).await.unwrap();
    assert_bad_input("loadtest: nobody answers at the server's address", &text);
    let datastore = StoreConfig::from_url(&url).unwrap().connect().await.unwrap();
    let left = datastore.list(StreamIndex(0), Selection::everything()).await.unwrap();
    assert_eq!(left.items.len(), 2, "what every cluster has, and nothing of the test");
    store.shutdown().await.unwrap();
}

#[test]
fn the_processes_of_a_run_end_with_it_even_when_it_is_killed() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    command.args(["--agents", "5", "--for", "10m"]).stdout(Stdio::null());
    let mut run = command.spawn().unwrap();
    let id = run.id();
    until("a store and a typha", || children(id).len() == 2);
    let children = children(id);
    run.kill().unwrap();
    run.wait().unwrap();
    until("both gone", || !children.iter().any(|pid| is_alive(*pid)));
}

#[test]
fn the_tester_keeps_memory_that_it_frees_and_the_server_that_it_measures_does_not() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    command.args(["--agents", "5", "--for", "10m"]).stdout(Stdio::null());
    let mut run = command.spawn().unwrap();
    let id = run.id();
    until("a store and a typha", || children(id).len() == 2);
    let has_settings = |pid: u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap();
        String::from_utf8_lossy(&environment).contains("_RJEM_MALLOC_CONF=")
    };
    let children = children(id).into_iter().map(has_settings).collect::<Vec<_>>();
    let own = has_settings(id);
    run.kill().unwrap();
    run.wait().unwrap();
    assert_eq!((own, children), (true, vec![false, false]));
}

#[test]
fn a_process_of_agents_that_is_stopped_ends_with_the_run_too() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadtest"));
    command.args(["ratios", "--only", "stuck", "--agents", "100", "--stuck", "600"]);
    let mut run = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let id = run.id();
    let has_agents = |pid: &u32| {
        let files = std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.contains("--part\0agents") && files > 40
    };
    until("a process with 50 agents", || children(id).iter().any(has_agents));
    let children = children(id);
    let agents = *children.iter().find(|pid| has_agents(pid)).unwrap();
    let stop = nix::sys::signal::Signal::SIGSTOP;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(agents.cast_signed()), stop).unwrap();
    run.kill().unwrap();
    run.wait().unwrap();
    until("all gone", || !children.iter().any(|pid| is_alive(*pid)));
}

fn children(process: u32) -> Vec<u32> {
    let mut children = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{process}/task")).unwrap() {
        let text = std::fs::read_to_string(task.unwrap().path().join("children"));
        let text = text.unwrap_or_default();
        children.extend(text.split_whitespace().map(|pid| pid.parse::<u32>().unwrap()));
    }
    children
}

/// Whether a process runs; one that has ended and that nobody has waited for doesn't.
fn is_alive(pid: u32) -> bool {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    status.is_ok_and(|text| !text.contains(") Z "))
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_mins(1);
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn agents_that_only_drain_count_every_change_and_the_report_says_how_many_checked() {
    for view in ["node", "full"] {
        let (code, report) =
            run(&["--check-every", "20", "--profile", "policy-flip", "--view", view]);
        assert_eq!((code, errors(&report)), (Some(0), [0; 3]), "{view}: {report}");
        assert_eq!(report["checked"], 1);
        assert_eq!(report["deliveries"], 1600);
        assert_eq!(report["reconnects"], 0);
    }
}
