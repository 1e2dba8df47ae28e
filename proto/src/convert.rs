//! Entries of the model to bytes, and back.
//!
//! Encoding can't fail. Decoding judges: bytes of a newer server may hold what this version can't
//! express, and an entry that is half understood must not widen what is allowed. So a value out of
//! range is an error of the whole entry, and the caller treats it as a failed one.

use std::net::IpAddr;

use arcstr::ArcStr;
use ipnet::IpNet;
use model::view::{
    Action, ConfigEntry, EncapMode, Endpoint, Entry, Host, HostEndpoint, Icmp, Peer, Policy,
    PolicyId, PolicyList, PolicyTier, Pool, PortRange, ProfileRules, Protocol, Route, Rule, Topic,
};
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use crate::v1::{self, entry::Kind};

/// Why the bytes of an entry can't be acted on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Not a message of this form.
    #[error("not an entry: {0}")]
    Malformed(String),
    /// The server says that the entry needs what this version lacks.
    #[error("needs feature {0:?}, which this version lacks: upgrade it")]
    Feature(String),
    /// The entry is of another kind than its topic's.
    #[error("an entry of another kind than topic {0} holds")]
    WrongKind(String),
    /// A field's value is out of range.
    #[error("field {field}: {value} is not valid here")]
    Field {
        /// Which.
        field: &'static str,
        /// What it says.
        value: String,
    },
}

/// The canonical bytes of an entry: what digests are over, and what travels.
pub fn encode(entry: &Entry) -> Vec<u8> {
    let kind = match entry {
        Entry::Member => None,
        Entry::Config(config) => {
            Some(Kind::Config(v1::ConfigEntry { spec_json: config.spec_json.clone() }))
        }
        Entry::Pool(pool) => Some(Kind::Pool(v1::Pool {
            ipip: from_mode(pool.ipip),
            vxlan: from_mode(pool.vxlan),
            nat_outgoing: pool.nat_outgoing,
        })),
        Entry::Host(host) => Some(Kind::Host(from_host(host))),
        Entry::Route(route) => Some(Kind::Route(v1::Route {
            node: route.node.to_string(),
            pool_net: route.pool.map(from_net).unwrap_or_default(),
            borrowed: route.borrowed,
            tunnel: route.tunnel,
        })),
        Entry::Endpoint(endpoint) => Some(Kind::Endpoint(v1::Endpoint {
            interface: endpoint.interface.to_string(),
            mac: endpoint.mac.to_string(),
            nets: endpoint.addresses.iter().copied().map(from_net).collect(),
            profiles: strings(&endpoint.profiles),
            plist: from_id(endpoint.plist.as_ref()),
        })),
        Entry::HostEndpoint(endpoint) => Some(Kind::HostEndpoint(v1::HostEndpoint {
            interface: endpoint.interface.to_string(),
            addresses: endpoint.addresses.iter().copied().map(from_address).collect(),
            profiles: strings(&endpoint.profiles),
            plist: from_id(endpoint.plist.as_ref()),
            forward: from_id(endpoint.forward.as_ref()),
            untracked: from_id(endpoint.untracked.as_ref()),
            pre_dnat: from_id(endpoint.pre_dnat.as_ref()),
        })),
        Entry::Plist(plist) => Some(Kind::Plist(from_plist(plist))),
        Entry::Policy(policy) => Some(Kind::Policy(v1::Policy {
            tier: policy.tier.to_string(),
            ingress: policy.ingress.iter().map(from_rule).collect(),
            egress: policy.egress.iter().map(from_rule).collect(),
        })),
        Entry::Profile(profile) => Some(Kind::Profile(v1::ProfileRules {
            ingress: profile.ingress.iter().map(from_rule).collect(),
            egress: profile.egress.iter().map(from_rule).collect(),
        })),
        Entry::Res(json) => Some(Kind::Res(json.clone())),
    };
    v1::Entry { required_features: Vec::new(), kind }.encode_to_vec()
}

/// Reads the bytes of an entry of `topic`. `features` are those that this program can act on.
pub fn decode(topic: &Topic, bytes: &[u8], features: &[&str]) -> Result<Entry, EntryError> {
    let entry = v1::Entry::decode(bytes).map_err(|e| EntryError::Malformed(e.to_string()))?;
    if let Some(lacking) = entry.required_features.iter().find(|f| !features.contains(&f.as_str()))
    {
        return Err(EntryError::Feature(lacking.clone()));
    }
    Ok(match (topic, entry.kind) {
        (Topic::IpSet(_), None) => Entry::Member,
        (Topic::Config | Topic::Node(_), Some(Kind::Config(config))) => {
            Entry::Config(ConfigEntry { spec_json: config.spec_json })
        }
        (Topic::Pools, Some(Kind::Pool(pool))) => Entry::Pool(Pool {
            ipip: to_mode("ipip", pool.ipip)?,
            vxlan: to_mode("vxlan", pool.vxlan)?,
            nat_outgoing: pool.nat_outgoing,
        }),
        (Topic::Hosts(_), Some(Kind::Host(host))) => Entry::Host(to_host(host)?.into()),
        (Topic::Routes(_), Some(Kind::Route(route))) => Entry::Route(Route {
            node: route.node.into(),
            pool: to_optional(&route.pool_net, |b| to_net("pool_net", b))?,
            borrowed: route.borrowed,
            tunnel: route.tunnel,
        }),
        (Topic::Node(_), Some(Kind::Endpoint(endpoint))) => Entry::Endpoint(Endpoint {
            interface: endpoint.interface.into(),
            mac: endpoint.mac.into(),
            addresses: each(&endpoint.nets, |b| to_net("nets", b))?,
            profiles: arcs(endpoint.profiles),
            plist: to_id(endpoint.plist),
        }),
        (Topic::Node(_), Some(Kind::HostEndpoint(endpoint))) => Entry::HostEndpoint(
            HostEndpoint {
                interface: endpoint.interface.into(),
                addresses: each(&endpoint.addresses, |b| to_address("addresses", b))?,
                profiles: arcs(endpoint.profiles),
                plist: to_id(endpoint.plist),
                forward: to_id(endpoint.forward),
                untracked: to_id(endpoint.untracked),
                pre_dnat: to_id(endpoint.pre_dnat),
            }
            .into(),
        ),
        (Topic::Plist(_), Some(Kind::Plist(plist))) => Entry::Plist(to_plist(plist)?),
        (Topic::Policy(_), Some(Kind::Policy(policy))) => Entry::Policy(
            Policy {
                tier: policy.tier.into(),
                ingress: each(&policy.ingress, to_rule)?,
                egress: each(&policy.egress, to_rule)?,
            }
            .into(),
        ),
        (Topic::Profile(_), Some(Kind::Profile(profile))) => Entry::Profile(
            ProfileRules {
                ingress: each(&profile.ingress, to_rule)?,
                egress: each(&profile.egress, to_rule)?,
            }
            .into(),
        ),
        (Topic::Res(..), Some(Kind::Res(json))) => Entry::Res(json),
        _ => return Err(EntryError::WrongKind(topic.to_string())),
    })
}

/// The id of a policy list: the first 16 bytes of the SHA-256 of its entry, as base64url.
pub fn plist_id(plist: &PolicyList) -> ArcStr {
    use base64::Engine as _;
    let hash = Sha256::digest(encode(&Entry::Plist(plist.clone())));
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(&hash[..16]).into()
}

fn from_id(id: Option<&ArcStr>) -> String {
    id.map(ToString::to_string).unwrap_or_default()
}

fn to_id(id: String) -> Option<ArcStr> {
    Some(id).filter(|id| !id.is_empty()).map(ArcStr::from)
}

fn strings(list: &[ArcStr]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn arcs(list: Vec<String>) -> Vec<ArcStr> {
    list.into_iter().map(ArcStr::from).collect()
}

fn each<A, B>(
    list: &[A],
    convert: impl Fn(&A) -> Result<B, EntryError>,
) -> Result<Vec<B>, EntryError> {
    list.iter().map(convert).collect()
}

fn to_optional<B>(
    bytes: &[u8],
    convert: impl Fn(&[u8]) -> Result<B, EntryError>,
) -> Result<Option<B>, EntryError> {
    if bytes.is_empty() { Ok(None) } else { convert(bytes).map(Some) }
}

fn bad<B>(field: &'static str, value: impl std::fmt::Debug) -> Result<B, EntryError> {
    Err(EntryError::Field { field, value: format!("{value:?}") })
}

fn from_address(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

fn to_address(field: &'static str, bytes: &[u8]) -> Result<IpAddr, EntryError> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        Ok(v4.into())
    } else if let Ok(v6) = <[u8; 16]>::try_from(bytes) {
        Ok(v6.into())
    } else {
        bad(field, bytes)
    }
}

fn from_net(net: IpNet) -> Vec<u8> {
    let mut bytes = from_address(net.addr());
    bytes.push(net.prefix_len());
    bytes
}

fn to_net(field: &'static str, bytes: impl AsRef<[u8]>) -> Result<IpNet, EntryError> {
    let bytes = bytes.as_ref();
    let Some((prefix, address)) = bytes.split_last() else { return bad(field, bytes) };
    IpNet::new(to_address(field, address)?, *prefix).or_else(|_| bad(field, bytes))
}

fn from_mode(mode: EncapMode) -> i32 {
    match mode {
        EncapMode::Never => v1::EncapMode::EncapNever,
        EncapMode::Always => v1::EncapMode::EncapAlways,
        EncapMode::CrossSubnet => v1::EncapMode::EncapCrossSubnet,
    }
    .into()
}

fn to_mode(field: &'static str, mode: i32) -> Result<EncapMode, EntryError> {
    Ok(match v1::EncapMode::try_from(mode) {
        Ok(v1::EncapMode::EncapNever) => EncapMode::Never,
        Ok(v1::EncapMode::EncapAlways) => EncapMode::Always,
        Ok(v1::EncapMode::EncapCrossSubnet) => EncapMode::CrossSubnet,
        Err(_) => return bad(field, mode),
    })
}

fn from_host(host: &Host) -> v1::Host {
    let net = |net: Option<IpNet>| net.map(from_net).unwrap_or_default();
    let address = |address: Option<IpAddr>| address.map(from_address).unwrap_or_default();
    v1::Host {
        ipv4_net: net(host.ipv4),
        ipv6_net: net(host.ipv6),
        ipip_address: address(host.ipip_address),
        vxlan_address: address(host.vxlan_address),
        vxlan_mac: host.vxlan_mac.to_string(),
        vxlan_address_v6: address(host.vxlan_address_v6),
        vxlan_mac_v6: host.vxlan_mac_v6.to_string(),
        wireguard_key: host.wireguard_key.to_string(),
        wireguard_key_v6: host.wireguard_key_v6.to_string(),
        wireguard_address: address(host.wireguard_address),
        wireguard_address_v6: address(host.wireguard_address_v6),
        as_number: host.as_number,
    }
}

fn to_host(host: v1::Host) -> Result<Host, EntryError> {
    let net = |field, bytes: &[u8]| to_optional(bytes, |b| to_net(field, b));
    let address = |field, bytes: &[u8]| to_optional(bytes, |b| to_address(field, b));
    Ok(Host {
        ipv4: net("ipv4_net", &host.ipv4_net)?,
        ipv6: net("ipv6_net", &host.ipv6_net)?,
        ipip_address: address("ipip_address", &host.ipip_address)?,
        vxlan_address: address("vxlan_address", &host.vxlan_address)?,
        vxlan_mac: host.vxlan_mac.into(),
        vxlan_address_v6: address("vxlan_address_v6", &host.vxlan_address_v6)?,
        vxlan_mac_v6: host.vxlan_mac_v6.into(),
        wireguard_key: host.wireguard_key.into(),
        wireguard_key_v6: host.wireguard_key_v6.into(),
        wireguard_address: address("wireguard_address", &host.wireguard_address)?,
        wireguard_address_v6: address("wireguard_address_v6", &host.wireguard_address_v6)?,
        as_number: host.as_number,
    })
}

fn from_plist(plist: &PolicyList) -> v1::PolicyList {
    let ids = |ids: &[PolicyId]| ids.iter().map(ToString::to_string).collect();
    let tiers = plist.tiers.iter().map(|tier| v1::PolicyTier {
        name: tier.name.to_string(),
        default_pass: tier.default_pass,
        ingress: ids(&tier.ingress),
        egress: ids(&tier.egress),
    });
    v1::PolicyList { tiers: tiers.collect() }
}

fn to_plist(plist: v1::PolicyList) -> Result<PolicyList, EntryError> {
    let ids =
        |field, ids: &[String]| each(ids, |id| id.parse::<PolicyId>().or_else(|_| bad(field, id)));
    let tiers = plist.tiers.into_iter().map(|tier| {
        Ok(PolicyTier {
            ingress: ids("ingress", &tier.ingress)?,
            egress: ids("egress", &tier.egress)?,
            name: tier.name.into(),
            default_pass: tier.default_pass,
        })
    });
    Ok(PolicyList { tiers: tiers.collect::<Result<_, _>>()? })
}

fn from_rule(rule: &Rule) -> v1::Rule {
    let icmp = |icmp: Option<Icmp>| {
        icmp.map(|i| v1::Icmp { kind: i.kind.into(), code: i.code.map(u32::from) })
    };
    let action = match rule.action {
        Action::Deny => v1::Action::Deny,
        Action::Allow => v1::Action::Allow,
        Action::Log => v1::Action::Log,
        Action::Pass => v1::Action::Pass,
    };
    v1::Rule {
        action: action.into(),
        ip_version: rule.ip_version.map_or(0, u32::from),
        protocol: rule.protocol.map(|p| p.0.into()),
        not_protocol: rule.not_protocol.map(|p| p.0.into()),
        icmp: icmp(rule.icmp),
        not_icmp: icmp(rule.not_icmp),
        source: from_peer(&rule.source),
        destination: from_peer(&rule.destination),
    }
}

fn to_rule(rule: &v1::Rule) -> Result<Rule, EntryError> {
    let byte = |field, value: u32| u8::try_from(value).or_else(|_| bad::<u8>(field, value));
    let icmp = |field, icmp: Option<v1::Icmp>| {
        icmp.map(|i| {
            Ok(Icmp {
                kind: byte(field, i.kind)?,
                code: i.code.map(|code| byte(field, code)).transpose()?,
            })
        })
        .transpose()
    };
    let protocol =
        |field, number: Option<u32>| number.map(|n| byte(field, n).map(Protocol)).transpose();
    Ok(Rule {
        action: match v1::Action::try_from(rule.action) {
            Ok(v1::Action::Deny) => Action::Deny,
            Ok(v1::Action::Allow) => Action::Allow,
            Ok(v1::Action::Log) => Action::Log,
            Ok(v1::Action::Pass) => Action::Pass,
            Err(_) => return bad("action", rule.action),
        },
        ip_version: match rule.ip_version {
            0 => None,
            version @ (4 | 6) => Some(version as u8),
            other => return bad("ip_version", other),
        },
        protocol: protocol("protocol", rule.protocol)?,
        not_protocol: protocol("not_protocol", rule.not_protocol)?,
        icmp: icmp("icmp", rule.icmp)?,
        not_icmp: icmp("not_icmp", rule.not_icmp)?,
        source: to_peer(rule.source.as_ref())?,
        destination: to_peer(rule.destination.as_ref())?,
    })
}

fn from_peer(peer: &Peer) -> Option<v1::Peer> {
    let nets = |nets: &[IpNet]| nets.iter().copied().map(from_net).collect();
    let ports = |ports: &[PortRange]| {
        ports.iter().map(|p| v1::PortRange { first: p.first.into(), last: p.last.into() }).collect()
    };
    (*peer != Peer::default()).then(|| v1::Peer {
        nets: nets(&peer.nets),
        not_nets: nets(&peer.not_nets),
        sets: strings(&peer.sets),
        not_sets: strings(&peer.not_sets),
        ports: ports(&peer.ports),
        port_sets: strings(&peer.port_sets),
        not_ports: ports(&peer.not_ports),
        not_port_sets: strings(&peer.not_port_sets),
        service_sets: strings(&peer.service_sets),
    })
}

fn to_peer(peer: Option<&v1::Peer>) -> Result<Peer, EntryError> {
    let Some(peer) = peer else { return Ok(Peer::default()) };
    let port = |field, port| u16::try_from(port).or_else(|_| bad::<u16>(field, port));
    let ports = |field, ports: &[v1::PortRange]| {
        each(ports, |p| Ok(PortRange { first: port(field, p.first)?, last: port(field, p.last)? }))
    };
    Ok(Peer {
        nets: each(&peer.nets, |b| to_net("nets", b))?,
        not_nets: each(&peer.not_nets, |b| to_net("not_nets", b))?,
        sets: arcs(peer.sets.clone()),
        not_sets: arcs(peer.not_sets.clone()),
        ports: ports("ports", &peer.ports)?,
        port_sets: arcs(peer.port_sets.clone()),
        not_ports: ports("not_ports", &peer.not_ports)?,
        not_port_sets: arcs(peer.not_port_sets.clone()),
        service_sets: arcs(peer.service_sets.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn everything() -> Vec<(Topic, Entry)> {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let id: PolicyId = "NetworkPolicy/ns/p".parse().unwrap();
        let rule = Rule {
            action: Action::Pass,
            ip_version: Some(6),
            protocol: Some(Protocol(6)),
            not_protocol: Some(Protocol(255)),
            icmp: Some(Icmp { kind: 0, code: Some(0) }),
            not_icmp: Some(Icmp { kind: 255, code: None }),
            source: Peer {
                nets: vec![net("10.0.0.0/8"), net("fd00::/8")],
                sets: vec!["s:a".into()],
                ports: vec![PortRange { first: 0, last: 65535 }],
                ..Peer::default()
            },
            destination: Peer { not_port_sets: vec!["n:b".into()], ..Peer::default() },
        };
        vec![
            (Topic::Config, Entry::Config(ConfigEntry { spec_json: "{}".into() })),
            (Topic::Pools, Entry::Pool(Pool { vxlan: EncapMode::CrossSubnet, ..Pool::default() })),
            (
                Topic::Hosts(0),
                Entry::Host(
                    Host {
                        ipv4: Some(net("10.0.0.1/24")),
                        vxlan_address_v6: Some("fd00::1".parse().unwrap()),
                        as_number: Some(0),
                        ..Host::default()
                    }
                    .into(),
                ),
            ),
            (
                Topic::Routes(1),
                Entry::Route(Route {
                    node: "n".into(),
                    pool: Some(net("fd00::/48")),
                    borrowed: true,
                    tunnel: false,
                }),
            ),
            (
                Topic::Node("n".into()),
                Entry::Endpoint(Endpoint {
                    interface: "cali1".into(),
                    addresses: vec![net("10.0.0.5/32")],
                    profiles: vec!["kns.a".into()],
                    plist: Some("x".into()),
                    ..Endpoint::default()
                }),
            ),
            (
                Topic::Node("n".into()),
                Entry::HostEndpoint(
                    HostEndpoint {
                        interface: "*".into(),
                        addresses: vec!["10.0.0.5".parse().unwrap(), "fd00::1".parse().unwrap()],
                        profiles: vec!["p".into()],
                        plist: Some("x".into()),
                        forward: None,
                        untracked: Some("y".into()),
                        pre_dnat: Some("z".into()),
                    }
                    .into(),
                ),
            ),
            (
                Topic::Plist("x".into()),
                Entry::Plist(PolicyList {
                    tiers: vec![PolicyTier {
                        name: "default".into(),
                        default_pass: true,
                        ingress: vec![id.clone()],
                        egress: vec![],
                    }],
                }),
            ),
            (
                Topic::Policy(id),
                Entry::Policy(
                    Policy {
                        tier: "default".into(),
                        ingress: vec![rule.clone()],
                        egress: vec![Rule::default()],
                    }
                    .into(),
                ),
            ),
            (
                Topic::Profile("p".into()),
                Entry::Profile(ProfileRules { ingress: vec![], egress: vec![rule] }.into()),
            ),
            (Topic::IpSet("s:a".into()), Entry::Member),
            (Topic::Res(model::Kind::Tier, 3), Entry::Res("{\"a\":1}".into())),
        ]
    }

    #[test]
    fn every_entry_comes_back_as_it_was() {
        for (topic, entry) in everything() {
            assert_eq!(decode(&topic, &encode(&entry), &[]), Ok(entry), "{topic}");
        }
    }

    #[test]
    fn an_entry_in_the_wrong_topic_is_refused() {
        let bytes = encode(&Entry::Pool(Pool::default()));
        assert!(matches!(decode(&Topic::Config, &bytes, &[]), Err(EntryError::WrongKind(_))));
    }

    #[test]
    fn an_entry_that_needs_an_unknown_feature_is_refused_by_name() {
        let entry = v1::Entry { required_features: vec!["l7".into()], kind: None };
        let topic = Topic::IpSet("s:a".into());
        let error = decode(&topic, &entry.encode_to_vec(), &["dscp"]).unwrap_err();
        assert!(error.to_string().contains("\"l7\""), "{error}");
        assert_eq!(decode(&topic, &entry.encode_to_vec(), &["l7"]), Ok(Entry::Member));
    }

    #[test]
    fn an_unknown_action_or_a_port_out_of_range_never_becomes_a_wider_rule() {
        let rules = [
            v1::Rule { action: 9, ..v1::Rule::default() },
            v1::Rule { ip_version: 5, ..v1::Rule::default() },
            v1::Rule { protocol: Some(256), ..v1::Rule::default() },
            v1::Rule {
                source: Some(v1::Peer {
                    ports: vec![v1::PortRange { first: 1, last: 70_000 }],
                    ..v1::Peer::default()
                }),
                ..v1::Rule::default()
            },
            v1::Rule {
                destination: Some(v1::Peer {
                    nets: vec![vec![10, 0, 0, 0, 33]],
                    ..v1::Peer::default()
                }),
                ..v1::Rule::default()
            },
        ];
        for rule in rules {
            let profile = v1::ProfileRules { ingress: vec![rule.clone()], egress: vec![] };
            let entry = v1::Entry { kind: Some(Kind::Profile(profile)), ..v1::Entry::default() };
            let decoded = decode(&Topic::Profile("p".into()), &entry.encode_to_vec(), &[]);
            assert!(matches!(decoded, Err(EntryError::Field { .. })), "{rule:?}: {decoded:?}");
        }
    }

    #[test]
    fn a_plist_id_depends_on_the_content_alone() {
        let plist = PolicyList::default();
        assert_eq!(plist_id(&plist), plist_id(&plist.clone()));
        let other = PolicyList { tiers: vec![PolicyTier::default()] };
        assert_ne!(plist_id(&plist), plist_id(&other));
        assert_eq!(plist_id(&plist).len(), 22);
    }
}
