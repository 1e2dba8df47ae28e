//! Restarts, and what others do to the kernel meanwhile.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use bulrush_node_agent::{
    KernelEvent, NodeView, Source,
    drivers::{RouteKey, monitor::Monitor},
};
use model::view::Topic;
use tokio::{runtime::Runtime, time::timeout};

use crate::{
    lab::{Talk, available, node::Node, tcp},
    network_packets::{two_nodes, vxlan, write},
    world::{Write, endpoint_key, from_set, tier},
};

/// The kernel's notifications in a node.
struct Events {
    runtime: Runtime,
    monitor: Monitor,
    marks: u8,
}

impl Events {
    fn of(node: &Node) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let monitor = {
            let _inside = runtime.enter();
            node.space.enter(|| Monitor::open().unwrap())
        };
        Self { runtime, monitor, marks: 0 }
    }

    fn next(&mut self) -> KernelEvent {
        let next = async { timeout(Duration::from_secs(10), self.monitor.next()).await };
        self.runtime.block_on(next).expect("an event").unwrap()
    }

    /// Feeds the agent the events up to now; whether one calls for a commit. Now is marked by a
    /// route of somebody else's.
    fn feed(&mut self, node: &mut Node) -> bool {
        self.marks += 1;
        let mark = format!("198.51.100.{}/32", self.marks);
        node.space.ip(&format!("route add blackhole {mark} proto 99"));
        let mark = RouteKey::ours(mark.parse().unwrap());
        let mut calls = false;
        loop {
            match self.next() {
                KernelEvent::Route(key, _) if key == mark => return calls,
                event => calls |= node.agent.kernel_event(&event),
            }
        }
    }

    /// Feeds the agent events until one calls for a commit.
    fn feed_until_called(&mut self, node: &mut Node) {
        while !node.agent.kernel_event(&self.next()) {}
    }
}

#[test]
fn a_restart_is_not_felt() {
    if !available("a_restart_is_not_felt") {
        return;
    }
    let world = |view: &mut NodeView| {
        view.endpoint("a", "calia", &["10.65.0.2"], None);
        view.endpoint("b", "calib", &["10.65.0.3"], Some("web"));
        view.plist("web", vec![tier(&["web"], &[])]);
        view.policy("web", vec![crate::world::from_set("s:a")], vec![]);
        view.member("s:a", "10.65.0.2/32", true);
    };
    let mut node = Node::new("node-a", 2);
    let a = node.space.pod("calia", &["10.65.0.2"]);
    let b = node.space.pod("calib", &["10.65.0.3"]);
    let c = node.space.pod("calic", &["10.65.0.4"]);
    world(node.agent.view());
    node.agent.view().endpoint("c", "calic", &["10.65.0.4"], None);
    node.commit_all();
    let mut talk = Talk::start(&a, &b, "10.65.0.3", 80);
    talk.exchange();

    // While the agent is away c's endpoint goes.
    node.restart(world);
    assert!(tcp(&a, &b, "10.65.0.3", 80), "without an agent");
    let saved = node.space.enter(|| node.agent.commit(Source::Saved, Instant::now()));
    assert_eq!(saved.failed, []);
    assert!(tcp(&c, &a, "10.65.0.2", 80), "from a saved view nothing is removed");
    talk.exchange();
    node.commit_all();
    talk.exchange();
    assert!(tcp(&a, &b, "10.65.0.3", 80));
    assert!(!tcp(&c, &b, "10.65.0.3", 80));
    assert!(!tcp(&c, &a, "10.65.0.2", 80), "c is not known any more");
    assert!(!node.space.ip("route").contains("10.65.0.4"));
}

#[test]
fn our_own_changes_call_for_nothing() {
    if !available("our_own_changes_call_for_nothing") {
        return;
    }
    let [(mut node, _pod), _other] = two_nodes(&vxlan());
    let mut events = Events::of(&node);
    node.commit_all();
    // The device is new, and so are its address and state: one more look, and nothing to do.
    events.feed(&mut node);
    node.commit_all();
    assert!(!events.feed(&mut node));
    let key = endpoint_key("pod");
    node.agent.view().set(&Topic::Node("node-a".into()), &key, None);
    node.agent.view().set(&Topic::host("node-3"), "node-3", None);
    node.commit();
    assert!(!events.feed(&mut node), "routes, neighbours, peers and chains went");
}

#[test]
fn what_others_break_is_repaired() {
    if !available("what_others_break_is_repaired") {
        return;
    }
    let [(mut node, pod), (mut other, other_pod)] = two_nodes(&vxlan());
    other.commit_all();
    let mut events = Events::of(&node);
    node.commit_all();
    events.feed(&mut node);
    node.commit_all();
    events.feed(&mut node);
    let mut now = Instant::now();
    for harm in [
        "ip route del 10.65.3.0/26",
        "ip route del 10.65.2.2",
        "ip route flush proto 80",
        "ip -6 route flush proto 80",
        "ip link set calipod down && ip link set calipod up",
        "ip link set vxlan.calico down",
        "ip link set vxlan.calico mtu 1300",
        "ip link del vxlan.calico",
        "ip neigh flush dev vxlan.calico nud permanent",
        "bridge fdb del 66:00:00:00:00:03 dev vxlan.calico dst 172.18.0.3",
        "bridge fdb replace 66:00:00:00:00:03 dev vxlan.calico dst 172.18.0.99",
        "ip addr flush dev vxlan.calico",
        "nft flush ruleset",
        "nft delete table ip calico",
        "nft flush chain ip calico to-workload",
        "nft flush map ip calico from-workload",
    ] {
        let table = node.space.run("nft list table ip calico");
        node.space.run(harm);
        events.feed_until_called(&mut node);
        events.feed(&mut node);
        // Our table is written anew only so often.
        now += Duration::from_secs(20);
        for _ in 0..2 {
            let outcome = node.space.enter(|| node.agent.commit(Source::Server, now));
            assert_eq!(outcome.failed, [], "{harm}");
            events.feed(&mut node);
        }
        assert!(tcp(&pod, &other_pod, "10.65.3.2", 80), "{harm}");
        assert!(tcp(&other_pod, &pod, "fd65::2:2", 80), "{harm}");
        assert_eq!(node.space.run("nft list table ip calico"), table, "{harm}");
        let device = node.space.ip("-d addr show vxlan.calico");
        assert!(device.contains("mtu 1450") && device.contains("10.65.2.0/32"), "{harm}: {device}");
    }
}

#[test]
fn a_check_finds_a_table_that_is_not_whole() {
    if !available("a_check_finds_a_table_that_is_not_whole") {
        return;
    }
    let mut node = Node::new("node-a", 2);
    let view = node.agent.view();
    write(view, 2, &vxlan());
    view.plist("p", vec![tier(&["p"], &[])]);
    view.endpoint("pod", "calipod", &[], Some("p"));
    let ports = model::view::Peer { port_sets: vec!["n:p".into()], ..Default::default() };
    let named = model::view::Rule { destination: ports, ..crate::world::allow() };
    view.policy("p", vec![crate::world::from_set("s:a"), named], vec![]);
    for member in ["10.65.0.2/32", "10.65.0.0/24", "10.65.1.0/24", "fd65::/64", "0.0.0.0/0"] {
        view.member("s:a", member, true);
    }
    view.member("n:p", "10.65.0.2,tcp:80", true);
    let mut now = Instant::now();
    let mut commit = |node: &mut Node, seconds| {
        now += Duration::from_secs(seconds);
        let outcome = node.space.enter(|| node.agent.commit(Source::Server, now));
        assert!(outcome.failed.iter().all(|f| !f.reason.contains("nft")), "{:?}", outcome.failed);
    };
    let list = |node: &Node| node.space.run("nft -a list ruleset");
    commit(&mut node, 0);
    let written = list(&node);
    commit(&mut node, 200);
    assert_eq!(list(&node), written, "an intact table is left alone");
    node.space.run("nft add table ip other");
    commit(&mut node, 200);
    assert!(list(&node).starts_with(&written), "and so it is when others write elsewhere");
    for harm in [
        "nft add rule ip calico forward accept",
        "nft add chain ip6 calico strange",
        "nft delete table ip6 calico",
        "nft add element ip calico from-workload { \"calix\" : accept }",
        "nft flush set ip calico nodes",
    ] {
        let before = node.space.run("nft list table ip calico; nft list table ip6 calico");
        node.space.run(harm);
        commit(&mut node, 10);
        assert_ne!(node.space.run("nft list ruleset"), before, "{harm}: no check was due");
        commit(&mut node, 200);
        let after = node.space.run("nft list table ip calico; nft list table ip6 calico");
        assert_eq!(after, before, "{harm}");
    }
}

/// So often a new run takes over in the test below.
const RUNS: usize = 100;

#[test]
fn no_packet_is_lost_while_new_runs_write_the_table() {
    if !available("no_packet_is_lost_while_new_runs_write_the_table") {
        return;
    }
    let write = |view: &mut NodeView| {
        view.endpoint("a", "calia", &["10.65.0.2"], None);
        view.endpoint("b", "calib", &["10.65.0.3"], Some("some"));
        view.plist("some", vec![tier(&["open"], &[])]);
        view.policy("open", vec![from_set("s:a")], vec![]);
        view.member("s:a", "10.65.0.2/32", true);
        view.member("s:a", "10.66.0.0/16", true);
    };
    let mut node = Node::new("node-a", 2);
    let a = node.space.pod("calia", &["10.65.0.2"]);
    let b = node.space.pod("calib", &["10.65.0.3"]);
    node.restart(write);
    node.commit_all();
    // Counted by the kernel: a socket's room may run out.
    b.run("nft 'add table ip seen; add chain ip seen in { type filter hook input priority 0; }'");
    b.run("nft 'add rule ip seen in udp dport 7001 counter drop'");
    let target = SocketAddr::from(([10, 65, 0, 3], 7001));
    let sockets: [UdpSocket; 2] =
        a.enter(|| [(); 2].map(|()| UdpSocket::bind("0.0.0.0:0").unwrap()));
    let over = AtomicBool::new(false);
    let sent = thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let mut sent = 0;
            while !over.load(Ordering::Relaxed) {
                // Of one flow, and each of a new one.
                for socket in [&sockets[0], &a.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap())] {
                    for _ in 0..4 {
                        socket.send_to(b"?", target).unwrap();
                        sent += 1;
                    }
                }
                thread::sleep(Duration::from_micros(200));
            }
            sent
        });
        for _ in 0..RUNS {
            node.restart(write);
            node.commit_all();
        }
        over.store(true, Ordering::Relaxed);
        sender.join().unwrap()
    });
    let seen = b.run("nft list chain ip seen in");
    let count = seen.split_whitespace().skip_while(|word| *word != "packets").nth(1).unwrap();
    assert_eq!(count.parse::<u32>(), Ok(sent), "{seen}");
    assert!(sent > 10_000, "{sent} packets in {RUNS} runs");
}
