//! The connection to one member of the cluster, and to the next one when that fails.

use std::future::Future;
use std::sync::Mutex;
use std::time::Duration;

use etcd_client::{
    Client, ConnectOptions, Error as ClientError, GetOptions, GetResponse, KvClient,
};
use futures::FutureExt;
use futures::future::BoxFuture;

use super::keys::ROOT;
use super::{diagnose, lock, refusal, tls};
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
    endpoint: String,
    pub(super) client: Client,
}

impl Session {
    pub(super) fn unavailable(&self, reason: String) -> Error {
        Error::Unavailable { store: name(&self.endpoint), reason }
    }
}

impl Connection {
    /// Returns when a member has answered. The error says of each why it hasn't.
    pub(super) async fn open(config: EtcdConfig) -> Result<Self> {
        let connection = Self { config, current: Mutex::default() };
        let mut failures = Vec::new();
        for endpoint in &connection.config.endpoints {
            let options = GetOptions::new().with_count_only();
            let error = match connection.session().await {
                Ok(session) => match connection.send(&session, true, &get(ROOT, options)).await {
                    Ok(_) => return Ok(connection),
                    Err((error, _)) => error,
                },
                Err(error) => error,
            };
            let Error::Unavailable { reason, .. } = error else { return Err(error) };
            let reason = diagnose::explain(endpoint, &connection.config).await.unwrap_or(reason);
            failures.push((endpoint.clone(), reason));
        }
        let reason = match failures.as_slice() {
            [(_, reason)] => reason.clone(),
            several => {
                let each = several.iter().map(|(endpoint, reason)| format!("{endpoint}: {reason}"));
                each.collect::<Vec<_>>().join("; ")
            }
        };
        Err(Error::Unavailable { store: connection.describe(), reason })
    }

    /// The cluster, for people.
    pub(super) fn describe(&self) -> String {
        name(&self.config.endpoints.join(","))
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
        self.call(true, get(key, options)).await
    }

    /// A request, tried on each member until one answers; one that may have been carried out (not `repeatable`)
    /// only as long as it wasn't sent.
    pub(super) async fn call<T, F, Fut>(&self, repeatable: bool, request: F) -> Result<T>
    where
        F: Fn(KvClient) -> Fut,
        Fut: Future<Output = Result<T, ClientError>>,
    {
        // Once more than there are members: the first try may find a connection that has died since the last.
        let mut tries = self.config.endpoints.len() + 1;
        loop {
            tries -= 1;
            let (error, again) = match self.session().await {
                Ok(session) => match self.send(&session, repeatable, &request).await {
                    Ok(answer) => return Ok(answer),
                    Err(failure) => failure,
                },
                Err(error) => {
                    let again = matches!(error, Error::Unavailable { .. });
                    (error, again)
                }
            };
            if !again || tries == 0 {
                return Err(error);
            }
            tracing::debug!(%error, "trying the next member");
        }
    }

    /// A request to one member. The error comes with whether another may be tried.
    async fn send<T, F, Fut>(
        &self,
        session: &Session,
        repeatable: bool,
        request: &F,
    ) -> Result<T, (Error, bool)>
    where
        F: Fn(KvClient) -> Fut,
        Fut: Future<Output = Result<T, ClientError>>,
    {
        let kv = session.client.kv_client().max_decoding_message_size(LARGEST_MESSAGE);
        let (error, sent) = match tokio::time::timeout(REQUEST, request(kv)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => (self.error(session, &error), !refusal::never_sent(&error)),
            Err(_) => (silent(&session.endpoint), true),
        };
        let unavailable = matches!(error, Error::Unavailable { .. });
        if unavailable || matches!(error, Error::Denied { .. }) {
            self.failed(session);
        }
        Err((error, unavailable && (repeatable || !sent)))
    }

    /// An error of the client, in our terms.
    pub(super) fn error(&self, session: &Session, error: &ClientError) -> Error {
        refusal::classify(&session.endpoint, &self.config, error)
    }

    /// Why etcd ended a watch.
    pub(super) fn ended(&self, session: &Session, reason: &str) -> Error {
        match refusal::denial(reason, &self.config) {
            Some(reason) => Error::Denied { store: name(&session.endpoint), reason },
            None if reason.is_empty() => session.unavailable("it ended the watch".to_owned()),
            None => session.unavailable(reason.to_owned()),
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
            // Read anew for each connection, so that renewed certificates are used.
            options = options.with_tls(tls::load(&self.config)?.options);
        }
        let plain = options.clone();
        if let Some((name, password)) = &self.config.user {
            options = options.with_user(name, password);
        }
        let connecting = async {
            match Client::connect([endpoint], Some(options)).await {
                // As in Calico: a user is no fault where none is wanted (yet).
                Err(error) if refusal::has_no_users(&error) => {
                    tracing::warn!(
                        endpoint,
                        "etcd has no authentication: ETCD_USERNAME isn't used"
                    );
                    Client::connect([endpoint], Some(plain)).await
                }
                result => result,
            }
        };
        match tokio::time::timeout(REQUEST, connecting).await {
            Ok(Ok(client)) => Ok(client),
            Ok(Err(error)) => Err(refusal::classify(endpoint, &self.config, &error)),
            Err(_) => Err(silent(endpoint)),
        }
    }
}

fn silent(endpoint: &str) -> Error {
    let reason = format!("no answer in {} s", REQUEST.as_secs());
    Error::Unavailable { store: name(endpoint), reason }
}

/// How messages call the store at an address.
pub(super) fn name(address: &str) -> String {
    format!("etcd at {address}")
}

/// A request that [`Connection::call`] can repeat.
fn get(
    key: impl Into<Vec<u8>>,
    options: GetOptions,
) -> impl Fn(KvClient) -> BoxFuture<'static, Result<GetResponse, ClientError>> {
    let key = key.into();
    move |mut kv| {
        let (key, options) = (key.clone(), options.clone());
        async move { kv.get(key, Some(options)).await }.boxed()
    }
}
