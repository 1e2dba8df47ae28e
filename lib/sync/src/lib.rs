//! The protocol's state machines: topics, digests, publisher, sessions; pure.
