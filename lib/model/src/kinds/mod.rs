//! The resources that the system acts on, read from what a store holds.
//!
//! Reading is a pure function of one object: it needs no history, no other object and no clock, so
//! that every replica agrees. It reads as leniently as Calico does, and what it can't read it
//! names. There are two grades of damage:
//!
//! - [`decode`] fails: nothing of the object can be used, and it counts as absent.
//! - the object is read, and [`Resource::faults`] names the parts that were left out: an address of
//!   a node, a member of a set, one allocation of a block. Rules of policies keep their own faults
//!   beside each condition, because what a missing condition means depends on the rule's action.

mod config;
mod endpoint;
mod endpoint_slice;
mod failsafe;
mod host_endpoint;
mod ipam;
mod net;
mod node;
mod policy;
mod read;
mod texts;
mod time;

use std::{cell::RefCell, fmt, mem};

use arcstr::ArcStr;
pub use config::{ClusterInformation, FelixConfiguration, SpecMap};
pub use endpoint::{EndpointId, EndpointPort, NetworkSet, WorkloadEndpoint};
pub use endpoint_slice::EndpointSlice;
pub use failsafe::FailsafePort;
pub use host_endpoint::HostEndpoint;
pub use ipam::{Affinity, Attribute, IPAMBlock, IPPool};
pub use net::{parse_ip, parse_net};
pub use node::{Node, OrchRef};
pub use policy::{
    Conditions, Direction, Entries, Icmp, Order, PROTOCOLS, Policy, PortMatch, Profile, Rule,
    ServiceAccounts, ServiceRef, StagedAction, Tier, has_ports, parse_protocol, protocol_text,
};
use serde_json::Value;
pub use texts::Texts;
pub(crate) use time::parse_time;

use self::read::{Fields, Path};
use crate::{Key, Kind, Stored, translate};

/// Labels, sorted by key.
pub type Labels = Vec<(ArcStr, ArcStr)>;

/// Why an object, or a part of it, can't be used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub struct Invalid {
    /// Path of the field, for example `spec.ingress[0].source.nets[1]`; empty: the object itself.
    pub field: String,
    /// What it holds, as JSON, shortened.
    pub value: String,
    /// What is wrong with it and what would be right.
    pub reason: String,
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        if !self.value.is_empty() {
            write!(f, "{}: ", self.value)?;
        }
        f.write_str(&self.reason)
    }
}

/// What every object has.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Metadata {
    /// `metadata.uid`; empty: none.
    pub uid: ArcStr,
    /// `metadata.namespace`; empty: none.
    pub namespace: ArcStr,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `metadata.annotations`, without the ones that Calico keeps its own metadata in.
    pub annotations: Labels,
}

/// An object that was read. Its name is that of its [`Key`]; for its namespace see
/// [`Metadata::namespace`].
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// uid, labels, annotations.
    pub metadata: Metadata,
    /// What it says.
    pub spec: Spec,
    /// Parts that were left out because they can't be read.
    pub faults: Vec<Invalid>,
}

impl Metadata {
    /// The namespace that an object of this key acts in: its value says it, as in Calico; where that
    /// says none, the key. None: its kind has none.
    pub fn namespace<'n>(&'n self, key: &'n Key) -> Option<&'n str> {
        let said = if self.namespace.is_empty() { &key.namespace } else { &self.namespace };
        key.kind.is_namespaced().then_some(said.as_str())
    }
}

/// The contents of an object, by kind.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each variant is the kind's own name")]
#[allow(clippy::large_enum_variant, reason = "it is taken apart at once, never kept in bulk")]
pub enum Spec {
    ClusterInformation(ClusterInformation),
    EndpointSlice(EndpointSlice),
    FelixConfiguration(FelixConfiguration),
    GlobalNetworkPolicy(Policy),
    GlobalNetworkSet(NetworkSet),
    HostEndpoint(HostEndpoint),
    IPAMBlock(IPAMBlock),
    IPPool(IPPool),
    NetworkPolicy(Policy),
    NetworkSet(NetworkSet),
    Node(Node),
    Profile(Profile),
    StagedGlobalNetworkPolicy(Policy),
    StagedNetworkPolicy(Policy),
    Tier(Tier),
    WorkloadEndpoint(WorkloadEndpoint),
    /// A kind that nothing acts on yet. It is still part of the FULL view, as JSON.
    Other,
}

/// Reads an object of any kind.
///
/// # Errors
/// [`Invalid`] when the object as a whole can't be used: it isn't JSON, not an object, or lacks
/// what gives it its place.
pub fn decode(key: &Key, stored: &Stored) -> Result<Resource, Invalid> {
    decode_sharing(key, stored, &mut Texts::default())
}

/// [`decode`] of one object of many: its labels, selectors and names of profiles share their memory with equal ones of
/// the others.
///
/// # Errors
/// See [`decode`].
pub fn decode_sharing(key: &Key, stored: &Stored, texts: &mut Texts) -> Result<Resource, Invalid> {
    let cell = RefCell::new(mem::take(texts));
    let read = read(key, stored, &cell);
    *texts = cell.into_inner();
    read
}

fn read(key: &Key, stored: &Stored, texts: &RefCell<Texts>) -> Result<Resource, Invalid> {
    let value = match stored {
        Stored::Json(value) => value,
        Stored::Raw(bytes) => {
            return Err(Invalid {
                field: String::new(),
                value: read::shorten(&String::from_utf8_lossy(bytes)),
                reason: "not JSON".to_owned(),
            });
        }
    };
    let root = Path::root(texts);
    // `null` and `{}` are objects without any field, as in Go.
    let object = Fields::of(&root, Some(value))?;
    let mut faults = translate::faults(value);
    if !faults.is_empty() && !object.has("spec") {
        return Err(faults.swap_remove(0));
    }
    let metadata_path = object.path("metadata");
    let metadata = read_metadata(object.child(&metadata_path)?, key.kind, &mut faults)?;
    let spec_path = object.path("spec");
    let spec = || object.child(&spec_path);
    let spec = match key.kind {
        Kind::ClusterInformation => Spec::ClusterInformation(ClusterInformation::read(spec()?)?),
        Kind::EndpointSlice => {
            Spec::EndpointSlice(EndpointSlice::read(object, &metadata.labels, &mut faults)?)
        }
        Kind::FelixConfiguration => Spec::FelixConfiguration(FelixConfiguration::read(spec()?)),
        Kind::GlobalNetworkPolicy | Kind::KubernetesClusterNetworkPolicy => {
            Spec::GlobalNetworkPolicy(Policy::read(spec()?, true, &mut faults)?)
        }
        Kind::GlobalNetworkSet => Spec::GlobalNetworkSet(NetworkSet::read(spec()?, &mut faults)?),
        Kind::HostEndpoint => Spec::HostEndpoint(HostEndpoint::read(spec()?, &mut faults)?),
        // Flat in etcd, below `spec` in Kubernetes.
        Kind::IPAMBlock if object.has("spec") => {
            Spec::IPAMBlock(IPAMBlock::read(spec()?, true, &mut faults)?)
        }
        Kind::IPAMBlock => Spec::IPAMBlock(IPAMBlock::read(object, false, &mut faults)?),
        Kind::IPPool => Spec::IPPool(IPPool::read(spec()?, &mut faults)?),
        Kind::NetworkPolicy | Kind::KubernetesNetworkPolicy => {
            Spec::NetworkPolicy(Policy::read(spec()?, false, &mut faults)?)
        }
        Kind::NetworkSet => Spec::NetworkSet(NetworkSet::read(spec()?, &mut faults)?),
        Kind::Node => {
            let status_path = object.path("status");
            // A status that can't be read holds only WireGuard's keys: the rest goes on.
            let status = object.child(&status_path).unwrap_or_else(|fault| {
                faults.push(fault);
                Fields::empty(&status_path)
            });
            Spec::Node(Node::read(spec()?, status, &mut faults))
        }
        Kind::Profile => Spec::Profile(Profile::read(spec()?, &mut faults)),
        Kind::StagedGlobalNetworkPolicy => {
            Spec::StagedGlobalNetworkPolicy(Policy::read_staged(spec()?, true, &mut faults)?)
        }
        Kind::StagedNetworkPolicy => {
            Spec::StagedNetworkPolicy(Policy::read_staged(spec()?, false, &mut faults)?)
        }
        Kind::Tier => Spec::Tier(Tier::read(spec()?)?),
        Kind::WorkloadEndpoint => {
            Spec::WorkloadEndpoint(WorkloadEndpoint::read(key, spec()?, &mut faults)?)
        }
        _ => {
            spec()?;
            Spec::Other
        }
    };
    Ok(Resource { metadata, spec, faults })
}

/// Annotations in which Calico's datastore keeps copies of the object itself.
const OWN_ANNOTATIONS: &[&str] =
    &["projectcalico.org/metadata", "kubectl.kubernetes.io/last-applied-configuration"];

fn read_metadata(
    fields: Fields<'_>,
    kind: Kind,
    faults: &mut Vec<Invalid>,
) -> Result<Metadata, Invalid> {
    let labels = match fields.labels("labels") {
        Ok(labels) => labels,
        // Without its labels an endpoint or a set would be another one; for the rest they mean
        // nothing here.
        Err(fault) => match kind {
            Kind::WorkloadEndpoint
            | Kind::HostEndpoint
            | Kind::NetworkSet
            | Kind::GlobalNetworkSet => {
                return Err(fault);
            }
            _ => {
                faults.push(fault);
                Labels::new()
            }
        },
    };
    let mut annotations = fields.labels("annotations").unwrap_or_else(|fault| {
        faults.push(fault);
        Labels::new()
    });
    annotations.retain(|(key, _)| !OWN_ANNOTATIONS.contains(&key.as_str()));
    let mut or_none = |text: Result<ArcStr, Invalid>| {
        text.unwrap_or_else(|fault| {
            faults.push(fault);
            ArcStr::new()
        })
    };
    let uid = or_none(fields.text("uid"));
    let namespace = or_none(fields.shared("namespace"));
    Ok(Metadata { uid, namespace, labels, annotations })
}

/// The value as text for messages.
fn show(value: &Value) -> String {
    read::shorten(&value.to_string())
}

#[cfg(test)]
mod tests;
