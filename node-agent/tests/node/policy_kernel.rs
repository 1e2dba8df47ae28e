//! Random policies on the real kernel: raw packets arrive exactly where the view lets them.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use proptest::{
    collection::vec,
    prelude::*,
    test_runner::{Config, TestRunner},
};

use crate::{
    interpret::{Packet, State},
    lab::{
        Namespace, available,
        node::Node,
        raw::{Raw, Receiver, send},
    },
    naive::World,
    policy_model::{Change, apply, change, start},
};

const PROTOCOLS: [u8; 6] = [1, 4, 6, 17, 47, 58];

/// Two pods and what is outside, with their addresses and the node's interface to them.
struct Place {
    space: Namespace,
    interface: &'static str,
    from: Vec<IpAddr>,
    to: [IpAddr; 2],
    receiver: Receiver,
}

fn places(node: &Node) -> Vec<Place> {
    let quiet = |space: &Namespace| {
        // An answer would turn the next packet into part of a connection.
        space.run("echo 1 > /proc/sys/net/ipv4/icmp_echo_ignore_all");
        space.run("echo 1 > /proc/sys/net/ipv6/icmp/echo_ignore_all");
    };
    let place = |space: Namespace, interface, addresses: &[&str]| {
        quiet(&space);
        let from: Vec<IpAddr> = addresses.iter().map(|a| a.parse().unwrap()).collect();
        let receiver = Receiver::new(&space, &PROTOCOLS, addresses[1]);
        Place { space, interface, to: [from[0], from[1]], from, receiver }
    };
    let pod_a = node.space.pod("cali1", &["10.0.0.1", "fd00::1"]);
    let pod_b = node.space.pod("cali2", &["10.0.0.2", "fd00::2"]);
    let outside = Namespace::new();
    crate::lab::wire((&node.space, "eth1", "192.0.2.9/24"), (&outside, "eth0", "192.0.2.1/24"));
    node.space.run("echo 0 > /proc/sys/net/ipv6/conf/eth1/accept_dad");
    node.space.ip("addr add 2001:db8::9/64 dev eth1 nodad");
    outside.ip("addr add 2001:db8::1/64 dev eth0 nodad");
    for address in ["10.0.0.5/32", "fd00::5/128"] {
        outside.ip(&format!("addr add {address} dev lo"));
    }
    outside.ip("route add 10.0.0.0/8 via 192.0.2.9");
    outside.ip("route add fd00::/16 via 2001:db8::9");
    vec![
        place(pod_a, "cali1", &["10.0.0.1", "fd00::1"]),
        place(pod_b, "cali2", &["10.0.0.2", "fd00::2"]),
        place(outside, "eth1", &["192.0.2.1", "2001:db8::1", "10.0.0.5", "fd00::5"]),
    ]
}

fn packets(places: &[Place]) -> Vec<(usize, usize, Raw)> {
    let words = [
        (6, (40000, 80)),
        (6, (80, 55)),
        (6, (1, 81)),
        (17, (40000, 53)),
        (17, (53, 4789)),
        (1, (8, 0)),
        (1, (8, 1)),
        (58, (128, 0)),
        (4, (0, 0)),
        (47, (0, 0)),
    ];
    let mut all = Vec::new();
    for (source, a) in places.iter().enumerate() {
        for (target, b) in places.iter().enumerate().filter(|(target, _)| *target != source) {
            for (from, to) in a.from.iter().flat_map(|from| b.to.map(|to| (*from, to))) {
                for (protocol, words) in words {
                    // ICMP of the other family is no packet that a kernel sends. Without ports, one
                    // way is the answer to the other.
                    let odd = match protocol {
                        1 => from.is_ipv6(),
                        58 => from.is_ipv4(),
                        4 => source < target,
                        47 => source > target,
                        _ => false,
                    };
                    if from.is_ipv4() == to.is_ipv4() && !odd {
                        all.push((source, target, Raw { from, to, protocol, words }));
                    }
                }
            }
        }
    }
    all
}

/// Endpoints e1 and e2 are the two pods, whatever else is random.
fn settle(change: Change) -> Option<Change> {
    let Change::Endpoint(key, endpoint) = change else { return Some(change) };
    let (interface, addresses) = match key {
        "e1" => ("cali1", ["10.0.0.1/32", "fd00::1/128"]),
        "e2" => ("cali2", ["10.0.0.2/32", "fd00::2/128"]),
        _ => return None,
    };
    let endpoint = endpoint.map(|mut endpoint| {
        endpoint.interface = interface.into();
        endpoint.addresses = addresses.map(|a| a.parse().unwrap()).into();
        endpoint
    });
    Some(Change::Endpoint(key, endpoint))
}

fn round(places: &[Place], world: &World) -> Result<(), TestCaseError> {
    let mut expected: Vec<BTreeSet<Raw>> = vec![BTreeSet::new(); places.len()];
    for (source, target, packet) in packets(places) {
        let on_the_way = Packet {
            from: packet.from,
            to: packet.to,
            iif: places[source].interface.into(),
            oif: places[target].interface.into(),
            protocol: packet.protocol,
            words: packet.words,
            state: State::New,
            mark: 0,
        };
        // A pod that the view doesn't know has no route, so nothing gets there or comes from there.
        if world.lets_through(&on_the_way) {
            expected[target].insert(packet.clone());
        }
        send(&places[source].space, &packet);
    }
    let mut seen: Vec<BTreeSet<Raw>> = vec![BTreeSet::new(); places.len()];
    let deadline = Instant::now() + Duration::from_secs(5);
    // Once all that must come is there, what must not come would be too: packets keep their order.
    while Instant::now() < deadline {
        for (place, seen) in places.iter().zip(&mut seen) {
            seen.extend(place.receiver.drain().into_iter().filter(is_test_packet));
        }
        if expected.iter().zip(&seen).all(|(expected, seen)| expected.is_subset(seen)) {
            break;
        }
        thread::yield_now();
    }
    prop_assert_eq!(seen, expected);
    Ok(())
}

/// No answer of a kernel: those have other ports and types.
fn is_test_packet(packet: &Raw) -> bool {
    match packet.protocol {
        1 => packet.words.0 == 8,
        58 => packet.words.0 == 128,
        6 | 17 => [(40000, 80), (80, 55), (1, 81), (40000, 53), (53, 4789)].contains(&packet.words),
        _ => true,
    }
}

#[test]
fn the_kernel_does_what_the_view_means() {
    if !available("the_kernel_does_what_the_view_means") {
        return;
    }
    let worlds = (start(), vec(vec(change(), 1..6), 0..3));
    let cases = Config::default().cases / 64;
    let config = Config { cases, max_shrink_iters: 20, ..Config::with_source_file(file!()) };
    let result = TestRunner::new(config).run(&worlds, |(start, commits)| {
        let mut node = Node::new("node-a", 2);
        let places = places(&node);
        let mut world = World::default();
        for changes in [start].into_iter().chain(commits) {
            for change in changes.into_iter().filter_map(settle) {
                apply(&mut world, node.agent.view(), change);
            }
            let outcome = node.commit();
            let refused = outcome.failed.iter().filter(|f| f.reason.contains("nftables"));
            prop_assert_eq!(refused.collect::<Vec<_>>(), Vec::<&_>::new());
            round(&places, &world)?;
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
