//! The edge: a pipeline that follows a store.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use datastore::{Datastore, Feed, Selection};
use futures::{FutureExt as _, Stream, StreamExt as _};
use sync::{DigestKey, ServerFacts};
use tracing::{error, warn};

use crate::{Pipeline, Recording, Scope, digest_key, pipeline::Options, tick::Tick};

/// It says at least so often that it lives.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Another store's key of digests is asked for so often.
const KEY_PAUSE: Duration = Duration::from_secs(1);

/// What a turn of the pipeline was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// What had gathered was published, if it may be: so many entries have changed; none: nothing has.
    Published(Option<usize>),
    /// The store is in another state: read whole, lost, regained, replaced.
    Store,
    /// Nothing that can be seen.
    Nothing,
}

type Feeds = Box<dyn Stream<Item = Feed> + Send + Unpin>;
type Asked = Pin<Box<dyn Future<Output = DigestKey> + Send>>;

/// How a store is read.
pub struct Reading {
    /// Whose views are made of it.
    pub scope: Scope,
    /// `podCIDRs` of nodes stand for their blocks (`USE_POD_CIDR`).
    pub pod_cidrs: bool,
    /// What it says is written there, too.
    pub recording: Option<Recording>,
}

/// A pipeline and the store that it follows.
pub struct Running {
    pipeline: Pipeline,
    reading: Reading,
    store: Arc<dyn Datastore>,
    feeds: Feeds,
    tick: Tick,
    /// The key of another store, while it is being asked for, and that store's epoch.
    key: Option<(String, Asked)>,
}

impl Running {
    /// Follows the store from its first list on.
    pub fn new(store: Arc<dyn Datastore>, facts: ServerFacts, reading: Reading) -> Self {
        let feeds = Box::new(datastore::follow(&store, Selection::fan_out()));
        let options =
            Options { services: store.capabilities().services, pod_cidrs: reading.pod_cidrs };
        let pipeline = Pipeline::new(facts, reading.scope.clone(), options);
        Self { pipeline, reading, store, feeds, tick: Tick::default(), key: None }
    }

    /// What it has made.
    pub fn pipeline(&self) -> &Pipeline {
        &self.pipeline
    }

    /// Waits for what happens next, at most a few seconds. None: the store is no longer followed.
    /// Dropping the future loses nothing. `busy`: many of those who were told of the newest
    /// publication haven't looked at it yet. What gathers while they are is one publication, which
    /// costs less than two.
    pub async fn next(&mut self, busy: impl FnOnce() -> bool) -> Option<Turn> {
        if let Some(epoch) = self.pipeline.other_store()
            && self.key.as_ref().is_none_or(|(of, _)| of != epoch)
        {
            let asked = Box::pin(other_key(self.store.clone(), self.reading.scope.clone()));
            self.key = Some((epoch.to_owned(), asked));
        }
        let now = Instant::now();
        let due = self.tick.due();
        if due.is_some_and(|due| due <= now) {
            // What is there already belongs to it. Not by a timer: its steps are as long as a change's whole way.
            if self.tick.gathers(now)
                && let Some(feed) = self.feeds.next().now_or_never()
            {
                return Some(self.take(feed?));
            }
            return Some(self.publish(busy));
        }
        let wait = due.map_or(HEARTBEAT, |due| due - now);
        tokio::select! {
            biased;
            () = tokio::time::sleep(wait) => Some(Turn::Nothing),
            known = async { match &mut self.key {
                Some((_, asked)) => asked.await,
                None => std::future::pending().await,
            } } => {
                if let Some((epoch, _)) = self.key.take()
                    && self.pipeline.other_store() == Some(epoch.as_str())
                {
                    self.pipeline.begin_anew(epoch, known);
                    self.tick.changed(Instant::now());
                }
                Some(Turn::Store)
            }
            feed = self.feeds.next() => Some(self.take(feed?)),
        }
    }

    fn publish(&mut self, busy: impl FnOnce() -> bool) -> Turn {
        if self.tick.is_postponed(Instant::now(), busy) {
            return Turn::Nothing;
        }
        let published = self.pipeline.publish();
        self.tick.published(Instant::now());
        Turn::Published(published)
    }

    fn take(&mut self, feed: Feed) -> Turn {
        self.record(&feed);
        let changes = matches!(feed, Feed::Changes { .. });
        if self.pipeline.feed(feed, now_nanoseconds()) {
            self.tick.changed(Instant::now());
        }
        if changes { Turn::Nothing } else { Turn::Store }
    }

    /// Each feed is written before anything is made of it: it is there when its consequence is a crash.
    fn record(&mut self, feed: &Feed) {
        if let Some(recording) = &mut self.reading.recording
            && let Err(error) = recording.add(feed)
        {
            error!(%error, "the recording ends here");
            self.reading.recording = None;
        }
    }
}

/// The key of another store, asked for until it is told.
async fn other_key(store: Arc<dyn Datastore>, scope: Scope) -> DigestKey {
    loop {
        match digest_key(store.as_ref(), &scope).await {
            Ok(key) => return key,
            Err(error) => warn!(%error, "no key of digests: nothing is published until there is"),
        }
        tokio::time::sleep(KEY_PAUSE).await;
    }
}

fn now_nanoseconds() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}
