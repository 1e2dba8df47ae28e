//! An etcd-compatible store for one machine.
