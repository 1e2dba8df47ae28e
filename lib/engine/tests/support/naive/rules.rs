//! Rules with the ids of their IP sets, and what they become when something can't be expressed.

use std::collections::BTreeMap;

use arcstr::ArcStr;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use model::view::{Action, Peer, PortRange, Protocol, Rule};
use sha2::{Digest as _, Sha224};

use super::{
    super::objects::{Port, RuleOf, Sel, Side},
    NAMESPACE, net,
    tree::Tree,
};

fn hashed(prefix: &str, content: &str) -> String {
    let hash = Sha224::digest(format!("{prefix}:{content}"));
    format!("{prefix}:{}", URL_SAFE_NO_PAD.encode(hash))
}

/// What an IP set is: a selector, and a port's protocol and name.
#[derive(Clone, Debug)]
pub(super) struct SetOf {
    pub(super) tree: Tree,
    pub(super) port: Option<(Option<u8>, &'static str)>,
}

impl SetOf {
    fn id(&self) -> String {
        let selector = hashed("s", &self.tree.text());
        match &self.port {
            None => selector,
            Some((protocol, name)) => {
                let protocol = match protocol {
                    None => "any",
                    Some(6) => "tcp",
                    Some(17) => "udp",
                    other => panic!("{other:?}"),
                };
                hashed("n", &format!("{selector},{protocol},{name}"))
            }
        }
    }
}

pub(super) type SetsById = BTreeMap<String, SetOf>;

/// None: the rule matches nothing.
pub(super) fn rule(namespace: Option<&str>, rule: &RuleOf, sets: &mut SetsById) -> Option<Rule> {
    let action = match rule.action {
        "Allow" => Action::Allow,
        "Log" => Action::Log,
        "Pass" => Action::Pass,
        _ => Action::Deny,
    };
    let denies = action == Action::Deny;
    let protocol = match rule.protocol {
        Some("TCP") => Some(6),
        Some("UDP") => Some(17),
        Some("47") => Some(47),
        _ => None,
    };
    if (rule.http || rule.protocol == Some("FOO")) && !denies {
        return None;
    }
    let mut needed = SetsById::new();
    let source = peer(namespace, denies, protocol, &rule.source, &mut needed)?;
    let destination = peer(namespace, denies, protocol, &rule.destination, &mut needed)?;
    sets.extend(needed);
    let protocol = protocol.map(Protocol);
    Some(Rule { action, protocol, source, destination, ..Rule::default() })
}

/// None: no packet is like that.
fn peer(
    namespace: Option<&str>,
    denies: bool,
    protocol: Option<u8>,
    side: &Side,
    sets: &mut SetsById,
) -> Option<Peer> {
    let fits = |port: &Port| match port {
        Port::Bad => false,
        Port::Named(_) => protocol != Some(47),
        Port::Number(_) | Port::Range(..) => matches!(protocol, Some(6 | 17)),
    };
    let nets = positive(&side.nets, Option::is_some, denies)?;
    let not_nets = negative(&side.not_nets, Option::is_some, denies)?;
    let ports = positive(&side.ports, fits, denies)?;
    let not_ports = negative(&side.not_ports, fits, denies)?;
    if side.service && !denies {
        return None;
    }
    let bad = |sel: &Option<Sel>| sel.as_ref().is_some_and(Sel::is_bad);
    let bad_positive = bad(&side.selector) || bad(&side.namespace_selector);
    let bad_negative = bad(&side.not_selector);
    if (bad_positive || bad_negative) && !denies {
        return None;
    }
    let accounts = (!side.service_accounts.is_empty()).then(|| {
        let names = side.service_accounts.iter().map(|name| (*name).to_owned()).collect();
        Tree::In("projectcalico.org/serviceaccount".to_owned(), names)
    });
    let mut include = None;
    if !bad_positive {
        let own = side.selector.as_ref().map(|sel| Tree::of(sel, ""));
        let own = join(accounts, own);
        let written =
            own.is_some() || side.not_selector.is_some() || side.namespace_selector.is_some();
        let there = match (&side.namespace_selector, namespace) {
            (Some(sel), _) => Some(Tree::of(sel, "pcns.").namespaced()),
            (None, Some(namespace)) => Some(Tree::Eq(NAMESPACE.to_owned(), namespace.to_owned())),
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
                Port::Range(first, last) => ranges.push(PortRange { first: *first, last: *last }),
                Port::Named(name) => {
                    let port = Some((protocol, *name));
                    add(names, SetOf { tree: whose.clone(), port });
                }
                Port::Bad => unreachable!(),
            }
        }
    }
    let only_names = peer.ports.is_empty() && !peer.port_sets.is_empty();
    if let Some(tree) = include.filter(|_| !only_names) {
        add(&mut peer.sets, SetOf { tree, port: None });
    }
    if let Some(tree) = exclude {
        add(&mut peer.not_sets, SetOf { tree, port: None });
    }
    Some(peer)
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
