//! What a server knows of its store's versions, from what the store says.
//!
//! Two figures per stream, because two questions are asked. An agent that has seen an event must not
//! meet a server that hasn't: that is the *vector*, of events alone. And a server must say up to where
//! it knows everything, also where nothing happens: that is the *progress*. A bookmark, and the version
//! of a list, are progress; counted as events they would keep agents away from every server that didn't
//! happen to hear of them.
//!
//! A third is for what a list can't say: an object that was deleted leaves no version in it. See
//! [`Lists`].

use std::collections::BTreeMap;

use model::StreamIndex;
use proto::v1::StreamList;

use crate::{planted::Planted, vector::Vector};

/// A list of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct List {
    /// The version that it is of.
    pub version: u64,
    /// How many objects were in it.
    pub objects: u64,
}

/// What lists have told of streams, as long as nothing later was seen there.
///
/// A server that knows a stream up to before a list, but has all events that the agent has, has each
/// object that is in the list: what was written later has a later version. So when it has as many
/// objects it has these and no others, and it lags only if it has more: those were deleted before
/// the list. Bookmarks that the one heard and the other did not make no difference.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lists(BTreeMap<StreamIndex, List>);

impl Lists {
    /// The newer list of a stream counts.
    pub(crate) fn join(&mut self, other: &Self) {
        for (stream, list) in &other.0 {
            let now = self.0.entry(*stream).or_insert(*list);
            if now.version < list.version {
                *now = *list;
            }
        }
    }

    /// Forgets what is not later than these versions.
    pub(crate) fn after(&mut self, versions: &Vector) {
        self.0.retain(|stream, list| list.version > versions.get(*stream));
    }

    /// The streams whose list is another than before, for the wire.
    pub(crate) fn changed_since(&self, before: &Self) -> Vec<StreamList> {
        let changed = self.0.iter().filter(|(stream, list)| before.0.get(*stream) != Some(*list));
        let wire = |(stream, list): (&StreamIndex, &List)| StreamList {
            stream: stream.0.into(),
            version: list.version,
            objects: list.objects,
        };
        changed.map(wire).collect()
    }

    /// Every stream, for the wire.
    pub(crate) fn whole(&self) -> Vec<StreamList> {
        self.changed_since(&Self::default())
    }

    /// Every stream and its list, in the streams' order.
    pub fn iter(&self) -> impl Iterator<Item = (StreamIndex, List)> + '_ {
        self.0.iter().map(|(stream, list)| (*stream, *list))
    }
}

/// From the wire. A stream index that doesn't fit is left out: no server has that many streams.
impl From<&[StreamList]> for Lists {
    fn from(lists: &[StreamList]) -> Self {
        let list = |list: &StreamList| {
            let stream = StreamIndex(u16::try_from(list.stream).ok()?);
            Some((stream, List { version: list.version, objects: list.objects }))
        };
        Self(lists.iter().filter_map(list).collect())
    }
}

/// The vector and the progress of a server. The progress is never below the vector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    vector: Vector,
    progress: Vector,
    objects: BTreeMap<StreamIndex, u64>,
    lists: Lists,
}

impl Versions {
    /// Events up to `version` were applied, and the stream has so many objects now.
    pub fn changed(&mut self, stream: StreamIndex, version: u64, objects: u64) {
        self.vector.advance(stream, version);
        self.progress.advance(stream, version);
        self.objects.insert(stream, objects);
        // An event says more than the list before it.
        self.lists.0.remove(&stream);
    }

    /// A list of version `at` was applied, and the newest of the objects in it is of version `newest`.
    pub fn listed(&mut self, stream: StreamIndex, at: u64, newest: u64, objects: u64) {
        let event = if Planted::ListVersionInVector.is_here() { at } else { newest };
        self.vector.advance(stream, event);
        self.progress.advance(stream, at);
        self.objects.insert(stream, objects);
        self.lists.0.insert(stream, List { version: at, objects });
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
        self.objects.remove(&stream);
        self.lists.0.remove(&stream);
    }

    /// The version of the last event applied, per stream.
    pub fn vector(&self) -> &Vector {
        &self.vector
    }

    /// The version known to be complete, per stream.
    pub fn progress(&self) -> &Vector {
        &self.progress
    }

    /// How many objects each stream has, and the lists that no event followed.
    pub(crate) fn listings(&self) -> Listings {
        Listings { objects: self.objects.clone(), lists: self.lists.clone() }
    }
}

/// What a publication says of lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listings {
    objects: BTreeMap<StreamIndex, u64>,
    pub(crate) lists: Lists,
}

impl Listings {
    /// The first of `lists` that is later than `progress`, and whose objects are not those that the
    /// stream has.
    pub(crate) fn first_behind(
        &self,
        progress: &Vector,
        lists: &Lists,
    ) -> Option<(StreamIndex, List)> {
        if Planted::ListIgnored.is_here() {
            return None;
        }
        let by_version = Planted::ListByVersion.is_here();
        let mut behind = lists.iter().filter(|(stream, list)| {
            progress.get(*stream) < list.version
                && (by_version || self.objects.get(stream) != Some(&list.objects))
        });
        behind.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bookmark_and_a_list_move_the_progress_and_only_events_the_vector() {
        let (a, b) = (StreamIndex(0), StreamIndex(1));
        let mut versions = Versions::default();
        versions.listed(a, 9, 4, 2);
        versions.progressed(a, 12);
        versions.changed(b, 7, 1);
        let of = |vector: &Vector| (vector.get(a), vector.get(b));
        assert_eq!((of(versions.vector()), of(versions.progress())), ((4, 7), (12, 7)));
        versions.reset(a);
        assert_eq!((of(versions.vector()), of(versions.progress())), ((0, 7), (0, 7)));
    }

    #[test]
    fn a_list_counts_until_something_happens_in_its_stream() {
        let stream = StreamIndex(0);
        let mut versions = Versions::default();
        versions.listed(stream, 9, 4, 2);
        versions.progressed(stream, 12);
        let lists = versions.listings().lists;
        assert_eq!(lists.whole(), [StreamList { stream: 0, version: 9, objects: 2 }]);
        versions.changed(stream, 13, 3);
        assert!(versions.listings().lists.whole().is_empty());
    }

    #[test]
    fn a_server_lags_behind_a_list_when_it_has_what_is_not_in_it() {
        let stream = StreamIndex(0);
        let mut here = Versions::default();
        here.listed(stream, 4, 4, 2);
        let (mut fewer, mut same) = (Versions::default(), Versions::default());
        fewer.listed(stream, 9, 3, 1);
        same.listed(stream, 9, 4, 2);
        let behind = |here: &Versions, lists: &Versions| {
            here.listings().first_behind(here.progress(), &lists.listings().lists).is_some()
        };
        assert!(behind(&here, &fewer), "one of them was deleted");
        assert!(!behind(&here, &same), "nothing but a bookmark is missing");
        here.progressed(stream, 9);
        assert!(!behind(&here, &fewer), "it knows all that the list knew");
    }
}
