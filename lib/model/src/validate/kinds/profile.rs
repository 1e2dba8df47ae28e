//! `Profile`: rules and labels that endpoints inherit.

use serde_json::Value;

use super::{metadata::METADATA, nothing, rule::PROFILE_RULE};
use crate::{
    Kind,
    validate::{
        fault::{Faults, Path},
        format::{LABELS, NAME},
        schema::{Check, Field, Object, Schema, Scope, TEXT, Type, Write},
    },
};

pub(super) static SCHEMA: Schema = Schema {
    kind: Kind::Profile,
    doc: "Rules and labels that endpoints inherit. In Kubernetes it is made from a namespace or a service account.",
    object: Object { fields: &[METADATA, Field::object("spec", &SPEC)], rules: &[] },
    name: &NAME,
    on_write: nothing,
    write_rules,
    on_server: &[],
};

static SPEC: Object = Object {
    fields: &[
        Field::list("ingress", &PROFILE_RULE)
            .doc("Rules for packets to the endpoint, after all policies."),
        Field::list("egress", &PROFILE_RULE)
            .doc("Rules for packets from the endpoint, after all policies."),
        Field::new("labelsToApply", Type::Map(&TEXT))
            .doc("Labels that endpoints inherit.")
            .checks(&[Check::Is(&LABELS)]),
    ],
    rules: &[],
};

/// The profile that allows everything; it is built in.
const BUILT_IN: &str = "projectcalico-default-allow";

fn write_rules(write: &Write<'_>, faults: &mut Faults) {
    let meta = Scope { fields: write.object, read: write.object }.child("metadata");
    if meta.text("name") == BUILT_IN {
        let name = Value::from(BUILT_IN);
        let rule = format!("{BUILT_IN} is built in and can't be written");
        faults.add(&Path::ROOT, "metadata.name", &name, rule, "take another name");
    }
}
