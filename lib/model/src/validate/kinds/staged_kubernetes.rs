//! `StagedKubernetesNetworkPolicy`: a Kubernetes `NetworkPolicy` that is looked at and not
//! enforced.

use std::borrow::Cow;

use serde_json::Value;

use super::{
    metadata::METADATA,
    no_write_rules, nothing,
    policy::STATUS,
    staged::{STAGED_ACTION, delete_alone},
};
use crate::{
    Kind,
    validate::{
        format::NAME,
        notation,
        schema::{
            Breach, Check, Field, Format, INT32, Object, Rule, Schema, Scope, Server, Shape, TEXT,
            TEXTS, Type,
        },
    },
};

pub(super) static SCHEMA: Schema = Schema {
    kind: Kind::StagedKubernetesNetworkPolicy,
    doc: "A NetworkPolicy of Kubernetes that is looked at and not enforced.",
    object: Object {
        fields: &[METADATA, Field::object("spec", &SPEC).always(), STATUS],
        rules: &[],
    },
    name: &NAME,
    on_write: nothing,
    write_rules: no_write_rules,
    on_server: &[],
};

static SPEC: Object = Object {
    fields: &[
        STAGED_ACTION,
        Field::object("podSelector", &LABEL_SELECTOR)
            .doc("Selects by labels the pods that it applies to.")
            .always(),
        Field::list("ingress", &Shape::of(Type::Object(&INGRESS))).doc("What may come in."),
        Field::list("egress", &Shape::of(Type::Object(&EGRESS))).doc("What may go out."),
        Field::new("policyTypes", TEXTS)
            .doc("The directions that it acts on.")
            .checks(&[Check::MaxItems(2)]),
    ],
    rules: &[delete_alone(&[
        "self.?stagedAction.orValue('') != 'Delete' || !has(self.ingress) && !has(self.egress) && !has(self.policyTypes) && !self.?podSelector.?matchExpressions.hasValue()",
    ])],
};

static INGRESS: Object = Object {
    fields: &[PORTS, Field::list("from", &PEER).doc("From where.").absent("from everywhere")],
    rules: &[],
};
static EGRESS: Object = Object {
    fields: &[PORTS, Field::list("to", &PEER).doc("Where to.").absent("everywhere")],
    rules: &[],
};

static PEER: Shape = Shape::of(Type::Object(&PEER_OBJECT));
static PEER_OBJECT: Object = Object {
    fields: &[
        Field::object("podSelector", &LABEL_SELECTOR).doc("Selects pods by labels.").if_present(),
        Field::object("namespaceSelector", &LABEL_SELECTOR)
            .doc("Selects namespaces by labels.")
            .absent("the policy's own namespace")
            .if_present(),
        Field::object("ipBlock", &IP_BLOCK).doc("A network.").if_present(),
    ],
    rules: &[],
};

static IP_BLOCK: Object = Object {
    fields: &[
        Field::text("cidr").doc("The network.").always(),
        Field::new("except", TEXTS).doc("Networks in it that are left out."),
    ],
    rules: &[],
};

static LABEL_SELECTOR: Object = Object {
    fields: &[
        Field::new("matchLabels", Type::Map(&TEXT)).doc("Labels that are there with these values."),
        Field::list("matchExpressions", &Shape::of(Type::Object(&EXPRESSION)))
            .doc("Requirements that all hold."),
    ],
    rules: &[],
};

static EXPRESSION: Object = Object {
    fields: &[
        Field::text("key").doc("The label.").always(),
        Field::text("operator").doc("In, NotIn, Exists or DoesNotExist.").always(),
        Field::new("values", TEXTS).doc("The values, for In and NotIn."),
    ],
    rules: &[],
};

const PORTS: Field = Field::list("ports", &PORT_SHAPE).doc("On which ports.").absent("on all");
static PORT_SHAPE: Shape = Shape::of(Type::Object(&PORT));

static PORT: Object = Object {
    fields: &[
        Field::text("protocol").doc("TCP, UDP or SCTP.").absent("TCP").if_present(),
        Field::new("port", Type::IntOrText)
            .doc("The port, by number or by name.")
            .absent("all")
            .if_present()
            .checks(&[Check::Is(&PORT_TEXT)]),
        Field::new("endPort", INT32).doc("The end of a range that `port` begins.").if_present(),
    ],
    rules: &[Rule {
        says: "endPort is the end of a range of numbers that port begins",
        // A text may be a number too, and to say so costs more than an API server lets a rule cost.
        cel: &[],
        breach: |port| if is_range(port) { None } else { Breach::at("endPort", "") },
    }],
};

/// Calico reads the text of a port, also of one that is a number: `-1` is a name, `"80"` a number,
/// `"80:90"` a range.
static PORT_TEXT: Format = Format {
    says: "a port number from 0 to 65535, or the name of a port",
    server: &[
        Server::Range(i64::MIN, 65535),
        Server::Pattern("^([a-zA-Z0-9_.-]{1,128}|[0-9]+:[0-9]+)$"),
    ],
    breach: |value| notation::port(&text_of(value)).err().map(|_| String::new()),
};

fn text_of(port: &Value) -> Cow<'_, str> {
    port.as_str().map_or_else(|| port.to_string().into(), Cow::from)
}

fn is_range(port: &Scope<'_>) -> bool {
    match (port.get("port"), port.get("endPort")) {
        (Some(from), Some(to)) => notation::port(&format!("{}:{to}", text_of(from))).is_ok(),
        _ => true,
    }
}
