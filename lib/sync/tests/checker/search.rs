//! The search: every order of everything that may happen, each state once, the shortest way first.
//!
//! Servers and agents are pure, and an agent meets one server at a time. So a state of the whole is a
//! tuple of numbers, one for each state of a part; and each step of the shipped code is taken once for
//! each state of the parts that take part in it, however many states of the whole it occurs in.

use std::{
    collections::HashMap,
    fmt::{Debug, Write as _},
    hash::Hash,
    rc::Rc,
};

use siphasher::sip128::{Hasher128 as _, SipHasher13};

use crate::{
    agent::Agent,
    invariants::{Invariant::*, Violation, violated},
    replica::Replica,
    scope::{Scope, StoreFault},
    store::Log,
};

/// The number of a part's state.
pub(crate) type Id = u32;

/// A state of the whole.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) replicas: [Id; 2],
    pub(crate) agents: [Id; 2],
    /// The store's history, and how many versions of it there are.
    branch: u8,
    len: u8,
    /// How many faults may still happen: in all, and of each kind.
    faults: u8,
    cuts: u8,
    crashes: u8,
    restarts: u8,
    saves: u8,
    corruptions: u8,
}

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// A server applies the next events of a stream, and publishes them at once.
    Read {
        replica: u8,
        stream: u8,
        count: u8,
    },
    Bookmark {
        replica: u8,
    },
    /// A server crashes and starts, when the store is at this version.
    Restart {
        replica: u8,
        at: u8,
    },
    /// The store is taken back to a backup.
    Restore {
        branch: u8,
    },
    /// A server sees that.
    Notice {
        replica: u8,
    },
    Connect {
        agent: u8,
        replica: u8,
        rollback: bool,
    },
    /// Part of what a server does when it has published: no action of its own.
    Published {
        agent: u8,
        rewound: bool,
    },
    Wake {
        agent: u8,
    },
    Deliver {
        agent: u8,
    },
    Apply {
        agent: u8,
    },
    Save {
        agent: u8,
    },
    Cut {
        agent: u8,
    },
    Crash {
        agent: u8,
        from_file: bool,
    },
    /// The next frame arrives with another value than was sent.
    Corrupt {
        agent: u8,
    },
    /// The server hears which topic the agent asks for.
    Hear {
        agent: u8,
    },
    /// A server that is behind sends the agent away.
    SendAway {
        agent: u8,
    },
}

impl Action {
    /// Whether this is somebody's failure, which need not happen.
    pub(crate) fn is_fault(self) -> bool {
        matches!(
            self,
            Self::Restart { .. }
                | Self::Restore { .. }
                | Self::Save { .. }
                | Self::Cut { .. }
                | Self::Corrupt { .. }
                | Self::Crash { .. }
        )
    }
}

/// Numbers for the states of a part. Two are the same when all their fields read the same.
pub(crate) struct Numbered<T> {
    states: Vec<Rc<T>>,
    numbers: HashMap<u128, Id>,
}

impl<T: Debug> Numbered<T> {
    fn new() -> Self {
        Self { states: Vec::new(), numbers: HashMap::new() }
    }

    fn number(&mut self, state: T) -> Id {
        struct Hashed(SipHasher13);
        impl std::fmt::Write for Hashed {
            fn write_str(&mut self, text: &str) -> std::fmt::Result {
                std::hash::Hasher::write(&mut self.0, text.as_bytes());
                Ok(())
            }
        }
        let mut hashed = Hashed(SipHasher13::new());
        write!(hashed, "{state:?}").unwrap();
        let states = &mut self.states;
        *self.numbers.entry(hashed.0.finish128().as_u128()).or_insert_with(|| {
            states.push(Rc::new(state));
            Id::try_from(states.len() - 1).unwrap()
        })
    }

    /// What a state is known by, whatever its number.
    pub(crate) fn names(&self) -> HashMap<Id, u128> {
        self.numbers.iter().map(|(name, id)| (*id, *name)).collect()
    }

    pub(crate) fn get(&self, id: Id) -> Rc<T> {
        self.states[id as usize].clone()
    }
}

/// A step of parts: who, what, with whom. The same gives the same.
type Step = (Id, Action, Id);
type Outcome = Result<Id, Violation>;

pub(crate) struct Checker<'s> {
    pub(crate) scope: &'s Scope,
    pub(crate) logs: Vec<Log>,
    pub(crate) replicas: Numbered<Replica>,
    pub(crate) agents: Numbered<Agent>,
    pub(crate) steps: HashMap<Step, Outcome>,
    /// Pairs of servers that were compared, and what came of it.
    pairs: HashMap<[Id; 2], Result<(), Violation>>,
}

impl<'s> Checker<'s> {
    pub(crate) fn new(scope: &'s Scope) -> Self {
        Self {
            scope,
            logs: scope.logs(),
            replicas: Numbered::new(),
            agents: Numbered::new(),
            steps: HashMap::new(),
            pairs: HashMap::new(),
        }
    }

    fn log(&self, branch: u8) -> (u8, &Log) {
        (branch, &self.logs[usize::from(branch)])
    }

    pub(crate) fn start(&mut self) -> Result<State, Violation> {
        let mut state = State {
            replicas: [Id::MAX; 2],
            agents: [Id::MAX; 2],
            branch: 0,
            len: 0,
            faults: self
                .scope
                .faults
                .min(self.scope.cuts + self.scope.crashes + self.scope.restarts),
            cuts: self.scope.cuts,
            crashes: self.scope.crashes,
            restarts: self.scope.restarts,
            saves: self.scope.saves,
            corruptions: self.scope.corruptions,
        };
        for index in 0..self.scope.replicas {
            let replica = Replica::start(self.scope, index, 0, self.log(0), 0)?;
            state.replicas[index] = self.replicas.number(replica);
        }
        for node in 0..self.scope.agents {
            let agent = Agent::new(self.scope, self.scope.first + node);
            state.agents[node] = self.agents.number(agent);
        }
        Ok(state)
    }

    /// A step of a server; none: it can't be taken.
    fn replica_step(
        &mut self,
        id: Id,
        action: Action,
        with: Id,
        step: impl FnOnce(&Scope, &[Log], &Replica) -> Option<Result<Replica, Violation>>,
    ) -> Option<Outcome> {
        let key = (id, action, with);
        if let Some(outcome) = self.steps.get(&key) {
            return Some(outcome.clone());
        }
        let next = step(self.scope, &self.logs, &self.replicas.get(id))?;
        let outcome = next.map(|replica| self.replicas.number(replica));
        self.steps.insert(key, outcome.clone());
        Some(outcome)
    }

    fn agent_step(
        &mut self,
        id: Id,
        action: Action,
        replica: Id,
        step: impl FnOnce(&Scope, &[Log], &Agent, &Replica) -> Result<Agent, Violation>,
    ) -> Outcome {
        let key = (id, action, replica);
        if let Some(outcome) = self.steps.get(&key) {
            return outcome.clone();
        }
        let (agent, with) = (self.agents.get(id), self.replicas.get(replica));
        let outcome = step(self.scope, &self.logs, &agent, &with);
        let outcome = outcome.map(|agent| self.agents.number(agent));
        self.steps.insert(key, outcome.clone());
        outcome
    }

    /// All that may happen next, and what comes of it.
    pub(crate) fn next(
        &mut self,
        state: &State,
        out: &mut Vec<(Action, Result<State, Violation>)>,
    ) {
        out.clear();
        self.servers(state, out);
        for index in 0..self.scope.agents {
            self.agent(state, index, out);
        }
        out.retain(|(_, next)| next.as_ref().map_or(true, |next| next != state));
    }

    fn servers(&mut self, state: &State, out: &mut Vec<(Action, Result<State, Violation>)>) {
        let scope = self.scope;
        let total = self.logs[usize::from(state.branch)].happenings.len() as u8;
        if state.branch == 0 {
            for (branch, version) in (1..).zip(&scope.backups) {
                if *version < state.len {
                    let next = State { branch, len: *version, ..*state };
                    out.push((Action::Restore { branch }, Ok(next)));
                }
            }
        }
        for index in 0..scope.replicas {
            let (id, replica) = (state.replicas[index], index as u8);
            let here = self.replicas.get(id);
            let branch = state.branch;
            let with = Id::from(branch) << 8 | Id::from(state.len);
            if state.faults.min(state.restarts) > 0 {
                // A lone server may be away while things happen.
                let latest = if scope.replicas == 1 { total } else { state.len };
                for at in state.len..=latest {
                    let action = Action::Restart { replica, at };
                    let next = self.replica_step(id, action, with, |scope, logs, replica| {
                        let log = &logs[usize::from(branch)];
                        Some(replica.restarted(scope, (branch, log), at.into()))
                    });
                    let next = next.expect("it always starts");
                    let next = next.and_then(|id| {
                        let mut next = *state;
                        next.restarts -= 1;
                        next.faults -= 1;
                        next.len = at;
                        next.replicas[index] = id;
                        self.hang_up(&mut next, index)?;
                        Ok(next)
                    });
                    out.push((action, next));
                }
            }
            if here.branch != branch {
                let action = Action::Notice { replica };
                let at = state.len;
                let next = self.replica_step(id, action, with, |scope, logs, replica| {
                    let log = &logs[usize::from(branch)];
                    Some(replica.noticed(scope, (branch, log), at.into()))
                });
                let next = next.expect("it always lists");
                out.push((action, next.and_then(|id| self.moved(state, index, id, at, true))));
                continue;
            }
            for stream in 0..scope.streams as u8 {
                for count in 1..=total.min(scope.batch) {
                    let action = Action::Read { replica, stream, count };
                    let next = self.replica_step(id, action, 0, |scope, logs, replica| {
                        let log = &logs[usize::from(branch)];
                        replica.read(scope, log, stream.into(), count.into())
                    });
                    let Some(next) = next else { break };
                    let next = next.and_then(|id| {
                        let last = self.replicas.get(id).reached[usize::from(stream)] as u8;
                        self.moved(state, index, id, state.len.max(last), false)
                    });
                    out.push((action, next));
                }
            }
            if scope.bookmarks {
                let mut at = state.len;
                let log = &self.logs[usize::from(branch)];
                if scope.fault == Some(StoreFault::ProgressAhead) {
                    at = total.min(at + 1);
                }
                // What isn't an event of a stream happens by the way.
                while log.is_elsewhere(at) {
                    at += 1;
                }
                let action = Action::Bookmark { replica };
                let next = self.replica_step(id, action, at.into(), |scope, logs, replica| {
                    replica.bookmarked(scope, &logs[usize::from(branch)], at.into()).map(Ok)
                });
                if let Some(next) = next {
                    out.push((action, next.and_then(|id| self.moved(state, index, id, at, false))));
                }
            }
        }
    }

    /// A server is in another state, and wakes its sessions.
    fn moved(
        &mut self,
        state: &State,
        index: usize,
        to: Id,
        len: u8,
        rewound: bool,
    ) -> Result<State, Violation> {
        let mut next = State { len, ..*state };
        next.replicas[index] = to;
        for agent in 0..self.scope.agents {
            let id = state.agents[agent];
            if self.agents.get(id).link.as_ref().is_some_and(|link| link.replica == index) {
                let action = Action::Published { agent: agent as u8, rewound };
                next.agents[agent] = self.agent_step(id, action, to, |_, _, agent, replica| {
                    Ok(agent.published(replica, rewound))
                })?;
            }
        }
        Ok(next)
    }

    /// A server is gone: its agents lose their connections.
    fn hang_up(&mut self, state: &mut State, replica: usize) -> Result<(), Violation> {
        for agent in 0..self.scope.agents {
            let id = state.agents[agent];
            let link = self.agents.get(id);
            if link.link.as_ref().is_some_and(|link| link.replica == replica) {
                let action = Action::Cut { agent: agent as u8 };
                state.agents[agent] =
                    self.agent_step(id, action, state.replicas[0], |_, _, agent, _| agent.cut())?;
            }
        }
        Ok(())
    }

    fn agent(
        &mut self,
        state: &State,
        index: usize,
        out: &mut Vec<(Action, Result<State, Violation>)>,
    ) {
        let scope = self.scope;
        let (id, agent) = (state.agents[index], index as u8);
        let here = self.agents.get(id);
        let to = |next: Outcome| {
            next.map(|id| {
                let mut next = *state;
                next.agents[index] = id;
                next
            })
        };
        let any = state.replicas[0];
        let crashes = state.faults.min(state.crashes);
        if crashes > 0 {
            for from_file in [false, true] {
                let action = Action::Crash { agent, from_file };
                if here.can_start(from_file) {
                    let next = self.agent_step(id, action, any, |scope, _, here, _| {
                        Ok(here.crash(scope, from_file))
                    });
                    let next = to(next).map(|next| State {
                        faults: state.faults - 1,
                        crashes: state.crashes - 1,
                        ..next
                    });
                    out.push((action, next));
                }
            }
        }
        if state.saves.min(crashes) > 0 {
            let action = Action::Save { agent };
            let next = to(self.agent_step(id, action, any, |_, _, here, _| Ok(here.save())));
            out.push((action, next.map(|next| State { saves: state.saves - 1, ..next })));
        }
        let Some(link) = &here.link else {
            let ids = &state.replicas[..scope.replicas];
            let everywhere_behind = state.branch > 0
                && ids.iter().all(|id| {
                    let replica = self.replicas.get(*id);
                    let log = &self.logs[usize::from(replica.branch)];
                    replica.branch == state.branch && here.has_seen_more_than(&replica, log)
                });
            for replica in 0..scope.replicas {
                for rollback in [false, true] {
                    if rollback && !everywhere_behind {
                        continue;
                    }
                    let action = Action::Connect { agent, replica: replica as u8, rollback };
                    let with = state.replicas[replica];
                    let next = self.agent_step(id, action, with, |_, _, here, with| {
                        here.connect(replica, with, rollback)
                    });
                    out.push((action, to(next)));
                }
            }
            return;
        };
        let with = state.replicas[link.replica];
        if here.is_awake() {
            let action = Action::Wake { agent };
            out.push((action, to(self.agent_step(id, action, with, |_, _, a, r| a.wake(r)))));
        }
        let action = Action::Deliver { agent };
        if !link.down.is_empty() {
            let next = self.agent_step(id, action, any, |scope, logs, a, _| a.deliver(scope, logs));
            out.push((action, to(next)));
        }
        if state.corruptions > 0 && here.corrupted().is_some() {
            let action = Action::Corrupt { agent };
            let next = self.agent_step(id, action, any, |_, _, agent, _| {
                Ok(agent.corrupted().expect("it was possible"))
            });
            let corruptions = state.corruptions - 1;
            out.push((action, to(next).map(|next| State { corruptions, ..next })));
        }
        if !link.up.is_empty() {
            let action = Action::Hear { agent };
            let next = self.agent_step(id, action, any, |_, _, agent, _| Ok(agent.heard()));
            out.push((action, to(next)));
        }
        if scope.acks {
            let action = Action::Apply { agent };
            out.push((action, to(self.agent_step(id, action, any, |_, _, a, _| a.apply()))));
        }
        let cut = Action::Cut { agent };
        if state.faults.min(state.cuts) > 0 {
            let next = to(self.agent_step(id, cut, any, |_, _, a, _| a.cut()));
            out.push((
                cut,
                next.map(|next| State { faults: state.faults - 1, cuts: state.cuts - 1, ..next }),
            ));
        }
        if link.behind {
            let next = self.agent_step(id, cut, any, |_, _, a, _| a.cut());
            out.push((Action::SendAway { agent }, to(next)));
        }
    }

    /// What must hold in each state of the whole.
    pub(crate) fn check(&mut self, state: &State) -> Result<(), Violation> {
        let scope = self.scope;
        if scope.replicas == 2 {
            let [x, y] = state.replicas;
            let replicas = &self.replicas;
            let pair = || same_versions_same_digests(&replicas.get(x), &replicas.get(y));
            self.pairs.entry([x, y]).or_insert_with(pair).clone()?;
        }
        if state.branch > 0 {
            return Ok(());
        }
        for id in &state.agents[..scope.agents] {
            let agent = self.agents.get(*id);
            let Some(link) = agent.link.as_ref().filter(|link| link.behind) else { continue };
            if agent.is_awake() {
                continue;
            }
            let replica = self.replicas.get(state.replicas[link.replica]);
            let log = &self.logs[0];
            let mut unread = log.events().filter(|(version, stream, _)| {
                *version <= u64::from(state.len) && *version > replica.reached[*stream]
            });
            if unread.next().is_none() {
                let (agent, server) = (agent.name(), replica.name());
                let seen = format!("agent {agent} waits at {server}, which knows every event");
                return violated(I10, seen);
            }
        }
        Ok(())
    }

    pub(crate) fn quiet(&self, state: &State) -> Result<(), Violation> {
        for id in &state.agents[..self.scope.agents] {
            let agent = self.agents.get(*id);
            let replica = agent.link.as_ref().map_or(0, |link| link.replica);
            let replica = self.replicas.get(state.replicas[replica]);
            agent.quiet(self.scope, &replica, &self.logs)?;
        }
        Ok(())
    }
}

fn same_versions_same_digests(x: &Replica, y: &Replica) -> Result<(), Violation> {
    // What a watch told of deletes, a list can't: versions of events alone don't say all.
    if x.branch != y.branch || x.versions() != y.versions() || x.digests() == y.digests() {
        return Ok(());
    }
    violated(
        I4,
        format!(
            "{} and {} are at {:?}, and their digests differ",
            x.name(),
            y.name(),
            x.versions()
        ),
    )
}
