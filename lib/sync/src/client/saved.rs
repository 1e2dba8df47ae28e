//! What a client session holds, as bytes: an agent that restarts says it in its hello, and gets the gap.
//!
//! ```text
//! "bulrush view 1\n" | AgentHello | Replace, one per topic | checksum
//! ```
//!
//! The messages are those of the wire, each with its length in front. The cluster's digest key is a
//! secret and isn't among them. The checksum tells a torn file; it is no protection against people.

use arcstr::ArcStr;
use bytes::Bytes;
use prost::Message as _;
use proto::v1::{AgentHello, KeyValue, Replace};

use super::{ClientSession, Held};
use crate::{
    buckets::Buckets,
    digest::{DigestKey, TopicDigest},
};

/// What the bytes begin with; the number is that of the format.
const MAGIC: &[u8] = b"bulrush view 1\n";
const CHECKSUM_LEN: usize = 16;

/// Why saved bytes are of no use. Nothing is lost but the short way: the first sync is whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SavedError {
    /// Another kind of file, or another version's.
    #[error("it is no view that this version saved")]
    Format,
    /// The checksum disagrees.
    #[error("it is cut off or damaged")]
    Torn,
    /// The view of another node.
    #[error("it is the view of node {saved:?}, and this is {own:?}")]
    Node {
        /// Whose view it is.
        saved: String,
        /// Who asks.
        own: String,
    },
}

impl ClientSession {
    /// What is visible, as bytes for [`Self::restore`]; none before the first Commit.
    pub fn save(&self, node: &str) -> Option<Bytes> {
        if self.epoch.is_empty() {
            return None;
        }
        // The digests of buckets need the key, which isn't saved.
        let large = self.held.iter().filter(|(_, held)| held.entries.len() > self.buckets_from);
        let large = large.map(|(topic, held)| self.told_of(topic, held)).collect();
        let hello = AgentHello {
            node: node.to_owned(),
            epoch: self.epoch.clone(),
            vector: self.vector.whole(),
            lists: self.lists.whole(),
            held: large,
            incarnation: self.incarnation.clone(),
            publication: self.publication,
            ..AgentHello::default()
        };
        let mut bytes = MAGIC.to_vec();
        // A vector has room for all.
        let _ = hello.encode_length_delimited(&mut bytes);
        for (topic, held) in &self.held {
            let entries = held.entries.iter();
            let replace = Replace {
                topic: topic.to_string(),
                last: true,
                entries: entries
                    .map(|(key, value)| KeyValue { key: key.to_string(), value: value.clone() })
                    .collect(),
                digest_after: Some(held.digest.into()),
                ..Replace::default()
            };
            let _ = replace.encode_length_delimited(&mut bytes);
        }
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        Some(bytes.into())
    }

    /// A session that holds what [`Self::save`] was told by the session of the same node.
    pub fn restore(node: &str, saved: &[u8]) -> Result<Self, SavedError> {
        if !saved.starts_with(MAGIC) {
            return Err(SavedError::Format);
        }
        let end = saved.len().checked_sub(CHECKSUM_LEN).filter(|end| *end >= MAGIC.len());
        let end = end.ok_or(SavedError::Torn)?;
        if checksum(&saved[..end]) != saved[end..] {
            return Err(SavedError::Torn);
        }
        let mut rest = &saved[MAGIC.len()..end];
        let format = |_| SavedError::Format;
        let hello = AgentHello::decode_length_delimited(&mut rest).map_err(format)?;
        if hello.node != node {
            return Err(SavedError::Node { saved: hello.node, own: node.to_owned() });
        }
        let mut session = Self {
            epoch: hello.epoch,
            incarnation: hello.incarnation,
            publication: hello.publication,
            vector: hello.vector.as_slice().into(),
            lists: hello.lists.as_slice().into(),
            ..Self::default()
        };
        while !rest.is_empty() {
            let replace = Replace::decode_length_delimited(&mut rest).map_err(format)?;
            let digest = replace.digest_after.as_ref().map(TopicDigest::try_from);
            let digest = digest.and_then(Result::ok).ok_or(SavedError::Format)?;
            let entries = replace.entries.into_iter();
            let entries = entries.map(|entry| (entry.key.into(), entry.value));
            let held = Held { entries: entries.collect(), digest, buckets: None };
            session.held.insert(ArcStr::from(replace.topic), held);
        }
        for large in hello.held {
            if let Some(held) = session.held.get_mut(large.topic.as_str()) {
                held.buckets = Buckets::from_bytes(&large.buckets);
            }
        }
        Ok(session)
    }
}

/// A hash that anyone can compute.
fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_LEN] {
    let mut digest = TopicDigest::default();
    digest.add(&DigestKey([0; CHECKSUM_LEN]), "", "", bytes);
    digest.sum.to_le_bytes()
}
