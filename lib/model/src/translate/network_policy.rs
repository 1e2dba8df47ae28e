//! `NetworkPolicy` of `networking.k8s.io/v1`.

use serde_json::{Value, json};

use super::{
    decode::Whole,
    kubernetes::{
        IpBlock, LabelSelector, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort,
        NetworkPolicySpec,
    },
    metadata,
    report::Report,
    rule::{self, Action, Peer, Port, Ports, Protocols},
    selector::{self, Selection},
};
use crate::{kinds::Direction, validate::is_port_name};

/// The protocols that an API server takes.
const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];

/// What follows from a fault in the policy's own selector.
const NO_RULES: &str = "the condition is left out, and the policy is without its rules";
/// What follows from a fault in a peer.
const NO_PEER: &str = "the peer is left out";
/// What follows from a fault in a port.
const NO_RULE: &str = "the rule is left out";

/// The policy in the tier `default`.
///
/// What can't be translated costs the Allow that has it: a peer, a rule, or, where the policy's own
/// selector is at fault, every rule. The policy still isolates what it selects.
pub(super) fn translate(policy: &NetworkPolicy, report: &mut Report) -> Option<Value> {
    let spec = &policy.spec;
    let mut object =
        metadata::object("NetworkPolicy", &policy.metadata.name, &policy.metadata.namespace);
    metadata::keep(&policy.metadata, &mut object, report)?;
    let spec = report.at("spec", |report| {
        let Whole { value: selector, unknown } = &spec.pod_selector;
        let subject = report.with_consequence(NO_RULES, |report| {
            report.at("podSelector", |report| {
                let mut subject = selector::pods(selector, report);
                subject.is_whole &= report.knows_all(unknown);
                subject
            })
        });
        let types = types(policy, report);
        let mut translated = json!({
            "tier": "default",
            "order": 1000,
            "selector": subject.text,
            "types": types,
        });
        for direction in [Direction::Ingress, Direction::Egress] {
            let (field, _) = rule::fields(direction);
            let rules = rules(direction, policy, &subject, report);
            if !rules.is_empty() {
                translated[field] = Value::Array(rules);
            }
        }
        translated
    });
    object.insert("spec".to_owned(), spec);
    Some(Value::Object(object))
}

/// The types that are written, Ingress first. If none is, Ingress, and with egress rules Egress
/// too: so the Kubernetes API defines it.
fn types(policy: &NetworkPolicy, report: &mut Report) -> Vec<&'static str> {
    let types = &policy.spec.policy_types;
    report.at("policyTypes", |report| {
        for (index, name) in types.iter().enumerate() {
            if name != "Ingress" && name != "Egress" {
                let reason = "must be Ingress or Egress";
                report.with_consequence("it is ignored", |report| {
                    report.at(index, |report| report.fault(name.as_str(), reason));
                });
            }
        }
    });
    let mut found: Vec<_> =
        ["Ingress", "Egress"].into_iter().filter(|name| types.iter().any(|t| t == name)).collect();
    if found.is_empty() {
        found.push("Ingress");
        if !policy.spec.egress.is_empty() {
            found.push("Egress");
        }
    }
    found
}

fn rules(
    direction: Direction,
    policy: &NetworkPolicy,
    subject: &Selection,
    report: &mut Report,
) -> Vec<Value> {
    let (field, side) = rule::fields(direction);
    let NetworkPolicySpec { ingress, egress, .. } = &policy.spec;
    let rules = match direction {
        Direction::Ingress => {
            let parts = ingress.iter().map(|it| (&it.value.from, &it.value.ports, &it.unknown));
            parts.collect::<Vec<_>>()
        }
        Direction::Egress => {
            egress.iter().map(|it| (&it.value.to, &it.value.ports, &it.unknown)).collect()
        }
    };
    let rules = rules.into_iter().enumerate();
    let translated = report.at(field, |report| {
        let translated = rules.map(|(index, (peers, ports, unknown))| {
            report.at(index, |report| {
                let is_known = report.with_consequence(NO_RULE, |report| report.knows_all(unknown));
                let peers = report.at(side, |report| all_peers(peers, report));
                let protocols = report.at("ports", |report| protocols(ports, report));
                let protocols = protocols?;
                let matches = (&*peers, &protocols);
                let is_whole = subject.is_whole && is_known;
                Some(rule::rules(direction, Action::Allow, "", matches, is_whole))
            })
        });
        translated.flatten().collect::<Vec<_>>()
    });
    translated.concat()
}

/// No peers are everyone.
fn all_peers(peers: &[NetworkPolicyPeer], report: &mut Report) -> Vec<Peer> {
    if peers.is_empty() {
        return vec![Peer::any()];
    }
    let peers = peers.iter().enumerate();
    report.with_consequence(NO_PEER, |report| {
        peers.map(|(index, it)| report.at(index, |report| peer(it, report))).collect()
    })
}

/// An `ipBlock` stands alone: the API allows no selectors beside it.
fn peer(peer: &NetworkPolicyPeer, report: &mut Report) -> Peer {
    let has_selectors = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
    match (&peer.ip_block, has_selectors) {
        (Some(_), true) => report.refuse(Value::Null, "must have no selectors beside ipBlock"),
        (None, false) => {
            report.refuse(Value::Null, "must have podSelector, namespaceSelector or ipBlock");
        }
        _ => {}
    }
    if let Some(block) = &peer.ip_block {
        return report.at("ipBlock", |report| ip_block(block, report));
    }
    let every_pod = LabelSelector::default();
    let pods = peer.pod_selector.as_ref().unwrap_or(&every_pod);
    Peer {
        selector: report.at("podSelector", |report| selector::pods(pods, report)),
        namespace_selector: peer.namespace_selector.as_ref().map_or_else(
            Selection::none,
            |selector| {
                report.at("namespaceSelector", |report| selector::namespaces(selector, report))
            },
        ),
        ..Peer::any()
    }
}

fn ip_block(block: &IpBlock, report: &mut Report) -> Peer {
    let net = report.at("cidr", |report| rule::cidr(&block.cidr, report));
    let mut except = Vec::with_capacity(block.except.len());
    report.at("except", |report| {
        for (index, text) in block.except.iter().enumerate() {
            except.push(report.at(index, |report| {
                let inner = rule::cidr(text, report);
                if let (Some(inner), Some(net)) = (inner, net)
                    && (inner == net || !net.contains(&inner))
                {
                    report.refuse(text.as_str(), format!("must be a part of {net}"));
                }
                inner
            }));
        }
    });
    Peer {
        is_whole: net.is_some() && except.iter().all(Option::is_some),
        nets: net.into_iter().collect(),
        not_nets: except.into_iter().flatten().collect(),
        ..Peer::any()
    }
}

/// The ports by protocol; none: one of them is none, and so the rule can't stay.
fn protocols(ports: &[NetworkPolicyPort], report: &mut Report) -> Option<Protocols> {
    if ports.is_empty() {
        return Some(Protocols::any());
    }
    let mut protocols = Protocols::default();
    let mut is_whole = true;
    report.with_consequence(NO_RULE, |report| {
        for (index, it) in ports.iter().enumerate() {
            let protocol = rule::protocol_name(it.protocol.as_deref().unwrap_or("TCP"));
            match report.at(index, |report| port(it, report)) {
                Some(ports) => protocols.add(protocol, ports),
                None => is_whole = false,
            }
        }
    });
    is_whole.then_some(protocols)
}

/// No port is every port, and an `endPort` needs one.
fn port(port: &NetworkPolicyPort, report: &mut Report) -> Option<Ports> {
    if let Some(name) = port.protocol.as_deref().filter(|name| !PROTOCOLS.contains(name)) {
        let reason = format!("must be one of {}", PROTOCOLS.join(", "));
        report.at("protocol", |report| report.refuse(name, reason));
    }
    let Some(first) = &port.port else {
        if let Some(last) = port.end_port {
            report.at("endPort", |report| report.refuse(last, "must come with port"));
        }
        return Some(Ports::All);
    };
    report.at("port", |report| match first.text.parse::<i32>() {
        Ok(number) if first.is_number && number > 0 => {}
        Ok(number) if first.is_number => report.refuse(number, "must be from 1 to 65535"),
        _ if is_port_name(&first.text) => {}
        _ => {
            let reason = "a name must have at most 15 of a-z, 0-9 and -, and a letter; a number is without quotes";
            report.refuse(first.text.as_str(), reason);
        }
    });
    let text = match port.end_port {
        None => first.text.clone(),
        Some(last) => format!("{}:{last}", first.text),
    };
    match Port::parse(&text) {
        Ok(port) => Some(Ports::Some(vec![port])),
        Err(reason) => {
            report.at("port", |report| report.fault(text, reason));
            None
        }
    }
}
