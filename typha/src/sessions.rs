//! The table of live sessions: who is connected, what they were sent, what they acknowledged.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::SystemTime,
};

use proto::v1::{AgentHello, EndpointStatus, Failure, View};
use tokio::sync::Notify;

/// A number that no other session of this server has.
pub(crate) type SessionId = u64;

/// One session, as the status page shows it.
#[derive(Clone, Debug)]
pub(crate) struct SessionInfo {
    pub(crate) node: String,
    pub(crate) full: bool,
    pub(crate) observer: bool,
    pub(crate) version: String,
    pub(crate) address: SocketAddr,
    pub(crate) since: SystemTime,
    /// The publication that it has been brought to.
    pub(crate) sent: u64,
    /// The publication of its last Commit.
    pub(crate) committed: u64,
    /// The publication that it acknowledged last.
    pub(crate) acked: u64,
    pub(crate) failed: Vec<Failure>,
    pub(crate) endpoints: Vec<EndpointStatus>,
    pub(crate) dataplane: String,
}

impl SessionInfo {
    /// Whether its kernel holds all that it was sent.
    pub(crate) fn is_current(&self) -> bool {
        self.acked >= self.committed
    }

    /// The publication up to which its kernel holds its view: publications that changed nothing for
    /// it need no acknowledgement.
    pub(crate) fn holds(&self) -> u64 {
        if self.is_current() { self.sent } else { self.acked }
    }
}

struct Session {
    info: SessionInfo,
    replaced: Arc<Notify>,
}

/// Counters and the table. The lock is held for the length of one look-up, never across an await.
#[derive(Default)]
pub(crate) struct Sessions {
    table: Mutex<BTreeMap<SessionId, Session>>,
    next: AtomicU64,
    accepted: AtomicU64,
    dropped: AtomicU64,
}

impl Sessions {
    fn table(&self) -> std::sync::MutexGuard<'_, BTreeMap<SessionId, Session>> {
        // A panic under the lock can't leave the map broken: each use is one map operation.
        self.table.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Enters a session. A node has one: an older one of the same node is told that it is replaced,
    /// unless one of the two only looks on.
    pub(crate) fn open(&self, hello: &AgentHello, address: SocketAddr) -> (SessionId, Arc<Notify>) {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        self.accepted.fetch_add(1, Ordering::Relaxed);
        let full = hello.view == i32::from(View::Full);
        let info = SessionInfo {
            node: hello.node.clone(),
            full,
            observer: hello.observer || full,
            version: hello.version.clone(),
            address,
            since: SystemTime::now(),
            sent: 0,
            committed: 0,
            acked: 0,
            failed: Vec::new(),
            endpoints: Vec::new(),
            dataplane: String::new(),
        };
        let replaced = Arc::new(Notify::new());
        let mut table = self.table();
        if !info.observer {
            let same = table.values().filter(|s| !s.info.observer && s.info.node == info.node);
            same.for_each(|old| old.replaced.notify_one());
        }
        table.insert(id, Session { info, replaced: replaced.clone() });
        (id, replaced)
    }

    /// Changes what is known of a session.
    pub(crate) fn update(&self, id: SessionId, change: impl FnOnce(&mut SessionInfo)) {
        if let Some(session) = self.table().get_mut(&id) {
            change(&mut session.info);
        }
    }

    /// A session is over; `cut`: not by its own wish.
    pub(crate) fn close(&self, id: SessionId, cut: bool) {
        if self.table().remove(&id).is_some() && cut {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Every session.
    pub(crate) fn all(&self) -> Vec<SessionInfo> {
        self.table().values().map(|session| session.info.clone()).collect()
    }

    /// How many are live.
    pub(crate) fn active(&self) -> usize {
        self.table().len()
    }

    /// How many there ever were.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// How many the server ended.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}
