//! `bulrush get`, `apply`, `delete` as people use them.

#![allow(clippy::expect_used, reason = "in a test a panic is a failure with its place")]

mod store_support;

use std::fs;

use serde_json::{Value, json};
use store_support::Store;

const POOL: &str = "/calico/resources/v3/projectcalico.org/ippools/p1";

const TWO_DOCUMENTS: &str = "\
# what a cluster needs first
apiVersion: projectcalico.org/v3
kind: IPPool
metadata:
  name: p1
spec:
  cidr: 10.0.0.0/16
  natOutgoing: true
---
apiVersion: crd.projectcalico.org/v1
kind: NetworkPolicy
metadata: {name: web, namespace: ns1, labels: {rank: 1}}
spec:
  selector: app == 'web'
  ingress:
  - action: Allow
";

/// Applies a resource, which must work.
fn apply(store: &Store, manifest: &str) -> String {
    let run = store.bulrush(&["apply", "-f", "-"], manifest);
    assert_eq!(run.code, Some(0), "{run:?}");
    run.stdout
}

#[test]
fn applying_twice_is_harmless_and_keeps_the_identity() {
    let store = Store::embedded();
    assert_eq!(apply(&store, TWO_DOCUMENTS), "Successfully applied 2 resource(s)\n");
    let first = store.contents();
    assert_eq!(apply(&store, TWO_DOCUMENTS), "Successfully applied 2 resource(s)\n");
    assert_eq!(store.contents(), first);
    let policy = &first["/calico/resources/v3/projectcalico.org/networkpolicies/ns1/web"];
    assert_eq!(policy["apiVersion"], "projectcalico.org/v3");
    assert_eq!(policy["metadata"]["labels"]["rank"], "1");
    // Without types it would act on egress as well, and forbid all of it.
    assert_eq!(policy["spec"]["types"], json!(["Ingress"]));
}

#[test]
fn apply_replaces_the_whole_object() {
    let store = Store::embedded();
    apply(&store, TWO_DOCUMENTS);
    let before = store.contents();
    apply(
        &store,
        "{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: p1},
          spec: {cidr: 10.0.0.0/16, vxlanMode: Always}}",
    );
    let after = store.contents();
    assert_eq!(after[POOL]["metadata"], before[POOL]["metadata"]);
    assert_eq!(after[POOL]["spec"]["vxlanMode"], "Always");
    assert_eq!(after[POOL]["spec"].get("natOutgoing"), None, "what isn't said any more is gone");
}

#[test]
fn what_get_printed_applies_on_an_empty_store() {
    let store = Store::embedded();
    apply(&store, TWO_DOCUMENTS);
    let printed = store.bulrush(&["get", "ippools", "-o", "yaml"], "").stdout
        + "---\n"
        + &store.bulrush(&["get", "np", "-A", "-o", "json"], "").stdout;
    let specs = |store: &Store| -> Vec<Value> {
        store.contents().into_values().map(|object| object["spec"].clone()).collect()
    };
    let before = specs(&store);
    let other = Store::embedded();
    assert_eq!(apply(&other, &printed), "Successfully applied 2 resource(s)\n");
    // All but the cluster's identity is the same.
    assert_eq!(specs(&other)[1..], before[1..]);
    assert_eq!(apply(&other, &printed), "Successfully applied 2 resource(s)\n");
}

#[test]
fn tables_wide_tables_and_names_show_what_is_there() {
    let store = Store::embedded();
    apply(&store, TWO_DOCUMENTS);
    let shown = |arguments: &[&str]| {
        let run = store.bulrush(&[&["get"], arguments].concat(), "");
        assert_eq!(run.code, Some(0), "{run:?}");
        run.stdout
    };
    assert_eq!(
        shown(&["POOL"]),
        "NAME   CIDR          SELECTOR   \np1     10.0.0.0/16   all()      \n\n"
    );
    assert_eq!(
        shown(&["np", "-A", "-o", "wide"]),
        "NAMESPACE   NAME   TIER      ORDER   SELECTOR       \n\
         ns1         web    default   <nil>   app == 'web'   \n\n"
    );
    assert_eq!(shown(&["np"]), "NAME   TIER   \n\n", "only the namespace default");
    assert_eq!(shown(&["np", "-n", "ns1", "-o", "custom-columns=NAME"]), "NAME   \nweb    \n\n");
    assert_eq!(
        shown(&["tiers"]),
        "NAME            ORDER   \nkube-admin      1000    \ndefault         1e+06   \n\
         kube-baseline   1e+07   \n\n"
    );
}

#[test]
fn one_that_is_missing_is_named_and_the_others_are_shown() {
    let store = Store::embedded();
    apply(&store, TWO_DOCUMENTS);
    let run = store.bulrush(&["get", "pool", "nope", "p1", "-o", "custom-columns=NAME"], "");
    assert_eq!(run.code, Some(1));
    assert_eq!(run.stdout, "NAME   \np1     \n\n");
    assert_eq!(run.stderr, "resource does not exist: IPPool(nope)\n");
}

#[test]
fn a_value_that_is_no_json_is_named_and_can_be_replaced() {
    let store = Store::embedded();
    apply(&store, TWO_DOCUMENTS);
    store.put("/calico/resources/v3/projectcalico.org/ippools/broken", b"{oops");
    let run = store.bulrush(&["get", "pool", "-o", "custom-columns=NAME"], "");
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), "NAME   \np1     \n\n"));
    assert_eq!(
        run.stderr,
        "IPPool(broken): its stored value is no JSON; write it again with apply, or delete it\n"
    );
    apply(
        &store,
        "{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: broken},
          spec: {cidr: 10.9.0.0/16}}",
    );
    assert_eq!(store.bulrush(&["get", "pool"], "").code, Some(0));
}

#[test]
fn faulty_input_changes_nothing_and_every_fault_is_listed() {
    let store = Store::embedded();
    let input =
        format!("{TWO_DOCUMENTS}---\nkind: IPPol\n---\n# nothing\n---\na: [\n---\n- {{}}\n");
    let run = store.bulrush(&["apply", "-f", "-"], &input);
    assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""));
    assert_eq!(
        run.stderr,
        "error: nothing was done, because of the input:\n  \
         stdin, document 3: IPPol: apiVersion: is missing; write projectcalico.org/v3\n  \
         stdin, document 4: it has nothing but comments; remove it, or its ---\n  \
         stdin, document 5: line 22, column 4: no YAML or JSON: unclosed bracket '['\n  \
         stdin, document 6, item 1, line 24: kind: is missing; write for example kind: IPPool\n"
    );
    assert!(store.contents().is_empty());
}

#[test]
fn an_object_that_breaks_a_rule_is_refused_and_the_rest_goes_on() {
    let store = Store::embedded();
    let bad = "---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: bad}
spec:
  selector: app = 'web'
  ingress:
  - {action: Allow, source: {nets: [10.0.0.0/8, 10.0.0.0/33]}}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: p2}
spec: {cidr: 10.0.5.0/16}
---
apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: p3}
spec: {cidr: 10.0.0.0/8}
";
    let run = store.bulrush(&["apply", "-f", "-"], &format!("{TWO_DOCUMENTS}{bad}"));
    assert_eq!(run.code, Some(1));
    assert_eq!(run.stdout, "Successfully applied 2 of 5 resource(s)\n");
    let lines: Vec<_> = run.stderr.lines().collect();
    let expected = [
        "Failed to apply GlobalNetworkPolicy(bad) (stdin, document 3, line 24): \
         spec.ingress[0].source.nets[1]: \"10.0.0.0/33\": must be a network without host bits \
         such as 10.0.0.0/8",
        "Failed to apply GlobalNetworkPolicy(bad) (stdin, document 3, line 22): spec.selector: \
         \"app = 'web'\": must be a selector such as app == 'web' && has(tier); at byte 4: \
         expected ==, !=, in, not in, contains, starts with or ends with after the label, found \
         \"= 'web'\" (write == with two characters)",
        "Failed to apply IPPool(p2) (stdin, document 4, line 29): spec.cidr: \"10.0.5.0/16\": \
         must be an address, or a network without host bits such as 10.0.0.0/8; without its host \
         bits it is 10.0.0.0/16",
        "Failed to apply IPPool(p3) (stdin, document 5, line 34): spec.cidr: 10.0.0.0/8 overlaps \
         with IPPool(p1) 10.0.0.0/16; take another range",
    ];
    assert_eq!(lines, expected);
}

#[test]
fn deleting_names_what_failed_and_deletes_the_rest() {
    let store = Store::embedded();
    apply(&store, TWO_DOCUMENTS);
    let run = store.bulrush(&["delete", "pool", "nope", "p1"], "");
    assert_eq!(run.code, Some(1));
    assert_eq!(run.stdout, "Successfully deleted 1 of 2 'IPPool' resource(s)\n");
    assert_eq!(run.stderr, "Failed to delete IPPool(nope): resource does not exist\n");
    assert!(!store.contents().contains_key(POOL));
    let run = store.bulrush(&["delete", "pool", "p1", "--skip-not-exists"], "");
    assert_eq!(run.stdout, "Successfully deleted 1 'IPPool' resource(s)\n");
    let run = store.bulrush(&["delete", "-f", "-"], TWO_DOCUMENTS);
    assert_eq!(run.stdout, "Successfully deleted 1 of 2 resource(s)\n");
}

#[test]
fn what_others_count_on_is_not_deleted() {
    let store = Store::embedded();
    apply(&store, "{apiVersion: projectcalico.org/v3, kind: Tier, metadata: {name: sec}}");
    apply(
        &store,
        "{apiVersion: projectcalico.org/v3, kind: GlobalNetworkPolicy, metadata: {name: deny},
          spec: {tier: sec}}",
    );
    for (arguments, why) in [
        (["tier", "sec"], "it still has GlobalNetworkPolicy(deny); delete its policies first"),
        (["tier", "default"], "this tier is built in and can't be deleted"),
        (["clusterinfo", "default"], "ClusterInformation is maintained by the cluster itself"),
        (["profile", "projectcalico-default-allow"], "this profile is built in"),
    ] {
        let run = store.bulrush(&["delete", arguments[0], arguments[1]], "");
        assert_eq!(run.code, Some(1), "{arguments:?}");
        assert!(run.stderr.contains(why), "{arguments:?}: {}", run.stderr);
    }
}

#[test]
fn files_and_folders_are_read_in_the_order_of_their_names() {
    let store = Store::embedded();
    let folder = tempfile::tempdir().expect("a folder");
    let tier = |name: &str| {
        format!("{{apiVersion: projectcalico.org/v3, kind: Tier, metadata: {{name: {name}}}}}")
    };
    fs::create_dir(folder.path().join("more")).expect("a folder");
    for (file, name) in [
        ("b.yml", "second"),
        ("a.yaml", "first"),
        ("c.txt", "text"),
        ("e.YAML", "third"),
        ("more/d.json", "deep"),
    ] {
        fs::write(folder.path().join(file), tier(name)).expect("a file");
    }
    // A folder that contains itself.
    std::os::unix::fs::symlink(folder.path(), folder.path().join("more/back")).expect("a link");
    let names = || -> Vec<String> {
        let prefix = "/calico/resources/v3/projectcalico.org/tiers/";
        let contents = store.contents();
        let names = contents.keys().filter_map(|path| path.strip_prefix(prefix));
        names.filter(|name| !name.starts_with("kube-")).map(str::to_owned).collect()
    };
    let run = store.bulrush_in(folder.path(), &["apply", "-f", "."], "", &[]);
    assert_eq!(run.stdout, "Successfully applied 3 'Tier' resource(s)\n");
    assert_eq!(names(), ["default", "first", "second", "third"]);
    let run = store.bulrush_in(folder.path(), &["apply", "-R", "-f", "."], "", &[]);
    assert_eq!(run.stdout, "Successfully applied 4 'Tier' resource(s)\n");
    assert_eq!(names(), ["deep", "default", "first", "second", "third"]);
}

#[test]
fn a_wrong_word_gets_the_way_out() {
    let store = Store::embedded();
    for (arguments, message) in [
        (&["get", "ippol"][..], "resource type \"ippol\" is unknown; did you mean \"ippool\"?"),
        (&["get", "pool", "-o", "jsn"], "did you mean json?"),
        (
            &["get", "pool", "-o", "custom-columns=NAM"],
            "IPPool has no column \"NAM\"; it has ASSIGNMENTMODE, CIDR",
        ),
        (&["get", "pool", "-A"], "IPPool has no namespaces; leave out -A"),
        (&["get", "np", "x", "-A"], "-A shows all; for one by name give its namespace with -n"),
        (&["get", "pool", ""], "a name must not be empty"),
        (&["get"], "Give a kind and names, or -f FILE"),
        (&["apply", "-f", "/nonexistent.yaml"], "/nonexistent.yaml: can't be read"),
        (&["apply", "-f", "-"], "stdin: no resources; or pass --skip-empty"),
        (&["get", "pool", "--store", "127.0.0.1:1"], "write http://127.0.0.1:1"),
        (&["get", "pool", "--alll-namespaces"], "'--all-namespaces'"),
    ] {
        let run = store.bulrush(arguments, "");
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{arguments:?}");
        assert!(run.stderr.contains(message), "{arguments:?}: {}", run.stderr);
    }
}

#[test]
fn two_writers_of_one_object_both_succeed() {
    let store = Store::embedded();
    let tier = |order: u32| {
        format!(
            "{{apiVersion: projectcalico.org/v3, kind: Tier, metadata: {{name: t}},
              spec: {{order: {order}}}}}"
        )
    };
    apply(&store, &tier(0));
    std::thread::scope(|scope| {
        for order in 1..=4 {
            let (store, tier) = (&store, &tier);
            scope.spawn(move || apply(store, &tier(order)));
        }
    });
    let order =
        &store.contents()["/calico/resources/v3/projectcalico.org/tiers/t"]["spec"]["order"];
    assert!((1..=4).contains(&order.as_u64().expect("a number")), "{order}");
}

#[test]
fn a_peering_waits_for_its_filters_and_keeps_those_that_are_gone() {
    let store = Store::embedded();
    let filter = |name: &str| {
        format!("{{apiVersion: projectcalico.org/v3, kind: BGPFilter, metadata: {{name: {name}}}}}")
    };
    let peer = |filters: &str| {
        format!(
            "{{apiVersion: projectcalico.org/v3, kind: BGPPeer, metadata: {{name: tor}},
              spec: {{peerIP: 192.0.2.1, asNumber: 65001, filters: [{filters}]}}}}"
        )
    };
    let refusal = |command: &str, filters: &str| {
        let run = store.bulrush(&[command, "-f", "-"], &peer(filters));
        assert_eq!(run.code, Some(1), "{run:?}");
        run.stderr
    };
    apply(&store, &filter("a"));
    let fault = "spec.filters[1]: BGPFilter(b) does not exist; apply it first";
    assert!(refusal("apply", "a, b").contains(fault));
    apply(&store, &filter("b"));
    apply(&store, &peer("a, b"));
    assert_eq!(store.bulrush(&["delete", "bgpfilter", "b"], "").code, Some(0));
    assert!(refusal("replace", "a, c").contains("BGPFilter(c) does not exist"));
    let run = store.bulrush(&["label", "bgppeer", "tor", "rack=1"], "");
    assert_eq!(run.code, Some(0), "{run:?}");
}

#[test]
fn a_pool_over_blocks_that_are_left_has_blocks_of_their_size() {
    let store = Store::embedded();
    let block = json!({
        "cidr": "10.0.5.0/28",
        "affinity": "host:node-1",
        "allocations": vec![Value::Null; 16],
        "unallocated": (0..16).collect::<Vec<_>>(),
        "attributes": [],
    });
    let path = "/calico/ipam/v2/assignment/ipv4/block/10.0.5.0-28".to_owned();
    store.reset(&[(path, block)].into());
    let pool = |cidr: &str, size: u8| {
        let pool = format!(
            "{{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {{name: p1}},
              spec: {{cidr: {cidr}, blockSize: {size}}}}}"
        );
        store.bulrush(&["apply", "-f", "-"], &pool)
    };
    let run = pool("10.0.0.0/16", 26);
    assert_eq!(run.code, Some(1), "{run:?}");
    assert!(run.stderr.contains("the block 10.0.5.0/28 is still there"), "{}", run.stderr);
    assert_eq!(pool("10.0.0.0/16", 28).code, Some(0));
    assert_eq!(store.bulrush(&["delete", "pool", "p1"], "").code, Some(0));
    assert_eq!(pool("10.1.0.0/16", 26).code, Some(0), "that has no block");
}
