//! `bulrush explain`: why one connection is let through, or isn't.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{ArgGroup, ValueEnum};

use crate::offline::{
    explain::explain,
    live::LiveArgs,
    port::Port,
    world::World,
};

/// Explain why a connection is allowed or denied, of a live cluster or of manifests alone
///
/// Shows the walk at both ends: tiers, policies, rules, and what decides where none does.
#[derive(clap::Args)]
#[command(group = ArgGroup::new("cluster").args(["files", "server"]).required(true))]
pub(crate) struct Args {
    /// Where it comes from: a pod or an address
    #[arg(value_name = "[NAMESPACE/]POD|IP")]
    from: String,

    /// Where it goes: a pod or an address, and a port; [IP]:PORT for IPv6. A ping goes to shop/web:/icmp, any other
    /// type of ICMP to :TYPE[.CODE]/icmp or /icmpv6, and a protocol without ports to :/NUMBER
    #[arg(value_name = "[NAMESPACE/]POD|IP:PORT[/PROTO]")]
    to: String,

    /// Files, folders, or - for standard input: YAML documents or JSON
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    files: Vec<String>,

    /// Also read the folders in folders
    #[arg(short = 'R', long)]
    recursive: bool,

    /// The namespace of pods and objects that name none
    #[arg(short = 'n', long, default_value = "default")]
    namespace: String,

    #[command(flatten)]
    live: LiveArgs,

    /// The format
    #[arg(short = 'o', long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// For people
    Text,
    /// One object
    Json,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let (to, port) = split(&self.to)?;
        let objects = self.live.or_read(&self.files, self.recursive, &self.namespace)?;
        let world = World::new(&objects);
        for warning in world.warnings() {
            eprintln!("warning: {warning}");
        }
        let staged = objects.with_staged().map(|objects| World::new(&objects));
        let ends = (self.from.as_str(), to);
        let explanation = explain(&world, staged.as_ref(), ends, port, &self.namespace)?;
        let text = match self.output {
            Output::Text => explanation.text(),
            Output::Json => format!("{}\n", serde_json::to_string(&explanation)?),
        };
        io::stdout().write_all(text.as_bytes())?;
        Ok(ExitCode::SUCCESS)
    }
}

/// `shop/db:5432/tcp`, `10.0.0.1:/icmp` and `[fd00::1]:80` in two.
fn split(text: &str) -> anyhow::Result<(&str, Port)> {
    let (to, port) = text
        .rsplit_once(':')
        .with_context(|| format!("{text:?} names no port: write for example shop/db:5432, or shop/db:/icmp"))?;
    let port = port.parse().map_err(anyhow::Error::msg)?;
    Ok((to.trim_start_matches('[').trim_end_matches(']'), port))
}
