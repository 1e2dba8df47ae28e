//! Reads of an object only what is used: most of a pod is never looked at, nor kept.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// What of a value is read. A value of another form than expected is read whole from JSON, so that it can be named.
#[derive(Debug)]
pub(super) enum Fields {
    /// Everything; of JSON only.
    All,
    /// These fields of an object, with their numbers in protobuf; 0: it only comes as JSON.
    Only(&'static [(&'static str, u64, Fields)]),
    /// This of each item of a list.
    Each(&'static Fields),
    /// The entries of a map of texts whose keys are wanted.
    Keys(fn(&str) -> bool),
    Text,
    Number,
    Flag,
    Time,
    NumberOrText,
}

use Fields::{All, Each, Flag, Keys, Number, NumberOrText, Only, Text, Time};

/// A map of texts.
const TEXTS: Fields = Keys(|_| true);

/// Objects of Calico.
pub(super) static CALICO: Fields = Only(&[
    (
        "metadata",
        0,
        Only(&[
            ("name", 0, All),
            ("namespace", 0, All),
            ("generateName", 0, All),
            ("uid", 0, All),
            ("resourceVersion", 0, All),
            ("creationTimestamp", 0, All),
            ("labels", 0, All),
            ("annotations", 0, All),
        ]),
    ),
    ("spec", 0, All),
    ("status", 0, All),
]);

/// Objects of which only the metadata counts.
pub(super) static NAMED: Fields = Only(&[(
    "metadata",
    1,
    Only(&[
        ("name", 1, Text),
        ("namespace", 3, Text),
        ("uid", 5, Text),
        ("resourceVersion", 6, Text),
        ("creationTimestamp", 8, Time),
        ("labels", 11, TEXTS),
    ]),
)]);

/// What bookmarks say.
pub(super) static BOOKMARK: Fields =
    Only(&[("metadata", 1, Only(&[("resourceVersion", 6, Text), ("annotations", 12, TEXTS)]))]);

/// What the API server says of a request.
pub(super) static STATUS: Fields =
    Only(&[("message", 3, Text), ("reason", 4, Text), ("code", 6, Number)]);

pub(super) static NETWORK_POLICY: Fields = Only(&[
    ("metadata", 1, POLICY_METADATA),
    (
        "spec",
        2,
        Only(&[
            ("podSelector", 1, LABEL_SELECTOR),
            ("ingress", 2, Each(&Only(&[("ports", 1, POLICY_PORTS), ("from", 2, PEERS)]))),
            ("egress", 3, Each(&Only(&[("ports", 1, POLICY_PORTS), ("to", 2, PEERS)]))),
            ("policyTypes", 4, Each(&Text)),
        ]),
    ),
]);

const LABEL_SELECTOR: Fields = Only(&[
    ("matchLabels", 1, TEXTS),
    (
        "matchExpressions",
        2,
        Each(&Only(&[("key", 1, Text), ("operator", 2, Text), ("values", 3, Each(&Text))])),
    ),
]);

const PEERS: Fields = Each(&Only(&[
    ("podSelector", 1, LABEL_SELECTOR),
    ("namespaceSelector", 2, LABEL_SELECTOR),
    ("ipBlock", 3, Only(&[("cidr", 1, Text), ("except", 2, Each(&Text))])),
]));

const POLICY_PORTS: Fields =
    Each(&Only(&[("protocol", 1, Text), ("port", 2, NumberOrText), ("endPort", 3, Number)]));

/// Which service a slice is of is a label.
pub(super) static ENDPOINT_SLICE: Fields = Only(&[
    (
        "metadata",
        1,
        Only(&[
            ("name", 1, Text),
            ("namespace", 3, Text),
            ("uid", 5, Text),
            ("resourceVersion", 6, Text),
            ("creationTimestamp", 8, Time),
            ("labels", 11, Keys(|label| label == "kubernetes.io/service-name")),
        ]),
    ),
    ("endpoints", 2, Each(&Only(&[("addresses", 1, Each(&Text))]))),
    ("ports", 3, Each(&Only(&[("name", 1, Text), ("protocol", 2, Text), ("port", 3, Number)]))),
    ("addressType", 4, Text),
]);

pub(super) static CLUSTER_NETWORK_POLICY: Fields =
    Only(&[("metadata", 0, POLICY_METADATA), ("spec", 0, All)]);

const POLICY_METADATA: Fields = Only(&[
    ("name", 1, Text),
    ("namespace", 3, Text),
    ("uid", 5, Text),
    ("resourceVersion", 6, Text),
    ("creationTimestamp", 8, Time),
]);

pub(super) static NODE: Fields = Only(&[
    (
        "metadata",
        1,
        Only(&[
            ("name", 1, Text),
            ("uid", 5, Text),
            ("resourceVersion", 6, Text),
            ("creationTimestamp", 8, Time),
            ("labels", 11, TEXTS),
            ("annotations", 12, Keys(is_of_calico)),
        ]),
    ),
    ("spec", 2, Only(&[("podCIDRs", 7, Each(&Text))])),
    (
        "status",
        3,
        Only(&[("addresses", 5, Each(&Only(&[("type", 1, Text), ("address", 2, Text)])))]),
    ),
]);

pub(super) static POD: Fields = Only(&[
    (
        "metadata",
        1,
        Only(&[
            ("name", 1, Text),
            ("generateName", 2, Text),
            ("namespace", 3, Text),
            ("uid", 5, Text),
            ("resourceVersion", 6, Text),
            ("creationTimestamp", 8, Time),
            ("deletionTimestamp", 9, Time),
            ("labels", 11, TEXTS),
            ("annotations", 12, Keys(is_of_pods)),
        ]),
    ),
    (
        "spec",
        2,
        Only(&[
            ("containers", 2, CONTAINERS),
            ("serviceAccountName", 8, Text),
            ("nodeName", 10, Text),
            ("hostNetwork", 11, Flag),
            ("initContainers", 20, CONTAINERS),
        ]),
    ),
    (
        "status",
        3,
        Only(&[
            ("phase", 1, Text),
            ("podIP", 6, Text),
            ("podIPs", 12, Each(&Only(&[("ip", 1, Text)]))),
        ]),
    ),
]);

const CONTAINERS: Fields = Each(&Only(&[(
    "ports",
    6,
    Each(&Only(&[
        ("name", 1, Text),
        ("hostPort", 2, Number),
        ("containerPort", 3, Number),
        ("protocol", 4, Text),
        ("hostIP", 5, Text),
    ])),
)]));

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
            Only(_) | Each(_) | Keys(_) => deserializer.deserialize_any(self),
            All | Text | Number | Flag | Time | NumberOrText => {
                serde::Deserialize::deserialize(deserializer)
            }
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
        while let Some((key, wanted)) = map.next_key_seed(Wanted(self))? {
            match wanted {
                Some(fields) => drop(object.insert(key, map.next_value_seed(fields)?)),
                None => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(Value::Object(object))
    }
}

/// The name of a field, and what of it is read; of what isn't, the name is empty: nobody needs it.
struct Wanted(&'static Fields);

impl<'de> DeserializeSeed<'de> for Wanted {
    type Value = (String, Option<&'static Fields>);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Wanted {
    type Value = (String, Option<&'static Fields>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        let wanted = match self.0 {
            Only(fields) => fields.iter().find(|(name, ..)| *name == key).map(|(.., it)| it),
            Keys(is_wanted) => is_wanted(key).then_some(&All),
            _ => Some(&All),
        };
        Ok((wanted.map(|_| key.to_owned()).unwrap_or_default(), wanted))
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
