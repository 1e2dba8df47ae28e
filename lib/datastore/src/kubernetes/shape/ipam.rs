//! The objects of address management: in etcd they are flat and their keys say most, in Kubernetes all is in `spec`.

use model::{Key, Kind, Stored};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{take, text};
use crate::etcdv3::keys;
use crate::kubernetes::group::ApiGroup;

/// A field of the resource's `spec`, and of the configuration in etcd (Calico:
/// `libcalico-go/lib/backend/model/ipam_config.go`). The others have one name.
const CONFIGURATION: [(&str, &str); 2] =
    [("strictAffinity", "strict_affinity"), ("autoAllocateBlocks", "auto_allocate_blocks")];
/// Names of custom resources are shorter than this.
const LONGEST_NAME: usize = 253;

pub(super) fn read(kind: Kind, mut object: Value) -> (Option<Key>, Option<Stored>) {
    let mut spec = take(&mut object, "spec");
    let name = match kind {
        Kind::IPAMHandle if !text(&spec["handleID"]).is_empty() => text(&spec["handleID"]),
        _ => text(&object["metadata"]["name"]),
    };
    let key = Key::global(kind, name);
    if is_deleted(&spec) {
        return (Some(key), None);
    }
    if let (Kind::IPAMConfiguration, Value::Object(fields)) = (kind, &mut spec) {
        for (ours, stored) in CONFIGURATION {
            if let Some(value) = fields.remove(ours) {
                fields.insert(stored.to_owned(), value);
            }
        }
    }
    (Some(key), Some(Stored::Json(spec)))
}

pub(super) fn read_affinity(mut object: Value) -> (Option<Key>, Option<Stored>) {
    let mut spec = take(&mut object, "spec");
    let key = affinity_key(&spec)
        .unwrap_or_else(|| Key::global(Kind::BlockAffinity, text(&object["metadata"]["name"])));
    if is_deleted(&spec) {
        return (Some(key), None);
    }
    if let Value::Object(fields) = &mut spec {
        for field in ["node", "cidr", "type", "deleted"] {
            fields.remove(field);
        }
    }
    (Some(key), Some(Stored::Json(spec)))
}

/// Text in crd v1, a flag in v3.
fn is_deleted(spec: &Value) -> bool {
    spec["deleted"] == json!(true) || spec["deleted"] == json!("true")
}

fn affinity_key(spec: &Value) -> Option<Key> {
    let cidr: ipnet::IpNet = text(&spec["cidr"]).parse().ok()?;
    let family = if cidr.addr().is_ipv6() { "ipv6" } else { "ipv4" };
    let owner_kind = match text(&spec["type"]) {
        "" => "host",
        other => other,
    };
    let block = cidr.trunc().to_string().replace('/', "-");
    let node = text(&spec["node"]);
    keys::key(format!("/calico/ipam/v2/{owner_kind}/{node}/{family}/block/{block}").as_bytes())
}

/// Whose it is, and the CIDR.
struct Affinity {
    owner_kind: String,
    owner: String,
    cidr: String,
}

fn affinity(key: &Key) -> Result<Affinity, &'static str> {
    let path = keys::path(key)?;
    let mut parts = path.trim_start_matches("/calico/ipam/v2/").split('/');
    let mut next = || parts.next().unwrap_or_default().to_owned();
    let (owner_kind, owner) = (next(), next());
    let block = path.rsplit('/').next().unwrap_or_default();
    let cidr = block.rsplit_once('-').map(|(address, length)| format!("{address}/{length}"));
    Ok(Affinity { owner_kind, owner, cidr: cidr.unwrap_or_default() })
}

/// `<node>-<a-b-c-d-26>`; a longer one than fits is cut, and gets a hash (Calico: `ipam_affinity.go`).
pub(super) fn affinity_name(key: &Key) -> Result<String, &'static str> {
    let Affinity { owner, cidr, .. } = affinity(key)?;
    let cidr = cidr.replace(['.', ':', '/'], "-");
    let name = format!("{owner}-{cidr}");
    if name.len() < LONGEST_NAME {
        return Ok(name);
    }
    let hash = Sha256::digest(format!("{owner}+{cidr}"));
    let hash = hash[..6].iter().fold(0_u64, |hash, byte| hash << 8 | u64::from(*byte));
    let room = LONGEST_NAME - 1 - cidr.len() - 13;
    let start: String = owner.chars().take(room).collect();
    // 11 of the 12 digits.
    Ok(format!("{start}-{cidr}-{:011x}", hash >> 4))
}

pub(super) fn handle_name(id: &str) -> String {
    id.to_lowercase()
}

pub(super) fn write(key: &Key, value: &Value) -> Map<String, Value> {
    let mut spec = value.clone();
    if let Value::Object(fields) = &mut spec {
        if key.kind == Kind::IPAMHandle {
            fields.entry("handleID").or_insert_with(|| json!(key.name.as_str()));
        }
        for (ours, stored) in CONFIGURATION {
            if key.kind == Kind::IPAMConfiguration
                && let Some(value) = fields.remove(stored)
            {
                fields.insert(ours.to_owned(), value);
            }
        }
    }
    Map::from_iter([("spec".to_owned(), spec)])
}

pub(super) fn write_affinity(
    key: &Key,
    value: &Value,
    group: ApiGroup,
) -> Result<Map<String, Value>, &'static str> {
    let Affinity { owner_kind, owner, cidr } = affinity(key)?;
    let mut spec = value.clone();
    if let Value::Object(fields) = &mut spec {
        let deleted = match group {
            ApiGroup::V1 => json!("false"),
            ApiGroup::V3 => json!(false),
        };
        for (field, value) in [
            ("node", json!(owner)),
            ("type", json!(owner_kind)),
            ("cidr", json!(cidr)),
            ("deleted", deleted),
        ] {
            fields.insert(field.to_owned(), value);
        }
    }
    Ok(Map::from_iter([("spec".to_owned(), spec)]))
}
