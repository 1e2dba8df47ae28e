//! Is this JSON a resource that can be written? What is wrong is named with its path.

use arcstr::ArcStr;
use model::{Key, Kind};
use serde_json::{Map, Value};

use super::{API_VERSION, CRD_VERSION, Object, kinds};

/// What is wrong with an object, and the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{path}: {rule}", .object.as_deref().map(|name| format!("{name}: ")).unwrap_or_default())]
pub(crate) struct Fault {
    /// The object, as far as it is known: `IPPool p1`.
    pub(crate) object: Option<String>,
    /// Where, for example `metadata.labels.app`.
    pub(crate) path: String,
    /// What is there, what the rule is, and what would be right.
    pub(crate) rule: String,
}

impl Fault {
    pub(crate) fn new(path: impl Into<String>, rule: impl Into<String>) -> Self {
        Self { object: None, path: path.into(), rule: rule.into() }
    }

    fn about(mut self, object: String) -> Self {
        self.object = Some(object);
        self
    }
}

const TOP: &[&str] = &["apiVersion", "kind", "metadata", "spec", "status"];
/// What is stored of the metadata.
const KEPT: &[&str] = &["name", "namespace", "labels", "annotations"];
/// What a server writes into the metadata: dropped, so that what `get` printed can be applied.
const DROPPED: &[&str] = &[
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// A resource as someone wrote it, of the right shape: the fields of `spec` are not judged yet.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Written {
    pub(crate) kind: Kind,
    /// Empty where it is to be computed.
    pub(crate) name: String,
    /// Empty for kinds without namespaces.
    pub(crate) namespace: String,
    pub(crate) labels: Object,
    pub(crate) annotations: Object,
    pub(crate) spec: Object,
}

impl Written {
    pub(crate) fn key(&self) -> Key {
        Key {
            kind: self.kind,
            namespace: ArcStr::from(&self.namespace),
            name: ArcStr::from(&self.name),
        }
    }
}

/// Whether this is a list of resources, such as an `IPPoolList`; then its items.
pub(crate) fn items_of_list(value: &Value) -> Option<&Vec<Value>> {
    let kind = value.get("kind")?.as_str()?.strip_suffix("List")?;
    kind.parse::<Kind>().ok()?;
    value.get("items")?.as_array()
}

/// Reads one resource. `namespace` is for those that live in one and don't name it.
pub(crate) fn read(value: &Value, namespace: &str) -> Result<Written, Fault> {
    let Value::Object(object) = value else {
        let rule = format!(
            "a resource is a map of apiVersion, kind, metadata and spec, and this is {}",
            shown(value)
        );
        return Err(Fault::new("the document", rule));
    };
    let kind = kind_of(object)?;
    let metadata = match object.get("metadata") {
        None | Some(Value::Null) => &Map::new(),
        Some(Value::Object(metadata)) => metadata,
        Some(other) => {
            return Err(Fault::new("metadata", format!("must be a map, is {}", shown(other)))
                .about(kind.to_string()));
        }
    };
    let name = match metadata.get("name") {
        None | Some(Value::Null) => String::new(),
        Some(value) => {
            scalar_text("metadata.name", value).map_err(|fault| fault.about(kind.to_string()))?
        }
    };
    let about = |fault: Fault| fault.about(format!("{kind} {name}").trim_end().to_owned());
    known("", object, TOP, &[]).map_err(about)?;
    known("metadata.", metadata, KEPT, DROPPED).map_err(about)?;
    let namespace = match metadata.get("namespace") {
        None | Some(Value::Null) if kind.is_namespaced() => namespace.to_owned(),
        None | Some(Value::Null) => String::new(),
        Some(value) => scalar_text("metadata.namespace", value).map_err(about)?,
    };
    check_name(kind, &name).map_err(about)?;
    check_namespace(kind, &namespace).map_err(about)?;
    let labels = texts("metadata.labels", metadata.get("labels")).map_err(about)?;
    check_labels(&labels).map_err(about)?;
    Ok(Written {
        kind,
        labels,
        annotations: texts("metadata.annotations", metadata.get("annotations")).map_err(about)?,
        spec: match object.get("spec") {
            None | Some(Value::Null) => Object::new(),
            Some(Value::Object(spec)) => spec.clone(),
            Some(other) => {
                let rule = format!("must be a map, is {}", shown(other));
                return Err(about(Fault::new("spec", rule)));
            }
        },
        namespace,
        name,
    })
}

fn kind_of(object: &Object) -> Result<Kind, Fault> {
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (text("apiVersion"), text("kind"));
    if kind.is_empty() {
        return Err(Fault::new("kind", "is missing; write for example kind: IPPool"));
    }
    if version != API_VERSION && version != CRD_VERSION {
        let rule = format!("{version:?} isn't known here; write {API_VERSION}");
        return Err(Fault::new("apiVersion", rule).about(kind.to_owned()));
    }
    let found = kind.parse::<Kind>().map_err(|_| {
        let rule = match kinds::parse(kind) {
            Ok(meant) => format!("{kind:?} is no kind; in a file write it exactly: {meant}"),
            Err(_) => match kinds::nearest(kind, Kind::all().map(Kind::name)) {
                Some(near) => format!("{kind:?} is no kind; did you mean {near}?"),
                None if kind == "List" => {
                    "List is not taken; write documents separated by ---".to_owned()
                }
                None => format!("{kind:?} is no kind of {API_VERSION}"),
            },
        };
        Fault::new("kind", rule)
    })?;
    if kinds::is_of_ipam(found) {
        let rule = format!("{found} is written by the address management alone, never by hand");
        return Err(Fault::new("kind", rule));
    }
    Ok(found)
}

/// Fields that nobody knows are refused: a typo must not be a setting that silently doesn't hold.
fn known(prefix: &str, map: &Object, kept: &[&str], dropped: &[&str]) -> Result<(), Fault> {
    for field in map.keys() {
        if kept.contains(&field.as_str()) || dropped.contains(&field.as_str()) {
            continue;
        }
        let rule = match kinds::nearest(field, kept.iter().copied()) {
            Some(near) => format!("unknown field; did you mean {near}?"),
            None => format!("unknown field; remove it, known here are {}", kept.join(", ")),
        };
        return Err(Fault::new(format!("{prefix}{field}"), rule));
    }
    Ok(())
}

/// Names are RFC 1123 subdomains (Calico: `validator/v3`), which also keeps them out of the
/// store's paths.
fn check_name(kind: Kind, name: &str) -> Result<(), Fault> {
    // An endpoint's name is computed.
    if name.is_empty() && kind == Kind::WorkloadEndpoint {
        return Ok(());
    }
    if name.is_empty() {
        return Err(Fault::new("metadata.name", "is missing; every object has a name"));
    }
    if name.len() > 253 || !name.split('.').all(is_dns_label) {
        let rule = format!(
            "{name:?} must be lower-case letters, digits, - and ., start and end with a letter \
             or digit, and have 253 characters at most"
        );
        return Err(Fault::new("metadata.name", rule));
    }
    Ok(())
}

fn check_namespace(kind: Kind, namespace: &str) -> Result<(), Fault> {
    let rule = match (kind.is_namespaced(), namespace.is_empty()) {
        (false, true) => return Ok(()),
        (true, false) if namespace.len() <= 63 && is_dns_label(namespace) => return Ok(()),
        (false, false) => format!("{namespace:?} must not be set: {kind} has no namespaces"),
        (true, true) => "is missing".to_owned(),
        (true, false) => format!(
            "{namespace:?} must be lower-case letters, digits and -, start and end with a letter \
             or digit, and have 63 characters at most"
        ),
    };
    Err(Fault::new("metadata.namespace", rule))
}

/// Kubernetes' rules for labels: what breaks them can't be selected.
fn check_labels(labels: &Object) -> Result<(), Fault> {
    for (name, value) in labels {
        let (prefix, own) = name.rsplit_once('/').unwrap_or(("", name));
        let prefix_ok =
            !name.contains('/') || (prefix.len() <= 253 && prefix.split('.').all(is_dns_label));
        let value = value.as_str().unwrap_or_default();
        let path = format!("metadata.labels.{name}");
        if !prefix_ok || !is_label_part(own) {
            let rule = "the name must be letters, digits, -, _ and ., start and end with a letter \
                        or digit, have 63 characters at most, and may have a domain and / in front";
            return Err(Fault::new(path, rule));
        }
        if !value.is_empty() && !is_label_part(value) {
            let rule = format!(
                "{value:?} must be letters, digits, -, _ and ., start and end with a letter or \
                 digit, and have 63 characters at most"
            );
            return Err(Fault::new(path, rule));
        }
    }
    Ok(())
}

fn is_label_part(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    text.len() <= 63
        && is_edge(bytes.first())
        && is_edge(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

fn is_dns_label(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(is_inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// A map of text to text. Numbers and booleans without quotes are taken as their text.
fn texts(path: &str, value: Option<&Value>) -> Result<Object, Fault> {
    match value {
        None | Some(Value::Null) => Ok(Object::new()),
        Some(Value::Object(map)) => map
            .iter()
            .map(|(name, value)| {
                let text = scalar_text(&format!("{path}.{name}"), value)?;
                Ok((name.clone(), Value::String(text)))
            })
            .collect(),
        Some(other) => {
            Err(Fault::new(path, format!("must be a map of text to text, is {}", shown(other))))
        }
    }
}

fn scalar_text(path: &str, value: &Value) -> Result<String, Fault> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(flag) => Ok(flag.to_string()),
        other => Err(Fault::new(path, format!("must be text, is {}", shown(other)))),
    }
}

/// A value short enough for a message.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn fault(value: &Value) -> String {
        read(value, "default").unwrap_err().to_string()
    }

    fn pool(mut change: Value) -> Value {
        let mut pool = json!({
            "apiVersion": "projectcalico.org/v3",
            "kind": "IPPool",
            "metadata": {"name": "p1"},
            "spec": {"cidr": "10.0.0.0/16"},
        });
        for (field, value) in change.as_object_mut().unwrap() {
            pool[field] = value.take();
        }
        pool
    }

    #[test]
    fn a_fault_names_object_path_value_and_way_out() {
        for (change, message) in [
            (
                json!({"extra": 1}),
                "IPPool p1: extra: unknown field; remove it, known here are apiVersion, kind, metadata, spec, status",
            ),
            (json!({"sepc": {}}), "IPPool p1: sepc: unknown field; did you mean spec?"),
            (
                json!({"metadata": {"name": "p1", "lables": {}}}),
                "IPPool p1: metadata.lables: unknown field; did you mean labels?",
            ),
            (
                json!({"metadata": {"name": "p1", "labels": {"a": []}}}),
                "IPPool p1: metadata.labels.a: must be text, is []",
            ),
            (
                json!({"metadata": {"name": "p1", "namespace": "x"}}),
                "IPPool p1: metadata.namespace: \"x\" must not be set: IPPool has no namespaces",
            ),
            (
                json!({"metadata": {"name": "a/../b"}}),
                "IPPool a/../b: metadata.name: \"a/../b\" must be lower-case letters, digits, - and ., start and end with a letter or digit, and have 253 characters at most",
            ),
            (json!({"metadata": {}}), "IPPool: metadata.name: is missing; every object has a name"),
            (json!({"spec": [1]}), "IPPool p1: spec: must be a map, is [1]"),
            (json!({"kind": "IPPol"}), "kind: \"IPPol\" is no kind; did you mean IPPool?"),
            (
                json!({"kind": "ippool"}),
                "kind: \"ippool\" is no kind; in a file write it exactly: IPPool",
            ),
            (
                json!({"kind": "IPAMBlock"}),
                "kind: IPAMBlock is written by the address management alone, never by hand",
            ),
            (
                json!({"apiVersion": "v1"}),
                "IPPool: apiVersion: \"v1\" isn't known here; write projectcalico.org/v3",
            ),
        ] {
            assert_eq!(fault(&pool(change)), message);
        }
        assert_eq!(
            fault(&json!("hello")),
            "the document: a resource is a map of apiVersion, kind, metadata and spec, and this is \"hello\""
        );
    }

    #[test]
    fn what_a_server_wrote_is_dropped() {
        let written = read(
            &pool(json!({
                "metadata": {
                    "name": "p1", "uid": "u", "resourceVersion": "7", "managedFields": [],
                    "creationTimestamp": "t", "labels": {"a": 1, "b": true},
                },
                "status": {"x": 1},
            })),
            "default",
        )
        .unwrap();
        assert_eq!(written.labels, *json!({"a": "1", "b": "true"}).as_object().unwrap());
        assert_eq!(written.spec, *json!({"cidr": "10.0.0.0/16"}).as_object().unwrap());
    }
}
