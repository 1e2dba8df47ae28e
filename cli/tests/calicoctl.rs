//! What people do with calicoctl, done with `bulrush`.

#![allow(clippy::expect_used, reason = "in a test a panic is a failure with its place")]

mod store_support;

use std::fs;

use serde_json::{Value, json};
use store_support::{Contents, Run, Store};

const RESOURCES: &str = "/calico/resources/v3/projectcalico.org/";

/// A command that must work; what it says.
fn works(store: &Store, arguments: &[&str], stdin: &str) -> String {
    let run = store.bulrush(arguments, stdin);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{arguments:?}: {run:?}");
    run.stdout
}

/// A command that must fail; what it says on stderr.
fn fails(store: &Store, arguments: &[&str], stdin: &str) -> String {
    let run = store.bulrush(arguments, stdin);
    assert_eq!(run.code, Some(1), "{arguments:?}: {run:?}");
    run.stderr
}

fn pool(name: &str, spec: &Value) -> String {
    json!({
        "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": name},
        "spec": spec,
    })
    .to_string()
}

const CLUSTER: &str = "
apiVersion: projectcalico.org/v3
kind: Node
metadata: {name: node-1, labels: {rack: a}}
spec: {bgp: {asNumber: 64500, ipv4Address: 10.0.0.1/24}}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pool-1}
spec: {cidr: 10.1.0.0/16, vxlanMode: CrossSubnet, natOutgoing: true}
---
apiVersion: projectcalico.org/v3
kind: BGPConfiguration
metadata: {name: default}
spec: {asNumber: 64501, nodeToNodeMeshEnabled: false}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: tor}
spec: {peerIP: 10.0.0.254, asNumber: 65000, nodeSelector: rack == 'a'}
---
apiVersion: projectcalico.org/v3
kind: BGPPeer
metadata: {name: all}
spec: {peerIP: 10.0.0.253, asNumber: 65001}
---
apiVersion: projectcalico.org/v3
kind: FelixConfiguration
metadata: {name: default}
spec: {logSeverityScreen: Info}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec: {order: 10, selector: app == 'web', types: [Ingress]}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: deny}
spec: {selector: all(), types: [Ingress, Egress]}
---
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {namespace: shop}
spec:
  node: node-1
  orchestrator: k8s
  pod: web-1
  endpoint: eth0
  interfaceName: cali1
  ipNetworks: [10.1.0.5/32]
";

fn cluster() -> Store {
    let store = Store::embedded();
    let said = works(&store, &["apply", "-f", "-"], CLUSTER);
    assert_eq!(said, "Successfully applied 9 resource(s)\n");
    store
}

#[test]
fn a_43_applying_a_pool_replaces_it_whole_and_never_its_block_size() {
    let store = Store::embedded();
    let path = format!("{RESOURCES}ippools/p");
    works(
        &store,
        &["apply", "-f", "-"],
        &pool("p", &json!({"cidr": "10.0.0.0/16", "vxlanMode": "Always", "natOutgoing": true})),
    );
    let replaced = pool("p", &json!({"cidr": "10.0.0.0/16", "natOutgoing": false}));
    works(&store, &["apply", "-f", "-"], &replaced);
    let spec = store.contents()[&path]["spec"].clone();
    assert_eq!((&spec["vxlanMode"], &spec["ipipMode"]), (&json!("Never"), &json!("Never")));
    assert_eq!(spec.get("natOutgoing"), None, "off is not written");

    works(&store, &["delete", "pool", "p"], "");
    works(
        &store,
        &["apply", "-f", "-"],
        &pool("p", &json!({"cidr": "10.0.0.0/16", "blockSize": 28})),
    );
    let before = store.contents();
    let said = fails(&store, &["apply", "-f", "-"], &replaced);
    assert!(
        said.contains("spec.blockSize: 26: the block size of a pool can't be changed"),
        "{said}"
    );
    assert_eq!(store.contents(), before);
}

#[test]
fn a_88_a_namespace_selector_outside_spec_is_refused_with_path_and_line() {
    let store = Store::embedded();
    let manifest = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata:\n  name: p\n\
                    namespaceSelector: has(team)\nspec:\n  selector: all()\n";
    let said = fails(&store, &["apply", "-f", "-"], manifest);
    assert!(
        said.contains(
            "stdin, document 1, line 5: GlobalNetworkPolicy p: namespaceSelector: unknown field \
             here; did you mean spec.namespaceSelector?"
        ),
        "{said}"
    );
    assert_eq!(store.contents(), Contents::new());
}

#[test]
fn a_93_a_bad_selector_or_port_is_refused_with_its_position() {
    let store = Store::embedded();
    let policy = |selector: &str, port: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {{name: p}}\nspec:\n  \
             selector: {selector}\n  ingress:\n  - action: Allow\n    protocol: TCP\n    destination:\n      \
             ports: [80, {port}]\n"
        )
    };
    let said = fails(&store, &["apply", "-f", "-"], &policy("app == 'web' && &", "81"));
    assert!(
        said.contains("(stdin, document 1, line 5): spec.selector: ")
            && said.contains("at byte 16"),
        "{said}"
    );
    let said = fails(&store, &["apply", "-f", "-"], &policy("all()", "90:80"));
    assert!(
        said.contains("line 10: NetworkPolicy p: spec.ingress[0].destination.ports[1]: \"90:80\""),
        "{said}"
    );
}

#[test]
fn a_104_what_get_printed_restores_an_empty_store_and_so_does_a_backup() {
    let source = cluster();
    let folder = tempfile::tempdir().expect("a folder");
    let files: Vec<String> = ["nodes", "ippool", "bgpconfig", "bgppeer"]
        .iter()
        .map(|kind| {
            let path = folder.path().join(format!("{kind}.yaml"));
            fs::write(&path, works(&source, &["get", kind, "-o", "yaml"], "")).expect("written");
            path.display().to_string()
        })
        .collect();
    let target = Store::embedded();
    let specs = |store: &Store, kind: &str| -> Vec<(String, Value)> {
        let prefix = format!("{RESOURCES}{kind}/");
        let of_kind = store.contents().into_iter().filter(|(path, _)| path.starts_with(&prefix));
        of_kind.map(|(path, mut object)| (path, object["spec"].take())).collect()
    };
    for _ in 0..2 {
        for file in &files {
            works(&target, &["apply", "-f", file], "");
        }
        for kind in ["nodes", "ippools", "bgpconfigurations", "bgppeers"] {
            assert!(!specs(&source, kind).is_empty());
            assert_eq!(specs(&target, kind), specs(&source, kind));
        }
    }

    source.put("/calico/ipam/v2/handle/h", br#"{"block":{"10.1.0.0/26":1},"deleted":false}"#);
    let backup = works(&source, &["datastore", "export"], "");
    let restored = Store::embedded();
    let objects = source.contents().len();
    let said = works(&restored, &["datastore", "import", "-f", "-"], &backup);
    assert_eq!(said, format!("{objects} objects written, 0 were there already, 0 failed\n"));
    assert_eq!(restored.contents(), source.contents(), "ids, times and addresses too");
    let said = works(&restored, &["datastore", "migrate", "import", "-f", "-"], &backup);
    assert_eq!(said, format!("0 objects written, {objects} were there already, 0 failed\n"));
}

#[test]
fn a_restore_overwrites_only_when_asked_and_names_what_it_cannot_read() {
    let store = cluster();
    let backup = works(&store, &["datastore", "export"], "");
    works(
        &store,
        &["patch", "tier", "default", "-p", r#"{"metadata": {"labels": {"a": "b"}}}"#],
        "",
    );
    let changed = store.contents();
    let said = fails(&store, &["datastore", "import", "-f", "-"], &backup);
    assert!(
        said.contains("Tier(default): is there and differs; --overwrite replaces it"),
        "{said}"
    );
    assert_eq!(store.contents(), changed);
    works(&store, &["datastore", "import", "-f", "-", "--overwrite"], &backup);
    assert_eq!(
        store.contents()[&format!("{RESOURCES}tiers/default")]["metadata"].get("labels"),
        None
    );

    let head = backup.lines().next().expect("a head");
    let run = store.bulrush(
        &["datastore", "import", "-f", "-"],
        &format!("{head}\n{{oops\n{{\"kind\": \"IPPol\", \"name\": \"x\", \"value\": {{}}}}\n"),
    );
    assert_eq!(run.stdout, "0 objects written, 0 were there already, 2 failed\n");
    assert!(run.stderr.contains("line 3: \"IPPol\" is no kind; did you mean IPPool?"), "{run:?}");
    let said = fails(&store, &["datastore", "import", "-f", "-"], "hello\n");
    assert!(
        said.contains("stdin: line 1: no export") || said.contains("-: line 1: no export"),
        "{said}"
    );
}

#[test]
fn a_129_the_ipam_configuration_is_shown_as_the_one_that_is_in_force() {
    let store = Store::embedded();
    assert!(fails(&store, &["get", "ipamconfig", "default"], "").contains("does not exist"));
    store.put("/calico/ipam/v2/config", br#"{"strict_affinity":true,"auto_allocate_blocks":true}"#);
    let yaml = works(&store, &["get", "ipamconfig", "default", "-o", "yaml"], "");
    assert!(
        yaml.starts_with("apiVersion: projectcalico.org/v3\nkind: IPAMConfiguration\n"),
        "{yaml}"
    );
    assert!(
        yaml.ends_with("spec:\n  autoAllocateBlocks: true\n  strictAffinity: true\n"),
        "{yaml}"
    );
    works(
        &store,
        &["patch", "ipamconfig", "default", "-p", r#"{"spec": {"maxBlocksPerHost": 4}}"#],
        "",
    );
    assert_eq!(
        store.contents()["/calico/ipam/v2/config"],
        json!({"strict_affinity": true, "auto_allocate_blocks": true, "maxBlocksPerHost": 4})
    );
}

#[test]
fn a_131_an_unknown_field_is_refused_with_its_path() {
    let store = Store::embedded();
    for (kind, spec, message) in [
        (
            "BGPConfiguration",
            "{nodeToNodeMesh: false}",
            "spec.nodeToNodeMesh: unknown field; did you mean nodeToNodeMeshEnabled?",
        ),
        (
            "BGPPeer",
            "{peerIp: 10.0.0.1, asNumber: 1, filter: [x]}",
            "spec.filter: unknown field; did you mean filters?",
        ),
        (
            "Node",
            "{bgp: {routeReflectorClusterId: 224.0.0.1, asnumber: 1, ipv4Adress: 10.0.0.1/24}}",
            "spec.bgp.ipv4Adress: unknown field; did you mean ipv4Address?",
        ),
    ] {
        let manifest = format!(
            "apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: default}}\nspec: {spec}\n"
        );
        let said = fails(&store, &["apply", "-f", "-"], &manifest);
        assert!(said.contains(message), "{said}");
    }
    assert_eq!(store.contents(), Contents::new());
}

#[test]
fn a_136_to_a_140_tables_have_the_columns_that_people_know() {
    let store = cluster();
    for (arguments, table) in [
        (
            &["IPPOOLS"][..],
            "NAME     CIDR          SELECTOR   \npool-1   10.1.0.0/16   all()      \n\n",
        ),
        (
            &["pool", "-o", "wide"],
            "NAME     CIDR          NAT    IPIPMODE   VXLANMODE     DISABLED   DISABLEBGPEXPORT   SELECTOR   ASSIGNMENTMODE   \n\
             pool-1   10.1.0.0/16   true   Never      CrossSubnet   false      false              all()      Automatic        \n\n",
        ),
        (&["nodes"], "NAME     \nnode-1   \n\n"),
        (
            &["node", "-o", "wide"],
            "NAME     ASN     IPV4          IPV6   \nnode-1   64500   10.0.0.1/24          \n\n",
        ),
        (
            &["workloadendpoint", "-n", "shop"],
            "NAMESPACE   WORKLOAD   NODE     NETWORKS      INTERFACE   \n\
             shop        web-1      node-1   10.1.0.5/32   cali1       \n\n",
        ),
        (
            &["networkpolicy", "-n", "shop"],
            "NAMESPACE   NAME   TIER      \nshop        web    default   \n\n",
        ),
        (
            &["globalnetworkpolicy", "-o", "wide"],
            "NAME   TIER      ORDER   SELECTOR   \ndeny   default   <nil>   all()      \n\n",
        ),
        (
            &["bgppeer"],
            "NAME   PEERIP       NODE          ASN     \n\
             all    10.0.0.253   (global)      65001   \n\
             tor    10.0.0.254   rack == 'a'   65000   \n\n",
        ),
        (
            &["bgpconfig"],
            "NAME      LOGSEVERITY   MESHENABLED   ASNUMBER   \ndefault   Info          false         64501      \n\n",
        ),
        (&["felixconfiguration"], "NAME      \ndefault   \n\n"),
    ] {
        assert_eq!(works(&store, &[&["get"], arguments].concat(), ""), table, "{arguments:?}");
    }
    let yaml = works(&store, &["get", "node", "node-1", "-o", "yaml"], "");
    assert!(
        yaml.contains("\nspec:\n  bgp:\n    asNumber: 64500\n    ipv4Address: 10.0.0.1/24\n"),
        "{yaml}"
    );
}

#[test]
fn a_141_each_command_says_done_count_and_kind_and_names_each_failure() {
    let store = cluster();
    for (arguments, stdin, said) in [
        (
            &["patch", "ippool", "pool-1", "-p", r#"{"spec": {"natOutgoing": null}}"#][..],
            "",
            "Successfully patched 1 'IPPool' resource\n",
        ),
        (
            &["patch", "ippool", "pool-1", "--patch", "spec: {disabled: true}"],
            "",
            "Successfully patched 1 'IPPool' resource\n",
        ),
        (
            &[
                "patch",
                "pool",
                "pool-1",
                "-t",
                "json",
                "-p",
                r#"[{"op": "remove", "path": "/spec/disabled"}]"#,
            ],
            "",
            "Successfully patched 1 'IPPool' resource\n",
        ),
        (
            &["label", "node", "node-1", "rack=b", "--overwrite"],
            "",
            "Successfully updated label rack on node node-1\n",
        ),
        (
            &["label", "node", "node-1", "a=1", "b=2"],
            "",
            "Successfully set label a on node node-1\nSuccessfully set label b on node node-1\n",
        ),
        (
            &["label", "node", "node-1", "a", "--remove"],
            "",
            "Successfully removed label a from node node-1\n",
        ),
        (&["create", "tier", "t1"], "", "Successfully created 1 'Tier' resource(s)\n"),
        (
            &["create", "tier", "t1", "--skip-exists"],
            "",
            "Successfully created 1 'Tier' resource(s)\n",
        ),
        (&["validate", "-f", "-"], CLUSTER, "Successfully validated 9 resource(s)\n"),
        (&["replace", "-f", "-"], CLUSTER, "Successfully replaced 9 resource(s)\n"),
        (
            &["delete", "bgppeer", "tor", "all"],
            "",
            "Successfully deleted 2 'BGPPeer' resource(s)\n",
        ),
    ] {
        assert_eq!(works(&store, arguments, stdin), said, "{arguments:?}");
    }
    for (arguments, messages) in [
        (
            &["create", "tier", "t1"][..],
            &["Failed to create Tier(t1): resource already exists; replace it, or apply it\n"][..],
        ),
        (
            &["delete", "tier", "x", "y"],
            &["Failed to delete Tier(x): resource does not exist\n", "Failed to delete Tier(y): "],
        ),
        (&["patch", "tier", "nope", "-p", "{}"], &["error: Tier(nope): resource does not exist"]),
        (
            &["patch", "tier", "t1", "-p", r#"{"spec": {"ordr": 1}}"#],
            &["spec.ordr: unknown field; did you mean order?"],
        ),
        (
            &["patch", "tier", "t1", "-p", r#"{"metadata": {"name": "t2"}}"#],
            &["metadata: it must stay Tier(t1)"],
        ),
        (&["patch", "tier", "t1", "-p", "[]"], &["add -t json"]),
        (&["patch", "tier", "t1", "-p", "{"], &["--patch: line 1"]),
        (&["label", "node", "node-1", "rack=c"], &["rack is \"a\"; add --overwrite to change it"]),
        (
            &["label", "node", "node-1", "rack"],
            &["\"rack\" is no label; write rack=VALUE, or add --remove"],
        ),
        (&["label", "node", "node-1", "a b=c"], &["labels not changed: metadata.labels"]),
        (&["get", "node", "-n", "x"], &["Node has no namespaces; leave out --namespace"]),
        (&["apply", "ippool", "p"], &["Failed to apply IPPool(p): spec.cidr"]),
        (&["delete", "ippool"], &["which IPPool? Give its name, or -f FILE"]),
        (&["delete"], &["which resources? Give a kind and names, or -f FILE"]),
    ] {
        let said = fails(&store, arguments, "");
        for message in messages {
            assert!(said.contains(message), "{arguments:?}: {said}");
        }
    }
}

#[test]
fn a_142_ipam_show_tells_pools_blocks_and_holders() {
    let store = cluster();
    store.put(
        "/calico/ipam/v2/assignment/ipv4/block/10.1.0.0-26",
        json!({
            "cidr": "10.1.0.0/26", "affinity": "host:node-1", "unallocated": [],
            "allocations": (0..64).map(|ordinal| (ordinal == 5).then_some(0)).collect::<Vec<_>>(),
            "attributes": [{"handle_id": "h", "secondary": {"pod": "web-1", "namespace": "shop", "node": "node-2"}}],
        })
        .to_string()
        .as_bytes(),
    );
    works(
        &store,
        &["apply", "-f", "-"],
        "{apiVersion: projectcalico.org/v3, kind: IPReservation, metadata: {name: r}, spec: {reservedCIDRs: [10.1.0.0/31]}}",
    );
    assert_eq!(
        works(&store, &["ipam", "show", "--show-blocks"], ""),
        "+----------+-------------+-----------+------------+--------------+--------------+\n\
         | GROUPING | CIDR        | IPS TOTAL | IPS IN USE | IPS RESERVED | IPS FREE     |\n\
         +----------+-------------+-----------+------------+--------------+--------------+\n\
         | IP Pool  | 10.1.0.0/16 |     65536 |     1 (0%) |       2 (0%) | 65533 (100%) |\n\
         | Block    | 10.1.0.0/26 |        64 |     1 (2%) |       2 (3%) |     61 (95%) |\n\
         +----------+-------------+-----------+------------+--------------+--------------+\n"
    );
    let pools = works(&store, &["ipam", "show"], "");
    assert!(pools.contains("IP Pool") && !pools.contains("Block"), "{pools}");
    assert_eq!(
        works(&store, &["ipam", "show", "--ip=10.1.0.5"], ""),
        "IP 10.1.0.5 is in use\nHandle ID: h\nActive Owner Attributes:\n  namespace: shop\n  \
         node: node-2\n  pod: web-1\n"
    );
    assert_eq!(
        works(&store, &["ipam", "show", "--ip", "10.1.0.6"], ""),
        "10.1.0.6 is not assigned\n"
    );
    let borrowed = works(&store, &["ipam", "show", "--show-borrowed"], "");
    assert!(
        borrowed.contains(
            "| 10.1.0.5 | node-2         | 10.1.0.0/26 | node-1      | pod  | shop/web-1   |"
        ),
        "{borrowed}"
    );
    assert!(
        fails(&store, &["ipam", "show", "--ip=x"], "").contains("no address; write for example")
    );
    let configuration = works(&store, &["ipam", "show", "--show-configuration"], "");
    assert!(
        configuration.contains("| AutoAllocateBlocks           | true    |"),
        "{configuration}"
    );
    store.put("/calico/ipam/v2/assignment/ipv4/block/10.1.0.64-26", b"{oops");
    let run = store.bulrush(&["ipam", "show"], "");
    assert!(run.stdout.contains("65536") && run.stderr.contains("it is left out"), "{run:?}");
    assert_eq!(run.code, Some(1));
}

#[test]
fn a_13_commands_work_where_there_is_no_node_and_node_says_where_it_must_run() {
    let store = cluster();
    works(&store, &["get", "nodes"], "");
    works(&store, &["ipam", "show"], "");
    let folder = std::path::Path::new(".");
    // Port 1 is nobody's.
    let run = store.bulrush_in(folder, &["node", "status"], "", &[("FELIX_HEALTHPORT", "1")]);
    assert_eq!(run.code, Some(1));
    assert!(run.stderr.contains("node status must run on a node, as root"), "{run:?}");
}

#[test]
fn a_115_a_node_takes_its_endpoints_addresses_affinities_and_configuration_with_it() {
    for store in Store::all() {
        println!("on {}", store.label);
        store.reset(&Contents::new());
        works(&store, &["apply", "-f", "-"], CLUSTER);
        works(
            &store,
            &["apply", "-f", "-"],
            "{apiVersion: projectcalico.org/v3, kind: FelixConfiguration, metadata: {name: node.node-1}}",
        );
        let ipam = "/calico/ipam/v2";
        let put = |path: &str, value: Value| {
            store.put(&format!("{ipam}{path}"), value.to_string().as_bytes());
        };
        let owner =
            |handle: &str, node: &str| json!({"handle_id": handle, "secondary": {"node": node}});
        let block = |cidr: &str, node: &str, attributes: Value| {
            let held = attributes.as_array().map_or(0, Vec::len);
            let (allocations, unallocated): (Vec<_>, Vec<_>) =
                (0..4).map(|it| ((it < held).then_some(it), it)).unzip();
            json!({
                "cidr": cidr, "affinity": format!("host:{node}"), "allocations": allocations,
                "unallocated": &unallocated[held..], "attributes": attributes,
                "sequenceNumber": 7, "deleted": false,
            })
        };
        let handle = |cidr: &str, count: u32| json!({"block": {cidr: count}, "deleted": false});
        let confirmed = json!({"state": "confirmed", "deleted": false});
        let blocks = "/assignment/ipv4/block";
        // Its own with a borrower, its own of IPv6, another's from which it borrowed, and one that it just claims.
        put(
            &format!("{blocks}/10.1.0.4-30"),
            block("10.1.0.4/30", "node-1", json!([owner("b", "node-2"), owner("web", "node-1")])),
        );
        put(
            "/assignment/ipv6/block/fd00::-126",
            block("fd00::/126", "node-1", json!([owner("web6", "node-1")])),
        );
        put(
            &format!("{blocks}/10.1.0.8-30"),
            block(
                "10.1.0.8/30",
                "node-1-10",
                json!([owner("c", "node-1-10"), owner("d", "node-1")]),
            ),
        );
        for (id, cidr) in [
            ("b", "10.1.0.4/30"),
            ("web", "10.1.0.4/30"),
            ("web6", "fd00::/126"),
            ("c", "10.1.0.8/30"),
            ("d", "10.1.0.8/30"),
        ] {
            put(&format!("/handle/{id}"), handle(cidr, 1));
        }
        put("/host/node-1/ipv4/block/10.1.0.4-30", confirmed.clone());
        put("/host/node-1/ipv6/block/fd00::-126", confirmed.clone());
        put("/host/node-1/ipv4/block/10.1.0.12-30", json!({"state": "pending", "deleted": false}));
        put("/host/node-1-10/ipv4/block/10.1.0.8-30", confirmed);

        let before = store.contents();
        works(&store, &["delete", "node", "node-1"], "");
        let after = store.contents();
        let gone: Vec<&String> = before.keys().filter(|path| !after.contains_key(*path)).collect();
        let expected = [
            format!("{ipam}/assignment/ipv6/block/fd00::-126"),
            format!("{ipam}/handle/d"),
            format!("{ipam}/handle/web"),
            format!("{ipam}/handle/web6"),
            format!("{ipam}/host/node-1/ipv4/block/10.1.0.12-30"),
            format!("{ipam}/host/node-1/ipv4/block/10.1.0.4-30"),
            format!("{ipam}/host/node-1/ipv6/block/fd00::-126"),
            format!("{RESOURCES}felixconfigurations/node.node-1"),
            format!("{RESOURCES}nodes/node-1"),
            format!("{RESOURCES}workloadendpoints/shop/node--1-k8s-web--1-eth0"),
        ];
        assert_eq!(gone, expected.each_ref());
        let borrowed = &after[&format!("{ipam}{blocks}/10.1.0.4-30")];
        assert_eq!(
            (&borrowed["affinity"], &borrowed["allocations"], &borrowed["unallocated"]),
            (&json!(null), &json!([0, null, null, null]), &json!([2, 3, 1]))
        );
        let others = &after[&format!("{ipam}{blocks}/10.1.0.8-30")];
        assert_eq!(
            (&others["affinity"], &others["allocations"]),
            (&json!("host:node-1-10"), &json!([0, null, null, null]))
        );
        let said = fails(&store, &["delete", "node", "node-1"], "");
        assert!(said.contains("resource does not exist"), "{said}");
    }
}

#[test]
fn a_stale_resource_version_is_a_conflict_unless_it_came_in_a_list() {
    let store = cluster();
    let one = works(&store, &["get", "pool", "pool-1", "-o", "yaml"], "");
    let list = works(&store, &["get", "pool", "-o", "yaml"], "");
    works(&store, &["apply", "-f", "-"], &one);
    for verb in ["apply", "replace", "delete"] {
        let said = fails(&store, &[verb, "-f", "-"], &one);
        assert!(said.contains("update conflict: it is at resourceVersion "), "{said}");
    }
    works(&store, &["apply", "-f", "-"], &list);
    let said = fails(&store, &["create", "-f", "-"], &one.replace("name: pool-1", "name: new"));
    assert!(said.contains("metadata.resourceVersion"), "{said}");
}

#[test]
fn export_leaves_out_what_only_this_cluster_knows() {
    let store = cluster();
    let yaml = works(&store, &["get", "np", "web", "-n", "shop", "-o", "yaml", "--export"], "");
    assert!(
        yaml.contains(
            "metadata:\n  labels:\n    projectcalico.org/tier: default\n  name: web\nspec:"
        ),
        "{yaml}"
    );
}

#[test]
fn a_cluster_of_another_version_is_refused_unless_allowed() {
    let store = cluster();
    let path = format!("{RESOURCES}clusterinformations/default");
    let mut cluster = store.contents()[&path].clone();
    cluster["spec"]["calicoVersion"] = json!("v3.20.1");
    store.put(&path, cluster.to_string().as_bytes());
    for arguments in [&["get", "node"][..], &["delete", "tier", "x"], &["ipam", "show"]] {
        let said = fails(&store, arguments, "");
        assert!(
            said.contains("the cluster has Calico's data of v3.20.1")
                && said.contains("--allow-version-mismatch"),
            "{said}"
        );
    }
    works(&store, &["get", "node", "--allow-version-mismatch"], "");
    works(&store, &["--allow-version-mismatch", "-l", "error", "get", "node"], "");
    let said = works(&store, &["version"], "");
    assert_eq!(
        said,
        format!(
            "Client Version:    v{}\nCalico Data:       v3.34.0\nCluster Version:   v3.20.1\n\
             Cluster Type:      unknown\n",
            env!("CARGO_PKG_VERSION")
        )
    );
    cluster["spec"]["calicoVersion"] = json!("v3.34.0-12-gabcdef");
    store.put(&path, cluster.to_string().as_bytes());
    works(&store, &["get", "node"], "");
    assert!(fails(&store, &["datastore", "migrate", "export"], "").contains("is not locked"));
    works(&store, &["datastore", "migrate", "lock"], "");
    works(&store, &["datastore", "migrate", "export"], "");
    assert_eq!(store.contents()[&path]["spec"]["datastoreReady"], false);
    works(&store, &["datastore", "unlock"], "");
    assert_eq!(store.contents()[&path]["spec"]["datastoreReady"], true);
}

#[test]
fn a_shell_gets_its_completions() {
    let store = Store::embedded();
    for shell in ["bash", "zsh", "fish"] {
        let script = works(&store, &["completion", shell], "");
        assert!(script.contains("allow-version-mismatch"), "{shell}");
    }
}

/// As someone who knows calicoctl does it: apply, look, edit what was got, apply, delete.
#[test]
fn a_manifest_written_for_calico_is_applied_edited_and_deleted() {
    for store in Store::all() {
        println!("on {}", store.label);
        store.reset(&Contents::new());
        let folder = tempfile::tempdir().expect("a folder");
        let run =
            |arguments: &[&str]| -> Run { store.bulrush_in(folder.path(), arguments, "", &[]) };
        let file = folder.path().join("policy.yaml");
        fs::write(
            &file,
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata:\n  name: allow-dns\nspec:\n  \
             order: 100\n  selector: all()\n  types:\n  - Egress\n  egress:\n  - action: Allow\n    \
             protocol: UDP\n    destination:\n      ports:\n      - 53\n",
        )
        .expect("written");
        assert_eq!(
            run(&["apply", "-f", "policy.yaml"]).stdout,
            "Successfully applied 1 'GlobalNetworkPolicy' resource(s)\n"
        );
        let got = run(&["get", "gnp", "allow-dns", "-o", "yaml"]).stdout;
        fs::write(&file, got.replace("order: 100", "order: 50")).expect("written");
        assert_eq!(
            run(&["apply", "-f", "policy.yaml"]).stdout,
            "Successfully applied 1 'GlobalNetworkPolicy' resource(s)\n"
        );
        let wide = run(&["get", "gnp", "-o", "wide"]).stdout;
        assert_eq!(
            wide,
            "NAME        TIER      ORDER   SELECTOR   \nallow-dns   default   50      all()      \n\n"
        );
        assert_eq!(
            run(&["delete", "gnp", "allow-dns"]).stdout,
            "Successfully deleted 1 'GlobalNetworkPolicy' resource(s)\n"
        );
        assert_eq!(run(&["get", "gnp"]).stdout, "NAME   TIER   \n\n");
    }
}
