//! One trait over etcd and Kubernetes: list, watch, compare-and-swap.
