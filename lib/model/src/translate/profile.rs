//! `Namespace` and `ServiceAccount`: the profiles that hand their labels on to pods.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    kubernetes::{Metadata, Named},
    metadata,
    report::Report,
};

/// The profile of a namespace's pods: their labels from it, and all traffic where no policy is.
pub(super) fn of_namespace(namespace: &Named, report: &mut Report) -> Option<Value> {
    let name = namespace_profile(&namespace.metadata.name);
    let allow = json!([{ "action": "Allow" }]);
    let spec = json!({
        "ingress": allow,
        "egress": allow,
        "labelsToApply": labels("pcns.", &namespace.metadata),
    });
    profile(&name, &namespace.metadata, spec, report)
}

/// The profile of a service account's pods: their labels from it.
pub(super) fn of_service_account(account: &Named, report: &mut Report) -> Option<Value> {
    let Metadata { name, namespace, .. } = &account.metadata;
    let name = service_account_profile(namespace, name);
    let spec = json!({ "labelsToApply": labels("pcsa.", &account.metadata) });
    profile(&name, &account.metadata, spec, report)
}

/// The name of the profile of a namespace's pods.
pub fn namespace_profile(namespace: &str) -> String {
    format!("kns.{namespace}")
}

/// The name of the profile of a service account's pods.
pub fn service_account_profile(namespace: &str, account: &str) -> String {
    let namespace = if namespace.is_empty() { "default" } else { namespace };
    format!("ksa.{namespace}.{account}")
}

/// The object's labels with this prefix, and one with its name, which none of them can pose as.
fn labels(prefix: &str, metadata: &Metadata) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<_, _> = metadata
        .labels
        .iter()
        .map(|(key, value)| (format!("{prefix}{key}"), value.clone()))
        .collect();
    labels.insert(format!("{prefix}projectcalico.org/name"), metadata.name.clone());
    labels
}

/// Unlike a policy, it must have a uid.
fn profile(name: &str, metadata: &Metadata, spec: Value, report: &mut Report) -> Option<Value> {
    let mut object = metadata::object("Profile", name, "");
    let mut fields = object["metadata"].take();
    fields["uid"] = json!(metadata::uid(&metadata.uid, report)?);
    if !metadata.creation_timestamp.0.is_empty() {
        fields["creationTimestamp"] = json!(metadata.creation_timestamp.0);
    }
    object.insert("metadata".to_owned(), fields);
    object.insert("spec".to_owned(), spec);
    Some(Value::Object(object))
}
