//! The kinds: a description of each, and the few rules that are functions.

mod ip_pool;
mod metadata;
mod node;
mod policy;
mod rule;
mod tier;

use serde_json::{Map, Value};

use super::{
    fault::Faults,
    schema::{Schema, Write},
};

/// All kinds that have a description.
pub(super) static SCHEMAS: &[&Schema] = &[
    &policy::GLOBAL_NETWORK_POLICY,
    &ip_pool::SCHEMA,
    &policy::NETWORK_POLICY,
    &node::SCHEMA,
    &tier::SCHEMA,
];

/// The `spec` of an object that was read.
fn spec_mut(object: &mut Map<String, Value>) -> &mut Map<String, Value> {
    let spec = object.entry("spec").or_insert(Value::Null);
    if !spec.is_object() {
        *spec = Map::new().into();
    }
    match spec {
        Value::Object(spec) => spec,
        _ => unreachable!("it was made an object"),
    }
}

/// A write of this kind fills in nothing.
fn nothing(_: &mut Map<String, Value>) {}

/// A write of this kind has no rules of its own.
fn no_write_rules(_: &Write<'_>, _: &mut Faults) {}
