//! The wire contract between typha and its agents: generated messages, and the conversions between
//! the entries of `model::view` and their one canonical encoding.

mod convert;

/// The messages of `bulrush/v1/*.proto`.
#[allow(
    missing_docs,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    unreachable_pub,
    reason = "generated; the .proto files carry the comments"
)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/bulrush.v1.rs"));
}

/// The `.proto` files as compiled, a `google.protobuf.FileDescriptorSet`: for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/bulrush.bin"));

pub use convert::{EntryError, decode, encode, plist_id};
