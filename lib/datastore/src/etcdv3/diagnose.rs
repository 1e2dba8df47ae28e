//! Why a member can't be used, for people: looks again, step by step, at what the client only calls a transport
//! error. Used when a program starts.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::rustls;

use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError, ClientConfig};

use super::tls;
use crate::config::EtcdConfig;

/// How long each step may take.
const STEP: Duration = Duration::from_secs(5);
/// How long a server may take to say what it dislikes after a handshake.
const ALERT: Duration = Duration::from_secs(1);
/// What opens an HTTP/2 connection (RFC 9113, 3.4), with empty SETTINGS.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// The reason, with the way out; none if a second look finds nothing wrong.
pub(super) async fn explain(endpoint: &str, config: &EtcdConfig) -> Option<String> {
    let (scheme, rest) = endpoint.split_once("://")?;
    let address = rest.split('/').next().unwrap_or(rest);
    let (host, _) = address.rsplit_once(':')?;
    if let Err(reason) = connect(address).await {
        return Some(reason);
    }
    if scheme == "http" {
        return speaks_tls(address, host)
            .await
            .then(|| format!("it speaks TLS; write https://{address} and set ETCD_CA_CERT_FILE"));
    }
    let tls = match tls::load(config) {
        Ok(tls) => tls,
        Err(error) => return Some(error.to_string()),
    };
    let error = handshake(address, host, tls.config).await.err()?;
    match tls_error(&error) {
        Some(rustls::Error::InvalidCertificate(problem)) => {
            Some(certificate(problem, host, config))
        }
        Some(rustls::Error::AlertReceived(alert)) => Some(refused(*alert, config)),
        _ if speaks_http2(address).await => {
            Some(format!("it speaks no TLS; write http://{address}, or give etcd certificates"))
        }
        _ => Some(format!("TLS handshake: {error}")),
    }
}

async fn connect(address: &str) -> Result<(), String> {
    if let Ok(Err(error)) = timeout(STEP, lookup_host(address)).await {
        return Err(format!("{error}; is the name right?"));
    }
    match timeout(STEP, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {
            Err("connection refused; is etcd running there?".to_owned())
        }
        Ok(Err(error)) => Err(format!("{error}; is the address right?")),
        Err(_) => Err(format!(
            "no answer in {} s; is the address right, and does no firewall drop it?",
            STEP.as_secs()
        )),
    }
}

/// A handshake, and a moment for the server to refuse our certificate, which in TLS 1.3 it does afterwards.
async fn handshake(address: &str, host: &str, config: Arc<ClientConfig>) -> std::io::Result<()> {
    let host = host.trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host).map_err(std::io::Error::other)?;
    let attempt = async {
        let stream = TcpStream::connect(address).await?;
        let mut stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await?;
        match timeout(ALERT, stream.read_u8()).await {
            Ok(Err(error)) if tls_error(&error).is_some() => Err(error),
            _ => Ok(()),
        }
    };
    timeout(STEP, attempt).await?
}

fn tls_error(error: &std::io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

async fn speaks_tls(address: &str, host: &str) -> bool {
    let Ok(config) = tls::trusting_nobody() else { return false };
    let Err(error) = handshake(address, host, config).await else { return true };
    matches!(
        tls_error(&error),
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::AlertReceived(_))
    )
}

async fn speaks_http2(address: &str) -> bool {
    let attempt = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(PREFACE).await?;
        let mut frame = [0; 9];
        stream.read_exact(&mut frame).await?;
        // The type of the first frame: SETTINGS.
        std::io::Result::Ok(frame[3] == 4)
    };
    matches!(timeout(STEP, attempt).await, Ok(Ok(true)))
}

fn certificate(problem: &CertificateError, host: &str, config: &EtcdConfig) -> String {
    match problem {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => match &config.ca_file {
            Some(path) => format!(
                "its certificate isn't signed by the authority in ETCD_CA_CERT_FILE={}",
                path.display()
            ),
            None => "its certificate isn't signed by an authority that this system trusts; \
                     set ETCD_CA_CERT_FILE"
                .to_owned(),
        },
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            format!("its certificate isn't for {host}: {problem}; use a name that it has")
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("its certificate has expired: {problem}")
        }
        other => format!("its certificate can't be accepted: {other}"),
    }
}

fn refused(alert: AlertDescription, config: &EtcdConfig) -> String {
    match &config.cert_file {
        None => format!(
            "it wants a certificate from us ({alert:?}); set ETCD_CERT_FILE and ETCD_KEY_FILE"
        ),
        Some(path) => format!(
            "it refuses our certificate ETCD_CERT_FILE={} ({alert:?}): \
             signed by another authority, expired, or not for clients",
            path.display()
        ),
    }
}
