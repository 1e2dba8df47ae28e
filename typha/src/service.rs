//! The gRPC service: one task per session, between the agent's stream and its `ServerSession`.

use std::{pin::pin, sync::Arc, time::Duration};

use proto::v1::{
    AgentHello, AgentMessage, GoAway, ServerMessage, agent_message, go_away::Reason,
    server_message::Message, typha_server::Typha,
};
use sync::{Advance, ServerFacts, ServerSession, Snapshot};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};
use tracing::{info, warn};

use crate::{
    access,
    door::{Door, Limits, Stage},
    listener::Caller,
    sessions::{SessionId, Sessions},
    writer::StoreState,
};

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
    pub(crate) limits: Arc<Limits>,
    pub(crate) door: Arc<Door>,
    /// Set: the server stops, and sessions end spread over this time.
    pub(crate) draining: watch::Receiver<Option<Duration>>,
}

type Outbound = mpsc::Sender<Result<ServerMessage, Status>>;

#[tonic::async_trait]
impl Typha for Service {
    type SyncStream = ReceiverStream<Result<ServerMessage, Status>>;

    async fn sync(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let caller = request.extensions().get::<Caller>().cloned();
        let caller = caller.ok_or_else(|| Status::internal("a stream without a connection"))?;
        let inbound = request.into_inner();
        let (outbound, frames) = mpsc::channel(IN_FLIGHT);
        tokio::spawn(self.clone().session(inbound, outbound, caller));
        Ok(Response::new(ReceiverStream::new(frames)))
    }
}

/// Why a session is over.
enum End {
    /// The agent left.
    Left,
    /// The server ends it, and tells the agent why.
    Away(Reason, String),
    /// What came is no message, or too large a one.
    Broken(Status),
}

impl Service {
    async fn session(
        self,
        mut inbound: Streaming<AgentMessage>,
        outbound: Outbound,
        caller: Caller,
    ) {
        let address = caller.address;
        let hello = match self.hello(&mut inbound, &caller).await {
            Ok(Some(hello)) => hello,
            Ok(None) => {
                self.door.turn_away(address, "it closed the stream without a hello".into());
                return caller.arrival.refused();
            }
            // The connection notes those that are late.
            Err(status) if status.code() == Code::DeadlineExceeded => {
                return send(&outbound, Err(status)).await;
            }
            Err(status) => return self.refuse(&outbound, &caller, status).await,
        };
        let session = match ServerSession::new(&hello, self.facts.clone()) {
            Ok(session) => session,
            Err(refusal) => {
                let status = Status::invalid_argument(refusal.to_string());
                return self.refuse(&outbound, &caller, status).await;
            }
        };
        if let Err(text) = access::check(&caller.credential, &hello) {
            return self.refuse(&outbound, &caller, Status::permission_denied(text)).await;
        }
        if self.sessions.active() >= self.max_sessions {
            let text = format!("this server serves {} agents, its limit", self.max_sessions);
            caller.arrival.refused();
            return go_away(&outbound, Reason::Full, &text).await;
        }
        if self.published.borrow().is_none() {
            let text = self.store.borrow().why_not_in_sync();
            caller.arrival.refused();
            return go_away(&outbound, Reason::NotSynced, &text).await;
        }

        let _welcome = caller.arrival.welcome();
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
            End::Broken(status) => {
                self.sessions.close(id, true);
                warn!(node = hello.node, %address, reason = status.message(), "stream broke");
                send(&outbound, Err(status)).await;
            }
        }
    }

    /// The first message, which must be a hello; none: the agent left.
    async fn hello(
        &self,
        inbound: &mut Streaming<AgentMessage>,
        caller: &Caller,
    ) -> Result<Option<AgentHello>, Status> {
        let deadline = match *caller.arrival.stage().borrow() {
            Stage::Waiting => caller.deadline,
            // A second stream of a connection that has come in.
            Stage::In(_) | Stage::Over => Instant::now() + self.limits.hello,
        };
        let late = |_| {
            let seconds = self.limits.hello.as_secs_f64();
            Status::deadline_exceeded(format!("no hello within {seconds} s"))
        };
        match timeout_at(deadline, inbound.message()).await.map_err(late)?? {
            None => Ok(None),
            Some(AgentMessage { message: Some(agent_message::Message::Hello(hello)) }) => {
                Ok(Some(hello))
            }
            Some(_) => Err(Status::invalid_argument("the first message must be a hello")),
        }
    }

    /// Ends a connection whose hello can't be served, and says why.
    async fn refuse(&self, outbound: &Outbound, caller: &Caller, status: Status) {
        self.door.turn_away(caller.address, status.message().to_owned());
        send(outbound, Err(status)).await;
        caller.arrival.refused();
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
        let mut drained = pin!(drained(&mut draining));
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
                    // The connection, not what came over it.
                    Err(status) if std::error::Error::source(&status).is_some() => {
                        info!(node = hello.node, reason = status.message(), "stream broke");
                        return End::Left;
                    }
                    Err(status) => return End::Broken(status),
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
                () = &mut drained => {
                    return End::Away(Reason::Draining, "the server stops".into());
                }
            }
        }
    }

    fn received(&self, session: &mut ServerSession, id: SessionId, message: AgentMessage) {
        match message.message {
            Some(agent_message::Message::Ack(ack)) => self.sessions.update(id, |info| {
                info.acked = ack.publication;
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

/// Ends at this session's time within the server's drain: spread, so that agents don't move all at once.
async fn drained(draining: &mut watch::Receiver<Option<Duration>>) {
    let window = match draining.wait_for(Option::is_some).await {
        Ok(window) => window.unwrap_or_default(),
        // The server is gone.
        Err(_) => Duration::ZERO,
    };
    tokio::time::sleep(window.mul_f64(rand::random())).await;
}

/// Sends; an agent that has gone doesn't need to hear it.
async fn send(outbound: &Outbound, message: Result<ServerMessage, Status>) {
    let _ = outbound.send(message).await;
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
