//! The gRPC service: one task per session, between the agent's stream and its `ServerSession`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use proto::v1::{
    AgentHello, AgentMessage, GoAway, ServerMessage, agent_message, go_away::Reason,
    server_message::Message, typha_server::Typha,
};
use sync::{Advance, ServerFacts, ServerSession, Snapshot};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};

use crate::{
    sessions::{SessionId, Sessions},
    writer::StoreState,
};

/// How long a new connection may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an agent that has seen more than this server waits for it to catch up.
const BEHIND_TIMEOUT: Duration = Duration::from_secs(5);
/// Frames on their way to one agent; the sender waits when the agent is slower.
const IN_FLIGHT: usize = 64;

/// What every session reads.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) facts: Arc<ServerFacts>,
    pub(crate) published: watch::Receiver<Option<Arc<Snapshot>>>,
    pub(crate) store: watch::Receiver<StoreState>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) max_sessions: usize,
    pub(crate) draining: watch::Receiver<bool>,
}

type Outbound = mpsc::Sender<Result<ServerMessage, Status>>;

#[tonic::async_trait]
impl Typha for Service {
    type SyncStream = ReceiverStream<Result<ServerMessage, Status>>;

    async fn sync(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let address = request.remote_addr().unwrap_or_else(|| SocketAddr::from(([0; 4], 0)));
        let inbound = request.into_inner();
        let (outbound, frames) = mpsc::channel(IN_FLIGHT);
        tokio::spawn(self.clone().session(inbound, outbound, address));
        Ok(Response::new(ReceiverStream::new(frames)))
    }
}

/// Why a session is over.
enum End {
    /// The agent left.
    Left,
    /// The server ends it, and tells the agent why.
    Away(Reason, String),
}

impl Service {
    async fn session(
        self,
        mut inbound: Streaming<AgentMessage>,
        outbound: Outbound,
        address: SocketAddr,
    ) {
        let hello = match timeout(HELLO_TIMEOUT, inbound.message()).await {
            Ok(Ok(Some(AgentMessage { message: Some(agent_message::Message::Hello(hello)) }))) => {
                hello
            }
            Ok(Ok(Some(_))) => {
                let text = "the first message must be a hello";
                return refuse(&outbound, address, Status::invalid_argument(text)).await;
            }
            Ok(Ok(None)) => return,
            Ok(Err(error)) => {
                warn!(%address, %error, "handshake failed");
                return;
            }
            Err(_) => {
                let text = format!("no hello within {} s", HELLO_TIMEOUT.as_secs());
                return refuse(&outbound, address, Status::deadline_exceeded(text)).await;
            }
        };
        let session = match ServerSession::new(&hello, self.facts.clone()) {
            Ok(session) => session,
            Err(refusal) => {
                let status = Status::invalid_argument(refusal.to_string());
                return refuse(&outbound, address, status).await;
            }
        };
        if self.sessions.active() >= self.max_sessions {
            let text = format!("this server serves {} agents, its limit", self.max_sessions);
            return go_away(&outbound, Reason::Full, &text).await;
        }
        if self.published.borrow().is_none() {
            let text = self.store.borrow().why_not_in_sync();
            return go_away(&outbound, Reason::NotSynced, &text).await;
        }

        let (id, replaced) = self.sessions.open(&hello, address);
        info!(node = hello.node, %address, "session opened");
        let end = self.serve(&hello, session, &mut inbound, &outbound, id, &replaced).await;
        match end {
            End::Left => {
                self.sessions.close(id, false);
                info!(node = hello.node, %address, "session closed by the agent");
            }
            End::Away(reason, text) => {
                self.sessions.close(id, true);
                info!(node = hello.node, %address, reason = reason.as_str_name(), "session ended");
                go_away(&outbound, reason, &text).await;
            }
        }
    }

    async fn serve(
        &self,
        hello: &AgentHello,
        mut session: ServerSession,
        inbound: &mut Streaming<AgentMessage>,
        outbound: &Outbound,
        id: SessionId,
        replaced: &tokio::sync::Notify,
    ) -> End {
        let mut published = self.published.clone();
        let mut draining = self.draining.clone();
        let quiet = Duration::from_secs(self.facts.heartbeat_seconds.into());
        let mut last_sent = Instant::now();
        if outbound.send(Ok(self.facts.hello())).await.is_err() {
            return End::Left;
        }
        let mut behind_since = None;
        loop {
            let snapshot = published.borrow_and_update().clone();
            let advance = snapshot.map(|snapshot| session.advance(&snapshot));
            match advance {
                Some(Advance::Frames(frames)) => {
                    behind_since = None;
                    for frame in frames {
                        last_sent = Instant::now();
                        if outbound.send(Ok(frame.into_message())).await.is_err() {
                            return End::Left;
                        }
                    }
                    self.sessions.update(id, |info| {
                        info.sent = session.cursor();
                        info.committed = session.committed();
                    });
                }
                Some(Advance::Behind(behind)) if behind_since.is_none() => {
                    info!(node = hello.node, ?behind, "the agent has seen more than this server");
                    behind_since = Some(Instant::now());
                    let message = ServerMessage { message: Some(Message::Behind(behind)) };
                    if outbound.send(Ok(message)).await.is_err() {
                        return End::Left;
                    }
                }
                Some(Advance::Behind(_)) | None => {}
                Some(Advance::Rewound) => {
                    return End::Away(Reason::Draining, "the store went back in time".into());
                }
            }
            tokio::select! {
                changed = published.changed() => if changed.is_err() {
                    return End::Away(Reason::Draining, "the server stops".into());
                },
                message = inbound.message() => match message {
                    Ok(Some(message)) => self.received(&mut session, id, message),
                    Ok(None) => return End::Left,
                    Err(status) => {
                        info!(node = hello.node, reason = status.message(), "stream broke");
                        return End::Left;
                    }
                },
                () = sleep_until(behind_since.map(|since| since + BEHIND_TIMEOUT)) => {
                    let text = "this server has not caught up with what the agent has seen";
                    return End::Away(Reason::Behind, text.into());
                }
                () = tokio::time::sleep_until(last_sent + quiet) => {
                    let snapshot = published.borrow().clone();
                    let stale = self.store.borrow().stale_milliseconds();
                    if let Some(snapshot) = snapshot
                        && outbound.send(Ok(session.heartbeat(&snapshot, stale))).await.is_err()
                    {
                        return End::Left;
                    }
                    last_sent = Instant::now();
                }
                () = replaced.notified() => {
                    let text = format!("another agent of node {} has connected", hello.node);
                    return End::Away(Reason::Replaced, text);
                }
                () = drained(&mut draining) => {
                    return End::Away(Reason::Draining, "the server stops".into());
                }
            }
        }
    }

    fn received(&self, session: &mut ServerSession, id: SessionId, message: AgentMessage) {
        match message.message {
            Some(agent_message::Message::Ack(ack)) => self.sessions.update(id, |info| {
                info.acked = ack.publication;
                info.acked_at = Some(std::time::SystemTime::now());
                info.failed = ack.failed;
            }),
            Some(agent_message::Message::Resync(resync)) => session.resync(&resync.topic),
            Some(agent_message::Message::Status(status)) => self.sessions.update(id, |info| {
                info.endpoints = status.endpoints;
                info.dataplane = status.dataplane;
            }),
            // A second hello, or a message of a newer agent: nothing that this server must act on.
            Some(agent_message::Message::Hello(_)) | None => {}
        }
    }
}

/// Ends at that time; never, where there is none.
async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Ends when the server drains, or is gone.
async fn drained(draining: &mut watch::Receiver<bool>) {
    let _ = draining.wait_for(|draining| *draining).await;
}

async fn refuse(outbound: &Outbound, address: SocketAddr, status: Status) {
    warn!(%address, reason = status.message(), "session refused");
    // An agent that has gone doesn't need to hear it.
    let _ = outbound.send(Err(status)).await;
}

async fn go_away(outbound: &Outbound, why: Reason, text: &str) {
    let message = GoAway {
        why: why.into(),
        after_milliseconds: 0,
        others: Vec::new(),
        message: text.to_owned(),
    };
    let message = ServerMessage { message: Some(Message::GoAway(message)) };
    if outbound.send(Ok(message)).await.is_ok() {
        let _ = outbound.send(Err(Status::unavailable(text))).await;
    }
}
