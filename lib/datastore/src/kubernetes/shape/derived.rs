//! Pods, namespaces, service accounts and policies of Kubernetes as what Calico makes of them.

use model::{Key, Kind, Stored, translate};
use serde_json::{Value, json};

use super::text;

/// The backends of a service, as Kubernetes has them.
pub(super) fn read_slice(mut object: Value) -> (Option<Key>, Option<Stored>) {
    let key = key(&object);
    object["apiVersion"] = json!("discovery.k8s.io/v1");
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        metadata.remove("resourceVersion");
    }
    (key, Some(Stored::Json(object)))
}

/// What an object becomes. One that can't be translated keeps its key: the faults are what its value says.
pub(super) fn read(object: &Value) -> (Option<Key>, Option<Stored>) {
    let Some(key) = key(object) else { return (None, None) };
    let mut translation = translate::translate(object);
    let mut value = translation.objects.pop().unwrap_or_else(|| {
        json!({ "metadata": { "name": key.name.as_str(), "namespace": key.namespace.as_str() } })
    });
    if let Some(Value::Object(metadata)) = value.get_mut("metadata") {
        metadata.remove("resourceVersion");
    }
    if !translation.faults.is_empty() {
        translate::note_faults(&mut value, &translation.faults);
    }
    (Some(key), Some(Stored::Json(value)))
}

/// Only from what never changes in the life of the object. None: a pod that is no endpoint, because it has no node
/// yet, or its node's network.
fn key(object: &Value) -> Option<Key> {
    let metadata = &object["metadata"];
    let (namespace, name) = (text(&metadata["namespace"]), text(&metadata["name"]));
    match text(&object["kind"]) {
        "Pod" => {
            let node = text(&object["spec"]["nodeName"]);
            let is_endpoint = !node.is_empty() && object["spec"]["hostNetwork"] != json!(true);
            is_endpoint.then(|| {
                let name = translate::endpoint_name(node, name);
                Key::namespaced(Kind::WorkloadEndpoint, namespace, name)
            })
        }
        "Namespace" => Some(Key::global(Kind::Profile, translate::namespace_profile(name))),
        "ServiceAccount" => {
            let name = translate::service_account_profile(namespace, name);
            Some(Key::global(Kind::Profile, name))
        }
        "EndpointSlice" => Some(Key::namespaced(Kind::EndpointSlice, namespace, name)),
        "NetworkPolicy" => Some(Key::namespaced(Kind::KubernetesNetworkPolicy, namespace, name)),
        "ClusterNetworkPolicy" => Some(Key::global(Kind::KubernetesClusterNetworkPolicy, name)),
        _ => None,
    }
}
