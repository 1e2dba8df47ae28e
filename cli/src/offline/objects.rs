//! Manifests as the objects that an API server would hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use anyhow::bail;
use model::{
    Key, Kind, Stored,
    kinds::{has_ports, parse_protocol},
    view::Protocol,
};
use serde_json::{Value, json};

use super::world::TRANSLATED;
use crate::resource::{API_VERSION, CRD_VERSION, builtin, kinds::nearest, manifest, shape, stored};

/// Kinds of Kubernetes that mean something here, and whether they live in a namespace.
const KUBERNETES: &[(&str, bool)] = &[
    ("ClusterNetworkPolicy", false),
    ("EndpointSlice", true),
    ("Namespace", false),
    ("NetworkPolicy", true),
    ("Pod", true),
    ("Service", true),
    ("ServiceAccount", true),
];

/// Kinds of policies that became another kind, and the tier there.
const INSTEAD: &[(&str, &str)] =
    &[("AdminNetworkPolicy", "Admin"), ("BaselineAdminNetworkPolicy", "Baseline")];

/// What makes two manifests the same object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Identity {
    calico: bool,
    kind: String,
    namespace: String,
    name: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, namespace, name, .. } = self;
        let slash = if namespace.is_empty() { "" } else { "/" };
        write!(f, "{kind} {namespace}{slash}{name}")
    }
}

/// An object and the place where it was written.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    /// Empty: nobody wrote it, an API server adds it.
    pub(crate) origin: String,
    /// Of Calico's API group.
    pub(crate) calico: bool,
    pub(crate) value: Value,
    /// Of an object that a store has: the value is what is stored, whole.
    pub(crate) stored: Option<Key>,
}

/// All objects of a cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct Objects {
    placed: BTreeMap<Identity, Placed>,
    /// What was left out, by kind.
    ignored: BTreeMap<String, usize>,
    /// Objects that were written twice, each time in another way.
    doubled: Vec<String>,
}

impl Objects {
    /// Reads files and folders. `namespace`: of objects that need one and name none.
    ///
    /// # Errors
    /// Every document that can't be read, and an empty result.
    pub(crate) fn read(files: &[String], recursive: bool, namespace: &str) -> anyhow::Result<Self> {
        let mut objects = Self::default();
        let mut faults = Vec::new();
        for (origin, document) in manifest::read_json(files, recursive)? {
            match document {
                Ok(document) => {
                    for object in listed(document) {
                        let added = objects.add(&origin.to_string(), object, namespace);
                        faults.extend(added.err().map(|fault| format!("{origin}: {fault}")));
                    }
                }
                Err(fault) => faults.push(format!("{origin}: {fault}")),
            }
        }
        if !faults.is_empty() {
            bail!("the manifests have faults:\n  {}", faults.join("\n  "));
        }
        if objects.placed.is_empty() {
            let ignored = objects.ignored().map(|it| format!("; {it}")).unwrap_or_default();
            bail!("no pods, policies or namespaces in {}{ignored}", files.join(", "));
        }
        Ok(objects)
    }

    fn add(&mut self, origin: &str, mut value: Value, default: &str) -> Result<(), String> {
        let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
        let (version, kind) = (text("apiVersion"), text("kind"));
        if kind.is_empty() {
            return Err("kind: is missing; write for example kind: Pod".to_owned());
        }
        let of_group = |known: &str| version.split('/').next() == known.split('/').next();
        let calico = of_group(API_VERSION) || of_group(CRD_VERSION);
        refuse(&version, &kind, calico).map_err(|rule| {
            let name = named(&value);
            let space = if name.is_empty() { "" } else { " " };
            format!("{kind}{space}{name}: {rule}")
        })?;
        let namespaced = if calico {
            kind.parse::<Kind>().ok().map(Kind::is_namespaced)
        } else {
            KUBERNETES.iter().find(|(known, _)| *known == kind).map(|(_, it)| *it)
        };
        let Some(namespaced) = namespaced else {
            *self.ignored.entry(kind).or_default() += 1;
            return Ok(());
        };
        let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) else {
            return Err(format!("{kind}: metadata: is missing; every object has a name"));
        };
        let text =
            |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        let name = match metadata.get("name") {
            // As a write of it has it: Calico's are taken without quotes.
            Some(name @ (Value::Bool(_) | Value::Number(_))) if calico => name.to_string(),
            Some(name) if !name.is_string() => {
                return Err(format!("{kind}: metadata.name: {name} is no text; put it in quotes"));
            }
            name => text(name),
        };
        if name.is_empty() {
            return Err(format!("{kind}: metadata.name: is missing; every object has a name"));
        }
        let mut namespace = String::new();
        if namespaced {
            namespace = text(metadata.get("namespace"));
            if namespace.is_empty() {
                default.clone_into(&mut namespace);
                metadata.insert("namespace".to_owned(), json!(namespace));
            }
        }
        // The backends of a service are stored as Kubernetes has them.
        let slice = (kind == "EndpointSlice" && !calico)
            .then(|| Key::namespaced(Kind::EndpointSlice, &namespace, &name));
        let identity = Identity { calico, kind, namespace, name };
        let placed = Placed { origin: origin.to_owned(), calico, value, stored: slice };
        let other = self.placed.insert(identity.clone(), placed.clone());
        if let Some(other) = other.filter(|other| other.value != placed.value) {
            let first = other.origin;
            self.doubled.push(format!("{origin}: {identity} is also in {first}: this one counts"));
        }
        Ok(())
    }

    /// Adds an object as a store has it. A manifest that is laid over it takes its place, also where Kubernetes' own
    /// object is stored as what Calico makes of it.
    pub(crate) fn add_stored(&mut self, key: Key, value: Value) {
        let mut identity = identity(&key, &value);
        if self.placed.contains_key(&identity) {
            // A pod with several links: it is the first of them.
            identity = as_stored(&key, key.name.as_str());
        }
        let calico = identity.calico;
        let placed = Placed { origin: String::new(), calico, value, stored: Some(key) };
        self.placed.insert(identity, placed);
    }

    /// These objects written over the ones that are there.
    pub(crate) fn overlaid(&self, other: &Self) -> Self {
        let mut all = self.clone();
        all.placed.extend(other.placed.clone());
        all.doubled.extend(other.doubled.clone());
        for (kind, count) in &other.ignored {
            *all.ignored.entry(kind.clone()).or_default() += count;
        }
        all
    }

    /// These objects without the other ones.
    ///
    /// # Errors
    /// Each of the others that isn't there.
    pub(crate) fn without(&self, others: &Self) -> anyhow::Result<Self> {
        let mut all = self.clone();
        let mut missing = Vec::new();
        for (identity, object) in &others.placed {
            if all.placed.remove(identity).is_none() {
                missing.push(format!("{}: {identity}", object.origin));
            }
        }
        if !missing.is_empty() {
            bail!("what is to be deleted isn't there:\n  {}", missing.join("\n  "));
        }
        Ok(all)
    }

    /// Objects as someone wrote them.
    pub(crate) fn written(&self) -> impl Iterator<Item = &Placed> {
        self.placed.values().filter(|it| it.stored.is_none())
    }

    /// Whether there is a tier of this name.
    pub(crate) fn has_tier(&self, name: &str) -> bool {
        let key = Key::global(Kind::Tier, name);
        self.placed.contains_key(&as_stored(&key, name))
            || builtin::initial_objects("").iter().any(|(builtin, _)| *builtin == key)
    }

    /// Objects that were written twice, each time in another way, a line each.
    pub(crate) fn doubled(&self) -> &[String] {
        &self.doubled
    }

    /// The cluster with its staged policies enforced; none: it has none.
    pub(crate) fn with_staged(&self) -> Option<Self> {
        let mut all = self.clone();
        let mut any = false;
        for (identity, object) in &self.placed {
            let Some(kind) = identity.kind.strip_prefix("Staged").filter(|_| identity.calico)
            else {
                continue;
            };
            any = true;
            let kubernetes = kind == "KubernetesNetworkPolicy";
            let (kind, version) = if kubernetes {
                ("NetworkPolicy", "networking.k8s.io/v1")
            } else {
                (kind, API_VERSION)
            };
            all.placed.remove(identity);
            let enforced =
                Identity { calico: !kubernetes, kind: kind.to_owned(), ..identity.clone() };
            let mut value = object.value.clone();
            value["apiVersion"] = json!(version);
            value["kind"] = json!(kind);
            let spec = value["spec"].as_object_mut();
            let action = spec.and_then(|spec| spec.remove("stagedAction"));
            if action.is_some_and(|action| action == "Delete") {
                all.placed.remove(&enforced);
            } else {
                // One of Kubernetes' form is translated.
                let stored = object.stored.clone().filter(|_| !kubernetes);
                let stored = stored.and_then(|key| Some(Key { kind: kind.parse().ok()?, ..key }));
                let placed = Placed { calico: !kubernetes, value, stored, ..object.clone() };
                all.placed.insert(enforced, placed);
            }
        }
        any.then_some(all)
    }

    /// The ports of pods and those that rules name by number: where policies can differ.
    pub(crate) fn ports(&self) -> BTreeSet<(u16, Protocol)> {
        let mut ports = BTreeSet::new();
        // Policies see the ports of the pods behind a service, not its own.
        let seen = self.placed.iter().filter(|(identity, _)| identity.kind != "Service");
        for (_, object) in seen {
            find_ports(&object.value, &mut ports);
        }
        ports
    }

    /// Kinds that say nothing about who reaches whom, and how many objects there are of each; none: there are none.
    pub(crate) fn ignored(&self) -> Option<String> {
        let kinds = self.ignored.iter().map(|(kind, count)| {
            let instead = INSTEAD.iter().find(|(other, _)| kind == other);
            let instead = instead.map(|(_, tier)| {
                format!(" (acts on nothing here: write a ClusterNetworkPolicy of tier {tier})")
            });
            format!("{count} {kind}{}", instead.unwrap_or_default())
        });
        let kinds = kinds.collect::<Vec<_>>();
        (!kinds.is_empty()).then(|| format!("ignored: {}", kinds.join(", ")))
    }

    /// The objects, with what an API server fills in and adds: uids, a pod's node and service
    /// account, the namespaces and service accounts that pods name, a namespace's own label.
    pub(crate) fn complete(&self) -> Vec<Placed> {
        let mut objects = self.placed.clone();
        for (identity, object) in &mut objects {
            if identity.kind == "Pod" && !identity.calico && object.stored.is_none() {
                complete_pod(&mut object.value);
            }
        }
        let mut implied = BTreeSet::new();
        let written =
            objects.iter().filter(|(identity, object)| !identity.calico && object.stored.is_none());
        for (identity, object) in written {
            let namespace = identity.namespace.clone();
            let account = object.value["spec"]["serviceAccountName"].as_str();
            if let Some(account) = account.filter(|_| identity.kind == "Pod") {
                implied.insert(("ServiceAccount", namespace.clone(), account.to_owned()));
            }
            if !namespace.is_empty() {
                implied.insert(("Namespace", String::new(), namespace));
            }
        }
        for (kind, namespace, name) in implied {
            let metadata = match kind {
                "Namespace" => json!({"name": name}),
                _ => json!({"name": name, "namespace": namespace}),
            };
            let value = json!({"apiVersion": "v1", "kind": kind, "metadata": metadata});
            let identity = Identity { calico: false, kind: kind.to_owned(), namespace, name };
            let origin = String::new();
            let placed = Placed { origin, calico: false, value, stored: None };
            objects.entry(identity).or_insert(placed);
        }
        for (index, (identity, object)) in objects.iter_mut().enumerate() {
            let Some(metadata) = object.value["metadata"].as_object_mut() else { continue };
            if identity.calico || object.stored.is_some() {
                continue;
            }
            let uid = uuid::Uuid::from_u128(index as u128 + 1).to_string();
            metadata.entry("uid").or_insert_with(|| json!(uid));
            if identity.kind == "Namespace" {
                let labels = metadata.entry("labels").or_insert_with(|| json!({}));
                if let Some(labels) = labels.as_object_mut() {
                    labels.insert("kubernetes.io/metadata.name".to_owned(), json!(identity.name));
                }
            }
        }
        let mut all = objects.into_values().collect::<Vec<_>>();
        // The cluster's own tiers, unless they are written.
        for (key, object) in builtin::initial_objects("") {
            if key.kind == Kind::Tier && !self.placed.contains_key(&as_stored(&key, &key.name)) {
                let value = Value::Object(object);
                all.push(Placed { origin: String::new(), calico: true, value, stored: None });
            }
        }
        all
    }
}

/// What the manifest of a stored object would be.
fn identity(key: &Key, value: &Value) -> Identity {
    let kubernetes = |kind: &str, namespace: &str, name: &str| Identity {
        calico: false,
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    };
    let (namespace, name) = (key.namespace.as_str(), key.name.as_str());
    let pod = value["spec"]["pod"].as_str().filter(|_| value["spec"]["orchestrator"] == "k8s");
    match (key.kind, name.strip_prefix(TRANSLATED), pod) {
        (Kind::KubernetesNetworkPolicy, ..) => kubernetes("NetworkPolicy", namespace, name),
        (Kind::NetworkPolicy, Some(name), _) => kubernetes("NetworkPolicy", namespace, name),
        (Kind::KubernetesClusterNetworkPolicy, ..) => kubernetes("ClusterNetworkPolicy", "", name),
        (Kind::EndpointSlice, ..) => kubernetes("EndpointSlice", namespace, name),
        (Kind::WorkloadEndpoint, _, Some(pod)) => kubernetes("Pod", namespace, pod),
        (Kind::Profile, ..) if name.starts_with("kns.") => kubernetes("Namespace", "", &name[4..]),
        (Kind::Profile, ..) if name.starts_with("ksa.") => {
            let (namespace, name) = name[4..].split_once('.').unwrap_or_default();
            kubernetes("ServiceAccount", namespace, name)
        }
        _ => {
            // A policy's true name may be in an annotation.
            let shown = stored::present(key, Stored::Json(value.clone()), 0).unwrap_or_default();
            as_stored(key, shown["metadata"]["name"].as_str().unwrap_or(name))
        }
    }
}

/// Of Calico's own object with this name.
fn as_stored(key: &Key, name: &str) -> Identity {
    let (kind, namespace) = (key.kind.name().to_owned(), key.namespace.to_string());
    Identity { calico: true, kind, namespace, name: name.to_owned() }
}

/// Why nobody would take an object of this version and kind: its author believes that it acts, and it would say nothing
/// about who reaches whom.
fn refuse(version: &str, kind: &str, calico: bool) -> Result<(), String> {
    let is_known = kind.parse::<Kind>().is_ok();
    if version.is_empty() && is_known {
        let other = if kind == "NetworkPolicy" { ", or networking.k8s.io/v1" } else { "" };
        return Err(format!("apiVersion: is missing; write {API_VERSION}{other}"));
    }
    if !calico {
        return Ok(());
    }
    if version != API_VERSION && version != CRD_VERSION {
        return Err(format!("apiVersion: {version:?} isn't known here; write {API_VERSION}"));
    }
    match nearest(kind, Kind::all().map(Kind::name)) {
        Some(near) if !is_known => {
            Err(format!("kind: {kind:?} is no kind of {version}; did you mean {near}?"))
        }
        _ => Ok(()),
    }
}

/// The name that an object says, with its namespace.
pub(crate) fn named(value: &Value) -> String {
    let text = |field: &str| value["metadata"][field].as_str().unwrap_or_default();
    let slash = if text("namespace").is_empty() { "" } else { "/" };
    format!("{}{slash}{}", text("namespace"), text("name"))
}

/// Looks for `containerPort`s of pods and for `ports` of rules, wherever they are.
fn find_ports(value: &Value, ports: &mut BTreeSet<(u16, Protocol)>) {
    let number = |value: &Value| {
        let text = value.as_str().and_then(|text| text.split(':').next()?.parse().ok());
        value.as_u64().and_then(|number| u16::try_from(number).ok()).or(text).filter(|it| *it > 0)
    };
    let protocol = |value: &Value| {
        let protocol = match value {
            Value::String(text) => parse_protocol(text),
            Value::Number(number) => parse_protocol(&number.to_string()),
            _ => Some(Protocol(6)),
        };
        protocol.filter(|it| has_ports(*it))
    };
    match value {
        Value::Object(fields) => {
            let own = ["containerPort", "port"].iter().find_map(|name| number(fields.get(*name)?));
            if let (Some(number), Some(protocol)) = (own, protocol(&value["protocol"])) {
                ports.insert((number, protocol));
            }
            // Calico's rules have the protocol beside the sides with their ports.
            for side in ["source", "destination"] {
                let listed = value[side]["ports"].as_array().into_iter().flatten();
                for port in listed.filter_map(number) {
                    ports.extend(protocol(&value["protocol"]).map(|protocol| (port, protocol)));
                }
            }
            fields.values().for_each(|value| find_ports(value, ports));
        }
        Value::Array(items) => items.iter().for_each(|value| find_ports(value, ports)),
        _ => {}
    }
}

fn complete_pod(pod: &mut Value) {
    if pod["spec"].is_null() {
        pod["spec"] = json!({});
    }
    let Value::Object(spec) = &mut pod["spec"] else { return };
    spec.entry("nodeName").or_insert_with(|| json!("node"));
    let account = spec.get("serviceAccount").cloned().unwrap_or_else(|| json!("default"));
    spec.entry("serviceAccountName").or_insert(account);
}

/// The items of a `List`, or of a `PodList` and the like; of any other object, itself.
pub(crate) fn listed(mut object: Value) -> Vec<Value> {
    if !object["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) {
        return vec![object];
    }
    let Some(Value::Array(mut items)) = object.get_mut("items").map(Value::take) else {
        return Vec::new();
    };
    shape::complete_items(&object, &mut items);
    items
}
