//! Stage zero: what an object says, and what follows from it at once.

use arcstr::ArcStr;
use model::{
    Key, Kind, Stored,
    kinds::{self, Invalid, Resource, Spec, StagedAction},
    view::{ConfigEntry, Entry, Host, Topic, res_shard},
};
use serde_json::Value;

use super::{DEFAULT_ALLOW, Engine, Known, is_policy, worse};
use crate::{
    endpoints::{self, Item, Read},
    hosts,
    index::fingerprint,
    json,
    output::Out,
    planted::Planted,
    policies::Pol,
    problem::{Effect, Problem},
    sets::Slice,
    slab::Id,
    staged,
};

/// An object as it was read, until the next flush.
pub(super) struct Pending {
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

/// An object for the full view.
enum Json {
    /// It is gone, or not JSON.
    Absent,
    /// As it is published.
    Same,
    /// Canonical, and its hash.
    New(Box<str>, u128),
}

fn halves(hash: u128) -> [u64; 2] {
    [(hash >> 64) as u64, hash as u64]
}

impl Engine {
    /// What an object says, before anything follows from it.
    pub(super) fn read_object(&mut self, key: &Key, value: Option<&Stored>) -> Pending {
        let read = value.map(|stored| staged::decode(key, stored, &mut self.strings.texts));
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
        Pending { said, json, config }
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

    /// One object is now this.
    pub(super) fn settle(&mut self, key: Key, pending: Pending, out: &mut Out) {
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
                let namespace = metadata.namespace(&key);
                problem = self.set_policy(&key, namespace, known_policy, &policy, problem);
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
        self.settle_problem(key, problem);
    }

    fn settle_problem(&mut self, key: Key, problem: Option<Problem>) {
        if self.problems.get(&key) == problem.as_ref() {
            return;
        }
        match problem {
            Some(problem) => self.problems.insert(key, problem),
            None => self.problems.remove(&key),
        };
        self.problem_changes += 1;
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
