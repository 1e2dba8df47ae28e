//! Ways through the states: all of them, or one by chance.

use std::collections::{BTreeSet, HashMap};

use crate::{
    invariants::{Invariant::I10, Violation, violated},
    search::{Action, Checker, State},
};

/// What a search found.
pub(crate) struct Report {
    pub(crate) states: usize,
    pub(crate) steps: usize,
    pub(crate) quiet: usize,
    /// The states of each agent that were seen, by name.
    pub(crate) seen: [BTreeSet<u128>; 2],
    pub(crate) found: Option<(Violation, String)>,
}

/// The states that were found, and how.
#[derive(Default)]
struct Graph {
    states: Vec<State>,
    from: Vec<Option<(u32, Action)>>,
    numbers: HashMap<State, u32>,
    /// Steps that are no faults: to and from.
    ways: Vec<(u32, u32)>,
    quiet: Vec<u32>,
}

impl Graph {
    fn add(&mut self, state: State, from: Option<(u32, Action)>) -> u32 {
        *self.numbers.entry(state).or_insert_with(|| {
            self.states.push(state);
            self.from.push(from);
            self.states.len() as u32 - 1
        })
    }

    fn way_to(&self, mut at: usize) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some((before, action)) = self.from[at] {
            actions.push(action);
            at = before as usize;
        }
        actions.reverse();
        actions
    }

    /// A state from which no way without a fault leads to rest.
    fn never_quiet(&mut self) -> Option<usize> {
        self.ways.sort_unstable();
        let mut rests = vec![false; self.states.len()];
        let mut open = self.quiet.clone();
        for at in &open {
            rests[*at as usize] = true;
        }
        while let Some(at) = open.pop() {
            let first = self.ways.partition_point(|(to, _)| *to < at);
            for (_, from) in self.ways[first..].iter().take_while(|(to, _)| *to == at) {
                if !std::mem::replace(&mut rests[*from as usize], true) {
                    open.push(*from);
                }
            }
        }
        rests.iter().position(|rests| !rests)
    }
}

impl Checker<'_> {
    /// Searches everything.
    pub(crate) fn run(mut self) -> Report {
        let mut graph = Graph::default();
        let start = match self.start() {
            Ok(start) => start,
            Err(violation) => {
                let found = Some((violation, "at the start\n".into()));
                return Report { states: 0, steps: 0, quiet: 0, seen: Default::default(), found };
            }
        };
        graph.add(start, None);
        let mut found = None;
        let mut next = Vec::new();
        let mut at = 0;
        while found.is_none() && at < graph.states.len() {
            let state = graph.states[at];
            self.next(&state, &mut next);
            found = self.check(&state).err().map(|violation| (violation, at, None));
            if found.is_none() && next.iter().all(|(action, _)| action.is_fault()) {
                graph.quiet.push(at as u32);
                found = self.quiet(&state).err().map(|violation| (violation, at, None));
            }
            for (action, next) in next.drain(..) {
                match next {
                    _ if found.is_some() => break,
                    Ok(next) => {
                        let to = graph.add(next, Some((at as u32, action)));
                        if !action.is_fault() {
                            graph.ways.push((to, at as u32));
                        }
                    }
                    Err(violation) => found = Some((violation, at, Some(action))),
                }
            }
            at += 1;
            assert!(graph.states.len() < 4_000_000, "the scope is too large");
        }
        if found.is_none()
            && let Some(stuck) = graph.never_quiet()
        {
            let restless = "from here it never comes to rest, though nothing fails any more";
            found = violated::<()>(I10, restless).err().map(|violation| (violation, stuck, None));
        }
        let found = found.map(|(violation, at, last)| {
            let mut actions = graph.way_to(at);
            actions.extend(last);
            (violation, self.trace(&actions))
        });
        let names = self.agents.names();
        let seen = [0, 1].map(|agent| {
            let ids = graph.states.iter().map(|state| state.agents[agent]);
            ids.filter_map(|id| names.get(&id).copied()).collect()
        });
        let (states, quiet) = (graph.states.len(), graph.quiet.len());
        Report { states, steps: self.steps.len(), quiet, seen, found }
    }

    /// Goes one way, chosen by `seed`: so many steps with faults, and on without them until all is
    /// quiet.
    pub(crate) fn walk(mut self, seed: u64, steps: usize) -> Report {
        let mut random = seed;
        let mut choose = move |below: usize| {
            // SplitMix64.
            random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = (random ^ (random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((mixed ^ (mixed >> 31)) % below as u64) as usize
        };
        let mut state = self.start().expect("a walk starts");
        let mut actions = Vec::new();
        let mut next = Vec::new();
        let mut found = None;
        while found.is_none() {
            found = self.check(&state).err();
            self.next(&state, &mut next);
            let over = actions.len() >= steps;
            let mut faults = !over && choose(8) == 0;
            if next.iter().all(|(action, _)| action.is_fault()) {
                found = found.or_else(|| self.quiet(&state).err());
                if over || next.is_empty() {
                    break;
                }
                faults = true;
            }
            next.retain(|(action, _)| action.is_fault() == faults);
            if found.is_some() || next.is_empty() {
                continue;
            }
            let (action, taken) = next.swap_remove(choose(next.len()));
            actions.push(action);
            match taken {
                Ok(taken) => state = taken,
                Err(violation) => found = Some(violation),
            }
            if actions.len() > 100 * steps {
                let restless = "it never comes to rest, though nothing fails any more";
                found = violated::<()>(I10, restless).err();
            }
        }
        let found = found.map(|violation| (violation, self.trace(&actions)));
        Report {
            states: actions.len(),
            steps: self.steps.len(),
            quiet: 1,
            seen: Default::default(),
            found,
        }
    }
}
