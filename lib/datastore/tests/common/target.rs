//! The stores that a suite runs on: each etcd that is found, and our own.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use datastore::config::KubernetesConfig;
use datastore::kubernetes::ApiGroup;
use datastore::{Datastore, StoreConfig};
use tokio::sync::OwnedMutexGuard;

use super::history::Raw;
use super::kubernetes::{self, Api};
use super::server::Server;

/// A store that can be started.
pub enum Target {
    Etcd {
        label: String,
        binary: PathBuf,
    },
    Embedded,
    /// With Calico's objects in this group.
    Kubernetes {
        group: &'static str,
    },
}

/// A store that runs, empty, for as long as this lives.
pub struct Running {
    pub label: String,
    pub url: String,
    pub port: u16,
    /// Whether it says how far it is complete, and can be trusted with it.
    pub tells_progress: bool,
    server: Process,
}

enum Process {
    Etcd(#[allow(dead_code, reason = "dropping it ends the process")] Server),
    Embedded(#[allow(dead_code, reason = "dropping it ends the server")] embedded::Server),
    /// Shared: without tiers at the beginning, and one scenario's at a time.
    Kubernetes(
        Api,
        #[allow(dead_code, reason = "dropping it lets the next scenario begin")] OwnedMutexGuard<()>,
    ),
}

/// All of them. What isn't there is said.
pub fn targets() -> Vec<Target> {
    let mut targets = etcd_targets();
    if kubernetes::cluster().is_some() {
        targets.extend(kubernetes::GROUPS.map(|group| Target::Kubernetes { group }));
    }
    targets
}

/// Those that speak etcd's API. Without a real etcd that is said.
pub fn etcd_targets() -> Vec<Target> {
    let mut targets: Vec<Target> =
        etcds().into_iter().map(|(label, binary)| Target::Etcd { label, binary }).collect();
    targets.push(Target::Embedded);
    targets
}

/// Each etcd that is found. Without one that is said.
pub fn etcds() -> Vec<(String, PathBuf)> {
    let found = support::etcd_binaries();
    if found.is_empty() {
        support::skipped("etcd", "no etcd found; run .ci/servers or install etcd-server");
    }
    found
}

/// Whether a requested progress notice may overtake an event in this version of etcd (issue 15220).
fn overtakes(label: &str) -> bool {
    let version = label.trim_start_matches("etcd-");
    let patch = |minor: &str| version.strip_prefix(minor)?.parse::<u32>().ok();
    patch("3.4.").is_some_and(|patch| patch < 25) || patch("3.5.").is_some_and(|patch| patch < 8)
}

impl Target {
    pub async fn start(&self) -> Running {
        match self {
            Self::Etcd { label, binary } => {
                let server = Server::start(binary);
                Running {
                    label: label.clone(),
                    url: server.url(),
                    port: server.port(),
                    tells_progress: !overtakes(label),
                    server: Process::Etcd(server),
                }
            }
            Self::Embedded => {
                let server = embedded::Server::start(embedded::Config::default()).await.unwrap();
                Running {
                    label: "embedded".to_owned(),
                    url: format!("http://{}", server.addr()),
                    port: server.addr().port(),
                    tells_progress: true,
                    server: Process::Embedded(server),
                }
            }
            Self::Kubernetes { group } => {
                let turn = kubernetes::turn().await;
                let cluster = kubernetes::cluster().expect("it was there");
                let api = Api::new(cluster, group).await;
                api.clear().await;
                Running {
                    label: format!("Kubernetes with {group}"),
                    url: cluster.url(),
                    port: cluster.port(),
                    tells_progress: true,
                    server: Process::Kubernetes(api, turn),
                }
            }
        }
    }
}

impl Running {
    /// A client of the store's own kind, so that what a test knows doesn't come from what it tests.
    pub async fn raw(&self) -> Raw {
        match &self.server {
            Process::Kubernetes(api, _) => Raw::Kubernetes(api.clone()),
            Process::Etcd(_) | Process::Embedded(_) => self.etcd().await.into(),
        }
    }

    pub async fn etcd(&self) -> etcd_client::Client {
        etcd_client::Client::connect([&self.url], None).await.unwrap()
    }

    pub async fn store(&self) -> Arc<dyn Datastore> {
        self.store_at(&self.url).await
    }

    /// The store, reached at another address.
    pub async fn store_at(&self, url: &str) -> Arc<dyn Datastore> {
        match &self.server {
            Process::Kubernetes(api, _) => {
                let cluster = kubernetes::cluster().expect("it was there");
                let url = url.replace("http://", "https://");
                let config = KubernetesConfig {
                    kubeconfig: Some(cluster.kubeconfig_at("admin", &url)),
                    api_group: ApiGroup::from_api_version(api.group),
                    // Half a minute, as with etcd; an idle API server says something once a minute.
                    idle: Duration::from_secs(90),
                    ..KubernetesConfig::default()
                };
                StoreConfig::Kubernetes(config).connect().await.unwrap()
            }
            Process::Etcd(_) | Process::Embedded(_) => connect(url).await,
        }
    }

    pub fn is_kubernetes(&self) -> bool {
        matches!(self.server, Process::Kubernetes(..))
    }
}

pub async fn connect(url: &str) -> Arc<dyn Datastore> {
    StoreConfig::from_url(url).unwrap().connect().await.unwrap()
}

/// Runs a scenario on each store.
pub async fn on_every_store(scenario: impl AsyncFn(Running)) {
    on_each(targets(), scenario).await;
}

/// Runs a scenario on each store that speaks etcd's API: for what only etcd can be made to do.
pub async fn on_every_etcd(scenario: impl AsyncFn(Running)) {
    on_each(etcd_targets(), scenario).await;
}

async fn on_each(targets: Vec<Target>, scenario: impl AsyncFn(Running)) {
    for target in targets {
        let running = target.start().await;
        println!("on {}", running.label);
        scenario(running).await;
    }
}
