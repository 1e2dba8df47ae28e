//! What Calico's copy of a Kubernetes object is called: its metadata, with a uid of its own.

use serde_json::{Map, Value, json};

use super::{kubernetes::Metadata, report::Report};

/// A v3 object without its spec: name and namespace where they aren't empty.
pub(super) fn object(kind: &str, name: &str, namespace: &str) -> Map<String, Value> {
    let mut metadata = Map::new();
    for (field, text) in [("name", name), ("namespace", namespace)] {
        set(&mut metadata, field, text);
    }
    Map::from_iter([
        ("apiVersion".to_owned(), json!("projectcalico.org/v3")),
        ("kind".to_owned(), json!(kind)),
        ("metadata".to_owned(), Value::Object(metadata)),
    ])
}

/// Sets a field of an object; empty text stays away.
pub(super) fn set(object: &mut Map<String, Value>, field: &str, text: &str) {
    if !text.is_empty() {
        object.insert(field.to_owned(), json!(text));
    }
}

/// The uid of Calico's copy of an object; a uid that can't be converted is named.
pub(super) fn uid(uid: &str, report: &mut Report) -> Option<String> {
    let converted = converted(uid);
    if converted.is_none() {
        report.at("metadata", |report| {
            report.at("uid", |report| {
                report.fault(
                    uid,
                    "must be a UUID such as 6ba7b810-9dad-41d1-80b4-00c04fd430c8; \
                     the object is left out",
                );
            });
        });
    }
    converted
}

/// The uid of Calico's copy of an object with this one: each byte has its bits in reverse, apart from the two that hold
/// the uid's version and variant. So both have one that is unique, and always the same.
pub fn converted(uid: &str) -> Option<String> {
    let mut bytes = parse_uid(uid)?;
    for (index, byte) in bytes.iter_mut().enumerate() {
        if index != 6 && index != 8 {
            *byte = byte.reverse_bits();
        }
    }
    let hex = format!("{:032x}", u128::from_be_bytes(bytes));
    Some([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
}

/// With dashes, also as a URN or between two characters, which needn't be braces; or without (as Go's `uuid.Parse`).
fn parse_uid(text: &str) -> Option<[u8; 16]> {
    const URN: &str = "urn:uuid:";
    let text = match text.len() {
        32 | 36 => text,
        38 => text.get(1..37)?,
        45 => text.get(URN.len()..).filter(|_| text[..URN.len()].eq_ignore_ascii_case(URN))?,
        _ => return None,
    };
    let hex = if text.len() == 32 {
        text.to_owned()
    } else {
        let parts: Vec<&str> = text.split('-').collect();
        let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
        (lengths == [8, 4, 4, 4, 12]).then(|| parts.concat())?
    };
    let is_hex = hex.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then(|| u128::from_str_radix(&hex, 16).ok())?.map(u128::to_be_bytes)
}

/// Fields of the metadata that a policy keeps; the uid may be missing.
pub(super) fn keep(
    metadata: &Metadata,
    object: &mut Map<String, Value>,
    report: &mut Report,
) -> Option<()> {
    let Some(Value::Object(fields)) = object.get_mut("metadata") else { return None };
    set(fields, "creationTimestamp", &metadata.creation_timestamp.0);
    set(fields, "resourceVersion", &metadata.resource_version);
    if !metadata.uid.is_empty() {
        fields.insert("uid".to_owned(), json!(uid(&metadata.uid, report)?));
    }
    Some(())
}
