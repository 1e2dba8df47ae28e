//! When a server has more agents than its share, and when it sends one of them on. Pure.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use arcstr::ArcStr;

/// A share is this much larger than its part of the nodes: servers needn't be even, and a few nodes more or less move
/// nobody.
const SLACK: (usize, usize) = (6, 5);
/// Who comes back in this time wasn't taken in elsewhere.
const RETURN: Duration = Duration::from_mins(1);
/// The longest time between two that are sent on.
const LONGEST_PAUSE: Duration = Duration::from_mins(10);

/// Decides who is sent on, and when.
#[derive(Debug)]
pub(crate) struct Balance {
    /// No share is smaller, and none larger.
    limits: (usize, usize),
    shortest: Duration,
    pause: Duration,
    next: Option<Instant>,
    sent_on: HashMap<ArcStr, Instant>,
}

impl Balance {
    /// A share has at least `lower` and at most `upper` agents; one is sent on every `pause`.
    pub(crate) fn new(lower: usize, upper: usize, pause: Duration) -> Self {
        let limits = (lower.min(upper), upper);
        Self { limits, shortest: pause, pause, next: None, sent_on: HashMap::new() }
    }

    /// How many agents are this server's share, of `nodes` in the cluster and `servers` with this one.
    pub(crate) fn share(&self, nodes: usize, servers: usize) -> usize {
        let part = nodes.saturating_mul(SLACK.0).div_ceil(servers.max(1) * SLACK.1);
        part.clamp(self.limits.0, self.limits.1)
    }

    /// Whether one of `agents` is to be sent on now.
    pub(crate) fn is_due(&mut self, agents: usize, share: usize, now: Instant) -> bool {
        self.sent_on.retain(|_, at| now.duration_since(*at) < RETURN);
        if agents <= share {
            self.next = None;
            self.pause = self.shortest;
            return false;
        }
        let due = *self.next.get_or_insert(now + self.pause) <= now;
        if due {
            self.next = Some(now + self.pause);
        }
        due
    }

    /// The agent of this node was sent on.
    pub(crate) fn sent_on(&mut self, node: ArcStr, now: Instant) {
        self.sent_on.insert(node, now);
    }

    /// The agent of this node has come. When it had been sent on, the others don't take it: the server is in no hurry.
    pub(crate) fn came(&mut self, node: &str, now: Instant) {
        let back = self.sent_on.remove(node);
        if back.is_some_and(|at| now.duration_since(at) < RETURN) {
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            self.next = Some(now + self.pause);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_share_is_a_part_of_the_nodes_and_a_little_more_within_the_limits() {
        let balance = Balance::new(400, 2000, SECOND);
        assert_eq!(balance.share(3000, 3), 1200);
        assert_eq!(balance.share(100, 2), 400, "small clusters move nobody");
        assert_eq!(balance.share(9000, 2), 2000);
        assert_eq!(Balance::new(400, 60, SECOND).share(10, 1), 60, "the upper limit holds");
    }

    #[test]
    fn agents_over_the_share_are_sent_on_one_by_one() {
        let start = Instant::now();
        let mut balance = Balance::new(10, 100, SECOND);
        let mut agents = 15;
        let mut at = Vec::new();
        for tenths in 0..100 {
            let now = start + SECOND / 10 * tenths;
            if balance.is_due(agents, 10, now) {
                agents -= 1;
                at.push(tenths);
            }
        }
        assert_eq!((agents, at), (10, vec![10, 20, 30, 40, 50]));
    }

    #[test]
    fn agents_that_nobody_else_takes_are_left_in_peace() {
        let start = Instant::now();
        let mut balance = Balance::new(1, 100, SECOND);
        let mut sent = 0;
        for seconds in 0..3600 {
            let now = start + SECOND * seconds;
            if balance.is_due(20, 10, now) {
                sent += 1;
                balance.sent_on("a".into(), now);
                balance.came("a", now + SECOND);
            }
        }
        assert!((10..20).contains(&sent), "{sent} times in an hour");
        assert!(!balance.is_due(10, 10, start + SECOND * 3600));
        assert!(!balance.is_due(11, 10, start + SECOND * 3601));
        assert!(balance.is_due(11, 10, start + SECOND * 3602), "as before, once all were taken in");
    }
}
