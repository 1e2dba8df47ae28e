//! SIGINT and SIGTERM while a lab starts: what was made is removed first.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::{Context as _, bail};
use tokio::{
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
};

/// Whether someone wants this command to stop.
pub(crate) struct Interrupt {
    seen: Arc<AtomicBool>,
}

impl Interrupt {
    /// From now on these signals are noticed here, and no longer end the process.
    pub(crate) fn watch(runtime: &Runtime) -> anyhow::Result<Self> {
        let _inside = runtime.enter();
        let mut interrupt = signal(SignalKind::interrupt()).context("receiving SIGINT")?;
        let mut terminate = signal(SignalKind::terminate()).context("receiving SIGTERM")?;
        let seen = Arc::new(AtomicBool::new(false));
        let flag = seen.clone();
        runtime.spawn(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            flag.store(true, Ordering::Relaxed);
        });
        Ok(Self { seen })
    }

    /// An error once a signal came.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        if self.seen.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }
}
