//! The fields of what someone wrote, by the schema of its kind: read as calicoctl reads them, and
//! the unknown ones with the name that was meant.

use model::{
    Kind,
    validate::{
        self,
        schema::{self, Type},
    },
};
use serde_json::Value;

use super::{Object, kinds, shape::Fault};

/// How deep fields are looked for when one stands in the wrong place.
const MAX_DEPTH: usize = 6;

/// The object of a schema as its readers know it: field names of any case in the right one, numbers
/// and booleans as text where text is meant. Fields that the kind doesn't have are faults.
pub(crate) fn fit(schema: &schema::Schema, raw: &Object, faults: &mut Vec<Fault>) -> Object {
    Fitting { schema, faults }.object(&schema.object, raw, "")
}

struct Fitting<'a> {
    schema: &'a schema::Schema,
    faults: &'a mut Vec<Fault>,
}

fn is_type(name: &str) -> bool {
    ["kind", "apiVersion"].iter().any(|field| name.eq_ignore_ascii_case(field))
}

impl Fitting<'_> {
    fn object(&mut self, object: &schema::Object, raw: &Object, path: &str) -> Object {
        let mut fitted = Object::new();
        for (name, value) in raw {
            let known = object.fields.iter().find(|field| field.name == name).or_else(|| {
                object.fields.iter().find(|field| field.name.eq_ignore_ascii_case(name))
            });
            let place = joined(path, name);
            match known {
                // These two say of which kind it is; they were read before.
                None if path.is_empty() && is_type(name) => {}
                None => {
                    let rule = advice(self.schema, object, path, name);
                    self.faults.push(Fault::new(place, rule));
                }
                Some(field) if field.name != name && raw.contains_key(field.name) => {
                    let rule = format!("is there twice, as {} too; remove one", field.name);
                    self.faults.push(Fault::new(place, rule));
                }
                Some(field) => {
                    let value = self.value(&field.shape, value, &place);
                    fitted.insert(field.name.to_owned(), value);
                }
            }
        }
        fitted
    }

    fn value(&mut self, shape: &schema::Shape, raw: &Value, path: &str) -> Value {
        match (&shape.ty, raw) {
            (Type::Object(object), Value::Object(raw)) => self.object(object, raw, path).into(),
            (Type::List(items), Value::Array(raw)) => raw
                .iter()
                .enumerate()
                .map(|(index, raw)| self.value(items, raw, &format!("{path}[{index}]")))
                .collect(),
            (Type::Map(values), Value::Object(raw)) => {
                let fields = raw.iter().map(|(name, raw)| {
                    (name.clone(), self.value(values, raw, &joined(path, name)))
                });
                Value::Object(fields.collect())
            }
            (Type::Text, Value::Number(_) | Value::Bool(_)) => raw.to_string().into(),
            (Type::Text, Value::Object(labels)) if path.ends_with("elector") => {
                let rule = match as_selector(labels) {
                    Some(text) => format!("a selector is text, not a map; write {text:?}"),
                    None => "a selector is text, not a map, such as \"role == 'web'\"".to_owned(),
                };
                self.faults.push(Fault::new(path, rule));
                Value::Null
            }
            _ => raw.clone(),
        }
    }
}

/// A map of labels, as Kubernetes has it, as a selector that chooses the same.
fn as_selector(labels: &Object) -> Option<String> {
    let labels = match labels.get("matchLabels") {
        Some(Value::Object(inner)) if labels.len() == 1 => inner,
        _ => labels,
    };
    let terms: Option<Vec<String>> = labels
        .iter()
        .map(|(name, value)| match value {
            Value::String(value) if value.is_empty() => Some(format!("has({name})")),
            Value::String(value) if !value.contains('\'') => Some(format!("{name} == '{value}'")),
            Value::Null => Some(format!("has({name})")),
            Value::Number(_) | Value::Bool(_) => Some(format!("{name} == '{value}'")),
            _ => None,
        })
        .collect();
    terms.filter(|terms| !terms.is_empty()).map(|terms| terms.join(" && "))
}

fn joined(path: &str, name: &str) -> String {
    let is_plain = !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte));
    match (path.is_empty(), is_plain) {
        (true, true) => name.to_owned(),
        (false, true) => format!("{path}.{name}"),
        (_, false) => format!("{path}[{name:?}]"),
    }
}

/// Fields that people know from elsewhere, and what means the same here.
const KNOWN_ELSEWHERE: &[(Kind, &str, &str)] = &[
    (
        Kind::IPPool,
        "encapsulation",
        "it is a field of the operator's Installation; a pool has ipipMode and vxlanMode, each \
         Never, Always or CrossSubnet",
    ),
    (
        Kind::NetworkPolicy,
        "podSelector",
        "it is a field of networking.k8s.io/v1; here it is selector, such as selector: app == 'web'",
    ),
    (
        Kind::NetworkPolicy,
        "policyTypes",
        "it is a field of networking.k8s.io/v1; here it is types: [Ingress, Egress]",
    ),
    (
        Kind::NetworkPolicy,
        "from",
        "it is a field of networking.k8s.io/v1; here a rule has action: Allow and source, with \
         selector or nets",
    ),
    (
        Kind::NetworkPolicy,
        "to",
        "it is a field of networking.k8s.io/v1; here a rule has action: Allow and destination, with \
         selector or nets",
    ),
];

/// What to do about a field that the object at `path` doesn't have.
fn advice(schema: &schema::Schema, object: &schema::Object, path: &str, name: &str) -> String {
    let kind = schema.kind;
    let known = KNOWN_ELSEWHERE.iter().find(|(of, known, _)| *of == kind && *known == name);
    if let Some((_, _, instead)) = known {
        return format!("{kind} has no such field: {instead}");
    }
    // The right name in the wrong place, here below or anywhere.
    let below = find(object, name, path, 1);
    if !below.is_empty() {
        return format!("unknown field here; did you mean {}?", below.join(" or "));
    }
    let anywhere = find(&schema.object, name, "", 1);
    let owners = owners(kind, path, name);
    let similar = kinds::nearest(name, object.fields.iter().map(|field| field.name));
    match (owners.as_slice(), anywhere.as_slice(), similar) {
        ([], [], Some(similar)) => format!("unknown field; did you mean {similar}?"),
        ([], [], None) if !elsewhere(kind, name).is_empty() => {
            let places = elsewhere(kind, name).join(" or ");
            format!("{kind} has no such field: it is {places}; write it there")
        }
        ([], [], None) => {
            let known = object.fields.iter().map(|field| field.name);
            let of_all = ["apiVersion", "kind"].into_iter().filter(|_| path.is_empty());
            let known: Vec<_> = of_all.chain(known).collect();
            format!("unknown field; remove it, known here are {}", known.join(", "))
        }
        ([], places, _) => format!("unknown field here; did you mean {}?", places.join(" or ")),
        (owners, [], _) => {
            format!("{kind} has no such field: it is one of {}; remove it", owners.join(", "))
        }
        (owners, places, _) => format!(
            "{kind} has no such field here: it is one of {}; did you mean {}?",
            owners.join(", "),
            places.join(" or ")
        ),
    }
}

/// The paths of the shallowest fields of this name below an object, three at most.
fn find(object: &schema::Object, name: &str, path: &str, depth: usize) -> Vec<String> {
    if depth > MAX_DEPTH {
        return Vec::new();
    }
    if depth > 1 && object.fields.iter().any(|field| field.name == name) {
        return vec![joined(path, name)];
    }
    let inner = object.fields.iter().filter(|field| !is_bookkeeping(field.name));
    let deeper: Vec<String> = inner
        .flat_map(|field| {
            let path = joined(path, field.name);
            match field.shape.ty {
                Type::Object(object) => find(object, name, &path, depth + 1),
                Type::List(schema::Shape { ty: Type::Object(object), .. }) => {
                    find(object, name, &format!("{path}[]"), depth + 1)
                }
                _ => Vec::new(),
            }
        })
        .collect();
    let steps = |path: &String| path.matches('.').count();
    let shallowest = deeper.iter().map(steps).min();
    deeper.into_iter().filter(|path| Some(steps(path)) == shallowest).take(3).collect()
}

/// Where other kinds have a field of this name, `spec.bgp.asNumber of Node`; nothing if many have it.
fn elsewhere(kind: Kind, name: &str) -> Vec<String> {
    let others = validate::schemas().filter(|other| other.kind != kind);
    let places: Vec<String> = others
        .flat_map(|other| {
            let found = find(&other.object, name, "", 1).into_iter();
            found.map(|path| format!("{path} of {}", other.kind)).collect::<Vec<_>>()
        })
        .collect();
    if places.len() > 2 { Vec::new() } else { places }
}

/// Nobody means these when a field is in the wrong place.
fn is_bookkeeping(name: &str) -> bool {
    matches!(name, "status" | "managedFields" | "ownerReferences")
}

/// The other kinds that have this field at this path.
fn owners(kind: Kind, path: &str, name: &str) -> Vec<&'static str> {
    if path.is_empty() || path.starts_with("metadata") {
        return Vec::new();
    }
    let steps: Vec<&str> =
        path.split('.').map(|step| step.split('[').next().unwrap_or(step)).collect();
    let others = validate::schemas().filter(|other| other.kind != kind);
    let has = others.filter(|other| {
        let mut object = &other.object;
        for step in &steps {
            let field = object.fields.iter().find(|field| field.name == *step);
            object = match field.map(|field| field.shape.ty) {
                Some(Type::Object(inner)) => inner,
                Some(Type::List(schema::Shape { ty: Type::Object(inner), .. })) => inner,
                _ => return false,
            };
        }
        object.fields.iter().any(|field| field.name == name)
    });
    has.map(|schema| schema.kind.name()).collect()
}
