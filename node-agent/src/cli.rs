//! The flags of `node-agent`, which are also those of `bulrush run node-agent`.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use anyhow::Context as _;
use clap::{Args, builder::BoolishValueParser};

use client::Tls;
use datastore::{StoreConfig, config::KubernetesConfig};
use identity::{ServerCheck, Shared, SharedSettings};

use crate::{
    agent::{self, Config, Origin, Servers},
    find::Pods,
};

/// Where Calico's agent keeps the node's name.
const NODENAME_FILE: &str = "/var/lib/calico/nodename";

/// Brings its node's view into the Linux kernel.
#[derive(Args, Clone, Debug)]
pub struct Flags {
    /// The node's name; without it the one in /var/lib/calico/nodename, else the host's name.
    #[arg(long, env = "NODENAME", value_name = "NAME")]
    pub node: Option<String>,
    /// Addresses of typha, separated by commas, each HOST or HOST:PORT (5473); tried in turn, from
    /// any of them. Without these and a Service the agent reads the store itself.
    #[arg(long, env = "FELIX_TYPHAADDR", value_delimiter = ',', value_name = "HOST:PORT")]
    pub typha: Vec<String>,
    /// Without addresses: the Service of typha in Kubernetes, whose pods are looked up when the agent connects;
    /// one on the own node comes first.
    #[arg(long, env = "FELIX_TYPHAK8SSERVICENAME", value_name = "NAME")]
    pub typha_service: Option<String>,
    /// The namespace of that Service.
    #[arg(
        long,
        env = "FELIX_TYPHAK8SNAMESPACE",
        default_value = "kube-system",
        value_name = "NAMESPACE"
    )]
    pub typha_namespace: String,
    /// The store, where there is no typha: an address of etcd such as `http://127.0.0.1:2379`,
    /// `kubernetes`, or `kubernetes:KUBECONFIG`. Without it the environment decides:
    /// `DATASTORE_TYPE`, `ETCD_ENDPOINTS`, `KUBECONFIG` and the others.
    #[arg(long, conflicts_with = "typha")]
    pub store: Option<String>,
    /// Without typha: take `podCIDRs` of nodes as blocks of these nodes. With one it is typha's setting.
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
    /// The certificate that says which node this is, PEM; read anew at each connect.
    #[arg(long, env = "FELIX_TYPHACERTFILE", value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, env = "FELIX_TYPHAKEYFILE", value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// The CAs that sign typha's certificate, PEM.
    #[arg(long, env = "FELIX_TYPHACAFILE", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// The token of the pod's service account, projected with audience `bulrush-typha`: in place of a
    /// certificate, where typha's store is Kubernetes. It is read anew at each connect.
    #[arg(long, env = "BULRUSH_TYPHA_TOKEN_FILE", value_name = "FILE", conflicts_with = "cert")]
    pub token_file: Option<PathBuf>,
    /// Believe a server whose certificate is valid for its address, instead of one with
    /// `bulrush://server/typha`.
    #[arg(long, requires = "ca")]
    pub verify_host: bool,
    /// Believe a server by a name that all servers' certificates share, as in Calico's installations: for the time of
    /// a migration.
    #[arg(long, env = "BULRUSH_ALLOW_SHARED_IDENTITY", conflicts_with = "verify_host")]
    pub allow_shared_identity: bool,
    /// With --allow-shared-identity: the common name in the certificates of servers.
    #[arg(long, env = "FELIX_TYPHACN", value_name = "NAME")]
    pub typha_cn: Option<String>,
    /// With --allow-shared-identity: the URI in the certificates of servers; with a common name too, both must be
    /// there.
    #[arg(long, env = "FELIX_TYPHAURISAN", value_name = "URI")]
    pub typha_uri_san: Option<String>,
    /// Folder of what must survive a restart: the view that was received last.
    #[arg(long, default_value = "/var/lib/bulrush", value_name = "DIR")]
    pub state_dir: PathBuf,
    /// Address of /liveness, /readiness and /metrics.
    #[arg(long, env = "FELIX_HEALTHHOST", default_value = "127.0.0.1", value_name = "ADDRESS")]
    pub health_host: IpAddr,
    /// Port of /liveness and /readiness.
    #[arg(long, env = "FELIX_HEALTHPORT", default_value_t = 9099, value_name = "PORT")]
    pub health_port: u16,
    /// Port of /metrics.
    #[arg(long, env = "FELIX_PROMETHEUSMETRICSPORT", default_value_t = 9091, value_name = "PORT")]
    pub metrics_port: u16,
}

/// Runs until `stop`.
///
/// # Errors
/// When the agent can't start; once it runs, it goes on.
pub async fn run(flags: Flags, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let shared = SharedSettings {
        allow: flags.allow_shared_identity,
        common_name: ("FELIX_TYPHACN", flags.typha_cn.as_deref()),
        uri: ("FELIX_TYPHAURISAN", flags.typha_uri_san.as_deref()),
    };
    let check = match shared.read()? {
        Shared::Allowed(name) => ServerCheck::Shared(name),
        Shared::Refused => ServerCheck::by_host(flags.verify_host),
        Shared::Ignored(why) => {
            tracing::warn!("{why}");
            ServerCheck::by_host(flags.verify_host)
        }
    };
    let tls = Tls::given(flags.cert, flags.key, flags.ca, flags.token_file, check)?;
    let node = node_name(flags.node)?;
    // What the manifests of Calico set where there is none.
    let is_given = |value: &String| !value.eq_ignore_ascii_case("none");
    let addresses: Vec<String> = flags.typha.into_iter().filter(is_given).collect();
    let service = flags.typha_service.filter(|name| is_given(name) && !name.is_empty());
    let origin = match (service, flags.store) {
        (_, None) if !addresses.is_empty() => {
            Origin::Typha { servers: Servers::At(addresses), tls }
        }
        (Some(name), None) => {
            let config = KubernetesConfig::from_env()?;
            let pods = Pods::new(config, flags.typha_namespace, name, node.clone());
            Origin::Typha { servers: Servers::Of(Arc::new(pods)), tls }
        }
        (_, store) => Origin::Store {
            store: StoreConfig::given(store.as_deref())?,
            pod_cidrs: flags.use_pod_cidr,
        },
    };
    let config = Config {
        node,
        origin,
        state: flags.state_dir,
        health: SocketAddr::new(flags.health_host, flags.health_port),
        metrics: SocketAddr::new(flags.health_host, flags.metrics_port),
    };
    Ok(agent::run(config, stop).await?)
}

fn node_name(given: Option<String>) -> anyhow::Result<String> {
    let from_file = || std::fs::read_to_string(NODENAME_FILE).ok();
    if let Some(name) = given.or_else(from_file).map(|name| name.trim().to_owned())
        && !name.is_empty()
    {
        return Ok(name);
    }
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .context("the host's name can't be read: give the node's with --node")?;
    Ok(host.trim().to_lowercase())
}
