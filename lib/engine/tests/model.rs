//! After any sequence of updates the engine says what a naive recomputation says.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a failed test")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use model::{
    Key,
    view::{Entry, Topic},
};
use proptest::{collection::vec, prelude::*, strategy::ValueTree, test_runner::TestRunner};
use support::{
    cluster::Cluster,
    naive::{self, Expected, Objects},
    objects::{Obj, object},
};

/// One thing that happens.
#[derive(Clone, Debug)]
enum Op {
    Put(Key, Box<Obj>),
    /// Deletes one of the objects that are there.
    Delete(prop::sample::Index),
    Flush,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        10 => object().prop_map(|(key, obj)| Op::Put(key, Box::new(obj))),
        3 => any::<prop::sample::Index>().prop_map(Op::Delete),
        3 => Just(Op::Flush),
    ]
}

fn run(cluster: &mut Cluster, objects: &mut Objects, op: &Op) {
    match op {
        Op::Put(key, obj) => {
            cluster.update(key, Some(obj.stored(key)));
            objects.insert(key.clone(), obj.as_ref().clone());
        }
        Op::Delete(index) => {
            let keys = objects.keys().cloned().collect::<Vec<_>>();
            if !keys.is_empty() {
                let key = index.get(&keys);
                cluster.delete(key);
                objects.remove(key);
            }
        }
        Op::Flush => check(cluster, objects),
    }
}

/// What the engine says is what follows from the objects.
fn check(cluster: &mut Cluster, objects: &Objects) {
    cluster.flush();
    let expected = naive::expected(objects);
    let topics = cluster.topics.keys().chain(expected.topics.keys()).collect::<BTreeSet<_>>();
    for topic in topics {
        let (ours, naive) = (cluster.topics.get(topic), expected.topics.get(topic));
        assert_eq!(ours, naive, "{topic}: the engine, and the naive recomputation");
    }
    let mut views = cluster.views.clone();
    views.retain(|_, view| !view.is_empty());
    assert_eq!(views, expected.views, "views");
    let problems = cluster.engine.problems().map(|(key, _)| key.clone()).collect::<BTreeSet<_>>();
    assert_eq!(problems, expected.problems, "problems");
    assert_eq!(cluster.engine.datastore_ready(), expected.ready);
    for (_, problem) in cluster.engine.problems() {
        assert!(!problem.faults.is_empty());
    }
}

/// The properties below say little unless things meet: this holds the generator to it.
#[test]
fn random_objects_meet() {
    const WORLDS: usize = 300;
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeMap::<&str, usize>::new();
    for _ in 0..WORLDS {
        let objects = vec(object(), 40).new_tree(&mut runner).unwrap().current();
        let objects = objects.into_iter().collect::<Objects>();
        for what in features(&naive::expected(&objects)) {
            *seen.entry(what).or_default() += 1;
        }
    }
    println!("of {WORLDS} worlds: {seen:#?}");
    for what in [
        "two policies in a tier",
        "two tiers",
        "a tier that passes",
        "a set with members",
        "a named port",
        "a view with two sets",
        "a policy without rules",
        "a borrowed address",
        "a tunnel outside of blocks",
        "a pending endpoint",
        "a host endpoint with a list for forwarded packets",
        "a host endpoint with two lists",
    ] {
        let count = seen.get(what).copied().unwrap_or(0);
        assert!(count * 10 > WORLDS, "{what}: {count} of {WORLDS}");
    }
}

fn features(expected: &Expected) -> BTreeSet<&'static str> {
    let mut seen = BTreeSet::new();
    for (topic, entries) in &expected.topics {
        for (key, entry) in entries {
            match entry {
                Entry::Plist(list) => {
                    let tiers = &list.tiers;
                    seen.extend((tiers.len() > 1).then_some("two tiers"));
                    let passes = tiers.iter().any(|tier| tier.default_pass);
                    seen.extend(passes.then_some("a tier that passes"));
                    let two = tiers.iter().any(|t| t.ingress.len().max(t.egress.len()) > 1);
                    seen.extend(two.then_some("two policies in a tier"));
                }
                Entry::Member if key.contains(',') => {
                    seen.insert("a named port");
                }
                Entry::Member => {
                    seen.extend((entries.len() > 1).then_some("a set with members"));
                }
                Entry::Policy(policy) => {
                    let none = policy.ingress.is_empty() && policy.egress.is_empty();
                    seen.extend(none.then_some("a policy without rules"));
                }
                Entry::Route(route) => {
                    seen.extend(route.borrowed.then_some("a borrowed address"));
                    seen.extend(route.tunnel.then_some("a tunnel outside of blocks"));
                }
                Entry::Endpoint(endpoint) => {
                    seen.extend(endpoint.addresses.is_empty().then_some("a pending endpoint"));
                }
                Entry::HostEndpoint(endpoint) => {
                    let forwards = endpoint.forward.is_some();
                    let others = [&endpoint.plist, &endpoint.untracked, &endpoint.pre_dnat];
                    let lists = others.into_iter().flatten().count();
                    let text = "a host endpoint with a list for forwarded packets";
                    seen.extend(forwards.then_some(text));
                    seen.extend((lists > 1).then_some("a host endpoint with two lists"));
                }
                _ => assert!(!matches!(topic, Topic::IpSet(_))),
            }
        }
    }
    for view in expected.views.values() {
        let sets = view.iter().filter(|topic| matches!(topic, Topic::IpSet(_))).count();
        seen.extend((sets > 1).then_some("a view with two sets"));
    }
    seen
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_updates_ends_in_what_the_objects_say(ops in vec(op(), 1..60)) {
        let (mut cluster, mut objects) = (Cluster::new(), Objects::new());
        for op in &ops {
            run(&mut cluster, &mut objects, op);
        }
        check(&mut cluster, &objects);

        // When everything is gone nothing is left, in the engine neither.
        for key in objects.keys() {
            cluster.delete(key);
        }
        check(&mut cluster, &Objects::new());
        let mut sizes = cluster.engine.sizes();
        sizes.evaluations = 0;
        let empty = Cluster::new();
        prop_assert_eq!(sizes, empty.engine.sizes());
    }

    #[test]
    fn the_order_of_updates_does_not_matter(
        objects in vec(object(), 1..40),
        others in vec(object(), 0..20),
        order in any::<prop::sample::Index>(),
        flushes in vec(any::<bool>(), 60),
    ) {
        let last = objects.iter().cloned().collect::<BTreeMap<_, _>>();
        let mut straight = Cluster::new();
        for (key, obj) in &last {
            straight.update(key, Some(obj.stored(key)));
        }
        straight.flush();

        // Others first, that are replaced or deleted; then the same objects in another order.
        let mut crooked = Cluster::new();
        for (key, obj) in &others {
            crooked.update(key, Some(obj.stored(key)));
        }
        let mut steps = last.iter().map(|(key, obj)| (key, Some(obj))).collect::<Vec<_>>();
        let gone = others.iter().map(|(key, _)| key).filter(|key| !last.contains_key(*key));
        steps.extend(gone.map(|key| (key, None)));
        let middle = order.index(steps.len());
        steps.rotate_left(middle);
        steps[middle / 2..].reverse();
        for ((key, obj), flush) in steps.into_iter().zip(flushes.into_iter().cycle()) {
            crooked.update(key, obj.map(|obj| obj.stored(key)));
            if flush {
                crooked.flush();
            }
        }
        crooked.flush();
        prop_assert_eq!(&straight.topics, &crooked.topics);
        crooked.views.retain(|_, view| !view.is_empty());
        prop_assert_eq!(&straight.views, &crooked.views);
    }
}
