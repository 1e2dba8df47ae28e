//! A simulated agent: the agents' own client on a connection of its own, with a judge between.
//!
//! ```text
//! Connection --message--> CheckedSession: Injector, Judge, ClientSession --Commit--> Delivery
//!                                                                                      |
//!                                         Score  <-------- errors, latencies <---------+
//! ```

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use client::{Connection, StreamError, Tls};
use model::StreamIndex;
use proto::v1::{AgentHello, ServerMessage, View as WireView};
use rand::Rng as _;
use sync::Committed;
use tokio::{
    sync::{Semaphore, watch},
    time::sleep,
};

use crate::{
    checked::{CheckedSession, Outcome},
    churn::View,
    delivery::Delivery,
    inject::Injector,
    score::Score,
    world::{World, node_name},
};

/// Acks go at most so often.
const ACK: Duration = Duration::from_millis(100);
/// Commits that came before the writer knew of its write are looked at again after so long.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What all agents of a run share.
pub(crate) struct Common {
    pub(crate) server: String,
    pub(crate) tls: Option<Tls>,
    pub(crate) view: View,
    pub(crate) world: World,
    pub(crate) score: Score,
    /// So many connect at once.
    pub(crate) door: Semaphore,
    pub(crate) stop: watch::Receiver<bool>,
}

/// One agent.
pub(crate) struct Agent {
    number: u32,
    name: String,
    common: Arc<Common>,
    session: CheckedSession,
    delivery: Delivery,
    /// It had its first Commit.
    synced: bool,
    last_ack: Option<Instant>,
    owes_ack: bool,
}

/// Why a stream is over.
enum End {
    /// The run is.
    Stop,
    /// It broke, or is to be opened anew.
    Again,
}

impl Agent {
    pub(crate) fn new(number: u32, common: Arc<Common>, injector: Option<Injector>) -> Self {
        Self {
            number,
            name: node_name(number),
            session: CheckedSession::new(injector),
            delivery: Delivery::new(number, common.world),
            common,
            synced: false,
            last_ack: None,
            owes_ack: false,
        }
    }

    /// Runs until the run stops, then checks everything once more.
    pub(crate) async fn run(mut self) {
        let mut stop = self.common.stop.clone();
        loop {
            match self.stream(&mut stop).await {
                Ok(End::Stop) => break,
                Ok(End::Again) => {}
                Err(error) => self.broke(&error),
            }
            if *stop.borrow() {
                break;
            }
            self.session.disconnected();
            self.common.score.reconnects.fetch_add(1, Ordering::Relaxed);
            let pause = Duration::from_millis(rand::rng().random_range(50..250));
            tokio::select! {
                () = sleep(pause) => {}
                () = stopped(&mut stop) => break,
            }
        }
        self.finish();
    }

    /// One stream from its hello to its end.
    async fn stream(&mut self, stop: &mut watch::Receiver<bool>) -> Result<End, StreamError> {
        let common = self.common.clone();
        let view = match common.view {
            View::Node => WireView::Node,
            View::Full => WireView::Full,
        };
        let base = AgentHello {
            node: self.name.clone(),
            view: view.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            ..AgentHello::default()
        };
        let hello = self.session.hello(base);
        let mut connection = {
            let _place = common.door.acquire().await;
            tokio::select! {
                opened = Connection::open_with(&common.server, common.tls.as_ref(), hello) => opened?,
                () = stopped(stop) => return Ok(End::Stop),
            }
        };
        loop {
            let ack_due = self.owes_ack.then(|| {
                self.last_ack.map_or(Duration::ZERO, |last| ACK.saturating_sub(last.elapsed()))
            });
            let look_due = self.delivery.waits().then_some(LOOK_AGAIN);
            let due = ack_due.into_iter().chain(look_due).min();
            tokio::select! {
                message = connection.message() => {
                    if let Some(end) = self.received(message?, &mut connection)? {
                        return Ok(end);
                    }
                }
                () = pause(due) => {
                    self.settle();
                    self.ack(&mut connection);
                }
                () = stopped(stop) => return Ok(End::Stop),
            }
        }
    }

    /// A message came. Its outcomes are dealt with even when it ends the stream.
    fn received(
        &mut self,
        message: ServerMessage,
        connection: &mut Connection,
    ) -> Result<Option<End>, StreamError> {
        let mut outcomes = Vec::new();
        let result = self.session.receive(message, &mut outcomes);
        let mut end = None;
        for outcome in outcomes {
            match outcome {
                Outcome::Fault(fault) => self.common.score.fault(&self.name, &fault),
                Outcome::Committed(committed) => {
                    self.committed(&committed);
                    self.ack(connection);
                }
                Outcome::Send(message) => connection.send(message),
                Outcome::Reconnect => end = Some(End::Again),
            }
        }
        let address = connection.address().to_owned();
        result.map(|()| end).map_err(|error| StreamError::Protocol { address, error })
    }

    fn committed(&mut self, committed: &Committed) {
        self.common.score.commits.fetch_add(1, Ordering::Relaxed);
        self.owes_ack = self.common.view == View::Node;
        if self.synced {
            let version = committed.vector.get(StreamIndex(0));
            self.delivery.committed(version, Instant::now(), &committed.changes);
            self.settle();
        } else {
            self.synced = true;
            self.common.score.synced.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn broke(&self, error: &StreamError) {
        tracing::info!(agent = self.name, %error, "stream ended");
    }

    /// Acknowledges the newest Commit, unless the last ack was just now.
    fn ack(&mut self, connection: &mut Connection) {
        if self.owes_ack && self.last_ack.is_none_or(|last| last.elapsed() >= ACK) {
            self.owes_ack = false;
            self.last_ack = Some(Instant::now());
            connection.send(self.session.ack());
        }
    }

    /// Compares Commits with what was written.
    fn settle(&mut self) {
        if self.delivery.waits() {
            let found = {
                let ledger =
                    self.common.score.ledger.read().unwrap_or_else(PoisonError::into_inner);
                self.delivery.settle(&ledger)
            };
            self.common.score.found(self.number, &self.name, &found);
        }
    }

    fn finish(&mut self) {
        self.settle();
        if let Some(fault) = self.session.recompute() {
            self.common.score.fault(&self.name, &fault);
        }
        let ledger = self.common.score.ledger.read().unwrap_or_else(PoisonError::into_inner);
        self.common.score.missing(&self.name, self.delivery.missing(&ledger));
    }
}

/// Ends after so long; never, without a time.
async fn pause(time: Option<Duration>) {
    match time {
        Some(time) => sleep(time).await,
        None => std::future::pending().await,
    }
}

/// Ends when the run does.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // An error means that nobody waits for this agent any more.
    let _ = stop.wait_for(|stop| *stop).await;
}
