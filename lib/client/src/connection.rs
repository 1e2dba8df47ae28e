//! One stream to one server.

use std::{collections::VecDeque, error::Error, future::poll_fn, sync::Arc, time::Duration};

use bytes::{BufMut as _, Bytes};
use futures::StreamExt as _;
use http::{HeaderValue, Request, Uri, header};
use http_body_util::StreamBody;
use hyper::body::Frame;
use prost::Message as _;
use proto::v1::{AgentHello, AgentMessage, ServerMessage, agent_message::Message, server_message};
use sync::{ClientSession, Event};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
};
use tokio_rustls::TlsConnector;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Status,
    body::Body,
    transport::{Channel, Endpoint},
};
use tower_service::Service as _;

use crate::{DEFAULT_PORT, StreamError, Tls, connector::Connector, inbound::Inbound};

/// How long a server may take to accept a connection, then to answer, then to say hello.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A server that says nothing for so many heartbeats is gone.
const MISSED_HEARTBEATS: u32 = 3;
/// Whatever a server says of itself, heartbeats are waited for as if they came at least so often, in seconds.
const RAREST_HEARTBEAT: u32 = 100;
/// The stream of an agent.
const SYNC: &str = "/bulrush.v1.Typha/Sync";
/// Messages that the transport holds for a server that doesn't read them.
const IN_FLIGHT: usize = 16;

/// An open stream.
pub struct Connection {
    address: String,
    inbound: Inbound,
    outbound: mpsc::Sender<AgentMessage>,
    /// What the transport has no room for. The newest ack and status only, so it is bounded by the
    /// number of topics that are asked for again.
    queue: VecDeque<AgentMessage>,
    /// How long the server may be silent, deaf, or owe a topic.
    silence: Duration,
    heard: Instant,
    /// Since when the server takes nothing of the queue.
    blocked: Option<Instant>,
    /// Since when topics that came out differently have not come again.
    owed: Option<Instant>,
    committed: bool,
}

impl Connection {
    /// Connects to `address` (`HOST`, `HOST:PORT`, or a URL) in the clear, and says hello.
    pub async fn open(address: &str, hello: AgentHello) -> Result<Self, StreamError> {
        Self::open_with(address, None, hello).await
    }

    /// Connects to `address` (`HOST`, `HOST:PORT`, or a URL), over TLS where it is given, and says
    /// hello.
    pub async fn open_with(
        address: &str,
        tls: Option<&Tls>,
        hello: AgentHello,
    ) -> Result<Self, StreamError> {
        let token = bearer(address, tls)?;
        let channel = connect(address, tls).await?;
        let (outbound, messages) = mpsc::channel(IN_FLIGHT);
        // The channel is new and has room.
        let _ = outbound.try_send(AgentMessage { message: Some(Message::Hello(hello)) });
        let call = timeout(CONNECT_TIMEOUT, call(channel, request(messages, token))).await;
        let call = call.map_err(|_| StreamError::Unanswered {
            address: address.to_owned(),
            seconds: CONNECT_TIMEOUT.as_secs(),
        })?;
        let inbound = call.map_err(|status| {
            if tls.is_some() {
                return broken(address, &status);
            }
            let reason = status.source().map_or_else(|| status.message().to_owned(), sources);
            StreamError::HungUp { address: address.to_owned(), reason }
        })?;
        Ok(Self {
            address: address.to_owned(),
            inbound,
            outbound,
            queue: VecDeque::new(),
            // Until the hello says how often heartbeats come.
            silence: CONNECT_TIMEOUT,
            heard: Instant::now(),
            blocked: None,
            owed: None,
            committed: false,
        })
    }

    /// The server's address, as it was given.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Waits for the next message, and gives it to the session. Dropping the future loses nothing.
    pub async fn next(&mut self, session: &mut ClientSession) -> Result<Event, StreamError> {
        let message = self.message().await?;
        let event = session
            .receive(message)
            .map_err(|error| StreamError::Protocol { address: self.address.clone(), error })?;
        self.owed = session.is_waiting().then(|| self.owed.unwrap_or_else(Instant::now));
        Ok(event)
    }

    /// Waits for the next message, for callers that look at it before a session does. Dropping the
    /// future loses nothing.
    pub async fn message(&mut self) -> Result<ServerMessage, StreamError> {
        loop {
            let patience = self.patience();
            let message = tokio::select! {
                message = self.inbound.message() => message,
                permit = self.outbound.reserve(), if !self.queue.is_empty() => {
                    match (permit, self.queue.pop_front()) {
                        (Ok(permit), Some(message)) => permit.send(message),
                        // The stream is over, and says so itself.
                        _ => self.queue.clear(),
                    }
                    self.blocked = (!self.queue.is_empty()).then(Instant::now);
                    continue;
                }
                () = sleep_until(patience) => return Err(self.gave_up()),
            };
            return self.received(message);
        }
    }

    /// Sends a message; without room in the transport, from within [`Connection::next`]. An ack or a
    /// status takes the place of an older one that is still here.
    pub fn send(&mut self, message: AgentMessage) {
        let message = if self.queue.is_empty() {
            match self.outbound.try_send(message) {
                Err(mpsc::error::TrySendError::Full(message)) => message,
                // A server that has gone is noticed by `next`.
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => return,
            }
        } else {
            message
        };
        self.blocked.get_or_insert_with(Instant::now);
        let replaces = |old: &&mut AgentMessage| {
            let pair = (&old.message, &message.message);
            let acks = matches!(pair, (Some(Message::Ack(_)), Some(Message::Ack(_))));
            acks || matches!(pair, (Some(Message::Status(_)), Some(Message::Status(_))))
        };
        match self.queue.iter_mut().find(replaces) {
            Some(old) => *old = message,
            None => self.queue.push_back(message),
        }
    }

    fn received(
        &mut self,
        message: Result<Option<ServerMessage>, Status>,
    ) -> Result<ServerMessage, StreamError> {
        let ended = |reason: &str| StreamError::Ended {
            address: self.address.clone(),
            reason: reason.into(),
        };
        let message = message
            .map_err(|status| match identity::why(&status) {
                Some(reason) => StreamError::Handshake { address: self.address.clone(), reason },
                None => ended(status.message()),
            })?
            .ok_or_else(|| ended("it closed the stream"))?;
        match &message.message {
            Some(server_message::Message::Hello(hello)) => {
                self.silence = silence(hello.heartbeat_seconds);
            }
            Some(server_message::Message::Commit(_)) => self.committed = true,
            _ => {}
        }
        // A server that has nothing to say says so; but the first Commit it owes.
        let heartbeat = matches!(message.message, Some(server_message::Message::Heartbeat(_)));
        if self.committed || !heartbeat {
            self.heard = Instant::now();
        }
        Ok(message)
    }

    /// When the server is given up.
    fn patience(&self) -> Instant {
        let since = [Some(self.heard), self.blocked, self.owed];
        since.into_iter().flatten().min().unwrap_or(self.heard) + self.silence
    }

    fn gave_up(&self) -> StreamError {
        let (address, seconds) = (self.address.clone(), self.silence.as_secs());
        let over =
            |since: Option<Instant>| since.is_some_and(|since| since.elapsed() >= self.silence);
        if over(self.owed) {
            StreamError::NoResync { address, seconds }
        } else if over(self.blocked) {
            StreamError::Deaf { address, seconds }
        } else {
            StreamError::Silent { address, seconds }
        }
    }
}

/// How long a server may be silent that says how often its heartbeats come.
fn silence(heartbeat_seconds: u32) -> Duration {
    Duration::from_secs(heartbeat_seconds.clamp(1, RAREST_HEARTBEAT).into()) * MISSED_HEARTBEATS
}

/// The token as the server reads it.
fn bearer(address: &str, tls: Option<&Tls>) -> Result<Option<HeaderValue>, StreamError> {
    let Some(path) = tls.and_then(|tls| tls.token.as_ref()) else { return Ok(None) };
    let fault = |reason: String| StreamError::Token {
        address: address.to_owned(),
        path: path.clone(),
        reason,
    };
    let text = std::fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
    let value = HeaderValue::try_from(format!("Bearer {}", text.trim()));
    let mut value = value.map_err(|_| fault("it holds no token but other text".to_owned()))?;
    value.set_sensitive(true);
    Ok(Some(value))
}

/// The call of an agent, which says these messages.
fn request(messages: mpsc::Receiver<AgentMessage>, token: Option<HeaderValue>) -> Request<Body> {
    let frames = ReceiverStream::new(messages).map(|message| Ok::<_, Status>(framed(&message)));
    let mut request = Request::new(Body::new(StreamBody::new(frames)));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = Uri::from_static(SYNC);
    let headers = request.headers_mut();
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-accept-encoding", HeaderValue::from_static("zstd,identity"));
    headers.extend(token.map(|token| (header::AUTHORIZATION, token)));
    request
}

fn framed(message: &AgentMessage) -> Frame<Bytes> {
    let length = message.encoded_len();
    let mut bytes = Vec::with_capacity(5 + length);
    // Not packed; then the length.
    bytes.put_u8(0);
    bytes.put_u32(length as u32);
    message.encode_raw(&mut bytes);
    Frame::data(bytes.into())
}

/// Makes the call. The server's answer begins before it has read the hello.
async fn call(mut channel: Channel, request: Request<Body>) -> Result<Inbound, Status> {
    let failed = |error: tonic::transport::Error| Status::from_error(error.into());
    poll_fn(|cx| channel.poll_ready(cx)).await.map_err(failed)?;
    let (head, body) = channel.call(request).await.map_err(failed)?.into_parts();
    match Status::from_header_map(&head.headers) {
        Some(status) if status.code() != Code::Ok => Err(status),
        _ if !head.status.is_success() => {
            Err(Status::unknown(format!("it answers with HTTP status {}", head.status)))
        }
        _ => Ok(Inbound::new(body)),
    }
}

async fn connect(address: &str, tls: Option<&Tls>) -> Result<Channel, StreamError> {
    let endpoint = Endpoint::from_shared(url(address))
        .map_err(|error| StreamError::Address {
            address: address.to_owned(),
            reason: error.to_string(),
        })?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(1024 * 1024);
    let connecting = async {
        let Some(tls) = tls else { return Ok(endpoint.connect().await) };
        let config = tls.files.read().and_then(|read| read.client(tls.check.clone()));
        let config =
            config.map_err(|error| StreamError::Tls { address: address.to_owned(), error })?;
        let connector = Connector { tls: TlsConnector::from(Arc::new(config)) };
        Ok(endpoint.connect_with_connector(connector).await)
    };
    // The endpoint's own limit doesn't cover every step.
    let connected = timeout(CONNECT_TIMEOUT * 2, connecting).await;
    let connected = connected.map_err(|_| StreamError::Unanswered {
        address: address.to_owned(),
        seconds: 2 * CONNECT_TIMEOUT.as_secs(),
    })?;
    connected?.map_err(|error| broken(address, &error))
}

/// The address with what was left out.
fn url(address: &str) -> String {
    if address.contains("://") {
        return address.to_owned();
    }
    let has_port = match address.rsplit_once(']') {
        Some((_, after)) => after.starts_with(':'),
        None => address.contains(':'),
    };
    if has_port { format!("http://{address}") } else { format!("http://{address}:{DEFAULT_PORT}") }
}

/// A connection that did not come about: by TLS, or else.
fn broken(address: &str, error: &(dyn Error + 'static)) -> StreamError {
    let address = address.to_owned();
    match identity::why(error) {
        Some(reason) => StreamError::Handshake { address, reason },
        None => StreamError::Unreachable { address, reason: sources(error) },
    }
}

/// An error with what caused it: transports hide the reason below "transport error".
fn sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Duration, silence, url};

    #[test]
    fn a_server_cannot_make_an_agent_wait_for_ever_by_rare_heartbeats() {
        assert_eq!(silence(10), Duration::from_secs(30));
        assert_eq!(silence(0), Duration::from_secs(3));
        assert_eq!(silence(u32::MAX), Duration::from_mins(5));
    }

    #[test]
    fn a_28_an_address_without_a_port_is_of_port_5473() {
        assert_eq!(url("typha.example"), "http://typha.example:5473");
        assert_eq!(url("10.0.0.1:80"), "http://10.0.0.1:80");
        assert_eq!(url("[fd00::1]"), "http://[fd00::1]:5473");
        assert_eq!(url("[fd00::1]:80"), "http://[fd00::1]:80");
        assert_eq!(url("http://a:1"), "http://a:1");
    }
}
