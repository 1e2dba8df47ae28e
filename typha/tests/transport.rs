//! What agents cost a server and each other: those that are quick, slow, stuck, gone, or too many.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use ::support::assert_bad_input;
use bulrush_typha::Limits;
use bytes::Bytes;
use client::Connection;
use prost::Message as _;
use proto::v1::{
    Ack, AgentMessage, GoAway, ServerMessage, agent_message,
    go_away::Reason,
    server_message::Message,
    typha_client::TyphaClient,
    typha_server::{Typha, TyphaServer},
};
use support::{Agent, Valve, World, full, node, until};
use sync::{ClientSession, Event};
use tokio::net::{TcpListener, TcpSocket};
use tonic::{Request, Response, Status, Streaming, codec::CompressionEncoding};

/// Limits with which a test need not wait.
fn quick() -> Limits {
    let stall = Duration::from_millis(400);
    Limits { stall, first_stall: stall, behind: stall, ..Limits::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_agent_costs_a_bounded_number_of_bytes_delays_nobody_and_is_hung_up_on() {
    let mut world = World::with_sets(1000, 5000, |config| config.limits = quick()).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 * 1024).unwrap();
    let stream = socket.connect(world.typha.address()).await.unwrap();
    let (mut sender, mut connection) = h2::client::Builder::new()
        .initial_window_size(8 * 1024 * 1024)
        .initial_connection_window_size(8 * 1024 * 1024)
        .handshake::<_, Bytes>(stream)
        .await
        .unwrap();
    let request = http::Request::post("http://typha/bulrush.v1.Typha/Sync")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (_response, mut body) = sender.send_request(request, false).unwrap();
    let hello = AgentMessage { message: Some(agent_message::Message::Hello(full())) };
    let mut framed = vec![0, 0, 0, 0, hello.encoded_len() as u8];
    hello.encode(&mut framed).unwrap();
    body.send_data(framed.into(), false).unwrap();
    // It reads until it is in, and then never again.
    let typha = &world.typha;
    let entered = until("it is in", || typha.status().agents.len() == 1);
    tokio::select! { () = entered => {}, _ = &mut connection => panic!("it was hung up on") }

    let mut other = world.agent(full()).await;
    let first = other.committed().await;
    assert!(first.changes.len() >= 1000);
    let of_other = world.metric("bulrush_typha_sent_bytes_total");
    assert!(of_other > 1_500_000, "there is much to send: {of_other}");
    for round in 1..20 {
        world.write(0..1, round * 1000, 5000).await;
        other.until_set(0, round * 1000, 5000).await;
    }
    until("it is hung up on", || world.typha.status().agents.len() == 1).await;
    assert!(world.metric("bulrush_typha_stalled_total") >= 1);
    // One first sync went out, nineteen changes, and what a stuck agent may cost.
    let sent = world.metric("bulrush_typha_sent_bytes_total");
    let most = 2 * of_other - 1_000_000;
    assert!(sent < most, "{sent} bytes were sent, {of_other} of them to the other agent");
    drop(connection);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_agent_gets_all_of_its_first_sync_however_long_it_takes() {
    let world = World::with_sets(300, 5000, |config| config.limits = quick()).await;
    let valve = Valve::start(world.typha.address()).await;
    valve.set(4 * 1024);
    let begin = std::time::Instant::now();
    let mut slow = Agent::connect(valve.address, full()).await;
    let first = slow.committed().await;
    assert!(first.changes.len() >= 300);
    assert!(begin.elapsed() > quick().first_stall, "it took longer than a stuck one may");
    assert!(valve.passed() > 400_000);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_falls_behind_gets_the_newest_state_and_not_each_step_to_it() {
    let mut world = World::with_sets(1, 2000, |_| {}).await;
    let valve = Valve::start(world.typha.address()).await;
    let mut slow = Agent::connect(valve.address, full()).await;
    slow.committed().await;
    let mut quick = world.agent(full()).await;
    quick.committed().await;
    valve.set(0);
    let rounds = 300;
    for round in 1..=rounds {
        world.write(0..1, round * 1000, 2000).await;
        quick.until_set(0, round * 1000, 2000).await;
    }
    assert_eq!(world.metric("bulrush_typha_laggards"), 1);
    valve.set(usize::MAX);
    let commits = slow.until_set(0, rounds * 1000, 2000).await;
    assert!(commits < rounds / 2, "{commits} commits for {rounds} changes");
    assert_eq!(slow.session.entry_count(), quick.session.entry_count());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_never_acks_gets_its_data_and_is_seen_to_lag() {
    let mut world = World::with_sets(1, 100, |_| {}).await;
    let mut agent = world.agent(full()).await;
    agent.committed().await;
    for round in 1..10 {
        world.write(0..1, round * 1000, 100).await;
        agent.until_set(0, round * 1000, 100).await;
    }
    let status = world.typha.status();
    assert!(status.agents[0].sent > 0 && status.agents[0].acked == 0 && !status.agents[0].current);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn how_long_changes_take_to_agents_and_into_their_kernels_is_counted() {
    let mut world = World::with_sets(1, 100, |_| {}).await;
    let mut agent = world.agent(full()).await;
    let acks = |agent: &mut Agent, committed: &sync::Committed| {
        let ack = Ack { publication: committed.publication, ..Ack::default() };
        agent.connection.send(AgentMessage { message: Some(agent_message::Message::Ack(ack)) });
    };
    let first = agent.committed().await;
    acks(&mut agent, &first);
    let sent = "bulrush_typha_observed_to_sent_seconds_count";
    let acked = "bulrush_typha_sent_to_acked_seconds_count";
    until("the first is acknowledged", || world.metric(acked) == 1).await;
    assert_eq!(world.metric(sent), 0, "what a first sync brings was seen long ago");
    for round in 1..=3 {
        world.write(0..1, round * 1000, 100).await;
        let committed = agent.committed().await;
        acks(&mut agent, &committed);
        acks(&mut agent, &committed);
        until("it is acknowledged", || world.metric(acked) == 1 + round as u64).await;
        assert_eq!(world.metric(sent), round as u64);
    }
    let slow = world.metric("bulrush_typha_sent_to_acked_seconds_bucket{le=\"60\"}");
    assert_eq!(slow, 4, "none took a minute");
    let lag = |name: &str| {
        let metrics = world.typha.metrics();
        let line =
            metrics.lines().find(|line| line.starts_with(&format!("{name}{{stream=\"etcd\"}} ")));
        line.unwrap().rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    assert!(lag("bulrush_typha_stream_lag_seconds") < 30.0);
    assert!(lag("bulrush_typha_stream_stale_seconds").abs() < f64::EPSILON);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_sync_is_encoded_once_for_all_who_take_it_so() {
    let world = World::with_sets(300, 1000, |_| {}).await;
    for _ in 0..4 {
        assert!(world.agent(full()).await.committed().await.first);
    }
    let built = world.metric("bulrush_typha_replace_frames_built_total");
    assert!(built > 0);
    assert_eq!(world.metric("bulrush_typha_replace_frames_shared_total"), 3 * built);
    assert_eq!(world.metric("bulrush_typha_resumes_total{kind=\"fresh\"}"), 4);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_goes_only_to_those_who_need_it() {
    let mut world = World::new(|_| {}).await;
    let mut nodes = Vec::new();
    for name in ["a", "b", "c"] {
        let mut agent = world.agent(node(name)).await;
        agent.committed().await;
        nodes.push(agent);
    }
    let mut full = world.agent(full()).await;
    full.committed().await;
    let before = world.metric("bulrush_typha_sent_frames_total");
    world.write(0..1, 1, 100).await;
    full.committed().await;
    until("the figures are in", || world.metric("bulrush_typha_sent_frames_total") >= before + 2)
        .await;
    assert_eq!(world.metric("bulrush_typha_sent_frames_total"), before + 2, "it and a Commit");
    let publication = world.typha.status().publication;
    assert!(
        world.typha.status().agents.iter().all(|agent| agent.sent == publication),
        "who needs nothing of a publication has been brought to it"
    );
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_take_zstd_gets_the_same_as_it_is() {
    let world = World::with_sets(50, 3000, |_| {}).await;
    let mut packed = world.agent(full()).await;
    packed.committed().await;
    let sent = world.metric("bulrush_typha_sent_bytes_total");

    let url = format!("http://{}", world.typha.address());
    let mut plain = TyphaClient::connect(url).await.unwrap();
    let hello = AgentMessage { message: Some(agent_message::Message::Hello(full())) };
    let messages =
        tokio_stream::StreamExt::chain(tokio_stream::iter([hello]), tokio_stream::pending());
    let mut inbound = plain.sync(messages).await.unwrap().into_inner();
    let mut session = ClientSession::new();
    loop {
        let message = inbound.message().await.unwrap().unwrap();
        if let Event::Committed(_) = session.receive(message).unwrap() {
            break;
        }
    }
    let contents = |session: &ClientSession| {
        let entries = session.entries();
        entries.map(|(t, k, v)| (t.clone(), k.clone(), v.clone())).collect::<Vec<_>>()
    };
    assert_eq!(contents(&session), contents(&packed.session));
    let more = world.metric("bulrush_typha_sent_bytes_total") - sent;
    assert!(more > sent + sent / 5, "{more} bytes as they are, {sent} packed");
    drop(inbound);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packed_message_of_an_agent_is_refused() {
    let world = World::new(|_| {}).await;
    let url = format!("http://{}", world.typha.address());
    let client = TyphaClient::connect(url).await.unwrap();
    let mut client = client.send_compressed(CompressionEncoding::Zstd);
    let hello = AgentMessage { message: Some(agent_message::Message::Hello(full())) };
    let refused = client.sync(tokio_stream::iter([hello])).await.unwrap_err();
    assert_bad_input("typha: a packed message", refused.message());
    world.end().await;
}

/// A server that sends one message that is short packed and long unpacked.
struct Bomb;

#[tonic::async_trait]
impl Typha for Bomb {
    type SyncStream = tokio_stream::Once<Result<ServerMessage, Status>>;

    async fn sync(
        &self,
        _: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let message = GoAway { message: "x".repeat(5 << 20), ..GoAway::default() };
        let message = ServerMessage { message: Some(Message::GoAway(message)) };
        Ok(Response::new(tokio_stream::once(Ok(message))))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_unpacks_to_too_much_is_refused_by_the_agent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = TyphaServer::new(Bomb)
        .send_compressed(CompressionEncoding::Zstd)
        .max_encoding_message_size(usize::MAX);
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tokio::spawn(async move {
        tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await
    });
    let mut connection = Connection::open(&address.to_string(), full()).await.unwrap();
    let error = connection.next(&mut ClientSession::new()).await.unwrap_err();
    let text = error.to_string().replace(&address.to_string(), "SERVER");
    assert_bad_input("agent: a message that unpacks to too much", &text);
    server.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_agents_sixty_come_in_and_the_others_are_told_where_else_to_go() {
    let world = World::new(|config| {
        config.max_connections = 60;
        config.alternatives = vec!["10.0.0.2:5473".into(), "10.0.0.3:5473".into()];
    })
    .await;
    let address = world.typha.address();
    let all = (0..100).map(|n| Agent::connect(address, node(&format!("n{n}"))));
    let (mut came_in, mut sent_away) = (Vec::new(), 0);
    for mut agent in futures::future::join_all(all).await {
        loop {
            match agent.next().await.unwrap() {
                Event::Committed(_) => {
                    came_in.push(agent);
                    break;
                }
                Event::GoAway(go_away) => {
                    assert_eq!(go_away.why(), Reason::Full);
                    assert_eq!(go_away.others, ["10.0.0.2:5473", "10.0.0.3:5473"]);
                    sent_away += 1;
                    break;
                }
                _ => {}
            }
        }
    }
    assert_eq!((came_in.len(), sent_away), (60, 40));
    world.typha.stop().await;
    for agent in &mut came_in {
        let told = agent.goes_away().await;
        assert_eq!(told.why(), Reason::Draining);
        assert_eq!(told.others.len(), 2);
    }
    world.store.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_alone_wakes_an_agent_that_waits_for_it_and_time_sends_it_elsewhere() {
    let mut world = World::with_sets(1, 100, |config| {
        config.limits.behind = Duration::from_secs(20);
        config.alternatives = vec!["10.0.0.2:5473".into()];
    })
    .await;
    let tiers = proto::v1::AgentHello { kinds: vec!["Tier".into()], ..full() };
    let mut agent = world.agent(tiers.clone()).await;
    agent.committed().await;
    // Another server has seen one revision more.
    let seen = world.typha.status().streams[0].progress;
    let hello = agent.session.hello(tiers, false);
    let hello_of_later = |mut hello: proto::v1::AgentHello, more: u64| {
        hello.vector[0].version = seen + more;
        hello
    };
    let address = world.typha.address().to_string();
    let mut session = ClientSession::new();
    let mut waits = Connection::open(&address, hello_of_later(hello.clone(), 1)).await.unwrap();
    let behind = loop {
        match waits.next(&mut session).await.unwrap() {
            Event::Behind(behind) => break behind,
            Event::Committed(_) => panic!("it was served what it has seen more than"),
            _ => {}
        }
    };
    assert_eq!((behind.have, behind.need), (seen, seen + 1));
    // It asks for tiers alone, and a network set is written.
    world.write(0..1, 77, 100).await;
    loop {
        match waits.next(&mut session).await.unwrap() {
            Event::Committed(_) => break,
            Event::GoAway(go_away) => panic!("{go_away:?}"),
            _ => {}
        }
    }
    world.end().await;

    let world = World::with_sets(1, 100, |config| {
        config.limits = quick();
        config.alternatives = vec!["10.0.0.2:5473".into()];
    })
    .await;
    let epoch = world.typha.status().epoch;
    let hello = proto::v1::AgentHello { epoch, ..hello_of_later(hello, 1_000_000) };
    let address = world.typha.address().to_string();
    let mut waits = Connection::open(&address, hello).await.unwrap();
    let mut session = ClientSession::new();
    loop {
        match waits.next(&mut session).await.unwrap() {
            Event::GoAway(go_away) => {
                assert_eq!(go_away.why(), Reason::Behind);
                assert_eq!(go_away.others, ["10.0.0.2:5473"]);
                break;
            }
            Event::Committed(_) => panic!("it was served what it has seen more than"),
            _ => {}
        }
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_its_store_says_for_how_long_and_sends_on_who_has_seen_more() {
    let world = World::with_sets(1, 100, |config| {
        config.limits.behind = support::PATIENCE * 2;
        config.alternatives = vec!["10.0.0.2:5473".into()];
    })
    .await;
    let mut agent = world.agent(full()).await;
    agent.committed().await;
    let seen = world.typha.status().streams[0].progress;
    world.store.shutdown().await.unwrap();
    until("the age shows", || world.typha.status().stale_milliseconds > 0).await;
    let mut hello = agent.session.hello(full(), false);
    hello.vector[0].version = seen + 1;
    let address = world.typha.address().to_string();
    let mut connection = Connection::open(&address, hello).await.unwrap();
    let (mut session, mut said) = (ClientSession::new(), None);
    loop {
        match connection.next(&mut session).await.unwrap() {
            Event::Behind(behind) => said = Some(behind),
            Event::GoAway(go_away) => {
                assert_eq!(go_away.why(), Reason::Behind);
                assert_eq!(go_away.others, ["10.0.0.2:5473"]);
                assert!(go_away.message.contains("lost its store"), "{}", go_away.message);
                break;
            }
            Event::Committed(_) => panic!("it was served what it has seen more than"),
            _ => {}
        }
    }
    let behind = said.unwrap();
    assert_eq!((behind.have, behind.need), (seen, seen + 1));
    assert!(behind.stale_milliseconds > 0);
    world.typha.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_store_at_the_address_makes_the_server_begin_anew() {
    let mut world = World::with_sets(3, 100, |_| {}).await;
    let mut agent = world.agent(full()).await;
    agent.committed().await;
    let before = agent.hello.clone().unwrap();
    let address = world.store.addr();
    world.store.shutdown().await.unwrap();

    let config = embedded::Config { listen: address, ..embedded::Config::default() };
    world.store = embedded::Server::start(config).await.unwrap();
    world.client = etcd_client::Client::connect([format!("http://{address}")], None).await.unwrap();
    world.write(7..9, 5, 100).await;
    let told = agent.goes_away().await;
    assert_eq!(told.why(), Reason::Draining);
    let mut agent = Agent::resume(world.typha.address(), full(), agent.session).await;
    agent.committed().await;
    let keys: Vec<String> = agent.session.entries().map(|(_, key, _)| key.to_string()).collect();
    assert!(
        keys.iter().any(|key| key.contains("set-7"))
            && !keys.iter().any(|key| key.contains("set-0")),
        "{keys:?}"
    );
    let after = agent.hello.unwrap();
    assert_ne!(after.epoch, before.epoch);
    assert_ne!(after.incarnation, before.incarnation);
    assert_ne!(after.digest_key, before.digest_key);
    assert_eq!(world.typha.status().epoch, after.epoch);
    assert_eq!(world.metric("bulrush_typha_resumes_total{kind=\"other_store\"}"), 1);
    assert_eq!(agent.session.resyncs(), 0);
    world.typha.stop().await;
    world.store.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_asked_for_on_the_agents_port_without_a_hello() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    let world = World::new(|_| {}).await;
    let url = format!("http://{}", world.typha.address());
    let channel = tonic::transport::Endpoint::from_shared(url).unwrap().connect().await.unwrap();
    let mut client = HealthClient::new(channel);
    for service in ["", "bulrush.v1.Typha"] {
        let request = HealthCheckRequest { service: service.into() };
        let serving = client.check(request).await.unwrap().into_inner().status();
        assert_eq!(serving, tonic_health::pb::health_check_response::ServingStatus::Serving);
    }
    let request = HealthCheckRequest { service: "other".into() };
    assert_eq!(client.check(request).await.unwrap_err().code(), tonic::Code::NotFound);
    drop(client);
    let mut agent = world.agent(node("a")).await;
    agent.committed().await;
    assert!(world.typha.status().turned_away.is_empty());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_of_grpc_find_the_services_on_the_status_port() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let world = World::new(|_| {}).await;
    let url = format!("http://{}", world.typha.status_address());
    let channel = tonic::transport::Endpoint::from_shared(url).unwrap().connect().await.unwrap();
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answer = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .unwrap()
        .into_inner()
        .message()
        .await
        .unwrap()
        .unwrap();
    let Some(MessageResponse::ListServicesResponse(services)) = answer.message_response else {
        panic!("{answer:?}")
    };
    let names: Vec<&str> = services.service.iter().map(|service| &*service.name).collect();
    assert!(names.contains(&"bulrush.v1.Typha"), "{names:?}");
    assert!(names.contains(&"grpc.health.v1.Health"), "{names:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_is_in_its_page_with_the_words_that_a_scrape_has() {
    let world = World::new(|_| {}).await;
    let page = include_str!("../../docs/metrics.md");
    let metrics = world.typha.metrics();
    let mut lines = metrics.lines();
    while let Some(help) = lines.find_map(|line| line.strip_prefix("# HELP ")) {
        let (name, help) = help.split_once(' ').unwrap();
        let kind = lines.next().unwrap().rsplit(' ').next().unwrap();
        let row = format!("| `{name}` | {kind} | {help} |");
        assert!(page.lines().any(|line| line == row), "docs/metrics.md lacks\n{row}");
    }
    world.end().await;
}
