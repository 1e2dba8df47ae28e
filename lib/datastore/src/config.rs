//! Which store, and how to reach it: from the environment that Calico's parts use, or from a URL.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::etcdv3;
use crate::kubernetes::{ApiGroup, KubernetesStore};
use crate::store::Datastore;

/// Which store, and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StoreConfig {
    /// An etcd cluster, or the embedded store.
    Etcd(EtcdConfig),
    /// A Kubernetes cluster.
    Kubernetes(KubernetesConfig),
}

/// How to reach a Kubernetes cluster, and what to use of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubernetesConfig {
    /// A kubeconfig file. None: `KUBECONFIG`, `~/.kube/config`, else the service account of our pod.
    pub kubeconfig: Option<PathBuf>,
    /// The group of Calico's objects. None: the one that the cluster serves.
    pub api_group: Option<ApiGroup>,
    /// The namespace of our own objects. None: our pod's, else `kube-system`.
    pub namespace: Option<String>,
    /// A watch without a sign of life for so long is dead. API servers send one a minute.
    pub idle: Duration,
    /// Whether lists are asked for as streams, which costs API servers less memory. Those that can't get pages.
    pub streamed_lists: bool,
}

impl Default for KubernetesConfig {
    fn default() -> Self {
        Self {
            kubeconfig: None,
            api_group: None,
            namespace: None,
            idle: Duration::from_secs(150),
            streamed_lists: true,
        }
    }
}

/// How to reach an etcd cluster.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct EtcdConfig {
    /// URLs, `http://host:port` or `https://host:port`. At least one.
    pub endpoints: Vec<String>,
    /// A file with the certificates (PEM) of who may sign the servers'. None: the system's.
    pub ca_file: Option<PathBuf>,
    /// A file with our certificate (PEM), with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// A file with the key (PEM) of our certificate.
    pub key_file: Option<PathBuf>,
    /// Name and password of a user of etcd.
    pub user: Option<(String, String)>,
}

impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("endpoints", &self.endpoints)
            .field("ca_file", &self.ca_file)
            .field("cert_file", &self.cert_file)
            .field("key_file", &self.key_file)
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .finish()
    }
}

impl StoreConfig {
    /// Reads `DATASTORE_TYPE`, `ETCD_ENDPOINTS`, `ETCD_CA_CERT_FILE`, `ETCD_CERT_FILE`, `ETCD_KEY_FILE`,
    /// `ETCD_USERNAME` and `ETCD_PASSWORD`; for Kubernetes, which is meant where neither type nor endpoints are set,
    /// `KUBECONFIG`, `CALICO_API_GROUP` and `BULRUSH_NAMESPACE`. Each but the last two also with `CALICO_` in front,
    /// which wins as it does in Calico. Empty is unset.
    pub fn from_env() -> Result<Self> {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    /// As [`Self::from_env`], with the environment as an argument.
    pub fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let lookup = |name: &str| lookup(&var, name);
        let value = |name: &str| lookup(name).map(|(_, value)| value);
        let endpoints = lookup("ETCD_ENDPOINTS");
        match lookup("DATASTORE_TYPE") {
            Some((_, kind)) if kind == "etcdv3" => {}
            Some((_, kind)) if kind == "kubernetes" => {
                return KubernetesConfig::from_lookup(lookup).map(Self::Kubernetes);
            }
            Some((name, kind)) => {
                return Err(Error::Config(format!(
                    "{name}={kind:?}: no such store; set it to etcdv3 or kubernetes"
                )));
            }
            None if endpoints.is_some() => {}
            None => return KubernetesConfig::from_lookup(lookup).map(Self::Kubernetes),
        }
        let Some((name, urls)) = endpoints else {
            return Err(Error::Config(
                "DATASTORE_TYPE=etcdv3 without ETCD_ENDPOINTS; set it to etcd's URLs, \
                 separated by commas, like https://10.0.0.1:2379"
                    .to_owned(),
            ));
        };
        let config = EtcdConfig {
            endpoints: urls.split(',').map(|url| url.trim().to_owned()).collect(),
            ca_file: value("ETCD_CA_CERT_FILE").map(PathBuf::from),
            cert_file: value("ETCD_CERT_FILE").map(PathBuf::from),
            key_file: value("ETCD_KEY_FILE").map(PathBuf::from),
            user: value("ETCD_USERNAME")
                .map(|user| (user, value("ETCD_PASSWORD").unwrap_or_default())),
        };
        config.check(&name)?;
        Ok(Self::Etcd(config))
    }

    /// The store at the URL that a flag gives, as in [`Self::from_url`], or the environment's.
    pub fn given(url: Option<&str>) -> Result<Self> {
        url.map_or_else(Self::from_env, Self::from_url)
    }

    /// An etcd cluster at a URL such as `http://127.0.0.1:2379`, or at several separated by commas, without
    /// certificates or user; or `kubernetes`, or `kubernetes:FILE` with a kubeconfig file.
    pub fn from_url(url: &str) -> Result<Self> {
        if let Some(rest) = url.strip_prefix("kubernetes")
            && (rest.is_empty() || rest.starts_with(':'))
        {
            let file = rest.trim_start_matches(':');
            let mut config = KubernetesConfig::from_env()?;
            if !file.is_empty() {
                config.kubeconfig = Some(file.into());
            }
            return Ok(Self::Kubernetes(config));
        }
        let endpoints = url.split(',').map(|url| url.trim().to_owned()).collect();
        let config = EtcdConfig { endpoints, ..EtcdConfig::default() };
        config.check("the store's URL")?;
        Ok(Self::Etcd(config))
    }

    /// Connects, and returns when the store has answered. The error names each endpoint that was tried, what went
    /// wrong, and the way out.
    pub async fn connect(&self) -> Result<Arc<dyn Datastore>> {
        match self {
            Self::Etcd(config) => {
                Ok(Arc::new(Box::pin(etcdv3::EtcdStore::connect(config.clone())).await?))
            }
            Self::Kubernetes(config) => {
                Ok(Arc::new(Box::pin(KubernetesStore::connect(config.clone())).await?))
            }
        }
    }
}

impl KubernetesConfig {
    /// Reads `KUBECONFIG`, `CALICO_API_GROUP` and `BULRUSH_NAMESPACE`.
    pub fn from_env() -> Result<Self> {
        Self::from_lookup(|name| lookup(&|name| std::env::var(name).ok(), name))
    }

    fn from_lookup(lookup: impl Fn(&str) -> Option<(String, String)>) -> Result<Self> {
        // Without `CALICO_` in front it would be anybody's.
        let api_group = match lookup("API_GROUP").filter(|(name, _)| name.starts_with("CALICO_")) {
            Some((name, text)) => Some(ApiGroup::from_api_version(&text).ok_or_else(|| {
                Error::Config(format!(
                    "{name}={text:?}: no such group; set it to {} or {}",
                    ApiGroup::V1,
                    ApiGroup::V3
                ))
            })?),
            None => None,
        };
        let value = |name| lookup(name).map(|(_, value)| value);
        // Several files are kube's to merge.
        let kubeconfig = value("KUBECONFIG").filter(|path| !path.contains(':')).map(PathBuf::from);
        let namespace = value("BULRUSH_NAMESPACE");
        Ok(Self { kubeconfig, api_group, namespace, ..Self::default() })
    }
}

/// A variable with the name that it was found by: that with `CALICO_` in front wins. Empty is unset.
fn lookup(var: &impl Fn(&str) -> Option<String>, name: &str) -> Option<(String, String)> {
    [format!("CALICO_{name}"), name.to_owned()].into_iter().find_map(|name| {
        let value = var(&name)?.trim().to_owned();
        (!value.is_empty()).then_some((name, value))
    })
}

impl EtcdConfig {
    /// Finds what can be found without asking a server. `name` is where the endpoints are from.
    fn check(&self, name: &str) -> Result<()> {
        let invalid = |url: &str, why: &str| Err(Error::Config(format!("{name}: {url:?} {why}")));
        for url in &self.endpoints {
            let Some((scheme, rest)) = url.split_once("://") else {
                return invalid(
                    url,
                    &format!("has no scheme; write http://{url} or, for TLS, https://{url}"),
                );
            };
            if !matches!(scheme, "http" | "https") {
                return invalid(url, "is neither http:// nor https://");
            }
            let port =
                rest.trim_end_matches('/').rsplit_once(':').map(|(_, port)| port.parse::<u16>());
            if rest.starts_with(':') || !matches!(port, Some(Ok(_))) {
                return invalid(url, "is not of the form http://host:port; etcd's port is 2379");
            }
        }
        match (&self.cert_file, &self.key_file) {
            (Some(cert), None) => Err(Error::Config(format!(
                "ETCD_CERT_FILE={} without ETCD_KEY_FILE; set both or neither",
                cert.display()
            ))),
            (None, Some(key)) => Err(Error::Config(format!(
                "ETCD_KEY_FILE={} without ETCD_CERT_FILE; set both or neither",
                key.display()
            ))),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use support::assert_bad_input;

    use super::*;

    fn from(vars: &[(&str, &str)]) -> Result<StoreConfig, String> {
        let lookup = |name: &str| {
            let found = vars.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        StoreConfig::from_vars(lookup).map_err(|error| error.to_string())
    }

    fn etcd(vars: &[(&str, &str)]) -> EtcdConfig {
        match from(vars).expect("a configuration") {
            StoreConfig::Etcd(config) => config,
            other @ StoreConfig::Kubernetes(_) => panic!("{other:?}"),
        }
    }

    #[test]
    fn without_endpoints_it_is_kubernetes() {
        let of = |vars: &[(&str, &str)]| match from(vars).expect("a configuration") {
            StoreConfig::Kubernetes(config) => config,
            other @ StoreConfig::Etcd(_) => panic!("{other:?}"),
        };
        assert_eq!(of(&[]), KubernetesConfig::default());
        let config = of(&[
            ("DATASTORE_TYPE", "kubernetes"),
            ("ETCD_ENDPOINTS", "http://a:1"),
            ("KUBECONFIG", "/a/config"),
            ("CALICO_API_GROUP", "projectcalico.org/v3"),
            ("API_GROUP", "no business of ours"),
            ("BULRUSH_NAMESPACE", "net"),
        ]);
        let expected = KubernetesConfig {
            kubeconfig: Some("/a/config".into()),
            api_group: Some(ApiGroup::V3),
            namespace: Some("net".to_owned()),
            ..KubernetesConfig::default()
        };
        assert_eq!(config, expected);
    }

    #[test]
    fn endpoints_alone_mean_etcd() {
        let config = etcd(&[("ETCD_ENDPOINTS", "https://10.0.0.1:2379, https://[fd00::1]:2379/")]);
        assert_eq!(config.endpoints, ["https://10.0.0.1:2379", "https://[fd00::1]:2379/"]);
        assert_eq!(config.user, None);
    }

    #[test]
    fn every_variable_may_have_calicos_prefix_which_wins() {
        let config = etcd(&[
            ("CALICO_DATASTORE_TYPE", "etcdv3"),
            ("DATASTORE_TYPE", "kubernetes"),
            ("CALICO_ETCD_ENDPOINTS", "https://a:1"),
            ("ETCD_ENDPOINTS", "https://b:1"),
            ("CALICO_ETCD_CA_CERT_FILE", "/a/ca"),
            ("ETCD_CERT_FILE", "/b/cert"),
            ("CALICO_ETCD_KEY_FILE", "/a/key"),
            ("ETCD_USERNAME", "calico"),
            ("CALICO_ETCD_PASSWORD", "secret"),
        ]);
        let expected = EtcdConfig {
            endpoints: vec!["https://a:1".to_owned()],
            ca_file: Some("/a/ca".into()),
            cert_file: Some("/b/cert".into()),
            key_file: Some("/a/key".into()),
            user: Some(("calico".to_owned(), "secret".to_owned())),
        };
        assert_eq!(config, expected);
        assert!(!format!("{config:?}").contains("secret"), "a password is nowhere in a log");
    }

    #[test]
    fn empty_is_unset() {
        let config = etcd(&[
            ("DATASTORE_TYPE", ""),
            ("ETCD_ENDPOINTS", "http://a:1"),
            ("ETCD_CA_CERT_FILE", ""),
            ("ETCD_CERT_FILE", " "),
            ("ETCD_USERNAME", ""),
            ("ETCD_PASSWORD", "unused"),
        ]);
        assert_eq!(
            config,
            EtcdConfig { endpoints: vec!["http://a:1".into()], ..EtcdConfig::default() }
        );
    }

    #[test]
    fn what_cant_be_used_is_named_with_the_way_out() {
        let etcd = |url| [("ETCD_ENDPOINTS", url)];
        let says = |case: &str, vars: &[(&str, &str)]| {
            assert_bad_input(case, &from(vars).expect_err(case));
        };
        says("environment: a group of Calico that there isn't", &[("CALICO_API_GROUP", "v3")]);
        says("environment: a store that doesn't exist", &[("CALICO_DATASTORE_TYPE", "etcd")]);
        says("environment: etcd without addresses", &[("DATASTORE_TYPE", "etcdv3")]);
        says("environment: an address without a scheme", &etcd("10.0.0.1:2379"));
        says("environment: a scheme that isn't HTTP", &[("CALICO_ETCD_ENDPOINTS", "tcp://a:1")]);
        says("environment: an address without a port", &etcd("http://a:1,http://b"));
        says("environment: an address without a host", &etcd("http://:2379"));
        let with = |name, value| [("ETCD_ENDPOINTS", "https://a:1"), (name, value)];
        says("environment: a certificate without its key", &with("ETCD_CERT_FILE", "/c"));
        says("environment: a key without its certificate", &with("ETCD_KEY_FILE", "/k"));
        let error = StoreConfig::from_url("127.0.0.1:2379").expect_err("a scheme is missing");
        assert_bad_input("store URL: no scheme", &error.to_string());
    }
}
