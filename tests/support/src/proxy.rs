//! A TCP proxy on loopback that a test can slow down, stall, cut, close and point elsewhere.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};

/// How a proxy treats what passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// What the server says comes so much later, in its order.
    pub lag: Duration,
    /// What the server says comes in pieces, so that a cut tears it.
    pub is_slow: bool,
    /// Nothing passes, in neither direction; it waits, and nobody is told.
    pub is_stalled: bool,
    /// Connections end, and new ones at once.
    pub is_cut: bool,
}

#[derive(Clone, Copy, Debug)]
struct State {
    server: SocketAddr,
    way: Way,
    /// Connections of an earlier generation end.
    generation: u64,
}

/// Before a server on loopback. Dropping it ends its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Proxy {
    /// Before the server at this port.
    ///
    /// # Panics
    /// When loopback has no free port.
    pub async fn start(port: u16) -> Self {
        Self::new(port, false).await
    }

    /// Before the server at this address, or URL with one.
    ///
    /// # Panics
    /// When it is none, or loopback has no free port.
    pub async fn before(server: &str) -> Self {
        let server: SocketAddr =
            server.trim_start_matches("http://").parse().expect("an address of loopback");
        Self::new(server.port(), false).await
    }

    /// As [`Proxy::start`]; what passes is kept, see [`Proxy::seen`].
    ///
    /// # Panics
    /// When loopback has no free port.
    pub async fn recording(port: u16) -> Self {
        Self::new(port, true).await
    }

    async fn new(port: u16, records: bool) -> Self {
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound listener has an address");
        let state = State { server: at(port), way: Way::default(), generation: 0 };
        let (sender, receiver) = watch::channel(state);
        let seen = Arc::<Mutex<Vec<u8>>>::default();
        tokio::spawn(accept(listener, receiver, records.then(|| Arc::clone(&seen))));
        Self { address, state: sender, seen }
    }

    /// Where clients reach it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same, as `http://…`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How it treats what passes from now on.
    pub fn set(&self, way: Way) {
        self.state.send_modify(|state| state.way = way);
    }

    /// Ends all connections; new ones are let through.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.generation += 1);
    }

    /// Ends all connections, and new ones at once, until [`Proxy::open`].
    pub fn close(&self) {
        self.set(Way { is_cut: true, ..Way::default() });
    }

    /// Lets everything through again, what has waited too.
    pub fn open(&self) {
        self.set(Way::default());
    }

    /// Holds back everything, until [`Proxy::open`].
    pub fn stall(&self) {
        self.set(Way { is_stalled: true, ..Way::default() });
    }

    /// What the server says from now on comes so much later.
    pub fn delay(&self, lag: Duration) {
        self.set(Way { lag, ..Way::default() });
    }

    /// Sends new connections to another port, and ends the old.
    pub fn point_to(&self, port: u16) {
        self.state.send_modify(|state| {
            state.server = at(port);
            state.generation += 1;
        });
    }

    /// What has passed so far, both directions in one.
    pub fn seen(&self) -> Vec<u8> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn at(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

type Record = Option<Arc<Mutex<Vec<u8>>>>;

async fn accept(listener: TcpListener, mut state: watch::Receiver<State>, record: Record) {
    loop {
        let client = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => client,
                Err(_) => continue,
            },
            changed = state.changed() => match changed {
                Ok(()) => continue,
                // The proxy is gone.
                Err(_) => return,
            },
        };
        if !state.borrow().way.is_cut {
            tokio::spawn(connection(client, state.clone(), record.clone()));
        }
    }
}

/// Ends when either side does, or when it is cut.
async fn connection(client: TcpStream, mut state: watch::Receiver<State>, record: Record) {
    let State { server, generation, .. } = *state.borrow();
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    tokio::select! {
        () = pass(client_in, server_out, false, state.clone(), record.clone()) => {}
        () = pass(server_in, client_out, true, state.clone(), record) => {}
        // An error: the proxy is gone.
        _ = state.wait_for(|now| now.way.is_cut || now.generation != generation) => {}
    }
}

/// How a slow way lets bytes through: so many, and so long nothing.
const PIECE: usize = 256;
const PAUSE: Duration = Duration::from_millis(5);

/// Bytes keep their order, whatever happens to the lag.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    is_of_server: bool,
    mut state: watch::Receiver<State>,
    record: Record,
) {
    let (queue, mut due) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let reading = state.clone();
    let read = async {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let lag = if is_of_server { reading.borrow().way.lag } else { Duration::ZERO };
            let _ = queue.send((Instant::now() + lag, buffer[..count].to_vec()));
        }
    };
    let write = async {
        while let Some((time, bytes)) = due.recv().await {
            sleep_until(time).await;
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let flows = state.wait_for(|now| !now.way.is_stalled).await;
                let Ok(is_slow) = flows.map(|now| is_of_server && now.way.is_slow) else { return };
                let count = if is_slow { PIECE.min(rest.len()) } else { rest.len() };
                let piece;
                (piece, rest) = rest.split_at(count);
                if to.write_all(piece).await.is_err() {
                    return;
                }
                if let Some(record) = &record {
                    let mut seen = record.lock().unwrap_or_else(PoisonError::into_inner);
                    seen.extend_from_slice(piece);
                }
                if is_slow {
                    sleep(PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = write => {}
    }
}
