//! Commands in documents, and what is printed there.

pub(crate) mod blocks;
pub(crate) mod place;
pub(crate) mod shape;
