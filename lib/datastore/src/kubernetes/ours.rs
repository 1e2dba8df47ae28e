//! Our own objects in the cluster: Secrets of one namespace.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::Shared;
use crate::config::KubernetesConfig;
use crate::error::{Error, Result};

/// The namespace of the pod that we are, as the kubelet writes it.
const OWN_NAMESPACE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
const FALLBACK: &str = "kube-system";
/// The field of the Secret.
const FIELD: &str = "value";

/// As configured, else our pod's, else `kube-system`.
pub(super) fn namespace(config: &KubernetesConfig) -> String {
    let own = || std::fs::read_to_string(Path::new(OWN_NAMESPACE)).ok();
    let namespace = config.namespace.clone().or_else(own).unwrap_or_default();
    let namespace = namespace.trim();
    if namespace.is_empty() { FALLBACK.to_owned() } else { namespace.to_owned() }
}

/// The Secret `bulrush-<name>`.
pub(super) async fn get_or_create_raw(
    shared: &Shared,
    name: &str,
    bytes: &[u8],
) -> Result<Vec<u8>> {
    let (connection, namespace) = (&shared.connection, &shared.namespace);
    let secrets = format!("/api/v1/namespaces/{namespace}/secrets");
    let name = format!("bulrush-{name}");
    let get = format!("get secret {namespace}/{name}");
    let create = format!("create secret {namespace}/{name}");
    let path = format!("{secrets}/{name}");
    match connection.request(&get, Method::GET, &path, None).await? {
        Ok(secret) => return read(shared, &get, &secret),
        Err(refusal) if refusal.code == StatusCode::NOT_FOUND => {}
        Err(refusal) => return Err(connection.refused(&get, refusal)),
    }
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": name },
        "data": { FIELD: STANDARD.encode(bytes) },
    });
    match connection.request(&create, Method::POST, &secrets, Some(&secret)).await? {
        Ok(secret) => read(shared, &create, &secret),
        // Another was first.
        Err(refusal) if refusal.code == StatusCode::CONFLICT => {
            read(shared, &get, &connection.get(&get, &path).await?)
        }
        Err(refusal) => Err(connection.refused(&create, refusal)),
    }
}

fn read(shared: &Shared, operation: &str, secret: &Value) -> Result<Vec<u8>> {
    let text = secret["data"][FIELD].as_str();
    text.and_then(|text| STANDARD.decode(text).ok()).ok_or_else(|| Error::Refused {
        store: shared.connection.describe(),
        reason: format!(
            "{operation}: its field data.{FIELD} isn't there; delete it, and it is made anew"
        ),
    })
}
