//! The syntax tree of a selector, and the walks over it that need no recursion.

use std::{fmt, mem, slice, sync::Arc};

use arcstr::ArcStr;

use super::{Selector, evaluate::SHALLOW};

/// How a label's value is compared with a string.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Compare {
    Eq,
    Ne,
    Contains,
    StartsWith,
    EndsWith,
}

impl Compare {
    fn as_str(self) -> &'static str {
        match self {
            Self::Eq => "==",
            Self::Ne => "!=",
            Self::Contains => "contains",
            Self::StartsWith => "starts with",
            Self::EndsWith => "ends with",
        }
    }
}

/// Whether a label's value is one of a set.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Member {
    In,
    NotIn,
}

/// A condition on one label at most.
#[derive(Clone)]
pub(super) enum Leaf {
    All,
    Global,
    Has(ArcStr),
    Compare(ArcStr, Compare, ArcStr),
    /// The values are sorted and without duplicates.
    Member(ArcStr, Member, Arc<[ArcStr]>),
}

impl Leaf {
    pub(super) fn member(label: ArcStr, member: Member, mut values: Vec<ArcStr>) -> Self {
        values.sort_unstable();
        values.dedup();
        Self::Member(label, member, values.into())
    }

    pub(super) fn label(&self) -> Option<&ArcStr> {
        match self {
            Self::All | Self::Global => None,
            Self::Has(label) | Self::Compare(label, ..) | Self::Member(label, ..) => Some(label),
        }
    }

    /// The same condition on another label.
    pub(super) fn with_label(&self, to: ArcStr) -> Self {
        let mut leaf = self.clone();
        match &mut leaf {
            Self::All | Self::Global => {}
            Self::Has(label) | Self::Compare(label, ..) | Self::Member(label, ..) => *label = to,
        }
        leaf
    }
}

impl Leaf {
    fn write(&self, out: &mut impl fmt::Write) -> fmt::Result {
        match self {
            Self::All => out.write_str("all()"),
            Self::Global => out.write_str("global()"),
            Self::Has(label) => {
                out.write_str("has(")?;
                out.write_str(label)?;
                out.write_str(")")
            }
            Self::Compare(label, compare, value) => {
                out.write_str(label)?;
                out.write_str(" ")?;
                out.write_str(compare.as_str())?;
                out.write_str(" ")?;
                quoted(out, value)
            }
            Self::Member(label, member, values) => {
                out.write_str(label)?;
                out.write_str(if *member == Member::In { " in {" } else { " not in {" })?;
                for (index, value) in values.iter().enumerate() {
                    out.write_str(if index == 0 { "" } else { ", " })?;
                    quoted(out, value)?;
                }
                out.write_str("}")
            }
        }
    }
}

/// A value in the quotes that it doesn't have itself.
fn quoted(out: &mut impl fmt::Write, value: &str) -> fmt::Result {
    let quote = if value.contains('"') { "'" } else { "\"" };
    out.write_str(quote)?;
    out.write_str(value)?;
    out.write_str(quote)
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    /// Of one member, which is no `Not` itself.
    Not,
    /// Of two members or more.
    And,
    /// Of two members or more.
    Or,
}

pub(super) enum Node {
    Leaf(Leaf),
    Group(Group, Vec<Selector>),
}

/// Takes the tree apart from the top: dropping node by node would recurse as deep as the tree.
impl Drop for Node {
    fn drop(&mut self) {
        let Self::Group(_, members) = self else { return };
        let mut doomed = mem::take(members);
        while let Some(member) = doomed.pop() {
            if let Some(Self::Group(_, members)) = Arc::into_inner(member.0).as_mut() {
                doomed.append(members);
            }
        }
    }
}

impl Selector {
    /// Computes a value bottom-up: `leaf` per leaf, `group` per group from its members' values.
    pub(super) fn fold<'a, T, E>(
        &'a self,
        mut leaf: impl FnMut(&'a Self, &'a Leaf) -> Result<T, E>,
        mut group: impl FnMut(&'a Self, Group, Vec<T>) -> T,
    ) -> Result<T, E> {
        struct Open<'a, T> {
            selector: &'a Selector,
            group: Group,
            rest: slice::Iter<'a, Selector>,
            values: Vec<T>,
        }
        let mut open: Vec<Open<'a, T>> = Vec::new();
        let mut next = self;
        loop {
            let mut value = match &*next.0 {
                Node::Leaf(it) => leaf(next, it)?,
                Node::Group(kind, members) => {
                    let values = Vec::with_capacity(members.len());
                    let mut rest = members.iter();
                    let first = rest.next();
                    open.push(Open { selector: next, group: *kind, rest, values });
                    // A group has members (see `Group`), so the way is always down.
                    if let Some(first) = first {
                        next = first;
                    }
                    continue;
                }
            };
            loop {
                let Some(mut top) = open.pop() else { return Ok(value) };
                top.values.push(value);
                if let Some(member) = top.rest.next() {
                    open.push(top);
                    next = member;
                    break;
                }
                value = group(top.selector, top.group, top.values);
            }
        }
    }

    /// The same tree with some leaves replaced; what doesn't change is shared.
    pub(super) fn map_leaves<E>(
        &self,
        mut map: impl FnMut(&Leaf) -> Result<Option<Self>, E>,
    ) -> Result<Self, E> {
        self.fold(
            |selector, leaf| Ok(map(leaf)?.unwrap_or_else(|| selector.clone())),
            |selector, group, members| match (&*selector.0, group) {
                (Node::Group(_, old), _)
                    if old.iter().zip(&members).all(|(a, b)| Arc::ptr_eq(&a.0, &b.0)) =>
                {
                    selector.clone()
                }
                (_, Group::Not) => members[0].clone().not(),
                (_, Group::And | Group::Or) => Self::group(group, members),
            },
        )
    }

    /// Writes the canonical text, as its `Display` does. Into a string it takes a fraction of that.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_canonical(&self, out: &mut impl fmt::Write) -> fmt::Result {
        self.write_within(out, SHALLOW)
    }

    fn write_within(&self, out: &mut impl fmt::Write, depth: u8) -> fmt::Result {
        let (between, members) = match &*self.0 {
            Node::Leaf(leaf) => return leaf.write(out),
            Node::Group(..) if depth == 0 => return self.write_deep(out),
            Node::Group(Group::Not, members) => {
                out.write_str("!")?;
                return members.iter().try_for_each(|it| it.write_within(out, depth - 1));
            }
            Node::Group(Group::And, members) => (" && ", members),
            Node::Group(Group::Or, members) => (" || ", members),
        };
        out.write_str("(")?;
        for (index, member) in members.iter().enumerate() {
            out.write_str(if index == 0 { "" } else { between })?;
            member.write_within(out, depth - 1)?;
        }
        out.write_str(")")
    }

    /// The same, however deep.
    fn write_deep(&self, out: &mut impl fmt::Write) -> fmt::Result {
        enum Piece<'a> {
            Text(&'static str),
            Tree(&'a Selector),
        }
        let mut todo = Vec::with_capacity(8);
        todo.push(Piece::Tree(self));
        while let Some(piece) = todo.pop() {
            let node = match piece {
                Piece::Text(text) => {
                    out.write_str(text)?;
                    continue;
                }
                Piece::Tree(selector) => &*selector.0,
            };
            let (group, members) = match node {
                Node::Leaf(leaf) => {
                    leaf.write(out)?;
                    continue;
                }
                Node::Group(group, members) => (group, members),
            };
            let between = match group {
                Group::Not => {
                    out.write_str("!")?;
                    todo.extend(members.iter().map(Piece::Tree));
                    continue;
                }
                Group::And => " && ",
                Group::Or => " || ",
            };
            out.write_str("(")?;
            // The last in is the first out.
            todo.push(Piece::Text(")"));
            for (index, member) in members.iter().enumerate().rev() {
                todo.push(Piece::Tree(member));
                if index > 0 {
                    todo.push(Piece::Text(between));
                }
            }
        }
        Ok(())
    }
}
