//! The one owner of desired state: takes commits and kernel events, and drives both reconcilers.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use arcstr::ArcStr;
use model::view::Topic;

use crate::{
    drivers::{Kernel, Mac, PROTOCOL, RouteKey, RouteValue},
    family::Family,
    network::{self, NetworkReconciler},
    policy::PolicyReconciler,
    settings::Config,
    view::NodeView,
};

/// The pause before what rtnetlink refused is tried again; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);
/// The longest pause.
const RETRY_MAX: Duration = Duration::from_mins(1);
/// The least time between two rewrites because another program changed our table.
const REWRITE_PAUSE: Duration = Duration::from_secs(10);

/// An entry of the view that the kernel doesn't hold.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Failure {
    /// Its topic.
    pub topic: Topic,
    /// Its key; empty: the topic as a whole.
    pub key: ArcStr,
    /// Why, and what to do about it.
    pub reason: String,
}

/// Where the view of a commit comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The file that an earlier run saved: things are added and repaired, nothing is removed. A
    /// policy table that is there is left alone, since it may be newer than the file.
    Saved,
    /// A server's commit: it is complete, and what is ours and not in it goes.
    Server,
}

/// What a commit came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// What is not in the kernel; all else of the view is. Sorted, each entry once.
    pub failed: Vec<Failure>,
    /// Keys of own endpoints whose policy is in place and whose interface is not there or not up.
    pub waiting: BTreeSet<ArcStr>,
    /// When to commit again without cause: a retry or a full check.
    pub next: Option<Instant>,
}

/// What the kernel said that others did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelEvent {
    /// A device came or changed (`up` says whether it is up), or went (`up` is false).
    Link {
        /// The device.
        index: u32,
        /// Whether it is there and set up.
        up: bool,
    },
    /// A device got an address, or lost one (`there` is false).
    Address {
        /// The device.
        index: u32,
        /// Whether it has the address now.
        there: bool,
    },
    /// A route of the main table came, or went (none).
    Route(RouteKey, Option<RouteValue>),
    /// A permanent neighbour entry came, or went (none).
    Neighbour(u32, IpAddr, Option<Mac>),
    /// A VXLAN peer came, or went (none).
    Fdb(u32, Mac, Option<IpAddr>),
    /// A table `calico` was changed by the netlink socket with this port.
    Nftables(u32),
    /// Notifications of links, addresses, routes or neighbours were lost: all are read anew.
    LinksLost,
    /// Notifications of nftables were lost: the tables are checked.
    NftablesLost,
}

/// Keeps the kernel as the view asks.
pub struct Reconciler<K> {
    node: ArcStr,
    kernel: K,
    view: NodeView,
    config: Config,
    config_failures: Vec<Failure>,
    policy: PolicyReconciler,
    network: NetworkReconciler,
    /// Whether a server's commit has come in: from then on stale state is removed.
    live: bool,
    pause: Duration,
    retry_at: Option<Instant>,
    checked_routes: Option<Instant>,
    checked_policy: Option<Instant>,
    /// Whether another program changed our table since we wrote it.
    tampered: bool,
    rewritten: Option<Instant>,
}

impl<K: Kernel> Reconciler<K> {
    /// For the node of this name. `ipv6`: whether the kernel has IPv6; without, only IPv4 is kept.
    pub fn new(node: impl Into<ArcStr>, ipv6: bool, kernel: K) -> Self {
        let node = node.into();
        let families = if ipv6 { Family::ALL.to_vec() } else { vec![Family::V4] };
        Self {
            policy: PolicyReconciler::new(node.clone(), families.clone()),
            network: NetworkReconciler::new(node.clone(), families),
            node,
            kernel,
            view: NodeView::default(),
            config: Config::default(),
            config_failures: Vec::new(),
            live: false,
            pause: RETRY_MIN,
            retry_at: None,
            checked_routes: None,
            checked_policy: None,
            tampered: false,
            rewritten: None,
        }
    }

    /// The node's name.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The desired view, to be changed between commits. Changes take effect at the next commit.
    pub fn view(&mut self) -> &mut NodeView {
        &mut self.view
    }

    /// The kernel that it acts on.
    pub fn kernel(&mut self) -> &mut K {
        &mut self.kernel
    }

    /// Brings the kernel to the view, and says what of it is not there.
    pub fn commit(&mut self, source: Source, now: Instant) -> Outcome {
        self.live |= source == Source::Server;
        let changes = std::mem::take(&mut self.view.changes);
        if changes.config {
            (self.config, self.config_failures) = Config::read(&self.view);
        }
        self.policy.update(&self.view, &self.config, &changes);
        self.network.update(&self.view, &self.config, &changes);
        self.check(now);
        self.policy.commit(&self.view, self.kernel.nft(), !self.live, now);
        self.commit_network(now);
        self.outcome()
    }

    fn commit_network(&mut self, now: Instant) {
        let mode = network::Mode { sweep: self.live, connect: self.policy.in_force() };
        let (rtnl, sysctl) = self.kernel.network();
        self.network.commit(&self.view, rtnl, sysctl, mode);
        if self.network.wants_retry() {
            self.retry_at = Some(now + self.pause);
            self.pause = (self.pause * 2).min(RETRY_MAX);
        } else {
            self.retry_at = None;
            self.pause = RETRY_MIN;
        }
    }

    /// Runs the full checks that are due.
    fn check(&mut self, now: Instant) {
        let due = |last: Option<Instant>, interval: Option<Duration>| match (last, interval) {
            (Some(last), Some(interval)) => last + interval <= now,
            (None, _) => true,
            (_, None) => false,
        };
        if due(self.checked_routes, self.config.route_refresh) {
            self.network.look_again();
            self.checked_routes = Some(now);
        }
        if due(self.checked_policy, self.config.nftables_refresh) {
            self.policy.check(self.kernel.nft());
            self.checked_policy = Some(now);
        }
        if self.tampered && due(self.rewritten, Some(REWRITE_PAUSE)) {
            tracing::warn!("another program changed our nftables table; it is written anew");
            self.policy.forget();
            self.tampered = false;
            self.rewritten = Some(now);
        }
    }

    fn outcome(&self) -> Outcome {
        let bad = self.view.bad.iter().map(|((topic, key), reason)| Failure {
            topic: topic.clone(),
            key: key.clone(),
            reason: reason.clone(),
        });
        let mut failed: Vec<Failure> = bad
            .chain(self.config_failures.iter().cloned())
            .chain(self.policy.failures())
            .chain(self.network.failures())
            .collect();
        failed.sort_unstable();
        failed.dedup();
        failed.dedup_by(|more, first| {
            let same = more.topic == first.topic && more.key == first.key;
            if same {
                first.reason = format!("{}; {}", first.reason, more.reason);
            }
            same
        });
        let after = |last: Option<Instant>, interval: Option<Duration>| Some(last? + interval?);
        let next = [
            self.retry_at,
            self.policy.retry_at(),
            after(self.checked_routes, self.config.route_refresh),
            after(self.checked_policy, self.config.nftables_refresh),
            after(self.rewritten, Some(REWRITE_PAUSE)).filter(|_| self.tampered),
        ];
        Outcome {
            failed,
            waiting: self.network.waiting().clone(),
            next: next.into_iter().flatten().min(),
        }
    }

    /// Takes in what others changed; whether a commit is called for.
    pub fn kernel_event(&mut self, event: &KernelEvent) -> bool {
        match event {
            KernelEvent::Link { index, up } => self.network.on_link(*index, *up),
            KernelEvent::Address { index, there } => self.network.on_address(*index, *there),
            KernelEvent::Route(key, route) => {
                return route.is_none_or(|route| route.protocol == PROTOCOL)
                    && self.network.on_route(*key, *route);
            }
            KernelEvent::Neighbour(index, address, mac) => {
                return self.network.on_neighbour(*index, *address, *mac);
            }
            KernelEvent::Fdb(index, mac, address) => {
                return self.network.on_fdb(*index, *mac, *address);
            }
            KernelEvent::Nftables(port) => {
                self.tampered |= !self.kernel.nft().is_own(*port);
                return self.tampered;
            }
            KernelEvent::LinksLost => self.network.look_again(),
            KernelEvent::NftablesLost => self.checked_policy = None,
        }
        true
    }
}
