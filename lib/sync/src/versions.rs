//! What a server knows of its store's versions, from what the store says.
//!
//! Two figures per stream, because two questions are asked. An agent that has seen an event must not
//! meet a server that hasn't: that is the *vector*, of events alone. And a server must say up to where
//! it knows everything, also where nothing happens: that is the *progress*. A bookmark, and the version
//! of a list, are progress; counted as events they would keep agents away from every server that didn't
//! happen to hear of them.

use model::StreamIndex;

use crate::{planted::Planted, vector::Vector};

/// The vector and the progress of a server. The progress is never below the vector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    vector: Vector,
    progress: Vector,
}

impl Versions {
    /// Events up to `version` were applied.
    pub fn changed(&mut self, stream: StreamIndex, version: u64) {
        self.vector.advance(stream, version);
        self.progress.advance(stream, version);
    }

    /// A list of version `at` was applied, and the newest object in it is of version `newest`.
    pub fn listed(&mut self, stream: StreamIndex, at: u64, newest: u64) {
        let event = if Planted::ListVersionInVector.is_here() { at } else { newest };
        self.vector.advance(stream, event);
        self.progress.advance(stream, at);
    }

    /// Everything up to `version` was applied: the store said so without an event.
    pub fn progressed(&mut self, stream: StreamIndex, version: u64) {
        if Planted::BookmarkInVector.is_here() {
            self.vector.advance(stream, version);
        }
        self.progress.advance(stream, version);
    }

    /// The store went back in time: what was known of this stream is void until it is listed again.
    pub fn reset(&mut self, stream: StreamIndex) {
        self.vector.forget(stream);
        self.progress.forget(stream);
    }

    /// The version of the last event applied, per stream.
    pub fn vector(&self) -> &Vector {
        &self.vector
    }

    /// The version known to be complete, per stream.
    pub fn progress(&self) -> &Vector {
        &self.progress
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bookmark_and_a_list_move_the_progress_and_only_events_the_vector() {
        let (a, b) = (StreamIndex(0), StreamIndex(1));
        let mut versions = Versions::default();
        versions.listed(a, 9, 4);
        versions.progressed(a, 12);
        versions.changed(b, 7);
        let of = |vector: &Vector| (vector.get(a), vector.get(b));
        assert_eq!((of(versions.vector()), of(versions.progress())), ((4, 7), (12, 7)));
        versions.reset(a);
        assert_eq!((of(versions.vector()), of(versions.progress())), ((0, 7), (0, 7)));
    }
}
