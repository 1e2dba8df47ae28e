//! What holds for every object, whatever is in it, and for every description of a kind.

#![allow(clippy::expect_used, reason = "in a test a panic is a failure with its place")]

mod dice;

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
};

use bulrush_model::validate::{
    schema::{Check, Field, Literal, Object, Type},
    schemas, validate,
};
use dice::{Dice, object_of_some_kind};
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};
use serde_json::{Value, json};

#[test]
fn whatever_is_given_gets_a_verdict_and_what_is_stored_stays_as_it_is() {
    let stored = Cell::new(BTreeMap::<String, usize>::new());
    let refused = Cell::new(0);
    let mut runner = TestRunner::new(ProptestConfig { cases: 6_000, ..Default::default() });
    let outcome = runner.run(&vec(any::<u8>(), 0..300), |bytes| {
        let mut dice = Dice::new(&bytes);
        let object = object_of_some_kind(&mut dice);
        let old = (dice.below(4) == 3).then(|| object_of_some_kind(&mut dice));
        let verdict = validate(&object, old.as_ref());
        let is_fine = verdict.valid && verdict.defaulted.is_some();
        prop_assert_eq!(is_fine, verdict.errors.is_empty(), "{:?}", verdict);
        let Some(first) = verdict.defaulted else {
            refused.set(refused.get() + 1);
            return Ok(());
        };
        let again = validate(&first, Some(&first));
        prop_assert_eq!(again.errors, []);
        prop_assert_eq!(again.unknown_fields, Vec::<String>::new());
        prop_assert!(again.valid);
        prop_assert_eq!(again.defaulted.as_ref(), Some(&first));
        let mut counts = stored.take();
        *counts.entry(first["kind"].to_string()).or_default() += 1;
        stored.set(counts);
        Ok(())
    });
    let stored = stored.into_inner();
    println!("{} refused; stored: {stored:?}", refused.get());
    outcome.expect("every object");
    assert_eq!(stored.len(), schemas().count(), "objects of all kinds are stored: {stored:?}");
}

proptest! {
    #[test]
    fn a_field_that_the_kind_does_not_have_is_named_and_changes_nothing(
        bytes in vec(any::<u8>(), 0..300),
    ) {
        let mut dice = Dice::new(&bytes);
        let object = object_of_some_kind(&mut dice);
        let mut with_more = object.clone();
        let place = match with_more.get_mut("spec") {
            Some(Value::Object(spec)) => spec,
            _ => with_more.as_object_mut().expect("an object"),
        };
        place.insert("nobodyKnowsThis".to_owned(), dice.odd());
        let mut verdict = validate(&with_more, None);
        let count = verdict.unknown_fields.len();
        verdict.unknown_fields.retain(|field| !field.ends_with("nobodyKnowsThis"));
        prop_assert_eq!(verdict.unknown_fields.len(), count - 1);
        prop_assert_eq!(verdict, validate(&object, None));
    }

    #[test]
    fn json_that_is_no_object_of_a_kind_is_refused(bytes in vec(any::<u8>(), 0..4)) {
        let mut dice = Dice::new(&bytes);
        let verdict = validate(&dice.odd(), Some(&dice.odd()));
        prop_assert!(!verdict.valid && verdict.defaulted.is_none());
        prop_assert!(!verdict.errors.is_empty());
    }
}

/// All objects below one, each with its path.
fn objects(path: String, object: &'static Object, found: &mut Vec<(String, &'static Object)>) {
    for field in object.fields {
        let mut shape = &field.shape;
        while let Type::List(inner) | Type::Map(inner) = shape.ty {
            shape = inner;
        }
        if let Type::Object(inner) = shape.ty {
            objects(format!("{path}.{}", field.name), inner, found);
        }
    }
    found.push((path, object));
}

fn fields() -> impl Iterator<Item = (String, &'static Field)> {
    let mut all = Vec::new();
    for schema in schemas() {
        objects(schema.kind.name().to_owned(), &schema.object, &mut all);
    }
    all.into_iter().flat_map(|(path, object)| {
        object.fields.iter().map(move |field| (format!("{path}.{}", field.name), field))
    })
}

#[test]
fn kinds_and_their_fields_are_described_once() {
    let mut seen = BTreeSet::new();
    for schema in schemas() {
        assert!(seen.insert(schema.kind.name().to_owned()), "{} twice", schema.kind);
    }
    for (path, _) in fields() {
        assert!(seen.insert(path.clone()), "{path} twice");
    }
}

#[test]
fn a_port_of_a_staged_kubernetes_policy_is_read_as_text() {
    let fine = [
        json!({"port": 0}),
        json!({"port": 65535}),
        json!({"port": "80"}),
        json!({"port": "80:90"}),
        // The name "-1".
        json!({"port": -1}),
        json!({"port": 80, "endPort": 80}),
        json!({"port": "80", "endPort": 90}),
        json!({"endPort": -5}),
    ];
    let wrong = [
        json!({"port": 65536}),
        json!({"port": "65536"}),
        json!({"port": "90:80"}),
        json!({"port": ""}),
        json!({"port": "a b"}),
        json!({"port": 80, "endPort": 79}),
        json!({"port": 80, "endPort": 65536}),
        json!({"port": "http", "endPort": 90}),
        json!({"port": -1, "endPort": 90}),
        json!({"port": "80:90", "endPort": 95}),
    ];
    let all = fine.iter().map(|it| (it, true)).chain(wrong.iter().map(|it| (it, false)));
    for (port, is_fine) in all {
        let policy = json!({
            "apiVersion": "projectcalico.org/v3",
            "kind": "StagedKubernetesNetworkPolicy",
            "metadata": {"name": "p", "namespace": "n"},
            "spec": {"podSelector": {}, "ingress": [{"ports": [port]}]},
        });
        let verdict = validate(&policy, None);
        assert_eq!(verdict.valid, is_fine, "{port}: {:?}", verdict.errors);
    }
}

#[test]
fn patterns_compile_and_defaults_pass_the_checks_of_their_fields() {
    for (path, field) in fields() {
        let default = match field.default {
            Some(Literal::Text(text)) => Some(Value::from(text)),
            Some(Literal::Int(number)) => Some(number.into()),
            Some(Literal::Bool(value)) => Some(value.into()),
            None => None,
        };
        let mut shape = &field.shape;
        loop {
            for check in shape.checks {
                match (check, &default) {
                    (Check::Pattern(pattern), default) => {
                        assert!(pattern.compiles(), "{path}: {}", pattern.text);
                        let text = default.as_ref().and_then(Value::as_str);
                        assert!(text.is_none_or(|text| pattern.matches(text)), "{path}");
                    }
                    (Check::OneOf(choices), Some(Value::String(text))) => {
                        assert!(choices.contains(&text.as_str()), "{path}: {text}");
                    }
                    (Check::Range(min, max), Some(Value::Number(number))) => {
                        let number = number.as_i64().expect("a whole number");
                        assert!((*min..=*max).contains(&number), "{path}: {number}");
                    }
                    _ => {}
                }
            }
            let (Type::List(inner) | Type::Map(inner)) = shape.ty else { break };
            shape = inner;
        }
    }
}
