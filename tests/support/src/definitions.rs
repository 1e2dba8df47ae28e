//! Definitions of Calico's custom resources that take any object: for tests of what reads them, not of what they refuse.

use std::fmt::Write as _;

use crate::ApiServer;

/// Kind, plural, whether it lives in namespaces.
const KINDS: [(&str, &str, bool); 22] = [
    ("BGPConfiguration", "bgpconfigurations", false),
    ("BGPFilter", "bgpfilters", false),
    ("BGPPeer", "bgppeers", false),
    ("BlockAffinity", "blockaffinities", false),
    ("CalicoNodeStatus", "caliconodestatuses", false),
    ("ClusterInformation", "clusterinformations", false),
    ("FelixConfiguration", "felixconfigurations", false),
    ("GlobalNetworkPolicy", "globalnetworkpolicies", false),
    ("GlobalNetworkSet", "globalnetworksets", false),
    ("HostEndpoint", "hostendpoints", false),
    ("IPAMBlock", "ipamblocks", false),
    ("IPAMConfiguration", "ipamconfigurations", false),
    ("IPAMHandle", "ipamhandles", false),
    ("IPPool", "ippools", false),
    ("IPReservation", "ipreservations", false),
    ("KubeControllersConfiguration", "kubecontrollersconfigurations", false),
    ("NetworkPolicy", "networkpolicies", true),
    ("NetworkSet", "networksets", true),
    ("StagedGlobalNetworkPolicy", "stagedglobalnetworkpolicies", false),
    ("StagedKubernetesNetworkPolicy", "stagedkubernetesnetworkpolicies", true),
    ("StagedNetworkPolicy", "stagednetworkpolicies", true),
    ("Tier", "tiers", false),
];

impl ApiServer {
    /// Defines all of Calico's resources in `group_version`, for example `crd.projectcalico.org/v1`, with schemas that
    /// take anything, and returns when they are served.
    ///
    /// # Panics
    /// When that fails.
    pub fn define_calico(&self, group_version: &str) {
        let (group, version) = group_version.split_once('/').expect("a group and a version");
        let manifests =
            KINDS.iter().fold(String::new(), |mut manifests, (kind, plural, namespaced)| {
                let (kind, plural) = match (*kind, version) {
                    ("IPAMConfiguration", "v1") => ("IPAMConfig", "ipamconfigs"),
                    (kind, _) => (kind, *plural),
                };
                let _ = writeln!(
                    manifests,
                    "{}\n---",
                    definition(group, version, kind, plural, *namespaced)
                );
                manifests
            });
        self.define(&manifests);
    }

    /// Defines what a fresh cluster gets, `deploy/crds`, and returns when it is served.
    ///
    /// # Panics
    /// When that fails.
    pub fn define_ours(&self) {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/crds");
        let files = std::fs::read_dir(folder).expect("deploy/crds is there");
        let files: Vec<_> = files
            .map(|file| file.and_then(|file| std::fs::read_to_string(file.path())))
            .collect::<Result<_, _>>()
            .expect("the definitions can be read");
        self.define(&files.join("\n---\n"));
    }

    /// Applies definitions of custom resources, and returns when they are served.
    ///
    /// # Panics
    /// When that fails.
    pub fn define(&self, manifests: &str) {
        self.apply(manifests);
        let wait = ["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"];
        self.kubectl_ok(&wait);
    }
}

/// One definition, as JSON on one line.
pub fn definition(
    group: &str,
    version: &str,
    kind: &str,
    plural: &str,
    is_namespaced: bool,
) -> String {
    let scope = if is_namespaced { "Namespaced" } else { "Cluster" };
    let singular = kind.to_lowercase();
    format!(
        r#"{{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {{"name": "{plural}.{group}"}}, "spec": {{"group": "{group}", "scope": "{scope}", "names": {{"kind": "{kind}", "listKind": "{kind}List", "plural": "{plural}", "singular": "{singular}"}}, "versions": [{{"name": "{version}", "served": true, "storage": true, "schema": {{"openAPIV3Schema": {{"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}}]}}}}"#
    )
}
