//! A model checker for the protocol: the shipped publisher and sessions, in every order of events and
//! faults that fits a scope.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod agent;
mod explore;
mod invariants;
mod replica;
mod scope;
mod search;
mod sight;
mod store;
mod table;
mod trace;

use std::time::Instant;

use bulrush_sync::planted::few_common_topics;
use explore::Report;
use scope::Scope;
use search::Checker;
use store::Happening::{self, *};
use table::{Bug, Row};

/// Searches a scope, and says what it took.
fn search(name: &str, scope: &Scope) -> Report {
    let _few = few_common_topics();
    let began = Instant::now();
    let report = Checker::new(scope).run();
    let Report { states, steps, quiet, .. } = report;
    let seconds = began.elapsed().as_secs_f32();
    println!("{name}: {states} states, {quiet} of them quiet, {steps} steps, {seconds:.1} s");
    report
}

fn holds(name: &str, scope: &Scope) {
    check(name, &search(name, scope));
}

fn check(name: &str, report: &Report) {
    if let Some((violation, trace)) = &report.found {
        let (invariant, seen) = (violation.invariant, &violation.seen);
        panic!("{name}: {invariant:?} ({}):\n{trace}{seen}", invariant.promise());
    }
    assert!(report.quiet > 0, "{name}: nothing ever comes to rest");
}

#[test]
fn one_agent_follows_one_server() {
    let script = [Pool(Some(1)), Endpoint(0, Some(true))];
    holds("one agent, two events", &Scope { cuts: 1, ..Scope::of(script) });
}

/// One event of each kind that changes more than an entry: a topic that comes, one that a view gains,
/// one that changes while it is used, and one that a view loses.
const SCRIPT: [Happening; 4] =
    [Pool(Some(1)), Endpoint(0, Some(true)), Rules(1), Endpoint(0, Some(false))];

#[test]
fn two_agents_follow_one_server() {
    let scope = Scope { agents: 2, history: 40, ..Scope::of(SCRIPT) };
    holds("1 server, 2 agents", &Scope { cuts: 1, crashes: 1, restarts: 1, ..scope });
}

/// Agents don't act on servers, so the way of one is the same whatever another does: two agents need
/// no more than each of them alone, which is how larger scopes are searched.
#[test]
fn what_an_agent_goes_through_does_not_depend_on_another() {
    let script = [Pool(Some(1)), Endpoint(0, Some(true)), Pool(None)];
    let scope = Scope { replicas: 2, batch: 1, cuts: 1, restarts: 1, ..Scope::of(script) };
    let _few = few_common_topics();
    let both = Checker::new(&Scope { agents: 2, faults: 1, ..scope.clone() }).run();
    check("2 servers, 2 agents, a fault", &both);
    for first in 0..2 {
        let alone = Checker::new(&Scope { first, faults: 1, ..scope.clone() }).run();
        check("2 servers, an agent alone, a fault", &alone);
        assert_eq!(both.seen[first], alone.seen[0], "agent {first}");
    }
}

/// The largest scope: two servers that lag behind a store, in which six things happen in topics that all nodes have,
/// that one node has and that a node has by need; agents of two nodes, one after the other as the test above allows.
#[test]
fn two_servers_and_two_agents_through_six_events() {
    let script = [
        Pool(Some(1)),
        Endpoint(0, Some(true)),
        Endpoint(1, Some(true)),
        Rules(1),
        Endpoint(0, Some(false)),
        Pool(None),
    ];
    let scope = Scope { replicas: 2, batch: 1, strict: true, ..Scope::of(script) };
    for first in 0..2 {
        let scope = Scope { first, ..scope.clone() };
        let name = ["agent a", "agent b"][first];
        holds(&format!("{name}, 6 events, a cut"), &Scope { cuts: 1, ..scope.clone() });
        let crash = Scope { crashes: 1, saves: 1, ..scope.clone() };
        holds(&format!("{name}, 6 events, a crash"), &crash);
        let restart = Scope { restarts: 1, ..scope.clone() };
        holds(&format!("{name}, 6 events, a restart"), &restart);
        let after_restore = vec![Pool(Some(0))];
        let rollback = Scope { backups: vec![3], after_restore, ..scope };
        holds(&format!("{name}, 6 events, a rollback"), &rollback);
    }
}

#[test]
fn acknowledgements_name_what_the_kernel_holds() {
    let scope = Scope { agents: 2, acks: true, ..Scope::of(SCRIPT) };
    holds("acks, 2 agents", &scope);
    let faults = Scope { agents: 1, cuts: 1, crashes: 1, restarts: 1, ..scope };
    holds("acks, 1 agent", &faults);
}

#[test]
fn an_agent_starts_from_a_file_of_any_age() {
    let scope = Scope { saves: 1, crashes: 1, cuts: 1, restarts: 1, ..Scope::of(SCRIPT) };
    holds("files", &scope);
    holds("files of another cluster", &Scope { foreign: true, ..scope });
}

#[test]
fn agents_move_between_servers_that_lag() {
    let script = [Pool(Some(1)), Endpoint(0, Some(true)), Elsewhere, Pool(None)];
    let scope = Scope { replicas: 2, batch: 2, bookmarks: true, strict: true, ..Scope::of(script) };
    holds("2 servers", &Scope { cuts: 2, ..scope.clone() });
    holds("2 servers, files", &Scope { cuts: 1, crashes: 1, saves: 1, ..scope.clone() });
    holds("2 servers, restarts", &Scope { cuts: 1, restarts: 1, batch: 1, ..scope.clone() });
    let script = [Pool(Some(1)), Endpoint(0, Some(true)), Pool(None)];
    let two_streams = Scope { script: script.into(), streams: 2, batch: 1, cuts: 1, ..scope };
    holds("2 servers, 2 streams", &two_streams);
    let two_agents = Scope { agents: 2, streams: 1, bookmarks: false, ..two_streams };
    holds("2 servers, 2 agents", &two_agents);
}

/// What an event can't tell: an object that was deleted leaves no version in a list. An agent that
/// learnt of a delete from a server that had just started doesn't see the object again at one that
/// has yet to hear of it; and a stream in which nothing happens keeps it away from no server.
#[test]
fn a_delete_that_only_a_list_told_of_is_not_undone_by_a_server_that_lags() {
    let scope = Scope { replicas: 2, cuts: 2, restarts: 2, strict: true, ..Scope::of([]) };
    let deleted = [Pool(Some(1)), Pool(None)];
    holds("a list", &Scope { script: deleted.into(), ..scope.clone() });
    let quiet = [Pool(Some(1)), Second(Some(1)), Pool(None), Elsewhere];
    let scope = Scope { bookmarks: true, cuts: 1, restarts: 1, ..scope };
    holds("a list, quiet", &Scope { script: quiet.into(), ..scope.clone() });
    let two = [Pool(Some(1)), Endpoint(0, Some(true)), Pool(None)];
    let scope = Scope { script: two.into(), streams: 2, batch: 1, bookmarks: false, ..scope };
    holds("a list, 2 streams", &scope);
}

/// Buckets of a topic are no other than the whole of it.
#[test]
fn a_topic_that_comes_by_its_buckets_is_the_topic() {
    let script = [Pool(Some(0)), Second(Some(0)), Pool(None), Second(Some(1))];
    let scope = Scope { cuts: 1, restarts: 1, buckets_from: 0, ..Scope::of(script) };
    holds("buckets, a server starts", &scope);
    holds("buckets, files", &Scope { saves: 1, crashes: 1, history: 0, ..scope.clone() });
    holds("buckets, changed frames", &Scope { corruptions: 1, ..scope.clone() });
    let scope = Scope { replicas: 2, batch: 2, strict: true, ..scope };
    holds("buckets, 2 servers", &Scope { cuts: 2, restarts: 0, ..scope });
}

#[test]
fn a_store_that_was_restored_takes_everybody_back() {
    let script = [Pool(Some(1)), Endpoint(0, Some(true)), Pool(None)];
    let scope = Scope {
        replicas: 2,
        batch: 1,
        backups: vec![1],
        after_restore: vec![Pool(Some(0))],
        ..Scope::of(script)
    };
    holds("restored, a cut", &Scope { cuts: 1, ..scope.clone() });
    holds("restored, a restart", &Scope { restarts: 1, ..scope.clone() });
    holds("restored, a file", &Scope { crashes: 1, saves: 1, ..scope });
}

#[test]
fn a_frame_that_is_changed_on_its_way_is_noticed_and_healed() {
    let scope = Scope { corruptions: 1, cuts: 1, ..Scope::of(SCRIPT) };
    holds("a changed frame", &scope);
    let script = [Pool(Some(0)), Pool(Some(1)), Pool(None), Pool(Some(1))];
    holds("two changed frames", &Scope { corruptions: 2, cuts: 0, ..Scope::of(script) });
}

/// Every sequence of three events, each with every order of one broken connection and one restart.
#[test]
fn an_agent_follows_whatever_happens() {
    let happenings = [
        Pool(Some(0)),
        Pool(Some(1)),
        Pool(None),
        Endpoint(0, Some(true)),
        Endpoint(0, Some(false)),
        Endpoint(0, None),
        Rules(1),
    ];
    let (mut scopes, mut states) = (0, 0);
    for one in happenings {
        for two in happenings {
            for three in happenings {
                let scope =
                    Scope { cuts: 1, restarts: 1, history: 20, ..Scope::of([one, two, three]) };
                let report = Checker::new(&scope).run();
                check(&format!("{:?}", scope.script), &report);
                scopes += 1;
                states += report.states;
            }
        }
    }
    println!("every sequence: {scopes} sequences, {states} states");
}

/// The hundred and thirty topics that all nodes have make no difference to the search but time.
#[test]
fn a_scope_with_all_common_topics_has_the_same_states() {
    let scope =
        Scope { cuts: 1, restarts: 1, ..Scope::of([Pool(Some(1)), Endpoint(0, Some(true))]) };
    let few = search("few topics", &scope);
    let all = Checker::new(&scope).run();
    check("all topics", &all);
    assert_eq!((few.states, few.quiet, few.steps), (all.states, all.quiet, all.steps));
}

/// Beyond what can be searched whole: more servers, agents and events, and many faults, one way for
/// each seed. `BULRUSH_SEEDS=START..END` goes these ways instead of the first few.
#[test]
fn random_walks_hold_too() {
    let _few = few_common_topics();
    let mut steps = 0;
    for seed in seeds() {
        let scope = walk_scope(seed);
        let report = Checker::new(&scope).walk(seed, 200);
        check(&format!("again: BULRUSH_SEEDS={seed}..{}", seed + 1), &report);
        steps += report.states;
    }
    println!("random walks: {steps} steps");
}

const WALKS: u64 = 150;

fn seeds() -> std::ops::Range<u64> {
    let Ok(given) = std::env::var("BULRUSH_SEEDS") else { return 0..WALKS };
    let range = given
        .split_once("..")
        .and_then(|(start, end)| Some(start.parse().ok()?..end.parse().ok()?));
    range.expect("BULRUSH_SEEDS is START..END, for example 100..200")
}

/// A scope that is too large to be searched, its events chosen by the seed.
fn walk_scope(seed: u64) -> Scope {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut happening = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let high = random >> 33;
        let node = (high >> 8) as usize % 2;
        match high % 10 {
            9 => Second([None, Some(1)][(high >> 16) as usize % 2]),
            0 => Pool(Some(0)),
            1 => Pool(Some(1)),
            2 => Pool(Some(2)),
            3 => Pool(None),
            4 | 5 => Endpoint(node, Some(true)),
            6 => Endpoint(node, Some(false)),
            7 => Endpoint(node, None),
            _ => [Rules(1), Rules(2), Elsewhere][(high >> 16) as usize % 3],
        }
    };
    let script: Vec<_> = (0..16).map(|_| happening()).collect();
    let after_restore = (0..6).map(|_| happening()).collect();
    Scope {
        replicas: 2,
        agents: 2,
        streams: 1 + (seed % 2) as usize,
        after_restore,
        backups: if seed.is_multiple_of(3) { vec![2, 5, 9] } else { Vec::new() },
        batch: 3,
        history: [0, 40, 10_000][(seed % 3) as usize],
        cuts: 20,
        crashes: 6,
        restarts: 4,
        saves: 8,
        corruptions: if seed.is_multiple_of(2) { 4 } else { 0 },
        foreign: seed.is_multiple_of(5),
        bookmarks: true,
        acks: true,
        strict: true,
        buckets_from: if seed.is_multiple_of(4) { 0 } else { usize::MAX },
        ..Scope::of(script)
    }
}

#[test]
fn each_planted_bug_is_found() {
    let mut rows = Vec::new();
    for Row { bug, caught_by, scope } in table::rows() {
        let name = bug.name();
        let guard = match bug {
            Bug::Ours(bug) => Some(bug.plant()),
            Bug::Store(_) => None,
        };
        let report = search(&name, &scope);
        drop(guard);
        let found = report.found.map(|(violation, trace)| {
            println!("{trace}{:?}: {}", violation.invariant, violation.seen);
            violation.invariant
        });
        assert_eq!(found, caught_by, "{name}");
        let caught_by =
            caught_by.map_or("harmless".into(), |by| format!("{by:?}: {}", by.promise()));
        rows.push(format!("| `{name}` | {caught_by} |"));
    }
    let written = include_str!("README.md").lines().filter(|line| line.starts_with("| `"));
    assert_eq!(written.collect::<Vec<_>>(), rows, "README.md has the table of bugs");
}

/// What ships must not be able to have the bugs: no other crate turns them on.
#[test]
fn nothing_but_these_tests_can_plant_a_bug() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let read = |path: &str| std::fs::read_to_string(format!("{root}/{path}")).unwrap();
    let workspace = read("Cargo.toml");
    let (_, members) = workspace.split_once("members = [").unwrap();
    let (members, _) = members.split_once(']').unwrap();
    let members: Vec<&str> = members.split('"').skip(1).step_by(2).collect();
    assert!(members.contains(&"lib/sync") && members.contains(&"cli"), "{members:?}");
    assert!(!workspace.contains("planted"));
    for member in members {
        let manifest = read(&format!("{member}/Cargo.toml"));
        if !["lib/sync", "lib/engine"].contains(&member) {
            assert!(!manifest.contains("planted"), "{member}");
            continue;
        }
        let (ships, tests) = manifest.split_once("[dev-dependencies]").unwrap();
        assert_eq!(ships.matches("planted").count(), 1, "the feature, in no other one");
        assert!(tests.contains(r#"features = ["planted"]"#));
    }
}
