//! Connections over TLS.

use std::{
    io,
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::{io::AsyncBufReadExt as _, net::TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream, rustls::pki_types::ServerName};
use tonic::transport::Uri;
use tower_service::Service;

use crate::DEFAULT_PORT;

/// The other side left the handshake without a word.
#[derive(Debug, thiserror::Error)]
#[error("it hung up during the TLS handshake: does it speak TLS on that port?")]
struct HungUp;

/// Makes connections over TLS.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) tls: TlsConnector,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let tls = self.tls.clone();
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let port = uri.port_u16().unwrap_or(DEFAULT_PORT);
            let tcp = TcpStream::connect((host.as_str(), port)).await?;
            tcp.set_nodelay(true)?;
            let name = ServerName::try_from(host).map_err(io::Error::other)?;
            let mut stream = tls.connect(name, tcp).await.map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => io::Error::other(HungUp),
                _ => error,
            })?;
            // In TLS 1.3 a client is done before the server has looked at its certificate: that the
            // server speaks shows that it was accepted.
            if stream.fill_buf().await?.is_empty() {
                return Err(io::Error::other(HungUp));
            }
            Ok(TokioIo::new(stream))
        })
    }
}
