//! Random views, hosts and devices, changed step by step: the routes, neighbours and VXLAN peers
//! are those that a plain reading of the view asks for.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Instant,
};

use bulrush_node_agent::{
    KernelEvent, NodeView, Reconciler, Source,
    drivers::{Mac, NextHop, RouteKey, memory::MemoryKernel},
};
use ipnet::IpNet;
use model::view::{EncapMode, Endpoint, Entry, Host, Pool, Route, Topic};
use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::world::{NODE, Write, endpoint_key};

const POOLS: [&str; 3] = ["10.65.0.0/16", "10.66.0.0/16", "fd65::/48"];
const BLOCKS: [&str; 7] = [
    "10.65.0.0/26",
    "10.65.1.0/26",
    "10.65.0.9/32",
    "10.66.0.0/26",
    "10.65.7.7/32",
    "fd65::/122",
    "fd65::9/128",
];
const PODS: [&str; 4] = ["10.65.0.9/32", "10.65.0.1/32", "fd65::9/128", "fd65::1/128"];
const NODES: [&str; 3] = [NODE, "node-b", "node-c"];
const INTERFACES: [&str; 3] = ["cali1", "cali2", "cali3"];

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

/// One change of the view or of the node.
#[derive(Clone, Debug)]
enum Change {
    Pool(&'static str, Option<Pool>),
    Host(&'static str, Option<Host>),
    Route(&'static str, Option<Route>),
    Endpoint(&'static str, Option<Endpoint>),
    /// A device comes (up or down) or goes.
    Plug(&'static str, Option<bool>),
    /// Another program removes a route of ours.
    Steal(&'static str),
}

fn mode() -> impl Strategy<Value = EncapMode> {
    select(&[EncapMode::Never, EncapMode::Always, EncapMode::CrossSubnet][..])
}

fn pool() -> impl Strategy<Value = Pool> {
    mode().prop_map(|vxlan| Pool { vxlan, ..Pool::default() })
}

fn host(n: u8) -> impl Strategy<Value = Host> {
    // The same or another subnet; now and then a part is missing, or a MAC is another node's.
    let ipv4 = option::weighted(0.9, select(&["172.18.0", "172.19.0"][..]));
    let mac = select(vec![n, n, n, n, 0]);
    let tunnel = option::weighted(0.9, Just(()));
    (ipv4, mac, tunnel, any::<bool>()).prop_map(move |(ipv4, mac, tunnel, v6)| Host {
        ipv4: ipv4.map(|subnet| net(&format!("{subnet}.{}/24", n + 1))),
        ipv6: v6.then(|| net(&format!("fd18::{}/64", n + 1))),
        vxlan_address: tunnel.map(|()| [10, 65, n, 0].into()),
        vxlan_mac: tunnel.map(|()| format!("66:00:00:00:00:0{mac}").into()).unwrap_or_default(),
        vxlan_address_v6: v6.then(|| format!("fd65::{n}:0").parse().unwrap()),
        vxlan_mac_v6: if v6 { format!("66:00:00:00:06:0{mac}").into() } else { "".into() },
        ..Host::default()
    })
}

fn change() -> impl Strategy<Value = Change> {
    let hosts = (0..3_u8).prop_flat_map(|n| {
        option::weighted(0.9, host(n)).prop_map(move |h| Change::Host(NODES[usize::from(n)], h))
    });
    let route =
        (select(&NODES[..]), option::weighted(0.9, 0..2_usize), any::<bool>(), any::<bool>());
    let routes = (select(&BLOCKS[..]), option::weighted(0.8, route)).prop_map(|(cidr, route)| {
        let of_family = if cidr.contains(':') { [2, 2] } else { [0, 1] };
        let route = route.map(|(node, pool, borrowed, tunnel)| Route {
            node: node.into(),
            pool: pool.map(|n| net(POOLS[of_family[n]])),
            borrowed: borrowed && (cidr.ends_with("/32") || cidr.ends_with("/128")),
            tunnel,
        });
        Change::Route(cidr, route)
    });
    let endpoint =
        (select(&INTERFACES[..]), vec(select(&PODS[..]), 0..3)).prop_map(|(interface, pods)| {
            Endpoint {
                interface: interface.into(),
                addresses: pods.into_iter().map(net).collect(),
                ..Endpoint::default()
            }
        });
    let endpoints = (select(&["e1", "e2"][..]), option::weighted(0.8, endpoint))
        .prop_map(|(key, endpoint)| Change::Endpoint(key, endpoint));
    prop_oneof![
        2 => (select(&POOLS[..]), option::weighted(0.9, pool())).prop_map(|(c, p)| Change::Pool(c, p)),
        3 => hosts,
        4 => routes,
        3 => endpoints,
        3 => (select(&INTERFACES[..]), option::weighted(0.8, any::<bool>()))
            .prop_map(|(name, up)| Change::Plug(name, up)),
        1 => select(&BLOCKS[..]).prop_map(Change::Steal),
    ]
}

#[derive(Default)]
struct World {
    pools: BTreeMap<IpNet, Pool>,
    hosts: BTreeMap<String, Host>,
    routes: BTreeMap<IpNet, Route>,
    endpoints: BTreeMap<String, Endpoint>,
}

fn keep<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}

fn apply(world: &mut World, agent: &mut Reconciler<MemoryKernel>, change: Change) {
    let view = agent.view();
    match change {
        Change::Pool(cidr, value) => {
            view.set(&Topic::Pools, cidr, value.clone().map(Entry::Pool));
            keep(&mut world.pools, net(cidr), value);
        }
        Change::Host(name, value) => {
            view.set(&Topic::host(name), name, value.clone().map(|it| Entry::Host(it.into())));
            keep(&mut world.hosts, name.into(), value);
        }
        Change::Route(cidr, value) => {
            view.route(cidr, value.clone());
            keep(&mut world.routes, net(cidr), value);
        }
        Change::Endpoint(key, value) => {
            let topic = Topic::Node(NODE.into());
            view.set(&topic, &endpoint_key(key), value.clone().map(Entry::Endpoint));
            keep(&mut world.endpoints, key.into(), value);
        }
        Change::Plug(name, up) => {
            let rtnl = &mut agent.kernel().rtnl;
            let old = rtnl.link(name).map(|link| link.index);
            if let Some(index) = old {
                rtnl.unplug(index);
                agent.kernel_event(&KernelEvent::Link { index, up: false });
            }
            if let Some(up) = up {
                let index = agent.kernel().rtnl.plug(name, up);
                agent.kernel_event(&KernelEvent::Link { index, up });
            }
        }
        Change::Steal(cidr) => {
            let key = RouteKey::ours(net(cidr));
            if agent.kernel().rtnl.routes.remove(&key).is_some() {
                agent.kernel_event(&KernelEvent::Route(key, None));
            }
        }
    }
}

/// What the kernel should hold, devices by name.
#[derive(Debug, Default, PartialEq)]
struct Expected {
    routes: BTreeMap<IpNet, String>,
    neighbours: BTreeSet<(String, IpAddr, String)>,
    peers: BTreeSet<(String, String, IpAddr)>,
}

fn expected(world: &World, links: &BTreeMap<String, bool>) -> Expected {
    let mut out = Expected::default();
    for v6 in [false, true] {
        let own = world.hosts.get(NODE);
        let address = |host: &Host| if v6 { host.ipv6 } else { host.ipv4 };
        let vtep = |host: &Host| if v6 { host.vxlan_address_v6 } else { host.vxlan_address };
        let mac = |host: &Host| if v6 { host.vxlan_mac_v6.clone() } else { host.vxlan_mac.clone() };
        let device = if v6 { "vxlan-v6.calico" } else { "vxlan.calico" };
        // eth0 has 172.18.0.1 and fd18::1; another address is on no device.
        let parent = own
            .and_then(address)
            .is_some_and(|a| ["172.18.0.1", "fd18::1"].contains(&a.addr().to_string().as_str()));
        let of_family = |cidr: &IpNet| (cidr.addr().is_ipv6()) == v6;
        let wanted = world.pools.iter().any(|(c, p)| of_family(c) && p.vxlan != EncapMode::Never);
        let possible = wanted && parent && own.and_then(vtep).is_some();
        // A device that is there stays as long as a pool wants it, even if we couldn't make it now.
        let vxlan = links.contains_key(device);
        assert!(vxlan || !possible, "{device} is missing");
        assert!(wanted || !vxlan, "{device} is not wanted");
        for (cidr, route) in world.routes.iter().filter(|(cidr, _)| of_family(cidr)) {
            let hop = || {
                if route.node == NODE {
                    let block = cidr.prefix_len() < cidr.max_prefix_len();
                    return (block && !route.tunnel && !route.borrowed).then(|| "blackhole".into());
                }
                let pool = match route.pool {
                    None => Pool::default(),
                    Some(cidr) => world.pools.get(&cidr)?.clone(),
                };
                let host = world.hosts.get(route.node.as_str())?;
                let there = address(host)?.addr();
                let near = own.and_then(address).map(|here| here.contains(&there));
                let tunnelled = match pool.vxlan {
                    EncapMode::Never => false,
                    EncapMode::Always => true,
                    EncapMode::CrossSubnet => !near?,
                };
                match (tunnelled, near) {
                    (true, _) if vxlan => Some(format!("{} {device}", vtep(host)?)),
                    (false, Some(true)) if parent => Some(format!("{there} eth0")),
                    _ => None,
                }
            };
            out.routes.extend(hop().map(|hop| (*cidr, hop)));
        }
        for cidr in PODS.map(net).iter().filter(|cidr| of_family(cidr)) {
            let mut owners =
                world.endpoints.iter().filter(|(_, e)| e.addresses.contains(cidr)).peekable();
            if owners.peek().is_some() {
                out.routes.remove(cidr);
            }
            if let Some((_, owner)) =
                owners.find(|(_, e)| links.get(e.interface.as_str()) == Some(&true))
            {
                out.routes.insert(*cidr, format!("link {}", owner.interface));
            }
        }
        if vxlan {
            let mut macs = BTreeSet::new();
            for (_, host) in world.hosts.iter().filter(|(name, _)| *name != NODE) {
                let (Some(node), Some(vtep)) = (address(host), vtep(host)) else { continue };
                if macs.insert(mac(host)) {
                    out.neighbours.insert((device.into(), vtep, mac(host).to_string()));
                    out.peers.insert((device.into(), mac(host).to_string(), node.addr()));
                }
            }
        }
    }
    out
}

fn actual(kernel: &MemoryKernel) -> Expected {
    let rtnl = &kernel.rtnl;
    let name = |index: &u32| rtnl.links[index].name.to_string();
    let hop = |next: &NextHop| match next {
        NextHop::Link { index } => format!("link {}", name(index)),
        NextHop::Gateway { index, gateway } => format!("{gateway} {}", name(index)),
        NextHop::Blackhole => "blackhole".into(),
        NextHop::Other => "other".into(),
    };
    let mac = |mac: &Mac| mac.to_string();
    Expected {
        routes: rtnl.routes.iter().map(|(key, r)| (key.destination, hop(&r.next))).collect(),
        neighbours: rtnl.neighbours.iter().map(|((i, a), m)| (name(i), *a, mac(m))).collect(),
        peers: rtnl.fdb.iter().map(|((i, m), a)| (name(i), mac(m), *a)).collect(),
    }
}

fn agent() -> Reconciler<MemoryKernel> {
    let mut kernel = MemoryKernel::default();
    let eth0 = kernel.rtnl.plug("eth0", true);
    kernel.rtnl.addresses.insert((eth0, net("172.18.0.1/24")));
    kernel.rtnl.addresses.insert((eth0, net("fd18::1/64")));
    Reconciler::new(NODE, true, kernel)
}

proptest! {
    #[test]
    fn the_network_is_what_the_view_asks_for(
        start in (host(0), host(1), pool()),
        commits in vec(vec(change(), 1..10), 1..6),
    ) {
        let (mut world, mut agent) = (World::default(), agent());
        let start = vec![
            Change::Host(NODES[0], Some(start.0)),
            Change::Host(NODES[1], Some(start.1)),
            Change::Pool(POOLS[0], Some(start.2)),
        ];
        for changes in [start].into_iter().chain(commits) {
            for change in changes {
                apply(&mut world, &mut agent, change);
            }
            agent.commit(Source::Server, Instant::now());
            let links = agent.kernel().rtnl.links.values();
            let links = links.map(|link| (link.name.to_string(), link.up)).collect();
            let expected = expected(&world, &links);
            prop_assert_eq!(actual(agent.kernel()), expected);
            // The next commit has nothing left to do.
            agent.kernel().rtnl.log.clear();
            agent.commit(Source::Server, Instant::now());
            prop_assert_eq!(&agent.kernel().rtnl.log, &[]);
        }
    }
}

/// A view's shorthand is used by other modules too; here it must accept what it is given.
#[test]
fn a_host_in_the_wrong_shard_is_refused() {
    let mut view = NodeView::default();
    view.host("node-b", Host::default());
    assert_eq!(view.keys(&Topic::host("node-b")), ["node-b"]);
    let Topic::Hosts(shard) = Topic::host("node-b") else { unreachable!() };
    let other = Topic::Hosts((shard + 1) % 64);
    view.set(&other, "node-b", Some(Entry::Host(Host::default().into())));
    assert!(view.keys(&other).is_empty());
}
