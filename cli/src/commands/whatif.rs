//! `bulrush whatif`: which connections a change of policy opens or closes.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
};

use anyhow::bail;
use clap::{ArgGroup, ValueEnum};
use serde::Serialize;

use crate::offline::{
    live::LiveArgs,
    objects::Objects,
    port::{Port, standing_for_all},
    world::{World, refused},
};

/// The exit code when something changes: a pipeline can stop on it.
const CHANGES: u8 = 2;

/// Show which pods would gain or lose a connection, of a live cluster or of manifests alone
///
/// Exits with 0 when nothing changes, with 2 when something does, with 1 when it can't be said: also where the new
/// objects would be refused. Pods alone are compared, with no addresses outside. What is there and isn't written stays,
/// unless --delete names it. Staged policies change nothing; with --staged they are enforced.
#[derive(clap::Args)]
#[command(group = ArgGroup::new("cluster").args(["base", "server"]).required(true))]
pub(crate) struct Args {
    /// What is to be written: files, folders, or - for standard input
    #[arg(
        short = 'f',
        long = "filename",
        value_name = "FILE",
        required_unless_present_any = ["delete", "staged"]
    )]
    files: Vec<String>,

    /// What is to be deleted: files, folders, or - for standard input
    #[arg(long, value_name = "FILE")]
    delete: Vec<String>,

    /// Enforce staged policies, those that are there and new ones
    #[arg(long)]
    staged: bool,

    /// What is there: files or folders
    #[arg(long, value_name = "FILE")]
    base: Vec<String>,

    /// Also read the folders in folders
    #[arg(short = 'R', long)]
    recursive: bool,

    /// The namespace of objects that need one and name none
    #[arg(short = 'n', long, default_value = "default")]
    namespace: String,

    /// What is tried at each pod: a port, /icmp or /icmpv6 for a ping, [TYPE[.CODE]]/icmp for any ICMP, or /NUMBER for a
    /// protocol without ports; may be repeated. Without it: every port that a pod has or that policies tell apart, and
    /// for all others one of TCP and one of UDP
    #[arg(long, value_name = "PORT[/PROTO]")]
    port: Vec<Port>,

    /// Use the pods' IPv6 addresses
    #[arg(long)]
    ipv6: bool,

    #[command(flatten)]
    live: LiveArgs,

    /// The format
    #[arg(short = 'o', long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// A line for each pair that changes
    Table,
    /// One object
    Json,
}

/// What changes, in the form of `-o json`.
#[derive(Serialize)]
struct Difference {
    /// The ports that were tried.
    ports: Vec<String>,
    /// How many pairs were compared, for all ports.
    pairs: usize,
    changes: Vec<Change>,
}

/// One pair; none: one of the pods isn't there.
#[derive(Serialize)]
struct Change {
    port: String,
    from: String,
    to: String,
    before: Option<bool>,
    after: Option<bool>,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let base = self.live.or_read(&self.base, self.recursive, &self.namespace)?;
        let read = |files: &[String]| match files {
            [] => Ok(Objects::default()),
            files => Objects::read(files, self.recursive, &self.namespace),
        };
        let new = read(&self.files)?;
        let mut all = base.without(&read(&self.delete)?)?.overlaid(&new);
        let refused = refused(&new, &all);
        if !refused.is_empty() {
            bail!("these would be refused:\n  {}", refused.join("\n  "));
        }
        if self.staged {
            all = all.with_staged().unwrap_or(all);
        }
        let (before, after) = (World::new(&base), World::new(&all));
        for warning in after.warnings() {
            eprintln!("warning: {warning}");
        }
        let ports = self.ports([&base, &new], [&before, &after])?;
        after.warn_of_untried(&ports);
        let difference = compare(&before, &after, &ports);
        let text = match self.output {
            Output::Table => table(&difference),
            Output::Json => format!("{}\n", serde_json::to_string(&difference)?),
        };
        super::answer(&text)?;
        Ok(if difference.changes.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(CHANGES) })
    }

    /// What is tried, each over IPv6 or not.
    fn ports(&self, of: [&Objects; 2], worlds: [&World; 2]) -> anyhow::Result<Vec<(Port, bool)>> {
        let over = |port: Port| Ok((port, port.over(self.ipv6)?));
        if !self.port.is_empty() {
            return self.port.iter().copied().map(over).collect();
        }
        let named = of.into_iter().flat_map(Objects::ports).collect::<BTreeSet<_>>();
        let ports = named.iter().map(|(number, protocol)| format!("{number}/{protocol}").parse());
        let ports = ports.collect::<Result<Vec<Port>, String>>().map_err(anyhow::Error::msg)?;
        let all = standing_for_all(ports, &worlds.map(World::port_ranges).concat());
        all.into_iter().map(over).collect()
    }
}

fn compare(before: &World, after: &World, ports: &[(Port, bool)]) -> Difference {
    let (mut pairs, mut changes) = (0, Vec::new());
    for (port, ipv6) in ports {
        let (old, new) = (before.reach(*port, *ipv6), after.reach(*port, *ipv6));
        let names = |reach: &BTreeMap<String, BTreeMap<String, bool>>| {
            let pairs = reach.iter().flat_map(|(from, targets)| {
                targets.keys().map(|to| (from.clone(), to.clone()))
            });
            pairs.collect::<BTreeSet<_>>()
        };
        for (from, to) in names(&old).union(&names(&new)) {
            pairs += 1;
            let connects = |reach: &BTreeMap<String, BTreeMap<String, bool>>| {
                reach.get(from)?.get(to).copied()
            };
            let (before, after) = (connects(&old), connects(&new));
            if before != after {
                let (port, from, to) = (port.to_string(), from.clone(), to.clone());
                changes.push(Change { port, from, to, before, after });
            }
        }
    }
    Difference { ports: ports.iter().map(|(port, _)| port.to_string()).collect(), pairs, changes }
}

fn table(difference: &Difference) -> String {
    let word = |connects: Option<bool>| match connects {
        Some(true) => "yes",
        Some(false) => "no",
        None => "-",
    };
    let mut rows = vec![["PORT", "FROM", "TO", "BEFORE", "AFTER"].map(str::to_owned)];
    rows.extend(difference.changes.iter().map(|it| {
        let [before, after] = [it.before, it.after].map(|it| word(it).to_owned());
        [it.port.clone(), it.from.clone(), it.to.clone(), before, after]
    }));
    let widths: Vec<usize> = (0..5)
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or_default())
        .collect();
    let mut text = String::new();
    for row in rows.iter().filter(|_| !difference.changes.is_empty()) {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    let (count, ports) = (difference.changes.len(), difference.ports.join(", "));
    text + &format!("{count} of {} pairs change, over {ports}\n", difference.pairs)
}
