//! The engine: takes updates, and says what follows from them.

mod items;
mod needs;
mod objects;
mod selection;

use std::collections::{BTreeMap, BTreeSet};

use arcstr::ArcStr;
use model::{
    Key, Kind, Stored, Update,
    kinds::{self, Invalid},
    view::{Action, Host, PolicyList, Topic},
};

use self::objects::Pending;
use crate::{
    HashMap,
    bgp::Bgp,
    endpoints::Item,
    index::{Class, Index},
    intern::Interner,
    marks::Marks,
    nodes::{Need, Nodes},
    output::{Out, Output},
    planted::Planted,
    policies::{Plist, Pol, Policies, Prof, Sets, TierState},
    problem::{Effect, Problem},
    routes::Routes,
    rules::service_set,
    scope::Texts,
    sets::{Set, Slice},
    slab::{Id, Slab},
    waiting::Waiting,
};

/// What the engine is given by those who know more.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The id of a list of policies: a hash of its canonical wire entry, so that equal lists have
    /// equal ids everywhere.
    pub plist_id: fn(&PolicyList) -> ArcStr,
}

/// How much there is of everything, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field counts what it is named after")]
pub struct Sizes {
    pub endpoints: usize,
    pub network_sets: usize,
    pub label_sets: usize,
    pub policies: usize,
    pub tiers: usize,
    pub profiles: usize,
    pub selectors: usize,
    pub plists: usize,
    pub ip_sets: usize,
    pub ip_set_members: usize,
    pub hosts: usize,
    pub pools: usize,
    pub routes: usize,
    /// Nodes that have endpoints.
    pub nodes: usize,
    pub problems: usize,
    /// Selectors held against labels since the start.
    pub evaluations: u64,
}

/// What is known of an object by its key.
pub(crate) struct Known {
    /// Of its JSON. In halves: a `u128` would make room for itself at a multiple of 16.
    hash: [u64; 2],
    /// What it is, if it has labels and addresses.
    pub(crate) item: Option<Id<Item>>,
    /// What it is, if it is a policy.
    pub(crate) policy: Option<Id<Pol>>,
}

/// The profile that allows everything: it exists everywhere, without an object.
pub(crate) const DEFAULT_ALLOW: &str = "projectcalico-default-allow";

/// From resources to what each node needs.
pub struct Engine {
    options: Options,
    pending: Waiting<Pending>,
    /// Policies come when everything that they select is in its place.
    pending_policies: Waiting<Pending>,
    problems: BTreeMap<Key, Problem>,
    problem_changes: u64,
    datastore_ready: bool,
    /// Every object that is published as JSON.
    pub(crate) objects: HashMap<Key, Known>,
    /// Where JSON is written before its length is known.
    scratch: String,
    /// Specs in the topics `config` and `node/…`, as published.
    configs: BTreeMap<Key, String>,
    pub(crate) hosts: HashMap<ArcStr, Host>,
    pub(crate) routes: Routes,
    bgp: Bgp,
    strings: Interner,
    texts: Texts,
    pub(crate) index: Index,
    pub(crate) items: Slab<Item>,
    pub(crate) policies: Policies,
    pub(crate) sets: Sets,
    pub(crate) nodes: Nodes,
    dirty: Dirty,
    /// Empty between flushes.
    out: Out,
    /// Every object as it was stored, where that was asked for.
    pub(crate) kept: Option<BTreeMap<Key, Stored>>,
    /// The backends of services are known.
    pub(crate) services: bool,
    /// Slices by namespace and name of their service, and by their own name.
    pub(crate) slices: HashMap<(ArcStr, ArcStr), BTreeMap<ArcStr, Slice>>,
    /// The service that each slice is of.
    services_of_slices: HashMap<Key, (ArcStr, ArcStr)>,
    /// `podCIDRs` of nodes stand for their blocks.
    pod_cidrs: bool,
}

/// What a flush has still to look at.
#[derive(Default)]
struct Dirty {
    /// Not in a class, and to be put in one.
    items: Marks<Item>,
    /// Their list of policies may be another one.
    classes: Marks<Class>,
    /// They may have no item left.
    empty_classes: Marks<Class>,
    /// Their entry may be another one.
    endpoints: Marks<Item>,
    /// What they hold, or whether a node needs them, may have changed.
    policies: Marks<Pol>,
    profiles: Marks<Prof>,
    tiers: Marks<TierState>,
    plists: Marks<Plist>,
    /// Whether a node needs them may have changed.
    sets: Marks<Set>,
    /// Their members may have changed.
    members: Marks<Set>,
    /// Gone; to be forgotten when no list names them.
    dead_policies: Vec<Id<Pol>>,
}

impl Engine {
    /// An engine that knows of no object.
    pub fn new(options: Options) -> Self {
        let mut engine = Self {
            options,
            pending: Waiting::default(),
            pending_policies: Waiting::default(),
            problems: BTreeMap::new(),
            problem_changes: 0,
            datastore_ready: true,
            objects: HashMap::default(),
            scratch: String::new(),
            configs: BTreeMap::new(),
            hosts: HashMap::default(),
            routes: Routes::default(),
            bgp: Bgp::default(),
            strings: Interner::default(),
            texts: Texts::default(),
            index: Index::default(),
            items: Slab::default(),
            policies: Policies::default(),
            sets: Sets::default(),
            nodes: Nodes::default(),
            dirty: Dirty::default(),
            out: Out::default(),
            kept: None,
            services: false,
            slices: HashMap::default(),
            services_of_slices: HashMap::default(),
            pod_cidrs: false,
        };
        let allow = kinds::Rule { action: Action::Allow, ..kinds::Rule::default() };
        let profile = kinds::Profile {
            ingress: vec![allow.clone()],
            egress: vec![allow],
            labels_to_apply: kinds::Labels::new(),
        };
        engine.set_profile(&ArcStr::from(DEFAULT_ALLOW), Some(&profile));
        engine
    }

    /// An engine that knows the backends of services: all of them are told as objects of kind
    /// `EndpointSlice`, or by [`Engine::set_slice`]. Without, rules that name a service can't be expressed.
    #[must_use]
    pub fn with_services(mut self) -> Self {
        self.services = true;
        self
    }

    /// An engine for which the `podCIDRs` of a node are blocks of that node (`USE_POD_CIDR`).
    #[must_use]
    pub fn with_pod_cidrs(mut self) -> Self {
        self.pod_cidrs = true;
        self
    }

    /// An engine for an agent without a server: nothing is worked out that only other nodes need, and there is no full
    /// view.
    #[must_use]
    pub fn for_node(mut self, name: ArcStr) -> Self {
        self.nodes.only = Some(name.clone());
        self.out.only = Some(name);
        self
    }

    /// Backends of a service are now these, or gone. `service`: its namespace and name; `name`: of
    /// the slice, for a service may have many.
    pub fn set_slice(&mut self, service: &(ArcStr, ArcStr), name: ArcStr, slice: Option<&Slice>) {
        let slices = self.slices.entry(service.clone()).or_default();
        let old = match slice {
            Some(slice) => slices.insert(name, slice.clone()),
            None => slices.remove(&name),
        };
        if slices.is_empty() {
            self.slices.remove(service);
        }
        if old.as_ref() == slice {
            return;
        }
        for ports in [false, true] {
            let Some(id) = self.sets.by_id(&service_set(service, ports)) else { continue };
            let set = &mut self.sets.slab[id];
            if set.filled {
                let old = old.as_ref().filter(|_| !Planted::SliceLeftBehind.is_here());
                for (slice, more) in [(slice, true), (old, false)] {
                    if let Some(slice) = slice {
                        set.count_slice(slice, more);
                    }
                }
                self.dirty.members.insert(id);
            }
        }
    }

    /// Takes what a store says. Nothing follows from it before [`Engine::flush`], but for
    /// [`Engine::datastore_ready`], which says whether to flush at all.
    pub fn apply(&mut self, update: &Update) {
        let Update { key, value, .. } = update;
        if let Some(kept) = &mut self.kept {
            match value {
                Some(value) => kept.insert(key.clone(), value.clone()),
                None => kept.remove(key),
            };
        }
        let pending = self.read_object(key, value.as_ref());
        let waiting = if is_policy(key) { &mut self.pending_policies } else { &mut self.pending };
        waiting.insert(key.clone(), pending);
    }

    /// Works out what follows from the updates since the last flush, and says what really differs.
    pub fn flush(&mut self) -> Output {
        let mut out = std::mem::take(&mut self.out);
        out.reserve(self.pending.len() + self.pending_policies.len());
        self.objects.reserve(self.pending.len() + self.pending_policies.len());
        for (key, pending) in self.pending.take() {
            self.settle(key, pending, &mut out);
        }
        self.place_items();
        for (key, pending) in self.pending_policies.take() {
            self.settle(key, pending, &mut out);
        }
        self.settle_classes();
        self.settle_endpoints(&mut out);
        self.routes.flush(&mut out);
        self.bgp.flush(&mut out);
        self.settle_needs(&mut out);
        self.forget();
        let output = out.finish();
        self.out = out;
        output
    }

    /// The topics that a node needs, beyond the common ones and its own `node/<name>`.
    pub fn view(&self, node: &str) -> BTreeSet<Topic> {
        self.nodes.needs(node).map(|need| topic(&self.policies, &self.sets, need)).collect()
    }

    /// False while `ClusterInformation` says that the datastore must not be acted on; as of the last
    /// update.
    pub fn datastore_ready(&self) -> bool {
        self.datastore_ready
    }

    /// The objects that don't have the effect that was written, as of the last flush, by key.
    pub fn problems(&self) -> impl Iterator<Item = (&Key, &Problem)> {
        self.problems.iter()
    }

    /// Grows with each change of [`Engine::problems`]: who keeps a copy needn't compare it.
    pub fn problem_changes(&self) -> u64 {
        self.problem_changes
    }

    /// How much there is of everything.
    pub fn sizes(&self) -> Sizes {
        let endpoints = self.items.iter().filter(|item| item.is_endpoint()).count();
        Sizes {
            endpoints,
            network_sets: self.items.len() - endpoints,
            label_sets: self.index.classes.len(),
            policies: self.policies.slab.len(),
            tiers: self.policies.tiers.len(),
            profiles: self.policies.profiles.len(),
            selectors: self.index.selectors.len(),
            plists: self.policies.plists.len(),
            ip_sets: self.sets.slab.iter().filter(|set| set.nodes > 0).count(),
            ip_set_members: self.sets.slab.iter().map(Set::len).sum(),
            hosts: self.hosts.len(),
            pools: self.routes.pools(),
            routes: self.routes.len(),
            nodes: self.nodes.slab.len(),
            problems: self.problems.len(),
            evaluations: self.index.evaluations,
        }
    }
}

fn is_policy(key: &Key) -> bool {
    matches!(
        key.kind,
        Kind::NetworkPolicy
            | Kind::GlobalNetworkPolicy
            | Kind::KubernetesNetworkPolicy
            | Kind::KubernetesClusterNetworkPolicy
            | Kind::StagedNetworkPolicy
            | Kind::StagedGlobalNetworkPolicy
            | Kind::StagedKubernetesNetworkPolicy
    )
}

/// Adds faults to what is known, under the worse effect.
fn worse(problem: Option<Problem>, effect: Effect, faults: Vec<Invalid>) -> Option<Problem> {
    if faults.is_empty() {
        return problem;
    }
    let mut problem = problem.unwrap_or(Problem { effect, faults: Vec::new() });
    problem.effect = problem.effect.max(effect);
    problem.faults.extend(faults);
    Some(problem)
}

/// The topic that a node needs.
pub(crate) fn topic(policies: &Policies, sets: &Sets, need: Need) -> Topic {
    match need {
        Need::Plist(id) => Topic::Plist(policies.plists[id].id.clone()),
        Need::Policy(id) => Topic::Policy(policies.slab[id].id.clone()),
        Need::Profile(id) => Topic::Profile(policies.profiles[id].name.clone()),
        Need::Set(id) => Topic::IpSet(sets.slab[id].id.clone()),
    }
}
