//! `StagedKubernetesNetworkPolicy`: a Kubernetes `NetworkPolicy` that is looked at and not
//! enforced.

use serde_json::Value;

use super::{
    metadata::METADATA,
    no_write_rules, nothing,
    policy::STATUS,
    staged::{DELETE_ALONE, STAGED_ACTION},
};
use crate::{
    Kind,
    validate::{
        format::NAME,
        notation,
        schema::{
            Breach, Check, Field, INT32, Object, Rule, Schema, Scope, Shape, TEXT, TEXTS, Type,
        },
    },
};

pub(super) static SCHEMA: Schema = Schema {
    kind: Kind::StagedKubernetesNetworkPolicy,
    object: Object {
        fields: &[METADATA, Field::object("spec", &SPEC).always(), STATUS],
        rules: &[],
    },
    name: &NAME,
    on_write: nothing,
    write_rules: no_write_rules,
};

static SPEC: Object = Object {
    fields: &[
        STAGED_ACTION,
        Field::object("podSelector", &LABEL_SELECTOR).always(),
        Field::list("ingress", &Shape::of(Type::Object(&INGRESS))),
        Field::list("egress", &Shape::of(Type::Object(&EGRESS))),
        Field::new("policyTypes", TEXTS).checks(&[Check::MaxItems(2)]),
    ],
    rules: &[DELETE_ALONE],
};

static INGRESS: Object = Object { fields: &[PORTS, Field::list("from", &PEER)], rules: &[] };
static EGRESS: Object = Object { fields: &[PORTS, Field::list("to", &PEER)], rules: &[] };

static PEER: Shape = Shape::of(Type::Object(&PEER_OBJECT));
static PEER_OBJECT: Object = Object {
    fields: &[
        Field::object("podSelector", &LABEL_SELECTOR).if_present(),
        Field::object("namespaceSelector", &LABEL_SELECTOR).if_present(),
        Field::object("ipBlock", &IP_BLOCK).if_present(),
    ],
    rules: &[],
};

static IP_BLOCK: Object =
    Object { fields: &[Field::text("cidr").always(), Field::new("except", TEXTS)], rules: &[] };

static LABEL_SELECTOR: Object = Object {
    fields: &[
        Field::new("matchLabels", Type::Map(&TEXT)),
        Field::list("matchExpressions", &Shape::of(Type::Object(&EXPRESSION))),
    ],
    rules: &[],
};

static EXPRESSION: Object = Object {
    fields: &[
        Field::text("key").always(),
        Field::text("operator").always(),
        Field::new("values", TEXTS),
    ],
    rules: &[],
};

const PORTS: Field = Field::list("ports", &PORT_SHAPE);
static PORT_SHAPE: Shape = Shape::of(Type::Object(&PORT));

static PORT: Object = Object {
    fields: &[
        Field::text("protocol").if_present(),
        Field::new("port", Type::IntOrText).if_present(),
        Field::new("endPort", INT32).if_present(),
    ],
    rules: &[Rule {
        says: "a port is a number from 0 to 65535 or a name, and endPort the end of a range of numbers",
        breach: |port| if translates(port) { None } else { Breach::at("port", "") },
    }],
};

/// Whether the port can be one of a Calico policy; see the traps of the golden cases on how it is
/// read there: as text first.
fn translates(port: &Scope<'_>) -> bool {
    let Some(from) = port.get("port") else { return true };
    let text = match (from, port.get("endPort")) {
        (Value::String(_), Some(_)) => return false,
        (Value::String(text), None) => text.clone(),
        (from, None) => from.to_string(),
        (from, Some(to)) => format!("{from}:{to}"),
    };
    notation::port(&text).is_ok()
}
