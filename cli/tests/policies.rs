//! What users of Calico expect of policies, asked of `matrix`, `explain` and `whatif` before anything is
//! written: A-nn are the scenarios' numbers.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    fs,
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

/// Manifests in a folder.
struct Cluster(TempDir);

impl Cluster {
    /// Namespaces with a label `name`, and pods `NAMESPACE/NAME ADDRESS LABELS [SERVICE ACCOUNT]`.
    fn new(namespaces: &[(&str, &str)], pods: &[(&str, &str, &str, &str)]) -> Self {
        let cluster = Self(tempfile::tempdir().unwrap());
        let namespaces = namespaces.iter().map(|(name, labels)| {
            format!(
                "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{{labels}}}}}}}"
            )
        });
        let pods = pods.iter().map(|(pod, address, labels, account)| {
            let (namespace, name) = pod.split_once('/').unwrap();
            format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}, namespace: {namespace}, \
                 labels: {{{labels}}}}}, spec: {{serviceAccountName: {account}}}, \
                 status: {{podIPs: [{{ip: {address}}}]}}}}"
            )
        });
        let text = namespaces.chain(pods).collect::<Vec<_>>().join("\n---\n");
        cluster.with("cluster", &text)
    }

    /// With more of them.
    fn with(self, name: &str, manifests: &str) -> Self {
        fs::write(self.0.path().join(format!("{name}.yaml")), manifests).unwrap();
        self
    }

    fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    /// Who reaches whom at a port: `FROM TO`.
    fn reach(&self, port: &str) -> BTreeSet<String> {
        let output = ask(&["matrix", "-f", self.path(), "--port", port, "-o", "json"]);
        let matrix: Value = serde_json::from_slice(&output.stdout).unwrap();
        let mut pairs = BTreeSet::new();
        for (from, targets) in matrix["reach"].as_object().unwrap() {
            for (to, connects) in targets.as_object().unwrap() {
                if *connects == true && from != to {
                    pairs.insert(format!("{from} {to}"));
                }
            }
        }
        pairs
    }

    /// Whether a connection is allowed, and why at the end that decides it.
    fn explain(&self, from: &str, to: &str) -> (bool, String) {
        let output = ask(&["explain", from, to, "-f", self.path(), "-o", "json"]);
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        let allowed = said["allowed"].as_bool().unwrap();
        let ends = said["ends"].as_array().unwrap();
        let deciding = ends.iter().rfind(|end| end["allowed"] == allowed);
        let because = deciding.map(|end| end["because"].as_str().unwrap().to_owned());
        (allowed, because.unwrap_or_default())
    }

    fn allows(&self, from: &str, to: &str) -> bool {
        self.explain(from, to).0
    }

    /// `FROM TO` of the pairs that manifests would open, and of those that they would close.
    fn whatif(&self, manifests: &str, port: &str) -> (BTreeSet<String>, BTreeSet<String>) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new.yaml");
        fs::write(&file, manifests).unwrap();
        let new = file.to_str().unwrap();
        let arguments = ["whatif", "-f", new, "--base", self.path(), "--port", port, "-o", "json"];
        let output = ask(&arguments);
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        let changes = said["changes"].as_array().unwrap();
        assert_eq!(output.status.code(), Some(if changes.is_empty() { 0 } else { 2 }));
        let pairs = |after: bool| {
            let of = changes.iter().filter(|change| change["after"] == after);
            of.map(|it| format!("{} {}", it["from"].as_str().unwrap(), it["to"].as_str().unwrap()))
                .collect()
        };
        (pairs(true), pairs(false))
    }
}

fn ask(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_bulrush")).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | 2)), "{arguments:?}: {error}");
    output
}

fn pairs(pairs: &[&str]) -> BTreeSet<String> {
    pairs.iter().map(ToString::to_string).collect()
}

/// Two pods of an application in `prod`, and one in `dev`.
fn shop() -> Cluster {
    Cluster::new(
        &[("prod", "name: prod"), ("dev", "name: dev")],
        &[
            ("prod/front", "10.0.0.1", "app: frontend", "default"),
            ("prod/back", "10.0.0.2", "app: backend", "default"),
            ("dev/test", "10.0.0.3", "app: frontend", "default"),
        ],
    )
}

const DENY_INGRESS: &str = "
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: deny}
spec: {selector: all(), types: [Ingress], order: 1000}
";

const BACKEND: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: backend, namespace: prod}
spec:
  podSelector: {matchLabels: {app: backend}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: frontend}}}]
    ports: [{port: 8080, protocol: TCP}]
";

#[test]
fn a_83_a_global_policy_without_rules_closes_all_pods_to_what_comes_and_no_host() {
    let open = shop();
    assert_eq!(open.reach("80").len(), 6);
    let (opened, closed) = open.whatif(DENY_INGRESS, "80");
    assert_eq!((opened.len(), closed), (0, open.reach("80")));

    let cluster = open.with("deny", DENY_INGRESS);
    assert_eq!(cluster.reach("80"), pairs(&[]));
    let (allowed, because) = cluster.explain("dev/test", "prod/back:80");
    assert!(!allowed && because.contains("default"), "{because}");
    assert!(!cluster.allows("192.0.2.1", "prod/back:80"), "nor from outside");
    assert!(cluster.allows("prod/back", "192.0.2.1:443"), "what goes out is open");
    assert!(cluster.allows("prod/back", "192.0.2.10:22"), "a node without a HostEndpoint");
}

#[test]
fn a_84_a_policy_of_kubernetes_opens_its_one_port_to_its_one_peer() {
    let cluster = shop().with("deny", DENY_INGRESS);
    let (opened, closed) = cluster.whatif(BACKEND, "8080");
    assert_eq!((opened, closed), (pairs(&["prod/front prod/back"]), pairs(&[])));

    let cluster = cluster.with("backend", BACKEND);
    assert_eq!(cluster.reach("8080"), pairs(&["prod/front prod/back"]));
    assert_eq!(cluster.reach("8080/udp"), pairs(&[]));
    assert_eq!(cluster.reach("80"), pairs(&[]));
    let (_, because) = cluster.explain("prod/front", "prod/back:8080");
    assert!(
        because.contains("prod/backend") || because.contains("prod/knp.default.backend"),
        "{because}"
    );
}

#[test]
fn a_85_an_empty_pod_selector_with_both_types_closes_its_namespace_both_ways() {
    let close = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: prod}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
";
    let cluster = shop().with("closed", close);
    assert_eq!(cluster.reach("80"), pairs(&[]), "the only other pair of dev is with prod");
    assert!(!cluster.allows("prod/front", "192.0.2.1:443"));
    assert!(!cluster.allows("192.0.2.1", "prod/front:80"));
    assert!(cluster.allows("dev/test", "192.0.2.1:443"), "another namespace is open");
    assert!(cluster.allows("192.0.2.1", "dev/test:80"));
}

#[test]
fn a_86_a_policy_of_host_endpoints_acts_on_these_and_on_no_pod() {
    let hosts = r#"
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: node-1-auto-hep, labels: {kubernetes.io/hostname: node-1}}
spec: {node: node-1, interfaceName: "*", expectedIPs: [192.0.2.10], profiles: [projectcalico-default-allow]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: hosts}
spec:
  order: 100
  selector: has(kubernetes.io/hostname)
  types: [Ingress]
  ingress:
  - {action: Allow, source: {nets: [10.0.0.0/16, 10.96.0.0/12]}}
"#;
    let cluster = shop().with("hosts", hosts);
    assert!(cluster.allows("prod/front", "192.0.2.10:443"), "from a net of pods");
    let (allowed, because) = cluster.explain("198.51.100.1", "192.0.2.10:443");
    assert!(!allowed, "{because}");
    assert!(cluster.allows("198.51.100.1", "prod/front:80"), "pods have no such label");
    assert_eq!(cluster.reach("80").len(), 6);
}

#[test]
fn a_87_a_namespace_without_the_label_counts_as_not_in_the_set() {
    let policy = r#"
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: apart}
spec:
  order: 0.0
  namespaceSelector: name not in {"sys", "logs"}
  types: [Ingress, Egress]
  ingress: [{action: Allow, source: {namespaceSelector: 'name in {"sys", "logs"}'}}]
  egress: [{action: Allow}]
"#;
    let cluster = Cluster::new(
        &[("sys", "name: sys"), ("logs", "name: logs"), ("app", "name: app"), ("bare", "")],
        &[
            ("sys/a", "10.0.0.1", "", "default"),
            ("logs/a", "10.0.0.2", "", "default"),
            ("app/a", "10.0.0.3", "", "default"),
            ("bare/a", "10.0.0.4", "", "default"),
        ],
    )
    .with("policy", policy);
    let open = [
        "sys/a logs/a",
        "logs/a sys/a",
        "app/a sys/a",
        "app/a logs/a",
        "bare/a sys/a",
        "bare/a logs/a",
        "sys/a app/a",
        "logs/a app/a",
        "sys/a bare/a",
        "logs/a bare/a",
    ];
    assert_eq!(cluster.reach("80"), pairs(&open), "all but between app and bare");
}

#[test]
fn a_89_the_lower_order_comes_first_and_the_first_match_decides() {
    let policy = |name: &str, order: u32, action: &str| {
        format!(
            "---\n{{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {{name: {name}}}, \
             spec: {{order: {order}, selector: app == 'backend', types: [Ingress], \
             ingress: [{{action: {action}}}]}}}}\n"
        )
    };
    // The name that sorts last has the lower order.
    let cluster = shop().with("policies", &(policy("z", 1, "Allow") + &policy("a", 2, "Deny")));
    let (allowed, because) = cluster.explain("dev/test", "prod/back:80");
    assert!(allowed && because.contains("rule 1 of GlobalNetworkPolicy z"), "{because}");
    let (_, closed) = cluster.whatif(&policy("a", 0, "Deny"), "80");
    assert_eq!(closed, pairs(&["dev/test prod/back", "prod/front prod/back"]));
}

#[test]
fn a_90_policies_select_by_account_and_namespace_and_rules_by_all_that_calico_has() {
    let cluster = || {
        Cluster::new(
            &[("prod", "name: prod"), ("dev", "name: dev")],
            &[
                ("prod/api", "10.0.0.1", "app: api", "api"),
                ("prod/web", "10.0.1.2", "app: web", "web"),
                ("dev/web", "10.0.2.3", "app: web", "web"),
            ],
        )
    };
    let policy = |selectors: &str, rules: &str| {
        format!(
            "{{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {{name: p}}, \
             spec: {{{selectors} types: [Ingress], ingress: [{rules}]}}}}"
        )
    };
    let to_api = ["dev/web prod/api", "prod/web prod/api"];
    let to_web = ["dev/web prod/web", "prod/api dev/web", "prod/api prod/web", "prod/web dev/web"];
    let all: Vec<&str> = to_api.into_iter().chain(to_web).collect();
    for (selectors, closed) in [
        ("", &all[..]),
        ("selector: app == 'api',", &to_api),
        ("serviceAccountSelector: projectcalico.org/name == 'api',", &to_api),
        (
            "namespaceSelector: name == 'prod',",
            &["dev/web prod/api", "prod/web prod/api", "dev/web prod/web", "prod/api prod/web"],
        ),
    ] {
        let (_, said) = cluster().whatif(&policy(selectors, ""), "80");
        assert_eq!(said, pairs(closed), "{selectors:?}");
    }
    for (rules, port, open) in [
        ("{action: Allow, protocol: TCP}", "80/udp", &[][..]),
        ("{action: Allow, protocol: 17}", "53/udp", &to_api),
        (
            "{action: Allow, protocol: TCP, destination: {ports: [443, '8000:8080']}}",
            "8080",
            &to_api,
        ),
        ("{action: Allow, protocol: TCP, destination: {ports: [443, '8000:8080']}}", "80", &[]),
        ("{action: Allow, protocol: TCP, destination: {notPorts: [80]}}", "80", &[]),
        ("{action: Allow, source: {nets: [10.0.1.0/24]}}", "80", &["prod/web prod/api"]),
        ("{action: Allow, source: {notNets: [10.0.1.0/24]}}", "80", &["dev/web prod/api"]),
        ("{action: Allow, source: {selector: app == 'web'}}", "80", &to_api),
        ("{action: Allow, source: {notSelector: app == 'web'}}", "80", &[]),
        (
            "{action: Allow, source: {namespaceSelector: name == 'dev'}}",
            "80",
            &["dev/web prod/api"],
        ),
        ("{action: Allow, source: {serviceAccounts: {names: [web]}}}", "80", &to_api),
        ("{action: Allow, destination: {nets: [10.9.0.0/16]}}", "80", &[]),
        ("{action: Log}, {action: Allow}", "80", &to_api),
        ("{action: Log}", "80", &[]),
        (
            "{action: Deny, source: {nets: [10.0.1.0/24]}}, {action: Allow}",
            "80",
            &["dev/web prod/api"],
        ),
        // Passed by the last tier: the profiles decide, which let all through.
        ("{action: Pass}", "80", &to_api),
    ] {
        let cluster = cluster().with("p", &policy("selector: app == 'api',", rules));
        let said: BTreeSet<String> =
            cluster.reach(port).into_iter().filter(|pair| pair.ends_with("prod/api")).collect();
        assert_eq!(said, pairs(open), "{rules} at {port}");
    }
}

#[test]
fn a_91_the_tour_closes_all_and_opens_it_step_by_step() {
    let cluster = Cluster::new(
        &[("tour", ""), ("kube-system", "")],
        &[
            ("tour/web", "10.0.0.1", "app: web", "default"),
            ("tour/client", "10.0.0.2", "run: cli", "default"),
            ("kube-system/dns", "10.0.0.3", "k8s-app: kube-dns", "default"),
        ],
    );
    let outside = "203.0.113.1:80";
    let state = |cluster: &Cluster| {
        [
            cluster.allows("tour/client", "tour/web:80"),
            cluster.allows("tour/client", outside),
            cluster.allows("tour/client", "kube-system/dns:53/udp"),
        ]
    };
    assert_eq!(state(&cluster), [true, true, true]);

    let deny = r#"
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: default-deny}
spec:
  selector: projectcalico.org/namespace not in {"kube-system", "calico-system"}
  types: [Ingress, Egress]
"#;
    let cluster = cluster.with("deny", deny);
    assert_eq!(state(&cluster), [false, false, false]);

    let egress = "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: client, namespace: tour}
spec: {selector: run == 'cli', types: [Egress], egress: [{action: Allow}]}
";
    let cluster = cluster.with("egress", egress);
    assert_eq!(state(&cluster), [false, true, true]);

    let ingress = "
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: web, namespace: tour}
spec:
  selector: app == 'web'
  types: [Ingress]
  ingress: [{action: Allow, source: {selector: run == 'cli'}}]
";
    let (opened, closed) = cluster.whatif(ingress, "80");
    assert_eq!((opened, closed), (pairs(&["tour/client tour/web"]), pairs(&[])));
    assert_eq!(state(&cluster.with("ingress", ingress)), [true, true, true]);
}
