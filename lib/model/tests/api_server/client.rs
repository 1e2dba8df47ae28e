//! HTTP over TLS to a real API server, one request after the other on one connection.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    sync::Arc,
};

use serde_json::Value;
use support::ApiServer;
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

/// A connection of one user.
pub(crate) struct Client {
    stream: BufReader<StreamOwned<ClientConnection, TcpStream>>,
    token: String,
    acts_as: Option<String>,
}

/// What the server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) fn is_ok(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// The words of an error.
    pub(crate) fn message(&self) -> &str {
        self.body["message"].as_str().unwrap_or_default()
    }
}

impl Client {
    pub(crate) fn connect(server: &ApiServer, user: &str) -> Self {
        let mut roots = RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(server.ca_file()).expect("a certificate");
        roots.add(ca).expect("an authority");
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        let session = ClientConnection::new(Arc::new(config), name).expect("a session");
        let socket = TcpStream::connect(("127.0.0.1", server.port())).expect("a connection");
        socket.set_nodelay(true).expect("an option");
        let stream = BufReader::new(StreamOwned::new(session, socket));
        Self { stream, token: server.token(user), acts_as: None }
    }

    /// The same connection as another user, who needs no token.
    pub(crate) fn acting_as(mut self, user: &str) -> Self {
        self.acts_as = Some(user.to_owned());
        self
    }

    pub(crate) fn get(&mut self, path: &str) -> Answer {
        self.request("GET", path, "")
    }

    pub(crate) fn post(&mut self, path: &str, body: &Value) -> Answer {
        self.request("POST", path, &body.to_string())
    }

    pub(crate) fn put(&mut self, path: &str, body: &Value) -> Answer {
        self.request("PUT", path, &body.to_string())
    }

    pub(crate) fn delete(&mut self, path: &str) -> Answer {
        self.request("DELETE", path, "")
    }

    fn request(&mut self, method: &str, path: &str, body: &str) -> Answer {
        let acts_as = self.acts_as.as_ref();
        let acts_as =
            acts_as.map(|user| format!("Impersonate-User: {user}\r\n")).unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {}\r\n{acts_as}\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.token,
            body.len()
        );
        let request = [head.as_bytes(), body.as_bytes()].concat();
        self.stream.get_mut().write_all(&request).expect("the server reads");
        let status = self.line();
        let code = status.split(' ').nth(1).and_then(|code| code.parse().ok());
        let code = code.unwrap_or_else(|| panic!("{method} {path}: {status:?}"));
        let (mut length, mut is_chunked) = (0, false);
        loop {
            let line = self.line().to_ascii_lowercase();
            match line.split_once(": ") {
                Some(("content-length", value)) => length = value.parse().expect("a length"),
                Some(("transfer-encoding", "chunked")) => is_chunked = true,
                Some(_) => {}
                None => break,
            }
        }
        let mut bytes = Vec::new();
        if is_chunked {
            loop {
                let size = self.line();
                let size = usize::from_str_radix(&size, 16).expect("the size of a chunk");
                self.read_to(&mut bytes, size);
                self.line();
                if size == 0 {
                    break;
                }
            }
        } else {
            self.read_to(&mut bytes, length);
        }
        Answer { code, body: serde_json::from_slice(&bytes).unwrap_or_default() }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("the server answers");
        line.trim_end().to_owned()
    }

    fn read_to(&mut self, bytes: &mut Vec<u8>, count: usize) {
        let from = bytes.len();
        bytes.resize(from + count, 0);
        self.stream.read_exact(&mut bytes[from..]).expect("the whole answer");
    }
}
