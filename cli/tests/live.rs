//! `bulrush matrix`, `explain` and `whatif` on a live cluster, as its typha sees it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;
#[path = "../../lib/model/tests/golden/mod.rs"]
mod golden;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Output,
};

use common::{bulrush, start_typha};
use serde_json::{Value, json};

/// So many of the worlds whose truth is known.
const WORLDS: usize = 12;
const RESOURCES: &str = "/calico/resources/v3/projectcalico.org";

fn run(arguments: &[&str]) -> Output {
    bulrush().args(arguments).output().unwrap()
}

fn ok(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().unwrap().iter()
}

/// The world's objects as an API server has them.
fn objects(world: &Value) -> Vec<Value> {
    let mut objects = Vec::new();
    for (name, labels) in world["namespaces"].as_object().unwrap() {
        objects.push(json!({
            "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels},
        }));
        objects.push(json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": name},
        }));
    }
    let ports = list(&world["ports"]).map(|port| {
        json!({"name": port["name"], "containerPort": port["port"], "protocol": port["protocol"]})
    });
    let containers = json!([{"name": "main", "image": "i", "ports": ports.collect::<Vec<_>>()}]);
    for pod in list(&world["pods"]) {
        objects.push(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": pod["name"], "namespace": pod["namespace"], "labels": pod["labels"],
            },
            "spec": {
                "containers": containers, "nodeName": "node-1", "serviceAccountName": "default",
            },
            "status": {"podIPs": [{"ip": pod["ip"]}], "podIP": pod["ip"], "phase": "Running"},
        }));
    }
    objects.extend(list(&world["policies"]).cloned());
    for object in &mut objects {
        object["metadata"]["uid"] = json!("00000000-0000-4000-8000-000000000001");
    }
    objects
}

/// What Calico stores of them.
fn converted(objects: &[Value]) -> Vec<Value> {
    let lines = objects.iter().map(|object| json!({"id": "", "object": object}));
    let converted = common::convert(lines);
    converted.iter().flat_map(|line| list(&line["objects"]).cloned()).collect()
}

fn path(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let plural = match object["kind"].as_str().unwrap() {
        "Profile" => "profiles",
        "WorkloadEndpoint" => "workloadendpoints",
        "NetworkPolicy" => "networkpolicies",
        "GlobalNetworkPolicy" => "globalnetworkpolicies",
        other => panic!("{other}"),
    };
    let (namespace, name) =
        (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
    let below = if namespace.is_empty() { name } else { format!("{namespace}/{name}") };
    format!("{RESOURCES}/{plural}/{below}")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_typha_holds_is_answered_as_the_truth_and_as_the_manifests_say() {
    let Some(golden) = golden::folder() else { return };
    let worlds = fs::read_to_string(golden.join("truth.jsonl")).unwrap();
    let mut verdicts = 0;
    for world in worlds.lines().step_by(15).take(WORLDS) {
        let world: Value = serde_json::from_str(world).unwrap();
        let id = world["id"].as_str().unwrap();
        let store = embedded::Server::start(embedded::Config::default()).await.unwrap();
        let url = format!("http://{}", store.addr());
        ok(&["create", "tier", "another", "--store", &url]);
        let mut client = common::client(&url).await;
        let objects = objects(&world);
        for object in converted(&objects) {
            client.put(path(&object), object.to_string(), None).await.unwrap();
        }
        let typha = start_typha(&url, 10).await;
        let server = typha.address().to_string();
        common::until("typha is in sync", || typha.status().in_sync).await;

        let mut some = None;
        for probe in list(&world["probes"]) {
            let port =
                format!("{}/{}", probe["port"], probe["protocol"].as_str().unwrap().to_lowercase());
            let said = ok(&["matrix", "--server", &server, "--port", &port, "-o", "json"]);
            let said: Value = serde_json::from_str(&said).unwrap();
            let allowed = list(&probe["allowed"]).collect::<Vec<_>>();
            assert_eq!(said["pods"].as_array().unwrap().len(), list(&world["pods"]).count());
            for from in list(&said["pods"]) {
                for to in list(&said["pods"]).filter(|to| *to != from) {
                    verdicts += 1;
                    let (from, to) = (from.as_str().unwrap(), to.as_str().unwrap());
                    let wanted = allowed.contains(&&json!([from, to]));
                    assert_eq!(said["reach"][from][to], wanted, "{id}: {from} to {to}, {port}");
                    some = Some((from.to_owned(), format!("{to}:{port}"), wanted));
                }
            }
        }
        let (from, to, wanted) = some.unwrap();
        let said = ok(&["explain", &from, &to, "--server", &server, "-o", "json"]);
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(said["allowed"], wanted, "{id}: {said}");

        // What is there already changes nothing, under whatever name it is stored.
        let folder = tempfile::tempdir().unwrap();
        for (index, object) in objects.iter().enumerate() {
            fs::write(folder.path().join(format!("{index}.json")), object.to_string()).unwrap();
        }
        let unchanged = folder.path().to_str().unwrap();
        let said = ok(&["whatif", "-f", unchanged, "--server", &server]);
        assert!(said.starts_with("0 of "), "{id}: {said}");

        typha.stop().await;
        store.shutdown().await.unwrap();
    }
    assert!(verdicts > 1000, "{verdicts} verdicts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_would_close_a_live_namespace_is_told_before_it_is_written() {
    let store = embedded::Server::start(embedded::Config::default()).await.unwrap();
    let url = format!("http://{}", store.addr());
    ok(&["create", "tier", "another", "--store", &url]);
    let mut client = common::client(&url).await;
    let world = json!({
        "namespaces": {"a": {"team": "x"}, "b": {}},
        "ports": [{"name": "web", "port": 80, "protocol": "TCP"}],
        "pods": [
            {"namespace": "a", "name": "p", "labels": {}, "ip": "10.0.0.1"},
            {"namespace": "b", "name": "q", "labels": {}, "ip": "10.0.0.2"},
        ],
        "policies": [],
    });
    for object in converted(&objects(&world)) {
        client.put(path(&object), object.to_string(), None).await.unwrap();
    }
    let typha = start_typha(&url, 10).await;
    let server = typha.address().to_string();
    common::until("typha is in sync", || typha.status().in_sync).await;
    let policy = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    let text = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: closed}\n\
                spec: {namespaceSelector: team == 'x', types: [Ingress]}\n";
    fs::write(policy.path(), text).unwrap();
    let file = policy.path().to_str().unwrap();
    let output = run(&["whatif", "-f", file, "--server", &server]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(said.contains("80/tcp  4   b/q   a/p  yes     no\n"), "{said}");
    let outside = ["--port", "/icmp", "--outside", "192.0.2.1"];
    let output = run(&[&["whatif", "-f", file, "--server", &server][..], &outside].concat());
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("8.0/icmp  4   192.0.2.1  a/p  yes     no\n"), "{said}");

    ok(&["apply", "-f", file, "--store", &url]);
    common::until("typha has the policy", || {
        ok(&["matrix", "--server", &server, "--port", "80"]).contains("b/q   no")
    })
    .await;
    let said = ok(&["whatif", "-f", file, "--server", &server]);
    assert!(said.starts_with("0 of 4 pairs change, over IPv4: 80/tcp, 1/udp"), "{said}");
    let said = ok(&["explain", "b/q", "a/p:80", "--server", &server]);
    assert!(said.contains("GlobalNetworkPolicy closed"), "{said}");
    let said = ok(&["explain", "b/q", "a/p:/icmp", "--server", &server]);
    assert!(said.starts_with("b/q to a/p, 8.0/icmp: denied\n"), "{said}");

    let output = run(&["matrix", "--port", "80"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("--filename") && error.contains("--server"), "{error}");
    typha.stop().await;
    store.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn live_interfaces_of_nodes_and_all_links_of_a_pod_are_explained_with_their_policies() {
    let store = embedded::Server::start(embedded::Config::default()).await.unwrap();
    let url = format!("http://{}", store.addr());
    let manifest = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    let text = "apiVersion: projectcalico.org/v3\nkind: HostEndpoint\nmetadata: {name: n1, labels: {is: host}}\n\
                spec: {node: n1, interfaceName: eth0, expectedIPs: [192.0.2.1]}\n---\n\
                apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: p}\n\
                spec: {selector: is == 'host', types: [Ingress], ingress: [\n\
                {action: Allow, source: {nets: [10.0.0.0/8]}}]}\n";
    let link = |name: &str, address: &str| {
        format!(
            "---\napiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\n\
             metadata: {{name: n1-k8s-p-{name}, namespace: shop}}\n\
             spec: {{orchestrator: k8s, node: n1, pod: p, endpoint: {name}, interfaceName: {name},\n  \
             ipNetworks: [{address}/32]}}\n"
        )
    };
    let text = format!("{text}{}{}", link("eth0", "10.1.0.1"), link("eth1", "10.1.0.2"));
    fs::write(manifest.path(), text).unwrap();
    ok(&["apply", "-f", manifest.path().to_str().unwrap(), "--store", &url]);
    let typha = start_typha(&url, 10).await;
    let server = typha.address().to_string();
    common::until("typha is in sync", || typha.status().in_sync).await;
    for (from, verdict) in [("10.0.0.1", "allowed"), ("203.0.113.1", "denied")] {
        let said = ok(&["explain", from, "192.0.2.1:8080", "--server", &server]);
        let wanted = format!("{from} to HostEndpoint n1, 8080/tcp: {verdict}\n");
        assert!(said.starts_with(&wanted), "{said}");
    }
    for (to, name) in [("10.1.0.1:80", "shop/p"), ("10.1.0.2:80", "shop/p/eth1")] {
        let said = ok(&["explain", "203.0.113.1", to, "--server", &server]);
        assert!(said.contains(&format!("entering {name}: denied")), "no profile allows it: {said}");
    }
    typha.stop().await;
    store.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_typha_that_has_lost_its_store_answers_and_the_commands_say_for_how_long() {
    let store = embedded::Server::start(embedded::Config::default()).await.unwrap();
    let url = format!("http://{}", store.addr());
    let manifest = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    let link = |pod: &str, address: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: WorkloadEndpoint\n\
             metadata: {{name: n1-k8s-{pod}-eth0, namespace: shop}}\n\
             spec: {{orchestrator: k8s, node: n1, pod: {pod}, endpoint: eth0, interfaceName: {pod},\n  \
             ipNetworks: [{address}/32]}}\n---\n"
        )
    };
    let policy = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: p}\n\
                  spec: {selector: all()}\n";
    fs::write(manifest.path(), link("a", "10.1.0.1") + &link("b", "10.1.0.2") + policy).unwrap();
    let file = manifest.path().to_str().unwrap();
    ok(&["apply", "-f", file, "--store", &url]);
    let typha = start_typha(&url, 10).await;
    common::until("typha is in sync", || typha.status().in_sync).await;
    let (server, page) = (typha.address().to_string(), typha.status_address().to_string());
    let commands = [
        (&["explain", "shop/a", "shop/b:80", "-o", "json", "--server"][..], &server),
        (&["matrix", "--port", "80", "-o", "json", "--server"], &server),
        (&["whatif", "-f", file, "-o", "json", "--server"], &server),
        (&["watch", "--once", "-o", "json", "--server"], &server),
        (&["rollout", "status", "gnp/p", "-o", "json", "--server"], &page),
    ];
    let answers = || {
        commands.map(|(command, address)| {
            let output = run(&[command, &[address]].concat());
            let warnings = String::from_utf8(output.stderr).unwrap();
            let of_the_store = |line: &&str| line.contains("its store");
            let warning = warnings.lines().find(of_the_store).map(ToOwned::to_owned);
            (output.status.code(), String::from_utf8(output.stdout).unwrap(), warning)
        })
    };
    let before = answers();
    assert!(before.iter().all(|(_, _, warning)| warning.is_none()), "{before:?}");

    store.shutdown().await.unwrap();
    common::until("the age shows", || typha.status().stale_milliseconds > 1000).await;
    let pairs = commands.iter().zip(before).zip(answers());
    for (((command, address), before), (code, said, warning)) in pairs {
        assert_eq!((code, said), (before.0, before.1), "{command:?}: else as before");
        let warning = warning.unwrap_or_else(|| panic!("{command:?}: no word of the store"));
        let start = format!("warning: typha at {address}: its store has been out of reach for ");
        let rest = warning.strip_prefix(&start).unwrap_or_else(|| panic!("{warning}"));
        let seconds = rest.strip_suffix(" s: what follows is as of then").unwrap();
        assert!(seconds.parse::<u64>().unwrap() >= 2, "{warning}");
    }
    typha.stop().await;
}

/// What a browser gets.
fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Where agents do acknowledge, `README.md` shows it, and a test runs that.
#[tokio::test(flavor = "multi_thread")]
async fn a_roll_out_names_the_nodes_that_nobody_knows_of_and_what_is_not_there() {
    let store = embedded::Server::start(embedded::Config::default()).await.unwrap();
    let url = format!("http://{}", store.addr());
    let manifest = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    let text = "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {name: n1}\n\
                spec: {bgp: {ipv4Address: 192.0.2.1/24}}\n---\n\
                apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: p}\n\
                spec: {selector: all()}\n---\n\
                apiVersion: projectcalico.org/v3\nkind: StagedGlobalNetworkPolicy\nmetadata: {name: s}\n\
                spec: {selector: all()}\n";
    fs::write(manifest.path(), text).unwrap();
    let typha = start_typha(&url, 10).await;
    ok(&["apply", "-f", manifest.path().to_str().unwrap(), "--store", &url]);
    let server = typha.status_address().to_string();
    let status = |arguments: &[&str]| {
        let output = run(&[&["rollout", "status", "--server", &server], arguments].concat());
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    common::until("typha has the policy", || status(&["gnp/p"]).2.is_empty()).await;
    let (code, said, _) = status(&["gnp/p", "--wait", "--timeout", "1s", "--store", &url]);
    assert_eq!(code, Some(1));
    assert_eq!(
        said,
        "GlobalNetworkPolicy(p): enforced on 0 of 1 nodes, 0 of which use it\nunknown: n1\n"
    );
    let (_, json, _) = status(&["gnp/p", "-o", "json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["enforced"], &json["unknown"]), (&json!(0), &json!(["n1"])));

    // The answer is final where the store is asked too.
    for store in [&[][..], &["--store", &url, "--wait"]] {
        let (_, _, error) = status(&[&["gnp/q"], store].concat());
        support::assert_bad_input("rollout: a policy that never was, or was forgotten", &error);
    }
    let (_, _, error) = status(&["tier/q"]);
    support::assert_bad_input("rollout: an object that is not there", &error);
    // What only an earlier version of this command asks for would be taken for an object that is there.
    let deleted = ["delete", "globalnetworkpolicy", "p", "--store", &url];
    ok(&deleted);
    let gone = "GlobalNetworkPolicy(p): deleted; gone from 0 of 1 nodes, 0 of which used it\n\
                unknown: n1\n";
    common::until("typha has seen it go", || status(&["gnp/p"]).1 == gone).await;
    let (code, said, _) = status(&["gnp/p", "--store", &url]);
    assert_eq!((code, &*said), (Some(1), gone));
    let (_, json, _) = status(&["gnp/p", "-o", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["deleted"], true);
    // A typha that has started since has no word of its own on it, and is none that is missing.
    let started = start_typha(&url, 10).await;
    common::until("the other is in sync", || started.status().in_sync).await;
    let other = started.status_address().to_string();
    let both = format!("{server},{other}");
    let output = run(&["rollout", "status", "gnp/p", "--server", &both]);
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert_eq!(said, [gone, ""]);
    let output = run(&["rollout", "status", "gnp/p", "--server", &other]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("no typha remembers that it was deleted"), "{error}");
    started.stop().await;

    let path = "/api/v1/rollout?kind=GlobalNetworkPolicy&name=p";
    let answer = get(&server, path);
    assert!(answer.starts_with("HTTP/1.0 404"), "{answer}");
    assert!(answer.ends_with("GlobalNetworkPolicy p is not in the store\n"), "{answer}");
    let answer = get(&server, &format!("{path}&deleted=true"));
    assert!(answer.contains(r#""presence":"deleted""#), "{answer}");
    ok(&["apply", "-f", manifest.path().to_str().unwrap(), "--store", &url]);
    common::until("it is there again", || {
        status(&["gnp/p"]).1.starts_with("GlobalNetworkPolicy(p): enforced on 0 of 1")
    })
    .await;

    for (arguments, message) in [
        (
            &["gnp"],
            "\"gnp\" must be a kind and a name; write for example networkpolicy/web -n shop",
        ),
        (
            &["gnp/shop/p"],
            "GlobalNetworkPolicy has no namespaces; leave out \"shop\": GlobalNetworkPolicy/p",
        ),
        (&["gnpp/q"], "did you mean \"gnp\"?"),
    ] {
        let (code, _, error) = status(arguments);
        assert_eq!(code, Some(1), "{arguments:?}");
        assert!(error.contains(message), "{arguments:?}: {error}");
    }
    let staged = || status(&["stagedglobalnetworkpolicy/s"]).2;
    common::until("typha has the staged one", || staged().contains("enforced nowhere")).await;
    let both = format!("{server},127.0.0.1:1");
    let output = run(&["rollout", "status", "gnp/p", "--server", &both]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.stdout.is_empty(), "one of them answers: {output:?}");
    assert!(error.starts_with("warning: typha at 127.0.0.1:1: "), "the other is named: {error}");
    let output = run(&["rollout", "status", "gnp/p", "--server", "127.0.0.1:1"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("127.0.0.1:1") && error.contains("--server"), "{error}");
    typha.stop().await;
    store.shutdown().await.unwrap();
}
