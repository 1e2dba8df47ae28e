//! The digests of a large topic's parts, by which a server finds what an agent lacks of it.
//!
//! Where most of a topic is the same on both ends, sending the buckets that differ costs a part of it.

use arcstr::ArcStr;
use bytes::Bytes;
use model::view::{BUCKETS, bucket};

use crate::digest::{DigestKey, TopicDigest};

/// A topic with more entries than this has digests of its buckets.
pub const BUCKETS_FROM: usize = 1024;
/// Length of one digest on the wire.
const LEN: usize = 24;

/// The digest of each bucket of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Buckets(Box<[TopicDigest]>);

impl Default for Buckets {
    fn default() -> Self {
        Self(vec![TopicDigest::default(); BUCKETS.into()].into())
    }
}

impl Buckets {
    /// Those of these entries.
    pub(crate) fn of<'a>(
        digest_key: &DigestKey,
        topic: &str,
        entries: impl Iterator<Item = (&'a ArcStr, &'a Bytes)>,
    ) -> Self {
        let mut buckets = Self::default();
        for (key, value) in entries {
            buckets.at(key).add(digest_key, topic, key, value);
        }
        buckets
    }

    /// The digest of the bucket that the key is in.
    pub(crate) fn at(&mut self, key: &str) -> &mut TopicDigest {
        &mut self.0[usize::from(bucket(key))]
    }

    /// The buckets that are not the same.
    pub(crate) fn differing(&self, other: &Self) -> Vec<u8> {
        let both = self.0.iter().zip(&other.0).zip(0..);
        both.filter(|((one, other), _)| one != other).map(|(_, bucket)| bucket).collect()
    }

    /// For the wire.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.0.len() * LEN);
        for digest in &self.0 {
            bytes.extend_from_slice(&digest.sum.to_le_bytes());
            bytes.extend_from_slice(&digest.count.to_le_bytes());
        }
        bytes
    }

    /// From the wire; none: it is of another length.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (digests, rest) = bytes.as_chunks::<LEN>();
        let digest = |bytes: &[u8; LEN]| {
            let (sum, count) = bytes.split_at(16);
            let sum = u128::from_le_bytes(sum.try_into().ok()?);
            Some(TopicDigest { sum, count: u64::from_le_bytes(count.try_into().ok()?) })
        };
        let digests: Option<Box<[_]>> = digests.iter().map(digest).collect();
        digests.filter(|all| rest.is_empty() && all.len() == usize::from(BUCKETS)).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: DigestKey = DigestKey([1; 16]);

    fn of(entries: &[(ArcStr, Bytes)]) -> Buckets {
        Buckets::of(&KEY, "t", entries.iter().map(|(key, value)| (key, value)))
    }

    #[test]
    fn what_differs_is_in_the_buckets_that_differ() {
        let mut entries: Vec<_> =
            (0..500).map(|n| (arcstr::format!("{n}"), Bytes::from_static(b"x"))).collect();
        let before = of(&entries);
        assert_eq!(Buckets::from_bytes(&before.to_bytes()).as_ref(), Some(&before));
        entries[7].1 = Bytes::from_static(b"y");
        let gone = entries.remove(300).0;
        let mut expected = vec![bucket("7"), bucket(&gone)];
        expected.sort_unstable();
        assert_eq!(before.differing(&of(&entries)), expected);
    }

    #[test]
    fn keys_of_one_shard_are_in_many_buckets() {
        let of_shard = (0..100_000).map(|n| format!("node-{n}"));
        let of_shard = of_shard.filter(|key| model::view::shard(key) == 3);
        let buckets: std::collections::BTreeSet<u8> = of_shard.map(|key| bucket(&key)).collect();
        assert_eq!(buckets.len(), usize::from(BUCKETS));
    }

    #[test]
    fn buckets_of_another_number_are_none() {
        let bytes = Buckets::default().to_bytes();
        assert!(Buckets::from_bytes(&bytes[..LEN]).is_none());
        assert!(Buckets::from_bytes(&bytes[1..]).is_none());
        assert!(Buckets::from_bytes(&[]).is_none());
    }
}
