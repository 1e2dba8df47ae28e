//! Policies that are looked at and not enforced: `StagedNetworkPolicy`,
//! `StagedGlobalNetworkPolicy`.

use serde_json::{Map, Value};

use super::{
    metadata::METADATA,
    no_write_rules,
    policy::{
        EGRESS, FLAGS, GLOBAL_RULES, HINTS, INGRESS, NAMESPACES, NO_GLOBAL, ORDER, POLICY_SELECTOR,
        SERVICE_ACCOUNTS, SERVICES, STATUS, TIER, TYPES, derive_types, label_with_tier,
    },
    spec_mut,
};
use crate::{
    Kind,
    validate::{
        format::{GLOBAL_POLICY_NAME, POLICY_NAME},
        schema::{Breach, Check, Field, Literal, Object, Rule, Schema, Scope},
    },
};

pub(super) static NETWORK_POLICY: Schema = Schema {
    kind: Kind::StagedNetworkPolicy,
    doc: "A NetworkPolicy that is looked at and not enforced.",
    object: Object {
        fields: &[METADATA, Field::object("spec", &SPEC).always(), STATUS],
        rules: &[],
    },
    name: &POLICY_NAME,
    on_write,
    write_rules: no_write_rules,
    on_server: &[],
};

pub(super) static GLOBAL_NETWORK_POLICY: Schema = Schema {
    kind: Kind::StagedGlobalNetworkPolicy,
    doc: "A GlobalNetworkPolicy that is looked at and not enforced.",
    object: Object {
        fields: &[METADATA, Field::object("spec", &GLOBAL_SPEC).always(), STATUS],
        rules: &[],
    },
    name: &GLOBAL_POLICY_NAME,
    on_write,
    write_rules: no_write_rules,
    on_server: &[],
};

pub(super) const STAGED_ACTION: Field =
    Field::text("stagedAction").doc("What the policy would do: be written (`Set`), take the policy of its name away (`Delete`), or nothing (`Learn`, `Ignore`).").checks(&STAGED_ACTIONS).default(Literal::Text("Set"));
static STAGED_ACTIONS: [Check; 1] = [Check::OneOf(&["Set", "Delete", "Learn", "Ignore"])];

static SPEC: Object = Object {
    fields: &[
        STAGED_ACTION,
        TIER,
        ORDER,
        INGRESS,
        EGRESS,
        POLICY_SELECTOR,
        TYPES,
        SERVICE_ACCOUNTS,
        HINTS,
    ],
    rules: &[
        NO_GLOBAL,
        SERVICES,
        delete_alone(&[
            "self.?stagedAction.orValue('') != 'Delete' || !has(self.order) && !has(self.ingress) && !has(self.egress) && !has(self.types) && !has(self.performanceHints) && [self.?selector, self.?serviceAccountSelector].all(text, text.orValue('') == '')",
        ]),
    ],
};

static GLOBAL_SPEC: Object = Object {
    fields: &[
        STAGED_ACTION,
        TIER,
        ORDER,
        INGRESS,
        EGRESS,
        POLICY_SELECTOR,
        TYPES,
        FLAGS[0],
        FLAGS[1],
        FLAGS[2],
        SERVICE_ACCOUNTS,
        NAMESPACES,
        HINTS,
    ],
    rules: &[
        GLOBAL_RULES[0],
        GLOBAL_RULES[1],
        GLOBAL_RULES[2],
        GLOBAL_RULES[3],
        GLOBAL_RULES[4],
        GLOBAL_RULES[5],
        delete_alone(&[
            "self.?stagedAction.orValue('') != 'Delete' || !has(self.order) && !has(self.ingress) && !has(self.egress) && !has(self.types) && !has(self.performanceHints) && [self.?selector, self.?serviceAccountSelector, self.?namespaceSelector].all(text, text.orValue('') == '') && ![self.?doNotTrack, self.?preDNAT, self.?applyOnForward].exists(flag, flag.orValue(false))",
        ]),
    ],
};

/// A list that is given counts even without items. The CEL names the fields that the kind has.
pub(super) const fn delete_alone(cel: &'static [&'static str]) -> Rule {
    Rule {
        says: "a deletion says nothing but its tier",
        cel,
        breach: |spec| {
            if spec.text("stagedAction") != "Delete" {
                return None;
            }
            let read = Scope { fields: spec.read, read: spec.read }.child("spec").fields;
            let (field, _) = read.iter().find(|(field, value)| {
                !["stagedAction", "tier"].contains(&field.as_str()) && is_set(value)
            })?;
            Breach::at(field.as_str(), "leave it out")
        },
    }
}

fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(value) => *value,
        Value::String(text) => !text.is_empty(),
        Value::Number(_) | Value::Array(_) => true,
        Value::Object(fields) => fields.values().any(is_set),
    }
}

fn on_write(object: &mut Map<String, Value>) {
    let spec = spec_mut(object);
    if spec.get("stagedAction").and_then(Value::as_str) == Some("Delete") {
        spec.remove("types");
    } else {
        derive_types(spec);
    }
    label_with_tier(object);
}
