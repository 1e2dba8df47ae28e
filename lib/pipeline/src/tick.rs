//! When to publish: the first change after quiet at once, then at most once a tick, which stretches
//! while those who were told last haven't looked.

use std::time::{Duration, Instant};

/// The shortest time between two publications.
const TICK: Duration = Duration::from_millis(10);

/// The longest time that a change waits for others to be told of the one before.
const LONGEST: Duration = Duration::from_millis(50);
/// Whether they were is looked at so often.
const STEP: Duration = Duration::from_millis(5);
/// What is due takes in what has come for so long.
const MOMENT: Duration = Duration::from_millis(1);

/// Decides when what has gathered is published. Time comes in as an argument.
#[derive(Debug, Default)]
pub(crate) struct Tick {
    last: Option<Instant>,
    due: Option<Instant>,
}

impl Tick {
    /// Something changed at `now`.
    pub(crate) fn changed(&mut self, now: Instant) {
        let earliest = self.last.map_or(now, |last| last + TICK);
        self.due.get_or_insert(earliest.max(now));
    }

    /// When to publish; none: nothing has changed.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What is due waits for what has come by now, for a moment: more of the same may be there already, and what
    /// never ends isn't waited for.
    pub(crate) fn gathers(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| now < due + MOMENT)
    }

    /// Something is due, and waits for a step, because sessions are busy with the one before; not
    /// for ever.
    pub(crate) fn is_postponed(&mut self, now: Instant, busy: impl FnOnce() -> bool) -> bool {
        let Some(longest) = self.last.map(|last| last + LONGEST) else { return false };
        let postponed = now < longest && busy();
        if postponed {
            self.due = Some(longest.min(now + STEP));
        }
        postponed
    }

    /// A publication was made at `now`.
    pub(crate) fn published(&mut self, now: Instant) {
        self.last = Some(now);
        self.due = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_change_after_quiet_goes_at_once_and_the_next_waits_for_its_tick() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut tick = Tick::default();
        assert_eq!(tick.due(), None);
        tick.changed(at(0));
        assert_eq!(tick.due(), Some(at(0)));
        tick.published(at(0));
        assert_eq!(tick.due(), None);

        tick.changed(at(3));
        tick.changed(at(9));
        assert_eq!(tick.due(), Some(at(10)), "a burst is one publication");
        tick.published(at(10));
        assert!(!tick.gathers(at(10)));
        tick.changed(at(500));
        assert!(tick.gathers(at(500)) && !tick.gathers(at(501)), "not for ever");
        assert_eq!(tick.due(), Some(at(500)), "after quiet, at once again");
    }

    #[test]
    fn a_publication_waits_for_those_who_are_busy_and_not_for_ever() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut tick = Tick::default();
        tick.changed(at(0));
        assert!(!tick.is_postponed(at(0), || true), "there was none before");
        tick.published(at(0));
        tick.changed(at(1));
        assert!(!tick.is_postponed(at(10), || false));
        let mut now = 10;
        while tick.is_postponed(at(now), || true) {
            assert_eq!(tick.due(), Some(at(now + 5)));
            now += 5;
        }
        assert_eq!(now, 50);
    }
}
