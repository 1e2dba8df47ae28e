//! What a node is told, held to what the engine says about it when it is asked.
//!
//! `bulrush replay` prints the latter, and its test compares that with Calico's own results for the
//! same clusters. So this ties the entries that agents act on to these results.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a failed test")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use arcstr::ArcStr;
use bulrush_engine::inspect::{Along, InspectedTier, RouteSource, route_lines};
use ipnet::IpNet;
use model::{
    Key,
    kinds::Spec,
    view::{EncapMode, Entry, PolicyId, PolicyList, PolicyTier, Pool, Rule, Topic},
};
use support::{calculated, cluster::Cluster, golden};

#[test]
fn a_view_is_the_part_of_what_is_known_that_an_agent_acts_on() {
    let Some(folder) = golden::folder() else { return };
    let (mut states, mut wrong) = (0, Vec::new());
    for case in calculated::cases(&folder) {
        let mut cluster = Cluster::keeping_objects();
        for (index, step) in case["steps"].as_array().unwrap().iter().enumerate() {
            calculated::step(&mut cluster, step);
            cluster.flush();
            for node in case["views"].as_object().unwrap().keys() {
                states += 1;
                let place = format!("{}, step {}, {node}", case["id"], index + 1);
                let mut differ = |what: String| wrong.push(format!("{place}: {what}"));
                compare_policy(&cluster, node, &mut differ);
                compare_routes(&cluster, node, &mut differ);
            }
        }
    }
    println!("{states} states, {} disagreements", wrong.len());
    for text in &wrong {
        println!("{text}");
    }
    assert!(wrong.is_empty(), "{} disagreements", wrong.len());
    assert!(states > 0, "no cases");
}

fn is_staged(id: &PolicyId) -> bool {
    id.kind.starts_with("Staged")
}

/// The list that is enforced of tiers in which staged policies stand too. None: nothing is.
fn enforced(tiers: &[InspectedTier]) -> Option<PolicyList> {
    let tiers = tiers.iter().map(|tier| {
        let ids = |ids: &[PolicyId]| ids.iter().filter(|id| !is_staged(id)).cloned().collect();
        PolicyTier {
            name: tier.name.clone(),
            default_pass: tier.default_pass == Some(true),
            ingress: ids(&tier.ingress),
            egress: ids(&tier.egress),
        }
    });
    let tiers = tiers.filter(|tier| !tier.ingress.is_empty() || !tier.egress.is_empty());
    let tiers = tiers.collect::<Vec<_>>();
    (!tiers.is_empty()).then_some(PolicyList { tiers })
}

fn compare_policy(cluster: &Cluster, node: &str, differ: &mut impl FnMut(String)) {
    let view = cluster.engine.view(node);
    let entries = cluster.topic(&Topic::Node(node.into()));
    let mut expected = BTreeSet::new();
    let mut keys = BTreeSet::new();
    for endpoint in cluster.engine.endpoints(node) {
        let prefix = match cluster.engine.read(&endpoint.key).unwrap().spec {
            Spec::WorkloadEndpoint(wep) => {
                let (id, namespace) = (wep.id, &endpoint.key.namespace);
                format!("wep/{}/{namespace}/{}/{}/", id.orchestrator, id.workload, id.endpoint)
            }
            _ => format!("hep/{}", endpoint.key.name),
        };
        let Some((key, entry)) = entries.iter().find(|(key, _)| key.starts_with(&prefix)) else {
            differ(format!("{prefix} has no entry"));
            continue;
        };
        keys.insert(key.clone());
        let lists = match entry {
            Entry::Endpoint(it) => vec![(&it.plist, &endpoint.tiers)],
            Entry::HostEndpoint(it) => vec![
                (&it.plist, &endpoint.tiers),
                (&it.forward, &endpoint.forward),
                (&it.untracked, &endpoint.untracked),
                (&it.pre_dnat, &endpoint.pre_dnat),
            ],
            other => panic!("{key}: {other:?}"),
        };
        for (id, tiers) in lists {
            let due = enforced(tiers);
            let held = id.as_ref().map(|id| {
                let topic = Topic::Plist(id.clone());
                let entry = cluster.topic(&topic).get("").cloned();
                expected.insert(topic);
                match entry {
                    Some(Entry::Plist(list)) => list,
                    other => panic!("{id}: {other:?}"),
                }
            });
            if due != held {
                differ(format!("{key}: {held:?} is held, {due:?} is due"));
            }
            for tier in due.into_iter().flat_map(|list| list.tiers) {
                let ids = tier.ingress.into_iter().chain(tier.egress);
                expected.extend(ids.map(Topic::Policy));
            }
        }
    }
    let published = entries.iter().filter(|(_, it)| !matches!(it, Entry::Config(_)));
    let published = published.map(|(key, _)| key.clone()).collect::<BTreeSet<_>>();
    if keys != published {
        differ(format!("endpoints {keys:?} are there, {published:?} are published"));
    }

    let mut sets = BTreeSet::new();
    for policy in cluster.engine.policies_of(node, true) {
        let Key { kind, namespace, name } = &policy.key;
        let id = PolicyId::new(kind.name(), namespace.clone(), name.clone());
        let topic = Topic::Policy(id);
        if !expected.contains(&topic) {
            continue;
        }
        sets.extend(policy.sets);
        let due = (rules(&policy.ingress), rules(&policy.egress));
        match cluster.topic(&topic).get("") {
            Some(Entry::Policy(held)) if (&held.ingress, &held.egress) == (&due.0, &due.1) => {}
            other => differ(format!("{topic}: {other:?} is held, {due:?} is due")),
        }
    }
    for (name, profile) in cluster.engine.profiles_of(node, true) {
        sets.extend(profile.sets);
        let topic = Topic::Profile(name);
        let due = (rules(&profile.ingress), rules(&profile.egress));
        match cluster.topic(&topic).get("") {
            Some(Entry::Profile(held)) if (&held.ingress, &held.egress) == (&due.0, &due.1) => {}
            other => differ(format!("{topic}: {other:?} is held, {due:?} is due")),
        }
        expected.insert(topic);
    }
    for id in sets {
        let topic = Topic::IpSet(id.clone());
        let due = cluster.engine.ip_set(&id).expect("a set that is named").members;
        let held = cluster.topic(&topic).into_keys().collect::<BTreeSet<_>>();
        if !held.iter().map(ArcStr::as_str).eq(due.iter().collect::<BTreeSet<_>>()) {
            differ(format!("{topic}: {held:?} are held, {due:?} are due"));
        }
        expected.insert(topic);
    }
    if view != expected {
        differ(format!("the view is {view:?}, needed is {expected:?}"));
    }
}

/// Rules as nodes get them: what is written twice is there once.
fn rules(rules: &[Option<Rule>]) -> Vec<Rule> {
    let once = |list: &mut Vec<ArcStr>| {
        let mut seen = BTreeSet::new();
        list.retain(|id| seen.insert(id.clone()));
    };
    let mut rules = rules.iter().flatten().cloned().collect::<Vec<_>>();
    for rule in &mut rules {
        for peer in [&mut rule.source, &mut rule.destination] {
            for list in [
                &mut peer.sets,
                &mut peer.not_sets,
                &mut peer.port_sets,
                &mut peer.not_port_sets,
                &mut peer.service_sets,
            ] {
                once(list);
            }
        }
    }
    rules
}

/// Routes, without what an agent knows by itself: pools, addresses of nodes, its own workloads, and
/// tunnels that their node's block covers.
fn compare_routes(cluster: &Cluster, node: &str, differ: &mut impl FnMut(String)) {
    let (mut routes, mut pools) = (BTreeMap::new(), BTreeMap::<IpNet, Pool>::new());
    for (topic, entries) in &cluster.topics {
        for (key, entry) in entries {
            match (topic, entry) {
                (Topic::Routes(_), Entry::Route(route)) => {
                    routes.insert(key.parse::<IpNet>().unwrap(), route.clone());
                }
                (Topic::Pools, Entry::Pool(pool)) => {
                    pools.insert(key.parse().unwrap(), pool.clone());
                }
                _ => {}
            }
        }
    }
    let kind = |vxlan: EncapMode, ipip: EncapMode| match (vxlan, ipip) {
        (EncapMode::Never, EncapMode::Never) => "none",
        (EncapMode::Never, _) => "IPIP",
        _ => "VXLAN",
    };
    let held = routes.iter().map(|(cidr, route)| {
        let pool = route.pool.map(|pool| kind(pools[&pool].vxlan, pools[&pool].ipip));
        (*cidr, (route.node.clone(), pool, route.borrowed, route.tunnel))
    });
    let held = held.collect::<BTreeMap<_, _>>();
    let mut due = BTreeMap::new();
    for (cidr, line) in route_lines(&cluster.engine, node, RouteSource::Blocks) {
        let is = |along: &[Along]| along.iter().any(|it| line.along.contains(it));
        let own = line.local_workload && !routes.contains_key(&cidr);
        let covered = routes.iter().any(|(outer, route)| {
            outer.contains(&cidr) && *outer != cidr && route.node == line.node
        });
        let tunnel_alone = is(&[Along::LocalTunnel, Along::RemoteTunnel])
            && !is(&[Along::LocalWorkload, Along::RemoteWorkload]);
        let of_node = is(&[Along::LocalHost, Along::RemoteHost]);
        if line.node.is_empty() || own || of_node || (tunnel_alone && covered) {
            continue;
        }
        let pool = line.pool.map(|(vxlan, ipip)| kind(vxlan, ipip));
        due.insert(cidr, (line.node, pool, line.borrowed, line.tunnels.is_some()));
    }
    for cidr in held.keys().chain(due.keys()).collect::<BTreeSet<_>>() {
        if held.get(cidr) != due.get(cidr) {
            differ(format!("{cidr}: {:?} is held, {:?} is due", held.get(cidr), due.get(cidr)));
        }
    }
}
