//! Many agents, started and stopped together.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::Context as _;
use client::Tls;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};

use crate::{
    agent::{Agent, Common},
    churn::View,
    delivery::Ledger,
    inject::{Inject, Injected, Injector},
    score::Score,
    world::World,
};

/// How a fleet is set up.
pub(crate) struct Setup {
    pub(crate) agents: u32,
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
}

impl Fleet {
    /// Starts all agents. They come back whenever their stream ends.
    pub(crate) fn start(setup: Setup) -> Self {
        let (stop, stopped) = watch::channel(false);
        let common = Arc::new(Common {
            server: setup.server.to_string(),
            tls: setup.tls,
            view: setup.view,
            world: setup.world,
            score: Score::new(Ledger::start(setup.version), setup.deadline),
            door: Semaphore::new(setup.at_once),
            stop: stopped,
        });
        let injected = Arc::new(Injected::default());
        let mut agents = JoinSet::new();
        for number in 0..setup.agents {
            let injector = setup.inject.map(|kind| Injector::new(kind, number, injected.clone()));
            agents.spawn(Agent::new(number, common.clone(), injector).run());
        }
        Self { common, injected, agents, stop }
    }

    /// What the agents have found.
    pub(crate) fn found(&self) -> &Score {
        &self.common.score
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
