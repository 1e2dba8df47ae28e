//! The agent: a session with a server, and a thread that brings what it commits into the kernel.
//!
//! ```text
//! typha <--gRPC--> session task --Work::Commit--> kernel thread --> kernel
//!                       ^                              |
//!                       +------------- Held -----------+--> health, metrics
//! ```

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::mpsc,
    time::{Duration, Instant},
};

use client::{Connection, StreamError, Tls};
use proto::v1::{AgentHello, AgentMessage, Failure as WireFailure, Status, agent_message};
use sync::{ClientSession, Event};
use tokio::{net::TcpListener, sync::watch};
use tracing::{info, warn};

use crate::{
    KernelEvent, Reconciler,
    drivers::{LinuxKernel, monitor::Monitor},
    http,
    kernel::{self, Held, Work},
    rollback::Rollback,
};

/// The shortest and the longest pause before the next try to connect.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// Acks go out at most so often.
const ACK_PAUSE: Duration = Duration::from_millis(100);

/// How an agent is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name.
    pub node: String,
    /// Addresses of servers, each `HOST:PORT`; tried in turn.
    pub servers: Vec<String>,
    /// How it proves to servers which node it is; none: in the clear.
    pub tls: Option<Tls>,
    /// Where /liveness and /readiness are.
    pub health: SocketAddr,
    /// Where /metrics is.
    pub metrics: SocketAddr,
}

/// Why an agent doesn't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Without rights the kernel can't be changed.
    #[error("node-agent changes routes and nftables: run it as root")]
    NotRoot,
    /// No netlink socket.
    #[error("the kernel can't be reached over netlink: {0}")]
    Kernel(std::io::Error),
    /// A thread could not be started.
    #[error("the kernel's thread could not be started: {0}")]
    Thread(std::io::Error),
    /// A port is taken, or not ours to take.
    #[error("can't listen on {address}: {error}; choose another with --{flag}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's word.
        error: std::io::Error,
        /// The flag that changes it.
        flag: &'static str,
    },
}

/// How the agent's connection is.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    /// Since when there is no live session, and why.
    pub(crate) lost: Option<(Instant, String)>,
    /// Digests that came out differently, ever.
    pub(crate) resyncs: u64,
}

/// Runs an agent until `stop`.
pub async fn run(config: Config, stop: impl Future<Output = ()>) -> Result<(), StartError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(StartError::NotRoot);
    }
    let health = listen(config.health, "health-port").await?;
    let metrics = listen(config.metrics, "metrics-port").await?;

    let (work, queue) = mpsc::channel();
    let (held, held_reader) = watch::channel(Held::nothing());
    let node = config.node.clone();
    let ipv6 = std::path::Path::new("/proc/sys/net/ipv6").exists();
    let (opened, result) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("kernel".into())
        .spawn(move || match LinuxKernel::open() {
            Ok(kernel) => {
                let _ = opened.send(Ok(()));
                kernel::run(Reconciler::new(node, ipv6, kernel), &queue, &held);
            }
            Err(error) => drop(opened.send(Err(error))),
        })
        .map_err(StartError::Thread)?;
    let no_word = || Err(std::io::Error::other("its thread ended"));
    result.await.unwrap_or_else(|_| no_word()).map_err(StartError::Kernel)?;

    let lost = Some((Instant::now(), "not connected yet".to_owned()));
    let (link, link_reader) = watch::channel(Link { lost, resyncs: 0 });
    let pages = http::Pages { link: link_reader, held: held_reader.clone() };
    let listeners = [
        runtime::http::serve(health, http::health(pages.clone())),
        runtime::http::serve(metrics, http::metrics(pages)),
    ];
    info!(node = config.node, servers = ?config.servers, "the agent runs");
    let mut agent = Agent {
        config,
        session: ClientSession::new(),
        sessions: 0,
        rollback: Rollback::default(),
        reachable: BTreeSet::new(),
        work,
        held: held_reader,
        link,
    };
    let notifications = tokio::spawn(notify(agent.work.clone()));
    tokio::select! {
        () = agent.stay_connected() => {}
        () = stop => {}
    }
    notifications.abort();
    listeners.iter().for_each(tokio::task::JoinHandle::abort);
    Ok(())
}

/// Hands on what others do to the kernel. Where it can't be listened to, the full checks remain.
async fn notify(work: mpsc::Sender<Work>) {
    loop {
        match Monitor::open() {
            Ok(mut monitor) => {
                // What happened before is not known.
                let missed = [KernelEvent::LinksLost, KernelEvent::NftablesLost];
                if missed.into_iter().any(|event| work.send(Work::Event(event)).is_err()) {
                    return;
                }
                while let Ok(event) = monitor.next().await {
                    if work.send(Work::Event(event)).is_err() {
                        return;
                    }
                }
                warn!("the kernel's notifications broke off; they are opened anew");
            }
            Err(error) => warn!(%error, "the kernel's notifications can't be had"),
        }
        tokio::time::sleep(RETRY.1).await;
    }
}

async fn listen(address: SocketAddr, flag: &'static str) -> Result<TcpListener, StartError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| StartError::Listen { address, error, flag })
}

struct Agent {
    config: Config,
    session: ClientSession,
    /// Sessions so far: the number of the live one.
    sessions: u64,
    rollback: Rollback,
    /// Servers that answered when they were last tried.
    reachable: BTreeSet<String>,
    work: mpsc::Sender<Work>,
    held: watch::Receiver<Held>,
    link: watch::Sender<Link>,
}

impl Agent {
    /// Connects, and again whenever the stream ends. The kernel stays as it is meanwhile.
    async fn stay_connected(&mut self) {
        let mut pause = RETRY.0;
        for turn in 0.. {
            let server = self.config.servers[turn % self.config.servers.len()].clone();
            let before = self.session.publication();
            let Err(error) = self.session(&server).await;
            if self.session.publication() != before {
                pause = RETRY.0;
            }
            warn!(%error, "no session; the kernel stays as it is");
            self.session.disconnected();
            let resyncs = self.session.resyncs();
            self.link.send_modify(|link| {
                let since = link.lost.take().map_or_else(Instant::now, |(since, _)| since);
                *link = Link { lost: Some((since, error.to_string())), resyncs };
            });
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }

    async fn session(&mut self, server: &str) -> Result<std::convert::Infallible, StreamError> {
        let base = AgentHello {
            node: self.config.node.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..AgentHello::default()
        };
        let accept_rollback = self.rollback.accepted(&self.reachable, Instant::now());
        if accept_rollback {
            warn!("every server has been behind what this agent has seen: it takes an older state");
        }
        let hello = self.session.hello(base, accept_rollback);
        self.reachable.remove(server);
        let tls = self.config.tls.as_ref();
        let mut connection = Connection::open_with(server, tls, hello).await?;
        self.reachable.insert(server.to_owned());
        self.sessions += 1;
        let mut held = self.held.clone();
        let mut acked = 0;
        let mut next_ack = tokio::time::Instant::now();
        loop {
            let due = {
                let held = held.borrow_and_update();
                let newest = held.publication == self.session.publication();
                held.session == self.sessions && newest && held.applied != acked
            };
            tokio::select! {
                event = connection.next(&mut self.session) => self.received(server, &connection, event?).await?,
                _ = held.changed(), if !due => {}
                () = tokio::time::sleep_until(next_ack), if due => {
                    let held = held.borrow().clone();
                    acked = held.applied;
                    next_ack = tokio::time::Instant::now() + ACK_PAUSE;
                    self.acknowledge(&connection, held).await;
                }
            }
        }
    }

    async fn received(
        &mut self,
        server: &str,
        connection: &Connection,
        event: Event,
    ) -> Result<(), StreamError> {
        match event {
            Event::Hello(hello) => {
                info!(server, incarnation = hello.incarnation, "session opened");
            }
            Event::Committed(committed) => {
                if committed.first {
                    self.rollback.served();
                    let resyncs = self.session.resyncs();
                    self.link.send_replace(Link { lost: None, resyncs });
                }
                // The thread lives as long as the agent.
                let _ = self.work.send(Work::Commit(self.sessions, committed));
            }
            Event::Send(message) => connection.send(message).await,
            Event::Behind(behind) => {
                info!(
                    server,
                    ?behind,
                    "this server has not caught up with what the agent has seen"
                );
                self.rollback.behind(server, Instant::now());
            }
            Event::GoAway(go_away) => {
                return Err(StreamError::Ended {
                    address: server.to_owned(),
                    reason: go_away.message,
                });
            }
            Event::Nothing | Event::Heartbeat(_) => {}
        }
        Ok(())
    }

    async fn acknowledge(&self, connection: &Connection, held: Held) {
        let failed = held.failed.into_iter().map(|failure| WireFailure {
            topic: failure.topic.to_string(),
            key: failure.key.to_string(),
            reason: failure.reason,
        });
        let status = Status {
            endpoints: held.endpoints,
            dataplane: "nftables".into(),
            version: env!("CARGO_PKG_VERSION").into(),
        };
        let status = AgentMessage { message: Some(agent_message::Message::Status(status)) };
        connection.send(status).await;
        connection.send(self.session.ack(failed.collect())).await;
    }
}
