//! What the tests of the engine share.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod calculated;
pub(crate) mod checks;
pub(crate) mod cluster;
pub(crate) mod golden;
pub(crate) mod naive;
pub(crate) mod objects;
