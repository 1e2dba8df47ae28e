//! The wire contract between typha and its agents.
