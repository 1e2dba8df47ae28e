//! The Kubernetes objects that are translated, with the fields that matter for it.

use std::collections::BTreeMap;

use serde_json::Value;

use super::decode::{Decode, Present, Whole, object, shown};
use crate::kinds::{Invalid, parse_time};

object! {
    Metadata {
        name: String = "name",
        generate_name: String = "generateName",
        namespace: String = "namespace",
        uid: String = "uid",
        resource_version: String = "resourceVersion",
        creation_timestamp: Time = "creationTimestamp",
        deletion_timestamp: Option<Time> = "deletionTimestamp",
        labels: BTreeMap<String, String> = "labels",
        annotations: BTreeMap<String, String> = "annotations",
    }
    also "deletionGracePeriodSeconds", "finalizers", "generation", "managedFields", "ownerReferences", "selfLink"
}

/// A point in time as Kubernetes writes it; empty: none.
#[derive(Clone, Debug, Default)]
pub(super) struct Time(pub(super) String);

impl Decode for Time {
    fn decode(value: &Value) -> Result<Self, Invalid> {
        let text = String::decode(value)?;
        parse_time(&text).map(Self).ok_or_else(|| Invalid {
            field: String::new(),
            value: shown(value),
            reason: "must be a time such as 2026-01-31T12:00:00Z".to_owned(),
        })
    }
}

object! {
    LabelSelector {
        match_labels: BTreeMap<String, String> = "matchLabels",
        match_expressions: Vec<Requirement> = "matchExpressions",
    }
}

object! {
    /// One of `matchExpressions`.
    Requirement {
        key: String = "key",
        operator: String = "operator",
        values: Vec<String> = "values",
    }
}

/// A number or text, as in `port: 80` and `port: http`.
#[derive(Clone, Debug, Default)]
pub(super) struct NumberOrText {
    pub(super) text: String,
    pub(super) is_number: bool,
}

impl Decode for NumberOrText {
    fn decode(value: &Value) -> Result<Self, Invalid> {
        match value {
            Value::String(text) => Ok(Self { text: text.clone(), is_number: false }),
            _ => i32::decode(value)
                .map(|number| Self { text: number.to_string(), is_number: true })
                .map_err(|invalid| Invalid {
                    reason: "must be a port's number or its name".to_owned(),
                    ..invalid
                }),
        }
    }
}

object! {
    /// Nothing but metadata matters.
    Named {
        metadata: Metadata = "metadata",
    }
}

object! {
    NetworkPolicy {
        metadata: Metadata = "metadata",
        spec: NetworkPolicySpec = "spec",
    }
    also "apiVersion", "kind", "status"
}

object! {
    NetworkPolicySpec {
        pod_selector: Whole<LabelSelector> = "podSelector",
        policy_types: Vec<String> = "policyTypes",
        ingress: Vec<Whole<NetworkPolicyIngressRule>> = "ingress",
        egress: Vec<Whole<NetworkPolicyEgressRule>> = "egress",
    }
}

object! {
    NetworkPolicyIngressRule {
        from: Vec<NetworkPolicyPeer> = "from",
        ports: Vec<NetworkPolicyPort> = "ports",
    }
}

object! {
    NetworkPolicyEgressRule {
        to: Vec<NetworkPolicyPeer> = "to",
        ports: Vec<NetworkPolicyPort> = "ports",
    }
}

object! {
    NetworkPolicyPeer {
        ip_block: Option<IpBlock> = "ipBlock",
        pod_selector: Option<LabelSelector> = "podSelector",
        namespace_selector: Option<LabelSelector> = "namespaceSelector",
    }
}

object! {
    IpBlock {
        cidr: String = "cidr",
        except: Vec<String> = "except",
    }
}

object! {
    NetworkPolicyPort {
        protocol: Option<String> = "protocol",
        port: Option<NumberOrText> = "port",
        end_port: Option<i32> = "endPort",
    }
}

object! {
    ClusterNetworkPolicy {
        metadata: Metadata = "metadata",
        spec: ClusterNetworkPolicySpec = "spec",
    }
    also "apiVersion", "kind", "status"
}

object! {
    ClusterNetworkPolicySpec {
        tier: String = "tier",
        priority: i32 = "priority",
        subject: Whole<Subject> = "subject",
        ingress: Vec<Whole<ClusterRule>> = "ingress",
        egress: Vec<Whole<ClusterRule>> = "egress",
    }
}

object! {
    Subject {
        namespaces: Option<LabelSelector> = "namespaces",
        pods: Option<NamespacedPods> = "pods",
    }
}

object! {
    NamespacedPods {
        namespace_selector: LabelSelector = "namespaceSelector",
        pod_selector: LabelSelector = "podSelector",
    }
}

object! {
    /// Of both directions: `from` counts for ingress, `to` for egress.
    ClusterRule {
        name: String = "name",
        action: String = "action",
        from: Vec<ClusterPeer> = "from",
        to: Vec<ClusterPeer> = "to",
        protocols: Vec<ClusterProtocol> = "protocols",
    }
}

object! {
    /// Of both directions; `networks` counts for egress only.
    ClusterPeer {
        namespaces: Option<LabelSelector> = "namespaces",
        pods: Option<NamespacedPods> = "pods",
        networks: Vec<String> = "networks",
        nodes: Present = "nodes",
        domain_names: Present = "domainNames",
    }
}

object! {
    ClusterProtocol {
        tcp: Option<ClusterPorts> = "tcp",
        udp: Option<ClusterPorts> = "udp",
        sctp: Option<ClusterPorts> = "sctp",
        destination_named_port: String = "destinationNamedPort",
    }
}

object! {
    ClusterPorts {
        destination_port: Option<ClusterPort> = "destinationPort",
    }
}

object! {
    ClusterPort {
        number: i32 = "number",
        range: Option<ClusterPortRange> = "range",
    }
}

object! {
    ClusterPortRange {
        start: i32 = "start",
        end: i32 = "end",
    }
}

object! {
    Pod {
        metadata: Metadata = "metadata",
        spec: PodSpec = "spec",
        status: PodStatus = "status",
    }
}

object! {
    PodSpec {
        node_name: String = "nodeName",
        service_account_name: String = "serviceAccountName",
        containers: Vec<Container> = "containers",
        init_containers: Vec<Container> = "initContainers",
    }
}

object! {
    Container {
        ports: Vec<ContainerPort> = "ports",
    }
}

object! {
    ContainerPort {
        name: String = "name",
        container_port: i32 = "containerPort",
        host_port: i32 = "hostPort",
        protocol: String = "protocol",
        host_ip: String = "hostIP",
    }
}

object! {
    PodStatus {
        phase: String = "phase",
        pod_ip: String = "podIP",
        pod_ips: Vec<PodIp> = "podIPs",
    }
}

object! {
    PodIp {
        ip: String = "ip",
    }
}
