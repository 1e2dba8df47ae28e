//! Policy: for each feature one packet that passes and one that doesn't.

use model::view::{Peer, Rule};

use crate::{
    lab::{available, node::Node, tcp, udp},
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
