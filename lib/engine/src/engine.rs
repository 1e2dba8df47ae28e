//! The engine: takes updates, and says what follows from them.

mod items;
mod needs;
mod selection;

use std::collections::{BTreeMap, BTreeSet};

use arcstr::ArcStr;
use model::{
    Key, Kind, Stored, Update,
    kinds::{self, Invalid, Resource, Spec, StagedAction},
    view::{Action, ConfigEntry, Entry, Host, PolicyList, Topic, res_shard},
};
use serde_json::Value;

use crate::{
    HashMap,
    bgp::Bgp,
    endpoints::{self, Item, Read},
    hosts,
    index::{Class, Index, fingerprint},
    intern::Interner,
    json,
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
    staged,
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

/// An object as it was read, until the next flush.
struct Pending {
    said: Said,
    json: Json,
    /// Its spec as canonical JSON, where nodes read it themselves.
    config: Option<String>,
}

/// What an object says.
enum Said {
    /// It is gone.
    Nothing,
    /// It can't be read.
    Bad(Box<Invalid>),
    /// It has labels and addresses; parts that can't be read are left out. It is kept in the form
    /// that it will have: what it was read from is forgotten before the next one is read.
    Item(Read, Vec<Invalid>),
    /// It is of another kind.
    Other(Box<Resource>),
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

fn halves(hash: u128) -> [u64; 2] {
    [(hash >> 64) as u64, hash as u64]
}

/// An object for the full view.
enum Json {
    /// It is gone, or not JSON.
    Absent,
    /// As it is published.
    Same,
    /// Canonical, and its hash.
    New(Box<str>, u128),
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
        let read =
            value.as_ref().map(|stored| staged::decode(key, stored, &mut self.strings.texts));
        if key.kind == Kind::ClusterInformation && key.name == "default" {
            let ready = match &read {
                Some(Ok(Resource { spec: Spec::ClusterInformation(info), .. })) => {
                    info.datastore_ready
                }
                _ => None,
            };
            self.datastore_ready = ready != Some(false);
        }
        let json = match value {
            Some(Stored::Json(value)) => Some(value),
            Some(Stored::Raw(_)) | None => None,
        };
        let has_config = config_topic(key).is_some() || is_bgp(key);
        let config = json.filter(|_| matches!(read, Some(Ok(_))) && has_config);
        let config = config.map(config_spec);
        let json = json.map_or(Json::Absent, |value| self.published(key, value));
        let said = read.map_or(Said::Nothing, |read| self.said(key, read));
        let waiting = if is_policy(key) { &mut self.pending_policies } else { &mut self.pending };
        waiting.insert(key.clone(), Pending { said, json, config });
    }

    fn said(&mut self, key: &Key, read: Result<Resource, Invalid>) -> Said {
        let Resource { metadata, spec, faults } = match read {
            Ok(resource) => resource,
            Err(fault) => return Said::Bad(Box::new(fault)),
        };
        let strings = &mut self.strings;
        let read = match spec {
            Spec::WorkloadEndpoint(endpoint) => {
                endpoints::workload(key, metadata, endpoint, strings)
            }
            Spec::HostEndpoint(endpoint) => endpoints::host(key, metadata, endpoint, strings),
            Spec::NetworkSet(set) | Spec::GlobalNetworkSet(set) => {
                endpoints::network_set(key, &metadata, set, strings)
            }
            spec => return Said::Other(Box::new(Resource { metadata, spec, faults })),
        };
        Said::Item(read, faults)
    }

    /// What an object is in the full view. Its text is kept only where it is another one.
    fn published(&mut self, key: &Key, value: &Value) -> Json {
        self.scratch.clear();
        json::object(&mut self.scratch, value);
        let hash = fingerprint(&self.scratch);
        if self.objects.get(key).is_some_and(|known| known.hash == halves(hash)) {
            return Json::Same;
        }
        Json::New(self.scratch.as_str().into(), hash)
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

    /// One object is now this.
    fn settle(&mut self, key: Key, pending: Pending, out: &mut Out) {
        let Pending { said, json, config } = pending;
        let (known_item, known_policy) = self.settle_object(&key, json, out);
        let config = self.settle_config(&key, config, out);
        let (mut metadata, mut spec, mut item) = Default::default();
        let mut problem = match said {
            Said::Nothing => None,
            Said::Bad(fault) => worse(None, Effect::Absent, vec![*fault]),
            Said::Item(read, faults) => {
                item = Some(read);
                worse(None, Effect::Partial, faults)
            }
            Said::Other(resource) => {
                let resource = *resource;
                (metadata, spec) = (resource.metadata, Some(resource.spec));
                worse(None, Effect::Partial, resource.faults)
            }
        };
        match (key.kind, spec) {
            (
                _,
                Some(
                    Spec::NetworkPolicy(policy)
                    | Spec::GlobalNetworkPolicy(policy)
                    | Spec::StagedNetworkPolicy(policy)
                    | Spec::StagedGlobalNetworkPolicy(policy),
                ),
            ) if policy.staged != Some(StagedAction::Delete) => {
                problem = self.set_policy(&key, known_policy, &policy, problem);
            }
            _ if is_policy(&key) => self.forget_policy(&key, known_policy),
            (
                Kind::WorkloadEndpoint
                | Kind::HostEndpoint
                | Kind::NetworkSet
                | Kind::GlobalNetworkSet,
                _,
            ) => {
                self.set_item(&key, known_item, item, out);
            }
            (Kind::Profile, _) if key.name == DEFAULT_ALLOW => {}
            (_, Some(Spec::Profile(profile))) => {
                let faults = self.set_profile(&key.name, Some(&profile));
                problem = worse(problem, Effect::Rules, faults);
            }
            (Kind::Profile, _) => {
                self.set_profile(&key.name, None);
            }
            (_, Some(Spec::Tier(tier))) => self.set_tier(&key.name, Some(tier)),
            (Kind::Tier, _) => self.set_tier(&key.name, None),
            (Kind::BGPPeer, _) => {
                let fault = self.bgp.set_peer(&key.name, config);
                problem = worse(problem, Effect::SelectsNothing, fault.into_iter().collect());
            }
            (Kind::BGPFilter, _) => self.bgp.set_filter(&key.name, config),
            (_, Some(Spec::Node(node))) => {
                self.bgp.set_node(&key.name, Some(metadata.labels));
                self.routes.set_node(&key.name, Some(&node), self.pod_cidrs);
                self.settle_host(&key.name, Some(hosts::host(&key.name, &node)), out);
            }
            (Kind::Node, _) => {
                self.bgp.set_node(&key.name, None);
                self.routes.set_node(&key.name, None, false);
                self.settle_host(&key.name, None, out);
            }
            (_, Some(Spec::IPPool(pool))) => self.routes.set_pool(&key.name, Some(pool)),
            (Kind::IPPool, _) => self.routes.set_pool(&key.name, None),
            (_, Some(Spec::IPAMBlock(block))) => self.routes.set_block(&key.name, Some(&block)),
            (Kind::IPAMBlock, _) => self.routes.set_block(&key.name, None),
            (_, Some(Spec::EndpointSlice(slice))) => self.settle_slice(&key, Some(slice)),
            (Kind::EndpointSlice, _) => self.settle_slice(&key, None),
            _ => {}
        }
        match problem {
            Some(problem) => self.problems.insert(key, problem),
            None => self.problems.remove(&key),
        };
    }

    /// Returns the endpoint or the policy that the object has been so far.
    fn settle_object(
        &mut self,
        key: &Key,
        json: Json,
        out: &mut Out,
    ) -> (Option<Id<Item>>, Option<Id<Pol>>) {
        match json {
            Json::Same => {
                self.objects.get(key).map_or((None, None), |known| (known.item, known.policy))
            }
            Json::New(json, hash) => {
                let (hash, path) = (halves(hash), key.path());
                let topic = Topic::Res(key.kind, res_shard(&path));
                out.put(topic, path, Entry::Res(json.into()));
                let new = Known { hash, item: None, policy: None };
                let known = self.objects.entry(key.clone()).or_insert(new);
                known.hash = hash;
                (known.item, known.policy)
            }
            Json::Absent => {
                if let Some(known) = self.objects.remove(key) {
                    out.delete(Topic::res(key), key.path());
                    if let Some(id) = known.item {
                        self.remove_item(id, out);
                    }
                    if let Some(id) = known.policy {
                        self.remove_policy(id);
                    }
                }
                (None, None)
            }
        }
    }

    /// An object is no policy any more.
    fn forget_policy(&mut self, key: &Key, known: Option<Id<Pol>>) {
        let Some(policy) = known else { return };
        if let Some(known) = self.objects.get_mut(key) {
            known.policy = None;
        }
        self.remove_policy(policy);
    }

    /// Returns what isn't for a topic by its key alone.
    fn settle_config(
        &mut self,
        key: &Key,
        spec_json: Option<String>,
        out: &mut Out,
    ) -> Option<String> {
        let Some((topic, name)) = config_topic(key) else { return spec_json };
        if self.configs.get(key) == spec_json.as_ref() {
            return None;
        }
        let entry = spec_json.map(|spec_json| ConfigEntry { spec_json });
        match &entry {
            Some(entry) => self.configs.insert(key.clone(), entry.spec_json.clone()),
            None => self.configs.remove(key),
        };
        out.set(topic, name, entry.map(Entry::Config));
        None
    }

    /// A slice may turn to another service.
    fn settle_slice(&mut self, key: &Key, slice: Option<kinds::EndpointSlice>) {
        let name = key.path();
        let slice = slice.filter(|slice| !slice.service.is_empty());
        let service = slice.as_ref().map(|slice| (key.namespace.clone(), slice.service.clone()));
        let before = match &service {
            Some(service) => self.services_of_slices.insert(key.clone(), service.clone()),
            None => self.services_of_slices.remove(key),
        };
        if let Some(before) = before.filter(|before| Some(before) != service.as_ref()) {
            self.set_slice(&before, name.clone(), None);
        }
        if let (Some(service), Some(slice)) = (service, slice) {
            let kinds::EndpointSlice { addresses, ports, .. } = slice;
            self.set_slice(&service, name, Some(&Slice { addresses, ports }));
        }
    }

    fn settle_host(&mut self, name: &ArcStr, host: Option<Host>, out: &mut Out) {
        if self.hosts.get(name) == host.as_ref() {
            return;
        }
        match &host {
            Some(host) => self.hosts.insert(name.clone(), host.clone()),
            None => self.hosts.remove(name),
        };
        out.set(Topic::host(name), name.clone(), host.map(|host| Entry::Host(host.into())));
    }
}

fn is_bgp(key: &Key) -> bool {
    matches!(key.kind, Kind::BGPPeer | Kind::BGPFilter)
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

/// Objects whose spec nodes read themselves, with topic and key.
fn config_topic(key: &Key) -> Option<(Topic, ArcStr)> {
    match (key.kind, key.name.as_str()) {
        (
            Kind::FelixConfiguration | Kind::BGPConfiguration | Kind::ClusterInformation,
            "default",
        )
        | (Kind::Tier, _) => Some((Topic::Config, arcstr::format!("{}/{}", key.kind, key.name))),
        (Kind::FelixConfiguration | Kind::BGPConfiguration, name) => {
            let node = name.strip_prefix("node.")?;
            let of = if key.kind == Kind::BGPConfiguration { "bgpconfig" } else { "config" };
            let topic = if Planted::OverrideForAll.is_here() {
                Topic::Config
            } else {
                Topic::Node(node.into())
            };
            Some((topic, arcstr::format!("{of}/{name}")))
        }
        _ => None,
    }
}

fn config_spec(value: &Value) -> String {
    value
        .get("spec")
        .filter(|spec| !spec.is_null())
        .map_or_else(|| "{}".to_owned(), json::canonical)
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
