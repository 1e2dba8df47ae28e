//! Which server to try next, and when.

use std::{collections::VecDeque, time::Duration};

use proto::v1::go_away::Reason;

/// The shortest and the longest pause before a try; within it the time is random.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// How many alternatives of one server are kept, and how long an address may be.
const NAMED: (usize, usize) = (16, 300);

/// The servers that are known, and how they did. Chance comes in as an argument.
#[derive(Debug)]
pub(crate) struct Servers {
    /// Given, or found; empty until some are found.
    configured: Vec<String>,
    /// Named by a server that sent the agent away: they come first, once.
    named: VecDeque<String>,
    /// The next of `configured`.
    turn: usize,
    /// Tries since a server served.
    failed: usize,
    /// Nothing is gained by coming back soon.
    unwanted: bool,
}

impl Servers {
    /// Begins at the server `turn`: anywhere in the list, so that agents spread over the servers.
    pub(crate) fn new(configured: Vec<String>, turn: usize) -> Self {
        Self { configured, named: VecDeque::new(), turn, failed: 0, unwanted: false }
    }

    /// No address is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.configured.is_empty() && self.named.is_empty()
    }

    /// Servers were looked for. Other ones than before are tried from the first; of the same ones the next has its turn.
    pub(crate) fn found(&mut self, servers: Vec<String>) {
        let known = |server: &String| self.configured.contains(server);
        if servers.len() != self.configured.len() || !servers.iter().all(known) {
            self.configured = servers;
            self.turn = 0;
        }
    }

    /// The server to try next. None: there are no servers.
    pub(crate) fn next(&mut self) -> Option<String> {
        if let Some(named) = self.named.pop_front() {
            return Some(named);
        }
        let count = self.configured.len();
        let server = self.configured.get(self.turn.checked_rem(count)?).cloned();
        self.turn += 1;
        server
    }

    /// How long to wait before it, by `chance` from 0 to 1. Each known server gets its try before the pause grows.
    pub(crate) fn pause(&self, chance: f64) -> Duration {
        let round = self.failed.saturating_sub(1) / self.configured.len().max(1);
        let doublings = u32::try_from(round).unwrap_or(u32::MAX).min(10);
        let longest =
            if self.unwanted { PAUSE.1 } else { (PAUSE.0 * (1 << doublings)).min(PAUSE.1) };
        longest.mul_f64(0.2 + 0.8 * chance)
    }

    /// A session made its first Commit visible.
    pub(crate) fn served(&mut self) {
        self.failed = 0;
        self.unwanted = false;
        self.named.clear();
    }

    /// A try failed, or a session ended.
    pub(crate) fn failed(&mut self) {
        self.failed += 1;
    }

    /// `server` told the agent to go, and maybe where to.
    pub(crate) fn away(&mut self, server: &str, why: Reason, others: &[String]) {
        self.unwanted = matches!(why, Reason::Replaced | Reason::Refused);
        let usable =
            |other: &&String| **other != server && !other.is_empty() && other.len() <= NAMED.1;
        self.named = others.iter().filter(usable).take(NAMED.0).cloned().collect();
        // Not the same one again, where there is another.
        let count = self.configured.len();
        let next = self.turn.checked_rem(count).and_then(|next| self.configured.get(next));
        if count > 1 && next.is_some_and(|next| next == server) {
            self.turn += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(names: &[&str]) -> Servers {
        Servers::new(names.iter().map(ToString::to_string).collect(), 0)
    }

    fn strings(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    fn tries(servers: &mut Servers, count: usize) -> Vec<String> {
        let mut tried = Vec::new();
        for _ in 0..count {
            tried.extend(servers.next());
            servers.failed();
        }
        tried
    }

    #[test]
    fn servers_that_are_found_replace_the_known_ones_and_the_same_ones_go_on_in_turn() {
        let mut servers = servers(&[]);
        assert!(servers.is_empty() && servers.next().is_none());
        servers.found(strings(&["a", "b"]));
        assert_eq!(tries(&mut servers, 1), ["a"]);
        servers.found(strings(&["b", "a"]));
        assert_eq!(tries(&mut servers, 2), ["b", "a"], "not a again and again");
        servers.found(strings(&["c", "b"]));
        assert_eq!(tries(&mut servers, 3), ["c", "b", "c"], "a is gone");
    }

    #[test]
    fn servers_are_tried_in_turn_from_anywhere_in_the_list() {
        let mut from_first = servers(&["a", "b", "c"]);
        assert_eq!(tries(&mut from_first, 4), ["a", "b", "c", "a"]);
        let mut from_last = Servers::new(strings(&["a", "b", "c"]), 2);
        assert_eq!(tries(&mut from_last, 4), ["c", "a", "b", "c"]);
    }

    #[test]
    fn a_server_that_sends_away_names_who_is_tried_first_and_is_not_tried_next_itself() {
        let mut servers = servers(&["a", "b"]);
        assert_eq!(servers.next().as_deref(), Some("a"));
        servers.away("a", Reason::Full, &strings(&["x", "a", "y", ""]));
        assert_eq!(tries(&mut servers, 4), ["x", "y", "b", "a"]);
        servers.away("b", Reason::Draining, &[]);
        assert_eq!(tries(&mut servers, 1), ["a"]);
        let mut alone = self::servers(&["a"]);
        alone.next();
        alone.away("a", Reason::NotSynced, &[]);
        assert_eq!(tries(&mut alone, 2), ["a", "a"]);
    }

    #[test]
    fn the_pause_grows_with_each_round_of_failures_up_to_ten_seconds() {
        let mut servers = servers(&["a", "b"]);
        let mut longest = Vec::new();
        for _ in 0..16 {
            servers.failed();
            assert_eq!(servers.pause(0.0), servers.pause(1.0).mul_f64(0.2));
            longest.push(servers.pause(1.0).as_millis());
        }
        let doubled = [500, 1000, 2000, 4000, 8000, 10_000, 10_000, 10_000];
        assert_eq!(longest, doubled.map(|pause| [pause, pause]).concat());
        servers.served();
        servers.failed();
        assert_eq!(servers.pause(1.0), PAUSE.0);
    }

    #[test]
    fn an_agent_whose_place_another_took_does_not_fight_for_it() {
        let mut servers = servers(&["a"]);
        servers.away("a", Reason::Replaced, &[]);
        servers.failed();
        assert_eq!(servers.pause(1.0), PAUSE.1);
        servers.served();
        assert!(servers.pause(1.0) < PAUSE.1);
    }
}
