//! Policies, tiers, profiles, and the ordered lists of policies that endpoints have.

use std::{collections::BTreeSet, sync::Arc};

use arcstr::ArcStr;
use model::{
    kinds::{self, Order, Tier},
    view::{Action, Policy, PolicyId, PolicyList, PolicyTier, ProfileRules, Rule},
};

use crate::{
    HashMap,
    endpoints::Item,
    few::IdSet,
    index::{Class, Index, Sel},
    intern::LabelSet,
    nodes::Node,
    planted::Planted,
    rules::SetSpec,
    sets::Set,
    slab::{Id, Slab},
};

/// A policy.
pub(crate) struct Pol {
    pub(crate) id: PolicyId,
    pub(crate) place: Place,
    /// None: it selects nothing.
    pub(crate) selector: Option<Id<Sel>>,
    pub(crate) view: Arc<Policy>,
    pub(crate) published: Option<Arc<Policy>>,
    pub(crate) sets: Arc<[Id<Set>]>,
    /// Nodes that need it.
    pub(crate) nodes: IdSet<Node>,
}

impl Pol {
    /// A policy that selects nothing and has no rules, until it is told.
    pub(crate) fn new(id: PolicyId, place: Place) -> Self {
        Self {
            id,
            place,
            selector: None,
            view: Arc::default(),
            published: None,
            sets: Arc::default(),
            nodes: IdSet::default(),
        }
    }
}

/// Where in lists a policy stands; among policies of the same order it is by [`by_name`].
#[derive(Clone, PartialEq)]
pub(crate) struct Place {
    pub(crate) tier: Id<TierState>,
    pub(crate) order: Option<Order>,
    /// It acts on packets to endpoints, from endpoints.
    pub(crate) ingress: bool,
    pub(crate) egress: bool,
    pub(crate) stage: Stage,
    /// Looked at in reports, in no list.
    pub(crate) staged: bool,
}

/// At which stage of a packet's way a policy acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// At workloads and at the node itself. `forward`: also on what a host endpoint forwards.
    Normal { forward: bool },
    /// At host endpoints, before connection tracking.
    Untracked,
    /// At host endpoints, before destination NAT.
    PreDnat,
}

impl Stage {
    /// The flags of a policy: of both, the earlier stage counts.
    pub(crate) fn of(policy: &kinds::Policy) -> Self {
        match policy {
            kinds::Policy { do_not_track: true, .. } => Self::Untracked,
            kinds::Policy { pre_dnat: true, .. } => Self::PreDnat,
            _ => Self::Normal { forward: policy.apply_on_forward },
        }
    }
}

/// The lists of an endpoint, in the order of [`List`]. A workload has the first alone.
pub(crate) type Lists = [Option<Id<Plist>>; 4];

/// The lists of policies that a host endpoint has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    Normal,
    Forward,
    Untracked,
    PreDnat,
}

impl List {
    pub(crate) const ALL: [Self; 4] = [Self::Normal, Self::Forward, Self::Untracked, Self::PreDnat];

    /// Whether a policy is in it, staged or not.
    pub(crate) fn holds(self, place: &Place) -> bool {
        let acts = place.ingress || place.egress;
        let stage = match self {
            Self::Normal => matches!(place.stage, Stage::Normal { .. }),
            Self::Forward if Planted::ForwardWithoutFlag.is_here() => {
                matches!(place.stage, Stage::Normal { .. })
            }
            Self::Forward => place.stage == Stage::Normal { forward: true },
            Self::Untracked => place.stage == Stage::Untracked,
            Self::PreDnat => place.stage == Stage::PreDnat,
        };
        acts && stage
    }

    /// What isn't decided here is decided at a later stage.
    pub(crate) fn passes(self) -> bool {
        match self {
            Self::Normal | Self::Forward => false,
            Self::Untracked => !Planted::UntrackedDenies.is_here(),
            Self::PreDnat => true,
        }
    }
}

/// The tiers of Kubernetes' cluster-wide policies. Calico makes them at its start.
const KUBE_ADMIN: &str = "kube-admin";
const KUBE_ADMIN_ORDER: f64 = 1_000.0;
const KUBE_BASELINE: &str = "kube-baseline";

/// A tier that exists, or that policies say they are in.
pub(crate) struct TierState {
    name: ArcStr,
    object: Option<Tier>,
    pub(crate) policies: IdSet<Pol>,
}

impl TierState {
    pub(crate) fn name(&self) -> &ArcStr {
        &self.name
    }

    pub(crate) fn exists(&self) -> bool {
        self.object.is_some()
    }

    /// Tiers that exist come before those that don't; then by order, none last; then by name. That of
    /// Kubernetes' administrators has its place without an object; that of their baseline is after
    /// `default` by its order as by its name.
    fn key(&self) -> (bool, (bool, Option<Order>), &ArcStr) {
        let is_built_in = self.object.is_none() && self.name == KUBE_ADMIN;
        let built_in = is_built_in.then_some(Order(KUBE_ADMIN_ORDER));
        let order = built_in.or_else(|| self.object.as_ref().and_then(|tier| tier.order));
        let order = order.filter(|_| !Planted::TierOrderForgotten.is_here());
        let missing = self.object.is_none() && !is_built_in;
        let missing = missing && !Planted::MissingTierInOrder.is_here();
        (missing, order_key(order), &self.name)
    }

    /// A tier that doesn't exist denies at its end: what its policies don't allow must not pass by
    /// its being unknown. Those of Kubernetes' cluster-wide policies are known.
    pub(crate) fn default_pass(&self) -> bool {
        match &self.object {
            Some(tier) => tier.default_pass,
            None if self.name == KUBE_ADMIN || self.name == KUBE_BASELINE => true,
            None => Planted::MissingTierPasses.is_here(),
        }
    }
}

/// By the bytes of `name/namespace/kind`.
fn by_name(a: &PolicyId, b: &PolicyId) -> std::cmp::Ordering {
    if Planted::TieBreakByNamespace.is_here() {
        let key = |id: &PolicyId| format!("{}/{}/{}", id.namespace, id.name, id.kind);
        return key(a).cmp(&key(b));
    }
    let shorter = a.name.len().min(b.name.len());
    let names = a.name.as_bytes()[..shorter].cmp(&b.name.as_bytes()[..shorter]);
    names.then_with(|| {
        fn rest(id: &PolicyId, from: usize) -> impl Iterator<Item = &u8> {
            let name = &id.name.as_bytes()[from..];
            let parts = [name, b"/", id.namespace.as_bytes(), b"/", id.kind.as_bytes()];
            parts.into_iter().flatten()
        }
        rest(a, shorter).cmp(rest(b, shorter))
    })
}

/// The first bytes of what [`by_name`] compares: mostly they decide.
fn first_of_name(id: &PolicyId) -> u64 {
    if Planted::TieBreakByNamespace.is_here() {
        return 0;
    }
    let mut first = [0; 8];
    let mut rest = &mut first[..];
    for part in [id.name.as_bytes(), b"/", id.namespace.as_bytes(), b"/", id.kind.as_bytes()] {
        let (written, after) = rest.split_at_mut(part.len().min(rest.len()));
        written.copy_from_slice(&part[..written.len()]);
        rest = after;
    }
    u64::from_be_bytes(first)
}

/// None is last.
fn order_key(order: Option<Order>) -> (bool, Option<Order>) {
    (order.is_none() != Planted::NoOrderFirst.is_here(), order)
}

/// A profile that exists, or that endpoints name.
pub(crate) struct Prof {
    pub(crate) name: ArcStr,
    /// None: it doesn't exist, and its endpoints inherit nothing.
    pub(crate) labels: Option<LabelSet>,
    pub(crate) items: IdSet<Item>,
    pub(crate) view: Arc<ProfileRules>,
    pub(crate) published: Option<Arc<ProfileRules>>,
    pub(crate) sets: Arc<[Id<Set>]>,
    pub(crate) nodes: IdSet<Node>,
}

impl Prof {
    /// A profile that doesn't exist denies.
    fn missing(name: ArcStr, view: Arc<ProfileRules>) -> Self {
        Self {
            name,
            labels: None,
            items: IdSet::default(),
            view,
            published: None,
            sets: Arc::default(),
            nodes: IdSet::default(),
        }
    }
}

/// The rules of a profile that doesn't exist.
pub(crate) fn deny() -> ProfileRules {
    let action = if Planted::MissingProfileAllows.is_here() { Action::Allow } else { Action::Deny };
    let rule = Rule { action, ..Rule::default() };
    ProfileRules { ingress: vec![rule.clone()], egress: vec![rule] }
}

/// An ordered list of tiers and policies, shared by all classes that have it.
pub(crate) struct Plist {
    pub(crate) id: ArcStr,
    /// What is in it, until it is published or turns out not to be.
    pub(crate) fresh: Option<PolicyList>,
    pub(crate) classes: u32,
    pub(crate) nodes: u32,
    pub(crate) published: bool,
    /// What is in it: see [`Policies::code`].
    pub(crate) code: Arc<[u32]>,
}

/// Of so many profiles the rules are looked at to be shared: the first ones are everybody's.
const SHARED: usize = 4;

/// The tables of policies.
#[derive(Default)]
pub(crate) struct Policies {
    pub(crate) slab: Slab<Pol>,
    pub(crate) tiers: Slab<TierState>,
    tier_by_name: HashMap<ArcStr, Id<TierState>>,
    pub(crate) profiles: Slab<Prof>,
    pub(crate) profile_by_name: HashMap<ArcStr, Id<Prof>>,
    /// Rules that profiles have in common.
    shared: Vec<Arc<ProfileRules>>,
    /// Those of profiles that don't exist.
    denying: Option<Arc<ProfileRules>>,
    pub(crate) plists: Slab<Plist>,
    plist_by_code: HashMap<Arc<[u32]>, Id<Plist>>,
}

impl Policies {
    /// The tier of this name, existing or not.
    pub(crate) fn tier(&mut self, name: &ArcStr) -> Id<TierState> {
        if let Some(id) = self.tier_by_name.get(name) {
            return *id;
        }
        let state = TierState { name: name.clone(), object: None, policies: IdSet::default() };
        let id = self.tiers.insert(state);
        self.tier_by_name.insert(name.clone(), id);
        id
    }

    /// True: it differs from before.
    pub(crate) fn set_tier(&mut self, id: Id<TierState>, object: Option<Tier>) -> bool {
        let state = &mut self.tiers[id];
        let differs = state.object != object;
        state.object = object;
        differs
    }

    /// Forgets a tier that doesn't exist and that no policy is in.
    pub(crate) fn forget_tier(&mut self, id: Id<TierState>) {
        let state = &self.tiers[id];
        if state.object.is_none() && state.policies.is_empty() {
            self.tier_by_name.remove(&state.name);
            self.tiers.remove(id);
        }
    }

    /// The profile of this name, existing or not.
    pub(crate) fn profile(&mut self, name: &ArcStr) -> Id<Prof> {
        if let Some(id) = self.profile_by_name.get(name) {
            return *id;
        }
        let view = match &self.denying {
            Some(view) => Arc::clone(view),
            None => self.share(deny()),
        };
        self.denying = Some(Arc::clone(&view));
        let id = self.profiles.insert(Prof::missing(name.clone(), view));
        self.profile_by_name.insert(name.clone(), id);
        id
    }

    /// The rules of a profile: most profiles have the same.
    pub(crate) fn share(&mut self, rules: ProfileRules) -> Arc<ProfileRules> {
        if let Some(known) = self.shared.iter().find(|known| ***known == rules) {
            return Arc::clone(known);
        }
        let rules = Arc::new(rules);
        if self.shared.len() < SHARED {
            self.shared.push(Arc::clone(&rules));
        }
        rules
    }

    /// The policies that select a class, in the order of evaluation: by tier, then by order, then by
    /// the bytes of `name/namespace/kind`.
    pub(crate) fn selecting(&self, class: &Class, index: &Index) -> Vec<(Id<Pol>, &Place)> {
        let selecting = || class.selectors.iter().map(|sel| &index.selectors[*sel].policies);
        let mut policies = Vec::with_capacity(selecting().map(IdSet::len).sum());
        for id in selecting().flatten() {
            let Pol { place, id: name, .. } = &self.slab[*id];
            if place.ingress || place.egress {
                policies.push((first_of_name(name), *id, place));
            }
        }
        policies.sort_unstable_by(|(a_first, a_id, a), (b_first, b_id, b)| {
            let tiers = || self.tiers[a.tier].key().cmp(&self.tiers[b.tier].key());
            let by_tier = if a.tier == b.tier { std::cmp::Ordering::Equal } else { tiers() };
            by_tier.then_with(|| order_key(a.order).cmp(&order_key(b.order))).then_with(|| {
                let names = || by_name(&self.slab[*a_id].id, &self.slab[*b_id].id);
                let order = a_first.cmp(b_first).then_with(names);
                if Planted::TieBreakFlipped.is_here() { order.reverse() } else { order }
            })
        });
        policies.into_iter().map(|(_, id, place)| (id, place)).collect()
    }

    /// The lists of a class. None: no policy acts there.
    pub(crate) fn lists(
        &mut self,
        class: &Class,
        index: &Index,
        plist_id: fn(&PolicyList) -> ArcStr,
    ) -> Lists {
        let selecting = self.selecting(class, index);
        let of = |list: List| {
            let held = selecting.iter().filter(|(_, place)| {
                (!place.staged || Planted::StagedEnforced.is_here()) && list.holds(place)
            });
            let mut ids = Vec::with_capacity(selecting.len());
            ids.extend(held.map(|(id, _)| *id));
            ids
        };
        // Only host endpoints have the others.
        let kinds = if class.hosts > 0 { &List::ALL[..] } else { &List::ALL[..1] };
        let policies = kinds.iter().map(|list| (*list, of(*list))).collect::<Vec<_>>();
        let mut lists = Lists::default();
        for (list, policies) in policies {
            if !policies.is_empty() {
                lists[list as usize] = Some(self.plist(list, &policies, plist_id));
            }
        }
        lists
    }

    fn plist(
        &mut self,
        list: List,
        policies: &[Id<Pol>],
        plist_id: fn(&PolicyList) -> ArcStr,
    ) -> Id<Plist> {
        let code = self.code(list, policies);
        if let Some(id) = self.plist_by_code.get(&code) {
            return *id;
        }
        let content = self.content(&code);
        let plist = Plist {
            id: plist_id(&content),
            fresh: Some(content),
            classes: 0,
            nodes: 0,
            published: false,
            code: Arc::clone(&code),
        };
        let id = self.plists.insert(plist);
        self.plist_by_code.insert(code, id);
        id
    }

    fn by_tier<'p>(
        &'p self,
        policies: &'p [Id<Pol>],
    ) -> impl Iterator<Item = (Id<TierState>, &'p [Id<Pol>])> {
        let tier = |id: &Id<Pol>| self.slab[*id].place.tier;
        policies.chunk_by(move |a, b| tier(a) == tier(b)).map(move |chunk| (tier(&chunk[0]), chunk))
    }

    /// A list in numbers: equal just where the lists are equal, for the id is of the list alone.
    /// How policies of different directions lie between each other is no part of it. The policies
    /// and tiers that the numbers stand for live as long as a list names them.
    fn code(&self, list: List, policies: &[Id<Pol>]) -> Arc<[u32]> {
        let mut code = Vec::with_capacity(2 * policies.len() + 3);
        for (tier, policies) in self.by_tier(policies) {
            let pass = u32::from(list.passes() || self.tiers[tier].default_pass());
            code.push(tier.number() << 1 | pass);
            let directions: [fn(&Place) -> bool; 2] = [|place| place.ingress, |place| place.egress];
            for acts in directions {
                let count = code.len();
                code.push(0);
                let acting = policies.iter().filter(|id| acts(&self.slab[**id].place));
                code.extend(acting.map(|id| id.number()));
                code[count] = (code.len() - count - 1) as u32;
            }
        }
        code.into()
    }

    /// The list that a code stands for.
    pub(crate) fn content(&self, code: &[u32]) -> PolicyList {
        let mut content = PolicyList::default();
        for (tier, ingress, egress) in tiers(code) {
            let Some(id) = Id::of_number(tier >> 1) else { continue };
            let ids = |numbers: &[u32]| {
                let policies = numbers.iter().filter_map(|number| Id::of_number(*number));
                let mut ids = Vec::with_capacity(numbers.len());
                ids.extend(policies.map(|id: Id<Pol>| self.slab[id].id.clone()));
                ids
            };
            content.tiers.push(PolicyTier {
                name: self.tiers[id].name.clone(),
                default_pass: tier & 1 == 1,
                ingress: ids(ingress),
                egress: ids(egress),
            });
        }
        content
    }

    /// Forgets a list that no class has.
    pub(crate) fn forget_plist(&mut self, id: Id<Plist>) {
        let plist = self.plists.remove(id);
        self.plist_by_code.remove(&plist.code);
    }
}

/// The tiers of a code, each with its policies by direction: see [`Policies::code`].
fn tiers(mut code: &[u32]) -> impl Iterator<Item = (u32, &[u32], &[u32])> {
    fn counted(code: &[u32]) -> Option<(&[u32], &[u32])> {
        let (count, rest) = code.split_first()?;
        rest.split_at_checked(*count as usize)
    }
    std::iter::from_fn(move || {
        let (tier, rest) = code.split_first()?;
        let (ingress, rest) = counted(rest)?;
        let (egress, rest) = counted(rest)?;
        code = rest;
        Some((*tier, ingress, egress))
    })
}

/// The policies of a code; one that acts in both directions comes twice.
pub(crate) fn policies_in(code: &[u32]) -> impl Iterator<Item = Id<Pol>> {
    let numbers = tiers(code).flat_map(|(_, ingress, egress)| ingress.iter().chain(egress));
    numbers.filter_map(|number| Id::of_number(*number))
}

/// IP sets that rules name, by id.
#[derive(Default)]
pub(crate) struct Sets {
    pub(crate) slab: Slab<Set>,
    by_id: HashMap<ArcStr, Id<Set>>,
    /// Sets that rules may have stopped naming.
    unused: BTreeSet<Id<Set>>,
}

impl Sets {
    /// The set of this id, while something names it.
    pub(crate) fn by_id(&self, id: &str) -> Option<Id<Set>> {
        self.by_id.get(id).copied()
    }

    /// One more that names these sets.
    pub(crate) fn acquire(&mut self, specs: Vec<(ArcStr, SetSpec)>) -> Arc<[Id<Set>]> {
        specs
            .into_iter()
            .map(|(name, spec)| {
                let slab = &mut self.slab;
                let id = *self
                    .by_id
                    .entry(name.clone())
                    .or_insert_with(|| slab.insert(Set::new(name, spec)));
                self.slab[id].refs += 1;
                id
            })
            .collect()
    }

    /// One less that names these sets.
    pub(crate) fn release(&mut self, sets: &[Id<Set>]) {
        for id in sets {
            self.slab[*id].refs -= 1;
            self.unused.insert(*id);
        }
    }

    /// Forgets sets that nothing names.
    pub(crate) fn sweep(&mut self) {
        for id in std::mem::take(&mut self.unused) {
            if self.slab[id].refs == 0 {
                let set = self.slab.remove(id);
                self.by_id.remove(&set.id);
            }
        }
    }
}
