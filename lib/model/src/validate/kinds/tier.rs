//! `Tier`: the order in which groups of policies are asked.

use serde_json::{Map, Value};

use super::{
    metadata::{CONDITIONS, METADATA},
    no_write_rules, spec_mut,
};
use crate::{
    Kind,
    validate::{
        format::DNS_LABEL,
        schema::{Breach, Check, Field, Literal, Object, Rule, Schema, Type},
    },
};

pub(super) static SCHEMA: Schema = Schema {
    kind: Kind::Tier,
    doc: "A group of policies, and its place among the groups: tiers are asked in order.",
    object: Object {
        fields: &[
            METADATA,
            Field::object("spec", &SPEC).always(),
            Field::object("status", &STATUS),
        ],
        rules: &[Rule {
            says: "a built-in tier keeps its order and its default action",
            cel: &[
                "!(self.metadata.name in ['kube-admin', 'default', 'kube-baseline']) || self.?spec.?order.orValue(0.0) == {'kube-admin': 1000.0, 'default': 1000000.0, 'kube-baseline': 10000000.0}[self.metadata.name] && self.?spec.?defaultAction.orValue('Deny') == (self.metadata.name == 'default' ? 'Deny' : 'Pass')",
            ],
            breach: |tier| {
                let name = tier.child("metadata").text("name");
                let (_, order, action) = BUILT_IN.into_iter().find(|row| row.0 == name)?;
                let spec = tier.child("spec");
                let has_order = spec.get("order").and_then(Value::as_i64) == Some(order);
                if has_order && spec.text("defaultAction") == action {
                    return None;
                }
                let hint = format!("{name} has order {order} and default action {action}");
                Breach::at(if has_order { "spec.defaultAction" } else { "spec.order" }, hint)
            },
        }],
    },
    name: &DNS_LABEL,
    on_write,
    write_rules: no_write_rules,
    on_server: &[],
};

/// Name, order, default action.
const BUILT_IN: [(&str, i64, &str); 3] = [
    ("kube-admin", 1_000, "Pass"),
    ("default", DEFAULT_ORDER, "Deny"),
    ("kube-baseline", 10_000_000, "Pass"),
];
const DEFAULT_ORDER: i64 = 1_000_000;

static SPEC: Object = Object {
    fields: &[
        Field::new("order", Type::Float).doc("Its place among the tiers: less comes first.").absent("on a write 1000000").if_present(),
        Field::text("defaultAction").doc("What becomes of packets of an endpoint that has policies of this tier, when none of their rules decides.")
            .if_present()
            .checks(&[Check::OneOf(&["Pass", "Deny"])])
            .default(Literal::Text("Deny")),
    ],
    rules: &[],
};

static STATUS: Object = Object { fields: &[CONDITIONS], rules: &[] };

fn on_write(object: &mut Map<String, Value>) {
    let spec = spec_mut(object);
    spec.entry("order").or_insert(DEFAULT_ORDER.into());
    spec.entry("defaultAction").or_insert("Deny".into());
}
