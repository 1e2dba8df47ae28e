//! Staged Kubernetes policies, read as the staged policies that they translate to.

use model::{
    Key, Kind, Stored,
    kinds::{self, Invalid, Resource, Spec, StagedAction, Texts},
    translate::{Translation, translate},
};
use serde_json::{Map, Value, json};

/// Reads an object of any kind.
pub(crate) fn decode(key: &Key, stored: &Stored, texts: &mut Texts) -> Result<Resource, Invalid> {
    let (Kind::StagedKubernetesNetworkPolicy, Stored::Json(value)) = (key.kind, stored) else {
        return kinds::decode_sharing(key, stored, texts);
    };
    // What isn't an object, or has a spec that isn't, is no policy without conditions.
    let own = kinds::decode(key, stored)?;
    let translation = translated(key, value);
    let Some(object) = translation.objects.into_iter().next() else {
        let fault = translation.faults.into_iter().next();
        return Err(fault.unwrap_or_else(|| Invalid {
            field: "spec".to_owned(),
            value: String::new(),
            reason: "can't be translated".to_owned(),
        }));
    };
    let staged = Key { kind: Kind::StagedNetworkPolicy, ..key.clone() };
    let mut resource = kinds::decode(&staged, &Stored::Json(object))?;
    resource.faults.extend(own.faults);
    resource.faults.extend(translation.faults);
    if let Spec::StagedNetworkPolicy(policy) = &mut resource.spec
        && value["spec"]["stagedAction"] == "Delete"
    {
        policy.staged = Some(StagedAction::Delete);
    }
    Ok(resource)
}

/// The policy that a staged Kubernetes policy is.
pub(crate) fn translated(key: &Key, value: &Value) -> Translation {
    let namespace = value["metadata"]["namespace"].as_str().filter(|it| !it.is_empty());
    let fields = ["podSelector", "ingress", "egress", "policyTypes"];
    let fields = fields.map(|name| (name.to_owned(), value["spec"][name].clone()));
    translate(&json!({
        "kind": "NetworkPolicy",
        "metadata": {"name": key.name.as_str(), "namespace": namespace.unwrap_or(&key.namespace)},
        "spec": fields.into_iter().filter(|(_, v)| !v.is_null()).collect::<Map<_, _>>(),
    }))
}
