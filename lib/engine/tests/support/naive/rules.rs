//! Rules with the ids of their IP sets, and what they become when something can't be expressed.

use std::collections::BTreeMap;

use arcstr::ArcStr;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use model::view::{Action, Icmp, Peer, PortRange, Protocol, Rule};
use sha2::{Digest as _, Sha224};

use super::{
    super::objects::{IcmpOf, Port, RuleOf, Sel, Side},
    ACCOUNT, NAMESPACE, net,
    tree::Tree,
};

fn hashed(prefix: &str, content: &str) -> String {
    let hash = Sha224::digest(format!("{prefix}:{content}"));
    format!("{prefix}:{}", URL_SAFE_NO_PAD.encode(hash))
}

/// What an IP set is.
#[derive(Clone, Debug)]
pub(super) struct SetOf {
    pub(super) holds: Holds,
}

/// What an IP set has in it.
#[derive(Clone, Debug)]
pub(super) enum Holds {
    Addresses(Tree),
    /// Whose ports, of which protocol, of which name.
    Port(Tree, Option<u8>, &'static str),
    /// The backends of a service: namespace and name, and whether with ports.
    Service {
        of: (String, String),
        ports: bool,
    },
}

impl SetOf {
    fn id(&self) -> String {
        match &self.holds {
            Holds::Addresses(tree) => hashed("s", &tree.text()),
            Holds::Port(tree, protocol, name) => {
                let protocol = match protocol {
                    None => "any",
                    Some(6) => "tcp",
                    Some(17) => "udp",
                    other => panic!("{other:?}"),
                };
                hashed("n", &format!("{},{protocol},{name}", hashed("s", &tree.text())))
            }
            Holds::Service { of: (namespace, name), ports } => {
                let prefix = if *ports { "svc" } else { "svcnoport" };
                hashed(prefix, &format!("{namespace}/{name}"))
            }
        }
    }
}

pub(super) type SetsById = BTreeMap<String, SetOf>;

/// Whether a rule has a condition that can't be kept.
pub(super) fn is_unknown(rule: &RuleOf) -> bool {
    let code_alone = |icmp: IcmpOf| matches!(icmp, (None, Some(_)));
    rule.http
        || rule.protocol == Some("FOO")
        || rule.not_protocol == Some("FOO")
        || rule.version == Some(5)
        || code_alone(rule.icmp)
        || code_alone(rule.not_icmp)
}

/// None: the rule matches nothing.
pub(super) fn rule(
    namespace: Option<&str>,
    services: bool,
    rule: &RuleOf,
    sets: &mut SetsById,
) -> Option<Rule> {
    let action = match rule.action {
        "Allow" => Action::Allow,
        "Log" => Action::Log,
        "Pass" => Action::Pass,
        _ => Action::Deny,
    };
    let denies = action == Action::Deny;
    let number = |protocol: Option<&str>| match protocol {
        Some("ICMP") => Some(1),
        Some("TCP") => Some(6),
        Some("UDP") => Some(17),
        Some("47") => Some(47),
        Some("ICMPv6") => Some(58),
        Some("UDPLite") => Some(136),
        _ => None,
    };
    let protocol = number(rule.protocol);
    if is_unknown(rule) && !denies {
        return None;
    }
    let mut needed = SetsById::new();
    let scope = Scope { namespace, services, denies, protocol };
    let source = scope.peer(&rule.source, false, &mut needed)?;
    let destination = scope.peer(&rule.destination, true, &mut needed)?;
    let icmp = |(kind, code): IcmpOf| kind.map(|kind| Icmp { kind, code });
    let (mut not_icmp, icmp) = (icmp(rule.not_icmp), icmp(rule.icmp));
    if !matches!(protocol, None | Some(1 | 58)) {
        // Only packets of ICMP have a type of it.
        if icmp.is_some() {
            return None;
        }
        not_icmp = None;
    }
    sets.extend(needed);
    let of_protocol = match protocol {
        Some(1) => Some(4),
        Some(58) => Some(6),
        _ => None,
    };
    Some(Rule {
        action,
        ip_version: rule.version.filter(|version| *version != 5).or(of_protocol),
        protocol: protocol.map(Protocol),
        not_protocol: number(rule.not_protocol).map(Protocol),
        icmp,
        not_icmp,
        source,
        destination,
    })
}

/// Where a rule stands, and what of it counts for its sides.
#[derive(Clone, Copy)]
struct Scope<'n> {
    namespace: Option<&'n str>,
    services: bool,
    denies: bool,
    protocol: Option<u8>,
}

impl Scope<'_> {
    /// None: no packet is like that.
    fn peer(self, side: &Side, to: bool, sets: &mut SetsById) -> Option<Peer> {
        let Scope { namespace, services, denies, protocol } = self;
        let fits = |port: &Port| match port {
            Port::Bad => false,
            Port::Named(_) => matches!(protocol, None | Some(6 | 17)),
            Port::Number(_) | Port::Range(..) => matches!(protocol, Some(6 | 17)),
        };
        let nets = positive(&side.nets, Option::is_some, denies)?;
        let not_nets = negative(&side.not_nets, Option::is_some, denies)?;
        let ports = positive(&side.ports, fits, denies)?;
        let not_ports = negative(&side.not_ports, fits, denies)?;
        if side.service.is_some() && !services && !denies {
            return None;
        }
        let bad = |sel: &Option<Sel>| sel.as_ref().is_some_and(Sel::is_bad);
        let bad_positive =
            bad(&side.selector) || bad(&side.namespace_selector) || bad(&side.account_selector);
        let bad_negative = bad(&side.not_selector);
        if (bad_positive || bad_negative) && !denies {
            return None;
        }
        let accounts = (!side.service_accounts.is_empty()).then(|| {
            let names = side.service_accounts.iter().map(|name| (*name).to_owned()).collect();
            Tree::In(ACCOUNT.to_owned(), names)
        });
        let mut include = None;
        if !bad_positive {
            let labels = side.account_selector.as_ref().map(|sel| Tree::of(sel, "pcsa."));
            let own = side.selector.as_ref().map(|sel| Tree::of(sel, ""));
            let own = join(join(labels, accounts), own);
            let written =
                own.is_some() || side.not_selector.is_some() || side.namespace_selector.is_some();
            let there = match (&side.namespace_selector, namespace) {
                (Some(sel), _) => Some(Tree::of(sel, "pcns.").existing(NAMESPACE).outside()),
                (None, Some(namespace)) => {
                    Some(Tree::Eq(NAMESPACE.to_owned(), namespace.to_owned()))
                }
                (None, None) => None,
            };
            include = join(there, own).filter(|_| written);
        }
        let mut exclude = None;
        if !bad_negative {
            exclude = side.not_selector.as_ref().map(|sel| Tree::of(sel, ""));
        }
        if let (Some(yes), Some(no)) = (include.clone(), exclude.clone()) {
            include = Some(yes.and(no.not()));
            exclude = None;
        }

        let mut peer = Peer {
            nets: nets.iter().map(|text| net(text.unwrap())).collect(),
            not_nets: not_nets.iter().map(|text| net(text.unwrap())).collect(),
            ..Peer::default()
        };
        let whose = include.clone().unwrap_or(Tree::All);
        let mut add = |list: &mut Vec<ArcStr>, set: SetOf| {
            let id = set.id();
            if !list.iter().any(|known| **known == *id) {
                list.push(id.as_str().into());
            }
            sets.insert(id, set);
        };
        for (list, ranges, names) in [
            (&ports, &mut peer.ports, &mut peer.port_sets),
            (&not_ports, &mut peer.not_ports, &mut peer.not_port_sets),
        ] {
            for port in list {
                match port {
                    Port::Number(port) => ranges.push(PortRange { first: *port, last: *port }),
                    Port::Range(first, last) => {
                        ranges.push(PortRange { first: *first, last: *last });
                    }
                    Port::Named(name) => {
                        let holds = Holds::Port(whose.clone(), protocol, name);
                        add(names, SetOf { holds });
                    }
                    Port::Bad => unreachable!(),
                }
            }
        }
        let only_names = peer.ports.is_empty() && !peer.port_sets.is_empty();
        if let Some(tree) = include.filter(|_| !only_names) {
            add(&mut peer.sets, SetOf { holds: Holds::Addresses(tree) });
        }
        if let Some(tree) = exclude {
            add(&mut peer.not_sets, SetOf { holds: Holds::Addresses(tree) });
        }
        if let Some(of) = side.service.filter(|_| services) {
            let of = (of.to_owned(), "s".to_owned());
            add(&mut peer.service_sets, SetOf { holds: Holds::Service { of, ports: to } });
        }
        Some(peer)
    }
}

fn join(a: Option<Tree>, b: Option<Tree>) -> Option<Tree> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.and(b)),
        (a, b) => a.or(b),
    }
}

/// One of these. What allows may do with fewer, but not with none; what denies takes all or nothing.
fn positive<T: Clone>(list: &[T], good: impl Fn(&T) -> bool, denies: bool) -> Option<Vec<T>> {
    let kept = list.iter().filter(|item| good(item)).cloned().collect::<Vec<_>>();
    if kept.len() == list.len() {
        return Some(kept);
    }
    if denies { Some(Vec::new()) } else { (!kept.is_empty()).then_some(kept) }
}

/// None of these. What denies may do with fewer.
fn negative<T: Clone>(list: &[T], good: impl Fn(&T) -> bool, denies: bool) -> Option<Vec<T>> {
    let kept = list.iter().filter(|item| good(item)).cloned().collect::<Vec<_>>();
    (denies || kept.len() == list.len()).then_some(kept)
}
