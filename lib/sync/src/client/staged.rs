//! What has come of a topic since the last Commit, and what becomes of it at the next.

use std::collections::BTreeMap;

use arcstr::ArcStr;
use bytes::Bytes;
use model::view::{BUCKETS, bucket};
use proto::v1::Replace;

use super::{ClientError, EntryChange};
use crate::{
    buckets::Buckets,
    digest::{DigestKey, TopicDigest},
    planted::Planted,
};

/// A topic that is visible.
#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    pub(super) entries: BTreeMap<ArcStr, Bytes>,
    pub(super) digest: TopicDigest,
    /// Of a large topic from a file: the key that they need isn't in it.
    pub(super) buckets: Option<Buckets>,
}

/// What has come of a topic since the last Commit.
#[derive(Clone, Debug, Default)]
pub(super) struct Staged {
    /// The topic comes whole: what is held of it doesn't count.
    pub(super) whole: bool,
    /// Entries that are written, and (none) gone, on top of what is held.
    pub(super) changes: BTreeMap<ArcStr, Option<Bytes>>,
    pub(super) digest: TopicDigest,
    pub(super) next_part: u32,
    pub(super) complete: bool,
    /// A bucket of which not all parts have come.
    bucket: Option<Incoming>,
    /// The digest that the topic must have at the Commit, when its buckets have come.
    pub(super) due: Option<TopicDigest>,
}

/// A bucket, part by part.
#[derive(Clone, Debug)]
struct Incoming {
    bucket: u8,
    next_part: u32,
    entries: BTreeMap<ArcStr, Bytes>,
}

impl Staged {
    /// Changes on top of what is held.
    pub(super) fn on(held: Option<&Held>) -> Self {
        let digest = held.map(|held| held.digest).unwrap_or_default();
        Self { digest, complete: true, ..Self::default() }
    }

    /// The whole topic, of which nothing has come yet.
    pub(super) fn anew() -> Self {
        Self { whole: true, ..Self::default() }
    }

    /// All of the topic is here, whatever was held of it.
    pub(super) fn is_whole(&self) -> bool {
        self.whole && self.complete && self.bucket.is_none() && self.due.is_none()
    }

    /// How many parts have come of what is not complete; none: everything is.
    pub(super) fn incomplete(&self) -> Option<u32> {
        match &self.bucket {
            Some(incoming) => Some(incoming.next_part),
            None => (!self.complete).then_some(self.next_part),
        }
    }

    /// The entry as it would be at a Commit now.
    fn get<'a>(&'a self, held: Option<&'a Held>, key: &str) -> Option<&'a Bytes> {
        match self.changes.get(key) {
            Some(change) => change.as_ref(),
            None if self.whole => None,
            None => held?.entries.get(key),
        }
    }

    /// The entries of a topic that came whole.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&ArcStr, &Bytes)> {
        self.changes.iter().filter_map(|(key, value)| Some((key, value.as_ref()?)))
    }

    /// The keys of a bucket as they would be at a Commit now.
    fn keys_of(&self, held: Option<&Held>, of: u8) -> Vec<ArcStr> {
        let mine = self.entries().map(|(key, _)| key);
        let held = held.filter(|_| !self.whole).into_iter().flat_map(|held| held.entries.keys());
        let kept = held.filter(|key| !self.changes.contains_key(*key));
        mine.chain(kept).filter(|key| bucket(key) == of).cloned().collect()
    }

    pub(super) fn set(
        &mut self,
        digest_key: &DigestKey,
        topic: &str,
        held: Option<&Held>,
        key: ArcStr,
        value: Option<Bytes>,
    ) {
        if let Some(old) = self.get(held, &key) {
            let old = old.clone();
            self.digest.remove(digest_key, topic, &key, &old);
        }
        if let Some(value) = &value {
            self.digest.add(digest_key, topic, &key, value);
        }
        self.changes.insert(key, value);
    }

    /// Takes a part of a bucket; with its last one, the bucket is what came of it.
    pub(super) fn bucket(
        &mut self,
        digest_key: &DigestKey,
        held: Option<&Held>,
        number: u32,
        replace: Replace,
    ) -> Result<(), ClientError> {
        let topic = replace.topic;
        let number = u8::try_from(number).ok().filter(|number| *number < BUCKETS);
        let Some(number) = number else { return Err(ClientError::Bucket { topic }) };
        if replace.part == 0 && self.bucket.is_none() {
            let entries = BTreeMap::new();
            self.bucket = Some(Incoming { bucket: number, next_part: 0, entries });
        }
        let mut incoming = match self.bucket.take() {
            Some(incoming) if (incoming.bucket, incoming.next_part) == (number, replace.part) => {
                incoming
            }
            other => {
                let expected = other.map_or(0, |other| other.next_part);
                return Err(ClientError::Part { topic, expected, got: replace.part });
            }
        };
        incoming.next_part += 1;
        for entry in replace.entries {
            if bucket(&entry.key) != number {
                return Err(ClientError::Bucket { topic });
            }
            incoming.entries.insert(entry.key.into(), entry.value);
        }
        if !replace.last {
            self.bucket = Some(incoming);
            return Ok(());
        }
        if !Planted::BucketForgetsDeletes.is_here() {
            for key in self.keys_of(held, number) {
                if !incoming.entries.contains_key(&key) {
                    self.set(digest_key, &topic, held, key, None);
                }
            }
        }
        for (key, value) in incoming.entries {
            self.set(digest_key, &topic, held, key, Some(value));
        }
        let digest = replace.digest_after.as_ref().map(TopicDigest::try_from);
        // No digest, or none that is one: nothing has it.
        let none = TopicDigest { sum: !self.digest.sum, ..self.digest };
        self.due = Some(digest.and_then(Result::ok).unwrap_or(none));
        Ok(())
    }

    /// Makes it what is held of the topic, and notes each difference.
    pub(super) fn adopt(self, topic: &ArcStr, held: &mut Held, changes: &mut Vec<EntryChange>) {
        let mut change = |key: ArcStr, value: Option<Bytes>| {
            changes.push(EntryChange { topic: topic.clone(), key, value });
        };
        if self.whole {
            let written = |key: &ArcStr| self.changes.get(key).is_some_and(Option::is_some);
            let gone: Vec<ArcStr> =
                held.entries.keys().filter(|key| !written(key)).cloned().collect();
            for key in gone {
                held.entries.remove(&key);
                change(key, None);
            }
        }
        for (key, value) in self.changes {
            let old = match &value {
                Some(value) => held.entries.insert(key.clone(), value.clone()),
                None => held.entries.remove(&key),
            };
            if old != value {
                change(key, value);
            }
        }
        held.digest = self.digest;
        held.buckets = None;
    }
}
