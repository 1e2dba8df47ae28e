//! `bulrush dev`: a living system on one machine, without root and without a cluster.
//!
//! ```text
//! embedded store <- sample cluster, your writes
//!      |
//!    typha -> page
//!      |
//! simulated agents: the real client; an acknowledgement, but no kernel
//! ```

use std::{
    io::{self, IsTerminal as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context as _;
use datastore::StoreConfig;
use client::{Link, News, Options};
use proto::v1::AgentHello;
use sync::ClientSession;
use tokio::{net::TcpListener, task::JoinSet};
use typha::Typha;

use crate::sample;

/// Start a store, a typha and simulated agents in one process, to try things on.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many nodes the sample cluster has; each gets a simulated agent.
    #[arg(long, default_value_t = 3, value_name = "N")]
    agents: usize,
    /// Folder in which the store's data survives; without it everything is in memory.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// End by itself after so long, for example 20s or 2m.
    #[arg(long = "for", value_name = "TIME", value_parser = runtime::duration)]
    limit: Option<Duration>,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        runtime::log("warn");
        runtime::block_on(self.dev())
    }

    async fn dev(self) -> anyhow::Result<ExitCode> {
        let config = embedded::Config {
            listen: free_or(2379).await?,
            data_dir: self.data_dir.clone(),
            ..embedded::Config::default()
        };
        let store = embedded::Server::start(config).await?;
        let store_url = format!("http://{}", store.addr());
        let config = StoreConfig::from_url(&store_url)?;
        let written = sample::write(config.connect().await?.as_ref(), self.agents).await?;

        let typha = Typha::start(typha::Config {
            store: config,
            pod_cidrs: false,
            record: None,
            listen: free_or(5473).await?,
            tls: None,
            shared_name: None,
            plaintext: false,
            limits: typha::Limits::default(),
            max_connections: 10_000,
            min_connections: 400,
            alternatives: Vec::new(),
            health: free_or(9098).await?,
            metrics: free_or(9093).await?,
            status: free_or(9095).await?,
        })
        .await?;
        let mut agents = JoinSet::new();
        for index in 0..self.agents {
            agents.spawn(simulated_agent(sample::node_name(index), typha.address().to_string()));
        }
        self.wait_until_current(&typha).await?;

        say!(
            "ready store={store_url} typha={} page=http://{}",
            typha.address(),
            typha.status_address()
        );
        if written == 0 {
            say!("The store's folder had data: nothing was added to it.");
        }
        print_hints(&store_url, &typha);

        let limit = async {
            match self.limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = summaries(&typha) => {}
            () = runtime::stop_signal() => {}
            () = limit => {}
        }
        typha.stop().await;
        agents.shutdown().await;
        store.shutdown().await?;
        Ok(ExitCode::SUCCESS)
    }

    /// Until every agent has acknowledged what the sample cluster gave it.
    async fn wait_until_current(&self, typha: &Typha) -> anyhow::Result<()> {
        let all_current = async {
            loop {
                let status = typha.status();
                let current = status.agents.iter().filter(|agent| agent.current && agent.sent > 0);
                if current.count() >= self.agents && status.in_sync {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), all_current).await.with_context(|| {
            format!("the agents did not come up within 30 s: {}", typha.status().verdict)
        })
    }
}

fn print_hints(store: &str, typha: &Typha) {
    let (agents, page) = (typha.address(), typha.status_address());
    // As this program was called, so that the lines work where it isn't in the PATH.
    let bulrush = std::env::args().next().unwrap_or_else(|| "bulrush".into());
    say!(
        "
Three things to try, in another terminal:
  1. See what typha sends to the agent of node-1, and keep it open:
     {bulrush} watch --server {agents} --node node-1
  2. Close namespace `shop`, and see the change arrive there and on http://{page}:
     {bulrush} apply --store {store} -f - <<'END'
     {{\"apiVersion\": \"projectcalico.org/v3\", \"kind\": \"NetworkPolicy\",
      \"metadata\": {{\"name\": \"closed\", \"namespace\": \"shop\"}},
      \"spec\": {{\"order\": 1, \"selector\": \"all()\", \"types\": [\"Ingress\"]}}}}
     END
  3. Use etcd's own tool on it:
     etcdctl --endpoints {store} get --prefix --keys-only /calico/
"
    );
}

/// A line about the system, whenever something in it has changed.
async fn summaries(typha: &Typha) {
    let terminal = io::stdout().is_terminal();
    let mut last = String::new();
    loop {
        let status = typha.status();
        let current = status.agents.iter().filter(|agent| !agent.observer && agent.current).count();
        let agents = status.agents.iter().filter(|agent| !agent.observer).count();
        let line = format!(
            "publication {}: {} entries in {} topics, {current} of {agents} agents have it all; {}",
            status.publication, status.sizes.entries, status.sizes.topics, status.verdict
        );
        if line != last {
            // Nobody reads what can't be printed.
            if terminal {
                let _ = write!(io::stdout(), "\r\x1b[K{line}");
            } else {
                say!("{line}");
            }
            let _ = io::stdout().flush();
            last = line;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// Receives a node's view as an agent does, and acknowledges it as if there were a kernel.
async fn simulated_agent(node: String, server: String) {
    let hello =
        AgentHello { node, version: env!("CARGO_PKG_VERSION").into(), ..AgentHello::default() };
    let options = Options { servers: vec![server], tls: None, hello };
    let mut link = Link::new(options, ClientSession::new());
    loop {
        if let News::Committed(_) = link.next().await {
            link.acknowledge(link.session().publication(), Vec::new(), None);
        }
    }
}

/// The default port on loopback, or a free one when somebody has it.
async fn free_or(port: u16) -> anyhow::Result<SocketAddr> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(_) => TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .await
            .context("no free port on 127.0.0.1")?,
    };
    Ok(listener.local_addr()?)
}
