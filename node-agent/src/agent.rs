//! The agent: a view from a server or the store, and a thread that brings what becomes visible into the
//! kernel.
//!
//! ```text
//! typha <--gRPC--> Upstream --News--> Agent --Work--> kernel thread --> kernel
//! or the store                        | ^                |
//!                       saved view <--+ +------ Held ----+--> health, metrics
//! ```

use std::{
    net::SocketAddr,
    path::PathBuf,
    pin::pin,
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use client::{Link, Options, Tls};
use datastore::StoreConfig;
use proto::v1::{AgentHello, Failure as WireFailure, Status};
use sync::{Committed, EntryChange};
use tokio::{net::TcpListener, sync::watch};
use tracing::{info, warn};

use crate::{
    KernelEvent, Reconciler,
    direct::Direct,
    drivers::{LinuxKernel, monitor::Monitor},
    find::Pods,
    http,
    kernel::{self, Held, Work},
    saved::{self, Saver},
    upstream::{News, Upstream},
};

/// Acks go out at most so often.
const ACK_PAUSE: Duration = Duration::from_millis(100);
/// The pause before the kernel's notifications are asked for again.
const NOTIFY_PAUSE: Duration = Duration::from_secs(10);
/// Without a server for so long, an agent that starts runs from what it saved.
const SERVER_PATIENCE: Duration = Duration::from_secs(10);

/// How an agent is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name.
    pub node: String,
    /// Where its view comes from.
    pub origin: Origin,
    /// The folder of what must survive a restart.
    pub state: PathBuf,
    /// Where /liveness and /readiness are.
    pub health: SocketAddr,
    /// Where /metrics is.
    pub metrics: SocketAddr,
}

/// Where an agent's view comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// Servers.
    Typha {
        /// Where they are.
        servers: Servers,
        /// How the agent proves which node it is; none: in the clear.
        tls: Option<Tls>,
    },
    /// The store itself, as in clusters too small for a typha.
    Store {
        /// Where it is.
        store: StoreConfig,
        /// `podCIDRs` of nodes stand for their blocks (`USE_POD_CIDR`).
        pod_cidrs: bool,
    },
}

/// Where typha's servers are.
#[derive(Clone, Debug)]
pub enum Servers {
    /// At these addresses, each `HOST` or `HOST:PORT`; tried in turn.
    At(Vec<String>),
    /// Where a Service has pods.
    Of(Arc<Pods>),
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
pub(crate) struct LinkState {
    /// Since when no server serves, and why.
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
    let (link_state, link_reader) = watch::channel(LinkState { lost, resyncs: 0 });
    let pages = http::Pages { link: link_reader, held: held_reader.clone() };
    let listeners = [
        runtime::http::serve(health, http::health(pages.clone())),
        runtime::http::serve(metrics, http::metrics(pages)),
    ];
    match &config.origin {
        Origin::Typha { servers, .. } => info!(node = config.node, ?servers, "the agent runs"),
        Origin::Store { .. } => info!(node = config.node, "the agent runs without typha"),
    }
    let notifications = tokio::spawn(notify(work.clone()));
    Agent::new(config, work, held_reader, link_state).run(stop).await;
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
        tokio::time::sleep(NOTIFY_PAUSE).await;
    }
}

async fn listen(address: SocketAddr, flag: &'static str) -> Result<TcpListener, StartError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|error| StartError::Listen { address, error, flag })
}

struct Agent {
    node: String,
    upstream: Upstream,
    saver: Saver,
    /// When to run from what an earlier run saved; none: a server serves, or nothing usable was saved.
    run_from_saved: Option<tokio::time::Instant>,
    /// The store that the saved view is of.
    saved_epoch: String,
    work: mpsc::Sender<Work>,
    held: watch::Receiver<Held>,
    link_state: watch::Sender<LinkState>,
    /// [`Held::applied`] at the last ack, and when the next may go.
    acked: u64,
    next_ack: tokio::time::Instant,
}

impl Agent {
    fn new(
        config: Config,
        work: mpsc::Sender<Work>,
        held: watch::Receiver<Held>,
        link_state: watch::Sender<LinkState>,
    ) -> Self {
        let saved = saved::load(&config.state, &config.node).unwrap_or_else(|error| {
            warn!("{error}");
            None
        });
        let now = tokio::time::Instant::now();
        let run_from_saved = saved.as_ref().map(|saved| {
            let whole = saved.entries().map(|(topic, key, value)| EntryChange {
                topic: topic.clone(),
                key: key.clone(),
                value: Some(value.clone()),
            });
            // The thread lives as long as the agent.
            let _ = work.send(Work::Restore(whole.collect()));
            info!(entries = saved.entry_count(), "an earlier run saved its view");
            now + SERVER_PATIENCE
        });
        let session = saved.unwrap_or_default();
        let hello = AgentHello {
            node: config.node.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..AgentHello::default()
        };
        let saved_epoch = session.epoch().to_owned();
        let upstream = match config.origin {
            Origin::Typha { servers, tls } => {
                let options = |servers| Options { servers, tls, hello };
                let link = match servers {
                    Servers::At(servers) => Link::new(options(servers), session),
                    Servers::Of(pods) => Link::new(options(Vec::new()), session).finding(pods),
                };
                Upstream::Typha(Box::new(link))
            }
            Origin::Store { store, pod_cidrs } => {
                Upstream::Store(Box::new(Direct::new(store, pod_cidrs, hello, session)))
            }
        };
        Self {
            node: config.node,
            run_from_saved,
            saved_epoch,
            upstream,
            saver: Saver::new(config.state),
            work,
            held,
            link_state,
            acked: 0,
            next_ack: now,
        }
    }

    /// Stays connected, and again whenever a session ends; the kernel stays as it is meanwhile.
    async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = pin!(stop);
        let mut held = self.held.clone();
        loop {
            let due = self.ack_is_due(&held.borrow_and_update());
            tokio::select! {
                news = self.upstream.next() => self.happened(news),
                _ = held.changed(), if !due => {}
                () = tokio::time::sleep_until(self.next_ack), if due => self.acknowledge(),
                () = self.saver.due() => self.saver.write(self.upstream.session().save(&self.node)),
                () = until(self.run_from_saved) => {
                    self.run_from_saved = None;
                    warn!("nothing serves: the agent runs from its saved view, and removes nothing");
                    let _ = self.work.send(Work::RunFromSaved);
                }
                () = &mut stop => break,
            }
        }
        let view = self.upstream.session().save(&self.node);
        self.saver.finish(view).await;
    }

    fn happened(&mut self, news: News) {
        match news {
            News::Opened { server, hello } => {
                info!(server, incarnation = hello.incarnation, "session opened");
                if self.run_from_saved.is_some() && hello.epoch != self.saved_epoch {
                    warn!(
                        saved = self.saved_epoch,
                        now = hello.epoch,
                        "the saved view is of another store: it is ignored"
                    );
                    self.run_from_saved = None;
                }
            }
            News::Behind(who) => info!(who, "not caught up with what the agent holds"),
            News::Committed(committed) => self.committed(committed),
            News::Regained => {
                info!("the store can be read again");
                self.link_state.send_modify(|link| link.lost = None);
            }
            News::Lost(error) => {
                warn!(error, "nothing new comes; the kernel stays as it is");
                let resyncs = self.upstream.session().resyncs();
                self.link_state.send_modify(|link| {
                    let since = link.lost.take().map_or_else(Instant::now, |(since, _)| since);
                    *link = LinkState { lost: Some((since, error)), resyncs };
                });
            }
        }
    }

    fn committed(&mut self, committed: Box<Committed>) {
        if committed.first {
            self.run_from_saved = None;
            let resyncs = self.upstream.session().resyncs();
            self.link_state.send_replace(LinkState { lost: None, resyncs });
        }
        self.saver.changed();
        // The thread lives as long as the agent.
        let _ = self.work.send(Work::Commit(self.upstream.opened(), committed));
    }

    /// The kernel holds the newest publication of this session, and the server hasn't been told.
    fn ack_is_due(&self, held: &Held) -> bool {
        let newest = held.publication == self.upstream.session().publication();
        held.session == self.upstream.opened() && newest && held.applied != self.acked
    }

    fn acknowledge(&mut self) {
        let held = self.held.borrow().clone();
        self.acked = held.applied;
        self.next_ack = tokio::time::Instant::now() + ACK_PAUSE;
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
        self.upstream.acknowledge(held.publication, failed.collect(), status);
    }
}

/// Ends at that time; never, where there is none.
async fn until(time: Option<tokio::time::Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
