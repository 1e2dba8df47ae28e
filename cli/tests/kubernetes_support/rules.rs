//! What rules and routes need of Kubernetes' own objects: backends of services, cluster-wide policies, ranges of nodes.

use super::*;

/// Keys of the topics whose name begins so.
fn keys(view: &Contents, topic: &str) -> BTreeSet<String> {
    let found = view.keys().filter(|(name, _)| name.starts_with(topic));
    found.map(|(_, key)| key.clone()).collect()
}

fn members(typha: &Typha) -> BTreeSet<String> {
    keys(&view(typha, &["--node", "node-1"]), "ipset/")
}

fn slice(name: &str, service: &str, addresses: &[&str], port: u16) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name, "namespace": "shop", "labels": { "kubernetes.io/service-name": service },
        },
        "addressType": "IPv4",
        "endpoints": addresses.iter().map(|it| json!({ "addresses": [it] })).collect::<Vec<_>>(),
        "ports": [{ "name": "sql", "protocol": "TCP", "port": port }],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_with_services_follow_the_endpoint_slices() {
    let Some(kubernetes) = RealKubernetes::own(&[]) else { return };
    kubernetes.define_ours();
    kubernetes.apply(SHOP);
    kubernetes.apply(&slice("db-1", "db", &["10.9.0.1", "10.9.0.2"], 5432).to_string());
    kubernetes.apply(&slice("cache-1", "cache", &["10.9.9.9"], 6379).to_string());
    kubernetes.apply(
        r"
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: to-db, namespace: shop}
spec:
  selector: app == 'web'
  types: [Egress]
  egress: [{action: Allow, destination: {services: {name: db, namespace: shop}}}]
",
    );
    let typha = started(&kubernetes).await;
    let set = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
    let until_members = async |what: &str, expected: &[&str]| {
        let mut seen = BTreeSet::new();
        let same = until(what, || {
            seen = members(&typha).into_iter().filter(|it| it.starts_with("10.9.")).collect();
            seen == set(expected)
        });
        same.await;
    };
    until_members("the backends", &["10.9.0.1,tcp:5432", "10.9.0.2,tcp:5432"]).await;
    assert_eq!(typha.status().problems.len(), 0, "{:?}", typha.status().problems);

    kubernetes.apply(&slice("db-2", "db", &["10.9.0.2", "10.9.0.3"], 5432).to_string());
    until_members("more", &["10.9.0.1,tcp:5432", "10.9.0.2,tcp:5432", "10.9.0.3,tcp:5432"]).await;
    kubernetes.apply(&slice("db-1", "db", &["10.9.0.1"], 5433).to_string());
    until_members("others", &["10.9.0.1,tcp:5433", "10.9.0.2,tcp:5432", "10.9.0.3,tcp:5432"]).await;
    kubernetes.apply(&slice("db-1", "cache", &["10.9.0.1"], 5433).to_string());
    until_members("of another service", &["10.9.0.2,tcp:5432", "10.9.0.3,tcp:5432"]).await;
    kubernetes.kubectl_ok(&["delete", "endpointslice", "-n", "shop", "db-2"]);
    until_members("none", &[]).await;

    kubernetes.apply(&slice("db-1", "db", &["10.9.0.7"], 5432).to_string());
    until_members("again", &["10.9.0.7,tcp:5432"]).await;
    let server = typha.address().to_string();
    let matrix = bulrush().args(["matrix", "--server", &server, "--port", "80"]).output().unwrap();
    let said = String::from_utf8_lossy(&matrix.stderr);
    assert!(matrix.status.success() && !said.contains("services"), "{said}");
    let before = view(&typha, &["--node", "node-1"]);
    typha.stop().await;
    let typha = started(&kubernetes).await;
    assert_eq!(view(&typha, &["--node", "node-1"]), before, "another typha sees the same");
    typha.stop().await;
}

const CLUSTER_POLICY: &str = r"
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: no-blue}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {matchLabels: {team: red}}}
  ingress:
  - name: deny-blue
    action: Deny
    from: [{namespaces: {matchLabels: {team: blue}}}]
    protocols: [{tcp: {destinationPort: {number: 8080}}}]
";

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_network_policy_is_enforced_before_others_as_soon_as_its_kind_is_served() {
    let Some(kubernetes) = RealKubernetes::own(&[]) else { return };
    kubernetes.define_ours();
    kubernetes.apply(SHOP);
    kubernetes
        .apply("{apiVersion: v1, kind: Namespace, metadata: {name: sea, labels: {team: blue}}}");
    let typha = started(&kubernetes).await;
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": "clusternetworkpolicies.policy.networking.k8s.io",
            // What the API server asks for in this group of its own.
            "annotations": { "api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/network-policy-api/pull/300" },
        },
        "spec": {
            "group": "policy.networking.k8s.io",
            "scope": "Cluster",
            "names": { "kind": "ClusterNetworkPolicy", "plural": "clusternetworkpolicies" },
            "versions": [{
                "name": "v1alpha2", "served": true, "storage": true,
                "schema": { "openAPIV3Schema": {
                    "type": "object",
                    "properties": { "spec": {
                        "type": "object", "x-kubernetes-preserve-unknown-fields": true,
                    } },
                } },
            }],
        },
    });
    kubernetes.apply(&definition.to_string());
    kubernetes.kubectl_ok(&[
        "wait",
        "--for=condition=Established",
        "--timeout=30s",
        "crd/clusternetworkpolicies.policy.networking.k8s.io",
    ]);
    kubernetes.apply(CLUSTER_POLICY);
    let shown = until_shown(&typha, "KubernetesClusterNetworkPolicy", "no-blue").await;
    let translated = converted(&kubernetes, &["clusternetworkpolicies"]);
    assert_eq!(vec![plain(shown)], translated, "as `bulrush convert` says");

    let node = view(&typha, &["--node", "node-1"]);
    let topic = "policy/KubernetesClusterNetworkPolicy//no-blue";
    let rules = entry(&node, topic, "").unwrap_or_else(|| panic!("{node:#?}"));
    assert_eq!(rules["ingress"][0]["action"], "Deny", "{rules}");
    let lists = node.iter().filter(|((topic, _), _)| topic.starts_with("plist/"));
    let first = lists.map(|(_, list)| list["tiers"][0]["name"].clone()).collect::<Vec<_>>();
    assert_eq!(first, ["kube-admin"], "before the policies of namespaces");

    kubernetes.apply(&CLUSTER_POLICY.replace("team: red", "team: green"));
    let is_there = || keys(&view(&typha, &["--node", "node-1"]), topic).contains("");
    until("it selects nothing here", || !is_there()).await;
    kubernetes.apply(CLUSTER_POLICY);
    until("it selects again", is_there).await;
    kubernetes.kubectl_ok(&["delete", "clusternetworkpolicies", "no-blue"]);
    until("it is gone", || !is_there()).await;
    typha.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_57_with_use_pod_cidr_the_ranges_of_nodes_are_routes() {
    let Some(kubernetes) = shared() else { return };
    kubernetes.apply(
        "{apiVersion: v1, kind: Node, metadata: {name: node-57, annotations: \
         {projectcalico.org/IPv4Address: 192.0.2.57/24}}, spec: {podCIDR: 10.57.3.0/24, \
         podCIDRs: [10.57.3.0/24]}}\n---\n\
         {apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: a-57}, spec: {cidr: 10.57.0.0/16}}",
    );
    let with = typha::Config { pod_cidrs: true, ..common::typha_config(&store(kubernetes), 10) };
    let with = Typha::start(with).await.unwrap();
    let without = started(kubernetes).await;
    let route =
        |typha: &Typha| entry(&view(typha, &["--node", "node-1"]), "routes/", "10.57.3.0/24");
    until("in sync", || with.status().in_sync).await;
    until("the route", || route(&with).is_some()).await;
    assert_eq!(route(&with).unwrap()["node"], "node-57");
    assert_eq!(route(&without), None, "it has to be asked for");
    with.stop().await;
    without.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recording_gives_the_nodes_state_again_and_two_of_them_their_difference() {
    let Some(kubernetes) = RealKubernetes::own(&[]) else { return };
    kubernetes.define_ours();
    kubernetes.apply(SHOP);
    kubernetes.apply(&slice("db-1", "db", &["10.9.0.1"], 5432).to_string());
    set_address(&kubernetes, "web-0", "10.0.0.7", "Running");
    let folder = tempfile::tempdir().unwrap();
    let files = ["first", "second"].map(|name| folder.path().join(name));
    for (round, file) in files.iter().enumerate() {
        let config = common::typha_config(&store(&kubernetes), 10);
        let config = typha::Config { record: Some(file.clone()), ..config };
        let typha = Typha::start(config).await.unwrap();
        until("in sync", || typha.status().in_sync).await;
        if round == 1 {
            set_address(&kubernetes, "web-0", "10.0.0.77", "Running");
            until("the address", || {
                members(&typha).iter().any(|member| member.starts_with("10.0.0.77"))
            })
            .await;
        }
        typha.stop().await;
    }
    let config = common::typha_config(&store(&kubernetes), 10);
    let config = typha::Config { record: Some("/no/such/file".into()), ..config };
    let error = Typha::start(config).await.err().expect("no such folder").to_string();
    support::assert_bad_input("typha: a recording that can't be written", &error);

    let replay = |files: &[&std::path::PathBuf]| {
        let output = bulrush().arg("replay").args(files).args(["--node", "node-1"]).output();
        let output = output.unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        (output.status.code(), serde_json::from_str::<Value>(&printed).unwrap())
    };
    let (code, states) = replay(&[&files[0]]);
    assert_eq!(code, Some(0));
    let policies = states[0]["policies"].as_object().unwrap();
    assert!(policies.contains_key("KubernetesNetworkPolicy/shop/web"), "{policies:?}");
    assert_eq!(replay(&[&files[0], &files[0]]), (Some(0), json!([])));
    let (code, differences) = replay(&[&files[0], &files[1]]);
    assert_eq!(code, Some(1));
    let differences = differences.as_array().unwrap();
    let places: BTreeSet<&str> =
        differences.iter().map(|it| it["path"][0].as_str().unwrap()).collect();
    assert!(places.contains("ip_sets") && places.contains("workload_endpoints"), "{places:?}");
    assert!(!places.contains("policies"), "they are the same: {places:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_a_pod_that_no_agent_needs_is_no_publication() {
    let Some(kubernetes) = RealKubernetes::own(&[]) else { return };
    kubernetes.apply(SHOP);
    let typha = started(&kubernetes).await;
    set_address(&kubernetes, "web-0", "10.0.0.1", "Running");
    until("the address", || members(&typha).contains("10.0.0.1,tcp:8080")).await;
    let publication = || typha.status().publication;
    let progress = || {
        let streams = typha.status().streams;
        streams.iter().find(|it| it.name == "pods").map(|it| it.progress).unwrap_or_default()
    };
    let patched = async |arguments: &[&str]| {
        let written = kubernetes.kubectl_ok(
            &[arguments, &["-n", "shop", "-o", "jsonpath={.metadata.resourceVersion}"]].concat(),
        );
        let version: u64 = written.trim().parse().unwrap();
        until("it was read", || progress() >= version).await;
    };
    // Whatever was on its way is there.
    patched(&["annotate", "pod", "web-0", "note=0"]).await;
    let before = publication();
    for note in 1..5 {
        patched(&["annotate", "pod", "web-0", &format!("note={note}"), "--overwrite"]).await;
        let ready = json!({ "status": { "conditions": [{ "type": "Ready", "status": "True", "message": note.to_string() }] } });
        let ready = ready.to_string();
        patched(&["patch", "pod", "web-0", "--subresource=status", "--type=merge", "-p", &ready])
            .await;
    }
    assert_eq!(publication(), before);
    patched(&["label", "pod", "web-0", "app=db", "--overwrite"]).await;
    until("a label is one", || publication() > before).await;
    typha.stop().await;
}
