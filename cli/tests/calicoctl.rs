//! What people do with calicoctl, done with `bulrush`.

#![allow(clippy::expect_used, reason = "in a test a panic is a failure with its place")]

mod store_support;

use serde_json::{Value, json};
use store_support::{Contents, Store};

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

const CLUSTER: &str = concat!(
    include_str!("store_support/cluster.yaml"),
    "---
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
"
);

fn cluster() -> Store {
    let store = Store::embedded();
    let said = works(&store, &["apply", "-f", "-"], CLUSTER);
    assert_eq!(said, "Successfully applied 9 resource(s)\n");
    store
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
    assert_eq!(
        works(&store, &["ipam", "show", "--ip", "::ffff:10.1.0.6"], ""),
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
fn a_115_a_node_takes_its_endpoints_addresses_affinities_and_configuration_with_it() {
    for store in Store::all() {
        println!("on {}", store.label);
        store.reset(&Contents::new());
        works(&store, &["apply", "-f", "-"], CLUSTER);
        works(
            &store,
            &["apply", "-f", "-"],
            "\
{apiVersion: projectcalico.org/v3, kind: FelixConfiguration, metadata: {name: node.node-1}}
---
{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {name: its}, spec: {node: node-1, peerIP: 192.168.0.254, asNumber: 1}}
---
{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {name: alls}, spec: {peerIP: 192.168.0.253, asNumber: 1}}
---
{apiVersion: projectcalico.org/v3, kind: HostEndpoint, metadata: {name: its}, spec: {node: node-1, interfaceName: eth0}}
---
{apiVersion: projectcalico.org/v3, kind: HostEndpoint, metadata: {name: others}, spec: {node: node-2, interfaceName: eth0}}
",
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
            format!("{RESOURCES}bgppeers/its"),
            format!("{RESOURCES}felixconfigurations/node.node-1"),
            format!("{RESOURCES}hostendpoints/its"),
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
fn a_pool_that_goes_takes_its_blocks_from_the_nodes_and_leaves_what_is_allocated() {
    for store in Store::all() {
        println!("on {}", store.label);
        store.reset(&Contents::new());
        works(&store, &["apply", "-f", "-"], CLUSTER);
        let ipam = "/calico/ipam/v2";
        let put = |path: &str, value: Value| {
            store.put(&format!("{ipam}{path}"), value.to_string().as_bytes());
        };
        let block = |cidr: &str, affinity: &str, used: bool| {
            json!({
                "cidr": cidr, "affinity": affinity, "affinity_claim_time": "2024-01-01T00:00:00Z",
                "allocations": [used.then_some(0), null], "unallocated": if used { json!([1]) } else { json!([0, 1]) },
                "attributes": if used { json!([{"handle_id": "h"}]) } else { json!([]) },
                "sequenceNumber": 7, "deleted": false,
            })
        };
        let blocks = "/assignment/ipv4/block";
        let confirmed = json!({"state": "confirmed", "deleted": false});
        put(&format!("{blocks}/10.1.0.0-31"), block("10.1.0.0/31", "host:node-1", true));
        put(&format!("{blocks}/10.1.0.2-31"), block("10.1.0.2/31", "host:node-2", false));
        put(&format!("{blocks}/10.1.0.4-31"), block("10.1.0.4/31", "virtual:load-balancer", false));
        put(&format!("{blocks}/10.200.0.0-31"), block("10.200.0.0/31", "host:node-1", false));
        put("/host/node-1/ipv4/block/10.1.0.0-31", confirmed.clone());
        put("/host/node-2/ipv4/block/10.1.0.2-31", confirmed.clone());
        put("/host/node-1/ipv4/block/10.200.0.0-31", confirmed.clone());
        // One of IPv6 too.
        works(
            &store,
            &["apply", "-f", "-"],
            "{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: six}, spec: {cidr: 'fd00:9::/112'}}",
        );
        put("/assignment/ipv6/block/fd00:9::-127", block("fd00:9::/127", "host:node-1", false));
        put("/host/node-1/ipv6/block/fd00:9::-127", confirmed);
        works(&store, &["delete", "pool", "six"], "");
        assert!(!store.contents().keys().any(|path| path.contains("fd00:9")));

        let one = works(&store, &["get", "pool", "pool-1", "-o", "yaml"], "");
        let before = store.contents();
        // Also with the version that it was read at, though it is disabled first.
        works(&store, &["delete", "-f", "-"], &one);
        let after = store.contents();
        let gone: Vec<&String> = before.keys().filter(|path| !after.contains_key(*path)).collect();
        let expected = [
            format!("{ipam}{blocks}/10.1.0.2-31"),
            format!("{ipam}/host/node-1/ipv4/block/10.1.0.0-31"),
            format!("{ipam}/host/node-2/ipv4/block/10.1.0.2-31"),
            format!("{RESOURCES}ippools/pool-1"),
        ];
        assert_eq!(gone, expected.each_ref());
        assert_eq!(
            after[&format!("{ipam}{blocks}/10.1.0.0-31")],
            json!({
                "cidr": "10.1.0.0/31", "affinity": null, "allocations": [0, null], "unallocated": [1],
                "attributes": [{"handle_id": "h"}], "sequenceNumber": 8, "deleted": false,
            })
        );
        let said = fails(&store, &["delete", "pool", "pool-1"], "");
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

#[test]
fn ipam_configure_changes_what_it_is_told_and_keeps_the_rest() {
    const CONFIG: &str = "/calico/ipam/v2/config";
    let store = Store::embedded();
    let configure = |flags: &[&str]| works(&store, &[&["ipam", "configure"], flags].concat(), "");
    let refused = |flags: &[&str]| fails(&store, &[&["ipam", "configure"], flags].concat(), "");

    assert!(refused(&[]).contains("--strictaffinity"));
    assert!(refused(&["--strictaffinity=yes"]).contains("write true or false"));
    assert!(refused(&["--kubevirt-ip-persistence=enabled"]).contains("Enabled"));
    assert!(refused(&["--ip-cooldown-seconds=-1"]).contains("-1"));
    assert!(refused(&["--max-blocks-per-host=4"]).contains("add --strictaffinity=true"));
    assert_eq!(store.contents(), Contents::new());

    assert_eq!(
        configure(&[
            "--ip-cooldown-seconds=60",
            "--strictaffinity=TRUE",
            "--max-blocks-per-host=4"
        ]),
        "Successfully set StrictAffinity to: true\nSuccessfully set MaxBlocksPerHost to: 4\n\
         Successfully set IPCooldownSeconds to: 60\n"
    );
    configure(&["--kubevirt-ip-persistence=Disabled", "--ip-cooldown-seconds=0"]);
    let after = json!({
        "strict_affinity": true,
        "auto_allocate_blocks": true,
        "maxBlocksPerHost": 4,
        "kubeVirtVMAddressPersistence": "Disabled",
    });
    assert_eq!(store.contents()[CONFIG], after);
    assert!(refused(&["--strictaffinity=false"]).contains("--max-blocks-per-host=0"));
    store.put(CONFIG, br#"{"strict_affinity": true}"#);
    assert!(refused(&["--strictaffinity=0"]).contains("would have no addresses"));
}

#[test]
fn a_53_ipam_release_frees_an_address_once() {
    const BLOCK: &str = "/calico/ipam/v2/assignment/ipv4/block/10.1.0.0-30";
    const HANDLE: &str = "/calico/ipam/v2/handle/h";
    let store = Store::embedded();
    let block = json!({
        "cidr": "10.1.0.0/30", "affinity": "host:n1", "deleted": false,
        "allocations": [0, 1, 0, null], "unallocated": [3],
        "attributes": [{"handle_id": "h", "secondary": {"node": "n1"}}, {"handle_id": "other"}],
        "sequenceNumber": 7, "sequenceNumberForAllocation": {"0": 1, "1": 2, "2": 3},
    });
    let handle = json!({"block": {"10.1.0.0/30": 2, "10.9.0.0/30": 1}, "deleted": false});
    store.reset(&[(BLOCK.to_owned(), block), (HANDLE.to_owned(), handle)].into());
    let before = store.contents();
    for address in ["10.1.0.3", "10.1.0.4", "fd00::1"] {
        let said = fails(&store, &["ipam", "release", "--ip", address], "");
        assert!(said.contains(&format!("{address} is not assigned")), "{said}");
    }
    assert_eq!(store.contents(), before);

    let release = ["ipam", "release", "--ip=10.1.0.0"];
    assert_eq!(works(&store, &release, ""), "Successfully released IP address 10.1.0.0\n");
    let after = store.contents();
    assert_eq!(after[BLOCK]["allocations"], json!([null, 1, 0, null]));
    assert_eq!(after[BLOCK]["unallocated"], json!([3, 0]));
    assert_eq!(after[BLOCK]["sequenceNumber"], 8);
    assert_eq!(after[BLOCK]["affinity"], "host:n1");
    assert_eq!(after[HANDLE]["block"], json!({"10.1.0.0/30": 1, "10.9.0.0/30": 1}));
    assert!(fails(&store, &release, "").contains("10.1.0.0 is not assigned"));
    assert_eq!(store.contents(), after);

    store.put("/calico/ipam/v2/config", br#"{"ipCooldownSeconds": 60}"#);
    works(&store, &["ipam", "release", "--ip=10.1.0.2"], "");
    assert_eq!(store.contents()[BLOCK]["allocations"], json!([null, 0, 1, null]));
    assert!(store.contents()[BLOCK]["attributes"][1]["releasedAt"].is_string(), "it rests");
}

#[test]
fn ipam_split_wants_a_locked_store_and_puts_all_parts_or_none() {
    let store = Store::embedded();
    let pool = |name: &str, spec: &Value| {
        json!({
            "apiVersion": "projectcalico.org/v3", "kind": "IPPool",
            "metadata": {"name": name, "labels": {"site": "west"}}, "spec": spec,
        })
    };
    let large = pool("p", &json!({"cidr": "10.0.0.0/24", "disabled": true, "natOutgoing": true}));
    let small = pool("s", &json!({"cidr": "fd00::/120", "blockSize": 122}));
    for pool in [&large, &small] {
        works(&store, &["apply", "-f", "-"], &pool.to_string());
    }
    let split = |number: &'static str| ["ipam", "split", number, "--name=p"];
    assert!(fails(&store, &split("2"), "").contains("datastore migrate lock"));
    works(&store, &["datastore", "migrate", "lock"], "");

    let before = store.contents();
    for (arguments, said) in [
        (split("3"), "power of 2"),
        (split("1"), "power of 2"),
        (split("0"), "power of 2"),
        (split("512"), "10.0.0.0/24 has no 512 parts"),
        (split("8"), "10.0.0.0/27 would be no pool"),
        (["ipam", "split", "2", "--name=x"], "there is no IPPool(x)"),
        (["ipam", "split", "2", "--cidr=10.0.0.0/25"], "no pool has the range"),
    ] {
        let error = fails(&store, &arguments, "");
        assert!(error.contains(said), "{arguments:?}: {error}");
    }
    assert!(fails(&store, &["ipam", "split", "2"], "").contains("--cidr"));
    assert_eq!(store.contents(), before);

    works(&store, &split("2"), "");
    works(&store, &["ipam", "split", "4", "--cidr=fd00::/120"], "");
    let pools: Vec<_> = store
        .contents()
        .into_iter()
        .filter_map(|(path, pool)| {
            let name = path.strip_prefix(&format!("{RESOURCES}ippools/"))?.to_owned();
            assert_eq!(pool["metadata"]["labels"], json!({"site": "west"}));
            assert_eq!(pool["spec"].get("disabled"), None);
            Some((name, pool["spec"]["cidr"].as_str()?.to_owned()))
        })
        .collect();
    let pools: Vec<_> = pools.iter().map(|(name, cidr)| (name.as_str(), cidr.as_str())).collect();
    assert_eq!(
        pools,
        [
            ("split-p-0", "10.0.0.0/25"),
            ("split-p-1", "10.0.0.128/25"),
            ("split-s-0", "fd00::/122"),
            ("split-s-1", "fd00::40/122"),
            ("split-s-2", "fd00::80/122"),
            ("split-s-3", "fd00::c0/122"),
        ]
    );
}
