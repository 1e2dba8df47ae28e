//! Random policies, sound or with broken parts.

use proptest::{collection::vec, option, prelude::*, sample::select};

use crate::kubernetes::{
    Cidr, ClusterNetworkPolicy, ClusterPeer, ClusterRule, LabelSelector, NetworkPolicy, Peer,
    Policies, Port, Requirement, Rule, Subject,
};

const KEYS: [&str; 4] = ["app", "env", "team", "absent"];
/// As a value, some are nothing that a label can have: they must not pose as more than a value.
const VALUES: [&str; 6] = ["web", "db", "prod", "red", "it's", "x' || has(app) || app == 'y"];

pub(crate) fn policies(broken: bool) -> impl Strategy<Value = Policies> {
    let namespaced = || vec(network_policy(broken), 0..3);
    let cluster = || vec(cluster_network_policy(broken), 1..3);
    prop_oneof![
        namespaced().prop_map(|namespaced| (namespaced, Vec::new())),
        cluster().prop_map(|cluster| (Vec::new(), cluster)),
        (namespaced(), cluster()),
    ]
    .prop_map(|(namespaced, cluster)| Policies { namespaced, cluster })
}

/// The sound ones, or now and then a broken one.
fn or_broken<T: std::fmt::Debug + Clone + 'static>(
    broken: bool,
    sound: impl Strategy<Value = T> + 'static,
    else_: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<T> {
    if broken { prop_oneof![8 => sound, 1 => else_].boxed() } else { sound.boxed() }
}

fn label_selector(broken: bool) -> impl Strategy<Value = LabelSelector> {
    let key = || select(KEYS.to_vec());
    let value = || select(VALUES.to_vec());
    let sound = prop_oneof![
        (key(), value()).prop_map(|(key, value)| Requirement::Is(key, value)),
        (key(), any::<bool>(), vec(value(), 1..3))
            .prop_map(|(key, wanted, values)| Requirement::In(key, wanted, values)),
        (key(), any::<bool>()).prop_map(|(key, wanted)| Requirement::Exists(key, wanted)),
    ];
    let key_or_none = select(vec!["app", "", "a b", "app) || has(env", "a'b"]);
    let operator = select(vec!["Gt", "in", "", "Exists"]);
    let else_ = (key_or_none, operator)
        .prop_filter("it is sound", |it| *it != ("app", "Exists"))
        .prop_map(|(key, operator)| Requirement::Broken { key, operator });
    let requirements = or_broken(broken, sound, else_);
    // Most of them select much, so that several policies meet.
    let number = prop_oneof![4 => Just(0), 4 => Just(1), 1 => Just(2)];
    number.prop_flat_map(move |number| vec(requirements.clone(), number)).prop_map(
        |mut requirements| {
            // A manifest can hold one value for each of `matchLabels`.
            let mut seen = Vec::new();
            requirements.retain(|requirement| match requirement {
                Requirement::Is(key, _) if seen.contains(key) => false,
                Requirement::Is(key, _) => {
                    seen.push(*key);
                    true
                }
                _ => true,
            });
            LabelSelector(requirements)
        },
    )
}

fn cidr(broken: bool) -> impl Strategy<Value = Cidr> {
    let sound = select(vec![
        Cidr("0.0.0.0/0", Some(("0.0.0.0", 0))),
        Cidr("10.0.1.0/24", Some(("10.0.1.0", 24))),
        Cidr("10.0.2.7/24", Some(("10.0.2.0", 24))),
        Cidr("10.0.1.1/32", Some(("10.0.1.1", 32))),
        Cidr("10.0.0.0/8", Some(("10.0.0.0", 8))),
    ]);
    let else_ = select(vec!["", "bad", "10.0.1.1", "10.0.0.0/33", " 10.0.0.0/8", "10.0.0/8"]);
    or_broken(broken, sound, else_.prop_map(|text| Cidr(text, None)))
}

/// Broken ones are numbers that, cut to 16 bits, may be ports of the cluster.
fn port(broken: bool, numbers: &'static [i32]) -> impl Strategy<Value = (&'static str, Port)> {
    let port = prop_oneof![
        Just(Port::All),
        select(vec![80, 81, 8080]).prop_map(Port::Number),
        select(vec![(80, 81), (1, 65535), (81, 9000)])
            .prop_map(|(first, last)| Port::Range(first, last)),
        select(vec!["http", "dns", "none"]).prop_map(Port::Named),
    ];
    let else_ = select(numbers).prop_map(Port::Broken);
    (select(vec!["TCP", "UDP"]), or_broken(broken, port, else_))
}

fn network_policy(broken: bool) -> impl Strategy<Value = NetworkPolicy> {
    let selector = move || label_selector(broken);
    let peer = prop_oneof![
        (option::of(selector()), option::of(selector()))
            .prop_map(|(pods, namespaces)| Peer::Pods { pods, namespaces }),
        (cidr(broken), vec(cidr(broken), 0..3))
            .prop_map(|(cidr, except)| Peer::Block { cidr, except }),
    ];
    let rule = (vec(peer, 0..3), vec(port(broken, &[65_616, 65_536, 70_000]), 0..3))
        .prop_map(|(peers, ports)| Rule { peers, ports });
    let types = select(vec![vec![], vec!["Ingress"], vec!["Egress"], vec!["Egress", "Ingress"]]);
    let rules = vec(rule, 0..3).boxed();
    (select(vec!["x", "y"]), selector(), types, rules.clone(), rules).prop_map(
        |(namespace, subject, types, ingress, egress)| NetworkPolicy {
            namespace,
            subject,
            types,
            ingress,
            egress,
        },
    )
}

fn cluster_network_policy(broken: bool) -> impl Strategy<Value = ClusterNetworkPolicy> {
    let subject = move || {
        (label_selector(broken), option::of(label_selector(broken)))
            .prop_map(|(namespaces, pods)| Subject { namespaces, pods })
    };
    let peer = move |is_egress: bool| {
        let networks = if is_egress { 0..3 } else { 0..1 };
        let sound = (option::of(subject()), vec(cidr(broken), networks))
            .prop_filter("nothing of it is translated", move |(subject, networks)| {
                broken || subject.is_some() || !networks.is_empty()
            })
            .prop_map(|it| (it, None));
        let fields = if is_egress { vec!["nodes", "domainNames"] } else { vec!["nodes"] };
        let else_ = (option::of(subject()), vec(cidr(broken), 0..1), select(fields))
            .prop_map(|(subject, networks, field)| ((subject, networks), Some(field)));
        or_broken(broken, sound, else_).prop_map(|((subject, networks), broken)| ClusterPeer {
            subject,
            networks,
            broken,
        })
    };
    let rules = move |is_egress| {
        let action = select(vec!["Accept", "Deny", "Pass"]);
        let port = port(broken, &[65_616, 65_536, 70_000, -65_456, 0]);
        let rule = (action, vec(peer(is_egress), 1..3), vec(port, 0..3))
            .prop_map(|(action, peers, protocols)| ClusterRule { action, peers, protocols });
        vec(rule, 0..4)
    };
    (select(vec!["Admin", "Baseline"]), subject(), rules(false), rules(true)).prop_map(
        |(tier, subject, ingress, egress)| ClusterNetworkPolicy { tier, subject, ingress, egress },
    )
}
