//! Who may be in the first sync at once, and in which order the others come. Pure.
//!
//! A first sync is the one time when a session needs much: topics whole, encoded for the state of
//! the moment. Those who begin together share what is encoded; when too many begin while the state
//! changes, each would keep another state alive.

use std::{
    collections::{BTreeSet, HashMap},
    time::{Duration, Instant},
};

use crate::sessions::SessionId;

/// The places in the first sync.
#[derive(Debug)]
pub(crate) struct Admission {
    places: usize,
    /// Since when each that is in it has been.
    inside: HashMap<SessionId, Instant>,
    /// Later sessions have higher numbers: the first comes next.
    waiting: BTreeSet<SessionId>,
}

impl Admission {
    /// So many at once, at least one.
    pub(crate) fn new(places: usize) -> Self {
        Self { places: places.max(1), inside: HashMap::new(), waiting: BTreeSet::new() }
    }

    /// Whether the session may begin; else it waits, until [`Self::leave`] or [`Self::overdue`] names it.
    pub(crate) fn enter(&mut self, session: SessionId, now: Instant) -> bool {
        if self.inside.contains_key(&session) {
            return true;
        }
        if self.inside.len() < self.places {
            self.waiting.remove(&session);
            self.inside.insert(session, now);
            return true;
        }
        self.waiting.insert(session);
        false
    }

    /// The session has what it needed, or is gone; the one that may begin now.
    pub(crate) fn leave(&mut self, session: SessionId, now: Instant) -> Option<SessionId> {
        self.waiting.remove(&session);
        self.inside.remove(&session)?;
        self.next(now)
    }

    /// Who has been in it for so long goes on, without a place that others wait for; those who may begin now.
    pub(crate) fn overdue(&mut self, longest: Duration, now: Instant) -> Vec<SessionId> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        self.inside.retain(|_, since| now.duration_since(*since) < longest);
        std::iter::from_fn(|| self.next(now)).collect()
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn next(&mut self, now: Instant) -> Option<SessionId> {
        if self.inside.len() >= self.places {
            return None;
        }
        let next = self.waiting.pop_first()?;
        self.inside.insert(next, now);
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_sync_at_once_and_the_others_follow_in_the_order_in_which_they_came() {
        let now = Instant::now();
        let mut admission = Admission::new(2);
        assert_eq!(
            [1, 2, 3, 4, 5].map(|session| admission.enter(session, now)),
            [true, true, false, false, false]
        );
        assert!(!admission.enter(3, now), "asking again changes nothing");
        assert_eq!(admission.leave(4, now), None, "who waits frees no place");
        assert_eq!(admission.leave(1, now), Some(3));
        assert!(admission.enter(3, now));
        assert_eq!(admission.waiting(), 1);
        assert_eq!(admission.leave(2, now), Some(5));
        assert_eq!(admission.leave(3, now), None);
        assert!(admission.enter(6, now));
    }

    #[test]
    fn a_slow_one_holds_its_place_only_so_long_as_the_others_can_wait() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let longest = Duration::from_secs(10);
        let mut admission = Admission::new(1);
        assert!(admission.enter(1, at(0)));
        assert!(admission.overdue(longest, at(60)).is_empty(), "nobody waits");
        assert!(!admission.enter(2, at(60)));
        assert_eq!(admission.overdue(longest, at(61)), [2]);
        assert!(!admission.enter(3, at(61)));
        assert!(admission.overdue(longest, at(70)).is_empty());
        assert_eq!(admission.overdue(longest, at(71)), [3]);
        assert_eq!(admission.leave(1, at(72)), None, "it had no place any more");
    }
}
