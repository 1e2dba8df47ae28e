//! TLS from three files, both sides: each proves an identity, and says by name whom it refuses.

use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use tokio_rustls::rustls::{
    self, CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, InvalidMessage,
    OtherError, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::{
        NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use crate::{Certificate, Identity, SharedName};

/// Where a side's certificate and key are, and the CAs that it believes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The certificate, PEM, with those between it and the CA after it.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// The CAs that sign the other side's certificates, PEM, one or several.
    pub ca: PathBuf,
}

/// What is wrong with the files.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// Not all three were given.
    #[error(
        "TLS needs --cert, --key and --ca, or the variables of the same meaning: {0} is missing"
    )]
    Incomplete(String),
    /// A file can't be read.
    #[error("{}: {error}; `bulrush certs issue` writes certificate, key and CA", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// The system's word.
        error: String,
    },
    /// A file has something else in it.
    #[error("{}: {problem}", path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// What is wrong in it.
        problem: String,
    },
    /// The two are of different certificates.
    #[error(
        "the key {} is not the key of the certificate {}: copy both again from where they were made",
        key.display(), certificate.display()
    )]
    Mismatch {
        /// The key.
        key: PathBuf,
        /// The certificate.
        certificate: PathBuf,
    },
}

impl Files {
    /// The files of the three flags; none when none was given.
    pub fn given(
        certificate: Option<PathBuf>,
        key: Option<PathBuf>,
        ca: Option<PathBuf>,
    ) -> Result<Option<Self>, TlsError> {
        match (certificate, key, ca) {
            (None, None, None) => Ok(None),
            (Some(certificate), Some(key), Some(ca)) => Ok(Some(Self { certificate, key, ca })),
            (certificate, key, ca) => {
                let absent = [
                    ("--cert", certificate.is_none()),
                    ("--key", key.is_none()),
                    ("--ca", ca.is_none()),
                ];
                let names = absent.iter().filter(|(_, absent)| *absent).map(|(name, _)| *name);
                Err(TlsError::Incomplete(names.collect::<Vec<_>>().join(" and ")))
            }
        }
    }

    /// Of a client that has no certificate: it shows who it is by something else.
    pub fn of_authority(ca: PathBuf) -> Self {
        Self { certificate: PathBuf::new(), key: PathBuf::new(), ca }
    }

    /// Reads them. Two readings are equal when nothing has changed.
    pub fn read(&self) -> Result<Material, TlsError> {
        let read = |path: &Path| {
            if path.as_os_str().is_empty() {
                return Ok(Vec::new());
            }
            std::fs::read(path)
                .map_err(|error| TlsError::Read { path: path.to_owned(), error: error.to_string() })
        };
        Ok(Material {
            certificate: read(&self.certificate)?,
            key: read(&self.key)?,
            ca: read(&self.ca)?,
            files: self.clone(),
        })
    }
}

/// The longest record that a server sends, so that with what TLS adds it has 4 KiB: buffers of that size are kept
/// for the next record, those of the longest record that TLS allows, four times that, are not.
const RECORD: usize = 4096 - 17;

/// What a client asks of a server's certificate, beyond that its CA signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerCheck {
    /// The identity `bulrush://server/typha`.
    Typha,
    /// That identity, or a name that all servers' certificates share.
    Shared(SharedName),
    /// That it is valid for the name that the client connects to.
    Host,
}

impl ServerCheck {
    /// What `--verify-host` says, where there is nothing else to say.
    pub fn by_host(verify_host: bool) -> Self {
        if verify_host { Self::Host } else { Self::Typha }
    }
}

/// The contents of the files.
#[derive(Clone, PartialEq, Eq)]
pub struct Material {
    certificate: Vec<u8>,
    key: Vec<u8>,
    ca: Vec<u8>,
    files: Files,
}

impl Material {
    /// The server's side: a client needs a certificate of one of the CAs, unless it may show who it is by a `token`.
    pub fn server(&self, token: bool) -> Result<ServerConfig, TlsError> {
        let (chain, key) = self.own()?;
        let provider = Arc::new(ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(
            Arc::new(self.authorities()?),
            provider.clone(),
        );
        let clients = if token { clients.allow_unauthenticated() } else { clients };
        let inner = clients.build().map_err(|error| content(&self.files.ca, &error))?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .map_err(|error| content(&self.files.certificate, &error))?
            .with_client_cert_verifier(Arc::new(Clients { inner }))
            .with_single_cert(chain, key)
            .map_err(|error| self.unusable(&error))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A resumed session would skip the look at the certificate: after a change of CAs, or when
        // it has expired.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_fragment_size = Some(RECORD);
        Ok(config)
    }

    /// The client's side.
    pub fn client(&self, check: ServerCheck) -> Result<ClientConfig, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let servers = Servers { roots: self.authorities()?, provider: provider.clone(), check };
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .map_err(|error| content(&self.files.certificate, &error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(servers));
        let mut config = if self.certificate.is_empty() {
            config.with_no_client_auth()
        } else {
            let (chain, key) = self.own()?;
            config.with_client_auth_cert(chain, key).map_err(|error| self.unusable(&error))?
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Ok(config)
    }

    /// Whom the own certificate is for.
    pub fn identity(&self) -> Result<Certificate, TlsError> {
        let chain = certificates(&self.certificate, &self.files.certificate)?;
        Certificate::read(&chain[0]).map_err(|error| content(&self.files.certificate, &error))
    }

    fn own(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let path = &self.files.certificate;
        let chain = certificates(&self.certificate, path)?;
        let certificate = self.identity()?;
        if let Some(problem) = certificate.untimely(now()) {
            let problem = format!("the certificate of {certificate} can't be used: {problem}");
            return Err(content(path, &problem));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| content(&self.files.key, &"there is no private key (PEM) in it"))?;
        Ok((chain, key))
    }

    fn authorities(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca, &self.files.ca)? {
            roots.add(certificate).map_err(|error| content(&self.files.ca, &error))?;
        }
        Ok(roots)
    }

    fn unusable(&self, error: &rustls::Error) -> TlsError {
        match error {
            rustls::Error::InconsistentKeys(_) => TlsError::Mismatch {
                key: self.files.key.clone(),
                certificate: self.files.certificate.clone(),
            },
            other => content(&self.files.certificate, other),
        }
    }
}

/// At least one.
fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(content(path, &"there is no certificate (PEM) in it")),
    }
}

fn content(path: &Path, problem: &dyn ToString) -> TlsError {
    TlsError::Content { path: path.to_owned(), problem: problem.to_string() }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs().cast_signed())
}

/// A certificate of the other side that is refused; the text names it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

fn refused(text: String) -> rustls::Error {
    CertificateError::Other(OtherError(Arc::new(Refused(text)))).into()
}

/// The certificate in words, and what is wrong with it.
fn wrong(certificate: &CertificateDer<'_>, error: &rustls::Error) -> rustls::Error {
    let named = match Certificate::read(certificate) {
        Ok(certificate) => certificate.to_string(),
        Err(unreadable) => return refused(format!("its certificate is refused: {unreadable}")),
    };
    let problem = match error {
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            "no CA that is known here signed it".into()
        }
        rustls::Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => match Certificate::read(certificate).ok().and_then(|read| read.untimely(now())) {
            Some(problem) => problem,
            None => "the CA that signed it has expired".into(),
        },
        rustls::Error::InvalidCertificate(CertificateError::BadSignature) => {
            "the signature on it is not that of the CA it names".into()
        }
        other => other.to_string(),
    };
    refused(format!("its certificate, {named}, is refused: {problem}"))
}

/// Verifies clients as webpki does, and names whom it refuses.
#[derive(Debug)]
struct Clients {
    inner: Arc<dyn ClientCertVerifier>,
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.inner
            .verify_client_cert(certificate, between, now)
            .map_err(|error| wrong(certificate, &error))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Verifies that a server is one of ours.
#[derive(Debug)]
struct Servers {
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
    check: ServerCheck,
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let parsed =
            ParsedCertificate::try_from(certificate).map_err(|error| wrong(certificate, &error))?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            between,
            now,
            self.provider.signature_verification_algorithms.all,
        )
        .map_err(|error| wrong(certificate, &error))?;
        let named = Certificate::read(certificate)
            .map_err(|error| refused(format!("its certificate is refused: {error}")))?;
        match &self.check {
            ServerCheck::Typha | ServerCheck::Shared(_) if named.is(&Identity::Server) => {}
            ServerCheck::Shared(name) if name.is_of(&named) => {}
            ServerCheck::Shared(name) => {
                return Err(refused(format!(
                    "its certificate, {named}, is refused: it has neither {} nor the shared name {name}",
                    Identity::Server
                )));
            }
            ServerCheck::Typha => {
                return Err(refused(format!(
                    "its certificate, {named}, is refused: it is no server's, which has {}; `bulrush \
                     certs issue --server HOST` makes one",
                    Identity::Server
                )));
            }
            ServerCheck::Host => verify_server_name(&parsed, host).map_err(|_| {
                let host = host.to_str();
                refused(format!("its certificate, {named}, is refused: it isn't valid for {host}"))
            })?,
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// What TLS says in this error or below it, in words for people; none: TLS says nothing.
///
/// The words are about the other side ("it"); "this side" is who calls.
pub fn why(error: &(dyn Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(in_words(tls));
        }
        // An I/O error hides what it wraps from `source`.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = wrapped.map(|wrapped| wrapped as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}

fn in_words(error: &rustls::Error) -> String {
    use rustls::AlertDescription as Alert;
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner)))
            if inner.downcast_ref::<Refused>().is_some() =>
        {
            inner.to_string()
        }
        rustls::Error::NoCertificatesPresented => {
            "it has no certificate: `bulrush certs issue` makes one".into()
        }
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "what it says is no TLS".into()
        }
        rustls::Error::AlertReceived(Alert::CertificateRequired) => {
            "it asks for a certificate: give one with --cert, --key and --ca".into()
        }
        rustls::Error::AlertReceived(
            alert @ (Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::UnsupportedCertificate
            | Alert::DecryptError),
        ) => format!("it refuses the certificate of this side ({alert:?}): its log says why"),
        other => other.to_string(),
    }
}
