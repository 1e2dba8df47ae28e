//! Health, metrics, status and the page: what is read over HTTP.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{Json, Router, extract::Query, http::StatusCode, response::Html, routing::get};
use datastore::Datastore;
use model::{Key, Kind};
use pipeline::StoreState;
use runtime::{http, metrics::Text};
use serde::Deserialize;
use sync::{ServerFacts, Snapshot};
use tokio::{sync::watch, time::timeout};
use tracing::warn;

use crate::{
    rollout::{self, ObjectRollout, PolicyRollout, Presence},
    service::Shared,
    sessions::SessionInfo,
    status::{
        AgentStatus, Problem, PublicationStatus, RolloutStatus, Sizes, Status, StreamStatus,
        TurnedAwayStatus,
    },
    tls::Current,
    writer::Outputs,
};

/// What a publication has changed is told so soon after it.
const TOLD: Duration = Duration::from_secs(1);

/// What the pages read.
pub(crate) struct Pages {
    /// Until the first publication; those of the newest count.
    pub(crate) facts: ServerFacts,
    pub(crate) outputs: Outputs,
    pub(crate) shared: Arc<Shared>,
    pub(crate) store: Arc<dyn Datastore>,
    pub(crate) tls: Option<watch::Receiver<Current>>,
}

/// `/liveness`, `/readiness`.
pub(crate) fn health(pages: Arc<Pages>) -> Router {
    let live = pages.clone();
    Router::new()
        .route("/liveness", get(async move || http::health(live.liveness())))
        .route("/readiness", get(async move || http::health(pages.readiness())))
}

/// `/metrics`.
pub(crate) fn metrics(pages: Arc<Pages>) -> Router {
    Router::new().route("/metrics", get(async move || ([http::METRICS_TYPE], pages.metrics())))
}

/// `/api/v1/status`, the page that shows it, and what gRPC's tools ask of the services.
pub(crate) fn status(pages: Arc<Pages>) -> Router {
    let (asked, all) = (pages.clone(), pages.clone());
    let described = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1();
    let router = match described {
        Ok(reflection) => {
            Router::new().route_service("/grpc.reflection.v1.ServerReflection/{method}", reflection)
        }
        // The sets are those that this program was built from: a test asks for them.
        Err(error) => {
            warn!(%error, "no reflection");
            Router::new()
        }
    };
    router
        .route("/", get(async || Html(include_str!("page.html"))))
        .route("/api/v1/rollout", get(async move |query| rolled_out(&asked, query).await))
        .route("/api/v1/rollouts", get(async move || Json(all.rollouts())))
        .route("/api/v1/status", get(async move || Json(pages.status())))
}

impl Pages {
    /// What keeps it from being live.
    fn liveness(&self) -> Option<String> {
        let age = self.outputs.heartbeat.borrow().elapsed();
        let stuck = age > Duration::from_secs(30);
        stuck.then(|| format!("the writer has not moved for {} s", age.as_secs()))
    }

    /// What keeps it from being ready. A server that lost its store goes on and stays ready.
    fn readiness(&self) -> Option<String> {
        let published = self.outputs.published.borrow().is_some();
        (!published).then(|| self.outputs.store.borrow().why_not_in_sync())
    }

    /// What `/metrics` says.
    pub(crate) fn metrics(&self) -> String {
        let published = self.outputs.published.borrow().clone();
        let history = published.as_ref().map_or(0, |published| published.history_bytes);
        let snapshot = published.map(|published| published.snapshot.clone()).unwrap_or_default();
        let store = self.outputs.store.borrow().clone();
        let (sessions, door) = (&self.shared.sessions, &self.shared.door);
        let mut text = Text::default();
        text.gauge("typha_connections_active", "Live sessions.", sessions.active());
        text.counter("typha_connections_accepted", "Sessions opened.", sessions.accepted());
        let help = "Sessions that the server ended.";
        text.counter("typha_connections_dropped", help, sessions.dropped());
        let help = "Connections that did not become sessions.";
        let name = "bulrush_typha_handshakes_failed_total";
        text.counters(name, help, "reason", &door.counts());
        text.gauge("typha_cache_size", "Entries in all topics.", snapshot.entry_count());
        let help = "Number of the newest publication.";
        text.gauge("typha_breadcrumb_seq_number", help, snapshot.publication);
        let help = "How long the store has been out of reach.";
        let stale = Duration::from_millis(store.stale_milliseconds()).as_secs_f64();
        text.gauge("bulrush_typha_stale_seconds", help, stale);
        self.streams(&mut text, &store);
        let help = "Objects that are present and invalid.";
        text.gauge(
            "bulrush_typha_invalid_objects",
            help,
            self.outputs.made.borrow().problems.len(),
        );
        text.gauge("bulrush_typha_topics", "Topics with entries.", snapshot.topic_count());
        let help = "Whether the store was read whole.";
        text.gauge("bulrush_typha_in_sync", help, u8::from(snapshot.publication > 0));
        self.traffic(&mut text, history);
        text.finish()
    }

    /// The lists and watches of the store.
    fn streams(&self, text: &mut Text, store: &StoreState) {
        let (streams, health) = (self.store.streams(), self.store.health());
        let lost =
            |index| store.lost.get(&index).map_or(0.0, |(since, _)| since.elapsed().as_secs_f64());
        let stale: Vec<_> = streams.iter().map(|it| (it.name.as_str(), lost(it.index))).collect();
        let help = "How long a stream of the store has been out of reach.";
        text.gauges("bulrush_typha_stream_stale_seconds", help, "stream", &stale);
        let heard = streams.iter().zip(&health).filter_map(|(stream, health)| {
            Some((stream.name.as_str(), health.last_progress?.elapsed().as_secs_f64()))
        });
        let help = "Since when a stream of the store hasn't said how far it is complete.";
        let heard: Vec<_> = heard.collect();
        text.gauges("bulrush_typha_stream_lag_seconds", help, "stream", &heard);
    }

    /// What goes out, and what that costs.
    fn traffic(&self, text: &mut Text, history: usize) {
        let figures = self.shared.traffic.figures();
        let help = "Bytes of messages to agents, as they travel.";
        text.counter("bulrush_typha_sent_bytes_total", help, figures.bytes);
        let help = "Messages to agents.";
        text.counter("bulrush_typha_sent_frames_total", help, figures.messages);
        let help = "Time to encode and compress messages: once for all agents that get them.";
        let seconds = figures.encoding.as_secs_f64();
        text.summary("bulrush_typha_encode_seconds", help, seconds, figures.encoded);
        let traffic = &self.shared.traffic;
        let help =
            "From when a change was seen until its Commit was handed to an agent's connection.";
        text.histogram("bulrush_typha_observed_to_sent_seconds", help, &traffic.observed_to_sent);
        let help = "From then until the agent acknowledged it.";
        text.histogram("bulrush_typha_sent_to_acked_seconds", help, &traffic.sent_to_acked);
        let help = "Parts of whole topics that were encoded.";
        text.counter("bulrush_typha_replace_frames_built_total", help, figures.parts_built);
        let help = "Parts of whole topics that had been encoded for another agent.";
        text.counter("bulrush_typha_replace_frames_shared_total", help, figures.parts_shared);
        let help = "Bytes of changes that are kept for agents that lag.";
        text.gauge("bulrush_typha_history_bytes", help, history);
        let help = "Agents that are being brought to a newer publication.";
        text.gauge("bulrush_typha_laggards", help, self.shared.sessions.lagging());
        let help = "Sessions ended because the agent did not take what it was sent.";
        text.counter("bulrush_typha_stalled_total", help, self.shared.sessions.stalled());
        let help = "Sessions sent on because the server had more than its share.";
        text.counter("bulrush_typha_shed_total", help, self.shared.sessions.shed());
        let help = "Sessions that wait for a place in the first sync.";
        let waiting = self.shared.sessions.waiting_for_sync();
        text.gauge("bulrush_typha_first_sync_waiting", help, waiting);
        let help = "Sessions by what the agent held: fresh, same_run, digests, other_store.";
        let resumes = figures.resumes.map(|(resume, count)| (resume.name(), count));
        text.counters("bulrush_typha_resumes_total", help, "kind", &resumes);
    }

    /// What `/api/v1/rollouts` says.
    fn rollouts(&self) -> Vec<PolicyRollout> {
        let Some(published) = self.outputs.published.borrow().clone() else { return Vec::new() };
        let (sessions, made) = (self.shared.sessions.all(), self.outputs.made.borrow().clone());
        rollout::of_last_changed(&published.snapshot, &sessions, &made)
    }

    /// What `/api/v1/status` says.
    pub(crate) fn status(&self) -> Status {
        let published = self.outputs.published.borrow().clone();
        let in_sync = published.is_some();
        let facts = published.as_ref().map_or(&self.facts, |published| &*published.facts);
        let snapshot = published.as_ref().map(|published| published.snapshot.clone());
        let snapshot = snapshot.unwrap_or_default();
        let store = self.outputs.store.borrow().clone();
        let made = self.outputs.made.borrow().clone();
        let sessions = self.shared.sessions.all();
        let streams = facts.streams.iter().enumerate().map(|(index, name)| {
            let index = model::StreamIndex(index as u16);
            StreamStatus {
                name: name.clone(),
                version: snapshot.vector.get(index),
                progress: snapshot.progress.get(index),
            }
        });
        let acting = || sessions.iter().filter(|session| !session.observer);
        let publications = made.recent.iter().rev().map(|recent| PublicationStatus {
            publication: recent.publication,
            changes: recent.changes,
            observed_at_ms: recent.observed_at / 1_000_000,
            sent: acting().filter(|session| session.sent >= recent.publication).count(),
            acked: acting().filter(|session| session.holds() >= recent.publication).count(),
        });
        let stale = store.stale_milliseconds();
        let failing = acting().filter(|session| !session.reported.failed.is_empty()).count();
        let tls_problem = self.tls.as_ref().and_then(|tls| tls.borrow().problem.clone());
        let turned_away = self.shared.door.turned_away().into_iter().map(|away| TurnedAwayStatus {
            address: away.address.to_string(),
            reason: away.reason,
            at_ms: away
                .at
                .duration_since(SystemTime::UNIX_EPOCH)
                .map_or(0, |at| at.as_millis() as u64),
        });
        let verdict = if !in_sync {
            format!("not in sync: {}", store.why_not_in_sync())
        } else if stale > 0 {
            let error = store.error().unwrap_or_default();
            format!("the store has been out of reach for {} s: {error}", stale / 1000)
        } else if let Some(problem) = &tls_problem {
            problem.clone()
        } else if failing > 0 {
            format!("{failing} agents could not bring everything into the kernel")
        } else if !made.problems.is_empty() {
            format!("{} invalid objects", made.problems.len())
        } else {
            "all is well".into()
        };
        Status {
            verdict,
            version: facts.version.clone(),
            incarnation: facts.incarnation.clone(),
            epoch: facts.epoch.clone(),
            store: self.store.describe(),
            in_sync,
            not_in_sync: (!in_sync).then(|| store.why_not_in_sync()),
            stale_milliseconds: stale,
            store_error: store.error(),
            publication: snapshot.publication,
            streams: streams.collect(),
            sizes: Sizes { topics: snapshot.topic_count(), entries: snapshot.entry_count() },
            problems: made.problems.iter().map(problem).collect(),
            publications: publications.collect(),
            rollout: totals(&snapshot, &sessions),
            tls_problem,
            turned_away: turned_away.collect(),
            agents: sessions.iter().map(agent_status).collect(),
        }
    }
}

fn problem((object, problem): &(model::Key, engine::Problem)) -> Problem {
    Problem { object: object.to_string(), text: problem.to_string() }
}

/// Which object is asked about.
#[derive(Deserialize)]
struct Asked {
    kind: String,
    #[serde(default)]
    namespace: String,
    name: String,
    /// Whether one that is not in the store is asked about too.
    #[serde(default)]
    deleted: bool,
}

async fn rolled_out(
    pages: &Pages,
    Query(asked): Query<Asked>,
) -> Result<Json<ObjectRollout>, (StatusCode, String)> {
    let Some(kind) = Kind::all().chain(Kind::derived()).find(|kind| kind.name() == asked.kind)
    else {
        return Err((StatusCode::BAD_REQUEST, format!("{:?} is no kind\n", asked.kind)));
    };
    let key = if kind.is_namespaced() {
        Key::namespaced(kind, asked.namespace, asked.name)
    } else {
        Key::global(kind, asked.name)
    };
    let Some(published) = pages.outputs.published.borrow().clone() else {
        let why = pages.outputs.store.borrow().why_not_in_sync();
        let text = format!("not in sync: {why}\n");
        return Err((StatusCode::SERVICE_UNAVAILABLE, text));
    };
    // What changed is told a moment after it is published, and not all of it would be known before.
    let publication = published.snapshot.publication;
    let mut made = pages.outputs.made.clone();
    // Not for ever: a writer that has ended tells nothing, nor does one whose publication was made before its lists were
    // whole.
    let _ = timeout(TOLD, made.wait_for(|made| made.publication() >= publication)).await;
    let made = made.borrow().clone();
    let sessions = pages.shared.sessions.all();
    let stale = pages.outputs.store.borrow().stale_milliseconds();
    rollout::of_object(&published.snapshot, &sessions, &made, stale, &key)
        .filter(|rollout| asked.deleted || rollout.presence == Presence::There)
        .map(Json)
        .ok_or_else(|| (StatusCode::NOT_FOUND, format!("{key} is not in the store\n")))
}

/// Where a node's session stands; none: it is none that acts for a node.
fn state(session: &SessionInfo) -> Option<&'static str> {
    if session.observer || session.full {
        return None;
    }
    // Until the first Commit there is nothing to have acknowledged.
    Some(if session.committed == 0 || !session.is_current() {
        "pending"
    } else if session.reported.failed.is_empty() {
        "enforced"
    } else {
        "failed"
    })
}

fn totals(snapshot: &Snapshot, sessions: &[SessionInfo]) -> RolloutStatus {
    let mut rollout = RolloutStatus::default();
    let mut known = BTreeSet::new();
    for session in sessions {
        match state(session) {
            Some("enforced") => rollout.enforced += 1,
            Some("failed") => rollout.failed += 1,
            Some(_) => rollout.pending += 1,
            None => continue,
        }
        known.insert(&*session.node);
    }
    let unknown = snapshot.nodes().filter(|node| !known.contains(node.as_str()));
    rollout.unknown = unknown.map(ToString::to_string).collect();
    rollout.unknown.sort_unstable();
    rollout
}

fn agent_status(session: &SessionInfo) -> AgentStatus {
    let failed = session.reported.failed.iter();
    AgentStatus {
        node: session.node.to_string(),
        view: if session.full { "full" } else { "node" },
        observer: session.observer,
        version: session.version.clone(),
        address: session.address.to_string(),
        connected_seconds: SystemTime::now()
            .duration_since(session.since)
            .map_or(0, |age| age.as_secs()),
        sent: session.sent,
        acked: session.holds(),
        current: session.is_current(),
        state: state(session).unwrap_or_default(),
        endpoints_up: session.reported.endpoints.iter().filter(|endpoint| endpoint.up).count(),
        endpoints: session.reported.endpoints.len(),
        failed: failed.map(|f| format!("{} {}: {}", f.topic, f.key, f.reason)).collect(),
    }
}
