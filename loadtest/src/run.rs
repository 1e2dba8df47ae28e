//! A run from the first process to the report.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use crate::{
    children::{self, Part, Process},
    churn::{Churn, Profile, View},
    fleet::{Fleet, Rest, Setup},
    inject::Inject,
    process,
    progress::Progress,
    replicas,
    report::{Cluster, Latency, Report, Server, Tester},
    sample::Sampler,
    score::Score,
    series::Series,
    world::{self, Topology, World},
    writer::{self, Schedule},
};
use anyhow::bail;
use client::{Connection, StreamError, Tls};
use datastore::{Datastore, Error, Expected, StoreConfig, Write};
use model::{Key, StreamIndex};
use proto::v1::{AgentHello, View as WireView};
use sync::{ClientSession, Event};

/// So many agents connect at once.
const AT_ONCE: usize = 64;
/// An agent that has nothing after so long will have nothing.
const FIRST_SYNC: Duration = Duration::from_mins(5);
/// A server that hasn't read the store after so long reads another one, or none.
pub(crate) const CAUGHT_UP: Duration = Duration::from_secs(30);
/// Writes of one transaction.
const BATCH: usize = 100;
/// Events that are sent later than this are the tester's fault.
pub(crate) const LATE: Duration = Duration::from_millis(50);

/// What to run.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) agents: u32,
    /// One in so many checks everything that it gets.
    pub(crate) check_every: u32,
    pub(crate) length: Duration,
    pub(crate) profile: Profile,
    pub(crate) rate: f64,
    pub(crate) view: View,
    pub(crate) nodes: u32,
    pub(crate) pods_per_node: u32,
    pub(crate) topology: Topology,
    pub(crate) seed: u64,
    /// Empty: start so many.
    pub(crate) servers: Vec<SocketAddr>,
    pub(crate) server_pids: Vec<u32>,
    pub(crate) replicas: u32,
    /// Of several servers: a tenth of the agents goes to the next one so often.
    pub(crate) move_every: Duration,
    /// None: start one.
    pub(crate) store: Option<String>,
    pub(crate) deadline: Duration,
    pub(crate) inject: Option<Inject>,
}

/// Runs it. Whatever it started is gone at the end, and what it wrote to a store that stays.
pub(crate) async fn run(config: Config, prefix: &[&str]) -> anyhow::Result<Report> {
    if config.view == View::Node && config.nodes != config.agents {
        bail!("--nodes goes with --view full: in the node view each agent is one node's");
    }
    let flips = matches!(config.profile, Profile::NodeLoss | Profile::PolicyFlip);
    if config.topology != Topology::Clients && flips {
        bail!(
            "--profile node-loss and policy-flip go with --topology clients: give steady or rolling-update"
        );
    }
    let files = process::files_of(config.agents);
    if let Err(limit) = process::raise_open_files(files) {
        bail!(
            "{} agents need {files} open files, and the limit is {limit}: raise it (ulimit -n \
             {files}), or run fewer agents",
            config.agents
        );
    }
    let mut own_store = None;
    let url = if let Some(url) = &config.store {
        url.clone()
    } else {
        let store = Process::start(children::command(prefix, Part::Store)?, "the store").await?;
        let url = format!("http://{}", store.address);
        own_store = Some(store);
        url
    };
    let store = StoreConfig::from_url(&url)?.connect().await?;
    if store.streams().len() != 1 {
        bail!("{}: a load test writes to etcd or the embedded store only", store.describe());
    }
    let spare = if config.profile == Profile::NodeLoss { (config.nodes / 20).max(2) } else { 0 };
    let world = World {
        nodes: config.nodes,
        spare,
        pods_per_node: config.pods_per_node,
        topology: config.topology,
    };
    let version = write_world(store.as_ref(), &world).await?;
    // Whoever interrupts a test finds the store as it was, too.
    let result = tokio::select! {
        result = on_world(&config, prefix, &url, store.as_ref(), world, version) => result,
        () = runtime::stop_signal() => Err(anyhow::anyhow!("interrupted")),
    };
    match own_store {
        Some(process) => process.stop().await,
        None => remove_world(store.as_ref()).await?,
    }
    result
}

/// The part of a run that has a store with a cluster in it.
async fn on_world(
    config: &Config,
    prefix: &[&str],
    url: &str,
    store: &dyn Datastore,
    world: World,
    version: u64,
) -> anyhow::Result<Report> {
    let mut own = Vec::new();
    let mut servers =
        Servers { addresses: config.servers.clone(), pids: config.server_pids.clone() };
    if servers.addresses.is_empty() {
        for number in 0..config.replicas {
            let mut command = children::command(prefix, Part::Typha)?;
            let limit = config.agents + 100;
            command.args(["--store", url, "--agents", &limit.to_string()]);
            command.args(["--server", &children::loopback(number).to_string()]);
            let typha = Process::start(command, "typha").await?;
            servers.addresses.push(typha.address);
            servers.pids.push(typha.pid);
            own.push(typha);
        }
    }
    for server in &servers.addresses {
        caught_up(&server.to_string(), None, version, CAUGHT_UP).await?;
    }
    let report = measure(config, prefix, store, world, version, &servers).await;
    for process in own {
        process.stop().await;
    }
    report
}

/// Where servers listen, and their processes, as far as they are known.
struct Servers {
    addresses: Vec<SocketAddr>,
    pids: Vec<u32>,
}

async fn measure(
    config: &Config,
    prefix: &[&str],
    store: &dyn Datastore,
    world: World,
    version: u64,
    servers: &Servers,
) -> anyhow::Result<Report> {
    let mut progress = Progress::new();
    let began = Instant::now();
    let setup = Setup {
        agents: config.agents,
        mine: 0..config.agents,
        check_every: config.check_every,
        rest: if servers.addresses.len() > 1 { Rest::Keep } else { Rest::Drain },
        at_once: AT_ONCE,
        servers: servers.addresses.clone(),
        tls: None,
        view: config.view,
        acks: config.view == View::Node,
        world,
        version,
        deadline: config.deadline,
        inject: config.inject,
    };
    let mut fleet = Fleet::spread(setup, prefix)?;
    first_sync(&fleet, config.agents, &mut progress).await?;
    let first_sync = began.elapsed();

    let commits_before = fleet.found().commits.load(Ordering::Relaxed);
    let testers = fleet.processes();
    let mut series = Series::start(&servers.addresses, &servers.pids, &testers, fleet.found())?;
    let sampler = Sampler::start(&servers.pids, &testers)?;
    let schedule = churn(config, store, world, &fleet, &mut series, &mut progress).await?;
    let usage = sampler.stop()?;
    series.look(fleet.found())?;
    let commits = fleet.found().commits.load(Ordering::Relaxed) - commits_before;
    if servers.addresses.len() > 1 {
        replicas::compare(&servers.addresses, &fleet, config.view, config.agents).await?;
    }

    fleet.stop().await?;
    let found = fleet.found();
    let lag = writer::p99(&schedule.lags);
    let bytes = series.bytes;
    let (points, latencies) = series.end(found);
    Ok(Report {
        agents: config.agents,
        checked: fleet.checked(),
        view: config.view,
        profile: config.profile,
        rate: config.rate,
        seconds: config.length.as_secs_f64(),
        servers: servers.addresses.len() as u32,
        topology: config.topology,
        seed: config.seed,
        inject: config.inject,
        injected: config.inject.map(|_| fleet.injected()),
        cluster: Cluster { nodes: world.all_nodes(), pods: world.pods() },
        events: schedule.events,
        commits,
        deliveries: found.delivered.load(Ordering::Relaxed),
        reconnects: found.reconnects.load(Ordering::Relaxed),
        errors: found.errors(),
        examples: found.examples(),
        latency_ms: Latency::from(&latencies),
        first_sync_seconds: first_sync.as_secs_f64(),
        server: Server {
            cpu_seconds: usage.server_cpu.map(|cpu| cpu.as_secs_f64()),
            rss_bytes: usage.server_rss,
            bytes_sent: (bytes > 0).then_some(bytes),
        },
        tester: Tester {
            cpu_seconds: usage.tester_cpu.as_secs_f64(),
            rss_bytes: process::rss(std::process::id())?,
            lag_ms_p99: lag.as_secs_f64() * 1000.0,
            machine_busy: usage.machine_busy,
        },
        limited_by: usage.limit(lag > LATE),
        series: points,
    })
}

/// Waits until every agent has its view.
async fn first_sync(fleet: &Fleet, agents: u32, progress: &mut Progress) -> anyhow::Result<()> {
    let all = u64::from(agents);
    let synced = || fleet.found().synced.load(Ordering::Relaxed);
    let done = poll(FIRST_SYNC, || {
        progress.show(synced(), all, "agents have their view");
        synced() >= all
    });
    if !done.await {
        let seconds = FIRST_SYNC.as_secs();
        bail!("{} of {all} agents have their view after {seconds} s", synced());
    }
    Ok(())
}

/// Writes the events, and waits until they have arrived or can be called lost.
async fn churn(
    config: &Config,
    store: &dyn Datastore,
    world: World,
    fleet: &Fleet,
    series: &mut Series,
    progress: &mut Progress,
) -> anyhow::Result<Schedule> {
    let found = fleet.found();
    let mut churn = Churn::new(world, config.profile, config.view, config.seed);
    let (agents, rate, length) = (config.agents, config.rate, config.length);
    let write = writer::write(store, found, &mut churn, agents, rate, length);
    let started = Instant::now();
    let shown = poll(Duration::MAX, || {
        let now = started.elapsed().min(length);
        progress.show(now.as_secs(), length.as_secs(), "seconds");
        false
    });
    let schedule = tokio::select! {
        schedule = write => schedule?,
        _ = shown => bail!("the clock stopped"),
        looked = look(series, found, Series::interval(length)) => match looked? {},
        never = moves(config, fleet) => match never {},
    };
    // A Commit of a version that nobody here wrote may be compared now.
    found.closed();
    poll(config.deadline, || {
        let delivered = found.delivered.load(Ordering::Relaxed);
        progress.show(delivered, schedule.due_deliveries, "changes at agents");
        delivered >= schedule.due_deliveries
    })
    .await;
    progress.clear();
    Ok(schedule)
}

/// Looks so often at how it goes.
async fn look(series: &mut Series, found: &Score, every: Duration) -> anyhow::Result<Infallible> {
    loop {
        tokio::time::sleep(every).await;
        series.look(found)?;
    }
}

/// Agents go from one server to the next, where there are several.
async fn moves(config: &Config, fleet: &Fleet) -> Infallible {
    if config.replicas.max(config.servers.len() as u32) < 2 {
        return std::future::pending().await;
    }
    for tenth in 1_u64.. {
        tokio::time::sleep(config.move_every).await;
        fleet.again(tenth);
    }
    std::future::pending().await
}

/// Looks again and again, for so long at most, until it holds.
pub(crate) async fn poll(patience: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let began = Instant::now();
    loop {
        if holds() {
            return true;
        }
        if began.elapsed() > patience {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Writes the cluster. Nothing that is there is touched.
pub(crate) async fn write_world(store: &dyn Datastore, world: &World) -> anyhow::Result<u64> {
    for (key, value) in world::common_objects() {
        match store.create(&key, &world::stored(value)).await {
            Ok(_) | Err(Error::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut version = 0;
    for objects in world.objects().chunks(BATCH) {
        let absent =
            |key: &Key| datastore::Compare { key: key.clone(), expected: Expected::Absent };
        let compares: Vec<_> = objects.iter().map(|(key, _)| absent(key)).collect();
        let put =
            |(key, value): &(Key, _)| Write::Put(key.clone(), world::stored(Clone::clone(value)));
        let writes: Vec<_> = objects.iter().map(put).collect();
        version = match store.txn(&compares, &writes).await {
            Ok(version) => version,
            Err(Error::Conflict(conflict)) => {
                let key = conflict.current.first().map(|(key, _)| key.to_string());
                bail!(
                    "{} has {} already: another load test runs on it, or one was killed; end it, \
                     or use another store",
                    store.describe(),
                    key.unwrap_or_default()
                );
            }
            Err(error) => return Err(error.into()),
        };
    }
    Ok(version)
}

/// Removes every object of load tests.
async fn remove_world(store: &dyn Datastore) -> anyhow::Result<()> {
    let listing = store.list(StreamIndex(0), datastore::Selection::everything()).await?;
    let ours: Vec<_> = listing.items.into_iter().filter(|item| world::is_ours(&item.key)).collect();
    for items in ours.chunks(BATCH) {
        let writes: Vec<_> = items.iter().map(|item| Write::Delete(item.key.clone())).collect();
        store.txn(&[], &writes).await?;
    }
    Ok(())
}

/// Waits until the server has read the store up to this version.
pub(crate) async fn caught_up(
    server: &str,
    tls: Option<&Tls>,
    version: u64,
    patience: Duration,
) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let problem = match first_version(server, tls).await {
            Ok(reached) if reached >= version => return Ok(()),
            Ok(reached) => format!("it is at version {reached}, the store at {version}"),
            // Nobody is there: waiting won't help.
            Err(FirstVersion::Stream(error @ StreamError::Unreachable { .. })) => bail!(error),
            Err(error) => error.to_string(),
        };
        if began.elapsed() > patience {
            bail!("typha at {server} doesn't serve what is in the store: {problem}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Why there is no first Commit.
#[derive(Debug, thiserror::Error)]
enum FirstVersion {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("it says: {0}")]
    GoAway(String),
}

/// The version of a session's first Commit.
async fn first_version(server: &str, tls: Option<&Tls>) -> Result<u64, FirstVersion> {
    let hello = AgentHello {
        // The smallest view that everybody may see.
        view: WireView::Full.into(),
        kinds: vec![model::Kind::Tier.to_string()],
        observer: true,
        version: env!("CARGO_PKG_VERSION").into(),
        ..AgentHello::default()
    };
    let mut connection = Connection::open_with(server, tls, hello).await?;
    let mut session = ClientSession::new();
    loop {
        match connection.next(&mut session).await? {
            Event::Committed(committed) => return Ok(committed.vector.get(StreamIndex(0))),
            Event::GoAway(go_away) => return Err(FirstVersion::GoAway(go_away.message)),
            _ => {}
        }
    }
}
