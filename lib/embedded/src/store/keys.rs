//! Every key with its versions since the last compaction.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{KeyValue, Span};

/// The versions of one key, oldest first. Within one revision a key may change twice; the last change counts.
type History = Vec<Version>;

#[derive(Debug)]
struct Version {
    revision: i64,
    /// None: deleted at this revision.
    value: Option<Arc<KeyValue>>,
}

/// All keys, sorted, with their histories.
#[derive(Debug, Default)]
pub(crate) struct Keys(BTreeMap<Vec<u8>, History>);

impl Keys {
    /// The value of `key` at `revision`; none when it doesn't exist then.
    pub(crate) fn at(&self, key: &[u8], revision: i64) -> Option<&Arc<KeyValue>> {
        value_at(self.0.get(key)?, revision)
    }

    /// The keys in `span` that exist at `revision`, sorted.
    pub(crate) fn range<'a>(
        &'a self,
        span: &'a Span,
        revision: i64,
    ) -> impl Iterator<Item = &'a Arc<KeyValue>> {
        let bounds = span.bounds();
        bounds
            .into_iter()
            .flat_map(|bounds| self.0.range::<[u8], _>(bounds))
            .filter_map(move |(_, history)| value_at(history, revision))
    }

    /// Records a change at `revision`, which isn't older than the key's last one.
    pub(crate) fn push(&mut self, key: Vec<u8>, revision: i64, value: Option<Arc<KeyValue>>) {
        self.0.entry(key).or_default().push(Version { revision, value });
    }

    /// Forgets what happened to `key` after `revision`.
    pub(crate) fn roll_back(&mut self, key: &[u8], revision: i64) {
        if let Some(history) = self.0.get_mut(key) {
            history.retain(|version| version.revision <= revision);
            if history.is_empty() {
                self.0.remove(key);
            }
        }
    }

    /// Forgets the versions of `key` that no read at `revision` or later can see.
    pub(crate) fn compact(&mut self, key: &[u8], revision: i64) {
        let Some(history) = self.0.get_mut(key) else { return };
        let newer = history.partition_point(|version| version.revision <= revision);
        // The last of the older ones is what a read at `revision` sees; nothing, if it is a delete.
        let keep = newer.saturating_sub(1);
        let deleted = newer > 0 && history[keep].value.is_none();
        history.drain(..if deleted { newer } else { keep });
        if history.is_empty() {
            self.0.remove(key);
        }
    }
}

fn value_at(history: &History, revision: i64) -> Option<&Arc<KeyValue>> {
    let newer = history.partition_point(|version| version.revision <= revision);
    history[..newer].last()?.value.as_ref()
}
