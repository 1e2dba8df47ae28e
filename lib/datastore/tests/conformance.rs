//! What every store must do, on each real one that is found.
#![allow(clippy::expect_used, reason = "a test may panic")]

use std::time::Duration;

use datastore::{Error, Feed, Selection, StoreConfig, follow};
use futures::{Stream, StreamExt};
use model::{Key, Kind, Stored, StreamIndex};
use serde_json::json;
use support::RealEtcd;

fn tier(name: &str) -> Key {
    Key::global(Kind::Tier, name)
}

fn value(order: u32) -> Stored {
    Stored::Json(json!({"kind": "Tier", "spec": {"order": order}}))
}

async fn next(feed: &mut (impl Stream<Item = Feed> + Unpin)) -> Feed {
    tokio::time::timeout(Duration::from_secs(10), feed.next())
        .await
        .expect("a feed within 10 s")
        .expect("a feed never ends")
}

#[tokio::test]
async fn a_change_is_seen_after_the_list() {
    for (label, binary) in support::etcd_binaries() {
        let etcd = RealEtcd::start(&binary);
        let store = StoreConfig::from_url(etcd.endpoint()).unwrap().connect().await.unwrap();
        println!("{label}: {} {}", store.describe(), store.epoch().await.unwrap());
        let first = store.create(&tier("a"), &value(1)).await.unwrap();
        let conflict = store.create(&tier("a"), &value(2)).await.unwrap_err();
        assert!(
            matches!(&conflict, Error::Conflict(c) if c.current[0].1.as_ref().unwrap().version == first)
        );
        let mut feed = follow(&store, Selection::fan_out());
        let Feed::Changes { updates, version, .. } = next(&mut feed).await else { panic!() };
        assert_eq!((updates.len(), version), (1, first));
        assert!(matches!(next(&mut feed).await, Feed::Synced { newest, .. } if newest == first));
        let second = store.update(&tier("a"), &value(2), first).await.unwrap();
        let Feed::Changes { updates, version, stream } = next(&mut feed).await else { panic!() };
        assert_eq!((version, stream), (second, StreamIndex(0)));
        assert_eq!(updates[0].value, Some(value(2)));
        assert!(store.delete(&tier("a"), Some(second)).await.unwrap());
        let Feed::Changes { updates, .. } = next(&mut feed).await else { panic!() };
        assert_eq!(updates[0].value, None);
        assert_eq!(
            store.get_or_create_raw("digest-key", b"0123456789abcdef").await.unwrap(),
            b"0123456789abcdef"
        );
        assert_eq!(
            store.get_or_create_raw("digest-key", b"fedcba9876543210").await.unwrap(),
            b"0123456789abcdef"
        );
    }
}
