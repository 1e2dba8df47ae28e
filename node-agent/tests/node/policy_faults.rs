//! Policy when the kernel refuses, loses or changes what it was given.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use bulrush_node_agent::{
    Family, KernelEvent, Reconciler, Source,
    drivers::{
        NextHop, RouteKey,
        memory::{MemoryKernel, MemoryTable},
    },
    nft::{Action, Chain, Element, Match, SetKind, Step, Verdict},
};
use model::view::{Endpoint, Entry, Peer, Rule, Topic};

use crate::world::{
    NODE, TCP, Write, allow, allow_all, endpoint_key, from_set, policy_id, port, tier,
};

type Agent = Reconciler<MemoryKernel>;

/// Pods cali0, cali1, … each with a policy p0, p1, … that allows its own port 1000, 1001, ….
fn agent_with(policies: u16) -> Agent {
    let mut agent = Reconciler::new(NODE, true, MemoryKernel::default());
    agent.view().profile("all", Some(allow_all()));
    for n in 0..policies {
        agent.kernel().rtnl.plug(&format!("cali{n}"), true);
        let view = agent.view();
        view.policy(&format!("p{n}"), vec![allows_port(1000 + n)], vec![]);
        view.plist(&format!("l{n}"), vec![tier(&[&format!("p{n}")], &[])]);
        let address = format!("10.0.1.{n}");
        view.endpoint(&format!("e{n}"), &format!("cali{n}"), &[&address], Some(&format!("l{n}")));
    }
    agent
}

fn allows_port(number: u16) -> Rule {
    let destination = Peer { ports: port(number), ..Peer::default() };
    Rule { protocol: TCP, destination, ..allow() }
}

/// Refuses rules that ask one of these ports.
fn refuse_ports(agent: &mut Agent, refused: &[u16]) {
    let refused: BTreeSet<u16> = refused.iter().copied().collect();
    agent.kernel().nft.refuse = Some(Box::new(move |_, step| match step {
        Step::AddRule(_, rule) => rule.matches.iter().find_map(|condition| match condition {
            Match::Port { ranges, .. } if refused.contains(&ranges[0].first) => {
                Some(format!("port {} is bad", ranges[0].first))
            }
            _ => None,
        }),
        _ => None,
    }));
}

/// The ports that some chain of the table asks for.
fn ports(agent: &mut Agent) -> BTreeSet<u16> {
    let table = &agent.kernel().nft.tables[&Family::V4];
    let rules = table.chains.values().flat_map(|chain| &chain.rules);
    let conditions = rules.flat_map(|rule| &rule.matches);
    conditions
        .filter_map(|condition| match condition {
            Match::Port { ranges, .. } => Some(ranges[0].first),
            _ => None,
        })
        .filter(|port| (1000..2000).contains(port))
        .collect()
}

fn failed(outcome: &bulrush_node_agent::Outcome) -> Vec<String> {
    outcome.failed.iter().map(|failure| failure.topic.to_string()).collect()
}

#[test]
fn a_refused_policy_drops_and_all_else_goes_in() {
    let mut agent = agent_with(40);
    refuse_ports(&mut agent, &[1007, 1008, 1031]);
    let now = Instant::now();
    let outcome = agent.commit(Source::Server, now);
    let bad = ["p7", "p8", "p31"].map(|name| Topic::Policy(policy_id(name)).to_string());
    assert_eq!(failed(&outcome).into_iter().collect::<BTreeSet<_>>(), bad.into());
    assert!(outcome.failed[0].reason.contains("is bad"), "{:?}", outcome.failed[0]);
    let good: BTreeSet<u16> = (1000..1040).filter(|n| ![1007, 1008, 1031].contains(n)).collect();
    assert_eq!(ports(&mut agent), good);
    let table = &agent.kernel().nft.tables[&Family::V4];
    let closed = table.chains.values().filter(|chain| {
        matches!(chain.rules.as_slice(), [rule] if rule.matches.is_empty()
            && rule.actions == [Action::Verdict(Verdict::Drop)])
    });
    assert_eq!(closed.count(), 3, "what is refused drops");
    assert!(agent.kernel().nft.tried < 60, "{} tries for 3 of 80 chains", agent.kernel().nft.tried);

    // It is left alone until its time, and then tried again.
    let next = outcome.next.unwrap();
    assert!(next > now && next <= now + Duration::from_secs(1));
    agent.kernel().nft.tried = 0;
    agent.commit(Source::Server, next.checked_sub(Duration::from_millis(1)).unwrap());
    assert_eq!(agent.kernel().nft.tried, 0);
    let again = agent.commit(Source::Server, next);
    assert_eq!(again.failed.len(), 3);
    assert!(again.next.unwrap() >= next + Duration::from_secs(2), "the pause doubles");
    agent.kernel().nft.refuse = None;
    assert_eq!(agent.commit(Source::Server, again.next.unwrap()).failed, []);
    assert_eq!(ports(&mut agent), (1000..1040).collect());
}

#[test]
fn the_search_for_culprits_ends() {
    let mut agent = agent_with(200);
    let bad: Vec<u16> = (1000..1200).filter(|n| n % 2 == 0).collect();
    refuse_ports(&mut agent, &bad);
    let outcome = agent.commit(Source::Server, Instant::now());
    assert!(agent.kernel().nft.tried < 300, "{} tries", agent.kernel().nft.tried);
    let failed = failed(&outcome);
    for n in &bad {
        let topic = Topic::Policy(policy_id(&format!("p{}", n - 1000))).to_string();
        assert!(failed.contains(&topic), "{topic}");
    }
    assert!(ports(&mut agent).iter().all(|port| !bad.contains(port)));
    assert!(!agent.kernel().nft.tables.is_empty());
}

#[test]
fn a_refused_change_of_a_running_table_harms_no_other() {
    let mut agent = agent_with(10);
    let now = Instant::now();
    assert_eq!(agent.commit(Source::Server, now).failed, []);
    refuse_ports(&mut agent, &[1500]);
    let view = agent.view();
    view.policy("p3", vec![allows_port(1500)], vec![]);
    view.policy("p4", vec![allows_port(1600)], vec![]);
    let outcome = agent.commit(Source::Server, now);
    assert_eq!(failed(&outcome), [Topic::Policy(policy_id("p3")).to_string()]);
    let mut expected: BTreeSet<u16> = (1000..1010).filter(|n| ![1003, 1004].contains(n)).collect();
    expected.insert(1600);
    assert_eq!(ports(&mut agent), expected, "1003 is not what p3 says any more");
    let anew = |step: &(Family, Step)| step.1 == Step::NewTable;
    let last = agent.kernel().nft.commits.last().unwrap();
    assert!(!last.steps.iter().any(anew), "the table itself stays");

    // A change of the policy is tried at once.
    agent.view().policy("p3", vec![allows_port(1700)], vec![]);
    assert_eq!(agent.commit(Source::Server, now).failed, []);
    assert!(ports(&mut agent).contains(&1700));
}

#[test]
fn who_asks_a_refused_set_drops() {
    let mut agent = agent_with(3);
    let now = Instant::now();
    let view = agent.view();
    view.policy("p0", vec![from_set("s:bad")], vec![]);
    view.policy("p1", vec![from_set("s:good")], vec![]);
    view.member("s:bad", "10.9.9.9/32", true);
    view.member("s:good", "10.8.8.8/32", true);
    let bad = Element::Host([10, 9, 9, 9].into());
    agent.kernel().nft.refuse = Some(Box::new(move |_, step| match step {
        Step::AddElements(_, elements) => {
            elements.iter().any(|(e, _)| *e == bad).then(|| "no memory".to_owned())
        }
        _ => None,
    }));
    let outcome = agent.commit(Source::Server, now);
    let expected = [Topic::Policy(policy_id("p0")), Topic::IpSet("s:bad".into())];
    assert_eq!(failed(&outcome), expected.map(|topic| topic.to_string()));
    agent.kernel().nft.refuse = None;
    assert_eq!(agent.commit(Source::Server, outcome.next.unwrap()).failed, []);

    let mut fresh = agent_with(3);
    let view = fresh.view();
    view.policy("p0", vec![from_set("s:bad")], vec![]);
    view.policy("p1", vec![from_set("s:good")], vec![]);
    view.member("s:bad", "10.9.9.9/32", true);
    view.member("s:good", "10.8.8.8/32", true);
    fresh.commit(Source::Server, now);
    assert_eq!(agent.kernel().nft.tables, fresh.kernel().nft.tables);
}

#[test]
fn a_table_that_others_flushed_comes_back() {
    let mut agent = agent_with(3);
    let now = Instant::now();
    agent.commit(Source::Server, now);
    let good = agent.kernel().nft.tables.clone();

    agent.kernel().nft.tamper(std::collections::BTreeMap::clear);
    agent.commit(Source::Server, now);
    assert!(agent.kernel().nft.tables.is_empty(), "nobody said so, and no check was due");
    let due = now + Duration::from_mins(3);
    assert_eq!(agent.commit(Source::Server, due).failed, []);
    assert_eq!(agent.kernel().nft.tables, good, "the periodic check");

    let own = KernelEvent::Nftables(1);
    let other = KernelEvent::Nftables(2);
    assert!(!agent.kernel_event(&own), "the echo of our own change");
    agent.kernel().nft.tamper(|tables| {
        tables.values_mut().next().unwrap().chains.get_mut("forward").unwrap().rules.clear();
    });
    assert!(agent.kernel_event(&other));
    agent.commit(Source::Server, due);
    assert_eq!(agent.kernel().nft.tables, good, "by notification");

    // Two programs that fight over the table don't burn the machine.
    agent.kernel().nft.tamper(std::collections::BTreeMap::clear);
    agent.kernel_event(&other);
    let outcome = agent.commit(Source::Server, due + Duration::from_secs(1));
    assert!(agent.kernel().nft.tables.is_empty());
    agent.commit(Source::Server, outcome.next.unwrap());
    assert_eq!(agent.kernel().nft.tables, good);
}

#[test]
fn a_table_that_others_changed_is_written_anew_when_it_is_in_the_way() {
    let mut agent = agent_with(3);
    let now = Instant::now();
    agent.commit(Source::Server, now);
    // The entry of cali1 is gone when we want to remove it: nftables refuses.
    agent.kernel().nft.tamper(|tables| {
        let table = tables.get_mut(&Family::V4).unwrap();
        let map = &mut table.sets.get_mut("from-workload").unwrap().1;
        map.remove(&Element::Interface("cali1".into()));
    });
    agent.view().set(&Topic::Node(NODE.into()), &endpoint_key("e1"), None);
    assert_eq!(agent.commit(Source::Server, now).failed, []);
    let mut fresh = agent_with(3);
    fresh.view().set(&Topic::Node(NODE.into()), &endpoint_key("e1"), None);
    fresh.commit(Source::Server, now);
    assert_eq!(agent.kernel().nft.tables, fresh.kernel().nft.tables);
}

#[test]
fn without_policy_no_pod_is_connected() {
    let mut agent = agent_with(2);
    let now = Instant::now();
    agent.kernel().nft.unavailable = Some("no such file".into());
    let outcome = agent.commit(Source::Server, now);
    let node = Topic::Node(NODE.into());
    for endpoint in ["e0", "e1"] {
        let key = endpoint_key(endpoint);
        let failure = outcome.failed.iter().find(|f| f.topic == node && f.key == key).unwrap();
        assert!(failure.reason.contains("is nftables installed"), "{failure:?}");
    }
    assert!(agent.kernel().rtnl.routes.is_empty());
    agent.kernel().nft.unavailable = None;
    let outcome = agent.commit(Source::Server, outcome.next.unwrap());
    assert_eq!(outcome.failed, []);
    assert_eq!(agent.kernel().rtnl.routes.len(), 2);

    // Once it guards the pods, a later failure leaves all as it is.
    agent.kernel().nft.unavailable = Some("no such file".into());
    agent.view().policy("p0", vec![allows_port(7)], vec![]);
    assert!(!agent.commit(Source::Server, now).failed.is_empty());
    assert_eq!(agent.kernel().rtnl.routes.len(), 2);
}

#[test]
fn a_saved_view_adds_and_a_servers_view_sweeps() {
    let now = Instant::now();
    let mut earlier = agent_with(3);
    earlier.commit(Source::Server, now);
    let left = earlier.kernel().nft.tables.clone();

    // The next run has a saved view that lacks e2, and finds the kernel as the first left it.
    let mut agent = agent_with(2);
    let stale = RouteKey::ours("10.0.1.2/32".parse().unwrap());
    let kernel = agent.kernel();
    kernel.rtnl.plug("cali2", true);
    kernel.nft.tables = left.clone();
    kernel.rtnl.routes = earlier.kernel().rtnl.routes.clone();
    kernel.rtnl.routes.remove(&RouteKey::ours("10.0.1.0/32".parse().unwrap()));
    assert_eq!(agent.commit(Source::Saved, now).failed, []);
    assert_eq!(agent.kernel().nft.tables, left, "it may be newer than the saved view");
    let routes: Vec<_> = agent.kernel().rtnl.routes.keys().map(|k| k.destination).collect();
    assert_eq!(routes.len(), 3, "one repaired, none removed");

    assert_eq!(agent.commit(Source::Server, now).failed, []);
    let mut fresh = agent_with(2);
    fresh.commit(Source::Server, now);
    assert_eq!(agent.kernel().nft.tables, fresh.kernel().nft.tables);
    let last = agent.kernel().nft.commits.last().unwrap();
    assert!(last.steps.iter().all(|(_, step)| *step != Step::NewTable), "no packet misses a map");
    assert!(!agent.kernel().rtnl.routes.contains_key(&stale), "swept");
    assert_eq!(agent.kernel().rtnl.routes.len(), 2);

    // After a reboot there is no table: the saved view is better than none.
    let mut rebooted = agent_with(2);
    assert_eq!(rebooted.commit(Source::Saved, now).failed, []);
    assert_eq!(rebooted.kernel().nft.tables, fresh.kernel().nft.tables);
    let next = |hop: &NextHop| matches!(hop, NextHop::Link { .. });
    assert!(rebooted.kernel().rtnl.routes.values().all(|route| next(&route.next)));
}

/// Makes a table another one.
type Other = fn(&mut MemoryTable);

#[test]
fn a_table_of_our_name_that_is_not_as_ours_is_replaced() {
    let now = Instant::now();
    let mut fresh = agent_with(2);
    fresh.commit(Source::Server, now);
    let ours = fresh.kernel().nft.tables.clone();
    let others: [(&str, Other); 3] = [
        ("a chain is called elsewhere", |table| {
            let forward = table.chains.values_mut().find(|chain| chain.base.is_some()).unwrap();
            forward.base.as_mut().unwrap().priority += 1;
        }),
        ("a set has another type", |table| {
            let of_nets = table.sets.values_mut().find(|(kind, _)| *kind == SetKind::Nets);
            *of_nets.unwrap() = (SetKind::Hosts, BTreeMap::new());
        }),
        ("it is somebody else's", |table| {
            *table = MemoryTable::default();
            table.chains.insert("theirs".into(), Chain::default());
        }),
    ];
    for (what, change) in others {
        let mut agent = agent_with(2);
        agent.kernel().nft.tables = ours.clone();
        agent.kernel().nft.tables.values_mut().for_each(change);
        assert_eq!(agent.commit(Source::Server, now).failed, [], "{what}");
        assert_eq!(agent.kernel().nft.tables, ours, "{what}");
    }
}

#[test]
fn endpoints_that_cannot_be_guarded_are_named() {
    let mut agent = agent_with(1);
    let node = Topic::Node(NODE.into());
    let view = agent.view();
    for (key, interface) in [("tap", "tap0"), ("odd", "cali\"x"), ("twin", "cali0")] {
        view.endpoint_with(key, Endpoint { interface: interface.into(), ..Endpoint::default() });
    }
    view.set(&node, "hep/eth0", Some(Entry::Member));
    view.endpoint("lost", "cali5", &[], Some("nowhere"));
    let outcome = agent.commit(Source::Server, Instant::now());
    let reasons: Vec<(String, &str)> = outcome
        .failed
        .iter()
        .map(|failure| (failure.key.to_string(), failure.reason.as_str()))
        .collect();
    let expected = [
        ("hep/eth0".into(), "this entry doesn't belong into topic node/node-a"),
        (endpoint_key("lost"), "its policy list nowhere is not in the view"),
        (endpoint_key("odd"), "can't be an interface's name"),
        (endpoint_key("tap"), "interface tap0 has no policy, since it doesn't begin with cali"),
        (endpoint_key("twin"), "interface cali0 also belongs to wep/k8s/default/e0"),
    ];
    assert_eq!(reasons.len(), expected.len(), "{reasons:#?}");
    for ((key, reason), (wanted_key, wanted)) in reasons.iter().zip(&expected) {
        assert!(key == wanted_key && reason.contains(wanted), "{key}: {reason}");
    }
}
