//! The cases of agents that come back, or come at once: what a resumed session costs beside a first one.

use std::{
    net::SocketAddr,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::bail;
use client::Connection;
use prost::Message as _;
use proto::v1::{AgentHello, View as WireView, server_message::Message};

use super::{
    cases::{Bed, PATIENCE, Rig, SEED, synced},
    scale::{MANY_CHECK_EVERY, at_most, received, sparse},
    servers::Kind,
    table::{ALONE, Columns, Table, Target, Unit},
};
use crate::{
    churn::{Churn, Profile, View},
    fleet::{Fleet, Rest, Setup},
    follower, run,
    sample::Sampler,
    world::{Topology, World},
};

const RETURN: Columns = Columns("first sync", "return");
/// Of a first sync's bytes, what a resumed session may take.
const RESUMED_BYTES: f64 = 0.01;
/// Of the topics that agents hold, the percentage that needn't come again after a restart.
const RESUMED_TOPICS: f64 = 95.0;
/// Of one full sync's bytes, the part by which memory may grow while many are sent.
const FULL_GROWTH: f64 = 0.2;
/// And bytes by which it may grow while nodes' agents come back: the same part of the case `full-sync`, as it is by default.
const STORM_GROWTH: f64 = FULL_GROWTH * 100.0 * 1024.0 * 1024.0;
/// After so many changes a connection has touched all that it keeps: from about 200 on there is no more.
const CHANGES_OF_USE: u32 = 300;

/// What sessions that begin cost the server.
struct Cost {
    cpu: Duration,
    bytes: u64,
    seconds: f64,
}

/// A fleet with first syncs behind it, and what they cost.
async fn connected(rig: &Rig<'_>, rest: Rest) -> anyhow::Result<(Bed, Fleet, Cost)> {
    let agents = at_most(rig.args.agents * 5);
    let bed = Bed::make(rig, Kind::Typha, sparse(agents, Topology::Clients)).await?;
    let (cpu, began) = (bed.server.cpu()?, Instant::now());
    let setup = bed.setup(View::Node, agents, MANY_CHECK_EVERY, agents as usize);
    let fleet = Fleet::spread(Setup { rest, ..setup }, rig.prefix)?;
    synced(&fleet, agents).await?;
    let cost = Cost {
        cpu: bed.server.cpu()?.saturating_sub(cpu),
        bytes: received(&bed)?,
        seconds: began.elapsed().as_secs_f64(),
    };
    Ok((bed, fleet, cost))
}

/// Waits until so many sessions had their first Commit.
async fn sessions(fleet: &Fleet, wanted: u64) -> anyhow::Result<()> {
    let sessions = || fleet.found().sessions.load(Ordering::Relaxed);
    if !run::poll(PATIENCE, || sessions() >= wanted).await {
        bail!("only {} of {wanted} sessions had a Commit", sessions());
    }
    Ok(())
}

fn show(table: &mut Table, what: &str, agents: u32, first: &Cost, then: &Cost, aim: Option<f64>) {
    let per_agent = |value: f64| value / f64::from(agents);
    let row = table.row_of(RETURN, &format!("{what}, bytes per agent"), Unit::Bytes);
    if let Some(aim) = aim {
        row.target(Target::Ratio(aim));
    }
    row.add(true, [per_agent(first.bytes as f64)]);
    row.add(false, [per_agent(then.bytes as f64)]);
    row.note(format!("{agents} agents; {:.1} s, then {:.1} s", first.seconds, then.seconds));
    let row = table.row_of(RETURN, &format!("{what}, CPU per agent"), Unit::Microseconds);
    row.add(true, [per_agent(first.cpu.as_secs_f64() * 1e6)]);
    row.add(false, [per_agent(then.cpu.as_secs_f64() * 1e6)]);
}

/// All agents end their streams and come back at once, from connections that were in use: what a connection has once
/// needed it keeps, and that is no part of the return.
pub(super) async fn storm(rig: &Rig<'_>, table: &mut Table) -> anyhow::Result<()> {
    for (rest, what) in [(Rest::Keep, "with its state"), (Rest::Drain, "with nothing")] {
        let (bed, fleet, first) = connected(rig, rest).await?;
        used(&bed, &fleet, table, what).await?;
        returned(&bed, &fleet, &first, table, what).await?;
        bed.end(Some(fleet)).await?;
    }
    Ok(())
}

/// Changes that every agent needs and acknowledges, and what they leave in memory.
async fn used(bed: &Bed, fleet: &Fleet, table: &mut Table, what: &str) -> anyhow::Result<()> {
    let new = bed.server.rss()?;
    let mut churn = Churn::new(bed.world, Profile::PolicyFlip, View::Node, SEED);
    for _ in 0..CHANGES_OF_USE {
        bed.send(fleet, churn.next(), bed.world.nodes.into()).await?;
    }
    let figure = format!("connections that come back {what}, memory");
    let row = table.row_of(Columns("new", "used"), &figure, Unit::Bytes);
    row.add(true, [new]);
    row.add(false, [bed.server.rss()?]);
    row.note(format!("used: after {CHANGES_OF_USE} changes that every agent acknowledged"));
    Ok(())
}

/// All agents end their streams and come back at once.
async fn returned(
    bed: &Bed,
    fleet: &Fleet,
    first: &Cost,
    table: &mut Table,
    what: &str,
) -> anyhow::Result<()> {
    let what = &format!("back {what}");
    let agents = bed.world.nodes;
    let wanted = fleet.found().sessions.load(Ordering::Relaxed) + u64::from(agents);
    let before = bed.server.rss()?;
    let sampler = Sampler::start(&[bed.server.pid], &[std::process::id()])?;
    fleet.again(follower::ALL);
    sessions(fleet, wanted).await?;
    let bytes = received(bed)?;
    let usage = sampler.stop()?;
    let (cpu, seconds) = (usage.server_cpu.unwrap_or_default(), usage.wall.as_secs_f64());
    let then = Cost { cpu, bytes, seconds };
    show(table, what, agents, first, &then, None);
    let row = table.row_of(Columns("idle", "highest"), &format!("{what}, memory"), Unit::Bytes);
    row.target(Target::Most(before + STORM_GROWTH)).add(true, [before]);
    row.add(false, [usage.server_rss.unwrap_or_default() as f64]);
    Ok(())
}

/// Another server takes the place of the one that agents had.
pub(super) async fn restart(rig: &Rig<'_>, table: &mut Table) -> anyhow::Result<()> {
    let (mut bed, fleet, first) = connected(rig, Rest::Keep).await?;
    let agents = bed.world.nodes;
    fleet.found().take_resumed();
    let wanted = fleet.found().sessions.load(Ordering::Relaxed) + u64::from(agents);
    let began = Instant::now();
    bed.restart(rig).await?;
    sessions(&fleet, wanted).await?;
    // All of the new process, with the reading of the store.
    let then = Cost {
        cpu: bed.server.cpu()?,
        bytes: received(&bed)?,
        seconds: began.elapsed().as_secs_f64(),
    };
    show(table, "after a restart", agents, &first, &then, Some(RESUMED_BYTES));
    let Some(resumed) = fleet.found().take_resumed() else { bail!("no agent held anything") };
    let row = table.row_of(ALONE, "topics resumed after a restart", Unit::Percent);
    row.target(Target::Least(RESUMED_TOPICS)).add(false, [resumed * 100.0]);
    bed.end(Some(fleet)).await
}

/// Memory while a few agents get very much at once.
pub(super) async fn full_sync(rig: &Rig<'_>, table: &mut Table) -> anyhow::Result<()> {
    let agents = (rig.args.agents / 10).max(2);
    let pods_per_node = 60;
    let nodes = (rig.args.endpoints / 4 * 3 / pods_per_node).max(agents);
    let world = World { nodes, spare: 0, pods_per_node, topology: Topology::Clients };
    let bed = Bed::make(rig, Kind::Typha, world).await?;
    // The same number of connections, with little on them.
    let mut idle = bed.connect_as(View::Node, agents, agents, 64)?;
    synced(&idle, agents).await?;
    tokio::time::sleep(rig.args.idle().min(Duration::from_secs(10))).await;
    let before = bed.server.rss()?;
    idle.stop().await?;
    let sampler = Sampler::start(&[bed.server.pid], &[std::process::id()])?;
    let fleet = bed.connect_as(View::Full, agents, agents, agents as usize)?;
    synced(&fleet, agents).await?;
    let usage = sampler.stop()?;
    let one = received(&bed)? as f64 / f64::from(agents);
    let figure = format!("{} endpoints to {agents} agents at once", world.pods());
    let columns = Columns("one full sync", "growth");
    let row = table.row_of(columns, &figure, Unit::Bytes).target(Target::Ratio(FULL_GROWTH));
    row.add(true, [unpacked(bed.server.address).await? as f64]);
    row.add(false, [usage.server_rss.unwrap_or_default() as f64 - before]);
    let again = fleet.found().reconnects.load(Ordering::Relaxed);
    row.note(format!(
        "{:.1} s, {again} reconnects, CPU per agent {:.0} ms; over the wire a full sync has {:.1} MiB",
        usage.wall.as_secs_f64(),
        usage.server_cpu.unwrap_or_default().as_secs_f64() * 1e3 / f64::from(agents),
        one / f64::from(1 << 20)
    ));
    bed.end(Some(fleet)).await
}

/// Bytes of one full sync before they are compressed.
async fn unpacked(server: SocketAddr) -> anyhow::Result<u64> {
    let hello = AgentHello { view: WireView::Full.into(), observer: true, ..AgentHello::default() };
    let mut connection = Connection::open(&server.to_string(), hello).await?;
    let mut bytes = 0;
    loop {
        let message = connection.message().await?;
        bytes += message.encoded_len() as u64;
        if matches!(message.message, Some(Message::Commit(_))) {
            return Ok(bytes);
        }
    }
}
