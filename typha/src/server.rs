//! Starts and stops the parts of a server.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use datastore::{StoreConfig, kubernetes::Tokens};
use pipeline::{About, FactsError, Reading, Recording, Scope};
use rand::seq::SliceRandom as _;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::watch,
    task::JoinHandle,
    time::Instant,
};
use tracing::warn;

use crate::{
    balance::Balance,
    chunks::Chunks,
    door::{Door, Limits},
    health,
    http::{self, Pages},
    listener::Listener,
    rounds::Rounds,
    service::{Service, Shared, sweep},
    sessions::Sessions,
    status::Status,
    tls,
    traffic::Traffic,
    writer,
};

/// A heartbeat comes after so much quiet.
const HEARTBEAT_SECONDS: u32 = 10;
/// The audience of the tokens of agents.
const AUDIENCE: &str = "bulrush-typha";
/// At a stop agents leave at this rate, so that other servers can take them in.
const DRAIN_PER_SECOND: f64 = 500.0;
/// An agent that doesn't go when it should is hung up on so much later.
const LINGER: Duration = Duration::from_millis(200);
/// How long the last of them may take to hear it.
const FAREWELL: Duration = Duration::from_secs(2);

/// How many connections the system may keep for us to accept. When all agents come at once, those beyond it are
/// reset; the system has a limit of its own (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;

/// How a server is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where state lives.
    pub store: StoreConfig,
    /// `podCIDRs` of nodes stand for their blocks (`USE_POD_CIDR`).
    pub pod_cidrs: bool,
    /// A file that what the store says is written to.
    pub record: Option<PathBuf>,
    /// Where agents connect.
    pub listen: SocketAddr,
    /// Certificate, key and the CAs of agents; none: without TLS. With it and a Kubernetes store, an agent may show
    /// the token of its service account in place of a certificate.
    pub tls: Option<identity::Files>,
    /// A name by which the certificates of all agents are believed; none: each must say whose it is.
    pub shared_name: Option<identity::SharedName>,
    /// Serve without TLS on an address that isn't loopback.
    pub plaintext: bool,
    /// What a connection may use.
    pub limits: Limits,
    /// How many agents are served at once.
    pub max_connections: usize,
    /// A server's share of the agents is at least so many: up to there it sends none on.
    pub min_connections: usize,
    /// Other servers, `HOST:PORT`: named to agents that this one sends away.
    pub alternatives: Vec<String>,
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
    /// A shared identity is allowed, and not named.
    #[error(transparent)]
    SharedName(#[from] identity::NoSharedName),
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
    /// The recording can't be written.
    #[error("--record {path:?}: {error}; name a file that can be written")]
    Record {
        /// The file.
        path: PathBuf,
        /// The system's word.
        error: std::io::Error,
    },
    /// The store's digest key is unusable.
    #[error("{0}")]
    DigestKey(String),
}

impl From<FactsError> for StartError {
    fn from(error: FactsError) -> Self {
        match error {
            FactsError::Store(error) => Self::Store(error),
            error @ FactsError::Length(_) => Self::DigestKey(error.to_string()),
        }
    }
}

/// A running server.
pub struct Typha {
    address: SocketAddr,
    pages: Arc<Pages>,
    status_address: SocketAddr,
    drain: watch::Sender<bool>,
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
        if let Some(name) = &config.shared_name {
            warn!(
                %name,
                "agents are believed by a name that they share: whoever has a certificate with it may read any \
                 node's view"
            );
        }
        let mut others = Vec::new();
        // In Kubernetes agents have tokens; without TLS nobody should show one.
        let tokens = match (&config.store, &config.tls) {
            (StoreConfig::Kubernetes(kubernetes), Some(_)) => {
                Some(Tokens::connect(kubernetes, AUDIENCE).await?)
            }
            _ => None,
        };
        let tls = match config.tls {
            None => None,
            Some(files) => {
                let (current, reload) = tls::start(files, tokens.is_some(), config.limits.reload)?;
                others.push(reload);
                Some(current)
            }
        };
        let agents = listen(config.listen, "agents", "port")?;
        let health = listen(config.health, "health", "health-port")?;
        let metrics = listen(config.metrics, "metrics", "metrics-port")?;
        let status = listen(config.status, "the status page", "status-port")?;

        let store = config.store.connect().await?;
        let about =
            About { heartbeat_seconds: HEARTBEAT_SECONDS, version: env!("CARGO_PKG_VERSION") };
        let facts = pipeline::facts(store.as_ref(), &Scope::Everyone, about).await?;
        let balance =
            Balance::new(config.min_connections, config.max_connections, config.limits.shed);
        let sessions = Arc::new(Sessions::new(config.limits.first_syncs, balance));
        let record = config.record.map(|path| {
            Recording::begin(&path, store.streams())
                .map_err(|error| StartError::Record { path, error })
        });
        let reading = Reading {
            scope: Scope::Everyone,
            pod_cidrs: config.pod_cidrs,
            recording: record.transpose()?,
        };
        let (writer, outputs) =
            writer::start(store.clone(), facts.clone(), sessions.clone(), reading);
        let (drain, draining) = watch::channel(false);
        let door = Door::new(&config.limits);
        let shared = Arc::new(Shared {
            published: outputs.published.clone(),
            store: outputs.store.clone(),
            sessions,
            traffic: Traffic::default(),
            rounds: Rounds::default(),
            chunks: Chunks::default(),
            max_sessions: config.max_connections,
            limits: config.limits.clone(),
            door: door.clone(),
            tokens,
            agents_name: config.shared_name,
            alternatives: config.alternatives,
            draining: draining.clone(),
        });
        let pages = Pages { facts, outputs, shared: shared.clone(), store, tls: tls.clone() };
        let pages = Arc::new(pages);

        let address = local(&agents, config.listen);
        let status_address = local(&status, config.status);
        let drain_limit = config.limits.drain;
        let (health_service, health_task) =
            health::start(shared.published.clone(), draining.clone());
        let service = Service { shared: shared.clone(), health: health_service };
        let limits = Arc::new(config.limits);
        let listener = Arc::new(Listener { tls, limits, door, service, draining });
        let grpc = tokio::spawn(listener.run(agents));
        let quiet = Duration::from_secs(HEARTBEAT_SECONDS.into());
        others.extend([
            writer,
            health_task,
            tokio::spawn(sweep(shared, quiet)),
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

    /// What /metrics says.
    pub fn metrics(&self) -> String {
        self.pages.metrics()
    }

    /// What the status page says.
    pub fn status(&self) -> Status {
        self.pages.status()
    }

    /// Tells every agent to go, one after the other at a bounded rate, and ends.
    pub async fn stop(mut self) {
        self.drain.send_replace(true);
        let mut sessions = self.pages.shared.sessions.live();
        let seconds = sessions.len() as f64 / DRAIN_PER_SECOND;
        let window = Duration::from_secs_f64(seconds).min(self.drain_limit);
        sessions.shuffle(&mut rand::rng());
        let begin = Instant::now();
        let count = sessions.len() as f64;
        // Each knows at once when to go, and is served until then.
        let turn = |n: usize| window.mul_f64(n as f64 / count);
        for (n, session) in sessions.iter().enumerate() {
            Sessions::announce(session, turn(n));
        }
        for (n, session) in sessions.into_iter().enumerate() {
            tokio::time::sleep_until(begin + turn(n) + window.min(LINGER)).await;
            Sessions::drain(&session);
        }
        // Those that came in while the server began to stop.
        self.pages.shared.sessions.live().iter().for_each(|session| Sessions::drain(session));
        if tokio::time::timeout(FAREWELL, &mut self.grpc).await.is_err() {
            warn!("some agents did not leave in time");
            self.grpc.abort();
        }
        self.others.iter().for_each(JoinHandle::abort);
    }
}

fn listen(
    address: SocketAddr,
    what: &'static str,
    flag: &'static str,
) -> Result<TcpListener, StartError> {
    let listen = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|error| StartError::Listen { what, address, error, flag })
}

fn local(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}
