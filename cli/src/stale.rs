//! What is said of a typha that has lost its store: its answer may be old.

/// Warns that what a typha shows may have changed since.
pub(crate) fn warn(server: &str, stale_milliseconds: u64) {
    if stale_milliseconds > 0 {
        let seconds = stale_milliseconds.div_ceil(1000);
        eprintln!(
            "warning: typha at {server}: its store has been out of reach for {seconds} s: what follows is as of then"
        );
    }
}
