//! Objects in a real Kubernetes, written by kubectl, as `bulrush watch` shows them through typha.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;
#[path = "kubernetes_support/rules.rs"]
mod rules;
#[path = "kubernetes_support/two_servers.rs"]
mod two_servers;

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use common::{Process, bulrush, every_kind, start_typha, until};
use datastore::{Datastore, Error, Selection, StoreConfig};
use model::{Key, Kind, Stored};
use serde_json::{Value, json};
use support::{ApiServer, RealKubernetes};
use typha::Typha;

const V1: &str = "crd.projectcalico.org/v1";
const V3: &str = "projectcalico.org/v3";

/// Topic and key to value.
type Contents = BTreeMap<(String, String), Value>;

/// What a watcher sees at once.
fn view(typha: &Typha, arguments: &[&str]) -> Contents {
    let mut command = bulrush();
    let server = typha.address().to_string();
    command.args(["watch", "--server", &server, "-o", "json", "--once"]).args(arguments);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut view = Contents::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        if line["op"] == "put" {
            let text = |field: &str| line[field].as_str().unwrap().to_owned();
            view.insert((text("topic"), text("key")), line["value"].clone());
        }
    }
    view
}

/// The object of this kind and key, as the full view shows it.
fn shown(typha: &Typha, kind: &str, key: &str) -> Option<Value> {
    let all = view(typha, &[]);
    let is_it = |topic: &str, at: &str| topic.starts_with(&format!("res/{kind}/")) && at == key;
    all.into_iter().find(|((topic, at), _)| is_it(topic, at)).map(|(_, value)| value)
}

/// The entry of a topic whose name begins so.
fn entry(view: &Contents, topic: &str, key: &str) -> Option<Value> {
    let found = view.iter().find(|((name, at), _)| name.starts_with(topic) && at == key);
    found.map(|(_, value)| value.clone())
}

async fn until_shown(typha: &Typha, kind: &str, key: &str) -> Value {
    let mut found = None;
    until(&format!("{kind} {key}"), || {
        found = shown(typha, kind, key);
        found.is_some()
    })
    .await;
    found.unwrap()
}

fn store(server: &ApiServer) -> String {
    format!("kubernetes:{}", server.kubeconfig("admin").display())
}

async fn started(server: &ApiServer) -> Typha {
    let typha = start_typha(&store(server), 100).await;
    until("typha reads Kubernetes", || typha.status().in_sync).await;
    typha
}

/// The cluster of this file, with one group of Calico's objects.
fn shared() -> Option<&'static RealKubernetes> {
    static DEFINED: std::sync::OnceLock<()> = std::sync::OnceLock::new();
    let kubernetes = RealKubernetes::shared()?;
    DEFINED.get_or_init(|| kubernetes.define_ours());
    Some(kubernetes)
}

const SHOP: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: red}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: web, namespace: shop, labels: {role: web}}
---
apiVersion: v1
kind: Node
metadata:
  name: node-1
  annotations: {projectcalico.org/IPv4Address: 192.0.2.1/24, projectcalico.org/ASNumber: "64512"}
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop, labels: {app: web}}
spec:
  nodeName: node-1
  serviceAccountName: web
  containers: [{name: c, image: i, ports: [{name: http, containerPort: 8080}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: waiting, namespace: shop, labels: {app: web}}
spec:
  containers: [{name: c, image: i}]
---
apiVersion: v1
kind: Pod
metadata: {name: of-the-host, namespace: shop, labels: {app: web}}
spec:
  nodeName: node-1
  hostNetwork: true
  containers: [{name: c, image: i}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: http}]}]
"#;

fn set_address(server: &ApiServer, pod: &str, address: &str, phase: &str) {
    let status = json!({ "status": {
        "phase": phase, "podIP": address, "podIPs": [{ "ip": address }],
    } });
    server.kubectl_ok(&[
        "patch",
        "pod",
        "-n",
        "shop",
        pod,
        "--subresource=status",
        "--type=merge",
        "-p",
        &status.to_string(),
    ]);
}

/// What `bulrush convert`, which the golden cases hold to Calico's code, makes of the objects that kubectl shows.
fn converted(server: &ApiServer, resources: &[&str]) -> Vec<Value> {
    let lines = resources.iter().flat_map(|resource| {
        let list = server.kubectl_ok(&["get", resource, "-A", "-o", "json"]);
        let list: Value = serde_json::from_str(&list).unwrap();
        let objects = list["items"].as_array().unwrap().clone();
        objects.into_iter().map(move |object| json!({ "id": resource, "object": object }))
    });
    let converted = common::convert(lines);
    converted
        .iter()
        .flat_map(|line| line["objects"].as_array().unwrap().clone())
        .map(plain)
        .collect()
}

/// Without what differs from store to store.
fn plain(mut object: Value) -> Value {
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        for field in ["uid", "resourceVersion", "creationTimestamp", "generation"] {
            metadata.remove(field);
        }
    }
    object
}

/// The derived objects of the full view.
fn derived(typha: &Typha) -> Vec<Value> {
    let kinds = ["res/Profile/", "res/WorkloadEndpoint/", "res/KubernetesNetworkPolicy/"];
    let all = view(typha, &[]).into_iter();
    let of_them = all.filter(|((topic, _), _)| kinds.iter().any(|kind| topic.starts_with(kind)));
    of_them.map(|(_, value)| value).collect()
}

fn sorted(mut objects: Vec<Value>) -> Vec<Value> {
    objects.sort_by_key(ToString::to_string);
    objects
}

/// All that the watcher sees of what Kubernetes' own objects become is what their translation says.
async fn shows_the_translation(server: &ApiServer, typha: &Typha, when: &str) {
    let resources = ["namespaces", "serviceaccounts", "networkpolicies.networking.k8s.io", "pods"];
    let expected = converted(server, &resources).into_iter();
    // What convert makes of a pod of its host's network is no endpoint in a cluster.
    let expected = sorted(expected.filter(|it| it["spec"]["pod"] != "of-the-host").collect());
    let mut seen = Vec::new();
    until(when, || {
        seen = sorted(derived(typha));
        seen == expected
    })
    .await;
    assert!(seen.len() > 6, "{seen:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kubectl_writes_reaches_watch_as_translated_across_restarts() {
    let Some(mut kubernetes) = RealKubernetes::own(&[]) else { return };
    // Before any definition of Calico's is there.
    let typha = started(&kubernetes).await;
    kubernetes.apply(SHOP);
    shows_the_translation(&kubernetes, &typha, "the first objects").await;
    let pending = until_shown(&typha, "WorkloadEndpoint", "shop/node--1-k8s-web--0-eth0").await;
    assert_eq!(pending["spec"]["ipNetworks"], Value::Null, "on its node, without an address");
    let node = view(&typha, &["--node", "node-1"]);
    let policy = "policy/KubernetesNetworkPolicy/shop/web";
    assert!(node.keys().any(|(topic, _)| topic == policy), "{node:#?}");
    assert!(!node.keys().any(|(_, key)| key.contains("of-the-host") || key.contains("waiting")));
    let names = node.keys().filter(|(topic, _)| topic == "node/node-1").collect::<Vec<_>>();
    let pod = kubernetes.kubectl_ok(&[
        "get",
        "pod",
        "-n",
        "shop",
        "web-0",
        "-o",
        "jsonpath={.metadata.uid}",
    ]);
    assert!(names[0].1.ends_with(&pod), "the pod's uid is in {names:?}");

    set_address(&kubernetes, "web-0", "10.0.0.1", "Running");
    kubernetes.define_calico(V3);
    kubernetes.apply(
        "{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: all}, \
         spec: {selector: all(), types: [Ingress]}}",
    );
    until_shown(&typha, "GlobalNetworkPolicy", "all").await;
    shows_the_translation(&kubernetes, &typha, "an address").await;

    let version = |typha: &Typha| -> BTreeMap<String, u64> {
        typha.status().streams.iter().map(|it| (it.name.clone(), it.version)).collect()
    };
    let before = version(&typha);
    kubernetes.server_mut().stop();
    until("typha notices", || typha.status().store_error.is_some()).await;
    assert!(entry(&view(&typha, &["--node", "node-1"]), policy, "").is_some(), "it serves on");
    kubernetes.server_mut().restart();
    kubernetes.kubectl_ok(&["label", "namespace", "shop", "team=blue", "--overwrite"]);
    kubernetes.kubectl_ok(&["delete", "networkpolicy", "-n", "shop", "web"]);
    kubernetes.kubectl_ok(&["label", "pod", "-n", "shop", "web-0", "app=db", "--overwrite"]);
    shows_the_translation(&kubernetes, &typha, "after a restart of the API server").await;
    let after = version(&typha);
    assert!(
        before.iter().all(|(stream, version)| after[stream] >= *version),
        "{before:?} {after:?}"
    );
    until("all streams again", || typha.status().store_error.is_none()).await;

    // A finished pod has no address; a successor of the same name is another endpoint.
    set_address(&kubernetes, "web-0", "10.0.0.1", "Succeeded");
    shows_the_translation(&kubernetes, &typha, "a finished pod").await;
    let finished = until_shown(&typha, "WorkloadEndpoint", "shop/node--1-k8s-web--0-eth0").await;
    assert_eq!(finished["spec"]["ipNetworks"], Value::Null);
    kubernetes.kubectl_ok(&["delete", "pod", "-n", "shop", "web-0", "--grace-period=0", "--force"]);
    kubernetes.apply(SHOP);
    shows_the_translation(&kubernetes, &typha, "a successor").await;
    let node = view(&typha, &["--node", "node-1"]);
    assert!(!node.keys().any(|(_, key)| key.ends_with(&pod)), "the predecessor is gone");

    let all = view(&typha, &[]);
    typha.stop().await;
    let typha = started(&kubernetes).await;
    assert_eq!(view(&typha, &[]), all, "another typha sees the same");
    typha.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_17_the_same_objects_in_etcd_and_in_kubernetes_give_the_same_views() {
    let groups = [V1, V3];
    for group in groups {
        let Some(kubernetes) = RealKubernetes::own(&[]) else { return };
        // Ours would add the defaults that their schemas have, and drop fields that nobody knows.
        kubernetes.define_calico(group);
        kubernetes.apply(SHOP);
        kubernetes.apply(
            "{apiVersion: v1, kind: Namespace, metadata: {name: red, labels: {team: red}}}\n---\n\
             {apiVersion: v1, kind: Namespace, metadata: {name: blue, labels: {team: blue}}}",
        );
        set_address(&kubernetes, "web-0", "10.10.1.1", "Running");
        let in_cluster =
            StoreConfig::from_url(&store(&kubernetes)).unwrap().connect().await.unwrap();
        let embedded = embedded::Server::start(embedded::Config::default()).await.unwrap();
        // The API server's own etcd has its objects elsewhere.
        let urls = [format!("http://{}", embedded.addr()), kubernetes.etcd().endpoint().to_owned()];
        let mut others = Vec::new();
        for url in &urls {
            others.push(StoreConfig::from_url(url).unwrap().connect().await.unwrap());
        }

        // What Kubernetes derives from objects of its own is written to etcd as it is there.
        let derived = [Kind::Node, Kind::Profile, Kind::WorkloadEndpoint];
        let derived = Selection::of(derived.into_iter().chain(Kind::derived()));
        for stream in in_cluster.streams() {
            let items = match in_cluster.list(stream.index, derived).await {
                Err(Error::NotServed { .. }) => Vec::new(),
                listing => listing.unwrap().items,
            };
            for item in items {
                for store in &others {
                    store.create(&item.key, &item.value).await.unwrap();
                }
            }
        }
        let ours = started(&kubernetes).await;
        let mut theirs = Vec::new();
        for url in &urls {
            theirs.push(start_typha(url, 10).await);
        }
        until("typha reads etcd", || theirs.iter().all(|it| it.status().in_sync)).await;
        let mut kinds = BTreeSet::new();
        let fixture = every_kind();
        let mut rounds: Vec<Vec<_>> =
            fixture.iter().map(|round| round.iter().filter_map(stored).collect()).collect();
        let written: BTreeSet<Kind> = rounds.iter().flatten().map(|(key, _)| key.kind).collect();
        rounds.push(Kind::all().filter(|kind| !written.contains(kind)).map(any_object).collect());
        for (round, operations) in rounds.iter().enumerate() {
            for (key, value) in operations {
                if derived.contains(key.kind) {
                    continue;
                }
                kinds.insert(key.kind);
                for store in others.iter().chain([&in_cluster]) {
                    write(&**store, key, value.as_ref()).await;
                }
            }
            for (theirs, arguments) in theirs.iter().flat_map(|it| {
                [&[][..], &["--node", "node-1"], &["--node", "a"]].map(|arguments| (it, arguments))
            }) {
                let (mut in_cluster, mut in_etcd) = (Contents::new(), Contents::new());
                let what =
                    format!("{group}, round {round}, {arguments:?}, {}", theirs.status().store);
                let same = until(&what, || {
                    (in_cluster, in_etcd) = (view(&ours, arguments), view(theirs, arguments));
                    in_cluster == in_etcd
                });
                let same = tokio::time::timeout(std::time::Duration::from_secs(20), same).await;
                assert!(same.is_ok(), "{what}\n{}", difference(&in_cluster, &in_etcd));
                assert!(!in_cluster.is_empty(), "{what}");
            }
        }
        let all = Kind::all().filter(|kind| !derived.contains(*kind)).collect::<BTreeSet<_>>();
        assert_eq!(kinds, all, "what isn't derived is written");
        ours.stop().await;
        for theirs in theirs {
            theirs.stop().await;
        }
        embedded.shutdown().await.unwrap();
    }
}

fn difference(left: &Contents, right: &Contents) -> String {
    let only = |a: &Contents, b: &Contents, sign: &str| {
        let differs = a.iter().filter(|(place, value)| b.get(place) != Some(value));
        let lines = differs.map(|(place, value)| format!("{sign} {place:?} {value}"));
        lines.collect::<Vec<_>>().join("\n")
    };
    only(left, right, "Kubernetes") + "\n" + &only(right, left, "etcd      ")
}

/// An operation of the fixture, with the value to write (none: delete). None: what can't be said through an API.
fn stored(operation: &Value) -> Option<(Key, Option<Value>)> {
    let key = datastore::etcdv3::keys::key(operation["key"].as_str().unwrap().as_bytes())?;
    match operation["op"].as_str() {
        Some("delete") => Some((key, None)),
        _ => operation.get("value").map(|value| (key, Some(value.clone()))),
    }
}

/// Some object of a kind, as it is in etcd.
fn any_object(kind: Kind) -> (Key, Option<Value>) {
    let (key, value) = match kind {
        Kind::BlockAffinity => {
            (Key::global(kind, "node-1-10-0-0-0-26"), json!({ "state": "confirmed" }))
        }
        Kind::IPAMConfiguration => (
            Key::global(kind, "default"),
            json!({ "strict_affinity": true, "auto_allocate_blocks": false }),
        ),
        Kind::IPAMHandle => {
            (Key::global(kind, "A-Handle"), json!({ "handleID": "A-Handle", "block": {} }))
        }
        _ => {
            let key = if kind.is_namespaced() {
                Key::namespaced(kind, "shop", "some")
            } else {
                Key::global(kind, "some")
            };
            let mut metadata = json!({ "name": "some", "labels": { "a": "b" } });
            if kind.is_namespaced() {
                metadata["namespace"] = json!("shop");
            }
            let object = json!({
                "apiVersion": V3, "kind": kind.name(), "metadata": metadata, "spec": { "order": 5 },
            });
            (key, object)
        }
    };
    (key, Some(value))
}

/// Writes over whatever is there.
async fn write(store: &dyn Datastore, key: &Key, value: Option<&Value>) {
    let Some(value) = value else {
        store.delete(key, None).await.unwrap();
        return;
    };
    let value = Stored::Json(value.clone());
    match store.create(key, &value).await {
        Err(Error::Conflict(conflict)) => {
            let at = conflict.current[0].1.as_ref().unwrap().version;
            store.update(key, &value, at).await.unwrap();
        }
        created => drop(created.unwrap()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_19_a_20_a_21_objects_of_calicos_group_mean_here_what_they_mean_there() {
    let Some(kubernetes) = RealKubernetes::own(&[]) else { return };
    kubernetes.define_calico(V1);
    kubernetes.apply(
        r#"
apiVersion: crd.projectcalico.org/v1
kind: IPPool
metadata: {name: bare}
spec: {cidr: 10.65.0.0/16}
---
apiVersion: crd.projectcalico.org/v1
kind: IPPool
metadata: {name: unmasked}
spec: {cidr: 10.66.141.1/24, vxlanMode: Always}
---
apiVersion: crd.projectcalico.org/v1
kind: NetworkPolicy
metadata:
  name: default.web
  namespace: default
  annotations:
    mine: stays
    projectcalico.org/metadata: '{"name":"web","uid":"11111111-2222-4333-8444-555555555555","labels":{"a":"b"},"creationTimestamp":"2026-01-02T03:04:05Z"}'
spec: {selector: all(), types: [Ingress]}
"#,
    );
    let typha = started(&kubernetes).await;
    until_shown(&typha, "NetworkPolicy", "default/default.web").await;
    let node = view(&typha, &["--node", "node-1"]);
    let never = json!({ "ipip": "Never", "vxlan": "Never", "nat_outgoing": false });
    assert_eq!(entry(&node, "pools", "10.65.0.0/16"), Some(never), "A-19");
    let masked = entry(&node, "pools", "10.66.141.0/24");
    assert_eq!(
        masked,
        Some(json!({ "ipip": "Never", "vxlan": "Always", "nat_outgoing": false })),
        "A-20"
    );
    assert!(entry(&node, "pools", "10.66.141.1/24").is_none());
    let pool = shown(&typha, "IPPool", "bare").unwrap();
    assert_eq!(pool["spec"], json!({ "cidr": "10.65.0.0/16" }), "no default is written into it");

    // A-21: what the annotation says is the object's metadata.
    let store = StoreConfig::from_url(&store(&kubernetes)).unwrap().connect().await.unwrap();
    let key = Key::namespaced(Kind::NetworkPolicy, "default", "default.web");
    let item = store.get(&key).await.unwrap().unwrap();
    let Stored::Json(mut value) = item.value else { panic!("no JSON") };
    let metadata = &value["metadata"];
    assert_eq!(metadata["uid"], "11111111-2222-4333-8444-555555555555");
    assert_eq!(metadata["creationTimestamp"], "2026-01-02T03:04:05Z");
    assert_eq!(metadata["labels"], json!({ "a": "b" }));
    assert_eq!(metadata["annotations"]["projectcalico.org/metadata"], r#"{"name":"web"}"#);
    // Annotations of others survive a write of ours.
    value["metadata"]["annotations"].as_object_mut().unwrap().remove("mine");
    value["spec"]["order"] = json!(7);
    store.update(&key, &Stored::Json(value), item.version).await.unwrap();
    let raw = kubernetes.kubectl_ok(&[
        "get",
        "networkpolicies.crd.projectcalico.org",
        "default.web",
        "-o",
        "json",
    ]);
    let raw: Value = serde_json::from_str(&raw).unwrap();
    let annotations = raw["metadata"]["annotations"].as_object().unwrap();
    assert_eq!(annotations["mine"], "stays");
    assert!(annotations.contains_key("kubectl.kubernetes.io/last-applied-configuration"));
    assert!(annotations["projectcalico.org/metadata"].as_str().unwrap().contains("\"web\""));
    assert_eq!(raw["spec"]["order"], 7);
    typha.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_23_a_global_policy_by_kubectl_is_served_and_enforced() {
    let Some(kubernetes) = shared() else { return };
    kubernetes.apply(SHOP);
    let typha = started(kubernetes).await;
    kubernetes.apply(
        "{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: a-23}, \
         spec: {selector: \"app == 'web'\", types: [Ingress, Egress]}}",
    );
    until_shown(&typha, "GlobalNetworkPolicy", "a-23").await;
    let node = view(&typha, &["--node", "node-1"]);
    assert!(entry(&node, "policy/GlobalNetworkPolicy//a-23", "").is_some(), "{node:#?}");
    typha.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_25_a_node_keeps_what_a_write_doesnt_say() {
    let Some(kubernetes) = shared() else { return };
    kubernetes.apply(SHOP);
    let store = StoreConfig::from_url(&store(kubernetes)).unwrap().connect().await.unwrap();
    let key = Key::global(Kind::Node, "node-1");
    let at = store.get(&key).await.unwrap().unwrap().version;
    let only = json!({ "spec": { "bgp": { "routeReflectorClusterID": "244.0.0.1" } } });
    store.update(&key, &Stored::Json(only), at).await.unwrap();
    let node = kubernetes.kubectl_ok(&["get", "node", "node-1", "-o", "json"]);
    let node: Value = serde_json::from_str(&node).unwrap();
    let annotations = &node["metadata"]["annotations"];
    assert_eq!(annotations["projectcalico.org/RouteReflectorClusterID"], "244.0.0.1");
    assert_eq!(annotations["projectcalico.org/IPv4Address"], "192.0.2.1/24");
    let Stored::Json(value) = store.get(&key).await.unwrap().unwrap().value else {
        panic!("no JSON")
    };
    assert_eq!(
        value["spec"]["bgp"],
        json!({
            "ipv4Address": "192.0.2.1/24", "asNumber": 64512, "routeReflectorClusterID": "244.0.0.1",
        })
    );
    let error = store.update(&key, &Stored::Json(json!({})), at).await.unwrap_err();
    assert!(matches!(error, Error::Conflict(_)), "at its version only: {error}");
    for error in [
        store.create(&Key::global(Kind::Node, "new"), &Stored::Json(json!({}))).await.unwrap_err(),
        store.delete(&key, None).await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::Key { .. }), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_27_connections_to_the_api_server_stay_as_agents_grow() {
    let Some(kubernetes) = shared() else { return };
    kubernetes.apply(SHOP);
    let typha = started(kubernetes).await;
    until_shown(&typha, "WorkloadEndpoint", "shop/node--1-k8s-web--0-eth0").await;
    let before = connections(kubernetes.port());
    let server = typha.address().to_string();
    let watches: Vec<_> = (0..60)
        .map(|_| {
            let mut command = bulrush();
            command.args(["watch", "--server", &server, "--node", "node-1", "-o", "json"]);
            common::Process::start(&mut command)
        })
        .collect();
    for watch in &watches {
        let lines = watch.lines_until("a commit", |line| line.contains(r#""op":"commit""#));
        assert!(lines.iter().any(|line| line.contains("\"hosts/")), "its node");
        assert!(lines.iter().any(|line| line.contains("policy/KubernetesNetworkPolicy")));
    }
    let after = connections(kubernetes.port());
    assert!(after <= before, "{before} connections before, {after} after");
    drop(watches);
    typha.stop().await;
}

/// How many connections of this process' network to a port on loopback are open.
fn connections(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let peer = format!("0100007F:{port:04X}");
    table
        .lines()
        .filter(|line| line.split_whitespace().nth(2) == Some(&peer) && line.contains(" 01 "))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_123_a_pool_has_its_defaults_and_none_of_them_is_written() {
    let Some(kubernetes) = shared() else { return };
    kubernetes.apply(SHOP);
    let typha = started(kubernetes).await;
    kubernetes.apply(
        "{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: a-123-4}, \
         spec: {cidr: 10.123.0.0/16}}\n---\n\
         {apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: a-123-6}, \
         spec: {cidr: \"fd00:123::/64\", natOutgoing: true}}",
    );
    until_shown(&typha, "IPPool", "a-123-6").await;
    let node = view(&typha, &["--node", "node-1"]);
    let with = |nat: bool| json!({ "ipip": "Never", "vxlan": "Never", "nat_outgoing": nat });
    assert_eq!(entry(&node, "pools", "10.123.0.0/16"), Some(with(false)));
    assert_eq!(entry(&node, "pools", "fd00:123::/64"), Some(with(true)));
    let raw = kubernetes.kubectl_ok(&[
        "get",
        "ippools.projectcalico.org",
        "a-123-4",
        "-o",
        "jsonpath={.spec}",
    ]);
    let raw: Value = serde_json::from_str(&raw).unwrap();
    let by_definition = json!({ "assignmentMode": "Automatic", "nodeSelector": "all()" });
    for (field, value) in raw.as_object().unwrap() {
        let is_known = field == "cidr" || by_definition[field] == *value;
        assert!(is_known, "{field}: {value} is neither written nor of the definition");
    }
    typha.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_written_past_validation_harm_nobody_else_and_are_named() {
    let Some(kubernetes) = RealKubernetes::own(&[]) else { return };
    kubernetes.define_calico(V3);
    kubernetes.apply(SHOP);
    let typha = started(&kubernetes).await;
    let deep = format!("{}1{}", "{\"a\":".repeat(200), "}".repeat(200));
    let policy = |name: &str, spec: &str| {
        format!(
            r#"{{"apiVersion": "{V3}", "kind": "GlobalNetworkPolicy", "metadata": {{"name": "{name}"}}, "spec": {spec}}}"#
        )
    };
    let huge = format!(r#"{{"selector": "all()", "padding": "{}"}}"#, "x".repeat(900_000));
    let objects = [
        policy("wrong-type", r#"{"selector": 7, "ingress": "all"}"#),
        policy("no-object", r#""text""#),
        policy(
            "unknown-fields",
            r#"{"selector": "all()", "gadget": {"x": [1, null]}, "types": ["Ingress"]}"#,
        ),
        policy("huge", &huge),
        policy("deep", &deep),
        policy("bad-selector", r#"{"selector": "a == "}"#),
        policy(
            "odd-text",
            r#"{"selector": "all()", "types": ["Ingress"], "note": "\ufffd\u0000\ud83d"}"#,
        ),
        policy("good", r#"{"selector": "all()", "types": ["Ingress"]}"#),
    ];
    for object in &objects {
        // Some are refused by the API server itself; what it takes must harm nobody.
        kubernetes.kubectl_as("admin", &["create", "-f", "-"], object);
    }
    until_shown(&typha, "GlobalNetworkPolicy", "good").await;
    let problems = || -> BTreeMap<String, String> {
        typha.status().problems.into_iter().map(|it| (it.object, it.text)).collect()
    };
    until("the problems", || problems().len() >= 3).await;
    let problems = problems();
    support::assert_bad_input(
        "kubernetes: an object with wrong types",
        &problems["GlobalNetworkPolicy wrong-type"],
    );
    assert!(problems.contains_key("GlobalNetworkPolicy bad-selector"));
    assert!(!problems.contains_key("GlobalNetworkPolicy unknown-fields"));
    assert!(
        shown(&typha, "GlobalNetworkPolicy", "unknown-fields").unwrap()["spec"]["gadget"]
            .is_object()
    );
    typha.stop().await;
}

#[test]
fn a_cluster_that_serves_both_of_calicos_groups_is_told_which_is_used() {
    let Some(kubernetes) = RealKubernetes::own(&[]) else { return };
    kubernetes.define_calico(V1);
    kubernetes.define_calico(V3);
    // Logs go to stderr.
    let typha = "exec $0 run typha --port 0 --health-port 0 --metrics-port 0 --status-port 0 2>&1";
    let mut command = Command::new("sh");
    command.args(["-c", typha, env!("CARGO_BIN_EXE_bulrush")]);
    command.env("DATASTORE_TYPE", "kubernetes").env("KUBECONFIG", kubernetes.kubeconfig("admin"));
    let typha = Process::start(&mut command);
    let lines = typha.lines_until("typha's log", |line| line.contains("are served"));
    let line = lines.last().unwrap();
    let said = &line[line.find("crd.").unwrap()..];
    support::assert_bad_input("kubernetes: both groups of Calico are served", said);
}

#[tokio::test(flavor = "multi_thread")]
async fn typha_needs_no_more_rights_than_its_roles_give() {
    let Some(kubernetes) = RealKubernetes::own(&[]) else { return };
    kubernetes.define_ours();
    kubernetes.apply(SHOP);
    kubernetes.apply(include_str!("../../deploy/rbac/typha.yaml"));
    let account = "system:serviceaccount:kube-system:bulrush-typha";
    let folder = tempfile::tempdir().unwrap();
    let token = kubernetes.kubectl_ok(&["create", "token", "bulrush-typha", "-n", "kube-system"]);
    let text = std::fs::read_to_string(kubernetes.kubeconfig("typha")).unwrap();
    let path = folder.path().join("kubeconfig");
    std::fs::write(&path, text.replace(&kubernetes.token("typha"), token.trim())).unwrap();
    let typha = start_typha(&format!("kubernetes:{}", path.display()), 10).await;
    until("typha reads Kubernetes", || typha.status().in_sync).await;
    until_shown(&typha, "WorkloadEndpoint", "shop/node--1-k8s-web--0-eth0").await;
    // A delete of a custom resource asks for its definition.
    kubernetes.apply(
        "{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: a}, spec: {cidr: 10.1.0.0/16}}",
    );
    until_shown(&typha, "IPPool", "a").await;
    kubernetes.kubectl_ok(&["delete", "ippools.projectcalico.org", "a"]);
    until("the pool is gone", || shown(&typha, "IPPool", "a").is_none()).await;
    assert_eq!(typha.status().store_error, None, "{account} may do all that it does");
    typha.stop().await;
}

/// Specs of `NetworkPolicy` in YAML: what an API server takes, and what it doesn't.
const SPECS: &[&str] = &[
    "{podSelector: {}}",
    "{podSelector: {}, policyTypes: [Egress, Ingress]}",
    "{podSelector: {matchLabels: {a: b, c.d/e: ''}}, ingress: []}",
    "{podSelector: {}, ingress: [{}]}",
    "{podSelector: {}, ingress: [{from: [], ports: []}], egress: [{to: [], ports: []}]}",
    "{podSelector: {matchExpressions: [{key: a, operator: In, values: [b, c]}, {key: d, operator: NotIn, values: ['']}]}}",
    "{podSelector: {matchExpressions: [{key: a, operator: Exists}, {key: b, operator: DoesNotExist}]}}",
    "{podSelector: {}, ingress: [{from: [{podSelector: {}}, {namespaceSelector: {}}, {podSelector: {}, namespaceSelector: {}}]}]}",
    "{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16, 10.2.3.4/32]}}]}]}",
    "{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 'fd00::/8', except: ['fd00:1::/32']}}]}]}",
    "{podSelector: {}, egress: [{ports: [{}, {port: 80}, {port: http}, {port: 1, endPort: 65535}, {protocol: SCTP, port: 7}]}]}",
    "{podSelector: {}, egress: [{ports: [{port: 80, endPort: 80, protocol: UDP}]}]}",
    "{}",
    "{podSelector: {matchLabel: {a: b}}}",
    "{PodSelector: {}}",
    "{podSelector: {}, policyType: [Egress]}",
    "{podSelector: {}, ingress: [{to: [{podSelector: {}}]}]}",
    "{podSelector: {}, egress: [{from: [{podSelector: {}}]}]}",
    "{podSelector: {}, ingress: [{from: [{podSelektor: {}}]}]}",
    "{podSelector: {}, ingress: [{ports: [{port: 80, lastPort: 90}]}]}",
    "{podSelector: []}",
    "{podSelector: {}, ingress: {}}",
    "{podSelector: {}, policyTypes: [Ingres]}",
    "{podSelector: {}, policyTypes: [ingress]}",
    "{podSelector: {matchLabels: {a b: c}}}",
    "{podSelector: {matchLabels: {a: b c}}}",
    "{podSelector: {matchLabels: {a: '-b'}}}",
    "{podSelector: {matchLabels: {a/b/c: d}}}",
    "{podSelector: {matchLabels: {a: 1}}}",
    "{podSelector: {matchLabels: {a: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa}}}",
    "{podSelector: {matchExpressions: [{key: a, operator: In}]}}",
    "{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}",
    "{podSelector: {matchExpressions: [{key: a, operator: Gt, values: ['1']}]}}",
    "{podSelector: {matchExpressions: [{operator: Exists}]}}",
    "{podSelector: {matchExpressions: [{key: a, operator: In, values: [b c]}]}}",
    "{podSelector: {}, ingress: [{from: [{}]}]}",
    "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]}",
    "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.1}}]}]}",
    "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}]}",
    "{podSelector: {}, ingress: [{from: [{ipBlock: {}}]}]}",
    "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [bad]}}]}]}",
    "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]}",
    "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]}",
    "{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: ['fd00::/16']}}]}]}",
    "{podSelector: {}, ingress: [{ports: [{port: 0}]}]}",
    "{podSelector: {}, ingress: [{ports: [{port: 65536}]}]}",
    "{podSelector: {}, ingress: [{ports: [{port: -1}]}]}",
    "{podSelector: {}, ingress: [{ports: [{port: '80'}]}]}",
    "{podSelector: {}, ingress: [{ports: [{port: a b}]}]}",
    "{podSelector: {}, ingress: [{ports: [{port: Http}]}]}",
    "{podSelector: {}, ingress: [{ports: [{port: name-of-a-port-too-long}]}]}",
    "{podSelector: {}, ingress: [{ports: [{port: a--b}]}]}",
    "{podSelector: {}, ingress: [{ports: [{port: a-}]}]}",
    "{podSelector: {}, ingress: [{ports: [{port: a_b}]}]}",
    "{podSelector: {}, ingress: [{ports: [{port: ''}]}]}",
    "{podSelector: {}, ingress: [{ports: [{port: 80, endPort: 79}]}]}",
    "{podSelector: {}, ingress: [{ports: [{port: 80, endPort: 65536}]}]}",
    "{podSelector: {}, ingress: [{ports: [{port: http, endPort: 90}]}]}",
    "{podSelector: {}, ingress: [{ports: [{endPort: 90}]}]}",
    "{podSelector: {}, ingress: [{ports: [{protocol: tcp}]}]}",
    "{podSelector: {}, ingress: [{ports: [{protocol: ICMP}]}]}",
    "{podSelector: {}, ingress: [{ports: [{protocol: 6}]}]}",
    "{podSelector: {}, ingress: [{ports: [{port: 80.5}]}]}",
];

#[test]
fn whatif_refuses_of_a_network_policy_what_an_api_server_refuses_and_no_more() {
    let Some(kubernetes) = RealKubernetes::shared() else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let base = path("base.yaml");
    std::fs::write(&base, "apiVersion: v1\nkind: Namespace\nmetadata: {name: default}\n").unwrap();
    let mut others = Vec::new();
    for spec in SPECS {
        let head = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n";
        let policy = format!("{head}metadata: {{name: p, namespace: default}}\nspec: {spec}\n");
        let create = ["create", "--dry-run=server", "--validate=strict", "-f", "-"];
        let server = kubernetes.kubectl_as("admin", &create, &policy);
        let new = path("new.yaml");
        std::fs::write(&new, &policy).unwrap();
        let ours = bulrush().args(["whatif", "-f", &new, "--base", &base]).output().unwrap();
        let (theirs, ours) = [server, ours].map(|it| (it.status.success(), it.stderr)).into();
        if theirs.0 != ours.0 {
            let said = [theirs.1, ours.1].map(|it| String::from_utf8(it).unwrap());
            others.push(format!("{spec}\n  kubectl: {}\n  whatif: {}", said[0], said[1]));
        }
    }
    assert!(others.is_empty(), "{} of {}:\n{}", others.len(), SPECS.len(), others.join("\n"));
}
