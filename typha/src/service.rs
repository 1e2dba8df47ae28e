//! The gRPC services of the agents' port: which one a request is for, and how a session begins.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use datastore::kubernetes::Tokens;
use futures::future::BoxFuture;
use hyper::{Request, Response, body::Incoming, header};
use identity::SharedName;
use pipeline::StoreState;
use proto::v1::{AgentHello, AgentMessage, GoAway, agent_message, go_away::Reason};
use sync::{Encoding, ServerSession};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tonic::{Code, Status, body::Body};
use tower_service::Service as _;
use tracing::info;

use crate::{
    access::{self, Credential},
    body::{Opened, SessionBody, go_away},
    chunks::Chunks,
    door::{Cause, Door, Limits, Stage},
    health::Health,
    inbound::{Inbound, InboundError},
    listener::Caller,
    live::Live,
    rounds::Rounds,
    sessions::Sessions,
    traffic::Traffic,
    writer::Published,
};

/// The stream of an agent.
const SYNC: &str = "/bulrush.v1.Typha/Sync";
/// The health checks of gRPC.
const HEALTH: &str = "/grpc.health.v1.Health/";

/// What every session reads.
pub(crate) struct Shared {
    pub(crate) published: watch::Receiver<Option<Arc<Published>>>,
    pub(crate) store: watch::Receiver<StoreState>,
    pub(crate) sessions: Arc<Sessions>,
    pub(crate) traffic: Traffic,
    pub(crate) rounds: Rounds,
    pub(crate) chunks: Chunks,
    pub(crate) max_sessions: usize,
    pub(crate) limits: Limits,
    pub(crate) door: Arc<Door>,
    /// Who believes tokens; none: nobody does.
    pub(crate) tokens: Option<Tokens>,
    /// A name by which the certificates of all agents are believed.
    pub(crate) agents_name: Option<SharedName>,
    /// Other servers, for agents that this one sends away.
    pub(crate) alternatives: Vec<String>,
    /// The server stops.
    pub(crate) draining: watch::Receiver<bool>,
}

impl Shared {
    /// The word of parting.
    pub(crate) fn go_away(&self, why: Reason, text: &str) -> GoAway {
        GoAway {
            why: why.into(),
            after_milliseconds: 0,
            others: self.alternatives.clone(),
            message: text.to_owned(),
        }
    }
}

/// The services.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) shared: Arc<Shared>,
    pub(crate) health: Health,
}

impl Service {
    /// Answers a request.
    pub(crate) fn call(
        &self,
        request: Request<Incoming>,
    ) -> BoxFuture<'static, Result<Response<Body>, Infallible>> {
        let path = request.uri().path();
        if path.starts_with(HEALTH) {
            if let Some(caller) = request.extensions().get::<Arc<Caller>>() {
                caller.arrival.visits();
            }
            return self.health.clone().call(request);
        }
        let response = if path == SYNC {
            self.sync(request)
        } else {
            Status::unimplemented(format!("no method {path}: this port serves {SYNC}")).into_http()
        };
        Box::pin(async move { Ok(response) })
    }

    fn sync(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let Some(caller) = head.extensions.get::<Arc<Caller>>().cloned() else {
            return Status::internal("a stream without a connection").into_http();
        };
        // No message of an agent is large enough to win by it, and what it unpacks to can't be known
        // before.
        if let Some(packed) = head.headers.get("grpc-encoding").filter(|name| *name != "identity") {
            let text = format!("this server takes messages as they are, not packed as {packed:?}");
            let refusal = Status::unimplemented(text);
            let text = refusal.message().to_owned();
            self.shared.door.turn_away(caller.address, Cause::Hello, text);
            caller.arrival.refused();
            let mut response = refusal.into_http();
            let identity = header::HeaderValue::from_static("identity");
            response.headers_mut().insert("grpc-accept-encoding", identity);
            return response;
        }
        let encoding = if takes_zstd(&head.headers) { Encoding::Zstd } else { Encoding::Identity };
        let limits = &self.shared.limits;
        let inbound = Inbound::new(body, limits.hello_bytes, limits.message_bytes);
        let arrival = caller.arrival.clone();
        let token = head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = token.and_then(|text| text.strip_prefix("Bearer ")).map(str::to_owned);
        let opening = self.shared.clone().open(inbound, caller, token, encoding);
        let mut response = Response::new(Body::new(SessionBody::new(opening, arrival)));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, tonic::metadata::GRPC_CONTENT_TYPE);
        if encoding == Encoding::Zstd {
            headers.insert("grpc-encoding", header::HeaderValue::from_static("zstd"));
        }
        // Else the connection would keep a table of them for a second answer.
        headers.values_mut().for_each(|value| value.set_sensitive(true));
        response
    }
}

/// Whether `grpc-accept-encoding` names zstd.
fn takes_zstd(headers: &header::HeaderMap) -> bool {
    let named = headers.get_all("grpc-accept-encoding").into_iter();
    let words = named.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    words.into_iter().any(|word| word.trim() == "zstd")
}

impl Shared {
    /// Reads the hello, and begins a session if it may.
    async fn open(
        self: Arc<Self>,
        mut inbound: Inbound,
        caller: Arc<Caller>,
        token: Option<String>,
        encoding: Encoding,
    ) -> Opened {
        let address = caller.address;
        let hello = match self.hello(&mut inbound, &caller).await {
            Ok(Some(hello)) => hello,
            Ok(None) | Err(InboundError::Gone(_)) => {
                let reason = "it closed the stream without a hello";
                self.door.turn_away(address, Cause::Left, reason.into());
                caller.arrival.refused();
                return Opened::Refused(Bytes::new(), Status::ok(""));
            }
            // The connection notes those that are late.
            Err(InboundError::Broken(status)) if status.code() == Code::DeadlineExceeded => {
                return Opened::Refused(Bytes::new(), status);
            }
            Err(InboundError::Broken(status)) => return self.refuse(&caller, status),
        };
        let published = self.published.borrow().clone();
        let Some(published) = published else {
            let text = self.store.borrow().why_not_in_sync();
            return self.send_away(&caller, Reason::NotSynced, &text);
        };
        let session = match ServerSession::new(&hello, published.facts.clone()) {
            Ok(session) => session,
            Err(refusal) => {
                return self.refuse(&caller, Status::invalid_argument(refusal.to_string()));
            }
        };
        let mut believed = None;
        if let (Credential::Absent, Some(tokens), Some(token)) =
            (&caller.credential, &self.tokens, &token)
        {
            match tokens.review(token).await {
                Ok(Ok(holder)) => believed = Some(Credential::Token(holder)),
                Ok(Err(refusal)) => {
                    return self.refuse(&caller, Status::permission_denied(refusal));
                }
                // Whose it is isn't known: another server, or another time, may know.
                Err(error) => {
                    let text = format!("the token can't be reviewed: {error}");
                    return self.send_away(&caller, Reason::NotSynced, &text);
                }
            }
        }
        let credential = believed.as_ref().unwrap_or(&caller.credential);
        if let Err(text) = access::check(credential, &hello, self.agents_name.as_ref()) {
            return self.refuse(&caller, Status::permission_denied(text));
        }
        if *self.draining.borrow() {
            return self.send_away(&caller, Reason::Draining, "the server stops");
        }
        if !self.sessions.have_room(&hello, self.max_sessions) {
            let text = format!("this server serves {} agents, its limit", self.max_sessions);
            return self.send_away(&caller, Reason::Full, &text);
        }
        let welcome = caller.arrival.welcome();
        let until = match credential {
            Credential::Token(holder) => Some(holder.until.into()),
            _ => None,
        };
        let opened = self.sessions.open(
            &hello,
            session.subscription().clone(),
            address,
            caller.arrival.clone(),
        );
        let facts = published.facts.clone();
        let live = Live::begin(self, opened, session, facts, inbound, until, encoding);
        info!(node = hello.node, %address, "session opened");
        Opened::Session(Box::new(live), welcome)
    }

    /// The first message, which must be a hello; none: the agent left.
    async fn hello(
        &self,
        inbound: &mut Inbound,
        caller: &Caller,
    ) -> Result<Option<AgentHello>, InboundError> {
        let deadline = match caller.arrival.stage() {
            Stage::Waiting | Stage::Visiting => caller.deadline,
            // A second stream of a connection that has come in.
            Stage::In(_) | Stage::Over | Stage::Cut => Instant::now() + self.limits.hello,
        };
        let late = |_| {
            let seconds = self.limits.hello.as_secs_f64();
            InboundError::Broken(Status::deadline_exceeded(format!("no hello within {seconds} s")))
        };
        match timeout_at(deadline, inbound.message()).await.map_err(late)?? {
            None => Ok(None),
            Some(AgentMessage { message: Some(agent_message::Message::Hello(hello)) }) => {
                Ok(Some(hello))
            }
            Some(_) => {
                let status = Status::invalid_argument("the first message must be a hello");
                Err(InboundError::Broken(status))
            }
        }
    }

    /// Ends a connection whose hello can't be served, and says why.
    fn refuse(&self, caller: &Caller, status: Status) -> Opened {
        let cause = match status.code() {
            Code::PermissionDenied => Cause::Identity,
            _ => Cause::Hello,
        };
        self.door.turn_away(caller.address, cause, status.message().to_owned());
        caller.arrival.refused();
        Opened::Refused(Bytes::new(), status)
    }

    /// Ends a connection that could have been served, at another time or by another server.
    fn send_away(&self, caller: &Caller, why: Reason, text: &str) -> Opened {
        self.door.count(if why == Reason::Full { Cause::Full } else { Cause::NotReady });
        caller.arrival.refused();
        Opened::Refused(go_away(self.go_away(why, text)), Status::unavailable(text))
    }
}

/// What time alone brings to sessions.
pub(crate) async fn sweep(shared: Arc<Shared>, quiet: Duration) {
    let patience = shared.limits.patience(quiet);
    let interval = patience.stall.div_f64(4.0).min(Duration::from_secs(1));
    let mut turns = 0_u32;
    loop {
        tokio::time::sleep(interval).await;
        shared.sessions.sweep(&patience);
        if !shared.alternatives.is_empty()
            && let Some(published) = shared.published.borrow().clone()
        {
            let nodes = published.snapshot.nodes().count();
            shared.sessions.balance(nodes, shared.alternatives.len() + 1);
        }
        turns += 1;
        if interval * turns >= FORGET_AFTER {
            turns = 0;
            if let Some(published) = shared.published.borrow().clone() {
                published.snapshot.forget_unused();
            }
        }
    }
}

/// Whole topics that no session has asked for in this time, twice, are no longer kept encoded.
const FORGET_AFTER: Duration = Duration::from_secs(5);
