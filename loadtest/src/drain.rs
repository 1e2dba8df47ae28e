//! A simulated agent that only drains its stream: it looks at Commits and at nothing else, so that
//! very many of them cost less than the server that serves them.

use std::{
    cell::RefCell,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use proto::v1::{Ack, AgentHello, AgentMessage, Commit, StreamVersion, agent_message::Message};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpSocket, TcpStream},
    sync::watch,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

use crate::{
    fleet::Common,
    follower::{End, Follower, Simulated, pause, stopped},
    frames::{Frames, Word},
};

/// So many agents have one address: it has ports for fewer than thirty thousand.
const AGENTS_PER_ADDRESS: u32 = 10_000;
/// What is read at once.
const READ: usize = 64 * 1024;

thread_local! {
    /// One for all agents of a thread: nothing of what they read is kept.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
}

/// A connection as it is, or inside TLS.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// One agent.
pub(crate) struct Drain {
    follower: Follower,
    /// The store, and the version and publication of the last Commit.
    epoch: String,
    version: u64,
    publication: u64,
}

impl Drain {
    pub(crate) fn new(number: u32, common: Arc<Common>) -> Self {
        let follower = Follower::new(number, common, false);
        Self { follower, epoch: String::new(), version: 0, publication: 0 }
    }

    async fn serve(&mut self, stop: &mut watch::Receiver<bool>) -> io::Result<End> {
        let common = self.follower.common.clone();
        let mut stopped = pin!(stopped(stop));
        let mut line = {
            let _place = common.door.acquire().await;
            let hello = AgentMessage { message: Some(Message::Hello(self.hello())) };
            let server = self.follower.server();
            let authority = server.to_string();
            let frames = Frames::open(&authority, common.connector.is_some(), &hello);
            tokio::select! {
                io = connect(&common, server, self.follower.number) => Line { io: io?, frames },
                () = &mut stopped => return Ok(End::Stop),
            }
        };
        let mut words = Vec::new();
        loop {
            tokio::select! {
                turned = std::future::poll_fn(|cx| line.poll(cx, &mut words)) => turned?,
                () = pause(self.follower.due()) => {
                    self.follower.settle();
                    self.ack(&mut line);
                }
                () = &mut stopped => return Ok(End::Stop),
            }
            for word in words.drain(..) {
                match word {
                    Word::Commit(commit) => {
                        self.committed(&commit);
                        self.ack(&mut line);
                    }
                    Word::Hello(hello) => {
                        if hello.epoch != self.epoch {
                            (self.epoch, self.version) = (hello.epoch, 0);
                        }
                    }
                    Word::GoAway => return Ok(End::Again),
                    Word::End(why) => return Err(io::Error::other(why)),
                }
            }
        }
    }

    /// It holds nothing, and has seen something.
    fn hello(&self) -> AgentHello {
        let seen = StreamVersion { stream: 0, version: self.version };
        let vector = if self.version > 0 { vec![seen] } else { Vec::new() };
        AgentHello { epoch: self.epoch.clone(), vector, ..self.follower.hello() }
    }

    fn committed(&mut self, commit: &Commit) {
        let version = commit.vector.iter().find(|one| one.stream == 0);
        let version = version.map_or(self.version, |one| one.version);
        if version < self.version || commit.publication < self.publication {
            let (was, publication) = (self.version, self.publication);
            self.follower.out_of_order(format!(
                "a Commit of publication {} at version {version} came after one of {publication} at {was}",
                commit.publication
            ));
        }
        (self.version, self.publication) = (version, commit.publication);
        self.follower.committed(version, &[]);
    }

    fn ack(&mut self, line: &mut Line) {
        if self.follower.acks() {
            let ack = Ack { publication: self.publication, ..Ack::default() };
            line.frames.send(&AgentMessage { message: Some(Message::Ack(ack)) });
        }
    }
}

impl Simulated for Drain {
    async fn stream(&mut self, stop: &mut watch::Receiver<bool>) -> End {
        self.serve(stop).await.unwrap_or_else(|error| {
            tracing::info!(agent = self.follower.name, %error, "stream ended");
            End::Again
        })
    }

    fn disconnected(&mut self) {
        // Another server, or another run of it, counts anew.
        self.publication = 0;
        self.follower.disconnected();
    }

    fn finish(&mut self) {
        self.follower.finish();
    }

    fn follower(&self) -> &Follower {
        &self.follower
    }
}

/// An open connection.
struct Line {
    io: Box<dyn Io>,
    frames: Frames,
}

impl Line {
    /// Sends what is to be sent, and reads until there is a word.
    fn poll(&mut self, cx: &mut Context<'_>, words: &mut Vec<Word>) -> Poll<io::Result<()>> {
        loop {
            let out = self.frames.out();
            while !out.is_empty() {
                match Pin::new(&mut *self.io).poll_write(cx, out) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(count)) => drop(out.drain(..count)),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => break,
                }
            }
            if out.is_empty() && out.capacity() > 0 {
                *out = Vec::new();
                ready!(Pin::new(&mut *self.io).poll_flush(cx))?;
            }
            let count = ready!(BUFFER.with_borrow_mut(|buffer| {
                let mut buffer = ReadBuf::new(buffer);
                ready!(Pin::new(&mut *self.io).poll_read(cx, &mut buffer))?;
                self.frames.receive(buffer.filled(), words);
                Poll::Ready(io::Result::Ok(buffer.filled().len()))
            }))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
            if !words.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

async fn connect(common: &Common, server: SocketAddr, number: u32) -> io::Result<Box<dyn Io>> {
    let stream = match source(server, number) {
        Some(source) => {
            let socket = TcpSocket::new_v4()?;
            socket.bind(source)?;
            socket.connect(server).await?
        }
        None => TcpStream::connect(server).await?,
    };
    stream.set_nodelay(true)?;
    let Some(tls) = &common.connector else { return Ok(Box::new(stream)) };
    let name = ServerName::from(server.ip());
    Ok(Box::new(TlsConnector::from(tls.clone()).connect(name, stream).await?))
}

/// Another address of loopback for every so many agents.
fn source(server: SocketAddr, number: u32) -> Option<SocketAddr> {
    let IpAddr::V4(server) = server.ip() else { return None };
    let block = number / AGENTS_PER_ADDRESS;
    let more = (server.is_loopback() && block > 0)
        .then(|| Ipv4Addr::from_bits(u32::from(server).wrapping_add(block)));
    more.filter(Ipv4Addr::is_loopback).map(|address| SocketAddr::new(address.into(), 0))
}
