//! A model checker for the protocol: the shipped publisher and sessions, in every order of events and
//! faults that fits a scope.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod agent;
mod invariants;
mod replica;
mod scope;
mod search;
mod store;
mod table;

use std::time::Instant;

use bulrush_sync::planted::few_common_topics;
use scope::Scope;
use search::{Checker, Report};
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
    let report = search(name, scope);
    if let Some((violation, trace)) = report.found {
        let (invariant, seen) = (violation.invariant, violation.seen);
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
    let base = Scope { agents: 2, history: 40, faults: 2, ..Scope::of(SCRIPT) };
    let f = std::env::var("F").unwrap().parse().unwrap();
    holds(
        "2 agent, all",
        &Scope { faults: f, cuts: 2, crashes: 1, restarts: 1, ..base.clone() },
    );
}

#[test]
fn agents_move_between_servers_that_lag() {
    let script = [Pool(Some(1)), Endpoint(0, Some(true)), Elsewhere, Pool(None)];
    let base = Scope { replicas: 2, batch: 1, bookmarks: true, ..Scope::of(script) };
    holds("2 replicas, cuts", &Scope { cuts: 1, strict: true, ..base.clone() });
    holds("2 replicas, cuts", &Scope { cuts: 2, strict: true, ..base.clone() });
    holds("2 replicas, cuts, 2 streams", &Scope { cuts: 1, streams: 2, ..base.clone() });
    holds("2 replicas, restarts, cuts", &Scope { cuts: 1, restarts: 1, ..base.clone() });
}

#[test]
fn a_store_that_was_restored_takes_everybody_back() {
    let base = Scope {
        replicas: 2,
        batch: 1,
        backups: vec![1],
        after_restore: vec![Pool(Some(0))],
        ..Scope::of([Pool(Some(1)), Endpoint(0, Some(true)), Pool(None)])
    };
    holds("restore", &Scope { cuts: 0, ..base.clone() });
    holds("restore", &Scope { cuts: 1, ..base.clone() });
    holds(
        "restore, restarts",
        &Scope { cuts: 0, restarts: 1, crashes: 0, saves: 0, ..base.clone() },
    );
}

#[test]
fn each_planted_bug_is_found() {
    let mut lines = Vec::new();
    for Row { bug, caught_by, scope } in table::rows() {
        let name = bug.name();
        let guard = match bug {
            Bug::Ours(bug) => Some(bug.plant()),
            Bug::Store(_) => None,
        };
        let report = search(&name, &scope);
        drop(guard);
        let found = report.found.as_ref();
        if let Some((violation, trace)) = found {
            println!("{trace}{:?}: {}", violation.invariant, violation.seen);
        }
        let found = found.map(|(violation, _)| violation.invariant);
        if found != caught_by {
            lines.push(format!("{name}: {found:?} not {caught_by:?}"));
        }
    }
    assert!(lines.is_empty(), "{lines:#?}");
}
