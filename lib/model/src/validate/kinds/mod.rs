//! The kinds: a description of each, and the few rules that are functions.

mod bgp;
mod bgp_configuration;
mod bgp_filter;
mod bgp_peer;
mod cluster;
mod endpoint;
mod felix;
mod felix_checks;
mod ip_pool;
mod ipam;
mod kube_controllers;
mod metadata;
mod network_set;
mod node;
mod policy;
mod profile;
mod rule;
mod staged;
mod staged_kubernetes;
mod tier;

use serde_json::{Map, Value};

use super::{
    fault::{Faults, Path},
    schema::{Schema, Scope, ServerRule, Write},
};

/// All kinds that have a description.
pub(super) static SCHEMAS: &[&Schema] = &[
    &bgp_configuration::SCHEMA,
    &bgp_filter::SCHEMA,
    &bgp_peer::SCHEMA,
    &ipam::BLOCK_AFFINITY,
    &cluster::NODE_STATUS,
    &cluster::INFORMATION,
    &felix::SCHEMA,
    &policy::GLOBAL_NETWORK_POLICY,
    &network_set::GLOBAL_NETWORK_SET,
    &endpoint::HOST_ENDPOINT,
    &ipam::BLOCK,
    &ipam::CONFIGURATION,
    &ipam::HANDLE,
    &ip_pool::SCHEMA,
    &ipam::RESERVATION,
    &kube_controllers::SCHEMA,
    &policy::NETWORK_POLICY,
    &network_set::NETWORK_SET,
    &node::SCHEMA,
    &profile::SCHEMA,
    &staged::GLOBAL_NETWORK_POLICY,
    &staged_kubernetes::SCHEMA,
    &staged::NETWORK_POLICY,
    &tier::SCHEMA,
    &endpoint::WORKLOAD_ENDPOINT,
];

/// A field of an object that was read.
fn object_mut<'a>(object: &'a mut Map<String, Value>, field: &str) -> &'a mut Map<String, Value> {
    let found = object.entry(field).or_insert(Value::Null);
    if !found.is_object() {
        *found = Map::new().into();
    }
    match found {
        Value::Object(fields) => fields,
        _ => unreachable!("it was made an object"),
    }
}

fn spec_mut(object: &mut Map<String, Value>) -> &mut Map<String, Value> {
    object_mut(object, "spec")
}

fn metadata_mut(object: &mut Map<String, Value>) -> &mut Map<String, Value> {
    object_mut(object, "metadata")
}

/// Sets a label.
fn label(object: &mut Map<String, Value>, key: &str, value: String) {
    object_mut(metadata_mut(object), "labels").insert(key.to_owned(), value.into());
}

/// The text in a field of an object; empty: there is none.
fn text_at<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// A write of this kind fills in nothing.
fn nothing(_: &mut Map<String, Value>) {}

/// A write of this kind has no rules of its own.
fn no_write_rules(_: &Write<'_>, _: &mut Faults) {}

/// What an API server checks of [`only_default`].
const DEFAULT_ALONE: ServerRule = ServerRule {
    says: "there is one object of this kind, called default",
    cel: "self.metadata.name == 'default'",
};

/// There is one object of this kind.
fn only_default(write: &Write<'_>, faults: &mut Faults) {
    let meta = Scope { fields: write.object, read: write.object }.child("metadata");
    if write.old.is_none() && meta.text("name") != "default" {
        let name = meta.get("name").unwrap_or(&Value::Null);
        let rule = "there is one object of this kind, called default";
        faults.add(&Path::ROOT, "metadata.name", name, rule, "write default");
    }
}
