//! How objects of a kind are described: their fields, types, rules and defaults, as data.
//!
//! Whatever speaks of a kind's form is made from this one description: reading, validation,
//! defaulting, its CRD and its reference page.

use std::sync::{LazyLock, OnceLock};

use ::regex::Regex;
use serde_json::{Map, Value};

use super::fault::Faults;
use crate::Kind;

/// One kind.
pub struct Schema {
    /// Which.
    pub kind: Kind,
    /// What it is for, in a sentence or two.
    pub doc: &'static str,
    /// `metadata`, `spec` and, where there is one, `status`.
    pub object: Object,
    /// What names its objects may have, apart from what holds for every name.
    pub name: &'static Format,
    /// What a write fills in, before the rules are applied. It sees the object as it was read:
    /// what is absent was absent or null.
    pub(super) on_write: fn(&mut Map<String, Value>),
    /// What must hold for a write besides the rules of the object itself.
    pub(super) write_rules: fn(&Write<'_>, &mut Faults),
    /// What an API server can check of these and of [`Schema::name`].
    pub(super) on_server: &'static [ServerRule],
}

/// A rule that an API server checks when an object is written.
pub(super) struct ServerRule {
    /// What must hold, as a sentence.
    pub(super) says: &'static str,
    /// The same in CEL: `self` is the whole object, `oldSelf` the one it replaces.
    pub(super) cel: &'static str,
}

/// An object about to be written.
pub(super) struct Write<'a> {
    /// The object, as [`Schema::on_write`] left it.
    pub(super) object: &'a Map<String, Value>,
    /// What is there already, if this is an update.
    pub(super) old: Option<&'a Map<String, Value>>,
}

/// A JSON object with known fields.
pub struct Object {
    /// The fields, in the order in which people should read them.
    pub fields: &'static [Field],
    /// What must hold between them.
    pub rules: &'static [Rule],
}

/// A field of an object.
#[derive(Clone, Copy)]
pub struct Field {
    /// The name in JSON.
    pub name: &'static str,
    /// What it means, with its unit.
    pub doc: &'static str,
    /// What is done when it is absent, if that isn't in [`Field::default`]; empty: nothing.
    pub absent: &'static str,
    /// What it holds.
    pub shape: Shape,
    /// When it is written.
    pub keep: Keep,
    /// Whether an object without it is refused.
    pub is_required: bool,
    /// What it is when absent. Kubernetes fills it in, so a reader need not know it.
    pub default: Option<Literal>,
}

/// When a field is written. In Calico's types this is Go's `omitempty`, which changes what a
/// missing value means: see each variant.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Left out when it is zero (`""`, 0, false, no items): zero and absent are the same.
    UnlessEmpty,
    /// Left out when absent: zero is a value of its own.
    IfPresent,
    /// Left out when every field in it is zero or absent.
    UnlessZero,
    /// Always written: absent is written as zero.
    Always,
}

/// What a value is, and what must hold for it.
#[derive(Clone, Copy)]
pub struct Shape {
    /// Its type.
    pub ty: Type,
    /// What else must hold.
    pub checks: &'static [Check],
}

/// The type of a value.
#[derive(Clone, Copy)]
pub enum Type {
    /// true or false.
    Bool,
    /// A whole number between these two, written without fraction and exponent.
    Int(i64, i64),
    /// Such a number, or null, which isn't the same as absent.
    MaybeInt(i64, i64),
    /// A 64-bit float.
    Float,
    /// Text.
    Text,
    /// A duration in Go's notation, such as `1m30s`.
    Duration,
    /// A point in time, RFC 3339.
    Time,
    /// A port number, a range `a:b`, or the name of a port.
    Port,
    /// A name, or a number of 8 bits: IP protocols have both.
    NameOrByte,
    /// An AS number, also in the notation `1.10`.
    AsNumber,
    /// A number or a text, as Kubernetes has it for ports.
    IntOrText,
    /// Whatever JSON.
    Any,
    /// A list.
    List(&'static Shape),
    /// Keys and values.
    Map(&'static Shape),
    /// Known fields.
    Object(&'static Object),
}

/// A default.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "each variant is a JSON value of that type")]
pub enum Literal {
    Text(&'static str),
    Int(i64),
    Bool(bool),
}

/// A rule for one value.
#[derive(Clone, Copy)]
pub enum Check {
    /// One of these texts, exactly.
    OneOf(&'static [&'static str]),
    /// Text that matches.
    Pattern(&'static Pattern),
    /// At most so many characters (code points).
    MaxLength(usize),
    /// A number from, to.
    Range(i64, i64),
    /// At least so many items.
    MinItems(usize),
    /// At most so many items.
    MaxItems(usize),
    /// No item twice.
    Unique,
    /// A rule with a name.
    Is(&'static Format),
}

/// A rule with a name, for texts and maps.
pub struct Format {
    /// What the value must be, after "must be".
    pub says: &'static str,
    /// What an API server can check of it.
    pub(super) server: &'static [Server],
    /// The way out if it isn't; empty: there is no better one than the rule.
    pub(super) breach: fn(&Value) -> Option<String>,
}

/// How an API server checks a value. It may accept what the rule refuses where neither `OpenAPI`
/// nor CEL can say it, and refuses nothing that the rule accepts.
#[derive(Clone, Copy)]
pub(super) enum Server {
    /// A text that matches; the syntax that Go and Rust share.
    Pattern(&'static str),
    /// A text that doesn't match.
    Never(&'static str),
    /// A text of one of these formats of `OpenAPI`.
    Formats(&'static [&'static str]),
    /// At most so many characters: no longer text can fulfil the rule.
    MaxLength(usize),
    /// A number from, to.
    Range(i64, i64),
    /// A list whose items all match one of these patterns.
    ItemsAllMatch(&'static [&'static str]),
    /// In CEL: `self` is the value. Its cost counts, also by the lengths of lists and texts.
    Cel(&'static str),
}

/// A regular expression that is compiled once.
pub struct Pattern {
    /// The expression, in the syntax that Go and Rust share.
    pub text: &'static str,
    compiled: OnceLock<Option<Regex>>,
}

impl Pattern {
    /// A pattern of this text.
    pub const fn new(text: &'static str) -> Self {
        Self { text, compiled: OnceLock::new() }
    }

    /// Whether the text matches. A pattern that doesn't compile matches nothing; a test compiles
    /// them all.
    pub fn matches(&self, text: &str) -> bool {
        let regex = self.compiled.get_or_init(|| Regex::new(self.text).ok());
        regex.as_ref().is_some_and(|regex| regex.is_match(text))
    }

    /// Whether the pattern is one.
    pub fn compiles(&self) -> bool {
        Regex::new(self.text).is_ok()
    }
}

/// A rule between the fields of an object.
#[derive(Clone, Copy)]
pub struct Rule {
    /// What must hold, as a sentence.
    pub says: &'static str,
    /// The same in CEL, where `self` is the object, for API servers: all must hold. None: CEL can't
    /// say it, or not at the cost that an API server allows.
    pub(super) cel: &'static [&'static str],
    /// Where it doesn't.
    pub(super) breach: fn(&Scope<'_>) -> Option<Breach>,
}

/// How a rule is broken.
pub(super) struct Breach {
    /// The field to blame, relative to the object; empty: the object.
    pub(super) at: String,
    /// The way out.
    pub(super) hint: String,
}

impl Breach {
    /// Some breach at this field, with this way out.
    #[allow(clippy::unnecessary_wraps, reason = "rules return it")]
    pub(super) fn at(field: impl Into<String>, hint: impl Into<String>) -> Option<Self> {
        Some(Self { at: field.into(), hint: hint.into() })
    }
}

/// An object under a rule, as it is written and with defaults.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) fields: &'a Map<String, Value>,
    /// The whole object as it was read.
    pub(super) read: &'a Map<String, Value>,
}

impl<'a> Scope<'a> {
    /// The field, if it is there.
    pub(super) fn get(&self, field: &str) -> Option<&'a Value> {
        self.fields.get(field).filter(|value| !value.is_null())
    }

    /// The text of a field; empty: it isn't there.
    pub(super) fn text(&self, field: &str) -> &'a str {
        self.get(field).and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether the field holds a text that isn't empty.
    pub(super) fn has_text(&self, field: &str) -> bool {
        !self.text(field).is_empty()
    }

    /// Whether the field is there and true.
    pub(super) fn flag(&self, field: &str) -> bool {
        self.get(field).and_then(Value::as_bool).unwrap_or_default()
    }

    /// The items of a list.
    pub(super) fn list(&self, field: &str) -> &'a [Value] {
        self.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// The texts of a list.
    pub(super) fn texts(&self, field: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        self.list(field).iter().filter_map(Value::as_str)
    }

    /// The object in a field; without fields if it isn't there.
    pub(super) fn child(&self, field: &str) -> Self {
        static NONE: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
        let fields = self.get(field).and_then(Value::as_object).unwrap_or(&NONE);
        Self { fields, ..*self }
    }
}

// What the tables of the kinds are written with.

impl Shape {
    pub(super) const fn of(ty: Type) -> Self {
        Self { ty, checks: &[] }
    }

    pub(super) const fn checked(ty: Type, checks: &'static [Check]) -> Self {
        Self { ty, checks }
    }
}

impl Field {
    /// A field that is left out when empty.
    pub(super) const fn new(name: &'static str, ty: Type) -> Self {
        Self {
            name,
            doc: "",
            absent: "",
            shape: Shape { ty, checks: &[] },
            keep: Keep::UnlessEmpty,
            is_required: false,
            default: None,
        }
    }

    pub(super) const fn text(name: &'static str) -> Self {
        Self::new(name, Type::Text)
    }

    pub(super) const fn bool(name: &'static str) -> Self {
        Self::new(name, Type::Bool)
    }

    /// Go's `int`.
    pub(super) const fn int(name: &'static str) -> Self {
        Self::new(name, INT)
    }

    pub(super) const fn object(name: &'static str, object: &'static Object) -> Self {
        Self::new(name, Type::Object(object))
    }

    pub(super) const fn list(name: &'static str, items: &'static Shape) -> Self {
        Self::new(name, Type::List(items))
    }

    /// Zero is a value of its own.
    pub(super) const fn if_present(mut self) -> Self {
        self.keep = Keep::IfPresent;
        self
    }

    pub(super) const fn always(mut self) -> Self {
        self.keep = Keep::Always;
        self
    }

    pub(super) const fn unless_zero(mut self) -> Self {
        self.keep = Keep::UnlessZero;
        self
    }

    pub(super) const fn required(mut self) -> Self {
        self.is_required = true;
        self
    }

    pub(super) const fn default(mut self, literal: Literal) -> Self {
        self.default = Some(literal);
        self
    }

    /// What it means, with its unit.
    pub(super) const fn doc(mut self, doc: &'static str) -> Self {
        self.doc = doc;
        self
    }

    /// What is done when it is absent.
    pub(super) const fn absent(mut self, absent: &'static str) -> Self {
        self.absent = absent;
        self
    }

    pub(super) const fn checks(mut self, checks: &'static [Check]) -> Self {
        self.shape.checks = checks;
        self
    }
}

/// Go's `int` on the machines that matter.
pub(super) const INT: Type = Type::Int(i64::MIN, i64::MAX);
pub(super) const INT32: Type = Type::Int(i32::MIN as i64, i32::MAX as i64);
pub(super) const UINT32: Type = Type::Int(0, u32::MAX as i64);
pub(super) const UINT8: Type = Type::Int(0, u8::MAX as i64);
pub(super) const UINT16: Type = Type::Int(0, u16::MAX as i64);

/// A list of texts.
pub(super) const TEXTS: Type = Type::List(&TEXT);
pub(super) static TEXT: Shape = Shape::of(Type::Text);
