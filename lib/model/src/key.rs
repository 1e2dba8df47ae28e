//! What a resource is called: its kind, its namespace and its name.
//!
//! A [`Key`] is the same on every datastore; how it is spelled there (an etcd path, a Kubernetes
//! object) is the business of `lib/datastore`.

use std::{fmt, str::FromStr};

use arcstr::ArcStr;

/// A resource kind of Calico's v3 API, one of the objects of its address management, or what is derived from an object
/// of Kubernetes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each variant is the kind's own name")]
pub enum Kind {
    BGPConfiguration,
    BGPFilter,
    BGPPeer,
    BlockAffinity,
    CalicoNodeStatus,
    ClusterInformation,
    FelixConfiguration,
    GlobalNetworkPolicy,
    GlobalNetworkSet,
    HostEndpoint,
    IPAMBlock,
    IPAMConfiguration,
    IPAMHandle,
    IPPool,
    IPReservation,
    KubeControllersConfiguration,
    NetworkPolicy,
    NetworkSet,
    Node,
    Profile,
    StagedGlobalNetworkPolicy,
    StagedKubernetesNetworkPolicy,
    StagedNetworkPolicy,
    Tier,
    WorkloadEndpoint,
    // Derived kinds, which are not among `Kind::all()`.
    KubernetesClusterNetworkPolicy,
    KubernetesNetworkPolicy,
    EndpointSlice,
}

/// How many kinds are Calico's; the derived ones follow them.
const CALICO: usize = Kind::WorkloadEndpoint as usize + 1;

/// One row per kind: the name in manifests, the plural in paths, whether it lives in a namespace.
const KINDS: &[(Kind, &str, &str, bool)] = &[
    (Kind::BGPConfiguration, "BGPConfiguration", "bgpconfigurations", false),
    (Kind::BGPFilter, "BGPFilter", "bgpfilters", false),
    (Kind::BGPPeer, "BGPPeer", "bgppeers", false),
    (Kind::BlockAffinity, "BlockAffinity", "blockaffinities", false),
    (Kind::CalicoNodeStatus, "CalicoNodeStatus", "caliconodestatuses", false),
    (Kind::ClusterInformation, "ClusterInformation", "clusterinformations", false),
    (Kind::FelixConfiguration, "FelixConfiguration", "felixconfigurations", false),
    (Kind::GlobalNetworkPolicy, "GlobalNetworkPolicy", "globalnetworkpolicies", false),
    (Kind::GlobalNetworkSet, "GlobalNetworkSet", "globalnetworksets", false),
    (Kind::HostEndpoint, "HostEndpoint", "hostendpoints", false),
    (Kind::IPAMBlock, "IPAMBlock", "ipamblocks", false),
    (Kind::IPAMConfiguration, "IPAMConfiguration", "ipamconfigurations", false),
    (Kind::IPAMHandle, "IPAMHandle", "ipamhandles", false),
    (Kind::IPPool, "IPPool", "ippools", false),
    (Kind::IPReservation, "IPReservation", "ipreservations", false),
    (
        Kind::KubeControllersConfiguration,
        "KubeControllersConfiguration",
        "kubecontrollersconfigurations",
        false,
    ),
    (Kind::NetworkPolicy, "NetworkPolicy", "networkpolicies", true),
    (Kind::NetworkSet, "NetworkSet", "networksets", true),
    (Kind::Node, "Node", "nodes", false),
    (Kind::Profile, "Profile", "profiles", false),
    (
        Kind::StagedGlobalNetworkPolicy,
        "StagedGlobalNetworkPolicy",
        "stagedglobalnetworkpolicies",
        false,
    ),
    (
        Kind::StagedKubernetesNetworkPolicy,
        "StagedKubernetesNetworkPolicy",
        "stagedkubernetesnetworkpolicies",
        true,
    ),
    (Kind::StagedNetworkPolicy, "StagedNetworkPolicy", "stagednetworkpolicies", true),
    (Kind::Tier, "Tier", "tiers", false),
    (Kind::WorkloadEndpoint, "WorkloadEndpoint", "workloadendpoints", true),
    (
        Kind::KubernetesClusterNetworkPolicy,
        "KubernetesClusterNetworkPolicy",
        "kubernetesclusternetworkpolicies",
        false,
    ),
    (Kind::KubernetesNetworkPolicy, "KubernetesNetworkPolicy", "kubernetesnetworkpolicies", true),
    (Kind::EndpointSlice, "EndpointSlice", "endpointslices", true),
];

impl Kind {
    /// Every kind of Calico's, in the order of their names: what people write and stores keep.
    pub fn all() -> impl Iterator<Item = Self> {
        KINDS[..CALICO].iter().map(|row| row.0)
    }

    /// The kinds that only Kubernetes has, which nobody writes: its policies, translated, have kinds of their own so
    /// that a policy of Kubernetes and one of Calico may have the same name; and the backends of its services.
    pub fn derived() -> impl Iterator<Item = Self> {
        KINDS[CALICO..].iter().map(|row| row.0)
    }

    fn row(self) -> &'static (Self, &'static str, &'static str, bool) {
        &KINDS[self as usize]
    }

    /// The kind as manifests spell it, for example `IPPool`.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// The plural in lower case, as in paths, for example `ippools`.
    pub fn plural(self) -> &'static str {
        self.row().2
    }

    /// Whether objects of this kind live in a namespace.
    pub fn is_namespaced(self) -> bool {
        self.row().3
    }

    /// The kind of this name, derived ones included. What people write is read by [`Kind::from_str`].
    pub fn from_name(name: &str) -> Option<Self> {
        KINDS.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// The kind with this plural, if there is one.
    pub fn from_plural(plural: &str) -> Option<Self> {
        KINDS.iter().find(|row| row.2 == plural).map(|row| row.0)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A kind that this version doesn't know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown kind {0:?}")]
pub struct UnknownKind(pub String);

impl FromStr for Kind {
    type Err = UnknownKind;

    /// The exact spelling of manifests only, and no derived kind; what people type is the command line's business.
    fn from_str(text: &str) -> Result<Self, UnknownKind> {
        Self::from_name(text)
            .filter(|kind| (*kind as usize) < CALICO)
            .ok_or_else(|| UnknownKind(text.to_owned()))
    }
}

/// The identity of one resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// What it is.
    pub kind: Kind,
    /// Its namespace; empty for kinds without one.
    pub namespace: ArcStr,
    /// Its name. An address block's is its CIDR with dashes, as in Kubernetes: `10-0-0-0-26`.
    pub name: ArcStr,
}

impl Key {
    /// A key of a kind without namespaces.
    pub fn global(kind: Kind, name: impl Into<ArcStr>) -> Self {
        Self { kind, namespace: ArcStr::new(), name: name.into() }
    }

    /// A key of a kind that lives in namespaces.
    pub fn namespaced(kind: Kind, namespace: impl Into<ArcStr>, name: impl Into<ArcStr>) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }

    /// The name with its namespace in front where there is one: `ns/name` or `name`. It is the
    /// object's key in the topics `res/…`.
    pub fn path(&self) -> ArcStr {
        if self.namespace.is_empty() {
            self.name.clone()
        } else {
            [self.namespace.as_str(), "/", self.name.as_str()].concat().into()
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_kinds_is_in_the_order_of_the_enum() {
        for (index, kind) in Kind::all().chain(Kind::derived()).enumerate() {
            assert_eq!(kind as usize, index, "{kind}");
            assert_eq!(Kind::from_name(kind.name()), Some(kind));
            assert_eq!(Kind::from_plural(kind.plural()), Some(kind));
        }
    }

    #[test]
    fn nobody_writes_a_derived_kind() {
        assert!(Kind::all().all(|kind| kind.name().parse() == Ok(kind)));
        assert!(Kind::derived().all(|kind| kind.name().parse::<Kind>().is_err()));
    }
}
