//! Makes a CA, and certificates signed by it. In memory: who calls decides about files.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use crate::Identity;

/// Clocks differ: a certificate is valid from this long before it is made.
const SKEW: Duration = Duration::from_mins(5);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The CA's key or certificate, as PEM, can't be used.
    #[error("the CA can't be used: {0}")]
    Authority(rcgen::Error),
    /// The CA's key is another one's.
    #[error("the CA's key is not the key of its certificate")]
    OtherKey,
    /// A name of a server that is neither a host name nor an address.
    #[error("{0:?} is neither the name of a host nor an address")]
    Host(String),
    /// No key or no signature.
    #[error("a certificate could not be made: {0}")]
    Make(#[from] rcgen::Error),
}

/// From when to when a certificate is valid.
#[derive(Clone, Copy, Debug)]
pub struct Validity {
    /// From here on.
    pub from: SystemTime,
    /// Up to here.
    pub until: SystemTime,
}

impl Validity {
    /// So many days from `now` on.
    pub fn days(now: SystemTime, days: u32) -> Self {
        let day = Duration::from_hours(24);
        Self { from: now - SKEW, until: now + day * days }
    }
}

/// A certificate and its key, both PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its private key, PKCS#8.
    pub key: String,
}

/// A CA.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new CA; its name is different from every other's, so that messages tell them apart.
    pub fn create(validity: Validity) -> Result<Issued, IssueError> {
        let mut params = CertificateParams::new(Vec::new())?;
        let name = format!("Bulrush CA {:08x}", rand::random::<u32>());
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = validity.from.into();
        params.not_after = validity.until.into();
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.pem();
        Ok(Issued { certificate, key: key.serialize_pem() })
    }

    /// A CA from its certificate and key, both PEM.
    pub fn load(certificate: &str, key: &str) -> Result<Self, IssueError> {
        let key = KeyPair::from_pem(key).map_err(IssueError::Authority)?;
        if !has_key(certificate, &key)? {
            return Err(IssueError::OtherKey);
        }
        let issuer = Issuer::from_ca_cert_pem(certificate, key).map_err(IssueError::Authority)?;
        Ok(Self { issuer })
    }

    /// Makes a certificate for an identity. `hosts` are names and addresses that it may be reached
    /// by, which only a server has.
    pub fn issue(
        &self,
        identity: &Identity,
        hosts: &[String],
        validity: Validity,
    ) -> Result<Issued, IssueError> {
        let mut params = CertificateParams::new(Vec::new())?;
        let common_name = match identity {
            Identity::Node(name) => name.as_str(),
            Identity::Full => "full",
            Identity::Server => "typha",
        };
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names.push(SanType::URI(identity.to_string().try_into()?));
        for host in hosts {
            params.subject_alt_names.push(alternative_name(host)?);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match identity {
            Identity::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Identity::Node(_) | Identity::Full => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        params.use_authority_key_identifier_extension = true;
        params.not_before = validity.from.into();
        params.not_after = validity.until.into();
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Issued { certificate, key: key.serialize_pem() })
    }
}

/// Whether this is the key of that certificate.
fn has_key(certificate: &str, key: &KeyPair) -> Result<bool, IssueError> {
    use rcgen::PublicKeyData as _;
    let unreadable = || IssueError::Authority(rcgen::Error::CouldNotParseCertificate);
    let (_, pem) =
        x509_parser::pem::parse_x509_pem(certificate.as_bytes()).map_err(|_| unreadable())?;
    let parsed = pem.parse_x509().map_err(|_| unreadable())?;
    Ok(parsed.public_key().raw == key.subject_public_key_info())
}

/// Whether a server may be reached by this: the name of a host, or an address.
pub fn check_host(host: &str) -> Result<(), IssueError> {
    alternative_name(host).map(drop)
}

fn alternative_name(host: &str) -> Result<SanType, IssueError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let label = |label: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        !label.is_empty() && label.len() <= 63 && label.chars().all(plain)
    };
    let name = host.strip_suffix('.').unwrap_or(host);
    if name.len() > 253 || !name.split('.').all(label) {
        return Err(IssueError::Host(host.to_owned()));
    }
    Ok(SanType::DnsName(name.try_into()?))
}
