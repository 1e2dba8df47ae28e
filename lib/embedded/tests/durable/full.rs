//! A full disk: read-only with etcd's words, nothing lost, and writable again when there is space.

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_client::{AlarmAction, AlarmType, Client, GetOptions};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::child::Store;

const PATIENCE: Duration = Duration::from_secs(30);
/// Room for the empty file and some writes: 4 MiB in blocks of 512 bytes.
const BLOCKS: u32 = 8192;

async fn everything(client: &mut Client) -> BTreeMap<String, String> {
    let response =
        client.get("", Some(GetOptions::new().with_all_keys())).await.expect("reads go on");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    response.kvs().iter().map(|kv| (text(kv.key()), text(kv.value()))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_makes_the_store_read_only_and_loses_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::start_limited(folder.path(), Some(BLOCKS)).await;
    let mut client = store.client().await;
    let lease = client.lease_grant(600, None).await.expect("granted").id();

    let mut acknowledged = BTreeMap::new();
    let error = loop {
        let (key, value) = (format!("/{}", acknowledged.len()), "x".repeat(10_000));
        match client.put(key.as_str(), value.as_str(), None).await {
            Ok(_) => drop(acknowledged.insert(key, value)),
            Err(error) => break error,
        }
    };
    assert!(acknowledged.len() > 10, "some writes have room");
    let etcd_client::Error::GRpcStatus(status) = &error else { panic!("{error}") };
    assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    assert_eq!(status.message(), "etcdserver: mvcc: database space exceeded");

    // Reads, and what is in memory only, go on.
    assert_eq!(everything(&mut client).await, acknowledged);
    let (mut keeper, mut kept) = client.lease_keep_alive(lease).await.expect("kept");
    keeper.keep_alive().await.expect("kept");
    assert_eq!(kept.message().await.expect("an answer").expect("open").ttl(), 600);
    let status = client.status().await.expect("status");
    let alarm = format!("memberID:{} alarm:NOSPACE ", status.leader());
    assert_eq!(status.errors(), [alarm]);
    let alarms = client.alarm(AlarmAction::Get, AlarmType::None, None).await.expect("alarms");
    assert_eq!(alarms.alarms().len(), 1);
    let disarmed = client.alarm(AlarmAction::Deactivate, AlarmType::Nospace, None).await;
    if disarmed.is_ok() {
        // The little that an empty commit takes was still there; the next large write is refused again.
        client.put("/large", "x".repeat(1_000_000), None).await.expect_err("full");
    }

    // Somebody makes room.
    let limit = Command::new("prlimit")
        .args(["--pid", &store.pid().to_string(), "--fsize=unlimited"])
        .status()
        .await;
    assert!(limit.expect("prlimit runs").success());
    let deadline = Instant::now() + PATIENCE;
    while client.put("/again", "y", None).await.is_err() {
        assert!(Instant::now() < deadline, "it writes again when there is room");
        sleep(Duration::from_millis(50)).await;
    }
    acknowledged.insert("/again".to_owned(), "y".to_owned());
    assert!(client.status().await.expect("status").errors().is_empty());

    assert_eq!(everything(&mut client).await, acknowledged, "what was refused is nowhere");
    store.kill().await;
    let store = Store::start(folder.path()).await;
    assert_eq!(everything(&mut store.client().await).await, acknowledged);
    store.kill().await;
}
