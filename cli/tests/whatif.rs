//! `bulrush whatif`: which connections a change opens or closes, from manifests alone.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod offline_support;

use std::{
    fs,
    process::{Command, Stdio},
};

use offline_support::{PLACE, SHOP, bulrush, list, said, written};
use serde_json::{Value, json};
use support::assert_bad_input;

#[test]
fn a_change_is_answered_with_the_pairs_that_it_opens_and_an_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let base = write("base.yaml", SHOP);
    let open = write(
        "new.yaml",
        r#"{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: db, namespace: shop},
            spec: {selector: app == "db", types: [Ingress], ingress: [{action: Allow}]}}"#,
    );
    let output = bulrush(&["whatif", "-f", &open, "--base", &base, "-o", "json"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    // Also what no policy names, so that a policy for one port doesn't close the others unseen.
    let ports = ["5432/tcp", "1/tcp", "1/udp"];
    let changes = ports.map(|port| {
        json!({
            "port": port, "ip_version": 4, "from": "shop/web", "to": "shop/db",
            "before": false, "after": true,
        })
    });
    let tried = ports.map(|port| json!({"port": port, "ip_version": 4}));
    assert_eq!(said, json!({"tried": tried, "pairs": 6, "changes": changes}));

    let output = bulrush(&["whatif", "-f", &base, "--base", &base]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, "0 of 6 pairs change, over IPv4: 5432/tcp, 1/tcp, 1/udp\n");
}

#[test]
fn a_change_that_touches_icmp_or_another_protocol_alone_is_seen_as_well() {
    let (_base, base) = written(PLACE.split("---").next().unwrap());
    let policy = |rule: &str| {
        format!(
            "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: shop}}\n\
             spec: {{types: [Ingress], ingress: [{rule}, {{action: Allow}}]}}\n"
        )
    };
    let whatif = |rule: &str, flags: &[&str]| {
        let (_policy, new) = written(&policy(rule));
        let args = [&["whatif", "-f", &new, "--base", &base], flags].concat();
        let (text, _) = said(&args);
        text.lines().last().unwrap().to_owned()
    };
    let ping = "{action: Deny, protocol: ICMP, icmp: {type: 8, code: 0}}";
    assert_eq!(
        whatif(ping, &[]),
        "2 of 22 pairs change, over IPv4: 1/tcp, 1/udp, 8.0/icmp, 8.1/icmp, 253.0/icmp; over IPv6: 1/tcp, 1/udp"
    );
    assert_eq!(whatif(ping, &["--port", "/icmp"]), "2 of 2 pairs change, over IPv4: 8.0/icmp");
    let gre = "{action: Deny, protocol: 47}";
    assert_eq!(
        whatif(gre, &[]),
        "8 of 24 pairs change, over IPv4: 1/tcp, 1/udp, /47; over IPv6: 1/tcp, 1/udp, /47"
    );
    let rest = "{action: Allow, protocol: TCP}, {action: Allow, protocol: UDP}, {action: Deny}";
    assert_eq!(
        whatif(rest, &[]),
        "8 of 24 pairs change, over IPv4: 1/tcp, 1/udp, 8.0/icmp; over IPv6: 1/tcp, 1/udp, 128.0/icmpv6"
    );
    assert_eq!(
        whatif(rest, &["--ipv6"]),
        "6 of 18 pairs change, over IPv6: 1/tcp, 1/udp, 128.0/icmpv6"
    );
}

#[test]
fn a_change_over_one_version_of_ip_alone_is_seen_where_pods_have_addresses_of_both() {
    let (_base, base) = written(PLACE.split("---").next().unwrap());
    let whatif = |rule: &str, flags: &[&str]| {
        let policy = format!(
            "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: shop}}\n\
             spec: {{types: [Ingress], ingress: [{rule}, {{action: Allow}}]}}\n"
        );
        let (_policy, new) = written(&policy);
        let flags = [&["--port", "80"], flags].concat();
        said(&[&["whatif", "-f", &new, "--base", &base], &flags[..]].concat()).0
    };
    let other = "{action: Deny, source: {nets: ['fd00::2/128']}}";
    let changes = "PORT    IP  FROM        TO         BEFORE  AFTER\n\
                   80/tcp  6   shop/other  shop/both  yes     no\n\
                   80/tcp  6   shop/other  shop/six   yes     no\n";
    for (flags, rest) in [
        (&[][..], "2 of 8 pairs change, over IPv4: 80/tcp; over IPv6: 80/tcp\n"),
        (&["--ipv6"], "2 of 6 pairs change, over IPv6: 80/tcp\n"),
    ] {
        assert_eq!(whatif(other, flags), format!("{changes}{rest}"));
    }
    let four = whatif("{action: Deny, ipVersion: 4}", &[]);
    assert!(four.contains("80/tcp  4   shop/both   shop/other  yes     no\n"), "{four}");
    assert!(
        four.ends_with("2 of 8 pairs change, over IPv4: 80/tcp; over IPv6: 80/tcp\n"),
        "{four}"
    );
    let outside = whatif(other, &["--outside", "192.0.2.1", "--outside", "2001:db8::1"]);
    assert!(outside.contains("2 of 18 pairs change"), "{outside}");
}

#[test]
fn what_is_asked_for_over_a_version_that_no_pod_has_is_said() {
    let (_base, base) = written(SHOP);
    let whatif = ["whatif", "-f", &base, "--base", &base, "--port", "80", "--port"];
    let (text, beside) = said(&[&whatif[..], &["/icmpv6"]].concat());
    assert_eq!(text, "0 of 2 pairs change, over IPv4: 80/tcp; over IPv6: 128.0/icmpv6\n");
    let lack = "no pair connects without IPv6, which these lack: shop/db, shop/web; try /icmp\n";
    assert!(beside.contains(lack), "{beside}");
    let (_, beside) = said(&[&whatif[..], &["/icmp"]].concat());
    assert!(!beside.contains("no pair connects"), "{beside}");
}

#[test]
fn of_very_many_changes_the_table_shows_some_and_json_has_all() {
    let pods = (1..=40).map(|pod| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p{pod}, namespace: shop}}\n\
             status: {{podIPs: [{{ip: 10.0.0.{pod}}}]}}\n"
        )
    });
    let (_base, base) = written(&pods.collect::<String>());
    let (_new, new) = written(
        "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: p, namespace: shop}\n\
         spec: {types: [Ingress]}\n",
    );
    let whatif = ["whatif", "-f", &new, "--base", &base, "--port", "80"];
    let (table, _) = said(&whatif);
    let lines = table.lines().collect::<Vec<_>>();
    assert_eq!(lines.len(), 1 + 1000 + 2);
    assert_eq!(
        lines[1001..],
        ["and 560 more, which -o json names", "1560 of 1560 pairs change, over IPv4: 80/tcp"]
    );
    let (text, _) = said(&[&whatif[..], &["-o", "json"]].concat());
    let all: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(list(&all["changes"]).count(), 1560);
}

#[test]
fn a_change_that_cuts_pods_off_from_the_world_is_seen_by_an_address_outside() {
    let (_base, base) = written(PLACE.split("---").next().unwrap());
    let policy = "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: p, namespace: shop}\n\
                  spec: {types: [Egress], egress: [{action: Allow, destination: {selector: all()}}]}\n";
    let (_policy, new) = written(policy);
    let whatif = ["whatif", "-f", &new, "--base", &base, "--port", "443"];
    assert_eq!(said(&whatif).0, "0 of 8 pairs change, over IPv4: 443/tcp; over IPv6: 443/tcp\n");
    let (table, _) =
        said(&[&whatif[..], &["--outside", "192.0.2.1", "--outside", "192.0.2.1"]].concat());
    assert_eq!(
        table,
        "PORT     IP  FROM        TO         BEFORE  AFTER\n\
         443/tcp  4   shop/both   192.0.2.1  yes     no\n\
         443/tcp  4   shop/other  192.0.2.1  yes     no\n\
         2 of 12 pairs change, over IPv4: 443/tcp; over IPv6: 443/tcp\n"
    );
}

#[test]
fn a_deletion_and_the_enforcement_of_staged_policies_are_answered_with_the_pairs_that_change() {
    let (_base, base) = written(SHOP);
    let policy = SHOP.split("---").nth(4).unwrap();
    let (_policy, policy) = written(policy);
    let changes =
        "5432/tcp  4   shop/web  shop/db  no      yes\n1 of 2 pairs change, over IPv4: 5432/tcp\n";
    for arguments in [&["--delete", policy.as_str()][..], &["--staged"]] {
        let arguments = [&["whatif", "--base", &base, "--port", "5432"], arguments].concat();
        assert_eq!(bulrush(&arguments).status.code(), Some(2), "{arguments:?}");
        let (text, _) = said(&arguments);
        assert!(text.ends_with(changes), "{arguments:?}: {text}");
    }
}

#[test]
fn that_something_changes_is_told_by_the_exit_code_also_to_who_reads_no_further() {
    let (_base, base) = written(SHOP);
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulrush"));
    command.args(["whatif", "--base", &base, "--staged"]).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(2));
}

#[test]
fn a_change_that_cuts_off_a_node_is_seen_at_its_host_endpoint() {
    let place =
        PLACE.split("---\napiVersion: projectcalico.org/v3\nkind: NetworkPolicyList").next();
    let place = place
        .unwrap()
        .replace("metadata: {name: n1-eth0}", "metadata: {name: h, labels: {is: host}}");
    let open = "---\napiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: open}\n\
                spec: {selector: is == 'host', order: 9, types: [Ingress, Egress],\n  \
                ingress: [{action: Allow}], egress: [{action: Allow}]}\n";
    let other = "---\napiVersion: projectcalico.org/v3\nkind: HostEndpoint\nmetadata: {name: unknown}\n\
                 spec: {node: n2, interfaceName: eth0}\n";
    let (_base, base) = written(&format!("{place}{open}{other}"));
    let policy = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: p}\n\
                  spec: {selector: is == 'host', doNotTrack: true, applyOnForward: true, types: [Ingress],\n  \
                  ingress: [{action: Deny, protocol: TCP, destination: {ports: [80]}}]}\n";
    let (_policy, new) = written(policy);
    let whatif = ["whatif", "-f", &new, "--base", &base, "--port", "80", "--port", "81"];
    let (table, beside) = said(&[&whatif[..], &["--outside", "192.0.2.9"]].concat());
    assert_eq!(
        table,
        "PORT    IP  FROM        TO              BEFORE  AFTER\n\
         80/tcp  4   192.0.2.9   HostEndpoint h  yes     no\n\
         80/tcp  4   shop/both   HostEndpoint h  yes     no\n\
         80/tcp  4   shop/other  HostEndpoint h  yes     no\n\
         3 of 36 pairs change, over IPv4: 80/tcp, 81/tcp; over IPv6: 80/tcp, 81/tcp\n"
    );
    assert!(
        beside.contains("HostEndpoint unknown: no expectedIPs, so nothing is tried at it"),
        "{beside}"
    );
    let (matrix, _) = said(&["matrix", "-f", &base, "--port", "80"]);
    assert!(!matrix.contains("HostEndpoint"), "it is of pods: {matrix}");
}

#[test]
fn what_kubernetes_would_not_take_is_refused_by_field_and_not_compared() {
    let (_base, base) = written(SHOP);
    let whatif = |text: &str| {
        let (_new, new) = written(text);
        let output = bulrush(&["whatif", "-f", &new, "--base", &base]);
        let said = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), said.replace(&new, "new.yaml"))
    };
    let policy = |spec: &str| {
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n\
             metadata: {{name: db, namespace: shop}}\nspec: {spec}\n"
        )
    };
    let (code, said) =
        whatif(&policy("{podSelector: {matchLabel: {app: db}}, policyTypes: [Ingres]}"));
    assert_eq!(code, Some(1));
    let lines = said.lines().map(str::trim).collect::<Vec<_>>();
    assert_eq!((lines[0], lines.len()), ("error: these would be refused:", 3), "{said}");
    assert_bad_input("whatif: a field that Kubernetes' policies don't have", lines[1]);
    assert_bad_input("whatif: a value that Kubernetes would refuse", lines[2]);
    // What allows everyone by mistake.
    let (code, said) = whatif(&policy("{podSelector: {}, ingress: [{to: [{podSelector: {}}]}]}"));
    assert_eq!(code, Some(1));
    assert!(
        said.contains("spec.ingress[0].to: unknown field; known here are from, ports"),
        "{said}"
    );
    let (code, said) =
        whatif("apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, label: {a: b}}\n");
    assert_eq!(code, Some(1));
    assert!(said.contains("Namespace shop: metadata.label: unknown field"), "{said}");
}

#[test]
fn policies_of_a_kind_that_acts_on_nothing_here_are_named_with_what_would() {
    let (_base, base) = written(SHOP);
    let admin = "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {name: a}\n";
    let other = "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n";
    let ignored = "ignored: 1 AdminNetworkPolicy (acts on nothing here: write a ClusterNetworkPolicy of tier Admin), \
                   1 ConfigMap\n";
    let (_new, new) = written(&format!("{admin}{other}"));
    let output = bulrush(&["whatif", "-f", &new, "--base", &base]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.ends_with(ignored), "{said}");
    let (_new, new) = written(&format!("{admin}{other}---\n{SHOP}"));
    let output = bulrush(&["whatif", "-f", &new, "--base", &base]);
    assert_eq!(output.status.code(), Some(0));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(ignored), "{said}");
}
