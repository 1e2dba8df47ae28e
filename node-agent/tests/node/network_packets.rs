//! Routes and tunnels between nodes.

use ipnet::IpNet;
use model::view::{EncapMode, Host, Pool, Route};

use crate::{
    lab::{Namespace, available, node::Node, tcp, udp, wire},
    world::Write,
};

const POOL: &str = "10.65.0.0/16";

/// Node number `n` has 172.18.0.n, the block 10.65.n.0/26 and the tunnel address 10.65.n.0.
fn host(n: u8) -> Host {
    Host {
        ipv4: Some(format!("172.18.0.{n}/24").parse::<IpNet>().unwrap()),
        vxlan_address: Some([10, 65, n, 0].into()),
        vxlan_mac: format!("66:00:00:00:00:{n:02x}").into(),
        ..Host::default()
    }
}

/// Two nodes on one wire, each with a pod 10.65.n.2, in a pool of this kind.
fn two_nodes(pool: &Pool) -> [(Node, Namespace); 2] {
    let mut nodes = [2, 3].map(|n| {
        let mut node = Node::new(&format!("node-{n}"), n);
        let pod = node.space.pod("calipod", &[&format!("10.65.{n}.2")]);
        let view = node.agent.view();
        view.pool(POOL, pool.clone());
        for n in [2, 3] {
            view.host(&format!("node-{n}"), host(n));
            let route = Route {
                node: format!("node-{n}").into(),
                pool: Some(POOL.parse().unwrap()),
                ..Route::default()
            };
            view.route(&format!("10.65.{n}.0/26"), Some(route));
        }
        view.endpoint("pod", "calipod", &[&format!("10.65.{n}.2")], None);
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

#[test]
fn pods_on_two_nodes_reach_each_other_by_vxlan() {
    if !available("pods_on_two_nodes_reach_each_other_by_vxlan") {
        return;
    }
    let pool = Pool { vxlan: EncapMode::Always, nat_outgoing: true, ..Pool::default() };
    let [(mut a, pod_a), (mut b, pod_b)] = two_nodes(&pool);
    a.commit_all();
    assert!(!tcp(&pod_a, &pod_b, "10.65.3.2", 80), "b has no routes yet");
    b.commit_all();
    assert!(tcp(&pod_a, &pod_b, "10.65.3.2", 80));
    assert!(udp(&pod_b, &pod_a, "10.65.2.2", 53));
    assert!(tcp(&a.space, &pod_b, "10.65.3.2", 80), "from the node itself");
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
}
