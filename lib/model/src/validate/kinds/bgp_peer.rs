//! `BGPPeer`: who nodes speak BGP with.

use super::{
    bgp::{AS_NUMBER, PASSWORD},
    metadata::METADATA,
    no_write_rules, nothing,
};
use crate::{
    Kind,
    validate::{
        format::{IP, NAME, SELECTOR, number16},
        net::ip,
        notation::digits,
        schema::{
            Breach, Check, Field, Format, INT32, Object, Rule, Schema, Scope, Server, Shape, Type,
            UINT8,
        },
    },
};

pub(super) static SCHEMA: Schema = Schema {
    kind: Kind::BGPPeer,
    doc: "A BGP speaker that nodes peer with.",
    object: Object { fields: &[METADATA, Field::object("spec", &SPEC).always()], rules: &[] },
    name: &NAME,
    on_write: nothing,
    write_rules: no_write_rules,
    on_server: &[],
};

const SELECTORS: &[Check] = &[Check::Is(&SELECTOR), Check::MaxLength(1024)];

static SPEC: Object = Object {
    fields: &[
        Field::text("node").doc("The node that peers.").absent("all nodes, or those that `nodeSelector` selects").checks(&[Check::Is(&NAME), Check::MaxLength(253)]),
        Field::text("nodeSelector").doc("Selects by labels the nodes that peer.").checks(SELECTORS),
        Field::text("peerIP").doc("The peer's address, with a port where it isn't 179: `10.0.0.1`, `10.0.0.1:180`, `[fd00::1]:180`.").checks(&[Check::Is(&PEER_IP), Check::MaxLength(64)]),
        Field::new("asNumber", Type::AsNumber).doc("The peer's AS number.").absent("of nodes that `peerSelector` selects: theirs").checks(AS_NUMBER),
        Field::new("localASNumber", Type::AsNumber).doc("The AS number that nodes show to this peer.").absent("the node's").if_present().checks(AS_NUMBER),
        Field::text("peerSelector").doc("Selects by labels the nodes that are peers.").checks(SELECTORS),
        Field::bool("keepOriginalNextHop").doc("Replaced by `nextHopMode: Keep`.").absent("false"),
        Field::text("nextHopMode").doc("The next hop of routes that are given to the peer: the node's own address (`Self`), the one the route came with (`Keep`), or what BGP says (`Auto`).").absent("Auto").if_present().checks(&[Check::OneOf(&["Auto", "Self", "Keep"])]),
        Field::object("password", &PASSWORD).doc("The password of the peering.").absent("none").if_present(),
        Field::text("sourceAddress").doc("Where the node's end of the peering is: its own address (`UseNodeIP`), or what the kernel takes (`None`).").absent("UseNodeIP").checks(&[Check::OneOf(&["UseNodeIP", "None"])]),
        Field::new("maxRestartTime", Type::Duration).doc("How long routes of a speaker that restarts are kept, as a duration.").absent("the speaker's own default, 120s").if_present(),
        Field::new("keepaliveTime", Type::Duration).doc("How often a sign of life is sent, as a duration.").absent("a third of the hold time").if_present(),
        Field::new("numAllowedLocalASNumbers", INT32).doc("How often the node's own AS number may stand in a path that it takes.").absent("0").if_present(),
        Field::new("ttlSecurity", UINT8).doc("How many hops away the peer may be; packets from farther away are dropped.").absent("not checked").if_present(),
        Field::list("filters", &Shape::checked(Type::Text, &[Check::Is(&NAME)])).doc("Names of BGPFilters, applied in order."),
        Field::text("reachableBy").doc("The gateway to the peer, for a static route.").absent("the peer is reached by the routes that are there").checks(&[Check::Is(&IP), Check::MaxLength(64)]),
        Field::text("reversePeering").doc("Whether the peers that `peerSelector` selects peer back without a BGPPeer of their own (`Auto`).").absent("Auto").if_present().checks(&[Check::OneOf(&["Auto", "Manual"])]),
        Field::text("localWorkloadSelector").doc("Selects by labels workloads on the node to peer with.").checks(SELECTORS),
    ],
    rules: &[
        Rule {
            says: "a peering is of one node, or of those that nodeSelector selects",
            cel: &["self.?node.orValue('') == '' || self.?nodeSelector.orValue('') == ''"],
            breach: |spec| both(spec, "node", "nodeSelector"),
        },
        Rule {
            says: "a peer has one address, or is what peerSelector selects",
            cel: &["self.?peerIP.orValue('') == '' || self.?peerSelector.orValue('') == ''"],
            breach: |spec| both(spec, "peerIP", "peerSelector"),
        },
        Rule {
            says: "peers that peerSelector selects bring their AS number",
            cel: &[
                "self.?peerSelector.orValue('') == '' || !has(self.asNumber) || self.asNumber == 0 || self.asNumber == '0' || self.asNumber == '0.0'",
            ],
            breach: |spec| {
                if !spec.has_text("peerSelector") || !has_as_number(spec) {
                    return None;
                }
                Breach::at("asNumber", "leave it out")
            },
        },
        Rule {
            says: "a local workload is a peer without address and without peerSelector",
            cel: &[
                "self.?localWorkloadSelector.orValue('') == '' || self.?peerIP.orValue('') == '' && self.?peerSelector.orValue('') == ''",
            ],
            breach: |spec| {
                both(spec, "localWorkloadSelector", "peerIP")
                    .or_else(|| both(spec, "localWorkloadSelector", "peerSelector"))
            },
        },
        Rule {
            says: "a local workload needs an AS number",
            cel: &[
                "self.?localWorkloadSelector.orValue('') == '' || has(self.asNumber) && self.asNumber != 0 && self.asNumber != '0' && self.asNumber != '0.0'",
            ],
            breach: |spec| {
                if !spec.has_text("localWorkloadSelector") || has_as_number(spec) {
                    return None;
                }
                Breach::at("asNumber", "set it")
            },
        },
        Rule {
            says: "reachableBy is the way to peerIP, of the same IP version",
            cel: &[
                "self.?reachableBy.orValue('') == '' || self.?peerIP.orValue('') != '' && self.peerIP.contains('.') == self.reachableBy.contains('.')",
            ],
            breach: |spec| {
                let gateway = ip(spec.text("reachableBy"))?;
                let (peer, _) = address_and_port(spec.text("peerIP"));
                if ip(peer).is_some_and(|peer| peer.is_ipv4() == gateway.is_ipv4()) {
                    return None;
                }
                Breach::at("reachableBy", "leave it out, or set peerIP")
            },
        },
        Rule {
            says: "nextHopMode replaces keepOriginalNextHop",
            cel: &["!has(self.nextHopMode) || !self.?keepOriginalNextHop.orValue(false)"],
            breach: |spec| {
                spec.get("nextHopMode")?;
                if !spec.flag("keepOriginalNextHop") {
                    return None;
                }
                Breach::at("keepOriginalNextHop", "leave it out; nextHopMode: Keep says the same")
            },
        },
    ],
};

fn both(spec: &Scope<'_>, one: &'static str, other: &'static str) -> Option<Breach> {
    if !spec.has_text(one) || !spec.has_text(other) {
        return None;
    }
    Breach::at(other, format!("leave it out, or leave out {one}"))
}

fn has_as_number(spec: &Scope<'_>) -> bool {
    spec.get("asNumber").is_some_and(|number| *number != 0)
}

static PEER_IP: Format = Format {
    says: "an IP address, or one with a port: 10.0.0.1:179, [fd00::1]:179",
    server: &[
        Server::Pattern(concat!(
            r"^([0-9.]+(:",
            number16!(),
            r")?|\[[0-9A-Fa-f:.]+\]:",
            number16!(),
            "|[0-9A-Fa-f:.]+)$"
        )),
        Server::Cel(
            // CEL doesn't read IPv4 in IPv6.
            "self.contains('.') && self.startsWith('[') || self.matches('^[0-9.]+:[0-9]+$') && isIP(self.split(':')[0]) || self.startsWith('[') && isIP(self.substring(1, self.indexOf(']'))) || isIP(self) || self.contains('.') && self.contains('::')",
        ),
    ],
    breach: |value| {
        let (address, port) = address_and_port(value.as_str()?);
        let has_fine_port = port.is_none_or(|port| digits::<u16>(port).is_some_and(|it| it > 0));
        if ip(address).is_some() && has_fine_port { None } else { Some(String::new()) }
    },
};

/// The parts of `IPv4:port` or `[IPv6]:port`. Anything else is an address as it stands.
fn address_and_port(text: &str) -> (&str, Option<&str>) {
    if let Some((address, port)) = text.strip_prefix('[').and_then(|rest| rest.split_once("]:")) {
        return (address, Some(port));
    }
    match text.split_once(':') {
        Some((address, port)) if !port.contains(':') => (address, Some(port)),
        _ => (text, None),
    }
}
