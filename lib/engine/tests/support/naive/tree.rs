//! Selectors as trees, evaluated node by node.

use std::collections::BTreeSet;

use super::{super::objects::Sel, LabelMap, NAMESPACE};

/// A selector with what it became by its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Tree {
    All,
    Has(String),
    Eq(String, String),
    Ne(String, String),
    In(String, BTreeSet<String>),
    NotIn(String, BTreeSet<String>),
    Starts(String, String),
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
            Sel::Has(l) => Self::Has(label(l)),
            Sel::Eq(l, v) => Self::Eq(label(l), (*v).to_owned()),
            Sel::Ne(l, v) => Self::Ne(label(l), (*v).to_owned()),
            Sel::In(l, v) => Self::In(label(l), set(v)),
            Sel::NotIn(l, v) => Self::NotIn(label(l), set(v)),
            Sel::Starts(l, v) => Self::Starts(label(l), (*v).to_owned()),
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

    /// In namespaces only, instead of everywhere.
    pub(super) fn namespaced(self) -> Self {
        match self {
            Self::All => Self::Has(NAMESPACE.to_owned()),
            Self::And(a, b) => a.namespaced().and(b.namespaced()),
            Self::Or(a, b) => Self::Or(Box::new(a.namespaced()), Box::new(b.namespaced())),
            Self::Not(a) => a.namespaced().not(),
            other => other,
        }
    }

    pub(super) fn text(&self) -> String {
        let list = |values: &BTreeSet<String>| {
            values.iter().map(|v| format!("\"{v}\"")).collect::<Vec<_>>().join(", ")
        };
        match self {
            Self::All => "all()".to_owned(),
            Self::Has(l) => format!("has({l})"),
            Self::Eq(l, v) => format!("{l} == \"{v}\""),
            Self::Ne(l, v) => format!("{l} != \"{v}\""),
            Self::In(l, v) => format!("{l} in {{{}}}", list(v)),
            Self::NotIn(l, v) => format!("{l} not in {{{}}}", list(v)),
            Self::Starts(l, v) => format!("{l} starts with \"{v}\""),
            Self::And(a, b) => format!("({} && {})", a.text(), b.text()),
            Self::Or(a, b) => format!("({} || {})", a.text(), b.text()),
            Self::Not(a) => format!("!{}", a.text()),
        }
    }

    pub(super) fn matches(&self, labels: &LabelMap) -> bool {
        match self {
            Self::All => true,
            Self::Has(l) => labels.contains_key(l),
            Self::Eq(l, v) => labels.get(l) == Some(v),
            Self::Ne(l, v) => labels.get(l) != Some(v),
            Self::In(l, v) => labels.get(l).is_some_and(|value| v.contains(value)),
            Self::NotIn(l, v) => labels.get(l).is_none_or(|value| !v.contains(value)),
            Self::Starts(l, v) => labels.get(l).is_some_and(|value| value.starts_with(v)),
            Self::And(a, b) => a.matches(labels) && b.matches(labels),
            Self::Or(a, b) => a.matches(labels) || b.matches(labels),
            Self::Not(a) => !a.matches(labels),
        }
    }
}
