//! Requests to the API server, and what is wrong when they fail.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;

use super::protobuf;
use super::slim::STATUS;
use crate::config::KubernetesConfig;
use crate::error::{Error, Result};

/// How long an answer may take to begin.
const ANSWER: Duration = Duration::from_mins(1);
const CONNECT: Duration = Duration::from_secs(10);
const JSON: &str = "application/json";
/// What only Kubernetes' own resources come in.
pub(super) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
/// How often, and how long at most each time, a request waits because the server asks to come back later.
const POSTPONEMENTS: usize = 10;
const LONGEST_POSTPONEMENT: Duration = Duration::from_secs(5);
/// The largest answer that is kept whole: a page of a list. An object has 1.5 MiB at most.
const LARGEST_ANSWER: usize = 64 << 20;

/// A way to the API server. kube's client keeps the connections, and reads tokens anew before they expire.
pub(super) struct Connection {
    client: Client,
    url: String,
}

/// The API server's no.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) code: StatusCode,
    /// One word, for example `AlreadyExists`; may be empty.
    pub(super) reason: String,
    pub(super) message: String,
}

impl Connection {
    pub(super) async fn open(config: &KubernetesConfig) -> Result<Self> {
        let mut client_config = match &config.kubeconfig {
            Some(path) => {
                let invalid = |why: String| Error::Config(format!("{}: {why}", path.display()));
                let kubeconfig =
                    Kubeconfig::read_from(path).map_err(|error| invalid(reason(&error)))?;
                Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                    .await
                    .map_err(|error| invalid(reason(&error)))?
            }
            None => Config::infer().await.map_err(|_| {
                Error::Config(
                    "no way to Kubernetes: set KUBECONFIG to a kubeconfig file, or run in a pod \
                     with a service account"
                        .to_owned(),
                )
            })?,
        };
        client_config.connect_timeout = Some(CONNECT);
        // Watches are silent for minutes; each has its own limit.
        client_config.read_timeout = None;
        client_config.write_timeout = None;
        // Who asks again, and when, is decided in one place.
        client_config.default_retry = false;
        let url = client_config.cluster_url.to_string();
        let client = Client::try_from(client_config)
            .map_err(|error| Error::Config(format!("Kubernetes at {url}: {}", reason(&error))))?;
        Ok(Self { client, url: url.trim_end_matches('/').to_owned() })
    }

    pub(super) fn describe(&self) -> String {
        format!("Kubernetes at {}", self.url)
    }

    /// Sends a request, and returns the answer when it begins. `operation` is for people: `list pods`. A server that
    /// asks to come back later, because it is busy or a definition is new, has done nothing yet, and is asked again.
    pub(super) async fn send(
        &self,
        operation: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Result<Response<Body>, Refusal>> {
        self.ask(operation, method, path, body, JSON).await
    }

    /// Begins a list or watch that is a stream: of protobuf where the API server has it.
    pub(super) async fn stream(
        &self,
        operation: &str,
        path: &str,
        in_protobuf: bool,
    ) -> Result<Result<Response<Body>, Refusal>> {
        let accept = format!("{PROTOBUF};stream=watch, {JSON}");
        let accept = if in_protobuf { &accept } else { JSON };
        self.ask(operation, Method::GET, path, None, accept).await
    }

    async fn ask(
        &self,
        operation: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
        accept: &str,
    ) -> Result<Result<Response<Body>, Refusal>> {
        for _ in 0..POSTPONEMENTS {
            let answer = self.ask_once(operation, &method, path, body, accept).await?;
            let later = answer.headers().get(header::RETRY_AFTER);
            let later = later.and_then(|text| text.to_str().ok()?.parse().ok());
            match (answer.status(), later) {
                (StatusCode::TOO_MANY_REQUESTS, Some(seconds)) => {
                    tokio::time::sleep(Duration::from_secs(seconds).min(LONGEST_POSTPONEMENT))
                        .await;
                }
                _ => return self.sort(operation, answer).await,
            }
        }
        let answer = self.ask_once(operation, &method, path, body, accept).await?;
        self.sort(operation, answer).await
    }

    /// A yes, or what the no says.
    async fn sort(
        &self,
        operation: &str,
        answer: Response<Body>,
    ) -> Result<Result<Response<Body>, Refusal>> {
        if answer.status().is_success() {
            return Ok(Ok(answer));
        }
        let code = answer.status();
        let bytes = self.collect(operation, answer).await.unwrap_or_default();
        Ok(Err(Refusal::read(code, &bytes)))
    }

    async fn ask_once(
        &self,
        operation: &str,
        method: &Method,
        path: &str,
        body: Option<&Value>,
        accept: &str,
    ) -> Result<Response<Body>> {
        let content = match *method {
            Method::PATCH => "application/merge-patch+json",
            _ => JSON,
        };
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::ACCEPT, accept)
            .header(header::ACCEPT_ENCODING, "identity");
        let body = match body {
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, content);
                Body::from(body.to_string().into_bytes())
            }
            None => Body::empty(),
        };
        let request =
            request.body(body).map_err(|error| self.unavailable(operation, &error.to_string()))?;
        let answer = tokio::time::timeout(ANSWER, self.client.send(request)).await;
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.unavailable(operation, &reason(&error))),
            Err(_) => {
                let seconds = ANSWER.as_secs();
                Err(self.unavailable(operation, &format!("no answer in {seconds} s")))
            }
        }
    }

    /// The whole answer.
    pub(super) async fn collect(&self, operation: &str, answer: Response<Body>) -> Result<Bytes> {
        let body = Limited::new(answer.into_body(), LARGEST_ANSWER);
        match tokio::time::timeout(ANSWER, body.collect()).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) => {
                Err(self.unavailable(operation, &format!("its answer broke off: {error}")))
            }
            Err(_) => {
                let seconds = ANSWER.as_secs();
                Err(self.unavailable(operation, &format!("its answer isn't whole in {seconds} s")))
            }
        }
    }

    /// Sends a request, and returns the JSON of the answer.
    pub(super) async fn request(
        &self,
        operation: &str,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Result<Value, Refusal>> {
        let answer = match self.send(operation, method, path, body).await? {
            Ok(answer) => answer,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let bytes = self.collect(operation, answer).await?;
        match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Ok(value)),
            Err(error) => {
                Err(self.unavailable(operation, &format!("its answer is no JSON: {error}")))
            }
        }
    }

    /// A GET whose answer must be yes.
    pub(super) async fn get(&self, operation: &str, path: &str) -> Result<Value> {
        let answer = self.request(operation, Method::GET, path, None).await?;
        answer.map_err(|refusal| self.refused(operation, refusal))
    }

    pub(super) fn unavailable(&self, operation: &str, why: &str) -> Error {
        Error::Unavailable { store: self.describe(), reason: format!("{operation}: {why}") }
    }

    /// What a no means. That of a missing object or resource is the caller's to understand.
    pub(super) fn refused(&self, operation: &str, refusal: Refusal) -> Error {
        let store = self.describe();
        let Refusal { code, message, .. } = refusal;
        match code {
            StatusCode::UNAUTHORIZED => Error::Denied {
                store,
                reason: format!(
                    "{operation}: it doesn't accept our credentials (401): the token has expired, or is of \
                     another cluster"
                ),
            },
            // Kubernetes' own words name who may not do what.
            StatusCode::FORBIDDEN => Error::Denied {
                store,
                reason: format!("{operation}: {message} (403): give it a role that allows this"),
            },
            StatusCode::BAD_REQUEST
            | StatusCode::METHOD_NOT_ALLOWED
            | StatusCode::PAYLOAD_TOO_LARGE
            | StatusCode::UNPROCESSABLE_ENTITY => Error::Refused {
                store,
                reason: format!("{operation}: {message} ({})", code.as_u16()),
            },
            code => Error::Unavailable {
                store,
                reason: format!("{operation}: {message} ({})", code.as_u16()),
            },
        }
    }
}

impl Refusal {
    /// Reads a `Status`, or what stands in its place.
    pub(super) fn read(code: StatusCode, bytes: &[u8]) -> Self {
        let status = match protobuf::unwrapped(bytes) {
            Some(message) => message.and_then(|it| STATUS.read_protobuf(it)).unwrap_or_default(),
            None => serde_json::from_slice(bytes).unwrap_or_default(),
        };
        Self::of(&status, code, || {
            let text = String::from_utf8_lossy(bytes);
            let line =
                text.lines().next().unwrap_or_default().chars().take(200).collect::<String>();
            if line.is_empty() {
                code.canonical_reason().unwrap_or_default().to_owned()
            } else {
                line
            }
        })
    }

    /// Of a `Status` object.
    pub(super) fn of(status: &Value, code: StatusCode, otherwise: impl FnOnce() -> String) -> Self {
        let text = |field: &str| status[field].as_str().map(str::to_owned);
        let said = status["code"].as_u64().and_then(|code| u16::try_from(code).ok());
        Self {
            code: said.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or(code),
            reason: text("reason").unwrap_or_default(),
            message: text("message").unwrap_or_else(otherwise),
        }
    }
}

/// What happened, and below it why: the types of errors are many, and their words are in their causes.
fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let said = next.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = next.source();
    }
    // Parsers add a drawing of the place.
    text.lines().next().unwrap_or_default().to_owned()
}
