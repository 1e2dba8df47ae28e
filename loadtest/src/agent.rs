//! A simulated agent: the agents' own client on a connection of its own, with a judge between.
//!
//! ```text
//! Connection --message--> CheckedSession: Injector, Judge, ClientSession --Commit--> Follower
//!                                                                                       |
//!                                         Score  <-------- errors, latencies <----------+
//! ```

use std::{pin::pin, sync::Arc};

use client::{Connection, StreamError};
use model::StreamIndex;
use proto::v1::ServerMessage;
use tokio::sync::watch;

use crate::{
    checked::{CheckedSession, Outcome},
    fleet::Common,
    follower::{End, Follower, Simulated, pause, stopped},
    inject::Injector,
};

/// One agent.
pub(crate) struct Agent {
    session: CheckedSession,
    follower: Follower,
}

impl Agent {
    pub(crate) fn new(number: u32, common: Arc<Common>, injector: Option<Injector>) -> Self {
        Self {
            session: CheckedSession::new(injector),
            follower: Follower::new(number, common, true),
        }
    }

    async fn serve(&mut self, stop: &mut watch::Receiver<bool>) -> Result<End, StreamError> {
        let common = self.follower.common.clone();
        let hello = self.session.hello(self.follower.hello());
        let mut stopped = pin!(stopped(stop));
        let mut connection = {
            let _place = common.door.acquire().await;
            let server = self.follower.server().to_string();
            tokio::select! {
                opened = Connection::open_with(&server, common.tls.as_ref(), hello) => opened?,
                () = &mut stopped => return Ok(End::Stop),
            }
        };
        loop {
            tokio::select! {
                message = connection.message() => {
                    if let Some(end) = self.received(message?, &mut connection)? {
                        return Ok(end);
                    }
                }
                () = pause(self.follower.due()) => {
                    self.follower.settle();
                    self.ack(&mut connection);
                }
                () = &mut stopped => return Ok(End::Stop),
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
                Outcome::Fault(fault) => self.follower.fault(&fault),
                Outcome::Committed(committed) => {
                    let version = committed.vector.get(StreamIndex(0));
                    self.follower.committed(version, &committed.changes);
                    self.ack(connection);
                }
                Outcome::Send(message) => connection.send(message),
                Outcome::Reconnect => end = Some(End::Again),
            }
        }
        let address = connection.address().to_owned();
        result.map(|()| end).map_err(|error| StreamError::Protocol { address, error })
    }

    fn ack(&mut self, connection: &mut Connection) {
        if self.follower.acks() {
            connection.send(self.session.ack());
        }
    }
}

impl Simulated for Agent {
    async fn stream(&mut self, stop: &mut watch::Receiver<bool>) -> End {
        self.serve(stop).await.unwrap_or_else(|error| {
            tracing::info!(agent = self.follower.name, %error, "stream ended");
            End::Again
        })
    }

    fn disconnected(&mut self) {
        self.session.disconnected();
        self.follower.disconnected();
    }

    fn finish(&mut self) {
        self.follower.finish();
        if let Some(fault) = self.session.recompute() {
            self.follower.fault(&fault);
        }
    }

    fn follower(&self) -> &Follower {
        &self.follower
    }
}
