//! Stands between the store and a real API server, and answers in its place where a test says so.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body as AxumBody;
use axum::extract::{Request, State};
use axum::response::Response;
use datastore::StoreConfig;
use datastore::config::KubernetesConfig;
use datastore::kubernetes::ApiGroup;
use futures::StreamExt as _;
use http_body_util::BodyExt as _;
use kube::client::Body;
use support::ApiServer;
use tokio::sync::watch;

use super::kubernetes::client;

/// What is done with a request.
#[derive(Clone)]
pub enum Act {
    /// The API server answers.
    Pass,
    /// This is the answer.
    Answer(u16, String),
    /// This is the answer, which needn't be text.
    Bytes(Vec<u8>),
    /// The API server answers, and only so many bytes of it arrive.
    Truncate(usize),
    /// The API server answers, and nothing of it arrives after the head.
    Silence,
    /// The API server answers after this time.
    Delay(Duration),
}

type Rule = Box<dyn Fn(&str) -> Act + Send>;

/// Listens on loopback, without TLS, for as long as it lives.
pub struct Meddler {
    url: String,
    rule: Arc<Mutex<Rule>>,
    asked: Arc<Mutex<Vec<String>>>,
    cuts: watch::Sender<u32>,
    task: tokio::task::JoinHandle<()>,
    server: &'static ApiServer,
}

#[derive(Clone)]
struct Shared {
    client: kube::Client,
    rule: Arc<Mutex<Rule>>,
    asked: Arc<Mutex<Vec<String>>>,
    cuts: watch::Receiver<u32>,
}

impl Meddler {
    pub async fn start(server: &'static ApiServer) -> Self {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let rule: Rule = Box::new(|_| Act::Pass);
        let (cuts, cut) = watch::channel(0);
        let shared = Shared {
            cuts: cut,
            client: client(&server.kubeconfig("admin")).await,
            rule: Arc::new(Mutex::new(rule)),
            asked: Arc::default(),
        };
        let (rule, asked) = (shared.rule.clone(), shared.asked.clone());
        let app = axum::Router::new().fallback(handle).with_state(shared);
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { url, rule, asked, cuts, task, server }
    }

    /// From now on `rule` decides, by path and query.
    pub fn meddle(&self, rule: impl Fn(&str) -> Act + Send + 'static) {
        *self.rule.lock().unwrap() = Box::new(rule);
        self.asked.lock().unwrap().clear();
    }

    /// Ends every answer that is under way.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// What was asked since the rule was given.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// How the store gets here.
    pub fn config(&self) -> KubernetesConfig {
        KubernetesConfig {
            kubeconfig: Some(self.server.kubeconfig_at("admin", &self.url)),
            api_group: Some(ApiGroup::V3),
            ..KubernetesConfig::default()
        }
    }

    pub async fn store(&self, config: KubernetesConfig) -> Arc<dyn datastore::Datastore> {
        StoreConfig::Kubernetes(config).connect().await.unwrap()
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn handle(State(shared): State<Shared>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let act = (shared.rule.lock().unwrap())(&path);
    shared.asked.lock().unwrap().push(path.clone());
    let answer = |code: u16, body: AxumBody| {
        Response::builder()
            .status(code)
            .header("content-type", "application/json")
            .body(body)
            .unwrap()
    };
    if let Act::Answer(code, text) = act {
        return answer(code, AxumBody::from(text));
    }
    if let Act::Bytes(bytes) = act {
        return answer(200, AxumBody::from(bytes));
    }
    if let Act::Delay(time) = act {
        tokio::time::sleep(time).await;
    }
    let body = body.collect().await.unwrap().to_bytes();
    let mut onward = http::Request::builder().method(parts.method).uri(path);
    if let Some(content) = parts.headers.get("content-type") {
        onward = onward.header("content-type", content);
    }
    let onward = onward.body(Body::from(body)).unwrap();
    let Ok(theirs) = shared.client.send(onward).await else {
        return answer(502, AxumBody::from("no API server"));
    };
    let code = theirs.status().as_u16();
    match act {
        Act::Truncate(bytes) => {
            let whole = theirs.into_body().collect().await.unwrap().to_bytes();
            answer(code, AxumBody::from(whole.slice(..bytes.min(whole.len()))))
        }
        Act::Silence => {
            let silence = futures::stream::pending::<Result<bytes::Bytes, std::io::Error>>();
            answer(code, AxumBody::from_stream(silence))
        }
        _ => {
            let mut cuts = shared.cuts.clone();
            cuts.mark_unchanged();
            let cut = async move { drop(cuts.changed().await) };
            let body = theirs.into_body().into_data_stream();
            answer(code, AxumBody::from_stream(body.take_until(cut)))
        }
    }
}
