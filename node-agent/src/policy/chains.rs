//! The chains that aren't policies: hooks, dispatch by interface, and what is shared by endpoints
//! with the same policies.
//!
//! ```text
//! hook input, forward
//!   -> from-workload -(interface)-> group chain, egress   -> policy chains, profile chains
//!   -> to-workload   -(interface)-> group chain, ingress  -> policy chains, profile chains
//! ```
//! A policy's chain that allows sets the accept mark and returns; one that passes sets the pass
//! mark and returns; one that denies drops. So one packet can be judged twice, by the endpoint that
//! sends it and by the one that receives it.

use arcstr::ArcStr;
use model::view::{PolicyList, PortRange};

use super::{Direction, names, rules::deny};
use crate::{
    family::Family,
    nft::{
        Action, Addresses, Base, Chain, Connection, Hook, Interface, Match, Rule, Side, Verdict,
    },
    settings::Config,
};

/// The chains that find a workload's chain by its interface, and the maps that they look into.
pub(crate) const FROM_WORKLOAD: &str = "from-workload";
/// As [`FROM_WORKLOAD`], for the other direction.
pub(crate) const TO_WORKLOAD: &str = "to-workload";
/// Set: all pools.
pub(crate) const POOLS: &str = "pools";
/// Set: pools whose traffic to elsewhere takes the node's address.
pub(crate) const NAT_POOLS: &str = "nat-pools";
/// Set: the nodes' own addresses, the only legitimate senders of tunnel packets.
pub(crate) const NODES: &str = "nodes";

/// Which tunnels are in use in a family, for the hooks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tunnels {
    pub(crate) vxlan: bool,
    pub(crate) ipip: bool,
}

fn rule(matches: Vec<Match>, actions: Vec<Action>) -> Rule {
    Rule { matches, actions }
}

fn verdict(matches: Vec<Match>, verdict: Verdict) -> Rule {
    rule(matches, vec![Action::Verdict(verdict)])
}

fn established(verdicts: Vec<Action>) -> Rule {
    rule(vec![Match::Connection(Connection::Established)], verdicts)
}

fn udp_to(port: u16) -> [Match; 2] {
    [
        Match::Protocol { numbers: vec![17], not: false },
        Match::Port {
            side: Side::Destination,
            ranges: vec![PortRange { first: port, last: port }],
            not: false,
        },
    ]
}

fn ip_in_ip() -> Match {
    Match::Protocol { numbers: vec![4], not: false }
}

/// The base chains and the two dispatch chains.
pub(crate) fn base(family: Family, config: &Config, tunnels: &Tunnels) -> Vec<(ArcStr, Chain)> {
    let hook =
        |hook, priority, nat, rules| Chain { base: Some(Base { hook, priority, nat }), rules };
    let dispatch = |side: Side, map: &'static str| Chain {
        base: None,
        rules: vec![
            rule(vec![], vec![Action::Dispatch { side, map: map.into() }]),
            // A workload's interface that we don't know: closed, both ways.
            verdict(vec![], Verdict::Drop),
        ],
    };
    vec![
        (FROM_WORKLOAD.into(), dispatch(Side::Source, FROM_WORKLOAD)),
        (TO_WORKLOAD.into(), dispatch(Side::Destination, TO_WORKLOAD)),
        ("prerouting".into(), hook(Hook::Prerouting, -300, false, prerouting(config, tunnels))),
        ("output".into(), hook(Hook::Output, -300, false, output(config, tunnels))),
        ("input".into(), hook(Hook::Input, -5, false, input(family, config, tunnels))),
        ("forward".into(), hook(Hook::Forward, -5, false, forward(config))),
        (
            "postrouting".into(),
            hook(Hook::Postrouting, 110, true, postrouting(family, config, tunnels)),
        ),
    ]
}

/// One condition per prefix of workload interfaces: on this side, one of them.
fn workload(config: &Config, side: Side) -> impl Iterator<Item = Match> {
    config.interface_prefixes.iter().map(move |prefix| Match::Interface {
        side,
        interface: Interface::Prefix(prefix.clone()),
        not: false,
    })
}

/// Conditions that together mean: not a workload's interface.
fn no_workload(config: &Config, side: Side) -> Vec<Match> {
    config
        .interface_prefixes
        .iter()
        .map(|prefix| Match::Interface {
            side,
            interface: Interface::Prefix(prefix.clone()),
            not: true,
        })
        .collect()
}

fn prerouting(config: &Config, tunnels: &Tunnels) -> Vec<Rule> {
    let marks = config.marks.both();
    // Only our own chains may set our marks.
    let mut rules =
        vec![rule(vec![Match::Mark { bits: marks, not: false }], vec![Action::ClearMark(marks)])];
    for from in workload(config, Side::Source) {
        rules.push(verdict(vec![from, Match::Spoofed], Verdict::Drop));
    }
    if tunnels.vxlan {
        let mut matches = no_workload(config, Side::Source);
        matches.extend(udp_to(config.vxlan_port));
        matches.push(Match::Local { side: Side::Destination });
        rules.push(rule(matches, vec![Action::Untracked]));
    }
    rules
}

fn output(config: &Config, tunnels: &Tunnels) -> Vec<Rule> {
    if !tunnels.vxlan {
        return Vec::new();
    }
    vec![rule(udp_to(config.vxlan_port).to_vec(), vec![Action::Untracked])]
}

fn input(family: Family, config: &Config, tunnels: &Tunnels) -> Vec<Rule> {
    let mut rules = Vec::new();
    let mut tunnel = |matches: Vec<Match>| {
        let mut known = matches.clone();
        known.push(Match::Address {
            side: Side::Source,
            addresses: Addresses::Set(NODES.into()),
            not: false,
        });
        rules.push(verdict(known, Verdict::Accept));
        rules.push(verdict(matches, Verdict::Drop));
    };
    if tunnels.vxlan {
        let mut matches = no_workload(config, Side::Source);
        matches.extend(udp_to(config.vxlan_port));
        tunnel(matches);
    }
    if tunnels.ipip {
        let mut matches = no_workload(config, Side::Source);
        matches.push(ip_in_ip());
        tunnel(matches);
    }
    for from in workload(config, Side::Source) {
        if family == Family::V6 {
            // Neighbour discovery, router solicitation and multicast listeners: without them a
            // workload doesn't find its gateway.
            for kind in [130, 131, 132, 133, 135, 136] {
                let icmp = Match::IcmpType { kind, not: false };
                rules.push(verdict(vec![from.clone(), icmp], Verdict::Accept));
            }
        }
        rules.push(verdict(vec![from.clone()], Verdict::Jump(FROM_WORKLOAD.into())));
        if !config.endpoint_to_host {
            let mut answer = established(vec![Action::Verdict(Verdict::Accept)]);
            answer.matches.insert(0, from.clone());
            rules.push(answer);
            rules.push(verdict(vec![from], Verdict::Drop));
        }
    }
    rules
}

fn forward(config: &Config) -> Vec<Rule> {
    let from = workload(config, Side::Source)
        .map(|from| verdict(vec![from], Verdict::Jump(FROM_WORKLOAD.into())));
    let to = workload(config, Side::Destination)
        .map(|to| verdict(vec![to], Verdict::Jump(TO_WORKLOAD.into())));
    from.chain(to).collect()
}

fn postrouting(family: Family, config: &Config, tunnels: &Tunnels) -> Vec<Rule> {
    let in_set = |side, set: &'static str, not| Match::Address {
        side,
        addresses: Addresses::Set(set.into()),
        not,
    };
    let mut leaves =
        vec![in_set(Side::Source, NAT_POOLS, false), in_set(Side::Destination, POOLS, true)];
    if config.nat_exclude_hosts {
        leaves.push(in_set(Side::Destination, NODES, true));
    }
    let mut rules = Vec::new();
    let mut masquerade = |matches: &[Match]| {
        if tunnels.vxlan {
            // The tunnel's own port on this node must stay the tunnel's: a reply to it would be
            // taken for a tunnel packet.
            let mut udp = matches.to_vec();
            udp.push(Match::Protocol { numbers: vec![17], not: false });
            let ports = Some(without_port(config.nat_ports, config.vxlan_port));
            rules.push(rule(udp, vec![Action::Masquerade { ports }]));
        }
        if config.nat_ports.is_some() {
            let mut with_ports = matches.to_vec();
            with_ports.push(Match::Protocol { numbers: vec![6, 17, 132], not: false });
            rules.push(rule(with_ports, vec![Action::Masquerade { ports: config.nat_ports }]));
        }
        rules.push(rule(matches.to_vec(), vec![Action::Masquerade { ports: None }]));
    };
    masquerade(&leaves);
    for device in tunnel_devices(family, tunnels) {
        // From the host itself, but with an address that the other end would answer directly.
        let out = Match::Interface {
            side: Side::Destination,
            interface: Interface::Named(device.into()),
            not: false,
        };
        masquerade(&[out, in_set(Side::Source, POOLS, true), Match::Local { side: Side::Source }]);
    }
    rules
}

fn tunnel_devices(family: Family, tunnels: &Tunnels) -> Vec<&'static str> {
    let mut devices = Vec::new();
    if tunnels.vxlan {
        devices.push(family.vxlan_device());
    }
    if tunnels.ipip {
        devices.push("tunl0");
    }
    devices
}

/// The larger part of a port range beside one port.
fn without_port(range: Option<PortRange>, port: u16) -> PortRange {
    let range = range.unwrap_or(PortRange { first: 1024, last: 65535 });
    if port < range.first || range.last < port {
        return range;
    }
    let (below, above) = (port - range.first, range.last - port);
    if above >= below && above > 0 {
        PortRange { first: port + 1, last: range.last }
    } else if below > 0 {
        PortRange { first: range.first, last: port - 1 }
    } else {
        range
    }
}

/// The chain for all endpoints with these policies and profiles; `policies` and `profiles` name
/// their chains.
pub(crate) fn group(
    config: &Config,
    direction: Direction,
    plist: Option<&PolicyList>,
    policy: impl Fn(&model::view::PolicyId) -> ArcStr,
    profiles: impl Iterator<Item = ArcStr>,
) -> Vec<Rule> {
    let marks = config.marks;
    let accepted =
        || verdict(vec![Match::Mark { bits: marks.accept, not: false }], Verdict::Return);
    let mut rules = vec![
        established(vec![Action::SetMark(marks.accept), Action::Verdict(Verdict::Return)]),
        verdict(vec![Match::Connection(Connection::Invalid)], Verdict::Drop),
    ];
    if direction == Direction::Egress {
        // A workload that could speak to the tunnels itself would be past all policy.
        if !config.allow_vxlan_from_workloads {
            rules.push(verdict(udp_to(config.vxlan_port).to_vec(), Verdict::Drop));
        }
        if !config.allow_ipip_from_workloads {
            rules.push(verdict(vec![ip_in_ip()], Verdict::Drop));
        }
    }
    rules.push(rule(vec![], vec![Action::ClearMark(marks.both())]));
    for (index, tier) in plist.into_iter().flat_map(|plist| &plist.tiers).enumerate() {
        let policies = match direction {
            Direction::Ingress => &tier.ingress,
            Direction::Egress => &tier.egress,
        };
        if policies.is_empty() {
            continue;
        }
        let undecided = Match::Mark { bits: marks.pass, not: true };
        if index > 0 {
            rules.push(rule(vec![], vec![Action::ClearMark(marks.pass)]));
        }
        for id in policies {
            rules.push(verdict(vec![undecided.clone()], Verdict::Jump(policy(id))));
            rules.push(accepted());
        }
        if !tier.default_pass {
            rules.push(verdict(vec![undecided], deny(config)));
        }
    }
    for chain in profiles {
        // Whoever passed before, a profile's chain starts without marks, as a policy's does.
        rules.push(rule(vec![], vec![Action::ClearMark(marks.pass)]));
        rules.push(verdict(vec![], Verdict::Jump(chain)));
        rules.push(accepted());
    }
    rules.push(verdict(vec![], deny(config)));
    rules
}

/// The chain of one policy or profile in one direction.
pub(crate) fn unit_name(prefix: &str, direction: Direction, parts: &[&str]) -> ArcStr {
    let direction = match direction {
        Direction::Ingress => "in",
        Direction::Egress => "out",
    };
    names::name(&format!("{prefix}-{direction}"), parts.iter().copied())
}
