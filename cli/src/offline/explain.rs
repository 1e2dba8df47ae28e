//! The walk of one connection through tiers, policies and rules, for people and programs.

use std::{collections::BTreeMap, fmt::Write as _, mem, net::IpAddr};

use engine::{
    inspect::SetContent,
    verdict::{Mismatch, Side, Stage, Step},
};
use model::{kinds::Direction, view::Action};
use serde::Serialize;

use super::{
    peer::{CLIENT_PORT, Peer, family, policed, within_node},
    port::Port,
    world::{World, called},
};

/// Why a connection is let through, or isn't.
#[derive(Debug, Serialize)]
pub(crate) struct Explanation {
    from: String,
    to: String,
    port: String,
    allowed: bool,
    /// What it would be if staged policies were enforced; none: there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed_if_staged: Option<bool>,
    /// No policy sees what a node says to itself or its own pods.
    #[serde(skip)]
    within_node: bool,
    /// At the source, then at the destination; ends that no policy knows are left out.
    ends: Vec<End>,
}

/// What happens at one end.
#[derive(Debug, Serialize)]
struct End {
    endpoint: String,
    /// The one of its addresses that was tried.
    address: Option<IpAddr>,
    direction: &'static str,
    allowed: bool,
    /// What decided.
    because: String,
    /// The port of its node that is open whatever policies say; none: they are asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    failsafe: Option<String>,
    /// Its own labels and those that it inherits: what selectors see.
    labels: BTreeMap<String, String>,
    tiers: Vec<Tier>,
    profiles: Vec<Passage>,
}

#[derive(Debug, Serialize)]
struct Tier {
    name: String,
    /// Of an interface of a node, the flag of policies that act before all others; none: those others.
    #[serde(skip_serializing_if = "Option::is_none")]
    stage: Option<&'static str>,
    policies: Vec<Passage>,
    /// What its end did; none: it wasn't reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<&'static str>,
}

/// A policy or a profile, as far as the walk went through it.
#[derive(Debug, Serialize)]
struct Passage {
    name: String,
    /// Why it is here; empty: of a profile, which its endpoint names.
    #[serde(skip_serializing_if = "String::is_empty")]
    selects: String,
    rules: Vec<RuleAt>,
}

#[derive(Debug, Serialize)]
struct RuleAt {
    /// Its place in the policy, from 1.
    rule: usize,
    action: &'static str,
    matches: bool,
    /// Why it doesn't match; empty: it does.
    #[serde(skip_serializing_if = "String::is_empty")]
    because: String,
}

/// Explains a connection. `staged`: the same cluster with staged policies enforced.
pub(crate) fn explain(
    world: &World,
    staged: Option<&World>,
    (from, to): (&str, &str),
    port: Port,
    namespace: &str,
) -> anyhow::Result<Explanation> {
    let (source, destination) = (world.peer(from, namespace)?, world.peer(to, namespace)?);
    let mut ends = Vec::new();
    let ipv6 = family(&source, &destination, port)?;
    for (peer, direction) in [(&source, Direction::Egress), (&destination, Direction::Ingress)] {
        let pod = policed([&source, &destination], direction);
        if let (Peer::Endpoint(name, ..), Some(_)) = (peer, pod) {
            let mut walk = Walk::new(world, name, direction);
            walk.end.address = peer.address(ipv6);
            let allowed =
                world.passes([&source, &destination], direction, (port, ipv6), &mut |it| {
                    walk.step(&it);
                });
            walk.finish();
            walk.end.allowed = allowed;
            let ends_of = [&source, &destination];
            if let Some(open) = world.opens_anyway(ends_of, direction, (port, ipv6)) {
                walk.end.because = format!("{open} is a failsafe port: no policy is asked");
                walk.end.failsafe = Some(open.to_string());
            }
            ends.push(walk.end);
        }
    }
    let allowed_if_staged = match staged {
        None => None,
        Some(staged) => {
            let (source, destination) =
                (staged.peer(from, namespace)?, staged.peer(to, namespace)?);
            let both = [Direction::Egress, Direction::Ingress].map(|direction| {
                staged.passes([&source, &destination], direction, (port, ipv6), &mut |_| {})
            });
            Some(both == [true, true])
        }
    };
    Ok(Explanation {
        from: source.to_string(),
        to: destination.to_string(),
        port: port.to_string(),
        allowed: ends.iter().all(|end| end.allowed),
        allowed_if_staged,
        within_node: within_node([&source, &destination]),
        ends,
    })
}

/// Collects the steps at one end.
struct Walk<'w> {
    world: &'w World,
    direction: Direction,
    end: End,
    stage: Stage,
    /// The rules of the policy at hand that are still to come, as they were written, each with its place from 1.
    ahead: Vec<(usize, Action, bool)>,
}

impl<'w> Walk<'w> {
    fn new(world: &'w World, name: &str, direction: Direction) -> Self {
        let end = End {
            endpoint: name.to_owned(),
            address: None,
            direction: match direction {
                Direction::Ingress => "ingress",
                Direction::Egress => "egress",
            },
            allowed: false,
            because: String::new(),
            failsafe: None,
            labels: world.labels(name),
            tiers: Vec::new(),
            profiles: Vec::new(),
        };
        Self { world, direction, end, stage: Stage::Normal, ahead: Vec::new() }
    }

    fn step(&mut self, step: &Step<'_>) {
        if !matches!(step, Step::Rule(..)) {
            self.finish();
        }
        let end = &mut self.end;
        match step {
            Step::Stage(stage) => self.stage = *stage,
            Step::Tier(name) => {
                let stage = match self.stage {
                    Stage::Untracked => Some("doNotTrack"),
                    Stage::PreDnat => Some("preDNAT"),
                    Stage::Normal => None,
                };
                let name = name.to_string();
                end.tiers.push(Tier { name, stage, policies: Vec::new(), end: None });
            }
            Step::Policy(id) => {
                let rules = self.world.rules(id, self.direction).into_iter();
                self.ahead =
                    (1..).zip(rules).map(|(at, (action, kept))| (at, action, kept)).collect();
                let (name, selects) = (called(id), self.world.selector(id));
                if let Some(tier) = end.tiers.last_mut() {
                    tier.policies.push(Passage { name, selects, rules: Vec::new() });
                }
            }
            Step::Profile(name) => {
                let missing =
                    if self.world.has_profile(name) { "" } else { " (isn't there, which denies)" };
                let name = format!("Profile {name}{missing}");
                end.profiles.push(Passage { name, selects: String::new(), rules: Vec::new() });
            }
            Step::Rule(index, rule, mismatch) => {
                let kept = self.ahead.iter().position(|(.., kept)| *kept);
                let place = kept.map_or(*index + 1, |at| self.ahead[at].0);
                let passed = kept.map(|at| self.ahead.drain(..=at).collect()).unwrap_or_default();
                self.unexpressed(passed);
                let because = mismatch.as_ref().map(|it| self.words(it)).unwrap_or_default();
                let (action, matches) = (word(rule.action), mismatch.is_none());
                let decides = matches && rule.action != Action::Log;
                let end = &mut self.end;
                let Some(rules) = end.passage() else { return };
                let name = rules.name.clone();
                rules.rules.push(RuleAt { rule: place, action, matches, because });
                if decides {
                    self.ahead.clear();
                    let untracked = self.stage == Stage::Untracked && rule.action == Action::Allow;
                    let answers = "; it isn't tracked, so its answers need a rule that allows them";
                    let more = if untracked { answers } else { "" };
                    end.because = format!("rule {place} of {name}: {action}{more}");
                }
            }
            Step::EndOfTier(passes) => {
                if let Some(tier) = end.tiers.last_mut() {
                    tier.end = Some(if *passes { "pass" } else { "deny" });
                    if !*passes {
                        end.because = format!(
                            "no rule in tier {} decides, and what its policies don't allow it denies",
                            tier.name
                        );
                    }
                }
            }
            Step::End => "no policy and no profile allows it".clone_into(&mut end.because),
        }
    }

    /// The rest of the policy at hand was passed.
    fn finish(&mut self) {
        let rest = mem::take(&mut self.ahead);
        self.unexpressed(rest);
    }

    /// Rules that were passed and are not in what a node gets.
    fn unexpressed(&mut self, rules: Vec<(usize, Action, bool)>) {
        let Some(passage) = self.end.passage() else { return };
        for (rule, action, _) in rules.into_iter().filter(|(.., kept)| !kept) {
            let because = "it can't be expressed, so it allows nothing".to_owned();
            passage.rules.push(RuleAt { rule, action: word(action), matches: false, because });
        }
    }

    /// A condition that isn't met, in words.
    fn words(&self, mismatch: &Mismatch) -> String {
        let set = |id: &str| match self.world.ip_set(id).map(|set| set.content) {
            Some(SetContent::Selector(selector)) => selector,
            Some(SetContent::NamedPort(selector, _, name)) => {
                format!("port {name} of {selector}")
            }
            Some(SetContent::Service(namespace, name)) => format!("service {namespace}/{name}"),
            None => id.to_owned(),
        };
        let of = |side: &Side| side.as_str();
        match mismatch {
            Mismatch::IpVersion => "it is for the other version of IP".to_owned(),
            Mismatch::Protocol => "it is for another protocol".to_owned(),
            Mismatch::NotProtocol => "it is for every protocol but this".to_owned(),
            Mismatch::Icmp => "it is for another type of ICMP".to_owned(),
            Mismatch::NotIcmp => "it is for every type of ICMP but this".to_owned(),
            Mismatch::Nets(side) => format!("the {} isn't in its nets", of(side)),
            Mismatch::NotNets(side) => format!("the {} is in its notNets", of(side)),
            Mismatch::Set(side, id) | Mismatch::Service(side, id) => {
                format!("the {} isn't {}", of(side), set(id))
            }
            Mismatch::NotSet(side, id) => format!("the {} is {}", of(side), set(id)),
            Mismatch::Ports(Side::Source) => {
                format!("the source port, here {CLIENT_PORT}, isn't in its ports")
            }
            Mismatch::Ports(side) => format!("the {} port isn't in its ports", of(side)),
            Mismatch::NotPorts(side) => format!("the {} port is in its notPorts", of(side)),
        }
    }
}

impl End {
    /// The policy or the profile that the walk is in.
    fn passage(&mut self) -> Option<&mut Passage> {
        let of_tier = self.tiers.last_mut().and_then(|tier| tier.policies.last_mut());
        self.profiles.last_mut().or(of_tier)
    }
}

/// An action as rules spell it.
fn word(action: Action) -> &'static str {
    match action {
        Action::Allow => "allow",
        Action::Deny => "deny",
        Action::Log => "log",
        Action::Pass => "pass",
    }
}

impl Explanation {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let word = |allowed: bool| if allowed { "allowed" } else { "denied" };
        let Self { from, to, port, .. } = self;
        let mut text = format!("{from} to {to}, {port}: {}\n", word(self.allowed));
        for (peer, direction, way) in [(from, "egress", "leaving"), (to, "ingress", "entering")] {
            let Some(end) = self.ends.iter().find(|end| end.direction == direction) else {
                let why = match (self.within_node, self.ends.is_empty()) {
                    (false, _) if direction == "egress" => {
                        "no endpoint here has it, so no policy is asked"
                    }
                    (false, _) => {
                        "no endpoint here has it, so no policy is asked; \
                         if it is a service's, ask for a pod behind that"
                    }
                    (true, true) => "it stays within the node, so no policy is asked",
                    (true, false) => {
                        "of what pods send to their own node its policies see nothing; \
                         FelixConfiguration's defaultEndpointToHostAction decides"
                    }
                };
                let _ = writeln!(text, "\n{way} {peer}: {why}");
                continue;
            };
            let _ = writeln!(text, "\n{way} {}: {}", end.endpoint, word(end.allowed));
            if let Some(address) = end.address {
                let _ = writeln!(text, "  address: {address}");
            }
            let _ = writeln!(text, "  because: {}", end.because);
            let labels = end.labels.iter().map(|(key, value)| format!("{key}={value}"));
            let _ = writeln!(text, "  labels: {}", labels.collect::<Vec<_>>().join(", "));
            if end.tiers.is_empty() && end.failsafe.is_none() {
                let _ = writeln!(text, "  no policy selects it for {}", end.direction);
            }
            for tier in &end.tiers {
                let stage = tier.stage.map(|flag| format!(", policies with {flag}"));
                let _ = writeln!(text, "  tier {}{}", tier.name, stage.unwrap_or_default());
                for policy in &tier.policies {
                    policy.write(&mut text, "    ");
                }
                if let Some(end) = tier.end {
                    let _ = writeln!(text, "    end of the tier: {end}");
                }
            }
            for profile in &end.profiles {
                profile.write(&mut text, "  ");
            }
        }
        if let Some(staged) = self.allowed_if_staged {
            let _ = writeln!(text, "\nwith staged policies enforced: {}", word(staged));
        }
        text
    }
}

impl Passage {
    fn write(&self, text: &mut String, indent: &str) {
        let _ = writeln!(text, "{indent}{}", self.name);
        if !self.selects.is_empty() {
            let _ = writeln!(text, "{indent}  selects it: {}", self.selects);
        }
        for rule in &self.rules {
            let RuleAt { rule, action, matches, because } = rule;
            let verdict =
                if *matches { "matches".to_owned() } else { format!("no match: {because}") };
            let _ = writeln!(text, "{indent}  rule {rule}, {action}: {verdict}");
        }
        if self.rules.is_empty() {
            let _ = writeln!(text, "{indent}  no rules in this direction");
        }
    }
}
