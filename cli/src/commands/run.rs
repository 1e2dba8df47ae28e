//! `bulrush run PART`: the same program as the part's own binary.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use clap::Subcommand;


/// Run one part of the system in the foreground.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How much is logged, unless `RUST_LOG` says otherwise.
    #[arg(long, global = true, default_value = "info", value_name = "LEVEL")]
    log: String,
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    Typha(typha::cli::Flags),
    NodeAgent(node_agent::cli::Flags),
    Store(StoreFlags),
}

/// The embedded store: etcd's API for one machine.
#[derive(clap::Args)]
struct StoreFlags {
    /// Address to listen on; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:2379", value_name = "HOST:PORT")]
    listen: SocketAddr,
    /// Folder in which the data survives; without it everything is in memory.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        runtime::log(&self.log);
        runtime::block_on(async move {
            let stop = runtime::stop_signal();
            match self.part {
                Part::Typha(flags) => typha::cli::run(flags, stop).await?,
                Part::NodeAgent(flags) => node_agent::cli::run(flags, stop).await?,
                Part::Store(flags) => run_store(flags, stop).await?,
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}

async fn run_store(flags: StoreFlags, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let config = embedded::Config {
        listen: flags.listen,
        data_dir: flags.data_dir,
        ..embedded::Config::default()
    };
    let store = embedded::Server::start(config).await?;
    tracing::info!(address = %store.addr(), "the store is listening");
    stop.await;
    store.shutdown().await?;
    Ok(())
}
