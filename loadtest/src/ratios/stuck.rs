//! The case of agents that hang: a process with a tenth of the agents is stopped, and neither the server nor the other
//! agents may feel it.

use std::{
    slice,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::bail;
use hdrhistogram::Histogram;

use super::{
    cases::{Bed, PATIENCE, Rig, SEED, synced},
    scale::{MANY_CHECK_EVERY, at_most, sparse},
    servers::Kind,
    table::{Columns, Table, Target, Unit},
};
use crate::{
    churn::{Churn, Profile, View},
    fleet::{Fleet, Setup},
    run,
    sample::Sampler,
    world::Topology,
    writer,
};

const COLUMNS: Columns = Columns("all well", "a tenth stuck");
/// Changes a second, each of which every agent needs.
const RATE: f64 = 1.0;
/// Bytes by which the server's and the kernel's memory may grow.
const GROWTH: f64 = 64.0 * 1024.0 * 1024.0;
/// How much longer changes may take to the other agents.
const SLOWER: f64 = 1.2;
/// How long all are well before and after, at most.
const WELL: Duration = Duration::from_mins(1);

/// What a time with changes was like for the agents that are well.
struct Times {
    server: f64,
    kernel: f64,
    latencies: Histogram<u64>,
}

impl Times {
    fn latency(&self, quantile: f64) -> f64 {
        self.latencies.value_at_quantile(quantile) as f64 / 1000.0
    }
}

pub(super) async fn stuck(rig: &Rig<'_>, table: &mut Table) -> anyhow::Result<()> {
    let agents = at_most(rig.args.agents * 5);
    let stuck = Duration::from_secs(rig.args.stuck);
    let bed = Bed::make(rig, Kind::Typha, sparse(agents, Topology::All)).await?;
    let well = agents - (agents / 10).max(1);
    let setup = bed.setup(View::Node, agents, MANY_CHECK_EVERY, 64);
    // What waits that long is not lost.
    let setup = Setup { deadline: stuck + WELL + PATIENCE, ..setup };
    let part = well..agents;
    let fleet = Fleet::with_workers(setup, rig.prefix, slice::from_ref(&part))?;
    synced(&fleet, agents).await?;
    let mut churn = Churn::new(bed.world, Profile::RollingUpdate, View::Node, SEED);
    let mut due = 0;
    let mut before = times(&bed, &fleet, &mut churn, agents, stuck.min(WELL), &mut due).await?;
    let Some(worker) = fleet.workers().first() else { bail!("no process has the stuck agents") };
    arrived(&fleet, due).await?;
    worker.freeze(true)?;
    let began = Instant::now();
    let frozen = times(&bed, &fleet, &mut churn, agents, stuck, &mut due).await;
    // In any case: else it doesn't end.
    worker.freeze(false)?;
    let (frozen, lasted) = (frozen?, began.elapsed());
    arrived(&fleet, due).await?;
    let recovered = began.elapsed().saturating_sub(lasted);
    // A machine that others use is not the same all the time.
    let after = times(&bed, &fleet, &mut churn, agents, stuck.min(WELL), &mut due).await?;
    before.latencies.add(&after.latencies)?;
    fleet.found().closed();
    arrived(&fleet, due).await?;

    let mut row = |figure: &str, unit, target, of: fn(&Times) -> f64| {
        let row = table.row_of(COLUMNS, figure, unit).target(target);
        row.add(true, [of(&before)]);
        row.add(false, [of(&frozen)]);
    };
    row("memory", Unit::Bytes, Target::Most(before.server + GROWTH), |times| times.server);
    row("memory of sockets", Unit::Bytes, Target::Most(before.kernel + GROWTH), |t| t.kernel);
    row("latency at the others, p50", Unit::Milliseconds, Target::Ratio(SLOWER), |t| {
        t.latency(0.5)
    });
    row("latency at the others, p99", Unit::Milliseconds, Target::Ratio(SLOWER), |t| {
        t.latency(0.99)
    });
    let again = fleet.found().reconnects.load(Ordering::Relaxed);
    table.row_of(COLUMNS, "memory", Unit::Bytes).note(format!(
        "{} of {agents} agents for {:.0} s at {RATE} changes/s; {again} reconnects; {:.1} s until these had everything",
        agents - well,
        lasted.as_secs_f64(),
        recovered.as_secs_f64()
    ));
    bed.end(Some(fleet)).await
}

/// Writes changes for so long.
async fn times(
    bed: &Bed,
    fleet: &Fleet,
    churn: &mut Churn,
    agents: u32,
    length: Duration,
    due: &mut u64,
) -> anyhow::Result<Times> {
    let found = fleet.found();
    found.take_latencies();
    let sampler = Sampler::start(&[bed.server.pid], &[std::process::id()])?;
    let schedule =
        writer::write(bed.datastore.as_ref(), found, churn, agents, RATE, length).await?;
    *due += schedule.due_deliveries;
    let usage = sampler.stop()?;
    Ok(Times {
        server: usage.server_rss.unwrap_or_default() as f64,
        kernel: usage.kernel as f64,
        latencies: found.take_latencies(),
    })
}

/// Waits until every change is everywhere.
async fn arrived(fleet: &Fleet, due: u64) -> anyhow::Result<()> {
    let found = fleet.found();
    if !run::poll(PATIENCE, || found.delivered.load(Ordering::Relaxed) >= due).await {
        let delivered = found.delivered.load(Ordering::Relaxed);
        bail!("{delivered} of {due} changes are where they are needed: {:?}", found.examples());
    }
    Ok(())
}
