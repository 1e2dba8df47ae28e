//! The accept loop for agents: TLS, HTTP/2, and what a connection may use.
//!
//! ```text
//! accept --room in the door--> first byte --> TLS --> HTTP/2 --> gRPC --hello--> session
//!        |<------------------------ Limits::hello ---------------------->|
//! ```

use std::{
    convert::Infallible, future::poll_fn, io, net::SocketAddr, pin::pin, sync::Arc, task::Poll,
    time::Duration,
};

use futures::future::BoxFuture;
use hyper::{Request, Response, body::Incoming, server::conn::http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use identity::Certificate;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tokio_rustls::TlsAcceptor;
use tonic::body::Body;
use tracing::{debug, warn};

use crate::{
    access::Credential,
    door::{Arrival, Cause, Door, Limits, Stage},
    service::Service,
    streams::{Running, Streams},
    tls::Current,
};

/// The first byte of TLS: a record of the handshake.
const TLS_FIRST: u8 = 0x16;
/// The first byte of HTTP/2 in the clear: `PRI * HTTP/2.0`.
const HTTP2_FIRST: u8 = b'P';
/// What the kernel may hold for one agent; it doubles it.
const SEND_BUFFER: usize = 32 * 1024;
/// What may be queued for the connection of one agent: few frames, because room for many stays.
const SEND_QUEUE: usize = 16 * 1024;
/// What an agent may send before it is read.
const RECEIVE_WINDOW: u32 = 64 * 1024;
/// Streams of one connection.
const STREAMS: u32 = 2;
/// How long a connection without a session has to take what was written, and to go.
const FAREWELL: Duration = Duration::from_secs(1);
/// A pause after the system can't accept, for example for lack of files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a request knows of its connection.
pub(crate) struct Caller {
    pub(crate) address: SocketAddr,
    pub(crate) credential: Credential,
    pub(crate) arrival: Arrival,
    /// The hello must be there by then.
    pub(crate) deadline: Instant,
}

/// What all connections share.
pub(crate) struct Listener {
    pub(crate) tls: Option<watch::Receiver<Current>>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) door: Arc<Door>,
    pub(crate) service: Service,
    pub(crate) draining: watch::Receiver<bool>,
}

impl Listener {
    /// Accepts until the server drains, and ends when every connection has.
    pub(crate) async fn run(self: Arc<Self>, tcp: TcpListener) {
        let mut connections = JoinSet::new();
        let mut draining = self.draining.clone();
        let mut drained = pin!(draining.wait_for(|draining| *draining));
        loop {
            let accepted = tokio::select! {
                _ = &mut drained => break,
                Some(_) = connections.join_next() => continue,
                accepted = async { (self.door.room().await, tcp.accept().await) } => accepted,
            };
            match accepted {
                (room, Ok((stream, address))) => {
                    if let Some(arrival) = self.door.enter(room, address) {
                        connections.spawn(self.clone().connection(stream, address, arrival));
                    }
                }
                (_, Err(error)) => {
                    warn!(%error, "a connection can't be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(tcp);
        while connections.join_next().await.is_some() {}
    }

    /// What is only needed until there is a session is in a box of its own, and what both need is moved only
    /// once: else it would take up room for as long as the session lasts.
    fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        arrival: Arrival,
    ) -> impl Future<Output = ()> + Send {
        let met = Box::pin(self.clone().meet(stream, address, arrival));
        async move {
            match met.await {
                Some((Stream::Plain(stream), caller)) => self.serve(stream, caller).await,
                Some((Stream::Tls(stream), caller)) => self.serve(stream, caller).await,
                None => {}
            }
        }
    }

    /// Finds out who comes; none: it was turned away, or the server stops.
    async fn meet(
        self: Arc<Self>,
        stream: TcpStream,
        address: SocketAddr,
        arrival: Arrival,
    ) -> Option<(Stream, Arc<Caller>)> {
        let deadline = Instant::now() + self.limits.hello;
        if let Err(error) = options(&stream) {
            debug!(%address, %error, "socket options can't be set");
        }
        let mut draining = self.draining.clone();
        let secured = tokio::select! {
            // A stranger has nothing to lose.
            _ = draining.wait_for(|draining| *draining) => return None,
            secured = timeout_at(deadline, self.secure(stream)) => secured,
        };
        let refused = match secured {
            Ok(Ok((stream, credential))) => {
                return Some((stream, Arc::new(Caller { address, credential, arrival, deadline })));
            }
            Ok(Err(stranger)) => stranger,
            Err(_) => {
                self.door.turn_away(address, Cause::Late, self.late());
                return None;
            }
        };
        self.door.turn_away(address, Cause::Handshake, refused.reason);
        if let Some((stream, word)) = refused.last_word {
            part(stream, &word).await;
        }
        None
    }

    fn late(&self) -> String {
        format!("no hello within {} s", self.limits.hello.as_secs_f64())
    }

    /// Finds out who is at the other end; else what is wrong.
    async fn secure(&self, stream: TcpStream) -> Result<(Stream, Credential), Stranger> {
        let mut first = [0];
        let count = stream.peek(&mut first).await.map_err(|error| error.to_string())?;
        let Some(tls) = &self.tls else {
            return match first[0] {
                _ if count == 0 => Err("it hung up without a word".into()),
                HTTP2_FIRST => Ok((Stream::Plain(stream), Credential::None)),
                TLS_FIRST => {
                    let reason = "it speaks TLS, and this server has no certificate: give typha \
                                  --cert, --key and --ca, or take them from the agent";
                    Err(Stranger { reason: reason.into(), last_word: Some((stream, Vec::new())) })
                }
                _ => {
                    let reason = "what it says is no HTTP/2";
                    Err(Stranger { reason: reason.into(), last_word: Some((stream, Vec::new())) })
                }
            };
        };
        if count == 1 && first[0] == HTTP2_FIRST {
            let word = go_away("this server asks for TLS: give --cert, --key and --ca");
            let reason = "it speaks without TLS, and this server asks for TLS: give the agent \
                          --cert, --key and --ca";
            return Err(Stranger { reason: reason.into(), last_word: Some((stream, word)) });
        }
        let config = tls.borrow().config.clone();
        let mut stream = TlsAcceptor::from(config).accept(stream).await.map_err(|error| {
            identity::why(&error).unwrap_or_else(|| match error.kind() {
                io::ErrorKind::UnexpectedEof => "it hung up during the TLS handshake".into(),
                _ => error.to_string(),
            })
        })?;
        stream.get_mut().1.set_buffer_limit(Some(SEND_BUFFER));
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        // The verifier saw to it that there is one, unless a token may come in its place.
        let Some(leaf) = chain.first() else {
            return Ok((Stream::Tls(Box::new(stream)), Credential::Absent));
        };
        let certificate = Certificate::read(leaf).map_err(|error| error.to_string())?;
        Ok((Stream::Tls(Box::new(stream)), Credential::Certificate(certificate)))
    }

    fn http<S>(self: &Arc<Self>, stream: S, caller: Arc<Caller>, streams: &Streams) -> Http<S>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = Requests { listener: self.clone(), caller };
        http2::Builder::new(streams.clone())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_send_buf_size(SEND_QUEUE)
            .max_header_list_size(16 * 1024)
            // Nobody reads it, and each connection would remember it for a second answer.
            .auto_date_header(false)
            .initial_stream_window_size(RECEIVE_WINDOW)
            .initial_connection_window_size(RECEIVE_WINDOW)
            .keep_alive_interval(self.limits.ping)
            .keep_alive_timeout(self.limits.ping_timeout)
            .serve_connection(TokioIo::new(stream), service)
    }

    /// Serves a connection to its end.
    async fn serve<S>(self: Arc<Self>, stream: S, caller: Arc<Caller>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let streams = Streams::default();
        let mut running = Running::new(&streams);
        let mut connection = pin!(self.http(stream, caller.clone(), &streams));
        // Nothing of it is needed during a session, which is ended by others.
        let mut wait = Some(stranger(caller.deadline, self.draining.clone()));
        let mut over = false;
        loop {
            let now = caller.arrival.stage();
            match now {
                Stage::In(_) if !over => wait = None,
                Stage::Over | Stage::Cut if !over => {
                    // What its last session said still goes out.
                    over = true;
                    connection.as_mut().graceful_shutdown();
                    wait = Some(Box::pin(farewell()));
                }
                _ => {}
            }
            tokio::select! {
                result = running.drive(connection.as_mut()) => {
                    // It may have come in since, and left as soon as it had what it wanted.
                    if caller.arrival.stage() == Stage::Waiting && !over {
                        let reason = match result {
                            Ok(()) => "it left without a hello".into(),
                            Err(error) => reason(&error),
                        };
                        self.door.turn_away(caller.address, Cause::Left, reason);
                    }
                    return;
                }
                () = caller.arrival.left(now) => {}
                end = passed(&mut wait) => {
                    if over || end == Wait::Drained {
                        return;
                    }
                    let now = caller.arrival.stage();
                    if !matches!(now, Stage::Waiting | Stage::Visiting) {
                        // It has come in at the last moment.
                        continue;
                    }
                    // A stream without a hello is told by its session, and ends then.
                    if now == Stage::Waiting {
                        self.door.turn_away(caller.address, Cause::Late, self.late());
                    }
                    over = true;
                    connection.as_mut().graceful_shutdown();
                    wait = Some(Box::pin(farewell()));
                }
            }
        }
    }
}

/// What ends a connection without a session.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Time,
    /// The server stops.
    Drained,
}

/// Waits for what ends the connection of somebody who has not come in.
fn stranger(deadline: Instant, mut draining: watch::Receiver<bool>) -> BoxFuture<'static, Wait> {
    Box::pin(async move {
        tokio::select! {
            () = sleep_until(deadline) => Wait::Time,
            _ = draining.wait_for(|draining| *draining) => Wait::Drained,
        }
    })
}

async fn farewell() -> Wait {
    sleep(FAREWELL).await;
    Wait::Time
}

/// What was waited for; never, without anything.
fn passed(wait: &mut Option<BoxFuture<'static, Wait>>) -> impl Future<Output = Wait> {
    poll_fn(|cx| wait.as_mut().map_or(Poll::Pending, |wait| wait.as_mut().poll(cx)))
}

/// A connection of HTTP/2.
type Http<S> = http2::Connection<TokioIo<S>, Requests, Streams>;

/// The requests of one connection.
struct Requests {
    listener: Arc<Listener>,
    caller: Arc<Caller>,
}

impl hyper::service::Service<Request<Incoming>> for Requests {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn call(&self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.caller.clone());
        self.listener.service.call(request)
    }
}

/// Somebody who doesn't come in, why, and what is left to say.
struct Stranger {
    reason: String,
    last_word: Option<(TcpStream, Vec<u8>)>,
}

impl<T: Into<String>> From<T> for Stranger {
    fn from(reason: T) -> Self {
        Self { reason: reason.into(), last_word: None }
    }
}

/// A connection as it is, or inside TLS: in a box, else one without would be as large.
enum Stream {
    Plain(TcpStream),
    Tls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
}

/// Says a last word. What was sent is read first, a little of it: else the system cuts the connection
/// before the word is heard.
async fn part(mut stream: TcpStream, word: &[u8]) {
    let told = async {
        stream.write_all(word).await?;
        stream.shutdown().await?;
        let mut rest = [0; 1024];
        for _ in 0..64 {
            if stream.read(&mut rest).await? == 0 {
                break;
            }
        }
        io::Result::Ok(())
    };
    // Who has gone needn't hear it.
    let _ = tokio::time::timeout(FAREWELL, told).await;
}

fn options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(Duration::from_mins(1)))
}

/// What broke a connection, down to its cause.
fn reason(error: &hyper::Error) -> String {
    use std::error::Error as _;
    if let Some(reason) = identity::why(error) {
        return reason;
    }
    let mut text = error.to_string();
    if let Some(source) = error.source() {
        text = format!("{text}: {source}");
    }
    text
}

/// What an HTTP/2 client understands before it has said anything: empty SETTINGS, and GOAWAY with the
/// reason (RFC 9113, 6.5 and 6.8; 0xc: `INADEQUATE_SECURITY`).
fn go_away(text: &str) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
    let length = 8 + text.len() as u32;
    bytes.extend_from_slice(&length.to_be_bytes()[1..]);
    bytes.extend_from_slice(&[7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xc]);
    bytes.extend_from_slice(text.as_bytes());
    bytes
}
