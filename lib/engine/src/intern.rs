//! Equal strings share their memory: labels of a hundred thousand endpoints are mostly the same.

use arcstr::ArcStr;
use model::kinds::Labels;

use crate::{HashSet, index::LabelSet};

/// The strings in use, and some that were.
#[derive(Default)]
pub(crate) struct Interner {
    strings: HashSet<ArcStr>,
    /// Sweep when there are more than this.
    limit: usize,
}

/// Below this many strings nothing is swept.
const SMALL: usize = 1024;

impl Interner {
    pub(crate) fn get(&mut self, text: ArcStr) -> ArcStr {
        if let Some(known) = self.strings.get(&text) {
            return known.clone();
        }
        self.strings.insert(text.clone());
        text
    }

    pub(crate) fn labels(&mut self, labels: Labels) -> LabelSet {
        labels.into_iter().map(|(key, value)| (self.get(key), self.get(value))).collect()
    }

    /// Forgets strings that nobody else holds, when their number has doubled since the last time.
    pub(crate) fn sweep(&mut self) {
        if self.strings.len() <= self.limit.max(SMALL) {
            return;
        }
        // A string without a count is a literal, and costs nothing.
        self.strings.retain(|text| ArcStr::strong_count(text).is_none_or(|count| count > 1));
        self.limit = 2 * self.strings.len();
    }
}
