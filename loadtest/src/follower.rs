//! What every simulated agent does with Commits: compare them with what was written, and owe an ack.

use std::{
    net::SocketAddr,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use proto::v1::{AgentHello, View as WireView};
use rand::Rng as _;
use sync::EntryChange;
use tokio::{sync::watch, time::sleep};

use crate::{
    churn::View,
    delivery::Delivery,
    fleet::Common,
    judge::{Fault, Kind},
    world::node_name,
};

/// Acks go at most so often.
const ACK: Duration = Duration::from_millis(100);
/// Commits that came before the writer knew of its write are looked at again after so long.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The order to come back is for all agents, or for those whose number has the same remainder by this.
pub(crate) const ALL: u64 = u64::MAX;
const TENTHS: u64 = 10;

/// Why a stream is over.
pub(crate) enum End {
    /// The run is.
    Stop,
    /// It broke, or is to be opened anew.
    Again,
}

/// A simulated agent.
pub(crate) trait Simulated: Send {
    /// One stream from its hello to its end.
    fn stream(&mut self, stop: &mut watch::Receiver<bool>) -> impl Future<Output = End> + Send;

    /// The stream is over, and another one follows.
    fn disconnected(&mut self);

    /// The run is over: everything is checked once more.
    fn finish(&mut self);

    /// What it has seen.
    fn follower(&self) -> &Follower;
}

/// Runs an agent until the run stops. It comes back whenever its stream ends.
pub(crate) async fn run(mut agent: impl Simulated) {
    let common = agent.follower().common.clone();
    let mut stop = common.stop.clone();
    let mut again = common.again.clone();
    let number = agent.follower().number;
    loop {
        let end = tokio::select! {
            end = agent.stream(&mut stop) => end,
            () = told(&mut again, number) => End::Again,
        };
        if matches!(end, End::Stop) || *stop.borrow() {
            break;
        }
        agent.disconnected();
        common.score.reconnects.fetch_add(1, Ordering::Relaxed);
        let pause = Duration::from_millis(rand::rng().random_range(50..250));
        tokio::select! {
            () = sleep(pause) => {}
            () = stopped(&mut stop) => break,
        }
    }
    agent.finish();
}

/// What an agent has seen of what was written.
pub(crate) struct Follower {
    pub(crate) number: u32,
    pub(crate) name: String,
    pub(crate) common: Arc<Common>,
    delivery: Delivery,
    /// It had its first Commit, ever and in this session.
    synced: bool,
    in_session: bool,
    /// How many streams it had before this one.
    streams: u32,
    last_ack: Option<Instant>,
    owes_ack: bool,
}

impl Follower {
    /// `holds`: it knows what it holds, else only what Commits say.
    pub(crate) fn new(number: u32, common: Arc<Common>, holds: bool) -> Self {
        let name = node_name(number);
        let delivery = Delivery::new(number, common.world, holds);
        Self {
            number,
            name,
            common,
            delivery,
            synced: false,
            in_session: false,
            streams: 0,
            last_ack: None,
            owes_ack: false,
        }
    }

    /// The server of this stream: another one for each.
    pub(crate) fn server(&self) -> SocketAddr {
        let servers = &self.common.servers;
        servers[(self.number.wrapping_add(self.streams)) as usize % servers.len()]
    }

    /// The stream is over, and another one follows.
    pub(crate) fn disconnected(&mut self) {
        self.in_session = false;
        self.streams = self.streams.wrapping_add(1);
        self.owes_ack = false;
    }

    /// What it asks for.
    pub(crate) fn hello(&self) -> AgentHello {
        let view = match self.common.view {
            View::Node => WireView::Node,
            View::Full => WireView::Full,
        };
        AgentHello {
            node: self.name.clone(),
            view: view.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..AgentHello::default()
        }
    }

    /// A Commit became visible, complete up to this version.
    pub(crate) fn committed(&mut self, version: u64, changes: &[EntryChange]) {
        self.common.score.commits.fetch_add(1, Ordering::Relaxed);
        self.owes_ack = self.common.acks;
        if !self.in_session {
            self.in_session = true;
            self.common.score.sessions.fetch_add(1, Ordering::Relaxed);
        }
        if self.synced {
            self.delivery.committed(version, Instant::now(), changes);
            self.settle();
        } else {
            self.synced = true;
            self.common.score.synced.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Compares Commits with what was written.
    pub(crate) fn settle(&mut self) {
        if self.delivery.waits() {
            let found = {
                let ledger =
                    self.common.score.ledger.read().unwrap_or_else(PoisonError::into_inner);
                self.delivery.settle(&ledger)
            };
            self.common.score.found(self.number, &self.name, &found);
        }
    }

    /// When there is something to do again: an ack, or another look at what was written.
    pub(crate) fn due(&self) -> Option<Duration> {
        let ack = self.owes_ack.then(|| {
            self.last_ack.map_or(Duration::ZERO, |last| ACK.saturating_sub(last.elapsed()))
        });
        let look = self.delivery.waits().then_some(LOOK_AGAIN);
        ack.into_iter().chain(look).min()
    }

    /// Whether the newest Commit is acknowledged now: not if the last ack was just now.
    pub(crate) fn acks(&mut self) -> bool {
        let acks = self.owes_ack && self.last_ack.is_none_or(|last| last.elapsed() >= ACK);
        if acks {
            self.owes_ack = false;
            self.last_ack = Some(Instant::now());
        }
        acks
    }

    /// Something is wrong.
    pub(crate) fn fault(&self, fault: &Fault) {
        self.common.score.fault(&self.name, fault);
    }

    /// Time ran back, or the like.
    pub(crate) fn out_of_order(&self, text: String) {
        self.fault(&Fault { kind: Kind::Order, text });
    }

    /// Nothing more comes: what did not is missing.
    pub(crate) fn finish(&mut self) {
        self.settle();
        let ledger = self.common.score.ledger.read().unwrap_or_else(PoisonError::into_inner);
        self.common.score.missing(&self.name, self.delivery.missing(&ledger));
    }
}

/// Ends after so long; never, without a time.
pub(crate) async fn pause(time: Option<Duration>) {
    match time {
        Some(time) => sleep(time).await,
        None => std::future::pending().await,
    }
}

/// Ends when this agent is told to end its stream and come back.
async fn told(again: &mut watch::Receiver<u64>, number: u32) {
    loop {
        if again.changed().await.is_err() {
            return std::future::pending().await;
        }
        let which = *again.borrow_and_update();
        if which == ALL || which % TENTHS == u64::from(number) % TENTHS {
            return;
        }
    }
}

/// Ends when the run does.
pub(crate) async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that nobody waits for this agent any more.
    let _ = stop.wait_for(|stop| *stop).await;
}
