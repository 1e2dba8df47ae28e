//! Version vectors: one version per stream of the store.

use std::collections::BTreeMap;

use model::StreamIndex;
use proto::v1::StreamVersion;

/// A version for each stream; a stream that is absent is at 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vector(BTreeMap<StreamIndex, u64>);

impl Vector {
    /// The version of a stream.
    pub fn get(&self, stream: StreamIndex) -> u64 {
        self.0.get(&stream).copied().unwrap_or(0)
    }

    /// Moves a stream forward; a lower version changes nothing.
    pub fn advance(&mut self, stream: StreamIndex, version: u64) {
        let now = self.0.entry(stream).or_default();
        *now = version.max(*now);
    }

    /// The stream is at 0 again.
    pub fn forget(&mut self, stream: StreamIndex) {
        self.0.remove(&stream);
    }

    /// Moves every stream forward to `other`.
    pub fn join(&mut self, other: &Self) {
        for (stream, version) in &other.0 {
            self.advance(*stream, *version);
        }
    }

    /// The first stream at which `other` is ahead of this vector.
    pub fn first_behind(&self, other: &Self) -> Option<StreamIndex> {
        other.0.iter().find(|(stream, version)| self.get(**stream) < **version).map(|(s, _)| *s)
    }

    /// The streams that stand elsewhere than in `before`, for the wire.
    pub fn changed_since(&self, before: &Self) -> Vec<StreamVersion> {
        let changed = self.0.iter().filter(|(stream, version)| before.get(**stream) != **version);
        changed
            .map(|(stream, version)| StreamVersion { stream: stream.0.into(), version: *version })
            .collect()
    }

    /// Every stream, for the wire.
    pub fn whole(&self) -> Vec<StreamVersion> {
        self.changed_since(&Self::default())
    }

    /// Every stream and its version, in the streams' order.
    pub fn iter(&self) -> impl Iterator<Item = (StreamIndex, u64)> + '_ {
        self.0.iter().map(|(stream, version)| (*stream, *version))
    }
}

/// From the wire. A stream index that doesn't fit is left out: no server has that many streams.
impl From<&[StreamVersion]> for Vector {
    fn from(list: &[StreamVersion]) -> Self {
        let mut vector = Self::default();
        for item in list {
            if let Ok(stream) = u16::try_from(item.stream) {
                vector.advance(StreamIndex(stream), item.version);
            }
        }
        vector
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_never_goes_back_and_names_the_stream_that_is_behind() {
        let (a, b) = (StreamIndex(0), StreamIndex(1));
        let mut one = Vector::default();
        one.advance(a, 5);
        one.advance(a, 3);
        assert_eq!(one.get(a), 5);

        let mut two = one.clone();
        two.advance(b, 1);
        assert_eq!(one.first_behind(&two), Some(b));
        assert_eq!(two.first_behind(&one), None);
        assert_eq!(two.changed_since(&one), vec![StreamVersion { stream: 1, version: 1 }]);
        one.join(&two);
        assert_eq!(one, two);
        assert_eq!(Vector::from(two.whole().as_slice()), two);
    }
}
