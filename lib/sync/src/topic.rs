//! A topic at a publication: its entries, its newest changes, and the topic whole in parts.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arcstr::ArcStr;
use bytes::Bytes;
use imbl::{OrdMap, Vector as List};
use proto::v1::{Delta, KeyValue, Replace, ServerMessage, server_message::Message};

use crate::{
    buckets::Buckets,
    digest::TopicDigest,
    planted::Planted,
    wire::{Encoding, Wire},
};

/// The entries of one part of a [`Replace`] stay below this many bytes, unless one alone is larger.
const PART_BYTES: usize = 64 * 1024;

/// The changes of one topic in one publication: made once, shared by every session.
#[derive(Debug)]
pub struct Frame {
    /// The message.
    pub delta: Delta,
    /// About its length on the wire.
    pub(crate) bytes: usize,
    wire: Wire,
}

impl Frame {
    pub(crate) fn new(delta: Delta) -> Self {
        let puts = delta.puts.iter().map(|put| put.key.len() + put.value.len());
        let bytes = puts.chain(delta.deletes.iter().map(String::len)).sum();
        Self { delta, bytes, wire: Wire::default() }
    }

    fn message(&self) -> ServerMessage {
        ServerMessage { message: Some(Message::Delta(self.delta.clone())) }
    }
}

/// A topic at a publication.
#[derive(Clone, Debug, Default)]
pub struct TopicState {
    /// Its entries, in the order of their keys.
    pub entries: OrdMap<ArcStr, Bytes>,
    /// Their digest.
    pub digest: TopicDigest,
    /// The publication that changed it last.
    pub changed: u64,
    /// Length of all keys and values.
    pub(crate) bytes: usize,
    /// The publication after which `frames` say everything.
    pub(crate) floor: u64,
    /// Its newest changes, oldest first.
    pub(crate) frames: List<Arc<Frame>>,
    /// Length of all of these.
    pub(crate) frame_bytes: usize,
    /// Of a large topic.
    pub(crate) buckets: Option<Buckets>,
    cache: Cache,
}

impl TopicState {
    /// What has happened to the topic after a publication; none when that is not known any more, or
    /// is longer than the topic itself.
    pub fn since(&self, publication: u64) -> Option<Vec<Arc<Frame>>> {
        if publication < self.floor {
            return None;
        }
        let mut frames = Vec::new();
        let mut bytes = 0;
        for frame in self.frames.iter().rev().take_while(|frame| frame.delta.to > publication) {
            bytes += frame.bytes;
            if bytes > self.bytes && !frames.is_empty() {
                return None;
            }
            frames.push(frame.clone());
        }
        frames.reverse();
        Some(frames)
    }

    /// The topic whole, in parts that all sessions share as long as the topic stays as it is.
    pub fn whole(&self, topic: &str) -> Arc<Whole> {
        let make = || Arc::new(Whole::new(topic, None, self.entries.clone(), self.digest));
        let mut cached = self.cache.lock();
        cached.used = true;
        cached.whole.get_or_insert_with(make).clone()
    }

    /// One of its buckets, in parts that are shared as those of the topic are.
    pub(crate) fn bucket(&self, topic: &str, bucket: u8) -> Arc<Whole> {
        let make = || {
            let of_bucket = |(key, _): &(&ArcStr, &Bytes)| model::view::bucket(key) == bucket;
            let entries = self.entries.iter().filter(of_bucket);
            let entries = entries.map(|(key, value)| (key.clone(), value.clone())).collect();
            Arc::new(Whole::new(topic, Some(bucket), entries, self.digest))
        };
        let mut cached = self.cache.lock();
        cached.used = true;
        cached.buckets.entry(bucket).or_insert_with(make).clone()
    }

    /// Forgets its oldest change. Returns its length.
    pub(crate) fn forget_oldest(&mut self) -> usize {
        let Some(frame) = self.frames.pop_front() else { return 0 };
        self.frame_bytes -= frame.bytes;
        if !Planted::HistoryTrimmed.is_here() {
            self.floor = frame.delta.to;
        }
        frame.bytes
    }

    /// The topic is about to change: what was encoded of it whole is no longer so.
    pub(crate) fn changing(&mut self) {
        self.cache = Cache::default();
    }

    /// Forgets the topic's parts, when nobody has asked for them since this was called last. What
    /// a session still sends stays until it is sent.
    pub fn forget_unused(&self) {
        let mut cached = self.cache.lock();
        if !std::mem::take(&mut cached.used) {
            *cached = Cached::default();
        }
    }
}

/// The parts of a topic, while it is as it is: a changed copy has none.
#[derive(Default)]
struct Cache(Mutex<Cached>);

impl Cache {
    fn lock(&self) -> MutexGuard<'_, Cached> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What has been encoded makes no difference to what the topic is.
impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Cache")
    }
}

#[derive(Default)]
struct Cached {
    whole: Option<Arc<Whole>>,
    buckets: BTreeMap<u8, Arc<Whole>>,
    /// Somebody asked since that was looked at last.
    used: bool,
}

impl Clone for Cache {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// A topic whole, or one bucket of it, in parts. It shares the entries with the state; a part is
/// encoded when it is sent first.
#[derive(Debug)]
pub struct Whole {
    topic: String,
    bucket: Option<u8>,
    entries: OrdMap<ArcStr, Bytes>,
    digest: TopicDigest,
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    /// Its first key; none: the topic is empty.
    first: Option<ArcStr>,
    wire: Wire,
}

impl Whole {
    /// `digest` is the topic's.
    pub(crate) fn new(
        topic: &str,
        bucket: Option<u8>,
        entries: OrdMap<ArcStr, Bytes>,
        digest: TopicDigest,
    ) -> Self {
        let mut parts: Vec<Part> = Vec::new();
        let mut bytes = 0;
        for (key, value) in &entries {
            let size = key.len() + value.len();
            if parts.is_empty() || bytes + size > PART_BYTES {
                parts.push(Part { first: Some(key.clone()), wire: Wire::default() });
                bytes = 0;
            }
            bytes += size;
        }
        if parts.is_empty() {
            parts.push(Part { first: None, wire: Wire::default() });
        }
        Self { topic: topic.to_owned(), bucket, entries, digest, parts }
    }

    /// How many parts there are: at least one.
    pub fn part_count(&self) -> usize {
        self.parts.len()
    }

    /// Its parts, to be sent: the first of [`crate::Frames`], from which the others come.
    pub(crate) fn outgoing(self: Arc<Self>) -> Outgoing {
        Outgoing::Part(self, 0)
    }

    /// The message of a part.
    pub(crate) fn message(&self, part: usize) -> ServerMessage {
        let last = part + 1 == self.parts.len();
        let mut entries = Vec::new();
        if let Some(first) = self.parts.get(part).and_then(|part| part.first.as_ref()) {
            let end = self.parts.get(part + 1).and_then(|next| next.first.as_ref());
            let range = self.entries.range(first.clone()..);
            // A copy lives as long as the message. To share a value would be to keep a count beside it for as long
            // as the topic has it, and so of every entry of a full view that was ever asked for.
            let copy = |(key, value): (&ArcStr, &Bytes)| KeyValue {
                key: key.to_string(),
                value: Bytes::copy_from_slice(value),
            };
            entries.extend(range.take_while(|(key, _)| end.is_none_or(|end| *key < end)).map(copy));
        }
        let replace = Replace {
            topic: self.topic.clone(),
            bucket: self.bucket.map(u32::from),
            part: part as u32,
            last,
            entries,
            digest_after: last.then(|| self.digest.into()),
        };
        ServerMessage { message: Some(Message::Replace(replace)) }
    }
}

/// Something for one agent.
#[derive(Clone, Debug)]
pub enum Outgoing {
    /// A frame that other agents get too.
    Shared(Arc<Frame>),
    /// A part of a topic, which other agents get too.
    Part(Arc<Whole>, usize),
    /// A message of this session.
    Own(Box<ServerMessage>),
}

impl Outgoing {
    /// The message, copied where it is shared.
    pub fn into_message(self) -> ServerMessage {
        match self {
            Self::Shared(frame) => frame.message(),
            Self::Part(whole, part) => whole.message(part),
            Self::Own(message) => *message,
        }
    }

    /// The message as it travels. Where it is shared it is encoded once for all; a message of one
    /// session is not compressed.
    pub fn bytes(&self, encoding: Encoding) -> Bytes {
        match self {
            Self::Shared(frame) => frame.wire.get(encoding, || frame.message()),
            Self::Part(whole, part) => match whole.parts.get(*part) {
                Some(at) => at.wire.get(encoding, || whole.message(*part)),
                None => Bytes::new(),
            },
            Self::Own(message) => crate::wire::frame(message),
        }
    }

    /// Whether [`Self::bytes`] has nothing left to encode.
    pub fn is_encoded(&self, encoding: Encoding) -> bool {
        match self {
            Self::Shared(frame) => frame.wire.is_made(encoding),
            Self::Part(whole, part) => {
                whole.parts.get(*part).is_none_or(|part| part.wire.is_made(encoding))
            }
            Self::Own(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(entries: usize, size: usize) -> TopicState {
        let entry = |n| (arcstr::format!("{n:05}"), Bytes::from(vec![b'x'; size]));
        TopicState { entries: (0..entries).map(entry).collect(), ..TopicState::default() }
    }

    fn parts(whole: &Whole) -> Vec<Replace> {
        let parts = (0..whole.part_count()).map(|part| whole.message(part).message);
        parts
            .map(|message| match message {
                Some(Message::Replace(replace)) => replace,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn who_has_got_a_topic_whole_leaves_nothing_with_its_entries() {
        let state = topic(100, 1024);
        let whole = state.whole("t");
        let messages: Vec<_> = (0..whole.part_count()).map(|part| whole.message(part)).collect();
        assert!(messages.len() > 1);
        // A value that is shared once keeps a count beside it from then on.
        assert!(state.entries.values().all(Bytes::is_unique));
    }

    #[test]
    fn the_parts_of_a_topic_hold_each_entry_once_and_only_the_last_says_so() {
        for (entries, size, expected) in
            [(0, 0, 1), (1, 200_000, 1), (100, 3000, 5), (3, 70_000, 3)]
        {
            let state = topic(entries, size);
            let parts = parts(&state.whole("t"));
            assert_eq!(parts.len(), expected);
            let keys: Vec<&str> =
                parts.iter().flat_map(|part| &part.entries).map(|entry| &*entry.key).collect();
            assert!(keys.iter().copied().eq(state.entries.keys().map(ArcStr::as_str)));
            for (n, part) in parts.iter().enumerate() {
                assert_eq!(part.part as usize, n);
                assert_eq!(part.last, n + 1 == parts.len());
                assert_eq!(part.digest_after.is_some(), part.last);
            }
        }
    }

    #[test]
    fn sessions_share_the_parts_of_a_topic_until_it_changes_or_nobody_asks_any_more() {
        let mut state = topic(10, 10);
        let one = state.whole("t");
        assert!(Arc::ptr_eq(&one, &state.whole("t")));
        let bytes = |whole: &Arc<Whole>| Outgoing::Part(whole.clone(), 0).bytes(Encoding::Identity);
        assert_eq!(bytes(&one).as_ptr(), bytes(&state.whole("t")).as_ptr());

        state.forget_unused();
        assert!(Arc::ptr_eq(&one, &state.whole("t")), "it was in use");
        state.forget_unused();
        state.forget_unused();
        assert!(!Arc::ptr_eq(&one, &state.whole("t")));

        let mut changed = state.clone();
        changed.entries.remove("00000");
        assert_eq!(parts(&changed.whole("t"))[0].entries.len(), 9);
        state.changing();
        state.entries.remove("00001");
        assert_eq!(parts(&state.whole("t"))[0].entries.len(), 9, "no stale parts");
    }
}
