//! How long commits take on the real kernel, in network namespaces of their own; needs root.
//!
//! `cargo bench --bench reconcile`

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a measurement that fails is of no use"
)]

use std::{
    fmt::Write as _,
    io::Write as _,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use bulrush_node_agent::{NodeView, Reconciler, Source, drivers::LinuxKernel};
use model::view::{
    Action, EncapMode, Endpoint, Entry, Host, Peer, Policy, PolicyId, PolicyList, PolicyTier, Pool,
    PortRange, Protocol, Route, Rule, Topic,
};
use nix::sched::{CloneFlags, unshare};

const NODE: &str = "node-0";

fn main() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: network namespaces need root");
        return;
    }
    for (name, bench) in [
        ("10,000 remote routes", routes as fn()),
        ("5,000 nodes by VXLAN", nodes),
        ("2,000 policies", policies),
        ("IP sets", sets),
    ] {
        println!("{name}");
        let inside = move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            run("ip link set lo up");
            run("ip link add eth0 type veth peer name peer0");
            run("ip addr add 172.16.0.1/12 dev eth0");
            run("ip link set eth0 up && ip link set peer0 up");
            bench();
        };
        thread::spawn(inside).join().unwrap();
    }
}

fn run(command: &str) {
    assert!(Command::new("sh").args(["-c", command]).status().unwrap().success(), "{command}");
}

/// The best of some repetitions, as the machine may have other work.
fn show(what: &str, mut times: Vec<Duration>) {
    times.sort();
    println!("  {what:<58} {:>9.2?} (best of {})", times[0], times.len());
}

fn agent() -> Reconciler<LinuxKernel> {
    Reconciler::new(NODE, true, LinuxKernel::open().unwrap())
}

fn commit(agent: &mut Reconciler<LinuxKernel>) -> Duration {
    let start = Instant::now();
    let outcome = agent.commit(Source::Server, start);
    let failed: Vec<_> = outcome.failed.iter().take(3).collect();
    assert!(failed.is_empty(), "{failed:?}");
    start.elapsed()
}

fn host(view: &mut NodeView, n: u32, vxlan: bool) {
    let address = std::net::Ipv4Addr::from(0xac10_0001 + n);
    let host = Host {
        ipv4: Some(format!("{address}/12").parse().unwrap()),
        vxlan_address: vxlan.then(|| std::net::Ipv4Addr::from(0x0a00_0000 + n * 64).into()),
        vxlan_mac: format!("66:00:00:00:{:02x}:{:02x}", n >> 8, n & 255).into(),
        ..Host::default()
    };
    let name = format!("node-{n}");
    view.set(&Topic::host(&name), &name, Some(Entry::Host(host.into())));
}

fn block(view: &mut NodeView, n: u32, node: u32) {
    let cidr = format!("{}/26", std::net::Ipv4Addr::from(0x0a00_0000 + n * 64));
    let route = Route {
        node: format!("node-{node}").into(),
        pool: Some("10.0.0.0/8".parse().unwrap()),
        ..Route::default()
    };
    view.set(&Topic::route(cidr.parse().unwrap()), &cidr, Some(Entry::Route(route)));
}

fn pool(view: &mut NodeView, vxlan: EncapMode) {
    let pool = Pool { vxlan, ..Pool::default() };
    view.set(&Topic::Pools, "10.0.0.0/8", Some(Entry::Pool(pool)));
}

fn routes() {
    let mut agent = agent();
    pool(agent.view(), EncapMode::Never);
    host(agent.view(), 0, false);
    host(agent.view(), 1, false);
    commit(&mut agent);
    for n in 0..10_000 {
        block(agent.view(), n, 1);
    }
    show("commit", vec![commit(&mut agent)]);
    show("commit without a change", (0..5).map(|_| commit(&mut agent)).collect());
    run("ip route flush proto 80");
    let mut batch = String::new();
    for n in 0..10_000_u32 {
        let cidr = std::net::Ipv4Addr::from(0x0a00_0000 + n * 64);
        writeln!(batch, "route add {cidr}/26 via 172.16.0.2 dev eth0 onlink proto 80").unwrap();
    }
    let start = Instant::now();
    let mut ip = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    ip.stdin.take().unwrap().write_all(batch.as_bytes()).unwrap();
    assert!(ip.wait().unwrap().success());
    show("ip -batch, for comparison", vec![start.elapsed()]);
}

fn nodes() {
    let mut agent = agent();
    pool(agent.view(), EncapMode::Always);
    for n in 0..5_000 {
        host(agent.view(), n, true);
        block(agent.view(), n, n);
    }
    show("commit", vec![commit(&mut agent)]);
    let mut times = Vec::new();
    for n in 5_000..5_005 {
        host(agent.view(), n, true);
        block(agent.view(), n, n);
        times.push(commit(&mut agent));
    }
    show("one more node", times);
}

fn policy_id(n: u32) -> PolicyId {
    PolicyId::new("NetworkPolicy", "ns", format!("p{n}"))
}

/// One hundred pods, all policies spread over them, each policy with four rules that ask a set.
fn write_policies(view: &mut NodeView, policies: u32) {
    for n in 0..policies {
        let rule = |port| Rule {
            action: Action::Allow,
            protocol: Some(Protocol(6)),
            source: Peer { sets: vec![format!("s:{n}").into()], ..Peer::default() },
            destination: Peer {
                ports: vec![PortRange { first: port, last: port }],
                ..Peer::default()
            },
            ..Rule::default()
        };
        let policy = Policy { ingress: (1..5).map(rule).collect(), ..Policy::default() };
        view.set(&Topic::Policy(policy_id(n)), "", Some(Entry::Policy(policy.into())));
        for member in 0..10 {
            let member = format!("10.{}.{}.{member}/32", n >> 8, n & 255);
            view.set(&Topic::IpSet(format!("s:{n}").into()), &member, Some(Entry::Member));
        }
    }
    for pod in 0..100 {
        let ids = (0..policies).filter(|n| n % 100 == pod).map(policy_id).collect();
        let tiers = vec![PolicyTier { ingress: ids, ..PolicyTier::default() }];
        let plist = format!("l{pod}");
        view.set(
            &Topic::Plist(plist.as_str().into()),
            "",
            Some(Entry::Plist(PolicyList { tiers })),
        );
        let endpoint = Endpoint {
            interface: format!("cali{pod}").into(),
            plist: Some(plist.into()),
            ..Endpoint::default()
        };
        let key = format!("wep/k8s/ns/pod{pod}/eth0/uid");
        view.set(&Topic::Node(NODE.into()), &key, Some(Entry::Endpoint(endpoint)));
    }
}

fn policies() {
    let mut agent = agent();
    write_policies(agent.view(), 2_000);
    show("from nothing: 8,000 rules, 2,000 sets, both families", vec![commit(&mut agent)]);
    let mut times = Vec::new();
    for n in 0..5 {
        let rule = Rule { action: Action::Allow, ..Rule::default() };
        let policy = Policy { ingress: vec![rule; 5 + n], ..Policy::default() };
        agent.view().set(&Topic::Policy(policy_id(7)), "", Some(Entry::Policy(policy.into())));
        times.push(commit(&mut agent));
    }
    show("one policy changes", times);
    member(&mut agent, "one member of one set comes");
    let mut elements = String::from("add table ip other\nadd set ip other big { type ipv4_addr; ");
    elements.push_str("flags interval; }\nadd element ip other big { ");
    for n in 0..100_000_u32 {
        write!(elements, "{}/31, ", std::net::Ipv4Addr::from(0x0b00_0000 + n * 4)).unwrap();
    }
    elements.push_str("}\n");
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    nft.stdin.take().unwrap().write_all(elements.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success());
    member(&mut agent, "the same beside a foreign set of 100,000 networks");
}

fn member(agent: &mut Reconciler<LinuxKernel>, what: &str) {
    let set = Topic::IpSet("s:8".into());
    let mut times = Vec::new();
    for n in 0..5 {
        for entry in [Some(Entry::Member), None] {
            agent.view().set(&set, &format!("10.200.0.{n}/32"), entry);
            times.push(commit(agent));
        }
    }
    show(what, times);
}

fn sets() {
    let mut agent = agent();
    write_policies(agent.view(), 100);
    for n in 0..100_000_u32 {
        let member = format!("{}/32", std::net::Ipv4Addr::from(0x0b00_0000 + n));
        agent.view().set(&Topic::IpSet("s:8".into()), &member, Some(Entry::Member));
    }
    show("from nothing, one set of 100,000 addresses", vec![commit(&mut agent)]);
    member(&mut agent, "one more member of it");
}
