//! Everything that an engine has said, as one who follows it holds it.

use std::collections::BTreeMap;

use arcstr::ArcStr;
use model::view::{Entry, Topic};

use crate::{HashMap, Output};

/// Entries by topic and key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mirror {
    topics: HashMap<Topic, BTreeMap<ArcStr, Entry>>,
}

impl Mirror {
    /// Takes over what a flush said.
    pub fn follow(&mut self, output: Output) {
        for change in output.changes {
            match change.entry {
                Some(entry) => {
                    self.topics.entry(change.topic).or_default().insert(change.key, entry);
                }
                None => {
                    if let Some(entries) = self.topics.get_mut(&change.topic) {
                        entries.remove(&change.key);
                        if entries.is_empty() {
                            self.topics.remove(&change.topic);
                        }
                    }
                }
            }
        }
    }

    /// The topics that have an entry, in no order.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.topics.keys()
    }

    /// The entries of a topic, sorted by key.
    pub fn entries(&self, topic: &Topic) -> impl Iterator<Item = (&ArcStr, &Entry)> {
        self.topics.get(topic).into_iter().flatten()
    }

    /// One entry.
    pub fn entry(&self, topic: &Topic, key: &str) -> Option<&Entry> {
        self.topics.get(topic)?.get(key)
    }
}
