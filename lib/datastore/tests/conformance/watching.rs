//! Lists and watches of the store itself, against what was written.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_every_version_whole_and_in_order() {
    on_every_store(async |running| {
        let seed = rand::random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let store = running.store().await;
        let stream = stream_of_tiers(&*store);
        let mut writer = Writer::new(running.raw().await);
        writer.write(vec![put("t0", 0), put("t1", 0)]).await;
        let listing = store.list(stream, Selection::fan_out()).await.unwrap();
        let from = listing.at.version;
        let mut watch = store.watch(stream, Selection::fan_out(), listing.at.clone());
        let mut last = from;
        for round in 0..300 {
            let some = random_writes(&mut random, round);
            last = writer.write(some).await.max(last);
        }
        last = writer.write(vec![put("end", 1)]).await.max(last);
        let events = events_to(&mut watch, last).await;
        assert_eq!(events[0], WatchEvent::Open);
        assert_eq!(check(&events, &writer.versions, from), Ok(()), "seed {seed}");
        assert_eq!(objects(&*store, Selection::fan_out()).await, writer.objects, "seed {seed}");

        // One that starts in the middle tells the rest.
        let middle = *writer.versions.keys().nth(writer.versions.len() / 2).expect("versions");
        let at = datastore::Position { version: middle, ..listing.at };
        let mut watch = store.watch(stream, Selection::fan_out(), at);
        let events = events_to(&mut watch, last).await;
        assert_eq!(check(&events, &writer.versions, middle), Ok(()), "seed {seed}");
    })
    .await;
}

/// Puts and deletes of a few tiers, beside what a fan-out isn't about: handles, unknown and foreign keys.
fn random_writes(random: &mut StdRng, round: u32) -> Vec<Write> {
    let mut names: Vec<u32> =
        (0..random.random_range(0..4)).map(|_| random.random_range(0..9)).collect();
    names.sort_unstable();
    names.dedup();
    let mut writes: Vec<Write> = Vec::new();
    for name in names {
        let name = format!("t{name}");
        writes.push(match random.random_range(0..10) {
            0..3 => delete(&name),
            3 => (Some(tier(&name)), tier_path(&name), Some(b"{\"kind\": \xff".to_vec())),
            _ => put(&name, round),
        });
    }
    match random.random_range(0..4) {
        0 => writes.push(foreign("x")),
        1 => writes.push((None, "/calico/ipam/v2/handle/h".into(), Some(b"{}".to_vec()))),
        2 => writes.push((None, "/calico/felix/v1/x".into(), Some(b"{}".to_vec()))),
        _ => {}
    }
    if writes.is_empty() {
        writes.push(foreign("y"));
    }
    writes
}

#[test]
fn the_check_of_a_watch_catches_the_known_failures_of_others() {
    let written: BTreeMap<u64, Changes> = (2..=5)
        .map(|version| {
            let changes = [("a", 1), ("b", version)];
            (version, changes.map(|(name, order)| (tier(name), Some(value(order as u32)))).into())
        })
        .collect();
    let event = |version: u64| WatchEvent::Changes {
        version,
        changes: written[&version]
            .iter()
            .map(|(key, value)| Change { key: key.clone(), value: value.clone() })
            .collect(),
    };
    let right =
        vec![WatchEvent::Open, event(2), event(3), WatchEvent::Progress(3), event(4), event(5)];
    assert_eq!(check(&right, &written, 1), Ok(()));
    let with = |change: &dyn Fn(&mut Vec<WatchEvent>)| {
        let mut events = right.clone();
        change(&mut events);
        check(&events, &written, 1).unwrap_err()
    };
    assert_eq!(with(&|e| e[3] = WatchEvent::Progress(4)), "progress 4 is ahead of version 4");
    assert_eq!(with(&|e| e.insert(3, event(3))), "version 3 after 3 was complete", "twice");
    assert_eq!(with(&|e| e.insert(5, event(2))), "version 2 after 4 was complete", "back in time");
    assert_eq!(with(&|e| drop(e.remove(2))), "progress 3 is ahead of version 3", "lost");
    assert_eq!(with(&|e| drop(e.remove(4))), "version 4 is lost before 5");
    assert_eq!(with(&|e| e.swap(1, 2)), "version 2 is lost before 3", "out of order");
    let halved = |events: &mut Vec<WatchEvent>| {
        let WatchEvent::Changes { changes, .. } = &mut events[1] else { panic!() };
        changes.pop();
    };
    assert!(with(&halved).contains("isn't as written"), "split");
    let future = |events: &mut Vec<WatchEvent>| {
        let WatchEvent::Changes { version, .. } = &mut events[5] else { panic!() };
        *version = 9;
    };
    assert_eq!(with(&future), "version 5 is lost before 9", "a future version");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_store_is_listed_whole_at_one_version_while_it_changes() {
    on_every_etcd(async |running| {
        const OBJECTS: u32 = 10_000;
        let store = running.store().await;
        let mut writer = Writer::new(running.raw().await);
        let start = writer.write(vec![foreign("start")]).await;
        let big = |i: u32, order: u32| {
            let (key, path, _) = put(&format!("t{i:05}"), order);
            let value = json!({ "order": order, "padding": "x".repeat(800) });
            (key, path, Some(value.to_string().into_bytes()))
        };
        for chunk in 0..OBJECTS / 100 {
            writer.write((0..100).map(|i| big(chunk * 100 + i, 0)).collect()).await;
        }
        // The objects as they were, by version, for whatever version the list will be of.
        let mut states = BTreeMap::from([(0, writer.objects.clone())]);
        let listing = tokio::spawn({
            let store = std::sync::Arc::clone(&store);
            async move { store.list(STREAM, Selection::fan_out()).await.unwrap() }
        });
        while !listing.is_finished() {
            let three = vec![big(17, 1), delete("t09999"), big(10_001, 2)];
            states.insert(writer.write(three).await, writer.objects.clone());
        }
        let listing = listing.await.unwrap();
        let bytes = 800 * listing.items.len();
        assert!(bytes > 4 << 20, "more than a message of gRPC holds by default");
        let listed: BTreeMap<_, _> =
            listing.items.into_iter().map(|item| (item.key, (item.version, item.value))).collect();
        let (_, expected) = states.range(..=listing.at.version).next_back().expect("a state");
        assert!(listed == *expected, "the list isn't the state at {}", listing.at.version);

        // And the whole history comes in pieces that are put together again.
        let at = datastore::Position { version: start, ..listing.at };
        let mut watch = store.watch(STREAM, Selection::fan_out(), at);
        let last = writer.write(vec![put("end", 0)]).await;
        let events = events_to(&mut watch, last).await;
        assert_eq!(check(&events, &writer.versions, start), Ok(()));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_compaction_overtakes_is_never_half() {
    on_every_etcd(async |running| {
        let store = running.store().await;
        let mut writer = Writer::new(running.raw().await);
        for chunk in 0..60 {
            writer
                .write((0..100).map(|i| put(&format!("t{}", chunk * 100 + i), i)).collect())
                .await;
        }
        let listing = tokio::spawn({
            let store = std::sync::Arc::clone(&store);
            async move { store.list(STREAM, Selection::fan_out()).await }
        });
        let mut states = BTreeMap::from([(0, writer.objects.clone())]);
        while !listing.is_finished() {
            let last = writer.write(vec![put("t1", 7)]).await;
            states.insert(last, writer.objects.clone());
            writer.compact(last).await;
        }
        match listing.await.unwrap() {
            Ok(listing) => {
                let at = listing.at.version;
                let items = listing.items.into_iter();
                let listed = items.map(|item| (item.key, (item.version, item.value))).collect();
                assert!(states.range(..=at).next_back().is_some_and(|(_, state)| *state == listed));
            }
            Err(error) => assert_bad_input(
                "etcd: a list that compaction overtakes again and again",
                &error.to_string(),
            ),
        }
        assert_eq!(objects(&*store, Selection::fan_out()).await, writer.objects, "it works again");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_of_a_first_list_before_compaction_overtook_it_goes_with_it() {
    on_every_etcd(async |running| {
        let store = running.store().await;
        let mut writer = Writer::new(running.raw().await);
        // Six pages and more.
        let all: Vec<String> = (0..3000).map(|i| format!("t{i}")).collect();
        for names in all.chunks(100) {
            let big = |name: &String| {
                let (key, path, _) = put(name, 1);
                let value = json!({ "spec": {}, "padding": "x".repeat(4096) });
                (key, path, Some(value.to_string().into_bytes()))
            };
            writer.write(names.iter().map(big).collect()).await;
        }
        // The list goes on only while somebody takes from the feed; two or three more pages may be on their way.
        let mut mirror = Mirror::new(&store, Selection::fan_out());
        mirror.until("the first page", |mirror| !mirror.objects.is_empty()).await;
        let mut last = 0;
        for names in all.chunks(100) {
            last = writer.write(names.iter().map(|name| delete(name)).collect()).await;
        }
        writer.compact(last).await;
        mirror.until_told("list").await;
        assert_eq!(mirror.objects, writer.objects);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_follows_writes_that_the_watch_isnt_about() {
    let all = common::target::etcd_targets().into_iter().map(|target| async move {
        let running: Running = target.start().await;
        let store = running.store().await;
        let mut writer = Writer::new(running.raw().await);
        let mut mirror = Mirror::new(&store, Selection::fan_out());
        mirror.watching(&mut writer).await;
        let elsewhere = writer.write(vec![foreign("x")]).await;
        if running.tells_progress {
            mirror.reach(elsewhere).await;
            let health = &store.health()[0];
            assert!(health.last_progress > health.last_event, "{}", running.label);
        } else {
            // Its notices may overtake events: they are not asked for, and P stays at the last event.
            let wait = mirror.until("progress", |mirror| mirror.progress >= elsewhere);
            let waited = tokio::time::timeout(Duration::from_secs(8), wait).await;
            assert!(waited.is_err(), "{} told progress", running.label);
        }
        // What was skipped counts too, on every store.
        let handle = (None, "/calico/ipam/v2/handle/h".to_owned(), Some(b"{}".to_vec()));
        mirror.reach(writer.write(vec![handle]).await).await;
    });
    futures::future::join_all(all).await;
}
