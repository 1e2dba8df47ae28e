//! calicoctl's configuration: a `CalicoAPIConfig`, as the variables of the environment that mean the
//! same (Calico: `libcalico-go/lib/apiconfig`).

use std::{collections::BTreeMap, fs, io, path::Path};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::resource::{API_VERSION, kinds, manifest};

/// Fields of `spec`, and the variable of each.
const FIELDS: &[(&str, &str)] = &[
    ("datastoreType", "DATASTORE_TYPE"),
    ("etcdEndpoints", "ETCD_ENDPOINTS"),
    ("etcdUsername", "ETCD_USERNAME"),
    ("etcdPassword", "ETCD_PASSWORD"),
    ("etcdKeyFile", "ETCD_KEY_FILE"),
    ("etcdCertFile", "ETCD_CERT_FILE"),
    ("etcdCACertFile", "ETCD_CA_CERT_FILE"),
    ("kubeconfig", "KUBECONFIG"),
    ("k8sAPIEndpoint", "K8S_API_ENDPOINT"),
    ("k8sKeyFile", "K8S_KEY_FILE"),
    ("k8sCertFile", "K8S_CERT_FILE"),
    ("k8sCAFile", "K8S_CA_FILE"),
    ("k8sAPIToken", "K8S_API_TOKEN"),
    ("k8sInsecureSkipTLSVerify", "K8S_INSECURE_SKIP_TLS_VERIFY"),
    ("k8sDisableNodePoll", "K8S_DISABLE_NODE_POLL"),
    ("k8sCurrentContext", "K8S_CURRENT_CONTEXT"),
    ("k8sClientQPS", "K8S_CLIENT_QPS"),
    ("usePodCIDR", "USE_POD_CIDR"),
    ("calicoAPIGroup", "CALICO_API_GROUP"),
];

/// Fields that calicoctl has, and what to write instead.
const INSTEAD: &[(&str, &str)] = &[
    ("etcdDiscoverySrv", "etcdEndpoints: https://HOST:2379"),
    ("etcdKey", "etcdKeyFile: PATH, with the key in that file"),
    ("etcdCert", "etcdCertFile: PATH, with the certificate in that file"),
    ("etcdCACert", "etcdCACertFile: PATH, with the certificate in that file"),
    ("kubeconfigInline", "kubeconfig: PATH, with its contents in that file"),
];

/// What the file says, by variable. One that isn't there says nothing.
pub(super) fn read(path: &Path) -> anyhow::Result<BTreeMap<&'static str, String>> {
    let name = path.display();
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error).with_context(|| format!("{name}: can't be read")),
    };
    let config = manifest::read_value(&text).map_err(|fault| anyhow::anyhow!("{name}: {fault}"))?;
    let Value::Object(config) = config else {
        bail!("{name}: must be a map of apiVersion, kind and spec, as in calicoctl.cfg");
    };
    for (field, expected) in [("apiVersion", API_VERSION), ("kind", "CalicoAPIConfig")] {
        let found = config.get(field).unwrap_or(&Value::Null);
        if found != expected {
            bail!("{name}: {field}: {found}: must be {expected}");
        }
    }
    let known = ["apiVersion", "kind", "metadata", "spec"];
    if let Some(field) = config.keys().find(|field| !known.contains(&field.as_str())) {
        let hint = if FIELDS.iter().any(|(known, _)| known == field) {
            format!("write it under spec: spec.{field}")
        } else {
            format!("known here are {}", known.join(", "))
        };
        bail!("{name}: {field}: unknown field; {hint}");
    }
    let none = serde_json::Map::new();
    let spec = match config.get("spec") {
        None | Some(Value::Null) => &none,
        Some(Value::Object(spec)) => spec,
        Some(other) => bail!("{name}: spec: {other}: must be a map"),
    };
    let mut settings = BTreeMap::new();
    for (field, value) in spec {
        if let Some((_, instead)) = INSTEAD.iter().find(|(known, _)| known == field) {
            bail!("{name}: spec.{field}: isn't taken; write {instead}");
        }
        let known = FIELDS.iter().find(|(known, _)| known.eq_ignore_ascii_case(field));
        let Some((_, variable)) = known else {
            let names = FIELDS.iter().map(|(name, _)| *name);
            match kinds::nearest(field, names.clone()) {
                Some(near) => bail!("{name}: spec.{field}: unknown field; did you mean {near}?"),
                None => bail!(
                    "{name}: spec.{field}: unknown field; known here are {}",
                    names.collect::<Vec<_>>().join(", ")
                ),
            }
        };
        let text = match value {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            Value::Bool(_) | Value::Number(_) => value.to_string(),
            other => bail!("{name}: spec.{field}: {other}: must be text"),
        };
        settings.insert(*variable, text);
    }
    Ok(settings)
}
