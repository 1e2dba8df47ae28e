//! Starting and stopping: the listener, the owner's task and the gRPC task.

use std::future::Future;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tonic::transport::server::TcpIncoming;

use crate::committer::Lost;
use crate::disk::Disk;
use crate::owner::{Identity, Owner};
use crate::service::Service;
use crate::store::Store;
use crate::{Config, Error};

/// A client that doesn't answer a ping for so long is gone.
const PING: Duration = Duration::from_secs(30);
/// Calls at once on one connection: many watches are no reason to wait.
const STREAMS: u32 = 1 << 20;
/// How long clients may take to end their calls when the store stops.
const FAREWELL: Duration = Duration::from_secs(5);

/// A running store. Dropping it stops it too, without waiting.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    owner: JoinHandle<Result<(), Lost>>,
    grpc: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Server {
    /// Starts a store and returns when it takes connections.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|error| Error::listen(config.listen, error))?;
        let address = listener.local_addr().map_err(|error| Error::listen(config.listen, error))?;
        let identity = Identity { cluster_id: rand::random(), member_id: rand::random() };
        let (disk, identity, store) = match config.data_dir.clone() {
            Some(folder) => {
                survive_file_size_limit();
                let file = Disk::file(&folder);
                let opened = spawn_blocking(move || Disk::open(&folder, identity)).await;
                // Where a file makes no sense at all, the reader of its format may panic.
                let damaged = |error: JoinError| Error::Corrupt { file, reason: error.to_string() };
                let (disk, identity, saved) = opened.map_err(damaged)??;
                (Some(disk), identity, Store::restore(saved, Instant::now()))
            }
            None => (None, identity, Store::new()),
        };
        let (stop, stopped) = watch::channel(false);
        let (owner, handle, inbox) = Owner::new(store, disk, identity, &config);
        let owner = tokio::spawn(owner.run(inbox, stopped.clone()));
        let routes = Service { owner: handle, identity, address }.routes();
        let serve = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(PING))
            .max_concurrent_streams(STREAMS)
            .add_routes(routes)
            .serve_with_incoming_shutdown(
                TcpIncoming::from(listener).with_nodelay(Some(true)),
                wait(stopped),
            );
        let grpc = tokio::spawn(serve);
        tracing::info!(%address, "store serves");
        Ok(Self { address, stop, owner, grpc })
    }

    /// Where it listens; with port 0 in the configuration, the port that it got.
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Stops: what was acknowledged is kept, calls under way are answered or refused, watches end.
    pub async fn shutdown(self) -> Result<(), Error> {
        self.stop.send_replace(true);
        self.finish().await
    }

    /// Runs until `shutdown` is ready, then stops. Fails when the store can't go on by itself.
    pub async fn run_until(mut self, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
        tokio::select! {
            () = shutdown => {}
            _ = &mut self.owner => return Err(Error::Died),
            _ = &mut self.grpc => return Err(Error::Died),
        }
        self.shutdown().await
    }

    async fn finish(mut self) -> Result<(), Error> {
        let owner = (&mut self.owner).await;
        if tokio::time::timeout(FAREWELL, &mut self.grpc).await.is_err() {
            self.grpc.abort();
        }
        match owner {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Lost)) | Err(_) => Err(Error::Died),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        self.grpc.abort();
    }
}

/// Starts a store and runs it until `shutdown` is ready.
pub async fn run(config: Config, shutdown: impl Future<Output = ()>) -> Result<(), Error> {
    Server::start(config).await?.run_until(shutdown).await
}

/// A write beyond the limit of the file size (`ulimit -f`) sends a signal that ends the process, unless somebody
/// listens to it: then the write fails like one on a full disk.
fn survive_file_size_limit() {
    /// SIGXFSZ on Linux, but for a few architectures that nobody runs this on.
    const FILE_SIZE_LIMIT: i32 = 25;
    if let Err(error) = signal(SignalKind::from_raw(FILE_SIZE_LIMIT)) {
        tracing::warn!(%error, "a limit of the file size would end the store instead of making it read-only");
    }
}

async fn wait(mut stopped: watch::Receiver<bool>) {
    // An error means that the server is gone, which is a reason to stop as well.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}
