//! Digests: how both ends know, without sending it again, that they hold the same.
//!
//! The digest of a topic is the sum of its entries' keyed hashes: it follows a change in O(change).
//! A sum, because an exclusive or lets two equal additions vanish; keyed, because tenants choose
//! what entries say and could otherwise look for ones that collide.

use std::hash::Hasher as _;

use siphasher::sip128::{Hasher128 as _, SipHasher24};

use crate::planted;

/// Length of a [`DigestKey`] in bytes.
pub const DIGEST_KEY_LEN: usize = 16;

/// The secret of a cluster's digests: the same on every server, handed to agents in the hello.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DigestKey(pub [u8; DIGEST_KEY_LEN]);

impl std::fmt::Debug for DigestKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DigestKey(..)")
    }
}

impl DigestKey {
    /// The hash of an entry.
    pub(crate) fn entry(&self, topic: &str, key: &str, value: &[u8]) -> u128 {
        self.hash([topic.as_bytes(), key.as_bytes(), value])
    }

    /// The hash of a list of byte strings, each with its length in front, as a number.
    fn hash(&self, parts: [&[u8]; 3]) -> u128 {
        let [topic, entry_key, value] = parts;
        let (key, value) = planted::digested(&self.0, value);
        let mut hasher = SipHasher24::new_with_key(key);
        #[allow(clippy::useless_asref, reason = "a planted bug has changed bytes of its own")]
        let value = value.as_ref();
        for part in [topic, entry_key, value] {
            hasher.write(&(part.len() as u32).to_le_bytes());
            hasher.write(part);
        }
        u128::from_le_bytes(hasher.finish128().as_bytes())
    }
}

/// What a topic holds, in 24 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TopicDigest {
    /// The entries' hashes, added up mod 2^128.
    pub sum: u128,
    /// How many entries.
    pub count: u64,
}

impl TopicDigest {
    /// An entry is there now.
    pub fn add(&mut self, key: &DigestKey, topic: &str, entry_key: &str, value: &[u8]) {
        self.plus(key.entry(topic, entry_key, value));
    }

    /// An entry that was there is gone.
    pub fn remove(&mut self, key: &DigestKey, topic: &str, entry_key: &str, value: &[u8]) {
        self.minus(key.entry(topic, entry_key, value));
    }

    /// An entry of this hash is there now.
    pub(crate) fn plus(&mut self, hash: u128) {
        self.sum = self.sum.wrapping_add(hash);
        self.count = self.count.wrapping_add(1);
    }

    /// An entry of this hash that was there is gone.
    pub(crate) fn minus(&mut self, hash: u128) {
        self.sum = self.sum.wrapping_sub(hash);
        self.count = self.count.wrapping_sub(1);
    }
}

impl From<TopicDigest> for proto::v1::Digest {
    fn from(digest: TopicDigest) -> Self {
        Self { sum: digest.sum.to_le_bytes().to_vec(), count: digest.count }
    }
}

/// From the wire; a sum of another length than 16 bytes equals no digest.
impl TryFrom<&proto::v1::Digest> for TopicDigest {
    type Error = std::array::TryFromSliceError;

    fn try_from(digest: &proto::v1::Digest) -> Result<Self, Self::Error> {
        let sum = u128::from_le_bytes(digest.sum.as_slice().try_into()?);
        Ok(Self { sum, count: digest.count })
    }
}

/// The digest of a whole view: a hash over its topics' digests, which must come sorted by topic.
pub fn view_digest<'a>(
    key: &DigestKey,
    topics: impl Iterator<Item = (&'a str, TopicDigest)>,
) -> TopicDigest {
    let mut hasher = SipHasher24::new_with_key(&key.0);
    let mut count = 0;
    for (topic, digest) in topics {
        hasher.write(&(topic.len() as u32).to_le_bytes());
        hasher.write(topic.as_bytes());
        hasher.write(&digest.sum.to_le_bytes());
        hasher.write(&digest.count.to_le_bytes());
        count += 1;
    }
    TopicDigest { sum: u128::from_le_bytes(hasher.finish128().as_bytes()), count }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: DigestKey = DigestKey([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);

    #[test]
    fn the_hash_is_siphash_2_4_128() {
        // The reference vector for an empty message under the key 00 01 … 0f.
        let hasher = SipHasher24::new_with_key(&KEY.0);
        let expected = 0x9302_55c7_1472_f66d_e6a8_25ba_047f_81a3;
        assert_eq!(u128::from_le_bytes(hasher.finish128().as_bytes()), expected);
    }

    #[test]
    fn a_digest_forgets_what_was_removed_and_not_the_order() {
        let mut one = TopicDigest::default();
        one.add(&KEY, "t", "a", b"1");
        one.add(&KEY, "t", "b", b"2");
        one.add(&KEY, "t", "c", b"3");
        one.remove(&KEY, "t", "a", b"1");
        let mut two = TopicDigest::default();
        two.add(&KEY, "t", "c", b"3");
        two.add(&KEY, "t", "b", b"2");
        assert_eq!(one, two);
    }

    #[test]
    fn moving_a_byte_between_topic_key_and_value_changes_the_digest() {
        let digest = |topic: &str, key: &str, value: &[u8]| {
            let mut digest = TopicDigest::default();
            digest.add(&KEY, topic, key, value);
            digest
        };
        assert_ne!(digest("ab", "c", b"d"), digest("a", "bc", b"d"));
        assert_ne!(digest("a", "bc", b"d"), digest("a", "b", b"cd"));
    }

    #[test]
    fn without_the_key_nobody_knows_the_digest() {
        let mut one = TopicDigest::default();
        let mut two = TopicDigest::default();
        one.add(&KEY, "t", "a", b"1");
        two.add(&DigestKey([0; 16]), "t", "a", b"1");
        assert_ne!(one, two);
        assert_eq!(format!("{KEY:?}"), "DigestKey(..)");
    }
}
