//! `bulrush matrix`, `explain` and `replay`: answers from manifests alone.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../../lib/model/tests/golden/mod.rs"]
mod golden;
mod offline_support;

use std::{fs, path::Path, process::Output};

use offline_support::{PLACE, SHOP, bulrush, list, said, written};
use serde_json::{Value, json};
use support::assert_bad_input;

fn matrix(args: &[&str]) -> Output {
    bulrush(&[&["matrix"], args].concat())
}

/// What a command that must fail says.
fn failure(args: &[&str]) -> String {
    let output = bulrush(args);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// A world as a folder of manifests, as people write them: without uids, nodes or statuses but the
/// addresses.
fn write_world(folder: &Path, world: &Value) {
    let write = |name: String, object: &Value| {
        fs::write(folder.join(name), object.to_string()).unwrap();
    };
    for (name, labels) in world["namespaces"].as_object().unwrap() {
        let metadata = json!({"name": name, "labels": labels});
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata});
        write(format!("namespace-{name}.json"), &object);
    }
    let ports = list(&world["ports"]).map(|port| {
        json!({"name": port["name"], "containerPort": port["port"], "protocol": port["protocol"]})
    });
    let containers = json!([{"name": "main", "ports": ports.collect::<Vec<_>>()}]);
    for pod in list(&world["pods"]) {
        let (namespace, name) = (text(&pod["namespace"]), text(&pod["name"]));
        let object = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": pod["labels"]},
            "spec": {"containers": containers},
            "status": {"podIPs": [{"ip": pod["ip"]}]},
        });
        write(format!("pod-{namespace}-{name}.json"), &object);
    }
    for (index, policy) in list(&world["policies"]).enumerate() {
        write(format!("policy-{index}.json"), policy);
    }
}

#[test]
fn every_verdict_of_every_known_world_is_right() {
    let Some(golden) = golden::folder() else { return };
    let worlds = fs::read_to_string(golden.join("truth.jsonl")).unwrap();
    let (mut verdicts, mut wrong) = (0, Vec::new());
    for world in worlds.lines() {
        let world: Value = serde_json::from_str(world).unwrap();
        let folder = tempfile::tempdir().unwrap();
        write_world(folder.path(), &world);
        let folder = folder.path().to_str().unwrap();
        let pods = list(&world["pods"])
            .map(|pod| format!("{}/{}", text(&pod["namespace"]), text(&pod["name"])))
            .collect::<Vec<_>>();
        for probe in list(&world["probes"]) {
            let port = format!("{}/{}", probe["port"], text(&probe["protocol"]).to_lowercase());
            let output = matrix(&["-f", folder, "--port", &port, "-o", "json"]);
            assert!(output.status.success(), "{}: {output:?}", world["id"]);
            let said: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(said["pods"], json!(pods), "{}", world["id"]);
            let allowed = list(&probe["allowed"]).collect::<Vec<_>>();
            for from in &pods {
                for to in pods.iter().filter(|to| *to != from) {
                    verdicts += 1;
                    let wanted = allowed.contains(&&json!([from, to]));
                    let ours = &said["reach"][from][to];
                    if *ours != json!(wanted) {
                        let id = &world["id"];
                        wrong.push(format!("{id}: {from} to {to}, {port}: {ours}, not {wanted}"));
                    }
                }
            }
        }
    }
    println!("truth.jsonl: {verdicts} verdicts, {} are wrong", wrong.len());
    for wrong in &wrong {
        println!("{wrong}");
    }
    assert!(wrong.is_empty(), "{} wrong verdicts", wrong.len());
    assert!(verdicts > 0, "truth.jsonl has no worlds");
}

#[test]
fn an_explanation_ends_as_the_matrix_says() {
    let Some(golden) = golden::folder() else { return };
    let worlds = fs::read_to_string(golden.join("truth.jsonl")).unwrap();
    let mut verdicts = [0, 0];
    for world in worlds.lines().step_by(70) {
        let world: Value = serde_json::from_str(world).unwrap();
        let folder = tempfile::tempdir().unwrap();
        write_world(folder.path(), &world);
        let folder = folder.path().to_str().unwrap();
        let output = matrix(&["-f", folder, "--port", "80", "-o", "json"]);
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        for (from, targets) in said["reach"].as_object().unwrap() {
            for (to, connects) in targets.as_object().unwrap() {
                let output =
                    bulrush(&["explain", from, &format!("{to}:80"), "-f", folder, "-o", "json"]);
                let explained: Value = serde_json::from_slice(&output.stdout).unwrap();
                assert_eq!(explained["allowed"], *connects, "{}: {explained}", world["id"]);
                let ends = list(&explained["ends"]).collect::<Vec<_>>();
                assert_eq!(ends.len(), 2, "both are pods: {explained}");
                let all = ends.iter().all(|end| end["allowed"] == true);
                assert_eq!(json!(all), *connects, "{explained}");
                assert!(ends.iter().all(|end| end["because"] != ""), "{explained}");
                verdicts[usize::from(all)] += 1;
            }
        }
    }
    assert!(verdicts.iter().all(|count| *count > 0), "denied and allowed: {verdicts:?}");
}

#[test]
fn an_explanation_names_each_rule_on_the_way_and_what_staged_policies_would_do() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop.yaml");
    fs::write(&file, SHOP).unwrap();
    let output = bulrush(&["explain", "shop/web", "shop/db:5432", "-f", file.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    let entering = text.split_once("entering").unwrap().1;
    let lines = entering.lines().filter(|line| !line.starts_with("  labels:")).collect::<Vec<_>>();
    assert_eq!(
        lines,
        [
            " shop/db: denied",
            "  address: 10.0.0.2",
            "  because: rule 2 of NetworkPolicy shop/db: deny",
            "  tier first",
            "    GlobalNetworkPolicy first.pass",
            "      selects it: app == \"db\"",
            "      rule 1, pass: matches",
            "  tier default",
            "    NetworkPolicy shop/db",
            "      selects it: (app == \"db\" && projectcalico.org/namespace == \"shop\")",
            "      rule 1, allow: no match: the source isn't \
             (projectcalico.org/namespace == \"shop\" && app == \"job\")",
            "      rule 2, deny: matches",
            "",
            "with staged policies enforced: allowed",
        ],
        "{text}"
    );
}

#[test]
fn addresses_outside_are_tried_with_each_pod_both_ways_as_explain_tries_them() {
    let rules = "---\napiVersion: projectcalico.org/v3\nkind: NetworkPolicy\n\
                 metadata: {name: edge, namespace: shop}\n\
                 spec: {types: [Ingress, Egress], ingress: [{action: Allow, source: {nets: [192.0.2.0/25]}}],\n  \
                 egress: [{action: Allow, destination: {nets: [10.0.0.0/8, 192.0.2.200/32]}}]}\n";
    let place = PLACE.split("---").next().unwrap();
    let (_folder, file) = written(&format!("{place}{rules}"));
    let outside = ["192.0.2.1", "192.0.2.200", "2001:db8::1"];
    let flags = outside.iter().take(2).flat_map(|it| ["--outside", it]).collect::<Vec<_>>();
    let matrix = ["matrix", "-f", &file, "--port", "80", "-o", "json"];
    let read = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let alone = read(&said(&matrix).0);
    let with = read(&said(&[&matrix[..], &flags].concat()).0);
    let mut ends = list(&alone["pods"]).map(text).collect::<Vec<_>>();
    assert_eq!(ends, ["shop/both", "shop/other", "shop/six"]);
    ends.extend(&outside[..2]);
    assert_eq!(with["pods"], json!(ends));
    let mut verdicts = [0, 0];
    for from in &ends[..2] {
        for to in ends.iter().filter(|to| *to != from && **to != "shop/six") {
            for (from, to) in [(from, to), (to, from)] {
                let explained =
                    said(&["explain", from, &format!("{to}:80"), "-f", &file, "-o", "json"]);
                let wanted = &read(&explained.0)["allowed"];
                assert_eq!(with["reach"][from][to], *wanted, "{from} to {to}");
                verdicts[usize::from(*wanted == true)] += 1;
            }
        }
        for to in list(&alone["pods"]).map(text).filter(|to| to != from) {
            assert_eq!(with["reach"][from][to], alone["reach"][from][to], "as without addresses");
        }
    }
    assert!(verdicts.iter().all(|count| *count > 2), "denied and allowed: {verdicts:?}");
    assert_eq!(with["reach"]["192.0.2.1"]["192.0.2.200"], Value::Null, "no pair has no pod");

    let (table, _) = said(&["matrix", "-f", &file, "--port", "80", "--outside", "192.0.2.200"]);
    let rows = table.lines().collect::<Vec<_>>();
    assert_eq!(
        [rows[0], rows[1], rows[4]],
        [
            "FROM         shop/both  shop/other  shop/six  192.0.2.200",
            "shop/both    -          no          no        yes",
            "192.0.2.200  no         no          no        -",
        ],
        "{table}"
    );
    let args = ["matrix", "-f", &file, "--port", "80", "--ipv6", "--outside", outside[2]];
    assert!(said(&args).0.contains("2001:db8::1"));
}

#[test]
fn the_address_that_was_asked_for_is_the_one_that_is_tried() {
    let (_folder, file) = written(PLACE);
    for (from, to, denied) in [
        ("shop/both", "shop/other:80", false),
        ("shop/both", "10.0.0.2:80", false),
        ("shop/both", "[fd00::2]:80", true),
        ("fd00::1", "shop/other:80", true),
        ("[fd00::1]", "shop/other:80", true),
        ("both", "other:80", false),
        ("192.0.2.9", "192.0.2.1:80", true),
        ("HostEndpoint n1-eth0", "192.0.2.9:80", true),
    ] {
        let (text, _) = said(&["explain", from, to, "-n", "shop", "-f", &file]);
        let verdict = text.lines().next().unwrap();
        assert_eq!(verdict.ends_with(": denied"), denied, "{from} to {to}: {text}");
    }
    let (text, _) = said(&["explain", "shop/both", "[fd00::2]:80", "-f", &file, "-o", "json"]);
    let explained: Value = serde_json::from_str(&text).unwrap();
    let tried = list(&explained["ends"]).map(|end| text_of(end, "address")).collect::<Vec<_>>();
    assert_eq!(tried, ["fd00::1", "fd00::2"]);
    let (text, _) = said(&["explain", "192.0.2.8", "192.0.2.9:80", "-f", &file]);
    assert!(text.contains("leaving 192.0.2.8: no endpoint here has it, so no policy is asked"));
    let way = "; if it is a service's, ask for a pod behind that\n";
    assert!(text.contains("entering 192.0.2.9: no endpoint here has it"), "{text}");
    assert_eq!(text.matches(way).count(), 1, "{text}");
}

fn text_of<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap()
}

#[test]
fn what_an_author_may_not_have_meant_is_said_beside_the_answer() {
    let policy = "---\napiVersion: projectcalico.org/v3\nkind: NetworkPolicy\n\
                  metadata: {name: no-six, namespace: shop}\nspec: {types: [Ingress]}\n";
    let lost = "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\n\
                metadata: {name: lost}\nspec: {tier: gone, types: [Egress]}\n";
    let wrong = "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\n\
                 metadata: {name: wrong}\nspec: {selector: a = 'b'}\n";
    let forward = "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\n\
                   metadata: {name: 17}\nspec: {applyOnForward: true, types: [Ingress]}\n";
    let (_folder, file) = written(&format!("{PLACE}{policy}{lost}{wrong}{forward}"));
    let (_, beside) = said(&["matrix", "-f", &file, "--port", "80"]);
    for words in [
        "document 4: NetworkPolicy shop/no-six is also in",
        "document 5: GlobalNetworkPolicy lost: spec.tier: Tier(gone) does not exist; apply it first",
        "document 6: GlobalNetworkPolicy wrong: left out: spec.selector: ",
        "HostEndpoint n1-eth0: not walked: policies with applyOnForward",
        "warning: no pair connects without IPv4, which these lack: shop/six; try --ipv6\n",
    ] {
        assert!(beside.contains(words), "{words}: {beside}");
    }
    let (_policy, alone) = written(policy);
    let (text, beside) = said(&["whatif", "-f", &alone, "--base", &alone]);
    assert!(text.starts_with("0 of 0 pairs change"), "{text}");
    assert_eq!(beside, "warning: there is no pod with an address, so nothing is tried\n");
    let (_, beside) = said(&["matrix", "-f", &file, "--port", "80", "--ipv6"]);
    assert!(!beside.contains("without IPv6"), "every pod has one: {beside}");
}

#[test]
fn pods_that_no_answer_is_about_are_named_by_why() {
    let pod = |name: &str, spec: &str, status: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec: {{nodeName: n1{spec}}}\nstatus: {{{status}}}\n"
        )
    };
    let mut pods = (0..12)
        .map(|number| pod(&format!("done-{number:02}"), "", "phase: Succeeded, podIP: 10.9.9.9"))
        .collect::<Vec<_>>();
    pods.push(pod("failed", "", "phase: Failed, podIPs: [{ip: 10.9.9.8}]"));
    pods.push(pod("new", "", "phase: Pending"));
    pods.push(pod("proxy", ", hostNetwork: true", "podIP: 192.168.0.1"));
    let (_folder, file) = written(&format!("{PLACE}{}", pods.concat()));
    let (text, beside) = said(&["matrix", "-f", &file, "--port", "80"]);
    assert!(!text.contains("done") && !text.contains("proxy"), "{text}");
    let done =
        (0..10).map(|number| format!("shop/done-{number:02}")).collect::<Vec<_>>().join(", ");
    for line in [
        &format!("warning: left out: pods ended (status.phase): {done} and 3 more\n"),
        "warning: left out: pods without an address (status.podIPs): shop/new\n",
        "warning: left out: pods of their node's network, where pods have no policy of their own: shop/proxy\n",
    ] {
        assert!(beside.contains(line), "{line}: {beside}");
    }
    let ended = failure(&["explain", "-f", &file, "shop/failed", "shop/new:80"]);
    assert_bad_input("explain: a pod that has ended", ended.lines().last().unwrap());
}

#[test]
fn who_asks_for_a_service_is_told_which_pods_are_behind_it() {
    let pod = |name: &str, address: &str, app: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\n\
             metadata: {{name: {name}, namespace: shop, labels: {{app: {app}, more: x}}}}\n\
             spec: {{nodeName: n1, containers: [{{ports: [{{name: http, containerPort: 8080}}]}}]}}\n\
             status: {{podIP: {address}}}\n"
        )
    };
    let service = |name: &str, spec: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}\n"
        )
    };
    let pods =
        (1..=4).map(|number| pod(&format!("web-{number}"), &format!("10.0.0.{number}"), "web"));
    let mut text = pods.collect::<String>() + &pod("db", "10.0.0.9", "db");
    text += &service(
        "web",
        "{clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10, 'fd00::10'], selector: {app: web}, \
         ports: [{port: 80, targetPort: http}]}",
    );
    text += &service(
        "db",
        "{clusterIP: None, selector: {app: db}, ports: [{port: 53, protocol: UDP}]}",
    );
    text += &service(
        "store",
        "{externalIPs: [192.0.2.5], selector: {app: db}, ports: [{port: 54}, {port: 1, targetPort: 2}]}",
    );
    text += &service("elsewhere", "{clusterIP: 10.96.0.11, ports: [{port: 80}]}");
    let (_folder, file) = written(&text);
    let asked = |to: &str| {
        let error = failure(&["explain", "shop/db", to, "-f", &file]);
        error.lines().last().unwrap().to_owned()
    };
    assert_bad_input("explain: an address of a service", &asked("10.96.0.10:80"));
    assert_bad_input("explain: a service", &asked("shop/store:54"));
    assert!(asked("[fd00::10]:80").contains("fd00::10 is an address of Service shop/web"));
    assert!(asked("192.0.2.5:54").contains("Service shop/store"));
    assert!(asked("10.96.0.11:80").ends_with("see the pods behind it: no pod here is behind it"));
    // A pod of that name is meant.
    let (answer, beside) = said(&["explain", "shop/web-1", "shop/db:53/udp", "-f", &file]);
    assert!(answer.starts_with("shop/web-1 to shop/db, 53/udp: allowed\n"), "{answer}");
    assert_eq!(beside, "", "services are not ignored");
    let outside = failure(&["matrix", "-f", &file, "--port", "80", "--outside", "10.96.0.10"]);
    assert_bad_input("matrix: outside, an address of a service", outside.lines().last().unwrap());
    // Nor are a service's own ports tried at pods.
    let (answer, _) = said(&["whatif", "-f", &file, "--base", &file]);
    assert_eq!(answer, "0 of 40 pairs change, over IPv4: 8080/tcp, 1/udp\n");
}

#[test]
fn a_field_that_kubernetes_would_not_take_is_said_beside_the_answer() {
    let policy = "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
                  metadata: {name: p, namespace: shop, label: {}}\n\
                  spec: {podSelector: {}, ingress: [{to: [{podSelector: {}}]}]}\n";
    let (_folder, file) = written(&format!("{PLACE}{policy}"));
    let (_, beside) = said(&["matrix", "-f", &file, "--port", "80"]);
    let (rule, label) = (
        "NetworkPolicy shop/p: spec.ingress[0].to: unknown field; known here are from, ports; the rule is left out\n",
        "NetworkPolicy shop/p: metadata.label: unknown field; known here are ",
    );
    assert_eq!(beside.matches("spec.ingress[0].to").count(), 1, "{beside}");
    assert!(beside.contains(rule) && beside.contains(label), "{beside}");
}

#[test]
fn each_link_of_a_pod_has_its_own_policy() {
    let link = |name: &str, address: &str, role: &str| {
        format!(
            "---\napiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\n\
             metadata: {{name: n1-k8s-p-{name}, namespace: shop, labels: {{role: {role}}}}}\n\
             spec: {{orchestrator: k8s, node: n1, pod: p, endpoint: {name}, interfaceName: {name},\n  \
             ipNetworks: [{address}/32]}}\n"
        )
    };
    let policy = "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: p}\n\
                  spec: {selector: role == 'open', types: [Ingress], ingress: [{action: Allow}]}\n";
    let (first, second) = (link("eth0", "10.1.0.1", "shut"), link("eth1", "10.1.0.2", "open"));
    let (_folder, file) = written(&format!("{first}{second}{policy}"));
    for (to, verdict, role) in [
        ("shop/p:80", "shop/p, 80/tcp: denied", "role=shut"),
        ("10.1.0.1:80", "shop/p, 80/tcp: denied", "role=shut"),
        ("shop/p/eth1:80", "shop/p/eth1, 80/tcp: allowed", "role=open"),
        ("10.1.0.2:80", "shop/p/eth1, 80/tcp: allowed", "role=open"),
    ] {
        let (text, _) = said(&["explain", "192.0.2.9", to, "-f", &file]);
        assert!(text.starts_with(&format!("192.0.2.9 to {verdict}\n")), "{text}");
        assert!(text.contains(role), "{to}: {text}");
    }
}

#[test]
fn a_profile_that_is_not_there_is_told_from_one_that_denies_and_from_the_built_in_one() {
    let verdict = |profile: &str| {
        let text = PLACE.replace("interfaceName: eth0", &format!("profiles: [{profile}]"));
        let (_folder, file) = written(&text);
        let (text, _) = said(&["explain", "192.0.2.9", "192.0.2.1:80", "-f", &file]);
        text.lines().find(|line| line.starts_with("  because: ")).unwrap().to_owned()
    };
    assert_eq!(
        verdict("projectcalico-default-allow"),
        "  because: rule 1 of Profile projectcalico-default-allow: allow"
    );
    assert_eq!(
        verdict("gone"),
        "  because: rule 1 of Profile gone (isn't there, which denies): deny"
    );
}

#[test]
fn the_backends_of_services_are_those_of_their_slices() {
    let service = "---\napiVersion: projectcalico.org/v3\nkind: NetworkPolicy\n\
                   metadata: {name: to-db, namespace: shop}\n\
                   spec: {selector: app == 'web', types: [Egress], egress: [\n\
                   {action: Allow, destination: {services: {name: db, namespace: shop}}}]}\n";
    let slice = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
                 metadata: {name: db-1, namespace: shop, labels: {kubernetes.io/service-name: db}}\n\
                 addressType: IPv4\nports: [{port: 5432}]\nendpoints: [{addresses: [10.0.0.2]}]\n";
    let explain = |file: &str, port: u16| {
        let (text, beside) = said(&["explain", "shop/web", &format!("shop/db:{port}"), "-f", file]);
        (text.split_once("entering").unwrap().0.to_owned(), beside)
    };
    let (_folder, file) = written(&format!("{SHOP}{service}{slice}"));
    assert!(explain(&file, 5432).0.contains("because: rule 1 of NetworkPolicy shop/to-db: allow"));
    assert!(explain(&file, 80).0.contains("no match: the destination isn't service shop/db"));

    // Without them the rule isn't in what a node gets, and its place is told all the same.
    let (_folder, file) = written(&format!("{SHOP}{service}"));
    let (text, beside) = explain(&file, 5432);
    assert!(text.contains("rule 1, allow: no match: it can't be expressed"), "{text}");
    assert!(beside.contains("the backends of services are not known here"), "{beside}");
}

#[test]
fn policies_before_connection_tracking_and_before_nat_are_walked_first_at_a_node() {
    let policy = |name: &str, flags: &str, rules: &str| {
        format!(
            "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {{name: {name}}}\n\
             spec: {{selector: is == 'host', {flags}, {rules}}}\n"
        )
    };
    let host = "apiVersion: projectcalico.org/v3\nkind: HostEndpoint\nmetadata: {name: h, labels: {is: host}}\n\
                spec: {node: n1, interfaceName: eth0, expectedIPs: [192.0.2.1]}\n";
    let port = |action: &str, port: u16, at: &str| {
        format!("{{action: {action}, protocol: TCP, {at}: {{ports: [{port}]}}}}")
    };
    let to = |action: &str, number: u16| port(action, number, "destination");
    let untracked = policy(
        "first",
        "doNotTrack: true, applyOnForward: true",
        &format!(
            "types: [Ingress, Egress], ingress: [{}, {}, {}], egress: [{}]",
            to("Allow", 1),
            to("Deny", 2),
            to("Pass", 3),
            to("Deny", 9)
        ),
    );
    let before_nat = policy(
        "second",
        "preDNAT: true, applyOnForward: true",
        &format!("types: [Ingress], ingress: [{}, {}]", to("Allow", 4), to("Deny", 5)),
    );
    let normal = policy(
        "third",
        "types: [Ingress, Egress]",
        &format!("ingress: [{}, {}], egress: [{}]", to("Allow", 3), to("Allow", 2), to("Allow", 4)),
    );
    let (_folder, file) = written(&format!("{host}{untracked}{before_nat}{normal}"));
    for (number, incoming, because) in [
        (
            1,
            "allowed",
            "rule 1 of GlobalNetworkPolicy first: allow; it isn't tracked, so its answers need a rule that allows them",
        ),
        (2, "denied", "rule 2 of GlobalNetworkPolicy first: deny"),
        (3, "allowed", "rule 1 of GlobalNetworkPolicy third: allow"),
        (4, "allowed", "rule 1 of GlobalNetworkPolicy second: allow"),
        (5, "denied", "rule 2 of GlobalNetworkPolicy second: deny"),
        (
            6,
            "denied",
            "no rule in tier default decides, and what its policies don't allow it denies",
        ),
    ] {
        let (text, beside) =
            said(&["explain", "192.0.2.9", &format!("192.0.2.1:{number}"), "-f", &file]);
        assert!(
            text.contains(&format!("entering HostEndpoint h: {incoming}\n")),
            "{number}: {text}"
        );
        assert!(text.contains(&format!("  because: {because}\n")), "{number}: {text}");
        assert_eq!(beside, "", "nothing is left out");
    }
    for (number, outgoing) in [(4, "allowed"), (9, "denied"), (5, "denied")] {
        let (text, _) =
            said(&["explain", "192.0.2.1", &format!("192.0.2.9:{number}"), "-f", &file]);
        assert!(
            text.contains(&format!("leaving HostEndpoint h: {outgoing}\n")),
            "{number}: {text}"
        );
        assert!(!text.contains("preDNAT"), "it is for what comes in: {text}");
    }
    let (text, _) = said(&["explain", "192.0.2.9", "192.0.2.1:6", "-f", &file]);
    let tiers = text.lines().filter(|line| line.starts_with("  tier ") || line.contains("end of"));
    assert_eq!(
        tiers.collect::<Vec<_>>(),
        [
            "  tier default, policies with doNotTrack",
            "    end of the tier: pass",
            "  tier default, policies with preDNAT",
            "    end of the tier: pass",
            "  tier default",
            "    end of the tier: deny",
        ],
        "{text}"
    );
}

#[test]
fn what_stays_within_a_node_is_not_asked_of_policies_that_never_see_it() {
    let closed = "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: closed}\n\
                  spec: {selector: all(), types: [Ingress]}\n";
    let place =
        PLACE.split("---\napiVersion: projectcalico.org/v3\nkind: NetworkPolicyList").next();
    let place = place.unwrap().replace("node: n1", "node: NODE");
    let explain = |node: &str, from: &str, to: &str| {
        let (_folder, file) = written(&format!("{}{closed}", place.replace("NODE", node)));
        said(&["explain", from, &format!("{to}:80"), "-f", &file]).0
    };
    // Pods without a node are on `node`.
    let (pod, host) = ("shop/both", "192.0.2.1");
    let text = explain("node", host, pod);
    assert!(text.starts_with("HostEndpoint n1-eth0 to shop/both, 80/tcp: allowed\n"), "{text}");
    assert!(text.contains("entering shop/both: it stays within the node, so no policy is asked"));
    let text = explain("node", pod, host);
    assert!(text.contains("leaving shop/both: allowed\n"), "{text}");
    assert!(text.contains("entering HostEndpoint n1-eth0: of what pods send to their own node"));
    for (from, to) in [(pod, host), (host, pod)] {
        let text = explain("another", from, to);
        assert!(text.lines().next().unwrap().ends_with(": denied"), "{text}");
    }
}

#[test]
fn failsafe_ports_of_a_node_are_open_before_any_policy_is_asked() {
    let place =
        PLACE.split("---\napiVersion: projectcalico.org/v3\nkind: NetworkPolicyList").next();
    let closed = "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: closed}\n\
                  spec: {selector: '!has(projectcalico.org/namespace)', doNotTrack: true, applyOnForward: true,\n  \
                  types: [Ingress, Egress], ingress: [{action: Deny}], egress: [{action: Deny}]}\n";
    let felix = |name: &str, spec: &str| {
        format!(
            "---\napiVersion: projectcalico.org/v3\nkind: FelixConfiguration\nmetadata: {{name: {name}}}\n\
             spec: {{{spec}}}\n"
        )
    };
    let (inbound, outbound) = ("failsafeInboundHostPorts", "failsafeOutboundHostPorts");
    let some = felix("default", &format!("{inbound}: [{{port: 8022, net: 10.0.0.0/8}}]"));
    let none = felix("node.n1", &format!("{inbound}: [], {outbound}: []"));
    let other = felix("node.n2", &format!("{inbound}: [{{port: 80}}], {outbound}: [{{port: 80}}]"));
    let (host, pod, outside) = ("192.0.2.1", "shop/both", "203.0.113.1");
    for (felix, from, to, allowed) in [
        ("", outside, "192.0.2.1:22", true),
        ("", outside, "192.0.2.1:68/udp", true),
        ("", pod, "192.0.2.1:6443", true),
        ("", outside, "192.0.2.1:22/udp", false),
        ("", outside, "192.0.2.1:80", false),
        ("", host, "203.0.113.1:53/udp", true),
        ("", host, "203.0.113.1:22", false),
        (&some, pod, "192.0.2.1:8022", true),
        (&some, outside, "192.0.2.1:8022", false),
        (&some, outside, "192.0.2.1:22", false),
        (&some, host, "203.0.113.1:179", true),
        (&none, outside, "192.0.2.1:22", false),
        (&none, host, "203.0.113.1:179", false),
        (&other, outside, "192.0.2.1:80", false),
    ] {
        let (_folder, file) = written(&format!("{}{closed}{felix}", place.unwrap()));
        let (text, _) = said(&["explain", from, to, "-f", &file]);
        let verdict = text.lines().next().unwrap();
        assert_eq!(verdict.ends_with(": allowed"), allowed, "{felix}: {text}");
        let says = text.contains(" is a failsafe port: no policy is asked\n");
        assert_eq!(says, allowed, "{text}");
    }

    let (_base, base) = written(&format!("{}{closed}", place.unwrap()));
    let (_new, new) = written(none.trim_start_matches("---\n"));
    let (table, beside) = said(&["whatif", "-f", &new, "--base", &base, "--outside", outside]);
    assert!(
        table.contains("22/tcp    4   203.0.113.1           HostEndpoint n1-eth0  yes     no\n"),
        "{table}"
    );
    assert!(
        table.contains("179/tcp   4   HostEndpoint n1-eth0  203.0.113.1           yes     no\n"),
        "{table}"
    );
    assert!(!beside.contains("failsafe"), "{beside}");
    let wrong = felix("node.n1", &format!("{inbound}: [{{port: 22, net: x}}]"));
    let (_folder, file) = written(&format!("{}{closed}{wrong}", place.unwrap()));
    let (_, beside) = said(&["explain", outside, "192.0.2.1:22", "-f", &file]);
    assert!(beside.contains("spec.failsafeInboundHostPorts[0].net"), "{beside}");
}

/// What a packet is, and how it is asked for.
struct Tried {
    port: &'static str,
    version: u64,
    protocol: u64,
    /// Its port, or its type and code.
    words: (u64, Option<u64>),
}

const TRIED: &[Tried] = &[
    Tried { port: "80", version: 4, protocol: 6, words: (80, None) },
    Tried { port: "443/6", version: 4, protocol: 6, words: (443, None) },
    Tried { port: "80/udp", version: 4, protocol: 17, words: (80, None) },
    Tried { port: "80/sctp", version: 4, protocol: 132, words: (80, None) },
    Tried { port: "80/udplite", version: 4, protocol: 136, words: (80, None) },
    Tried { port: "/47", version: 4, protocol: 47, words: (0, None) },
    Tried { port: "/icmp", version: 4, protocol: 1, words: (8, Some(0)) },
    Tried { port: "8.1/icmp", version: 4, protocol: 1, words: (8, Some(1)) },
    Tried { port: "80/1", version: 4, protocol: 1, words: (80, Some(0)) },
    Tried { port: "80", version: 6, protocol: 6, words: (80, None) },
    Tried { port: "/47", version: 6, protocol: 47, words: (0, None) },
    Tried { port: "/icmpv6", version: 6, protocol: 58, words: (128, Some(0)) },
    Tried { port: "8/icmpv6", version: 6, protocol: 58, words: (8, Some(0)) },
    Tried { port: "8.1/58", version: 6, protocol: 58, words: (8, Some(1)) },
];

/// Conditions of rules on protocols, each with each that may stand beside it.
fn conditions() -> Vec<Value> {
    let names = ["TCP", "UDP", "SCTP", "UDPLite", "ICMP", "ICMPv6"].map(Value::from);
    let numbers = [1, 6, 17, 47, 58, 132, 136].map(Value::from);
    let mut all = vec![json!({}), json!({"ipVersion": 4}), json!({"ipVersion": 6})];
    for protocol in names.into_iter().chain(numbers) {
        all.push(json!({"protocol": protocol}));
        all.push(json!({"notProtocol": protocol}));
        all.push(json!({"protocol": protocol, "notProtocol": "ICMP"}));
        if ["TCP", "UDP", "SCTP"].iter().any(|it| protocol == *it) || protocol == 6 {
            for field in ["ports", "notPorts"] {
                all.push(json!({"protocol": protocol, "destination": {field: [80]}}));
            }
        }
        if ["ICMP", "ICMPv6"].iter().any(|it| protocol == *it) || protocol == 58 || protocol == 1 {
            for field in ["icmp", "notICMP"] {
                all.push(json!({"protocol": protocol, field: {"type": 8}}));
                all.push(json!({"protocol": protocol, field: {"type": 8, "code": 1}}));
                all.push(json!({"protocol": protocol, field: {"type": 80, "code": 0}}));
            }
        }
    }
    all.extend([json!({"notICMP": {"type": 8}}), json!({"notICMP": {"type": 8, "code": 0}})]);
    all
}

/// Whether a packet is what the conditions say.
fn is_meant(rule: &Value, packet: &Tried) -> bool {
    let number = |protocol: &Value| match protocol.as_str() {
        Some("ICMP") => 1,
        Some("TCP") => 6,
        Some("UDP") => 17,
        Some("ICMPv6") => 58,
        Some("SCTP") => 132,
        Some("UDPLite") => 136,
        _ => protocol.as_u64().unwrap(),
    };
    let is_icmp = |icmp: &Value| {
        let (kind, code) = packet.words;
        code.is_some_and(|code| {
            icmp["type"] == kind && (icmp["code"].is_null() || icmp["code"] == code)
        })
    };
    let is_port = |ports: &Value| ports[0] == packet.words.0;
    let holds =
        |condition: &Value, is: &dyn Fn(&Value) -> bool| condition.is_null() || is(condition);
    holds(&rule["ipVersion"], &|it| *it == packet.version)
        && holds(&rule["protocol"], &|it| number(it) == packet.protocol)
        && holds(&rule["notProtocol"], &|it| number(it) != packet.protocol)
        && holds(&rule["icmp"], &is_icmp)
        && holds(&rule["notICMP"], &|it| !is_icmp(it))
        && holds(&rule["destination"]["ports"], &is_port)
        && holds(&rule["destination"]["notPorts"], &|it| !is_port(it))
}

#[test]
fn each_protocol_and_each_type_of_icmp_meets_the_rules_that_mean_it() {
    let pod = |name: &str, index: usize| {
        let ips = json!([{"ip": format!("10.0.0.{index}")}, {"ip": format!("fd00::{index}")}]);
        let metadata = json!({"name": name, "namespace": "shop", "labels": {"is": name}});
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": {"podIPs": ips}})
    };
    let mut objects = vec![pod("client", 250)];
    let rules = conditions();
    for (index, rule) in rules.iter().enumerate() {
        let name = format!("p{index}");
        objects.push(pod(&name, index));
        let mut rule = rule.clone();
        rule["action"] = json!("Allow");
        objects.push(json!({
            "apiVersion": "projectcalico.org/v3",
            "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"selector": format!("is == '{name}'"), "types": ["Ingress"], "ingress": [rule]},
        }));
    }
    let all = json!({"apiVersion": "v1", "kind": "List", "items": objects});
    let (_folder, file) = written(&all.to_string());
    let mut met = [0, 0];
    for packet in TRIED {
        let mut args = vec!["matrix", "-f", &file, "--port", packet.port, "-o", "json"];
        args.extend((packet.version == 6 && !packet.port.contains("/icmpv6")).then_some("--ipv6"));
        let (text, beside) = said(&args);
        assert_eq!(beside, "", "every rule is one that could be written");
        let matrix: Value = serde_json::from_str(&text).unwrap();
        for (index, rule) in rules.iter().enumerate() {
            let wanted = is_meant(rule, packet);
            let ours = &matrix["reach"]["shop/client"][format!("shop/p{index}")];
            assert_eq!(*ours, wanted, "{} over IPv{}: {rule}", packet.port, packet.version);
            met[usize::from(wanted)] += 1;
        }
    }
    assert!(met.iter().all(|count| *count > 200), "some meet and some don't: {met:?}");
}

#[test]
fn a_ping_is_explained_over_the_version_of_ip_that_it_has() {
    let policy = "---\napiVersion: projectcalico.org/v3\nkind: NetworkPolicy\n\
                  metadata: {name: closed, namespace: shop}\n\
                  spec: {types: [Ingress], ingress: [\n  \
                  {action: Deny, protocol: ICMP, icmp: {type: 13}},\n  \
                  {action: Deny, notICMP: {type: 8}},\n  \
                  {action: Allow}]}\n";
    let place =
        PLACE.split("---\napiVersion: projectcalico.org/v3\nkind: NetworkPolicyList").next();
    let (_folder, file) = written(&format!("{}{policy}", place.unwrap()));
    let (text, _) = said(&["explain", "shop/both", "shop/other:/icmp", "-f", &file]);
    assert!(text.starts_with("shop/both to shop/other, 8.0/icmp: allowed\n"), "{text}");
    for line in [
        "  address: 10.0.0.2\n",
        "      rule 1, deny: no match: it is for another type of ICMP\n",
        "      rule 2, deny: no match: it is for every type of ICMP but this\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    for (to, verdict) in [
        ("shop/other:/icmpv6", "shop/other, 128.0/icmpv6: denied"),
        ("shop/six:/icmpv6", "shop/six, 128.0/icmpv6: denied"),
        ("10.0.0.2:13/icmp", "shop/other, 13.0/icmp: denied"),
        ("[fd00::2]:8/icmpv6", "shop/other, 8.0/icmpv6: allowed"),
        ("192.0.2.7:/47", "192.0.2.7, /47: allowed"),
    ] {
        let (text, _) = said(&["explain", "shop/both", to, "-f", &file]);
        assert!(text.starts_with(&format!("shop/both to {verdict}\n")), "{text}");
    }
    // Without that being asked for, a ping of IPv6 is tried over it.
    let (text, beside) = said(&["matrix", "--port", "8/icmpv6", "-f", &file, "-o", "json"]);
    let matrix: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(matrix["reach"]["shop/both"]["shop/six"], true, "{text}");
    assert!(!beside.contains("no pair connects"), "every pod has the address: {beside}");
    let (_, beside) = said(&["matrix", "--port", "/icmp", "-f", &file]);
    assert!(
        beside.ends_with("without IPv4, which these lack: shop/six; try /icmpv6\n"),
        "{beside}"
    );
}

#[test]
fn what_cannot_be_answered_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop.yaml");
    fs::write(&file, SHOP).unwrap();
    let file = file.to_str().unwrap();
    let explain = |to: &str| failure(&["explain", "shop/web", to, "-f", file]);
    assert_bad_input("explain: no such pod", &explain("shop/dbb:5432"));
    assert_bad_input("explain: no port", &explain("shop/db"));
    assert_bad_input("explain: another family", &explain("[fd00::1]:80"));
    for (case, port) in [
        ("matrix: a protocol without ports", "80/47"),
        ("matrix: a protocol whose port is missing", "/udp"),
        ("matrix: a protocol where the port is", "icmp"),
        ("matrix: an unknown protocol", "/esp"),
        ("matrix: a type of ICMP that is none", "256/icmp"),
        ("matrix: a port that is none", "65536"),
    ] {
        let error = failure(&["matrix", "-f", file, "--port", port]);
        assert_bad_input(case, error.lines().next().unwrap());
    }
    for (case, outside, flags) in [
        ("matrix: outside, an address of a pod", "10.0.0.2", &[][..]),
        ("matrix: outside, no address", "10.0.0.0/8", &[]),
        ("matrix: outside, IPv6", "fd00::9", &[]),
        ("matrix: outside, IPv4", "192.0.2.1", &["--ipv6"]),
    ] {
        let args = ["matrix", "-f", file, "--port", "80", "--outside", outside];
        let error = failure(&[&args[..], flags].concat());
        assert_bad_input(case, error.lines().next().unwrap());
    }
    let versions = failure(&["matrix", "-f", file, "--port", "/icmp", "--ipv6"]);
    assert_bad_input("matrix: a protocol of the other version of IP", &versions);
    assert_bad_input("explain: a ping to a pod without its family", &explain("shop/db:/icmpv6"));
    assert_bad_input(
        "explain: a ping to an address of another family",
        &explain("[fd00::1]:/icmp"),
    );
    let place = folder.path().join("place.yaml");
    fs::write(&place, PLACE).unwrap();
    let place = place.to_str().unwrap();
    for (case, to) in [
        ("explain: a pod without an address", "shop/new:80"),
        ("explain: a pod of its node's network", "shop/proxy:80"),
    ] {
        let error = failure(&["explain", "shop/both", to, "-f", place]);
        assert_bad_input(case, error.lines().last().unwrap());
    }
    let twin = PLACE.replace(
        "name: new, namespace: shop}",
        "name: new, namespace: shop}, status: {podIP: 10.0.0.1}",
    );
    let (_folder, twin) = written(&twin);
    let twins = failure(&["explain", "shop/other", "10.0.0.1:80", "-f", &twin]);
    assert_bad_input("explain: an address of two pods", twins.lines().last().unwrap());
    for (case, text) in [
        (
            "whatif: a new policy that would be refused",
            "metadata: {name: p}\nspec: {selector: a = 'b'}",
        ),
        (
            "whatif: a new policy in a tier that is not there",
            "metadata: {name: p}\nspec: {tier: gone}",
        ),
    ] {
        let head = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\n";
        let (_folder, new) = written(&format!("{head}{text}\n"));
        let refused = failure(&["whatif", "-f", &new, "--base", file]);
        assert!(refused.starts_with("error: these would be refused:\n"), "{refused}");
        assert_bad_input(case, refused.lines().last().unwrap().trim());
        if case.contains("refused") {
            let missing = failure(&["whatif", "--delete", &new, "--base", file]);
            assert_bad_input("whatif: nothing to delete", missing.lines().last().unwrap().trim());
        }
    }
    for (case, head) in [
        (
            "matrix: another version of Calico's API",
            "apiVersion: projectcalico.org/v1\nkind: GlobalNetworkPolicy",
        ),
        (
            "matrix: a misspelled kind of Calico's",
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolici",
        ),
        ("matrix: a policy without an apiVersion", "kind: NetworkPolicy"),
        ("matrix: a name that is no text", "apiVersion: v1\nkind: Namespace\nmetadata: {name: 7}"),
    ] {
        let name = if head.contains("name") { "" } else { "metadata: {name: p}" };
        let (_folder, new) = written(&format!("{head}\n{name}\n"));
        let fault = failure(&["matrix", "-f", &new, "--port", "80"]);
        assert_bad_input(case, fault.lines().last().unwrap().trim());
    }
    let empty = folder.path().join("empty.yaml");
    fs::write(&empty, "kind: Deployment\napiVersion: apps/v1\n").unwrap();
    let empty = failure(&["matrix", "-f", empty.to_str().unwrap(), "--port", "80"]);
    assert_bad_input("matrix: nothing that policy is about", &empty);
    let unnamed = folder.path().join("unnamed.yaml");
    fs::write(&unnamed, "kind: Pod\napiVersion: v1\n").unwrap();
    let unnamed = failure(&["matrix", "-f", unnamed.to_str().unwrap(), "--port", "80"]);
    assert_bad_input("matrix: an object without a name", unnamed.lines().last().unwrap().trim());
    assert_bad_input("replay: no case and no record", &failure(&["replay", file, "--node", "n"]));
}
