//! Equal strings share their memory, and so do equal labels: those of a hundred thousand endpoints
//! are mostly the same.

use std::sync::Arc;

use arcstr::ArcStr;
use model::kinds::Labels;

use crate::{HashSet, index::LabelSet};

/// What is in use, and some of what was.
#[derive(Default)]
pub(crate) struct Interner {
    strings: HashSet<ArcStr>,
    labels: HashSet<LabelSet>,
    /// Sweep when there are more strings than this, or more labels.
    limits: (usize, usize),
}

/// Below this many nothing is swept.
const SMALL: usize = 1024;

impl Interner {
    pub(crate) fn get(&mut self, text: ArcStr) -> ArcStr {
        if let Some(known) = self.strings.get(&text) {
            return known.clone();
        }
        self.strings.insert(text.clone());
        text
    }

    pub(crate) fn get_str(&mut self, text: &str) -> ArcStr {
        match self.strings.get(text) {
            Some(known) => known.clone(),
            None => self.get(text.into()),
        }
    }

    pub(crate) fn labels(&mut self, labels: Labels) -> LabelSet {
        if let Some(known) = self.labels.get(labels.as_slice()) {
            return Arc::clone(known);
        }
        let labels = labels.into_iter().map(|(key, value)| (self.get(key), self.get(value)));
        let labels = labels.collect::<LabelSet>();
        self.labels.insert(Arc::clone(&labels));
        labels
    }

    /// Forgets what nobody else holds, when its number has doubled since the last time.
    pub(crate) fn sweep(&mut self) {
        if self.labels.len() > self.limits.1.max(SMALL) {
            self.labels.retain(|labels| Arc::strong_count(labels) > 1);
            self.limits.1 = 2 * self.labels.len();
        }
        if self.strings.len() > self.limits.0.max(SMALL) {
            // A string without a count is a literal, and costs nothing.
            self.strings.retain(|text| ArcStr::strong_count(text).is_none_or(|count| count > 1));
            self.limits.0 = 2 * self.strings.len();
        }
    }
}
