//! Equal texts share their memory: those of a hundred thousand objects are mostly the same.

use std::collections::HashSet;

use arcstr::ArcStr;

/// The texts that are in use, and some that were.
#[derive(Debug, Default)]
pub struct Texts {
    known: HashSet<ArcStr, foldhash::fast::RandomState>,
    /// Sweep when there are more than this.
    limit: usize,
}

/// Below this many nothing is swept.
const SMALL: usize = 1024;

impl Texts {
    /// The text; it lies where equal ones that are still in use lie.
    pub fn get(&mut self, text: &str) -> ArcStr {
        if let Some(known) = self.known.get(text) {
            return known.clone();
        }
        let new = ArcStr::from(text);
        self.known.insert(new.clone());
        new
    }

    /// The same of a text that may be the first of its kind.
    pub fn share(&mut self, text: ArcStr) -> ArcStr {
        if let Some(known) = self.known.get(&text) {
            return known.clone();
        }
        self.known.insert(text.clone());
        text
    }

    /// Forgets what nobody else holds, when their number has doubled since the last time.
    pub fn sweep(&mut self) {
        if self.known.len() > self.limit.max(SMALL) {
            // A text without a count is a literal, and costs nothing.
            self.known.retain(|text| ArcStr::strong_count(text).is_none_or(|count| count > 1));
            self.limit = 2 * self.known.len();
        }
    }
}
