//! `bulrush lab`: nodes and pods as network namespaces on one machine.

use std::{
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    process::{self, ExitCode},
};

use anyhow::{Context as _, bail};
use clap::{Subcommand, ValueEnum, builder::RangedU64ValueParser};

use crate::lab::{
    parts,
    plan::{self, Encap, Shape},
    probe::{self, Port, Trial},
    state::Folder,
    status,
    up::{self, Options, StoreChoice},
};

/// Nodes and pods as network namespaces on one machine, each node with a real agent; needs root
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which lab; several of different names can be up at once
    #[arg(long, global = true, default_value = "lab", value_parser = name)]
    name: String,

    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Up(Up),
    /// End the lab: nothing of it is left, whatever state it is in
    Down,
    /// Show where the lab's parts, nodes and pods are, and whether they run
    Status,
    Exec(Exec),
    Probe(Probe),
    /// Kill the store, typha or the agent of a node, as a crash would
    Stop(PartName),
    /// Start the store, typha or the agent of a node again, and wait until the lab is ready if all of it runs
    Start(PartName),
    /// Kill a part and start it again
    Restart(PartName),
}

/// Start a lab; the last line on stdout says where its store, typha and status page are
#[derive(clap::Args)]
struct Up {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = RangedU64ValueParser::<u8>::new().range(1..=plan::MAX_NODES.into()))]
    nodes: u8,

    /// How many pods each node has; with more than one, odd ones are in namespace red, even ones in blue
    #[arg(long, default_value_t = 2, value_parser = RangedU64ValueParser::<u8>::new().range(1..=plan::MAX_PODS.into()))]
    pods: u8,

    /// The lab's own store (embedded, or etcd: a real one), or the URL of one that runs; there the lab's objects are
    /// removed at the end
    #[arg(long, default_value = "embedded", value_name = "embedded|etcd|URL", value_parser = store_choice)]
    store: StoreChoice,

    /// How pods of different nodes reach each other; crosssubnet makes two subnets
    #[arg(long, value_enum, default_value_t = Encap::Vxlan)]
    encap: Encap,

    /// Give nodes and pods IPv6 addresses beside IPv4
    #[arg(long)]
    ipv6: bool,

    /// No typha: each agent reads the store itself, as in a small cluster
    #[arg(long)]
    without_typha: bool,

    /// Only the network, with plain routes and without policy: what the probe is tested on
    #[arg(long, hide = true)]
    no_agents: bool,
}

fn store_choice(text: &str) -> Result<StoreChoice, String> {
    match text {
        "embedded" => Ok(StoreChoice::Embedded),
        "etcd" => Ok(StoreChoice::Etcd),
        url if url.contains("://") => Ok(StoreChoice::Running(url.to_owned())),
        _ => Err("say embedded, etcd, or a URL such as http://127.0.0.1:2379".to_owned()),
    }
}

/// Run a command in the namespace of a node (node-1) or a pod (pod-1-1)
#[derive(clap::Args)]
struct Exec {
    /// The node or pod
    target: String,

    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Try all pairs of pods with real connections, and print who reaches whom
#[derive(clap::Args)]
struct Probe {
    /// The port to try, with its protocol: 80/tcp, 53/udp
    #[arg(long, default_value = "80/tcp", value_name = "PORT[/PROTO]")]
    port: Port,

    /// Only from this pod; may be given again
    #[arg(long, value_name = "POD")]
    from: Vec<String>,

    /// Only to this pod; may be given again
    #[arg(long, value_name = "POD")]
    to: Vec<String>,

    /// Use the pods' IPv6 addresses
    #[arg(long)]
    ipv6: bool,

    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// A process of the lab.
#[derive(clap::Args)]
struct PartName {
    #[arg(value_enum)]
    part: PartKind,

    /// The node, when it is an agent
    #[arg(required_if_eq("part", "agent"))]
    node: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PartKind {
    Store,
    Typha,
    Agent,
}

/// Names begin those of links, which have at most 15 characters.
fn name(text: &str) -> Result<String, String> {
    let fits = (1..=10).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    if fits {
        Ok(text.to_owned())
    } else {
        Err("a lab's name is 1 to 10 lower-case letters and digits".to_owned())
    }
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        if !nix::unistd::geteuid().is_root() {
            bail!("`bulrush lab` makes network namespaces, which needs root: run it with sudo");
        }
        match self.action {
            Action::Up(args) => args.run(&self.name),
            Action::Down => {
                if !up::down(&self.name)? {
                    eprintln!("there is no lab {:?}", self.name);
                }
                Ok(ExitCode::SUCCESS)
            }
            Action::Status => {
                let folder = Folder::of(&self.name);
                let text = status::text(&folder.load()?, folder.path());
                io::stdout().write_all(text.as_bytes())?;
                Ok(ExitCode::SUCCESS)
            }
            Action::Exec(args) => args.run(&self.name),
            Action::Probe(args) => args.run(&self.name),
            Action::Stop(part) => part.run(&self.name, true, false),
            Action::Start(part) => part.run(&self.name, false, true),
            Action::Restart(part) => part.run(&self.name, true, true),
        }
    }
}

impl Up {
    fn run(self, name: &str) -> anyhow::Result<ExitCode> {
        let shape = Shape { nodes: self.nodes, pods: self.pods, encap: self.encap, ipv6: self.ipv6 };
        let options = Options {
            shape,
            store: self.store,
            without_agents: self.no_agents,
            without_typha: self.without_typha,
        };
        let lab = up::up(name, &options)?;
        let mut out = io::stdout();
        if self.no_agents {
            writeln!(out, "ready")?;
        } else if self.without_typha {
            eprintln!("who reaches whom: bulrush lab --name {name} probe");
            writeln!(out, "ready store={}", lab.store)?;
        } else {
            let (store, typha, page) = (&lab.store, lab.typha_address(), lab.page());
            eprintln!("who reaches whom: bulrush lab --name {name} probe");
            writeln!(out, "ready store={store} typha={typha} page={page}")?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl PartName {
    fn run(self, name: &str, stop: bool, start: bool) -> anyhow::Result<ExitCode> {
        let folder = Folder::of(name);
        let lab = folder.load()?;
        let part_name = match (self.part, self.node) {
            (PartKind::Agent, Some(node)) => parts::agent_name(&node),
            (PartKind::Store, None) => parts::STORE.to_owned(),
            (PartKind::Typha, None) => parts::TYPHA.to_owned(),
            _ => bail!("say store, typha, or agent and a node, as in `agent node-1`"),
        };
        let Some(part) = lab.part(&part_name) else {
            let parts: Vec<&str> = lab.parts.iter().map(|part| part.name.as_str()).collect();
            bail!("the lab has no process {part_name}; it has {}", parts.join(", "));
        };
        if stop {
            part.kill(folder.path())?;
        }
        if start {
            up::start_part(&lab, &folder, part)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Exec {
    fn run(self, name: &str) -> anyhow::Result<ExitCode> {
        let lab = Folder::of(name).load()?;
        let Some(netns) = lab.plan.namespace_of(&self.target) else {
            bail!("the lab has no node or pod {:?}: `bulrush lab status` lists them", self.target);
        };
        let error =
            process::Command::new("ip").args(["netns", "exec", netns]).args(&self.command).exec();
        Err(error).context("running `ip`: install iproute2")
    }
}

impl Probe {
    fn run(self, name: &str) -> anyhow::Result<ExitCode> {
        let folder = Folder::of(name);
        let lab = folder.load()?;
        let trial = Trial { port: self.port, ipv6: self.ipv6, number: folder.next_probe()? };
        let reach = probe::run(&lab.plan, trial, &self.from, &self.to)?;
        let text = match self.output {
            Output::Table => reach.table(),
            Output::Json => format!("{}\n", serde_json::to_string(&reach)?),
        };
        io::stdout().write_all(text.as_bytes())?;
        Ok(ExitCode::SUCCESS)
    }
}
