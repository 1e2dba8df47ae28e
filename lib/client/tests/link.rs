//! A link and servers that misbehave, each in its own way: it is never stuck, and comes to one that serves.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bulrush_client::{Link, News, Options, StreamError};
use proto::v1::{
    AgentHello, AgentMessage, Behind, Commit, Digest, GoAway, Heartbeat, Replace, ServerHello,
    ServerMessage, Status, StreamVersion, agent_message,
    go_away::Reason,
    server_message::Message,
    typha_server::{Typha, TyphaServer},
};
use sync::ClientSession;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_stream::{
    Stream,
    wrappers::{ReceiverStream, TcpListenerStream},
};
use tonic::{Request, Response, Streaming, transport::Server};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// With it a server that falls silent is given up after 3 s.
const HEARTBEAT_SECONDS: u32 = 1;

/// What a server does after the first byte.
#[derive(Clone, Debug)]
enum Manner {
    Serves,
    /// It takes the call, and doesn't answer it.
    NeverAnswers,
    /// It answers, and says no hello.
    SaysNothing,
    FallsSilent,
    /// Heartbeats, and never a Commit.
    OnlyBeats,
    /// It serves, and reads nothing.
    ReadsNothing,
    /// It announces another digest than its topic has, and doesn't repeat the topic.
    NeverRepeats,
    /// It hangs up in the middle.
    HangsUp,
    /// It tells that it is behind, then whatever comes next.
    IsBehind(GoAway),
    /// It serves, and sends away.
    SendsAway(GoAway),
    /// It sends away at once.
    Refuses(GoAway),
}

#[derive(Clone)]
struct Fake {
    manner: Manner,
    /// How many hellos came.
    hellos: Arc<AtomicUsize>,
}

type Frames = Pin<Box<dyn Stream<Item = Result<ServerMessage, tonic::Status>> + Send>>;

#[tonic::async_trait]
impl Typha for Fake {
    type SyncStream = Frames;

    async fn sync(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Frames>, tonic::Status> {
        if matches!(self.manner, Manner::NeverAnswers) {
            std::future::pending::<()>().await;
        }
        let (frames, stream) = mpsc::channel(16);
        tokio::spawn(self.clone().session(request.into_inner(), frames));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

impl Fake {
    async fn session(
        self,
        mut inbound: Streaming<AgentMessage>,
        frames: mpsc::Sender<Result<ServerMessage, tonic::Status>>,
    ) {
        let first = inbound.message().await.unwrap().unwrap();
        assert!(matches!(first.message, Some(agent_message::Message::Hello(_))));
        self.hellos.fetch_add(1, Ordering::SeqCst);
        let forever = std::future::pending::<()>();
        if matches!(self.manner, Manner::SaysNothing) {
            return forever.await;
        }
        let say = async |frame| drop(frames.send(Ok(ServerMessage { message: Some(frame) })).await);
        say(Message::Hello(ServerHello {
            epoch: "e".into(),
            incarnation: "run".into(),
            streams: vec!["etcd".into()],
            digest_key: vec![1; 16],
            heartbeat_seconds: HEARTBEAT_SECONDS,
            ..ServerHello::default()
        }))
        .await;
        match &self.manner {
            Manner::FallsSilent => return forever.await,
            Manner::HangsUp => return,
            Manner::Refuses(go_away) => {
                say(Message::GoAway(go_away.clone())).await;
                return forever.await;
            }
            Manner::IsBehind(go_away) => {
                let stream = "etcd".into();
                say(Message::Behind(Behind { stream, have: 1, need: 2, ..Behind::default() }))
                    .await;
                say(Message::GoAway(go_away.clone())).await;
                return forever.await;
            }
            Manner::NeverRepeats => {
                let digest_after = Some(Digest { sum: vec![9; 16], count: 1 });
                let topic = "pools".to_owned();
                let replace = Replace { topic, last: true, digest_after, ..Replace::default() };
                say(Message::Replace(replace)).await;
            }
            _ => {}
        }
        let commit = || {
            // All servers read the same store, which never goes back.
            static PUBLICATION: AtomicU64 = AtomicU64::new(1);
            let publication = PUBLICATION.fetch_add(1, Ordering::SeqCst);
            let vector = vec![StreamVersion { stream: 0, version: publication }];
            Message::Commit(Commit { publication, vector, ..Commit::default() })
        };
        if !matches!(self.manner, Manner::OnlyBeats) {
            say(commit()).await;
        }
        if let Manner::SendsAway(go_away) = &self.manner {
            say(Message::GoAway(go_away.clone())).await;
        }
        let mut beat = tokio::time::interval(Duration::from_millis(300));
        loop {
            tokio::select! {
                _ = beat.tick() => {
                    if frames.is_closed() {
                        return;
                    }
                    say(Message::Heartbeat(Heartbeat::default())).await;
                    if !matches!(self.manner, Manner::OnlyBeats) {
                        say(commit()).await;
                    }
                }
                said = inbound.message(), if !matches!(self.manner, Manner::ReadsNothing) => {
                    if !matches!(said, Ok(Some(_))) {
                        return;
                    }
                }
            }
        }
    }
}

struct Served {
    address: String,
    hellos: Arc<AtomicUsize>,
}

impl Served {
    fn hellos(&self) -> usize {
        self.hellos.load(Ordering::SeqCst)
    }
}

async fn serve(manner: Manner) -> Served {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap().to_string();
    let fake = Fake { manner, hellos: Arc::default() };
    let hellos = fake.hellos.clone();
    let router = Server::builder().add_service(TyphaServer::new(fake));
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(tcp)));
    Served { address, hellos }
}

fn link(servers: &[&str]) -> Link {
    let options = Options {
        servers: servers.iter().map(ToString::to_string).collect(),
        tls: None,
        hello: AgentHello { node: "n".into(), ..AgentHello::default() },
    };
    Link::new(options, ClientSession::new())
}

/// Waits for the next news as an agent does: other things come in between.
async fn next(link: &mut Link) -> News {
    let begin = Instant::now();
    loop {
        if let Ok(news) = timeout(Duration::from_millis(50), link.next()).await {
            return news;
        }
        assert!(begin.elapsed() < PATIENCE, "stuck");
    }
}

/// Acknowledges what comes, until the link is lost. The acks are large, so that one that isn't read shows.
async fn lost(link: &mut Link) -> StreamError {
    let begin = Instant::now();
    loop {
        match next(link).await {
            News::Lost(error) => return error,
            News::Committed(_) => {
                let dataplane = "x".repeat(1024 * 1024);
                let status = Status { dataplane, ..Status::default() };
                link.acknowledge(link.session().publication(), Vec::new(), Some(status));
            }
            News::Opened { .. } | News::Behind { .. } | News::Heartbeat(_) => {}
        }
        assert!(begin.elapsed() < PATIENCE, "not lost");
    }
}

async fn committed(link: &mut Link) {
    let begin = Instant::now();
    let mut seen = Vec::new();
    loop {
        match next(link).await {
            News::Committed(_) => return,
            other => seen.push(other),
        }
        assert!(begin.elapsed() < PATIENCE, "no commit: {seen:?}");
    }
}

/// What the link says of a server of that manner, twice: it tries again.
async fn says(manner: Manner) -> String {
    let server = serve(manner).await;
    let mut link = link(&[&server.address]);
    lost(&mut link).await;
    lost(&mut link).await.to_string().replace(&server.address, "SERVER")
}

#[tokio::test]
async fn a_server_that_never_answers_or_falls_silent_is_given_up_and_tried_again() {
    let (unanswered, nothing, silent, beats, deaf, owes, hung) = tokio::join!(
        says(Manner::NeverAnswers),
        says(Manner::SaysNothing),
        says(Manner::FallsSilent),
        says(Manner::OnlyBeats),
        says(Manner::ReadsNothing),
        says(Manner::NeverRepeats),
        says(Manner::HangsUp),
    );
    support::assert_bad_input("agent: a server that never answers", &unanswered);
    support::assert_bad_input("agent: a server that says no hello", &nothing);
    support::assert_bad_input("agent: a server that falls silent", &silent);
    assert_eq!(beats, silent, "heartbeats are no first sync");
    support::assert_bad_input("agent: a server that takes no message", &deaf);
    support::assert_bad_input("agent: a server that doesn't repeat a topic", &owes);
    assert_eq!(hung, "typha at SERVER ended the stream: it closed the stream");
}

/// What a program does that is no typha.
#[derive(Clone, Copy)]
enum Stranger {
    /// It accepts, and neither reads nor writes.
    Holds,
    /// It ends its direction, and keeps the other open.
    HalfCloses,
    SpeaksHttp1,
}

async fn stranger(manner: Stranger) -> String {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut held: Vec<TcpStream> = Vec::new();
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            match manner {
                Stranger::Holds => {}
                Stranger::HalfCloses => stream.shutdown().await.unwrap(),
                Stranger::SpeaksHttp1 => {
                    let _ = stream.read(&mut [0; 1024]).await;
                    let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
                }
            }
            held.push(stream);
        }
    });
    address
}

#[tokio::test]
async fn a_port_that_is_no_typhas_does_not_hold_a_link_up() {
    let tries = async |manner| {
        let address = stranger(manner).await;
        let mut link = link(&[&address]);
        lost(&mut link).await;
        lost(&mut link).await.to_string().replace(&address, "SERVER")
    };
    let (holds, half, http) = tokio::join!(
        tries(Stranger::Holds),
        tries(Stranger::HalfCloses),
        tries(Stranger::SpeaksHttp1),
    );
    support::assert_bad_input("agent: a server that never answers", &holds);
    support::assert_bad_input("agent: a server that half-closes", &half);
    support::assert_bad_input("agent: a port that speaks another protocol", &http);
}

#[tokio::test]
async fn among_bad_servers_the_one_that_serves_is_found_and_found_again() {
    let good = serve(Manner::Serves).await;
    let bad = serve(Manner::HangsUp).await;
    let held = stranger(Stranger::HalfCloses).await;
    let mut link = link(&["127.0.0.1:1", &held, "no address", &bad.address, &good.address]);
    committed(&mut link).await;
}

fn go_away(why: Reason, others: &[&Served]) -> GoAway {
    let others = others.iter().map(|other| other.address.clone()).collect();
    GoAway { why: why.into(), others, message: "go".into(), ..GoAway::default() }
}

#[tokio::test]
async fn a_server_that_cannot_serve_an_agent_moves_it_on_to_the_one_that_it_names() {
    for why in [Reason::NotSynced, Reason::Full, Reason::Draining] {
        let good = serve(Manner::Serves).await;
        let away = serve(Manner::Refuses(go_away(why, &[&good]))).await;
        let mut link = link(&[&away.address]);
        let error = lost(&mut link).await;
        assert!(matches!(&error, StreamError::Away { why: said, .. } if *said == why), "{error}");
        committed(&mut link).await;
        assert_eq!((away.hellos(), good.hellos()), (1, 1), "{why:?}");
    }
    let good = serve(Manner::Serves).await;
    let behind = serve(Manner::IsBehind(go_away(Reason::Behind, &[&good]))).await;
    let mut link = link(&[&behind.address]);
    lost(&mut link).await;
    committed(&mut link).await;
    assert_eq!((behind.hellos(), good.hellos()), (1, 1));
}

#[tokio::test]
async fn without_a_name_it_moves_on_to_the_next_that_it_knows() {
    let good = serve(Manner::Serves).await;
    let full = serve(Manner::Refuses(go_away(Reason::Full, &[]))).await;
    let mut link = link(&[&full.address, &good.address]);
    committed(&mut link).await;
    assert!(full.hellos() <= 1);
}

#[tokio::test]
async fn a_server_that_says_when_to_go_serves_until_then() {
    let good = serve(Manner::Serves).await;
    let stay = Duration::from_millis(1500);
    let after_milliseconds = stay.as_millis() as u64;
    let go_away = GoAway { after_milliseconds, ..go_away(Reason::Draining, &[&good]) };
    let leaving = serve(Manner::SendsAway(go_away)).await;
    let mut link = link(&[&leaving.address]);
    committed(&mut link).await;
    let (begin, first) = (Instant::now(), link.session().publication());
    lost(&mut link).await;
    assert!(begin.elapsed() + Duration::from_millis(100) >= stay, "{:?}", begin.elapsed());
    assert!(link.session().publication() > first + 2, "it was served meanwhile");
    committed(&mut link).await;
    assert_eq!((leaving.hellos(), good.hellos()), (1, 1));
}
