//! The flags of `typha`, which are also those of `bulrush run typha`.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::{Args, builder::BoolishValueParser};
use datastore::StoreConfig;
use identity::{Shared, SharedSettings};

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
    /// Believe agents by a name that all their certificates share, as in Calico's installations, where a certificate
    /// doesn't say whose it is. Whoever has one may read any node's view: for the time of a migration.
    #[arg(long, env = "BULRUSH_ALLOW_SHARED_IDENTITY")]
    pub allow_shared_identity: bool,
    /// With --allow-shared-identity: the common name in the certificates of agents.
    #[arg(long, env = "TYPHA_CLIENTCN", value_name = "NAME")]
    pub client_cn: Option<String>,
    /// With --allow-shared-identity: the URI in the certificates of agents; with a common name too, both must be there.
    #[arg(long, env = "TYPHA_CLIENTURISAN", value_name = "URI")]
    pub client_uri_san: Option<String>,
    /// Serve without TLS on an address that other machines reach. Everybody who reaches it may then
    /// read any node's view: for closed test networks only.
    #[arg(long)]
    pub plaintext: bool,
    /// How many agents are served at once.
    #[arg(long, env = "TYPHA_MAXCONNECTIONSUPPERLIMIT", default_value_t = 10_000)]
    pub max_connections: usize,
    /// With other servers named, an agent over this server's share is sent on to them, one a second, the newest
    /// first. A share is 1.2 times the nodes by the servers, and at least this.
    #[arg(long, env = "TYPHA_MAXCONNECTIONSLOWERLIMIT", default_value_t = 400)]
    pub min_connections: usize,
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
    /// Take `podCIDRs` of nodes as blocks of these nodes: for clusters whose CNI plugin gives addresses from them.
    #[arg(
        long,
        env = "USE_POD_CIDR",
        default_value = "false",
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        value_parser = BoolishValueParser::new()
    )]
    pub use_pod_cidr: bool,
    /// Write what the store says to a file, for `bulrush replay`. It grows without bound; one that is there is kept as
    /// FILE.old.
    #[arg(long, env = "TYPHA_RECORD", value_name = "FILE")]
    pub record: Option<PathBuf>,
    /// None of them is a setting.
    #[command(flatten)]
    pub foreign: Foreign,
    /// The store: an address of etcd such as `http://127.0.0.1:2379`, `kubernetes`, or
    /// `kubernetes:KUBECONFIG`. Without it the environment decides: `DATASTORE_TYPE`, `ETCD_ENDPOINTS`,
    /// `KUBECONFIG` and the others.
    #[arg(long)]
    pub store: Option<String>,
}

/// Names that people expect and that no typha has: refused with the right one.
#[derive(Args, Clone, Debug)]
pub struct Foreign {
    #[arg(long = "clientPort", alias = "client-port", hide = true, value_parser = no_client_port)]
    client_port: Option<String>,
    #[arg(
        long = "maxConnsPerClient",
        alias = "max-conns-per-client",
        hide = true,
        value_parser = no_connections_per_client
    )]
    connections_per_client: Option<String>,
}

const CLIENT_PORT: &str = "there is no setting clientPort: the port that agents connect to is \
                           TYPHA_SERVERPORT, or --port";
const CONNECTIONS_PER_CLIENT: &str = "there is no setting maxConnsPerClient: how many agents are \
                                      served is TYPHA_MAXCONNECTIONSUPPERLIMIT, or --max-connections";

fn no_client_port(_: &str) -> Result<String, String> {
    Err(CLIENT_PORT.into())
}

fn no_connections_per_client(_: &str) -> Result<String, String> {
    Err(CONNECTIONS_PER_CLIENT.into())
}

/// The variables `TYPHA_…` that are set and mean nothing here: kept, for a taken-over manifest brings
/// dozens, and worth one line each.
fn unknown_variables(set: impl Iterator<Item = String>) -> Vec<String> {
    let known = Flags::augment_args(clap::Command::new("typha"));
    let known: Vec<_> = known.get_arguments().filter_map(clap::Arg::get_env).collect();
    let unknown = set.filter(|name| {
        name.starts_with("TYPHA_") && !known.iter().any(|known| *known == name.as_str())
    });
    let mut lines: Vec<String> = unknown
        .map(|name| match name.as_str() {
            "TYPHA_CLIENTPORT" => format!("{name} is ignored: {CLIENT_PORT}"),
            "TYPHA_MAXCONNSPERCLIENT" => format!("{name} is ignored: {CONNECTIONS_PER_CLIENT}"),
            _ => format!("{name} is ignored: this version knows no such setting"),
        })
        .collect();
    lines.sort_unstable();
    lines
}

impl Flags {
    /// The configuration that the flags and the environment give.
    pub fn config(self) -> Result<Config, StartError> {
        let shared = SharedSettings {
            allow: self.allow_shared_identity,
            common_name: ("TYPHA_CLIENTCN", self.client_cn.as_deref()),
            uri: ("TYPHA_CLIENTURISAN", self.client_uri_san.as_deref()),
        };
        let shared_name = match shared.read()? {
            Shared::Allowed(name) => Some(name),
            Shared::Refused => None,
            Shared::Ignored(why) => {
                tracing::warn!("{why}");
                None
            }
        };
        Ok(Config {
            store: StoreConfig::given(self.store.as_deref())?,
            pod_cidrs: self.use_pod_cidr,
            record: self.record,
            listen: SocketAddr::new(self.listen, self.port),
            tls: identity::Files::given(self.cert, self.key, self.ca)?,
            shared_name,
            plaintext: self.plaintext,
            limits: Limits::default(),
            max_connections: self.max_connections,
            min_connections: self.min_connections,
            alternatives: self.alternatives,
            health: SocketAddr::new(self.listen, self.health_port),
            metrics: SocketAddr::new(self.listen, self.metrics_port),
            status: SocketAddr::from(([127, 0, 0, 1], self.status_port)),
        })
    }
}

/// Runs until SIGINT or SIGTERM, or `stop`.
pub async fn run(flags: Flags, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let set = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for line in unknown_variables(set) {
        tracing::warn!("{line}");
    }
    let typha = crate::Typha::start(flags.config()?).await?;
    tracing::info!(
        agents = %typha.address(), status = %typha.status_address(), "typha is listening"
    );
    stop.await;
    typha.stop().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::{Args as _, FromArgMatches as _};

    use super::*;

    #[test]
    fn a_28_typha_serves_on_port_5473() {
        let command = Flags::augment_args(clap::Command::new("typha"));
        let flags = Flags::from_arg_matches(&command.get_matches_from(["typha"])).unwrap();
        assert_eq!(flags.port, 5473);
    }

    #[test]
    fn a_30_variables_that_mean_nothing_are_named_with_the_right_one_where_there_is_one() {
        let set = ["TYPHA_LOGSEVERITYSCREEN", "TYPHA_SERVERPORT", "TYPHA_CLIENTPORT", "PATH"];
        let lines = unknown_variables(set.iter().map(ToString::to_string));
        let [client_port, other] = &lines[..] else { panic!("{lines:?}") };
        support::assert_bad_input("typha: a variable with another's name", client_port);
        support::assert_bad_input("typha: a variable that means nothing", other);
    }
}
