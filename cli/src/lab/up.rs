//! Starting a lab, and ending it.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    time::Duration,
};

use anyhow::Context as _;
use tokio::runtime::Runtime;

use super::{
    interrupt::Interrupt,
    network,
    objects::objects,
    parts::{Part, STORE, TyphaPorts},
    plan::{Plan, Shape},
    processes, ready,
    state::{Folder, Lab},
    store,
};

/// How long a store that the lab starts may take to answer.
const STORE_START: Duration = Duration::from_secs(30);
/// How long a store that was there before may take.
const STORE_THERE: Duration = Duration::from_secs(5);

/// Which store a lab uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StoreChoice {
    /// Its own embedded store.
    Embedded,
    /// Its own etcd.
    Etcd,
    /// One that runs already, by its URL. The lab's objects are removed from it at the end.
    Running(String),
}

/// How a lab is started.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) shape: Shape,
    pub(crate) store: StoreChoice,
    /// Only the network, with plain routes: no store, no typha, no agents.
    pub(crate) without_agents: bool,
    /// Agents read the store themselves.
    pub(crate) without_typha: bool,
}

/// Starts a lab. When that fails, what was made of it is removed again.
pub(crate) fn up(name: &str, options: &Options) -> anyhow::Result<Lab> {
    let runtime = Runtime::new()?;
    let interrupt = Interrupt::watch(&runtime)?;
    let folder = Folder::of(name);
    folder.create()?;
    let started = start(&folder, name, options, &runtime, &interrupt);
    if started.is_err()
        && let Err(error) = down(name)
    {
        eprintln!("error: cleaning up: {error:#}; `bulrush lab --name {name} down` tries again");
    }
    started
}

fn start(
    folder: &Folder,
    name: &str,
    options: &Options,
    runtime: &Runtime,
    interrupt: &Interrupt,
) -> anyhow::Result<Lab> {
    let choosing = Folder::choosing()?;
    let others = Folder::all();
    let seed = format!("{:032x}", rand::random::<u128>());
    let plan_in = |slot| Plan::new(name, slot, options.shape, &seed);
    let plan = plan_in(network::free_slot(&others, plan_in)?);
    network::check_free(&plan)?;

    let mut lab = Lab::new(plan, seed);
    folder.save(&lab)?;
    let Shape { nodes, pods, .. } = options.shape;
    let namespaces: BTreeSet<&str> = lab.plan.pods().map(|pod| pod.namespace.as_str()).collect();
    let namespaces = Vec::from_iter(namespaces).join(", ");
    eprintln!("making {nodes} nodes with {pods} pods each; namespaces: {namespaces}");
    network::build(&lab.plan).context("making the network")?;
    // Its route keeps the addresses from here on.
    drop(choosing);
    interrupt.check()?;
    if options.without_agents {
        network::route_without_agents(&lab.plan).context("routing without agents")?;
        return Ok(lab);
    }

    add_parts(&mut lab, folder, options)?;
    folder.save(&lab)?;
    start_store(&mut lab, folder, runtime, interrupt)?;
    for part in lab.parts.iter().filter(|part| part.name != STORE) {
        interrupt.check()?;
        part.start(folder.path())?;
    }
    ready::wait(&lab, folder.path(), interrupt)?;
    Ok(lab)
}

/// Plans the processes. Their ports are looked for now that the addresses exist. Nothing keeps them until the parts have
/// them: on loopback, where others start too, they are not the usual ones. Where a stranger is quicker all the same, a
/// part ends, and its log says why.
fn add_parts(lab: &mut Lab, folder: &Folder, options: &Options) -> anyhow::Result<()> {
    let host = lab.plan.host.addr();
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let mut ports = Ports::default();
    if let StoreChoice::Running(url) = &options.store {
        lab.store.clone_from(url);
    } else {
        // Without typha the nodes must reach it.
        let address = if options.without_typha { host } else { loopback };
        let at = SocketAddr::new(address, ports.any(address)?);
        lab.store = format!("http://{at}");
        lab.parts.push(match options.store {
            StoreChoice::Etcd => Part::etcd(folder.path(), at, ports.any(loopback)?)?,
            _ => Part::embedded_store(folder.path(), at)?,
        });
    }
    let typha;
    let from = if options.without_typha {
        ["--store", lab.store.as_str()]
    } else {
        lab.typha = TyphaPorts {
            agents: ports.preferred(host, 5473)?,
            health: ports.preferred(host, 9098)?,
            metrics: ports.preferred(host, 9093)?,
            status: ports.any(loopback)?,
        };
        lab.parts.push(Part::typha(&lab.plan, &lab.store, lab.typha)?);
        typha = lab.typha_address();
        ["--typha", typha.as_str()]
    };
    for node in &lab.plan.nodes {
        lab.parts.push(Part::agent(folder.path(), node, from)?);
    }
    Ok(())
}

/// Starts the store, if it is the lab's own, and writes the lab's objects into it.
fn start_store(
    lab: &mut Lab,
    folder: &Folder,
    runtime: &Runtime,
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    let own = lab.part(STORE).cloned();
    if let Some(own) = &own {
        own.start(folder.path())?;
    }
    let objects = objects(&lab.plan, &lab.seed);
    runtime.block_on(async {
        let patience = if own.is_some() { STORE_START } else { STORE_THERE };
        let go_on = || {
            let runs = own.as_ref().is_none_or(|part| part.runs(folder.path()));
            runs && interrupt.check().is_ok()
        };
        let connected = store::connect(&lab.store, patience, &go_on).await;
        interrupt.check()?;
        let store = connected.with_context(|| match &own {
            Some(part) => format!("the store doesn't start; {}", part.last_words(folder.path())),
            None => "the store that --store names".to_owned(),
        })?;
        store::check_absent(store.as_ref(), &objects).await?;
        lab.wrote_objects = true;
        folder.save(lab)?;
        store::write(store.as_ref(), &objects).await
    })
}

/// Ports that nobody has. Each is held until all are known, so that they differ.
#[derive(Default)]
struct Ports(Vec<TcpListener>);

impl Ports {
    /// The preferred port, or another one if someone has it.
    fn preferred(&mut self, address: IpAddr, port: u16) -> anyhow::Result<u16> {
        match TcpListener::bind((address, port)) {
            Ok(listener) => self.0.push(listener),
            Err(_) => return self.any(address),
        }
        Ok(port)
    }

    /// One below those that the kernel gives to outgoing connections (32768 and up): one of them would soon be taken
    /// again.
    fn any(&mut self, address: IpAddr) -> anyhow::Result<u16> {
        let mut tried = None;
        for _ in 0..100 {
            let port = rand::random_range(10_000..32_768);
            match TcpListener::bind((address, port)) {
                Ok(listener) => {
                    self.0.push(listener);
                    return Ok(port);
                }
                Err(error) => tried = Some(error),
            }
        }
        Err(tried.unwrap_or_else(|| io::ErrorKind::AddrInUse.into()))
            .with_context(|| format!("looking for a free port on {address}"))
    }
}

/// Ends a lab: its processes, its objects in a store that stays, its namespaces, link and folder. Whether there was
/// one.
pub(crate) fn down(name: &str) -> anyhow::Result<bool> {
    let folder = Folder::of(name);
    if !folder.path().exists() {
        return Ok(false);
    }
    processes::kill_all(|| processes::of_parts(folder.path()).into_values().flatten().collect())?;
    let mut left_in_store = Ok(());
    if let Some(lab) = folder.find()? {
        let namespaces = lab.plan.namespaces();
        processes::kill_all(|| processes::inside(&namespaces))?;
        network::remove(&lab.plan)?;
        if lab.wrote_objects && lab.part(STORE).is_none() {
            left_in_store = remove_objects(&lab);
        }
    }
    folder.remove()?;
    left_in_store.map(|()| true)
}

fn remove_objects(lab: &Lab) -> anyhow::Result<()> {
    let objects = objects(&lab.plan, &lab.seed);
    let removed = Runtime::new()?.block_on(async {
        let store = store::connect(&lab.store, STORE_THERE, &|| true).await?;
        store::remove(store.as_ref(), &objects).await
    });
    removed.with_context(|| {
        format!("the lab is gone, but some of its objects are still in the store at {}", lab.store)
    })
}

/// Starts a part again, and waits until the lab is ready if all of it runs.
pub(crate) fn start_part(lab: &Lab, folder: &Folder, part: &Part) -> anyhow::Result<()> {
    let runtime = Runtime::new()?;
    let interrupt = Interrupt::watch(&runtime)?;
    part.start(folder.path())?;
    if part.name == STORE {
        let runs = || part.runs(folder.path());
        runtime
            .block_on(store::connect(&lab.store, STORE_START, &runs))
            .with_context(|| part.last_words(folder.path()))?;
    }
    let running = processes::of_parts(folder.path());
    if lab.parts.iter().all(|part| running.contains_key(&part.name)) {
        ready::wait(lab, folder.path(), &interrupt)?;
    }
    Ok(())
}
