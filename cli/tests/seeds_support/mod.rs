//! What a walk over real processes is made of.

pub(crate) mod agent;
pub(crate) mod ledger;
pub(crate) mod meetings;
pub(crate) mod place;
pub(crate) mod writes;
