//! What the engine knows beyond what it says to nodes: for reports, explanations and comparisons.
//!
//! Everything here is worked out when it is asked for, from the engine's own tables and indexes and
//! the objects that it was told to keep ([`Engine::keep_objects`]). Nothing of it is published.

mod routes;
mod sets;

use std::collections::{BTreeMap, BTreeSet};

use arcstr::ArcStr;
use model::{
    Key, Kind, Stored,
    kinds::{Labels, Metadata, Node, Policy, Resource, Spec, Texts},
    view::{Host, PolicyId, Rule},
};
pub use routes::{Along, RouteLine, RouteSource, Tunnels, route_lines};
pub use sets::{InspectedSet, SetContent};

use serde_json::Value;

use crate::{
    Engine,
    endpoints::{Data, Item, LocalEntry},
    policies::{List, Place, Pol},
    rules::{Scope, one_rule},
    scope,
    slab::Id,
    staged,
};

/// An endpoint of a node, with its lists as reports have them: staged policies included.
#[derive(Clone, Debug, PartialEq)]
pub struct InspectedEndpoint {
    /// Its object.
    pub key: Key,
    /// Its labels, inherited ones included, sorted.
    pub labels: Labels,
    /// At the node's and the workload's own packets.
    pub tiers: Vec<InspectedTier>,
    /// At forwarded packets; of host endpoints only, as those that follow.
    pub forward: Vec<InspectedTier>,
    /// Before connection tracking.
    pub untracked: Vec<InspectedTier>,
    /// Before destination NAT.
    pub pre_dnat: Vec<InspectedTier>,
}

/// A tier with a policy that selects an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct InspectedTier {
    /// Its name.
    pub name: ArcStr,
    /// Whether its end passes on; none: the tier doesn't exist, and its end denies.
    pub default_pass: Option<bool>,
    /// For packets to the endpoint, first one first.
    pub ingress: Vec<PolicyId>,
    /// For packets from the endpoint, first one first.
    pub egress: Vec<PolicyId>,
}

/// A policy that selects an endpoint of a node, or whose rules a node is to have anyway.
#[derive(Clone, Debug, PartialEq)]
pub struct InspectedPolicy {
    /// Its object.
    pub key: Key,
    /// The namespace that it acts in; empty: none.
    pub namespace: ArcStr,
    /// As it was written.
    pub policy: Policy,
    /// What it selects, as one selector in canonical form.
    pub selector: String,
    /// Each rule as written, by its place, and what nodes get of it; none: it matches nothing.
    pub ingress: Vec<Option<Rule>>,
    /// Likewise.
    pub egress: Vec<Option<Rule>>,
    /// The IP sets that its rules name.
    pub sets: BTreeSet<ArcStr>,
}

/// A profile that an endpoint of a node names.
#[derive(Clone, Debug, PartialEq)]
pub struct InspectedProfile {
    /// False: there is none, and it denies.
    pub exists: bool,
    /// As [`InspectedPolicy::ingress`].
    pub ingress: Vec<Option<Rule>>,
    /// Likewise.
    pub egress: Vec<Option<Rule>>,
    /// The IP sets that its rules name.
    pub sets: BTreeSet<ArcStr>,
}

impl Engine {
    /// An engine that keeps each object as it was stored, for all that is asked here.
    #[must_use]
    pub fn keep_objects(mut self) -> Self {
        self.kept = Some(BTreeMap::new());
        self
    }

    /// The objects that were kept, as of the last update.
    pub fn objects(&self) -> impl Iterator<Item = (&Key, &Stored)> {
        self.kept.iter().flatten()
    }

    /// An object as it was stored.
    pub fn object(&self, key: &Key) -> Option<&Stored> {
        self.kept.as_ref()?.get(key)
    }

    /// The spec of an object as it was written; of a staged Kubernetes policy, as it is translated.
    pub fn spec(&self, key: &Key) -> Option<Value> {
        let Stored::Json(value) = self.object(key)? else { return None };
        if key.kind == Kind::StagedKubernetesNetworkPolicy {
            let mut objects = staged::translated(key, value).objects;
            return objects.first_mut().map(|object| object["spec"].take());
        }
        Some(value["spec"].clone())
    }

    /// An object as it is read; none: it isn't there, or counts as absent.
    pub fn read(&self, key: &Key) -> Option<Resource> {
        staged::decode(key, self.object(key)?, &mut Texts::default()).ok()
    }

    /// The endpoints of a node, sorted by key.
    pub fn endpoints(&self, node: &str) -> Vec<InspectedEndpoint> {
        let mut endpoints = Vec::new();
        for (key, known) in &self.objects {
            let Some(item) = known.item.map(|id| &self.items[id]) else { continue };
            let Data::Endpoint(local) = &item.data else { continue };
            if self.nodes.slab[local.node].name != node {
                continue;
            }
            let is_host = matches!(local.entry, LocalEntry::Host(_));
            let selecting = self.selecting(item);
            let tiers = |list: List| self.tiers(list, &selecting);
            let of_host = |list: List| if is_host { tiers(list) } else { Vec::new() };
            endpoints.push(InspectedEndpoint {
                key: key.clone(),
                labels: self.labels_of(item),
                tiers: tiers(List::Normal),
                forward: of_host(List::Forward),
                untracked: of_host(List::Untracked),
                pre_dnat: of_host(List::PreDnat),
            });
        }
        endpoints.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        endpoints
    }

    fn labels_of(&self, item: &Item) -> Labels {
        let labels = item.class.map_or(&item.own, |class| &self.index.classes[class].labels);
        labels.iter().map(|(key, value)| (ArcStr::clone(key), ArcStr::clone(value))).collect()
    }

    fn selecting(&self, item: &Item) -> Vec<(Id<Pol>, &Place)> {
        let class = item.class.map(|class| &self.index.classes[class]);
        class.map(|class| self.policies.selecting(class, &self.index)).unwrap_or_default()
    }

    fn tiers(&self, list: List, selecting: &[(Id<Pol>, &Place)]) -> Vec<InspectedTier> {
        let held = selecting.iter().filter(|(_, place)| list.holds(place)).copied();
        let held = held.collect::<Vec<_>>();
        let tiers = held.chunk_by(|(_, a), (_, b)| a.tier == b.tier).map(|policies| {
            let tier = &self.policies.tiers[policies[0].1.tier];
            let ids = |acts: fn(&Place) -> bool| {
                let acting = policies.iter().filter(|(_, place)| acts(place));
                acting.map(|(id, _)| self.policies.slab[*id].id.clone()).collect()
            };
            let default_pass = tier.exists().then(|| tier.default_pass());
            InspectedTier {
                name: tier.name().clone(),
                default_pass: if list.passes() { Some(true) } else { default_pass },
                ingress: ids(|place| place.ingress),
                egress: ids(|place| place.egress),
            }
        });
        tiers.collect()
    }

    /// The policies that select an endpoint of a node, and those that every node is to have, by the
    /// hint `AssumeNeededOnEveryNode`. Sorted by key. `pending`: endpoints without an address count.
    pub fn policies_of(&self, node: &str, pending: bool) -> Vec<InspectedPolicy> {
        let mut selecting = BTreeSet::new();
        for item in self.items.iter() {
            let Data::Endpoint(local) = &item.data else { continue };
            let class = item.class.map(|class| &self.index.classes[class]);
            if let Some(class) = class
                && self.nodes.slab[local.node].name == node
                && (pending || !local.entry.is_pending())
            {
                let policies =
                    class.selectors.iter().flat_map(|sel| &self.index.selectors[*sel].policies);
                selecting.extend(policies.copied());
            }
        }
        let mut found = Vec::new();
        for (key, known) in &self.objects {
            let Some(id) = known.policy else { continue };
            if selecting.contains(&id) || self.is_for_every_node(key) {
                found.extend(self.inspect_policy(key, id));
            }
        }
        found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        found
    }

    fn is_for_every_node(&self, key: &Key) -> bool {
        let Some(Stored::Json(value)) = self.object(key) else { return false };
        let hints = value["spec"]["performanceHints"].as_array();
        hints.into_iter().flatten().any(|hint| hint == "AssumeNeededOnEveryNode")
    }

    /// A policy, whatever it selects; none: it isn't there, or selects nothing.
    pub fn policy(&self, key: &Key) -> Option<InspectedPolicy> {
        self.inspect_policy(key, self.objects.get(key)?.policy?)
    }

    fn inspect_policy(&self, key: &Key, id: Id<Pol>) -> Option<InspectedPolicy> {
        let Resource { metadata, spec, .. } = self.read(key)?;
        let (Spec::NetworkPolicy(policy)
        | Spec::GlobalNetworkPolicy(policy)
        | Spec::StagedNetworkPolicy(policy)
        | Spec::StagedGlobalNetworkPolicy(policy)) = spec
        else {
            return None;
        };
        let selector = self.policies.slab[id].selector?;
        let namespace = metadata.namespace(key);
        let scope = Scope { namespace, services: self.services, repeats: true };
        let mut sets = BTreeMap::new();
        let mut rules = |rules: &[model::kinds::Rule]| {
            rules.iter().map(|rule| one_rule(scope, rule, &mut sets)).collect::<Vec<_>>()
        };
        let (ingress, egress) = (rules(&policy.ingress), rules(&policy.egress));
        Some(InspectedPolicy {
            key: key.clone(),
            namespace: namespace.unwrap_or_default().into(),
            selector: self.index.selectors[selector].text(),
            ingress,
            egress,
            sets: sets.into_keys().collect(),
            policy,
        })
    }

    /// The profiles that the endpoints of a node name, by name. `pending`: as for the policies.
    pub fn profiles_of(&self, node: &str, pending: bool) -> BTreeMap<ArcStr, InspectedProfile> {
        let mut names = BTreeSet::new();
        for item in self.items.iter() {
            if let Data::Endpoint(local) = &item.data
                && self.nodes.slab[local.node].name == node
                && (pending || !local.entry.is_pending())
            {
                let parents = item.parents.iter();
                names.extend(parents.map(|id| self.policies.profiles[*id].name.clone()));
            }
        }
        let inspect = |name: ArcStr| {
            let state = &self.policies.profiles[self.policies.profile_by_name[&name]];
            let key = Key::global(Kind::Profile, name.clone());
            let scope = Scope { namespace: None, services: self.services, repeats: true };
            let mut sets = BTreeMap::new();
            let mut rules = |rules: &[model::kinds::Rule]| {
                rules.iter().map(|rule| one_rule(scope, rule, &mut sets)).collect::<Vec<_>>()
            };
            let written = match self.read(&key).map(|resource| resource.spec) {
                Some(Spec::Profile(profile)) if name != crate::engine::DEFAULT_ALLOW => {
                    Some((rules(&profile.ingress), rules(&profile.egress)))
                }
                _ => None,
            };
            let all = |rules: &[Rule]| rules.iter().cloned().map(Some).collect::<Vec<_>>();
            let (ingress, egress) =
                written.unwrap_or_else(|| (all(&state.view.ingress), all(&state.view.egress)));
            let exists = state.labels.is_some();
            (name, InspectedProfile { exists, ingress, egress, sets: sets.into_keys().collect() })
        };
        names.into_iter().map(inspect).collect()
    }

    /// Metadata of an object that was kept.
    pub fn metadata(&self, key: &Key) -> Option<Metadata> {
        self.read(key).map(|resource| resource.metadata)
    }

    /// The endpoints that a policy selects, and why: its selector in canonical form.
    pub fn selector_of(&self, key: &Key) -> Option<String> {
        let id = self.objects.get(key)?.policy?;
        let selector = self.policies.slab[id].selector?;
        Some(self.index.selectors[selector].text())
    }
}

/// A node as other nodes see it, and its object.
#[derive(Clone, Debug, PartialEq)]
pub struct HostLine {
    /// Its name.
    pub name: ArcStr,
    /// Its labels.
    pub labels: Labels,
    /// As it was written.
    pub node: Node,
    /// As it is published.
    pub host: Host,
}

/// All nodes, by name.
pub fn host_lines(engine: &Engine) -> Vec<HostLine> {
    let nodes = engine.objects().filter(|(key, _)| key.kind == Kind::Node);
    let lines = nodes.filter_map(|(key, _)| {
        let resource = engine.read(key)?;
        let Spec::Node(node) = resource.spec else { return None };
        let host = engine.hosts.get(&key.name)?.clone();
        Some(HostLine { name: key.name.clone(), labels: resource.metadata.labels, node, host })
    });
    lines.collect()
}

/// The selector of a policy in canonical form; none: it can't be read.
pub fn policy_selector(key: &Key, policy: &Policy) -> Option<String> {
    let namespace = key.kind.is_namespaced().then_some(key.namespace.as_str());
    scope::policy(namespace, policy).ok().map(|selector| selector.to_string())
}
