//! Finds typha by its Service in Kubernetes.

use std::{fmt, sync::Arc};

use client::{Find, Finding};
use datastore::{config::KubernetesConfig, kubernetes::Service};
use rand::seq::SliceRandom as _;
use tokio::sync::OnceCell;

/// The pods of typha's Service.
#[derive(Clone)]
pub struct Pods {
    config: KubernetesConfig,
    namespace: String,
    name: String,
    node: String,
    service: Arc<OnceCell<Service>>,
}

impl Pods {
    /// Of a Service, for an agent of `node`.
    pub fn new(config: KubernetesConfig, namespace: String, name: String, node: String) -> Self {
        Self { config, namespace, name, node, service: Arc::default() }
    }
}

impl fmt::Debug for Pods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Service {}/{}", self.namespace, self.name)
    }
}

impl Find for Pods {
    fn find(&self) -> Finding {
        let this = self.clone();
        Box::pin(async move {
            let open = || Service::open(&this.config, &this.namespace, &this.name, &this.node);
            let service = this.service.get_or_try_init(open).await;
            let service = service.map_err(|error| error.to_string())?;
            let mut found = service.addresses().await.map_err(|error| error.to_string())?;
            // Agents spread over the servers.
            found.own.shuffle(&mut rand::rng());
            found.others.shuffle(&mut rand::rng());
            found.own.append(&mut found.others);
            Ok(found.own)
        })
    }
}
