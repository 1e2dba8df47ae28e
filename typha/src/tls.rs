//! The server's side of TLS, made anew when a file changes; streams that are open live on.

use std::{sync::Arc, time::Duration};

use identity::{Files, Identity, Material, TlsError};
use tokio::{sync::watch, task::JoinHandle};
use tokio_rustls::rustls::ServerConfig;
use tracing::{info, warn};

/// What handshakes use, and what is wrong with newer files.
#[derive(Clone)]
pub(crate) struct Current {
    pub(crate) config: Arc<ServerConfig>,
    /// Why the files as they are now can't be used; what was read before stays in use.
    pub(crate) problem: Option<String>,
}

/// Reads the files, and keeps looking at them every `interval`. With `token`, a client may come without a certificate.
pub(crate) fn start(
    files: Files,
    token: bool,
    interval: Duration,
) -> Result<(watch::Receiver<Current>, JoinHandle<()>), TlsError> {
    let material = files.read()?;
    let config = Arc::new(material.server(token)?);
    let own = material.identity()?;
    if own.is(&Identity::Server) {
        info!(certificate = %own, "TLS");
    } else {
        let wanted = Identity::Server;
        warn!(certificate = %own, "TLS without {wanted}: agents need --verify-host");
    }
    let (sender, receiver) = watch::channel(Current { config, problem: None });
    Ok((receiver, tokio::spawn(reload(files, material, token, interval, sender))))
}

async fn reload(
    files: Files,
    mut seen: Material,
    token: bool,
    interval: Duration,
    current: watch::Sender<Current>,
) {
    loop {
        tokio::time::sleep(interval).await;
        let files = files.clone();
        let Ok(read) = tokio::task::spawn_blocking(move || files.read()).await else { continue };
        let made = match read {
            Ok(read) if read == seen => {
                // What is in use is what is on disk, again or still.
                current.send_if_modified(|current| current.problem.take().is_some());
                continue;
            }
            Ok(read) => read.server(token).map(|config| (read, config)),
            Err(error) => Err(error),
        };
        match made {
            Ok((read, config)) => {
                seen = read;
                info!("certificate, key and CAs were read anew");
                current.send_replace(Current { config: Arc::new(config), problem: None });
            }
            Err(error) => {
                let problem = Some(format!("{error}; what was read before stays in use"));
                current.send_if_modified(|current| {
                    let news = current.problem != problem;
                    if news {
                        warn!(%error, "TLS files can't be used; those read before stay in use");
                        current.problem = problem;
                    }
                    news
                });
            }
        }
    }
}
