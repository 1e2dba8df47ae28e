//! The agent's side of a stream to typha: finds a server that serves, and turns messages into events
//! of the session.
//!
//! ```text
//! Servers, Rollback (pure: where to, when, from what state)
//!    |
//!  Link --opens--> Connection --messages--> sync::ClientSession --events--> News
//! ```
//!
//! Every client of a server uses it: the agent, `bulrush watch`, and simulated agents. No await in it
//! is without an end: a server that accepts and doesn't answer, that falls silent, that reads
//! nothing, or that never repeats what it was asked for, is given up.

mod connection;
mod connector;
mod inbound;
mod link;
mod rollback;
mod servers;

use std::path::PathBuf;

use identity::{Files, ServerCheck, TlsError};
use proto::v1::go_away::Reason;
use sync::ClientError;

pub use connection::Connection;
pub use link::{Find, Finding, Link, News, Options};

/// Where a typha listens unless an address says otherwise.
pub const DEFAULT_PORT: u16 = 5473;

/// With what a client proves who it is, and how it knows the server.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Read at each connect: a renewed certificate needs no restart.
    pub files: Files,
    /// What the server's certificate must say.
    pub check: ServerCheck,
    /// A file with the token of a service account, in place of a certificate. Read at each connect, for its kubelet
    /// renews it.
    pub token: Option<PathBuf>,
}

impl Tls {
    /// What the flags say; none: in the clear.
    pub fn given(
        certificate: Option<PathBuf>,
        key: Option<PathBuf>,
        ca: Option<PathBuf>,
        token: Option<PathBuf>,
        check: ServerCheck,
    ) -> Result<Option<Self>, TlsError> {
        let files = match (certificate, key, ca, &token) {
            (None, None, Some(ca), Some(_)) => Some(Files::of_authority(ca)),
            (certificate, key, ca, _) => Files::given(certificate, key, ca)?,
        };
        Ok(files.map(|files| Self { files, check, token }))
    }
}

/// Why there is no stream, or no longer one.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// No address of a server is known, and none was found.
    #[error("no typha is found: {reason}")]
    NotFound {
        /// What was asked, and what came of it.
        reason: String,
    },
    /// The address is none.
    #[error("{address:?} is no address of a server (example: 10.0.0.1:5473): {reason}")]
    Address {
        /// What was given.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The own certificate, key or CA.
    #[error("no TLS to typha at {address}: {error}")]
    Tls {
        /// Where.
        address: String,
        /// What is wrong with the files.
        error: TlsError,
    },
    /// The token of the own service account.
    #[error("no token for typha at {address}: {}: {reason}", path.display())]
    Token {
        /// Where.
        address: String,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// One of the two refuses the other's certificate, or the other speaks no TLS.
    #[error("no TLS with typha at {address}: {reason}")]
    Handshake {
        /// Where.
        address: String,
        /// What was seen.
        reason: String,
    },
    /// Nobody answers.
    #[error("typha at {address} can't be reached: {reason}; is it running, and is that its port?")]
    Unreachable {
        /// Where.
        address: String,
        /// What was seen.
        reason: String,
    },
    /// It answers, and hangs up on a client in the clear.
    #[error(
        "typha at {address} hung up: {reason}; if it asks for TLS, give --cert, --key and --ca"
    )]
    HungUp {
        /// Where.
        address: String,
        /// What was seen.
        reason: String,
    },
    /// The stream broke, or the server refused.
    #[error("typha at {address} ended the stream: {reason}")]
    Ended {
        /// Where.
        address: String,
        /// The server's or the transport's word.
        reason: String,
    },
    /// It accepts connections, and does not answer.
    #[error("typha at {address} has not answered for {seconds} s")]
    Unanswered {
        /// Where.
        address: String,
        /// For how long.
        seconds: u64,
    },
    /// The server said nothing for too long.
    #[error("typha at {address} has said nothing for {seconds} s")]
    Silent {
        /// Where.
        address: String,
        /// For how long.
        seconds: u64,
    },
    /// The server takes nothing that is said to it.
    #[error("typha at {address} has taken no message for {seconds} s")]
    Deaf {
        /// Where.
        address: String,
        /// For how long.
        seconds: u64,
    },
    /// The server doesn't repeat what it was asked to repeat, without which nothing becomes visible.
    #[error(
        "typha at {address} has not sent topics again for {seconds} s after their digests disagreed"
    )]
    NoResync {
        /// Where.
        address: String,
        /// For how long.
        seconds: u64,
    },
    /// The server told the agent to go.
    #[error("typha at {address} sends this agent away: {message}")]
    Away {
        /// Where.
        address: String,
        /// Why, as code.
        why: Reason,
        /// Why, for people.
        message: String,
    },
    /// What came is not of the protocol.
    #[error("typha at {address} broke the protocol: {error}")]
    Protocol {
        /// Where.
        address: String,
        /// What.
        error: ClientError,
    },
}
