//! One rule of a view as rules of nftables.
//!
//! A rule is a conjunction; some of its conditions are "one of several" (an IP set is two kernel
//! sets; ports or named ports). One such condition becomes one nftables rule per alternative. Of
//! several, the first is expanded in place and goes on in a branch chain that expands the next, so
//! that the size is their sum and not their product:
//!
//! ```text
//! conditions, alternative 1  jump H1        H1: alternative 1  goto H2      H2: alternative 1  action
//! conditions, alternative 2  jump H1            alternative 2  goto H2          alternative 2  action
//! ```

use arcstr::ArcStr;
use ipnet::IpNet;
use model::view::{Action as RuleAction, Peer, PortRange, Protocol, Rule as ViewRule};

use crate::{
    family::Family,
    nft::{Action, Addresses, Match, Rule, Side, Verdict},
    settings::{Config, Deny},
};

/// The protocols that have ports: TCP, UDP, SCTP. Others never match, and never fail to match `not`.
const WITH_PORTS: [u8; 3] = [6, 17, 132];

/// The kernel sets that hold an IP set in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SetNames {
    /// Hosts, and the networks if there are any.
    Nets { hosts: ArcStr, nets: Option<ArcStr> },
    /// Addresses with ports.
    AddressPorts(ArcStr),
}

/// What rendering needs to know besides the rule.
pub(crate) struct Context<'a> {
    pub(crate) family: Family,
    pub(crate) config: &'a Config,
    /// The kernel sets of an IP set by its id; none: no such set, which fits nobody.
    pub(crate) sets: &'a dyn Fn(&str) -> Option<SetNames>,
    /// Whether no set has a member of this family: rules that ask to be in one are left out. With
    /// one family in use, as in most clusters, this halves the work.
    pub(crate) idle: bool,
}

/// The chains that a list of rules becomes: the first, and its branches.
pub(crate) type Chains = Vec<(ArcStr, Vec<Rule>)>;

/// Renders rules into a chain of this name.
pub(crate) fn render(cx: &Context<'_>, name: &ArcStr, rules: &[ViewRule]) -> Chains {
    let mut main = Vec::new();
    let mut branches = Chains::new();
    for (index, rule) in rules.iter().enumerate() {
        if let Some(conditions) = conditions(cx, rule) {
            emit(cx, rule.action, conditions, &format!("{name}-{index}"), &mut main, &mut branches);
        }
    }
    let mut chains = vec![(name.clone(), main)];
    chains.append(&mut branches);
    chains
}

/// A conjunction, each part of `any` being "one of these".
#[derive(Default)]
struct Conditions {
    all: Vec<Match>,
    any: Vec<Vec<Match>>,
    /// A condition of the rule is missing here, because it can't be expressed.
    incomplete: bool,
}

fn emit(
    cx: &Context<'_>,
    action: RuleAction,
    conditions: Conditions,
    branch: &str,
    main: &mut Vec<Rule>,
    branches: &mut Chains,
) {
    let Conditions { all, mut any, .. } = conditions;
    let last = any.pop();
    let end = |matches: Vec<Match>, actions: &[Action], alternatives: Option<&Vec<Match>>| {
        let rule = |extra: Option<&Match>| Rule {
            matches: matches.iter().chain(extra).cloned().collect(),
            actions: actions.to_vec(),
        };
        match alternatives {
            None => vec![rule(None)],
            Some(alternatives) => alternatives.iter().map(|one| rule(Some(one))).collect(),
        }
    };
    let final_actions = actions(cx, action);
    if any.is_empty() {
        main.extend(end(all, &final_actions, last.as_ref()));
        return;
    }
    let chain = |n: usize| ArcStr::from(format!("{branch}-{n}"));
    for (n, alternatives) in any.iter().enumerate() {
        let next = chain(n + 1);
        if n == 0 {
            let jump = [Action::Verdict(Verdict::Jump(next))];
            main.extend(end(all.clone(), &jump, Some(alternatives)));
        } else {
            let goto = [Action::Verdict(Verdict::Goto(next))];
            branches.push((chain(n), end(Vec::new(), &goto, Some(alternatives))));
        }
    }
    branches.push((chain(any.len()), end(Vec::new(), &final_actions, last.as_ref())));
    if matches!(action, RuleAction::Allow | RuleAction::Pass) {
        // A branch's return leads back here, not out of the policy.
        main.push(Rule {
            matches: vec![Match::Mark { bits: cx.config.marks.both(), not: false }],
            actions: vec![Action::Verdict(Verdict::Return)],
        });
    }
}

fn actions(cx: &Context<'_>, action: RuleAction) -> Vec<Action> {
    /// Logging must not become the load that an attacker wants.
    const LOGS_PER_SECOND: u32 = 100;
    let marks = cx.config.marks;
    match action {
        RuleAction::Allow => {
            vec![Action::SetMark(marks.accept), Action::Verdict(Verdict::Return)]
        }
        RuleAction::Pass => vec![Action::SetMark(marks.pass), Action::Verdict(Verdict::Return)],
        RuleAction::Deny => vec![Action::Verdict(deny(cx.config))],
        RuleAction::Log => vec![
            Action::Limit { per_second: LOGS_PER_SECOND },
            Action::Log { prefix: cx.config.log_prefix.clone() },
        ],
    }
}

/// The verdict for what policy denies.
pub(crate) fn deny(config: &Config) -> Verdict {
    match config.deny {
        Deny::Drop => Verdict::Drop,
        Deny::Reject => Verdict::Reject,
    }
}

/// The rule's conditions in this family; none: no packet of this family can match, or what can't be
/// expressed would widen the rule. A deny may be widened.
fn conditions(cx: &Context<'_>, rule: &ViewRule) -> Option<Conditions> {
    if rule.ip_version.is_some_and(|version| version != cx.family.version()) {
        return None;
    }
    let mut out = Conditions::default();
    if let Some(Protocol(number)) = rule.protocol {
        out.all.push(Match::Protocol { numbers: vec![number], not: false });
    }
    if let Some(Protocol(number)) = rule.not_protocol {
        out.all.push(Match::Protocol { numbers: vec![number], not: true });
    }
    let transport = transport(cx, rule);
    icmp(cx, rule, transport, &mut out)?;
    peer(cx, Side::Source, &rule.source, transport, &mut out)?;
    peer(cx, Side::Destination, &rule.destination, transport, &mut out)?;
    (rule.action == RuleAction::Deny || !out.incomplete).then_some(out)
}

/// What is known of the packets that a rule can match: whether they have ports, whether they are
/// ICMP. nft refuses a rule that asks for an ICMP type and a port.
#[derive(Clone, Copy)]
struct Transport {
    ports: Option<bool>,
    icmp: Option<bool>,
}

fn transport(cx: &Context<'_>, rule: &ViewRule) -> Transport {
    let asks_ports = |peer: &Peer| {
        let known = |id: &ArcStr| matches!((cx.sets)(id), Some(SetNames::AddressPorts(_)));
        !peer.ports.is_empty() || !peer.port_sets.is_empty() || peer.service_sets.iter().any(known)
    };
    match rule.protocol {
        Some(Protocol(number)) => Transport {
            ports: Some(WITH_PORTS.contains(&number)),
            icmp: Some(number == cx.family.icmp()),
        },
        None if rule.icmp.is_some() => Transport { ports: Some(false), icmp: Some(true) },
        None if asks_ports(&rule.source) || asks_ports(&rule.destination) => {
            Transport { ports: Some(true), icmp: Some(false) }
        }
        None => Transport { ports: None, icmp: None },
    }
}

fn icmp(
    cx: &Context<'_>,
    rule: &ViewRule,
    transport: Transport,
    out: &mut Conditions,
) -> Option<()> {
    if let Some(icmp) = rule.icmp {
        if transport.icmp == Some(false) {
            return None;
        }
        out.all.push(Match::IcmpType { kind: icmp.kind, not: false });
        out.all.extend(icmp.code.map(|code| Match::IcmpCode { code, not: false }));
    }
    if let Some(icmp) = rule.not_icmp
        && transport.icmp != Some(false)
    {
        // Not (ICMP and this type and this code): any of the three may be what differs.
        let mut alternatives = vec![Match::IcmpType { kind: icmp.kind, not: true }];
        alternatives.extend(icmp.code.map(|code| Match::IcmpCode { code, not: true }));
        if transport.icmp.is_none() {
            alternatives.push(Match::Protocol { numbers: vec![cx.family.icmp()], not: true });
        }
        out.require(alternatives);
    }
    Some(())
}

fn peer(
    cx: &Context<'_>,
    side: Side,
    peer: &Peer,
    transport: Transport,
    out: &mut Conditions,
) -> Option<()> {
    nets(cx, side, peer, out)?;
    // Where packets come from, a service is its addresses, and has no ports.
    let has_ports = |id: &&ArcStr| matches!((cx.sets)(id), Some(SetNames::AddressPorts(_)));
    let (with_ports, services): (Vec<&ArcStr>, Vec<&ArcStr>) =
        peer.service_sets.iter().partition(has_ports);
    for id in peer.sets.iter().chain(services) {
        let Some(SetNames::Nets { hosts, nets }) = (cx.sets)(id) else {
            out.incomplete = true;
            continue;
        };
        if cx.idle {
            return None;
        }
        let mut alternatives = vec![in_set(side, hosts, false)];
        alternatives.extend(nets.map(|nets| in_set(side, nets, false)));
        out.require(alternatives);
    }
    for id in &peer.not_sets {
        let Some(SetNames::Nets { hosts, nets }) = (cx.sets)(id) else {
            out.incomplete = true;
            continue;
        };
        out.all.push(in_set(side, hosts, true));
        out.all.extend(nets.map(|nets| in_set(side, nets, true)));
    }
    let services = address_ports(cx, side, with_ports, false, out);
    if !services.is_empty() && (cx.idle || transport.ports == Some(false)) {
        return None;
    }
    out.all.extend(services);
    ports(cx, side, peer, transport, out)
}

fn nets(cx: &Context<'_>, side: Side, peer: &Peer, out: &mut Conditions) -> Option<()> {
    let whole = |nets: &[IpNet]| nets.iter().any(|net| net.prefix_len() == 0);
    if !peer.nets.is_empty() {
        let nets = disjoint_nets(cx.family, &peer.nets);
        if nets.is_empty() {
            return None;
        }
        if !whole(&nets) {
            let addresses = Addresses::Nets(nets);
            out.all.push(Match::Address { side, addresses, not: false });
        }
    }
    let nets = disjoint_nets(cx.family, &peer.not_nets);
    if whole(&nets) {
        return None;
    }
    if !nets.is_empty() {
        out.all.push(Match::Address { side, addresses: Addresses::Nets(nets), not: true });
    }
    Some(())
}

fn ports(
    cx: &Context<'_>,
    side: Side,
    peer: &Peer,
    transport: Transport,
    out: &mut Conditions,
) -> Option<()> {
    if !peer.ports.is_empty() || !peer.port_sets.is_empty() {
        if transport.ports == Some(false) {
            return None;
        }
        let with_ports = Match::Protocol { numbers: WITH_PORTS.to_vec(), not: false };
        // A single protocol says so already.
        let said = out.all.iter().any(|c| matches!(c, Match::Protocol { not: false, .. }));
        out.all.extend((!said).then_some(with_ports));
        let mut alternatives = address_ports(cx, side, &peer.port_sets, false, out);
        alternatives.extend(ranges(side, &peer.ports, false, out));
        if !alternatives.is_empty() {
            out.require(alternatives);
        }
    }
    let mut none_of = address_ports(cx, side, &peer.not_port_sets, true, out);
    none_of.extend(ranges(side, &peer.not_ports, true, out));
    match transport.ports {
        // A packet without ports is in none of them.
        Some(false) => {}
        Some(true) => out.all.extend(none_of),
        None => {
            let portless = Match::Protocol { numbers: WITH_PORTS.to_vec(), not: true };
            out.any.extend(none_of.into_iter().map(|one| vec![portless.clone(), one]));
        }
    }
    Some(())
}

/// Conditions on sets of addresses with ports.
fn address_ports<'i>(
    cx: &Context<'_>,
    side: Side,
    ids: impl IntoIterator<Item = &'i ArcStr>,
    not: bool,
    out: &mut Conditions,
) -> Vec<Match> {
    let mut conditions = Vec::new();
    for id in ids {
        match (cx.sets)(id) {
            Some(SetNames::AddressPorts(set)) => {
                conditions.push(Match::AddressPort { side, set, not });
            }
            _ => out.incomplete = true,
        }
    }
    conditions
}

/// The condition on port ranges, without overlap.
fn ranges(side: Side, ranges: &[PortRange], not: bool, out: &mut Conditions) -> Option<Match> {
    let mut sorted: Vec<_> = ranges.iter().filter(|range| range.first <= range.last).collect();
    out.incomplete |= sorted.len() < ranges.len();
    sorted.sort_unstable();
    let mut ranges: Vec<PortRange> = Vec::new();
    for range in sorted {
        match ranges.last_mut() {
            Some(last) if range.first <= last.last => last.last = last.last.max(range.last),
            _ => ranges.push(*range),
        }
    }
    (!ranges.is_empty()).then_some(Match::Port { side, ranges, not })
}

impl Conditions {
    /// One of these must hold.
    fn require(&mut self, mut alternatives: Vec<Match>) {
        if alternatives.len() == 1 {
            self.all.append(&mut alternatives);
        } else {
            self.any.push(alternatives);
        }
    }
}

fn in_set(side: Side, set: ArcStr, not: bool) -> Match {
    Match::Address { side, addresses: Addresses::Set(set), not }
}

/// The networks of one family without those that lie in another of them.
pub(crate) fn disjoint_nets(family: Family, nets: &[IpNet]) -> Vec<IpNet> {
    let mut nets: Vec<IpNet> =
        nets.iter().filter(|net| Family::of_net(**net) == family).map(IpNet::trunc).collect();
    // A network sorts right before what lies in it.
    nets.sort_unstable();
    let mut out: Vec<IpNet> = Vec::new();
    for net in nets {
        if !out.last().is_some_and(|last| last.contains(&net)) {
            out.push(net);
        }
    }
    out
}
