//! What the differential test can't reach: time, what isn't durable yet, bounds, and answers that etcd doesn't give.

use std::time::Duration;

use etcd_client::proto::{
    PbTxnOpRequest, PbTxnRequestOp, PbWatchRequest, PbWatchRequestUnion, PbWatchResponse,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const STREAM: StreamId = 1;

fn ops(ops: Vec<PbTxnOpRequest>) -> Vec<PbTxnRequestOp> {
    ops.into_iter().map(|op| PbTxnRequestOp { request: Some(op) }).collect()
}

fn txn(success: Vec<PbTxnOpRequest>, failure: Vec<PbTxnOpRequest>) -> PbTxnRequest {
    PbTxnRequest { compare: Vec::new(), success: ops(success), failure: ops(failure) }
}

fn put(key: &str, value: &str) -> PbPutRequest {
    PbPutRequest { key: key.into(), value: value.into(), ..PbPutRequest::default() }
}

fn leased(key: &str, lease: i64) -> PbPutRequest {
    PbPutRequest { lease, ..put(key, "leased") }
}

fn delete(key: &str, range_end: &[u8]) -> PbDeleteRequest {
    PbDeleteRequest { key: key.into(), range_end: range_end.to_vec(), prev_kv: false }
}

fn grant(id: i64, ttl: i64) -> PbLeaseGrantRequest {
    PbLeaseGrantRequest { id, ttl }
}

fn publish(store: &mut Store) {
    let (_, mark) = store.take_unsaved();
    store.publish(mark);
}

fn keys_at(store: &Store, revision: i64) -> Vec<KeyValue> {
    let request =
        PbRangeRequest { key: vec![0], range_end: vec![0], revision, ..PbRangeRequest::default() };
    store.range(&request).unwrap().kvs
}

fn names(store: &Store) -> Vec<String> {
    keys_at(store, 0).into_iter().map(|kv| String::from_utf8(kv.key).unwrap()).collect()
}

/// A watch on everything. The types of these requests have no public name, so they come out of bytes: an empty message
/// in field 1 (create) or 3 (progress).
fn watch_from(start_revision: i64) -> PbWatchRequestUnion {
    let mut request = PbWatchRequest::decode(&[0x0a, 0][..]).unwrap().request_union.unwrap();
    if let PbWatchRequestUnion::CreateRequest(create) = &mut request {
        create.range_end = vec![0];
        create.start_revision = start_revision;
    }
    request
}

fn notified() -> PbWatchRequestUnion {
    let mut request = watch_from(0);
    if let PbWatchRequestUnion::CreateRequest(create) = &mut request {
        create.progress_notify = true;
    }
    request
}

fn progress() -> PbWatchRequestUnion {
    PbWatchRequest::decode(&[0x1a, 0][..]).unwrap().request_union.unwrap()
}

/// One stream with one watch, whose creation was told.
fn watching(store: &Store, request: PbWatchRequestUnion) -> Watches {
    let mut watches = Watches::default();
    watches.open(STREAM);
    watches.request(STREAM, request, store);
    let created = watches.next(STREAM, store).unwrap();
    assert!(created.created && !created.canceled);
    watches
}

fn revisions(response: &PbWatchResponse) -> Vec<i64> {
    response.events.iter().map(|event| event.kv.as_ref().unwrap().mod_revision).collect()
}

fn told(response: &PbWatchResponse) -> i64 {
    response.header.unwrap().revision
}

#[test]
fn a_write_is_seen_by_nobody_until_it_is_published() {
    let mut store = Store::new();
    let mut watches = watching(&store, watch_from(0));
    let response = store.put(&put("/a", "1")).unwrap();
    assert_eq!(response.header.unwrap().revision, 2, "who wrote it learns its revision");
    assert!(names(&store).is_empty());
    assert_eq!(watches.next(STREAM, &store), None);
    let future = PbRangeRequest { key: b"/a".to_vec(), revision: 2, ..PbRangeRequest::default() };
    assert_eq!(store.range(&future), Err(Refusal::FutureRevision));

    publish(&mut store);
    assert_eq!(names(&store), ["/a"]);
    assert_eq!(revisions(&watches.next(STREAM, &store).unwrap()), [2]);
}

#[test]
fn writes_stand_on_those_before_though_nobody_sees_them_yet() {
    let mut store = Store::new();
    store.put(&put("/a", "1")).unwrap();
    let (_, first) = store.take_unsaved();
    let again = store.put(&PbPutRequest { prev_kv: true, ..put("/a", "2") }).unwrap();
    assert_eq!(again.prev_kv.unwrap().value, b"1");
    store.publish(first);
    assert_eq!(keys_at(&store, 0)[0].value, b"1", "only the first of both is durable");
    publish(&mut store);
    assert_eq!(
        (keys_at(&store, 0)[0].value.as_slice(), keys_at(&store, 0)[0].version),
        (&b"2"[..], 2)
    );
}

/// One random write to both stores; they answer alike.
fn write_both(stores: [&mut Store; 2], random: &mut StdRng, now: Instant) {
    let key = format!("/{}", random.random_range(0..6));
    let lease = random.random_range(0..4);
    let kind = random.random_range(0..6);
    let answers = stores.map(|store| match kind {
        0..3 => format!("{:?}", store.put(&leased(&key, lease))),
        3 => format!("{:?}", store.delete_range(&delete(&key, &[0]))),
        4 => format!("{:?}", store.lease_grant(&grant(lease, 60), now)),
        _ => format!("{:?}", store.lease_revoke(PbLeaseRevokeRequest { id: lease })),
    });
    assert_eq!(answers[0], answers[1]);
}

#[test]
fn what_is_rolled_back_never_was() {
    for seed in 0..300 {
        let mut random = StdRng::seed_from_u64(seed);
        let now = Instant::now();
        // The twin isn't told of what is rolled back.
        let (mut store, mut twin) = (Store::new(), Store::new());
        for _ in 0..20 {
            for _ in 0..random.random_range(0..6) {
                write_both([&mut store, &mut twin], &mut random, now);
            }
            publish(&mut store);
            publish(&mut twin);
            for _ in 0..random.random_range(0..6) {
                let lease = random.random_range(1..4);
                let _ = store.put(&leased(&format!("/{}", random.random_range(0..8)), lease));
                let _ = store.delete_range(&delete("/3", &[0]));
                let _ = store.lease_revoke(PbLeaseRevokeRequest { id: lease });
                let _ = store.lease_grant(&grant(lease + 2, 90), now);
                if random.random() {
                    // A group goes to the disk; the next one gathers meanwhile.
                    let _ = store.take_unsaved();
                }
            }
            store.roll_back();
            assert!(store.unsaved.keys.is_empty() && store.unsaved.leases.is_empty());
            if random.random_ratio(1, 4) {
                let revision = random.random_range(0..=store.visible());
                let request = PbCompactionRequest { revision, physical: false };
                assert_eq!(store.compact(request), twin.compact(request));
            }
            assert_same(&store, &twin, now);
        }
    }
}

fn assert_same(store: &Store, twin: &Store, now: Instant) {
    assert_eq!(store.visible(), twin.visible());
    for revision in twin.compacted.max(1)..=twin.visible() {
        assert_eq!(keys_at(store, revision), keys_at(twin, revision), "at revision {revision}");
    }
    assert_eq!(store.lease_leases(), twin.lease_leases());
    for id in 0..8 {
        let request = PbLeaseTimeToLiveRequest { id, keys: true };
        assert_eq!(store.lease_time_to_live(&request, now), twin.lease_time_to_live(&request, now));
    }
    let history = |store: &Store| {
        let mut watches = watching(store, watch_from(store.floor.max(1)));
        watches.next(STREAM, store)
    };
    assert_eq!(history(store), history(twin));
}

#[test]
fn a_lease_that_is_over_takes_its_keys_along_and_one_that_was_renewed_does_not() {
    let mut store = Store::new();
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    for id in [1, 2] {
        store.lease_grant(&grant(id, 10), start).unwrap();
        store.put(&leased(&format!("/{id}/a"), id)).unwrap();
        store.put(&leased(&format!("/{id}/b"), id)).unwrap();
    }
    store.put(&leased("/moved", 1)).unwrap();
    store.put(&put("/moved", "to no lease")).unwrap();
    publish(&mut store);
    let revision = store.visible();

    assert_eq!(store.lease_keep_alive(PbLeaseKeepAliveRequest { id: 2 }, after(9)).ttl, 10);
    assert_eq!(store.next_expiry(), Some(after(10)));
    store.expire(after(9));
    assert!(!store.is_unsettled());
    store.expire(after(10));
    publish(&mut store);
    assert_eq!(names(&store), ["/2/a", "/2/b", "/moved"]);
    assert_eq!(store.visible(), revision + 1, "all keys of a lease go at one revision");
    assert_eq!(store.lease_keep_alive(PbLeaseKeepAliveRequest { id: 1 }, after(10)).ttl, 0);
    let time = |store: &Store, id| {
        store.lease_time_to_live(&PbLeaseTimeToLiveRequest { id, keys: false }, after(10)).ttl
    };
    assert_eq!((time(&store, 1), time(&store, 2)), (-1, 9));
}

#[test]
fn a_lease_that_is_over_cannot_be_renewed_even_before_it_is_removed() {
    let mut store = Store::new();
    let start = Instant::now();
    store.lease_grant(&grant(1, 10), start).unwrap();
    let late = start + Duration::from_secs(10);
    assert_eq!(store.lease_keep_alive(PbLeaseKeepAliveRequest { id: 1 }, late).ttl, 0);
}

#[test]
fn leases_begin_anew_after_a_restart() {
    let mut store = Store::new();
    let start = Instant::now();
    store.lease_grant(&grant(1, 10), start).unwrap();
    store.put(&leased("/a", 1)).unwrap();
    publish(&mut store);
    let restart = start + Duration::from_secs(1000);
    let mut store = Store::restore(store.saved(), restart);
    assert_eq!(store.next_expiry(), Some(restart + Duration::from_secs(10)));
    store.expire(restart + Duration::from_secs(10));
    publish(&mut store);
    assert!(names(&store).is_empty());
}

#[test]
fn a_key_is_written_once_whichever_branches_are_taken() {
    use PbTxnOpRequest::{RequestDeleteRange as Delete, RequestPut as Put, RequestTxn as Txn};
    let put = |key: &str| Put(put(key, "1"));
    let outcome = |operations| Store::new().txn(&txn(operations, Vec::new())).map(|_| ());
    let twice = Err(Refusal::DuplicateKey);

    assert_eq!(outcome(vec![put("/a"), put("/a")]), twice);
    assert_eq!(outcome(vec![put("/a"), Txn(txn(vec![], vec![put("/a")]))]), twice);
    assert_eq!(
        outcome(vec![Txn(txn(vec![put("/a")], vec![])), Txn(txn(vec![], vec![put("/a")]))]),
        twice
    );
    assert_eq!(outcome(vec![put("/b"), Delete(delete("/a", b"/c"))]), twice);
    for branches in [
        txn(vec![Delete(delete("/a", b"/c"))], vec![]),
        txn(vec![], vec![Delete(delete("/a", b"/c"))]),
    ] {
        assert_eq!(outcome(vec![Txn(branches.clone()), put("/b")]), twice);
        assert_eq!(outcome(vec![Txn(branches.clone()), Txn(txn(vec![put("/b")], vec![]))]), twice);
        // etcd lets this pass, and so do we.
        assert_eq!(outcome(vec![Txn(txn(vec![put("/b")], vec![])), Txn(branches)]), Ok(()));
    }

    assert_eq!(
        outcome(vec![Txn(txn(vec![put("/a")], vec![put("/a")]))]),
        Ok(()),
        "the branches exclude each other"
    );
    assert_eq!(
        outcome(vec![put("/c"), Delete(delete("/a", b"/c"))]),
        Ok(()),
        "a range ends before its end"
    );
    assert_eq!(
        outcome(vec![put("/a"), Delete(delete("/b", b"/a"))]),
        Ok(()),
        "a range that ends before it begins"
    );
    assert_eq!(
        outcome(vec![Delete(delete("/a", b"")), Delete(delete("/a", b"/c"))]),
        Ok(()),
        "deletes may overlap"
    );
    // etcd takes a delete without end for one of nothing, and lets these pass.
    assert_eq!(outcome(vec![Delete(delete("/a", &[0])), put("/b")]), twice);
    assert_eq!(outcome(vec![Delete(delete("/c", &[0])), put("/b")]), Ok(()));
}

#[test]
fn a_watch_before_the_beginning_is_refused() {
    let store = Store::new();
    let mut watches = Watches::default();
    watches.open(STREAM);
    watches.request(STREAM, watch_from(-1), &store);
    let refused = watches.next(STREAM, &store).unwrap();
    assert!(refused.created && refused.canceled);
    assert_eq!((refused.watch_id, refused.cancel_reason), (-1, Refusal::Compacted.to_string()));
}

#[test]
fn a_revision_is_never_split_however_large_and_a_long_past_comes_in_parts() {
    let mut store = Store::new();
    let large = "x".repeat(700_000);
    for _ in 0..3 {
        let puts = ["/a", "/b", "/c"].map(|key| PbTxnOpRequest::RequestPut(put(key, &large)));
        store.txn(&txn(puts.to_vec(), Vec::new())).unwrap();
    }
    for _ in 0..2500 {
        store.put(&put("/small", "x")).unwrap();
    }
    publish(&mut store);

    let mut watches = watching(&store, watch_from(1));
    let mut seen = Vec::new();
    while let Some(response) = watches.next(STREAM, &store) {
        let revisions = revisions(&response);
        assert_eq!(
            Some(&told(&response)),
            revisions.last(),
            "the header isn't ahead of the events"
        );
        assert!(revisions.len() <= 1000);
        seen.push(revisions);
    }
    assert_eq!(seen[..3], [[2, 2, 2], [3, 3, 3], [4, 4, 4]]);
    assert_eq!(seen[3..].concat(), (5..=2504).collect::<Vec<i64>>());
    assert!(seen.len() >= 6);
}

#[test]
fn progress_comes_after_the_events_that_it_is_about() {
    let mut store = Store::new();
    let mut watches = watching(&store, watch_from(0));
    watches.request(STREAM, progress(), &store);
    let response = watches.next(STREAM, &store).unwrap();
    assert_eq!((response.watch_id, told(&response), response.events.len()), (-1, 1, 0));

    store.put(&put("/a", "1")).unwrap();
    publish(&mut store);
    watches.request(STREAM, progress(), &store);
    store.put(&put("/a", "2")).unwrap();
    assert_eq!(revisions(&watches.next(STREAM, &store).unwrap()), [2]);
    assert_eq!(
        told(&watches.next(STREAM, &store).unwrap()),
        2,
        "what isn't published is no progress"
    );
    assert_eq!(watches.next(STREAM, &store), None);
}

#[test]
fn a_watcher_from_the_future_has_no_progress_until_it_begins() {
    let mut store = Store::new();
    let mut watches = watching(&store, watch_from(3));
    watches.request(STREAM, progress(), &store);
    assert_eq!(watches.next(STREAM, &store), None);
    store.put(&put("/a", "1")).unwrap();
    publish(&mut store);
    assert_eq!(told(&watches.next(STREAM, &store).unwrap()), 2);
    store.put(&put("/a", "2")).unwrap();
    publish(&mut store);
    assert_eq!(revisions(&watches.next(STREAM, &store).unwrap()), [3]);
}

#[test]
fn an_idle_watcher_that_asked_for_it_is_told_how_far_it_is() {
    let mut store = Store::new();
    let mut watches = watching(&store, notified());
    watches.request(STREAM, watch_from(0), &store);
    assert!(watches.next(STREAM, &store).unwrap().created);

    watches.notify();
    let response = watches.next(STREAM, &store).unwrap();
    assert_eq!((response.watch_id, told(&response)), (0, 1));
    assert_eq!(watches.next(STREAM, &store), None, "the other one didn't ask");

    store.put(&put("/a", "1")).unwrap();
    publish(&mut store);
    while watches.next(STREAM, &store).is_some() {}
    watches.notify();
    assert_eq!(watches.next(STREAM, &store), None, "it just got events");
    watches.notify();
    assert_eq!(told(&watches.next(STREAM, &store).unwrap()), 2);
}

#[test]
fn a_watcher_that_is_too_slow_for_the_bounded_history_is_canceled_and_the_others_are_not() {
    let mut store = Store::new();
    let (mut slow, mut quick) = (watching(&store, watch_from(0)), watching(&store, watch_from(0)));
    let bound = 100_000;
    for _ in 0..1000 {
        store.put(&put("/a", &"x".repeat(1000))).unwrap();
        publish(&mut store);
        store.bound_history(bound);
        assert!(store.bytes() <= bound, "{} bytes", store.bytes());
        assert_eq!(revisions(&quick.next(STREAM, &store).unwrap()), [store.visible()]);
    }
    let canceled = slow.next(STREAM, &store).unwrap();
    assert!(canceled.canceled && canceled.compact_revision > 900, "{canceled:?}");
    assert_eq!(slow.next(STREAM, &store), None);

    let mut again = watching(&store, watch_from(canceled.compact_revision));
    let first = again.next(STREAM, &store).unwrap();
    assert_eq!(revisions(&first)[0], canceled.compact_revision);
}

#[test]
fn the_hash_tells_contents_apart_and_survives_a_restart() {
    let mut store = Store::new();
    let hash = |store: &Store, revision| {
        store.hash(PbHashKvRequest { revision }).map(|response| response.hash)
    };
    store.put(&put("/a", "1")).unwrap();
    store.put(&put("/a", "2")).unwrap();
    publish(&mut store);
    assert_ne!(hash(&store, 2), hash(&store, 3));
    assert_eq!(hash(&store, 0), hash(&store, 3));
    assert_eq!(hash(&store, 4), Err(Refusal::FutureRevision));
    let restored = Store::restore(store.saved(), Instant::now());
    assert_eq!(hash(&restored, 0), hash(&store, 0));
    assert_eq!(hash(&restored, 2), Err(Refusal::Compacted));
}
