//! Reads of an object only what is used: most of a pod is never looked at, nor kept.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// What of a value is read. A value of another form than expected is read whole, so that it can be named.
#[derive(Debug)]
pub(super) enum Fields {
    /// Everything.
    All,
    /// These fields of an object.
    Only(&'static [(&'static str, Fields)]),
    /// This of each item of a list.
    Each(&'static Fields),
    /// The entries of a map whose keys are wanted.
    Keys(fn(&str) -> bool),
}

use Fields::{All, Each, Keys, Only};

/// Objects of Calico.
pub(super) static CALICO: Fields = Only(&[
    (
        "metadata",
        Only(&[
            ("name", All),
            ("namespace", All),
            ("generateName", All),
            ("uid", All),
            ("resourceVersion", All),
            ("creationTimestamp", All),
            ("labels", All),
            ("annotations", All),
        ]),
    ),
    ("spec", All),
    ("status", All),
]);

/// Objects of which only the metadata counts.
pub(super) static NAMED: Fields = Only(&[(
    "metadata",
    Only(&[
        ("name", All),
        ("namespace", All),
        ("uid", All),
        ("resourceVersion", All),
        ("creationTimestamp", All),
        ("labels", All),
    ]),
)]);

pub(super) static NETWORK_POLICY: Fields = Only(&[("metadata", POLICY_METADATA), ("spec", All)]);
pub(super) static CLUSTER_NETWORK_POLICY: Fields =
    Only(&[("metadata", POLICY_METADATA), ("spec", All)]);

const POLICY_METADATA: Fields = Only(&[
    ("name", All),
    ("namespace", All),
    ("uid", All),
    ("resourceVersion", All),
    ("creationTimestamp", All),
]);

pub(super) static NODE: Fields = Only(&[
    (
        "metadata",
        Only(&[
            ("name", All),
            ("uid", All),
            ("resourceVersion", All),
            ("creationTimestamp", All),
            ("labels", All),
            ("annotations", Keys(is_of_calico)),
        ]),
    ),
    ("spec", Only(&[("podCIDRs", All)])),
    ("status", Only(&[("addresses", All)])),
]);

pub(super) static POD: Fields = Only(&[
    (
        "metadata",
        Only(&[
            ("name", All),
            ("generateName", All),
            ("namespace", All),
            ("uid", All),
            ("resourceVersion", All),
            ("creationTimestamp", All),
            ("deletionTimestamp", All),
            ("labels", All),
            ("annotations", Keys(is_of_pods)),
        ]),
    ),
    (
        "spec",
        Only(&[
            ("nodeName", All),
            ("hostNetwork", All),
            ("serviceAccountName", All),
            ("containers", CONTAINERS),
            ("initContainers", CONTAINERS),
        ]),
    ),
    ("status", Only(&[("phase", All), ("podIP", All), ("podIPs", All)])),
]);

const CONTAINERS: Fields = Each(&Only(&[("ports", All)]));

fn is_of_calico(annotation: &str) -> bool {
    annotation.starts_with("projectcalico.org/")
}

fn is_of_pods(annotation: &str) -> bool {
    annotation.contains("projectcalico.org/")
        || matches!(annotation, "vpc.amazonaws.com/pod-ips" | "k8s.v1.cni.cncf.io/network-status")
        || matches!(
            annotation,
            "kubernetes.io/ingress-bandwidth" | "kubernetes.io/egress-bandwidth"
        )
}

impl Fields {
    /// Reads an object.
    pub(super) fn read(&'static self, json: &[u8]) -> serde_json::Result<Value> {
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let value = self.deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(value)
    }
}

impl<'de> DeserializeSeed<'de> for &'static Fields {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        match self {
            All => serde::Deserialize::deserialize(deserializer),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for &'static Fields {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let item = if let Each(fields) = self { fields } else { &All };
        let mut items = Vec::new();
        while let Some(value) = list.next_element_seed(item)? {
            items.push(value);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let wanted = match self {
                All | Each(_) => Some(&All),
                Only(fields) => {
                    fields.iter().find(|(name, _)| *name == key).map(|(_, fields)| fields)
                }
                Keys(is_wanted) => is_wanted(&key).then_some(&All),
            };
            match wanted {
                Some(fields) => drop(object.insert(key, map.next_value_seed(fields)?)),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_a_pod_only_what_makes_its_endpoint_is_read() {
        let pod = json!({
            "metadata": {
                "name": "p",
                "managedFields": [{ "manager": "kubelet" }],
                "annotations": { "cni.projectcalico.org/podIP": "10.0.0.1", "x": "y" },
            },
            "spec": { "nodeName": "a", "containers": [{ "image": "i", "ports": [{ "name": "http" }] }] },
            "status": { "phase": "Running", "conditions": [] },
        });
        let read = POD.read(pod.to_string().as_bytes()).unwrap();
        let expected = json!({
            "metadata": { "name": "p", "annotations": { "cni.projectcalico.org/podIP": "10.0.0.1" } },
            "spec": { "nodeName": "a", "containers": [{ "ports": [{ "name": "http" }] }] },
            "status": { "phase": "Running" },
        });
        assert_eq!(read, expected);
    }

    #[test]
    fn what_has_another_form_is_read_whole() {
        for odd in [
            json!({ "metadata": [1, { "a": null }], "spec": "text", "status": 1.5 }),
            json!({ "spec": { "containers": { "ports": true }, "nodeName": -1 } }),
            json!([true]),
            json!(null),
        ] {
            assert_eq!(POD.read(odd.to_string().as_bytes()).unwrap(), odd);
        }
    }
}
