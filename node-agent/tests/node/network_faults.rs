//! Devices and routes when the kernel refuses, when others interfere, and in which order things go.

use std::time::{Duration, Instant};

use bulrush_node_agent::{
    KernelEvent, Outcome, Reconciler, Source,
    drivers::{
        LinkKind, NextHop, RouteKey, RouteValue, RtnlError, RtnlOp, Vxlan, memory::MemoryKernel,
    },
};
use model::view::{EncapMode, Host, Pool, Route, Topic};

use crate::world::{NODE, Write, endpoint_key};

type Agent = Reconciler<MemoryKernel>;

const POOL: &str = "10.65.0.0/16";

fn host(n: u8) -> Host {
    Host {
        ipv4: Some(format!("172.18.0.{n}/24").parse().unwrap()),
        ipip_address: Some([10, 65, n, 1].into()),
        vxlan_address: Some([10, 65, n, 0].into()),
        vxlan_mac: format!("66:00:00:00:00:{n:02x}").into(),
        ..Host::default()
    }
}

fn block_of(node: &str) -> Route {
    Route { node: node.into(), pool: Some(POOL.parse().unwrap()), ..Route::default() }
}

/// This node and another, each with a block.
fn agent(pool: Pool) -> Agent {
    let mut kernel = MemoryKernel::default();
    let eth0 = kernel.rtnl.plug("eth0", true);
    kernel.rtnl.addresses.insert((eth0, "172.18.0.1/24".parse().unwrap()));
    let mut agent = Reconciler::new(NODE, true, kernel);
    let view = agent.view();
    view.pool(POOL, pool);
    view.host(NODE, host(1));
    view.host("node-b", host(2));
    view.route("10.65.1.0/26", Some(block_of(NODE)));
    view.route("10.65.2.0/26", Some(block_of("node-b")));
    agent
}

fn vxlan() -> Pool {
    Pool { vxlan: EncapMode::Always, ..Pool::default() }
}

fn commit(agent: &mut Agent) -> Outcome {
    agent.commit(Source::Server, Instant::now())
}

fn reasons(outcome: &Outcome) -> Vec<(String, String)> {
    let failures = outcome.failed.iter();
    failures.map(|f| (format!("{} {}", f.topic, f.key), f.reason.clone())).collect()
}

fn route(agent: &mut Agent, cidr: &str) -> Option<RouteValue> {
    agent.kernel().rtnl.routes.get(&RouteKey::ours(cidr.parse().unwrap())).copied()
}

/// The kinds of operations since the log was cleared, repetitions left out.
fn kinds(agent: &mut Agent) -> Vec<&'static str> {
    let mut kinds: Vec<_> = agent
        .kernel()
        .rtnl
        .log
        .drain(..)
        .map(|op| match op {
            RtnlOp::AddLink(_) => "+link",
            RtnlOp::ChangeLink(..) => "~link",
            RtnlOp::DeleteLink(_) => "-link",
            RtnlOp::AddAddress(..) => "+address",
            RtnlOp::DeleteAddress(..) => "-address",
            RtnlOp::AddRoute(..) => "+route",
            RtnlOp::ReplaceRoute(..) => "~route",
            RtnlOp::DeleteRoute(..) => "-route",
            RtnlOp::SetNeighbour(..) => "+neighbour",
            RtnlOp::DeleteNeighbour(..) => "-neighbour",
            RtnlOp::SetFdb(..) => "+peer",
            RtnlOp::DeleteFdb(..) => "-peer",
        })
        .collect();
    kinds.dedup();
    kinds
}

#[test]
fn things_are_made_before_what_needs_them_and_go_after_it() {
    let mut agent = agent(vxlan());
    assert_eq!(commit(&mut agent).failed, []);
    assert_eq!(kinds(&mut agent), ["+link", "+address", "+neighbour", "+peer", "+route"]);

    // node-b is replaced by node-c: its routes and VTEP come before those of b go.
    let view = agent.view();
    view.host("node-c", host(3));
    view.route("10.65.3.0/26", Some(block_of("node-c")));
    view.set(&Topic::host("node-b"), "node-b", None);
    view.route("10.65.2.0/26", None);
    assert_eq!(commit(&mut agent).failed, []);
    let order = ["+neighbour", "+peer", "+route", "-route", "-neighbour", "-peer"];
    assert_eq!(kinds(&mut agent), order);

    agent.view().pool(POOL, Pool::default());
    assert_eq!(commit(&mut agent).failed, []);
    assert!(agent.kernel().rtnl.link("vxlan.calico").is_none());
    let next = route(&mut agent, "10.65.3.0/26").unwrap().next;
    assert!(
        matches!(next, NextHop::Gateway { gateway, .. } if gateway.to_string() == "172.18.0.3")
    );
}

#[test]
fn a_foreign_route_is_left_alone_and_named() {
    let mut agent = agent(vxlan());
    let key = RouteKey::ours("10.65.2.0/26".parse().unwrap());
    let bird = RouteValue { next: NextHop::Link { index: 1 }, protocol: 12 };
    agent.kernel().rtnl.routes.insert(key, bird);
    let cali = agent.kernel().rtnl.plug("cali1", true);
    let pod = RouteKey::ours("10.65.1.7/32".parse().unwrap());
    let by_hand = RouteValue { next: NextHop::Link { index: cali }, protocol: 3 };
    agent.kernel().rtnl.routes.insert(pod, by_hand);
    agent.view().endpoint("e1", "cali1", &["10.65.1.7"], None);
    let outcome = commit(&mut agent);
    let failures: Vec<_> =
        reasons(&outcome).into_iter().filter(|f| f.0.contains("routes")).collect();
    assert_eq!(failures.len(), 1, "{failures:?}");
    assert!(failures[0].0.ends_with(" 10.65.2.0/26"));
    assert!(failures[0].1.contains("a route of protocol 12 has its place"), "{failures:?}");
    assert_eq!(route(&mut agent, "10.65.2.0/26"), Some(bird));
    let ours = RouteValue::ours(NextHop::Link { index: cali });
    assert_eq!(route(&mut agent, "10.65.1.7/32"), Some(ours), "into a pod only we route");

    agent.kernel().rtnl.routes.remove(&key);
    let due = outcome.next.unwrap();
    let outcome = agent.commit(Source::Server, due);
    assert!(reasons(&outcome).iter().all(|failure| !failure.0.contains("routes")));
    assert!(route(&mut agent, "10.65.2.0/26").is_some_and(|route| route.protocol == 80));
}

#[test]
fn what_the_kernel_refuses_is_tried_again_ever_more_seldom() {
    let mut agent = agent(vxlan());
    agent.kernel().rtnl.refuse = Some(Box::new(|op| match op {
        RtnlOp::SetNeighbour(..) => Some(RtnlError::Other("no buffer space".into())),
        _ => None,
    }));
    let start = Instant::now();
    let first = agent.commit(Source::Server, start);
    let place = format!("{} node-b", Topic::host("node-b"));
    let reason = "setting neighbour 10.65.2.0: no buffer space".to_owned();
    assert_eq!(reasons(&first), [(place, reason)]);
    assert!(route(&mut agent, "10.65.2.0/26").is_some(), "all else goes on");
    let second = agent.commit(Source::Server, first.next.unwrap());
    assert_eq!(first.next.unwrap() - start, Duration::from_secs(1));
    assert_eq!(second.next.unwrap() - first.next.unwrap(), Duration::from_secs(2));
    agent.kernel().rtnl.refuse = None;
    assert_eq!(agent.commit(Source::Server, second.next.unwrap()).failed, []);
    assert_eq!(agent.kernel().rtnl.neighbours.len(), 1);
}

#[test]
fn a_missing_module_is_named_and_other_modes_go_on() {
    let mut agent = agent(vxlan());
    let view = agent.view();
    view.pool("10.66.0.0/16", Pool { ipip: EncapMode::Always, ..Pool::default() });
    let pool = Some("10.66.0.0/16".parse().unwrap());
    view.route("10.66.2.0/26", Some(Route { node: "node-b".into(), pool, ..Route::default() }));
    agent.kernel().rtnl.refuse = Some(Box::new(|op| match op {
        RtnlOp::AddLink(spec) if spec.kind == LinkKind::Ipip => Some(RtnlError::Unsupported),
        _ => None,
    }));
    let outcome = commit(&mut agent);
    let reasons = reasons(&outcome);
    let own = format!("{} {NODE}", Topic::host(NODE));
    assert!(reasons.contains(&(own, "IPIP needs kernel module ipip: modprobe ipip".into())));
    assert!(reasons.iter().any(|f| f.0.ends_with("10.66.2.0/26") && f.1.contains("IPIP device")));
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    assert!(route(&mut agent, "10.65.2.0/26").is_some());

    agent.kernel().rtnl.refuse = None;
    let outcome = agent.commit(Source::Server, outcome.next.unwrap());
    assert_eq!(outcome.failed, []);
    let tunnel = agent.kernel().rtnl.link("tunl0").unwrap().clone();
    assert_eq!(tunnel.mtu, 1480);
    let gateway = "172.18.0.2".parse().unwrap();
    let expected = RouteValue::ours(NextHop::Gateway { index: tunnel.index, gateway });
    assert_eq!(route(&mut agent, "10.66.2.0/26"), Some(expected));
}

#[test]
fn two_nodes_with_one_mac_are_named() {
    let mut agent = agent(vxlan());
    agent.view().host("node-c", Host { vxlan_mac: host(2).vxlan_mac, ..host(3) });
    agent.view().host("node-d", Host { vxlan_mac: "66:00".into(), ..host(4) });
    let reasons = reasons(&commit(&mut agent));
    let of = |node: &str| format!("{} {node}", Topic::host(node));
    assert!(reasons.contains(&(
        of("node-c"),
        "its VXLAN MAC 66:00:00:00:00:02 is also that of node node-b".into()
    )));
    assert!(reasons.iter().any(|(place, reason)| *place == of("node-d")
        && reason.contains("\"66:00\" is no MAC")));
    assert_eq!(agent.kernel().rtnl.fdb.len(), 1);
}

#[test]
fn the_vxlan_device_is_changed_in_place_where_the_kernel_lets_us() {
    let mut agent = agent(vxlan());
    commit(&mut agent);
    let index = agent.kernel().rtnl.link("vxlan.calico").unwrap().index;
    agent.view().felix(r#"{"vxlanMTU":1400}"#);
    assert_eq!(commit(&mut agent).failed, []);
    let link = agent.kernel().rtnl.link("vxlan.calico").unwrap().clone();
    assert_eq!((link.index, link.mtu), (index, 1400));

    agent.kernel().rtnl.refuse = Some(Box::new(|op| match op {
        RtnlOp::ChangeLink(..) => Some(RtnlError::Other("cannot change VNI".into())),
        _ => None,
    }));
    agent.view().felix(r#"{"vxlanVNI":77}"#);
    assert_eq!(commit(&mut agent).failed, []);
    let link = agent.kernel().rtnl.link("vxlan.calico").unwrap().clone();
    assert!(matches!(link.kind, LinkKind::Vxlan(Vxlan { vni: 77, .. })));
    assert_ne!(link.index, index);
    let rtnl = &agent.kernel().rtnl;
    assert!(rtnl.routes.values().any(|route| route.device() == Some(link.index)));
    assert_eq!(rtnl.neighbours.keys().map(|(i, _)| *i).collect::<Vec<_>>(), [link.index]);
    assert_eq!(rtnl.fdb.keys().map(|(i, _)| *i).collect::<Vec<_>>(), [link.index]);
    assert!(rtnl.addresses.contains(&(link.index, "10.65.1.0/32".parse().unwrap())));
}

#[test]
fn a_tunnel_stays_while_this_nodes_own_entry_is_broken() {
    let mut agent = agent(vxlan());
    commit(&mut agent);
    agent.kernel().rtnl.log.clear();
    agent.view().host(NODE, Host { vxlan_address: None, ..host(1) });
    let reasons = reasons(&commit(&mut agent));
    let expected = "device vxlan.calico: this node has no IPv4 VXLAN tunnel address yet";
    assert_eq!(reasons, [(format!("{} {NODE}", Topic::host(NODE)), expected.to_owned())]);
    assert_eq!(agent.kernel().rtnl.log, [], "nothing is touched");
}

#[test]
fn a_device_that_came_with_its_module_is_set_up() {
    let mut agent = agent(Pool { ipip: EncapMode::Always, ..Pool::default() });
    // Asking for an IPIP device loads the module, which makes tunl0 itself: down.
    let made = agent.kernel().rtnl.plug("tunl0", false);
    let link = agent.kernel().rtnl.links.get_mut(&made).unwrap();
    link.kind = LinkKind::Ipip;
    assert_eq!(commit(&mut agent).failed, []);
    let link = &agent.kernel().rtnl.links[&made];
    assert!(link.up && link.mtu == 1480, "{link:?}");
    assert!(agent.kernel().rtnl.addresses.contains(&(made, "10.65.1.1/32".parse().unwrap())));
}

#[test]
fn an_endpoint_waits_for_its_interface() {
    let mut agent = agent(vxlan());
    agent.view().endpoint("e1", "cali1", &["10.65.1.7"], None);
    agent.view().profile("all", Some(crate::world::allow_all()));
    let outcome = commit(&mut agent);
    assert_eq!((outcome.failed, outcome.waiting), (vec![], [endpoint_key("e1").into()].into()));
    let index = agent.kernel().rtnl.plug("cali1", false);
    assert!(agent.kernel_event(&KernelEvent::Link { index, up: false }));
    assert_eq!(commit(&mut agent).waiting.len(), 1, "not up yet");
    agent.kernel().rtnl.links.get_mut(&index).unwrap().up = true;
    agent.kernel_event(&KernelEvent::Link { index, up: true });
    let outcome = commit(&mut agent);
    assert_eq!((outcome.failed, outcome.waiting), (vec![], [].into()));
    assert!(route(&mut agent, "10.65.1.7/32").is_some());
    let values = &agent.kernel().sysctl.values;
    assert_eq!(values["net/ipv4/conf/cali1/proxy_arp"], "1");
    assert_eq!(values["net/ipv4/neigh/cali1/proxy_delay"], "0");
    assert_eq!(values["net/ipv4/ip_forward"], "1");

    // Down and up again between two looks: the kernel has dropped the route without a word.
    agent.kernel().rtnl.routes.remove(&RouteKey::ours("10.65.1.7/32".parse().unwrap()));
    agent.kernel_event(&KernelEvent::Link { index, up: false });
    agent.kernel_event(&KernelEvent::Link { index, up: true });
    commit(&mut agent);
    assert!(route(&mut agent, "10.65.1.7/32").is_some());

    // Another device of the same name, seen only when we look for another reason.
    agent.kernel().rtnl.unplug(index);
    let index = agent.kernel().rtnl.plug("cali1", true);
    agent.kernel_event(&KernelEvent::Address { index, there: true });
    commit(&mut agent);
    let expected = RouteValue::ours(NextHop::Link { index });
    assert_eq!(route(&mut agent, "10.65.1.7/32"), Some(expected));
}

#[test]
fn a_tunnel_that_was_set_down_comes_back_whole() {
    let mut agent = agent(vxlan());
    commit(&mut agent);
    let rtnl = &mut agent.kernel().rtnl;
    let index = rtnl.link("vxlan.calico").unwrap().index;
    let (routes, neighbours) = (rtnl.routes.clone(), rtnl.neighbours.clone());
    rtnl.links.get_mut(&index).unwrap().up = false;
    rtnl.routes.retain(|_, route| route.device() != Some(index));
    rtnl.neighbours.clear();
    agent.kernel_event(&KernelEvent::Link { index, up: false });
    assert_eq!(commit(&mut agent).failed, []);
    let rtnl = &agent.kernel().rtnl;
    assert!(rtnl.links[&index].up);
    assert_eq!((&rtnl.routes, &rtnl.neighbours), (&routes, &neighbours));
}

#[test]
fn the_periodic_check_finds_what_nobody_told() {
    let mut agent = agent(vxlan());
    let start = Instant::now();
    agent.commit(Source::Server, start);
    let key = RouteKey::ours("10.65.2.0/26".parse().unwrap());
    let stale = RouteKey::ours("10.99.0.0/26".parse().unwrap());
    let rtnl = &mut agent.kernel().rtnl;
    rtnl.routes.remove(&key);
    rtnl.routes.insert(stale, RouteValue::ours(NextHop::Blackhole));
    rtnl.neighbours.clear();
    agent.commit(Source::Server, start + Duration::from_secs(89));
    assert!(route(&mut agent, "10.65.2.0/26").is_none());
    agent.commit(Source::Server, start + Duration::from_secs(90));
    assert!(route(&mut agent, "10.65.2.0/26").is_some());
    assert!(route(&mut agent, "10.99.0.0/26").is_none(), "protocol 80 is ours");
    assert_eq!(agent.kernel().rtnl.neighbours.len(), 1);
}

#[test]
fn a_bad_setting_is_named_and_its_default_holds() {
    let mut agent = agent(vxlan());
    agent
        .view()
        .felix(r#"{"vxlanPort":70000,"nftablesMarkMask":49152,"vxlanVNI":77,"logPrefix":"a\"b"}"#);
    let reasons = reasons(&commit(&mut agent));
    let [(place, reason)] = reasons.as_slice() else { panic!("{reasons:?}") };
    assert_eq!(place, "config FelixConfiguration/default");
    for part in [
        "vxlanPort: 70000: expected a number from 1 to 65535; the field is left out",
        "nftablesMarkMask: 49152: expected a mask with at least 2 bits beside kube-proxy's 0xc000",
        "logPrefix: \"a\\\"b\": expected up to 120 printable ASCII characters, no quote",
    ] {
        assert!(reason.contains(part), "{part} in {reason}");
    }
    let link = agent.kernel().rtnl.link("vxlan.calico").unwrap();
    assert!(matches!(link.kind, LinkKind::Vxlan(Vxlan { vni: 77, port: 4789, .. })));
}
