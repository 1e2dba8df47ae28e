//! The resources that are read, one stream each, and where they are.

use std::fmt::Write as _;

use model::{Kind, StreamIndex};

use super::group::ApiGroup;
use super::slim::{
    CALICO, CLUSTER_NETWORK_POLICY, ENDPOINT_SLICE, Fields, NAMED, NETWORK_POLICY, NODE, POD,
};

/// A resource.
#[derive(Debug)]
pub(super) struct Resource {
    /// The name of its stream.
    pub(super) stream: &'static str,
    /// What its objects are here.
    pub(super) kind: Kind,
    pub(super) source: Source,
    /// What of them is read.
    pub(super) fields: &'static Fields,
}

/// Where a resource is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// In Kubernetes itself: group and version as in paths, plural, kind.
    Kubernetes(&'static str, &'static str, &'static str),
    /// A custom resource of others, likewise.
    Custom(&'static str, &'static str, &'static str),
    /// Calico's, in the group that the cluster serves.
    Calico,
}

/// All of them; a [`StreamIndex`] is a place in it.
pub(super) static RESOURCES: [Resource; 29] = [
    kubernetes("pods", Kind::WorkloadEndpoint, "api/v1", "pods", "Pod", &POD),
    kubernetes("nodes", Kind::Node, "api/v1", "nodes", "Node", &NODE),
    kubernetes("namespaces", Kind::Profile, "api/v1", "namespaces", "Namespace", &NAMED),
    kubernetes(
        "serviceaccounts",
        Kind::Profile,
        "api/v1",
        "serviceaccounts",
        "ServiceAccount",
        &NAMED,
    ),
    kubernetes(
        "networkpolicies.networking.k8s.io",
        Kind::KubernetesNetworkPolicy,
        "apis/networking.k8s.io/v1",
        "networkpolicies",
        "NetworkPolicy",
        &NETWORK_POLICY,
    ),
    kubernetes(
        "endpointslices.discovery.k8s.io",
        Kind::EndpointSlice,
        "apis/discovery.k8s.io/v1",
        "endpointslices",
        "EndpointSlice",
        &ENDPOINT_SLICE,
    ),
    Resource {
        stream: "clusternetworkpolicies.policy.networking.k8s.io",
        kind: Kind::KubernetesClusterNetworkPolicy,
        source: Source::Custom(
            "apis/policy.networking.k8s.io/v1alpha2",
            "clusternetworkpolicies",
            "ClusterNetworkPolicy",
        ),
        fields: &CLUSTER_NETWORK_POLICY,
    },
    calico("bgpconfigurations", Kind::BGPConfiguration),
    calico("bgpfilters", Kind::BGPFilter),
    calico("bgppeers", Kind::BGPPeer),
    calico("blockaffinities", Kind::BlockAffinity),
    calico("caliconodestatuses", Kind::CalicoNodeStatus),
    calico("clusterinformations", Kind::ClusterInformation),
    calico("felixconfigurations", Kind::FelixConfiguration),
    calico("globalnetworkpolicies", Kind::GlobalNetworkPolicy),
    calico("globalnetworksets", Kind::GlobalNetworkSet),
    calico("hostendpoints", Kind::HostEndpoint),
    calico("ipamblocks", Kind::IPAMBlock),
    calico("ipamconfigurations", Kind::IPAMConfiguration),
    calico("ipamhandles", Kind::IPAMHandle),
    calico("ippools", Kind::IPPool),
    calico("ipreservations", Kind::IPReservation),
    calico("kubecontrollersconfigurations", Kind::KubeControllersConfiguration),
    calico("networkpolicies", Kind::NetworkPolicy),
    calico("networksets", Kind::NetworkSet),
    calico("stagedglobalnetworkpolicies", Kind::StagedGlobalNetworkPolicy),
    calico("stagedkubernetesnetworkpolicies", Kind::StagedKubernetesNetworkPolicy),
    calico("stagednetworkpolicies", Kind::StagedNetworkPolicy),
    calico("tiers", Kind::Tier),
];

const fn kubernetes(
    stream: &'static str,
    kind: Kind,
    group: &'static str,
    plural: &'static str,
    object: &'static str,
    fields: &'static Fields,
) -> Resource {
    Resource { stream, kind, source: Source::Kubernetes(group, plural, object), fields }
}

const fn calico(stream: &'static str, kind: Kind) -> Resource {
    Resource { stream, kind, source: Source::Calico, fields: &CALICO }
}

impl Resource {
    /// The one of a stream.
    pub(super) fn of(stream: StreamIndex) -> Option<&'static Self> {
        RESOURCES.get(usize::from(stream.0))
    }

    /// Where objects of a kind are kept under their own name; none: they are derived from others.
    pub(super) fn stored(kind: Kind) -> Option<&'static Self> {
        let is_stored = |resource: &&Self| match resource.source {
            Source::Calico => true,
            Source::Kubernetes(..) | Source::Custom(..) => resource.kind == Kind::Node,
        };
        RESOURCES.iter().filter(is_stored).find(|resource| resource.kind == kind)
    }

    /// The plural, as in paths.
    pub(super) fn plural(&self, group: ApiGroup) -> &'static str {
        match (self.source, group, self.kind) {
            (Source::Kubernetes(_, plural, _) | Source::Custom(_, plural, _), ..) => plural,
            (Source::Calico, ApiGroup::V1, Kind::IPAMConfiguration) => "ipamconfigs",
            (Source::Calico, ..) => self.kind.plural(),
        }
    }

    /// The kind as its objects say it.
    pub(super) fn object_kind(&self, group: ApiGroup) -> &'static str {
        match (self.source, group, self.kind) {
            (Source::Kubernetes(.., kind) | Source::Custom(.., kind), ..) => kind,
            (Source::Calico, ApiGroup::V1, Kind::IPAMConfiguration) => "IPAMConfig",
            (Source::Calico, ..) => self.kind.name(),
        }
    }

    /// Whether a custom resource definition serves it, which can be deleted.
    pub(super) fn is_custom(&self) -> bool {
        !matches!(self.source, Source::Kubernetes(..))
    }

    /// The name of its definition.
    pub(super) fn definition(&self, group: ApiGroup) -> String {
        let group_name =
            self.api(group).trim_start_matches("apis/").split('/').next().unwrap_or_default();
        format!("{}.{group_name}", self.plural(group))
    }

    /// The path of all of its objects.
    pub(super) fn path(&self, group: ApiGroup) -> String {
        format!("/{}/{}", self.api(group), self.plural(group))
    }

    /// The path of its objects in a namespace; an empty one is none.
    pub(super) fn path_in(&self, group: ApiGroup, namespace: &str) -> String {
        if namespace.is_empty() {
            return self.path(group);
        }
        format!("/{}/namespaces/{}/{}", self.api(group), escaped(namespace), self.plural(group))
    }

    /// The path of one object.
    pub(super) fn path_of(&self, group: ApiGroup, namespace: &str, name: &str) -> String {
        format!("{}/{}", self.path_in(group, namespace), escaped(name))
    }

    fn api(&self, group: ApiGroup) -> &'static str {
        match self.source {
            Source::Kubernetes(api, ..) | Source::Custom(api, ..) => api,
            Source::Calico => group.api(),
        }
    }
}

/// Whether a name can be a part of a path at all; whether it is a good one is the API server's to say.
pub(super) fn is_path_part(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && !name.contains(['/', '%'])
}

fn escaped(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            // Writing to a String can't fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_that_is_stored_has_its_resource() {
        let derived = [Kind::Profile, Kind::WorkloadEndpoint];
        for kind in Kind::all() {
            assert_eq!(Resource::stored(kind).is_none(), derived.contains(&kind), "{kind}");
        }
        assert!(Kind::derived().all(|kind| Resource::stored(kind).is_none()));
    }

    #[test]
    fn paths_are_those_of_the_api() {
        let of = |kind| Resource::stored(kind).unwrap();
        let policy = of(Kind::NetworkPolicy);
        assert_eq!(
            policy.path_of(ApiGroup::V1, "shop", "default.web"),
            "/apis/crd.projectcalico.org/v1/namespaces/shop/networkpolicies/default.web"
        );
        assert_eq!(policy.path(ApiGroup::V3), "/apis/projectcalico.org/v3/networkpolicies");
        assert_eq!(of(Kind::Node).path_of(ApiGroup::V3, "", "a b"), "/api/v1/nodes/a%20b");
        let config = of(Kind::IPAMConfiguration);
        assert_eq!(config.definition(ApiGroup::V1), "ipamconfigs.crd.projectcalico.org");
        assert_eq!(config.definition(ApiGroup::V3), "ipamconfigurations.projectcalico.org");
    }
}
