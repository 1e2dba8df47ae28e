//! kill -9 while clients write: every acknowledged write is there afterwards, and none by half.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use etcd_client::{Client, Txn, TxnOp};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::child::Store;

const WRITERS: usize = 8;
const ROUNDS: usize = 4;
/// How many acknowledged writes come before the kill.
const WRITES: usize = 400;

/// What a writer knows when its store is gone.
struct Knowledge {
    writer: usize,
    acknowledged: usize,
    attempted: usize,
}

fn keys(writer: usize) -> [String; 2] {
    [format!("/left/{writer}"), format!("/right/{writer}")]
}

/// Writes growing numbers, each to two keys at once, until the store doesn't answer.
async fn write(
    mut client: Client,
    writer: usize,
    first: usize,
    total: Arc<AtomicUsize>,
    revision: Arc<AtomicI64>,
    enough: Arc<Notify>,
) -> Knowledge {
    let mut knowledge = Knowledge { writer, acknowledged: first, attempted: first };
    loop {
        knowledge.attempted += 1;
        let puts = keys(writer).map(|key| TxnOp::put(key, knowledge.attempted.to_string(), None));
        let Ok(response) = client.txn(Txn::new().and_then(puts)).await else { return knowledge };
        knowledge.acknowledged = knowledge.attempted;
        revision.fetch_max(response.header().expect("a header").revision(), Ordering::SeqCst);
        if total.fetch_add(1, Ordering::SeqCst) + 1 == WRITES {
            enough.notify_one();
        }
    }
}

async fn number(client: &mut Client, key: &str) -> usize {
    let response = client.get(key, None).await.expect("read");
    let kv = response.kvs().first().expect("the key was written");
    kv.value_str().expect("text").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_store_has_every_acknowledged_write() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut begin = [0; WRITERS];
    for round in 0..ROUNDS {
        let store = Store::start(folder.path()).await;
        let (total, revision, enough) =
            (Arc::default(), Arc::<AtomicI64>::default(), Arc::<Notify>::default());
        let mut writers = JoinSet::new();
        for (writer, first) in begin.into_iter().enumerate() {
            let client = store.client().await;
            let (total, revision) = (Arc::clone(&total), Arc::clone(&revision));
            writers.spawn(write(client, writer, first, total, revision, Arc::clone(&enough)));
        }
        enough.notified().await;
        store.kill().await;
        let known = writers.join_all().await;

        let store = Store::start(folder.path()).await;
        let mut client = store.client().await;
        let now = client.get("/", None).await.expect("read").header().expect("a header").revision();
        assert!(
            now >= revision.load(Ordering::SeqCst),
            "round {round}: the revision doesn't go back"
        );
        for Knowledge { writer, acknowledged, attempted } in known {
            let [left, right] = keys(writer);
            let found = number(&mut client, &left).await;
            assert_eq!(
                found,
                number(&mut client, &right).await,
                "round {round}: both keys or none"
            );
            assert!(
                (acknowledged..=attempted).contains(&found),
                "round {round}, writer {writer}: {found} is there, {acknowledged} was acknowledged, {attempted} was tried"
            );
            begin[writer] = found;
        }
        store.kill().await;
    }
}
