//! Who is at the other end of a connection: identities in certificates, and TLS that checks them.
//!
//! An identity is a URI in a certificate's subject alternative names: `bulrush://node/<name>`,
//! `bulrush://role/full`, `bulrush://server/typha`. A host name or a common name is none, unless a
//! [`SharedName`] is allowed.

mod certificate;
mod issue;
mod name;
mod shared;
mod tls;

pub use certificate::{Certificate, Unreadable};
pub use issue::{Authority, IssueError, Issued, Validity, check_host};
pub use name::{Identity, NoIdentity};
pub use shared::{NoSharedName, Shared, SharedName, SharedSettings};
pub use tls::{Files, Material, ServerCheck, TlsError, why};
