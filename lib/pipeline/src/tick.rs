//! When to publish: the first change after quiet at once, then at most once a tick.

use std::time::{Duration, Instant};

/// The shortest time between two publications.
const TICK: Duration = Duration::from_millis(10);

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
        tick.changed(at(500));
        assert_eq!(tick.due(), Some(at(500)), "after quiet, at once again");
    }
}
