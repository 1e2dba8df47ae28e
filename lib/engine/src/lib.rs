//! From resources to what each node needs: pure and deterministic.
