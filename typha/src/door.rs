//! The door: how many strangers may be in it at once, and who was turned away.
//!
//! A connection is in the door from its accept until its hello was accepted.

use std::{
    collections::{HashMap, VecDeque},
    future::poll_fn,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::{Duration, Instant, SystemTime},
};

use futures::task::AtomicWaker;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::warn;

use crate::sessions::Patience;

/// How many of those turned away are remembered.
const REMEMBERED: usize = 20;
/// How many of them are logged one by one in [`LOG_TIME`]; of the others, how many they were.
const LOGGED: u64 = 10;
const LOG_TIME: Duration = Duration::from_secs(10);

/// Why a connection did not become a session, for the count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Its address has too many in the door.
    Address,
    /// What it says is no TLS, or no HTTP/2, where that is asked for; or its certificate is refused.
    Handshake,
    /// It said no hello in time.
    Late,
    /// It left before.
    Left,
    /// The hello can't be served.
    Hello,
    /// The credential doesn't cover what the hello asks for.
    Identity,
    /// The server serves as many as it may.
    Full,
    /// The server has nothing to serve yet, or stops.
    NotReady,
}

impl Cause {
    /// All causes.
    pub(crate) const ALL: [Self; 8] = [
        Self::Address,
        Self::Handshake,
        Self::Late,
        Self::Left,
        Self::Hello,
        Self::Identity,
        Self::Full,
        Self::NotReady,
    ];

    /// The cause in one word.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Handshake => "handshake",
            Self::Late => "late",
            Self::Left => "left",
            Self::Hello => "hello",
            Self::Identity => "identity",
            Self::Full => "full",
            Self::NotReady => "not_ready",
        }
    }
}

/// What a connection may use, most of it before anybody knows who is at the other end.
#[derive(Clone, Debug)]
pub struct Limits {
    /// From accept to hello.
    pub hello: Duration,
    /// Connections in the door at once; more wait in the kernel's queue.
    pub handshakes: usize,
    /// Connections in the door from one address; more are hung up on. Loopback is exempt.
    pub handshakes_per_address: usize,
    /// The size of a hello, bytes.
    pub hello_bytes: usize,
    /// The size of any message of an agent, bytes.
    pub message_bytes: usize,
    /// An agent is asked for a sign of life so often.
    pub ping: Duration,
    /// A sign of life may take so long.
    pub ping_timeout: Duration,
    /// An agent takes something of what it is sent in this time, or is hung up on.
    pub stall: Duration,
    /// The same before its first Commit, which is the largest by far.
    pub first_stall: Duration,
    /// An agent that has seen more than this server waits so long for it to catch up.
    pub behind: Duration,
    /// So many are in their first sync at once; others wait for a place.
    pub first_syncs: usize,
    /// Who is slow in its first sync goes on without a place after so long, when others wait.
    pub place: Duration,
    /// A server over its share sends an agent on so often.
    pub shed: Duration,
    /// A stop takes at most so long: agents leave spread over it.
    pub drain: Duration,
    /// The files of TLS are looked at so often.
    pub reload: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            hello: Duration::from_secs(5),
            handshakes: 1024,
            handshakes_per_address: 64,
            hello_bytes: 1024 * 1024,
            message_bytes: 4 * 1024 * 1024,
            ping: Duration::from_secs(20),
            ping_timeout: Duration::from_secs(10),
            stall: Duration::from_secs(30),
            first_stall: Duration::from_mins(2),
            behind: Duration::from_secs(5),
            first_syncs: 128,
            place: Duration::from_secs(5),
            shed: Duration::from_secs(1),
            drain: Duration::from_secs(10),
            reload: Duration::from_secs(5),
        }
    }
}

impl Limits {
    /// Those of a session; a heartbeat comes after so much quiet.
    pub(crate) fn patience(&self, quiet: Duration) -> Patience {
        let Self { stall, first_stall, behind, place, .. } = *self;
        Patience { quiet, stall, first_stall, behind, place }
    }
}

/// Somebody who was turned away before a session began.
#[derive(Clone, Debug)]
pub(crate) struct TurnedAway {
    pub(crate) address: SocketAddr,
    pub(crate) reason: String,
    pub(crate) at: SystemTime,
}

#[derive(Default)]
struct State {
    by_address: HashMap<IpAddr, usize>,
    turned_away: VecDeque<TurnedAway>,
    counts: [u64; Cause::ALL.len()],
    /// Since when lines are counted, and how many there were, or would have been.
    logging: Option<(Instant, u64)>,
}

impl State {
    /// Whether one more line may be logged now, and how many were not since the last.
    fn may_log(&mut self, now: Instant) -> (bool, u64) {
        match &mut self.logging {
            Some((since, lines)) if now.duration_since(*since) < LOG_TIME => {
                *lines += 1;
                (*lines <= LOGGED, 0)
            }
            logging => {
                let missed = logging.map_or(0, |(_, lines)| lines.saturating_sub(LOGGED));
                *logging = Some((now, 1));
                (true, missed)
            }
        }
    }
}

/// The door of one server.
pub(crate) struct Door {
    all: Arc<Semaphore>,
    per_address: usize,
    state: Mutex<State>,
}

impl Door {
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            all: Arc::new(Semaphore::new(limits.handshakes)),
            per_address: limits.handshakes_per_address,
            state: Mutex::default(),
        })
    }

    /// The lock is held for one look at maps, never across an await.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there is room for one more.
    pub(crate) async fn room(&self) -> OwnedSemaphorePermit {
        match self.all.clone().acquire_owned().await {
            Ok(permit) => permit,
            // Nobody closes the semaphore.
            Err(_) => std::future::pending().await,
        }
    }

    /// A connection comes in; none: its address has enough in the door.
    pub(crate) fn enter(
        self: &Arc<Self>,
        room: OwnedSemaphorePermit,
        address: SocketAddr,
    ) -> Option<Arrival> {
        let ip = address.ip();
        {
            let mut state = self.state();
            let count = state.by_address.entry(ip).or_default();
            if *count >= self.per_address && !ip.is_loopback() {
                drop(state);
                let most = self.per_address;
                self.turn_away(
                    address,
                    Cause::Address,
                    format!("{most} others of its address have not said hello"),
                );
                return None;
            }
            *count += 1;
        }
        let place = Place { _room: room, door: self.clone(), ip };
        let progress = Progress { place: Some(Box::new(place)), stage: Stage::Waiting };
        Some(Arrival(Arc::new(Inner {
            progress: Mutex::new(progress),
            connection: AtomicWaker::new(),
        })))
    }

    /// Notes who was turned away, and why.
    pub(crate) fn turn_away(&self, address: SocketAddr, cause: Cause, reason: String) {
        self.count(cause);
        let mut state = self.state();
        match state.may_log(Instant::now()) {
            (false, _) => {}
            (true, 0) => warn!(%address, reason, "turned away"),
            (true, missed) => warn!(%address, reason, missed, "turned away, and others before"),
        }
        if state.turned_away.len() == REMEMBERED {
            state.turned_away.pop_front();
        }
        state.turned_away.push_back(TurnedAway { address, reason, at: SystemTime::now() });
    }

    /// Those who were turned away last, newest first.
    pub(crate) fn turned_away(&self) -> Vec<TurnedAway> {
        self.state().turned_away.iter().rev().cloned().collect()
    }

    /// Counts one that did not become a session.
    pub(crate) fn count(&self, cause: Cause) {
        if let Some(count) = self.state().counts.get_mut(cause as usize) {
            *count += 1;
        }
    }

    /// How many did not become sessions, by cause.
    pub(crate) fn counts(&self) -> [(&'static str, u64); Cause::ALL.len()] {
        let counts = self.state().counts;
        Cause::ALL.map(|cause| (cause.name(), counts.get(cause as usize).copied().unwrap_or(0)))
    }
}

/// One place in the door, free again when it is dropped.
struct Place {
    _room: OwnedSemaphorePermit,
    door: Arc<Door>,
    ip: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.door.state();
        if let Some(count) = state.by_address.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                state.by_address.remove(&self.ip);
            }
        }
    }
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// In the door.
    Waiting,
    /// In the door, to ask for the server's health.
    Visiting,
    /// Has so many sessions.
    In(usize),
    /// It was refused, or its last session is over: it may go.
    Over,
    /// It takes nothing any more: it is hung up on.
    Cut,
}

/// A connection, from its accept on. Only the task of the connection waits for its stage, so that a waker is enough.
#[derive(Clone)]
pub(crate) struct Arrival(Arc<Inner>);

struct Inner {
    progress: Mutex<Progress>,
    connection: AtomicWaker,
}

struct Progress {
    place: Option<Box<Place>>,
    stage: Stage,
}

impl Arrival {
    /// A session begins; it lasts as long as the answer.
    pub(crate) fn welcome(&self) -> Welcome {
        drop(self.progress().place.take());
        self.go(|stage| match stage {
            Stage::In(sessions) => Stage::In(sessions + 1),
            Stage::Waiting | Stage::Visiting | Stage::Over => Stage::In(1),
            Stage::Cut => Stage::Cut,
        });
        Welcome(self.clone())
    }

    /// There will be no session: the hello was refused.
    pub(crate) fn refused(&self) {
        self.go(|stage| match stage {
            Stage::Waiting | Stage::Visiting => Stage::Over,
            stage => stage,
        });
    }

    /// It asks for the server's health, and needn't say hello.
    pub(crate) fn visits(&self) {
        self.go(|stage| match stage {
            Stage::Waiting => Stage::Visiting,
            stage => stage,
        });
    }

    /// It takes nothing any more.
    pub(crate) fn cut(&self) {
        self.go(|_| Stage::Cut);
    }

    /// How far it has come.
    pub(crate) fn stage(&self) -> Stage {
        self.progress().stage
    }

    /// Waits until it is no longer where it was. For the task of the connection.
    pub(crate) fn left(&self, stage: Stage) -> impl Future<Output = ()> {
        poll_fn(move |cx| {
            self.0.connection.register(cx.waker());
            if self.stage() == stage { Poll::Pending } else { Poll::Ready(()) }
        })
    }

    fn go(&self, next: impl FnOnce(Stage) -> Stage) {
        let mut progress = self.progress();
        progress.stage = next(progress.stage);
        drop(progress);
        self.0.connection.wake();
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.0.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session of a connection.
pub(crate) struct Welcome(Arrival);

impl Drop for Welcome {
    fn drop(&mut self) {
        self.0.go(|stage| match stage {
            Stage::In(sessions) if sessions > 1 => Stage::In(sessions - 1),
            Stage::Cut => Stage::Cut,
            _ => Stage::Over,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(handshakes: usize, handshakes_per_address: usize) -> Arc<Door> {
        Door::new(&Limits { handshakes, handshakes_per_address, ..Limits::default() })
    }

    fn from(ip: &str) -> SocketAddr {
        SocketAddr::new(ip.parse().unwrap(), 1)
    }

    async fn enter(door: &Arc<Door>, ip: &str) -> Option<Arrival> {
        door.enter(door.room().await, from(ip))
    }

    #[tokio::test]
    async fn an_address_has_so_many_in_the_door_and_others_are_not_disturbed() {
        let door = door(100, 2);
        let first = enter(&door, "10.0.0.1").await.unwrap();
        let _second = enter(&door, "10.0.0.1").await.unwrap();
        assert!(enter(&door, "10.0.0.1").await.is_none());
        assert_eq!(door.turned_away()[0].reason, "2 others of its address have not said hello");
        let _other = enter(&door, "10.0.0.2").await.unwrap();
        let _welcome = first.welcome();
        assert!(enter(&door, "10.0.0.1").await.is_some(), "who has said hello is out of the door");
    }

    #[tokio::test]
    async fn loopback_may_bring_many() {
        let door = door(100, 2);
        let mut all = Vec::new();
        for _ in 0..50 {
            all.push(enter(&door, "127.0.0.1").await.unwrap());
        }
        assert!(door.counts().iter().all(|(_, count)| *count == 0));
    }

    #[test]
    fn a_flood_is_counted_whole_and_logged_in_part() {
        let start = Instant::now();
        let mut state = State::default();
        let logged = (0..1000).filter(|_| state.may_log(start).0).count() as u64;
        assert_eq!(logged, LOGGED);
        assert_eq!(state.may_log(start + LOG_TIME), (true, 1000 - LOGGED));
        assert_eq!(state.may_log(start + LOG_TIME), (true, 0));
        let door = door(1, 1);
        (0..30).for_each(|n| door.turn_away(from("10.0.0.1"), Cause::Late, n.to_string()));
        assert_eq!(door.counts()[Cause::Late as usize], ("late", 30));
        assert_eq!(door.turned_away()[0].reason, "29");
        assert_eq!(door.turned_away().len(), REMEMBERED);
    }

    #[tokio::test]
    async fn when_the_door_is_full_the_next_waits_until_one_has_left() {
        let door = door(1, 1);
        let first = enter(&door, "10.0.0.1").await.unwrap();
        let mut next = std::pin::pin!(door.room());
        assert!(futures::poll!(&mut next).is_pending());
        drop(first);
        assert!(futures::poll!(&mut next).is_ready());
    }

    #[tokio::test]
    async fn a_connection_is_over_when_its_last_session_is() {
        let door = door(1, 1);
        let arrival = enter(&door, "10.0.0.1").await.unwrap();
        let mut left = std::pin::pin!(arrival.left(Stage::Waiting));
        assert!(futures::poll!(&mut left).is_pending());
        let (first, second) = (arrival.welcome(), arrival.welcome());
        assert!(futures::poll!(&mut left).is_ready(), "who waits for it is told");
        arrival.refused();
        drop(first);
        assert_eq!(arrival.stage(), Stage::In(1), "a second stream that is refused ends nothing");
        drop(second);
        assert_eq!(arrival.stage(), Stage::Over);
    }
}
