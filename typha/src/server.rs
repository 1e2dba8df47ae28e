//! Starts and stops the parts of a server.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use datastore::{Datastore, StoreConfig};
use proto::v1::typha_server::TyphaServer;
use sync::{DIGEST_KEY_LEN, DigestKey, ServerFacts};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tracing::warn;

use crate::{
    http::{self, Pages},
    service::Service,
    sessions::Sessions,
    status::Status,
    writer,
};

/// A heartbeat comes after so much quiet.
const HEARTBEAT_SECONDS: u32 = 10;
/// How long sessions may take to hear that the server stops.
const DRAIN: Duration = Duration::from_secs(2);

/// How a server is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where state lives.
    pub store: StoreConfig,
    /// Where agents connect.
    pub listen: SocketAddr,
    /// Serve without TLS on an address that isn't loopback.
    pub plaintext: bool,
    /// How many agents are served at once.
    pub max_connections: usize,
    /// Where /liveness and /readiness are.
    pub health: SocketAddr,
    /// Where /metrics is.
    pub metrics: SocketAddr,
    /// Where the status page is.
    pub status: SocketAddr,
}

/// Why a server doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store's configuration or the store.
    #[error(transparent)]
    Store(#[from] datastore::Error),
    /// A port is taken, or not ours to take.
    #[error("can't listen on {address} for {what}: {error}; choose another with --{flag}")]
    Listen {
        /// What the port is for.
        what: &'static str,
        /// The address.
        address: SocketAddr,
        /// The system's word.
        error: std::io::Error,
        /// The flag that changes it.
        flag: &'static str,
    },
    /// Node views in the clear.
    #[error(
        "{0} is reached by other machines, and this version has no TLS: listen on loopback, \
         or say --plaintext on a closed test network"
    )]
    Plaintext(SocketAddr),
    /// The store's digest key is unusable.
    #[error(
        "the key /bulrush/digest-key has {0} bytes, not {DIGEST_KEY_LEN}: delete it, and servers \
         make a new one"
    )]
    DigestKey(usize),
}

/// A running server.
pub struct Typha {
    address: SocketAddr,
    pages: Arc<Pages>,
    status_address: SocketAddr,
    drain: watch::Sender<bool>,
    grpc: JoinHandle<()>,
    others: Vec<JoinHandle<()>>,
}

impl Typha {
    /// Starts a server. It returns once it listens; agents are served when the store was read.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        if !config.listen.ip().is_loopback() && !config.plaintext {
            return Err(StartError::Plaintext(config.listen));
        }
        let agents = listen(config.listen, "agents", "port").await?;
        let health = listen(config.health, "health", "health-port").await?;
        let metrics = listen(config.metrics, "metrics", "metrics-port").await?;
        let status = listen(config.status, "the status page", "status-port").await?;

        let store = config.store.connect().await?;
        let digest_key = digest_key(store.as_ref()).await?;
        let facts = Arc::new(ServerFacts {
            incarnation: format!("{:016x}", rand::random::<u64>()),
            epoch: store.epoch().await?.to_string(),
            streams: store.streams().iter().map(|stream| stream.name.to_string()).collect(),
            digest_key,
            heartbeat_seconds: HEARTBEAT_SECONDS,
            version: env!("CARGO_PKG_VERSION").into(),
        });

        let (writer, outputs) = writer::start(store.clone(), digest_key);
        let sessions = Arc::new(Sessions::default());
        let (drain, draining) = watch::channel(false);
        let service = Service {
            facts: facts.clone(),
            published: outputs.published.clone(),
            store: outputs.store.clone(),
            sessions: sessions.clone(),
            max_sessions: config.max_connections,
            draining,
        };
        let pages = Arc::new(Pages { facts, outputs, sessions, store });

        let address = local(&agents, config.listen);
        let status_address = local(&status, config.status);
        let mut stopping = drain.subscribe();
        let grpc = tokio::spawn(async move {
            let stop = async move {
                let _ = stopping.wait_for(|draining| *draining).await;
            };
            let served = tonic::transport::Server::builder()
                .http2_keepalive_interval(Some(Duration::from_secs(20)))
                .http2_keepalive_timeout(Some(Duration::from_secs(10)))
                .tcp_nodelay(true)
                .add_service(TyphaServer::new(service))
                .serve_with_incoming_shutdown(TcpListenerStream::new(agents), stop)
                .await;
            if let Err(error) = served {
                warn!(%error, "the listener for agents ended");
            }
        });
        let others = vec![
            writer,
            runtime::http::serve(health, http::health(pages.clone())),
            runtime::http::serve(metrics, http::metrics(pages.clone())),
            runtime::http::serve(status, http::status(pages.clone())),
        ];
        Ok(Self { address, pages, status_address, drain, grpc, others })
    }

    /// Where agents connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where the status page is.
    pub fn status_address(&self) -> SocketAddr {
        self.status_address
    }

    /// What the status page says.
    pub fn status(&self) -> Status {
        self.pages.status()
    }

    /// Tells every agent to go, and ends.
    pub async fn stop(self) {
        let _ = self.drain.send(true);
        if tokio::time::timeout(DRAIN, self.grpc).await.is_err() {
            warn!("some agents did not leave in time");
        }
        self.others.iter().for_each(JoinHandle::abort);
    }
}

async fn listen(
    address: SocketAddr,
    what: &'static str,
    flag: &'static str,
) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|error| StartError::Listen {
        what,
        address,
        error,
        flag,
    })
}

fn local(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}

async fn digest_key(store: &dyn Datastore) -> Result<DigestKey, StartError> {
    let ours: [u8; DIGEST_KEY_LEN] = rand::random();
    let key = store.get_or_create_raw("digest-key", &ours).await?;
    let length = key.len();
    key.try_into().map(DigestKey).map_err(|_| StartError::DigestKey(length))
}
