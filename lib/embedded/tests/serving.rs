//! What clients notice on the wire, through the etcd-client crate.
#![allow(clippy::expect_used, reason = "a panic is a failed test with its place")]

use std::time::Duration;

use embedded::{Config, Server};
use etcd_client::{
    Client, Error, EventType, GetOptions, PutOptions, WatchOptions, WatchResponse, WatchStream,
};
use tokio::time::timeout;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const PATIENCE: Duration = Duration::from_secs(30);

async fn start(config: Config) -> (Server, Client) {
    let server = Server::start(config).await.expect("the store starts");
    let client =
        Client::connect([server.addr().to_string()], None).await.expect("it takes connections");
    (server, client)
}

async fn next(stream: &mut WatchStream) -> WatchResponse {
    timeout(PATIENCE, stream.message())
        .await
        .expect("in time")
        .expect("told")
        .expect("the stream is open")
}

fn status(error: &Error) -> (Code, &str) {
    match error {
        Error::GRpcStatus(status) => (status.code(), status.message()),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn the_keys_of_a_lease_go_when_its_time_is_over() {
    let (server, mut client) = start(Config::default()).await;
    let lease = client.lease_grant(1, None).await.expect("granted");
    assert_eq!(lease.ttl(), embedded::MIN_LEASE_SECONDS);
    let mut watch = client.watch("/a", None).await.expect("watched");
    client.put("/a", "x", Some(PutOptions::new().with_lease(lease.id()))).await.expect("put");
    let kinds = async {
        let mut kinds = Vec::new();
        while kinds.len() < 2 {
            kinds
                .extend(next(&mut watch).await.events().iter().map(etcd_client::Event::event_type));
        }
        kinds
    };
    assert_eq!(kinds.await, [EventType::Put, EventType::Delete]);
    assert!(client.leases().await.expect("listed").leases().is_empty());
    server.shutdown().await.expect("the store stops");
}

#[tokio::test]
async fn one_stream_carries_many_watches() {
    let (server, mut client) = start(Config::default()).await;
    let mut stream =
        client.watch("/a", Some(WatchOptions::new().with_watch_id(1))).await.expect("watched");
    let mut created = vec![next(&mut stream).await.watch_id()];
    for (key, id) in [("/b", 2), ("/c", 3)] {
        stream.watch(key, Some(WatchOptions::new().with_watch_id(id))).await.expect("watched");
        created.push(next(&mut stream).await.watch_id());
    }
    assert_eq!(created, [1, 2, 3]);
    stream.cancel(2).await.expect("canceled");
    let canceled = next(&mut stream).await;
    assert!(canceled.canceled() && canceled.watch_id() == 2);
    for key in ["/a", "/b", "/c"] {
        client.put(key, "x", None).await.expect("put");
    }
    assert_eq!([next(&mut stream).await.watch_id(), next(&mut stream).await.watch_id()], [1, 3]);
    server.shutdown().await.expect("the store stops");
}

#[tokio::test]
async fn a_client_that_does_not_read_its_watch_disturbs_nobody_and_is_canceled() {
    let history_bytes = 2 << 20;
    let (server, mut client) = start(Config { history_bytes, ..Config::default() }).await;
    let mut slow =
        client.watch("/", Some(WatchOptions::new().with_prefix())).await.expect("watched");
    let mut quick =
        client.watch("/", Some(WatchOptions::new().with_prefix())).await.expect("watched");
    assert!(next(&mut quick).await.created());
    for n in 0..300 {
        let key = format!("/{}", n % 10);
        let put = client.put(key, "x".repeat(100_000), None).await.expect("put");
        let revision = put.header().expect("a header").revision();
        let event = next(&mut quick).await.events()[0].clone();
        assert_eq!(event.kv().expect("a key").mod_revision(), revision);
    }
    let mut last = 1;
    let canceled = loop {
        let response = next(&mut slow).await;
        if response.canceled() {
            break response;
        }
        for event in response.events() {
            last += 1;
            assert_eq!(event.kv().expect("a key").mod_revision(), last, "no gap up to the end");
        }
    };
    assert!(canceled.compact_revision() > last + 1, "it is told from where it can go on");
    server.shutdown().await.expect("the store stops");
}

#[tokio::test]
async fn a_request_beyond_etcds_limit_is_refused_in_its_words() {
    let (server, mut client) = start(Config::default()).await;
    client
        .put("/a", "x".repeat(embedded::MAX_REQUEST_BYTES - 100), None)
        .await
        .expect("just small enough");
    let error = client
        .put("/a", "x".repeat(embedded::MAX_REQUEST_BYTES), None)
        .await
        .expect_err("too large");
    assert_eq!(status(&error), (Code::InvalidArgument, "etcdserver: request is too large"));
    server.shutdown().await.expect("the store stops");
}

#[tokio::test]
async fn a_call_that_is_not_served_is_refused_with_a_hint() {
    let (server, mut client) = start(Config::default()).await;
    let hint = "bulrush's embedded store serves KV, Watch, Lease, MemberList and Status for one machine; \
                for users, roles, snapshots or more members run a real etcd";
    let error = client.defragment().await.expect_err("not served");
    assert_eq!(status(&error), (Code::Unimplemented, format!("Defragment: {hint}").as_str()));
    let error = client.auth_enable().await.expect_err("not served");
    assert_eq!(
        status(&error),
        (Code::Unimplemented, format!("/etcdserverpb.Auth/AuthEnable: {hint}").as_str())
    );
    server.shutdown().await.expect("the store stops");
}

#[tokio::test]
async fn the_standard_health_check_says_serving() {
    let (server, _) = start(Config::default()).await;
    let channel =
        tonic::transport::Channel::from_shared(format!("http://{}", server.addr())).expect("a URL");
    let mut health = HealthClient::new(channel.connect().await.expect("it takes connections"));
    let answer = health.check(HealthCheckRequest::default()).await.expect("an answer").into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
    server.shutdown().await.expect("the store stops");
}

#[tokio::test]
async fn stopping_ends_open_streams_and_frees_the_port() {
    let folder = tempfile::tempdir().expect("a folder");
    let data_dir = Some(folder.path().to_owned());
    let (server, mut client) = start(Config { data_dir, ..Config::default() }).await;
    let listen = server.addr();
    let mut watch =
        client.watch("/", Some(WatchOptions::new().with_prefix())).await.expect("watched");
    assert!(next(&mut watch).await.created());
    let lease = client.lease_grant(60, None).await.expect("granted").id();
    let _kept = client.lease_keep_alive(lease).await.expect("kept");

    let stopped = timeout(Duration::from_secs(3), server.shutdown()).await;
    stopped.expect("well before clients are cut off").expect("the store stops");
    assert!(!matches!(timeout(PATIENCE, watch.message()).await.expect("in time"), Ok(Some(_))));
    let server =
        Server::start(Config { listen, ..Config::default() }).await.expect("the port is free");
    server.shutdown().await.expect("the store stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_compare_and_swap_has_one_winner_each_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let data_dir = Some(folder.path().to_owned());
    let (server, mut client) = start(Config { data_dir, ..Config::default() }).await;
    client.put("/counter", "0", None).await.expect("put");
    let add = |mut client: Client| async move {
        let mut added = 0;
        while added < 20 {
            let read = client.get("/counter", None).await.expect("read");
            let kv = read.kvs().first().expect("it is there");
            let next = kv.value_str().expect("text").parse::<u32>().expect("a number") + 1;
            let unchanged = etcd_client::Compare::mod_revision(
                "/counter",
                etcd_client::CompareOp::Equal,
                kv.mod_revision(),
            );
            let put = etcd_client::TxnOp::put("/counter", next.to_string(), None);
            let txn = etcd_client::Txn::new().when([unchanged]).and_then([put]);
            added += u32::from(client.txn(txn).await.expect("decided").succeeded());
        }
    };
    let tasks: Vec<_> = (0..5).map(|_| tokio::spawn(add(client.clone()))).collect();
    for task in tasks {
        task.await.expect("it ends");
    }
    let read = client.get("/counter", Some(GetOptions::new())).await.expect("read");
    assert_eq!(read.kvs()[0].value_str().expect("text"), "100");
    server.shutdown().await.expect("the store stops");
}
