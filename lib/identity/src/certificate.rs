//! What a certificate says: its identities, and words for people to know it by.

use std::fmt;

use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject as _};
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, prelude::FromDer as _, x509::X509Name,
};

use crate::Identity;

/// Bytes that are no certificate.
#[derive(Clone, Debug, thiserror::Error)]
#[error("it can't be read as an X.509 certificate: {0}")]
pub struct Unreadable(String);

/// What is known of a certificate once it was read. Whether it may be believed is TLS' matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// Its `bulrush://` identities. One that this version doesn't know grants nothing and is left out.
    pub identities: Vec<Identity>,
    common_names: Vec<String>,
    uris: Vec<String>,
    subject: String,
    issuer: String,
    not_after: String,
    not_before_seconds: i64,
    not_after_seconds: i64,
}

impl Certificate {
    /// Reads it.
    pub fn read(der: &CertificateDer<'_>) -> Result<Self, Unreadable> {
        let unreadable = |error: String| Unreadable(error);
        let (_, parsed) =
            X509Certificate::from_der(der).map_err(|error| unreadable(error.to_string()))?;
        let names = parsed
            .subject_alternative_name()
            .map_err(|error| unreadable(error.to_string()))?
            .map(|extension| extension.value.general_names.as_slice())
            .unwrap_or_default();
        let uris = names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        });
        let uris: Vec<String> = uris.collect();
        let common_names = parsed.subject().iter_common_name();
        let common_names = common_names.filter_map(|name| name.as_str().ok().map(str::to_owned));
        let validity = parsed.validity();
        Ok(Self {
            identities: uris.iter().filter_map(|uri| uri.parse().ok()).collect(),
            common_names: common_names.collect(),
            uris,
            subject: name(parsed.subject()),
            issuer: name(parsed.issuer()),
            not_after: validity.not_after.to_string(),
            not_before_seconds: validity.not_before.timestamp(),
            not_after_seconds: validity.not_after.timestamp(),
        })
    }

    /// Reads the first one of a PEM file.
    pub fn read_pem(pem: &[u8]) -> Result<Self, Unreadable> {
        let der = CertificateDer::from_pem_slice(pem);
        Self::read(&der.map_err(|_| Unreadable("there is no certificate (PEM) in it".into()))?)
    }

    /// Whether it carries this identity.
    pub fn is(&self, identity: &Identity) -> bool {
        self.identities.contains(identity)
    }

    /// The common names of its subject, of which most have one.
    pub(crate) fn common_names(&self) -> &[String] {
        &self.common_names
    }

    /// The URIs among its subject alternative names.
    pub(crate) fn uris(&self) -> &[String] {
        &self.uris
    }

    /// Its identities in words, or that it has none.
    pub fn says(&self) -> String {
        if self.identities.is_empty() {
            return "no bulrush:// identity".into();
        }
        let identities: Vec<String> = self.identities.iter().map(ToString::to_string).collect();
        identities.join(" and ")
    }

    /// What is wrong with its time, `now` in seconds since 1970.
    pub fn untimely(&self, now: i64) -> Option<String> {
        if now > self.not_after_seconds {
            Some(format!("it expired at {}", self.not_after))
        } else if now < self.not_before_seconds {
            Some("it isn't valid yet: is the clock right?".into())
        } else {
            None
        }
    }
}

/// For example `bulrush://node/n1 (CN=n1, issued by CN=Bulrush CA 5d0c1e9f)`.
impl fmt::Display for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, issued by {})", self.says(), self.subject, self.issuer)
    }
}

/// A name as text on one line: a stranger's certificate ends in our log.
fn name(name: &X509Name<'_>) -> String {
    let text: String = name.to_string().chars().filter(|c| !c.is_control()).take(200).collect();
    if text.is_empty() { "without a name".into() } else { text }
}
