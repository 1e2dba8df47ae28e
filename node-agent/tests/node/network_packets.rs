//! Routes and tunnels between nodes.

use bulrush_node_agent::{KernelEvent, NodeView};
use ipnet::IpNet;
use model::view::{EncapMode, Host, Pool, Route};

use crate::{
    lab::{
        Namespace, available,
        node::Node,
        raw::{Raw, Receiver, send},
        seen_from, tcp, udp, udp_seen_from, wire,
    },
    world::Write,
};

pub(crate) const POOLS: [&str; 2] = ["10.65.0.0/16", "fd65::/48"];

/// Node number `n` has `172.18.0.n` and `fd18::n`, the blocks `10.65.n.0/26` and `fd65::n:0/122`,
/// and the first address of each block for its tunnel.
pub(crate) fn host(n: u8) -> Host {
    let net = |text: String| Some(text.parse::<IpNet>().unwrap());
    Host {
        ipv4: net(format!("172.18.0.{n}/24")),
        ipv6: net(format!("fd18::{n}/64")),
        vxlan_address: Some([10, 65, n, 0].into()),
        vxlan_mac: format!("66:00:00:00:00:{n:02x}").into(),
        vxlan_address_v6: Some(format!("fd65::{n}:0").parse().unwrap()),
        vxlan_mac_v6: format!("66:00:00:00:06:{n:02x}").into(),
        ..Host::default()
    }
}

fn pod_addresses(n: u8) -> [String; 2] {
    [format!("10.65.{n}.2"), format!("fd65::{n}:2")]
}

/// The view of node `n`: two nodes and their blocks in pools of this kind, and a pod of its own.
pub(crate) fn write(view: &mut NodeView, n: u8, pool: &Pool) {
    for cidr in POOLS {
        view.pool(cidr, pool.clone());
    }
    for n in [2, 3] {
        view.host(&format!("node-{n}"), host(n));
        for (cidr, pool) in
            [format!("10.65.{n}.0/26"), format!("fd65::{n}:0/122")].iter().zip(POOLS)
        {
            let pool = Some(pool.parse().unwrap());
            let node = format!("node-{n}").into();
            view.route(cidr, Some(Route { node, pool, ..Route::default() }));
        }
        for (cidr, pool) in
            [format!("10.65.{n}.0/32"), format!("fd65::{n}:0/128")].iter().zip(POOLS)
        {
            let (node, pool) = (format!("node-{n}").into(), Some(pool.parse().unwrap()));
            view.route(cidr, Some(Route { node, pool, tunnel: true, ..Route::default() }));
        }
    }
    let [v4, v6] = pod_addresses(n);
    view.endpoint("pod", "calipod", &[&v4, &v6], None);
}

/// Two nodes on one wire, each with a pod `10.65.n.2` and `fd65::n:2`.
pub(crate) fn two_nodes(pool: &Pool) -> [(Node, Namespace); 2] {
    let mut nodes = [2, 3].map(|n| {
        let mut node = Node::new(&format!("node-{n}"), n);
        let [v4, v6] = pod_addresses(n);
        let pod = node.space.pod("calipod", &[&v4, &v6]);
        write(node.agent.view(), n, pool);
        (node, pod)
    });
    // Both hang on one bridge outside.
    let [(a, _), (b, _)] = &mut nodes;
    wire((&a.outside, "peer", "192.0.2.1/24"), (&b.outside, "peer", "192.0.2.2/24"));
    for node in [&*a, &*b] {
        node.outside.ip("link add bridge0 type bridge");
        node.outside.ip("link set bridge0 up");
        node.outside.ip("link set eth0 master bridge0");
        node.outside.ip("link set peer master bridge0");
    }
    nodes
}

pub(crate) fn vxlan() -> Pool {
    Pool { vxlan: EncapMode::Always, nat_outgoing: true, ..Pool::default() }
}

#[test]
fn pods_on_two_nodes_reach_each_other_by_vxlan() {
    if !available("pods_on_two_nodes_reach_each_other_by_vxlan") {
        return;
    }
    let [(mut a, pod_a), (mut b, pod_b)] = two_nodes(&vxlan());
    a.commit_all();
    assert!(!tcp(&pod_a, &pod_b, "10.65.3.2", 80), "b has no routes yet");
    b.commit_all();
    assert!(tcp(&pod_a, &pod_b, "10.65.3.2", 80));
    assert!(udp(&pod_b, &pod_a, "10.65.2.2", 53));
    assert!(tcp(&a.space, &pod_b, "10.65.3.2", 80), "from the node itself");
    assert!(tcp(&pod_a, &pod_b, "fd65::3:2", 80));
    assert!(udp(&pod_b, &pod_a, "fd65::2:2", 53));
    let source = seen_from(&pod_a, &pod_b, "10.65.3.2", 80).ip();
    assert_eq!(source.to_string(), "10.65.2.2", "between pools nothing is masqueraded");
    let devices = a.space.ip("-d link show vxlan.calico");
    for part in
        ["vxlan id 4096 local 172.18.0.2 dev eth0", "nolearning", "mtu 1450", "66:00:00:00:00:02"]
    {
        assert!(devices.contains(part), "{part} in {devices}");
    }
    assert!(a.space.ip("route show").contains("blackhole 10.65.2.0/26 proto 80"));
}

#[test]
fn pods_on_two_nodes_reach_each_other_without_a_tunnel() {
    if !available("pods_on_two_nodes_reach_each_other_without_a_tunnel") {
        return;
    }
    let [(mut a, pod_a), (mut b, pod_b)] =
        two_nodes(&Pool { vxlan: EncapMode::CrossSubnet, ..Pool::default() });
    a.commit_all();
    b.commit_all();
    assert!(tcp(&pod_a, &pod_b, "10.65.3.2", 80));
    let routes = a.space.ip("route show");
    assert!(routes.contains("10.65.3.0/26 via 172.18.0.3 dev eth0 proto 80 onlink"), "{routes}");
    assert!(tcp(&pod_a, &pod_b, "fd65::3:2", 80));
}

#[test]
fn settings_of_the_tunnel_change_under_running_pods() {
    if !available("settings_of_the_tunnel_change_under_running_pods") {
        return;
    }
    let [(mut a, pod_a), (mut b, pod_b)] = two_nodes(&vxlan());
    for setting in [
        r#"{"vxlanPort":8472}"#,
        r#"{"vxlanVNI":77,"vxlanMTU":1300}"#,
        r#"{"vxlanMTUV6":1290}"#,
        "{}",
    ] {
        for node in [&mut a, &mut b] {
            node.agent.view().felix(setting);
            node.commit_all();
            // A device that is made anew takes its routes along, in the background.
            node.agent.kernel_event(&KernelEvent::LinksLost);
            node.commit_all();
        }
        assert!(tcp(&pod_a, &pod_b, "10.65.3.2", 80), "{setting}");
        assert!(tcp(&pod_a, &pod_b, "fd65::3:2", 80), "{setting}");
    }
    let view = a.agent.view();
    view.host("node-2", Host { vxlan_mac: "66:00:00:00:00:99".into(), ..host(2) });
    a.commit_all();
    b.agent.view().host("node-2", Host { vxlan_mac: "66:00:00:00:00:99".into(), ..host(2) });
    b.commit_all();
    assert!(tcp(&pod_a, &pod_b, "10.65.3.2", 80), "another MAC");
    for node in [&mut a, &mut b] {
        for pool in POOLS {
            node.agent.view().pool(pool, Pool::default());
        }
        node.commit_all();
    }
    assert!(tcp(&pod_a, &pod_b, "10.65.3.2", 80), "no tunnel any more");
    assert!(!a.space.ip("link").contains("vxlan"));
}

#[test]
fn tunnel_packets_of_strangers_are_dropped() {
    if !available("tunnel_packets_of_strangers_are_dropped") {
        return;
    }
    let [(mut a, pod_a), (mut b, pod_b)] = two_nodes(&vxlan());
    a.commit_all();
    b.commit_all();
    assert!(tcp(&pod_b, &pod_a, "10.65.2.2", 80));
    // b still sends by the tunnel; a doesn't know it any more, but kept its way back.
    let view = a.agent.view();
    let elsewhere = Host { ipv4: Some("172.18.0.77/24".parse().unwrap()), ..host(3) };
    view.host("node-3", elsewhere);
    a.commit_all();
    a.space.ip("neigh replace 172.18.0.77 lladdr 66:00:00:00:00:77 dev eth0");
    let heard = Receiver::new(&pod_a, &[17], "::1");
    let packet = Raw {
        from: "10.65.3.2".parse().unwrap(),
        to: "10.65.2.2".parse().unwrap(),
        protocol: 17,
        words: (4000, 4000),
    };
    send(&pod_b, &packet);
    a.agent.view().host("node-3", host(3));
    a.commit_all();
    let packet_later = Raw { words: (4001, 4001), ..packet };
    send(&pod_b, &packet_later);
    assert_eq!(heard.wait_for(1), [packet_later]);
}

#[test]
fn what_leaves_the_pools_takes_the_nodes_address() {
    if !available("what_leaves_the_pools_takes_the_nodes_address") {
        return;
    }
    let mut node = Node::new("node-2", 2);
    let pod = node.space.pod("calipod", &["10.65.2.2", "fd65::2:2"]);
    node.outside.ip("route add 10.65.0.0/16 via 172.18.0.2");
    node.outside.ip("route add fd65::/48 via fd18::2");
    write(node.agent.view(), 2, &vxlan());
    node.commit_all();
    let seen =
        |node: &Node, address, port| seen_from(&pod, &node.outside, address, port).ip().to_string();
    assert_eq!(seen(&node, "172.18.0.1", 80), "172.18.0.2");
    assert_eq!(seen(&node, "fd18::1", 80), "fd18::2");
    let from = udp_seen_from(&pod, 4789, &node.outside, "172.18.0.1", 53);
    assert_ne!(from.port(), 4789, "that port is the tunnel's");
    assert_eq!(from.ip().to_string(), "172.18.0.2");

    node.agent.view().felix(r#"{"natPortRange":"50000:50010"}"#);
    node.commit_all();
    let port = seen_from(&pod, &node.outside, "172.18.0.1", 81).port();
    assert!((50000..=50010).contains(&port), "{port}");

    for pool in POOLS {
        node.agent.view().pool(pool, Pool { nat_outgoing: false, ..vxlan() });
    }
    node.commit_all();
    assert_eq!(seen(&node, "172.18.0.1", 82), "10.65.2.2");
    assert_eq!(seen(&node, "fd18::1", 82), "fd65::2:2");
}
