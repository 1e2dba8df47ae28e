//! `bulrush loadtest`: the same program as `loadtest`.

use std::process::ExitCode;

/// Measure a typha: simulated agents, each with the agents' own client on a connection of its own,
/// and changes written to the store on a schedule that waits for nobody.
///
/// Every Commit at every agent is checked: versions never go back, digests are the server's, and
/// what the agent holds is what was written. The exit code is 1 when anything was wrong.
///
/// Without --server it starts a store and a typha of its own.
// The flags inside have a group of this name.
#[derive(clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    #[command(flatten)]
    args: loadtest::Args,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        self.args.run(&["loadtest"])
    }
}
