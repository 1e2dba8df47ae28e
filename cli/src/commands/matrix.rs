//! `bulrush matrix`: who reaches whom, from manifests alone.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::{ArgGroup, ValueEnum};

use crate::{
    lab::probe::Reach,
    offline::{live::LiveArgs, outside::OutsideArgs, port::Port, world::World},
};

/// Show which pods reach which, of a live cluster or of manifests alone
///
/// The manifests are Namespaces, Pods with their addresses, and policies of Kubernetes or Calico.
#[derive(clap::Args)]
#[command(group = ArgGroup::new("cluster").args(["files", "server"]).required(true))]
pub(crate) struct Args {
    /// Files, folders, or - for standard input: YAML documents or JSON
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    files: Vec<String>,

    /// Also read the folders in folders
    #[arg(short = 'R', long)]
    recursive: bool,

    /// The namespace of objects that need one and name none
    #[arg(short = 'n', long, default_value = "default")]
    namespace: String,

    /// What is tried at each pod: a port, /icmp or /icmpv6 for a ping, [TYPE[.CODE]]/icmp for any ICMP, or /NUMBER for a
    /// protocol without ports
    #[arg(long, value_name = "PORT[/PROTO]")]
    port: Port,

    /// Use the pods' IPv6 addresses
    #[arg(long)]
    ipv6: bool,

    #[command(flatten)]
    outside: OutsideArgs,

    #[command(flatten)]
    live: LiveArgs,

    /// The format
    #[arg(short = 'o', long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// A matrix
    Table,
    /// The form of `bulrush lab probe -o json`
    Json,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let ipv6 = self.port.over(self.ipv6)?;
        let world = World::new(&self.live.or_read(&self.files, self.recursive, &self.namespace)?);
        for warning in world.warnings() {
            eprintln!("warning: {warning}");
        }
        let tried = [(self.port, ipv6)];
        let outside = self.outside.addresses(&[&world], &tried)?;
        world.warn_of_untried(&tried);
        let pods = world.pods().keys().cloned();
        let reach = Reach {
            pods: pods.chain(outside.iter().map(ToString::to_string)).collect(),
            reach: world.reach(self.port, ipv6, &world.ends(&outside)),
        };
        let text = match self.output {
            Output::Table => reach.table(),
            Output::Json => format!("{}\n", serde_json::to_string(&reach)?),
        };
        io::stdout().write_all(text.as_bytes())?;
        Ok(ExitCode::SUCCESS)
    }
}
