//! What becomes of packets, as `explain` and `matrix` judge it, beside an evaluation of the lists, rules and IP sets that
//! Calico's own calculation gave for the same clusters.
//!
//! The evaluation reads Calico's results alone: it knows nothing of the engine's entries.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a failed test")]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use bulrush_engine::{
    Mirror,
    verdict::{Judge, Packet},
};
use ipnet::IpNet;
use model::{
    kinds::Direction,
    view::{Entry, Icmp, Protocol, Topic},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::Value;
use support::{calculated, cluster::Cluster, golden};

/// Packets to and from each endpoint of each state.
const PACKETS: usize = 300;

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A node's state as Calico calculated it.
struct Calculated<'s>(&'s Value);

/// One end of a packet: address and port.
type End = (IpAddr, u16);

impl Calculated<'_> {
    /// Of a host endpoint, for the node's own packets: the lists of Felix' raw and mangle tables, where no tier's end
    /// drops, then that of its filter table.
    fn allows(&self, endpoint: &Value, inwards: bool, packet: &Packet) -> bool {
        let early = ["untracked_tiers", "pre_dnat_tiers"];
        let early = early.into_iter().filter(|of| inwards || *of == "untracked_tiers");
        let decided = early.map(|of| self.tiers(&endpoint[of], true, inwards, packet));
        let of_tiers = decided.flatten().next();
        let of_tiers = of_tiers.or_else(|| self.tiers(&endpoint["tiers"], false, inwards, packet));
        of_tiers.unwrap_or_else(|| {
            let rules_of = if inwards { "inbound" } else { "outbound" };
            for name in list(&endpoint["profiles"]) {
                match self.first(&self.0["profiles"][text(name)][rules_of], packet) {
                    Some("allow") => return true,
                    Some("next-tier") | None => {}
                    Some(_) => return false,
                }
            }
            false
        })
    }

    /// None: the tiers leave it to what comes after them.
    fn tiers(&self, tiers: &Value, goes_on: bool, inwards: bool, packet: &Packet) -> Option<bool> {
        let (list_of, rules_of) =
            if inwards { ("ingress", "inbound") } else { ("egress", "outbound") };
        'tiers: for tier in list(tiers) {
            let enforced = list(&tier[list_of]).map(text).filter(|id| !id.starts_with("Staged"));
            let enforced = enforced.collect::<Vec<_>>();
            for id in &enforced {
                match self.first(&self.0["policies"][id][rules_of], packet) {
                    Some("allow") => return Some(true),
                    Some("next-tier") => continue 'tiers,
                    Some(_) => return Some(false),
                    None => {}
                }
            }
            if !enforced.is_empty() && !goes_on && tier["default_action"] != "Pass" {
                return Some(false);
            }
        }
        None
    }

    /// The action of the first rule that decides.
    fn first<'r>(&self, rules: &'r Value, packet: &Packet) -> Option<&'r str> {
        let decides = |rule: &&Value| rule["action"] != "log" && self.matches(rule, packet);
        list(rules).find(decides).map(|rule| text(&rule["action"]))
    }

    fn matches(&self, rule: &Value, packet: &Packet) -> bool {
        let version = if packet.source.is_ipv4() { "IPV4" } else { "IPV6" };
        let is_version = rule["ip_version"].is_null() || rule["ip_version"] == version;
        let protocol = |it: &Value| match (it["name"].as_str(), it["number"].as_u64()) {
            (Some("tcp"), _) => 6,
            (Some("udp"), _) => 17,
            (Some("icmp"), _) => 1,
            (Some("icmpv6"), _) => 58,
            (Some("sctp"), _) => 132,
            (Some("udplite"), _) => 136,
            (_, Some(number)) => number,
            _ => panic!("{it} is no protocol"),
        };
        let is = |field: &str| {
            let wanted = Some(&rule[field]).filter(|wanted| !wanted.is_null());
            wanted.map(|wanted| protocol(wanted) == u64::from(packet.protocol.0))
        };
        let icmp = |field: &str| match &rule[field] {
            Value::Null => None,
            Value::Number(kind) => {
                Some(packet.icmp.is_some_and(|it| Some(u64::from(it.kind)) == kind.as_u64()))
            }
            both => {
                let number = |name: &str| both[name].as_u64().unwrap_or_default();
                Some(packet.icmp.is_some_and(|it| {
                    let code = it.code.unwrap_or_default();
                    (u64::from(it.kind), u64::from(code)) == (number("type"), number("code"))
                }))
            }
        };
        is_version
            && is("protocol") != Some(false)
            && is("not_protocol") != Some(true)
            && icmp("icmp_type") != Some(false)
            && icmp("icmp_type_code") != Some(false)
            && icmp("not_icmp_type") != Some(true)
            && icmp("not_icmp_type_code") != Some(true)
            && self.side(rule, "src", (packet.source, packet.source_port), packet)
            && self.side(rule, "dst", (packet.destination, packet.destination_port), packet)
    }

    fn side(&self, rule: &Value, side: &str, (address, port): End, packet: &Packet) -> bool {
        let field = |name: &str| &rule[name.replace('*', side)];
        let in_net =
            |net: &Value| text(net).parse::<IpNet>().expect("a network").contains(&address);
        let in_range = |range: &Value| {
            let end = |name: &str| range[name].as_u64().unwrap_or_default();
            (end("first")..=end("last")).contains(&port.into())
        };
        let is_member = |id: &Value| {
            let mut members = list(&self.0["ip_sets"][text(id)]["members"]).map(text);
            let protocol = match packet.protocol.0 {
                6 => "tcp",
                17 => "udp",
                132 => "sctp",
                _ => "none",
            };
            members.any(|member| match member.split_once(',') {
                None => {
                    let net = member.parse().or_else(|_| member.parse::<IpAddr>().map(IpNet::from));
                    // Of a network that is IPv4 in IPv6 Calico makes such as 192.0.3.128/121.
                    net.is_ok_and(|net: IpNet| net.contains(&address))
                }
                Some((of, at)) => of.parse() == Ok(address) && at == format!("{protocol}:{port}"),
            })
        };
        let (nets, ports) = (field("*_net"), field("*_ports"));
        let named = field("*_named_port_ip_set_ids");
        let any_port = list(ports).next().is_none() && list(named).next().is_none();
        (list(nets).next().is_none() || list(nets).any(in_net))
            && !list(field("not_*_net")).any(in_net)
            && list(field("*_ip_set_ids")).all(is_member)
            && !list(field("not_*_ip_set_ids")).any(is_member)
            && list(field("*_ip_port_set_ids")).all(is_member)
            && (any_port || list(ports).any(in_range) || list(named).any(is_member))
            && !list(field("not_*_ports")).any(in_range)
            && !list(field("not_*_named_port_ip_set_ids")).any(is_member)
    }
}

/// Addresses and ports that mean something in a cluster, and some that don't.
fn ends(case: &Value, seen: &mut (BTreeSet<IpAddr>, BTreeSet<u16>)) {
    match case {
        Value::String(text) => {
            let first = text.split(',').next().unwrap_or_default();
            let net = first.parse::<IpNet>().map(|net| net.network());
            seen.0.extend(net.or_else(|_| first.parse()).ok());
            let port = text.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
            seen.1.extend(port.filter(|_| text.contains(',')));
        }
        Value::Array(items) => items.iter().for_each(|item| ends(item, seen)),
        Value::Object(fields) => {
            let port = |name: &str| fields.get(name).and_then(Value::as_u64);
            for port in [port("first"), port("last")].into_iter().flatten() {
                seen.1.extend(u16::try_from(port));
            }
            fields.values().for_each(|field| ends(field, seen));
        }
        _ => {}
    }
}

fn packet(random: &mut StdRng, own: IpAddr, inwards: bool, of: &[IpAddr], ports: &[u16]) -> Packet {
    let like = of.iter().filter(|it| it.is_ipv4() == own.is_ipv4()).collect::<Vec<_>>();
    let other = like.choose(random).map_or(own, |other| **other);
    let (source, destination) = if inwards { (other, own) } else { (own, other) };
    let ping = if own.is_ipv4() { 1 } else { 58 };
    let protocol = *[6, 6, 6, 17, 17, ping, 132, 47, 136].choose(random).unwrap();
    let kind = *[0, 3, 5, 8, 11, 128].choose(random).unwrap();
    let port = |random: &mut StdRng| *ports.choose(random).unwrap();
    Packet {
        source,
        destination,
        protocol: Protocol(protocol),
        source_port: port(random),
        destination_port: port(random),
        icmp: (protocol == ping).then(|| Icmp { kind, code: Some(random.random_range(0..5)) }),
    }
}

#[test]
fn packets_meet_what_calico_calculates() {
    let Some(folder) = golden::folder() else { return };
    // Where the engine differs on purpose: the test of `replay` holds this list to the cases.
    let differences = include_str!("../../../tests/golden/differences.md");
    let mut random = StdRng::seed_from_u64(7);
    let (mut judged, mut wrong) = ((0, 0, 0), BTreeMap::<String, Vec<String>>::new());
    for case in calculated::cases(&folder) {
        let id = text(&case["id"]);
        let asked = list(&case["expected_after"]).map(|step| step.as_u64().unwrap());
        let asked = asked.collect::<Vec<_>>();
        let mut seen = (BTreeSet::new(), BTreeSet::from([9, 80, 443, 8080, 65_535]));
        ends(&case["views"], &mut seen);
        let (addresses, ports): (Vec<_>, Vec<_>) =
            (seen.0.into_iter().collect(), seen.1.into_iter().collect());
        let (mut cluster, mut mirror) = (Cluster::new(), Mirror::default());
        for (step, number) in list(&case["steps"]).zip(1..) {
            calculated::step(&mut cluster, step);
            mirror.follow(cluster.flush());
            let Some(place) = asked.iter().position(|asked| *asked == number) else { continue };
            let judge = Judge::new(&mirror);
            for (node, states) in case["views"].as_object().unwrap() {
                let mut state = states[place].clone();
                // What a newly started Felix shows: ours remembers nothing.
                let fresh = case["fresh_differs"][node][number.to_string()].as_object();
                for (section, value) in fresh.into_iter().flatten() {
                    state[section] = value.clone();
                }
                let calico = Calculated(&state);
                let workloads = state["workload_endpoints"].as_object().unwrap().iter();
                let workloads = workloads.map(|(key, it)| (format!("wep/{key}/"), it));
                let hosts = state["host_endpoints"].as_object().unwrap().iter();
                let hosts = hosts.map(|(key, it)| (format!("hep/{key}"), it));
                for (key, endpoint) in workloads.chain(hosts) {
                    let topic = Topic::Node(node.as_str().into());
                    let is_it = |of: &str| of == key || key.ends_with('/') && of.starts_with(&key);
                    let entry = mirror.entries(&topic).find(|(of, _)| is_it(of));
                    let own = match entry {
                        Some((_, Entry::Endpoint(ours))) => ours.addresses.first().map(IpNet::addr),
                        Some((_, Entry::HostEndpoint(ours))) => {
                            // One that is known by its interface alone has any address.
                            let some = "192.0.2.77".parse().unwrap();
                            Some(ours.addresses.first().copied().unwrap_or(some))
                        }
                        _ => {
                            wrong.entry(id.into()).or_default().push(format!("{key}: no endpoint"));
                            continue;
                        }
                    };
                    let Some(own) = own else { continue };
                    for _ in 0..PACKETS {
                        for (inwards, direction) in
                            [(true, Direction::Ingress), (false, Direction::Egress)]
                        {
                            let packet = packet(&mut random, own, inwards, &addresses, &ports);
                            let judged_so = match entry {
                                Some((_, Entry::HostEndpoint(ours))) => {
                                    judged.2 += 1;
                                    judge.allows_host(ours, direction, &packet, &mut |_| {})
                                }
                                Some((_, Entry::Endpoint(ours))) => {
                                    judge.allows(ours, direction, &packet, &mut |_| {})
                                }
                                _ => unreachable!("it was looked at above"),
                            };
                            let theirs = calico.allows(endpoint, inwards, &packet);
                            judged.0 += usize::from(theirs);
                            judged.1 += usize::from(!theirs);
                            if judged_so != theirs {
                                let what = format!(
                                    "step {number}, {key} on {node}, {direction:?}, {packet:?}: ours {judged_so}"
                                );
                                wrong.entry(id.into()).or_default().push(what);
                            }
                        }
                    }
                }
            }
        }
    }
    let (passed, stopped, at_hosts) = judged;
    println!("{passed} packets are let through, {stopped} are not, {at_hosts} of both at nodes");
    let listed = |id: &str| differences.contains(&format!("- `{id}`"));
    for (id, whats) in &wrong {
        let why = if listed(id) { "differs on purpose" } else { "WRONG" };
        println!("{id}: {why}: {} packets, such as {}", whats.len(), whats[0]);
    }
    assert!(wrong.keys().all(|id| listed(id)), "ours differs, see above");
    let enough = passed > 10_000 && stopped > 10_000 && at_hosts > 10_000;
    assert!(enough, "there is something to say: {judged:?}");
}
