//! A TCP proxy that a test can cut, stall, slow down, close and point elsewhere.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// Listens on loopback. Dropping it ends its connections.
pub struct Proxy {
    port: u16,
    state: watch::Sender<State>,
}

#[derive(Clone, Copy)]
struct State {
    target: u16,
    /// Connections of an earlier generation end.
    generation: u32,
    /// Bytes wait; connections stay open.
    stalled: bool,
    /// New connections end at once.
    closed: bool,
    /// What the server says comes so much later.
    late: Duration,
}

impl Proxy {
    pub async fn start(target: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state =
            State { target, generation: 0, stalled: false, closed: false, late: Duration::ZERO };
        let (sender, receiver) = watch::channel(state);
        tokio::spawn(accept(listener, receiver));
        Self { port, state: sender }
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Ends all connections.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.generation += 1);
    }

    /// Ends all connections, and new ones until [`Self::open`].
    pub fn close(&self) {
        self.state.send_modify(|state| {
            state.generation += 1;
            state.closed = true;
        });
    }

    pub fn open(&self) {
        self.state.send_modify(|state| state.closed = false);
    }

    /// Holds back the bytes of the connections that there are now, for ever, as a firewall that forgot them would.
    pub fn stall(&self) {
        self.state.send_modify(|state| state.stalled = true);
    }

    /// Lets new connections through again.
    pub fn flow(&self) {
        self.state.send_modify(|state| state.stalled = false);
    }

    /// What the server says from now on comes so much later.
    pub fn delay(&self, late: Duration) {
        self.state.send_modify(|state| state.late = late);
    }

    /// Sends new connections elsewhere, and ends the old.
    pub fn point_to(&self, target: u16) {
        self.state.send_modify(|state| {
            state.target = target;
            state.generation += 1;
        });
    }
}

async fn accept(listener: TcpListener, mut state: watch::Receiver<State>) {
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(_) => continue,
            },
            changed = state.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        let now = *state.borrow();
        if !now.closed {
            tokio::spawn(connection(stream, now, state.clone()));
        }
    }
}

async fn connection(client: TcpStream, born: State, mut state: watch::Receiver<State>) {
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, born.target));
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    tokio::select! {
        () = pump(client_read, server_write, state.clone(), |_| Duration::ZERO) => {}
        () = pump(server_read, client_write, state.clone(), |now| now.late) => {}
        _ = state.wait_for(|now| now.generation != born.generation) => {}
    }
}

/// Ends with its connection. Once stalled it never goes on. `late` says how much later bytes come, in their order.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    state: watch::Receiver<State>,
    late: fn(&State) -> Duration,
) {
    let (queue, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(64);
    let read = async {
        let mut bytes = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from.read(&mut bytes).await {
            let now = *state.borrow();
            if now.stalled {
                std::future::pending::<()>().await;
            }
            let _ = queue.send((Instant::now() + late(&now), bytes[..read].to_vec())).await;
        }
    };
    let write = async {
        while let Some((time, bytes)) = due.recv().await {
            tokio::time::sleep_until(time).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = write => {}
    }
}
