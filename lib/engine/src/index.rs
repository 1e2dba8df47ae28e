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

use std::{collections::hash_map::Entry, hash::Hasher, mem, slice};

use arcstr::ArcStr;
use model::selector::{Known, Labels, Selector};
use siphasher::sip128::{Hasher128, SipHasher13};

use crate::{
    HashMap,
    endpoints::Item,
    few::IdSet,
    intern::{Interner, LabelSet, Word},
    planted::Planted,
    policies::{Lists, Pol},
    sets::Set,
    slab::{Id, Slab},
};

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

/// What a match must have, and so where a selector is filed, for new classes to find it.
#[derive(Clone)]
enum File {
    /// This value of a label.
    Value(Word, Word),
    /// One of these values of a label.
    Values(Word, Box<[Word]>),
    /// A label.
    Label(Word),
    /// Nothing is known: every class is a candidate.
    Any,
    /// Nothing can match.
    Nowhere,
}

impl File {
    fn new(label: &ArcStr, values: Option<&[ArcStr]>, words: &mut Interner) -> Self {
        let mut word = |text: &ArcStr| words.word(text.clone());
        let label = word(label);
        match values {
            None => Self::Label(label),
            Some([]) => Self::Nowhere,
            Some([value]) => Self::Value(label, word(value)),
            Some(values) => Self::Values(label, values.iter().map(word).collect()),
        }
    }

    fn label(&self) -> Option<&Word> {
        match self {
            Self::Value(label, _) | Self::Values(label, _) | Self::Label(label) => Some(label),
            Self::Any | Self::Nowhere => None,
        }
    }

    /// Whether labels have what is required.
    fn is_in(&self, labels: &[(Word, Word)]) -> bool {
        let value = |label| labels.iter().find(|(key, _)| key == label).map(|(_, value)| value);
        match self {
            Self::Value(label, wanted) => value(label) == Some(wanted),
            Self::Values(label, wanted) => value(label).is_some_and(|it| wanted.contains(it)),
            Self::Label(label) => value(label).is_some(),
            Self::Any => true,
            Self::Nowhere => false,
        }
    }

    fn values(&self) -> &[Word] {
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
    values: HashMap<Word, IdSet<Sel>>,
    /// Whatever the value.
    any_value: IdSet<Sel>,
}

/// The classes that have one label, by its value.
#[derive(Default)]
struct Having {
    values: HashMap<Word, IdSet<Class>>,
    count: usize,
}

fn drop_value<T>(values: &mut HashMap<Word, IdSet<T>>, value: &Word, id: Id<T>) {
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
pub(crate) struct Sorted<'a>(pub(crate) &'a [(Word, Word)]);

impl Labels for Sorted<'_> {
    fn get(&self, label: &str) -> Option<&str> {
        if self.0.len() <= FEW_LABELS {
            // Mostly their lengths tell labels apart.
            return self
                .0
                .iter()
                .find(|(key, _)| key.as_str() == label)
                .map(|(_, value)| value.as_str());
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
    classes_by_label: HashMap<Word, Having>,
    selectors_by_label: HashMap<Word, Filed>,
    unlimited: IdSet<Sel>,
    /// Where a canonical form is written to be looked up.
    scratch: String,
    /// Where candidates are gathered.
    selector_candidates: Vec<Id<Sel>>,
    class_candidates: Vec<Id<Class>>,
    /// Where a selector's restrictions are gathered.
    required: Vec<File>,
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
        let mut candidates = mem::take(&mut self.selector_candidates);
        self.candidates(labels, &mut candidates);
        for selector in candidates.drain(..) {
            self.evaluate(selector, class);
        }
        self.selector_candidates = candidates;
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
    fn candidates(&self, labels: &[(Word, Word)], candidates: &mut Vec<Id<Sel>>) {
        candidates.extend(&self.unlimited);
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
    }

    fn evaluate(&mut self, id: Id<Sel>, class: Id<Class>) {
        self.evaluations += 1;
        if self.selectors[id].selector.matches(&Sorted(&self.classes[class].labels)) {
            self.matched(id, class);
        }
    }

    fn matched(&mut self, id: Id<Sel>, class: Id<Class>) {
        self.selectors[id].classes.insert(class);
        self.classes[class].selectors.insert(id);
    }

    /// A use more of a selector. A new one is matched.
    pub(crate) fn acquire(&mut self, selector: &Selector, words: &mut Interner) -> Id<Sel> {
        self.scratch.clear();
        // Writing to a string can't fail.
        let _ = selector.write_canonical(&mut self.scratch);
        let fingerprint = fingerprint(&self.scratch);
        if let Some(id) = self.by_fingerprint.get(&fingerprint) {
            self.selectors[*id].refs += 1;
            return *id;
        }
        let mut candidates = mem::take(&mut self.class_candidates);
        let mut required = mem::take(&mut self.required);
        let known = selector.each_required(&mut |label, values| {
            required.push(File::new(label, values, words));
        });
        let file = match known {
            Known::Whole | Known::Necessary => self.limits(&required, &mut candidates),
            Known::Part => self.limits(&restrictions(selector, words), &mut candidates),
        };
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
        for class in candidates.drain(..) {
            if known == Known::Whole {
                self.evaluations += 1;
                let labels = &self.classes[class].labels;
                if required.iter().all(|required| required.is_in(labels)) {
                    self.matched(id, class);
                }
            } else {
                self.evaluate(id, class);
            }
        }
        self.class_candidates = candidates;
        required.clear();
        self.required = required;
        id
    }

    /// Where to file a selector: where the fewest are, because that is what a new class pays. And
    /// the classes that it may match, by its rarest restriction.
    fn limits(&self, required: &[File], candidates: &mut Vec<Id<Class>>) -> File {
        let mut emptiest = (usize::MAX, &File::Any);
        let mut rarest = (usize::MAX, &File::Any);
        for required in required {
            let (filed, classes) = self.counts(required);
            for (best, count) in [(&mut emptiest, filed), (&mut rarest, classes)] {
                if count < best.0 {
                    *best = (count, required);
                }
            }
        }
        self.having(rarest.1, candidates);
        emptiest.1.clone()
    }

    /// How many selectors are filed there, and how many classes have it.
    fn counts(&self, required: &File) -> (usize, usize) {
        let label = required.label();
        let filed = label.and_then(|label| self.selectors_by_label.get(label));
        let having = label.and_then(|label| self.classes_by_label.get(label));
        match required {
            File::Any => (usize::MAX, usize::MAX),
            // Nothing is better than what can't match.
            File::Nowhere => (0, 0),
            File::Value(..) | File::Values(..) => {
                let of = |value| filed.and_then(|it| it.values.get(value)).map_or(0, IdSet::len);
                let have = |value| having.and_then(|it| it.values.get(value)).map_or(0, IdSet::len);
                let values = required.values().iter();
                (1 + values.clone().map(of).sum::<usize>(), 1 + values.map(have).sum::<usize>())
            }
            // Each class with the label pays for it, whatever the value: so it counts as worse than
            // a crowded value.
            File::Label(_) => {
                let filed = filed.map_or(0, |filed| filed.any_value.len());
                (usize::MAX / 2 + filed, 1 + having.map_or(0, |having| having.count))
            }
        }
    }

    /// The classes that have what is required.
    fn having(&self, required: &File, candidates: &mut Vec<Id<Class>>) {
        let having = |label| self.classes_by_label.get(label);
        match required {
            File::Any => candidates.extend(self.by_labels.values()),
            File::Nowhere => {}
            File::Label(label) => {
                candidates
                    .extend(having(label).into_iter().flat_map(|it| it.values.values().flatten()));
            }
            File::Value(label, _) | File::Values(label, _) => {
                let Some(having) = having(label) else { return };
                for classes in required.values().iter().filter_map(|it| having.values.get(it)) {
                    candidates.extend(classes);
                }
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

/// What a match must have, as far as the selector says so anywhere.
fn restrictions(selector: &Selector, words: &mut Interner) -> Vec<File> {
    let mut required = Vec::new();
    for (label, restriction) in selector.restrictions() {
        if restriction.must_be_present && restriction.must_be_absent {
            return vec![File::Nowhere];
        }
        if let Some(values) = restriction.one_of {
            let values = values.into_iter().collect::<Vec<_>>();
            required.push(File::new(&label, Some(&values), words));
        } else if restriction.must_be_present {
            required.push(File::new(&label, None, words));
        }
    }
    required
}

/// A hash that tells texts apart without keeping them.
pub(crate) fn fingerprint(text: &str) -> u128 {
    let mut hasher = SipHasher13::new();
    hasher.write(text.as_bytes());
    hasher.finish128().as_u128()
}
