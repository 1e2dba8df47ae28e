//! Many agents, started and stopped together.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    ops::Range,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::{Context as _, bail};
use client::Tls;
use rand::{SeedableRng as _, rngs::StdRng, seq::index};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};

use tokio_rustls::rustls::ClientConfig;

use crate::{
    agent::Agent,
    children::{self, Part},
    churn::View,
    delivery::Ledger,
    drain::Drain,
    follower,
    inject::{Inject, Injected, Injector},
    keeper::Keeper,
    score::Score,
    worker::{Order, Start, Worker},
    world::World,
};

/// So many agents have room in one process, by the files that it may open on common machines.
const PER_PROCESS: u32 = 10_000;

/// What all agents of a run share.
pub(crate) struct Common {
    /// Agents go from one to the next, with each stream.
    pub(crate) servers: Vec<SocketAddr>,
    pub(crate) tls: Option<Tls>,
    /// The same for agents that drain, read once.
    pub(crate) connector: Option<Arc<ClientConfig>>,
    pub(crate) view: View,
    pub(crate) acks: bool,
    pub(crate) world: World,
    pub(crate) score: Score,
    /// So many connect at once.
    pub(crate) door: Semaphore,
    pub(crate) stop: watch::Receiver<bool>,
    /// Which agents end their stream and come back.
    pub(crate) again: watch::Receiver<u64>,
}

/// What the agents do that don't check everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Rest {
    /// They look at Commits, and keep nothing.
    Drain,
    /// They keep digests, with which they resume.
    Keep,
}

/// How a fleet is set up.
pub(crate) struct Setup {
    pub(crate) agents: u32,
    /// The agents of this process; others have the rest.
    pub(crate) mine: Range<u32>,
    /// One in so many, at random, checks everything that it gets.
    pub(crate) check_every: u32,
    /// And the others.
    pub(crate) rest: Rest,
    /// So many connect at once.
    pub(crate) at_once: usize,
    pub(crate) servers: Vec<SocketAddr>,
    pub(crate) tls: Option<Tls>,
    pub(crate) view: View,
    /// They acknowledge what they get: agents of nodes must, the full view is for looking on.
    pub(crate) acks: bool,
    pub(crate) world: World,
    /// The store's version of the cluster.
    pub(crate) version: u64,
    /// A change that takes longer is lost.
    pub(crate) deadline: Duration,
    pub(crate) inject: Option<Inject>,
}

/// Running agents.
pub(crate) struct Fleet {
    common: Arc<Common>,
    injected: Arc<Injected>,
    agents: JoinSet<()>,
    workers: Vec<Worker>,
    stop: watch::Sender<bool>,
    again: watch::Sender<u64>,
    checked: u32,
}

impl Setup {
    /// What another process does of it.
    fn part(&self, mine: Range<u32>) -> Start {
        Start {
            agents: self.agents,
            mine,
            check_every: self.check_every,
            rest: self.rest,
            at_once: self.at_once,
            servers: self.servers.clone(),
            view: self.view,
            acks: self.acks,
            world: self.world,
            version: self.version,
            deadline: self.deadline,
        }
    }
}

/// One in so many of the agents, at least one, and the same ones in each run.
fn sample(agents: u32, every: u32) -> BTreeSet<u32> {
    let mut random = StdRng::seed_from_u64(u64::from(every));
    let count = agents.div_ceil(every.max(1));
    index::sample(&mut random, agents as usize, count as usize)
        .into_iter()
        .map(|number| number as u32)
        .collect()
}

impl Fleet {
    /// Starts all agents, those that don't have a place here in processes of their own.
    pub(crate) fn spread(setup: Setup, prefix: &[&str]) -> anyhow::Result<Self> {
        let agents = setup.agents;
        let blocks = agents.div_ceil(PER_PROCESS);
        let part = |block: u32| block * PER_PROCESS..((block + 1) * PER_PROCESS).min(agents);
        let parts: Vec<Range<u32>> = (1..blocks).map(part).collect();
        Self::with_workers(setup, prefix, &parts)
    }

    /// Starts all agents, those of each of `parts` in a process of its own.
    pub(crate) fn with_workers(
        mut setup: Setup,
        prefix: &[&str],
        parts: &[Range<u32>],
    ) -> anyhow::Result<Self> {
        if !parts.is_empty() && (setup.tls.is_some() || setup.inject.is_some()) {
            bail!(
                "more than {PER_PROCESS} agents are in several processes, which have no TLS and inject nothing: \
                 give fewer --agents"
            );
        }
        setup.mine = 0..parts.first().map_or(setup.agents, |first| first.start);
        let starts: Vec<Start> = parts.iter().map(|part| setup.part(part.clone())).collect();
        let mut fleet = Self::start(setup)?;
        for start in starts {
            let common = fleet.common.clone();
            let command = children::command(prefix, Part::Agents)?;
            let worker = Worker::start(command, start, move |tally| common.score.add(tally))?;
            fleet.common.score.add_worker(worker.orders());
            fleet.workers.push(worker);
        }
        Ok(fleet)
    }

    /// Starts the agents of this process. They come back whenever their stream ends.
    pub(crate) fn start(setup: Setup) -> anyhow::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let (again, told) = watch::channel(0);
        let config = |tls: &Tls| tls.files.read()?.client(tls.check.clone());
        let connector = setup.tls.as_ref().map(config).transpose()?.map(Arc::new);
        let common = Arc::new(Common {
            servers: setup.servers,
            tls: setup.tls,
            connector,
            view: setup.view,
            acks: setup.acks,
            world: setup.world,
            score: Score::new(Ledger::start(setup.version), setup.deadline),
            door: Semaphore::new(setup.at_once),
            stop: stopped,
            again: told,
        });
        let injected = Arc::new(Injected::default());
        let mut agents = JoinSet::new();
        let checked = sample(setup.agents, setup.check_every);
        for number in setup.mine {
            if checked.contains(&number) {
                let injector =
                    setup.inject.map(|kind| Injector::new(kind, number, injected.clone()));
                agents.spawn(follower::run(Agent::new(number, common.clone(), injector)));
            } else if setup.rest == Rest::Keep {
                agents.spawn(follower::run(Keeper::new(number, common.clone())));
            } else {
                agents.spawn(follower::run(Drain::new(number, common.clone())));
            }
        }
        let checked = checked.len() as u32;
        Ok(Self { common, injected, agents, workers: Vec::new(), stop, again, checked })
    }

    /// What the agents have found.
    pub(crate) fn found(&self) -> &Score {
        &self.common.score
    }

    /// How many agents check everything that they get.
    pub(crate) fn checked(&self) -> u32 {
        self.checked
    }

    /// How many faults were injected.
    pub(crate) fn injected(&self) -> u64 {
        self.injected.faults.load(Ordering::Relaxed)
    }

    /// Agents end their streams and come back: all ([`follower::ALL`]), or another tenth of them with each number.
    pub(crate) fn again(&self, which: u64) {
        self.common.score.tell_workers(Order::Again(which));
        self.again.send_replace(which);
    }

    /// The processes with agents, and this one.
    pub(crate) fn processes(&self) -> Vec<u32> {
        self.workers.iter().map(|worker| worker.pid).chain([std::process::id()]).collect()
    }

    /// The processes with agents besides this one.
    pub(crate) fn workers(&self) -> &[Worker] {
        &self.workers
    }

    /// Ends all agents, which check everything once more.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        for worker in self.workers.drain(..) {
            worker.stop().await?;
        }
        while let Some(ended) = self.agents.join_next().await {
            ended.context("an agent failed")?;
        }
        Ok(())
    }
}
