//! A TCP proxy that a test can cut, stall, close and point elsewhere.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

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
}

impl Proxy {
    pub async fn start(target: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State { target, generation: 0, stalled: false, closed: false };
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
        () = pump(client_read, server_write, state.clone()) => {}
        () = pump(server_read, client_write, state.clone()) => {}
        _ = state.wait_for(|now| now.generation != born.generation) => {}
    }
}

/// Ends with its connection. Once stalled it never goes on.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: watch::Receiver<State>) {
    let mut bytes = vec![0; 64 << 10];
    loop {
        let Ok(read @ 1..) = from.read(&mut bytes).await else { return };
        if state.borrow().stalled {
            std::future::pending::<()>().await;
        }
        if to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
