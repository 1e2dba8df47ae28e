//! The vocabulary of the system: pure types and rules, without IO.
//!
//! Names and JSON shapes are Calico's v3 API, so that existing manifests, objects and tools work.

pub mod key;
pub mod kinds;
pub mod selector;
pub mod translate;
pub mod update;
pub mod validate;
pub mod view;

pub use key::{Key, Kind};
pub use update::{Stored, StreamIndex, Update};
