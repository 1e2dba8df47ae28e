//! The cases of views of nodes at scale. They measure typha alone: one way of use beside another.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::bail;

use super::{
    cases::{Bed, PATIENCE, Rig, SEED, synced},
    servers::Kind,
    table::{ALONE, Columns, Table, Target, Unit},
};
use crate::{
    churn::{Churn, Profile, View},
    fleet::{Fleet, Setup},
    process, run,
    sample::Sampler,
    sockets,
    world::{Topology, World},
    writer,
};

/// Changes a second of the case `views`: few enough that the full view keeps up, with a publication for each.
const VIEWS_RATE: f64 = 10.0;
const VIEWS_PODS_PER_NODE: u32 = 30;
/// In the full view an agent that checks holds every object.
const FULL_CHECK_EVERY: u32 = 500;
/// Of the full view's bytes and processor time, what a policy inside each namespace may leave.
const VIEWS_AIM: [f64; 2] = [1.0 / 50.0, 1.0 / 20.0];

/// Agents of a run with very many; one of so many checks what it gets, for it holds something of every node.
pub(super) const MANY_CHECK_EVERY: u32 = 500;
/// Changes a second of the case `many`, and the most that one may take, in milliseconds.
const MANY_RATE: f64 = 500.0;
const MANY_P99: f64 = 1000.0;
/// Changes a second of the case `affected`: each is a publication of its own.
const AFFECTED_RATE: u64 = 10;
/// Rounds of the case `affected`, at most: each takes `--churn` seconds of quiet, and as many of changes.
const AFFECTED_ROUNDS: u32 = 3;

/// Bytes that agents have received from the server.
pub(super) fn received(bed: &Bed) -> anyhow::Result<u64> {
    Ok(sockets::received_from(bed.server.address)?.values().sum())
}

/// Rolling churn in the view of each node, and in the full view.
pub(super) async fn views(rig: &Rig<'_>, table: &mut Table) -> anyhow::Result<()> {
    let agents = rig.args.agents / 2;
    for (topology, name) in [
        (Topology::Inside, "inside a namespace"),
        (Topology::Across, "across ten namespaces"),
        (Topology::All, "all()"),
    ] {
        let world = World { nodes: agents, spare: 0, pods_per_node: VIEWS_PODS_PER_NODE, topology };
        // The full view is for looking on, without acknowledgements; if nodes were to live on it, they would acknowledge it.
        for (view, acks) in [(View::Full, false), (View::Full, true), (View::Node, true)] {
            let bed = Bed::make(rig, Kind::Typha, world).await?;
            let check_every = match view {
                View::Full => FULL_CHECK_EVERY,
                View::Node => rig.args.check_every,
            };
            let cpu = bed.server.cpu()?;
            let setup = bed.setup(view, agents, check_every, 64);
            let fleet = Fleet::start(Setup { acks, ..setup })?;
            synced(&fleet, agents).await?;
            let (first_cpu, first_bytes) = (bed.server.cpu()?.saturating_sub(cpu), received(&bed)?);
            let length = Duration::from_secs(rig.args.churn);
            let idle = idle(&bed, length).await?;
            let began = Instant::now();
            let (cpu, bytes, events) = rolled(&bed, &fleet, view, agents, length).await?;
            let cpu = cpu.saturating_sub(began.elapsed().mul_f64(idle));
            let per_event = |value: f64| value / events.max(1) as f64;
            let mut add = |figure: &str, unit, value, aim: Option<f64>| {
                let figure = format!("{name}: {figure}");
                let row = table.row_of(Columns("FULL", "NODE"), &figure, unit);
                if let Some(aim) = aim.filter(|_| topology == Topology::Inside) {
                    row.target(Target::Ratio(aim));
                }
                row.add(view == View::Full, [value]);
            };
            let micros = |time: Duration| time.as_secs_f64() * 1e6;
            let [aim_of_bytes, aim_of_cpu] = VIEWS_AIM.map(Some);
            let cpu = per_event(micros(cpu));
            if acks {
                add("CPU, all acknowledge", Unit::Microseconds, cpu, aim_of_cpu);
            }
            if acks == (view == View::Node) {
                add("CPU of a change", Unit::Microseconds, cpu, aim_of_cpu);
                add("bytes of a change", Unit::Bytes, per_event(bytes as f64), aim_of_bytes);
                let per_agent = |value: f64| value / f64::from(agents);
                add("bytes of a first sync", Unit::Bytes, per_agent(first_bytes as f64), None);
                add("CPU of a first sync", Unit::Microseconds, per_agent(micros(first_cpu)), None);
            }
            bed.end(Some(fleet)).await?;
        }
    }
    Ok(())
}

/// The part of a processor that the servers use while nothing changes: heartbeats and pings, which aren't small beside
/// the changes of a case. They come in waves: `length` is that of the changes.
async fn idle(bed: &Bed, length: Duration) -> anyhow::Result<f64> {
    let (cpu, began) = (bed.cpu()?, Instant::now());
    tokio::time::sleep(length).await;
    let used = bed.cpu()?.saturating_sub(cpu);
    Ok(used.as_secs_f64() / began.elapsed().as_secs_f64())
}

/// Writes rolling churn; returns what the server used for it, and how many changes there were.
async fn rolled(
    bed: &Bed,
    fleet: &Fleet,
    view: View,
    agents: u32,
    length: Duration,
) -> anyhow::Result<(Duration, u64, u64)> {
    let found = fleet.found();
    let (cpu, bytes) = (bed.server.cpu()?, received(bed)?);
    let mut churn = Churn::new(bed.world, Profile::RollingUpdate, view, SEED);
    let store = bed.datastore.as_ref();
    let schedule = writer::write(store, found, &mut churn, agents, VIEWS_RATE, length).await?;
    found.closed();
    let all = schedule.due_deliveries;
    if !run::poll(PATIENCE, || found.delivered.load(Ordering::Relaxed) >= all).await {
        bail!("a change did not reach every agent that needs it: {:?}", found.examples());
    }
    let (cpu, bytes) =
        (bed.server.cpu()?.saturating_sub(cpu), received(bed)?.saturating_sub(bytes));
    Ok((cpu, bytes, schedule.events))
}

/// A cluster with one pod on each node.
pub(super) fn sparse(nodes: u32, topology: Topology) -> World {
    World { nodes, spare: 0, pods_per_node: 1, topology }
}

/// As many agents as the machine lets a process have files open, at most `wanted`.
pub(super) fn at_most(wanted: u32) -> u32 {
    let agents = process::most_agents(wanted);
    if agents < wanted {
        eprintln!("{wanted} agents need more open files than a process may have: {agents} it is");
    }
    agents
}

/// Latency of very many agents with their nodes' views.
pub(super) async fn many(rig: &Rig<'_>, table: &mut Table) -> anyhow::Result<()> {
    let agents = rig.args.agents * 10;
    let bed = Bed::make_for(rig, agents, sparse(agents, Topology::Clients)).await?;
    let began = Instant::now();
    let fleet = Fleet::spread(bed.setup(View::Node, agents, MANY_CHECK_EVERY, 64), rig.prefix)?;
    synced(&fleet, agents).await?;
    let first_sync = began.elapsed();
    let found = fleet.found();
    let sampler = Sampler::start(&bed.pids(), &fleet.processes())?;
    let mut churn = Churn::new(bed.world, Profile::Steady, View::Node, SEED);
    let length = Duration::from_secs(rig.args.churn);
    let store = bed.datastore.as_ref();
    let schedule = writer::write(store, found, &mut churn, agents, MANY_RATE, length).await?;
    found.closed();
    let all = schedule.due_deliveries;
    if !run::poll(PATIENCE, || found.delivered.load(Ordering::Relaxed) >= all).await {
        bail!("a change did not reach its agent: {:?}", found.examples());
    }
    let usage = sampler.stop()?;
    let latencies = found.latencies();
    let at = |quantile| latencies.value_at_quantile(quantile) as f64 / 1000.0;
    let figure = format!("{MANY_RATE} changes/s to {agents} agents, p99");
    let row = table.row_of(ALONE, &figure, Unit::Milliseconds).target(Target::Most(MANY_P99));
    row.add(false, [at(0.99)]);
    row.note(format!(
        "p50 {:.1} ms, first sync {:.1} s, servers {}, their memory {:.0} MiB, their CPU {:.1} s and that of the \
         agents {:.1} s in {:.1} s, machine {:.0}% busy, limited by {:?}",
        at(0.5),
        first_sync.as_secs_f64(),
        bed.pids().len(),
        usage.server_rss.unwrap_or_default() as f64 / f64::from(1 << 20),
        usage.server_cpu.unwrap_or_default().as_secs_f64(),
        usage.tester_cpu.as_secs_f64(),
        usage.wall.as_secs_f64(),
        usage.machine_busy * 100.0,
        usage.limit(writer::p99(&schedule.lags) > run::LATE),
    ));
    bed.end(Some(fleet)).await
}

/// Processor time of one change, by how many need it and how many are connected.
pub(super) async fn affected(rig: &Rig<'_>, table: &mut Table) -> anyhow::Result<()> {
    let few = rig.args.agents;
    for connected in [few, few * 10] {
        let bed = Bed::make_for(rig, connected, sparse(connected, Topology::Cohorts)).await?;
        let setup = bed.setup(View::Node, connected, MANY_CHECK_EVERY, 64);
        let fleet = Fleet::spread(setup, rig.prefix)?;
        synced(&fleet, connected).await?;
        let mut churn = Churn::new(bed.world, Profile::PolicyFlip, View::Node, SEED);
        for cohort in [0, 1] {
            let need = bed.world.cohort(cohort).len();
            let mut times = Vec::new();
            for _ in 0..rig.args.rounds.min(AFFECTED_ROUNDS) {
                let idle = idle(&bed, Duration::from_secs(rig.args.churn)).await?;
                let (cpu, began) = (bed.cpu()?, Instant::now());
                let changes = AFFECTED_RATE * rig.args.churn;
                for _ in 0..changes {
                    let next = tokio::time::sleep(Duration::from_secs(1) / AFFECTED_RATE as u32);
                    bed.send(&fleet, churn.next_of_cohort(cohort), need as u64).await?;
                    next.await;
                }
                let used = bed.cpu()?.saturating_sub(cpu).as_secs_f64();
                let used = used - idle * began.elapsed().as_secs_f64();
                times.push(used * 1e6 / changes as f64);
            }
            let columns = Columns("fewer connected", "more connected");
            let figure = format!("CPU of a change that {need} agents need");
            let row = table.row_of(columns, &figure, Unit::Microseconds);
            row.add(connected == few, times);
            row.note(format!("{connected} connected to {} servers", bed.pids().len()));
        }
        bed.end(Some(fleet)).await?;
    }
    Ok(())
}
