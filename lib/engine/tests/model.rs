//! After any sequence of updates the engine says what a naive recomputation says.
//!
//! `BULRUSH_SEEDS=START..END` tries these worlds, instead of the first few; what fails names its own.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a failed test")]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use model::view::{Entry, Topic};
use proptest::{collection::vec, strategy::Strategy, strategy::ValueTree, test_runner::TestRunner};
use support::{
    checks::Check,
    naive::{self, Expected, Objects},
    objects::object,
};

/// How many worlds each property is tried in, where `BULRUSH_SEEDS` doesn't say which.
const SEEDS: u64 = 200;

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

#[test]
fn any_sequence_of_updates_ends_in_what_the_objects_say() {
    Check::Updates.try_seeds(SEEDS);
}

#[test]
fn the_order_of_updates_does_not_matter() {
    Check::Order.try_seeds(SEEDS);
}

#[test]
fn an_engine_for_one_node_says_what_one_for_all_says_to_that_node() {
    Check::OneNode.try_seeds(SEEDS);
}

#[test]
fn packets_meet_what_the_objects_say() {
    Check::Verdicts.try_seeds(SEEDS);
}
