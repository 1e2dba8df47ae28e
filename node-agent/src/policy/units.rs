//! The units of policy: what each renders into, and what it needs.

use std::collections::BTreeSet;

use arcstr::ArcStr;
use model::view::{PolicyId, Rule as ViewRule};

use super::{
    Direction, PolicyReconciler,
    chains::{self, FROM_WORKLOAD, TO_WORKLOAD, unit_name},
    rules::{self, Context, deny},
};
use crate::{
    family::Family,
    nft::{Action, Chain, Element, Rule, SetKind, Verdict},
    settings::{Config, is_interface_name},
    view::NodeView,
};

/// What endpoints must share to share their chains.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct GroupKey {
    pub(crate) plist: Option<ArcStr>,
    pub(crate) profiles: Vec<ArcStr>,
}

/// A part of the table that is rendered, and if need be closed, on its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Unit {
    /// Hooks, dispatch chains, pools, nodes.
    Base,
    /// An IP set by its id.
    Set(ArcStr),
    /// A policy's rules.
    Policy(PolicyId, Direction),
    /// A profile's rules.
    Profile(ArcStr, Direction),
    /// The tiers and profiles that some endpoints share.
    Group(GroupKey, Direction),
    /// An interface's entries in the dispatch maps.
    Dispatch(ArcStr),
}

impl Unit {
    /// The name of its chain, where it has one.
    fn chain(&self) -> Option<ArcStr> {
        match self {
            Self::Policy(id, direction) => {
                Some(unit_name("policy", *direction, &[&id.kind, &id.namespace, &id.name]))
            }
            Self::Profile(name, direction) => Some(unit_name("profile", *direction, &[name])),
            Self::Group(GroupKey { plist, profiles }, direction) => {
                let plist = plist.as_ref().map_or(["", ""], |id| ["plist", id]);
                let profiles = profiles.iter().map(ArcStr::as_str);
                let parts: Vec<&str> = plist.into_iter().chain(profiles).collect();
                Some(unit_name("endpoint", *direction, &parts))
            }
            Self::Base | Self::Set(_) | Self::Dispatch(_) => None,
        }
    }
}

/// A chain that lets nothing through.
fn closed(config: &Config) -> Vec<Rule> {
    vec![Rule { matches: vec![], actions: vec![Action::Verdict(deny(config))] }]
}

impl PolicyReconciler {
    /// Renders what is dirty and what that newly needs, and removes what nobody needs any more.
    pub(super) fn settle(&mut self, view: &NodeView) {
        let mut released = BTreeSet::new();
        // Users sort after what they need: when a unit's turn comes, it is known who needs it.
        while let Some(unit) = self.dirty.pop_last() {
            let is_root = matches!(unit, Unit::Base | Unit::Dispatch(_));
            if !is_root && !self.users.contains_key(&unit) {
                continue;
            }
            let needs = self.render(view, &unit);
            self.touched.insert(unit.clone());
            let gone = matches!(&unit, Unit::Dispatch(name) if !self.claims.contains_key(name));
            self.link(&unit, &needs, &mut released);
            if gone {
                self.needs.remove(&unit);
            }
        }
        while let Some(unit) = released.pop_first() {
            // Others may need it since.
            if !self.users.contains_key(&unit) {
                self.remove(&unit);
                self.link(&unit, &BTreeSet::new(), &mut released);
                self.needs.remove(&unit);
                self.touched.insert(unit);
            }
        }
    }

    /// Records what a unit needs now.
    fn link(&mut self, unit: &Unit, needs: &BTreeSet<Unit>, released: &mut BTreeSet<Unit>) {
        let old = self.needs.insert(unit.clone(), needs.clone()).unwrap_or_default();
        for need in old.difference(needs) {
            if let Some(users) = self.users.get_mut(need) {
                users.remove(unit);
                if users.is_empty() {
                    self.users.remove(need);
                    released.insert(need.clone());
                }
            }
        }
        for need in needs.difference(&old) {
            if !self.needs.contains_key(need) {
                self.dirty.insert(need.clone());
            }
            self.users.entry(need.clone()).or_default().insert(unit.clone());
        }
    }

    /// Renders one unit into the tables; what it needs.
    pub(super) fn render(&mut self, view: &NodeView, unit: &Unit) -> BTreeSet<Unit> {
        self.problems.remove(unit);
        let closed = self.closed.contains(unit) || self.quarantine.contains_key(unit);
        match unit {
            Unit::Base => {
                self.render_base();
                BTreeSet::new()
            }
            Unit::Set(id) => {
                self.render_set(view, id, closed);
                BTreeSet::new()
            }
            Unit::Policy(id, direction) => {
                let rules = view.policies.get(id).map(|policy| match direction {
                    Direction::Ingress => policy.ingress.as_slice(),
                    Direction::Egress => policy.egress.as_slice(),
                });
                self.render_rules(view, unit, rules, closed)
            }
            Unit::Profile(name, direction) => {
                let rules = view.profiles.get(name).map(|profile| match direction {
                    Direction::Ingress => profile.ingress.as_slice(),
                    Direction::Egress => profile.egress.as_slice(),
                });
                self.render_rules(view, unit, rules, closed)
            }
            Unit::Group(key, direction) => self.render_group(view, unit, key, *direction, closed),
            Unit::Dispatch(interface) => self.render_dispatch(view, unit, interface, closed),
        }
    }

    fn render_base(&mut self) {
        for (family, tables) in &mut self.tables {
            let tunnels = self.tunnels.entry(*family).or_default();
            for (name, chain) in chains::base(*family, &self.config, tunnels) {
                tables.set_chain(name, Some(chain));
            }
            for (name, kind) in [
                (FROM_WORKLOAD, SetKind::Dispatch),
                (TO_WORKLOAD, SetKind::Dispatch),
                (chains::POOLS, SetKind::Nets),
                (chains::NAT_POOLS, SetKind::Nets),
                (chains::NODES, SetKind::Hosts),
            ] {
                tables.declare(&name.into(), Some(kind));
            }
        }
    }

    fn render_rules(
        &mut self,
        view: &NodeView,
        unit: &Unit,
        rules: Option<&[ViewRule]>,
        mut closed: bool,
    ) -> BTreeSet<Unit> {
        let Some(name) = unit.chain() else { return BTreeSet::new() };
        if rules.is_none() {
            self.problems.insert(unit.clone(), "its rules are not in the view: it drops".into());
        }
        let needs: BTreeSet<Unit> =
            rules.into_iter().flatten().flat_map(set_ids).map(Unit::Set).collect();
        for need in &needs {
            let Unit::Set(id) = need else { continue };
            if !self.needs.contains_key(need) {
                // Its kernel sets must be known to name them.
                self.render_set(view, id, false);
                self.needs.insert(need.clone(), BTreeSet::new());
                self.touched.insert(need.clone());
            }
            if let Some(quarantine) = self.quarantine.get(need) {
                let problem =
                    format!("it drops, since its IP set {id} is refused: {}", quarantine.reason);
                self.problems.insert(unit.clone(), problem);
                closed = true;
            }
        }
        for family in self.families.clone() {
            let chains = match rules {
                Some(rules) if !closed => {
                    let sets = |id: &str| self.set_names(family, id);
                    let idle = !self.used.contains(&family);
                    let cx = Context { family, config: &self.config, sets: &sets, idle };
                    rules::render(&cx, &name, rules)
                }
                _ => vec![(name.clone(), self::closed(&self.config))],
            };
            self.own(family, unit, chains);
        }
        needs
    }

    fn render_group(
        &mut self,
        view: &NodeView,
        unit: &Unit,
        key: &GroupKey,
        direction: Direction,
        closed: bool,
    ) -> BTreeSet<Unit> {
        let Some(name) = unit.chain() else { return BTreeSet::new() };
        let plist = key.plist.as_ref().and_then(|id| view.plists.get(id));
        let missing = key.plist.as_ref().filter(|_| plist.is_none());
        if let Some(id) = missing {
            let problem = format!("its policy list {id} is not in the view: its interface drops");
            self.problems.insert(unit.clone(), problem);
        }
        let tiers = plist.iter().flat_map(|plist| &plist.tiers);
        let policies = tiers.flat_map(|tier| match direction {
            Direction::Ingress => &tier.ingress,
            Direction::Egress => &tier.egress,
        });
        let needs: BTreeSet<Unit> = policies
            .map(|id| Unit::Policy(id.clone(), direction))
            .chain(key.profiles.iter().map(|name| Unit::Profile(name.clone(), direction)))
            .collect();
        let policy =
            |id: &PolicyId| unit_name("policy", direction, &[&id.kind, &id.namespace, &id.name]);
        // Without its list nothing new may pass, not even what profiles allow.
        let profiles = key.profiles.iter().filter(|_| missing.is_none());
        let profiles = profiles.map(|name| unit_name("profile", direction, &[name]));
        let rules = if closed {
            self::closed(&self.config)
        } else {
            chains::group(&self.config, direction, plist, policy, profiles)
        };
        for family in self.families.clone() {
            self.own(family, unit, vec![(name.clone(), rules.clone())]);
        }
        needs
    }

    fn render_dispatch(
        &mut self,
        view: &NodeView,
        unit: &Unit,
        interface: &ArcStr,
        closed: bool,
    ) -> BTreeSet<Unit> {
        self.winners.remove(interface);
        let claimants = self.claims.get(interface).into_iter().flatten();
        // An endpoint that has its addresses is ahead of one that waits for them.
        let winner = claimants
            .filter_map(|key| Some((key, view.endpoints.get(key)?)))
            .max_by_key(|(key, endpoint)| (!endpoint.addresses.is_empty(), *key));
        let mut needs = BTreeSet::new();
        let mut verdicts = [(FROM_WORKLOAD, None), (TO_WORKLOAD, None)];
        if let Some((key, endpoint)) = winner {
            let prefixes = &self.config.interface_prefixes;
            if !is_interface_name(interface) {
                let problem = format!("{interface:?} can't be an interface's name");
                self.problems.insert(unit.clone(), problem);
            } else if !prefixes.iter().any(|prefix| interface.starts_with(prefix.as_str())) {
                let problem = format!(
                    "interface {interface} has no policy, since it doesn't begin with {}: \
                     see interfacePrefix in FelixConfiguration",
                    prefixes.join(" or ")
                );
                self.problems.insert(unit.clone(), problem);
            } else {
                let group =
                    GroupKey { plist: endpoint.plist.clone(), profiles: endpoint.profiles.clone() };
                let [egress, ingress] = [Direction::Egress, Direction::Ingress]
                    .map(|direction| Unit::Group(group.clone(), direction));
                if !closed {
                    verdicts = [
                        (FROM_WORKLOAD, egress.chain().map(Verdict::Goto)),
                        (TO_WORKLOAD, ingress.chain().map(Verdict::Goto)),
                    ];
                }
                needs.extend([egress, ingress]);
            }
            self.winners.insert(interface.clone(), key.clone());
        }
        let element = Element::Interface(interface.clone());
        for tables in self.tables.values_mut() {
            for (map, verdict) in &verdicts {
                let value = verdict.clone().map(Some);
                tables.elements(&ArcStr::from(*map)).set(element.clone(), value);
            }
        }
        needs
    }

    /// Makes these the unit's chains in one family.
    fn own(&mut self, family: Family, unit: &Unit, chains: rules::Chains) {
        let Some(tables) = self.tables.get_mut(&family) else { return };
        let owned = self.owned.entry((family, unit.clone())).or_default();
        let names: BTreeSet<ArcStr> = chains.iter().map(|(name, _)| name.clone()).collect();
        for gone in owned.difference(&names) {
            tables.set_chain(gone.clone(), None);
        }
        *owned = names;
        for (name, rules) in chains {
            tables.set_chain(name, Some(Chain { base: None, rules }));
        }
    }

    fn remove(&mut self, unit: &Unit) {
        self.problems.remove(unit);
        self.quarantine.remove(unit);
        if let Unit::Set(id) = unit {
            self.remove_set(id);
        }
        for (family, tables) in &mut self.tables {
            for name in self.owned.remove(&(*family, unit.clone())).unwrap_or_default() {
                tables.set_chain(name, None);
            }
        }
    }
}

/// The IP sets that a rule asks.
fn set_ids(rule: &ViewRule) -> impl Iterator<Item = ArcStr> {
    [&rule.source, &rule.destination].into_iter().flat_map(|peer| {
        [&peer.sets, &peer.not_sets, &peer.port_sets, &peer.not_port_sets, &peer.service_sets]
            .into_iter()
            .flatten()
            .cloned()
    })
}
