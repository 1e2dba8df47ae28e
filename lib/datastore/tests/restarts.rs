//! What happens when a real etcd goes away, comes back, and comes back as something else.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod common;

use std::path::Path;

use datastore::{Error, Selection, StoreConfig};
use model::{Key, Kind};

use common::history::{Write, Writer};
use common::mirror::Mirror;
use common::server::Server;
use common::target::{connect, etcds};
use support::Proxy;
use support::assert_bad_input;

fn tier(name: &str) -> Key {
    Key::global(Kind::Tier, name)
}

fn put(name: &str, order: u32) -> Write {
    let path = format!("/calico/resources/v3/projectcalico.org/tiers/{name}");
    (Some(tier(name)), path, Some(order.to_string().into_bytes()))
}

fn delete(name: &str) -> Write {
    let (key, path, _) = put(name, 0);
    (key, path, None)
}

async fn raw(server: &Server) -> etcd_client::Client {
    etcd_client::Client::connect([server.url()], None).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_store_keeps_its_objects_here_and_is_followed_again_when_it_is_back() {
    for (label, binary) in etcds() {
        println!("on {label}");
        let mut server = Server::start(&binary);
        let store = connect(&server.url()).await;
        let mut writer = Writer::new(raw(&server).await);
        writer.write(vec![put("a", 1), put("b", 1)]).await;
        let mut mirror = Mirror::new(&store, Selection::fan_out());
        mirror.watching(&mut writer).await;

        server.kill();
        mirror.until_told("lost").await;
        assert_eq!(mirror.objects, writer.objects, "nothing is deleted");
        let error = store.get(&tier("a")).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }) && error.is_temporary(), "{error}");
        server.run();
        mirror.until_told("regained").await;
        let last = writer.write(vec![delete("a"), put("b", 2)]).await;
        mirror.reach(last).await;
        assert_eq!(mirror.objects, writer.objects);
        assert_eq!(mirror.told(), ["lost", "regained", "-a", "+b"], "without a list");
        assert!(store.get(&tier("b")).await.unwrap().is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_store_is_followed_again_when_it_is_back_with_its_data() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = embedded::Config {
        data_dir: Some(folder.path().to_owned()),
        ..embedded::Config::default()
    };
    let server = embedded::Server::start(config.clone()).await.unwrap();
    config.listen = server.addr();
    let url = format!("http://{}", server.addr());
    let proxy = Proxy::start(server.addr().port()).await;
    let store = connect(&proxy.url()).await;
    let client = etcd_client::Client::connect([&url], None).await.unwrap();
    let mut writer = Writer::new(client);
    writer.write(vec![put("a", 1), put("b", 1)]).await;
    let mut mirror = Mirror::new(&store, Selection::fan_out());
    mirror.watching(&mut writer).await;

    // It keeps no history, so what we haven't seen when it stops takes a list.
    proxy.close();
    mirror.until_told("lost").await;
    writer.write(vec![delete("a"), put("c", 1)]).await;
    server.shutdown().await.unwrap();
    let _server = embedded::Server::start(config).await.unwrap();
    proxy.open();
    mirror.until_told("list").await;
    assert_eq!(mirror.objects, writer.objects);
    assert_eq!(mirror.told(), ["lost", "regained", "+c", "-a", "list"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_isnt_there_at_the_start_is_named() {
    for (label, binary) in etcds() {
        println!("on {label}");
        let mut server = Server::start(&binary);
        server.kill();
        let config = StoreConfig::from_url(&server.url()).unwrap();
        let error = config.connect().await.err().expect("nobody is there");
        assert_bad_input("etcd: nobody runs there", &error.to_string());
        assert!(error.to_string().contains(&server.url()), "{error}");
        server.run();
        config.connect().await.expect("it is there");
    }
}

/// The same name and address give the same cluster id: only revision and term tell.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_lost_its_data_takes_nothing_away_until_it_has_some() {
    for (label, binary) in etcds() {
        println!("on {label}");
        let mut server = Server::start(&binary);
        let store = connect(&server.url()).await;
        let epoch = store.epoch().await.unwrap();
        let mut writer = Writer::new(raw(&server).await);
        writer.write(vec![put("a", 1), put("b", 1)]).await;
        let mut mirror = Mirror::new(&store, Selection::fan_out());
        mirror.watching(&mut writer).await;

        server.kill();
        server.lose_data();
        server.run();
        mirror.until("empty", |m| matches!(m.last_error, Some(Error::Emptied { .. }))).await;
        assert_eq!(store.epoch().await.unwrap(), epoch);
        assert_eq!(mirror.objects, writer.objects);
        let error = mirror.last_error.take().expect("an error").to_string();
        assert!(error.contains("without a single object, where 3 had been seen"), "{error}");
        mirror.told();

        let mut writer = Writer::new(raw(&server).await);
        writer.write(vec![put("b", 7)]).await;
        mirror.until_told("list").await;
        assert_eq!(mirror.objects, writer.objects);
        // The old `b` had the same version.
        assert_eq!(mirror.told(), ["regained", "reset", "+b", "-a", "-watching", "list"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_restored_from_a_backup_is_reported_and_followed_from_there() {
    for (label, binary) in etcds() {
        println!("on {label}");
        let mut server = Server::start(&binary);
        let store = connect(&server.url()).await;
        let mut writer = Writer::new(raw(&server).await);
        writer.write(vec![put("old", 1), put("changed", 1)]).await;
        server.kill();
        let backup = tempfile::tempdir().expect("a folder");
        copy(&server.data(), backup.path());
        server.run();
        writer.write(vec![put("new", 1), put("changed", 2)]).await;
        let mut mirror = Mirror::new(&store, Selection::fan_out());
        mirror.watching(&mut writer).await;

        server.kill();
        server.lose_data();
        copy(backup.path(), &server.data());
        server.run();
        mirror.until_told("reset").await;
        mirror.until_told("list").await;
        let restored: Vec<_> = mirror.objects.keys().map(|key| key.name.to_string()).collect();
        assert_eq!(restored, ["changed", "old"]);
        let told = mirror.told();
        assert!(
            told.ends_with(&["reset", "+changed", "-new", "-watching", "list"].map(str::to_owned)),
            "{told:?}"
        );
        let last = writer.write(vec![put("changed", 3)]).await;
        mirror.reach(last).await;
        assert_eq!(mirror.told(), ["+changed"]);
    }
}

/// The revision has caught up when we look again; the raft term, which restarts of the first store had raised, hasn't.
#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_history_is_noticed_though_its_revision_is_higher() {
    for (label, binary) in etcds() {
        println!("on {label}");
        let mut server = Server::start(&binary);
        let proxy = Proxy::start(server.port()).await;
        let store = connect(&proxy.url()).await;
        let mut writer = Writer::new(raw(&server).await);
        writer.write(vec![put("a", 1)]).await;
        for _ in 0..3 {
            server.kill();
            server.run();
        }
        let mut mirror = Mirror::new(&store, Selection::fan_out());
        mirror.watching(&mut writer).await;

        proxy.close();
        server.kill();
        server.lose_data();
        server.run();
        let mut writer = Writer::new(raw(&server).await);
        for order in 0..9 {
            writer.write(vec![put("b", order)]).await;
        }
        proxy.open();
        mirror.until_told("reset").await;
        mirror.until_told("list").await;
        assert_eq!(mirror.objects, writer.objects);
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
