//! A simulated agent: the agents' own client on a connection of its own, with a judge between.
//!
//! ```text
//! Connection --message--> Injector --> Judge --> ClientSession --Commit--> Delivery --> Score
//!                         (on demand)  (counts)  (the agents')             (against the ledger)
//! ```

use std::{
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use client::{Connection, StreamError, Tls};
use model::StreamIndex;
use proto::v1::{AgentHello, ServerMessage, View as WireView};
use rand::Rng as _;
use sync::{ClientError, ClientSession, Event};
use tokio::{
    sync::{Semaphore, watch},
    time::sleep,
};

use crate::{
    churn::View,
    delivery::Delivery,
    inject::Injector,
    judge::{Fault, Judge, Kind},
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
    session: ClientSession,
    judge: Judge,
    delivery: Delivery,
    injector: Option<Injector>,
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
            session: ClientSession::new(),
            judge: Judge::default(),
            delivery: Delivery::new(number, common.world),
            common,
            injector,
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
            self.judge.disconnected();
            if let Some(injector) = &mut self.injector {
                injector.reconnected();
            }
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
        let hello = self.session.hello(base, false);
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
                    if let Some(end) = self.received(message?, &mut connection).await? {
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

    /// A message came: what the injector makes of it reaches the session.
    async fn received(
        &mut self,
        message: ServerMessage,
        connection: &mut Connection,
    ) -> Result<Option<End>, StreamError> {
        let messages = match &mut self.injector {
            Some(injector) => injector.pass(message),
            None => vec![message],
        };
        for message in messages {
            let fault = self.judge.message(&message);
            if let Some(fault) = &fault {
                self.common.score.fault(&self.name, fault);
            }
            let event = self.session.receive(message).map_err(|error| {
                self.refused(&error, fault.is_some());
                StreamError::Protocol { address: connection.address().to_owned(), error }
            })?;
            match event {
                Event::Committed(committed) => {
                    if let Some(fault) = self.judge.visible(&self.session) {
                        self.common.score.fault(&self.name, &fault);
                    }
                    self.common.score.commits.fetch_add(1, Ordering::Relaxed);
                    if self.synced {
                        let version = committed.vector.get(StreamIndex(0));
                        self.delivery.committed(version, Instant::now(), &committed.changes);
                        self.settle();
                    } else {
                        self.synced = true;
                        self.common.score.synced.fetch_add(1, Ordering::Relaxed);
                    }
                    self.owes_ack = self.common.view == View::Node;
                    self.ack(connection);
                }
                Event::Send(message) => {
                    let text = "a digest came out differently: resync".to_owned();
                    self.common.score.fault(&self.name, &Fault { kind: Kind::Digest, text });
                    connection.send(message);
                }
                Event::GoAway(_) => return Ok(Some(End::Again)),
                Event::Hello(_) | Event::Nothing | Event::Heartbeat(_) | Event::Behind(_) => {}
            }
        }
        let reconnect = self.injector.as_ref().is_some_and(Injector::wants_reconnect);
        Ok(reconnect.then_some(End::Again))
    }

    /// The session refuses what came. The judge may have seen why.
    fn refused(&self, error: &ClientError, judged: bool) {
        if !judged {
            let fault = Fault { kind: Kind::Order, text: error.to_string() };
            self.common.score.fault(&self.name, &fault);
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
            connection.send(self.session.ack(Vec::new()));
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
        if let Some(fault) = self.judge.recompute(&self.session) {
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
