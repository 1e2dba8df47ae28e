//! The stores that a suite runs on: each etcd that is found, and our own.

use std::path::PathBuf;
use std::sync::Arc;

use datastore::{Datastore, StoreConfig};

use super::server::Server;

/// A store that can be started.
pub enum Target {
    Etcd { label: String, binary: PathBuf },
    Embedded,
}

/// A store that runs, empty, for as long as this lives.
pub struct Running {
    pub label: String,
    pub url: String,
    pub port: u16,
    /// Whether it says how far it is complete, and can be trusted with it.
    pub tells_progress: bool,
    _server: Process,
}

enum Process {
    Etcd(#[allow(dead_code, reason = "dropping it ends the process")] Server),
    Embedded(#[allow(dead_code, reason = "dropping it ends the server")] embedded::Server),
}

/// All of them. Without a real etcd that is said.
pub fn targets() -> Vec<Target> {
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
                    _server: Process::Etcd(server),
                }
            }
            Self::Embedded => {
                let server = embedded::Server::start(embedded::Config::default()).await.unwrap();
                Running {
                    label: "embedded".to_owned(),
                    url: format!("http://{}", server.addr()),
                    port: server.addr().port(),
                    tells_progress: true,
                    _server: Process::Embedded(server),
                }
            }
        }
    }
}

impl Running {
    /// A client of etcd's own kind, so that what a test knows doesn't come from what it tests.
    pub async fn raw(&self) -> etcd_client::Client {
        etcd_client::Client::connect([&self.url], None).await.unwrap()
    }

    pub async fn store(&self) -> Arc<dyn Datastore> {
        connect(&self.url).await
    }
}

pub async fn connect(url: &str) -> Arc<dyn Datastore> {
    StoreConfig::from_url(url).unwrap().connect().await.unwrap()
}

/// Runs a scenario on each store.
pub async fn on_every_store(scenario: impl AsyncFn(Running)) {
    for target in targets() {
        let running = target.start().await;
        println!("on {}", running.label);
        scenario(running).await;
    }
}
