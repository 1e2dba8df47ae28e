//! Policy: for each feature one packet that passes and one that doesn't.

use std::{collections::BTreeSet, io::ErrorKind, net::TcpStream, time::Duration};

use model::view::{Action, Icmp, Peer, PolicyTier, PortRange, Protocol, Rule};

use crate::{
    lab::{
        Talk, available,
        node::Node,
        raw::{Raw, Receiver, send},
        tcp, udp,
    },
    world::{TCP, UDP, Write, allow, deny, from_set, port, tier},
};

#[test]
fn a_policy_decides_who_reaches_a_pod() {
    if !available("a_policy_decides_who_reaches_a_pod") {
        return;
    }
    let mut node = Node::new("node-a", 2);
    let a = node.space.pod("calia", &["10.65.0.2"]);
    let b = node.space.pod("calib", &["10.65.0.3"]);
    let c = node.space.pod("calic", &["10.65.0.4"]);
    let view = node.agent.view();
    view.endpoint("a", "calia", &["10.65.0.2"], None);
    view.endpoint("b", "calib", &["10.65.0.3"], Some("only-a"));
    view.endpoint("c", "calic", &["10.65.0.4"], None);
    view.plist("only-a", vec![tier(&["from-a"], &[])]);
    let web = Rule {
        protocol: TCP,
        destination: Peer { ports: port(80), ..Peer::default() },
        ..from_set("s:a")
    };
    view.policy("from-a", vec![web], vec![]);
    view.member("s:a", "10.65.0.2/32", true);
    node.commit_all();

    assert!(tcp(&a, &b, "10.65.0.3", 80), "a is in the set, 80 is allowed");
    assert!(!tcp(&a, &b, "10.65.0.3", 81), "81 is not allowed");
    assert!(!udp(&a, &b, "10.65.0.3", 80), "UDP is not allowed");
    assert!(!tcp(&c, &b, "10.65.0.3", 80), "c is not in the set");
    assert!(tcp(&c, &a, "10.65.0.2", 80), "no policy selects a: its profile allows");
    assert!(udp(&b, &c, "10.65.0.4", 53), "b's policy is for what comes to it");

    let view = node.agent.view();
    view.member("s:a", "10.65.0.2/32", false);
    view.member("s:a", "10.65.0.4/31", true);
    node.commit_all();
    assert!(!tcp(&a, &b, "10.65.0.3", 80), "a left the set");
    assert!(tcp(&c, &b, "10.65.0.3", 80), "a network with c came");

    node.agent.view().policy("from-a", vec![allow()], vec![]);
    node.commit_all();
    assert!(udp(&a, &b, "10.65.0.3", 80), "all is allowed now");
}

#[test]
fn a_pod_reaches_its_node_only_when_configured() {
    if !available("a_pod_reaches_its_node_only_when_configured") {
        return;
    }
    let mut node = Node::new("node-a", 2);
    let pod = node.space.pod("calia", &["10.65.0.2"]);
    node.agent.view().endpoint("a", "calia", &["10.65.0.2"], None);
    node.commit_all();
    assert!(!tcp(&pod, &node.space, "172.18.0.2", 80), "the default is to drop");
    assert!(tcp(&node.space, &pod, "10.65.0.2", 80), "the node reaches its pods: probes");
    assert!(udp(&node.space, &pod, "10.65.0.2", 80), "and gets their answers");

    node.agent.view().felix(r#"{"defaultEndpointToHostAction":"Accept"}"#);
    node.commit_all();
    assert!(tcp(&pod, &node.space, "172.18.0.2", 80));

    let view = node.agent.view();
    view.plist("no-udp", vec![tier(&[], &["no-udp"])]);
    view.policy("no-udp", vec![], vec![Rule { protocol: UDP, ..deny() }, allow()]);
    view.endpoint("a", "calia", &["10.65.0.2"], Some("no-udp"));
    node.commit_all();
    assert!(tcp(&pod, &node.space, "172.18.0.2", 80));
    assert!(!udp(&pod, &node.space, "172.18.0.2", 53), "its egress policy counts here too");
}

#[test]
fn an_unknown_interface_is_closed_both_ways() {
    if !available("an_unknown_interface_is_closed_both_ways") {
        return;
    }
    let mut node = Node::new("node-a", 2);
    let a = node.space.pod("calia", &["10.65.0.2"]);
    let b = node.space.pod("calib", &["10.65.0.3"]);
    node.agent.view().endpoint("a", "calia", &["10.65.0.2"], None);
    node.agent.view().felix(r#"{"defaultEndpointToHostAction":"Accept"}"#);
    node.commit_all();
    // What an endpoint needs, but by hand.
    node.space.ip("route add 10.65.0.3 dev calib scope link");
    node.space.run("echo 1 > /proc/sys/net/ipv4/conf/calib/proxy_arp");
    assert!(!tcp(&b, &a, "10.65.0.2", 80), "from it");
    assert!(!tcp(&a, &b, "10.65.0.3", 80), "to it");
    assert!(!tcp(&b, &node.space, "172.18.0.2", 80), "to the node");
    node.agent.view().endpoint("b", "calib", &["10.65.0.3"], None);
    node.commit_all();
    assert!(tcp(&b, &a, "10.65.0.2", 80));
    assert!(tcp(&b, &node.space, "172.18.0.2", 80));
}

#[test]
fn a_pod_speaks_only_with_its_own_address() {
    if !available("a_pod_speaks_only_with_its_own_address") {
        return;
    }
    let mut node = Node::new("node-a", 2);
    let a = node.space.pod("calia", &["10.65.0.2", "fd65::2"]);
    let b = node.space.pod("calib", &["10.65.0.3", "fd65::3"]);
    node.agent.view().endpoint("a", "calia", &["10.65.0.2", "fd65::2"], None);
    node.agent.view().endpoint("b", "calib", &["10.65.0.3", "fd65::3"], None);
    node.commit_all();
    let b_hears = Receiver::new(&b, &[17], "fd65::3");
    for (own, stolen, to) in
        [("10.65.0.2", "10.65.0.9", "10.65.0.3"), ("fd65::2", "fd65::9", "fd65::3")]
    {
        let length = if own.contains(':') { 128 } else { 32 };
        a.ip(&format!("addr add {stolen}/{length} dev eth0 nodad"));
        let packet = |from: &str| Raw {
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            protocol: 17,
            words: (4000, 4000),
        };
        // The honest one second: when it is there, the other would be.
        send(&a, &packet(stolen));
        send(&a, &packet(own));
        assert_eq!(b_hears.wait_for(1), [packet(own)]);
    }
}

#[test]
fn a_pod_cannot_speak_to_the_tunnels() {
    if !available("a_pod_cannot_speak_to_the_tunnels") {
        return;
    }
    let mut node = Node::new("node-a", 2);
    let a = node.space.pod("calia", &["10.65.0.2"]);
    let b = node.space.pod("calib", &["10.65.0.3"]);
    node.agent.view().endpoint("a", "calia", &["10.65.0.2"], None);
    node.agent.view().endpoint("b", "calib", &["10.65.0.3"], None);
    node.commit_all();
    assert!(!udp(&a, &b, "10.65.0.3", 4789));
    assert!(udp(&a, &b, "10.65.0.3", 4790));
    node.agent.view().felix(r#"{"allowVXLANPacketsFromWorkloads":true}"#);
    node.commit_all();
    assert!(udp(&a, &b, "10.65.0.3", 4789));
}

#[test]
fn policy_counts_for_ipv6_too() {
    if !available("policy_counts_for_ipv6_too") {
        return;
    }
    let mut node = Node::new("node-a", 2);
    let a = node.space.pod("calia", &["10.65.0.2", "fd65::2"]);
    let b = node.space.pod("calib", &["10.65.0.3", "fd65::3"]);
    let view = node.agent.view();
    view.endpoint("a", "calia", &["10.65.0.2", "fd65::2"], None);
    view.endpoint("b", "calib", &["10.65.0.3", "fd65::3"], Some("some"));
    view.plist("some", vec![tier(&["some"], &[])]);
    let of_net = |net: &str, number| {
        let source = Peer { nets: vec![net.parse().unwrap()], ..Peer::default() };
        let destination = Peer { ports: port(number), ..Peer::default() };
        Rule { protocol: TCP, source, destination, ..allow() }
    };
    view.policy("some", vec![of_net("fd65::/64", 80), of_net("10.65.0.0/16", 81)], vec![]);
    node.commit_all();
    assert!(tcp(&a, &b, "fd65::3", 80));
    assert!(!tcp(&a, &b, "10.65.0.3", 80), "that is for IPv6");
    assert!(tcp(&a, &b, "10.65.0.3", 81));
    assert!(!tcp(&a, &b, "fd65::3", 81), "that is for IPv4");
    assert!(!tcp(&a, &node.space, "fe80::ecee:eeff:feee:eeee%eth0", 80), "to its node: dropped");
    assert!(tcp(&node.space, &a, "fd65::2", 80), "from its node");
}

#[test]
fn an_established_connection_outlives_the_policy_that_let_it_in() {
    if !available("an_established_connection_outlives_the_policy_that_let_it_in") {
        return;
    }
    let mut node = Node::new("node-a", 2);
    let a = node.space.pod("calia", &["10.65.0.2"]);
    let b = node.space.pod("calib", &["10.65.0.3"]);
    let view = node.agent.view();
    view.endpoint("a", "calia", &["10.65.0.2"], None);
    view.endpoint("b", "calib", &["10.65.0.3"], None);
    view.plist("none", vec![tier(&["none"], &[])]);
    view.policy("none", vec![], vec![]);
    node.commit_all();
    let mut talk = Talk::start(&a, &b, "10.65.0.3", 80);
    talk.exchange();
    node.agent.view().endpoint("b", "calib", &["10.65.0.3"], Some("none"));
    node.commit_all();
    assert!(!tcp(&a, &b, "10.65.0.3", 81), "new ones are denied");
    talk.exchange();
}

#[test]
fn a_rejected_connection_is_told_at_once() {
    if !available("a_rejected_connection_is_told_at_once") {
        return;
    }
    let mut node = Node::new("node-a", 2);
    let a = node.space.pod("calia", &["10.65.0.2"]);
    let _b = node.space.pod("calib", &["10.65.0.3"]);
    let view = node.agent.view();
    view.endpoint("a", "calia", &["10.65.0.2"], None);
    view.endpoint("b", "calib", &["10.65.0.3"], Some("none"));
    view.plist("none", vec![tier(&["none"], &[])]);
    view.policy("none", vec![], vec![]);
    view.felix(r#"{"nftablesFilterDenyAction":"Reject"}"#);
    node.commit_all();
    let target = "10.65.0.3:80".parse().unwrap();
    let error = a.enter(|| TcpStream::connect_timeout(&target, Duration::from_mins(1)));
    assert_eq!(error.unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

/// Protocol, and ports or ICMP type and code.
type Kind = (u8, (u16, u16));

/// For each feature the rules, and what of all these kinds of packets passes.
#[allow(clippy::too_many_lines, reason = "it is a table")]
fn features() -> Vec<(&'static str, Vec<Rule>, Vec<Kind>)> {
    let (tcp80, tcp81) = ((6, (1000, 80)), (6, (1000, 81)));
    let (dns, ping, ping1) = ((17, (1000, 53)), (1, (8, 0)), (1, (8, 1)));
    let gre = (47, (0, 0));
    let all = [tcp80, tcp81, dns, ping, ping1, gre];
    let ranges = || vec![PortRange { first: 50, last: 80 }];
    let to = |destination: Peer| Rule { destination, ..allow() };
    let from = |source: Peer| Rule { source, ..allow() };
    let not = |rule: Rule| vec![Rule { action: Action::Deny, ..rule }, allow()];
    let icmp = |code| Some(Icmp { kind: 8, code });
    vec![
        ("nothing", vec![], vec![]),
        ("protocol", vec![Rule { protocol: Some(Protocol(47)), ..allow() }], vec![gre]),
        ("not protocol", vec![Rule { not_protocol: TCP, ..allow() }], vec![dns, ping, ping1, gre]),
        ("ports", vec![to(Peer { ports: ranges(), ..Peer::default() })], vec![tcp80, dns]),
        (
            "source ports",
            vec![from(Peer { ports: port(1000), ..Peer::default() })],
            vec![tcp80, tcp81, dns],
        ),
        (
            "not ports",
            vec![to(Peer { not_ports: ranges(), ..Peer::default() })],
            vec![tcp81, ping, ping1, gre],
        ),
        (
            "named port",
            vec![to(Peer { port_sets: vec!["n:web".into()], ..Peer::default() })],
            vec![tcp80],
        ),
        (
            "named or numbered port",
            vec![to(Peer { port_sets: vec!["n:web".into()], ports: port(53), ..Peer::default() })],
            vec![tcp80, dns],
        ),
        (
            "not named port",
            vec![to(Peer { not_port_sets: vec!["n:web".into()], ..Peer::default() })],
            vec![tcp81, dns, ping, ping1, gre],
        ),
        (
            "service",
            vec![to(Peer { service_sets: vec!["svc:dns".into()], ..Peer::default() })],
            vec![dns],
        ),
        (
            "source of a service",
            vec![from(Peer { service_sets: vec!["svcnoport:a".into()], ..Peer::default() })],
            all.to_vec(),
        ),
        (
            "deny the source of a service",
            not(from(Peer { service_sets: vec!["svcnoport:b".into()], ..Peer::default() })),
            all.to_vec(),
        ),
        ("icmp type", vec![Rule { icmp: icmp(None), ..allow() }], vec![ping, ping1]),
        ("icmp code", vec![Rule { icmp: icmp(Some(1)), ..allow() }], vec![ping1]),
        (
            "not icmp",
            vec![Rule { not_icmp: icmp(Some(1)), ..allow() }],
            vec![tcp80, tcp81, dns, ping, gre],
        ),
        (
            "not icmp of ICMP",
            vec![Rule { protocol: Some(Protocol(1)), not_icmp: icmp(Some(1)), ..allow() }],
            vec![ping],
        ),
        ("set of hosts", vec![from_set("s:a")], all.to_vec()),
        ("set of networks", vec![from_set("s:net")], all.to_vec()),
        (
            "both sets",
            vec![from(Peer { sets: vec!["s:a".into(), "s:net".into()], ..Peer::default() })],
            all.to_vec(),
        ),
        (
            "not in set",
            vec![from(Peer { not_sets: vec!["s:net".into()], ..Peer::default() })],
            vec![],
        ),
        (
            "net",
            vec![from(Peer { nets: vec!["10.65.0.0/30".parse().unwrap()], ..Peer::default() })],
            all.to_vec(),
        ),
        (
            "not net",
            vec![from(Peer { not_nets: vec!["10.65.0.0/30".parse().unwrap()], ..Peer::default() })],
            vec![],
        ),
        ("IPv6 only", vec![Rule { ip_version: Some(6), ..allow() }], vec![]),
        (
            "deny, then allow",
            not(to(Peer { ports: ranges(), ..Peer::default() })),
            vec![tcp81, ping, ping1, gre],
        ),
        ("log", vec![Rule { action: Action::Log, ..allow() }, allow()], all.to_vec()),
    ]
}

#[test]
fn each_feature_of_a_rule_has_a_packet_that_passes_and_one_that_does_not() {
    if !available("each_feature_of_a_rule") {
        return;
    }
    let mut node = Node::new("node-a", 2);
    let a = node.space.pod("calia", &["10.65.0.2"]);
    let b = node.space.pod("calib", &["10.65.0.3"]);
    b.run("echo 1 > /proc/sys/net/ipv4/icmp_echo_ignore_all");
    let view = node.agent.view();
    view.endpoint("a", "calia", &["10.65.0.2"], None);
    view.endpoint("b", "calib", &["10.65.0.3"], Some("it"));
    view.plist("it", vec![tier(&["it"], &[])]);
    view.member("n:web", "10.65.0.3,tcp:80", true);
    view.member("svc:dns", "10.65.0.3,udp:53", true);
    view.member("svcnoport:a", "10.65.0.2/32", true);
    view.member("svcnoport:b", "10.65.0.3/32", true);
    view.member("s:a", "10.65.0.2/32", true);
    view.member("s:net", "10.65.0.0/24", true);
    let b_hears = Receiver::new(&b, &[1, 6, 17, 47], "::1");
    let all: Vec<_> = features().into_iter().flat_map(|(_, _, passes)| passes).collect();
    let all: BTreeSet<_> = all.into_iter().collect();
    for (name, rules, passes) in features() {
        node.agent.view().policy("it", rules, vec![]);
        node.commit_all();
        let packet = |(protocol, words): Kind| Raw {
            from: "10.65.0.2".parse().unwrap(),
            to: "10.65.0.3".parse().unwrap(),
            protocol,
            words,
        };
        for one in &all {
            send(&a, &packet(*one));
        }
        let mut seen = b_hears.wait_for(passes.len());
        let mut passes: Vec<Raw> = passes.into_iter().map(packet).collect();
        passes.sort();
        seen.sort();
        assert_eq!(seen, passes, "{name}");
    }
}

#[test]
fn tiers_pass_on_or_decide() {
    if !available("tiers_pass_on_or_decide") {
        return;
    }
    let mut node = Node::new("node-a", 2);
    let a = node.space.pod("calia", &["10.65.0.2"]);
    let b = node.space.pod("calib", &["10.65.0.3"]);
    let view = node.agent.view();
    view.endpoint("a", "calia", &["10.65.0.2"], None);
    view.endpoint("b", "calib", &["10.65.0.3"], Some("two"));
    let to = |number| Peer { ports: port(number), ..Peer::default() };
    let rule = |action, number| Rule { action, protocol: TCP, destination: to(number), ..allow() };
    let first = vec![rule(Action::Pass, 80), rule(Action::Allow, 81), rule(Action::Deny, 82)];
    view.policy("first", first, vec![]);
    view.policy("unreached", vec![rule(Action::Allow, 82), rule(Action::Deny, 80)], vec![]);
    view.policy("second", vec![rule(Action::Allow, 80), rule(Action::Deny, 81)], vec![]);
    let tiers = |pass| {
        vec![
            PolicyTier { default_pass: pass, ..tier(&["first", "unreached"], &[]) },
            PolicyTier { default_pass: pass, ..tier(&["second"], &[]) },
        ]
    };
    view.plist("two", tiers(false));
    node.commit_all();
    let reach = |number| tcp(&a, &b, "10.65.0.3", number);
    assert!(reach(80), "passed by the first tier, allowed by the second");
    assert!(reach(81), "allowed by the first: the second isn't asked");
    assert!(!reach(82), "denied by the first policy: the next isn't asked");
    assert!(!reach(83), "nobody decides: the first tier's end");
    node.agent.view().plist("two", tiers(true));
    node.commit_all();
    assert!(reach(83), "both tiers pass at their end: the profile allows");
    node.agent.view().profile("all", None);
    let outcome = node.commit();
    assert!(outcome.failed.iter().all(|failure| failure.reason.contains("not in the view")));
    assert!(!reach(83), "a missing profile denies");
}
