//! What the engine promises, one sentence each.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a failed test")]

mod support;

use bulrush_engine::{
    Change, Effect, Slice,
    inspect::{RouteSource, route_lines},
};
use model::{
    Key, Kind, Stored,
    view::{
        Action, Endpoint, Entry, Host, Peer, Policy, PolicyList, Pool, Protocol, Route, Rule, Topic,
    },
};
use serde_json::{Value, json};
use support::cluster::Cluster;

/// Objects are named as in paths: `Kind/name` or `Kind/namespace/name`.
fn key(path: &str) -> Key {
    let mut parts = path.splitn(3, '/');
    let kind = parts.next().unwrap().parse::<Kind>().unwrap();
    match (parts.next().unwrap(), parts.next()) {
        (namespace, Some(name)) => Key::namespaced(kind, namespace, name),
        (name, None) => Key::global(kind, name),
    }
}

impl Cluster {
    fn spec(&mut self, path: &str, spec: &Value) {
        self.update(&key(path), Some(Stored::Json(json!({ "spec": spec }))));
    }

    /// A pod with one address and the profile of its namespace.
    fn pod(&mut self, namespace: &str, node: &str, name: &str, ip: &str, app: &str) {
        let object = json!({
            "metadata": {"labels": {"app": app, "projectcalico.org/namespace": namespace}},
            "spec": {
                "interfaceName": format!("cali-{name}"),
                "ipNetworks": if ip.is_empty() { json!([]) } else { json!([ip]) },
                "profiles": [format!("kns.{namespace}")],
                "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
            },
        });
        let path = format!("WorkloadEndpoint/{namespace}/{node}-k8s-{name}-eth0");
        self.update(&key(&path), Some(Stored::Json(object)));
    }

    /// A policy with one rule for packets to its endpoints.
    fn policy(&mut self, path: &str, selector: &str, rule: &Value) {
        let spec = json!({"selector": selector, "types": ["Ingress"], "ingress": [rule]});
        self.spec(path, &spec);
    }

    fn remove(&mut self, path: &str) {
        self.delete(&key(path));
    }

    fn view(&self, node: &str) -> Vec<String> {
        self.engine.view(node).iter().map(ToString::to_string).collect()
    }

    fn of_policy(&self, id: &str) -> Policy {
        match &self.topics[&Topic::Policy(id.parse().unwrap())][""] {
            Entry::Policy(policy) => policy.as_ref().clone(),
            other => panic!("{other:?}"),
        }
    }

    /// The one rule of a policy; none: it matches nothing.
    fn rule(&self, id: &str) -> Option<Rule> {
        self.of_policy(id).ingress.first().cloned()
    }

    fn members(&self, id: &str) -> Vec<String> {
        self.topic(&Topic::IpSet(id.into())).keys().map(ToString::to_string).collect()
    }

    /// The set of the sources of a policy's one rule.
    fn sources(&self, id: &str) -> Vec<String> {
        self.members(&self.rule(id).unwrap().source.sets[0])
    }

    fn endpoint(&self, node: &str, key: &str) -> Endpoint {
        match &self.topics[&Topic::Node(node.into())][key] {
            Entry::Endpoint(endpoint) => endpoint.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn plist(&self, node: &str, key: &str) -> PolicyList {
        let id = self.endpoint(node, key).plist.unwrap();
        match &self.topics[&Topic::Plist(id)][""] {
            Entry::Plist(list) => list.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn route(&self, cidr: &str) -> Option<Route> {
        match self.topic(&Topic::route(cidr.parse().unwrap())).get(cidr) {
            None => None,
            Some(Entry::Route(route)) => Some(route.clone()),
            other => panic!("{other:?}"),
        }
    }

    /// What is said to be wrong with an object.
    fn problem(&self, path: &str) -> Option<(Effect, String)> {
        let key = key(path);
        let mut problems = self.engine.problems();
        let (_, problem) = problems.find(|(other, _)| **other == key)?;
        Some((problem.effect, problem.to_string()))
    }
}

fn allow_from(selector: &str) -> Value {
    json!({"action": "Allow", "source": {"selector": selector}})
}

/// Two pods of each of two namespaces on two nodes.
fn cluster() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.pod("a", "n1", "web", "10.0.0.1", "web");
    cluster.pod("a", "n2", "db", "10.0.0.2", "db");
    cluster.pod("b", "n2", "web", "10.0.1.1", "web");
    cluster
}

#[test]
fn a_policy_and_its_sets_reach_only_the_nodes_whose_endpoints_it_selects() {
    let mut cluster = cluster();
    cluster.policy("NetworkPolicy/a/p", "app == 'web'", &allow_from("app == 'db'"));
    cluster.flush();
    let set = cluster.rule("NetworkPolicy/a/p").unwrap().source.sets[0].clone();
    assert_eq!(cluster.members(&set), ["10.0.0.2/32"], "only of the policy's own namespace");
    let view = cluster.view("n1");
    assert_eq!(
        view.iter().filter(|topic| !topic.starts_with("plist/")).collect::<Vec<_>>(),
        ["policy/NetworkPolicy/a/p", "profile/kns.a", &format!("ipset/{set}"),]
    );
    assert_eq!(cluster.view("n2"), ["profile/kns.a", "profile/kns.b"]);
    assert_eq!(cluster.view("elsewhere"), [""; 0]);

    cluster.remove("WorkloadEndpoint/a/n1-k8s-web-eth0");
    cluster.flush();
    assert_eq!(cluster.view("n1"), [""; 0]);
    assert_eq!(cluster.members(&set), [""; 0], "what no node needs has no entries");
    assert!(!cluster.topics.keys().any(|topic| matches!(topic, Topic::Policy(_))));
}

#[test]
fn an_endpoint_without_an_address_has_its_policies_and_is_in_no_set() {
    let mut cluster = cluster();
    cluster.pod("a", "n1", "new", "", "web");
    cluster.policy("NetworkPolicy/a/p", "all()", &allow_from("app == 'web'"));
    cluster.flush();
    assert!(cluster.endpoint("n1", "wep/k8s/a/new/eth0/").plist.is_some());
    assert_eq!(cluster.sources("NetworkPolicy/a/p"), ["10.0.0.1/32"]);
}

#[test]
fn endpoints_with_the_same_policies_share_one_list() {
    let mut cluster = cluster();
    cluster.policy("NetworkPolicy/a/p", "all()", &allow_from("all()"));
    cluster.policy("GlobalNetworkPolicy/q", "app == 'none'", &allow_from("all()"));
    cluster.flush();
    let web = cluster.endpoint("n1", "wep/k8s/a/web/eth0/");
    let db = cluster.endpoint("n2", "wep/k8s/a/db/eth0/");
    assert_eq!(web.plist, db.plist);
    assert_eq!(cluster.endpoint("n2", "wep/k8s/b/web/eth0/").plist, None);
}

#[test]
fn a_policy_with_a_broken_selector_selects_nothing_and_says_so_until_it_is_mended() {
    let mut cluster = cluster();
    let broken = json!({"namespaceSelector": "a b", "ingress": [{"action": "Allow"}]});
    cluster.spec("GlobalNetworkPolicy/p", &broken);
    cluster.flush();
    assert_eq!(cluster.endpoint("n1", "wep/k8s/a/web/eth0/").plist, None);
    let (effect, text) = cluster.problem("GlobalNetworkPolicy/p").unwrap();
    assert_eq!(effect, Effect::SelectsNothing);
    assert!(text.contains("spec.namespaceSelector: \"a b\""), "{text}");

    let changes = cluster.engine.problem_changes();
    cluster.spec("GlobalNetworkPolicy/p", &broken);
    cluster.flush();
    assert_eq!(cluster.engine.problem_changes(), changes, "it is as it was");

    cluster.policy("GlobalNetworkPolicy/p", "all()", &json!({"action": "Allow"}));
    cluster.flush();
    assert!(cluster.endpoint("n1", "wep/k8s/a/web/eth0/").plist.is_some());
    assert_eq!(cluster.problem("GlobalNetworkPolicy/p"), None);
    assert_eq!(cluster.engine.problem_changes(), changes + 1);
}

#[test]
fn what_a_rule_cannot_express_makes_it_allow_nothing_and_deny_more() {
    let conditions = [
        json!({"http": {"methods": ["GET"]}}),
        json!({"protocol": "FOO"}),
        json!({"ipVersion": 5}),
        json!({"icmp": {"code": 3}}),
        json!({"source": {"services": {"name": "s"}}}),
        json!({"source": {"nets": ["nonsense"]}}),
        json!({"source": {"notNets": ["10.0.0.0/8", "nonsense"]}}),
        json!({"source": {"selector": "a =="}}),
        json!({"source": {"notSelector": "(("}}),
        json!({"source": {"namespaceSelector": "a b"}}),
        json!({"source": {"serviceAccounts": {"selector": "!"}}}),
        json!({"source": {"serviceAccounts": {"names": ["'\""]}}}),
        json!({"protocol": "TCP", "destination": {"ports": [70000]}}),
        json!({"protocol": "TCP", "destination": {"notPorts": ["90:80"]}}),
        json!({"destination": {"ports": [80]}}),
        json!({"destination": {"notPorts": [80]}}),
        json!({"protocol": "ICMP", "destination": {"ports": ["http"]}}),
    ];
    for condition in conditions {
        for action in ["Allow", "Pass", "Log", "Deny"] {
            let mut cluster = cluster();
            let mut rule = condition.clone();
            rule["action"] = json!(action);
            cluster.policy("GlobalNetworkPolicy/p", "all()", &rule);
            cluster.flush();
            let problem = cluster.problem("GlobalNetworkPolicy/p");
            assert_eq!(problem.map(|(effect, _)| effect), Some(Effect::Rules), "{rule}");
            let ours = cluster.rule("GlobalNetworkPolicy//p");
            if action == "Deny" {
                let ours = ours.expect("a rule that denies stays");
                let kept = Peer { not_nets: ours.source.not_nets.clone(), ..Peer::default() };
                assert_eq!((ours.source, ours.destination), (kept, Peer::default()), "{rule}");
            } else {
                assert_eq!(ours, None, "{rule}");
            }
        }
    }
}

#[test]
fn one_entry_that_cannot_be_read_costs_a_list_no_more_than_is_safe() {
    let nets = json!(["10.0.0.0/8", "nonsense"]);
    let rule = |action: &str, field: &str| {
        let mut cluster = cluster();
        let rule = json!({"action": action, "source": {field: nets}});
        cluster.policy("GlobalNetworkPolicy/p", "all()", &rule);
        cluster.flush();
        cluster.rule("GlobalNetworkPolicy//p").map(|rule| rule.source)
    };
    let net = vec!["10.0.0.0/8".parse().unwrap()];
    let only = Peer { nets: net.clone(), ..Peer::default() };
    assert_eq!(rule("Allow", "nets"), Some(only), "one net less is allowed");
    assert_eq!(rule("Deny", "nets"), Some(Peer::default()), "no net less is denied");
    assert_eq!(rule("Allow", "notNets"), None, "no exception less is allowed");
    let except = Peer { not_nets: net, ..Peer::default() };
    assert_eq!(rule("Deny", "notNets"), Some(except), "one exception less is denied");
}

#[test]
fn an_action_that_is_none_denies() {
    let mut cluster = cluster();
    cluster.policy("GlobalNetworkPolicy/p", "all()", &json!({"action": "Permit"}));
    cluster.flush();
    assert_eq!(cluster.rule("GlobalNetworkPolicy//p").unwrap().action, Action::Deny);
    assert!(cluster.problem("GlobalNetworkPolicy/p").unwrap().1.contains("Permit"));
}

#[test]
fn a_port_name_that_no_endpoint_has_is_a_port_of_nobody() {
    let mut cluster = cluster();
    let rule = |port: &str| json!({"action": "Allow", "protocol": "TCP", "destination": {"ports": [port]}});
    cluster.policy("NetworkPolicy/a/p", "app == 'web'", &rule("nobody"));
    cluster.policy("NetworkPolicy/a/q", "app == 'web'", &rule("http"));
    cluster.flush();
    let ports = |id: &str| {
        let peer = cluster.rule(id).unwrap().destination;
        assert_eq!(peer.ports, []);
        cluster.members(&peer.port_sets[0])
    };
    assert_eq!(ports("NetworkPolicy/a/p"), [""; 0]);
    assert_eq!(
        ports("NetworkPolicy/a/q"),
        ["10.0.0.1,tcp:8080", "10.0.0.2,tcp:8080", "10.0.1.1,tcp:8080"],
        "a port without a selector means everyone's"
    );
}

#[test]
fn a_type_of_icmp_in_another_protocol_matches_nothing() {
    let mut cluster = cluster();
    let rule = json!({"action": "Allow", "protocol": "TCP", "icmp": {"type": 8}});
    cluster.policy("GlobalNetworkPolicy/p", "all()", &rule);
    let rule = json!({"action": "Allow", "protocol": "TCP", "notICMP": {"type": 8}});
    cluster.policy("GlobalNetworkPolicy/q", "all()", &rule);
    cluster.flush();
    assert_eq!(cluster.rule("GlobalNetworkPolicy//p"), None);
    assert_eq!(cluster.rule("GlobalNetworkPolicy//q").unwrap().not_icmp, None);
}

#[test]
fn a_tier_that_does_not_exist_comes_last_and_denies_at_its_end() {
    let mut cluster = cluster();
    cluster.spec("Tier/z", &json!({"defaultAction": "Pass"}));
    for tier in ["a", "z"] {
        cluster.spec(&format!("GlobalNetworkPolicy/{tier}.p"), &json!({ "tier": tier }));
    }
    cluster.flush();
    let tiers = |cluster: &Cluster| {
        let list = cluster.plist("n1", "wep/k8s/a/web/eth0/");
        let tiers = list.tiers.iter().map(|tier| (tier.name.to_string(), tier.default_pass));
        tiers.collect::<Vec<_>>()
    };
    assert_eq!(tiers(&cluster), [("z".to_owned(), true), ("a".to_owned(), false)]);
    cluster.spec("Tier/a", &json!({"order": 1, "defaultAction": "Pass"}));
    cluster.remove("Tier/z");
    cluster.flush();
    assert_eq!(tiers(&cluster), [("a".to_owned(), true), ("z".to_owned(), false)]);
}

#[test]
fn a_tier_is_in_a_list_only_where_a_policy_of_it_acts() {
    let mut cluster = cluster();
    cluster.spec("GlobalNetworkPolicy/p", &json!({"selector": "all()", "types": ["Egress"]}));
    cluster.spec("GlobalNetworkPolicy/u", &json!({"doNotTrack": true, "tier": "t"}));
    cluster.flush();
    let list = cluster.plist("n1", "wep/k8s/a/web/eth0/");
    assert_eq!(list.tiers.len(), 1);
    assert_eq!((list.tiers[0].ingress.len(), list.tiers[0].egress.len()), (0, 1));
}

#[test]
fn a_profile_that_does_not_exist_denies() {
    let mut cluster = cluster();
    cluster.flush();
    let Entry::Profile(rules) = &cluster.topics[&Topic::Profile("kns.a".into())][""] else {
        panic!("no profile")
    };
    let deny = vec![Rule::default()];
    assert_eq!((&rules.ingress, &rules.egress), (&deny, &deny));
    assert_eq!(rules.ingress[0].action, Action::Deny);
}

#[test]
fn labels_of_a_namespace_reach_its_pods_and_sets() {
    let mut cluster = cluster();
    cluster.spec("NetworkSet/a/s", &json!({"nets": ["192.0.2.0/24"]}));
    let rule = json!({"action": "Allow", "source": {"namespaceSelector": "env == 'prod'"}});
    cluster.policy("NetworkPolicy/b/p", "all()", &rule);
    cluster.spec("Profile/kns.a", &json!({"labelsToApply": {"pcns.env": "prod"}}));
    cluster.flush();
    let expected = ["10.0.0.1/32", "10.0.0.2/32", "192.0.2.0/24"];
    assert_eq!(cluster.sources("NetworkPolicy/b/p"), expected);
    cluster.spec("Profile/kns.a", &json!({"labelsToApply": {"pcns.env": "test"}}));
    cluster.flush();
    assert_eq!(cluster.sources("NetworkPolicy/b/p"), [""; 0]);
}

#[test]
fn a_member_in_another_one_is_hidden_while_that_is_there() {
    let mut cluster = cluster();
    cluster.policy("GlobalNetworkPolicy/p", "all()", &allow_from("has(app)"));
    let set = |nets: &[&str]| {
        let spec = json!({ "nets": nets });
        Some(Stored::Json(json!({"metadata": {"labels": {"app": "x"}}, "spec": spec})))
    };
    cluster.update(&key("GlobalNetworkSet/s"), set(&["10.0.0.0/24", "10.0.0.0/25"]));
    cluster.flush();
    assert_eq!(cluster.sources("GlobalNetworkPolicy//p"), ["10.0.0.0/24", "10.0.1.1/32"]);
    cluster.update(&key("GlobalNetworkSet/s"), set(&["10.0.0.2/31"]));
    cluster.flush();
    let expected = ["10.0.0.1/32", "10.0.0.2/31", "10.0.1.1/32"];
    assert_eq!(cluster.sources("GlobalNetworkPolicy//p"), expected);
}

#[test]
fn what_changes_and_changes_back_says_nothing() {
    let mut cluster = cluster();
    cluster.policy("GlobalNetworkPolicy/p", "app == 'web'", &allow_from("app == 'db'"));
    cluster.flush();
    cluster.pod("a", "n1", "web", "10.0.0.9", "db");
    cluster.remove("GlobalNetworkPolicy/p");
    cluster.remove("WorkloadEndpoint/b/n2-k8s-web-eth0");
    cluster.policy("GlobalNetworkPolicy/p", "app == 'web'", &allow_from("app == 'db'"));
    cluster.pod("a", "n1", "web", "10.0.0.1", "web");
    cluster.pod("b", "n2", "web", "10.0.1.1", "web");
    assert_eq!(cluster.flush(), bulrush_engine::Output::default());
}

#[test]
fn a_change_that_means_nothing_here_shows_in_the_full_view_alone() {
    let mut cluster = Cluster::new();
    let node = |annotation: &str, version: &str| {
        let metadata = json!({"annotations": {"a": annotation}, "resourceVersion": version});
        let spec = json!({"bgp": {"ipv4Address": "10.0.0.1/24"}});
        Some(Stored::Json(json!({"metadata": metadata, "spec": spec})))
    };
    let node_key = key("Node/n1");
    cluster.update(&node_key, node("x", "1"));
    cluster.flush();
    cluster.update(&node_key, node("x", "2"));
    assert_eq!(cluster.flush().changes, [], "a version is the store's own");
    cluster.update(&node_key, node("y", "3"));
    let changes = cluster.flush().changes;
    let json =
        r#"{"metadata":{"annotations":{"a":"y"}},"spec":{"bgp":{"ipv4Address":"10.0.0.1/24"}}}"#;
    let entry = Some(Entry::Res(json.to_owned()));
    assert_eq!(changes, [Change { topic: Topic::res(&node_key), key: "n1".into(), entry }]);
}

#[test]
fn a_successor_of_the_same_name_is_another_endpoint() {
    let mut cluster = Cluster::new();
    let pod = |uid: &str| {
        let spec = json!({"interfaceName": "cali1", "ipNetworks": ["10.0.0.1"]});
        Some(Stored::Json(json!({"metadata": {"uid": uid}, "spec": spec})))
    };
    let key = key("WorkloadEndpoint/a/n1-k8s-web--0-eth0");
    cluster.update(&key, pod("u1"));
    cluster.flush();
    cluster.update(&key, pod("u2"));
    cluster.flush();
    let entries = cluster.topic(&Topic::Node("n1".into()));
    assert_eq!(entries.keys().collect::<Vec<_>>(), ["wep/k8s/a/web-0/eth0/u2"]);
}

#[test]
fn an_object_that_is_not_json_is_absent_and_named() {
    let mut cluster = cluster();
    cluster.put(&key("WorkloadEndpoint/a/n1-k8s-web-eth0"), b"{{");
    cluster.flush();
    assert!(cluster.topic(&Topic::Node("n1".into())).is_empty());
    let (effect, text) = cluster.problem("WorkloadEndpoint/a/n1-k8s-web-eth0").unwrap();
    assert_eq!(effect, Effect::Absent);
    assert_eq!(text, "the object counts as absent: {{: not JSON");
    let topic = Topic::res(&key("WorkloadEndpoint/a/n1-k8s-web-eth0"));
    assert_eq!(cluster.topic(&topic).get("a/n1-k8s-web-eth0"), None);
}

#[test]
fn an_invalid_object_is_in_the_full_view_as_it_is() {
    let mut cluster = Cluster::new();
    cluster.spec("IPPool/p", &json!({"cidr": "bad"}));
    cluster.flush();
    let pool = key("IPPool/p");
    assert_eq!(
        cluster.topic(&Topic::res(&pool))["p"],
        Entry::Res(r#"{"spec":{"cidr":"bad"}}"#.to_owned())
    );
    assert!(cluster.topic(&Topic::Pools).is_empty());
    assert_eq!(cluster.problem("IPPool/p").unwrap().0, Effect::Absent);
}

#[test]
fn routes_follow_blocks_borrowed_addresses_tunnels_and_pools() {
    let mut cluster = Cluster::new();
    let holder = |node: &str| json!({"handle_id": "h", "secondary": {"node": node}});
    let block = json!({
        "cidr": "10.0.0.0/30", "affinity": "host:n1",
        "allocations": [0, 1, null, null], "attributes": [holder("n1"), holder("n2")],
    });
    cluster.update(&key("IPAMBlock/10-0-0-0-30"), Some(Stored::Json(block)));
    let node = |tunnel: &str| json!({"bgp": {"ipv4Address": "192.0.2.1/24"}, "ipv4VXLANTunnelAddr": tunnel});
    cluster.spec("Node/n1", &node("10.0.0.3"));
    cluster.spec("Node/n2", &node("10.9.0.1"));
    cluster.flush();
    let n = |node: &str| Route { node: node.into(), ..Route::default() };
    assert_eq!(cluster.route("10.0.0.0/30"), Some(n("n1")));
    assert_eq!(cluster.route("10.0.0.1/32"), Some(Route { borrowed: true, ..n("n2") }));
    assert_eq!(cluster.route("10.0.0.3/32"), None, "the block's route covers it");
    assert_eq!(cluster.route("10.9.0.1/32"), Some(Route { tunnel: true, ..n("n2") }));

    cluster.spec("IPPool/outer", &json!({"cidr": "10.0.0.0/8", "vxlanMode": "Always"}));
    cluster.spec("IPPool/inner", &json!({"cidr": "10.0.0.0/16", "ipipMode": "CrossSubnet"}));
    cluster.flush();
    let pool = |cidr: &str| Some(cidr.parse().unwrap());
    assert_eq!(cluster.route("10.0.0.0/30").unwrap().pool, pool("10.0.0.0/16"));
    assert_eq!(cluster.route("10.9.0.1/32").unwrap().pool, pool("10.0.0.0/8"));
    cluster.remove("IPPool/inner");
    cluster.remove("IPAMBlock/10-0-0-0-30");
    cluster.flush();
    assert_eq!(cluster.route("10.0.0.0/30"), None);
    let tunnel = cluster.route("10.0.0.3/32").unwrap();
    assert!(tunnel.tunnel, "without its block the tunnel's address needs a route");
    assert_eq!(tunnel.pool, pool("10.0.0.0/8"));
}

#[test]
fn no_route_leads_the_address_of_a_node_elsewhere() {
    let mut cluster = Cluster::new();
    let block = json!({
        "cidr": "10.0.0.5/32", "affinity": "host:n1", "allocations": [null], "attributes": [],
    });
    cluster.update(&key("IPAMBlock/10-0-0-5-32"), Some(Stored::Json(block)));
    cluster.spec("Node/n2", &json!({"addresses": [{"address": "10.0.0.5", "type": "InternalIP"}]}));
    cluster.flush();
    assert_eq!(cluster.route("10.0.0.5/32"), None);
    cluster.remove("Node/n2");
    cluster.flush();
    assert_eq!(cluster.route("10.0.0.5/32").unwrap().node, "n1");
}

#[test]
fn of_two_pools_of_one_range_the_first_by_name_counts() {
    let mut cluster = Cluster::keeping_objects();
    cluster.spec("IPPool/b", &json!({"cidr": "10.0.0.0/16", "natOutgoing": true}));
    cluster.flush();
    cluster.spec("IPPool/a", &json!({"cidr": "10.0.0.9/16"}));
    cluster.flush();
    let pools = cluster.topic(&Topic::Pools);
    assert_eq!(pools.len(), 1);
    assert_eq!(pools["10.0.0.0/16"], Entry::Pool(Pool::default()));

    let balancer = json!({"cidr": "10.0.0.0/16", "allowedUses": ["LoadBalancer"]});
    let lines = |cluster: &Cluster| route_lines(&cluster.engine, "n", RouteSource::Blocks).len();
    assert_eq!(lines(&cluster), 1);
    cluster.spec("IPPool/0", &balancer);
    cluster.flush();
    assert_eq!(lines(&cluster), 0, "also if it is for load balancers alone");
}

#[test]
fn a_node_keeps_what_works_and_its_tunnels_have_a_mac() {
    let mut cluster = Cluster::new();
    let spec = json!({
        "bgp": {"ipv4Address": "nonsense"},
        "addresses": [{"address": "10.0.0.1", "type": "InternalIP"}],
        "ipv4VXLANTunnelAddr": "10.9.0.1",
    });
    cluster.spec("Node/node-1", &spec);
    cluster.flush();
    let host = Host {
        ipv4: Some("10.0.0.1/32".parse().unwrap()),
        vxlan_address: Some("10.9.0.1".parse().unwrap()),
        vxlan_mac: "66:b3:68:28:39:8e".into(),
        ..Host::default()
    };
    assert_eq!(cluster.topic(&Topic::host("node-1"))["node-1"], Entry::Host(host.into()));
    let (effect, text) = cluster.problem("Node/node-1").unwrap();
    assert_eq!(effect, Effect::Partial);
    assert!(text.contains("spec.bgp.ipv4Address"), "{text}");
}

#[test]
fn nodes_get_the_common_configuration_and_their_own_override() {
    let mut cluster = Cluster::new();
    for name in ["default", "node.n1", "some"] {
        let spec = json!({"vxlanVNI": 4096, "mtuIfacePattern": name});
        cluster.spec(&format!("FelixConfiguration/{name}"), &spec);
    }
    for name in ["default", "node.n1"] {
        cluster.spec(&format!("BGPConfiguration/{name}"), &json!({"listenPort": 1790}));
    }
    cluster.spec("Tier/t", &json!({"order": 1}));
    cluster.flush();
    let config = cluster.topic(&Topic::Config);
    let keys = config.keys().collect::<Vec<_>>();
    assert_eq!(keys, ["BGPConfiguration/default", "FelixConfiguration/default", "Tier/t"]);
    let Entry::Config(felix) = &config["FelixConfiguration/default"] else { panic!("no config") };
    assert_eq!(felix.spec_json, r#"{"mtuIfacePattern":"default","vxlanVNI":4096}"#);
    let own = cluster.topic(&Topic::Node("n1".into()));
    assert_eq!(own.keys().collect::<Vec<_>>(), ["bgpconfig/node.n1", "config/node.n1"]);
}

#[test]
fn a_locked_datastore_is_not_ready_until_it_is_unlocked() {
    let mut cluster = Cluster::new();
    assert!(cluster.engine.datastore_ready());
    for (ready, expected) in [(json!(false), false), (json!(true), true), (json!(null), true)] {
        cluster.spec("ClusterInformation/default", &json!({ "datastoreReady": ready }));
        cluster.flush();
        assert_eq!(cluster.engine.datastore_ready(), expected, "{ready}");
    }
}

#[test]
fn a_pod_or_a_policy_costs_what_it_affects_not_what_exists() {
    let mut cluster = Cluster::new();
    let add = |cluster: &mut Cluster, namespace: usize| {
        let name = format!("ns{namespace}");
        let ip = format!("10.{}.{}.1", namespace >> 8, namespace & 255);
        cluster.pod(&name, "n1", &format!("p{namespace}"), &ip, "web");
        let path = format!("NetworkPolicy/{name}/p");
        cluster.policy(&path, "app == 'web' && has(app)", &allow_from("app == 'web'"));
        let before = cluster.engine.sizes().evaluations;
        cluster.flush();
        cluster.engine.sizes().evaluations - before
    };
    for namespace in 0..300 {
        // Its own two selectors, and at most a few that were filed before there was a choice.
        let cost = add(&mut cluster, namespace);
        assert!(cost <= 5, "in a cluster of {namespace}: {cost} evaluations");
    }
}

#[test]
fn equal_labels_and_equal_selectors_are_matched_once() {
    let mut cluster = Cluster::new();
    for n in 0..100 {
        cluster.pod("a", &format!("n{n}"), "web", &format!("10.0.0.{n}"), "web");
        let path = format!("NetworkPolicy/a/p{n}");
        cluster.policy(&path, "app == 'web'", &allow_from("app == 'web'"));
    }
    cluster.flush();
    let sizes = cluster.engine.sizes();
    assert_eq!((sizes.label_sets, sizes.plists, sizes.ip_sets), (1, 1, 1));
    assert!(sizes.evaluations <= 2, "{}", sizes.evaluations);
    assert_eq!(sizes.ip_set_members, 100);
}

#[test]
fn policies_of_two_directions_that_change_places_leave_the_list_as_it_is() {
    let mut cluster = Cluster::new();
    cluster.pod("a", "n1", "p", "10.0.0.1/32", "x");
    let policy = |order: f64, direction: &str| json!({"order": order, "selector": "all()", "types": [direction]});
    cluster.spec("GlobalNetworkPolicy/in", &policy(1.0, "Ingress"));
    cluster.spec("GlobalNetworkPolicy/out", &policy(2.0, "Egress"));
    cluster.flush();
    let before = cluster.view("n1");
    cluster.spec("GlobalNetworkPolicy/in", &policy(3.0, "Ingress"));
    let output = cluster.flush();
    assert!(output.views.is_empty(), "{:?}", output.views);
    let plists = output.changes.iter().filter(|c| matches!(c.topic, Topic::Plist(_)));
    assert_eq!(plists.count(), 0, "{:?}", output.changes);
    assert_eq!(cluster.view("n1"), before);
}

#[test]
fn a_host_endpoint_has_a_list_for_each_stage_of_a_packets_way() {
    let mut cluster = Cluster::new();
    let hep = json!({
        "metadata": {"labels": {"role": "db"}},
        "spec": {"node": "n1", "interfaceName": "eth0", "expectedIPs": ["10.7.0.1"]},
    });
    cluster.update(&key("HostEndpoint/h"), Some(Stored::Json(hep)));
    cluster.pod("ns", "n1", "p", "10.0.0.1", "web");
    for (name, flags) in [
        ("plain", json!({})),
        ("forward", json!({"applyOnForward": true})),
        ("untracked", json!({"doNotTrack": true, "applyOnForward": true})),
        ("before-nat", json!({"preDNAT": true, "applyOnForward": true})),
    ] {
        let mut spec = json!({"selector": "all()", "types": ["Ingress"]});
        spec.as_object_mut().unwrap().extend(flags.as_object().unwrap().clone());
        cluster.spec(&format!("GlobalNetworkPolicy/{name}"), &spec);
    }
    cluster.flush();
    let entries = cluster.topic(&Topic::Node("n1".into()));
    let Entry::HostEndpoint(host) = &entries["hep/h"] else { panic!("{entries:?}") };
    let list = |id: &Option<arcstr::ArcStr>| {
        let entry = cluster.topic(&Topic::Plist(id.clone().unwrap()))[""].clone();
        let Entry::Plist(list) = entry else { panic!("{entry:?}") };
        let names = list.tiers[0].ingress.iter().map(|id| id.name.to_string());
        (names.collect::<Vec<_>>(), list.tiers[0].default_pass)
    };
    let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    assert_eq!(list(&host.plist), (named(&["forward", "plain"]), false));
    assert_eq!(list(&host.forward), (named(&["forward"]), false));
    assert_eq!(list(&host.untracked), (named(&["untracked"]), true), "the rest is decided later");
    assert_eq!(list(&host.pre_dnat), (named(&["before-nat"]), true), "the rest is decided later");
    let pod = cluster.endpoint("n1", "wep/k8s/ns/p/eth0/");
    assert_eq!(pod.plist, host.plist, "a pod has what acts at the end of the way");

    // On another node it is another endpoint.
    cluster.spec("HostEndpoint/h", &json!({"node": "n2", "interfaceName": "eth0"}));
    cluster.flush();
    assert!(!cluster.topic(&Topic::Node("n1".into())).contains_key("hep/h"));
    assert!(cluster.topic(&Topic::Node("n2".into())).contains_key("hep/h"));
}

#[test]
fn a_staged_policy_is_reported_and_changes_nothing() {
    let mut cluster = Cluster::keeping_objects();
    let labels = json!({
        "projectcalico.org/namespace": "ns",
        "projectcalico.org/orchestrator": "k8s",
    });
    let pod = json!({"metadata": {"labels": labels}, "spec": {"interfaceName": "cali1"}});
    cluster.update(&key("WorkloadEndpoint/ns/n1-k8s-p-eth0"), Some(Stored::Json(pod)));
    cluster.policy("NetworkPolicy/ns/real", "all()", &json!({"action": "Allow"}));
    cluster.flush();
    let (topics, view) = (cluster.topics.clone(), cluster.view("n1"));
    cluster.policy("StagedNetworkPolicy/ns/staged", "all()", &json!({"action": "Deny"}));
    let kubernetes = json!({
        "podSelector": {},
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "x"}}}]}],
    });
    cluster.spec("StagedKubernetesNetworkPolicy/ns/k", &kubernetes);
    let gone = json!({"selector": "all()", "stagedAction": "Delete"});
    cluster.spec("StagedNetworkPolicy/ns/gone", &gone);
    let output = cluster.flush();
    let all = |topic: &Topic| matches!(topic, Topic::Res(..));
    assert!(output.changes.iter().all(|change| all(&change.topic)), "{output:?}");
    assert!(output.views.is_empty());
    assert_eq!(cluster.view("n1"), view);
    assert!(topics.iter().all(|(topic, it)| cluster.topics[topic] == *it || all(topic)));

    let endpoints = cluster.engine.endpoints("n1");
    let ids = endpoints[0].tiers[0].ingress.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        ids,
        [
            "StagedKubernetesNetworkPolicy/ns/k",
            "NetworkPolicy/ns/real",
            "StagedNetworkPolicy/ns/staged",
        ],
        "in the order in which they would decide"
    );
}

#[test]
fn a_service_is_a_set_of_its_backends() {
    let slice = |address: &str, port: u16| Slice {
        addresses: vec![address.parse().unwrap()],
        ports: vec![(Protocol(6), port)],
    };
    let service = &("ns".into(), "web".into());
    let mut cluster = Cluster::keeping_objects();
    cluster.engine.set_slice(service, "a".into(), Some(&slice("10.0.0.8", 80)));
    cluster.pod("ns", "n1", "p", "10.0.0.1", "web");
    let web = json!({"services": {"name": "web", "namespace": "ns"}});
    let to = json!({"action": "Allow", "destination": web});
    cluster.policy("NetworkPolicy/ns/to", "all()", &to);
    let from = json!({"action": "Allow", "source": web});
    cluster.policy("NetworkPolicy/ns/from", "all()", &from);
    cluster.flush();
    let set = |cluster: &Cluster, id: &str, side: fn(Rule) -> Peer| {
        let peer = side(cluster.rule(id).unwrap());
        cluster.members(&peer.service_sets[0])
    };
    let to = |cluster: &Cluster| set(cluster, "NetworkPolicy/ns/to", |rule| rule.destination);
    let from = |cluster: &Cluster| set(cluster, "NetworkPolicy/ns/from", |rule| rule.source);
    assert_eq!(to(&cluster), ["10.0.0.8,tcp:80"]);
    assert_eq!(from(&cluster), ["10.0.0.8/32"]);

    cluster.engine.set_slice(service, "b".into(), Some(&slice("10.0.0.8", 81)));
    cluster.engine.set_slice(service, "a".into(), None);
    cluster.flush();
    assert_eq!(to(&cluster), ["10.0.0.8,tcp:81"]);
    assert_eq!(from(&cluster), ["10.0.0.8/32"], "both slices had it");
    cluster.engine.set_slice(service, "b".into(), None);
    cluster.flush();
    assert!(to(&cluster).is_empty() && from(&cluster).is_empty());

    cluster.engine.set_slice(service, "a".into(), Some(&slice("10.0.0.8", 80)));
    let of_none = json!({"action": "Allow", "source": {"services": {"name": "web"}}});
    cluster.policy("NetworkPolicy/ns/from", "all()", &of_none);
    cluster.flush();
    assert!(from(&cluster).is_empty(), "a service without a namespace is not of the policy's");
    let problems = cluster.engine.problems().flat_map(|(_, problem)| &problem.faults);
    let fields = problems.map(|fault| fault.field.as_str()).collect::<Vec<_>>();
    assert_eq!(fields, ["spec.ingress[0].source.services.namespace"]);

    // Where nobody says what the backends are, what denies them denies more.
    let mut unknowing = Cluster::new();
    unknowing.pod("ns", "n1", "p", "10.0.0.1", "web");
    let service = json!({"services": {"name": "web"}});
    let allow = json!({"action": "Allow", "source": service});
    unknowing.policy("NetworkPolicy/ns/allow", "all()", &allow);
    let deny = json!({"action": "Deny", "source": service});
    unknowing.policy("NetworkPolicy/ns/deny", "all()", &deny);
    unknowing.flush();
    assert_eq!(unknowing.rule("NetworkPolicy/ns/allow"), None);
    assert_eq!(unknowing.rule("NetworkPolicy/ns/deny"), Some(Rule::default()));
}

#[test]
fn a_value_says_its_namespace_and_the_key_only_where_the_value_says_none() {
    let mut cluster = Cluster::keeping_objects();
    cluster.pod("a", "n1", "web", "10.0.0.1", "web");
    cluster.pod("b", "n1", "web", "10.0.1.1", "web");
    let rule = json!({"action": "Allow", "source": {"selector": "app == 'web'"}});
    let spec = json!({"types": ["Ingress"], "ingress": [rule]});
    let of = |namespace: &str| json!({"metadata": {"namespace": namespace}, "spec": spec});
    let nets = json!({"metadata": {"namespace": "b", "labels": {"app": "web"}}, "spec": {"nets": ["192.0.2.1"]}});
    cluster.update(&key("NetworkSet/a/s"), Some(Stored::Json(nets)));
    for (said, pod, sources) in [
        ("b", "10.0.1.1/32", &["10.0.1.1/32", "192.0.2.1/32"][..]),
        ("", "10.0.0.1/32", &["10.0.0.1/32"]),
    ] {
        cluster.update(&key("NetworkPolicy/a/p"), Some(Stored::Json(of(said))));
        cluster.flush();
        assert_eq!(cluster.sources("NetworkPolicy/a/p"), sources, "{said:?}");
        let of_node = cluster.engine.endpoints("n1");
        let selected = of_node.iter().filter(|it| !it.tiers.is_empty()).map(|it| &it.key.namespace);
        assert_eq!(
            selected.collect::<Vec<_>>(),
            [if said.is_empty() { "a" } else { said }],
            "{pod}"
        );
    }
}

#[test]
fn the_pod_ranges_of_a_node_are_its_blocks_where_that_is_asked_for() {
    let node = json!({"status": {"podCIDRs": ["10.0.5.0/24"]}});
    for asked in [false, true] {
        let mut cluster = Cluster::new();
        if asked {
            cluster.engine = cluster.engine.with_pod_cidrs();
        }
        cluster.update(&key("Node/n1"), Some(Stored::Json(node.clone())));
        cluster.flush();
        let cidr = "10.0.5.0/24".parse().unwrap();
        let route = cluster.topic(&Topic::route(cidr)).get("10.0.5.0/24").cloned();
        let of_node = Entry::Route(Route { node: "n1".into(), ..Route::default() });
        assert_eq!(route, asked.then_some(of_node));
    }
}
