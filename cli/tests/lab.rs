//! `bulrush lab` itself: what it makes, what it finds out, and that nothing of it is left. Its nodes have plain routes
//! here; with agents it is the business of `lab_policy.rs`.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod lab_support;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Read as _,
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
};

use lab_support::{Lab, Reach, possible};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use support::assert_bad_input;

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
        let command = fs::read(Path::new(&process).join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let output = fs::read_link(Path::new(&process).join("fd/1")).unwrap_or_default();
        found.push(format!("{process}: {command} > {}", output.display()));
    }
    found.retain(|name| name.contains(&lab.name));
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

    assert_bad_input("lab probe: no such pod", &lab.failure(&["probe", "--to", "pod-9-9"]));
    let said = lab.failure(&["probe", "--port", "80/sctp"]);
    assert_bad_input("lab probe: another protocol", said.lines().next().unwrap_or_default());
    assert_bad_input("lab probe: no IPv6", &lab.failure(&["probe", "--ipv6"]));
}

#[test]
fn a_probe_takes_turns_where_only_few_files_may_be_open() {
    if !possible() {
        return;
    }
    let lab = Lab::new();
    lab.run(&PLAIN);
    for port in ["80/tcp", "53/udp"] {
        let mut few = Command::new("sh");
        few.args(["-c", "ulimit -n 64 && exec \"$@\"", "sh", env!("CARGO_BIN_EXE_bulrush")]);
        few.args(["lab", "--name", &lab.name, "probe", "--port", port]);
        let output = few.output().expect("sh starts");
        let table = String::from_utf8_lossy(&output.stdout);
        assert!(table.ends_with("30 of 30 pairs connect\n"), "{port}: {output:?}");
    }
}

#[test]
fn a_port_that_a_pod_uses_itself_is_named() {
    if !possible() {
        return;
    }
    let lab = Lab::new();
    lab.run(&PLAIN);
    let netns = Path::new("/run/netns").join(format!("{}-pod-2-1", lab.name));
    // A socket stays where it was made, whoever holds it.
    let inside = thread::spawn(move || {
        let netns = File::open(netns).expect("a namespace");
        setns(netns, CloneFlags::CLONE_NEWNET).expect("inside");
        TcpListener::bind("0.0.0.0:80").expect("a listener")
    });
    let listener = inside.join().expect("a listener");
    let said = lab.failure(&["probe"]);
    assert_bad_input("lab probe: a port in use", &said);
    assert_eq!(lab.probe("81"), Reach::of(|_, _| true));
    drop(listener);
    assert_eq!(lab.probe("80"), Reach::of(|_, _| true));
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
    assert_bad_input("lab exec: no such node or pod", &said);
}

#[test]
fn a_second_lab_of_the_same_name_is_refused_and_the_first_lives_on() {
    if !possible() {
        return;
    }
    let lab = Lab::new();
    lab.run(&PLAIN);
    assert_bad_input("lab up: a second one of the same name", &lab.failure(&PLAIN));
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
    let mut sleeper = lab.command(&["exec", "pod-1-1", "--", "sh", "-c", "echo in; sleep 30"]);
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

/// A lab that is just starting: its namespaces are there, and it waits for a store that accepts and says nothing.
fn starting(lab: &Lab) -> (Child, TcpStream) {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let url = format!("http://{}", silent.local_addr().expect("its address"));
    let mut up = lab.command(&["up", "--store", &url]);
    let up = up.stderr(Stdio::piped()).spawn().expect("bulrush starts");
    let (connection, _) = silent.accept().expect("a connection");
    assert!(traces(lab).len() > 10);
    (up, connection)
}

#[test]
fn a_lab_that_is_interrupted_while_it_starts_leaves_nothing() {
    if !possible() {
        return;
    }
    let lab = Lab::new();
    let (up, _connection) = starting(&lab);
    let pid = Pid::from_raw(up.id().try_into().expect("a pid"));
    kill(pid, Signal::SIGINT).expect("a signal");
    let output = up.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.ends_with("error: interrupted\n"), "{said}");
    assert_eq!(traces(&lab), BTreeSet::new());
}

#[test]
fn a_lab_whose_start_was_killed_is_removed() {
    if !possible() {
        return;
    }
    let lab = Lab::new();
    let (mut up, connection) = starting(&lab);
    up.kill().expect("a signal");
    up.wait().expect("it ends");
    // Otherwise the lab's end waits for this store, too.
    drop(connection);
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
    assert_bad_input("lab up: a namespace of someone else", &lab.failure(&PLAIN));
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
    let last = said.lines().last().unwrap_or_default();
    assert_bad_input("lab up: nobody answers at the store's address", last);
    assert_eq!(traces(&lab), BTreeSet::new());
    assert_bad_input("lab: there is none", &lab.failure(&["status"]));
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
    assert_bad_input("lab: not as root", &String::from_utf8_lossy(&output.stderr));
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
