//! The cases: each starts a store and a server, measures, and ends them.

use std::{
    iter,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::bail;
use datastore::{Datastore, StoreConfig};

use super::{
    Args, Case, returns, scale,
    servers::{Kind, Programs, Server},
    stuck,
    table::{Table, Target, Unit},
};
use crate::{
    children::{self, Part, Process},
    churn::{Churn, Event, Profile, View},
    fleet::{Fleet, Rest, Setup},
    process, run,
    sample::Sampler,
    world::{Topology, World},
    writer,
};

/// The seed of all random choices.
pub(super) const SEED: u64 = 1;
/// A cluster of which a commit can change 100 endpoints.
const SMALL: World = World { nodes: 20, spare: 0, pods_per_node: 5, topology: Topology::Clients };
/// A cluster of which the full view has 2 MB.
const TWO_MB: World = World { nodes: 50, spare: 0, pods_per_node: 48, topology: Topology::Clients };
/// How many changes a commit has, typha's share of the baseline's time that is the target, and
/// Calico's microseconds.
const COMMITS: [(u32, f64, f64); 3] = [(1, 1.0, 39.0), (10, 0.6, 60.0), (100, 0.25, 180.0)];
/// Rounds of 100 changes after which an idle agent is looked at again.
const ROUNDS_BEFORE_IDLE: u32 = 50;
/// Changes a second of the case `churn`.
const RATE: f64 = 500.0;
/// What is waited for comes within this time, or something is wrong.
pub(super) const PATIENCE: Duration = Duration::from_mins(3);
const KIB: f64 = 1024.0;

/// What a case is measured with.
pub(super) struct Rig<'a> {
    pub(super) args: &'a Args,
    pub(super) prefix: &'a [&'a str],
    pub(super) programs: &'a Programs,
}

type Measured<'a> = Pin<Box<dyn Future<Output = anyhow::Result<()>> + 'a>>;
type Measure = for<'a> fn(&'a Rig<'a>, &'a mut Table) -> Measured<'a>;

/// Every case.
pub(super) const ALL: [(Case, Measure); 12] = [
    (Case::Agents, |rig, table| Box::pin(agents(rig, table))),
    (Case::Tls, |rig, table| Box::pin(tls(rig, table))),
    (Case::FirstSync, |rig, table| Box::pin(first_sync(rig, table))),
    (Case::Churn, |rig, table| Box::pin(churn(rig, table))),
    (Case::Cache, |rig, table| Box::pin(cache(rig, table))),
    (Case::Views, |rig, table| Box::pin(scale::views(rig, table))),
    (Case::Many, |rig, table| Box::pin(scale::many(rig, table))),
    (Case::Affected, |rig, table| Box::pin(scale::affected(rig, table))),
    (Case::Storm, |rig, table| Box::pin(returns::storm(rig, table))),
    (Case::Restart, |rig, table| Box::pin(returns::restart(rig, table))),
    (Case::FullSync, |rig, table| Box::pin(returns::full_sync(rig, table))),
    (Case::Stuck, |rig, table| Box::pin(stuck::stuck(rig, table))),
];

/// A store with a cluster, and a server that has read it.
pub(super) struct Bed {
    store: Process,
    pub(super) datastore: Arc<dyn Datastore>,
    version: u64,
    pub(super) world: World,
    pub(super) server: Server,
    /// More servers of the same store.
    replicas: Vec<Server>,
}

impl Bed {
    pub(super) async fn make(rig: &Rig<'_>, kind: Kind, world: World) -> anyhow::Result<Self> {
        let store =
            Process::start(children::command(rig.prefix, Part::Store)?, "the store").await?;
        let url = format!("http://{}", store.address);
        let datastore = StoreConfig::from_url(&url)?.connect().await?;
        let version = run::write_world(datastore.as_ref(), &world).await?;
        let server = Server::start(rig.programs, kind, &url, version, 0).await?;
        Ok(Self { store, datastore, version, world, server, replicas: Vec::new() })
    }

    /// With typhas for so many agents: as many as it takes, by the files that a process may have open.
    pub(super) async fn make_for(rig: &Rig<'_>, agents: u32, world: World) -> anyhow::Result<Self> {
        let mut bed = Self::make(rig, Kind::Typha, world).await?;
        let url = format!("http://{}", bed.store.address);
        for number in 1..agents.div_ceil(process::most_agents(agents).max(1)) {
            let server =
                Server::start(rig.programs, Kind::Typha, &url, bed.version, number).await?;
            bed.replicas.push(server);
        }
        Ok(bed)
    }

    /// Every server.
    fn servers(&self) -> impl Iterator<Item = &Server> {
        iter::once(&self.server).chain(&self.replicas)
    }

    /// Their processes.
    pub(super) fn pids(&self) -> Vec<u32> {
        self.servers().map(|server| server.pid).collect()
    }

    /// Their processor time.
    pub(super) fn cpu(&self) -> anyhow::Result<Duration> {
        self.servers().map(Server::cpu).sum()
    }

    /// So many agents with the full view.
    fn connect(&self, rig: &Rig<'_>, agents: u32, at_once: usize) -> anyhow::Result<Fleet> {
        self.connect_as(View::Full, agents, rig.args.check_every, at_once)
    }

    /// So many agents, of which one in `check_every` checks what it gets.
    pub(super) fn connect_as(
        &self,
        view: View,
        agents: u32,
        check_every: u32,
        at_once: usize,
    ) -> anyhow::Result<Fleet> {
        Fleet::start(self.setup(view, agents, check_every, at_once))
    }

    /// How a fleet of this bed is set up.
    pub(super) fn setup(&self, view: View, agents: u32, check_every: u32, at_once: usize) -> Setup {
        Setup {
            agents,
            mine: 0..agents,
            check_every,
            rest: Rest::Drain,
            at_once,
            servers: self.servers().map(|server| server.address).collect(),
            tls: self.server.tls.clone(),
            view,
            acks: view == View::Node,
            world: self.world,
            version: self.version,
            deadline: PATIENCE,
            inject: None,
        }
    }

    /// Ends the server, and starts another one in its place.
    pub(super) async fn restart(&mut self, rig: &Rig<'_>) -> anyhow::Result<()> {
        let url = format!("http://{}", self.store.address);
        self.server.restart(rig.programs, &url, self.version).await
    }

    /// Changes so many endpoints in one transaction, and waits until every agent has them. Returns
    /// the server's processor time for it.
    async fn change(
        &self,
        fleet: &Fleet,
        churn: &mut Churn,
        count: u32,
        agents: u32,
    ) -> anyhow::Result<Duration> {
        let cpu = self.server.cpu()?;
        self.send(fleet, churn.next_of(count), agents.into()).await?;
        Ok(self.server.cpu()?.saturating_sub(cpu))
    }

    /// Writes a change, and waits until all agents that need it have it, so many.
    pub(super) async fn send(&self, fleet: &Fleet, event: Event, need: u64) -> anyhow::Result<()> {
        let found = fleet.found();
        let all = found.delivered.load(Ordering::Relaxed) + need;
        writer::send(self.datastore.as_ref(), found, vec![(Instant::now(), event)]).await?;
        let arrived = run::poll(PATIENCE, || found.delivered.load(Ordering::Relaxed) >= all);
        if !arrived.await {
            bail!("a change did not reach every agent that needs it: {:?}", found.examples());
        }
        Ok(())
    }

    pub(super) async fn end(self, mut fleet: Option<Fleet>) -> anyhow::Result<()> {
        if let Some(fleet) = &mut fleet {
            fleet.stop().await?;
            let errors = fleet.found().errors();
            if errors.total() > 0 {
                bail!("the server is wrong: {errors:?}: {:?}", fleet.found().examples());
            }
        }
        for server in iter::once(self.server).chain(self.replicas) {
            server.stop().await;
        }
        self.store.stop().await;
        Ok(())
    }
}

/// Waits until every agent has its view.
pub(super) async fn synced(fleet: &Fleet, agents: u32) -> anyhow::Result<()> {
    let synced = || fleet.found().synced.load(Ordering::Relaxed);
    if !run::poll(PATIENCE, || synced() >= agents.into()).await {
        bail!("only {} of {agents} agents have their view", synced());
    }
    Ok(())
}

/// Memory of idle agents, then processor time of single commits.
async fn agents(rig: &Rig<'_>, table: &mut Table) -> anyhow::Result<()> {
    for kind in [Kind::Baseline, Kind::Typha] {
        idle_and_commits(rig, table, kind).await?;
    }
    Ok(())
}

async fn tls(rig: &Rig<'_>, table: &mut Table) -> anyhow::Result<()> {
    idle_and_commits(rig, table, Kind::TyphaTls).await
}

async fn idle_and_commits(rig: &Rig<'_>, table: &mut Table, kind: Kind) -> anyhow::Result<()> {
    let count = rig.args.agents;
    let per_agent = |bytes: f64| bytes / f64::from(count);
    let bed = Bed::make(rig, kind, SMALL).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let empty = bed.server.rss()?;
    let fleet = bed.connect(rig, count, 64)?;
    synced(&fleet, count).await?;
    tokio::time::sleep(rig.args.idle()).await;
    let idle = bed.server.rss()?;
    let mut churn = Churn::new(bed.world, Profile::Steady, View::Full, SEED);
    for _ in 0..ROUNDS_BEFORE_IDLE {
        bed.change(&fleet, &mut churn, 100, count).await?;
    }
    tokio::time::sleep(rig.args.idle().min(Duration::from_secs(10))).await;
    let after = bed.server.rss()?;

    let (suffix, most) = if kind == Kind::TyphaTls { (" with TLS", 36.0) } else { ("", 24.0) };
    let is_baseline = kind == Kind::Baseline;
    let row = table.row(&format!("idle agent{suffix}"), Unit::Bytes);
    row.target(Target::Most(most * KIB)).add(is_baseline, [per_agent(idle - empty)]);
    let figure = format!("and after 50 rounds of 100 changes{suffix}");
    let row = table.row(&figure, Unit::Bytes).target(Target::Most(4.0 * KIB));
    row.add(is_baseline, [per_agent(after - idle)]);

    for (changes, most, calico) in COMMITS {
        let what = if changes == 1 { "1 change".into() } else { format!("{changes} changes") };
        let mut times = Vec::new();
        for _ in 0..rig.args.rounds {
            let cpu = bed.change(&fleet, &mut churn, changes, count).await?;
            times.push(per_agent(cpu.as_secs_f64() * 1e6));
        }
        let row =
            table.row(&format!("one commit of {what}, CPU per agent{suffix}"), Unit::Microseconds);
        if kind != Kind::TyphaTls {
            row.target(Target::Ratio(most)).calico(calico);
        }
        row.add(is_baseline, times);
    }
    bed.end(Some(fleet)).await
}

/// Memory while many agents get 2 MB each, at once.
async fn first_sync(rig: &Rig<'_>, table: &mut Table) -> anyhow::Result<()> {
    let count = rig.args.agents / 2;
    for kind in [Kind::Baseline, Kind::Typha] {
        let bed = Bed::make(rig, kind, TWO_MB).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let empty = bed.server.rss()?;
        let cpu = bed.server.cpu()?;
        let sampler = Sampler::start(&[bed.server.pid], &[std::process::id()])?;
        let began = Instant::now();
        let fleet = bed.connect(rig, count, count as usize)?;
        synced(&fleet, count).await?;
        let took = began.elapsed();
        let highest = sampler.stop()?.server_rss.unwrap_or_default() as f64;
        let cpu = bed.server.cpu()?.saturating_sub(cpu);
        let is_baseline = kind == Kind::Baseline;
        let row = table.row(&format!("2 MB to {count} agents at once, growth"), Unit::Bytes);
        row.target(Target::Most(60e6)).add(is_baseline, [highest - empty]);
        let again = fleet.found().reconnects.load(Ordering::Relaxed);
        let seconds = took.as_secs_f64();
        row.note(format!("{kind:?}: {seconds:.1} s, {again} reconnects"));
        let row = table.row("the same, CPU per agent", Unit::Microseconds);
        row.add(is_baseline, [cpu.as_secs_f64() * 1e6 / f64::from(count)]);
        bed.end(Some(fleet)).await?;
    }
    Ok(())
}

/// Latency while many changes are written.
async fn churn(rig: &Rig<'_>, table: &mut Table) -> anyhow::Result<()> {
    let count = rig.args.agents / 2;
    for kind in [Kind::Baseline, Kind::Typha] {
        let bed = Bed::make(rig, kind, SMALL).await?;
        let fleet = bed.connect(rig, count, 64)?;
        synced(&fleet, count).await?;
        let found = fleet.found();
        let mut churn = Churn::new(bed.world, Profile::Steady, View::Full, SEED);
        let sampler = Sampler::start(&[bed.server.pid], &[std::process::id()])?;
        let length = Duration::from_secs(rig.args.churn);
        let store = bed.datastore.as_ref();
        let schedule = writer::write(store, found, &mut churn, count, RATE, length).await?;
        found.closed();
        run::poll(PATIENCE, || found.delivered.load(Ordering::Relaxed) >= schedule.due_deliveries)
            .await;
        let usage = sampler.stop()?;
        let latencies = found.latencies();
        let p99 = latencies.value_at_quantile(0.99) as f64 / 1000.0;
        let p50 = latencies.value_at_quantile(0.5) as f64 / 1000.0;
        let row =
            table.row(&format!("{RATE} changes/s to {count} agents, p99"), Unit::Milliseconds);
        row.target(Target::Most(100.0)).calico(15_000.0);
        row.add(kind == Kind::Baseline, [p99]);
        row.note(format!(
            "{kind:?}: p50 {p50:.1} ms, CPU of the server {:.1} s and of the agents {:.1} s in {:.1} s, \
             machine {:.0}% busy, limited by {:?}",
            usage.server_cpu.unwrap_or_default().as_secs_f64(),
            usage.tester_cpu.as_secs_f64(),
            usage.wall.as_secs_f64(),
            usage.machine_busy * 100.0,
            usage.limit(writer::p99(&schedule.lags) > run::LATE),
        ));
        bed.end(Some(fleet)).await?;
    }
    Ok(())
}

/// Memory of a server that holds very many endpoints, and no agents.
async fn cache(rig: &Rig<'_>, table: &mut Table) -> anyhow::Result<()> {
    let pods_per_node = 60;
    let nodes = rig.args.endpoints / pods_per_node;
    let world = World { nodes, spare: 0, pods_per_node, topology: Topology::Clients };
    for kind in [Kind::Baseline, Kind::Typha] {
        let bed = Bed::make(rig, kind, world).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let figure = format!("{} endpoints cached and indexed", world.pods());
        let row = table.row(&figure, Unit::Bytes).target(Target::Most(400e6));
        row.add(kind == Kind::Baseline, [bed.server.rss()?]);
        bed.end(None).await?;
    }
    Ok(())
}
