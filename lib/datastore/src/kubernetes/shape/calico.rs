//! Calico's own objects, of either group.
//!
//! In `crd.projectcalico.org/v1` the annotation `projectcalico.org/metadata` holds what of the v3 metadata isn't the
//! custom resource's own, and older versions kept all of it there: what it says wins (Calico:
//! `libcalico-go/lib/backend/k8s/resources/resources.go`).

use model::{Key, Kind, Stored, translate};
use serde_json::{Map, Value, json};

use super::{take, text};
use crate::kubernetes::group::ApiGroup;

const METADATA: &str = "projectcalico.org/metadata";
/// What of the metadata is Kubernetes' own business.
const FOREIGN: [&str; 4] = ["resourceVersion", "generation", "managedFields", "selfLink"];

pub(super) fn read(
    kind: Kind,
    group: ApiGroup,
    mut object: Value,
) -> (Option<Key>, Option<Stored>) {
    let name = text(&object["metadata"]["name"]).to_owned();
    let namespace = text(&object["metadata"]["namespace"]).to_owned();
    object["apiVersion"] = json!(ApiGroup::V3.api_version());
    object["kind"] = json!(kind.name());
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        metadata.remove("resourceVersion");
        if group == ApiGroup::V1 {
            restore(metadata);
        }
    }
    let key = if kind.is_namespaced() {
        Key::namespaced(kind, namespace, name)
    } else {
        Key::global(kind, name)
    };
    (Some(key), Some(Stored::Json(object)))
}

/// The metadata as the v3 object has it. Of the annotation only the name is left, which policies may have there and
/// whoever shows them reads.
fn restore(metadata: &mut Map<String, Value>) {
    let uid = metadata.get("uid").and_then(Value::as_str).and_then(translate::converted_uid);
    if let Some(uid) = uid {
        metadata.insert("uid".to_owned(), json!(uid));
    }
    let Some(Value::Object(annotations)) = metadata.get_mut("annotations") else { return };
    let Some(saved) = annotations.remove(METADATA) else { return };
    let saved = serde_json::from_str::<Value>(text(&saved)).unwrap_or_default();
    let Value::Object(mut saved) = saved else { return drop_empty(metadata, "annotations") };
    if let Some(Value::String(name)) = saved.remove("name") {
        annotations.insert(METADATA.to_owned(), json!(json!({ "name": name }).to_string()));
    }
    if let Some(Value::Object(more)) = saved.remove("annotations") {
        for (key, value) in more {
            annotations.entry(key).or_insert(value);
        }
    }
    for field in ["uid", "creationTimestamp"] {
        if let Some(Value::String(text)) = saved.remove(field) {
            metadata.insert(field.to_owned(), Value::String(text));
        }
    }
    if let Some(Value::Object(labels)) = saved.remove("labels") {
        metadata.insert("labels".to_owned(), Value::Object(labels));
    }
    drop_empty(metadata, "annotations");
}

fn drop_empty(metadata: &mut Map<String, Value>, field: &str) {
    if metadata.get(field).and_then(Value::as_object).is_some_and(Map::is_empty) {
        metadata.remove(field);
    }
}

/// The object as the group has it. The uid is Kubernetes' to give; in v1 the time of creation, which would be
/// Kubernetes' too, is kept beside it.
pub(super) fn write(value: &Value, group: ApiGroup) -> Map<String, Value> {
    let mut value = value.clone();
    let mut metadata = match take(&mut value, "metadata") {
        Value::Object(metadata) => metadata,
        _ => Map::new(),
    };
    for field in FOREIGN {
        metadata.remove(field);
    }
    metadata.remove("uid");
    let created = metadata.remove("creationTimestamp");
    if group == ApiGroup::V1 {
        let mut kept = Map::new();
        if let Some(annotated) = metadata.get("annotations").and_then(|it| it[METADATA].as_str())
            && let Ok(Value::Object(annotated)) = serde_json::from_str(annotated)
        {
            kept.extend(annotated.into_iter().filter(|(field, _)| field == "name"));
        }
        // Null, as Go writes it.
        kept.insert("creationTimestamp".to_owned(), created.unwrap_or_default());
        let annotations = metadata.entry("annotations").or_insert_with(|| json!({}));
        if let Value::Object(annotations) = annotations {
            annotations.insert(METADATA.to_owned(), json!(Value::Object(kept).to_string()));
        }
    }
    let mut object = match value {
        Value::Object(object) => object,
        _ => Map::new(),
    };
    object.insert("metadata".to_owned(), Value::Object(metadata));
    object
}
