//! What labels must be like for a selector to match: what an index prunes by before it evaluates.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    convert::Infallible,
    mem,
};

use arcstr::ArcStr;

use super::{
    Selector,
    evaluate::{Labels, SHALLOW},
    tree::{Compare, Group, Leaf, Member, Node},
};

/// A condition on one label that holds wherever the selector matches. It is necessary, not
/// sufficient. A contradiction, such as present and absent at once, means that nothing matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restriction {
    /// The label must be there.
    pub must_be_present: bool,
    /// The label must not be there.
    pub must_be_absent: bool,
    /// Its value must be one of these; none: no limit is known; empty: nothing matches.
    pub one_of: Option<BTreeSet<ArcStr>>,
}

impl Restriction {
    fn present() -> Self {
        Self { must_be_present: true, ..Self::default() }
    }

    /// Whether a label with this value (none: missing) may match.
    pub fn allows(&self, value: Option<&str>) -> bool {
        match value {
            None => !self.must_be_present && self.one_of.is_none(),
            Some(value) => {
                !self.must_be_absent
                    && self.one_of.as_ref().is_none_or(|values| values.contains(value))
            }
        }
    }

    /// Both must hold.
    fn and(&mut self, other: Self) {
        self.must_be_present |= other.must_be_present;
        self.must_be_absent |= other.must_be_absent;
        self.one_of = match (self.one_of.take(), other.one_of) {
            (Some(a), Some(b)) => {
                let (mut few, many) = if a.len() <= b.len() { (a, b) } else { (b, a) };
                few.retain(|value| many.contains(value));
                Some(few)
            }
            (a, b) => a.or(b),
        };
    }

    /// One of them must hold; none where that says nothing.
    fn or(self, other: Self) -> Option<Self> {
        let one_of = match (self.one_of, other.one_of) {
            (Some(mut a), Some(mut b)) => {
                if a.len() < b.len() {
                    mem::swap(&mut a, &mut b);
                }
                a.extend(b);
                Some(a)
            }
            _ => None,
        };
        let both = Self {
            must_be_present: self.must_be_present && other.must_be_present,
            must_be_absent: self.must_be_absent && other.must_be_absent,
            one_of,
        };
        (both != Self::default()).then_some(both)
    }
}

/// By label; a label that isn't here may be anything.
pub type Restrictions = BTreeMap<ArcStr, Restriction>;

/// What [`Selector::each_required`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Known {
    /// All: labels with what is required match.
    Whole,
    /// All that [`Selector::restrictions`] knows.
    Necessary,
    /// There may be more restrictions.
    Part,
}

impl Selector {
    /// What labels must be like wherever this selector matches.
    pub fn restrictions(&self) -> Restrictions {
        let folded = self.fold::<_, Infallible>(
            |_, leaf| Ok(of_leaf(leaf)),
            |selector, group, members| match group {
                Group::Not => of_not(selector),
                Group::And => members.into_iter().reduce(and).unwrap_or_default(),
                Group::Or => members.into_iter().reduce(or).unwrap_or_default(),
            },
        );
        let Ok(restrictions) = folded;
        restrictions
    }

    /// Labels that a match must have, each with the values of which it must have one (none: any), in
    /// no order. It costs far less than [`Selector::restrictions`].
    pub fn each_required<'s>(
        &'s self,
        found: &mut dyn FnMut(&'s ArcStr, Option<&'s [ArcStr]>),
    ) -> Known {
        self.each_required_within(found, SHALLOW)
    }

    fn each_required_within<'s>(
        &'s self,
        found: &mut dyn FnMut(&'s ArcStr, Option<&'s [ArcStr]>),
        depth: u8,
    ) -> Known {
        let leaf = match &*self.0 {
            Node::Leaf(leaf) => leaf,
            Node::Group(Group::And, members) if depth > 0 => {
                let known = members.iter().map(|it| it.each_required_within(found, depth - 1));
                return known.max().unwrap_or(Known::Whole);
            }
            // What must not be isn't looked for.
            Node::Group(Group::Not, _) => return Known::Necessary,
            Node::Group(Group::And | Group::Or, _) => return Known::Part,
        };
        match leaf {
            Leaf::All | Leaf::Global => Known::Whole,
            Leaf::Compare(_, Compare::Ne, _) | Leaf::Member(_, Member::NotIn, _) => {
                Known::Necessary
            }
            Leaf::Compare(label, Compare::Eq, value) => {
                found(label, Some(std::slice::from_ref(value)));
                Known::Whole
            }
            Leaf::Member(label, Member::In, values) if !values.is_empty() => {
                found(label, Some(values));
                Known::Whole
            }
            Leaf::Has(label) => {
                found(label, None);
                Known::Whole
            }
            Leaf::Member(label, Member::In, _) | Leaf::Compare(label, ..) => {
                found(label, None);
                Known::Necessary
            }
        }
    }

    /// Whether these labels satisfy the restrictions: if not, the selector doesn't match them.
    pub fn may_match(restrictions: &Restrictions, labels: &(impl Labels + ?Sized)) -> bool {
        restrictions.iter().all(|(label, restriction)| restriction.allows(labels.get(label)))
    }
}

fn of_leaf(leaf: &Leaf) -> Restrictions {
    let mut restriction = Restriction::present();
    match leaf {
        Leaf::All
        | Leaf::Global
        | Leaf::Compare(_, Compare::Ne, _)
        | Leaf::Member(_, Member::NotIn, _) => return Restrictions::new(),
        Leaf::Has(_)
        | Leaf::Compare(_, Compare::Contains | Compare::StartsWith | Compare::EndsWith, _) => {}
        Leaf::Compare(_, Compare::Eq, value) => {
            restriction.one_of = Some(BTreeSet::from([value.clone()]));
        }
        // Of an empty set Calico says "present" and no more; so do we, for equal results.
        Leaf::Member(_, Member::In, values) if values.is_empty() => {}
        Leaf::Member(_, Member::In, values) => {
            restriction.one_of = Some(values.iter().cloned().collect());
        }
    }
    leaf.label().map(|label| (label.clone(), restriction)).into_iter().collect()
}

/// Only `!has(label)` says something.
fn of_not(selector: &Selector) -> Restrictions {
    if let Node::Group(_, members) = &*selector.0
        && let [member] = members.as_slice()
        && let Node::Leaf(Leaf::Has(label)) = &*member.0
    {
        let absent = Restriction { must_be_absent: true, ..Restriction::default() };
        return Restrictions::from([(label.clone(), absent)]);
    }
    Restrictions::new()
}

/// The smaller map goes into the larger: over a deep tree the work stays near-linear.
fn and(mut a: Restrictions, mut b: Restrictions) -> Restrictions {
    if a.len() < b.len() {
        mem::swap(&mut a, &mut b);
    }
    for (label, restriction) in b {
        match a.entry(label) {
            Entry::Vacant(entry) => {
                entry.insert(restriction);
            }
            Entry::Occupied(mut entry) => entry.get_mut().and(restriction),
        }
    }
    a
}

fn or(a: Restrictions, b: Restrictions) -> Restrictions {
    let (few, mut many) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    few.into_iter()
        .filter_map(|(label, restriction)| {
            let both = restriction.or(many.remove(&label)?)?;
            Some((label, both))
        })
        .collect()
}
