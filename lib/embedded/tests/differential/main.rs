//! Random operations on a real etcd and on this store: every answer is compared whole, apart from who answers and
//! how much time a lease has left.
//!
//! Both begin empty and stay in step, so one long run visits many states. A difference prints the operation, both
//! answers and the seed; `BULRUSH_SEED=<seed>` repeats a run, `BULRUSH_OPERATIONS=<n>` makes it longer.
#![allow(clippy::expect_used, reason = "a panic is a failed test with its place")]

mod client;
mod operations;
mod watches;

use embedded::{Config, Server};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::RealEtcd;

use client::Client;
use operations::{Generator, Operation};
use watches::Live;

const OPERATIONS: usize = 700;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answer_is_the_one_that_etcd_gives() {
    let binaries = support::etcd_binaries();
    if binaries.is_empty() {
        return support::skipped("etcd", "no etcd found; run .ci/servers or install etcd-server");
    }
    for (label, binary) in binaries {
        let seed = setting("BULRUSH_SEED").unwrap_or(1);
        let count = setting("BULRUSH_OPERATIONS")
            .map_or(OPERATIONS, |n| usize::try_from(n).expect("a count"));
        for durable in [false, true] {
            let etcd = RealEtcd::start(&binary);
            compare(&label, &etcd, durable, seed, count).await;
        }
    }
}

async fn compare(label: &str, etcd: &RealEtcd, durable: bool, seed: u64, count: usize) {
    let context = format!("{label}, durable {durable}, seed {seed}");
    let folder = tempfile::tempdir().expect("a folder");
    let data_dir = durable.then(|| folder.path().to_owned());
    let server =
        Server::start(Config { data_dir, ..Config::default() }).await.expect("the store starts");
    let theirs = Client::connect(etcd.endpoint()).await;
    let ours = Client::connect(&format!("http://{}", server.addr())).await;
    let mut random = StdRng::seed_from_u64(seed);
    let old = label.starts_with("etcd-3.4");
    let mut generator = Generator::new(old);
    let mut live = (Live::open(&theirs).await, Live::open(&ours).await);

    for number in 0..count {
        if random.random_ratio(1, 10) {
            let watch = generator.watch(&mut random);
            let expected = watches::replay(&ours, &watch, None).await;
            let actual = watches::replay(&theirs, &watch, Some(&expected)).await;
            assert_eq!(
                actual, expected,
                "{context}, operation {number}: etcd (left) and we (right) on {watch:?}"
            );
            continue;
        }
        let operation = generator.operation(&mut random);
        if matches!(operation, Operation::Compact(_)) {
            // What an event replaced is read when the event is sent, so a compaction must not overtake it.
            live.0.reach(generator.revision).await;
            live.1.reach(generator.revision).await;
        }
        let (mut actual, expected) = (theirs.run(&operation).await, ours.run(&operation).await);
        if old && matches!(operation, Operation::Txn(_)) && expected.is_refused() {
            // Of several reasons, it finds another one first.
            actual = if actual.is_refused() { ours.run(&operation).await } else { actual };
        }
        assert_eq!(
            actual, expected,
            "{context}, operation {number}: etcd (left) and we (right) on {operation:?}"
        );
        generator.learn(&operation, &expected);
    }

    live.0.reach(generator.revision).await;
    live.1.reach(generator.revision).await;
    assert_eq!(
        live.0.events, live.1.events,
        "{context}: what watchers of etcd (left) and of us (right) saw meanwhile"
    );
    assert!(
        generator.revision > i64::try_from(count / 5).expect("a small number"),
        "{context}: enough happened"
    );
}
