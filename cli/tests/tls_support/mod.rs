//! What the tests of TLS share: CAs, a server, agents.

use std::{
    fs,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use client::{Connection, StreamError, Tls};
use identity::{Authority, Files, Identity, Issued, ServerCheck, SharedName, Validity};
use proto::v1::AgentHello;
use sync::{ClientSession, Committed, Event};
use tempfile::TempDir;
use tokio::{io::AsyncReadExt as _, net::TcpStream};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
    },
};
use typha::{Limits, Typha};

use crate::common::{PATIENCE, until};

pub(crate) fn node(name: &str) -> Identity {
    Identity::node(name).unwrap()
}

pub(crate) fn hello(node: &str) -> AgentHello {
    AgentHello { node: node.into(), ..AgentHello::default() }
}

pub(crate) fn set_key(name: &str) -> String {
    format!("/calico/resources/v3/projectcalico.org/globalnetworksets/{name}")
}

pub(crate) fn set_value(net: &str) -> String {
    serde_json::json!({"metadata": {"name": "x"}, "spec": {"nets": [net]}}).to_string()
}

/// A CA, and a folder for what it issues.
pub(crate) struct Ca {
    made: Issued,
    folder: TempDir,
}

impl Ca {
    pub(crate) fn new() -> Self {
        let made = Authority::create(Validity::days(SystemTime::now(), 10)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("ca.crt"), &made.certificate).unwrap();
        Self { made, folder }
    }

    fn write(&self, name: &str, issued: &Issued) -> Files {
        let path = |ending: &str| self.folder.path().join(format!("{name}.{ending}"));
        fs::write(path("crt"), &issued.certificate).unwrap();
        fs::write(path("key"), &issued.key).unwrap();
        Files { certificate: path("crt"), key: path("key"), ca: self.folder.path().join("ca.crt") }
    }

    fn issue(&self, name: &str, identity: &Identity, validity: Validity) -> Files {
        let hosts = ["127.0.0.1".to_owned()];
        let hosts = if *identity == Identity::Server { &hosts[..] } else { &[] };
        let authority = Authority::load(&self.made.certificate, &self.made.key).unwrap();
        self.write(name, &authority.issue(identity, hosts, validity).unwrap())
    }

    /// Files of an identity.
    pub(crate) fn tls(&self, identity: &Identity) -> Tls {
        let name = identity.to_string().replace(['/', ':'], "-");
        let files = self.issue(&name, identity, Validity::days(SystemTime::now(), 1));
        Tls { files, check: ServerCheck::Typha, token: None }
    }

    /// Files of an identity that were valid until an hour ago.
    pub(crate) fn expired(&self, identity: &Identity) -> Tls {
        let until = SystemTime::now() - Duration::from_hours(1);
        let validity = Validity { from: until - Duration::from_hours(1), until };
        Tls {
            files: self.issue("expired", identity, validity),
            check: ServerCheck::Typha,
            token: None,
        }
    }

    /// A server's certificate from another source: for a host, and without an identity.
    pub(crate) fn server_without_identity(&self) -> Files {
        self.without_identity("other", None)
    }

    /// A certificate from another source, as Calico's installations have them.
    pub(crate) fn without_identity(&self, common_name: &str, uri: Option<&str>) -> Files {
        let names = ["127.0.0.1".to_owned()];
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
        let uri = uri.map(|uri| rcgen::SanType::URI(uri.try_into().unwrap()));
        params.subject_alt_names.extend(uri);
        let key = rcgen::KeyPair::generate().unwrap();
        let ca_key = rcgen::KeyPair::from_pem(&self.made.key).unwrap();
        let issuer = rcgen::Issuer::from_ca_cert_pem(&self.made.certificate, ca_key).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap().pem();
        self.write(common_name, &Issued { certificate, key: key.serialize_pem() })
    }
}

/// A store and a server that reads it.
pub(crate) struct World {
    _store: embedded::Server,
    pub(crate) store_url: String,
    pub(crate) typha: Typha,
    pub(crate) ca: Ca,
    /// Of the server.
    pub(crate) files: Option<Files>,
}

impl World {
    pub(crate) async fn tls(limits: Limits) -> Self {
        let ca = Ca::new();
        let mut files = ca.tls(&Identity::Server).files;
        // Its own copy of the CA: a test replaces it.
        let own = files.ca.with_file_name("server-ca.crt");
        fs::copy(&files.ca, &own).unwrap();
        files.ca = own;
        Self::with(ca, Some(files), None, limits).await
    }

    /// One in which agents are believed by a name that they share.
    pub(crate) async fn sharing(name: SharedName) -> Self {
        let ca = Ca::new();
        let files = ca.tls(&Identity::Server).files;
        Self::with(ca, Some(files), Some(name), Limits::default()).await
    }

    pub(crate) async fn plain(limits: Limits) -> Self {
        Self::with(Ca::new(), None, None, limits).await
    }

    pub(crate) async fn serving(files: Option<Files>, limits: Limits) -> Self {
        Self::with(Ca::new(), files, None, limits).await
    }

    async fn with(
        ca: Ca,
        files: Option<Files>,
        shared_name: Option<SharedName>,
        limits: Limits,
    ) -> Self {
        let store = embedded::Server::start(embedded::Config::default()).await.unwrap();
        let store_url = format!("http://{}", store.addr());
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = typha::Config {
            store: datastore::StoreConfig::from_url(&store_url).unwrap(),
            pod_cidrs: false,
            record: None,
            listen: any,
            tls: files.clone(),
            shared_name,
            plaintext: false,
            limits,
            max_connections: 10,
            min_connections: 400,
            alternatives: Vec::new(),
            health: any,
            metrics: any,
            status: any,
        };
        let typha = Typha::start(config).await.unwrap();
        until("typha is in sync", || typha.status().in_sync).await;
        Self { _store: store, store_url, typha, ca, files }
    }

    pub(crate) async fn open(
        &self,
        tls: Option<&Tls>,
        hello: AgentHello,
    ) -> Result<Connection, StreamError> {
        Connection::open_with(&self.typha.address().to_string(), tls, hello).await
    }

    /// An agent with a certificate of this world's CA, or in the clear.
    pub(crate) async fn agent_saying(
        &self,
        identity: &Identity,
        hello: AgentHello,
    ) -> Result<Agent, StreamError> {
        let tls = self.files.is_some().then(|| self.ca.tls(identity));
        Ok(Agent::new(self.open(tls.as_ref(), hello).await?))
    }

    pub(crate) async fn agent(&self, identity: &Identity) -> Result<Agent, StreamError> {
        let Identity::Node(name) = identity else { panic!("an agent is of a node") };
        self.agent_saying(identity, hello(name)).await
    }

    /// What the server said of whom it turned away last.
    pub(crate) async fn turned_away(&self) -> String {
        until("somebody is turned away", || !self.typha.status().turned_away.is_empty()).await;
        self.typha.status().turned_away[0].reason.clone()
    }

    /// The words of an error, with the address of this world's server as `SERVER`.
    pub(crate) fn masked(&self, error: &StreamError) -> String {
        error.to_string().replace(&self.typha.address().to_string(), "SERVER")
    }

    /// The server's certificate, key and CAs are another CA's from now on.
    pub(crate) fn replace_server_files(&self, ca: &Ca) {
        let (from, to) = (ca.tls(&Identity::Server).files, self.files.as_ref().unwrap());
        fs::copy(from.key, &to.key).unwrap();
        fs::copy(from.certificate, &to.certificate).unwrap();
        fs::copy(from.ca, &to.ca).unwrap();
    }

    /// A client that presents this certificate, whatever is wrong with it, or none.
    pub(crate) async fn raw_tls(&self, tls: Option<&Tls>) {
        let files = self.files.as_ref().unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&files.ca).unwrap()).unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match tls {
            None => config.with_no_client_auth(),
            Some(tls) => {
                let certificate = CertificateDer::from_pem_file(&tls.files.certificate).unwrap();
                let key = PrivateKeyDer::from_pem_file(&tls.files.key).unwrap();
                config.with_client_auth_cert(vec![certificate], key).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(self.typha.address()).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let read = stream.read_to_end(&mut Vec::new()).await;
        assert!(read.is_err(), "a client that isn't known reads nothing");
    }
}

/// An agent: a connection and what it holds.
pub(crate) struct Agent {
    pub(crate) connection: Connection,
    session: ClientSession,
}

impl Agent {
    pub(crate) fn new(connection: Connection) -> Self {
        Self { connection, session: ClientSession::new() }
    }

    pub(crate) async fn next(&mut self) -> Result<Event, StreamError> {
        let next = async {
            loop {
                match self.connection.next(&mut self.session).await? {
                    Event::Hello(_) | Event::Nothing | Event::Heartbeat(_) => {}
                    event => return Ok(event),
                }
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("something happens")
    }

    pub(crate) async fn committed(&mut self) -> Committed {
        match self.next().await.unwrap() {
            Event::Committed(committed) => *committed,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn first_commit(&mut self) {
        assert!(self.committed().await.first);
    }
}
