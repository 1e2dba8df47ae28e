//! The Kubernetes API as a target of the suite, and a client of it that shares nothing with the store.

use std::fmt::Write as _;
use std::sync::OnceLock;

use http_body_util::BodyExt as _;
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use support::RealKubernetes;
use tokio::sync::{Mutex, OwnedMutexGuard};

/// The groups of Calico's objects.
pub const GROUPS: [&str; 2] = ["crd.projectcalico.org/v1", "projectcalico.org/v3"];

/// The API server of this suite, with both groups; none: there is no API server here, which was said.
pub fn cluster() -> Option<&'static RealKubernetes> {
    static DEFINED: OnceLock<()> = OnceLock::new();
    let kubernetes = RealKubernetes::shared()?;
    DEFINED.get_or_init(|| {
        for group in GROUPS {
            kubernetes.define_calico(group);
        }
    });
    Some(kubernetes)
}

/// One scenario at a time: all share the cluster.
pub async fn turn() -> OwnedMutexGuard<()> {
    static TURN: OnceLock<std::sync::Arc<Mutex<()>>> = OnceLock::new();
    TURN.get_or_init(Default::default).clone().lock_owned().await
}

pub async fn client(kubeconfig: &std::path::Path) -> kube::Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    kube::Client::try_from(config).unwrap()
}

/// Raw requests.
#[derive(Clone)]
pub struct Api {
    client: kube::Client,
    pub group: &'static str,
}

impl Api {
    pub async fn new(kubernetes: &RealKubernetes, group: &'static str) -> Self {
        Self { client: client(&kubernetes.kubeconfig("admin")).await, group }
    }

    /// The answer, or the code of a no.
    pub async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, u16> {
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/json")
            .body(Body::from(body))
            .unwrap();
        let answer = self.client.send(request).await.unwrap();
        let status = answer.status();
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        if status.is_success() {
            Ok(serde_json::from_slice(&bytes).unwrap())
        } else {
            Err(status.as_u16())
        }
    }

    fn tiers(&self) -> String {
        format!("/apis/{}/tiers", self.group)
    }

    /// Removes all tiers.
    pub async fn clear(&self) {
        self.call("DELETE", &self.tiers(), None).await.unwrap();
    }

    /// Writes or removes (none) a tier; returns the version, and with a value what it is then. None: it wasn't there.
    pub async fn write(&self, name: &str, value: Option<&Value>) -> Option<(u64, Option<Value>)> {
        let path = format!("{}/{name}", self.tiers());
        let Some(value) = value else {
            // The answer is the object with the version of its removal.
            let gone = self.call("DELETE", &path, None).await.ok()?;
            let version = match gone["metadata"]["resourceVersion"].as_str() {
                Some(version) => version.parse().unwrap(),
                // A Status: the version is asked for by a list, which is no older.
                None => version(&self.call("GET", &self.tiers(), None).await.unwrap()),
            };
            return Some((version, None));
        };
        let mut object = value.clone();
        object["apiVersion"] = json!(self.group);
        object["kind"] = json!("Tier");
        object["metadata"]["name"] = json!(name);
        let written = match self.call("POST", &self.tiers(), Some(&object)).await {
            Err(409) => {
                let now = self.call("GET", &path, None).await.unwrap();
                object["metadata"]["resourceVersion"] = now["metadata"]["resourceVersion"].clone();
                self.call("PUT", &path, Some(&object)).await.unwrap()
            }
            created => created.unwrap(),
        };
        Some((version(&written), Some(seen(&written, self.group))))
    }
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

/// What a reader of Calico's objects makes of a tier.
fn seen(written: &Value, group: &str) -> Value {
    let mut seen = json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "Tier",
        "metadata": written["metadata"].clone(),
        "spec": written["spec"].clone(),
    });
    let metadata = seen["metadata"].as_object_mut().unwrap();
    for field in ["resourceVersion", "generation", "managedFields"] {
        metadata.remove(field);
    }
    if group.ends_with("v1") {
        let uid = metadata["uid"].as_str().unwrap().to_owned();
        metadata.insert("uid".to_owned(), json!(reversed(&uid)));
    }
    seen
}

/// As Calico derives it: the bits of each byte in reverse, but for version and variant.
fn reversed(uid: &str) -> String {
    let hex: String = uid.chars().filter(|c| *c != '-').collect();
    let mut out = String::new();
    for index in 0..16 {
        let byte = u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).unwrap();
        let byte = if matches!(index, 6 | 8) { byte } else { byte.reverse_bits() };
        if matches!(index, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        write!(out, "{byte:02x}").unwrap();
    }
    out
}
