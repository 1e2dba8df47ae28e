//! Objects of Kubernetes as keys and values of the same form as in etcd, and back.

mod calico;
mod derived;
mod ipam;
mod node;

use std::fmt;

use model::{Key, Kind, Stored};
use serde_json::{Map, Value, json};

use super::group::ApiGroup;
use super::resources::{Resource, Source};
use super::slim::{Fields, NAMED};

/// An object that was read.
#[derive(Debug)]
pub(super) struct Object {
    /// Its `resourceVersion`.
    pub(super) version: String,
    /// Which object it is here; none: none at all, such as a pod without a node.
    pub(super) key: Option<Key>,
    /// What it is here; none: it is marked as deleted, and counts as gone.
    pub(super) value: Option<Stored>,
}

/// So much of an object that can't be read is kept, for whoever looks for the reason.
const SHOWN: usize = 1024;

/// An object as it was sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Encoded<'a> {
    Json(&'a [u8]),
    Protobuf(&'a [u8]),
}

impl Encoded<'_> {
    /// These fields of it.
    pub(super) fn read(self, fields: &'static Fields) -> Result<Value, String> {
        match self {
            Self::Json(json) => fields.read(json).map_err(|error| error.to_string()),
            Self::Protobuf(message) => {
                fields.read_protobuf(message).map_err(|error| error.to_string())
            }
        }
    }
}

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Json(bytes) | Self::Protobuf(bytes)) = self;
        f.write_str(&String::from_utf8_lossy(bytes))
    }
}

/// Reads an object; none: it has no name.
pub(super) fn read(resource: &Resource, group: ApiGroup, object: Encoded<'_>) -> Option<Object> {
    let encoded = object;
    let Ok(mut object) = encoded.read(resource.fields) else {
        // Nested too deeply. It exists, and is invalid.
        let named = encoded.read(&NAMED).ok()?;
        let version = text(&named["metadata"]["resourceVersion"]).to_owned();
        let (key, _) = shape(resource, group, named);
        let (Encoded::Json(bytes) | Encoded::Protobuf(bytes)) = encoded;
        let value = Stored::Raw(bytes[..bytes.len().min(SHOWN)].to_vec());
        return Some(Object { version, key, value: Some(value) });
    };
    let version = text(&object["metadata"]["resourceVersion"]).to_owned();
    if text(&object["metadata"]["name"]).is_empty() {
        return None;
    }
    if let Value::Object(fields) = &mut object {
        fields.insert("kind".to_owned(), json!(resource.object_kind(group)));
    }
    let (key, value) = shape(resource, group, object);
    Some(Object { version, key, value })
}

fn shape(resource: &Resource, group: ApiGroup, object: Value) -> (Option<Key>, Option<Stored>) {
    match (resource.source, resource.kind) {
        (_, Kind::Node) => node::read(&object),
        (_, Kind::EndpointSlice) => derived::read_slice(object),
        (Source::Calico, Kind::IPAMBlock | Kind::IPAMHandle | Kind::IPAMConfiguration) => {
            ipam::read(resource.kind, object)
        }
        (Source::Calico, Kind::BlockAffinity) => ipam::read_affinity(object),
        (Source::Calico, kind) => calico::read(kind, group, object),
        (Source::Kubernetes(..) | Source::Custom(..), _) => derived::read(&object),
    }
}

/// The object of a key and a value, without what Kubernetes adds; the error says why there is none.
pub(super) fn write(
    key: &Key,
    value: &Value,
    group: ApiGroup,
) -> Result<Map<String, Value>, &'static str> {
    let mut object = match key.kind {
        Kind::IPAMBlock | Kind::IPAMHandle | Kind::IPAMConfiguration => ipam::write(key, value),
        Kind::BlockAffinity => ipam::write_affinity(key, value, group)?,
        _ => calico::write(value, group),
    };
    let Some(resource) = Resource::stored(key.kind) else {
        return Err("it is derived from an object of Kubernetes; change that with kubectl");
    };
    object.insert("apiVersion".to_owned(), json!(group.api_version()));
    object.insert("kind".to_owned(), json!(resource.object_kind(group)));
    let metadata = object.entry("metadata").or_insert_with(|| json!({}));
    if let Value::Object(metadata) = metadata {
        metadata.insert("name".to_owned(), json!(name(key)?));
        if !key.namespace.is_empty() {
            metadata.insert("namespace".to_owned(), json!(key.namespace.as_str()));
        }
    }
    Ok(object)
}

/// The name of a key's object in the API.
pub(super) fn name(key: &Key) -> Result<String, &'static str> {
    match key.kind {
        Kind::IPAMHandle => Ok(ipam::handle_name(&key.name)),
        Kind::BlockAffinity => ipam::affinity_name(key),
        _ => Ok(key.name.to_string()),
    }
}

pub(super) use node::patch as node_patch;

/// Text, or nothing.
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Takes a field out of an object.
fn take(object: &mut Value, field: &str) -> Value {
    object.get_mut(field).map(Value::take).unwrap_or_default()
}
