//! The connection to one member of the cluster, and to the next one when that fails.

use std::future::Future;
use std::sync::Mutex;
use std::time::Duration;

use etcd_client::{
    Certificate, Client, ConnectOptions, GetOptions, GetResponse, Identity, KvClient, TlsOptions,
};

use super::lock;
use crate::config::EtcdConfig;
use crate::error::{Error, Result};

/// How long a member may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a member may take to answer a request.
const REQUEST: Duration = Duration::from_secs(10);
/// A connection without traffic is asked for a sign of life after this time (etcd allows 5 s and more), …
const PING: Duration = Duration::from_secs(20);
/// … and is dead without one after this.
const PONG: Duration = Duration::from_secs(10);
/// A page of a list is a few MB; a value in etcd up to 1.5 MB unless its operator allowed more.
pub(super) const LARGEST_MESSAGE: usize = 512 << 20;

/// A connection to one member at a time.
pub(super) struct Connection {
    config: EtcdConfig,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    index: usize,
    session: Option<Session>,
}

/// A member that we talk to.
#[derive(Clone)]
pub(super) struct Session {
    index: usize,
    pub(super) endpoint: String,
    pub(super) client: Client,
}

impl Session {
    pub(super) fn kv(&self) -> KvClient {
        self.client.kv_client().max_decoding_message_size(LARGEST_MESSAGE)
    }

    pub(super) fn error(&self, error: &etcd_client::Error) -> Error {
        classify(&self.endpoint, error)
    }
}

impl Connection {
    /// Returns when a member has answered.
    pub(super) async fn open(config: EtcdConfig) -> Result<Self> {
        let connection = Self { config, current: Mutex::default() };
        connection.read(super::keys::ROOT, GetOptions::new().with_count_only()).await?;
        Ok(connection)
    }

    /// All endpoints.
    pub(super) fn endpoints(&self) -> String {
        self.config.endpoints.join(",")
    }

    /// The member in use, or a new connection to the next one.
    pub(super) async fn session(&self) -> Result<Session> {
        let index = {
            let current = lock(&self.current);
            if let Some(session) = &current.session {
                return Ok(session.clone());
            }
            current.index
        };
        let endpoint = self.config.endpoints[index].clone();
        let session = match self.connect(&endpoint).await {
            Ok(client) => Session { index, endpoint, client },
            Err(error) => {
                self.next(index);
                return Err(error);
            }
        };
        let mut current = lock(&self.current);
        if current.index == index {
            current.session.get_or_insert_with(|| session.clone());
        }
        Ok(session)
    }

    /// Gives up on a member that failed, so that the next one is asked.
    pub(super) fn failed(&self, session: &Session) {
        self.next(session.index);
    }

    fn next(&self, index: usize) {
        let mut current = lock(&self.current);
        if current.index == index {
            current.index = (index + 1) % self.config.endpoints.len();
            current.session = None;
        }
    }

    /// A read, tried on each member.
    pub(super) async fn read(
        &self,
        key: impl Into<Vec<u8>>,
        options: GetOptions,
    ) -> Result<GetResponse> {
        let key = key.into();
        self.call(true, |mut kv| {
            let (key, options) = (key.clone(), options.clone());
            async move { kv.get(key, Some(options)).await }
        })
        .await
    }

    /// A request, tried on each member until one answers; one that may have been carried out (not `repeatable`)
    /// only as long as it wasn't sent.
    pub(super) async fn call<T, F, Fut>(&self, repeatable: bool, request: F) -> Result<T>
    where
        F: Fn(KvClient) -> Fut,
        Fut: Future<Output = Result<T, etcd_client::Error>>,
    {
        let mut tries = self.config.endpoints.len();
        loop {
            tries -= 1;
            let session = match self.session().await {
                Ok(session) => session,
                Err(error @ Error::Unavailable { .. }) if tries > 0 => {
                    tracing::debug!(%error, "trying the next member");
                    continue;
                }
                Err(error) => return Err(error),
            };
            let error = match tokio::time::timeout(REQUEST, request(session.kv())).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => {
                    let sent = !never_sent(&error);
                    let error = session.error(&error);
                    if !matches!(error, Error::Unavailable { .. }) || (sent && !repeatable) {
                        return Err(error);
                    }
                    error
                }
                Err(_) => Error::Unavailable {
                    endpoint: session.endpoint.clone(),
                    reason: format!("no answer in {} s", REQUEST.as_secs()),
                },
            };
            self.failed(&session);
            if tries == 0 {
                return Err(error);
            }
            tracing::debug!(%error, "trying the next member");
        }
    }

    async fn connect(&self, endpoint: &str) -> Result<Client> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT)
            .with_keep_alive(PING, PONG)
            // etcd takes pings without a request in flight for an attack.
            .with_keep_alive_while_idle(false)
            // A member that lost its majority must not go on serving a watch in silence.
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if endpoint.starts_with("https://") {
            options = options.with_tls(self.tls()?);
        }
        if let Some((name, password)) = &self.config.user {
            options = options.with_user(name, password);
        }
        let connecting = Client::connect([endpoint], Some(options));
        match tokio::time::timeout(REQUEST, connecting).await {
            Ok(Ok(client)) => Ok(client),
            Ok(Err(error)) => Err(classify(endpoint, &error)),
            Err(_) => Err(Error::Unavailable {
                endpoint: endpoint.to_owned(),
                reason: format!("no answer in {} s", REQUEST.as_secs()),
            }),
        }
    }

    /// Reads the files anew for each connection, so that renewed certificates are used.
    fn tls(&self) -> Result<TlsOptions> {
        let read = |path: &std::path::Path, name: &str| {
            std::fs::read(path)
                .map_err(|error| Error::Config(format!("{name}={}: {error}", path.display())))
        };
        let mut tls = TlsOptions::new();
        if let Some(path) = &self.config.ca_file {
            tls = tls.ca_certificate(Certificate::from_pem(read(path, "ETCD_CA_CERT_FILE")?));
        }
        if let (Some(cert), Some(key)) = (&self.config.cert_file, &self.config.key_file) {
            let (cert, key) = (read(cert, "ETCD_CERT_FILE")?, read(key, "ETCD_KEY_FILE")?);
            tls = tls.identity(Identity::from_pem(cert, key));
        }
        Ok(tls)
    }
}

/// Whether the request can't have reached the server.
fn never_sent(error: &etcd_client::Error) -> bool {
    let etcd_client::Error::GRpcStatus(status) = error else { return false };
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// Whether etcd says that a revision is gone.
pub(super) fn is_compacted(error: &Error) -> bool {
    matches!(error, Error::Refused { reason, .. } if reason.contains("has been compacted"))
}

fn classify(endpoint: &str, error: &etcd_client::Error) -> Error {
    let endpoint = endpoint.to_owned();
    let etcd_client::Error::GRpcStatus(status) = error else {
        return Error::Unavailable { endpoint, reason: chain(error) };
    };
    let message = status.message();
    match status.code() {
        tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => {
            Error::Denied { endpoint, reason: message.to_owned() }
        }
        tonic::Code::InvalidArgument
            if message.contains("authentication failed") || message.contains("user name") =>
        {
            Error::Denied { endpoint, reason: message.to_owned() }
        }
        tonic::Code::InvalidArgument
        | tonic::Code::OutOfRange
        | tonic::Code::FailedPrecondition
        | tonic::Code::ResourceExhausted
        | tonic::Code::Unimplemented => Error::Refused { endpoint, reason: message.to_owned() },
        _ => Error::Unavailable { endpoint, reason: chain(status) },
    }
}

/// What an error says, with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
