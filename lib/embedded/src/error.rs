//! Why a store doesn't start, or ended.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

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
    /// The data folder can't be made or used.
    #[error("can't use the data folder {folder}: {error}; choose a folder that you may write to", folder = .folder.display())]
    DataFolder {
        /// The data folder.
        folder: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Another store runs on the data folder.
    #[error("the data folder {folder} is in use by process {process}; stop that one, or choose another folder", folder = .folder.display())]
    DataFolderInUse {
        /// The data folder.
        folder: PathBuf,
        /// The id of the process that has it.
        process: String,
    },
    /// The file can't be read or written.
    #[error("can't use {file}: {error}; see to the disk and the permissions, or choose another data folder", file = .file.display())]
    DataFile {
        /// The file in the data folder.
        file: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// There is no space to start with.
    #[error("can't open {file}: {error}; free some space, or choose another data folder", file = .file.display())]
    DiskFull {
        /// The file in the data folder.
        file: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The file is damaged, or no store's file.
    #[error("{file} is damaged or not a store's file: {reason}; put a copy back, or move it away to begin empty", file = .file.display())]
    Corrupt {
        /// The file in the data folder.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
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
