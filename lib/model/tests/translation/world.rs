//! A small cluster, and all connections in it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

pub(crate) type Labels = BTreeMap<&'static str, &'static str>;

pub(crate) struct Pod {
    pub(crate) namespace: &'static str,
    pub(crate) name: &'static str,
    pub(crate) ip: &'static str,
    labels: &'static [(&'static str, &'static str)],
    /// Name, number and protocol.
    pub(crate) ports: &'static [(&'static str, u16, &'static str)],
}

const NAMESPACES: &[(&str, &[(&str, &str)])] =
    &[("x", &[("team", "red")]), ("y", &[("team", "blue"), ("env", "prod")])];

const PODS: &[Pod] = &[
    Pod {
        namespace: "x",
        name: "a",
        ip: "10.0.1.1",
        labels: &[("app", "web"), ("env", "prod")],
        ports: &[("http", 80, "TCP"), ("dns", 53, "UDP")],
    },
    Pod {
        namespace: "x",
        name: "b",
        ip: "10.0.1.2",
        labels: &[("app", "db")],
        ports: &[("http", 8080, "TCP")],
    },
    Pod { namespace: "y", name: "c", ip: "10.0.2.1", labels: &[("app", "web")], ports: &[] },
    Pod { namespace: "y", name: "d", ip: "10.0.2.2", labels: &[], ports: &[("dns", 80, "UDP")] },
];

impl Pod {
    pub(crate) fn labels(&self) -> Labels {
        self.labels.iter().copied().collect()
    }

    pub(crate) fn namespace_labels(&self) -> Labels {
        let namespace = NAMESPACES.iter().find(|(name, _)| *name == self.namespace);
        namespace.expect("its namespace").1.iter().copied().collect()
    }
}

/// The cluster without its policies.
pub(crate) fn manifests() -> impl Iterator<Item = Value> {
    let namespaces = NAMESPACES
        .iter()
        .map(|(name, labels)| namespace(name, &json!(labels.iter().copied().collect::<Labels>())));
    let pods = PODS.iter().map(|it| {
        let ports = it.ports.iter().map(
            |(name, port, protocol)| json!({ "name": name, "containerPort": port, "protocol": protocol }),
        );
        pod((it.namespace, it.name), it.ip, &json!(it.labels()), &ports.collect())
    });
    namespaces.chain(pods)
}

pub(crate) fn namespace(name: &str, labels: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": name,
            "uid": "6ba7b810-9dad-41d1-80b4-00c04fd430c8",
            "labels": labels,
        },
    })
}

pub(crate) fn pod(
    (namespace, name): (&str, &str),
    ip: &str,
    labels: &Value,
    ports: &Value,
) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": namespace, "labels": labels },
        "spec": { "nodeName": "node", "containers": [{ "name": "main", "ports": ports }] },
        "status": { "podIPs": [{ "ip": ip }] },
    })
}

/// A connection that is tried.
#[derive(Clone, Copy)]
pub(crate) struct Probe {
    pub(crate) from: &'static Pod,
    pub(crate) to: &'static Pod,
    pub(crate) port: u16,
    pub(crate) protocol: &'static str,
}

impl std::fmt::Debug for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { from, to, port, protocol } = self;
        write!(f, "{} -> {}, {port}/{protocol}", from.name, to.name)
    }
}

impl Probe {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let pairs = PODS.iter().flat_map(|from| PODS.iter().map(move |to| (from, to)));
        let pairs = pairs.filter(|(from, to)| from.ip != to.ip);
        pairs.flat_map(|(from, to)| {
            let ports = [(80, "TCP"), (81, "TCP"), (8080, "TCP"), (53, "UDP"), (80, "UDP")];
            ports.map(|(port, protocol)| Self { from, to, port, protocol })
        })
    }
}
