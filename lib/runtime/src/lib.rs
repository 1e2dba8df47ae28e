//! What each of our programs does the same way: the runtime, logs, the signal to stop, HTTP pages.

mod duration;
pub mod http;
pub mod metrics;

use std::{
    io::{self, IsTerminal as _},
    process::ExitCode,
};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

pub use duration::duration;

/// Runs an asynchronous program to its end.
///
/// # Errors
/// Its own, or that the threads could not be started.
pub fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the asynchronous runtime could not start")?
        .block_on(work)
}

/// Runs a part of the system as a program of its own, up to its end or the signal to stop. An error
/// goes to stderr.
pub fn program<Run: Future<Output = anyhow::Result<()>>>(
    log_level: &str,
    run: impl FnOnce(BoxedStop) -> Run,
) -> ExitCode {
    log(log_level);
    match block_on(async { run(Box::pin(stop_signal())).await }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The signal to stop, on its way.
pub type BoxedStop = std::pin::Pin<Box<dyn Future<Output = ()>>>;

/// Logs of a long-running part go to stderr; `RUST_LOG` chooses, `default` is the level without it.
pub fn log(default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    // A second call finds logging in place, which is as good.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .try_init();
}

/// Ends at SIGINT or SIGTERM.
pub async fn stop_signal() {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        tracing::warn!("signals can't be received: end this program by its pid");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
