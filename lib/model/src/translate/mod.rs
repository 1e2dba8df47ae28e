//! Kubernetes objects as Calico's v3 objects: policies, profiles, workload endpoints.
//!
//! Pure, and a function of one object. What can't be translated is named, and never widens what is
//! allowed: see [`Translation`]. Sources of the rules: Calico's converter, by its golden cases, and
//! where that widens, the Kubernetes API; `tests/golden/differences.md` lists these cases.

mod cluster_network_policy;
mod decode;
mod kubernetes;
mod metadata;
mod network_policy;
mod pod;
mod profile;
mod qos;
mod report;
mod rule;
mod selector;

pub use metadata::converted as converted_uid;
pub use pod::{endpoint_name, interface_name};
pub use profile::{namespace_profile, service_account_profile};
use serde_json::{Value, json};

use self::{
    decode::{Decode, Place, Unknown},
    kubernetes::{ClusterNetworkPolicy, Metadata, NetworkPolicy},
    report::Report,
};
use crate::kinds::Invalid;

/// What became of one object.
///
/// Objects and faults can come together: the objects are then without what is at fault. An Allow
/// with a fault is left out, a Deny loses the condition at fault, a Pass turns into such a Deny.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Translation {
    /// Kind, namespace and name of the object, for messages: `NetworkPolicy shop/web`.
    pub subject: String,
    /// Objects of `projectcalico.org/v3`, as its API would print them.
    pub objects: Vec<Value>,
    /// What couldn't be translated, with its path in the Kubernetes object.
    pub faults: Vec<Invalid>,
}

/// What is translated: the kind, its `apiVersion`, and how.
type Row = (&'static str, &'static str, fn(&mut Translation, &Value));

const KINDS: &[Row] = &[
    ("NetworkPolicy", "networking.k8s.io/v1", |it, object| {
        it.run(object, network_policy::translate);
    }),
    ("ClusterNetworkPolicy", "policy.networking.k8s.io/v1alpha2", |it, object| {
        it.run(object, cluster_network_policy::translate);
    }),
    ("Namespace", "v1", |it, object| it.run(object, profile::of_namespace)),
    ("Pod", "v1", |it, object| it.run(object, pod::translate)),
    ("ServiceAccount", "v1", |it, object| it.run(object, profile::of_service_account)),
];

/// Translates an object by its `apiVersion` and `kind`.
pub fn translate(object: &Value) -> Translation {
    let mut translation = Translation { subject: subject(object), ..Translation::default() };
    let kind = decode::field_text(object, "kind");
    let version = decode::field_text(object, "apiVersion");
    let Some((versions, run)) = KINDS.iter().find(|it| it.0 == kind).map(|it| (it.1, it.2)) else {
        let kinds: Vec<_> = KINDS.iter().map(|it| it.0).collect();
        translation.faults.push(Invalid {
            field: "kind".to_owned(),
            value: format!("{kind:?}"),
            reason: format!("can't be translated; it must be one of {}", kinds.join(", ")),
        });
        return translation;
    };
    // An item of a list may be without a version; of another group it is another kind.
    if !version.is_empty() && version != versions {
        translation.faults.push(Invalid {
            field: "apiVersion".to_owned(),
            value: format!("{version:?}"),
            reason: format!("can't be translated; a {kind} must be of {versions}"),
        });
        return translation;
    }
    run(&mut translation, object);
    translation
}

/// Fields that an object doesn't have, of its metadata and of a policy's whole: Kubernetes' own tools refuse them.
fn unknown_fields(object: &Value) -> Vec<Invalid> {
    let mut found = Vec::new();
    match decode::field_text(object, "kind") {
        "NetworkPolicy" => NetworkPolicy::unknown(object, Place::Start, &mut found),
        "ClusterNetworkPolicy" => ClusterNetworkPolicy::unknown(object, Place::Start, &mut found),
        _ => {
            let place = Place::Field(&Place::Start, "metadata");
            Metadata::unknown(&object["metadata"], place, &mut found);
        }
    }
    let invalid =
        |it: Unknown| Invalid { reason: it.reason(), field: it.field, value: String::new() };
    found.into_iter().map(invalid).collect()
}

/// Why a Kubernetes API server would refuse an object that someone wrote, as far as who reaches whom depends on it: what it
/// and this translation have against a `NetworkPolicy`, and of every kind the fields of its metadata that it doesn't have, of
/// policies all such fields.
pub fn refused(object: &Value) -> Vec<Invalid> {
    let mut faults = Vec::new();
    if decode::field_text(object, "kind") == "NetworkPolicy" {
        match NetworkPolicy::decode(object) {
            Ok(policy) => {
                let mut report = Report::strict();
                network_policy::translate(&policy, &mut report);
                faults = report.into_faults();
            }
            Err(fault) => faults.push(fault),
        }
    }
    let more = unknown_fields(object).into_iter().filter(|it| !faults.contains(it));
    let more = more.collect::<Vec<_>>();
    faults.extend(more);
    faults
}

impl Translation {
    /// What of its object was read past: fields that it doesn't have, unless they cost something and so are among the faults.
    pub fn ignored(&self, object: &Value) -> Vec<Invalid> {
        let is_fault = |it: &Invalid| self.faults.iter().any(|fault| fault.field == it.field);
        let ignored = unknown_fields(object).into_iter().filter(|it| !is_fault(it));
        ignored
            .map(|it| Invalid { reason: format!("{}; it is ignored", it.reason), ..it })
            .collect()
    }

    fn run<T: Decode>(
        &mut self,
        object: &Value,
        translate: impl FnOnce(&T, &mut Report) -> Option<Value>,
    ) {
        match T::decode(object) {
            Ok(object) => {
                let mut report = Report::new();
                self.objects.extend(translate(&object, &mut report));
                self.faults = report.into_faults();
            }
            Err(invalid) => self.faults.push(invalid),
        }
    }
}

/// Writes into an object that was translated, or into what is left of one that couldn't be, what is wrong with its
/// source: so the faults come with it to whoever reads it.
pub fn note_faults(object: &mut Value, faults: &[Invalid]) {
    let faults = faults.iter().map(|Invalid { field, value, reason }| {
        json!({ "field": field, "value": value, "reason": reason })
    });
    object[STATUS] = json!({ FAULTS: faults.collect::<Vec<_>>() });
}

/// What [`note_faults`] wrote.
pub(crate) fn faults(object: &Value) -> Vec<Invalid> {
    let faults = object.get(STATUS).and_then(|status| status.get(FAULTS)).and_then(Value::as_array);
    let text = |fault: &Value, field| decode::field_text(fault, field).to_owned();
    let read = |fault| Invalid {
        field: text(fault, "field"),
        value: text(fault, "value"),
        reason: text(fault, "reason"),
    };
    faults.into_iter().flatten().map(read).collect()
}

const STATUS: &str = "status";
const FAULTS: &str = "translationFaults";

fn subject(object: &Value) -> String {
    let kind = decode::field_text(object, "kind");
    let metadata = object.as_object().and_then(|fields| decode::field(fields, "metadata"));
    let text = |name| metadata.map(|it| decode::field_text(it, name)).unwrap_or_default();
    let kind = if kind.is_empty() { "object" } else { kind };
    match (text("namespace"), text("name")) {
        (_, "") => format!("{kind} without a name"),
        ("", name) => format!("{kind} {name}"),
        (namespace, name) => format!("{kind} {namespace}/{name}"),
    }
}

#[cfg(test)]
mod tests;
