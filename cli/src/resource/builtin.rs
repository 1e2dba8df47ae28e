//! The objects that every cluster has, and what may not be done to them.

use model::{Key, Kind};
use serde_json::{Value, json};

use super::{API_VERSION, Object};

/// The profile that exists without being stored (Calico: `libcalico-go/lib/resources`).
pub(crate) const DEFAULT_ALLOW: &str = "projectcalico-default-allow";
/// Policies of this name are the controllers' translation of Kubernetes' own.
const TRANSLATED: &str = "knp.default.";

/// What the first write into a store creates: the cluster's identity and the built-in tiers.
/// `guid` is 32 hex digits of the caller's choice.
pub(crate) fn initial_objects(guid: &str) -> Vec<(Key, Object)> {
    let object = |kind: Kind, name: &str, spec: Value| {
        let object = json!({
            "apiVersion": API_VERSION,
            "kind": kind.name(),
            "metadata": {"name": name},
            "spec": spec,
        });
        let Value::Object(object) = object else { unreachable!("it was written as an object") };
        (Key::global(kind, name), object)
    };
    let tier = |name: &str, order: u32, action: &str| {
        let (key, mut tier) =
            object(Kind::Tier, name, json!({"order": order, "defaultAction": action}));
        tier.insert("status".to_owned(), json!({}));
        (key, tier)
    };
    vec![
        object(
            Kind::ClusterInformation,
            "default",
            json!({"clusterGUID": guid, "datastoreReady": true}),
        ),
        tier("default", 1_000_000, "Deny"),
        tier("kube-admin", 1_000, "Pass"),
        tier("kube-baseline", 10_000_000, "Pass"),
    ]
}

/// The profile that is there without being stored.
pub(crate) fn default_allow_profile() -> Value {
    json!({
        "apiVersion": API_VERSION,
        "kind": Kind::Profile.name(),
        "metadata": {"name": DEFAULT_ALLOW, "resourceVersion": "0"},
        "spec": {"egress": [{"action": "Allow"}], "ingress": [{"action": "Allow"}]},
    })
}

/// Why a person may not write this object, if so.
pub(crate) fn write_refusal(key: &Key) -> Option<String> {
    match key.kind {
        Kind::ClusterInformation => {
            Some("ClusterInformation is maintained by the cluster itself; it is read-only".into())
        }
        Kind::Profile if key.name == DEFAULT_ALLOW => {
            Some("this profile is built in and can't be changed; make one of another name".into())
        }
        Kind::NetworkPolicy if key.name.starts_with(TRANSLATED) => Some(format!(
            "policies {TRANSLATED}… are translated from Kubernetes; change them with kubectl"
        )),
        _ => None,
    }
}

/// Why a person may not delete this object, if so.
pub(crate) fn delete_refusal(key: &Key) -> Option<String> {
    match (key.kind, key.name.as_str()) {
        (Kind::Tier, "default" | "kube-admin" | "kube-baseline") => {
            Some("this tier is built in and can't be deleted".to_owned())
        }
        (Kind::BlockAffinity | Kind::IPAMBlock | Kind::IPAMHandle, _) => {
            Some(format!("a {} is deleted by the address management alone", key.kind))
        }
        _ => write_refusal(key),
    }
}
