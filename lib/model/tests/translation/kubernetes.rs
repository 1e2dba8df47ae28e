//! What Kubernetes' policies allow, by a naive evaluation, and their manifests.
//!
//! A condition that is broken has no meaning; a [`Reading`] gives it one.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use crate::world::{Labels, Pod, Probe};

/// What a broken condition is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// There must be none.
    Sound,
    Holds,
    Fails,
}

impl Reading {
    fn of_broken(self) -> bool {
        assert_ne!(self, Self::Sound, "something is broken");
        self == Self::Holds
    }
}

/// One condition on labels.
#[derive(Clone, Debug)]
pub(crate) enum Requirement {
    /// In `matchLabels`.
    Is(&'static str, &'static str),
    In(&'static str, bool, Vec<&'static str>),
    Exists(&'static str, bool),
    /// With an operator or a key that is none.
    Broken {
        key: &'static str,
        operator: &'static str,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct LabelSelector(pub(crate) Vec<Requirement>);

impl LabelSelector {
    fn selects(&self, labels: &Labels, reading: Reading) -> bool {
        self.0.iter().all(|requirement| match requirement {
            Requirement::Is(key, value) => labels.get(key) == Some(value),
            Requirement::In(key, wanted, values) => {
                labels.get(key).is_some_and(|value| values.contains(value)) == *wanted
            }
            Requirement::Exists(key, wanted) => labels.contains_key(key) == *wanted,
            Requirement::Broken { .. } => reading.of_broken(),
        })
    }

    fn manifest(&self) -> Value {
        let (mut labels, mut expressions) = (Map::new(), Vec::new());
        for requirement in &self.0 {
            match requirement {
                Requirement::Is(key, value) => {
                    labels.insert((*key).to_owned(), json!(value));
                }
                Requirement::In(key, wanted, values) => {
                    let operator = if *wanted { "In" } else { "NotIn" };
                    expressions.push(json!({ "key": key, "operator": operator, "values": values }));
                }
                Requirement::Exists(key, wanted) => {
                    let operator = if *wanted { "Exists" } else { "DoesNotExist" };
                    expressions.push(json!({ "key": key, "operator": operator }));
                }
                Requirement::Broken { key, operator } => {
                    expressions.push(json!({ "key": key, "operator": operator, "values": ["1"] }));
                }
            }
        }
        json!({ "matchLabels": labels, "matchExpressions": expressions })
    }
}

/// A CIDR's address and length; none: it is broken.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cidr(pub(crate) &'static str, pub(crate) Option<(&'static str, u32)>);

impl Cidr {
    fn holds(self, ip: &str, reading: Reading) -> bool {
        let bits = |text: &str| match text.parse().expect("an address") {
            IpAddr::V4(ip) => u32::from(ip),
            IpAddr::V6(_) => panic!("the cluster is of IPv4"),
        };
        match self.1 {
            None => reading.of_broken(),
            Some((_, 0)) => true,
            Some((net, length)) => (bits(net) ^ bits(ip)) >> (32 - length) == 0,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Peer {
    Pods { pods: Option<LabelSelector>, namespaces: Option<LabelSelector> },
    Block { cidr: Cidr, except: Vec<Cidr> },
}

impl Peer {
    fn is(&self, pod: &Pod, own_namespace: &str, reading: Reading) -> bool {
        match self {
            Self::Pods { pods, namespaces } => {
                let is_there = match namespaces {
                    None => pod.namespace == own_namespace,
                    Some(selector) => selector.selects(&pod.namespace_labels(), reading),
                };
                let pods = pods.as_ref();
                is_there && pods.is_none_or(|selector| selector.selects(&pod.labels(), reading))
            }
            Self::Block { cidr, except } => {
                let is_excepted = |net: &Cidr| match net.1 {
                    Some(_) => net.holds(pod.ip, reading),
                    // "Isn't excepted" is the condition.
                    None => !reading.of_broken(),
                };
                cidr.holds(pod.ip, reading) && !except.iter().any(is_excepted)
            }
        }
    }

    fn manifest(&self) -> Value {
        match self {
            Self::Pods { pods, namespaces } => {
                let manifest =
                    |it: &Option<LabelSelector>| it.as_ref().map(LabelSelector::manifest);
                json!({ "podSelector": manifest(pods), "namespaceSelector": manifest(namespaces) })
            }
            Self::Block { cidr, except } => {
                let except: Vec<_> = except.iter().map(|net| net.0).collect();
                json!({ "ipBlock": { "cidr": cidr.0, "except": except } })
            }
        }
    }
}

/// A port of a rule.
#[derive(Clone, Debug)]
pub(crate) enum Port {
    All,
    Number(u16),
    Range(u16, u16),
    Named(&'static str),
    /// A number that is none.
    Broken(i32),
}

impl Port {
    fn is(&self, probe: &Probe, reading: Reading) -> bool {
        match self {
            Self::All => true,
            Self::Number(number) => *number == probe.port,
            Self::Range(first, last) => (*first..=*last).contains(&probe.port),
            Self::Named(name) => probe.to.ports.contains(&(*name, probe.port, probe.protocol)),
            Self::Broken(_) => reading.of_broken(),
        }
    }

    fn manifest(&self, protocol: &str) -> Value {
        match self {
            Self::All => json!({ "protocol": protocol }),
            Self::Number(number) => json!({ "protocol": protocol, "port": number }),
            Self::Range(first, last) => {
                json!({ "protocol": protocol, "port": first, "endPort": last })
            }
            Self::Named(name) => json!({ "protocol": protocol, "port": name }),
            Self::Broken(number) => json!({ "protocol": protocol, "port": number }),
        }
    }

    fn cluster_manifest(&self, protocol: &str) -> Value {
        let port = match self {
            Self::All => json!({}),
            Self::Number(number) => json!({ "destinationPort": { "number": number } }),
            Self::Range(start, end) => {
                json!({ "destinationPort": { "range": { "start": start, "end": end } } })
            }
            Self::Named(name) => return json!({ "destinationNamedPort": name }),
            Self::Broken(number) => json!({ "destinationPort": { "number": number } }),
        };
        json!({ (protocol.to_lowercase()): port })
    }
}

/// A rule of a `NetworkPolicy`.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) peers: Vec<Peer>,
    pub(crate) ports: Vec<(&'static str, Port)>,
}

impl Rule {
    fn matches(&self, peer: &Pod, own_namespace: &str, probe: &Probe, reading: Reading) -> bool {
        let is_port = |(protocol, port): &(&str, Port)| {
            *protocol == probe.protocol && port.is(probe, reading)
        };
        (self.peers.is_empty() || self.peers.iter().any(|it| it.is(peer, own_namespace, reading)))
            && (self.ports.is_empty() || self.ports.iter().any(is_port))
    }

    fn manifest(&self, side: &str) -> Value {
        let peers: Vec<_> = self.peers.iter().map(Peer::manifest).collect();
        let ports: Vec<_> =
            self.ports.iter().map(|(protocol, port)| port.manifest(protocol)).collect();
        json!({ side: peers, "ports": ports })
    }
}

#[derive(Clone, Debug)]
pub(crate) struct NetworkPolicy {
    pub(crate) namespace: &'static str,
    pub(crate) subject: LabelSelector,
    pub(crate) types: Vec<&'static str>,
    pub(crate) ingress: Vec<Rule>,
    pub(crate) egress: Vec<Rule>,
}

impl NetworkPolicy {
    fn acts(&self, direction: Direction) -> bool {
        let (name, rules) = match direction {
            Direction::Ingress => ("Ingress", None),
            Direction::Egress => ("Egress", Some(&self.egress)),
        };
        // By default it is of Ingress, and with egress rules of both.
        let by_default = rules.is_none_or(|rules| !rules.is_empty());
        self.types.contains(&name) || (self.types.is_empty() && by_default)
    }

    fn manifest(&self, name: &str) -> Value {
        let rules =
            |rules: &[Rule], side| rules.iter().map(|rule| rule.manifest(side)).collect::<Vec<_>>();
        json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": { "name": name, "namespace": self.namespace },
            "spec": {
                "podSelector": self.subject.manifest(),
                "policyTypes": self.types,
                "ingress": rules(&self.ingress, "from"),
                "egress": rules(&self.egress, "to"),
            },
        })
    }
}

/// Pods by their own labels and by those of their namespaces.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) namespaces: LabelSelector,
    /// Without it the field is `namespaces`, with it `pods`.
    pub(crate) pods: Option<LabelSelector>,
}

impl Subject {
    fn is(&self, pod: &Pod, reading: Reading) -> bool {
        let pods = self.pods.as_ref();
        self.namespaces.selects(&pod.namespace_labels(), reading)
            && pods.is_none_or(|selector| selector.selects(&pod.labels(), reading))
    }

    fn manifest(&self) -> Value {
        let namespaces = self.namespaces.manifest();
        match &self.pods {
            None => json!({ "namespaces": namespaces }),
            Some(pods) => json!({
                "pods": { "namespaceSelector": namespaces, "podSelector": pods.manifest() },
            }),
        }
    }
}

/// A peer of a `ClusterNetworkPolicy`.
#[derive(Clone, Debug)]
pub(crate) struct ClusterPeer {
    pub(crate) subject: Option<Subject>,
    /// For egress only.
    pub(crate) networks: Vec<Cidr>,
    /// A field that isn't translated.
    pub(crate) broken: Option<&'static str>,
}

impl ClusterPeer {
    fn is(&self, pod: &Pod, reading: Reading) -> bool {
        let networks = &self.networks;
        let is_all_broken = self.subject.is_none() && networks.is_empty();
        self.subject.as_ref().is_none_or(|subject| subject.is(pod, reading))
            && (networks.is_empty() || networks.iter().any(|net| net.holds(pod.ip, reading)))
            && ((self.broken.is_none() && !is_all_broken) || reading.of_broken())
    }

    fn manifest(&self) -> Value {
        let mut peer = self.subject.as_ref().map_or_else(|| json!({}), Subject::manifest);
        if !self.networks.is_empty() {
            peer["networks"] = self.networks.iter().map(|net| net.0).collect();
        }
        if let Some(field) = self.broken {
            peer[field] = if field == "nodes" { json!({}) } else { json!(["example.org"]) };
        }
        peer
    }
}

/// A rule of a `ClusterNetworkPolicy`.
#[derive(Clone, Debug)]
pub(crate) struct ClusterRule {
    pub(crate) action: &'static str,
    pub(crate) peers: Vec<ClusterPeer>,
    /// A named port is of every protocol.
    pub(crate) protocols: Vec<(&'static str, Port)>,
}

impl ClusterRule {
    fn matches(&self, peer: &Pod, probe: &Probe, reading: Reading) -> bool {
        let is_port = |(protocol, port): &(&str, Port)| {
            (*protocol == probe.protocol || matches!(port, Port::Named(_)))
                && port.is(probe, reading)
        };
        self.peers.iter().any(|it| it.is(peer, reading))
            && (self.protocols.is_empty() || self.protocols.iter().any(is_port))
    }

    fn manifest(&self, side: &str) -> Value {
        let peers: Vec<_> = self.peers.iter().map(ClusterPeer::manifest).collect();
        let protocols: Vec<_> =
            self.protocols.iter().map(|(name, port)| port.cluster_manifest(name)).collect();
        json!({ "action": self.action, side: peers, "protocols": protocols })
    }
}

#[derive(Clone, Debug)]
pub(crate) struct ClusterNetworkPolicy {
    pub(crate) tier: &'static str,
    pub(crate) subject: Subject,
    pub(crate) ingress: Vec<ClusterRule>,
    pub(crate) egress: Vec<ClusterRule>,
}

impl ClusterNetworkPolicy {
    fn manifest(&self, name: &str, priority: usize) -> Value {
        let rules = |rules: &[ClusterRule], side| {
            rules.iter().map(|rule| rule.manifest(side)).collect::<Vec<_>>()
        };
        json!({
            "apiVersion": "policy.networking.k8s.io/v1alpha2",
            "kind": "ClusterNetworkPolicy",
            "metadata": { "name": name },
            "spec": {
                "tier": self.tier,
                "priority": priority,
                "subject": self.subject.manifest(),
                "ingress": rules(&self.ingress, "from"),
                "egress": rules(&self.egress, "to"),
            },
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Ingress,
    Egress,
}

/// All policies of the cluster; those of the cluster itself in the order of their priorities.
#[derive(Clone, Debug)]
pub(crate) struct Policies {
    pub(crate) namespaced: Vec<NetworkPolicy>,
    pub(crate) cluster: Vec<ClusterNetworkPolicy>,
}

impl Policies {
    pub(crate) fn manifests(&self) -> impl Iterator<Item = Value> {
        let namespaced = self.namespaced.iter().enumerate();
        let namespaced = namespaced.map(|(index, it)| it.manifest(&format!("np{index}")));
        let cluster = self.cluster.iter().enumerate();
        let cluster = cluster.map(|(index, it)| it.manifest(&format!("cnp{index}"), index));
        namespaced.chain(cluster)
    }

    pub(crate) fn allow(&self, probe: &Probe, reading: Reading) -> bool {
        self.let_by(Direction::Egress, probe, reading)
            && self.let_by(Direction::Ingress, probe, reading)
    }

    fn let_by(&self, direction: Direction, probe: &Probe, reading: Reading) -> bool {
        let (subject, peer) = match direction {
            Direction::Ingress => (probe.to, probe.from),
            Direction::Egress => (probe.from, probe.to),
        };
        let in_tier = |tier| self.in_tier(tier, direction, (subject, peer), probe, reading);
        let of_namespace = || {
            let mut policies = self
                .namespaced
                .iter()
                .filter(|policy| {
                    policy.namespace == subject.namespace
                        && policy.acts(direction)
                        && policy.subject.selects(&subject.labels(), reading)
                })
                .peekable();
            policies.peek()?;
            Some(policies.any(|policy| {
                let rules = match direction {
                    Direction::Ingress => &policy.ingress,
                    Direction::Egress => &policy.egress,
                };
                rules.iter().any(|rule| rule.matches(peer, policy.namespace, probe, reading))
            }))
        };
        in_tier("Admin").or_else(of_namespace).or_else(|| in_tier("Baseline")).unwrap_or(true)
    }

    fn in_tier(
        &self,
        tier: &str,
        direction: Direction,
        (subject, peer): (&Pod, &Pod),
        probe: &Probe,
        reading: Reading,
    ) -> Option<bool> {
        let mut rules = self
            .cluster
            .iter()
            .filter(|policy| policy.tier == tier && policy.subject.is(subject, reading))
            .flat_map(|policy| match direction {
                Direction::Ingress => &policy.ingress,
                Direction::Egress => &policy.egress,
            });
        match rules.find(|rule| rule.matches(peer, probe, reading))?.action {
            "Accept" => Some(true),
            "Deny" => Some(false),
            _ => None,
        }
    }
}
