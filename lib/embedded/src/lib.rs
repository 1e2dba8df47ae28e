//! An etcd-compatible store for one machine.
//!
//! It serves etcd's v3 gRPC API as far as `etcdctl` and Calico's data need it, so that `bulrush dev`, tests and first
//! steps need no etcd. It is neither replicated nor a backend for a Kubernetes API server.
//!
//! ```no_run
//! # async fn example() -> Result<(), embedded::Error> {
//! let server = embedded::Server::start(embedded::Config::default()).await?;
//! println!("etcdctl --endpoints {} get '' --prefix", server.addr());
//! server.shutdown().await
//! # }
//! ```

mod committer;
mod disk;
mod error;
mod owner;
mod server;
mod service;
mod store;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use error::Error;
pub use server::{Server, run};
pub use store::{MAX_LEASE_SECONDS, MAX_REQUEST_BYTES, MAX_TXN_OPS, MIN_LEASE_SECONDS, Refusal};

/// The version of etcd whose behaviour this store has, and which it reports to clients.
pub const ETCD_VERSION: &str = "3.6.6";
/// There is one leader, for ever.
const RAFT_TERM: u64 = 1;

/// How to run a store.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen. With port 0 the system chooses one, see [`Server::addr`].
    pub listen: SocketAddr,
    /// Where to keep what was written. Without it, the store is gone when it stops.
    pub data_dir: Option<PathBuf>,
    /// How much memory the history may take, in bytes, before its older half is compacted away.
    pub history_bytes: usize,
    /// How often watchers that ask for it hear of progress when nothing happens.
    pub progress_interval: Duration,
}

impl Default for Config {
    /// A free port on loopback; in memory; 256 MiB of history; etcd's ten minutes.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            data_dir: None,
            history_bytes: 256 << 20,
            progress_interval: Duration::from_mins(10),
        }
    }
}
