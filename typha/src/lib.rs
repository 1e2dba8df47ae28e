//! The fan-out server: one snapshot of the store, each node's view to its agent.
