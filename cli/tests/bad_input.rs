//! What a person reads when something is wrong, and that nobody else is disturbed by it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::{
    collections::BTreeMap,
    net::TcpListener,
    process::{Command, Output},
};

use common::{Process, bulrush, field};
use model::Kind;
use serde_json::{Value, json};
use support::assert_bad_input;

/// The message of a command that must fail.
fn failure(command: &mut Command) -> String {
    let Output { status, stderr, .. } = command.env_remove("RUST_LOG").output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{text}");
    text
}

/// The last line of it: what was logged before doesn't count.
fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or_default()
}

#[test]
fn a_server_that_cannot_be_reached_is_named_by_watch() {
    let text = failure(bulrush().args(["watch", "--server", "127.0.0.1:1"]));
    assert_bad_input("watch: nobody answers", &text);
}

#[test]
fn an_address_that_is_none_is_named_by_watch() {
    let text = failure(bulrush().args(["watch", "--server", "not an address"]));
    assert_bad_input("watch: not an address", &text);
}

#[test]
fn an_unknown_kind_is_named_by_the_server() {
    let dev = Process::start(bulrush().args(["dev", "--agents", "1", "--for", "60s"]));
    let ready = dev.lines_until("dev", |line| line.starts_with("ready ")).pop().unwrap();
    let server = field(&ready, "typha");
    let text = failure(bulrush().args(["watch", "--server", server, "--kinds", "Gadget"]));
    assert_bad_input("watch: unknown kind", &text);
}

#[test]
fn a_busy_port_is_named_with_the_flag_that_changes_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let store = ["--store", "http://127.0.0.1:2379"];
    let text = failure(bulrush().args(["run", "typha", "--port", &port]).args(store));
    assert_bad_input("typha: a busy port", last_line(&text));
    let listen = format!("127.0.0.1:{port}");
    let text = failure(bulrush().args(["run", "store", "--listen", &listen]));
    assert_bad_input("store: a busy port", last_line(&text));
}

#[test]
fn a_store_that_cannot_be_reached_at_start_is_named() {
    let ports = ["--port", "0", "--health-port", "0", "--metrics-port", "0", "--status-port", "0"];
    let args = ["run", "typha", "--store", "http://127.0.0.1:1"];
    let text = failure(bulrush().args(args).args(ports));
    assert_bad_input("typha: nobody answers at the store's address", last_line(&text));
}

#[test]
fn plaintext_beyond_loopback_must_be_asked_for() {
    let args = ["run", "typha", "--listen", "0.0.0.0", "--store", "http://127.0.0.1:1"];
    let text = failure(bulrush().args(args));
    assert_bad_input("typha: plaintext on an address that others reach", last_line(&text));
}

#[test]
fn a_wrong_flag_is_answered_with_the_nearest_right_one() {
    let text = failure(bulrush().args(["run", "typha", "--health-prt", "1"]));
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).take(2).collect();
    assert_bad_input("a wrong flag", &lines.join(" / "));
    let text = failure(bulrush().args(["dev", "--for", "20x"]));
    assert_bad_input("dev: a time without a unit that we know", text.lines().next().unwrap());
}

#[test]
fn a_store_of_another_kind_is_refused_by_name() {
    let text = failure(bulrush().args(["run", "typha"]).env("DATASTORE_TYPE", "consul"));
    assert_bad_input("DATASTORE_TYPE: a kind of store that does not exist", last_line(&text));
}

/// `bulrush apply` of this text on a store, which must fail.
fn apply(store: &str, manifest: &str) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), manifest).unwrap();
    let text = failure(bulrush().args(["apply", "--store", store, "-f"]).arg(file.path()));
    let text = text.replace(&file.path().display().to_string(), "FILE");
    last_line(&text).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_is_wrong_is_named_by_document_and_field_and_nothing_is_written() {
    let store = embedded::Server::start(embedded::Config::default()).await.unwrap();
    let url = format!("http://{}", store.addr());
    let pool = "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata: {name: p}\n";
    let cases = [
        ("apply: an unknown kind", "apiVersion: projectcalico.org/v3\nkind: Gadget\n".to_owned()),
        ("apply: an unknown field", format!("{pool}spek: {{cidr: 10.0.0.0/16}}\n")),
        ("apply: not YAML", "kind: [IPPool\n".to_owned()),
        ("apply: a CIDR with host bits", format!("{pool}spec: {{cidr: 10.0.0.1/16}}\n")),
        (
            "apply: a selector that does not parse",
            "apiVersion: projectcalico.org/v3\n\
            kind: NetworkPolicy\nmetadata: {name: p, namespace: ns}\nspec: {selector: a = 'b'}\n"
                .to_owned(),
        ),
    ];
    let peer = "apiVersion: projectcalico.org/v3\nkind: BGPPeer\nmetadata: {name: p}\n";
    let policy = |kind: &str, rest: &str| {
        format!("apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: p}}\n{rest}")
    };
    let common = [
        (
            "apply: a selector that YAML takes for a tag",
            format!("{peer}spec:\n  nodeSelector: !route-reflector\n  peerSelector: all()\n"),
        ),
        (
            "apply: a selector as a map",
            format!("{pool}spec:\n  cidr: 10.0.0.0/16\n  nodeSelector:\n    zone: west\n"),
        ),
        (
            "apply: a field outside spec",
            policy("GlobalNetworkPolicy", "namespaceSelector: all()\nspec: {}\n"),
        ),
        (
            "apply: a mode in another spelling",
            format!("{pool}spec: {{cidr: 10.0.0.0/16, ipipMode: Cross-SubNet}}\n"),
        ),
        (
            "apply: empty metadata",
            "apiVersion: projectcalico.org/v3\nkind: IPPool\nmetadata:\nspec: {cidr: 10.0.0.0/16}\n"
                .to_owned(),
        ),
        (
            "apply: a field of another kind",
            policy("FelixConfiguration", "spec: {asNumber: 64512}\n"),
        ),
        (
            "apply: the operator's field in a pool",
            format!("{pool}spec: {{cidr: 10.0.0.0/16, encapsulation: VXLAN}}\n"),
        ),
        (
            "apply: an unknown field in a pool",
            format!("{pool}spec: {{cidr: 10.0.0.0/16, natOutgoin: true}}\n"),
        ),
        (
            "apply: ports beside source and destination",
            policy("NetworkPolicy", "spec:\n  ingress:\n  - action: Allow\n    ports: [80]\n"),
        ),
        (
            "apply: a text where true or false belongs",
            format!("{pool}spec: {{cidr: 10.0.0.0/16, natOutgoing: 'yes'}}\n"),
        ),
        (
            "apply: a policy of Kubernetes' own",
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p}\n".to_owned(),
        ),
        (
            "apply: a field of a node in the configuration of BGP",
            policy("BGPConfiguration", "spec: {routeReflectorClusterID: 224.0.0.1}\n"),
        ),
        (
            "apply: a policy with Kubernetes' fields",
            policy("NetworkPolicy", "spec: {podSelector: {matchLabels: {app: web}}}\n"),
        ),
        ("apply: a tab", format!("{pool}spec:\n\tcidr: 10.0.0.0/16\n")),
        ("apply: a key twice", format!("{pool}spec:\n  cidr: 10.0.0.0/16\n  cidr: 10.1.0.0/16\n")),
    ];
    for (case, manifest) in cases.into_iter().chain(common) {
        assert_bad_input(case, &apply(&url, &manifest));
    }
    let text = failure(bulrush().args(["apply", "--store", &url, "-f", "/no/such/file"]));
    assert_bad_input("apply: no such file", &text);
    let mut client = common::client(&url).await;
    let prefix = Some(etcd_client::GetOptions::new().with_prefix().with_count_only());
    let pools = "/calico/resources/v3/projectcalico.org/ippools/";
    assert_eq!(client.get(pools, prefix).await.unwrap().count(), 0);
    store.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_are_no_objects_are_named_and_the_rest_goes_on() {
    let store = embedded::Server::start(embedded::Config::default()).await.unwrap();
    let url = format!("http://{}", store.addr());
    let mut client = common::client(&url).await;
    let path =
        |name: &str| format!("/calico/resources/v3/projectcalico.org/globalnetworkpolicies/{name}");
    client.put(path("a"), "{\"kind\": not json", None).await.unwrap();
    client.put(path("b"), r#"{"spec": {"selector": "a == "}}"#, None).await.unwrap();
    let rule =
        r#"{"spec": {"ingress": [{"action": "Allow", "source": {"nets": ["10.0.0.0/33"]}}]}}"#;
    client.put(path("c"), rule, None).await.unwrap();
    client.put(path("d"), r#"{"spec": {"selector": "all()"}}"#, None).await.unwrap();
    let typha = common::start_typha(&url, 10).await;
    // The store may be read a moment before what follows from it is said.
    common::until("typha says what is wrong", || !typha.status().problems.is_empty()).await;

    let status = typha.status();
    let problems: Vec<(&str, &str)> =
        status.problems.iter().map(|p| (p.object.as_str(), p.text.as_str())).collect();
    let text = |name: &str| {
        let object = format!("GlobalNetworkPolicy {name}");
        problems.iter().find(|(of, _)| *of == object).map(|(_, text)| *text)
    };
    assert_bad_input("the store: a value that is not JSON", text("a").unwrap());
    assert_bad_input("the store: a selector that does not parse", text("b").unwrap());
    assert_bad_input("the store: a rule that can't be expressed", text("c").unwrap());
    assert_eq!(text("d"), None);
    typha.stop().await;
    store.shutdown().await.unwrap();
}

/// Other values of a spec, each of a type that its field can't be: text for a list, an object for the rest.
fn of_wrong_types(spec: &Value) -> Value {
    let wrong = |value: &Value| match value {
        Value::Array(_) => json!("text"),
        Value::Object(_) => json!(["list"]),
        _ => json!({ "an": "object" }),
    };
    let fields = spec.as_object().into_iter().flatten();
    Value::Object(fields.map(|(name, value)| (name.clone(), wrong(value))).collect())
}

/// Kinds that etcd has in another form.
const WITHOUT_SPEC: &[Kind] =
    &[Kind::BlockAffinity, Kind::IPAMBlock, Kind::IPAMConfiguration, Kind::IPAMHandle];

/// Kinds whose specs go to whom they are for as they are.
const READ_BY_OTHERS: &[Kind] = &[
    Kind::BGPConfiguration,
    Kind::BGPFilter,
    Kind::CalicoNodeStatus,
    Kind::FelixConfiguration,
    Kind::IPReservation,
    Kind::KubeControllersConfiguration,
];

/// What others may write past validation, by the way in which it is broken.
fn broken(object: &Value, name: &str) -> Vec<u8> {
    let mut object = object.clone();
    object["metadata"]["name"] = json!(name);
    let way = name.strip_prefix("a-k8s-").and_then(|name| name.strip_suffix("-eth0"));
    match way.unwrap_or(name) {
        "types" => object["spec"] = of_wrong_types(&object["spec"]),
        "spec" => object["spec"] = json!("text"),
        "labels" => object["metadata"]["labels"] = json!(["a"]),
        "utf8" => {
            object["spec"]["note"] = json!("XX");
            let mut bytes = object.to_string().into_bytes();
            let at = bytes.windows(2).position(|two| two == b"XX").unwrap();
            bytes[at..at + 2].copy_from_slice(&[0xff, 0xfe]);
            return bytes;
        }
        "unknown" => object["spec"]["gadget"] = json!({ "x": [1, null] }),
        "huge" => object["spec"]["gadget"] = json!("x".repeat(1_000_000)),
        other => panic!("{other}"),
    }
    object.to_string().into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_objects_of_every_kind_are_named_and_the_good_ones_beside_them_work() {
    let store = embedded::Server::start(embedded::Config::default()).await.unwrap();
    let url = format!("http://{}", store.addr());
    let mut client = common::client(&url).await;
    let fixture = common::every_kind();
    let specs = fixture.iter().flatten().map(|operation| &operation["value"]).rev();
    let specs: BTreeMap<&str, &Value> =
        specs.filter_map(|object| Some((object["kind"].as_str()?, &object["spec"]))).collect();
    // Of the kinds that the fixture lacks: fields that some of them have.
    let any = json!({
        "node": "a", "interfaceName": "eth0", "selector": "all()", "nodeSelector": "all()", "order": 5,
        "peerIP": "10.0.0.1", "asNumber": 64512, "reservedCIDRs": ["10.0.0.0/24"], "tier": "default",
        "podSelector": {}, "policyTypes": ["Ingress"],
    });
    let kinds = || Kind::all().filter(|kind| !WITHOUT_SPEC.contains(kind));
    let name_of = |kind: &str, way: &str| match kind {
        "WorkloadEndpoint" => format!("a-k8s-{way}-eth0"),
        _ => way.to_owned(),
    };
    for kind in kinds() {
        let namespace = if kind.is_namespaced() { "red/" } else { "" };
        let folder =
            format!("/calico/resources/v3/projectcalico.org/{}/{namespace}", kind.plural());
        let mut object = json!({
            "apiVersion": "projectcalico.org/v3", "kind": kind.name(), "metadata": { "name": "good" },
            "spec": specs.get(kind.name()).copied().unwrap_or(&any),
        });
        if kind.is_namespaced() {
            object["metadata"]["namespace"] = json!("red");
        }
        for way in ["types", "spec", "labels", "utf8", "unknown", "huge"] {
            let name = name_of(kind.name(), way);
            client.put(format!("{folder}{name}"), broken(&object, &name), None).await.unwrap();
        }
        let good = name_of(kind.name(), "good");
        object["metadata"]["name"] = json!(good);
        client.put(format!("{folder}{good}"), object.to_string(), None).await.unwrap();
    }
    let typha = common::start_typha(&url, 10).await;
    common::until("typha reads the store", || typha.status().in_sync).await;

    let problems: BTreeMap<String, String> =
        typha.status().problems.into_iter().map(|it| (it.object, it.text)).collect();
    for kind in kinds() {
        let said = |way: &str| {
            let namespace = if kind.is_namespaced() { "red/" } else { "" };
            let name = name_of(kind.name(), way);
            problems.get(&format!("{} {namespace}{name}", kind.name())).map(String::as_str)
        };
        for (way, is_named) in [
            ("spec", true),
            ("labels", true),
            ("utf8", true),
            ("types", !READ_BY_OTHERS.contains(&kind)),
            ("unknown", false),
            ("huge", false),
            ("good", false),
        ] {
            assert_eq!(said(way).is_some(), is_named, "{} {way}: {:?}", kind.name(), said(way));
        }
    }
    let said = |object: &str| problems[object].as_str();
    assert_bad_input("the store: a field of a wrong type", said("IPPool types"));
    assert_bad_input("the store: bytes that are not UTF-8", said("IPPool utf8"));
    assert_bad_input("the store: a spec that is text", said("IPPool spec"));
    assert_bad_input("the store: labels that are a list", said("IPPool labels"));
    typha.stop().await;
    store.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display().to_string();
    let config = embedded::Config {
        data_dir: Some(folder.path().to_owned()),
        ..embedded::Config::default()
    };
    let store = embedded::Server::start(config).await.unwrap();
    let run = |folder: &str| {
        let args = ["run", "store", "--listen", "127.0.0.1:0", "--data-dir", folder];
        let text = failure(bulrush().args(args));
        last_line(&text).replace(&path, "FOLDER")
    };
    assert_bad_input("store: a data folder that another store uses", &run(&path));
    store.shutdown().await.unwrap();
    assert_bad_input("store: a data folder that can't be made", &run("/proc/no/such"));
}

/// The shell's limit of file sizes stands in for a full disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_writes_and_loses_nothing_that_was_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_bulrush");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = listener.local_addr().unwrap().to_string();
    drop(listener);
    let start = |limit: &str| {
        // The signal that goes with the limit must not end the program.
        let script = format!(
            "trap '' XFSZ; {limit}; exec {program} run store --listen {listen} --data-dir {}",
            folder.path().display()
        );
        Process::start(Command::new("sh").args(["-c", &script]))
    };
    let connect = async || {
        let url = format!("http://{listen}");
        let answers = async {
            loop {
                if let Ok(mut client) = etcd_client::Client::connect([&url], None).await
                    && client.status().await.is_ok()
                {
                    return client;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(common::PATIENCE, answers).await.expect("the store answers")
    };

    // 512-byte blocks: 4 MiB.
    let full = start("ulimit -f 8192");
    let mut client = connect().await;
    let mut acknowledged = 0;
    let refusal = loop {
        match client.put(format!("k{acknowledged}"), vec![b'x'; 100_000], None).await {
            Ok(_) => acknowledged += 1,
            Err(etcd_client::Error::GRpcStatus(status)) => break status,
            Err(other) => panic!("{other}"),
        }
        assert!(acknowledged < 100, "no disk was full");
    };
    assert_bad_input("store: a full disk", refusal.message());
    assert!(acknowledged > 5);
    let prefix = || Some(etcd_client::GetOptions::new().with_prefix().with_count_only());
    let count = client.get("k", prefix()).await.unwrap().count();
    assert_eq!(count, acknowledged, "it still reads");
    drop(full);

    let after = start("true");
    let mut client = connect().await;
    assert_eq!(client.get("k", prefix()).await.unwrap().count(), acknowledged);
    client.put("more", "x", None).await.expect("there is space again");
    drop(after);
}
