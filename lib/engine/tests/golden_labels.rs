//! How Calico combines selectors, namespaces and service accounts, held against ours.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a failed test")]

#[path = "support/golden.rs"]
mod golden;

use std::collections::BTreeMap;

use bulrush_engine::scope;
use model::{
    Key, Kind, Stored,
    kinds::{Invalid, Policy, Profile, Rule, Spec, decode},
    selector::Selector,
};
use serde_json::Value;

/// Selectors of a policy or profile by Calico's names of their places.
type Selectors = BTreeMap<String, Result<Option<Selector>, Invalid>>;

#[test]
fn selectors_are_combined_as_in_calico() {
    let Some(folder) = golden::folder() else { return };
    let text = std::fs::read_to_string(folder.join("labels.jsonl")).unwrap();
    let (mut agreed, mut quoted, mut unreadable, mut wrong) = (0, 0, 0, Vec::new());
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let id = case["id"].as_str().unwrap();
        if case["delete"] == true || !case["error"].is_null() {
            continue;
        }
        let Some(selectors) = ours(&case) else { continue };
        let outputs = case["output"].as_array().into_iter().flatten();
        let theirs = outputs.filter_map(|output| output["selectors"].as_object()).flatten();
        let theirs = theirs.collect::<BTreeMap<_, _>>();
        let mut places = theirs.keys().map(|place| place.as_str()).collect::<Vec<_>>();
        let written = selectors.iter().filter(|(_, selector)| !matches!(selector, Ok(None)));
        places.extend(written.map(|(place, _)| place.as_str()));
        places.sort_unstable();
        places.dedup();
        for place in places {
            let ours = selectors.get(place).unwrap_or(&Ok(None));
            let theirs = theirs.get(&place.to_owned()).copied().unwrap_or(&Value::Null);
            match (ours, &theirs["unique_id"]) {
                (Ok(Some(selector)), Value::String(id)) if selector.unique_id() == *id => {
                    agreed += 1;
                }
                (Ok(Some(selector)), _) if breaks_quotes(selector, theirs) => quoted += 1,
                // Nothing selects all in a policy; in a rule there is no such condition.
                (Ok(Some(selector)), Value::Null) if place == "selector" && selector.is_all() => {
                    agreed += 1;
                }
                // Calico leaves out what doesn't parse, if it gets that far.
                (Err(_), _) => unreadable += 1,
                (ours, theirs) => wrong.push(format!("{id} {place}: ours {ours:?}, {theirs}")),
            }
        }
    }
    println!(
        "labels: {agreed} agree, {quoted} differ because Calico works on text in quotes, \
         {unreadable} because it leaves out selectors that don't parse, {} wrong",
        wrong.len()
    );
    for text in &wrong {
        println!("{text}");
    }
    assert!(wrong.is_empty(), "{} disagreements", wrong.len());
    assert!(agreed > 500 && quoted > 0 && unreadable > 0, "the cases are there");
}

/// Whether Calico's work on text has hit a value: it replaced `all()` or `global()` in it, or it
/// dropped a condition because of a quote in a value.
fn breaks_quotes(ours: &Selector, theirs: &Value) -> bool {
    let canonical = theirs["canonical"].as_str().unwrap_or("");
    let replaced = ["\"has(projectcalico.org/", "\"!has(projectcalico.org/"];
    let ours = ours.to_string();
    replaced.iter().any(|text| canonical.contains(text) && !ours.contains(text))
        || ours.contains("it's") && !canonical.contains("it's")
}

fn ours(case: &Value) -> Option<Selectors> {
    let kind = case["kind"].as_str().unwrap().parse::<Kind>().unwrap();
    let text = |field: &str| case["input"]["metadata"][field].as_str().unwrap_or("").to_owned();
    let key = Key { kind, namespace: text("namespace").into(), name: text("name").into() };
    let stored = Stored::Json(case["input"].clone());
    let mut selectors = Selectors::new();
    match decode(&key, &stored).ok()?.spec {
        Spec::NetworkPolicy(policy) => of_policy(&mut selectors, Some(&key.namespace), &policy),
        Spec::GlobalNetworkPolicy(policy) => of_policy(&mut selectors, None, &policy),
        Spec::Profile(Profile { ingress, egress, .. }) => {
            of_rules(&mut selectors, None, "inbound_rules", &ingress);
            of_rules(&mut selectors, None, "outbound_rules", &egress);
        }
        _ => return None,
    }
    Some(selectors)
}

fn of_policy(selectors: &mut Selectors, namespace: Option<&str>, policy: &Policy) {
    selectors.insert("selector".to_owned(), scope::policy(namespace, policy).map(Some));
    of_rules(selectors, namespace, "inbound_rules", &policy.ingress);
    of_rules(selectors, namespace, "outbound_rules", &policy.egress);
}

fn of_rules(selectors: &mut Selectors, namespace: Option<&str>, list: &str, rules: &[Rule]) {
    for (index, rule) in rules.iter().enumerate() {
        for (side, conditions) in [("src", &rule.source), ("dst", &rule.destination)] {
            let scope = scope::peer(namespace, conditions, "");
            let place = format!("{list}[{index}]");
            selectors.insert(format!("{place}.{side}_selector"), scope.positive);
            selectors.insert(format!("{place}.!{side}_selector"), scope.negative);
        }
    }
}
