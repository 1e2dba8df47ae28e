//! Following a store through everything that happens to connections and histories.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_compacted_history_is_told_and_followed_by_the_difference() {
    on_every_etcd(async |running| {
        let proxy = Proxy::start(running.port).await;
        let store = connect(&proxy.url()).await;
        let mut writer = Writer::new(running.raw().await);
        writer.write(vec![put("keep", 1), put("change", 1), put("gone", 1)]).await;
        let at = store.list(STREAM, Selection::fan_out()).await.unwrap().at;
        let mut mirror = Mirror::new(&store, Selection::fan_out());
        mirror.watching(&mut writer).await;
        assert_eq!(mirror.objects, writer.objects);

        proxy.close();
        mirror.until_told("lost").await;
        writer.write(vec![delete("gone"), put("passing", 1)]).await;
        writer.write(vec![put("change", 2), delete("passing")]).await;
        let last = writer.write(vec![foreign("x")]).await;
        writer.compact(last).await;
        proxy.open();
        mirror.reach(last).await;
        assert_eq!(mirror.objects, writer.objects);
        assert_eq!(mirror.told(), ["lost", "regained", "+change", "-gone", "list"]);

        // The watch itself says from where one may still start.
        let mut watch = store.watch(STREAM, Selection::fan_out(), at);
        let mut event = watch.next().await.expect("an event").unwrap();
        if event == WatchEvent::Open {
            event = watch.next().await.expect("an event").unwrap();
        }
        assert_eq!(event, WatchEvent::Compacted { oldest: last });
        assert!(watch.next().await.is_none(), "it ends there");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_watch_that_compaction_overtakes_loses_nothing() {
    on_every_etcd(async |running| {
        let store = running.store().await;
        let mut writer = Writer::new(running.raw().await);
        let mut mirror = Mirror::new(&store, Selection::fan_out());
        mirror.watching(&mut writer).await;
        // Nobody takes from the feed while more is written than connection and server buffer.
        let mut last = 0;
        for round in 0..24 {
            let (key, path, _) = put(&format!("big{}", round % 3), round);
            let value = json!({ "round": round, "padding": "x".repeat(1 << 20) }).to_string();
            writer.write(vec![(key, path, Some(value.into_bytes()))]).await;
            last = writer.write(vec![delete("a"), put("b", round)]).await;
        }
        writer.compact(last).await;
        mirror.reach(last).await;
        assert_eq!(mirror.objects, writer.objects);
        assert!(!mirror.told().contains(&"reset".to_owned()));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_is_resumed_without_a_list() {
    on_every_store(async |running| {
        let proxy = Proxy::start(running.port).await;
        let store = running.store_at(&proxy.url()).await;
        let mut writer = Writer::new(running.raw().await);
        writer.write(vec![put("a", 1)]).await;
        let mut mirror = Mirror::new(&store, Selection::fan_out());
        mirror.watching(&mut writer).await;
        for round in 0..5 {
            writer.write(vec![put("a", round), put("x", round)]).await;
            proxy.cut();
            let last = writer.write(vec![delete("x"), put("b", round)]).await;
            mirror.reach(last).await;
            assert_eq!(mirror.objects, writer.objects);
        }
        let told = mirror.told();
        assert!(told.contains(&"lost".to_owned()) && told.contains(&"regained".to_owned()));
        assert!(!told.contains(&"list".to_owned()), "{told:?}");
        assert!(!told.iter().any(|word| word.starts_with('=')), "twice: {told:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_silently_dead_is_noticed() {
    // Half a minute each, so all at once.
    let all = common::target::etcd_targets().into_iter().map(|target| async move {
        let running = target.start().await;
        let proxy = Proxy::start(running.port).await;
        let store = connect(&proxy.url()).await;
        let mut writer = Writer::new(running.raw().await);
        let mut mirror = Mirror::new(&store, Selection::fan_out());
        mirror.watching(&mut writer).await;
        proxy.stall();
        let last = writer.write(vec![put("a", 2)]).await;
        mirror.until_told("lost").await;
        proxy.cut();
        proxy.open();
        mirror.reach(last).await;
        assert_eq!(mirror.objects, writer.objects, "{}", running.label);
    });
    futures::future::join_all(all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_takes_seconds_for_each_answer_is_followed() {
    // A while each, so all at once.
    let all = common::target::etcd_targets().into_iter().map(|target| async move {
        let running = target.start().await;
        let proxy = Proxy::start(running.port).await;
        let store = connect(&proxy.url()).await;
        let mut writer = Writer::new(running.raw().await);
        let first = writer.write(vec![put("a", 1)]).await;
        // A list takes two answers, and a watch three; all three together take longer than one may.
        proxy.delay(Duration::from_secs(4));
        let mut mirror = Mirror::new(&store, Selection::fan_out());
        mirror.reach(first).await;
        let last = writer.write(vec![put("a", 2)]).await;
        mirror.reach(last).await;
        assert_eq!(mirror.objects, writer.objects, "{}", running.label);
        assert!(!mirror.told().contains(&"lost".to_owned()), "{}", running.label);
    });
    futures::future::join_all(all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_address_is_used_when_one_fails() {
    on_every_etcd(async |running| {
        let [one, two] = [Proxy::start(running.port).await, Proxy::start(running.port).await];
        one.close();
        let urls = format!("{}, {}", one.url(), two.url());
        let store = connect(&urls).await;
        let mut writer = Writer::new(running.raw().await);
        let mut mirror = Mirror::new(&store, Selection::fan_out());
        mirror.watching(&mut writer).await;
        mirror.told();
        one.open();
        two.close();
        mirror.until_told("lost").await;
        store.create(&tier("b"), &value(1)).await.expect("a write that wasn't sent is sent again");
        mirror.until("b", |mirror| mirror.objects.contains_key(&tier("b"))).await;
        one.close();
        let error = store.get(&tier("b")).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_nobody_received_is_sent_to_the_next_address() {
    on_every_etcd(async |running| {
        let proxy = Proxy::start(running.port).await;
        let store = connect(&format!("http://127.0.0.1:1,{}", proxy.url())).await;
        let mut writer = Writer::new(running.raw().await);
        let mut mirror = Mirror::new(&store, Selection::fan_out());
        mirror.watching(&mut writer).await;
        proxy.cut();
        // The first address is next, and nobody is there.
        mirror.until_told("lost").await;
        store.create(&tier("a"), &value(1)).await.expect("it was never sent");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_store_at_the_same_address_is_reported() {
    on_every_etcd(async |running| {
        let other = common::target::Target::Embedded.start().await;
        let proxy = Proxy::start(running.port).await;
        let store = connect(&proxy.url()).await;
        let mut writer = Writer::new(running.raw().await);
        let mut mirror = Mirror::new(&store, Selection::fan_out());
        writer.write(vec![put("a", 1), put("b", 1)]).await;
        mirror.watching(&mut writer).await;
        let before = store.epoch().await.unwrap();

        let mut writer = Writer::new(other.raw().await);
        proxy.point_to(other.port);
        mirror
            .until("the empty store", |m| matches!(m.last_error, Some(Error::Emptied { .. })))
            .await;
        assert_eq!(mirror.objects.len(), 3, "an empty store takes nothing away");
        mirror.told();
        // Not what it was in the first store, by its version.
        writer.write(vec![foreign("x")]).await;
        writer.write(vec![put("b", 1), put("c", 1)]).await;
        mirror.until_told("list").await;
        assert_eq!(mirror.objects, writer.objects);
        assert_eq!(mirror.told(), ["regained", "reset", "+b", "+c", "-a", "-watching", "list"]);
        assert_ne!(store.epoch().await.unwrap(), before);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_tells_whether_a_watch_is_in_place() {
    on_every_store(async |running| {
        let proxy = Proxy::start(running.port).await;
        let store = running.store_at(&proxy.url()).await;
        let stream = usize::from(stream_of_tiers(&*store).0);
        assert_eq!(store.health()[stream].connected_since, None);
        let mut writer = Writer::new(running.raw().await);
        let mut mirror = Mirror::new(&store, Selection::fan_out());
        mirror.watching(&mut writer).await;
        let last = writer.write(vec![put("a", 2)]).await;
        mirror.reach(last).await;
        let health = store.health()[stream].clone();
        assert!(health.connected_since.is_some() && health.last_event.is_some());
        proxy.close();
        mirror.until_told("lost").await;
        assert_eq!(store.health()[stream].connected_since, None);
        assert_eq!(store.health()[stream].last_event, health.last_event);
    })
    .await;
}
