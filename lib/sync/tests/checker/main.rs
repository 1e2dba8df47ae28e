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

use scope::Scope;
use search::{Checker, Report};
use store::Happening::*;

/// Searches a scope, and says what it took.
fn search(name: &str, scope: &Scope) -> Report {
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
