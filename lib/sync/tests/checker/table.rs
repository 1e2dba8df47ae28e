//! Which check catches which bug. `README.md` shows this table, and a test holds the two together.

use bulrush_sync::planted::Planted::{self, *};

use crate::{
    invariants::Invariant::{self, *},
    scope::{Scope, StoreFault},
    store::Happening::*,
};

/// A bug that is planted, where, and what must catch it.
pub(crate) struct Row {
    pub(crate) bug: Bug,
    /// None: it does no harm.
    pub(crate) caught_by: Option<Invariant>,
    pub(crate) scope: Scope,
}

#[derive(Clone, Copy)]
pub(crate) enum Bug {
    /// In the shipped code.
    Ours(Planted),
    /// In the store that the shipped code is fed from.
    Store(StoreFault),
}

impl Bug {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Ours(bug) => format!("{bug:?}"),
            Self::Store(fault) => format!("store: {fault:?}"),
        }
    }
}

pub(crate) fn rows() -> Vec<Row> {
    let row = |bug, caught_by, scope: Scope| Row {
        bug: Bug::Ours(bug),
        caught_by: Some(caught_by),
        scope,
    };
    let store = |fault, caught_by, scope: Scope| Row {
        bug: Bug::Store(fault),
        caught_by,
        scope: Scope { fault: Some(fault), ..scope },
    };
    let one = |script: &[_]| Scope { cuts: 1, ..Scope::of(script) };
    let two = |script: &[_]| Scope { replicas: 2, bookmarks: true, restarts: 1, ..one(script) };
    let strict = |script: &[_]| Scope { strict: true, ..two(script) };
    let pools = [Pool(Some(0)), Pool(Some(1)), Pool(Some(2)), Pool(Some(1))];
    vec![
        row(RuleTwoSkipped, I1, two(&pools)),
        row(BookmarkInVector, I10, two(&[Pool(Some(0)), Elsewhere])),
        row(ListVersionInVector, I10, two(&[Pool(Some(0)), Elsewhere])),
        row(ViewEarly, I2, one(&[Endpoint(0, Some(true)), Pool(Some(0))])),
        row(ViewLate, I2, one(&[Endpoint(0, Some(true)), Pool(Some(0))])),
        row(DigestWithoutKey, I5, one(&pools)),
        row(DigestOfDecodedFields, I5, one(&pools)),
        row(HistoryTrimmed, I8, Scope { history: 0, ..one(&pools) }),
        row(HistoryUnbounded, I9, Scope { history: 10, ..one(&pools) }),
        row(ForeignEpoch, I10, Scope { foreign: true, ..one(&pools) }),
        row(AckAtReceipt, I11, Scope { acks: true, ..one(&pools) }),
        row(JoinLeftOut, I3, Scope { restarts: 1, ..one(&[Rules(1), Pool(Some(0)), Pool(None)]) }),
        row(
            StagedSurvives,
            I6,
            Scope { restarts: 1, ..one(&[Pool(Some(0)), Pool(Some(1)), Pool(Some(0))]) },
        ),
        row(StagedShown, I6, one(&pools)),
        row(
            BucketForgetsDeletes,
            I5,
            Scope {
                restarts: 1,
                buckets_from: 0,
                ..one(&[Second(Some(0)), Pool(Some(0)), Pool(None)])
            },
        ),
        row(ListIgnored, I3, strict(&[Pool(Some(0)), Pool(None)])),
        row(ListSeenOnce, I3, strict(&[Pool(Some(0)), Pool(None)])),
        row(ListForgotten, I3, Scope { cuts: 2, ..strict(&[Pool(Some(0)), Pool(None)]) }),
        row(ListByVersion, I10, two(&[Pool(Some(0)), Elsewhere])),
        row(ProgressKept, I1, two(&[Pool(Some(0)), Elsewhere])),
        row(UnmentionedIsGone, I7, one(&pools)),
        row(Unwoken, I8, one(&[Endpoint(0, Some(true)), Rules(1)])),
        row(
            OthersTopics,
            I12,
            Scope { agents: 2, ..one(&[Endpoint(0, Some(false)), Pool(Some(0))]) },
        ),
        store(StoreFault::ProgressAhead, Some(I1), Scope { bookmarks: true, ..one(&pools) }),
        store(StoreFault::WatchWentBack, Some(I1), one(&pools)),
        store(StoreFault::LostAtCompaction, Some(I1), one(&[Pool(Some(0)), Endpoint(0, None)])),
        store(StoreFault::LostAtCompaction, Some(I4), two(&[Pool(Some(0)), Endpoint(0, None)])),
        store(StoreFault::StaleList, Some(I1), Scope { restarts: 1, ..one(&pools) }),
        store(
            StoreFault::Duplicates,
            None,
            two(&[Pool(Some(0)), Endpoint(0, Some(true)), Pool(None)]),
        ),
    ]
}
