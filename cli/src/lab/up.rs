//! Starting a lab, and ending it.

use anyhow::Context as _;

use super::{
    network,
    plan::{Plan, Shape},
    processes,
    state::{Folder, Lab},
};

/// Starts a lab. When that fails, what was made of it is removed again.
pub(crate) fn up(name: &str, shape: Shape) -> anyhow::Result<Lab> {
    let folder = Folder::of(name);
    folder.create()?;
    let started = start(&folder, name, shape);
    if started.is_err()
        && let Err(error) = down(name)
    {
        eprintln!("error: cleaning up: {error:#}; `bulrush lab --name {name} down` tries again");
    }
    started
}

fn start(folder: &Folder, name: &str, shape: Shape) -> anyhow::Result<Lab> {
    let others: Vec<Plan> = Folder::all().into_iter().map(|lab| lab.plan).collect();
    let seed = format!("{:032x}", rand::random::<u128>());
    let plan_in = |slot| Plan::new(name, slot, shape, &seed);
    let plan = plan_in(network::free_slot(&others, plan_in)?);
    network::check_free(&plan)?;

    let lab = Lab { plan };
    folder.save(&lab)?;
    eprintln!("making {} nodes with {} pods each", shape.nodes, shape.pods);
    network::build(&lab.plan).context("making the network")?;
    network::route_without_agents(&lab.plan).context("routing without agents")?;
    Ok(lab)
}

/// Ends a lab: its processes, namespaces, link and folder. Whether there was one.
pub(crate) fn down(name: &str) -> anyhow::Result<bool> {
    let folder = Folder::of(name);
    if !folder.path().exists() {
        return Ok(false);
    }
    processes::kill_all(|| processes::marked(|mark| mark.starts_with(folder.path())))?;
    if let Some(lab) = folder.find()? {
        let namespaces = lab.plan.namespaces();
        processes::kill_all(|| processes::inside(&namespaces))?;
        network::remove(&lab.plan)?;
    }
    folder.remove()?;
    Ok(true)
}
