//! Which selectors match which labels.
//!
//! Endpoints and sets with the same labels are one [`Class`], which is matched once however many
//! members it has; equal selectors are one [`Sel`], however many policies use them. Neither a new
//! class nor a new selector is held against everything: a selector's restrictions say which labels
//! a match must have, so only candidates with such a label are evaluated.
//!
//! ```text
//! new class    -> its labels -> the selectors filed under one of them, and those without limits
//! new selector -> the rarest of its restrictions -> the classes that have such a label
//! ```

use std::{collections::hash_map::Entry, hash::Hasher, slice, sync::Arc};

use arcstr::ArcStr;
use model::selector::{Labels, Selector};
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::{
    HashMap,
    endpoints::Item,
    few::IdSet,
    planted::Planted,
    policies::{Lists, Pol},
    sets::Set,
    slab::{Id, Slab},
};

/// Labels, sorted by key.
pub(crate) type LabelSet = Arc<[(ArcStr, ArcStr)]>;

/// Everything with one set of labels, inherited ones included.
#[derive(Default)]
pub(crate) struct Class {
    pub(crate) labels: LabelSet,
    /// Who has these labels, in no order.
    pub(crate) items: Vec<Id<Item>>,
    /// The selectors that match.
    pub(crate) selectors: IdSet<Sel>,
    /// How many of them are host endpoints of nodes that are served.
    pub(crate) hosts: usize,
    /// Whether an endpoint of a node that is served has had these labels: only then it has lists.
    pub(crate) served: bool,
    /// The policies of its endpoints.
    pub(crate) lists: Lists,
}

/// A selector in use.
pub(crate) struct Sel {
    selector: Selector,
    /// Of its canonical form: equal selectors have equal ones.
    fingerprint: u128,
    refs: usize,
    file: File,
    /// The classes that it matches.
    pub(crate) classes: IdSet<Class>,
    /// The policies that select by it.
    pub(crate) policies: IdSet<Pol>,
    /// The IP sets that hold what it matches.
    pub(crate) sets: IdSet<Set>,
}

impl Sel {
    /// Its canonical form.
    pub(crate) fn text(&self) -> String {
        self.selector.to_string()
    }
}

/// Where a selector is filed, so that new classes find it.
enum File {
    /// Under this value of a label, which a match must have.
    Value(ArcStr, ArcStr),
    /// Under these values of a label, one of which a match must have.
    Values(ArcStr, Box<[ArcStr]>),
    /// Under a label, which a match must have.
    Label(ArcStr),
    /// Nothing is known: every class is a candidate.
    Any,
    /// Nothing can match.
    Nowhere,
}

impl File {
    fn label(&self) -> Option<&ArcStr> {
        match self {
            Self::Value(label, _) | Self::Values(label, _) | Self::Label(label) => Some(label),
            Self::Any | Self::Nowhere => None,
        }
    }

    fn values(&self) -> &[ArcStr] {
        match self {
            Self::Value(_, value) => slice::from_ref(value),
            Self::Values(_, values) => values,
            Self::Label(_) | Self::Any | Self::Nowhere => &[],
        }
    }
}

/// The selectors that are filed under one label.
#[derive(Default)]
struct Filed {
    values: HashMap<ArcStr, IdSet<Sel>>,
    /// Whatever the value.
    any_value: IdSet<Sel>,
}

/// The classes that have one label, by its value.
#[derive(Default)]
struct Having {
    values: HashMap<ArcStr, IdSet<Class>>,
    count: usize,
}

fn drop_value<T>(values: &mut HashMap<ArcStr, IdSet<T>>, value: &ArcStr, id: Id<T>) {
    if let Some(ids) = values.get_mut(value) {
        ids.remove(&id);
        if ids.is_empty() {
            values.remove(value);
        }
    }
}

/// Among so many labels one is looked for one by one.
const FEW_LABELS: usize = 16;

/// Sorted labels, for selectors.
pub(crate) struct Sorted<'a>(pub(crate) &'a [(ArcStr, ArcStr)]);

impl Labels for Sorted<'_> {
    fn get(&self, label: &str) -> Option<&str> {
        if self.0.len() <= FEW_LABELS {
            // Mostly their lengths tell labels apart.
            return self.0.iter().find(|(key, _)| key == label).map(|(_, value)| value.as_str());
        }
        let index = self.0.binary_search_by(|(key, _)| key.as_str().cmp(label)).ok()?;
        Some(&self.0[index].1)
    }
}

/// The index of classes and selectors.
#[derive(Default)]
pub(crate) struct Index {
    pub(crate) classes: Slab<Class>,
    pub(crate) selectors: Slab<Sel>,
    by_labels: HashMap<LabelSet, Id<Class>>,
    by_fingerprint: HashMap<u128, Id<Sel>>,
    classes_by_label: HashMap<ArcStr, Having>,
    selectors_by_label: HashMap<ArcStr, Filed>,
    unlimited: IdSet<Sel>,
    /// Where a canonical form is written to be looked up.
    scratch: String,
    /// How many times a selector was held against labels: what the pruning saves is not here.
    pub(crate) evaluations: u64,
}

impl Index {
    /// The class with these labels.
    pub(crate) fn class(&mut self, labels: &LabelSet) -> Id<Class> {
        let class = match self.by_labels.entry(labels.clone()) {
            Entry::Occupied(known) => return *known.get(),
            Entry::Vacant(new) => {
                let class = Class { labels: labels.clone(), ..Class::default() };
                *new.insert(self.classes.insert(class))
            }
        };
        for (label, value) in labels.iter() {
            let having = self.classes_by_label.entry(label.clone()).or_default();
            having.count += 1;
            having.values.entry(value.clone()).or_default().insert(class);
        }
        for selector in self.candidates(labels) {
            self.evaluate(selector, class);
        }
        class
    }

    /// Forgets a class without members.
    pub(crate) fn remove_class(&mut self, class: Id<Class>) {
        let Class { labels, selectors, .. } = self.classes.remove(class);
        self.by_labels.remove(&labels);
        for (label, value) in labels.iter() {
            if let Some(having) = self.classes_by_label.get_mut(label) {
                drop_value(&mut having.values, value, class);
                having.count -= 1;
                if having.count == 0 {
                    self.classes_by_label.remove(label);
                }
            }
        }
        for selector in &selectors {
            self.selectors[*selector].classes.remove(&class);
        }
    }

    /// The selectors that may match these labels.
    fn candidates(&self, labels: &[(ArcStr, ArcStr)]) -> Vec<Id<Sel>> {
        let mut candidates = self.unlimited.iter().copied().collect::<Vec<_>>();
        if Planted::UnlimitedForgotten.is_here() {
            candidates.clear();
        }
        for (label, value) in labels {
            if let Some(filed) = self.selectors_by_label.get(label) {
                candidates.extend(&filed.any_value);
                if let Some(selectors) = filed.values.get(value) {
                    candidates.extend(selectors);
                }
            }
        }
        candidates
    }

    fn evaluate(&mut self, id: Id<Sel>, class: Id<Class>) {
        self.evaluations += 1;
        let sel = &mut self.selectors[id];
        let state = &mut self.classes[class];
        if sel.selector.matches(&Sorted(&state.labels)) {
            sel.classes.insert(class);
            state.selectors.insert(id);
        }
    }

    /// A use more of a selector. A new one is matched.
    pub(crate) fn acquire(&mut self, selector: &Selector) -> Id<Sel> {
        self.scratch.clear();
        // Writing to a string can't fail.
        let _ = selector.write_canonical(&mut self.scratch);
        let fingerprint = fingerprint(&self.scratch);
        if let Some(id) = self.by_fingerprint.get(&fingerprint) {
            self.selectors[*id].refs += 1;
            return *id;
        }
        let (file, candidates) = self.limits(selector);
        let id = self.selectors.insert(Sel {
            selector: selector.clone(),
            fingerprint,
            refs: 1,
            file: File::Nowhere,
            classes: IdSet::default(),
            policies: IdSet::default(),
            sets: IdSet::default(),
        });
        self.by_fingerprint.insert(fingerprint, id);
        match &file {
            File::Value(label, _) | File::Values(label, _) => {
                let values = file.values();
                let filed = self.selectors_by_label.entry(label.clone()).or_default();
                let count = if Planted::FiledUnderOneValue.is_here() { 1 } else { values.len() };
                for value in values.iter().take(count) {
                    filed.values.entry(value.clone()).or_default().insert(id);
                }
            }
            File::Label(label) => {
                let filed = self.selectors_by_label.entry(label.clone()).or_default();
                filed.any_value.insert(id);
            }
            File::Any => {
                self.unlimited.insert(id);
            }
            File::Nowhere => {}
        }
        self.selectors[id].file = file;
        for class in candidates {
            self.evaluate(id, class);
        }
        id
    }

    /// Where to file a selector: where the fewest are, because that is what a new class pays. And
    /// the classes that it may match, by its rarest restriction.
    fn limits(&self, selector: &Selector) -> (File, Vec<Id<Class>>) {
        let mut limits = Limits::new(self);
        if selector.each_required(&mut |label, values| limits.add(label, values)) {
            return limits.found();
        }
        let mut required = Vec::new();
        for (label, restriction) in selector.restrictions() {
            if restriction.must_be_present && restriction.must_be_absent {
                return (File::Nowhere, Vec::new());
            }
            if let Some(values) = restriction.one_of {
                required.push((label, Some(values.into_iter().collect::<Vec<_>>())));
            } else if restriction.must_be_present {
                required.push((label, None));
            }
        }
        let mut limits = Limits::new(self);
        for (label, values) in &required {
            limits.add(label, values.as_deref());
        }
        limits.found()
    }

    /// The classes that have a label; with one of these values.
    fn having(&self, label: &ArcStr, values: Option<&[ArcStr]>) -> Vec<Id<Class>> {
        let Some(having) = self.classes_by_label.get(label) else { return Vec::new() };
        match values {
            None => having.values.values().flatten().copied().collect(),
            Some(values) => {
                let mut found = Vec::new();
                for classes in values.iter().filter_map(|value| having.values.get(value)) {
                    found.extend(classes);
                }
                found
            }
        }
    }

    /// A use less of a selector; without uses it is forgotten.
    pub(crate) fn release(&mut self, id: Id<Sel>) {
        let sel = &mut self.selectors[id];
        sel.refs -= 1;
        if sel.refs > 0 {
            return;
        }
        let Sel { fingerprint, file, classes, .. } = self.selectors.remove(id);
        self.by_fingerprint.remove(&fingerprint);
        for class in &classes {
            self.classes[*class].selectors.remove(&id);
        }
        if matches!(file, File::Any) {
            self.unlimited.remove(&id);
        }
        let Some(label) = file.label() else { return };
        if let Some(filed) = self.selectors_by_label.get_mut(label) {
            for value in file.values() {
                drop_value(&mut filed.values, value, id);
            }
            if matches!(file, File::Label(_)) {
                filed.any_value.remove(&id);
            }
            if filed.values.is_empty() && filed.any_value.is_empty() {
                self.selectors_by_label.remove(label);
            }
        }
    }
}

/// What a match must have: a label, with one of these values; none: with any.
type Required<'s> = (&'s ArcStr, Option<&'s [ArcStr]>);

/// The best of a selector's restrictions, so far.
struct Limits<'i, 's> {
    index: &'i Index,
    /// Nothing can match.
    nowhere: bool,
    /// Where the fewest selectors are filed, and how many.
    emptiest: Option<(usize, Required<'s>)>,
    /// What the fewest classes have, and how many.
    rarest: Option<(usize, Required<'s>)>,
}

impl<'i, 's> Limits<'i, 's> {
    fn new(index: &'i Index) -> Self {
        Self { index, nowhere: false, emptiest: None, rarest: None }
    }

    /// A match must have this label, with one of these values; none: with any.
    fn add(&mut self, label: &'s ArcStr, values: Option<&'s [ArcStr]>) {
        let filed = self.index.selectors_by_label.get(label);
        let having = self.index.classes_by_label.get(label);
        let (filed, classes) = match values {
            Some([]) => {
                self.nowhere = true;
                return;
            }
            Some(values) => {
                let of = |value| filed.and_then(|it| it.values.get(value)).map_or(0, IdSet::len);
                let have = |value| having.and_then(|it| it.values.get(value)).map_or(0, IdSet::len);
                (values.iter().map(of).sum(), values.iter().map(have).sum())
            }
            // Each class with the label pays for it, whatever the value: so it counts as worse than
            // a crowded value.
            None => (
                usize::MAX / 2 + filed.map_or(0, |filed| filed.any_value.len()),
                having.map_or(0, |having| having.count),
            ),
        };
        for (best, count) in [(&mut self.emptiest, filed), (&mut self.rarest, classes)] {
            if best.is_none_or(|(least, _)| count < least) {
                *best = Some((count, (label, values)));
            }
        }
    }

    /// Where to file the selector, and the classes that it may match.
    fn found(self) -> (File, Vec<Id<Class>>) {
        if self.nowhere {
            return (File::Nowhere, Vec::new());
        }
        let file = match self.emptiest {
            None => File::Any,
            Some((_, (label, None))) => File::Label(label.clone()),
            Some((_, (label, Some([value])))) => File::Value(label.clone(), value.clone()),
            Some((_, (label, Some(values)))) => File::Values(label.clone(), values.into()),
        };
        let candidates = match self.rarest {
            None => self.index.by_labels.values().copied().collect(),
            Some((_, (label, values))) => self.index.having(label, values),
        };
        (file, candidates)
    }
}

/// A hash that tells texts apart without keeping them.
pub(crate) fn fingerprint(text: &str) -> u128 {
    let mut hasher = SipHasher13::new();
    hasher.write(text.as_bytes());
    hasher.finish128().as_u128()
}
