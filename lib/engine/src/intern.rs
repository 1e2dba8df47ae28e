//! Equal strings share their memory, and so do equal labels: those of a hundred thousand endpoints
//! are mostly the same.

use std::{
    fmt,
    hash::{Hash, Hasher},
    ops::Deref,
    sync::Arc,
};

use arcstr::ArcStr;
use model::kinds::{Labels, Texts};

use crate::HashSet;

/// A text of an [`Interner`]. Equal ones lie at the same place, so that they are compared and hashed
/// without looking at what they say.
#[derive(Clone)]
pub(crate) struct Word(ArcStr);

impl PartialEq for Word {
    fn eq(&self, other: &Self) -> bool {
        ArcStr::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Word {}

impl Hash for Word {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_usize(self.0.as_ptr().addr());
    }
}

impl Deref for Word {
    type Target = ArcStr;

    fn deref(&self) -> &ArcStr {
        &self.0
    }
}

impl fmt::Debug for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Labels, sorted by key.
pub(crate) type LabelSet = Arc<[(Word, Word)]>;

/// What is in use, and some of what was.
#[derive(Default)]
pub(crate) struct Interner {
    pub(crate) texts: Texts,
    labels: HashSet<LabelSet>,
    /// Sweep when there are more labels than this.
    limit: usize,
}

/// Below this many nothing is swept.
const SMALL: usize = 1024;

impl Interner {
    pub(crate) fn get(&mut self, text: ArcStr) -> ArcStr {
        self.texts.share(text)
    }

    pub(crate) fn get_str(&mut self, text: &str) -> ArcStr {
        self.texts.get(text)
    }

    pub(crate) fn word(&mut self, text: ArcStr) -> Word {
        Word(self.texts.share(text))
    }

    pub(crate) fn labels(&mut self, labels: Labels) -> LabelSet {
        let words = labels.into_iter().map(|(key, value)| (self.word(key), self.word(value)));
        let labels = words.collect::<LabelSet>();
        if let Some(known) = self.labels.get(&labels) {
            return Arc::clone(known);
        }
        self.labels.insert(Arc::clone(&labels));
        labels
    }

    /// Forgets what nobody else holds, when its number has doubled since the last time.
    pub(crate) fn sweep(&mut self) {
        if self.labels.len() > self.limit.max(SMALL) {
            self.labels.retain(|labels| Arc::strong_count(labels) > 1);
            self.limit = 2 * self.labels.len();
        }
        self.texts.sweep();
    }
}
