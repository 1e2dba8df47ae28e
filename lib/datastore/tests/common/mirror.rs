//! A consumer of a feed: what it believes, and what it was told in short lines.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use datastore::{Datastore, Feed, Selection, follow};
use futures::StreamExt;
use futures::stream::BoxStream;
use model::{Key, Kind, Stored, StreamIndex};

use super::history::Writer;

/// How long anything may take before a test fails. A connection that is silently dead takes 30 s to be noticed.
const PATIENCE: Duration = Duration::from_mins(1);

/// The stream that tiers are in.
pub fn stream_of_tiers(store: &dyn Datastore) -> StreamIndex {
    let streams = store.streams();
    let found = streams.iter().find(|info| streams.len() == 1 || info.name == "tiers");
    found.expect("a stream of tiers").index
}

pub struct Mirror {
    feed: BoxStream<'static, Feed>,
    /// Of Kubernetes' streams only that of tiers counts, which the suite writes.
    stream: StreamIndex,
    pub objects: BTreeMap<Key, (u64, Stored)>,
    /// Up to where it is complete.
    pub progress: u64,
    /// `list`, `+name`, `-name`, `lost`, `regained`, `reset`; a change that repeats what is known is `=name`.
    pub log: Vec<String>,
    pub last_error: Option<datastore::Error>,
    /// A version or progress below an earlier one without a reset between them: the earlier and the later.
    pub went_back: Option<(u64, u64)>,
    highest: (u64, u64),
}

impl Mirror {
    pub fn new(store: &Arc<dyn Datastore>, selection: Selection) -> Self {
        let stream = stream_of_tiers(&**store);
        let selection = if store.streams().len() > 1 { Kind::Tier.into() } else { selection };
        Self {
            feed: follow(store, selection).boxed(),
            stream,
            objects: BTreeMap::new(),
            progress: 0,
            log: Vec::new(),
            last_error: None,
            went_back: None,
            highest: (0, 0),
        }
    }

    /// Follows until `done`.
    pub async fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let following = async {
            while !done(self) {
                let feed = self.feed.next().await.expect("a feed never ends");
                self.take(feed);
            }
        };
        let done = tokio::time::timeout(PATIENCE, following).await;
        assert!(done.is_ok(), "{what}: not in {PATIENCE:?}; told so far: {:?}", self.log);
    }

    pub async fn until_told(&mut self, word: &str) {
        self.until(word, |mirror| mirror.log.iter().any(|told| told == word)).await;
    }

    /// Follows until the list is complete and a watch goes on from it, and forgets what was told until then.
    pub async fn watching(&mut self, writer: &mut Writer) {
        self.until_told("list").await;
        let key = Key::global(Kind::Tier, "watching");
        let path = "/calico/resources/v3/projectcalico.org/tiers/watching".to_owned();
        let value = br#"{"spec": {}}"#.to_vec();
        let version = writer.write(vec![(Some(key), path, Some(value))]).await;
        self.reach(version).await;
        self.log.clear();
    }

    /// Follows until everything up to `version` was told.
    pub async fn reach(&mut self, version: u64) {
        self.until(&format!("version {version}"), |mirror| mirror.progress >= version).await;
    }

    fn take(&mut self, feed: Feed) {
        let (Feed::Changes { stream, .. }
        | Feed::Synced { stream, .. }
        | Feed::Progress { stream, .. }
        | Feed::Lost { stream, .. }
        | Feed::Regained { stream, .. }
        | Feed::Reset { stream, .. }) = feed;
        if stream != self.stream {
            return;
        }
        let (newest, progress) = self.highest;
        match &feed {
            Feed::Changes { version, .. } => self.note((*version, progress.max(*version))),
            Feed::Synced { at, newest, .. } => self.note((*newest, at.version)),
            Feed::Progress { version, .. } => self.note((newest, *version)),
            Feed::Reset { .. } => self.highest = (0, 0),
            Feed::Lost { .. } | Feed::Regained { .. } => {}
        }
        match feed {
            Feed::Changes { version, updates, .. } => {
                for update in updates {
                    let name = update.key.name.clone();
                    let object = update.value.map(|value| (update.version, value));
                    let sign = if object.is_some() { '+' } else { '-' };
                    let before = match &object {
                        Some(object) => self.objects.insert(update.key, object.clone()),
                        None => self.objects.remove(&update.key),
                    };
                    let known = before == object;
                    self.log.push(format!("{}{name}", if known { '=' } else { sign }));
                }
                self.progress = self.progress.max(version);
            }
            Feed::Synced { at, .. } => {
                self.progress = at.version;
                self.log.push("list".to_owned());
            }
            Feed::Progress { version, .. } => self.progress = version,
            Feed::Lost { error, .. } => {
                self.log.push("lost".to_owned());
                self.last_error = Some(error);
            }
            Feed::Regained { .. } => self.log.push("regained".to_owned()),
            Feed::Reset { .. } => {
                self.progress = 0;
                self.log.push("reset".to_owned());
            }
        }
    }

    fn note(&mut self, now: (u64, u64)) {
        for (before, now) in [(self.highest.0, now.0), (self.highest.1, now.1)] {
            if now < before {
                self.went_back = Some((before, now));
            }
        }
        self.highest = now;
    }

    /// What was told since the last call, without the noise of how often a broken connection was noticed.
    pub fn told(&mut self) -> Vec<String> {
        let mut told = std::mem::take(&mut self.log);
        told.dedup();
        told
    }
}
