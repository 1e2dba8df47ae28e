//! Pools, hosts and routes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use model::view::{EncapMode, Entry, Host, Pool, Route, Topic};
use sha1::{Digest as _, Sha1};

use super::{
    super::objects::{NodeOf, Obj},
    Expected, Objects, net, put, single,
};

pub(super) fn put_network(objects: &Objects, pod_cidrs: bool, out: &mut Expected) {
    let mut pools = BTreeMap::<IpNet, (&Obj, Pool)>::new();
    // What says where a CIDR lives: how much that counts, the node, and whether it is borrowed.
    let mut claims = BTreeMap::<IpNet, BTreeSet<(Rank, &str, bool)>>::new();
    let mut claim = |cidr: IpNet, rank: Rank, node, borrowed: bool| {
        claims.entry(cidr).or_default().insert((rank, node, borrowed));
    };
    for (key, obj) in objects {
        match obj {
            Obj::Pool { cidr, ipip, vxlan, nat, balancer } if *cidr != "x" => {
                let mode = |text: &str| match text {
                    _ if *balancer => EncapMode::Never,
                    "Always" => EncapMode::Always,
                    "CrossSubnet" => EncapMode::CrossSubnet,
                    _ => EncapMode::Never,
                };
                let pool = Pool { ipip: mode(ipip), vxlan: mode(vxlan), nat_outgoing: *nat };
                // Objects come by name, and the first counts.
                pools.entry(net(cidr)).or_insert((obj, pool));
            }
            Obj::Block { cidr, owner, holders } => {
                let cidr = net(cidr);
                if let Some(owner) = owner {
                    claim(cidr, Rank::Block, owner, false);
                }
                for (address, holder) in cidr_addresses(cidr).zip(holders) {
                    if let Some(holder) = holder
                        && Some(holder) != owner.as_ref()
                    {
                        claim(address, Rank::Address, holder, owner.is_some());
                    }
                }
            }
            Obj::Node(node) => {
                for address in own_addresses(node) {
                    claim(single(&address), Rank::Host, "", false);
                }
                let NodeOf { ipip, vxlan, vxlan_v6, wireguard, .. } = node;
                for text in [ipip, vxlan, vxlan_v6, wireguard].into_iter().flatten() {
                    if *text != "x" {
                        claim(net(text), Rank::Tunnel, &key.name, false);
                    }
                }
                for text in node.pod_cidrs.iter().filter(|text| pod_cidrs && **text != "x") {
                    claim(net(text), Rank::Block, &key.name, false);
                }
                let host = Entry::Host(host(&key.name, node).into());
                put(&mut out.topics, Topic::host(&key.name), &key.name, host);
            }
            _ => {}
        }
    }
    for (cidr, (_, pool)) in &pools {
        put(&mut out.topics, Topic::Pools, &cidr.to_string(), Entry::Pool(pool.clone()));
    }
    for (cidr, known) in &claims {
        let (rank, node, borrowed) = known.first().unwrap();
        let mut borrowed = *borrowed;
        if *rank == Rank::Host {
            continue;
        }
        if *rank == Rank::Tunnel {
            let blocks = claims.iter().filter(|(outer, _)| *outer != cidr && outer.contains(cidr));
            let blocks = blocks.flat_map(|(outer, known)| {
                let blocks = known.iter().filter(|(rank, ..)| *rank == Rank::Block);
                blocks.map(move |(_, node, _)| (u8::MAX - outer.prefix_len(), *node))
            });
            match blocks.min() {
                Some((_, owner)) if owner == *node => continue,
                owner => borrowed = owner.is_some(),
            }
        }
        let pool = pools
            .iter()
            .filter(|(pool, (obj, _))| {
                pool.contains(cidr) && !matches!(obj, Obj::Pool { balancer: true, .. })
            })
            .max_by_key(|(pool, _)| pool.prefix_len())
            .map(|(pool, _)| *pool);
        let tunnel = known.contains(&(Rank::Tunnel, *node, false));
        let route = Route { node: (*node).into(), pool, borrowed, tunnel };
        put(&mut out.topics, Topic::route(*cidr), &cidr.to_string(), Entry::Route(route));
    }
}

/// Of several claims to a CIDR the first kind counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Host,
    Address,
    Block,
    Tunnel,
}

fn with_prefix(text: &str) -> Option<IpNet> {
    let address = || text.parse::<IpAddr>().ok().map(IpNet::from);
    text.parse::<IpNet>().ok().or_else(address)
}

fn own_addresses(node: &NodeOf) -> Vec<IpNet> {
    let v4 = node.ipv4.and_then(with_prefix).filter(|net| net.addr().is_ipv4());
    let v6 = node.ipv6.and_then(with_prefix).filter(|net| net.addr().is_ipv6());
    let listed = node.internal.iter().chain(&node.external).filter_map(|text| with_prefix(text));
    v4.into_iter().chain(v6).chain(listed).collect()
}

fn host(name: &str, node: &NodeOf) -> Host {
    // Its own, then those inside, then those outside: as they are listed, but for the family.
    let of_family = |v6: bool| own_addresses(node).into_iter().find(|it| it.addr().is_ipv6() == v6);
    let address = |text: Option<&str>| text.and_then(|text| text.parse::<IpAddr>().ok());
    let derived = |seed: &str| {
        let hash = Sha1::digest(seed.as_bytes());
        let hash = hash[..5].iter().map(|byte| format!("{byte:02x}"));
        std::iter::once("66".to_owned()).chain(hash).collect::<Vec<_>>().join(":")
    };
    let (vxlan, vxlan_v6) = (address(node.vxlan), address(node.vxlan_v6));
    let mac = match node.vxlan_mac {
        _ if vxlan.is_none() => String::new(),
        Some("EE-EE-EE-00-00-01") => "ee:ee:ee:00:00:01".to_owned(),
        _ => derived(name),
    };
    let mac_v6 = if vxlan_v6.is_some() { derived(&format!("{name}-v6")) } else { String::new() };
    Host {
        ipv4: of_family(false),
        ipv6: of_family(true),
        ipip_address: address(node.ipip),
        vxlan_address: vxlan,
        vxlan_mac: mac.into(),
        vxlan_address_v6: vxlan_v6,
        vxlan_mac_v6: mac_v6.into(),
        wireguard_address: address(node.wireguard),
        wireguard_key: node.wireguard_key.unwrap_or_default().into(),
        as_number: node.as_number,
        ..Host::default()
    }
}

fn cidr_addresses(cidr: IpNet) -> impl Iterator<Item = IpNet> {
    let IpNet::V4(cidr) = cidr else { panic!("{cidr}") };
    let base = u32::from(cidr.network());
    (0..4).map(move |n| IpNet::from(IpAddr::from(Ipv4Addr::from(base + n))))
}
