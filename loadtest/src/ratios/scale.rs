//! The cases of views of nodes at scale. They measure typha alone: one way of use beside another.

use std::{
    sync::{PoisonError, atomic::Ordering},
    time::Duration,
};

use anyhow::bail;

use super::{
    cases::{Bed, PATIENCE, Rig, SEED, synced},
    servers::Kind,
    table::{Columns, Table, Target, Unit},
};
use crate::{
    churn::{Churn, Profile, View},
    fleet::Fleet,
    run, sockets,
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

/// Bytes that agents have received from the server.
fn received(bed: &Bed) -> anyhow::Result<u64> {
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
        for view in [View::Full, View::Node] {
            let bed = Bed::make(rig, Kind::Typha, world).await?;
            let check_every = match view {
                View::Full => FULL_CHECK_EVERY,
                View::Node => rig.args.check_every,
            };
            let cpu = bed.server.cpu()?;
            let fleet = bed.connect_as(view, agents, check_every, 64)?;
            synced(&fleet, agents).await?;
            let (first_cpu, first_bytes) = (bed.server.cpu()?.saturating_sub(cpu), received(&bed)?);
            let length = Duration::from_secs(rig.args.churn);
            let (cpu, bytes, events) = rolled(&bed, &fleet, view, agents, length).await?;
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
            add("bytes of a change", Unit::Bytes, per_event(bytes as f64), Some(VIEWS_AIM[0]));
            add("CPU of a change", Unit::Microseconds, per_event(micros(cpu)), Some(VIEWS_AIM[1]));
            let per_agent = |value: f64| value / f64::from(agents);
            add("bytes of a first sync", Unit::Bytes, per_agent(first_bytes as f64), None);
            add("CPU of a first sync", Unit::Microseconds, per_agent(micros(first_cpu)), None);
            bed.end(Some(fleet)).await?;
        }
    }
    Ok(())
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
    let (store, ledger) = (bed.datastore.as_ref(), &found.ledger);
    let schedule = writer::write(store, ledger, &mut churn, agents, VIEWS_RATE, length).await?;
    ledger.write().unwrap_or_else(PoisonError::into_inner).close();
    let all = schedule.due_deliveries;
    if !run::poll(PATIENCE, || found.delivered.load(Ordering::Relaxed) >= all).await {
        bail!("a change did not reach every agent that needs it: {:?}", found.examples());
    }
    let (cpu, bytes) =
        (bed.server.cpu()?.saturating_sub(cpu), received(bed)?.saturating_sub(bytes));
    Ok((cpu, bytes, schedule.events))
}
