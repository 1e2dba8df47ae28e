//! Small HTTP listeners: health, metrics, status.

use axum::{Router, http::StatusCode};
use tokio::{net::TcpListener, task::JoinHandle};
use tracing::warn;

/// The content type of Prometheus' text format.
pub const METRICS_TYPE: (axum::http::HeaderName, &str) =
    (axum::http::header::CONTENT_TYPE, "text/plain; version=0.0.4");

/// Serves a router until the task is aborted.
pub fn serve(listener: TcpListener, router: Router) -> JoinHandle<()> {
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            warn!(%error, "an HTTP listener ended");
        }
    })
}

/// The answer of a health check: 200, or 503 with what is wrong.
pub fn health(problem: Option<String>) -> (StatusCode, String) {
    match problem {
        None => (StatusCode::OK, "ok\n".into()),
        Some(problem) => (StatusCode::SERVICE_UNAVAILABLE, problem + "\n"),
    }
}
