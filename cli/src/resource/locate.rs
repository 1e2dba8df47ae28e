//! On which line of a document a field stands: asked only when there is something to say about it.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::{Options, Spanned};

/// A document with the places of its fields.
enum Tree {
    Map(Vec<(Spanned<String>, Tree)>),
    List(Vec<Spanned<Tree>>),
    Leaf,
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tree, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Tree::Map(fields))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Tree::Leaf)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }
    fn visit_i128<E>(self, _: i128) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }
    fn visit_u128<E>(self, _: u128) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }
    fn visit_str<E>(self, _: &str) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }
    fn visit_bytes<E>(self, _: &[u8]) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }
    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }
    fn visit_none<E>(self) -> Result<Tree, E> {
        Ok(Tree::Leaf)
    }
}

/// The places of one document.
pub(crate) struct Places(Option<Tree>);

impl Places {
    /// Of the first document in this text. One that can't be read has no places.
    pub(crate) fn of(document: &str, options: Options) -> Self {
        let trees: Result<Vec<Tree>, _> =
            serde_saphyr::from_multiple_with_options(document, options);
        Self(trees.ok().and_then(|trees| trees.into_iter().next()))
    }

    /// The line (from 1) of the deepest part of the path that is there.
    pub(crate) fn line(&self, path: &str) -> Option<u64> {
        let mut tree = self.0.as_ref()?;
        let mut rest = path;
        let mut line = None;
        while !rest.is_empty() {
            let step = match tree {
                Tree::Map(fields) => step_into_map(fields, rest),
                Tree::List(items) => step_into_list(items, rest),
                Tree::Leaf => None,
            };
            let Some((next, place, behind)) = step else { return line };
            line = Some(place);
            tree = next;
            rest = behind;
        }
        line
    }
}

type Step<'a> = (&'a Tree, u64, &'a str);

/// The longest field name that the path starts with.
fn step_into_map<'a>(fields: &'a [(Spanned<String>, Tree)], path: &'a str) -> Option<Step<'a>> {
    let path = path.strip_prefix('.').unwrap_or(path);
    let steps = fields.iter().filter_map(|(name, tree)| {
        let quoted = format!("[{:?}]", name.value);
        let length = if path.starts_with(&quoted) {
            quoted.len()
        } else {
            let start = path.get(..name.value.len())?;
            if !start.eq_ignore_ascii_case(&name.value) {
                return None;
            }
            start.len()
        };
        let behind = &path[length..];
        let is_whole = behind.is_empty() || behind.starts_with(['.', '[']);
        is_whole.then(|| (tree, name.referenced.line(), behind))
    });
    steps.min_by_key(|(_, _, behind)| behind.len())
}

fn step_into_list<'a>(items: &'a [Spanned<Tree>], path: &'a str) -> Option<Step<'a>> {
    let (index, behind) = path.strip_prefix('[')?.split_once(']')?;
    let item = items.get(index.parse::<usize>().ok()?)?;
    Some((&item.value, item.referenced.line(), behind))
}
