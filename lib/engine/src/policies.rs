//! Policies, tiers, profiles, and the ordered lists of policies that endpoints have.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use arcstr::ArcStr;
use model::{
    Key,
    kinds::{Labels, Order, Tier},
    view::{Policy, PolicyId, PolicyList, PolicyTier, ProfileRules, Rule},
};

use crate::{
    endpoints::Item,
    index::{Class, Index, Sel},
    nodes::Node,
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
    pub(crate) nodes: BTreeSet<Id<Node>>,
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
            nodes: BTreeSet::new(),
        }
    }
}

/// Where in lists a policy stands.
#[derive(Clone, PartialEq)]
pub(crate) struct Place {
    pub(crate) tier: Id<TierState>,
    pub(crate) order: Option<Order>,
    /// Among policies of the same order.
    pub(crate) tie_break: ArcStr,
    /// It acts on packets to endpoints, from endpoints.
    pub(crate) ingress: bool,
    pub(crate) egress: bool,
}

/// A tier that exists, or that policies say they are in.
pub(crate) struct TierState {
    name: ArcStr,
    object: Option<Tier>,
    pub(crate) policies: BTreeSet<Id<Pol>>,
}

impl TierState {
    /// Tiers that exist come before those that don't; then by order, none last; then by name.
    fn key(&self) -> (bool, (bool, Option<Order>), &ArcStr) {
        let order = self.object.as_ref().and_then(|tier| tier.order);
        (self.object.is_none(), order_key(order), &self.name)
    }

    /// A tier that doesn't exist denies at its end: what its policies don't allow must not pass by
    /// its being unknown.
    fn default_pass(&self) -> bool {
        self.object.as_ref().is_some_and(|tier| tier.default_pass)
    }
}

/// None is last.
fn order_key(order: Option<Order>) -> (bool, Option<Order>) {
    (order.is_none(), order)
}

/// A profile that exists, or that endpoints name.
pub(crate) struct Prof {
    pub(crate) name: ArcStr,
    /// None: it doesn't exist, and its endpoints inherit nothing.
    pub(crate) labels: Option<Labels>,
    pub(crate) items: BTreeSet<Id<Item>>,
    pub(crate) view: Arc<ProfileRules>,
    pub(crate) published: Option<Arc<ProfileRules>>,
    pub(crate) sets: Arc<[Id<Set>]>,
    pub(crate) nodes: BTreeSet<Id<Node>>,
}

impl Prof {
    /// A profile that doesn't exist denies.
    pub(crate) fn missing(name: ArcStr) -> Self {
        Self {
            name,
            labels: None,
            items: BTreeSet::new(),
            view: Arc::new(deny()),
            published: None,
            sets: Arc::default(),
            nodes: BTreeSet::new(),
        }
    }
}

/// The rules of a profile that doesn't exist.
pub(crate) fn deny() -> ProfileRules {
    ProfileRules { ingress: vec![Rule::default()], egress: vec![Rule::default()] }
}

/// An ordered list of tiers and policies, shared by all classes that have it.
pub(crate) struct Plist {
    pub(crate) id: ArcStr,
    pub(crate) list: Arc<PolicyList>,
    /// Every policy in it, once.
    pub(crate) policies: Arc<[Id<Pol>]>,
    pub(crate) classes: usize,
    pub(crate) nodes: usize,
    pub(crate) published: bool,
    code: Box<[u32]>,
}

/// The tables of policies.
#[derive(Default)]
pub(crate) struct Policies {
    pub(crate) slab: Slab<Pol>,
    pub(crate) by_key: HashMap<Key, Id<Pol>>,
    pub(crate) tiers: Slab<TierState>,
    tier_by_name: HashMap<ArcStr, Id<TierState>>,
    pub(crate) profiles: Slab<Prof>,
    pub(crate) profile_by_name: HashMap<ArcStr, Id<Prof>>,
    pub(crate) plists: Slab<Plist>,
    plist_by_code: HashMap<Box<[u32]>, Id<Plist>>,
}

impl Policies {
    /// The tier of this name, existing or not.
    pub(crate) fn tier(&mut self, name: &ArcStr) -> Id<TierState> {
        if let Some(id) = self.tier_by_name.get(name) {
            return *id;
        }
        let state = TierState { name: name.clone(), object: None, policies: BTreeSet::new() };
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
        let id = self.profiles.insert(Prof::missing(name.clone()));
        self.profile_by_name.insert(name.clone(), id);
        id
    }

    /// The list of the policies that select a class: by tier, then by order, then by the bytes of
    /// `name/namespace/kind`. None: no policy acts on it.
    pub(crate) fn plist(
        &mut self,
        class: &Class,
        index: &Index,
        plist_id: fn(&PolicyList) -> ArcStr,
    ) -> Option<Id<Plist>> {
        let selecting = class.selectors.iter().flat_map(|sel| &index.selectors[*sel].policies);
        let mut policies = selecting
            .map(|id| (*id, &self.slab[*id].place))
            .filter(|(_, place)| place.ingress || place.egress)
            .collect::<Vec<_>>();
        if policies.is_empty() {
            return None;
        }
        policies.sort_unstable_by(|(_, a), (_, b)| {
            let tiers = || self.tiers[a.tier].key().cmp(&self.tiers[b.tier].key());
            let by_tier = if a.tier == b.tier { std::cmp::Ordering::Equal } else { tiers() };
            by_tier
                .then_with(|| order_key(a.order).cmp(&order_key(b.order)))
                .then_with(|| a.tie_break.cmp(&b.tie_break))
        });
        let code = self.code(&policies);
        if let Some(id) = self.plist_by_code.get(&code) {
            return Some(*id);
        }
        let list = self.list(&policies);
        let plist = Plist {
            id: plist_id(&list),
            list: Arc::new(list),
            policies: policies.iter().map(|(id, _)| *id).collect(),
            classes: 0,
            nodes: 0,
            published: false,
            code: code.clone(),
        };
        let id = self.plists.insert(plist);
        self.plist_by_code.insert(code, id);
        Some(id)
    }

    /// A list in numbers: equal just where the lists are equal, for the id is of the list alone.
    /// How policies of different directions lie between each other is no part of it. The policies
    /// and tiers that the numbers stand for live as long as a list names them.
    fn code(&self, policies: &[(Id<Pol>, &Place)]) -> Box<[u32]> {
        let mut code = Vec::with_capacity(2 * policies.len() + 3);
        for tier in policies.chunk_by(|(_, a), (_, b)| a.tier == b.tier) {
            let place = tier[0].1;
            let pass = u32::from(self.tiers[place.tier].default_pass());
            code.push(place.tier.number() << 1 | pass);
            let directions: [fn(&Place) -> bool; 2] = [|place| place.ingress, |place| place.egress];
            for acts in directions {
                let count = code.len();
                code.push(0);
                let acting = tier.iter().filter(|(_, place)| acts(place));
                code.extend(acting.map(|(id, _)| id.number()));
                code[count] = (code.len() - count - 1) as u32;
            }
        }
        code.into()
    }

    fn list(&self, policies: &[(Id<Pol>, &Place)]) -> PolicyList {
        let mut list = PolicyList::default();
        for tier in policies.chunk_by(|(_, a), (_, b)| a.tier == b.tier) {
            let state = &self.tiers[tier[0].1.tier];
            let ids = |acts: fn(&Place) -> bool| {
                let acting = tier.iter().filter(|(_, place)| acts(place));
                acting.map(|(id, _)| self.slab[*id].id.clone()).collect()
            };
            list.tiers.push(PolicyTier {
                name: state.name.clone(),
                default_pass: state.default_pass(),
                ingress: ids(|place| place.ingress),
                egress: ids(|place| place.egress),
            });
        }
        list
    }

    /// Forgets a list that no class has.
    pub(crate) fn forget_plist(&mut self, id: Id<Plist>) {
        let plist = self.plists.remove(id);
        self.plist_by_code.remove(&plist.code);
    }
}

/// IP sets that rules name, by id.
#[derive(Default)]
pub(crate) struct Sets {
    pub(crate) slab: Slab<Set>,
    by_id: BTreeMap<ArcStr, Id<Set>>,
    /// Sets that rules may have stopped naming.
    unused: BTreeSet<Id<Set>>,
}

impl Sets {
    /// One more that names these sets.
    pub(crate) fn acquire(
        &mut self,
        specs: BTreeMap<ArcStr, crate::rules::SetSpec>,
    ) -> Arc<[Id<Set>]> {
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
