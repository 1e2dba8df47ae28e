//! The flags of `typha`, which are also those of `bulrush run typha`.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::Args;
use datastore::StoreConfig;

use crate::{Limits, StartError, server::Config};

/// Serves each agent its node's view of the store.
#[derive(Args, Clone, Debug)]
pub struct Flags {
    /// Address that agents connect to.
    #[arg(long, env = "TYPHA_SERVERADDR", default_value = "127.0.0.1")]
    pub listen: IpAddr,
    /// Port that agents connect to; 0 takes a free one.
    #[arg(long, env = "TYPHA_SERVERPORT", default_value_t = 5473)]
    pub port: u16,
    /// This server's certificate, PEM, with `bulrush://server/typha`. It, the key and the CAs are read
    /// anew when they change.
    #[arg(long, env = "TYPHA_SERVERCERTFILE", value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, env = "TYPHA_SERVERKEYFILE", value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// The CAs that sign agents' certificates, PEM.
    #[arg(long, env = "TYPHA_CAFILE", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Serve without TLS on an address that other machines reach. Everybody who reaches it may then
    /// read any node's view: for closed test networks only.
    #[arg(long)]
    pub plaintext: bool,
    /// How many agents are served at once.
    #[arg(long, env = "TYPHA_MAXCONNECTIONSUPPERLIMIT", default_value_t = 10_000)]
    pub max_connections: usize,
    /// Other servers, `HOST:PORT`, separated by commas: agents that this one sends away are told of them.
    #[arg(long, env = "TYPHA_ALTERNATIVES", value_delimiter = ',', value_name = "HOST:PORT")]
    pub alternatives: Vec<String>,
    /// Port of /liveness and /readiness.
    #[arg(long, env = "TYPHA_HEALTHPORT", default_value_t = 9098)]
    pub health_port: u16,
    /// Port of /metrics.
    #[arg(long, env = "TYPHA_PROMETHEUSMETRICSPORT", default_value_t = 9093)]
    pub metrics_port: u16,
    /// Port of the status page, on loopback only.
    #[arg(long, default_value_t = 9095)]
    pub status_port: u16,
    /// Address of the store, for example `http://127.0.0.1:2379`. Without it the environment decides:
    /// `DATASTORE_TYPE`, `ETCD_ENDPOINTS` and the others.
    #[arg(long)]
    pub store: Option<String>,
}

impl Flags {
    /// The configuration that the flags and the environment give.
    pub fn config(self) -> Result<Config, StartError> {
        let store = match &self.store {
            Some(url) => StoreConfig::from_url(url)?,
            None => StoreConfig::from_env()?,
        };
        Ok(Config {
            store,
            listen: SocketAddr::new(self.listen, self.port),
            tls: identity::Files::given(self.cert, self.key, self.ca)?,
            plaintext: self.plaintext,
            limits: Limits::default(),
            max_connections: self.max_connections,
            alternatives: self.alternatives,
            health: SocketAddr::new(self.listen, self.health_port),
            metrics: SocketAddr::new(self.listen, self.metrics_port),
            status: SocketAddr::from(([127, 0, 0, 1], self.status_port)),
        })
    }
}

/// Runs until SIGINT or SIGTERM, or `stop`.
pub async fn run(flags: Flags, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let typha = crate::Typha::start(flags.config()?).await?;
    tracing::info!(
        agents = %typha.address(), status = %typha.status_address(), "typha is listening"
    );
    stop.await;
    typha.stop().await;
    Ok(())
}
