//! What users of calicoctl expect to work, on every store: A-nn are the scenarios' numbers.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

mod grounds;
#[allow(unreachable_pub, reason = "it is shared")]
mod store_support;

use std::fs;

use grounds::{Ground, each};
use serde_json::{Value, json};

fn pool(name: &str, spec: &Value) -> String {
    json!({
        "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": {"name": name},
        "spec": spec,
    })
    .to_string()
}

const CLUSTER: &str = include_str!("store_support/cluster.yaml");

/// Where a store has no pods of Kubernetes, the endpoint that Calico's plugin writes.
const ENDPOINT: &str = "
apiVersion: projectcalico.org/v3
kind: WorkloadEndpoint
metadata: {namespace: shop}
spec:
  node: node-1
  orchestrator: k8s
  pod: web-1
  endpoint: eth0
  interfaceName: cali751425ce827
  ipNetworks: [10.1.0.5/32]
";

fn make_cluster(ground: &Ground) {
    let said = ground.works(&["apply", "-f", "-"], CLUSTER);
    assert_eq!(said, "Successfully applied 8 resource(s)\n");
    if ground.kubernetes.is_none() {
        ground.works(&["apply", "-f", "-"], ENDPOINT);
    }
}

#[test]
fn a_13_commands_work_where_there_is_no_node_and_node_says_where_it_must_run() {
    each(|ground| {
        make_cluster(ground);
        ground.works(&["get", "nodes"], "");
        ground.works(&["ipam", "show"], "");
        // Nobody listens where the agent's health would be: no test starts one at this port.
        let said = ground.fails(&["node", "status"], "");
        assert!(said.contains("node status must run on a node, as root"), "{said}");
    });
}

#[test]
fn a_24_either_api_version_is_one_object() {
    each(|ground| {
        for (version, order) in [("projectcalico.org/v3", 1), ("crd.projectcalico.org/v1", 2)] {
            let manifest = format!(
                "{{apiVersion: {version}, kind: GlobalNetworkPolicy, metadata: {{name: p}}, \
                 spec: {{order: {order}, selector: all()}}}}"
            );
            ground.works(&["apply", "-f", "-"], &manifest);
            let table = ground.works(&["get", "gnp", "-o", "custom-columns=NAME,ORDER"], "");
            assert_eq!(table, format!("NAME   ORDER   \np      {order}       \n\n"));
        }
    });
}

#[test]
fn a_25_apply_of_a_node_keeps_in_kubernetes_what_the_manifest_does_not_say() {
    each(|ground| {
        make_cluster(ground);
        let manifest = "{apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: node-1}, \
                        spec: {bgp: {routeReflectorClusterID: 244.0.0.1}}}";
        ground.works(&["apply", "-f", "-"], manifest);
        let bgp = &ground.object("node", "node-1")["spec"]["bgp"];
        assert_eq!(bgp["routeReflectorClusterID"], "244.0.0.1");
        // On etcd it replaces, as calicoctl does.
        let stays = ground.kubernetes.is_some();
        assert_eq!(bgp["asNumber"] == 64500, stays, "{bgp}");
        assert_eq!(bgp["ipv4Address"] == "10.0.0.1/24", stays, "{bgp}");
    });
}

#[test]
fn a_43_applying_a_pool_replaces_it_whole_and_never_its_block_size() {
    each(|ground| {
        let full = json!({"cidr": "10.0.0.0/16", "vxlanMode": "Always", "natOutgoing": true});
        ground.works(&["apply", "-f", "-"], &pool("p", &full));
        let replaced = pool("p", &json!({"cidr": "10.0.0.0/16", "natOutgoing": false}));
        ground.works(&["apply", "-f", "-"], &replaced);
        let spec = ground.object("ippool", "p")["spec"].clone();
        assert_eq!((&spec["vxlanMode"], &spec["ipipMode"]), (&json!("Never"), &json!("Never")));
        assert!(matches!(spec["natOutgoing"], Value::Null | Value::Bool(false)), "{spec}");

        ground.works(&["delete", "pool", "p"], "");
        let small = json!({"cidr": "10.0.0.0/16", "blockSize": 28});
        ground.works(&["apply", "-f", "-"], &pool("p", &small));
        let before = ground.everything();
        let said = ground.fails(&["apply", "-f", "-"], &replaced);
        assert!(
            said.contains("spec.blockSize: 26: the block size of a pool can't be changed"),
            "{said}"
        );
        assert_eq!(ground.everything(), before);
    });
}

#[test]
fn a_88_a_namespace_selector_outside_spec_is_refused_with_path_and_line() {
    each(|ground| {
        let before = ground.everything();
        let manifest = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata:\n  \
                        name: p\nnamespaceSelector: has(team)\nspec:\n  selector: all()\n";
        let said = ground.fails(&["apply", "-f", "-"], manifest);
        assert!(
            said.contains(
                "stdin, document 1, line 5: GlobalNetworkPolicy p: namespaceSelector: unknown \
                 field here; did you mean spec.namespaceSelector?"
            ),
            "{said}"
        );
        assert_eq!(ground.everything(), before);
    });
}

#[test]
fn a_93_a_bad_selector_or_port_is_refused_with_its_position() {
    each(|ground| {
        let policy = |selector: &str, port: &str| {
            format!(
                "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {{name: p}}\n\
                 spec:\n  selector: {selector}\n  ingress:\n  - action: Allow\n    protocol: TCP\n    \
                 destination:\n      ports: [80, {port}]\n"
            )
        };
        let said = ground.fails(&["apply", "-f", "-"], &policy("app == 'web' && &", "81"));
        assert!(
            said.contains("(stdin, document 1, line 5): spec.selector: ")
                && said.contains("at byte 16"),
            "{said}"
        );
        let said = ground.fails(&["apply", "-f", "-"], &policy("all()", "90:80"));
        assert!(
            said.contains(
                "line 10: NetworkPolicy p: spec.ingress[0].destination.ports[1]: \"90:80\""
            ),
            "{said}"
        );
        assert_eq!(ground.works(&["get", "np"], ""), "NAME   TIER   \n\n");
    });
}

#[test]
fn a_104_what_get_printed_restores_an_empty_store_and_so_does_a_backup() {
    each(|ground| {
        make_cluster(ground);
        let folder = tempfile::tempdir().unwrap();
        let kinds = ["nodes", "ippool", "bgpconfig", "bgppeer"];
        for kind in kinds {
            let text = ground.works(&["get", kind, "-o", "yaml"], "");
            fs::write(folder.path().join(format!("{kind}.yaml")), text).unwrap();
        }
        let specs = || -> Vec<Value> {
            let specs = kinds.iter().flat_map(|kind| {
                let list: Value =
                    serde_json::from_str(&ground.works(&["get", kind, "-o", "json"], "")).unwrap();
                let mut items = list["items"].as_array().unwrap().clone();
                assert!(!items.is_empty());
                items.iter_mut().map(|item| item["spec"].take()).collect::<Vec<_>>()
            });
            specs.collect()
        };
        let remove = || {
            ground.works(&["delete", "ippool", "pool-1"], "");
            ground.works(&["delete", "bgpconfig", "default"], "");
            ground.works(&["delete", "bgppeer", "tor", "all"], "");
            if ground.kubernetes.is_none() {
                ground.works(&["delete", "node", "node-1"], "");
            }
        };
        let before = specs();
        remove();
        for _ in 0..2 {
            for kind in kinds {
                let run =
                    ground.bulrush_in(folder.path(), &["apply", "-f", &format!("{kind}.yaml")], "");
                assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{run:?}");
            }
            assert_eq!(specs(), before);
        }

        let backup = ground.everything();
        let objects = backup.lines().count() - 1;
        remove();
        let import = ["datastore", "import", "-f", "-"];
        let gone = if ground.kubernetes.is_none() { 5 } else { 4 };
        assert_eq!(
            ground.works(&import, &backup),
            format!("{gone} objects written, {} were there already, 0 failed\n", objects - gone)
        );
        assert_eq!(specs(), before);
        assert_eq!(
            ground.works(&import, &backup),
            format!("0 objects written, {objects} were there already, 0 failed\n")
        );
    });
}

#[test]
fn a_115_a_node_of_kubernetes_is_deleted_with_kubectl() {
    each(|ground| {
        make_cluster(ground);
        if ground.kubernetes.is_some() {
            let said = ground.fails(&["delete", "node", "node-1"], "");
            assert!(said.contains("kubectl delete node node-1"), "{said}");
            assert_eq!(ground.works(&["get", "nodes"], ""), "NAME     \nnode-1   \n\n");
        } else {
            ground.works(&["delete", "node", "node-1"], "");
            assert_eq!(ground.works(&["get", "nodes"], ""), "NAME   \n\n");
            assert_eq!(
                ground.works(&["get", "wep", "-A", "-o", "custom-columns=NAME"], ""),
                "NAME   \n\n"
            );
        }
    });
}

#[test]
fn a_129_the_ipam_configuration_is_shown_as_the_one_that_is_in_force() {
    each(|ground| {
        let get = ["get", "ipamconfig", "default", "-o", "yaml"];
        assert!(ground.fails(&get, "").contains("does not exist"));
        let in_force = "/calico/ipam/v2/config";
        match &ground.store {
            Some(store) => {
                store.put(in_force, br#"{"strict_affinity":true,"auto_allocate_blocks":true}"#);
            }
            None => drop(ground.works(
                &["apply", "-f", "-"],
                "{apiVersion: projectcalico.org/v3, kind: IPAMConfiguration, metadata: {name: \
                 default}, spec: {strictAffinity: true, autoAllocateBlocks: true}}",
            )),
        }
        let yaml = ground.works(&get, "");
        assert!(
            yaml.starts_with("apiVersion: projectcalico.org/v3\nkind: IPAMConfiguration\n"),
            "{yaml}"
        );
        assert!(
            yaml.contains("spec:\n  autoAllocateBlocks: true\n")
                && yaml.contains("\n  strictAffinity: true\n"),
            "{yaml}"
        );
        let patch =
            ["patch", "ipamconfig", "default", "-p", r#"{"spec": {"maxBlocksPerHost": 4}}"#];
        ground.works(&patch, "");
        assert_eq!(ground.object("ipamconfig", "default")["spec"]["maxBlocksPerHost"], 4);
        if let Some(store) = &ground.store {
            assert_eq!(
                store.contents()[in_force],
                json!({"strict_affinity": true, "auto_allocate_blocks": true, "maxBlocksPerHost": 4})
            );
        }
    });
}

#[test]
fn a_131_an_unknown_field_is_refused_with_its_path() {
    each(|ground| {
        let before = ground.everything();
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
                "apiVersion: projectcalico.org/v3\nkind: {kind}\nmetadata: {{name: default}}\n\
                 spec: {spec}\n"
            );
            let said = ground.fails(&["apply", "-f", "-"], &manifest);
            assert!(said.contains(message), "{said}");
        }
        assert_eq!(ground.everything(), before);
    });
}

#[test]
fn a_136_to_a_140_tables_have_the_columns_that_people_know() {
    each(|ground| {
        make_cluster(ground);
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
                "NAMESPACE   WORKLOAD   NODE     NETWORKS      INTERFACE         \n\
                 shop        web-1      node-1   10.1.0.5/32   cali751425ce827   \n\n",
            ),
            (
                &["workloadendpoint", "node--1-k8s-web--1-eth0", "-n", "shop"],
                "NAMESPACE   WORKLOAD   NODE     NETWORKS      INTERFACE         \n\
                 shop        web-1      node-1   10.1.0.5/32   cali751425ce827   \n\n",
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
            assert_eq!(ground.works(&[&["get"], arguments].concat(), ""), table, "{arguments:?}");
        }
        let yaml = ground.works(&["get", "node", "node-1", "-o", "yaml"], "");
        assert!(
            yaml.contains("\n  bgp:\n    asNumber: 64500\n    ipv4Address: 10.0.0.1/24\n"),
            "{yaml}"
        );
    });
}

#[test]
#[allow(clippy::too_many_lines, reason = "one row for each command")]
fn a_141_each_command_says_done_count_and_kind_and_names_each_failure() {
    each(|ground| {
        make_cluster(ground);
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
            (&["validate", "-f", "-"], CLUSTER, "Successfully validated 8 resource(s)\n"),
            (&["replace", "-f", "-"], CLUSTER, "Successfully replaced 8 resource(s)\n"),
            (
                &["delete", "bgppeer", "tor", "all"],
                "",
                "Successfully deleted 2 'BGPPeer' resource(s)\n",
            ),
        ] {
            assert_eq!(ground.works(arguments, stdin), said, "{arguments:?}");
        }
        for (arguments, messages) in [
            (
                &["create", "tier", "t1"][..],
                &["Failed to create Tier(t1): resource already exists; replace it, or apply it\n"]
                    [..],
            ),
            (
                &["delete", "tier", "x", "y"],
                &[
                    "Failed to delete Tier(x): resource does not exist\n",
                    "Failed to delete Tier(y): ",
                ],
            ),
            (
                &["patch", "tier", "nope", "-p", "{}"],
                &["error: Tier(nope): resource does not exist"],
            ),
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
            (
                &["label", "node", "node-1", "rack=c"],
                &["rack is \"a\"; add --overwrite to change it"],
            ),
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
            let said = ground.fails(arguments, "");
            for message in messages {
                assert!(said.contains(message), "{arguments:?}: {said}");
            }
        }
    });
}

#[test]
fn kubectl_and_bulrush_see_each_others_edits() {
    each(|ground| {
        let Some(cluster) = &ground.kubernetes else { return };
        let server = cluster.server;
        let group = cluster.group.split('/').next().unwrap();
        // In Calico's own group a policy's object has its tier in its name.
        for (kind, resource, spec, edit) in [
            (
                "NetworkPolicy",
                "networkpolicies",
                json!({"selector": "all()", "types": ["Ingress"]}),
                "order",
            ),
            (
                "GlobalNetworkPolicy",
                "globalnetworkpolicies",
                json!({"selector": "all()", "types": ["Ingress"]}),
                "order",
            ),
            ("Tier", "tiers", json!({"order": 1}), "order"),
            ("BGPPeer", "bgppeers", json!({"peerIP": "10.0.0.1", "asNumber": 1}), "asNumber"),
        ] {
            let resource = format!("{resource}.{group}");
            let manifest = json!({
                "apiVersion": "projectcalico.org/v3", "kind": kind,
                "metadata": {"name": "edited"}, "spec": spec,
            });
            ground.works(&["apply", "-f", "-"], &manifest.to_string());
            let names = server.kubectl_ok(&["get", &resource, "-o", "name"]);
            let name = names.lines().find(|name| name.ends_with("edited")).unwrap();
            let name = name.rsplit('/').next().unwrap();

            let patch = json!({"spec": {edit: 20}, "metadata": {"annotations": {"mine": "stays"}}});
            let patch = patch.to_string();
            server.kubectl_ok(&["patch", &resource, name, "--type", "merge", "-p", &patch]);
            let seen = ground.object(kind, "edited");
            assert_eq!(seen["spec"][edit], 20, "{kind}");
            assert_eq!(seen["metadata"]["annotations"]["mine"], "stays", "{kind}");

            let patch = json!({"spec": {edit: 30}}).to_string();
            ground.works(&["patch", kind, "edited", "-p", &patch], "");
            let kubectls = || -> Value {
                let text = server.kubectl_ok(&["get", &resource, name, "-o", "json"]);
                serde_json::from_str(&text).unwrap()
            };
            assert_eq!(kubectls()["spec"][edit], 30, "{kind}");
            assert_eq!(kubectls()["metadata"]["annotations"]["mine"], "stays", "{kind}");

            // What `get` prints can be applied again, also after an edit.
            let yaml = ground.works(&["get", kind, "edited", "-o", "yaml"], "");
            let edited = yaml.replace(&format!("{edit}: 30"), &format!("{edit}: 40"));
            assert_ne!(edited, yaml);
            ground.works(&["apply", "-f", "-"], &edited);
            assert_eq!(kubectls()["spec"][edit], 40, "{kind}");
            assert_eq!(kubectls()["metadata"]["annotations"]["mine"], "stays", "{kind}");

            ground.works(&["delete", kind, "edited"], "");
            let gone = server.kubectl(&["get", &resource, name]);
            assert!(String::from_utf8_lossy(&gone.stderr).contains("NotFound"), "{kind}");

            // And what kubectl made.
            let made = json!({
                "apiVersion": cluster.group, "kind": kind,
                "metadata": {"name": name, "namespace": "default"}, "spec": spec,
            });
            server.apply(&made.to_string());
            let seen = ground.object(kind, "edited");
            assert_eq!(seen["apiVersion"], "projectcalico.org/v3", "{kind}");
            server.kubectl_ok(&["delete", &resource, name]);
            let said = ground.fails(&["get", kind, "edited"], "");
            assert!(said.contains("does not exist"), "{kind}: {said}");
        }
    });
}

/// As someone who knows calicoctl does it: validate, apply, look, edit what was got, apply, delete.
#[test]
fn a_manifest_written_for_calico_is_applied_edited_and_deleted() {
    each(|ground| {
        let folder = tempfile::tempdir().unwrap();
        let run = |arguments: &[&str]| -> String {
            let run = ground.bulrush_in(folder.path(), arguments, "");
            let about = format!("{} {arguments:?}: {run:?}", ground.label);
            assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""), "{about}");
            run.stdout
        };
        let file = folder.path().join("policy.yaml");
        fs::write(
            &file,
            "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata:\n  name: allow-dns\nspec:\n  \
             order: 100\n  selector: all()\n  types:\n  - Egress\n  egress:\n  - action: Allow\n    \
             protocol: UDP\n    destination:\n      ports:\n      - 53\n",
        )
        .unwrap();
        assert_eq!(
            run(&["validate", "-f", "policy.yaml"]),
            "Successfully validated 1 'GlobalNetworkPolicy' resource(s)\n"
        );
        for _ in 0..2 {
            assert_eq!(
                run(&["apply", "-f", "policy.yaml"]),
                "Successfully applied 1 'GlobalNetworkPolicy' resource(s)\n"
            );
        }
        let got = run(&["get", "gnp", "allow-dns", "-o", "yaml"]);
        fs::write(&file, got.replace("order: 100", "order: 50")).unwrap();
        assert_eq!(
            run(&["apply", "-f", "policy.yaml"]),
            "Successfully applied 1 'GlobalNetworkPolicy' resource(s)\n"
        );
        let wide = run(&["get", "gnp", "-o", "wide"]);
        assert_eq!(
            wide,
            "NAME        TIER      ORDER   SELECTOR   \nallow-dns   default   50      all()      \n\n"
        );
        // Who edits a list that `get` printed applies it whole.
        let listed = run(&["get", "gnp", "-o", "yaml"]).replace("order: 50", "order: 20");
        fs::write(&file, listed).unwrap();
        run(&["replace", "--filename=policy.yaml"]);
        assert_eq!(ground.object("gnp", "allow-dns")["spec"]["order"], 20);
        // A file of before someone else's edit is a conflict, until its version is left out.
        fs::write(&file, &got).unwrap();
        let said = ground.bulrush_in(folder.path(), &["apply", "-f", "policy.yaml"], "");
        assert!(said.stderr.contains("update conflict"), "{said:?}");
        let export = run(&["get", "gnp", "allow-dns", "-o", "yaml", "--export"]);
        fs::write(&file, export).unwrap();
        run(&["apply", "-f", "policy.yaml"]);

        // Folders, and what is there or isn't.
        fs::create_dir_all(folder.path().join("all/more")).unwrap();
        fs::rename(&file, folder.path().join("all/policy.yaml")).unwrap();
        let set = "{\"apiVersion\": \"projectcalico.org/v3\", \"kind\": \"GlobalNetworkSet\", \
                   \"metadata\": {\"name\": \"known\"}, \"spec\": {\"nets\": [\"192.0.2.0/24\"]}}";
        fs::write(folder.path().join("all/more/set.json"), set).unwrap();
        assert_eq!(
            run(&["create", "-f", "all", "--recursive", "--skip-exists"]),
            "Successfully created 2 resource(s)\n"
        );
        let again = ground.bulrush_in(folder.path(), &["create", "-R", "-f", "all"], "");
        assert_eq!(again.code, Some(1));
        assert_eq!(again.stderr.matches("resource already exists").count(), 2, "{again:?}");
        fs::write(folder.path().join("empty.yaml"), "").unwrap();
        assert_eq!(run(&["apply", "-f", "empty.yaml", "--skip-empty"]), "No resources specified\n");
        for _ in 0..2 {
            assert_eq!(
                run(&["delete", "-f", "all", "-R", "--skip-not-exists"]),
                "Successfully deleted 2 resource(s)\n"
            );
        }
        assert_eq!(run(&["get", "gnp"]), "NAME   TIER   \n\n");
    });
}
