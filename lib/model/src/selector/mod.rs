//! The selector language: which sets of labels a policy, a rule or a pool speaks about.
//!
//! ```text
//! selector = [ws] | or
//! or    = and { "||" and }          and = op { "&&" op }
//! op    = { "!" } ( "has(" label ")" | "all()" | "global()"
//!       | label ( "==" | "!=" | "contains" | "starts with" | "ends with" ) string
//!       | label ( "in" | "not in" ) "{" [ string { "," string } [","] ] "}"
//!       | "(" or ")" )
//! label = [A-Za-z0-9_./-]{1,512}    string = '…' | "…" (no escapes)    ws = space | tab
//! ```
//!
//! Every [`Selector`], parsed or built, has a canonical text that parses to the same selector:
//! what can't be written in the language can't be built either. So the canonical text and its
//! hash, [`Selector::unique_id`], are an identity, and no value can pose as an operator.
//!
//! Nothing here recurses, so that no input, however nested, exhausts the stack.

mod evaluate;
mod parse;
mod restriction;
mod tree;

use std::{fmt, str::FromStr, sync::Arc};

use arcstr::ArcStr;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha224};

pub use evaluate::Labels;
pub use parse::ParseError;
pub use restriction::{Known, Restriction, Restrictions};
use tree::{Compare, Group, Leaf, Member, Node};

/// The longest label name, in bytes (Calico: `selector/tokenizer`).
pub const MAX_LABEL_LEN: usize = 512;

/// A label or a value that the language has no way to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unwritable {
    /// Not 1 to 512 of `A-Z a-z 0-9 _ . / -`.
    #[error(
        "label {0:?} can't be in a selector: 1 to {MAX_LABEL_LEN} characters of A-Z a-z 0-9 _ . / - are"
    )]
    Label(ArcStr),
    /// It has both kinds of quotes, and the language has no escapes.
    #[error(
        "value {0:?} can't be in a selector: it has both ' and \", and there are no escapes; use a value with one of them at most"
    )]
    Value(ArcStr),
}

/// A predicate over labels. Cloning is one reference count.
#[derive(Clone)]
pub struct Selector(Arc<Node>);

impl Selector {
    /// Reads a selector; empty text is `all()`. Time and memory are linear in the text.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        parse::parse(text)
    }

    fn leaf(leaf: Leaf) -> Self {
        Self(Arc::new(Node::Leaf(leaf)))
    }

    /// A group of these members; one member is itself, for `And` and `Or`.
    fn group(group: Group, mut members: Vec<Self>) -> Self {
        match (group, members.len()) {
            (Group::And, 0) => Self::all(),
            (Group::Or, 0) => Self::all().not(),
            (Group::And | Group::Or, 1) => members.remove(0),
            _ => Self(Arc::new(Node::Group(group, members))),
        }
    }

    /// `all()`: everything.
    pub fn all() -> Self {
        Self::leaf(Leaf::All)
    }

    /// `global()`: in itself everything. In a namespace selector it means "has no namespace"; the
    /// caller puts that in its place with [`Selector::replace_global`].
    pub fn global() -> Self {
        Self::leaf(Leaf::Global)
    }

    /// `has(label)`.
    pub fn has(label: impl Into<ArcStr>) -> Result<Self, Unwritable> {
        Ok(Self::leaf(Leaf::Has(writable_label(label.into())?)))
    }

    /// `label == "value"`.
    pub fn eq(label: impl Into<ArcStr>, value: impl Into<ArcStr>) -> Result<Self, Unwritable> {
        let (label, value) = (writable_label(label.into())?, writable_value(value.into())?);
        Ok(Self::leaf(Leaf::Compare(label, Compare::Eq, value)))
    }

    /// `label in {"value", …}`. No values: it never matches.
    pub fn in_set<V: Into<ArcStr>>(
        label: impl Into<ArcStr>,
        values: impl IntoIterator<Item = V>,
    ) -> Result<Self, Unwritable> {
        Self::member(label.into(), Member::In, values)
    }

    /// `label not in {"value", …}`: also true where the label is missing.
    pub fn not_in_set<V: Into<ArcStr>>(
        label: impl Into<ArcStr>,
        values: impl IntoIterator<Item = V>,
    ) -> Result<Self, Unwritable> {
        Self::member(label.into(), Member::NotIn, values)
    }

    fn member<V: Into<ArcStr>>(
        label: ArcStr,
        member: Member,
        values: impl IntoIterator<Item = V>,
    ) -> Result<Self, Unwritable> {
        let label = writable_label(label)?;
        let values = values.into_iter().map(|value| writable_value(value.into()));
        Ok(Self::leaf(Leaf::member(label, member, values.collect::<Result<_, _>>()?)))
    }

    /// Both. Groups are kept as they are: `(a && b) && c` is not `a && b && c`, as in Calico.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self::group(Group::And, vec![self, other])
    }

    /// One of the two.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self::group(Group::Or, vec![self, other])
    }

    /// All of these; of none, `all()`.
    pub fn all_of(members: impl IntoIterator<Item = Self>) -> Self {
        Self::group(Group::And, members.into_iter().collect())
    }

    /// One of these; of none, nothing matches.
    pub fn any_of(members: impl IntoIterator<Item = Self>) -> Self {
        Self::group(Group::Or, members.into_iter().collect())
    }

    /// The opposite. Two of them cancel out, wherever the parentheses were: that makes the
    /// canonical text a fixed point, which Calico's is not.
    #[must_use]
    #[allow(clippy::should_implement_trait, reason = "beside `and` and `or`, `not` reads best")]
    pub fn not(self) -> Self {
        match &*self.0 {
            Node::Group(Group::Not, inner) => inner[0].clone(),
            _ => Self::group(Group::Not, vec![self]),
        }
    }

    /// Whether this is exactly `all()`, as an empty text is.
    pub fn is_all(&self) -> bool {
        matches!(*self.0, Node::Leaf(Leaf::All))
    }

    /// The same selector over other label names, for example with a prefix.
    pub fn map_labels(&self, mut rename: impl FnMut(&str) -> ArcStr) -> Result<Self, Unwritable> {
        self.map_leaves(|leaf| {
            let Some(label) = leaf.label() else { return Ok(None) };
            Ok(Some(Self::leaf(leaf.with_label(writable_label(rename(label))?))))
        })
    }

    /// The same selector with `with` in the place of each `all()`.
    #[must_use]
    pub fn replace_all(&self, with: &Self) -> Self {
        self.replace(with, |leaf| matches!(leaf, Leaf::All))
    }

    /// The same selector with `with` in the place of each `global()`.
    #[must_use]
    pub fn replace_global(&self, with: &Self) -> Self {
        self.replace(with, |leaf| matches!(leaf, Leaf::Global))
    }

    fn replace(&self, with: &Self, is_it: impl Fn(&Leaf) -> bool) -> Self {
        let replaced = self
            .map_leaves::<std::convert::Infallible>(|leaf| Ok(is_it(leaf).then(|| with.clone())));
        let Ok(selector) = replaced;
        selector
    }

    /// `"s:" + base64url(sha224("s:" + canonical))`, without padding: Calico's id of a selector.
    pub fn unique_id(&self) -> String {
        let mut text = String::with_capacity(128);
        text.push_str("s:");
        // Writing to a string can't fail.
        let _ = self.write_canonical(&mut text);
        let mut id = String::with_capacity(48);
        id.push_str("s:");
        URL_SAFE_NO_PAD.encode_string(Sha224::digest(text), &mut id);
        id
    }
}

/// The canonical text: groups in parentheses, values in `"` unless they have one, sets sorted
/// and without duplicates.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_canonical(f)
    }
}

/// The canonical text, so that a deep tree prints without recursion.
impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Selector({self})")
    }
}

impl PartialEq for Selector {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.to_string() == other.to_string()
    }
}

impl Eq for Selector {}

impl FromStr for Selector {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::parse(text)
    }
}

fn is_label_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_./-".contains(&byte)
}

fn writable_label(label: ArcStr) -> Result<ArcStr, Unwritable> {
    let fits = (1..=MAX_LABEL_LEN).contains(&label.len()) && label.bytes().all(is_label_byte);
    if fits { Ok(label) } else { Err(Unwritable::Label(label)) }
}

fn writable_value(value: ArcStr) -> Result<ArcStr, Unwritable> {
    if value.contains('"') && value.contains('\'') {
        Err(Unwritable::Value(value))
    } else {
        Ok(value)
    }
}

#[cfg(test)]
mod tests;
