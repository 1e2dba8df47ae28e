//! `bulrush lab` itself: what it makes, what it finds out, and that nothing of it is left. Its nodes have plain routes
//! here; with agents it is the business of `lab_policy.rs`.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod lab_support;

use std::{
    collections::BTreeSet,
    fs,
    io::Read as _,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio},
};

use lab_support::{Lab, Reach, possible};
use serde_json::json;

const PLAIN: [&str; 2] = ["up", "--no-agents"];

/// What of this lab is on the machine: namespaces, links, routes, processes, files.
fn traces(lab: &Lab) -> BTreeSet<String> {
    let names = |folder: &str| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.map(|name| format!("{folder}/{name}")).collect::<Vec<_>>()
    };
    let mut found = names("/run/netns");
    found.extend(names("/sys/class/net"));
    found.extend(names("/run/bulrush-lab"));
    let routes = Command::new("ip").args(["route", "show", "table", "all"]).output().expect("ip");
    found.extend(String::from_utf8_lossy(&routes.stdout).lines().map(str::to_owned));
    for process in names("/proc") {
        let environment = fs::read(Path::new(&process).join("environ")).unwrap_or_default();
        let environment = String::from_utf8_lossy(&environment);
        found.extend(environment.split('\0').map(|entry| format!("{process}: {entry}")));
    }
    found.retain(|name| name.contains(&lab.name) && !name.contains("CARGO"));
    found.into_iter().collect()
}

#[test]
fn all_pods_of_a_lab_reach_each_other_over_tcp_and_udp() {
    if !possible() {
        return;
    }
    let lab = Lab::new();
    lab.run(&PLAIN);
    let all = Reach::of(|_, _| true);
    assert_eq!(lab.probe("80/tcp"), all);
    assert_eq!(lab.probe("53/udp"), all);
    let table = lab.run(&["probe", "--port", "8080"]);
    assert!(table.ends_with("30 of 30 pairs connect\n"), "{table}");
}

#[test]
fn all_pods_of_two_subnets_reach_each_other_over_ipv6_too() {
    if !possible() {
        return;
    }
    let lab = Lab::new();
    lab.run(&["up", "--no-agents", "--encap", "crosssubnet", "--ipv6"]);
    let all = Reach::of(|_, _| true);
    assert_eq!(lab.probe("80"), all);
    assert_eq!(lab.probe_with("80", &["--ipv6"]), all);
    assert_eq!(lab.probe_with("53/udp", &["--ipv6"]), all);
}

#[test]
fn a_probe_sees_who_is_cut_off_and_in_which_direction() {
    if !possible() {
        return;
    }
    let lab = Lab::new();
    lab.run(&PLAIN);
    // Node 1 drops new packets to its pod 1-1, as they come from its other pod and from other nodes.
    let rules = "add table ip cut
        add chain ip cut f { type filter hook forward priority 0; }
        add rule ip cut f ip daddr 10.244.0.1 tcp dport 80 drop
        add rule ip cut f ip daddr 10.244.0.1 udp dport 53 drop";
    lab.run(&["exec", "node-1", "--", "nft", rules]);
    let cut = Reach::of(|_, to| to != "red/pod-1-1");
    assert_eq!(lab.probe("80"), cut);
    assert_eq!(lab.probe("53/udp"), cut);
    assert_eq!(lab.probe("81"), Reach::of(|_, _| true));

    // Requests arrive and answers don't: that is no connection either.
    let rules = "delete table ip cut
        add table ip cut
        add chain ip cut f { type filter hook forward priority 0; }
        add rule ip cut f ip saddr 10.244.0.1 udp sport 53 drop";
    lab.run(&["exec", "node-1", "--", "nft", rules]);
    assert_eq!(lab.probe("53/udp"), cut);
    assert_eq!(lab.probe("80"), Reach::of(|_, _| true));
}

#[test]
fn an_answer_from_another_pod_is_no_connection() {
    if !possible() {
        return;
    }
    let lab = Lab::new();
    lab.run(&PLAIN);
    // Whoever asks for pod 1-1 is answered by pod 1-2 in its name.
    let rules = "add table ip wrong
        add chain ip wrong d { type nat hook prerouting priority -100; }
        add rule ip wrong d ip daddr 10.244.0.1 dnat to 10.244.0.2";
    lab.run(&["exec", "node-1", "--", "nft", rules]);
    let from_other_nodes =
        ["--from", "pod-2-1", "--from", "pod-3-1", "--to", "pod-1-1", "--to", "pod-1-2"];
    for port in ["80/tcp", "53/udp"] {
        let Reach(pairs) = lab.probe_with(port, &from_other_nodes);
        assert_eq!(pairs.len(), 4);
        for ((from, to), connected) in pairs {
            assert_eq!(connected, to == "blue/pod-1-2", "{from} -> {to} on {port}");
        }
    }
}

#[test]
fn a_probe_tries_only_the_pods_that_are_named() {
    if !possible() {
        return;
    }
    let lab = Lab::new();
    lab.run(&["up", "--no-agents", "--nodes", "2", "--pods", "1"]);
    let found = lab.run(&["probe", "-o", "json", "--from", "pod-1-1", "--to", "default/pod-2-1"]);
    let found: serde_json::Value = serde_json::from_str(&found).expect("JSON");
    let expected = json!({
        "pods": ["default/pod-1-1", "default/pod-2-1"],
        "reach": {"default/pod-1-1": {"default/pod-2-1": true}},
    });
    assert_eq!(found, expected);

    let said = lab.failure(&["probe", "--to", "pod-9-9"]);
    let expected =
        "error: no pod is called \"pod-9-9\"; there are default/pod-1-1, default/pod-2-1\n";
    assert_eq!(said, expected);
    let said = lab.failure(&["probe", "--port", "80/sctp"]);
    assert!(said.contains("can't probe protocol \"sctp\": say tcp or udp, as in 53/udp"), "{said}");
    let said = lab.failure(&["probe", "--ipv6"]);
    assert_eq!(said, "error: this lab has no IPv6: start it with --ipv6\n");
}

#[test]
fn exec_runs_a_command_where_it_says_and_ends_as_the_command_does() {
    if !possible() {
        return;
    }
    let lab = Lab::new();
    lab.run(&PLAIN);
    let address =
        lab.run(&["exec", "blue/pod-2-2", "--", "ip", "-br", "-4", "addr", "show", "eth0"]);
    assert!(address.contains("10.244.0.66/32"), "{address}");
    let link = lab.run(&["exec", "node-2", "--", "ip", "-br", "link"]);
    let interfaces = link.lines().filter(|line| line.starts_with("cali")).count();
    assert_eq!(interfaces, 2, "{link}");
    assert_eq!(link.matches("ee:ee:ee:ee:ee:ee").count(), 2, "{link}");
    let ended = lab.try_run(&["exec", "node-1", "--", "sh", "-c", "exit 7"]);
    assert_eq!(ended.status.code(), Some(7));
    let said = lab.failure(&["exec", "node-4", "--", "true"]);
    assert_eq!(said, "error: the lab has no node or pod \"node-4\": see `bulrush lab status`\n");
}

#[test]
fn a_second_lab_of_the_same_name_is_refused_and_the_first_lives_on() {
    if !possible() {
        return;
    }
    let lab = Lab::new();
    lab.run(&PLAIN);
    let said = lab.failure(&PLAIN);
    let expected = format!(
        "error: the lab \"{0}\" is up already: end it with `bulrush lab --name {0} down`, or choose another --name\n",
        lab.name
    );
    assert_eq!(said, expected);
    // Of another name, a second lab is as good as alone.
    let other = Lab::new();
    other.run(&PLAIN);
    let all = Reach::of(|_, _| true);
    assert_eq!(lab.probe("80"), all);
    assert_eq!(other.probe("80"), all);
}

#[test]
fn nothing_of_a_lab_is_left_and_ending_it_twice_is_harmless() {
    if !possible() {
        return;
    }
    let lab = Lab::new();
    lab.run(&PLAIN);
    assert!(!traces(&lab).is_empty());
    // What runs in a namespace of the lab ends with it.
    let mut sleeper = lab.command(&["exec", "pod-1-1", "--", "sh", "-c", "echo in; sleep 1000"]);
    let mut sleeper = sleeper.stdout(Stdio::piped()).spawn().expect("it starts");
    let mut said = [0; 2];
    sleeper.stdout.as_mut().expect("its stdout").read_exact(&mut said).expect("it is inside");
    lab.run(&["down"]);
    let ended = sleeper.wait().expect("it ends");
    assert!(!ended.success());
    assert_eq!(traces(&lab), BTreeSet::new());
    let again = lab.try_run(&["down"]);
    assert!(again.status.success());
    assert_eq!(String::from_utf8_lossy(&again.stderr), format!("there is no lab {:?}\n", lab.name));
}

#[test]
fn a_lab_that_was_half_made_is_removed() {
    if !possible() {
        return;
    }
    let lab = Lab::new();
    lab.run(&PLAIN);
    // A crash can have left any of it unmade, or removed.
    let delete = |args: &[&str]| {
        let deleted = Command::new("ip").args(args).status().expect("ip");
        assert!(deleted.success());
    };
    delete(&["netns", "del", &format!("{}-pod-2-1", lab.name)]);
    delete(&["netns", "del", &format!("{}-node-3", lab.name)]);
    delete(&["link", "del", &format!("{}-host", lab.name)]);
    lab.run(&["down"]);
    assert_eq!(traces(&lab), BTreeSet::new());
}

#[test]
fn what_is_not_the_labs_is_never_touched() {
    if !possible() {
        return;
    }
    let lab = Lab::new();
    let foreign = format!("{}-node-2", lab.name);
    let ip = |args: &[&str]| {
        assert!(Command::new("ip").args(args).status().expect("ip").success());
    };
    ip(&["netns", "add", &foreign]);
    let said = lab.failure(&PLAIN);
    let expected = format!(
        "error: there is a network namespace {foreign} already: remove it with `ip netns del {foreign}`, \
         or choose another --name\n"
    );
    assert_eq!(said, expected);
    assert!(Path::new("/run/netns").join(&foreign).exists());
    ip(&["netns", "del", &foreign]);
    assert_eq!(traces(&lab), BTreeSet::new());
}

#[test]
fn a_lab_that_cannot_start_leaves_nothing() {
    if !possible() {
        return;
    }
    let lab = Lab::new();
    let said = lab.failure(&["up", "--store", "http://127.0.0.1:1"]);
    assert!(
        said.contains("error: the store that --store names: etcd at http://127.0.0.1:1: "),
        "{said}"
    );
    assert_eq!(traces(&lab), BTreeSet::new());
    let said = lab.failure(&["status"]);
    let expected = format!(
        "error: there is no lab {0:?}: start one with `bulrush lab --name {0} up`\n",
        lab.name
    );
    assert_eq!(said, expected);
}

#[test]
fn a_lab_of_a_user_who_is_not_root_is_refused_with_the_way_out() {
    if !possible() {
        return;
    }
    // Others may not be allowed into the folder of the program.
    let folder = Path::new("/run").join(&Lab::new().name);
    let program = folder.join("bulrush");
    fs::create_dir(&folder).expect("a folder");
    fs::copy(env!("CARGO_BIN_EXE_bulrush"), &program).expect("a copy");
    let output = Command::new(&program).args(["lab", "up"]).uid(65_534).output();
    fs::remove_dir_all(&folder).expect("a folder to remove");
    let output = output.expect("bulrush starts");
    assert_eq!(output.status.code(), Some(1));
    let expected =
        "error: `bulrush lab` makes network namespaces, which needs root: run it with sudo\n";
    assert_eq!(String::from_utf8_lossy(&output.stderr), expected);
}

#[test]
fn wrong_numbers_and_names_are_refused() {
    let refused = |args: &[&str], expected: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_bulrush")).arg("lab").args(args).output();
        let output = output.expect("bulrush starts");
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(expected), "{said}");
    };
    refused(&["up", "--nodes", "0"], "0 is not in 1..=100");
    refused(&["up", "--pods", "61"], "61 is not in 1..=60");
    refused(
        &["up", "--store", "etc"],
        "say embedded, etcd, or a URL such as http://127.0.0.1:2379",
    );
    refused(&["--name", "My Lab", "up"], "a lab's name is 1 to 10 lower-case letters and digits");
    refused(&["stop", "agent"], "<NODE>");
}
