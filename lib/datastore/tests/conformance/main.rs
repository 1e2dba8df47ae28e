//! What every store must do, on each real etcd that is found and on our own store.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod clusters;
#[path = "../common/mod.rs"]
mod common;
mod following;
mod kubernetes;
mod objects;
mod watching;

use std::collections::BTreeMap;
use std::time::Duration;

use datastore::{
    Change, Compare, Datastore, Error, Expected, Selection, WatchEvent, Write as StoreWrite,
};
use futures::StreamExt;
use futures::stream::BoxStream;
use model::{Key, Kind, Stored, StreamIndex};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use support::assert_bad_input;

use common::history::{Changes, Write, Writer, check};
use common::mirror::Mirror;
use common::mirror::stream_of_tiers;
use common::target::{Running, connect, on_every_etcd, on_every_store};
use support::Proxy;

const STREAM: StreamIndex = StreamIndex(0);

fn tier(name: &str) -> Key {
    Key::global(Kind::Tier, name)
}

fn value(order: u32) -> Stored {
    Stored::Json(json!({ "kind": "Tier", "spec": { "order": order } }))
}

/// A tier as an etcd client writes it.
fn put(name: &str, order: u32) -> Write {
    let bytes = format!(r#"{{"kind":"Tier","spec":{{"order":{order}}}}}"#);
    (Some(tier(name)), tier_path(name), Some(bytes.into_bytes()))
}

fn delete(name: &str) -> Write {
    (Some(tier(name)), tier_path(name), None)
}

fn tier_path(name: &str) -> String {
    format!("/calico/resources/v3/projectcalico.org/tiers/{name}")
}

/// A key that isn't Calico's.
fn foreign(name: &str) -> Write {
    (None, format!("/elsewhere/{name}"), Some(b"1".to_vec()))
}

/// What of a tier the suite writes: stores may add to its metadata.
fn order(value: &Stored) -> u64 {
    let Stored::Json(value) = value else { panic!("no JSON: {value:?}") };
    value["spec"]["order"].as_u64().expect("an order")
}

/// The keys of a conflict, with version and order where they exist.
fn conflict(error: Error) -> Vec<(Key, Option<(u64, u64)>)> {
    let Error::Conflict(conflict) = error else { panic!("not a conflict: {error}") };
    let current = conflict.current.into_iter();
    current.map(|(key, item)| (key, item.map(|item| (item.version, order(&item.value))))).collect()
}

async fn objects(store: &dyn Datastore, selection: Selection) -> BTreeMap<Key, (u64, Stored)> {
    let listing = store.list(stream_of_tiers(store), selection).await.unwrap();
    listing.items.into_iter().map(|item| (item.key, (item.version, item.value))).collect()
}

type Watching = BoxStream<'static, datastore::Result<WatchEvent>>;

/// The events of a watch up to `version`.
async fn events_to(watch: &mut Watching, version: u64) -> Vec<WatchEvent> {
    let mut events = Vec::new();
    let collect = async {
        loop {
            let event = watch.next().await.expect("the watch goes on").expect("no error");
            events.push(event);
            if let WatchEvent::Changes { version: at, .. } | WatchEvent::Progress(at) =
                &events[events.len() - 1]
                && *at >= version
            {
                return;
            }
        }
    };
    let done = tokio::time::timeout(Duration::from_mins(1), collect).await;
    assert!(done.is_ok(), "version {version} didn't come; {} events", events.len());
    events
}
