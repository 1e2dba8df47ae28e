//! Why a store doesn't start, or ended.

use std::io;
use std::net::SocketAddr;

/// Each says what is wrong, with what, and the way out.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another program has the port.
    #[error(
        "can't listen on {address}: the port is in use; stop the program that has it, or choose another port (0 takes a free one)"
    )]
    PortBusy {
        /// Where the store was to listen.
        address: SocketAddr,
    },
    /// The address isn't this machine's, or may not be used.
    #[error(
        "can't listen on {address}: {error}; choose an address of this machine and a port that you may use"
    )]
    Listen {
        /// Where the store was to listen.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// A task of the store ended by a programming error.
    #[error("the store ended unexpectedly; its log has the reason; please report it")]
    Died,
}

impl Error {
    pub(crate) fn listen(address: SocketAddr, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::AddrInUse => Self::PortBusy { address },
            _ => Self::Listen { address, error },
        }
    }
}
