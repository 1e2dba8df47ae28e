use std::collections::BTreeMap;

use super::*;

fn parse(text: &str) -> Selector {
    Selector::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

#[test]
fn empty_text_is_all_and_has_calicos_id() {
    for text in ["", " ", "\t ", "all()", " all(\t ) "] {
        assert!(parse(text).is_all(), "{text:?}");
        assert_eq!(parse(text).unique_id(), "s:5y5I3VdRZfDU01O--xXAPx2yxCQQqMf0M6IWug");
    }
}

#[test]
fn missing_labels_match_only_the_negative_operators() {
    let none: BTreeMap<String, String> = BTreeMap::new();
    for text in ["a == 'x'", "a in {'x'}", "a contains ''", "a starts with ''", "has(a)"] {
        assert!(!parse(text).matches(&none), "{text}");
    }
    for text in ["a != 'x'", "a not in {'x'}", "all()", "global()", "!has(a)"] {
        assert!(parse(text).matches(&none), "{text}");
    }
}

#[test]
fn an_error_says_where_what_and_how_to_mend_it() {
    for (text, message) in [
        (
            "app = 'web'",
            "at byte 4: expected ==, !=, in, not in, contains, starts with or ends with after the label, found \"= 'web'\" (write == with two characters)",
        ),
        (
            "app == web",
            "at byte 7: expected a value in ' or \", found \"web\" (values are quoted: app == 'web')",
        ),
        (
            "a == 'b' and has(c)",
            "at byte 9: expected &&, || or the end, found \"and has(c)\" (write &&)",
        ),
        ("(has(a)", "at byte 7: expected &&, || or ), found the end (a ( is not closed)"),
        (
            "has(a))",
            "at byte 6: expected &&, || or the end, found \")\" (this ) has no ( before it)",
        ),
        (
            "has (a)",
            "at byte 4: expected ==, !=, in, not in, contains, starts with or ends with after the label, found \"(a)\" (no space before the parenthesis: has(app), all(), global())",
        ),
        (
            "a",
            "at byte 1: expected ==, !=, in, not in, contains, starts with or ends with after the label, found the end (to ask whether a label is there, write has(label))",
        ),
        (
            "a in {'x' 'y'}",
            "at byte 10: expected , or }, found \"'y'}\" (values are separated by commas)",
        ),
        (
            "a == 'it''s'",
            "at byte 9: expected &&, || or the end, found \"'s'\" (a value ends at the next quote of its kind: there are no escapes)",
        ),
        (
            "a == 'b' &&\n has(c)",
            "at byte 11: expected a label, has(label), all(), global(), ! or (, found \"\\n has(c)\" (only spaces and tabs may separate words)",
        ),
    ] {
        assert_eq!(Selector::parse(text).unwrap_err().to_string(), message, "{text:?}");
    }
}

#[test]
fn what_cannot_be_written_cannot_be_built() {
    let long = "x".repeat(MAX_LABEL_LEN + 1);
    for label in ["", "a b", "a) || has(b", "ä", &long] {
        assert_eq!(Selector::has(label), Err(Unwritable::Label(label.into())));
    }
    for value in ["it's \"x\"", "' && b == \""] {
        assert_eq!(Selector::eq("a", value), Err(Unwritable::Value(value.into())));
        assert_eq!(Selector::in_set("a", ["ok", value]), Err(Unwritable::Value(value.into())));
    }
    let longest = parse(&format!("has({})", &long[1..]));
    assert!(longest.map_labels(|label| arcstr::format!("pcns.{label}")).is_err());
}

#[test]
fn built_selectors_are_the_parsed_ones() {
    let built = Selector::eq("a", "x")
        .unwrap()
        .and(Selector::has("b").unwrap().not())
        .or(Selector::in_set("c", ["z", "y", "z"]).unwrap())
        .or(Selector::not_in_set("d", [""; 0]).unwrap());
    assert_eq!(built.to_string(), r#"(((a == "x" && !has(b)) || c in {"y", "z"}) || d not in {})"#);
    assert_eq!(built, parse(&built.to_string()));
    assert_eq!(Selector::all_of([]), Selector::all());
    assert!(!Selector::any_of([]).matches(&[("a", "x")]));
    assert_eq!(Selector::any_of([built.clone()]), built);
}

#[test]
fn double_negation_cancels_through_parentheses() {
    assert_eq!(parse("!(!has(a))"), parse("has(a)"));
    assert_eq!(parse("!(!(!(!(!all()))))").to_string(), "!all()");
    // Also when it arises by replacing.
    let absent = parse("!has(ns)");
    assert_eq!(parse("a == 'x' && !global()").replace_global(&absent), parse("a=='x' && has(ns)"));
}

#[test]
fn rewriting_leaves_text_in_quotes_alone() {
    let text = "a == 'all()' && (all() || !global() || b in {'global()', 'a'})";
    let got = parse(text)
        .map_labels(|label| arcstr::format!("pcns.{label}"))
        .unwrap()
        .replace_all(&parse("has(ns)"))
        .replace_global(&parse("!has(ns)"));
    let want = "pcns.a == 'all()' && (has(ns) || has(ns) || pcns.b in {'global()', 'a'})";
    assert_eq!(got, parse(want));
    // What it doesn't concern is shared, not copied.
    let untouched = parse("has(a) && has(b)");
    assert!(Arc::ptr_eq(&untouched.0, &untouched.replace_all(&absent_ns()).0));
}

fn absent_ns() -> Selector {
    parse("!has(ns)")
}

/// A test thread has 2 MiB of stack; a hundred thousand levels need more in any recursive walk.
#[test]
fn no_depth_exhausts_the_stack() {
    const DEPTH: usize = 100_000;
    for text in [
        format!("{}has(a){}", "(".repeat(DEPTH), ")".repeat(DEPTH)),
        format!("{}has(a)", "!".repeat(DEPTH)),
        format!("{}has(a){}", "!(".repeat(DEPTH), ")".repeat(DEPTH)),
        format!("{}has(a){}", "!(all() && ".repeat(DEPTH), ")".repeat(DEPTH)),
        format!("{}has(a){}", "(has(b) || ".repeat(DEPTH), ")".repeat(DEPTH)),
    ] {
        let selector = parse(&text);
        let canonical = selector.to_string();
        assert_eq!(parse(&canonical).to_string(), canonical);
        assert!(selector.matches(&[("a", "")]), "{}", &text[..20]);
        let renamed = selector.map_labels(|label| arcstr::format!("x.{label}")).unwrap();
        assert!(!renamed.matches(&[("a", "")]));
        assert!(renamed.matches(&[("x.a", "")]));
        drop(selector.restrictions());
        drop((selector, renamed));
    }
    assert!(Selector::parse(&"(".repeat(DEPTH)).is_err());
    assert!(Selector::parse(&"!".repeat(DEPTH)).is_err());
}

#[test]
fn a_contradiction_is_restricted_to_nothing() {
    let contradiction = parse("!has(a) && a == 'x'").restrictions();
    for labels in [&[("a", "x")][..], &[]] {
        assert!(!Selector::may_match(&contradiction, labels));
    }
}
