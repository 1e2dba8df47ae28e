//! Many agents, started and stopped together.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::Context as _;
use client::Tls;
use rand::{SeedableRng as _, rngs::StdRng, seq::index};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};

use tokio_rustls::rustls::ClientConfig;

use crate::{
    agent::Agent,
    churn::View,
    delivery::Ledger,
    drain::Drain,
    follower,
    inject::{Inject, Injected, Injector},
    score::Score,
    world::World,
};

/// What all agents of a run share.
pub(crate) struct Common {
    pub(crate) server: SocketAddr,
    pub(crate) tls: Option<Tls>,
    /// The same for agents that drain, read once.
    pub(crate) connector: Option<Arc<ClientConfig>>,
    pub(crate) view: View,
    pub(crate) world: World,
    pub(crate) score: Score,
    /// So many connect at once.
    pub(crate) door: Semaphore,
    pub(crate) stop: watch::Receiver<bool>,
}

/// How a fleet is set up.
pub(crate) struct Setup {
    pub(crate) agents: u32,
    /// One in so many, at random, checks everything that it gets; the others drain.
    pub(crate) check_every: u32,
    /// So many connect at once.
    pub(crate) at_once: usize,
    pub(crate) server: SocketAddr,
    pub(crate) tls: Option<Tls>,
    pub(crate) view: View,
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
    stop: watch::Sender<bool>,
    checked: u32,
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
    /// Starts all agents. They come back whenever their stream ends.
    pub(crate) fn start(setup: Setup) -> anyhow::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let config = |tls: &Tls| tls.files.read()?.client(tls.check);
        let connector = setup.tls.as_ref().map(config).transpose()?.map(Arc::new);
        let common = Arc::new(Common {
            server: setup.server,
            tls: setup.tls,
            connector,
            view: setup.view,
            world: setup.world,
            score: Score::new(Ledger::start(setup.version), setup.deadline),
            door: Semaphore::new(setup.at_once),
            stop: stopped,
        });
        let injected = Arc::new(Injected::default());
        let mut agents = JoinSet::new();
        let checked = sample(setup.agents, setup.check_every);
        for number in 0..setup.agents {
            if checked.contains(&number) {
                let injector =
                    setup.inject.map(|kind| Injector::new(kind, number, injected.clone()));
                agents.spawn(follower::run(Agent::new(number, common.clone(), injector)));
            } else {
                agents.spawn(follower::run(Drain::new(number, common.clone())));
            }
        }
        Ok(Self { common, injected, agents, stop, checked: checked.len() as u32 })
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

    /// Ends all agents, which check everything once more.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        while let Some(ended) = self.agents.join_next().await {
            ended.context("an agent failed")?;
        }
        Ok(())
    }
}
