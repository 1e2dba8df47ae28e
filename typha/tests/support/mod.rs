//! A store, a server that reads it, and agents: also one that is slow, and one that reads nothing.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bulrush_typha::{Config, Limits, Typha};
use client::{Connection, StreamError};
use etcd_client::{Client, Txn, TxnOp};
use proto::v1::{AgentHello, GoAway, View};
use sync::{ClientSession, Committed, Event};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket},
    sync::watch,
};

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Polls until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let held = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, held).await.is_ok(), "{what}: not within {PATIENCE:?}");
}

pub(crate) struct World {
    pub(crate) store: embedded::Server,
    pub(crate) client: Client,
    pub(crate) typha: Typha,
}

pub(crate) fn config(store: &embedded::Server) -> Config {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    Config {
        store: datastore::StoreConfig::from_url(&format!("http://{}", store.addr())).unwrap(),
        pod_cidrs: false,
        record: None,
        listen: any,
        tls: None,
        shared_name: None,
        plaintext: false,
        limits: Limits::default(),
        max_connections: 1000,
        min_connections: 400,
        alternatives: Vec::new(),
        health: any,
        metrics: any,
        status: any,
    }
}

/// A key of a network set.
pub(crate) fn key(n: usize) -> String {
    format!("/calico/resources/v3/projectcalico.org/globalnetworksets/set-{n}")
}

/// A network set of about so many bytes, which no compression makes much shorter.
pub(crate) fn value(seed: usize, bytes: usize) -> String {
    let mut state = seed as u64;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    let nets: Vec<String> =
        (0..bytes / 18).map(|_| std::net::Ipv4Addr::from(next()).to_string() + "/32").collect();
    serde_json::json!({"metadata": {"name": "x"}, "spec": {"nets": nets}}).to_string()
}

impl World {
    pub(crate) async fn new(change: impl FnOnce(&mut Config)) -> Self {
        Self::with_sets(0, 0, change).await
    }

    /// A store with so many sets of so many bytes.
    pub(crate) async fn with_sets(
        sets: usize,
        bytes: usize,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let store = embedded::Server::start(embedded::Config::default()).await.unwrap();
        let mut client = Client::connect([format!("http://{}", store.addr())], None).await.unwrap();
        write(&mut client, 0..sets, 0, bytes).await;
        let mut config = config(&store);
        change(&mut config);
        let typha = Typha::start(config).await.unwrap();
        until("typha is in sync", || typha.status().in_sync).await;
        Self { store, client, typha }
    }

    /// Writes sets, as one revision where there are few.
    pub(crate) async fn write(&mut self, sets: std::ops::Range<usize>, seed: usize, bytes: usize) {
        write(&mut self.client, sets, seed, bytes).await;
    }

    /// A figure of /metrics.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let metrics = self.typha.metrics();
        let line = metrics.lines().find(|line| line.split(' ').next() == Some(name));
        line.unwrap_or_else(|| panic!("no {name} in {metrics}"))
            .rsplit(' ')
            .next()
            .unwrap()
            .parse()
            .unwrap()
    }

    pub(crate) async fn agent(&self, hello: AgentHello) -> Agent {
        Agent::connect(self.typha.address(), hello).await
    }

    pub(crate) async fn end(self) {
        self.typha.stop().await;
        self.store.shutdown().await.unwrap();
    }
}

async fn write(client: &mut Client, sets: std::ops::Range<usize>, seed: usize, bytes: usize) {
    let all: Vec<usize> = sets.collect();
    for some in all.chunks(100) {
        let puts = some.iter().map(|n| TxnOp::put(key(*n), value(seed + n, bytes), None));
        client.txn(Txn::new().and_then(puts.collect::<Vec<_>>())).await.unwrap();
    }
}

pub(crate) fn node(name: &str) -> AgentHello {
    AgentHello { node: name.into(), ..AgentHello::default() }
}

pub(crate) fn full() -> AgentHello {
    AgentHello { view: View::Full.into(), ..AgentHello::default() }
}

/// An agent: a connection and what it holds.
pub(crate) struct Agent {
    pub(crate) connection: Connection,
    pub(crate) session: ClientSession,
    pub(crate) hello: Option<proto::v1::ServerHello>,
}

impl Agent {
    pub(crate) async fn connect(address: SocketAddr, hello: AgentHello) -> Self {
        Self::resume(address, hello, ClientSession::new()).await
    }

    /// Comes back with what it holds.
    pub(crate) async fn resume(
        address: SocketAddr,
        hello: AgentHello,
        mut session: ClientSession,
    ) -> Self {
        session.disconnected();
        let hello = session.hello(hello, false);
        let connection = Connection::open(&address.to_string(), hello).await.unwrap();
        Self { connection, session, hello: None }
    }

    pub(crate) async fn next(&mut self) -> Result<Event, StreamError> {
        let next = self.connection.next(&mut self.session);
        let event = tokio::time::timeout(PATIENCE, next).await.expect("something comes")?;
        if let Event::Hello(hello) = &event {
            self.hello = Some(hello.clone());
        }
        Ok(event)
    }

    pub(crate) async fn committed(&mut self) -> Committed {
        loop {
            match self.next().await.unwrap() {
                Event::Committed(committed) => return *committed,
                Event::Hello(_) | Event::Nothing | Event::Heartbeat(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Takes commits until what it holds of a set is what `seed` makes; how many it took.
    pub(crate) async fn until_set(&mut self, n: usize, seed: usize, bytes: usize) -> usize {
        let wanted = value(seed + n, bytes);
        let nets: serde_json::Value = serde_json::from_str(&wanted).unwrap();
        let needle = nets["spec"]["nets"][0].as_str().unwrap().to_owned();
        let mut commits = 0;
        loop {
            commits += 1;
            let changes = self.committed().await.changes;
            let has = |value: &[u8]| value.windows(needle.len()).any(|w| w == needle.as_bytes());
            if changes.iter().any(|c| c.value.as_ref().is_some_and(|value| has(value))) {
                return commits;
            }
        }
    }

    pub(crate) async fn goes_away(&mut self) -> GoAway {
        loop {
            if let Event::GoAway(go_away) = self.next().await.unwrap() {
                return go_away;
            }
        }
    }
}

/// Between an agent and its server: how many bytes pass to the agent is set, and small buffers see to
/// it that the server feels it.
pub(crate) struct Valve {
    pub(crate) address: SocketAddr,
    /// Bytes per 5 ms; 0: closed.
    rate: watch::Sender<usize>,
    passed: Arc<AtomicUsize>,
}

impl Valve {
    pub(crate) async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (rate, mut rates) = watch::channel(usize::MAX);
        let passed = Arc::new(AtomicUsize::new(0));
        let count = passed.clone();
        tokio::spawn(async move {
            let (agent, _) = listener.accept().await.unwrap();
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_recv_buffer_size(8 * 1024).unwrap();
            let server = socket.connect(server).await.unwrap();
            let (mut agent_in, mut agent_out) = agent.into_split();
            let (mut server_in, mut server_out) = server.into_split();
            let up = tokio::io::copy(&mut agent_in, &mut server_out);
            let down = async {
                let mut buffer = vec![0; 16 * 1024];
                loop {
                    let rate = *rates.wait_for(|rate| *rate > 0).await.unwrap();
                    let most = rate.min(buffer.len());
                    let count_now = server_in.read(&mut buffer[..most]).await.unwrap_or(0);
                    if count_now == 0 || agent_out.write_all(&buffer[..count_now]).await.is_err() {
                        return;
                    }
                    count.fetch_add(count_now, Ordering::Relaxed);
                    if rate < usize::MAX {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            };
            tokio::select! { _ = up => {}, () = down => {} }
        });
        Self { address, rate, passed }
    }

    pub(crate) fn set(&self, rate: usize) {
        self.rate.send_replace(rate);
    }

    pub(crate) fn passed(&self) -> usize {
        self.passed.load(Ordering::Relaxed)
    }
}
