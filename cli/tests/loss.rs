//! While typha, the store and agents are killed and come back, pods go on talking: not one packet is lost.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod flows;
mod lab_support;

use std::{
    fs,
    io::Write as _,
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use flows::{End, Flow, Kind, PAUSE, retransmitted};
use lab_support::{Lab, Reach, System, possible};
use serde_json::json;

/// Each flow sends so many packets around each kill.
const PACKETS: u64 = 1000;
/// How long a killed part is away, at least.
const AWAY: Duration = Duration::from_secs(3);

/// Takes a part of the lab away, and brings it back.
type Kill = fn(&Lab);

fn ends(lab: &Lab) -> [End; 2] {
    [("pod-1-1", [10, 244, 0, 1]), ("pod-2-2", [10, 244, 0, 66])].map(|(pod, address)| End {
        netns: format!("{}-{pod}", lab.name),
        address: Ipv4Addr::from(address),
    })
}

/// What an agent has logged.
fn log(lab: &Lab, node: &str) -> String {
    fs::read_to_string(format!("/run/bulrush-lab/{}/agent-{node}.log", lab.name)).unwrap()
}

const FROM_SAVED: &str = "the agent runs from its saved view";

fn until_it_runs_from_its_saved_view(lab: &Lab, node: &str, before: usize) {
    let begin = Instant::now();
    while log(lab, node).matches(FROM_SAVED).count() == before {
        assert!(begin.elapsed() < Duration::from_secs(30), "{}", log(lab, node));
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_32_no_packet_is_lost_while_typha_the_store_and_agents_are_killed() {
    if !possible() {
        return;
    }
    let system = System::start(&[]);
    let rule = |protocol| json!({"action": "Allow", "protocol": protocol, "destination": {"ports": ["7000:7010"]}});
    let spec = json!({
        "selector": "all()", "types": ["Ingress"], "ingress": [rule("TCP"), rule("UDP")],
    });
    let metadata = json!({"name": "flows"});
    system.apply(&[json!({"kind": "GlobalNetworkPolicy", "metadata": metadata, "spec": spec})]);

    let lab = &system.lab;
    let [one, two] = ends(lab);
    let retransmits = || retransmitted(&one.netns) + retransmitted(&two.netns);
    let before = retransmits();
    let mut flows = Vec::new();
    for (from, to) in [(&one, &two), (&two, &one)] {
        for (port, kind) in (7000..).zip([Kind::Tcp, Kind::Udp, Kind::NewUdp]) {
            flows.push(Flow::start(kind, from, to, port));
        }
    }

    let kills: [(&str, Kill); 5] = [
        ("typha", |lab| stop_and_start(lab, &["typha"])),
        ("the store", |lab| stop_and_start(lab, &["store"])),
        ("the agent of the one", |lab| stop_and_start(lab, &["agent", "node-1"])),
        ("the agent of the other", |lab| stop_and_start(lab, &["agent", "node-2"])),
        ("typha and an agent, which runs from its saved view", |lab| {
            lab.run(&["stop", "typha"]);
            lab.run(&["stop", "agent", "node-1"]);
            lab.run(&["start", "agent", "node-1"]);
            until_it_runs_from_its_saved_view(lab, "node-1", 0);
            lab.run(&["start", "typha"]);
        }),
    ];
    let sent = || flows.iter().map(Flow::sent).collect::<Vec<_>>();
    let mut windows = vec![sent()];
    for (_, kill) in &kills {
        let begin = Instant::now();
        kill(lab);
        // Each flow is sent its packets, however soon the part was back.
        let enough = PAUSE * PACKETS as u32 + PAUSE;
        thread::sleep(enough.saturating_sub(begin.elapsed()));
        windows.push(sent());
    }
    let again = retransmits() - before;
    let names: Vec<String> = flows.iter().map(|flow| flow.name.clone()).collect();
    let arrived: Vec<_> = flows.into_iter().map(Flow::end).collect();

    let mut lost_in_all = Vec::new();
    for ((killed, _), window) in kills.iter().zip(windows.windows(2)) {
        let (mut count, mut lost) = (0, Vec::new());
        for (flow, arrived) in arrived.iter().enumerate() {
            let sent = window[0][flow]..window[1][flow];
            assert!(sent.end - sent.start >= PACKETS, "{}: {sent:?}", names[flow]);
            count += sent.end - sent.start;
            let gone = sent.filter(|number| !arrived.contains(number));
            lost.extend(gone.map(|number| format!("{}: {number}", names[flow])));
        }
        // Past the test's capture: the figures are the point.
        let _ = writeln!(
            std::io::stderr(),
            "loss: killed {killed}: {} of {count} packets of {} flows lost",
            lost.len(),
            names.len()
        );
        lost_in_all.extend(lost);
    }
    let _ = writeln!(std::io::stderr(), "loss: TCP sent {again} segments again");
    assert_eq!(lost_in_all, [""; 0]);
    assert_eq!(again, 0, "TCP hides a loss by sending again");
}

fn stop_and_start(lab: &Lab, part: &[&str]) {
    lab.run(&[&["stop"], part].concat());
    thread::sleep(AWAY);
    lab.run(&[&["start"], part].concat());
}

#[test]
fn a_32_an_agent_without_a_server_repairs_from_its_saved_view_and_removes_nothing() {
    if !possible() {
        return;
    }
    let system = System::start(&[]);
    let lab = &system.lab;
    lab.run(&["stop", "typha"]);
    lab.run(&["stop", "agent", "node-1"]);
    let routes = || lab.run(&["exec", "node-1", "--", "ip", "route"]);
    let (before, block) = (routes(), "10.244.0.64/26");
    assert!(before.contains(block), "{before}");
    lab.run(&["exec", "node-1", "--", "ip", "route", "del", block]);
    let unknown = ["blackhole", "192.0.2.7", "proto", "80"];
    lab.run(&[&["exec", "node-1", "--", "ip", "route", "add"], &unknown[..]].concat());

    lab.run(&["start", "agent", "node-1"]);
    until_it_runs_from_its_saved_view(lab, "node-1", 0);
    let begin = Instant::now();
    while !routes().contains(block) {
        assert!(begin.elapsed() < Duration::from_secs(20), "{}", routes());
        thread::sleep(Duration::from_millis(50));
    }
    assert!(routes().contains("192.0.2.7"), "what is not in the view may be newer than the file");
    assert_eq!(lab.probe("80"), Reach::of(|_, _| true));

    // A server says what is needed: now the rest goes, and nothing else does.
    lab.run(&["start", "typha"]);
    let begin = Instant::now();
    while routes().contains("192.0.2.7") {
        assert!(begin.elapsed() < Duration::from_secs(20), "{}", routes());
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(routes(), before);
}
