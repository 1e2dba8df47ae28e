//! A key or a range of keys, as requests spell it.

use std::ops::Bound;

/// Where a look-up begins and ends.
type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// One key, the keys in `[start, end)`, or all keys from `start` on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    start: Vec<u8>,
    end: End,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    /// Only `start` itself.
    One,
    Before(Vec<u8>),
    Open,
}

impl Span {
    /// etcd's spelling: an empty `range_end` means one key, a single zero byte means no end.
    pub(crate) fn new(key: &[u8], range_end: &[u8]) -> Self {
        let end = match range_end {
            [] => End::One,
            [0] => End::Open,
            end => End::Before(end.to_vec()),
        };
        Self { start: key.to_vec(), end }
    }

    /// Every key there can be: none is empty.
    pub(crate) fn all() -> Self {
        Self { start: vec![0], end: End::Open }
    }

    /// Whether no key can be in it.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(&self.end, End::Before(end) if *end <= self.start)
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        match &self.end {
            End::One => key == self.start,
            End::Before(end) => self.start.as_slice() <= key && key < end.as_slice(),
            End::Open => self.start.as_slice() <= key,
        }
    }

    /// The bounds for a look-up in a sorted map; none when the span is empty (a map panics on such bounds).
    pub(crate) fn bounds(&self) -> Option<Bounds<'_>> {
        if self.is_empty() {
            return None;
        }
        let start = self.start.as_slice();
        let end = match &self.end {
            End::One => Bound::Included(start),
            End::Before(end) => Bound::Excluded(end.as_slice()),
            End::Open => Bound::Unbounded,
        };
        Some((Bound::Included(start), end))
    }
}
