//! Rules of Calico's schemas that no golden case touches.

use bulrush_model::validate::validate;
use serde_json::{Value, json};

/// Whether an object of this kind, name and spec is one.
fn is_valid(kind: &str, name: &str, spec: &Value) -> bool {
    let object = json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": kind,
        "metadata": {"name": name},
        "spec": spec,
    });
    validate(&object, None).valid
}

fn felix(field: &str, value: &str) -> bool {
    is_valid("FelixConfiguration", "default", &json!({field: value}))
}

#[test]
fn felix_has_its_route_tables_in_one_notation() {
    let one = json!({"min": 1, "max": 250});
    for (spec, is_fine) in [
        (json!({"routeTableRange": one}), true),
        (json!({"routeTableRanges": [one]}), true),
        (json!({"routeTableRange": one, "routeTableRanges": [one]}), false),
        (json!({"routeTableRange": one, "routeTableRanges": []}), false),
    ] {
        assert_eq!(is_valid("FelixConfiguration", "default", &spec), is_fine, "{spec}");
    }
}

#[test]
fn both_writers_of_routes_between_nodes_are_told_for_which_pools() {
    for (value, is_fine) in [
        ("Enabled", true),
        ("Disabled", true),
        ("EnabledIPIPOnly", true),
        ("EnabledNoEncapOnly", true),
        ("enabled", false),
        ("", false),
    ] {
        assert_eq!(felix("programClusterRoutes", value), is_fine, "{value}");
        let spec = json!({"programClusterRoutes": value});
        assert_eq!(is_valid("BGPConfiguration", "default", &spec), is_fine, "{value}");
    }
}

#[test]
fn the_backend_of_iptables_is_spelled_as_calico_spells_it() {
    for (value, is_fine) in
        [("Legacy", true), ("NFT", true), ("Auto", true), ("nft", false), ("", false)]
    {
        assert_eq!(felix("iptablesBackend", value), is_fine, "{value}");
    }
}

#[test]
fn selectors_of_pools_have_at_most_1024_characters() {
    let of_length = |length: usize| format!("a == '{}'", "é".repeat(length - "a == ''".len()));
    for field in ["nodeSelector", "namespaceSelector"] {
        let spec = |length| json!({"cidr": "10.0.0.0/16", "allowedUses": ["Workload"], field: of_length(length)});
        assert!(is_valid("IPPool", "a", &spec(1024)), "{field}");
        assert!(!is_valid("IPPool", "a", &spec(1025)), "{field}");
    }
}

#[test]
fn a_selector_of_service_accounts_may_be_longer_than_others() {
    let long = format!("a == '{}'", "x".repeat(2000));
    let policy = |source: Value| json!({"ingress": [{"action": "Allow", "source": source}]});
    let accounts = policy(json!({"serviceAccounts": {"selector": long}}));
    assert!(is_valid("GlobalNetworkPolicy", "a", &accounts));
    assert!(!is_valid("GlobalNetworkPolicy", "a", &policy(json!({"selector": long}))));
}

#[test]
fn the_node_of_a_host_endpoint_has_a_name_of_at_most_253_characters() {
    let spec = |length| json!({"interfaceName": "*", "node": "x".repeat(length)});
    assert!(is_valid("HostEndpoint", "a", &spec(253)));
    assert!(!is_valid("HostEndpoint", "a", &spec(254)));
}

#[test]
fn an_address_cools_down_for_twenty_minutes_at_most() {
    for (seconds, is_fine) in [(0, true), (1200, true), (1201, false)] {
        let spec = json!({"strictAffinity": false, "ipCooldownSeconds": seconds});
        assert_eq!(is_valid("IPAMConfiguration", "default", &spec), is_fine, "{seconds}");
    }
}

#[test]
fn the_migration_of_names_runs_unless_it_is_switched_off() {
    let object = |migration: Value| {
        json!({
            "kind": "KubeControllersConfiguration",
            "metadata": {"name": "default"},
            "spec": {"controllers": {"migration": migration}},
        })
    };
    let stored = validate(&object(json!({})), None).defaulted.unwrap_or_default();
    let migration = &stored["spec"]["controllers"]["migration"];
    assert_eq!(*migration, json!({"policyNameMigrator": "Enabled"}));
    assert!(!validate(&object(json!({"policyNameMigrator": "off"})), None).valid);
}

#[test]
fn communities_are_no_more_than_calico_takes() {
    let spec = |names: usize, used: usize| {
        let community = |index| json!({"name": format!("c{index}"), "value": "1:2"});
        json!({
            "communities": (0..names).map(community).collect::<Vec<_>>(),
            "prefixAdvertisements": [{"cidr": "10.0.0.0/8", "communities": vec!["c0"; used]}],
        })
    };
    for (names, used, is_fine) in [(500, 50, true), (501, 50, false), (500, 51, false)] {
        let verdict = is_valid("BGPConfiguration", "default", &spec(names, used));
        assert_eq!(verdict, is_fine, "{names} names, {used} used");
    }
}

#[test]
fn a_condition_has_a_type_a_reason_and_a_time() {
    let condition = json!({
        "type": "Allocatable",
        "status": "True",
        "reason": "OK",
        "message": "",
        "lastTransitionTime": "2024-01-02T03:04:05Z",
    });
    let pool = |field: &str, value: Value| {
        let mut condition = condition.clone();
        condition[field] = value;
        json!({
            "kind": "IPPool",
            "metadata": {"name": "a"},
            "spec": {"cidr": "10.0.0.0/16"},
            "status": {"conditions": [condition]},
        })
    };
    for (field, value, is_fine) in [
        ("type", json!("example.com/Ready"), true),
        ("type", json!(""), false),
        ("type", json!("a b"), false),
        ("status", json!("true"), false),
        ("reason", json!("Pool_1,Gone"), true),
        ("reason", json!(""), false),
        ("reason", json!("not ok"), false),
        ("observedGeneration", json!(3), true),
        ("observedGeneration", json!(-1), false),
        ("message", json!("x".repeat(32769)), false),
        ("lastTransitionTime", Value::Null, false),
    ] {
        assert_eq!(validate(&pool(field, value.clone()), None).valid, is_fine, "{field}: {value}");
    }
}

#[test]
fn the_network_of_a_pool_may_be_written_without_the_host_bits_that_an_older_one_had() {
    let pool = |cidr: &str| {
        json!({
            "kind": "IPPool",
            "metadata": {"name": "a", "resourceVersion": "1"},
            "spec": {"cidr": cidr},
        })
    };
    let old = pool("10.0.0.1/16");
    assert!(validate(&pool("10.0.0.0/16"), Some(&old)).defaulted.is_some());
    assert!(validate(&pool("10.0.0.0/17"), Some(&old)).defaulted.is_none());
}
