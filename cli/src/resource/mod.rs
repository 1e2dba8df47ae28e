//! Resources as people write, name and read them.
//!
//! ```text
//! files ── manifest, shape, fields ──> Manifest ── model::validate, write ──> stored ──> store
//!                                                                                     │
//! tables, YAML, JSON <── print, columns, yaml <── object as people read it <── stored ─┘
//! ```

pub(crate) mod builtin;
pub(crate) mod columns;
pub(crate) mod fields;
pub(crate) mod kinds;
mod locate;
pub(crate) mod manifest;
pub(crate) mod patch;
pub(crate) mod print;
pub(crate) mod shape;
pub(crate) mod source;
pub(crate) mod stored;
pub(crate) mod tally;
pub(crate) mod template;
pub(crate) mod write;
pub(crate) mod yaml;

use model::Key;
use serde_json::{Map, Value};

/// A JSON object.
pub(crate) type Object = Map<String, Value>;

/// The API version that is written; reading also takes [`CRD_VERSION`].
pub(crate) const API_VERSION: &str = "projectcalico.org/v3";
/// The API version of Calico's own custom resources in Kubernetes.
pub(crate) const CRD_VERSION: &str = "crd.projectcalico.org/v1";
/// The annotation in which a policy's true name is stored (Calico: `libcalico-go/lib/names`).
pub(crate) const METADATA_ANNOTATION: &str = "projectcalico.org/metadata";

/// How messages name an object: `IPPool(pool-a)`, `NetworkPolicy(ns/name)`, as in calicoctl.
pub(crate) fn called(key: &Key) -> String {
    format!("{}({})", key.kind, key.path())
}

/// The object's field, which becomes an empty map if it is none.
pub(crate) fn map_at<'a>(object: &'a mut Object, field: &str) -> &'a mut Object {
    let value = object.entry(field).or_insert(Value::Null);
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("it was made an object just above"),
    }
}
