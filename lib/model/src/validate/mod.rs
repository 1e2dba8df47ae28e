//! Whether an object may be, and what is stored of it: one pure function of the object.
//!
//! ```text
//! JSON --decode--> read --------------------encode, defaults--> written --check--> valid
//!                   |
//!                   +--on_write, write rules--encode, defaults--> written --check--> defaulted
//! ```
//!
//! Everything that a kind is stands in its [`Schema`](schema::Schema), as data; the rules between
//! fields are small functions beside it. What agrees with Calico, and what doesn't on purpose, is
//! held to golden cases.

mod check;
pub mod crd;
mod crd_v1;
mod decode;
mod encode;
mod fault;
mod format;
mod kinds;
mod net;
mod notation;
pub mod reference;
mod regex;
pub mod schema;
pub mod yaml;

pub use crd_v1::as_v3;
use decode::Decoder;
use fault::{Faults, Path};
pub use fault::{FieldError, MAX_FAULTS};
pub(crate) use format::{is_label_value, is_port_name, is_qualified_name};
use schema::{Schema, Scope, Write};
use serde_json::{Map, Value};

/// The API version that objects are stored with.
pub const API_VERSION: &str = "projectcalico.org/v3";

/// What is said of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Whether the object, as it is given, breaks no rule of its kind.
    pub valid: bool,
    /// What is wrong with it, and what else keeps it from being written; none: nothing does.
    pub errors: Vec<FieldError>,
    /// The object as a write stores it, with all defaults; none: a write is refused. Some objects
    /// are invalid as given, and yet a write repairs them.
    pub defaulted: Option<Value>,
    /// Paths of fields that the kind doesn't have. They aren't stored.
    pub unknown_fields: Vec<String>,
}

/// Judges an object of the v3 API: on its own, and as a write over `old` (none: there is nothing
/// yet). The object's `kind` says which rules apply.
pub fn validate(object: &Value, old: Option<&Value>) -> Verdict {
    let object = crd_v1::as_v3(object);
    let mut faults = Faults::default();
    let Some((schema, raw)) = recognized(&object, &mut faults) else {
        return Verdict::refused(faults, Vec::new());
    };
    let mut decoder = Decoder { faults: &mut faults, unknown: Vec::new() };
    let read = decoder.object(&schema.object, raw, &Path::ROOT);
    let mut unknown = decoder.unknown;
    // These two are known to every kind.
    unknown.retain(|field| field != "kind" && field != "apiVersion");
    if !faults.is_empty() {
        return Verdict::refused(faults, unknown);
    }
    let is_valid = judge(schema, &read, &mut faults).is_some();
    let mut write_faults = Faults::default();
    let defaulted = write(schema, read, old, &mut write_faults);
    faults.merge(write_faults);
    Verdict { valid: is_valid, errors: faults.into_list(), defaulted, unknown_fields: unknown }
}

/// The fields of an object that aren't of their type; no other rule is applied.
pub fn mistyped(object: &Value) -> Vec<FieldError> {
    let object = crd_v1::as_v3(object);
    let mut faults = Faults::default();
    if let Some((schema, raw)) = recognized(&object, &mut faults) {
        let mut decoder = Decoder { faults: &mut faults, unknown: Vec::new() };
        decoder.object(&schema.object, raw, &Path::ROOT);
    }
    faults.into_list()
}

impl Verdict {
    fn refused(faults: Faults, unknown_fields: Vec<String>) -> Self {
        Self { valid: false, errors: faults.into_list(), defaulted: None, unknown_fields }
    }
}

/// The descriptions of all kinds that have one.
pub fn schemas() -> impl Iterator<Item = &'static Schema> {
    kinds::SCHEMAS.iter().copied()
}

fn recognized<'a>(
    object: &'a Value,
    faults: &mut Faults,
) -> Option<(&'static Schema, &'a Map<String, Value>)> {
    let Value::Object(raw) = object else {
        let hint = "apiVersion, kind, metadata, spec";
        faults.add(&Path::ROOT, "", object, "an object has fields", hint);
        return None;
    };
    let kind = raw.get("kind").unwrap_or(&Value::Null);
    let schema = kind
        .as_str()
        .and_then(|kind| kinds::SCHEMAS.iter().find(|schema| schema.kind.name() == kind).copied());
    if schema.is_none() {
        let given = kind.as_str().unwrap_or_default();
        let alike = schemas().map(|schema| schema.kind.name());
        let alike = alike.into_iter().find(|known| known.eq_ignore_ascii_case(given));
        let hint = alike.map_or_else(
            || "such as IPPool or NetworkPolicy; it says which rules apply".to_owned(),
            |alike| format!("did you mean {alike}?"),
        );
        faults.add(&Path::ROOT.field("kind"), "", kind, "must be a kind of Calico's v3 API", hint);
    }
    Some((schema?, raw))
}

/// Applies the rules of a kind to an object that was read. None: it breaks one.
fn judge(
    schema: &Schema,
    read: &Map<String, Value>,
    faults: &mut Faults,
) -> Option<Map<String, Value>> {
    let mut written = encode::object(&schema.object, read);
    encode::fill_in(&schema.object, &mut written);
    let mut found = Faults::default();
    let name = &written.get("metadata").unwrap_or(&Value::Null)["name"];
    let name = if name.is_null() { Value::from("") } else { name.clone() };
    let broken = [&format::NAME, schema.name]
        .into_iter()
        .find_map(|format| Some((format.says, (format.breach)(&name)?)));
    if let Some((says, hint)) = broken {
        found.add(&Path::ROOT, "metadata.name", &name, format!("must be {says}"), hint);
    }
    check::required(&schema.object, read, &Path::ROOT, &mut found);
    check::object(&schema.object, Scope { fields: &written, read }, &Path::ROOT, &mut found);
    let is_valid = found.is_empty();
    faults.merge(found);
    is_valid.then_some(written)
}

/// What a write stores; none: it is refused.
fn write(
    schema: &Schema,
    mut read: Map<String, Value>,
    old: Option<&Value>,
    faults: &mut Faults,
) -> Option<Value> {
    (schema.on_write)(&mut read);
    let old = old.and_then(Value::as_object);
    (schema.write_rules)(&Write { object: &read, old }, faults);
    check_metadata(schema, &read, old.is_some(), faults);
    let written = judge(schema, &read, faults)?;
    if !faults.is_empty() {
        return None;
    }
    let mut stored = encode::object(&schema.object, &written);
    if let Some(meta) = stored.get_mut("metadata").and_then(Value::as_object_mut) {
        // The store's own: they are not part of what it holds.
        meta.remove("resourceVersion");
        meta.remove("selfLink");
    }
    stored.insert("kind".to_owned(), schema.kind.name().into());
    stored.insert("apiVersion".to_owned(), API_VERSION.into());
    Some(stored.into())
}

fn check_metadata(
    schema: &Schema,
    read: &Map<String, Value>,
    is_update: bool,
    faults: &mut Faults,
) {
    let meta = Scope { fields: read, read }.child("metadata");
    if !is_update && meta.has_text("resourceVersion") {
        let found = meta.get("resourceVersion").unwrap_or(&Value::Null);
        let rule = "an object that is created has no resourceVersion yet";
        faults.add(&Path::ROOT, "metadata.resourceVersion", found, rule, "leave it out");
    }
    if schema.kind.is_namespaced() && !meta.has_text("namespace") {
        let rule = format!("a {} lives in a namespace", schema.kind);
        faults.add(&Path::ROOT, "metadata.namespace", &Value::Null, rule, "set it");
    }
}
