//! `ClusterNetworkPolicy` of `policy.networking.k8s.io/v1alpha2`.

use serde_json::{Value, json};

use super::{
    decode::Whole,
    kubernetes::{
        ClusterNetworkPolicy, ClusterPeer, ClusterPort, ClusterProtocol, ClusterRule,
        LabelSelector, Subject,
    },
    metadata,
    report::Report,
    rule::{self, Action, Peer, Port, Ports, Protocols},
    selector::{self, Selection},
};
use crate::kinds::Direction;

/// What follows from a fault in the policy's subject.
const LOST: &str = "the policy denies without this condition, and accepts nothing";

/// What follows from faults of a rule, in words.
struct Consequences {
    /// A condition is lost.
    condition: &'static str,
    /// Nothing of the rule can be kept.
    rule: &'static str,
}

fn consequences(action: Action) -> Consequences {
    match action {
        Action::Allow => Consequences {
            condition: "what the rule would accept by it is left out",
            rule: "the rule is left out",
        },
        Action::Deny => Consequences {
            condition: "the rule denies without this condition",
            rule: "the rule denies everything",
        },
        Action::Pass => Consequences {
            condition: "the rule denies, without this condition, instead of passing",
            rule: "the rule denies everything",
        },
    }
}

/// The policy in the tier of its own; none: the tier or the subject is unknown, and so its place.
pub(super) fn translate(policy: &ClusterNetworkPolicy, report: &mut Report) -> Option<Value> {
    let spec = &policy.spec;
    let mut object = metadata::object("GlobalNetworkPolicy", &policy.metadata.name, "");
    metadata::keep(&policy.metadata, &mut object, report)?;
    let spec = report.at("spec", |report| {
        let tier = tier(&spec.tier, report)?;
        let (pods, namespaces) =
            report.at("subject", |report| subject(&spec.subject.value, report))?;
        let is_known = report.with_consequence(LOST, |report| {
            report.at("subject", |report| report.knows_all(&spec.subject.unknown))
        });
        let is_whole = pods.is_whole && namespaces.is_whole && is_known;
        let mut translated = json!({
            "tier": tier,
            "order": spec.priority,
            "selector": pods.text,
        });
        if !namespaces.text.is_empty() {
            translated["namespaceSelector"] = json!(namespaces.text);
        }
        let mut types = Vec::new();
        for (name, direction) in [("Ingress", Direction::Ingress), ("Egress", Direction::Egress)] {
            let (field, _) = rule::fields(direction);
            let rules = rules(direction, policy, is_whole, report);
            if !rules.is_empty() {
                types.push(name);
                translated[field] = Value::Array(rules);
            }
        }
        if !types.is_empty() {
            translated["types"] = json!(types);
        }
        Some(translated)
    })?;
    object.insert("spec".to_owned(), spec);
    Some(Value::Object(object))
}

fn tier(name: &str, report: &mut Report) -> Option<&'static str> {
    match name {
        "Admin" => Some("kube-admin"),
        "Baseline" => Some("kube-baseline"),
        other => {
            let reason = "must be Admin or Baseline; the policy is left out";
            report.at("tier", |report| report.fault(other, reason));
            None
        }
    }
}

/// Which pods, by their labels and by those of their namespaces. `namespaces` comes first.
fn subject(subject: &Subject, report: &mut Report) -> Option<(Selection, Selection)> {
    report.with_consequence(LOST, |report| match (&subject.namespaces, &subject.pods) {
        (Some(namespaces), _) => {
            let pods = selector::pods(&LabelSelector::default(), report);
            let namespaces =
                report.at("namespaces", |report| selector::namespaces(namespaces, report));
            Some((pods, namespaces))
        }
        (None, Some(pods)) => Some(report.at("pods", |report| selector::namespaced(pods, report))),
        (None, None) => {
            report.with_consequence("the policy is left out", |report| {
                report.fault(Value::Null, "must have namespaces or pods");
            });
            None
        }
    })
}

fn rules(
    direction: Direction,
    policy: &ClusterNetworkPolicy,
    is_whole: bool,
    report: &mut Report,
) -> Vec<Value> {
    let (field, _) = rule::fields(direction);
    let rules = match direction {
        Direction::Ingress => &policy.spec.ingress,
        Direction::Egress => &policy.spec.egress,
    };
    let rules = rules.iter().enumerate();
    let translated = report.at(field, |report| {
        let translated = rules.map(|(index, rule)| {
            report.at(index, |report| one_rule(direction, rule, is_whole, report))
        });
        translated.collect::<Vec<_>>()
    });
    translated.concat()
}

fn one_rule(
    direction: Direction,
    Whole { value: rule, unknown }: &Whole<ClusterRule>,
    is_whole: bool,
    report: &mut Report,
) -> Vec<Value> {
    let action = match rule.action.as_str() {
        "Accept" => Action::Allow,
        "Deny" => Action::Deny,
        "Pass" => Action::Pass,
        other => {
            let reason = "must be Accept, Deny or Pass; the rule is left out";
            report.at("action", |report| report.fault(other, reason));
            return Vec::new();
        }
    };
    let so = consequences(action);
    let (is_known, peers, protocols) = report.with_consequence(so.condition, |report| {
        let is_known = report.knows_all(unknown);
        let peers = peers(direction, rule, &so, report);
        let protocols = report.at("protocols", |report| protocols(&rule.protocols, &so, report));
        (is_known, peers, protocols)
    });
    if let Some((peers, protocols)) = peers.zip(protocols) {
        let is_whole = is_whole && is_known;
        return rule::rules(direction, action, &rule.name, (&peers, &protocols), is_whole);
    }
    // The same as for a rule that lost every condition.
    action.when(false).into_iter().map(rule::bare).collect()
}

/// None: one of them can't be kept, nor can the rule.
fn peers(
    direction: Direction,
    rule: &ClusterRule,
    so: &Consequences,
    report: &mut Report,
) -> Option<Vec<Peer>> {
    let (_, field) = rule::fields(direction);
    let peers = match direction {
        Direction::Ingress => &rule.from,
        Direction::Egress => &rule.to,
    };
    report.at(field, |report| {
        if peers.is_empty() {
            report.with_consequence("the rule is left out", |report| {
                report.fault(Value::Null, "must list a peer");
            });
        }
        let peers = peers
            .iter()
            .enumerate()
            .map(|(index, it)| report.at(index, |report| peer(direction, it, so, report)));
        // Each of them is read, so that every fault is named.
        peers.collect::<Vec<_>>().into_iter().collect()
    })
}

fn peer(
    direction: Direction,
    peer: &ClusterPeer,
    so: &Consequences,
    report: &mut Report,
) -> Option<Peer> {
    let nets: &[String] = match direction {
        Direction::Ingress => &[],
        Direction::Egress => &peer.networks,
    };
    let is_supported = peer.namespaces.is_some() || peer.pods.is_some() || !nets.is_empty();
    if !is_supported {
        let reason = match direction {
            Direction::Ingress => "must have namespaces or pods",
            Direction::Egress => "must have namespaces, pods or networks",
        };
        report.with_consequence(so.rule, |report| report.fault(Value::Null, reason));
        return None;
    }
    let ignored = [
        ("nodes", peer.nodes.0),
        ("domainNames", peer.domain_names.0),
        ("networks", direction == Direction::Ingress && !peer.networks.is_empty()),
    ];
    let ignored: Vec<_> = ignored.into_iter().filter(|it| it.1).map(|it| it.0).collect();
    for field in &ignored {
        let reason = "can't be translated; give it a rule of its own or leave it out";
        report.at(*field, |report| report.fault(Value::Null, reason));
    }
    let (selector, namespace_selector) = match (&peer.pods, &peer.namespaces) {
        (Some(pods), _) => report.at("pods", |report| selector::namespaced(pods, report)),
        (None, Some(namespaces)) => {
            let namespaces =
                report.at("namespaces", |report| selector::namespaces(namespaces, report));
            (Selection::none(), namespaces)
        }
        (None, None) => (Selection::none(), Selection::none()),
    };
    let nets = report.with_consequence(so.rule, |report| {
        report.at("networks", |report| {
            let nets = nets.iter().enumerate();
            let nets = nets.map(|(index, net)| report.at(index, |report| rule::cidr(net, report)));
            nets.collect::<Vec<_>>()
        })
    });
    Some(Peer {
        selector,
        namespace_selector,
        nets: nets.into_iter().collect::<Option<_>>()?,
        not_nets: Vec::new(),
        is_whole: ignored.is_empty(),
    })
}

/// None: one of them can't be kept, nor can the rule.
fn protocols(
    protocols: &[ClusterProtocol],
    so: &Consequences,
    report: &mut Report,
) -> Option<Protocols> {
    if protocols.is_empty() {
        return Some(Protocols::any());
    }
    let mut found = Protocols::default();
    let mut is_readable = true;
    for (index, it) in protocols.iter().enumerate() {
        match report.at(index, |report| protocol(it, so, report)) {
            // What is listed behind it adds nothing.
            Some(("", Ports::All)) => return is_readable.then(Protocols::any),
            Some((protocol, ports)) => found.add(protocol.to_owned(), ports),
            None => is_readable = false,
        }
    }
    is_readable.then_some(found)
}

/// Of several, the first in this order; of none, every protocol.
fn protocol(
    protocol: &ClusterProtocol,
    so: &Consequences,
    report: &mut Report,
) -> Option<(&'static str, Ports)> {
    let by_number = [
        ("tcp", "TCP", &protocol.tcp),
        ("udp", "UDP", &protocol.udp),
        ("sctp", "SCTP", &protocol.sctp),
    ];
    for (field, name, ports) in by_number {
        if let Some(ports) = ports {
            let ports = report.at(field, |report| {
                report.at("destinationPort", |report| match &ports.destination_port {
                    None => Some(Ports::All),
                    Some(it) => port(it, so, report),
                })
            });
            return Some((name, ports?));
        }
    }
    let name = protocol.destination_named_port.as_str();
    if name.is_empty() {
        return Some(("", Ports::All));
    }
    // As in Calico, digits are numbers here too; without a protocol, they match nothing that is allowed.
    match Port::parse(name) {
        Ok(port) => Some(("", Ports::Some(vec![port]))),
        Err(reason) => {
            report.with_consequence(so.rule, |report| {
                report.at("destinationNamedPort", |report| report.fault(name, reason));
            });
            None
        }
    }
}

/// A number or a range. One that isn't a port's number is unknown; none: the range is none.
fn port(port: &ClusterPort, so: &Consequences, report: &mut Report) -> Option<Ports> {
    let (field, first, last) = match &port.range {
        Some(range) if port.number == 0 => ("range", range.start, range.end),
        _ => ("number", port.number, port.number),
    };
    let number = |number: i32| u16::try_from(number).ok();
    report.at(field, |report| match number(first).zip(number(last)) {
        Some((0, _)) if field == "number" => {
            report.fault(first, "must be from 1 to 65535");
            Some(Ports::Unknown)
        }
        Some((first, last)) => match Port::range(first, last) {
            Ok(port) => Some(Ports::Some(vec![port])),
            Err(reason) => {
                let range = format!("{first}:{last}");
                report.with_consequence(so.rule, |report| report.fault(range, reason));
                None
            }
        },
        None => {
            let value = if first == last { json!(first) } else { json!(format!("{first}:{last}")) };
            report.fault(value, "must be from 1 to 65535");
            Some(Ports::Unknown)
        }
    })
}
