//! Starts and stops the parts of a server.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use datastore::{Datastore, StoreConfig};
use proto::v1::typha_server::TyphaServer;
use sync::{DIGEST_KEY_LEN, DigestKey, ServerFacts};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tracing::warn;

use crate::{
    door::{Door, Limits},
    http::{self, Pages},
    listener::Listener,
    service::Service,
    sessions::Sessions,
    status::Status,
    tls, writer,
};

/// A heartbeat comes after so much quiet.
const HEARTBEAT_SECONDS: u32 = 10;
/// At a stop agents leave at this rate, so that other servers can take them in.
const DRAIN_PER_SECOND: f64 = 500.0;
/// How long the last of them may take to hear it.
const FAREWELL: Duration = Duration::from_secs(2);

/// How a server is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where state lives.
    pub store: StoreConfig,
    /// Where agents connect.
    pub listen: SocketAddr,
    /// Certificate, key and the CAs of agents; none: without TLS.
    pub tls: Option<identity::Files>,
    /// Serve without TLS on an address that isn't loopback.
    pub plaintext: bool,
    /// What a connection may use.
    pub limits: Limits,
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
        "{0} is reached by other machines: give --cert, --key and --ca for TLS (`bulrush certs` makes \
         them), listen on loopback, or say --plaintext on a closed test network"
    )]
    Plaintext(SocketAddr),
    /// The files of TLS can't be used.
    #[error(transparent)]
    Tls(#[from] identity::TlsError),
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
    drain: watch::Sender<Option<Duration>>,
    drain_limit: Duration,
    grpc: JoinHandle<()>,
    others: Vec<JoinHandle<()>>,
}

impl Typha {
    /// Starts a server. It returns once it listens; agents are served when the store was read.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        if config.tls.is_none() && !config.listen.ip().is_loopback() && !config.plaintext {
            return Err(StartError::Plaintext(config.listen));
        }
        let mut others = Vec::new();
        let tls = match config.tls {
            None => None,
            Some(files) => {
                let (current, reload) = tls::start(files, config.limits.reload)?;
                others.push(reload);
                Some(current)
            }
        };
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
        let (drain, draining) = watch::channel(None);
        let limits = Arc::new(config.limits);
        let door = Door::new(&limits);
        let service = Service {
            facts: facts.clone(),
            published: outputs.published.clone(),
            store: outputs.store.clone(),
            sessions: sessions.clone(),
            max_sessions: config.max_connections,
            limits: limits.clone(),
            door: door.clone(),
            draining: draining.clone(),
        };
        let pages = Pages { facts, outputs, sessions, store, door: door.clone(), tls: tls.clone() };
        let pages = Arc::new(pages);

        let address = local(&agents, config.listen);
        let status_address = local(&status, config.status);
        let drain_limit = limits.drain;
        let service = TyphaServer::new(service).max_decoding_message_size(limits.message_bytes);
        let listener = Listener { tls, limits, door, service, draining };
        let grpc = tokio::spawn(listener.run(agents));
        others.extend([
            writer,
            runtime::http::serve(health, http::health(pages.clone())),
            runtime::http::serve(metrics, http::metrics(pages.clone())),
            runtime::http::serve(status, http::status(pages.clone())),
        ]);
        Ok(Self { address, pages, status_address, drain, drain_limit, grpc, others })
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

    /// Tells every agent to go, one after the other at a bounded rate, and ends.
    pub async fn stop(mut self) {
        let seconds = self.pages.sessions.active() as f64 / DRAIN_PER_SECOND;
        let window = Duration::from_secs_f64(seconds).min(self.drain_limit);
        self.drain.send_replace(Some(window));
        if tokio::time::timeout(window + FAREWELL, &mut self.grpc).await.is_err() {
            warn!("some agents did not leave in time");
            self.grpc.abort();
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
