//! Single objects: get, and writes by compare-and-swap.
//!
//! A write goes over the object that is there: annotations, finalizers and owners that others put on it stay.

use http::{Method, StatusCode};
use model::{Key, Kind, Stored};
use serde_json::{Map, Value, json};

use super::connection::Refusal;
use super::resources::{Resource, is_path_part};
use super::shape::Encoded;
use super::{ApiGroup, Shared, bad_version, shape, version};
use crate::error::{Conflict, Error, Result};
use crate::store::{Compare, Expected, Item, Write};

/// An object as the API has it.
struct Current {
    object: Value,
    version: u64,
}

/// Where a key's object is.
struct Place {
    resource: &'static Resource,
    group: ApiGroup,
    path: String,
    namespace: String,
}

impl Shared {
    async fn place(&self, key: &Key) -> Result<Place> {
        let invalid = |reason| Error::Key { key: key.clone(), reason };
        let derived = "it is derived from an object of Kubernetes; change that with kubectl";
        let resource = Resource::stored(key.kind).ok_or_else(|| invalid(derived))?;
        match (key.kind.is_namespaced(), key.namespace.is_empty()) {
            (true, true) => return Err(invalid("it needs a namespace")),
            (false, false) => return Err(invalid("its kind has no namespaces")),
            _ => {}
        }
        let name = shape::name(key).map_err(invalid)?;
        if name.is_empty() {
            return Err(invalid("its name is empty"));
        }
        let namespace = key.namespace.to_string();
        if !is_path_part(&name) || (!namespace.is_empty() && !is_path_part(&namespace)) {
            return Err(invalid("a name can't contain a slash"));
        }
        let group = self.group(resource).await?;
        let path = resource.path_of(group, &namespace, &name);
        Ok(Place { resource, group, path, namespace })
    }

    async fn current(&self, place: &Place, key: &Key) -> Result<Option<Current>> {
        let operation = format!("get {key}");
        match self.connection.request(&operation, Method::GET, &place.path, None).await? {
            Ok(object) => {
                let version = self.version(&operation, &object)?;
                Ok(Some(Current { object, version }))
            }
            Err(refusal) if refusal.code == StatusCode::NOT_FOUND => Ok(None),
            Err(refusal) => Err(self.connection.refused(&operation, refusal)),
        }
    }

    fn version(&self, operation: &str, object: &Value) -> Result<u64> {
        let text = object["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        version(text).ok_or_else(|| bad_version(&self.connection, operation, text))
    }

    /// What was found instead of what was expected.
    async fn conflict(&self, place: &Place, key: &Key) -> Result<Error> {
        let current = self.current(place, key).await?.and_then(|it| item(place, &it));
        Ok(conflict(key, current))
    }

    fn refused(&self, operation: &str, place: &Place, refusal: Refusal) -> Error {
        match refusal.code {
            // The object is known not to be what is missing.
            StatusCode::NOT_FOUND => Error::Refused {
                store: self.connection.describe(),
                reason: format!(
                    "{operation}: {} (404): is the namespace there, and the definition of {}?",
                    refusal.message,
                    place.resource.definition(place.group)
                ),
            },
            _ => self.connection.refused(operation, refusal),
        }
    }
}

fn conflict(key: &Key, current: Option<Item>) -> Error {
    Error::Conflict(Box::new(Conflict { current: vec![(key.clone(), current)] }))
}

fn item(place: &Place, current: &Current) -> Option<Item> {
    let json = current.object.to_string();
    let object = shape::read(place.resource, place.group, Encoded::Json(json.as_bytes()))?;
    Some(Item { key: object.key?, value: object.value?, version: current.version })
}

pub(super) async fn get(shared: &Shared, key: &Key) -> Result<Option<Item>> {
    if Resource::stored(key.kind).is_none() {
        return derived(shared, key).await;
    }
    let place = shared.place(key).await?;
    Ok(shared.current(&place, key).await?.and_then(|current| item(&place, &current)))
}

/// An object that is derived from another, which can't be told from its name alone.
async fn derived(shared: &Shared, key: &Key) -> Result<Option<Item>> {
    for (resource, index) in super::RESOURCES.iter().zip(0..) {
        if resource.kind == key.kind {
            let stream = model::StreamIndex(index);
            let items = match super::list::list(shared, stream, key.kind.into(), None).await {
                Err(Error::NotServed { .. }) => continue,
                listing => listing?.items,
            };
            if let Some(item) = items.into_iter().find(|item| item.key == *key) {
                return Ok(Some(item));
            }
        }
    }
    Ok(None)
}

pub(super) async fn create(shared: &Shared, key: &Key, value: &Stored) -> Result<u64> {
    let place = shared.place(key).await?;
    if key.kind == Kind::Node {
        if let Some(current) = shared.current(&place, key).await? {
            return Err(conflict(key, item(&place, &current)));
        }
        let reason =
            "a Node is made by its kubelet; Calico's fields can be written once it is there";
        return Err(Error::Key { key: key.clone(), reason });
    }
    let object = Value::Object(written(key, value, place.group)?);
    let operation = format!("create {key}");
    let path = place.resource.path_in(place.group, &place.namespace);
    // An object that is marked as deleted counts as gone; one may be in the way.
    for _ in 0..2 {
        match shared.connection.request(&operation, Method::POST, &path, Some(&object)).await? {
            Ok(created) => return shared.version(&operation, &created),
            Err(refusal) if refusal.reason == "AlreadyExists" => {
                let Some(current) = shared.current(&place, key).await? else { continue };
                match item(&place, &current) {
                    Some(item) => return Err(conflict(key, Some(item))),
                    None => drop(remove(shared, &place, key, Some(current.version)).await?),
                }
            }
            Err(refusal) => return Err(shared.refused(&operation, &place, refusal)),
        }
    }
    Err(shared.conflict(&place, key).await?)
}

pub(super) async fn update(
    shared: &Shared,
    key: &Key,
    value: &Stored,
    expected: u64,
) -> Result<u64> {
    let place = shared.place(key).await?;
    let Some(current) = shared.current(&place, key).await? else {
        return Err(conflict(key, None));
    };
    if current.version != expected {
        return Err(conflict(key, item(&place, &current)));
    }
    let operation = format!("update {key}");
    let connection = &shared.connection;
    let answer = if key.kind == Kind::Node {
        let value = json(key, value)?;
        let merged = shape::node_patch(value, &current.object, expected);
        // Who may write a node's status needn't be allowed to write nodes.
        let path = format!("{}/status", place.path);
        connection.request(&operation, Method::PATCH, &path, Some(&merged)).await?
    } else {
        let object = written(key, value, place.group)?;
        let object = over(current.object, object);
        connection.request(&operation, Method::PUT, &place.path, Some(&object)).await?
    };
    match answer {
        Ok(updated) => shared.version(&operation, &updated),
        Err(refusal) if matches!(refusal.code, StatusCode::CONFLICT | StatusCode::NOT_FOUND) => {
            Err(shared.conflict(&place, key).await?)
        }
        Err(refusal) => Err(shared.refused(&operation, &place, refusal)),
    }
}

/// `new` in the place of `current`, with what others said of it.
fn over(mut current: Value, new: Map<String, Value>) -> Value {
    let mut metadata = current.get_mut("metadata").map(Value::take).unwrap_or_default();
    let mut object = Value::Object(new);
    if let (Value::Object(kept), Some(Value::Object(new))) =
        (&mut metadata, object.get_mut("metadata"))
    {
        let mut annotations = match kept.remove("annotations") {
            Some(Value::Object(annotations)) => annotations,
            _ => Map::new(),
        };
        if let Some(Value::Object(more)) = new.remove("annotations") {
            annotations.extend(more);
        }
        // Who owns which field is worked out anew.
        kept.remove("managedFields");
        kept.remove("labels");
        kept.append(new);
        if !annotations.is_empty() {
            kept.insert("annotations".to_owned(), Value::Object(annotations));
        }
    }
    object["metadata"] = metadata;
    object
}

pub(super) async fn delete(shared: &Shared, key: &Key, expected: Option<u64>) -> Result<bool> {
    let place = shared.place(key).await?;
    if key.kind == Kind::Node {
        let reason = "a Node is Kubernetes' own: delete it with kubectl";
        return Err(Error::Key { key: key.clone(), reason });
    }
    remove(shared, &place, key, expected).await
}

async fn remove(shared: &Shared, place: &Place, key: &Key, expected: Option<u64>) -> Result<bool> {
    let mut options = json!({ "apiVersion": "v1", "kind": "DeleteOptions" });
    if let Some(version) = expected {
        options["preconditions"] = json!({ "resourceVersion": version.to_string() });
    }
    let operation = format!("delete {key}");
    let connection = &shared.connection;
    match connection.request(&operation, Method::DELETE, &place.path, Some(&options)).await? {
        Ok(_) => Ok(true),
        Err(refusal) => match (refusal.code, expected) {
            (StatusCode::NOT_FOUND, None) => Ok(false),
            (StatusCode::NOT_FOUND | StatusCode::CONFLICT, _) => {
                Err(shared.conflict(place, key).await?)
            }
            _ => Err(connection.refused(&operation, refusal)),
        },
    }
}

/// One compare and one write of the same key; more can't be done at once.
pub(super) async fn txn(shared: &Shared, compares: &[Compare], writes: &[Write]) -> Result<u64> {
    let too_much = || Error::Refused {
        store: shared.connection.describe(),
        reason: "it writes one object at a time, and compares just that one".to_owned(),
    };
    let [write] = writes else { return Err(too_much()) };
    let (Write::Put(key, _) | Write::Delete(key)) = write;
    let expected = match compares {
        [] => None,
        [compare] if compare.key == *key => Some(compare.expected),
        _ => return Err(too_much()),
    };
    match (write, expected) {
        (Write::Put(key, value), Some(Expected::Absent)) => create(shared, key, value).await,
        (Write::Put(key, value), Some(Expected::Version(at))) => {
            update(shared, key, value, at).await
        }
        (Write::Put(key, value), None) => match get(shared, key).await? {
            Some(item) => update(shared, key, value, item.version).await,
            None => create(shared, key, value).await,
        },
        (Write::Delete(_), Some(Expected::Absent)) => Err(too_much()),
        (Write::Delete(key), Some(Expected::Version(at))) => {
            delete(shared, key, Some(at)).await?;
            Ok(at)
        }
        (Write::Delete(key), None) => {
            delete(shared, key, None).await?;
            Ok(0)
        }
    }
}

fn written(key: &Key, value: &Stored, group: ApiGroup) -> Result<Map<String, Value>> {
    let invalid = |reason| Error::Key { key: key.clone(), reason };
    shape::write(key, json(key, value)?, group).map_err(invalid)
}

fn json<'a>(key: &Key, value: &'a Stored) -> Result<&'a Value> {
    let not_json = "only JSON objects can be kept in Kubernetes";
    match value {
        Stored::Json(value @ Value::Object(_)) => Ok(value),
        Stored::Json(_) | Stored::Raw(_) => Err(Error::Key { key: key.clone(), reason: not_json }),
    }
}
