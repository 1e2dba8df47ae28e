//! A model checker for the protocol: the shipped publisher and sessions, in every order of events and
//! faults that fits a scope.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod agent;
mod invariants;
mod replica;
mod scope;
mod search;
mod store;

use std::time::Instant;

use bulrush_sync::planted::few_common_topics;
use scope::Scope;
use search::{Checker, Report};
use store::Happening::{self, *};

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
    let base = Scope { agents: 1, ..Scope::of(SCRIPT) };
    holds("1 agent, all", &Scope { cuts: 1, crashes: 1, restarts: 1, saves: 1, ..base.clone() });
    holds(
        "1 agent, all, acks",
        &Scope { cuts: 1, crashes: 1, restarts: 1, saves: 1, acks: true, ..base.clone() },
    );
    let base = Scope { agents: 2, ..Scope::of(SCRIPT) };
    holds("2 agent, crash", &Scope { crashes: 1, ..base.clone() });
    holds("2 agent, 1 cut, restart", &Scope { cuts: 1, restarts: 1, ..base.clone() });
}
