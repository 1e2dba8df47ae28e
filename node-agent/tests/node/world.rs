//! Views, written shortly.

use bulrush_node_agent::NodeView;
use model::view::{
    Action, Endpoint, Entry, Host, Peer, Policy, PolicyId, PolicyList, PolicyTier, Pool, PortRange,
    ProfileRules, Protocol, Route, Rule, Topic,
};

pub(crate) const TCP: Option<Protocol> = Some(Protocol(6));
pub(crate) const UDP: Option<Protocol> = Some(Protocol(17));

pub(crate) fn policy_id(name: &str) -> PolicyId {
    PolicyId::new("NetworkPolicy", "default", name)
}

pub(crate) fn allow() -> Rule {
    Rule { action: Action::Allow, ..Rule::default() }
}

pub(crate) fn deny() -> Rule {
    Rule::default()
}

pub(crate) fn port(port: u16) -> Vec<PortRange> {
    vec![PortRange { first: port, last: port }]
}

/// An allow rule for traffic from members of a set.
pub(crate) fn from_set(id: &str) -> Rule {
    Rule { source: Peer { sets: vec![id.into()], ..Peer::default() }, ..allow() }
}

/// Shorthands to write a view's entries.
pub(crate) trait Write {
    fn endpoint(&mut self, key: &str, interface: &str, addresses: &[&str], plist: Option<&str>);
    fn endpoint_with(&mut self, key: &str, endpoint: Endpoint);
    fn plist(&mut self, id: &str, tiers: Vec<PolicyTier>);
    fn policy(&mut self, name: &str, ingress: Vec<Rule>, egress: Vec<Rule>);
    fn profile(&mut self, name: &str, rules: Option<ProfileRules>);
    fn member(&mut self, set: &str, member: &str, there: bool);
    fn pool(&mut self, cidr: &str, pool: Pool);
    fn host(&mut self, name: &str, host: Host);
    fn route(&mut self, cidr: &str, route: Option<Route>);
    fn felix(&mut self, spec: &str);
}

/// The node whose view it is.
pub(crate) const NODE: &str = "node-a";

pub(crate) fn endpoint_key(name: &str) -> String {
    format!("wep/k8s/default/{name}/eth0/uid-{name}")
}

impl Write for NodeView {
    fn endpoint(&mut self, key: &str, interface: &str, addresses: &[&str], plist: Option<&str>) {
        let endpoint = Endpoint {
            interface: interface.into(),
            addresses: addresses
                .iter()
                .map(|a| a.parse::<std::net::IpAddr>().unwrap().into())
                .collect(),
            profiles: vec!["all".into()],
            plist: plist.map(Into::into),
            ..Endpoint::default()
        };
        self.endpoint_with(key, endpoint);
    }

    fn endpoint_with(&mut self, key: &str, endpoint: Endpoint) {
        let topic = Topic::Node(NODE.into());
        self.set(&topic, &endpoint_key(key), Some(Entry::Endpoint(endpoint)));
    }

    fn plist(&mut self, id: &str, tiers: Vec<PolicyTier>) {
        self.set(&Topic::Plist(id.into()), "", Some(Entry::Plist(PolicyList { tiers })));
    }

    fn policy(&mut self, name: &str, ingress: Vec<Rule>, egress: Vec<Rule>) {
        let policy = Policy { tier: "default".into(), ingress, egress };
        self.set(&Topic::Policy(policy_id(name)), "", Some(Entry::Policy(policy.into())));
    }

    fn profile(&mut self, name: &str, rules: Option<ProfileRules>) {
        self.set(&Topic::Profile(name.into()), "", rules.map(|it| Entry::Profile(it.into())));
    }

    fn member(&mut self, set: &str, member: &str, there: bool) {
        self.set(&Topic::IpSet(set.into()), member, there.then_some(Entry::Member));
    }

    fn pool(&mut self, cidr: &str, pool: Pool) {
        self.set(&Topic::Pools, cidr, Some(Entry::Pool(pool)));
    }

    fn host(&mut self, name: &str, host: Host) {
        self.set(&Topic::host(name), name, Some(Entry::Host(host.into())));
    }

    fn route(&mut self, cidr: &str, route: Option<Route>) {
        let topic = Topic::route(cidr.parse().unwrap());
        self.set(&topic, cidr, route.map(Entry::Route));
    }

    fn felix(&mut self, spec: &str) {
        let entry = model::view::ConfigEntry { spec_json: spec.into() };
        self.set(&Topic::Config, "FelixConfiguration/default", Some(Entry::Config(entry)));
    }
}

/// A profile that allows everything, as a namespace's does.
pub(crate) fn allow_all() -> ProfileRules {
    ProfileRules { ingress: vec![allow()], egress: vec![allow()] }
}

/// One tier, default deny, with these policies in both directions.
pub(crate) fn tier(ingress: &[&str], egress: &[&str]) -> PolicyTier {
    let ids = |names: &[&str]| names.iter().map(|name| policy_id(name)).collect();
    PolicyTier {
        name: "default".into(),
        default_pass: false,
        ingress: ids(ingress),
        egress: ids(egress),
    }
}
