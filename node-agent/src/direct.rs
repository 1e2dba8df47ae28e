//! Without typha: the agent follows the store itself, and makes its own view.
//!
//! ```text
//! store --> Running (pipeline, this node only) --> ServerSession --messages--> ClientSession --> News
//! ```
//!
//! Both ends of the protocol run in this process, so what becomes visible, and when, is decided as with
//! a server: whole publications, differences to a saved view, and time that doesn't run back.

use std::{collections::VecDeque, pin::Pin, sync::Arc, time::Duration};

use datastore::StoreConfig;
use pipeline::{About, FactsError, Reading, Running, Scope, Turn};
use proto::v1::{AgentHello, ServerMessage, agent_message};
use sync::{Advance, ClientSession, Event, ServerFacts, ServerSession};
use tokio::time::{Instant, sleep_until};

use crate::upstream::News;

/// The pause before the store is tried again.
const PAUSE: Duration = Duration::from_secs(2);
/// A store that was restored from a backup never reaches what was seen: so long it may take.
const ROLLBACK: Duration = Duration::from_mins(1);

type Connecting = Pin<Box<dyn Future<Output = Result<Running, String>> + Send>>;

enum State {
    /// Until the next try.
    Waiting(Instant),
    Connecting(Connecting),
    Running(Box<Running>),
}

/// A session with a store.
struct Open {
    server: ServerSession,
    /// Who it is with: another store, another session.
    facts: Arc<ServerFacts>,
}

/// A client session, and the store that feeds it.
pub(crate) struct Direct {
    store: StoreConfig,
    pod_cidrs: bool,
    hello: AgentHello,
    session: ClientSession,
    state: State,
    open: Option<Open>,
    opened: u64,
    lost: bool,
    behind_since: Option<Instant>,
    ready: VecDeque<News>,
}

impl Direct {
    /// Connects at once. `session` holds what was held before; `hello` names the node; `pod_cidrs`: the
    /// `podCIDRs` of nodes stand for their blocks.
    pub(crate) fn new(
        store: StoreConfig,
        pod_cidrs: bool,
        hello: AgentHello,
        session: ClientSession,
    ) -> Self {
        Self {
            store,
            pod_cidrs,
            hello,
            session,
            state: State::Waiting(Instant::now()),
            open: None,
            opened: 0,
            lost: false,
            behind_since: None,
            ready: VecDeque::new(),
        }
    }

    /// What is held.
    pub(crate) fn session(&self) -> &ClientSession {
        &self.session
    }

    /// How many sessions there were, this one included.
    pub(crate) fn opened(&self) -> u64 {
        self.opened
    }

    /// Waits for what happens next. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> News {
        loop {
            if let Some(news) = self.ready.pop_front() {
                return news;
            }
            match &mut self.state {
                State::Waiting(until) => {
                    sleep_until(*until).await;
                    let connecting =
                        connect(self.store.clone(), self.pod_cidrs, self.hello.node.clone());
                    self.state = State::Connecting(Box::pin(connecting));
                }
                State::Connecting(connecting) => match connecting.as_mut().await {
                    Ok(running) => self.state = State::Running(Box::new(running)),
                    Err(error) => {
                        self.state = State::Waiting(Instant::now() + PAUSE);
                        self.lost = true;
                        return News::Lost(error);
                    }
                },
                State::Running(running) => {
                    let Some(turn) = running.next(|| false).await else {
                        self.state = State::Waiting(Instant::now() + PAUSE);
                        self.close();
                        self.lost = true;
                        return News::Lost("the store is no longer followed".into());
                    };
                    self.turned(turn);
                }
            }
        }
    }

    fn turned(&mut self, turn: Turn) {
        let State::Running(running) = &self.state else { return };
        let state = running.pipeline().state();
        match (state.error(), self.lost) {
            (Some(error), false) => {
                self.lost = true;
                self.ready.push_back(News::Lost(error));
            }
            (None, true) => {
                self.lost = false;
                if self.open.is_some() {
                    self.ready.push_back(News::Regained);
                }
            }
            _ => {}
        }
        let waits = self.open.as_ref().is_none_or(|open| open.server.is_waiting());
        if matches!(turn, Turn::Published(_)) || waits {
            self.serve();
        }
    }

    /// Brings the agent to what the pipeline has published.
    fn serve(&mut self) {
        let State::Running(running) = &self.state else { return };
        let pipeline = running.pipeline();
        let snapshot = pipeline.publisher().snapshot();
        if !pipeline.is_whole() || (snapshot.publication == 0 && self.open.is_none()) {
            return;
        }
        let facts = pipeline.facts().clone();
        if self.open.as_ref().is_some_and(|open| !Arc::ptr_eq(&open.facts, &facts)) {
            self.close();
        }
        if self.open.is_none() && !self.begin(facts) {
            return;
        }
        while let Some(open) = &mut self.open {
            match open.server.advance(&snapshot) {
                Advance::Frames(frames) if frames.is_empty() => return,
                Advance::Frames(frames) => {
                    self.behind_since = None;
                    for frame in frames {
                        self.receive(frame.into_message());
                    }
                }
                Advance::Behind(behind) => {
                    let since = *self.behind_since.get_or_insert_with(|| {
                        let (stream, have, need) = (&behind.stream, behind.have, behind.need);
                        let text = format!("stream {stream} is at {have}, and {need} was seen");
                        self.ready.push_back(News::Behind(text));
                        Instant::now()
                    });
                    if since.elapsed() >= ROLLBACK {
                        // The next session accepts the older state.
                        self.close();
                    }
                    return;
                }
                // The versions of the next session's hello decide what that means.
                Advance::Rewound => {
                    self.close();
                    return;
                }
            }
        }
    }

    /// Begins a session; false: it can't be.
    fn begin(&mut self, facts: Arc<ServerFacts>) -> bool {
        let rollback = self.behind_since.is_some_and(|since| since.elapsed() >= ROLLBACK);
        let hello = self.session.hello(self.hello.clone(), rollback);
        match ServerSession::new(&hello, facts.clone()) {
            Ok(server) => {
                self.opened += 1;
                let said = facts.hello();
                self.open = Some(Open { server, facts });
                self.receive(said);
                true
            }
            Err(refusal) => {
                self.ready.push_back(News::Lost(refusal.to_string()));
                false
            }
        }
    }

    fn receive(&mut self, message: ServerMessage) {
        match self.session.receive(message) {
            Ok(Event::Hello(hello)) => {
                self.ready.push_back(News::Opened { server: "the store".into(), hello });
            }
            Ok(Event::Committed(committed)) => self.ready.push_back(News::Committed(committed)),
            Ok(Event::Send(message)) => {
                if let Some(agent_message::Message::Resync(resync)) = message.message
                    && let Some(open) = &mut self.open
                {
                    open.server.resync(&resync.topic);
                }
            }
            Ok(Event::Heartbeat(_) | Event::Behind(_) | Event::GoAway(_) | Event::Nothing) => {}
            Err(error) => {
                self.close();
                self.ready.push_back(News::Lost(error.to_string()));
            }
        }
    }

    fn close(&mut self) {
        self.open = None;
        self.session.disconnected();
    }
}

async fn connect(store: StoreConfig, pod_cidrs: bool, node: String) -> Result<Running, String> {
    let scope = Scope::Node(node.into());
    let about = About { heartbeat_seconds: 0, version: env!("CARGO_PKG_VERSION") };
    let store = store.connect().await.map_err(|error| error.to_string())?;
    let facts = pipeline::facts(store.as_ref(), &scope, about).await;
    let facts = facts.map_err(|error: FactsError| error.to_string())?;
    Ok(Running::new(store, facts, Reading { scope, pod_cidrs, recording: None }))
}
