//! The stores that a scenario runs on: embedded, every etcd at hand, and Kubernetes with each of Calico's API groups.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use serde_json::{Value, json};
use support::{ApiServer, RealKubernetes};

use crate::store_support::{Run, Store, run_in};

/// The kinds of Calico's in Kubernetes that scenarios write.
const WRITTEN: &str = "bgpconfigurations,bgppeers,felixconfigurations,globalnetworkpolicies,\
                       globalnetworksets,ippools,networkpolicies,networksets,tiers";

/// A node and a pod as Kubernetes has them, for the scenarios' cluster.
const KUBERNETES_OWN: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: default, namespace: shop}
---
apiVersion: v1
kind: Node
metadata: {name: node-1, labels: {rack: a}}
---
apiVersion: v1
kind: Pod
metadata: {name: web-1, namespace: shop}
spec:
  nodeName: node-1
  containers: [{name: c, image: i}]
";

/// A store that a scenario has for itself.
pub(crate) struct Ground {
    pub(crate) label: String,
    environment: Vec<(String, String)>,
    pub(crate) store: Option<Store>,
    pub(crate) kubernetes: Option<Cluster>,
}

/// An API server, with the group in which Calico's kinds are.
pub(crate) struct Cluster {
    pub(crate) server: &'static ApiServer,
    pub(crate) group: &'static str,
    // The next scenario waits for it.
    _only: MutexGuard<'static, ()>,
}

impl Ground {
    /// `bulrush` on this store, as its user calls it: the environment says where the store is.
    pub(crate) fn bulrush(&self, arguments: &[&str], stdin: &str) -> Run {
        self.bulrush_in(Path::new("."), arguments, stdin)
    }

    pub(crate) fn bulrush_in(&self, folder: &Path, arguments: &[&str], stdin: &str) -> Run {
        let environment: Vec<(&str, &str)> =
            self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        run_in(folder, arguments, stdin, &environment)
    }

    /// A command that must work; what it says.
    pub(crate) fn works(&self, arguments: &[&str], stdin: &str) -> String {
        let run = self.bulrush(arguments, stdin);
        let about = format!("{} {arguments:?}: {run:?}", self.label);
        assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{about}");
        run.stdout
    }

    /// A command that must fail; what it says on stderr.
    pub(crate) fn fails(&self, arguments: &[&str], stdin: &str) -> String {
        let run = self.bulrush(arguments, stdin);
        assert_eq!(run.code, Some(1), "{} {arguments:?}: {run:?}", self.label);
        run.stderr
    }

    /// An object as it is shown.
    pub(crate) fn object(&self, kind: &str, name: &str) -> Value {
        let text = self.works(&["get", kind, name, "-o", "json"], "");
        serde_json::from_str(&text).expect("JSON")
    }

    /// Everything in the store, to see that nothing changed.
    pub(crate) fn everything(&self) -> String {
        self.works(&["datastore", "export"], "")
    }
}

/// Runs the scenario on every store, each time on an empty one.
pub(crate) fn each(scenario: impl Fn(&Ground)) {
    for store in Store::all() {
        let environment = [("DATASTORE_TYPE", "etcdv3"), ("ETCD_ENDPOINTS", &store.endpoint)];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let label = store.label.clone();
        println!("on {label}");
        let ground =
            Ground { label, environment: environment.into(), store: Some(store), kubernetes: None };
        scenario(&ground);
    }
    for group in ["projectcalico.org/v3", "crd.projectcalico.org/v1"] {
        let Some(cluster) = cluster(group) else { return };
        println!("on Kubernetes with {group}");
        let kubeconfig: PathBuf = cluster.server.kubeconfig("admin");
        let environment = [
            ("DATASTORE_TYPE".to_owned(), "kubernetes".to_owned()),
            ("KUBECONFIG".to_owned(), kubeconfig.to_str().expect("UTF-8").to_owned()),
        ];
        let ground = Ground {
            label: format!("Kubernetes with {group}"),
            environment: environment.into(),
            store: None,
            kubernetes: Some(cluster),
        };
        scenario(&ground);
        clear(ground.kubernetes.as_ref().expect("a cluster"));
    }
}

/// The API server of a group; one scenario at a time has it.
fn cluster(group: &'static str) -> Option<Cluster> {
    static SERVERS: [OnceLock<Option<RealKubernetes>>; 2] = [const { OnceLock::new() }; 2];
    static ONLY: [Mutex<()>; 2] = [const { Mutex::new(()) }; 2];
    let index = usize::from(group == "crd.projectcalico.org/v1");
    let server = SERVERS[index].get_or_init(|| {
        let server = RealKubernetes::own(&[])?;
        if index == 0 { server.define_ours() } else { server.define_calico(group) }
        server.apply(KUBERNETES_OWN);
        let status =
            json!({"status": {"phase": "Running", "podIP": "10.1.0.5", "podIPs": [{"ip": "10.1.0.5"}]}});
        let patch = ["patch", "pod", "-n", "shop", "web-1", "--subresource=status", "--type=merge", "-p"];
        server.kubectl_ok(&[&patch[..], &[&status.to_string()]].concat());
        Some(server)
    });
    // A scenario that failed leaves something behind, which the next must not see.
    let only = ONLY[index].lock();
    let is_clean = only.is_ok();
    let only = only.unwrap_or_else(PoisonError::into_inner);
    let cluster = Cluster { server: server.as_ref()?, group, _only: only };
    if !is_clean {
        clear(&cluster);
    }
    Some(cluster)
}

/// Removes what scenarios write.
fn clear(cluster: &Cluster) {
    let group = cluster.group.split('/').next().expect("a group");
    let configuration = if group.starts_with("crd") { "ipamconfigs" } else { "ipamconfigurations" };
    let kinds: Vec<String> =
        WRITTEN.split(',').chain([configuration]).map(|kind| format!("{kind}.{group}")).collect();
    cluster.server.kubectl_ok(&["delete", &kinds.join(","), "--all", "-A", "--wait=false"]);
    cluster.server.apply(KUBERNETES_OWN);
    let annotations = ["ASNumber", "IPv4Address", "RouteReflectorClusterID"];
    let gone: Vec<String> =
        annotations.iter().map(|name| format!("projectcalico.org/{name}-")).collect();
    let gone: Vec<&str> = gone.iter().map(String::as_str).collect();
    cluster.server.kubectl_ok(&[&["annotate", "node", "node-1"], &gone[..]].concat());
}
