//! Whether a cluster's history is still the one that was followed.

use etcd_client::ResponseHeader;

/// What linearizable reads have shown: in one cluster, revision and raft term never decrease. Both start anew when it
/// is restored from a backup; the term tells even when the revision has caught up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct History {
    cluster: u64,
    term: u64,
    revision: i64,
    /// How often it was seen to be replaced.
    pub(super) replaced: u32,
}

impl History {
    /// Takes in the answer to a read that began when `before` was known: two reads at a time may be answered in
    /// either order.
    pub(super) fn saw(&mut self, before: Self, header: &ResponseHeader) {
        self.take(before, header.cluster_id(), header.raft_term(), header.revision());
    }

    fn take(&mut self, before: Self, cluster: u64, term: u64, revision: i64) {
        if self.cluster != cluster {
            *self = Self { cluster, term, revision, ..*self };
        } else if self.replaced != before.replaced || self.cluster != before.cluster {
            // Asked before the last change was noticed: it says nothing about what came after.
        } else if term < before.term || revision < before.revision {
            *self = Self { term, revision, replaced: self.replaced + 1, ..*self };
        } else {
            self.term = self.term.max(term);
            self.revision = self.revision.max(revision);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::History;

    const CLUSTER: u64 = 7;

    /// In term 3, at revision 100.
    fn known() -> History {
        let mut history = History::default();
        history.take(History::default(), CLUSTER, 3, 100);
        assert_eq!(history.replaced, 0);
        history
    }

    #[test]
    fn revision_and_term_grow() {
        let mut history = known();
        history.take(history, CLUSTER, 3, 100);
        history.take(history, CLUSTER, 3, 120);
        history.take(history, CLUSTER, 4, 120);
        assert_eq!(history, History { cluster: CLUSTER, term: 4, revision: 120, replaced: 0 });
    }

    #[test]
    fn a_lower_revision_or_a_lower_term_is_another_history() {
        for (term, revision) in [(3, 99), (2, 500)] {
            let mut history = known();
            history.take(history, CLUSTER, term, revision);
            assert_eq!(history, History { cluster: CLUSTER, term, revision, replaced: 1 });
            history.take(history, CLUSTER, term, revision + 1);
            assert_eq!(history.replaced, 1, "it goes on from there");
        }
    }

    #[test]
    fn answers_may_come_in_either_order() {
        let mut history = known();
        let before = history;
        history.take(before, CLUSTER, 3, 120);
        history.take(before, CLUSTER, 3, 110);
        assert_eq!(history, History { cluster: CLUSTER, term: 3, revision: 120, replaced: 0 });
    }

    #[test]
    fn one_replacement_noticed_by_two_reads_counts_once() {
        let mut history = known();
        let before = history;
        history.take(before, CLUSTER, 2, 5);
        history.take(before, CLUSTER, 2, 6);
        assert_eq!(history.replaced, 1);
    }

    #[test]
    fn another_cluster_has_its_own_numbers() {
        let mut history = known();
        history.take(history, 8, 1, 2);
        assert_eq!(history, History { cluster: 8, term: 1, revision: 2, replaced: 0 });
    }
}
