//! A link to whichever server serves: connects, moves on, and comes back, for ever.
//!
//! ```text
//! Waiting --pause over--> Connecting --answered--> Open --GoAway, error, silence--> Waiting
//! ```
//!
//! Where servers have no addresses that stay, `Finding` comes between `Waiting` and `Connecting`.

use std::{pin::Pin, sync::Arc, time::Duration};

use proto::v1::{
    AgentHello, AgentMessage, Behind, Failure, GoAway, Heartbeat, ServerHello, Status,
    agent_message,
};
use sync::{ClientSession, Committed, Event};
use tokio::time::{Instant, sleep_until};

use crate::{Connection, StreamError, Tls, rollback::Rollback, servers::Servers};

/// A server that says when to go is left by then, however late it says.
const LONGEST_STAY: Duration = Duration::from_mins(1);

/// How long what was found is good for. While servers fail, every agent of a cluster asks so often.
const FOUND: Duration = Duration::from_secs(30);

/// Finds servers whose addresses change, such as the pods of a Service.
pub trait Find: Send + Sync {
    /// Addresses as in [`Options::servers`], the one to try first in front; never none. The error: why they can't be
    /// told now.
    fn find(&self) -> Finding;
}

/// What [`Find::find`] comes to.
pub type Finding = Pin<Box<dyn Future<Output = Result<Vec<String>, String>> + Send>>;

/// Where to connect, and as whom.
#[derive(Clone, Debug)]
pub struct Options {
    /// Addresses of servers, each `HOST` or `HOST:PORT`; tried in turn, from any of them.
    pub servers: Vec<String>,
    /// How the client proves who it is; none: in the clear.
    pub tls: Option<Tls>,
    /// What every hello says beside what is held.
    pub hello: AgentHello,
}

/// What happens on a link.
#[derive(Debug)]
pub enum News {
    /// A server said hello.
    Opened {
        /// Its address.
        server: String,
        /// What it said.
        hello: ServerHello,
    },
    /// The server has not caught up with what is held: it says no more until it has.
    Behind {
        /// Its address.
        server: String,
        /// By how much.
        behind: Behind,
    },
    /// A publication became visible.
    Committed(Box<Committed>),
    /// The server is there and has nothing new.
    Heartbeat(Heartbeat),
    /// There is no session any more, or a try to get one failed. What was visible stays so; the next
    /// try comes by itself.
    Lost(StreamError),
}

type Opening = Pin<Box<dyn Future<Output = Result<Connection, StreamError>> + Send>>;

enum State {
    /// Until the next try.
    Waiting(Instant),
    Finding(Finding),
    Connecting(String, Opening),
    Open(Box<Connection>),
    /// The server said when to go; until then it serves on.
    Leaving(Box<Connection>, Instant, GoAway),
}

/// A client session, and the stream that feeds it.
pub struct Link {
    options: Options,
    session: ClientSession,
    servers: Servers,
    finder: Option<Arc<dyn Find>>,
    /// When to ask [`Self::finder`] again.
    find_at: Instant,
    rollback: Rollback,
    state: State,
    opened: u64,
}

impl Link {
    /// A link that will try its first server at once. `session` holds what it held before.
    pub fn new(options: Options, session: ClientSession) -> Self {
        let first = rand::random_range(0..options.servers.len().max(1));
        let servers = Servers::new(options.servers.clone(), first);
        let now = Instant::now();
        Self {
            options,
            session,
            servers,
            finder: None,
            find_at: now,
            rollback: Rollback::default(),
            state: State::Waiting(now),
            opened: 0,
        }
    }

    /// Servers are looked for: before the first try, and again while they fail. Those of [`Options`] are known until
    /// some are found.
    #[must_use]
    pub fn finding(mut self, finder: Arc<dyn Find>) -> Self {
        self.finder = Some(finder);
        self
    }

    /// What is held.
    pub fn session(&self) -> &ClientSession {
        &self.session
    }

    /// How many streams there were, this one included.
    pub fn opened(&self) -> u64 {
        self.opened
    }

    /// Waits for what happens next. Dropping the future loses nothing.
    pub async fn next(&mut self) -> News {
        loop {
            match &mut self.state {
                State::Waiting(until) => {
                    sleep_until(*until).await;
                    match &self.finder {
                        Some(finder) if self.find_at <= Instant::now() => {
                            self.state = State::Finding(finder.find());
                        }
                        _ => self.connect(),
                    }
                }
                State::Finding(finding) => match finding.as_mut().await {
                    Ok(servers) => {
                        self.find_at = Instant::now() + FOUND;
                        self.servers.found(servers);
                        self.connect();
                    }
                    Err(reason) if self.servers.is_empty() => {
                        return self.lost(StreamError::NotFound { reason });
                    }
                    Err(_) => self.connect(),
                },
                State::Connecting(server, opening) => {
                    let opened = opening.as_mut().await;
                    let server = std::mem::take(server);
                    match opened {
                        Ok(connection) => {
                            self.opened += 1;
                            self.rollback.answered(&server, Instant::now().into_std());
                            self.state = State::Open(Box::new(connection));
                        }
                        Err(error) => return self.lost(error),
                    }
                }
                State::Open(connection) => {
                    let event = connection.next(&mut self.session).await;
                    if let Some(news) = self.happened(event) {
                        return news;
                    }
                }
                State::Leaving(connection, until, go_away) => {
                    let event = tokio::select! {
                        event = connection.next(&mut self.session) => event.ok(),
                        () = sleep_until(*until) => None,
                    };
                    let Some(event) = event else {
                        let address = connection.address().to_owned();
                        let (why, message) = (go_away.why(), go_away.message.clone());
                        return self.lost(StreamError::Away { address, why, message });
                    };
                    if let Some(news) = self.happened(Ok(event)) {
                        return news;
                    }
                }
            }
        }
    }

    /// Says that the kernel, or what stands for it, holds publication `applied`, less what failed. Only
    /// the newest visible one is acknowledged: of an older one nothing is said.
    pub fn acknowledge(&mut self, applied: u64, failed: Vec<Failure>, status: Option<Status>) {
        let Some(ack) = self.session.ack_applied(applied, failed) else { return };
        let (State::Open(connection) | State::Leaving(connection, ..)) = &mut self.state else {
            return;
        };
        if let Some(status) = status {
            let message = agent_message::Message::Status(status);
            connection.send(AgentMessage { message: Some(message) });
        }
        connection.send(ack);
    }

    fn connect(&mut self) {
        let Some(server) = self.servers.next() else {
            // Without servers there is nothing to wait for either.
            self.state = State::Waiting(Instant::now() + LONGEST_STAY);
            return;
        };
        let accept_rollback = self.rollback.accepted(Instant::now().into_std());
        self.rollback.tried(&server);
        let hello = self.session.hello(self.options.hello.clone(), accept_rollback);
        let (tls, address) = (self.options.tls.clone(), server.clone());
        let opening = async move { Connection::open_with(&address, tls.as_ref(), hello).await };
        self.state = State::Connecting(server, Box::pin(opening));
    }

    fn happened(&mut self, event: Result<Event, StreamError>) -> Option<News> {
        let (State::Open(connection) | State::Leaving(connection, ..)) = &mut self.state else {
            return None;
        };
        match event {
            Ok(Event::Hello(hello)) => {
                return Some(News::Opened { server: connection.address().to_owned(), hello });
            }
            Ok(Event::Committed(committed)) => {
                if committed.first {
                    self.rollback.served();
                    self.servers.served();
                }
                return Some(News::Committed(committed));
            }
            Ok(Event::Heartbeat(heartbeat)) => return Some(News::Heartbeat(heartbeat)),
            Ok(Event::Send(message)) => connection.send(message),
            Ok(Event::Behind(behind)) => {
                let server = connection.address().to_owned();
                self.rollback.behind(&server, &behind, Instant::now().into_std());
                return Some(News::Behind { server, behind });
            }
            Ok(Event::GoAway(go_away)) => self.leave(go_away),
            Ok(Event::Nothing) => {}
            Err(error) => return Some(self.lost(error)),
        }
        None
    }

    fn leave(&mut self, go_away: GoAway) {
        let stay = Duration::from_millis(go_away.after_milliseconds).min(LONGEST_STAY);
        let until = Instant::now() + stay;
        let state = std::mem::replace(&mut self.state, State::Waiting(until));
        if let State::Open(connection) | State::Leaving(connection, ..) = state {
            self.servers.away(connection.address(), go_away.why(), &go_away.others);
            self.state = State::Leaving(connection, until, go_away);
        }
    }

    fn lost(&mut self, error: StreamError) -> News {
        self.session.disconnected();
        self.servers.failed();
        let pause = self.servers.pause(rand::random());
        self.state = State::Waiting(Instant::now() + pause);
        News::Lost(error)
    }
}
