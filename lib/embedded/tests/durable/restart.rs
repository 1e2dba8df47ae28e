//! Restarts, and starts that fail.

use std::path::Path;
use std::time::Duration;

use embedded::{Config, Error, Server};
use etcd_client::{
    Client, CompactionOptions, GetOptions, LeaseGrantOptions, LeaseTimeToLiveOptions, PutOptions,
    WatchOptions,
};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(30);

fn config(folder: &Path) -> Config {
    Config { data_dir: Some(folder.to_owned()), ..Config::default() }
}

async fn start(folder: &Path) -> (Server, Client) {
    let server = Server::start(config(folder)).await.expect("the store starts");
    let client =
        Client::connect([server.addr().to_string()], None).await.expect("it takes connections");
    (server, client)
}

#[tokio::test]
async fn a_restart_keeps_everything_but_history() {
    let folder = tempfile::tempdir().expect("a folder");
    let (server, mut client) = start(folder.path()).await;
    client.lease_grant(300, Some(LeaseGrantOptions::new().with_id(5))).await.expect("granted");
    client.put("/a", "1", None).await.expect("put");
    client.put("/a", "2", None).await.expect("put");
    client.put("/leased", "x", Some(PutOptions::new().with_lease(5))).await.expect("put");
    client.put("/gone", "x", None).await.expect("put");
    client.delete("/gone", None).await.expect("deleted");
    let all = || Some(GetOptions::new().with_all_keys());
    let before = client.get("", all()).await.expect("read");
    server.shutdown().await.expect("the store stops");

    let (server, mut client) = start(folder.path()).await;
    let after = client.get("", all()).await.expect("read");
    assert_eq!(after.0, before.0, "keys, revisions, and who answers");
    let revision = after.header().expect("a header").revision();
    let lease = client
        .lease_time_to_live(5, Some(LeaseTimeToLiveOptions::new().with_keys()))
        .await
        .expect("asked");
    assert_eq!((lease.granted_ttl(), lease.keys()), (300, &[b"/leased".to_vec()][..]));

    // The past is compacted …
    let past = client
        .get("/a", Some(GetOptions::new().with_revision(revision - 1)))
        .await
        .expect_err("it is gone");
    assert!(past.to_string().contains("required revision has been compacted"), "{past}");
    let again = client
        .compact(revision, None::<CompactionOptions>)
        .await
        .expect_err("it is compacted already");
    assert!(again.to_string().contains("required revision has been compacted"), "{again}");
    let watch = |from| Some(WatchOptions::new().with_prefix().with_start_revision(from));
    let mut late = client.watch("/", watch(revision)).await.expect("watched");
    let told =
        timeout(PATIENCE, late.message()).await.expect("in time").expect("told").expect("open");
    let canceled = if told.canceled() {
        told
    } else {
        timeout(PATIENCE, late.message()).await.expect("in time").expect("told").expect("open")
    };
    assert!(
        canceled.canceled() && canceled.compact_revision() == revision + 1,
        "list again, then watch from there"
    );

    // … and who had seen all of it goes on.
    let mut next = client.watch("/", watch(revision + 1)).await.expect("watched");
    client.put("/a", "3", None).await.expect("put");
    let event = loop {
        let told =
            timeout(PATIENCE, next.message()).await.expect("in time").expect("told").expect("open");
        if let Some(event) = told.events().first() {
            break event.clone();
        }
    };
    let kv = event.kv().expect("a key");
    assert_eq!((kv.key(), kv.version(), kv.mod_revision()), (&b"/a"[..], 3, revision + 1));
    server.shutdown().await.expect("the store stops");
}

#[tokio::test]
async fn a_folder_has_one_store_at_a_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let (server, _) = start(folder.path()).await;
    let error = Server::start(config(folder.path())).await.expect_err("it is in use");
    assert_eq!(
        error.to_string(),
        format!(
            "the data folder {} is in use by process {}; stop that one, or choose another folder",
            folder.path().display(),
            std::process::id()
        )
    );
    server.shutdown().await.expect("the store stops");
    start(folder.path()).await;
}

#[tokio::test]
async fn a_damaged_file_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let (server, mut client) = start(folder.path()).await;
    for n in 0..200 {
        client.put(format!("/{n}"), "value".repeat(100), None).await.expect("put");
    }
    server.shutdown().await.expect("the store stops");
    let file = folder.path().join("store.redb");
    let good = std::fs::read(&file).expect("the file");

    let mut flipped = good.clone();
    let place = good.windows(10).rposition(|bytes| bytes == b"valuevalue").expect("a value");
    flipped[place] ^= 1;
    let halved = good[..good.len() / 2].to_vec();
    let foreign = b"something else\n".repeat(1000);
    for (what, damaged) in [("flipped", flipped), ("halved", halved), ("foreign", foreign)] {
        std::fs::write(&file, damaged).expect("written");
        let error = Server::start(config(folder.path())).await.expect_err(what);
        let text = error.to_string();
        assert!(matches!(error, Error::Corrupt { .. }), "{what}: {text}");
        assert!(
            text.starts_with(&format!("{} is damaged or not a store's file: ", file.display())),
            "{text}"
        );
        assert!(text.ends_with("; put a copy back, or move it away to begin empty"), "{text}");
    }
    std::fs::write(&file, good).expect("written");
    start(folder.path()).await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let below = folder.path().join("file/data");
    std::fs::write(folder.path().join("file"), "").expect("written");
    let error = Server::start(config(&below)).await.expect_err("no folder").to_string();
    let start = format!("can't use the data folder {}: ", below.display());
    assert!(
        error.starts_with(&start) && error.ends_with("; choose a folder that you may write to"),
        "{error}"
    );
}

#[tokio::test]
async fn a_busy_port_is_named() {
    let (server, _) = start(tempfile::tempdir().expect("a folder").path()).await;
    let error = Server::start(Config { listen: server.addr(), ..Config::default() })
        .await
        .expect_err("busy");
    assert_eq!(
        error.to_string(),
        format!(
            "can't listen on {}: the port is in use; stop the program that has it, or choose another port (0 takes a free one)",
            server.addr()
        )
    );
}
