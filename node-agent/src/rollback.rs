//! When to take an older state than the agent has seen.
//!
//! A server that is behind catches up, or another one isn't. But a store that was restored from a
//! backup never catches up with what was lost. So when every server has been behind for long, the
//! agent lets itself be taken back.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

/// How long every server must have been behind.
const PATIENCE: Duration = Duration::from_mins(1);

/// Remembers which servers are behind. Time comes in as an argument.
#[derive(Debug, Default)]
pub(crate) struct Rollback {
    behind: BTreeSet<String>,
    since: Option<Instant>,
}

impl Rollback {
    /// A server said that it is behind.
    pub(crate) fn behind(&mut self, server: &str, now: Instant) {
        self.behind.insert(server.to_owned());
        self.since.get_or_insert(now);
    }

    /// A server serves.
    pub(crate) fn served(&mut self) {
        *self = Self::default();
    }

    /// Whether the next hello accepts an older state: each of `servers` that could be asked said
    /// that it is behind, for long. A server that can't be reached has no say.
    pub(crate) fn accepted(&self, reachable: &BTreeSet<String>, now: Instant) -> bool {
        let long = self.since.is_some_and(|since| now >= since + PATIENCE);
        long && reachable.is_subset(&self.behind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_state_is_taken_after_every_reachable_server_was_behind_for_a_minute() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let servers = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        let mut rollback = Rollback::default();
        assert!(!rollback.accepted(&servers(&["a"]), at(1000)), "nobody said so");
        rollback.behind("a", at(0));
        rollback.behind("a", at(50));
        assert!(!rollback.accepted(&servers(&["a"]), at(59)));
        assert!(rollback.accepted(&servers(&["a"]), at(60)));
        assert!(!rollback.accepted(&servers(&["a", "b"]), at(60)), "b may know more");
        rollback.behind("b", at(61));
        assert!(rollback.accepted(&servers(&["a", "b"]), at(61)));
        rollback.served();
        assert!(!rollback.accepted(&servers(&["a", "b"]), at(1000)));
    }
}
