//! Bugs that tests plant in the protocol, to see that the model checker finds them.
//!
//! Only this crate's own tests turn on the feature `planted`. Without it "is this bug here?" is a
//! constant, and nothing of a bug is left in the program.

/// A bug that can be planted. `tests/checker/README.md` says which check catches it.
#[cfg_attr(
    not(feature = "planted"),
    expect(dead_code, unreachable_pub, reason = "only the crate's tests plant bugs")
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Planted {
    /// A server serves an agent that has seen more than it knows.
    RuleTwoSkipped,
    /// A bookmark counts as an event.
    BookmarkInVector,
    /// The version of a list counts as that of an event.
    ListVersionInVector,
    /// What a view needs newly is published one publication after the view.
    ViewEarly,
    /// A view changes one publication after what made it change.
    ViewLate,
    /// Digests that anyone can compute.
    DigestWithoutKey,
    /// Digests of what an entry means to this version, not of its bytes.
    DigestOfDecodedFields,
    /// History forgets a frame and goes on saying that it reaches back before it.
    HistoryTrimmed,
    /// What an agent holds of another store is taken as of this one.
    ForeignEpoch,
    /// An agent acknowledges what it has received, not what its kernel holds.
    AckAtReceipt,
    /// A server doesn't ask what lists told of deletes.
    ListIgnored,
    /// A server asks that once, when the agent comes.
    ListSeenOnce,
    /// A list counts by its version: a server that hasn't got there lags, whatever it has.
    ListByVersion,
    /// A client forgets what lists told, as soon as another server serves it.
    ListForgotten,
    /// A server announces its own vector to an agent that has seen more.
    JoinLeftOut,
    /// An agent keeps the progress that another server told it.
    ProgressKept,
    /// All that was staged when a stream broke stays so, though the hello doesn't say it.
    StagedSurvives,
    /// What came whole before a stream broke is visible without its Commit.
    StagedShown,
    /// A bucket that comes whole leaves what is not in it any more.
    BucketForgetsDeletes,
    /// What the first Commit of a session doesn't mention is taken as gone.
    UnmentionedIsGone,
    /// A change of what nodes have by need wakes none of them.
    Unwoken,
    /// History grows without end.
    HistoryUnbounded,
    /// A view has the private topics of all nodes.
    OthersTopics,
}

#[cfg(feature = "planted")]
mod planting {
    use std::{borrow::Cow, cell::Cell};

    use model::view::Topic;
    use prost::Message as _;
    use proto::v1::Entry;

    use super::Planted;
    use crate::publisher::{Change, ViewChange};

    thread_local! {
        static HERE: Cell<Option<Planted>> = const { Cell::new(None) };
    }

    thread_local! {
        static FEW_TOPICS: Cell<bool> = const { Cell::new(false) };
    }

    /// Takes out again what was planted when it is dropped.
    #[derive(Debug)]
    pub struct Guard(fn());

    impl Drop for Guard {
        fn drop(&mut self) {
            self.0();
        }
    }

    /// No bug, but a smaller scope: of the topics that all nodes have, this thread's views have two
    /// for as long as the guard lives. Most of the others hold nothing in a test.
    #[must_use = "views are whole again when the guard is dropped"]
    pub fn few_common_topics() -> Guard {
        FEW_TOPICS.set(true);
        Guard(|| FEW_TOPICS.set(false))
    }

    pub(crate) fn common_topics() -> impl Iterator<Item = Topic> {
        Topic::common().take(if FEW_TOPICS.get() { 2 } else { usize::MAX })
    }

    impl Planted {
        /// Plants the bug for this thread, for as long as the guard lives.
        #[must_use = "the bug is there for as long as the guard lives"]
        pub fn plant(self) -> Guard {
            HERE.set(Some(self));
            Guard(|| HERE.set(None))
        }

        pub(crate) fn is_here(self) -> bool {
            HERE.get() == Some(self)
        }
    }

    /// The key and the bytes of a value that a digest is over.
    pub(crate) fn digested<'a>(
        key: &'a [u8; 16],
        value: &'a [u8],
    ) -> (&'a [u8; 16], Cow<'a, [u8]>) {
        let key = if Planted::DigestWithoutKey.is_here() { &[0; 16] } else { key };
        let decoded = Some(value).filter(|_| Planted::DigestOfDecodedFields.is_here());
        match decoded.and_then(|value| Entry::decode(value).ok()) {
            Some(entry) => (key, entry.encode_to_vec().into()),
            None => (key, value.into()),
        }
    }

    /// What a bug keeps for the next publication.
    #[derive(Clone, Debug, Default)]
    pub(crate) struct Late {
        changes: Vec<Change>,
        views: Vec<ViewChange>,
    }

    impl Late {
        pub(crate) fn shift(
            &mut self,
            changes: impl IntoIterator<Item = Change>,
            views: impl IntoIterator<Item = ViewChange>,
        ) -> (Vec<Change>, Vec<ViewChange>) {
            let mut changes: Vec<_> = changes.into_iter().collect();
            let mut views: Vec<_> = views.into_iter().collect();
            if Planted::ViewLate.is_here() {
                std::mem::swap(&mut self.views, &mut views);
            }
            if Planted::ViewEarly.is_here() {
                let needed = |change: &Change| views.iter().any(|v| v.add.contains(&change.topic));
                let (late, now) = changes.into_iter().partition(needed);
                changes = std::mem::replace(&mut self.changes, late);
                changes.extend::<Vec<_>>(now);
            }
            (changes, views)
        }
    }
}

#[cfg(not(feature = "planted"))]
#[allow(clippy::unused_self, reason = "it has the shape of the module that plants")]
mod planting {
    use model::view::Topic;

    use super::Planted;

    pub(crate) fn common_topics() -> impl Iterator<Item = Topic> {
        Topic::common()
    }

    impl Planted {
        pub(crate) const fn is_here(self) -> bool {
            false
        }
    }

    pub(crate) const fn digested<'a>(
        key: &'a [u8; 16],
        value: &'a [u8],
    ) -> (&'a [u8; 16], &'a [u8]) {
        (key, value)
    }

    /// Keeps nothing.
    #[derive(Clone, Debug, Default)]
    pub(crate) struct Late {}

    impl Late {
        pub(crate) fn shift<C, V>(&mut self, changes: C, views: V) -> (C, V) {
            (changes, views)
        }
    }
}

#[cfg(feature = "planted")]
pub use planting::{Guard, few_common_topics};
pub(crate) use planting::{Late, common_topics, digested};
