//! What the tester does with memory that it has freed.
//!
//! What ships gives it back to the system at once (`.cargo/config.toml`), which is right for a server that is measured
//! and wrong for the agents around it: thousands of them unpack what they get in one process, and it spent most of its
//! time in the system, at the expense of the server. The allocator takes its settings from the environment, before
//! anything of the program runs: so the program begins once more.

use std::{env, io, os::unix::process::CommandExt as _, process};

use tokio::process::Command;

/// Where jemalloc reads its settings.
const SETTINGS: &str = "_RJEM_MALLOC_CONF";
/// Memory that nobody has used for so long is given back.
const KEPT: &str = "dirty_decay_ms:5000,muzzy_decay_ms:5000";

/// Goes on as the same program that keeps what it frees, unless the environment has other settings.
///
/// # Errors
/// Why it could not; the program may go on as it is.
pub(crate) fn keep() -> io::Result<()> {
    if env::var_os(SETTINGS).is_some() {
        return Ok(());
    }
    let mut again = process::Command::new(env::current_exe()?);
    Err(again.args(env::args_os().skip(1)).env(SETTINGS, KEPT).exec())
}

/// A child does as what ships.
pub(crate) fn as_shipped(child: &mut Command) {
    if env::var_os(SETTINGS).is_some_and(|settings| settings == KEPT) {
        child.env_remove(SETTINGS);
    }
}
