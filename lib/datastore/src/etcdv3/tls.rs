//! The certificate files, read and checked before anyone is asked, so that an error names the file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use etcd_client::{Certificate, Identity, TlsOptions};
use tokio_rustls::rustls;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::config::EtcdConfig;
use crate::error::{Error, Result};

/// Where systems keep the certificates that they trust, the usual ones.
const SYSTEM: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What a connection with TLS needs.
pub(super) struct Tls {
    /// As etcd's client wants it.
    pub(super) options: TlsOptions,
    /// The same, for a handshake of our own.
    pub(super) config: Arc<ClientConfig>,
}

/// Reads the files as they are now.
pub(super) fn load(config: &EtcdConfig) -> Result<Tls> {
    let mut options = TlsOptions::new();
    let ca = match &config.ca_file {
        Some(path) => File::read("ETCD_CA_CERT_FILE", path)?,
        None => File::read("ETCD_CA_CERT_FILE is unset, and the system's", &system()?)?,
    };
    let mut roots = RootCertStore::empty();
    let (used, _) = roots.add_parsable_certificates(ca.certificates()?);
    if used == 0 {
        return Err(ca.error("holds no certificate that can be used"));
    }
    options = options.ca_certificate(Certificate::from_pem(&ca.bytes));
    let builder = builder()?.with_root_certificates(roots);
    let config = match (&config.cert_file, &config.key_file) {
        (Some(cert), Some(key)) => {
            let cert = File::read("ETCD_CERT_FILE", cert)?;
            let key = File::read("ETCD_KEY_FILE", key)?;
            options = options.identity(Identity::from_pem(&cert.bytes, &key.bytes));
            let der = PrivateKeyDer::from_pem_slice(&key.bytes).map_err(|_| {
                key.error("holds no private key in PEM (-----BEGIN … PRIVATE KEY-----)")
            })?;
            builder.with_client_auth_cert(cert.certificates()?, der).map_err(|error| {
                key.error(&format!("doesn't fit ETCD_CERT_FILE={}: {error}", cert.path.display()))
            })?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(Tls { options, config: Arc::new(config) })
}

/// One that trusts nobody: enough to learn whether a server speaks TLS.
pub(super) fn trusting_nobody() -> Result<Arc<ClientConfig>> {
    let config = builder()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    Ok(Arc::new(config))
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>> {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::Config(format!("TLS: {error}")))
}

fn system() -> Result<PathBuf> {
    let chosen = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    let mut usual = SYSTEM.into_iter().map(PathBuf::from).filter(|path| path.exists());
    chosen.or_else(|| usual.next()).ok_or_else(|| {
        Error::Config(
            "an https endpoint without ETCD_CA_CERT_FILE, and this system has no list of authorities; \
             set it to the file with the certificate that signed etcd's"
                .to_owned(),
        )
    })
}

struct File<'a> {
    name: &'a str,
    path: PathBuf,
    bytes: Vec<u8>,
}

impl<'a> File<'a> {
    fn read(name: &'a str, path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path)
            .map_err(|error| Error::Config(format!("{name}={}: {error}", path.display())))?;
        Ok(Self { name, path: path.to_owned(), bytes })
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>> {
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&self.bytes).collect();
        match certificates {
            Ok(certificates) if !certificates.is_empty() => Ok(certificates),
            Ok(_) => Err(self.error("holds no certificate in PEM (-----BEGIN CERTIFICATE-----)")),
            Err(error) => Err(self.error(&format!("can't be read: {error}"))),
        }
    }

    fn error(&self, what: &str) -> Error {
        Error::Config(format!("{}={} {what}", self.name, self.path.display()))
    }
}
