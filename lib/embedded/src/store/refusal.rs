//! Why a request is refused: etcd's own words and status codes, which clients match on.
//!
//! Source: `api/v3rpc/rpctypes/error.go` of etcd 3.6.

use tonic::{Code, Status};

/// A refused request. The texts are etcd's, to the letter; clients compare them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A request without a key.
    #[error("etcdserver: key is not provided")]
    EmptyKey,
    /// `ignore_value` or `ignore_lease` on a key that doesn't exist, or an empty operation in a transaction.
    #[error("etcdserver: key not found")]
    KeyNotFound,
    /// `ignore_value` together with a value.
    #[error("etcdserver: value is provided")]
    ValueProvided,
    /// `ignore_lease` together with a lease.
    #[error("etcdserver: lease is provided")]
    LeaseProvided,
    /// More than [`crate::store::MAX_TXN_OPS`] compares or operations.
    #[error("etcdserver: too many operations in txn request")]
    TooManyOps,
    /// One transaction writes a key twice.
    #[error("etcdserver: duplicate key given in txn request")]
    DuplicateKey,
    /// An unknown sort order or target.
    #[error("etcdserver: invalid sort option")]
    InvalidSortOption,
    /// A revision older than the compacted one.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted,
    /// A revision that doesn't exist yet.
    #[error("etcdserver: mvcc: required revision is a future revision")]
    FutureRevision,
    /// The disk is full: nothing is written until there is space.
    #[error("etcdserver: mvcc: database space exceeded")]
    NoSpace,
    /// The disk fails for another reason than space; the log has the details.
    #[error("etcdserver: the data folder can't be written, see the store's log; reads go on")]
    DiskFailed,
    /// The lease doesn't exist or is over.
    #[error("etcdserver: requested lease not found")]
    LeaseNotFound,
    /// The lease's id is taken.
    #[error("etcdserver: lease already exists")]
    LeaseExists,
    /// More than [`crate::store::MAX_LEASE_SECONDS`].
    #[error("etcdserver: too large lease TTL")]
    LeaseTooLong,
    /// A request of more than [`crate::store::MAX_REQUEST_BYTES`].
    #[error("etcdserver: request is too large")]
    TooLarge,
    /// The store is shutting down.
    #[error("etcdserver: server stopped")]
    Stopped,
}

impl Refusal {
    /// etcd's gRPC status code for it.
    pub fn code(self) -> Code {
        match self {
            Self::EmptyKey
            | Self::KeyNotFound
            | Self::ValueProvided
            | Self::LeaseProvided
            | Self::TooManyOps
            | Self::DuplicateKey
            | Self::InvalidSortOption
            | Self::TooLarge => Code::InvalidArgument,
            Self::Compacted | Self::FutureRevision | Self::LeaseTooLong => Code::OutOfRange,
            Self::NoSpace => Code::ResourceExhausted,
            Self::LeaseNotFound => Code::NotFound,
            Self::LeaseExists => Code::FailedPrecondition,
            Self::DiskFailed | Self::Stopped => Code::Unavailable,
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        Status::new(refusal.code(), refusal.to_string())
    }
}
