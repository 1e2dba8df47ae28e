//! `loadtest ratios`: typha beside the baseline, the plainest server that could serve agents, and
//! one way of use beside another, on the same machine in the same run.
//!
//! Only ratios say something: figures in microseconds and bytes are of the machine that it runs on.

mod cases;
mod returns;
mod scale;
mod servers;
mod stuck;
mod table;

use std::{path::PathBuf, time::Duration};

use anyhow::bail;
use clap::ValueEnum;

use crate::process;

pub(crate) use table::Table;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Case {
    /// Memory of an idle agent, before and after changes, and processor time of one commit.
    Agents,
    /// The same memory with TLS.
    Tls,
    /// Many agents that come at once.
    FirstSync,
    /// Many changes a second.
    Churn,
    /// Very many endpoints.
    Cache,
    /// Views of nodes beside the full view, by who may talk to whom.
    Views,
    /// Ten times as many agents with their nodes' views, at 500 changes a second.
    Many,
    /// One change that few agents need or many, of few connected or many.
    Affected,
    /// Five times as many agents that all reconnect at once, with what they hold and with nothing.
    Storm,
    /// The server starts anew under five times as many agents.
    Restart,
    /// A few agents with the full view of very many endpoints that come at once.
    FullSync,
    /// A tenth of five times as many agents that are stopped where they are.
    Stuck,
}

impl Case {
    /// It measures the baseline, too.
    fn has_baseline(self) -> bool {
        matches!(self, Self::Agents | Self::FirstSync | Self::Churn | Self::Cache)
    }
}

/// The flags of `loadtest ratios`.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// Only these cases, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "CASE")]
    only: Vec<Case>,
    /// Agents of the cases `agents` and `tls`; half of them in `first-sync`, `churn` and `views`,
    /// a tenth in `full-sync`, five times as many in `storm`, `restart` and `stuck`, and ten times in `many` and `affected`.
    #[arg(long, default_value_t = 2000, value_name = "N", value_parser = clap::value_parser!(u32).range(2..=20_000))]
    agents: u32,
    /// One in so many agents checks everything that it gets; the others count Commits.
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    check_every: u32,
    /// How often one commit is repeated, for each number of changes.
    #[arg(long, default_value_t = 15, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How long agents are idle before memory is looked at, in seconds.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    idle: u64,
    /// How long changes are written in the cases `churn`, `views`, `many` and `affected`, in seconds.
    #[arg(long, default_value_t = 20, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    churn: u64,
    /// How long agents are stuck in the case `stuck`, in seconds.
    #[arg(long, default_value_t = 300, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    stuck: u64,
    /// Endpoints of the case `cache`; three quarters of them in `full-sync`.
    #[arg(long, default_value_t = 200_000, value_name = "N", value_parser = clap::value_parser!(u32).range(60..=400_000))]
    endpoints: u32,
    /// How often everything is done; with more, medians are over all.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    passes: u32,
    /// The program `typha` [default: beside this program, else what this program has of it].
    #[arg(long, value_name = "FILE")]
    typha: Option<PathBuf>,
    /// The program `bulrush-baseline` [default: beside this program].
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
}

impl Args {
    fn wants(&self, case: Case) -> bool {
        self.only.is_empty() || self.only.contains(&case)
    }

    fn idle(&self) -> Duration {
        Duration::from_secs(self.idle)
    }
}

/// Measures what the flags ask for.
pub(crate) async fn run(args: &Args, prefix: &[&str]) -> anyhow::Result<Table> {
    let files = process::files_of(args.agents);
    if let Err(limit) = process::raise_open_files(files) {
        bail!(
            "{} agents need {files} open files, and the limit is {limit}: raise it (ulimit -n \
             {files}), or give fewer --agents",
            args.agents
        );
    }
    let wanted = cases::ALL.iter().map(|(case, _)| *case).filter(|case| args.wants(*case));
    let baseline = wanted.into_iter().any(Case::has_baseline);
    let programs =
        servers::Programs::find(args.typha.as_deref(), args.baseline.as_deref(), baseline, prefix)?;
    let mut table = Table::default();
    for _ in 0..args.passes {
        for (case, measure) in cases::ALL {
            if args.wants(case) {
                let rig = cases::Rig { args, prefix, programs: &programs };
                if let Err(error) = measure(&rig, &mut table).await {
                    let name = case.to_possible_value().map(|value| value.get_name().to_owned());
                    table.failed(&name.unwrap_or_default(), &error);
                }
            }
        }
    }
    Ok(table)
}
