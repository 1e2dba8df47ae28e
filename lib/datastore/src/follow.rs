//! Runs [`Follower`]s against a store: one stream of what all its streams say.

use std::collections::VecDeque;
use std::panic;
use std::sync::Arc;

use futures::future;
use futures::stream::{self, BoxStream, Stream, StreamExt};
use model::StreamIndex;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, channel};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::error::Result;
use crate::follower::{Feed, Follower, Step};
use crate::selection::Selection;
use crate::store::{Datastore, Early, Listing, StreamInfo, WatchEvent};

/// Everything that happens to the selected objects, from their first list on, for ever. Each stream of the store is
/// in order; there is no order between them. Little is read ahead of the caller, so a slow one costs no memory
/// here; the store may then compact what it would have sent, which costs a list.
pub fn follow(
    store: &Arc<dyn Datastore>,
    selection: Selection,
) -> impl Stream<Item = Feed> + Send + Unpin + use<> {
    let streams: Vec<StreamInfo> = store.streams().to_vec();
    stream::select_all(streams.into_iter().map(|StreamInfo { index, slim, .. }| {
        let edge = Edge {
            store: Arc::clone(store),
            selection,
            stream: index,
            follower: if slim { Follower::slim(index) } else { Follower::new(index) },
            list: None,
            watch: None,
            ready: VecDeque::new(),
        };
        stream::unfold(edge, |mut edge| async {
            let feed = edge.next().await;
            Some((feed, edge))
        })
        .boxed()
    }))
}

/// The IO of one stream.
struct Edge {
    store: Arc<dyn Datastore>,
    selection: Selection,
    stream: StreamIndex,
    follower: Follower,
    list: Option<List>,
    watch: Option<BoxStream<'static, Result<WatchEvent>>>,
    ready: VecDeque<Feed>,
}

/// So many parts of a list wait for the caller, while the next one is read.
const AHEAD: usize = 1;

/// A list that is being read, on a thread of its own: while those of other streams are, and while the caller makes
/// something of what was found. A task would not do: the runtime likes to run it on the caller's thread, as it is
/// the caller who wakes it. It ends when nobody waits for it any more.
struct List {
    result: JoinHandle<Option<Result<Listing>>>,
    parts: Receiver<Early>,
}

impl List {
    /// `early`: parts of it are told before it is whole.
    fn begin(
        store: Arc<dyn Datastore>,
        stream: StreamIndex,
        selection: Selection,
        early: bool,
    ) -> Self {
        let (sender, parts) = channel(AHEAD);
        let runtime = Handle::current();
        let result = tokio::task::spawn_blocking(move || {
            let listener = sender.clone();
            let list = async {
                if early {
                    store.list_early(stream, selection, sender).await
                } else {
                    store.list(stream, selection).await
                }
            };
            runtime.block_on(async {
                tokio::select! {
                    result = list => Some(result),
                    () = listener.closed() => None,
                }
            })
        });
        Self { result, parts }
    }

    async fn ended(result: &mut JoinHandle<Option<Result<Listing>>>) -> Result<Listing> {
        match result.await {
            Ok(Some(listing)) => listing,
            Err(error) if error.is_panic() => panic::resume_unwind(error.into_panic()),
            // The runtime ends, and this with it.
            Ok(None) | Err(_) => future::pending().await,
        }
    }
}

impl Edge {
    async fn next(&mut self) -> Feed {
        loop {
            if let Some(feed) = self.ready.pop_front() {
                return feed;
            }
            let feeds = match self.follower.step(Instant::now().into_std()) {
                Step::Wait(until) => {
                    tokio::time::sleep_until(Instant::from_std(until)).await;
                    continue;
                }
                Step::List => {
                    let list = self.list.get_or_insert_with(|| {
                        let is_early = self.follower.takes_early();
                        List::begin(Arc::clone(&self.store), self.stream, self.selection, is_early)
                    });
                    tokio::select! {
                        biased;
                        Some(early) = list.parts.recv() => self.follower.early(early).into_iter().collect(),
                        result = List::ended(&mut list.result) => {
                            // What was sent while the list ended.
                            let mut feeds = Vec::new();
                            while let Ok(early) = list.parts.try_recv() {
                                feeds.extend(self.follower.early(early));
                            }
                            self.list = None;
                            let now = Instant::now().into_std();
                            feeds.extend(self.follower.listed(now, rand::random(), result));
                            feeds
                        }
                    }
                }
                Step::Watch(from) => {
                    let (store, stream, selection) = (&self.store, self.stream, self.selection);
                    let watch =
                        self.watch.get_or_insert_with(|| store.watch(stream, selection, from));
                    let event = watch.next().await;
                    self.follower.watched(Instant::now().into_std(), rand::random(), event)
                }
            };
            if !self.follower.is_watching() {
                self.watch = None;
            }
            self.ready.extend(feeds);
        }
    }
}
