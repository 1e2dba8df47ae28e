//! `bulrush lab`: nodes and pods as network namespaces on one machine.

use std::{
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    process::{self, ExitCode},
};

use anyhow::{Context as _, bail};
use clap::{Subcommand, ValueEnum, builder::RangedU64ValueParser};

use crate::lab::{
    plan::{self, Encap, Shape},
    probe::{self, Port, Trial},
    state::Folder,
    up,
};

/// Nodes and pods as network namespaces on one machine; needs root
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
    Exec(Exec),
    Probe(Probe),
}

/// Start a lab: its nodes have plain routes to all pods
#[derive(clap::Args)]
struct Up {
    /// How many nodes
    #[arg(long, default_value_t = 3, value_parser = RangedU64ValueParser::<u8>::new().range(1..=plan::MAX_NODES.into()))]
    nodes: u8,

    /// How many pods each node has; with more than one, odd ones are in namespace red, even ones in blue
    #[arg(long, default_value_t = 2, value_parser = RangedU64ValueParser::<u8>::new().range(1..=plan::MAX_PODS.into()))]
    pods: u8,

    /// How pods of different nodes reach each other; crosssubnet makes two subnets
    #[arg(long, value_enum, default_value_t = EncapArg::Vxlan)]
    encap: EncapArg,

    /// Give nodes and pods IPv6 addresses beside IPv4
    #[arg(long)]
    ipv6: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum EncapArg {
    Vxlan,
    #[value(name = "crosssubnet")]
    CrossSubnet,
    None,
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
            Action::Exec(args) => args.run(&self.name),
            Action::Probe(args) => args.run(&self.name),
        }
    }
}

impl Up {
    fn run(self, name: &str) -> anyhow::Result<ExitCode> {
        let encap = match self.encap {
            EncapArg::Vxlan => Encap::Vxlan,
            EncapArg::CrossSubnet => Encap::CrossSubnet,
            EncapArg::None => Encap::None,
        };
        let shape = Shape { nodes: self.nodes, pods: self.pods, encap, ipv6: self.ipv6 };
        up::up(name, shape)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Exec {
    fn run(self, name: &str) -> anyhow::Result<ExitCode> {
        let lab = Folder::of(name).load()?;
        let Some(netns) = lab.plan.namespace_of(&self.target) else {
            bail!("the lab has no node or pod {:?}: see `bulrush lab status`", self.target);
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
