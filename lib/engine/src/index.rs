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

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use arcstr::ArcStr;
use model::selector::{Labels, Selector};

use crate::{
    endpoints::Item,
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
    pub(crate) selectors: BTreeSet<Id<Sel>>,
    /// How many of them are host endpoints.
    pub(crate) hosts: usize,
    /// The policies of its endpoints.
    pub(crate) lists: Lists,
}

/// A selector in use.
pub(crate) struct Sel {
    selector: Selector,
    text: ArcStr,
    refs: usize,
    file: File,
    /// The classes that it matches.
    pub(crate) classes: BTreeSet<Id<Class>>,
    /// The policies that select by it.
    pub(crate) policies: BTreeSet<Id<Pol>>,
    /// The IP sets that hold what it matches.
    pub(crate) sets: BTreeSet<Id<Set>>,
}

impl Sel {
    /// Its canonical form.
    pub(crate) fn text(&self) -> &ArcStr {
        &self.text
    }
}

/// Where a selector is filed, so that new classes find it.
#[derive(Clone)]
enum File {
    /// Under these values of a label, one of which a match must have.
    Values(ArcStr, BTreeSet<ArcStr>),
    /// Under a label, which a match must have.
    Label(ArcStr),
    /// Nothing is known: every class is a candidate.
    Any,
    /// Nothing can match.
    Nowhere,
}

/// What is filed under one label.
struct Under<T> {
    /// By value.
    values: HashMap<ArcStr, BTreeSet<Id<T>>>,
    /// Whatever the value. For classes: all of them.
    any_value: BTreeSet<Id<T>>,
}

impl<T> Default for Under<T> {
    fn default() -> Self {
        Self { values: HashMap::new(), any_value: BTreeSet::new() }
    }
}

impl<T> Under<T> {
    fn len(&self, value: &str) -> usize {
        self.values.get(value).map_or(0, BTreeSet::len)
    }

    fn insert(&mut self, value: &ArcStr, id: Id<T>) {
        self.values.entry(value.clone()).or_default().insert(id);
    }

    fn remove(&mut self, value: &ArcStr, id: Id<T>) {
        if let Some(ids) = self.values.get_mut(value) {
            ids.remove(&id);
            if ids.is_empty() {
                self.values.remove(value);
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.values.is_empty() && self.any_value.is_empty()
    }
}

/// Sorted labels, for selectors.
pub(crate) struct Sorted<'a>(pub(crate) &'a [(ArcStr, ArcStr)]);

impl Labels for Sorted<'_> {
    fn get(&self, label: &str) -> Option<&str> {
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
    by_text: HashMap<ArcStr, Id<Sel>>,
    classes_by_label: HashMap<ArcStr, Under<Class>>,
    selectors_by_label: HashMap<ArcStr, Under<Sel>>,
    unlimited: BTreeSet<Id<Sel>>,
    /// How many times a selector was held against labels: what the pruning saves is not here.
    pub(crate) evaluations: u64,
}

impl Index {
    /// The class with these labels; true: it is new, and matched.
    pub(crate) fn class(&mut self, labels: &LabelSet) -> (Id<Class>, bool) {
        if let Some(class) = self.by_labels.get(labels) {
            return (*class, false);
        }
        let candidates = self.candidates(labels);
        let class = self.classes.insert(Class { labels: labels.clone(), ..Class::default() });
        self.by_labels.insert(labels.clone(), class);
        for (label, value) in labels.iter() {
            let under = self.classes_by_label.entry(label.clone()).or_default();
            under.insert(value, class);
            under.any_value.insert(class);
        }
        for selector in candidates {
            self.evaluate(selector, class);
        }
        (class, true)
    }

    /// Forgets a class without members.
    pub(crate) fn remove_class(&mut self, class: Id<Class>) {
        let Class { labels, selectors, .. } = self.classes.remove(class);
        self.by_labels.remove(&labels);
        for (label, value) in labels.iter() {
            if let Some(under) = self.classes_by_label.get_mut(label) {
                under.remove(value, class);
                under.any_value.remove(&class);
                if under.is_empty() {
                    self.classes_by_label.remove(label);
                }
            }
        }
        for selector in selectors {
            self.selectors[selector].classes.remove(&class);
        }
    }

    /// The selectors that may match these labels.
    fn candidates(&self, labels: &[(ArcStr, ArcStr)]) -> Vec<Id<Sel>> {
        let mut candidates = self.unlimited.iter().copied().collect::<Vec<_>>();
        if Planted::UnlimitedForgotten.is_here() {
            candidates.clear();
        }
        for (label, value) in labels {
            if let Some(under) = self.selectors_by_label.get(label) {
                candidates.extend(&under.any_value);
                candidates.extend(under.values.get(value).into_iter().flatten());
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
        let text = ArcStr::from(selector.to_string());
        if let Some(id) = self.by_text.get(&text) {
            self.selectors[*id].refs += 1;
            return *id;
        }
        let (file, candidates) = self.limits(selector);
        let id = self.selectors.insert(Sel {
            selector: selector.clone(),
            text: text.clone(),
            refs: 1,
            file: file.clone(),
            classes: BTreeSet::new(),
            policies: BTreeSet::new(),
            sets: BTreeSet::new(),
        });
        self.by_text.insert(text, id);
        match file {
            File::Values(label, values) => {
                let under = self.selectors_by_label.entry(label).or_default();
                let count = if Planted::FiledUnderOneValue.is_here() { 1 } else { values.len() };
                for value in values.iter().take(count) {
                    under.insert(value, id);
                }
            }
            File::Label(label) => {
                self.selectors_by_label.entry(label).or_default().any_value.insert(id);
            }
            File::Any => {
                self.unlimited.insert(id);
            }
            File::Nowhere => {}
        }
        for class in candidates {
            self.evaluate(id, class);
        }
        id
    }

    /// Where to file a selector: where the fewest are, because that is what a new class pays. And
    /// the classes that it may match, by its rarest restriction.
    fn limits(&self, selector: &Selector) -> (File, Vec<Id<Class>>) {
        let mut file: Option<(usize, File)> = None;
        let mut better = |count: usize, make: &dyn Fn() -> File| {
            if file.as_ref().is_none_or(|(least, _)| count < *least) {
                file = Some((count, make()));
            }
        };
        let mut rarest: Option<(usize, Vec<&BTreeSet<Id<Class>>>)> = None;
        let mut rarer = |count: usize, sets: Vec<_>| {
            if rarest.as_ref().is_none_or(|(least, _)| count < *least) {
                rarest = Some((count, sets));
            }
        };
        for (label, restriction) in selector.restrictions() {
            let impossible = restriction.must_be_present && restriction.must_be_absent;
            if impossible || restriction.one_of.as_ref().is_some_and(BTreeSet::is_empty) {
                return (File::Nowhere, Vec::new());
            }
            let filed = self.selectors_by_label.get(&label);
            let having = self.classes_by_label.get(&label);
            if let Some(values) = &restriction.one_of {
                let count = values.iter().map(|v| filed.map_or(0, |under| under.len(v))).sum();
                better(count, &|| File::Values(label.clone(), values.clone()));
                let sets = having.map_or_else(Vec::new, |under| {
                    values.iter().filter_map(|value| under.values.get(value)).collect()
                });
                rarer(sets.iter().map(|set| set.len()).sum(), sets);
            } else if restriction.must_be_present {
                // Each class with the label pays for it, whatever the value: so it counts as worse
                // than a crowded value.
                better(usize::MAX / 2 + filed.map_or(0, |under| under.any_value.len()), &|| {
                    File::Label(label.clone())
                });
                let sets = having.map_or_else(Vec::new, |under| vec![&under.any_value]);
                rarer(sets.iter().map(|set| set.len()).sum(), sets);
            }
        }
        let file = file.map_or(File::Any, |(_, file)| file);
        let candidates = match rarest {
            Some((_, sets)) => sets.into_iter().flatten().copied().collect(),
            None => self.by_labels.values().copied().collect(),
        };
        (file, candidates)
    }

    /// A use less of a selector; without uses it is forgotten.
    pub(crate) fn release(&mut self, id: Id<Sel>) {
        let sel = &mut self.selectors[id];
        sel.refs -= 1;
        if sel.refs > 0 {
            return;
        }
        let Sel { text, file, classes, .. } = self.selectors.remove(id);
        self.by_text.remove(&text);
        for class in classes {
            self.classes[class].selectors.remove(&id);
        }
        let label = match &file {
            File::Values(label, _) | File::Label(label) => label,
            File::Any => {
                self.unlimited.remove(&id);
                return;
            }
            File::Nowhere => return,
        };
        if let Some(under) = self.selectors_by_label.get_mut(label) {
            match &file {
                File::Values(_, values) => {
                    for value in values {
                        under.remove(value, id);
                    }
                }
                _ => {
                    under.any_value.remove(&id);
                }
            }
            if under.is_empty() {
                self.selectors_by_label.remove(label);
            }
        }
    }
}
