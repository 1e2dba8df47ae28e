//! The flags of `loadtest`, which are also those of `bulrush loadtest`.

use std::{
    ffi::OsString, fs, io::Write as _, net::SocketAddr, path::PathBuf, process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};

use crate::{
    children::{self, Part},
    churn::{Profile, View},
    html,
    inject::Inject,
    memory, ratios,
    report::{Comparison, Report},
    run,
    world::Topology,
};

/// Measure a typha: simulated agents, each with the agents' own client on a connection of its own,
/// and changes written to the store on a schedule that waits for nobody.
///
/// Every Commit at every agent is checked: versions never go back, digests are the server's, and
/// what the agent holds is what was written. The exit code is 1 when anything was wrong.
///
/// Without --server it starts a store and a typha of its own.
#[derive(clap::Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    /// How many agents.
    #[arg(long, default_value_t = 2000, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    agents: u32,
    /// How long changes are written, for example 30s or 10m.
    #[arg(long = "for", default_value = "30s", value_name = "TIME", value_parser = runtime::duration)]
    length: Duration,
    /// What changes.
    #[arg(long, default_value = "steady")]
    profile: Profile,
    /// Changes per second.
    #[arg(long, default_value_t = 100.0, value_name = "N", value_parser = rate)]
    rate: f64,
    /// What the agents ask for. `full` is every object for each agent: mind the memory of it.
    #[arg(long, default_value = "node")]
    view: View,
    /// Nodes of the cluster [default: one per agent, and 20 in the full view].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    nodes: Option<u32>,
    /// Who may talk to whom. The others than `clients` go with the profiles `steady` and `rolling-update`.
    #[arg(long, default_value = "clients", value_name = "WHO")]
    topology: Topology,
    /// Pods on each node.
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=62))]
    pods: u32,
    /// One in so many agents checks everything that it gets, the agents' own way. The others count Commits, which
    /// costs a tenth.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "inject")]
    check_every: u32,
    /// Where the random choices of the changes start: the same seed gives the same changes.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// A running typha, on plaintext loopback, that reads the store of --store. Given more than once, agents move
    /// between them.
    #[arg(long, value_name = "HOST:PORT", requires = "store")]
    server: Vec<String>,
    /// The process of --server, to measure what it uses; as often as that.
    #[arg(long, value_name = "PID", requires = "server")]
    server_pid: Vec<u32>,
    /// So many typhas are started, and agents move between them.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10), conflicts_with = "server")]
    replicas: u32,
    /// With several typhas a tenth of the agents moves to the next one so often.
    #[arg(long, default_value = "2s", value_name = "TIME", value_parser = runtime::duration)]
    move_every: Duration,
    /// A running store. The cluster of the test is added to it, and removed at the end.
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// A change that takes longer is lost.
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = runtime::duration)]
    deadline: Duration,
    /// Corrupt what agents get, to see that it is noticed.
    #[arg(long)]
    inject: Option<Inject>,
    /// Write the report as a page with plots, too.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// How to print the report.
    #[arg(short, long, default_value = "table", global = true)]
    output: Output,
    #[command(subcommand)]
    command: Option<Command>,
    /// Be one of the processes of a test; with Program, become the program that follows.
    #[arg(long, hide = true)]
    part: Option<Part>,
    #[arg(last = true, hide = true, requires = "part")]
    program: Vec<OsString>,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Output {
    Json,
    Table,
}

#[derive(Clone, Debug, Subcommand)]
enum Command {
    /// Print the figures of two reports (-o json) beside each other, with their ratios.
    Compare {
        /// A report.
        a: PathBuf,
        /// Another one.
        b: PathBuf,
    },
    /// Measure typha against the plainest server that could serve agents, case by case.
    Ratios(ratios::Args),
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "write a number such as 100 or 0.5".to_owned())?;
    if rate > 0.0 && rate <= 100_000.0 {
        Ok(rate)
    } else {
        Err("must be above 0 and at most 100000".into())
    }
}

impl Args {
    /// Does it. `prefix` are the arguments that lead to these flags in this program, for the
    /// processes that it starts of itself.
    pub fn run(self, prefix: &[&str]) -> anyhow::Result<ExitCode> {
        if let Some(Command::Compare { a, b }) = &self.command {
            let comparison = Comparison::of(&Report::read(a)?, &Report::read(b)?);
            self.print(&comparison, Comparison::table)?;
            return Ok(ExitCode::SUCCESS);
        }
        runtime::log("warn");
        if self.part.is_none()
            && let Err(error) = memory::keep()
        {
            eprintln!("warning: memory isn't kept, and agents are slower for it: {error}");
        }
        if let Some(Command::Ratios(args)) = &self.command {
            let table = runtime::block_on(ratios::run(args, prefix))?;
            self.print(&table, ratios::Table::text)?;
            return Ok(if table.is_whole() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        if self.part == Some(Part::Program) {
            return Err(children::become_program(&self.program).into());
        }
        if let Some(part) = self.part {
            let listen = self.server.first().map(|server| loopback(server)).transpose()?;
            let part = children::run(part, self.store.as_deref(), self.agents as usize, listen);
            runtime::block_on(part)?;
            return Ok(ExitCode::SUCCESS);
        }
        let config = run::Config {
            agents: self.agents,
            check_every: self.check_every,
            length: self.length,
            profile: self.profile,
            rate: self.rate,
            view: self.view,
            nodes: self.nodes.unwrap_or(match self.view {
                View::Node => self.agents,
                View::Full => 20,
            }),
            pods_per_node: self.pods,
            topology: self.topology,
            seed: self.seed,
            servers: self.server.iter().map(|server| loopback(server)).collect::<Result<_, _>>()?,
            server_pids: self.server_pid.clone(),
            replicas: self.replicas,
            move_every: self.move_every,
            store: self.store.clone(),
            deadline: self.deadline,
            inject: self.inject,
        };
        // Before the run: what can't be written is known then.
        let html = self.html.as_deref().map(|path| (path, fs::File::create(path)));
        let html = html.map(|(path, file)| file.with_context(|| path.display().to_string()));
        let html = html.transpose()?;
        let report = runtime::block_on(run::run(config, prefix))?;
        if let Some(mut html) = html {
            html.write_all(html::page(&report).as_bytes())?;
        }
        self.print(&report, Report::table)?;
        if report.inject.is_some() && report.errors.total() == 0 {
            eprintln!("error: what was injected was not noticed");
            return Ok(ExitCode::FAILURE);
        }
        let well = report.errors.total() == 0;
        Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn print<T: serde::Serialize>(
        &self,
        value: &T,
        table: impl Fn(&T) -> String,
    ) -> anyhow::Result<()> {
        let text = match self.output {
            Output::Json => serde_json::to_string_pretty(value)? + "\n",
            Output::Table => table(value),
        };
        std::io::stdout().write_all(text.as_bytes())?;
        Ok(())
    }
}

/// The address, which must be one of this machine alone: only there typha believes names.
fn loopback(address: &str) -> anyhow::Result<SocketAddr> {
    use std::net::ToSocketAddrs as _;
    let found = address.to_socket_addrs().ok().and_then(|mut found| found.next());
    let Some(found) = found else {
        anyhow::bail!("--server {address:?} is no address of a server (example: 127.0.0.1:5473)");
    };
    if !found.ip().is_loopback() {
        anyhow::bail!(
            "--server {address} is not on loopback: simulated agents say that they are many nodes, \
             which a typha believes on plaintext loopback only; run the load test beside the typha"
        );
    }
    Ok(found)
}
