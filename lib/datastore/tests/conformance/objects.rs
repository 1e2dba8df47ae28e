//! Objects: what is written, found, refused and left out.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_written_by_compare_and_swap() {
    on_every_store(async |running| {
        let store = running.store().await;
        let key = tier("a");
        assert_eq!(store.get(&key).await.unwrap(), None);
        let first = store.create(&key, &value(1)).await.unwrap();
        let item = store.get(&key).await.unwrap().expect("it was created");
        assert_eq!((item.version, order(&item.value)), (first, 1));

        let error = store.create(&key, &value(2)).await.unwrap_err();
        assert_eq!(conflict(error), [(key.clone(), Some((first, 1)))]);

        let second = store.update(&key, &value(2), first).await.unwrap();
        assert!(second > first);
        let error = store.update(&key, &value(3), first).await.unwrap_err();
        assert_bad_input("a write over another's", &error.to_string());
        assert_eq!(conflict(error), [(key.clone(), Some((second, 2)))]);

        let error = store.delete(&key, Some(first)).await.unwrap_err();
        assert_eq!(conflict(error), [(key.clone(), Some((second, 2)))]);
        assert!(store.delete(&key, Some(second)).await.unwrap());
        assert!(!store.delete(&key, None).await.unwrap(), "it was gone already");
        let error = store.delete(&key, Some(second)).await.unwrap_err();
        assert_eq!(conflict(error), [(key.clone(), None)]);
        let error = store.update(&key, &value(3), second).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "update conflict: Tier a doesn't exist; read again and retry"
        );

        let nowhere = Key::global(Kind::NetworkPolicy, "web");
        let error = store.create(&nowhere, &value(1)).await.unwrap_err();
        assert_bad_input("a key that the store has no place for", &error.to_string());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_writes_all_or_nothing() {
    on_every_etcd(async |running| {
        let store = running.store().await;
        let [a, b, c] = ["a", "b", "c"].map(tier);
        let at = store.create(&a, &value(1)).await.unwrap();
        let compares = [
            Compare { key: a.clone(), expected: Expected::Version(at) },
            Compare { key: b.clone(), expected: Expected::Absent },
        ];
        let writes = [
            StoreWrite::Put(b.clone(), value(2)),
            StoreWrite::Put(c.clone(), value(3)),
            StoreWrite::Delete(a.clone()),
        ];
        let version = store.txn(&compares, &writes).await.unwrap();
        let expected = [(b.clone(), (version, value(2))), (c.clone(), (version, value(3)))];
        assert_eq!(objects(&*store, Kind::Tier.into()).await, BTreeMap::from(expected.clone()));

        let compares = [
            Compare { key: a.clone(), expected: Expected::Version(at) },
            Compare { key: b.clone(), expected: Expected::Absent },
            Compare { key: c.clone(), expected: Expected::Version(version) },
        ];
        let error = store.txn(&compares, &writes).await.unwrap_err();
        assert_eq!(
            conflict(error),
            [(a, None), (b, Some((version, 2)))],
            "the keys that differ are told, and no other"
        );
        assert_eq!(objects(&*store, Kind::Tier.into()).await, BTreeMap::from(expected));

        let limit = store.capabilities().atomic_writes;
        let many = |count: usize| -> Vec<StoreWrite> {
            (0..count).map(|i| StoreWrite::Put(tier(&format!("t{i}")), value(0))).collect()
        };
        store.txn(&[], &many(limit)).await.expect("as many as the store says");
        let error = store.txn(&[], &many(limit + 1)).await.unwrap_err().to_string();
        assert!(error.contains("too many operations") && error.contains("fewer keys"), "{error}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_who_create_a_raw_key_get_the_bytes_of_the_first() {
    on_every_etcd(async |running| {
        let stores = [running.store().await, running.store().await];
        let mine = [[1; 16], [255; 16]];
        let (one, two) = tokio::join!(
            stores[0].get_or_create_raw("digest-key", &mine[0]),
            stores[1].get_or_create_raw("digest-key", &mine[1])
        );
        let (one, two) = (one.unwrap(), two.unwrap());
        assert_eq!(one, two);
        assert!(mine.iter().any(|bytes| bytes[..] == one[..]));
        let read = running.etcd().await.get("/bulrush/digest-key", None).await.unwrap();
        assert_eq!(read.kvs()[0].value(), one);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_selection_gets_its_kinds_only() {
    on_every_etcd(async |running| {
        let store = running.store().await;
        let handle = Key::global(Kind::IPAMHandle, "k8s-pod-network.0a");
        let pool = Key::global(Kind::IPPool, "pool");
        let block = Key::global(Kind::IPAMBlock, "10-0-0-0-26");
        for key in [&handle, &pool, &block] {
            store.create(key, &Stored::Json(json!({}))).await.unwrap();
        }
        let kinds = |objects: BTreeMap<Key, (u64, Stored)>| -> Vec<Kind> {
            objects.into_keys().map(|key| key.kind).collect()
        };
        let listed = async |selection| kinds(objects(&*store, selection).await);
        assert_eq!(
            listed(Selection::everything()).await,
            [Kind::IPAMBlock, Kind::IPAMHandle, Kind::IPPool]
        );
        assert_eq!(listed(Selection::fan_out()).await, [Kind::IPAMBlock, Kind::IPPool]);
        assert_eq!(listed(Kind::IPAMHandle.into()).await, [Kind::IPAMHandle]);
        let two = Selection::of([Kind::IPAMBlock, Kind::IPPool]);
        assert_eq!(listed(two).await, [Kind::IPAMBlock, Kind::IPPool]);

        let at = store.list(STREAM, two).await.unwrap().at;
        let mut watch = store.watch(STREAM, two, at);
        store.delete(&handle, None).await.unwrap();
        store.create(&tier("a"), &value(1)).await.unwrap();
        let version = store.get(&pool).await.unwrap().expect("it exists").version;
        let last = store.update(&pool, &value(1), version).await.unwrap();
        let told: Vec<Key> = events_to(&mut watch, last)
            .await
            .into_iter()
            .filter_map(|event| match event {
                WatchEvent::Changes { changes, .. } => Some(changes),
                _ => None,
            })
            .flatten()
            .map(|change| change.key)
            .collect();
        assert_eq!(told, [pool]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_isnt_json_is_an_object_and_what_isnt_known_is_counted() {
    on_every_etcd(async |running| {
        let store = running.store().await;
        let mut writer = Writer::new(running.raw().await);
        let broken =
            |name: &str, bytes: &[u8]| (Some(tier(name)), tier_path(name), Some(bytes.to_vec()));
        let unknown = |path: &str| (None, path.to_owned(), Some(b"{}".to_vec()));
        writer
            .write(vec![
                broken("cut", b"{\"kind\":"),
                broken("empty", b""),
                broken("bytes", b"\xff\x00"),
                put("good", 1),
                unknown("/calico/gadgets/x"),
                unknown("/calico/resources/v3/projectcalico.org/gadgets/x"),
                unknown("/calico/resources/v3/projectcalico.org/tiers/\u{fffd}/y"),
            ])
            .await;
        let mut mirror = Mirror::new(&store, Selection::fan_out());
        mirror.until_told("list").await;
        assert_eq!(mirror.objects, writer.objects);
        assert_eq!(mirror.objects[&tier("cut")].1, Stored::Raw(b"{\"kind\":".to_vec()));
        assert_eq!(store.health()[0].unknown_keys, 3);
        let last = writer.write(vec![broken("good", b"]"), unknown("/calico/gadgets/y")]).await;
        mirror.reach(last).await;
        assert_eq!(mirror.objects, writer.objects);
        assert_eq!(store.health()[0].unknown_keys, 4);
    })
    .await;
}
