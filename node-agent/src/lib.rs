//! The agent on each node: its view in the Linux kernel.
