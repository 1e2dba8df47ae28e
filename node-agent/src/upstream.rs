//! Where the agent's view comes from: typha, or the store itself.

use client::Link;
use proto::v1::{Failure, ServerHello, Status};
use sync::{ClientSession, Committed};

use crate::direct::Direct;

/// What happens to the view.
#[derive(Debug)]
pub(crate) enum News {
    /// A session began.
    Opened {
        /// With whom.
        server: String,
        /// What it said.
        hello: ServerHello,
    },
    /// It has not caught up with what is held: nothing comes until it has.
    Behind(String),
    /// A publication became visible.
    Committed(Box<Committed>),
    /// Nothing comes any more, and why; what was visible stays so. The next try comes by itself.
    Lost(String),
    /// What was lost is back, and the session goes on.
    Regained,
}

/// A client session, and what feeds it.
pub(crate) enum Upstream {
    /// A typha.
    Typha(Box<Link>),
    /// The store.
    Store(Box<Direct>),
}

impl Upstream {
    /// What is held.
    pub(crate) fn session(&self) -> &ClientSession {
        match self {
            Self::Typha(link) => link.session(),
            Self::Store(direct) => direct.session(),
        }
    }

    /// How many sessions there were, this one included.
    pub(crate) fn opened(&self) -> u64 {
        match self {
            Self::Typha(link) => link.opened(),
            Self::Store(direct) => direct.opened(),
        }
    }

    /// Says that the kernel holds publication `applied`, less what failed. A store isn't told.
    pub(crate) fn acknowledge(&mut self, applied: u64, failed: Vec<Failure>, status: Status) {
        if let Self::Typha(link) = self {
            link.acknowledge(applied, failed, Some(status));
        }
    }

    /// Waits for what happens next. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self) -> News {
        let link = match self {
            Self::Typha(link) => link,
            Self::Store(direct) => return direct.next().await,
        };
        loop {
            return match link.next().await {
                client::News::Opened { server, hello } => News::Opened { server, hello },
                client::News::Behind { server, behind } => {
                    let (stream, have, need) = (behind.stream, behind.have, behind.need);
                    News::Behind(format!("{server}: {stream} is at {have}, and {need} was seen"))
                }
                client::News::Committed(committed) => News::Committed(committed),
                client::News::Lost(error) => News::Lost(error.to_string()),
                client::News::Heartbeat(_) => continue,
            };
        }
    }
}
