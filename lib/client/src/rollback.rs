//! When to take an older state than the agent has seen.
//!
//! A server that is behind catches up, or another one isn't. But a store that was restored from a
//! backup never catches up with what was lost. So when every server has been behind for long, the
//! agent lets itself be taken back.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use proto::v1::Behind;

/// How long every server must have been behind.
const PATIENCE: Duration = Duration::from_mins(1);
/// A server that answered longer ago may be gone: it has no say.
const FORGOTTEN: Duration = Duration::from_mins(2);

/// Remembers which servers are behind. Time comes in as an argument.
#[derive(Debug, Default)]
pub(crate) struct Rollback {
    /// Servers that answered when they were last tried, and when.
    answered: BTreeMap<String, Instant>,
    behind: BTreeSet<String>,
    since: Option<Instant>,
}

impl Rollback {
    /// A server is tried: it has no say until it answers.
    pub(crate) fn tried(&mut self, server: &str) {
        self.answered.remove(server);
    }

    /// A server answered.
    pub(crate) fn answered(&mut self, server: &str, now: Instant) {
        self.answered.insert(server.to_owned(), now);
    }

    /// A server said that it is behind. One that has lost its store doesn't know what became of that.
    pub(crate) fn behind(&mut self, server: &str, behind: &Behind, now: Instant) {
        if behind.stale_milliseconds > 0 {
            return;
        }
        self.behind.insert(server.to_owned());
        self.since.get_or_insert(now);
    }

    /// A server serves.
    pub(crate) fn served(&mut self) {
        *self = Self::default();
    }

    /// Whether the next hello accepts an older state: each server that could be asked said that it
    /// is behind, for long.
    pub(crate) fn accepted(&self, now: Instant) -> bool {
        let long = self.since.is_some_and(|since| now >= since + PATIENCE);
        let mut asked = self.answered.iter().filter(|(_, at)| now < **at + FORGOTTEN);
        long && asked.all(|(server, _)| self.behind.contains(server))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_state_is_taken_after_every_server_that_answers_was_behind_for_a_minute() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut rollback = Rollback::default();
        rollback.answered("a", at(0));
        assert!(!rollback.accepted(at(1000)), "nobody said so");
        rollback.behind("a", &Behind::default(), at(0));
        rollback.behind("a", &Behind::default(), at(50));
        assert!(!rollback.accepted(at(59)));
        assert!(rollback.accepted(at(60)));
        rollback.answered("b", at(60));
        assert!(!rollback.accepted(at(60)), "b may know more");
        rollback.behind("b", &Behind::default(), at(61));
        assert!(rollback.accepted(at(61)));
        rollback.served();
        assert!(!rollback.accepted(at(1000)));
    }

    #[test]
    fn a_server_that_lost_its_store_takes_nobody_back() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut rollback = Rollback::default();
        let stale = Behind { stale_milliseconds: u64::MAX, ..Behind::default() };
        for seconds in [0, 60, 120] {
            rollback.answered("a", at(seconds));
            rollback.behind("a", &stale, at(seconds));
            assert!(!rollback.accepted(at(seconds)));
        }
        rollback.behind("b", &Behind::default(), at(120));
        assert!(!rollback.accepted(at(180)), "a may know more when its store is back");
    }

    #[test]
    fn a_server_that_is_gone_has_no_say() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut rollback = Rollback::default();
        rollback.answered("gone", at(0));
        rollback.answered("named once", at(0));
        rollback.behind("a", &Behind::default(), at(0));
        rollback.tried("gone");
        assert!(!rollback.accepted(at(60)), "it may know more");
        assert!(rollback.accepted(at(120)), "nobody asks it any more");
    }
}
