//! Between what the store holds and what people read and write.

use std::time::{SystemTime, UNIX_EPOCH};

use model::{Key, Kind, Stored};
use serde_json::{Value, json};

use super::{API_VERSION, METADATA_ANNOTATION, Object, kinds, map_at};

/// A field of `spec` in the resource, and the field of the stored configuration (Calico:
/// `libcalico-go/lib/backend/model/ipam_config.go`). Both are the same thing here.
const IPAM_CONFIGURATION: &[(&str, &str)] = &[
    ("strictAffinity", "strict_affinity"),
    ("autoAllocateBlocks", "auto_allocate_blocks"),
    ("maxBlocksPerHost", "maxBlocksPerHost"),
    ("kubeVirtVMAddressPersistence", "kubeVirtVMAddressPersistence"),
    ("ipCooldownSeconds", "ipCooldownSeconds"),
];

/// The object as people read it, or why it can't be read.
pub(crate) fn present(key: &Key, stored: Stored, version: u64) -> Result<Value, String> {
    let stored = match stored {
        Stored::Json(Value::Object(stored)) => stored,
        other => {
            let found = if matches!(other, Stored::Raw(_)) { "no JSON" } else { "no JSON object" };
            return Err(format!(
                "its stored value is {found}; write it again with apply, or delete it"
            ));
        }
    };
    let mut object = if key.kind == Kind::IPAMConfiguration {
        without_resource(key, ipam_spec(&stored))
    } else if kinds::is_of_ipam(key.kind) {
        without_resource(key, stored)
    } else {
        stored
    };
    object.entry("apiVersion").or_insert_with(|| API_VERSION.into());
    object.entry("kind").or_insert_with(|| key.kind.name().into());
    let tier = object.get("spec").and_then(|spec| spec["tier"].as_str()).unwrap_or_default();
    let is_default_tier = matches!(tier, "" | "default");
    let metadata = map_at(&mut object, "metadata");
    metadata.insert("resourceVersion".to_owned(), version.to_string().into());
    if is_policy(key.kind) {
        let name = true_name(metadata, key, is_default_tier);
        metadata.insert("name".to_owned(), name.into());
    } else {
        metadata.entry("name").or_insert_with(|| key.name.as_str().into());
    }
    Ok(Value::Object(object))
}

/// What isn't stored as a resource, as one.
fn without_resource(key: &Key, spec: Object) -> Object {
    let mut object = Object::new();
    map_at(&mut object, "metadata").insert("name".to_owned(), key.name.as_str().into());
    object.insert("spec".to_owned(), Value::Object(spec));
    object
}

/// Policies whose name is kept in an annotation.
pub(crate) fn is_policy(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::NetworkPolicy
            | Kind::GlobalNetworkPolicy
            | Kind::StagedNetworkPolicy
            | Kind::StagedGlobalNetworkPolicy
    )
}

/// A policy's name is in its annotation, which is taken away; older ones of the default tier may
/// have `default.` in front of it (Calico: `libcalico-go/lib/names`).
fn true_name(metadata: &mut Object, key: &Key, is_default_tier: bool) -> String {
    let mut annotated = None;
    if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
        let text = annotations.remove(METADATA_ANNOTATION);
        annotated = text
            .and_then(|text| serde_json::from_str::<Value>(text.as_str()?).ok())
            .and_then(|value| Some(value["name"].as_str()?.to_owned()));
        if annotations.is_empty() {
            metadata.remove("annotations");
        }
    }
    annotated.unwrap_or_else(|| {
        let cut = key.name.strip_prefix("default.").filter(|_| is_default_tier);
        cut.unwrap_or(&key.name).to_owned()
    })
}

fn ipam_spec(stored: &Object) -> Object {
    let mut spec = Object::new();
    // A configuration without the field means that blocks are not allocated, as in Calico.
    for flag in ["strictAffinity", "autoAllocateBlocks"] {
        spec.insert(flag.to_owned(), false.into());
    }
    for (field, name) in IPAM_CONFIGURATION {
        if let Some(value) = stored.get(*name) {
            spec.insert((*field).to_owned(), value.clone());
        }
    }
    spec
}

/// What to store for an object that isn't there yet.
pub(crate) fn new(kind: Kind, mut object: Object, now: SystemTime) -> Stored {
    if kind == Kind::IPAMConfiguration {
        return ipam_configuration(&object);
    }
    annotate_name(kind, &mut object);
    let metadata = map_at(&mut object, "metadata");
    metadata.insert("uid".to_owned(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".to_owned(), rfc3339(now).into());
    Stored::Json(Value::Object(object))
}

/// What to store in the place of `current`: all of it is replaced but its identity and, if
/// `keeps_status`, its status.
pub(crate) fn replacement(
    kind: Kind,
    mut object: Object,
    current: &Stored,
    keeps_status: bool,
    now: SystemTime,
) -> Stored {
    let Stored::Json(current @ Value::Object(_)) = current else {
        return new(kind, object, now);
    };
    if kind == Kind::IPAMConfiguration {
        return ipam_configuration(&object);
    }
    annotate_name(kind, &mut object);
    let stored_metadata = &current["metadata"];
    let metadata = map_at(&mut object, "metadata");
    for (field, otherwise) in [
        ("uid", Value::from(uuid::Uuid::new_v4().to_string())),
        ("creationTimestamp", rfc3339(now).into()),
    ] {
        let kept = stored_metadata.get(field).filter(|value| value.is_string()).cloned();
        metadata.insert(field.to_owned(), kept.unwrap_or(otherwise));
    }
    if let Some(status) = current.get("status").filter(|_| keeps_status) {
        object.insert("status".to_owned(), status.clone());
    }
    Stored::Json(Value::Object(object))
}

/// A policy is stored with its true name in an annotation.
fn annotate_name(kind: Kind, object: &mut Object) {
    if !is_policy(kind) {
        return;
    }
    let metadata = map_at(object, "metadata");
    let true_name = json!({"name": metadata.get("name")}).to_string();
    map_at(metadata, "annotations").insert(METADATA_ANNOTATION.to_owned(), true_name.into());
}

fn ipam_configuration(object: &Object) -> Stored {
    let mut stored = Object::new();
    for (field, name) in IPAM_CONFIGURATION {
        match &object["spec"][field] {
            Value::Null | Value::Bool(false) => {}
            zero if *zero == json!(0) || *zero == json!("") => {}
            value => {
                stored.insert((*name).to_owned(), value.clone());
            }
        }
    }
    Stored::Json(Value::Object(stored))
}

/// A time as `2024-01-01T00:00:00Z`. The calendar is H. Hinnant's `civil_from_days`.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn object(value: &Value) -> Object {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn times_are_written_as_kubernetes_writes_them() {
        // Compared with `date -u -d @N`.
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_704_067_199, "2023-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn a_replacement_keeps_identity_and_status_and_nothing_else() {
        let current = Stored::Json(json!({
            "metadata": {"name": "t", "uid": "u", "creationTimestamp": "c", "labels": {"a": "b"}},
            "spec": {"order": 1},
            "status": {"conditions": []},
        }));
        let new = object(&json!({"metadata": {"name": "t"}, "spec": {"defaultAction": "Deny"}}));
        let Stored::Json(stored) = replacement(Kind::Tier, new, &current, true, UNIX_EPOCH) else {
            panic!("a replacement");
        };
        assert_eq!(
            stored,
            json!({
                "metadata": {"name": "t", "uid": "u", "creationTimestamp": "c"},
                "spec": {"defaultAction": "Deny"},
                "status": {"conditions": []},
            })
        );
    }

    #[test]
    fn an_ipam_configuration_is_the_one_that_address_management_reads() {
        let key = Key::global(Kind::IPAMConfiguration, "default");
        let written = object(&json!({
            "metadata": {"name": "default"},
            "spec": {"strictAffinity": true, "autoAllocateBlocks": false, "maxBlocksPerHost": 4},
        }));
        let stored = new(Kind::IPAMConfiguration, written, UNIX_EPOCH);
        let Stored::Json(value) = &stored else { panic!("JSON") };
        assert_eq!(*value, json!({"strict_affinity": true, "maxBlocksPerHost": 4}));
        let shown = present(&key, stored, 7).unwrap();
        assert_eq!(
            shown["spec"],
            json!({"strictAffinity": true, "autoAllocateBlocks": false, "maxBlocksPerHost": 4})
        );
        assert_eq!(shown["metadata"], json!({"name": "default", "resourceVersion": "7"}));
    }

    #[test]
    fn a_policy_is_called_by_the_name_in_its_annotation() {
        let named = |name: &str, annotations: Value| {
            let key = Key::global(Kind::GlobalNetworkPolicy, name);
            let stored =
                Stored::Json(json!({"metadata": {"annotations": annotations}, "spec": {}}));
            present(&key, stored, 1).unwrap()["metadata"].clone()
        };
        let annotation = json!({METADATA_ANNOTATION: "{\"name\":\"true\"}"});
        assert_eq!(named("default.x", annotation), json!({"name": "true", "resourceVersion": "1"}));
        assert_eq!(named("default.x", json!({"a": "b"}))["name"], "x");
        assert_eq!(named("other.x", json!(null))["name"], "other.x");
    }

    #[test]
    fn what_is_no_object_is_an_error_with_a_way_out() {
        let key = Key::global(Kind::Tier, "t");
        for stored in [Stored::Raw(b"{".to_vec()), Stored::Json(json!([]))] {
            assert!(present(&key, stored, 1).unwrap_err().contains("write it again"));
        }
    }
}
