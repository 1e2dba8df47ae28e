//! Each bug that can be planted in the engine is caught, and by what `README.md` says.

#![cfg(debug_assertions)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a failed test")]

#[path = "../support/mod.rs"]
mod support;

use bulrush_engine::planted::Planted::{self, *};
use support::checks::Check::{self, *};

/// How many worlds a check may take to find a bug.
const SEEDS: u64 = 1_000;

/// What must catch each bug.
const ROWS: &[(Planted, &[Check])] = &[
    (TieBreakFlipped, &[Updates]),
    (TieBreakByNamespace, &[Updates]),
    (NoOrderFirst, &[Updates]),
    (TierOrderForgotten, &[Updates]),
    (MissingTierInOrder, &[Updates]),
    (MissingTierPasses, &[Updates, Verdicts]),
    (DefaultWithoutPolicy, &[Verdicts]),
    (StagedEnforced, &[Updates, Verdicts]),
    (InheritedForgotten, &[Updates, Verdicts]),
    (InheritedWins, &[Updates]),
    (LastProfileWins, &[Updates]),
    (ProfileLabelsStale, &[Updates, Order]),
    (LeftInSets, &[Updates, Order]),
    (MemberNotCounted, &[Updates, Order]),
    (NeedNotCounted, &[Updates, Order]),
    (CoveredShown, &[Updates]),
    (CoveredForgotten, &[Updates, Order]),
    (NetNotHalved, &[Updates]),
    (PortOfAnyProtocol, &[Updates]),
    (FiledUnderOneValue, &[Updates, Order]),
    (UnlimitedForgotten, &[Updates, Order]),
    (BadSelectorSelectsAll, &[Updates, Verdicts]),
    (BadNetsForgotten, &[Updates, Verdicts]),
    (UnknownForgotten, &[Updates, Verdicts]),
    (MissingProfileAllows, &[Updates, Verdicts]),
    (ForwardWithoutFlag, &[Updates]),
    (PreDnatOnEgress, &[Updates]),
    (UntrackedDenies, &[Updates]),
    (OldSetsNeeded, &[Updates, Order]),
    (UidForgotten, &[Updates]),
    (PendingForgotten, &[Updates]),
    (BorrowedForgotten, &[Updates]),
    (HostAddressRouted, &[Updates]),
    (TunnelInBlockRouted, &[Updates]),
    (LastPoolCounts, &[Updates]),
    (MacOfOtherFamily, &[Updates]),
    (PodRangesForgotten, &[Updates]),
    (ServicePortsAtSource, &[Updates]),
    (SliceLeftBehind, &[Updates]),
    (OverrideForAll, &[Updates]),
    (BadPeerForAll, &[Updates]),
    (LogDecides, &[Verdicts]),
    (ProfilePassDenies, &[Verdicts]),
    (OthersServed, &[OneNode]),
    (LateForLabels, &[OneNode]),
];

#[test]
fn each_planted_bug_is_caught() {
    let only = std::env::var("BULRUSH_PLANTED").ok();
    let chosen = |bug: &Planted| only.as_ref().is_none_or(|only| *only == format!("{bug:?}"));
    let mut missed = Vec::new();
    for (bug, checks) in ROWS.iter().filter(|(bug, _)| chosen(bug)) {
        let _guard = bug.plant();
        for check in *checks {
            match (0..SEEDS).find(|seed| check.holds(*seed, 0).is_err()) {
                Some(seed) => println!("{bug:?}: {check:?} at seed {seed}"),
                None => missed.push(format!("{bug:?} by {check:?}")),
            }
        }
    }
    assert!(missed.is_empty(), "not caught: {missed:#?}");
}

#[test]
fn the_table_of_bugs_is_what_is_tried() {
    let name = |check: &Check| match check {
        Updates => "`any_sequence_of_updates_ends_in_what_the_objects_say`",
        Order => "`the_order_of_updates_does_not_matter`",
        OneNode => "`an_engine_for_one_node_says_what_one_for_all_says_to_that_node`",
        Verdicts => "`packets_meet_what_the_objects_say`",
    };
    let rows = ROWS.iter().map(|(bug, checks)| {
        let names = checks.iter().map(name).collect::<Vec<_>>();
        format!("| `{bug:?}` | {} |", names.join(", "))
    });
    let rows = rows.collect::<Vec<_>>();
    let written = include_str!("README.md").lines().filter(|line| line.starts_with("| `"));
    assert_eq!(written.collect::<Vec<_>>(), rows, "README.md has the table:\n{}", rows.join("\n"));

    let source = include_str!("../../src/planted.rs");
    let (_, body) = source.split_once("pub enum Planted {").unwrap();
    let (body, _) = body.split_once("\n}").unwrap();
    let names = body.lines().filter_map(|line| line.trim().strip_suffix(','));
    let tried = ROWS.iter().map(|(bug, _)| format!("{bug:?}")).collect::<Vec<_>>();
    assert_eq!(names.collect::<Vec<_>>(), tried, "all bugs, in the order of the enum");
}

/// What ships must not be able to have the bugs: no other crate turns them on.
#[test]
fn nothing_but_these_tests_can_plant_a_bug() {
    let manifest = include_str!("../../Cargo.toml");
    let (ships, tests) = manifest.split_once("[dev-dependencies]").unwrap();
    assert_eq!(ships.matches("planted").count(), 1, "the feature, in no other one");
    assert!(tests.contains(r#"features = ["planted"]"#));
}
