//! Is this JSON a resource? What isn't right is named with its path, and all of it at once.

use model::{
    Key, Kind,
    validate::{self, Verdict, schema::Schema},
};
use serde_json::{Map, Value, json};

use super::{API_VERSION, CRD_VERSION, METADATA_ANNOTATION, Object, fields, kinds, patch};

/// What is wrong with an object, and the way out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {rule}")]
pub(crate) struct Fault {
    /// Where, for example `metadata.labels.app`.
    pub(crate) path: String,
    /// What is there, what the rule is, and what would be right.
    pub(crate) rule: String,
}

impl Fault {
    pub(crate) fn new(path: impl Into<String>, rule: impl Into<String>) -> Self {
        Self { path: path.into(), rule: rule.into() }
    }
}

/// What is wrong with one document: how far its object is known, `IPPool p1`, and each fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Faulty {
    /// Empty where even the kind isn't known.
    pub(crate) object: String,
    /// At least one.
    pub(crate) faults: Vec<Fault>,
}

/// What is kept of the metadata. The store writes the rest itself, so that what `get` printed can be
/// applied.
const KEPT: &[&str] = &["name", "namespace", "labels", "annotations"];

/// A resource as someone wrote it: every field is known and of its type, no other rule was applied.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Written {
    pub(crate) kind: Kind,
    /// Empty where it is to be computed, or missing.
    pub(crate) name: String,
    /// Empty where none is given.
    pub(crate) namespace: String,
    /// Of the object that it is meant to replace; empty: whatever is there.
    pub(crate) version: String,
    /// The object of the v3 API, without what the store writes.
    object: Object,
}

impl Written {
    /// A resource of which nothing but the name is known.
    pub(crate) fn named(kind: Kind, name: &str) -> Self {
        let mut metadata = Map::new();
        metadata.insert("name".to_owned(), name.into());
        let mut object = Map::new();
        object.insert("metadata".to_owned(), metadata.into());
        Self {
            kind,
            name: name.to_owned(),
            namespace: String::new(),
            version: String::new(),
            object: with_type(kind, object),
        }
    }

    /// Puts it into the namespace that it says, else into the one that was asked for, else into
    /// `default`; a kind without namespaces into none.
    pub(crate) fn place(&mut self, asked: Option<&str>) -> Result<(), Fault> {
        let at = "metadata.namespace";
        if !self.kind.is_namespaced() {
            if !self.namespace.is_empty() {
                let rule = format!(
                    "{:?} must not be set: {} has no namespaces; remove it",
                    self.namespace, self.kind
                );
                return Err(Fault::new(at, rule));
            }
            return match asked {
                Some(_) => Err(Fault::new(
                    "-n",
                    format!("{} has no namespaces; leave out --namespace", self.kind),
                )),
                None => Ok(()),
            };
        }
        match asked {
            Some(asked) if !self.namespace.is_empty() && self.namespace != asked => {
                let rule = format!(
                    "{:?} is not {asked:?}, which --namespace says; make them agree",
                    self.namespace
                );
                return Err(Fault::new(at, rule));
            }
            _ if !self.namespace.is_empty() => {}
            asked => asked.unwrap_or("default").clone_into(&mut self.namespace),
        }
        super::map_at(&mut self.object, "metadata")
            .insert("namespace".to_owned(), self.namespace.as_str().into());
        Ok(())
    }

    /// Its key. An endpoint without a name has the one that its spec makes.
    pub(crate) fn key(&self) -> Result<Key, Fault> {
        let name = match self.kind {
            Kind::WorkloadEndpoint if self.name.is_empty() => {
                endpoint_name(self.object.get("spec").unwrap_or(&Value::Null))?
            }
            _ => self.name.clone(),
        };
        if name.is_empty() {
            let rule = format!("is missing; every {} has a name: metadata: {{name: …}}", self.kind);
            return Err(Fault::new("metadata.name", rule));
        }
        Ok(if self.kind.is_namespaced() {
            Key::namespaced(self.kind, self.namespace.as_str(), name)
        } else {
            Key::global(self.kind, name)
        })
    }

    /// How messages name it: `NetworkPolicy(ns/name)`.
    pub(crate) fn called(&self) -> String {
        match self.key() {
            Ok(key) => super::called(&key),
            Err(_) => self.kind.to_string(),
        }
    }

    /// Whether it says a status.
    pub(crate) fn has_status(&self) -> bool {
        self.object.contains_key("status")
    }

    /// The resource with what it doesn't say taken from the spec that is there.
    pub(crate) fn over(&self, old: &Value) -> Self {
        let mut merged = self.clone();
        let mut spec = old["spec"].clone();
        patch::merge(&mut spec, self.object.get("spec").cloned().unwrap_or_else(|| json!({})));
        merged.object.insert("spec".to_owned(), spec);
        merged
    }

    /// What the rules of its kind say: of a new object, or of one that replaces `old`.
    pub(crate) fn judge(&self, old: Option<&Value>) -> Verdict {
        validate::validate(&Value::Object(self.object.clone()), old)
    }

    /// The same resource with the resourceVersion that it says: a new object must have none.
    pub(crate) fn judge_as_new(&self) -> Verdict {
        let mut object = self.object.clone();
        if !self.version.is_empty() {
            super::map_at(&mut object, "metadata")
                .insert("resourceVersion".to_owned(), self.version.as_str().into());
        }
        validate::validate(&Value::Object(object), None)
    }
}

/// Whether this is a list of resources, such as an `IPPoolList`; then its items.
pub(crate) fn items_of_list(value: &Value) -> Option<&Vec<Value>> {
    let kind = value.get("kind")?.as_str()?.strip_suffix("List")?;
    kind.parse::<Kind>().ok()?;
    value.get("items")?.as_array()
}

/// Gives the items of a list what an API server leaves out, because it is the same for all of them.
pub(crate) fn complete_items(list: &Value, items: &mut [Value]) {
    let kind = list["kind"].as_str().and_then(|kind| kind.strip_suffix("List"));
    for item in items.iter_mut().filter_map(Value::as_object_mut) {
        if let Some(kind) = kind.filter(|kind| !kind.is_empty()) {
            item.entry("kind").or_insert_with(|| kind.into());
            item.entry("apiVersion").or_insert_with(|| list["apiVersion"].clone());
        }
    }
}

/// Reads one resource. `is_listed`: it is an item of a list as a server gives it, whose versions and
/// status are the server's.
pub(crate) fn read(value: &Value, is_listed: bool) -> Result<Written, Faulty> {
    let value = &*validate::as_v3(value);
    let Value::Object(raw) = value else {
        let rule = format!(
            "a resource is a map of apiVersion, kind, metadata and spec, and this is {}",
            shown(value)
        );
        return Err(Faulty {
            object: String::new(),
            faults: vec![Fault::new("the document", rule)],
        });
    };
    let (schema, kind) = schema_of(raw).map_err(|(object, fault)| {
        let object = object.unwrap_or_default();
        Faulty { object, faults: vec![fault] }
    })?;
    let name = raw.get("metadata").and_then(|metadata| metadata.get("name"));
    let name = name.and_then(Value::as_str).unwrap_or_default();
    let about = |faults| Faulty { object: format!("{kind} {name}").trim_end().to_owned(), faults };

    let mut faults = Vec::new();
    let mut object = fields::fit(schema, raw, &mut faults);
    // Absent and null are the same.
    object.retain(|_, value| !value.is_null());
    if is_listed {
        object.remove("status");
    }
    let object = Value::Object(with_type(kind, object));
    faults.extend(validate::mistyped(&object).iter().map(fault_of));
    let Value::Object(mut object) = object else { return Err(about(faults)) };
    if !faults.is_empty() {
        return Err(about(faults));
    }
    let metadata = super::map_at(&mut object, "metadata");
    let text =
        |field: &str| metadata.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (name, namespace, version) = (text("name"), text("namespace"), text("resourceVersion"));
    metadata.retain(|field, value| KEPT.contains(&field.as_str()) && !value.is_null());
    if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
        // The store's own.
        annotations.remove(METADATA_ANNOTATION);
    }
    let version = if is_listed { String::new() } else { version };
    Ok(Written { kind, name, namespace, version, object })
}

/// A fault that the rules found, as one of the document.
pub(crate) fn fault_of(error: &validate::FieldError) -> Fault {
    let path = if error.field.is_empty() { "the object" } else { &error.field };
    let mut rule = validate::FieldError { field: String::new(), ..error.clone() }.to_string();
    if rule.is_empty() {
        rule.push_str("isn't right");
    }
    Fault::new(path, rule)
}

fn with_type(kind: Kind, mut object: Object) -> Object {
    object.insert("apiVersion".to_owned(), API_VERSION.into());
    object.insert("kind".to_owned(), kind.name().into());
    object
}

/// The description of the object's kind; else the object as far as it is known, and the fault.
fn schema_of(object: &Object) -> Result<(&'static Schema, Kind), (Option<String>, Fault)> {
    // As all fields, these two are known in any case.
    let text = |field: &str| {
        let value = object.get(field).or_else(|| {
            object.iter().find(|(name, _)| name.eq_ignore_ascii_case(field)).map(|(_, value)| value)
        });
        value.and_then(Value::as_str).unwrap_or_default()
    };
    let (version, kind) = (text("apiVersion"), text("kind"));
    if kind.is_empty() {
        let rule = "is missing; write for example kind: IPPool";
        return Err((None, Fault::new("kind", rule)));
    }
    if version != API_VERSION && version != CRD_VERSION {
        let is_known = kind.parse::<Kind>().is_ok();
        let rule = if version.is_empty() {
            format!("is missing; write {API_VERSION}")
        } else if version == "networking.k8s.io/v1" || version == "v1" && is_known {
            format!("{version:?} is Kubernetes' own: kubectl takes it; here write {API_VERSION}")
        } else if is_known {
            format!("{version:?} isn't known here; write {API_VERSION}")
        } else {
            format!("{version:?} isn't known here: this reads resources of {API_VERSION}")
        };
        return Err((Some(kind.to_owned()), Fault::new("apiVersion", rule)));
    }
    let refuse = |rule: String| Err((None, Fault::new("kind", rule)));
    let Ok(found) = kind.parse::<Kind>() else {
        return refuse(match kinds::parse(kind) {
            Ok(meant) => format!("{kind:?} is no kind; in a file write it exactly: {meant}"),
            Err(_) => match kinds::nearest(kind, Kind::all().map(Kind::name)) {
                Some(near) => format!("{kind:?} is no kind; did you mean {near}?"),
                None if kind == "List" => {
                    "List is not taken; write documents separated by ---".to_owned()
                }
                None if kinds::is_of_kubernetes(kind) => {
                    format!("{kind:?} is Kubernetes' own; kubectl takes it")
                }
                None => format!("{kind:?} is no kind of {API_VERSION}"),
            },
        });
    };
    if kinds::is_of_ipam(found) {
        return refuse(format!(
            "{found} is written by the address management alone, never by hand"
        ));
    }
    match validate::schemas().find(|schema| schema.kind == found) {
        Some(schema) => Ok((schema, found)),
        None => refuse(format!("{found} can't be written by hand")),
    }
}

/// The name `<node>-<orchestrator>-<workload>-<endpoint>`, each dash within a part doubled
/// (Calico: `libcalico-go/lib/names`).
fn endpoint_name(spec: &Value) -> Result<String, Fault> {
    let part = |field: &str| match spec[field].as_str() {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(Fault::new(
            format!("spec.{field}"),
            "is missing; the endpoint's name is made of it",
        )),
    };
    let orchestrator = part("orchestrator")?;
    let workload = match orchestrator.as_str() {
        "k8s" => part("pod")?,
        "cni" => part("containerID")?,
        "libnetwork" => "libnetwork".to_owned(),
        _ => part("workload")?,
    };
    let parts = [part("node")?, orchestrator, workload, part("endpoint")?];
    Ok(parts.map(|part| part.replace('-', "--")).join("-"))
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
    use super::*;

    fn node(spec: &Value) -> Written {
        let object = json!({
            "apiVersion": API_VERSION, "kind": "Node", "metadata": {"name": "n"}, "spec": spec,
        });
        read(&object, false).unwrap()
    }

    #[test]
    fn a_25_what_is_not_said_of_a_node_stays() {
        let old = json!({"spec": {"bgp": {"asNumber": 64500, "ipv4Address": "10.0.0.1/24"}}});
        let merged = node(&json!({"bgp": {"routeReflectorClusterID": "224.0.0.1"}})).over(&old);
        assert_eq!(
            merged.judge(Some(&old)).defaulted.unwrap()["spec"]["bgp"],
            json!({
                "asNumber": 64500, "ipv4Address": "10.0.0.1/24",
                "routeReflectorClusterID": "224.0.0.1",
            })
        );
    }

    #[test]
    fn names_and_labels_without_quotes_are_text_and_fields_are_found_in_any_case() {
        let written = read(
            &json!({
                "apiVersion": CRD_VERSION, "kind": "IPPool",
                "metadata": {"name": 123, "labels": {"a": 1, "b": true, "c": null}, "uid": "u"},
                "spec": {"CIDR": "10.0.0.0/16", "NATOutgoing": true},
                "status": {"conditions": []},
            }),
            true,
        )
        .unwrap();
        let stored = written.judge(None).defaulted.unwrap();
        assert_eq!(stored["metadata"]["name"], "123");
        assert_eq!(stored["metadata"]["labels"]["b"], "true");
        assert_eq!(stored["spec"]["natOutgoing"], true);
        assert_eq!(stored.get("status"), None, "a list's status is the server's");
    }

    #[test]
    fn every_fault_of_an_object_is_told() {
        let faulty = read(
            &json!({
                "apiVersion": API_VERSION, "kind": "IPPool",
                "metadata": {"name": "p", "lables": {}},
                "spec": {"cidr": "10.0.0.0/16", "CIDR": "10.1.0.0/16", "blockSize": "big", "x": 1},
            }),
            false,
        )
        .unwrap_err();
        assert_eq!(faulty.object, "IPPool p");
        let paths: Vec<_> = faulty.faults.iter().map(|fault| fault.path.as_str()).collect();
        assert_eq!(paths, ["metadata.lables", "spec.CIDR", "spec.x", "spec.blockSize"]);
    }

    #[test]
    fn a_resource_says_its_kind_and_version_in_any_case_of_their_names() {
        let object = json!({
            "APIVersion": API_VERSION, "KIND": "Tier",
            "Metadata": {"NAME": "t"}, "SPEC": {"Order": 3},
        });
        let written = read(&object, false).unwrap_or_else(|faulty| panic!("{:?}", faulty.faults));
        assert_eq!((written.kind, written.name.as_str()), (Kind::Tier, "t"));
        assert_eq!(written.object["spec"]["order"], 3);
    }
}
