//! Pools, hosts and routes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use model::view::{EncapMode, Entry, Host, Pool, Route, Topic};
use sha1::{Digest as _, Sha1};

use super::{super::objects::Obj, Expected, Objects, net, put, single};

pub(super) fn put_network(objects: &Objects, out: &mut Expected) {
    let mut pools = BTreeMap::<IpNet, (&Obj, Pool)>::new();
    let mut blocks = Vec::new();
    let mut addresses = Vec::new();
    let mut tunnels = Vec::new();
    let mut hosts = BTreeSet::new();
    for (key, obj) in objects {
        match obj {
            Obj::Pool { cidr, vxlan, nat, balancer } if *cidr != "x" => {
                let vxlan = match *vxlan {
                    _ if *balancer => EncapMode::Never,
                    "Always" => EncapMode::Always,
                    "CrossSubnet" => EncapMode::CrossSubnet,
                    _ => EncapMode::Never,
                };
                let pool = Pool { ipip: EncapMode::Never, vxlan, nat_outgoing: *nat };
                // Objects come by name, and the first counts.
                pools.entry(net(cidr)).or_insert((obj, pool));
            }
            Obj::Block { cidr, owner, holders } => {
                let cidr = net(cidr);
                if let Some(owner) = owner {
                    blocks.push((cidr, *owner));
                }
                for (address, holder) in cidr_addresses(cidr).zip(holders) {
                    if let Some(holder) = holder
                        && Some(holder) != owner.as_ref()
                    {
                        addresses.push((address, *holder, owner.is_some()));
                    }
                }
            }
            Obj::Node { ipv4, vxlan } => {
                let mut host = Host::default();
                if let Some(text) = ipv4.filter(|text| *text != "x") {
                    host.ipv4 = Some(text.parse().unwrap());
                    hosts.insert(single(&text.parse().unwrap()));
                }
                if let Some(text) = vxlan.filter(|text| *text != "x") {
                    host.vxlan_address = Some(text.parse().unwrap());
                    let hash = Sha1::digest(key.name.as_bytes());
                    let hash = hash[..5].iter().map(|byte| format!("{byte:02x}"));
                    let mac = std::iter::once("66".to_owned()).chain(hash).collect::<Vec<_>>();
                    host.vxlan_mac = mac.join(":").into();
                    tunnels.push((net(text), key.name.as_str()));
                }
                put(&mut out.topics, Topic::host(&key.name), &key.name, Entry::Host(host));
            }
            _ => {}
        }
    }
    for (cidr, (_, pool)) in &pools {
        put(&mut out.topics, Topic::Pools, &cidr.to_string(), Entry::Pool(pool.clone()));
    }

    let mut routes = BTreeMap::<IpNet, (String, bool)>::new();
    let mut claim = |cidr: IpNet, node: &str, borrowed: bool| {
        let known = routes.entry(cidr).or_insert_with(|| (node.to_owned(), borrowed));
        if (node, borrowed) < (known.0.as_str(), known.1) {
            *known = (node.to_owned(), borrowed);
        }
    };
    for (cidr, node, borrowed) in &addresses {
        claim(*cidr, node, *borrowed);
    }
    for (cidr, node) in &blocks {
        claim(*cidr, node, false);
    }
    let of_workloads = routes.keys().copied().collect::<BTreeSet<_>>();
    for (cidr, node) in &tunnels {
        if of_workloads.contains(cidr) || tunnels.iter().any(|(c, n)| c == cidr && n < node) {
            continue;
        }
        let around = blocks.iter().filter(|(block, _)| block.contains(cidr));
        match around.map(|(_, owner)| *owner).min() {
            Some(owner) if owner == *node => {}
            owner => {
                routes.insert(*cidr, ((*node).to_owned(), owner.is_some()));
            }
        }
    }
    for (cidr, (node, borrowed)) in routes {
        if hosts.contains(&cidr) {
            continue;
        }
        let pool = pools
            .iter()
            .filter(|(pool, (obj, _))| {
                pool.contains(&cidr) && !matches!(obj, Obj::Pool { balancer: true, .. })
            })
            .max_by_key(|(pool, _)| pool.prefix_len())
            .map(|(pool, _)| *pool);
        let tunnel = tunnels.iter().any(|(address, owner)| *address == cidr && *owner == node);
        let route = Route { node: node.into(), pool, borrowed, tunnel };
        put(&mut out.topics, Topic::route(cidr), &cidr.to_string(), Entry::Route(route));
    }
}

fn cidr_addresses(cidr: IpNet) -> impl Iterator<Item = IpNet> {
    let IpNet::V4(cidr) = cidr else { panic!("{cidr}") };
    let base = u32::from(cidr.network());
    (0..4).map(move |n| IpNet::from(IpAddr::from(Ipv4Addr::from(base + n))))
}
