//! Runs [`Follower`]s against a store: one stream of what all its streams say.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::stream::{self, BoxStream, Stream, StreamExt};
use model::StreamIndex;
use tokio::time::Instant;

use crate::error::Result;
use crate::follower::{Feed, Follower, Step};
use crate::selection::Selection;
use crate::store::{Datastore, StreamInfo, WatchEvent};

/// Everything that happens to the selected objects, from their first list on, for ever. Each stream of the store is
/// in order; there is no order between them. Nothing is read ahead of the caller, so a slow one costs no memory
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
    watch: Option<BoxStream<'static, Result<WatchEvent>>>,
    ready: VecDeque<Feed>,
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
                    let result = self.store.list(self.stream, self.selection).await;
                    self.follower.listed(Instant::now().into_std(), rand::random(), result)
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
