//! What holds for every selector, against a naive evaluator of a naive tree.

#![allow(clippy::unwrap_used, reason = "in a test a panic is a failure with its place")]

use std::collections::BTreeMap;

use bulrush_model::selector::Selector;
use proptest::{collection, prelude::*, sample::select};

/// The oracle's own tree.
#[derive(Clone, Debug)]
enum Expr {
    Const(&'static str),
    Has(&'static str),
    Compare(&'static str, &'static str, &'static str),
    In(&'static str, bool, Vec<&'static str>),
    Not(Box<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
}

type World = BTreeMap<String, String>;

impl Expr {
    fn holds(&self, world: &World) -> bool {
        match self {
            Self::Const(_) => true,
            Self::Has(label) => world.contains_key(*label),
            Self::Compare(label, operator, text) => match (world.get(*label), *operator) {
                (None, operator) => operator == "!=",
                (Some(value), "==") => value == text,
                (Some(value), "!=") => value != text,
                (Some(value), "contains") => value.contains(text),
                (Some(value), "starts with" | "startswith") => value.starts_with(text),
                (Some(value), _) => value.ends_with(text),
            },
            Self::In(label, wanted, values) => {
                let inside =
                    world.get(*label).is_some_and(|value| values.contains(&value.as_str()));
                inside == *wanted
            }
            Self::Not(inner) => !inner.holds(world),
            Self::And(members) => members.iter().all(|member| member.holds(world)),
            Self::Or(members) => members.iter().any(|member| member.holds(world)),
        }
    }

    /// As a person might write it; `blank` goes wherever blanks may be.
    fn text(&self, blank: &str) -> String {
        let joined = |members: &[Self], operator: &str| {
            let members: Vec<_> =
                members.iter().map(|member| format!("({blank}{})", member.text(blank))).collect();
            members.join(&format!("{blank}{operator}{blank}"))
        };
        match self {
            Self::Const(name) => format!("{name}({blank})"),
            Self::Has(label) => format!("has({blank}{label}{blank})"),
            Self::Compare(label, operator, text) => {
                format!("{label} {blank}{operator}{blank}{}", quoted(text))
            }
            Self::In(label, wanted, values) => {
                let values: Vec<_> = values.iter().map(|value| quoted(value)).collect();
                let operator = if *wanted { "in" } else { "not in" };
                let values = values.join(&format!("{blank},{blank}"));
                format!("{label} {operator}{blank}{{{blank}{values}{blank}}}")
            }
            Self::Not(inner) => format!("!{blank}({})", inner.text(blank)),
            Self::And(members) => joined(members, "&&"),
            Self::Or(members) => joined(members, "||"),
        }
    }
}

fn quoted(value: &str) -> String {
    if value.contains('\'') { format!("\"{value}\"") } else { format!("'{value}'") }
}

const LABELS: [&str; 4] = ["a", "in", "k8s-app", "x.y/z"];
const VALUES: [&str; 7] = ["", "a", "ab", "b", "all()", "it's", "q\"q"];
const OPERATORS: [&str; 7] =
    ["==", "!=", "contains", "starts with", "startswith", "ends with", "endswith"];

fn expr() -> impl Strategy<Value = Expr> {
    let leaf = prop_oneof![
        1 => select(vec!["all", "global"]).prop_map(Expr::Const),
        2 => select(&LABELS).prop_map(Expr::Has),
        5 => (select(&LABELS), select(&OPERATORS), select(&VALUES))
            .prop_map(|(label, operator, text)| Expr::Compare(label, operator, text)),
        3 => (select(&LABELS), any::<bool>(), collection::vec(select(&VALUES), 0..4))
            .prop_map(|(label, wanted, values)| Expr::In(label, wanted, values)),
    ];
    leaf.prop_recursive(5, 40, 4, |inner| {
        prop_oneof![
            inner.clone().prop_map(|expr| Expr::Not(Box::new(expr))),
            collection::vec(inner.clone(), 1..4).prop_map(Expr::And),
            collection::vec(inner, 1..4).prop_map(Expr::Or),
        ]
    })
}

fn world() -> impl Strategy<Value = World> {
    collection::btree_map(
        select(&LABELS).prop_map(str::to_owned),
        select(&VALUES).prop_map(str::to_owned),
        0..4,
    )
}

fn parse(text: &str) -> Selector {
    Selector::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_selector_matches_what_the_naive_tree_matches(
        expr in expr(),
        blank in select(vec!["", " ", "\t "]),
        worlds in collection::vec(world(), 1..6),
    ) {
        let selector = parse(&expr.text(blank));
        for world in &worlds {
            prop_assert_eq!(selector.matches(world), expr.holds(world), "{:?}", world);
        }
    }

    #[test]
    fn the_canonical_text_is_a_fixed_point_and_means_the_same(
        expr in expr(),
        worlds in collection::vec(world(), 1..6),
    ) {
        let selector = parse(&expr.text(" "));
        let again = parse(&selector.to_string());
        prop_assert_eq!(again.to_string(), selector.to_string());
        prop_assert_eq!(again.unique_id(), selector.unique_id());
        prop_assert_eq!(again.restrictions(), selector.restrictions());
        for world in &worlds {
            prop_assert_eq!(again.matches(world), selector.matches(world), "{:?}", world);
        }
    }

    #[test]
    fn labels_that_violate_the_restrictions_never_match(
        expr in expr(),
        worlds in collection::vec(world(), 1..6),
    ) {
        let restrictions = parse(&expr.text("")).restrictions();
        for world in &worlds {
            prop_assert!(!expr.holds(world) || Selector::may_match(&restrictions, world));
        }
    }

    #[test]
    fn built_groups_match_what_their_parts_match(
        left in expr(),
        right in expr(),
        world in world(),
    ) {
        let (a, b) = (parse(&left.text(" ")), parse(&right.text(" ")));
        let (x, y) = (left.holds(&world), right.holds(&world));
        for (built, want) in [
            (a.clone().and(b.clone()), x && y),
            (a.clone().or(b.clone()), x || y),
            (a.clone().not(), !x),
            (Selector::all_of([a.clone(), b.clone(), a.clone()]), x && y),
        ] {
            prop_assert_eq!(built.matches(&world), want, "{}", &built);
            prop_assert_eq!(parse(&built.to_string()), built);
        }
    }

    #[test]
    fn renaming_labels_is_matching_renamed_labels(expr in expr(), world in world()) {
        let selector = parse(&expr.text(" "));
        let renamed = selector.map_labels(|label| arcstr::format!("pcns.{label}")).unwrap();
        let renamed_world: World =
            world.iter().map(|(label, value)| (format!("pcns.{label}"), value.clone())).collect();
        prop_assert_eq!(renamed.matches(&renamed_world), selector.matches(&world));
    }

    #[test]
    fn no_text_makes_the_parser_panic(
        text in "([ahs(){}\\[\\]!=&|,'\"\t ]|has\\(|in|not in|ä|\n|contains){0,30}"
    ) {
        if let Ok(selector) = Selector::parse(&text) {
            let canonical = selector.to_string();
            prop_assert_eq!(parse(&canonical).to_string(), canonical);
        }
    }
}
