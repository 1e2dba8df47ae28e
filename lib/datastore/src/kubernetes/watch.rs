//! A watch of one resource: an own loop over the lines of the answer.
//!
//! An API server ends each watch after some minutes; it then goes on where it was, which nobody notices. Bookmarks
//! are progress, never changes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use http::{Method, StatusCode};
use model::StreamIndex;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::connection::Refusal;
use super::lines::{Form, Line, Lines};
use super::resources::Resource;
use super::shape::Encoded;
use super::slim::{BOOKMARK, STATUS};
use super::{ApiGroup, Shared, bad_version, protobuf, shape, version};
use crate::error::{Error, Result};
use crate::store::{Change, Position, WatchEvent};

/// The API server is asked to end a watch after so long; a random part of the half is added, so that not all end at
/// once.
const LENGTH: Duration = Duration::from_mins(5);
/// A watch that ends sooner than this didn't end as asked for.
const SHORT: Duration = Duration::from_secs(1);

pub(super) fn watch(
    shared: Arc<Shared>,
    stream: StreamIndex,
    resource: &'static Resource,
    from: Position,
) -> BoxStream<'static, Result<WatchEvent>> {
    let watch = Watch {
        shared,
        stream,
        resource,
        operation: format!("watch {}", resource.stream),
        epoch: from.epoch,
        version: from.version,
        open: None,
        told_open: false,
        served_at: None,
    };
    stream::unfold(Some(watch), |watch| async {
        let mut watch = watch?;
        let event = watch.next().await;
        let goes_on = matches!(
            event,
            Ok(WatchEvent::Open | WatchEvent::Changes { .. } | WatchEvent::Progress(_))
        );
        Some((event, goes_on.then_some(watch)))
    })
    .boxed()
}

struct Watch {
    shared: Arc<Shared>,
    stream: StreamIndex,
    resource: &'static Resource,
    operation: String,
    epoch: arcstr::ArcStr,
    /// Everything up to here was delivered.
    version: u64,
    open: Option<Open>,
    told_open: bool,
    /// Until which read of the network the resource is known to be served.
    served_at: Option<u64>,
}

struct Open {
    lines: Lines,
    group: ApiGroup,
    since: Instant,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.stream(self.stream).connected(None);
    }
}

impl Watch {
    async fn next(&mut self) -> Result<WatchEvent> {
        loop {
            if self.open.is_none() {
                if let Some(last) = self.connect().await? {
                    return Ok(last);
                }
                if !std::mem::replace(&mut self.told_open, true) {
                    return Ok(WatchEvent::Open);
                }
            }
            let line = self.line().await;
            if !matches!(line, Some(Line::Whole(_))) {
                self.shared.ended();
            }
            let line = match line {
                Some(Line::Whole(line)) => line,
                Some(Line::End) => {
                    let Some(open) = self.open.take() else { continue };
                    if open.since.elapsed() < SHORT {
                        return Err(Error::WatchEnded);
                    }
                    continue;
                }
                Some(Line::Broken(why)) => return Err(self.unavailable(&why)),
                None => {
                    let seconds = self.shared.idle.as_secs();
                    return Err(self.unavailable(&format!(
                        "nothing came for {seconds} s, not even a bookmark"
                    )));
                }
            };
            if let Some(event) = self.event(&line).await? {
                return Ok(event);
            }
        }
    }

    /// None: nothing came for too long.
    async fn line(&mut self) -> Option<Line> {
        let lines = &mut self.open.as_mut()?.lines;
        tokio::time::timeout(self.shared.idle, lines.next()).await.ok()
    }

    /// Puts the watch in place, or says what ends it.
    async fn connect(&mut self) -> Result<Option<WatchEvent>> {
        let epoch = self.shared.epoch().await.inspect_err(|_| self.shared.ended())?;
        if epoch != self.epoch {
            return Ok(Some(WatchEvent::OtherStore { epoch }));
        }
        let shared = &self.shared;
        let connection = &shared.connection;
        let group = shared.group(self.resource).await?;
        let seconds = LENGTH.mul_f64(1.0 + rand::random::<f64>() / 2.0).as_secs();
        let path = format!(
            "{}?watch=1&allowWatchBookmarks=true&resourceVersion={}&timeoutSeconds={seconds}",
            self.resource.path(group),
            self.version
        );
        match connection.stream(&self.operation, &path, !self.resource.is_custom()).await? {
            Ok(answer) => {
                let since = Instant::now();
                self.open = Some(Open { lines: Lines::new(answer), group, since });
                self.served_at = None;
                shared.stream(self.stream).connected(Some(since));
                Ok(None)
            }
            Err(refusal) => self.refused(refusal).map(Some),
        }
    }

    fn refused(&self, refusal: Refusal) -> Result<WatchEvent> {
        match refusal.code {
            StatusCode::GONE => Ok(WatchEvent::Compacted { oldest: 0 }),
            StatusCode::NOT_FOUND => Err(self.not_served()),
            _ => Err(self.shared.connection.refused(&self.operation, refusal)),
        }
    }

    fn not_served(&self) -> Error {
        self.shared.not_served(self.resource)
    }

    fn unavailable(&self, why: &str) -> Error {
        self.shared.connection.unavailable(&self.operation, why)
    }

    async fn event(&mut self, line: &Bytes) -> Result<Option<WatchEvent>> {
        let Some(Open { group, lines, .. }) = &self.open else { return Ok(None) };
        let group = *group;
        let event = Event::read(lines.form, line).map_err(|why| self.unavailable(&why))?;
        let (object, is_gone) = match event {
            Event::Added(object) | Event::Modified(object) => (object, false),
            Event::Deleted(object) => (object, true),
            Event::Bookmark { version: text, .. } => {
                let at = self.parse(&text)?;
                self.saw(at, false, 0);
                return Ok(Some(WatchEvent::Progress(at)));
            }
            Event::Error(refusal) => return self.refused(refusal).map(Some),
        };
        let Some(object) = shape::read(self.resource, group, object) else {
            self.shared.stream(self.stream).saw_watch(false, 1);
            return Ok(None);
        };
        let at = self.parse(&object.version)?;
        if is_gone && object.key.is_some() {
            self.check_served(group).await?;
        }
        self.saw(at, object.key.is_some(), 0);
        Ok(Some(match object.key {
            // An object that means nothing here: everything before it was delivered.
            None => WatchEvent::Progress(at),
            Some(key) => {
                let value = object.value.filter(|_| !is_gone);
                WatchEvent::Changes { version: at, changes: vec![Change { key, value }] }
            }
        }))
    }

    fn parse(&self, text: &str) -> Result<u64> {
        version(text).ok_or_else(|| bad_version(&self.shared.connection, &self.operation, text))
    }

    fn saw(&mut self, at: u64, event: bool, unknown: u64) {
        self.version = self.version.max(at);
        let state = self.shared.stream(self.stream);
        state.saw(at);
        state.saw_watch(event, unknown);
    }

    /// Who deletes a definition deletes its objects with it, one by one. These deletes are nobody's wish, and are
    /// never told: the definition is looked at before a delete is. What came in one read was checked once.
    async fn check_served(&mut self, group: ApiGroup) -> Result<()> {
        let reads = self.open.as_ref().map(|open| open.lines.reads);
        if !self.resource.is_custom() || self.served_at == reads {
            return Ok(());
        }
        let name = self.resource.definition(group);
        let operation = format!("get customresourcedefinition {name}");
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
        match self.shared.connection.request(&operation, Method::GET, &path, None).await? {
            Ok(definition) if definition["metadata"]["deletionTimestamp"].is_null() => {}
            Ok(_) => return Err(self.not_served()),
            // An aggregated API has none.
            Err(refusal) if refusal.code == StatusCode::NOT_FOUND => {
                return Err(self.not_served());
            }
            Err(refusal) => return Err(self.shared.connection.refused(&operation, refusal)),
        }
        self.served_at = reads;
        Ok(())
    }
}

/// What a line of a watch says.
pub(super) enum Event<'a> {
    Added(Encoded<'a>),
    Modified(Encoded<'a>),
    Deleted(Encoded<'a>),
    Bookmark {
        version: String,
        /// It ends the objects that a streamed list begins with.
        ends_list: bool,
    },
    Error(Refusal),
}

#[derive(Deserialize)]
struct RawEvent<'a> {
    #[serde(borrow)]
    r#type: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

impl<'a> Event<'a> {
    pub(super) fn read(form: Form, line: &'a [u8]) -> Result<Self, String> {
        let (kind, object) = match form {
            Form::Json => {
                let event: RawEvent<'a> = serde_json::from_slice(line)
                    .map_err(|error| format!("a line is no event: {error}"))?;
                (event.r#type, Encoded::Json(event.object.get().as_bytes()))
            }
            Form::Protobuf => {
                let (kind, object) = protobuf::event(line)
                    .map_err(|error| format!("a frame is no event: {error}"))?;
                (kind, Encoded::Protobuf(object))
            }
        };
        Ok(match kind.as_ref() {
            "ADDED" => Self::Added(object),
            "MODIFIED" => Self::Modified(object),
            "DELETED" => Self::Deleted(object),
            "BOOKMARK" => {
                let object = object
                    .read(&BOOKMARK)
                    .map_err(|error| format!("a bookmark can't be read: {error}"))?;
                let metadata = &object["metadata"];
                Self::Bookmark {
                    version: metadata["resourceVersion"].as_str().unwrap_or_default().to_owned(),
                    ends_list: metadata["annotations"]["k8s.io/initial-events-end"] == "true",
                }
            }
            "ERROR" => {
                let status = object.read(&STATUS).unwrap_or_default();
                let internal = StatusCode::INTERNAL_SERVER_ERROR;
                Self::Error(Refusal::of(&status, internal, || object.to_string()))
            }
            other => return Err(format!("an event of type {other:?}")),
        })
    }
}
