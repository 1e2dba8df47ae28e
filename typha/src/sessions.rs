//! The table of live sessions: who is connected, what they were sent, whom a publication wakes.
//!
//! A session is served by the task of its connection. What reaches it from elsewhere is a mark on it
//! and a wake-up; what others want to know of it, it writes into figures that are read at any time.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arcstr::ArcStr;
use futures::task::AtomicWaker;
use proto::v1::{AgentHello, EndpointStatus, Failure, View};
use sync::{Affected, Subscription};

use crate::{admission::Admission, balance::Balance, door::Arrival, rollout::Acks};

/// A number that no other session of this server has.
pub(crate) type SessionId = u64;

/// What a session is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mark {
    /// There may be something new, whatever publications say.
    Look = 1,
    /// A heartbeat is due.
    Heartbeat = 2,
    /// A newer agent of its node has connected.
    Replaced = 4,
    /// The server stops.
    Drain = 8,
    /// It has waited long enough for the server to catch up.
    Behind = 16,
    /// It hasn't taken what it was sent.
    Stalled = 32,
    /// The server stops, and says when the agent is to go.
    Leave = 64,
    /// The server has more agents than its share.
    Shed = 128,
}

/// Some marks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Marks(u8);

impl Marks {
    pub(crate) fn has(self, mark: Mark) -> bool {
        self.0 & mark as u8 != 0
    }
}

/// What an agent reports.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reported {
    pub(crate) failed: Vec<Failure>,
    pub(crate) endpoints: Vec<EndpointStatus>,
    pub(crate) dataplane: String,
    pub(crate) acks: Acks,
}

/// One session, as the status page shows it.
#[derive(Clone, Debug)]
pub(crate) struct SessionInfo {
    pub(crate) node: ArcStr,
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
    pub(crate) reported: Reported,
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

/// A live session. Times are milliseconds on the table's clock; 0 is never.
pub(crate) struct Session {
    pub(crate) id: SessionId,
    pub(crate) node: ArcStr,
    observer: bool,
    version: String,
    address: SocketAddr,
    since: SystemTime,
    subscription: Subscription,
    arrival: Arrival,

    waker: AtomicWaker,
    marks: AtomicU8,
    /// The first publication that has something for it and that it hasn't looked at; 0: none.
    due: AtomicU64,
    /// What it has been told to send is under way since then; 0: nothing is.
    sending: AtomicU64,
    last_sent: AtomicU64,
    behind_since: AtomicU64,
    /// When it is to go, milliseconds after it is told to.
    leave_after: AtomicU64,
    sent: AtomicU64,
    committed: AtomicU64,
    acked: AtomicU64,
    reported: Mutex<Reported>,
}

impl Session {
    /// Tells it something.
    fn mark(&self, mark: Mark) {
        self.marks.fetch_or(mark as u8, Ordering::AcqRel);
        self.waker.wake();
    }

    /// A publication has something for it. Whether it had looked at all before.
    fn publish(&self, publication: u64) -> bool {
        // An older one that it hasn't looked at yet stays the first.
        let due = self.due.compare_exchange(0, publication, Ordering::AcqRel, Ordering::Acquire);
        self.waker.wake();
        due.is_ok()
    }

    /// Who is woken from now on.
    pub(crate) fn listen(&self, waker: &std::task::Waker) {
        self.waker.register(waker);
    }

    /// What it was told since this was asked last.
    pub(crate) fn take_marks(&self) -> Marks {
        match self.marks.load(Ordering::Acquire) {
            0 => Marks(0),
            _ => Marks(self.marks.swap(0, Ordering::AcqRel)),
        }
    }

    /// The first publication with something for it since this was asked last.
    fn take_due(&self) -> Option<u64> {
        match self.due.load(Ordering::Acquire) {
            0 => None,
            _ => Some(self.due.swap(0, Ordering::AcqRel)),
        }
    }

    /// When it is to go, from now on.
    pub(crate) fn leave_after(&self) -> Duration {
        Duration::from_millis(self.leave_after.load(Ordering::Acquire))
    }

    /// It was brought to a publication; its last Commit was of `committed`. Whether that is another than before.
    pub(crate) fn brought_to(&self, sent: u64, committed: u64) -> bool {
        self.sent.store(sent, Ordering::Release);
        self.committed.swap(committed, Ordering::AcqRel) != committed
    }

    /// Whether this is its last Commit, and was not acknowledged.
    pub(crate) fn waits_for(&self, publication: u64) -> bool {
        publication == self.committed.load(Ordering::Acquire)
            && publication > self.acked.load(Ordering::Acquire)
    }

    pub(crate) fn acked(&self, publication: u64, failed: Vec<Failure>) {
        self.acked.store(publication, Ordering::Release);
        self.report(|reported| {
            reported.failed = failed;
            reported.acks.add(publication, SystemTime::now());
        });
    }

    pub(crate) fn report(&self, change: impl FnOnce(&mut Reported)) {
        change(&mut self.reported.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn info(&self, settled: u64) -> SessionInfo {
        let idle = self.due.load(Ordering::Acquire) == 0
            && self.sending.load(Ordering::Acquire) == 0
            && self.committed.load(Ordering::Acquire) > 0;
        let sent = self.sent.load(Ordering::Acquire);
        SessionInfo {
            node: self.node.clone(),
            full: matches!(self.subscription, Subscription::Full(_)),
            observer: self.observer,
            version: self.version.clone(),
            address: self.address,
            since: self.since,
            // Publications that had nothing for it didn't wake it.
            sent: if idle { sent.max(settled) } else { sent },
            committed: self.committed.load(Ordering::Acquire),
            acked: self.acked.load(Ordering::Acquire),
            reported: self.reported.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

/// How long a session may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// To the next heartbeat, of quiet.
    pub(crate) quiet: Duration,
    /// To take something of what it was sent.
    pub(crate) stall: Duration,
    /// The same before its first Commit.
    pub(crate) first_stall: Duration,
    /// To wait for a server that has not caught up.
    pub(crate) behind: Duration,
    /// To hold a place in the first sync while others wait for one.
    pub(crate) place: Duration,
}

#[derive(Default)]
struct Table {
    all: BTreeMap<SessionId, Arc<Session>>,
    /// Those with a node's view, by node.
    nodes: HashMap<ArcStr, Vec<Arc<Session>>>,
    /// Those with a full view.
    full: Vec<Arc<Session>>,
}

/// Counters and the table. The lock is held for the length of one walk, never across an await.
pub(crate) struct Sessions {
    table: Mutex<Table>,
    /// The places in the first sync. Never locked together with the table.
    admission: Mutex<Admission>,
    balance: Mutex<Balance>,
    start: Instant,
    next: AtomicU64,
    accepted: AtomicU64,
    dropped: AtomicU64,
    stalled: AtomicU64,
    /// How many were sent on because the server had more than its share.
    shed: AtomicU64,
    /// How many wait for this server to catch up.
    waiting: AtomicUsize,
    /// Everybody who a publication up to this one has something for was told.
    settled: AtomicU64,
    /// How many were told of the newest publication, and how many of them haven't looked yet.
    told: AtomicUsize,
    to_look: AtomicUsize,
}

impl Sessions {
    /// Without sessions yet.
    pub(crate) fn new(first_syncs: usize, balance: Balance) -> Self {
        Self {
            table: Mutex::default(),
            admission: Mutex::new(Admission::new(first_syncs)),
            balance: Mutex::new(balance),
            start: Instant::now(),
            next: AtomicU64::default(),
            accepted: AtomicU64::default(),
            dropped: AtomicU64::default(),
            stalled: AtomicU64::default(),
            shed: AtomicU64::default(),
            waiting: AtomicUsize::default(),
            settled: AtomicU64::default(),
            told: AtomicUsize::default(),
            to_look: AtomicUsize::default(),
        }
    }

    fn admission(&self) -> MutexGuard<'_, Admission> {
        self.admission.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn balances(&self) -> MutexGuard<'_, Balance> {
        self.balance.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // A panic under the lock can't leave the maps broken: each use is one operation of each.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64 + 1
    }

    /// Whether one more is within `most`. Who takes the place of an older session of its node needs none: the old
    /// one may be half open, and hold the place for as long as that isn't noticed.
    pub(crate) fn have_room(&self, hello: &AgentHello, most: usize) -> bool {
        let table = self.table();
        let acts = !hello.observer && hello.view != i32::from(View::Full);
        let replaces = || {
            let same = table.nodes.get(hello.node.as_str());
            same.is_some_and(|same| same.iter().any(|old| !old.observer))
        };
        table.all.len() < most || (acts && replaces())
    }

    /// Enters a session. A node has one: an older one of the same node is told that it is replaced,
    /// unless one of the two only looks on.
    pub(crate) fn open(
        &self,
        hello: &AgentHello,
        subscription: Subscription,
        address: SocketAddr,
        arrival: Arrival,
    ) -> Arc<Session> {
        let full = hello.view == i32::from(View::Full);
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.balances().came(&hello.node, Instant::now());
        let session = Arc::new(Session {
            id: self.next.fetch_add(1, Ordering::Relaxed) + 1,
            node: hello.node.as_str().into(),
            observer: hello.observer || full,
            version: hello.version.clone(),
            address,
            since: SystemTime::now(),
            subscription,
            arrival,
            waker: AtomicWaker::new(),
            marks: AtomicU8::new(Mark::Look as u8),
            due: AtomicU64::new(0),
            sending: AtomicU64::new(0),
            last_sent: AtomicU64::new(self.now()),
            behind_since: AtomicU64::new(0),
            leave_after: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            committed: AtomicU64::new(0),
            acked: AtomicU64::new(0),
            reported: Mutex::default(),
        });
        let mut table = self.table();
        match &session.subscription {
            Subscription::Full(_) => table.full.push(session.clone()),
            Subscription::Node(node) => {
                let same = table.nodes.entry(node.clone()).or_default();
                if !session.observer {
                    same.iter()
                        .filter(|old| !old.observer)
                        .for_each(|old| old.mark(Mark::Replaced));
                }
                same.push(session.clone());
            }
        }
        table.all.insert(session.id, session.clone());
        session
    }

    /// A session is over; `cut`: not by its own wish.
    pub(crate) fn close(&self, session: &Arc<Session>, cut: bool) {
        let mut table = self.table();
        if table.all.remove(&session.id).is_none() {
            return;
        }
        match &session.subscription {
            Subscription::Full(_) => table.full.retain(|other| other.id != session.id),
            Subscription::Node(node) => {
                if let Some(same) = table.nodes.get_mut(node) {
                    same.retain(|other| other.id != session.id);
                    if same.is_empty() {
                        table.nodes.remove(node);
                    }
                }
            }
        }
        drop(table);
        self.synced(session);
        if cut {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        if session.behind_since.swap(0, Ordering::AcqRel) != 0 {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Wakes those that a publication, which they can see already, has something for.
    pub(crate) fn publish(&self, publication: u64, affected: &Affected) {
        let table = self.table();
        self.told.store(0, Ordering::Release);
        self.to_look.store(0, Ordering::Release);
        let tell = |session: &Arc<Session>| {
            // Before it is told: it may look at once. One that hasn't looked for longer, because its
            // agent takes nothing, doesn't count.
            self.to_look.fetch_add(1, Ordering::AcqRel);
            if session.publish(publication) {
                self.told.fetch_add(1, Ordering::AcqRel);
            } else {
                self.looked();
            }
        };
        if affected.every_node {
            table.nodes.values().flatten().for_each(tell);
        } else {
            let nodes = affected.nodes.iter().filter_map(|node| table.nodes.get(node));
            nodes.flatten().for_each(tell);
        }
        let full = table.full.iter().filter(|session| session.subscription.is_affected(affected));
        full.for_each(tell);
        self.settled.store(publication, Ordering::Release);
    }

    fn looked(&self) {
        // One that was told of an earlier publication may have been counted off already.
        let less = |count: usize| count.checked_sub(1);
        let _ = self.to_look.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
    }

    /// The first publication with something for a session since this was asked last.
    pub(crate) fn take_due(&self, session: &Session) -> Option<u64> {
        let due = session.take_due()?;
        self.looked();
        Some(due)
    }

    /// Whether many of those whom the newest publication woke haven't looked at it yet.
    pub(crate) fn are_busy(&self) -> bool {
        let (told, to_look) =
            (self.told.load(Ordering::Acquire), self.to_look.load(Ordering::Acquire));
        to_look * 8 > told
    }

    /// The server has come further: those that waited for that look again.
    pub(crate) fn progressed(&self) {
        if self.waiting.load(Ordering::Acquire) > 0 {
            let table = self.table();
            let waiting =
                |session: &&Arc<Session>| session.behind_since.load(Ordering::Acquire) != 0;
            table.all.values().filter(waiting).for_each(|session| session.mark(Mark::Look));
        }
    }

    /// Whether the session may begin its first sync; else it is told when it may.
    pub(crate) fn admit(&self, session: &Session) -> bool {
        self.admission().enter(session.id, Instant::now())
    }

    /// The session has its first sync behind it, or gives its place up: the next may begin.
    pub(crate) fn synced(&self, session: &Session) {
        let next = self.admission().leave(session.id, Instant::now());
        self.look(next);
    }

    /// These look again.
    fn look(&self, sessions: impl IntoIterator<Item = SessionId>) {
        for id in sessions {
            // One that has gone meanwhile gives its place back itself.
            let session = self.table().all.get(&id).cloned();
            session.inspect(|session| session.mark(Mark::Look));
        }
    }

    /// How many wait for a place in the first sync.
    pub(crate) fn waiting_for_sync(&self) -> usize {
        self.admission().waiting()
    }

    /// Sends the newest agent on when the server has had more than its share for long enough: of `nodes` in the
    /// cluster, with so many servers.
    pub(crate) fn balance(&self, nodes: usize, servers: usize) {
        let now = Instant::now();
        let table = self.table();
        let acting = table.all.values().rev().filter(|session| !session.observer);
        let (count, newest) = (acting.clone().count(), acting.clone().next().cloned());
        drop(table);
        let mut balance = self.balances();
        let share = balance.share(nodes, servers);
        if let Some(newest) = newest.filter(|_| balance.is_due(count, share, now)) {
            balance.sent_on(newest.node.clone(), now);
            self.shed.fetch_add(1, Ordering::Relaxed);
            newest.mark(Mark::Shed);
        }
    }

    /// Every session looks again.
    pub(crate) fn wake_all(&self) {
        self.table().all.values().for_each(|session| session.mark(Mark::Look));
    }

    /// The session waits for this server to catch up, or no longer. Whether that is news.
    pub(crate) fn waits(&self, session: &Session, waits: bool) -> bool {
        let since = if waits { self.now() } else { 0 };
        let before = session.behind_since.load(Ordering::Acquire);
        if (before != 0) == waits {
            return false;
        }
        session.behind_since.store(since, Ordering::Release);
        if waits {
            self.waiting.fetch_add(1, Ordering::AcqRel);
        } else {
            self.waiting.fetch_sub(1, Ordering::AcqRel);
        }
        true
    }

    /// The session waits for what this server can't do.
    pub(crate) fn waits_in_vain(session: &Session) {
        session.mark(Mark::Behind);
    }

    /// The session hands something over to its connection, which asks for more when it has room.
    pub(crate) fn sends(&self, session: &Session) {
        let now = self.now();
        session.last_sent.store(now, Ordering::Release);
        session.sending.store(now, Ordering::Release);
    }

    /// The session has nothing to send.
    pub(crate) fn rests(session: &Session) {
        session.sending.store(0, Ordering::Release);
    }

    /// Looks for what time alone brings: heartbeats, and sessions that take too long.
    pub(crate) fn sweep(&self, patience: &Patience) {
        let now = self.now();
        let over = |since: u64, limit: Duration| {
            since != 0 && Duration::from_millis(now.saturating_sub(since)) >= limit
        };
        let overdue = self.admission().overdue(patience.place, Instant::now());
        self.look(overdue);
        let table = self.table();
        for session in table.all.values() {
            let first = session.committed.load(Ordering::Acquire) == 0;
            let stall = if first { patience.first_stall } else { patience.stall };
            if over(session.sending.load(Ordering::Acquire), stall) {
                self.stalled.fetch_add(1, Ordering::Relaxed);
                // Its connection doesn't ask it for anything any more: that is ended, too.
                session.sending.store(0, Ordering::Release);
                session.mark(Mark::Stalled);
                session.arrival.cut();
            } else if over(session.behind_since.load(Ordering::Acquire), patience.behind) {
                session.mark(Mark::Behind);
            } else if over(session.last_sent.load(Ordering::Acquire), patience.quiet) {
                session.mark(Mark::Heartbeat);
            }
        }
    }

    /// Every live session, for a drain.
    pub(crate) fn live(&self) -> Vec<Arc<Session>> {
        self.table().all.values().cloned().collect()
    }

    /// Tells a session that the server stops, and when to go.
    pub(crate) fn announce(session: &Session, after: Duration) {
        session.leave_after.store(after.as_millis() as u64, Ordering::Release);
        session.mark(Mark::Leave);
    }

    /// Tells a session that the server stops.
    pub(crate) fn drain(session: &Session) {
        session.mark(Mark::Drain);
    }

    /// Every session.
    pub(crate) fn all(&self) -> Vec<SessionInfo> {
        let settled = self.settled.load(Ordering::Acquire);
        self.table().all.values().map(|session| session.info(settled)).collect()
    }

    /// How many are live.
    pub(crate) fn active(&self) -> usize {
        self.table().all.len()
    }

    /// How many there ever were.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// How many the server ended.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// How many it ended because they did not take what they were sent.
    pub(crate) fn stalled(&self) -> u64 {
        self.stalled.load(Ordering::Relaxed)
    }

    /// How many it sent on because it had more than its share.
    pub(crate) fn shed(&self) -> u64 {
        self.shed.load(Ordering::Relaxed)
    }

    /// How many have publications to be brought to, or are being brought to them.
    pub(crate) fn lagging(&self) -> usize {
        let busy = |session: &&Arc<Session>| {
            session.due.load(Ordering::Acquire) != 0 || session.sending.load(Ordering::Acquire) != 0
        };
        self.table().all.values().filter(busy).count()
    }
}
