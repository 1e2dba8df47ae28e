//! Consistent lists: streamed where the API server can, else in pages at one version.
//!
//! `resourceVersion` is never 0, which any old cache may answer; an expired page starts the list over, and the
//! inconsistent token that the API server then offers is never used.

use std::sync::atomic::Ordering;

use http::{Method, StatusCode};
use model::StreamIndex;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc::Sender;

use super::lines::{Line, Lines};
use super::resources::Resource;
use super::shape::Encoded;
use super::watch::Event;
use super::{ApiGroup, Shared, bad_version, shape, version};
use crate::error::{Error, Result};
use crate::selection::Selection;
use crate::store::{Early, Item, Listing, Position};

/// How often a list starts over when a page of it expires.
const ATTEMPTS: u32 = 5;
/// Objects in the first page; later pages aim at [`PAGE_BYTES`].
const FIRST_PAGE: usize = 250;
const PAGE_BYTES: usize = 4 << 20;
const PAGE: std::ops::RangeInclusive<usize> = 20..=2000;

/// So many objects are sent at once before the list is whole.
const BATCH: usize = 250;

/// What a list found.
#[derive(Default)]
struct Found {
    items: Vec<Item>,
    unknown: u64,
    /// Where objects may be sent before the list is whole.
    early: Option<Sender<Early>>,
}

pub(super) async fn list(
    shared: &Shared,
    stream: StreamIndex,
    selection: Selection,
    early: Option<Sender<Early>>,
) -> Result<Listing> {
    let epoch = shared.epoch().await?;
    let none = |version| Listing {
        at: Position { epoch: epoch.clone(), version, history: 0 },
        items: Vec::new(),
        emptiness_is_certain: false,
    };
    let Some(resource) = Resource::of(stream).filter(|it| selection.contains(it.kind)) else {
        return Ok(none(0));
    };
    let group = shared.group(resource).await?;
    let (found, at) = whole(shared, resource, group, early).await?;
    let state = shared.stream(stream);
    if !state.saw(at) {
        return Err(Error::WentBack {
            store: shared.connection.describe(),
            what: resource.stream,
            got: at,
            had: state.newest(),
        });
    }
    state.saw_list(found.unknown);
    Ok(Listing { items: found.items, ..none(at) })
}

async fn whole(
    shared: &Shared,
    resource: &Resource,
    group: ApiGroup,
    early: Option<Sender<Early>>,
) -> Result<(Found, u64)> {
    let found = || Found::anew(early.clone());
    if shared.streamed_lists.load(Ordering::Relaxed)
        && let Some(listed) = streamed(shared, resource, group, found().await).await?
    {
        return Ok(listed);
    }
    for _ in 0..ATTEMPTS {
        if let Some(listed) = in_pages(shared, resource, group, found().await).await? {
            return Ok(listed);
        }
        tracing::debug!(resource = resource.stream, "the list starts over");
    }
    Err(Error::Compacted { store: shared.connection.describe(), attempts: ATTEMPTS })
}

/// A watch that begins with all objects; none: this API server doesn't do that.
async fn streamed(
    shared: &Shared,
    resource: &Resource,
    group: ApiGroup,
    mut found: Found,
) -> Result<Option<(Found, u64)>> {
    let operation = format!("list {}", resource.stream);
    let path = format!(
        "{}?watch=1&allowWatchBookmarks=true&sendInitialEvents=true\
         &resourceVersionMatch=NotOlderThan",
        resource.path(group)
    );
    let connection = &shared.connection;
    let answer = match connection.stream(&operation, &path, !resource.is_custom()).await? {
        Ok(answer) => answer,
        Err(refusal) => match refusal.code {
            StatusCode::NOT_FOUND => return Err(shared.not_served(resource)),
            StatusCode::UNPROCESSABLE_ENTITY | StatusCode::BAD_REQUEST => {
                tracing::info!(reason = refusal.message, "lists are read in pages");
                shared.streamed_lists.store(false, Ordering::Relaxed);
                return Ok(None);
            }
            _ => return Err(connection.refused(&operation, refusal)),
        },
    };
    let mut lines = Lines::new(answer);
    loop {
        let line = tokio::time::timeout(shared.idle, lines.next()).await;
        let line = match line {
            Ok(Line::Whole(line)) => line,
            Ok(Line::End) => {
                return Err(connection.unavailable(&operation, "the list broke off before its end"));
            }
            Ok(Line::Broken(why)) => return Err(connection.unavailable(&operation, &why)),
            Err(_) => {
                let why = format!("nothing came for {} s", shared.idle.as_secs());
                return Err(connection.unavailable(&operation, &why));
            }
        };
        let event = Event::read(lines.form, &line);
        match event.map_err(|why| connection.unavailable(&operation, &why))? {
            Event::Added(object) | Event::Modified(object) => {
                found.add(shared, resource, group, object, &operation).await?;
            }
            Event::Bookmark { version: text, ends_list: true } => {
                let at =
                    version(&text).ok_or_else(|| bad_version(connection, &operation, &text))?;
                return Ok(Some((found, at)));
            }
            Event::Bookmark { .. } => {}
            Event::Deleted(_) => {
                return Err(connection.unavailable(&operation, "it lists what is deleted"));
            }
            Event::Error(refusal) => return Err(connection.refused(&operation, refusal)),
        }
    }
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(default)]
    metadata: PageMetadata,
    #[serde(borrow)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PageMetadata {
    resource_version: String,
    r#continue: String,
}

/// None: a page has expired.
async fn in_pages(
    shared: &Shared,
    resource: &Resource,
    group: ApiGroup,
    mut found: Found,
) -> Result<Option<(Found, u64)>> {
    let operation = format!("list {}", resource.stream);
    let connection = &shared.connection;
    let (mut at, mut token, mut limit) = (None, String::new(), FIRST_PAGE);
    loop {
        let mut path = format!("{}?limit={limit}", resource.path(group));
        if !token.is_empty() {
            path = format!("{path}&continue={token}");
        }
        let answer = match connection.send(&operation, Method::GET, &path, None).await? {
            Ok(answer) => answer,
            Err(refusal) => match refusal.code {
                StatusCode::NOT_FOUND => return Err(shared.not_served(resource)),
                StatusCode::GONE => return Ok(None),
                _ => return Err(connection.refused(&operation, refusal)),
            },
        };
        let bytes = connection.collect(&operation, answer).await?;
        // What isn't UTF-8 can't be in JSON; the objects that have it must not cost the others.
        let text = String::from_utf8_lossy(&bytes);
        let page: Page<'_> = serde_json::from_str(&text).map_err(|error| {
            connection.unavailable(&operation, &format!("its answer is no list: {error}"))
        })?;
        let text = &page.metadata.resource_version;
        let this = version(text).ok_or_else(|| bad_version(connection, &operation, text))?;
        if *at.get_or_insert(this) != this {
            let why = "its pages are of different versions";
            return Err(connection.unavailable(&operation, why));
        }
        let items = page.items.unwrap_or_default();
        for item in &items {
            let item = Encoded::Json(item.get().as_bytes());
            found.add(shared, resource, group, item, &operation).await?;
        }
        if page.metadata.r#continue.is_empty() {
            return Ok(Some((found, this)));
        }
        // Tokens are base64url, which needs no escape.
        token = page.metadata.r#continue;
        limit = (PAGE_BYTES * items.len() / bytes.len().max(1)).clamp(*PAGE.start(), *PAGE.end());
    }
}

impl Found {
    /// Nothing, at the begin of a try.
    async fn anew(early: Option<Sender<Early>>) -> Self {
        let found = Self { early, ..Self::default() };
        found.send(Early::Anew).await;
        found
    }

    async fn send(&self, part: Early) {
        if let Some(early) = &self.early {
            // Who no longer listens doesn't wait for the list either.
            let _ = early.send(part).await;
        }
    }

    async fn add(
        &mut self,
        shared: &Shared,
        resource: &Resource,
        group: ApiGroup,
        object: Encoded<'_>,
        operation: &str,
    ) -> Result<()> {
        let Some(object) = shape::read(resource, group, object) else {
            self.unknown += 1;
            return Ok(());
        };
        let text = &object.version;
        let version =
            version(text).ok_or_else(|| bad_version(&shared.connection, operation, text))?;
        if let (Some(key), Some(value)) = (object.key, object.value) {
            self.items.push(Item { key, value, version });
        }
        if self.early.is_some() && self.items.len() == BATCH {
            let items = std::mem::take(&mut self.items);
            self.send(Early::Items(items)).await;
        }
        Ok(())
    }
}
