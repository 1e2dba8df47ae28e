//! The health checks of gRPC, on the agents' port: serving from the first publication to the stop.

use std::sync::Arc;

use tokio::{sync::watch, task::JoinHandle};
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

use crate::writer::Published;

/// The service.
pub(crate) type Health = HealthServer<HealthService>;

/// The names that are asked for: the server as a whole, and its service.
const NAMES: [&str; 2] = ["", "bulrush.v1.Typha"];

/// Follows what the server is.
pub(crate) fn start(
    mut published: watch::Receiver<Option<Arc<Published>>>,
    mut draining: watch::Receiver<bool>,
) -> (Health, JoinHandle<()>) {
    let reporter = HealthReporter::new();
    let service = HealthServer::new(HealthService::from_health_reporter(reporter.clone()));
    let follow = async move {
        loop {
            let serving = published.borrow_and_update().is_some() && !*draining.borrow_and_update();
            let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
            for name in NAMES {
                reporter.set_service_status(name, status).await;
            }
            // It is told of each change of the two, and by the end of either ends.
            let changed = async {
                tokio::select! {
                    changed = published.wait_for(|now| now.is_some() != serving) => changed.is_ok(),
                    changed = draining.changed() => changed.is_ok(),
                }
            };
            if !changed.await {
                return;
            }
        }
    };
    (service, tokio::spawn(follow))
}
