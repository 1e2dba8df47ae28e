//! Selectors as trees, evaluated node by node.

use std::collections::BTreeSet;

use super::{super::objects::Sel, LabelMap};

/// A selector with what it became by its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Tree {
    All,
    /// Everything.
    Global,
    Has(String),
    Eq(String, String),
    Ne(String, String),
    In(String, BTreeSet<String>),
    NotIn(String, BTreeSet<String>),
    Starts(String, String),
    Ends(String, String),
    Contains(String, String),
    And(Box<Tree>, Box<Tree>),
    Or(Box<Tree>, Box<Tree>),
    Not(Box<Tree>),
}

impl Tree {
    pub(super) fn of(sel: &Sel, prefix: &str) -> Self {
        let label = |l: &str| format!("{prefix}{l}");
        let set = |values: &[&str]| values.iter().map(|v| (*v).to_owned()).collect();
        match sel {
            Sel::All => Self::All,
            Sel::Global => Self::Global,
            Sel::Has(l) => Self::Has(label(l)),
            Sel::Eq(l, v) => Self::Eq(label(l), (*v).to_owned()),
            Sel::Ne(l, v) => Self::Ne(label(l), (*v).to_owned()),
            Sel::In(l, v) => Self::In(label(l), set(v)),
            Sel::NotIn(l, v) => Self::NotIn(label(l), set(v)),
            Sel::Starts(l, v) => Self::Starts(label(l), (*v).to_owned()),
            Sel::Ends(l, v) => Self::Ends(label(l), (*v).to_owned()),
            Sel::Contains(l, v) => Self::Contains(label(l), (*v).to_owned()),
            Sel::And(a, b) => Self::of(a, prefix).and(Self::of(b, prefix)),
            Sel::Or(a, b) => Self::Or(Box::new(Self::of(a, prefix)), Box::new(Self::of(b, prefix))),
            Sel::Not(a) => Self::of(a, prefix).not(),
            Sel::Bad => panic!("not a selector"),
        }
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self::And(Box::new(self), Box::new(other))
    }

    pub(super) fn not(self) -> Self {
        match self {
            Self::Not(inner) => *inner,
            other => Self::Not(Box::new(other)),
        }
    }

    /// Where this label is, instead of everywhere.
    pub(super) fn existing(self, label: &str) -> Self {
        self.replaced(&|tree| match tree {
            Self::All => Self::Has(label.to_owned()),
            other => other,
        })
    }

    /// In no namespace, instead of everything.
    pub(super) fn outside(self) -> Self {
        self.replaced(&|tree| match tree {
            Self::Global => Self::Has(super::NAMESPACE.to_owned()).not(),
            other => other,
        })
    }

    fn replaced(self, leaf: &dyn Fn(Self) -> Self) -> Self {
        match self {
            Self::And(a, b) => a.replaced(leaf).and(b.replaced(leaf)),
            Self::Or(a, b) => Self::Or(Box::new(a.replaced(leaf)), Box::new(b.replaced(leaf))),
            Self::Not(a) => a.replaced(leaf).not(),
            other => leaf(other),
        }
    }

    pub(super) fn text(&self) -> String {
        let list = |values: &BTreeSet<String>| {
            values.iter().map(|v| format!("\"{v}\"")).collect::<Vec<_>>().join(", ")
        };
        match self {
            Self::All => "all()".to_owned(),
            Self::Global => "global()".to_owned(),
            Self::Has(l) => format!("has({l})"),
            Self::Eq(l, v) => format!("{l} == \"{v}\""),
            Self::Ne(l, v) => format!("{l} != \"{v}\""),
            Self::In(l, v) => format!("{l} in {{{}}}", list(v)),
            Self::NotIn(l, v) => format!("{l} not in {{{}}}", list(v)),
            Self::Starts(l, v) => format!("{l} starts with \"{v}\""),
            Self::Ends(l, v) => format!("{l} ends with \"{v}\""),
            Self::Contains(l, v) => format!("{l} contains \"{v}\""),
            Self::And(a, b) => format!("({} && {})", a.text(), b.text()),
            Self::Or(a, b) => format!("({} || {})", a.text(), b.text()),
            Self::Not(a) => format!("!{}", a.text()),
        }
    }

    pub(super) fn matches(&self, labels: &LabelMap) -> bool {
        match self {
            Self::All | Self::Global => true,
            Self::Has(l) => labels.contains_key(l),
            Self::Eq(l, v) => labels.get(l) == Some(v),
            Self::Ne(l, v) => labels.get(l) != Some(v),
            Self::In(l, v) => labels.get(l).is_some_and(|value| v.contains(value)),
            Self::NotIn(l, v) => labels.get(l).is_none_or(|value| !v.contains(value)),
            Self::Starts(l, v) => labels.get(l).is_some_and(|value| value.starts_with(v)),
            Self::Ends(l, v) => labels.get(l).is_some_and(|value| value.ends_with(v)),
            Self::Contains(l, v) => labels.get(l).is_some_and(|value| value.contains(v)),
            Self::And(a, b) => a.matches(labels) && b.matches(labels),
            Self::Or(a, b) => a.matches(labels) || b.matches(labels),
            Self::Not(a) => !a.matches(labels),
        }
    }
}
