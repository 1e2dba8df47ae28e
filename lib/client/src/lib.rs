//! The agent's side of a stream to typha: connects, and turns messages into events of the session.
//!
//! Every client of a server uses it: the agent, `bulrush watch`, and simulated agents.

use std::{
    error::Error,
    io,
    path::PathBuf,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use identity::{Files, ServerCheck, TlsError};
use proto::v1::{
    AgentHello, AgentMessage, ServerMessage, agent_message, server_message,
    typha_client::TyphaClient,
};
use sync::{ClientError, ClientSession, Event};
use tokio::{io::AsyncBufReadExt as _, net::TcpStream, sync::mpsc, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream, rustls::pki_types::ServerName};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Streaming,
    transport::{Channel, Endpoint, Uri},
};
use tower_service::Service;

/// How long a server may take to answer a new connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Where a typha listens unless an address says otherwise.
const DEFAULT_PORT: u16 = 5473;
/// A server that says nothing for so many heartbeats is gone.
const MISSED_HEARTBEATS: u32 = 3;

/// With what a client proves who it is, and how it knows the server.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Read at each connect: a renewed certificate needs no restart.
    pub files: Files,
    /// What the server's certificate must say.
    pub check: ServerCheck,
}

impl Tls {
    /// What the flags say; none: in the clear.
    pub fn given(
        certificate: Option<PathBuf>,
        key: Option<PathBuf>,
        ca: Option<PathBuf>,
        verify_host: bool,
    ) -> Result<Option<Self>, TlsError> {
        let check = if verify_host { ServerCheck::Host } else { ServerCheck::Typha };
        Ok(Files::given(certificate, key, ca)?.map(|files| Self { files, check }))
    }
}

/// Why there is no stream, or no longer one.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The address is none.
    #[error("{address:?} is no address of a server (example: 10.0.0.1:5473): {reason}")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The own certificate, key or CA.
    #[error("no TLS to typha at {address}: {error}")]
    Tls {
        /// Where.
        address: String,
        /// What is wrong with the files.
        error: TlsError,
    },
    /// One of the two refuses the other's certificate, or the other speaks no TLS.
    #[error("no TLS with typha at {address}: {reason}")]
    Handshake {
        /// Where.
        address: String,
        /// What was seen.
        reason: String,
    },
    /// Nobody answers.
    #[error("typha at {address} can't be reached: {reason}; is it running, and is that its port?")]
    Unreachable {
        /// Where.
        address: String,
        /// What was seen.
        reason: String,
    },
    /// It answers, and hangs up on a client in the clear.
    #[error(
        "typha at {address} hung up: {reason}; if it asks for TLS, give --cert, --key and --ca"
    )]
    HungUp {
        /// Where.
        address: String,
        /// What was seen.
        reason: String,
    },
    /// The stream broke, or the server refused.
    #[error("typha at {address} ended the stream: {reason}")]
    Ended {
        /// Where.
        address: String,
        /// The server's or the transport's word.
        reason: String,
    },
    /// The server said nothing for too long.
    #[error("typha at {address} has said nothing for {seconds} s")]
    Silent {
        /// Where.
        address: String,
        /// For how long.
        seconds: u64,
    },
    /// What came is not of the protocol.
    #[error("typha at {address} broke the protocol: {error}")]
    Protocol {
        /// Where.
        address: String,
        /// What.
        error: ClientError,
    },
}

/// An open stream.
pub struct Connection {
    address: String,
    inbound: Streaming<ServerMessage>,
    outbound: mpsc::Sender<AgentMessage>,
    silence: Duration,
}

impl Connection {
    /// Connects to `address` (`HOST:PORT`, or a URL) in the clear, and says hello.
    pub async fn open(address: &str, hello: AgentHello) -> Result<Self, StreamError> {
        Self::open_with(address, None, hello).await
    }

    /// Connects to `address` (`HOST:PORT`, or a URL), over TLS where it is given, and says hello.
    pub async fn open_with(
        address: &str,
        tls: Option<&Tls>,
        hello: AgentHello,
    ) -> Result<Self, StreamError> {
        let url =
            if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        let endpoint = Endpoint::from_shared(url)
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
        let channel: Channel = match tls {
            None => endpoint.connect().await,
            Some(tls) => {
                let config = tls.files.read().and_then(|read| read.client(tls.check));
                let config = config
                    .map_err(|error| StreamError::Tls { address: address.to_owned(), error })?;
                let connector = Connector { tls: TlsConnector::from(Arc::new(config)) };
                endpoint.connect_with_connector(connector).await
            }
        }
        .map_err(|error| broken(address, &error))?;
        let (outbound, messages) = mpsc::channel(16);
        let hello = AgentMessage { message: Some(agent_message::Message::Hello(hello)) };
        // The channel is new and has room.
        let _ = outbound.try_send(hello);
        let call = TyphaClient::new(channel).sync(ReceiverStream::new(messages)).await;
        let inbound = call.map_err(|status| {
            if tls.is_some() {
                return broken(address, &status);
            }
            let reason = status.source().map_or_else(|| status.message().to_owned(), sources);
            StreamError::HungUp { address: address.to_owned(), reason }
        })?;
        let inbound = inbound.into_inner();
        // Until the hello says how often heartbeats come.
        let silence = CONNECT_TIMEOUT;
        Ok(Self { address: address.to_owned(), inbound, outbound, silence })
    }

    /// The server's address, as it was given.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Waits for the next message, and gives it to the session. Dropping the future loses nothing.
    pub async fn next(&mut self, session: &mut ClientSession) -> Result<Event, StreamError> {
        let message = self.message().await?;
        session
            .receive(message)
            .map_err(|error| StreamError::Protocol { address: self.address.clone(), error })
    }

    /// Waits for the next message, for callers that look at it before a session does. Dropping the
    /// future loses nothing.
    pub async fn message(&mut self) -> Result<ServerMessage, StreamError> {
        let message = timeout(self.silence, self.inbound.message()).await.map_err(|_| {
            let seconds = self.silence.as_secs();
            StreamError::Silent { address: self.address.clone(), seconds }
        })?;
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
        if let Some(server_message::Message::Hello(hello)) = &message.message {
            let heartbeat = u64::from(hello.heartbeat_seconds.max(1));
            self.silence = Duration::from_secs(heartbeat) * MISSED_HEARTBEATS;
        }
        Ok(message)
    }

    /// Sends a message. A server that has gone is noticed by [`Connection::next`].
    pub async fn send(&self, message: AgentMessage) {
        let _ = self.outbound.send(message).await;
    }
}

/// The other side left the handshake without a word.
#[derive(Debug, thiserror::Error)]
#[error("it hung up during the TLS handshake: does it speak TLS on that port?")]
struct HungUp;

/// Makes connections over TLS.
#[derive(Clone)]
struct Connector {
    tls: TlsConnector,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let tls = self.tls.clone();
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let port = uri.port_u16().unwrap_or(DEFAULT_PORT);
            let tcp = TcpStream::connect((host.as_str(), port)).await?;
            tcp.set_nodelay(true)?;
            let name = ServerName::try_from(host).map_err(io::Error::other)?;
            let mut stream = tls.connect(name, tcp).await.map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => io::Error::other(HungUp),
                _ => error,
            })?;
            // In TLS 1.3 a client is done before the server has looked at its certificate: that the
            // server speaks shows that it was accepted.
            if stream.fill_buf().await?.is_empty() {
                return Err(io::Error::other(HungUp));
            }
            Ok(TokioIo::new(stream))
        })
    }
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
fn sources(error: &dyn std::error::Error) -> String {
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
