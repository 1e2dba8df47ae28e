//! Who may connect to a server, who is turned away, and in what words.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;
mod tls_support;

use std::{fs, time::Duration};

use client::{Connection, Tls};
use common::{bulrush, client, until};
use identity::{Identity, ServerCheck, Shared, SharedName, SharedSettings};
use proto::v1::{
    AgentHello, AgentMessage, Resync, View, agent_message, go_away::Reason,
    typha_client::TyphaClient,
};
use support::Proxy;
use support::assert_bad_input;
use sync::Event;
use tls_support::{Agent, Ca, World, hello, node, set_key, set_value};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use typha::Limits;

/// Limits with which a test need not wait.
fn quick() -> Limits {
    let short = Duration::from_millis(300);
    Limits { hello: short, reload: Duration::from_millis(20), ..Limits::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_gets_the_view_of_the_node_in_its_certificate() {
    let world = World::tls(Limits::default()).await;
    let mut agent = world.agent(&node("node-1")).await.unwrap();
    agent.first_commit().await;
    assert_eq!(world.typha.status().agents[0].node, "node-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_33_a_certificate_of_a_foreign_ca_is_refused_by_name() {
    let world = World::tls(Limits::default()).await;
    let foreign = Ca::new();
    let mut tls = foreign.tls(&node("node-1"));
    tls.files.ca = world.ca.tls(&node("node-1")).files.ca;
    let error = world.open(Some(&tls), hello("node-1")).await.err().unwrap();
    assert_bad_input("agent: typha refuses its certificate", &world.masked(&error));
    assert_bad_input("typha: a certificate of a foreign CA", &world.turned_away().await);
    assert_eq!(world.typha.status().agents.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_33_nothing_of_a_view_is_in_the_clear() {
    let secret = "10.99.98.97/32";
    let told = |bytes: &[u8]| {
        let has = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        has(b"node-1") || has(&[10, 99, 98, 97]) || has(secret.as_bytes())
    };
    for clear in [true, false] {
        let world = if clear {
            World::plain(Limits::default()).await
        } else {
            World::tls(Limits::default()).await
        };
        client(&world.store_url).await.put(set_key("x"), set_value(secret), None).await.unwrap();
        let proxy = Proxy::recording(world.typha.address().port()).await;
        let tls = (!clear).then(|| world.ca.tls(&Identity::Full));
        let hello = AgentHello { view: View::Full.into(), version: "node-1".into(), ..hello("") };
        let address = proxy.address().to_string();
        let connection = Connection::open_with(&address, tls.as_ref(), hello).await.unwrap();
        Agent::new(connection).first_commit().await;
        assert_eq!(told(&proxy.seen()), clear, "without TLS it shows, with TLS it doesn't");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_certificate_is_refused_with_its_date_by_both_sides() {
    let world = World::tls(Limits::default()).await;
    let expired = world.ca.expired(&node("node-1"));
    let error = world.open(Some(&expired), hello("node-1")).await.err().unwrap();
    assert_bad_input("agent: its own certificate has expired", &world.masked(&error));
    world.raw_tls(Some(&expired)).await;
    assert_bad_input("typha: an expired certificate", &world.turned_away().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_certificate_is_turned_away() {
    let world = World::tls(Limits::default()).await;
    world.raw_tls(None).await;
    assert_bad_input("typha: a client without a certificate", &world.turned_away().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_must_be_of_the_node_in_the_certificate() {
    let world = World::tls(Limits::default()).await;
    let mut agent = world.agent_saying(&node("node-1"), hello("node-2")).await.unwrap();
    let error = agent.next().await.unwrap_err();
    assert_bad_input(
        "typha: the hello names another node than the certificate",
        &world.masked(&error),
    );
    let same = world.turned_away().await;
    assert!(error.to_string().ends_with(&same), "{same}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sees_everything_needs_the_role_and_acts_for_no_node() {
    let world = World::tls(Limits::default()).await;
    let full = AgentHello { view: View::Full.into(), ..hello("") };
    let mut agent = world.agent_saying(&node("node-1"), full.clone()).await.unwrap();
    let error = agent.next().await.unwrap_err();
    assert_bad_input("typha: the full view without the role", &world.masked(&error));

    let observer = AgentHello { observer: true, ..hello("node-1") };
    let mut agent = world.agent_saying(&node("node-1"), observer.clone()).await.unwrap();
    let error = agent.next().await.unwrap_err();
    assert_bad_input("typha: an observer without the role", &world.masked(&error));

    let mut agent = world.agent_saying(&Identity::Full, hello("node-1")).await.unwrap();
    let error = agent.next().await.unwrap_err();
    assert_bad_input("typha: the role in place of a node", &world.masked(&error));

    for allowed in [full, observer] {
        let mut agent = world.agent_saying(&Identity::Full, allowed).await.unwrap();
        agent.first_commit().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_must_be_one() {
    let world = World::tls(Limits::default()).await;
    // The certificate of a node, presented by a server: it is for clients only.
    let foreign = Ca::new();
    let other = foreign.tls(&node("node-1"));
    let mut tls = world.ca.tls(&node("node-1"));
    tls.files.ca = other.files.ca.clone();
    let error = world.open(Some(&tls), hello("node-1")).await.err().unwrap();
    assert_bad_input("agent: a server of a foreign CA", &world.masked(&error));

    let impostor = World::serving(Some(world.ca.server_without_identity()), quick()).await;
    let tls = world.ca.tls(&node("node-1"));
    let error = impostor.open(Some(&tls), hello("node-1")).await.err().unwrap();
    assert_bad_input("agent: a server without the identity of one", &impostor.masked(&error));
    let by_host = Tls { check: identity::ServerCheck::Host, ..tls };
    impostor
        .open(Some(&by_host), hello("node-1"))
        .await
        .expect("its address is in the certificate");
}

/// What the settings of a migration come to.
fn shared(common_name: &str, uri: Option<&str>) -> SharedName {
    let settings = SharedSettings {
        allow: true,
        common_name: ("TYPHA_CLIENTCN", Some(common_name)),
        uri: ("TYPHA_CLIENTURISAN", uri),
    };
    let Ok(Shared::Allowed(name)) = settings.read() else { panic!("it is allowed") };
    name
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_all_agents_share_is_believed_for_any_nodes_view_where_that_is_allowed() {
    let uri = "spiffe://cluster/typha-client";
    let world = World::sharing(shared("typha-client", Some(uri))).await;
    let with = |common_name: &str, uri| Tls {
        files: world.ca.without_identity(common_name, uri),
        check: ServerCheck::Typha,
        token: None,
    };
    let both = with("typha-client", Some(uri));
    let opened = async |tls: &Tls, hello| Agent::new(world.open(Some(tls), hello).await.unwrap());
    for name in ["node-1", "node-2"] {
        opened(&both, hello(name)).await.first_commit().await;
    }

    let full = AgentHello { view: View::Full.into(), ..hello("") };
    let error = opened(&both, full).await.next().await.unwrap_err();
    assert_bad_input("typha: the full view with a shared name", &world.masked(&error));
    for half in [with("typha-client", None), with("other", Some(uri))] {
        let error = opened(&half, hello("node-1")).await.next().await.unwrap_err();
        assert_bad_input("typha: a certificate without the shared name", &world.masked(&error));
    }
    // Who says whose it is, is held to that.
    let mut own = world.agent_saying(&node("node-1"), hello("node-2")).await.unwrap();
    let error = own.next().await.unwrap_err();
    assert_bad_input(
        "typha: the hello names another node than the certificate",
        &world.masked(&error),
    );
    // Elsewhere the same certificate says nothing.
    let strict = World::tls(Limits::default()).await;
    let tls = Tls {
        files: strict.ca.without_identity("typha-client", Some(uri)),
        check: ServerCheck::Typha,
        token: None,
    };
    let connection = strict.open(Some(&tls), hello("node-1")).await.unwrap();
    let error = Agent::new(connection).next().await.unwrap_err();
    assert_bad_input("typha: a certificate without an identity", &strict.masked(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_believes_servers_by_the_name_that_they_share_where_that_is_allowed() {
    let ca = Ca::new();
    let mut tls = ca.tls(&node("node-1"));
    let server = ca.without_identity("typha-server", None);
    let world = World::serving(Some(server), quick()).await;
    tls.check = ServerCheck::Shared(shared("typha-server", None));
    world.open(Some(&tls), hello("node-1")).await.expect("it has the name");
    tls.check = ServerCheck::Shared(shared("another", None));
    let error = world.open(Some(&tls), hello("node-1")).await.err().unwrap();
    assert_bad_input("agent: a server without the shared name", &world.masked(&error));
}

#[test]
fn a_shared_name_counts_for_nothing_without_the_flag_and_the_flag_needs_a_name() {
    let typha = ["run", "typha", "--allow-shared-identity"];
    let output = bulrush().args(typha).output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_bad_input("typha: a shared identity without a name", error.lines().last().unwrap());
    let settings = SharedSettings {
        allow: false,
        common_name: ("TYPHA_CLIENTCN", Some("typha-client")),
        uri: ("TYPHA_CLIENTURISAN", Some("")),
    };
    let Ok(Shared::Ignored(why)) = settings.read() else { panic!("it is ignored") };
    assert_bad_input("typha: a shared name without the flag", &why);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_and_without_tls_are_told_apart() {
    let world = World::tls(quick()).await;
    let error = world.open(None, hello("node-1")).await.err().unwrap();
    assert_bad_input("agent: in the clear to a server with TLS", &world.masked(&error));
    assert_bad_input("typha: an agent in the clear", &world.turned_away().await);

    let plain = World::plain(quick()).await;
    let tls = world.ca.tls(&node("node-1"));
    let error = plain.open(Some(&tls), hello("node-1")).await.err().unwrap();
    assert_bad_input("agent: TLS to a server without", &plain.masked(&error));
    assert_bad_input(
        "typha: an agent with TLS, and the server without",
        &plain.turned_away().await,
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_port_is_turned_away_and_nobody_else_is_disturbed() {
    for (world, case) in [
        (World::plain(quick()).await, "typha: garbage on the port"),
        (World::tls(quick()).await, "typha: garbage on the port with TLS"),
    ] {
        let mut agent = world.agent(&node("node-1")).await.unwrap();
        agent.first_commit().await;
        let mut stream = TcpStream::connect(world.typha.address()).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
        assert_bad_input(case, &world.turned_away().await);
        client(&world.store_url)
            .await
            .put(set_key("x"), set_value("10.1.2.3/32"), None)
            .await
            .unwrap();
        assert_eq!(world.typha.status().agents.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_says_no_hello_is_hung_up_on() {
    for world in [World::plain(quick()).await, World::tls(quick()).await] {
        // Half open: connected, and not a byte.
        let mut stream = TcpStream::connect(world.typha.address()).await.unwrap();
        let read = stream.read_to_end(&mut Vec::new()).await;
        assert!(read.is_ok_and(|count| count == 0), "hung up on, with no word to a stranger");
        assert_bad_input("typha: no hello", &world.turned_away().await);
    }
    let world = World::plain(quick()).await;
    let url = format!("http://{}", world.typha.address());
    let mut client = TyphaClient::connect(url).await.unwrap();
    let call = client.sync(tokio_stream::pending()).await.unwrap();
    let status = call.into_inner().message().await.unwrap_err();
    assert_bad_input("typha: a stream without a hello", status.message());
    assert_bad_input("typha: no hello", &world.turned_away().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_as_soon_as_it_has_what_it_wanted_was_not_turned_away() {
    let world = World::plain(Limits::default()).await;
    for _ in 0..200 {
        world.agent(&node("node-1")).await.unwrap().first_commit().await;
    }
    assert_eq!(world.typha.status().turned_away.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hello_and_a_message_have_a_largest_size() {
    let world = World::tls(Limits::default()).await;
    let kinds = vec!["x".repeat(1024 * 1024)];
    let mut agent =
        world.agent_saying(&node("node-1"), AgentHello { kinds, ..hello("node-1") }).await.unwrap();
    let error = agent.next().await.unwrap_err();
    assert_bad_input("typha: a hello that is too large", &world.masked(&error));

    let mut agent = world.agent(&node("node-1")).await.unwrap();
    agent.first_commit().await;
    let topic = "x".repeat(4 * 1024 * 1024);
    let resync = agent_message::Message::Resync(Resync { topic });
    agent.connection.send(AgentMessage { message: Some(resync) });
    let error = agent.next().await.unwrap_err();
    assert_bad_input("typha: a message that is too large", &world.masked(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_message_must_be_a_hello() {
    let world = World::plain(quick()).await;
    let url = format!("http://{}", world.typha.address());
    let mut client = TyphaClient::connect(url).await.unwrap();
    let resync = agent_message::Message::Resync(Resync { topic: "pools".into() });
    let messages = tokio_stream::iter([AgentMessage { message: Some(resync) }]);
    let status = client.sync(messages).await.unwrap().into_inner().message().await.unwrap_err();
    assert_bad_input("typha: a first message that is no hello", status.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_cas_are_rotated_while_streams_live_on() {
    let world = World::tls(quick()).await;
    let mut old = world.agent(&node("node-1")).await.unwrap();
    old.first_commit().await;

    let newer = Ca::new();
    world.replace_server_files(&newer);
    let tls = newer.tls(&node("node-2"));
    let opened = async {
        loop {
            if let Ok(connection) = world.open(Some(&tls), hello("node-2")).await {
                return connection;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let connection =
        tokio::time::timeout(common::PATIENCE, opened).await.expect("the new CA is in use");
    Agent::new(connection).first_commit().await;
    let error = world.agent(&node("node-3")).await.err().unwrap();
    assert_bad_input("agent: a server of a foreign CA", &world.masked(&error));

    let key = "/calico/resources/v3/projectcalico.org/ippools/p";
    let pool = r#"{"metadata": {"name": "p"}, "spec": {"cidr": "10.5.0.0/16"}}"#;
    client(&world.store_url).await.put(key, pool, None).await.unwrap();
    let change = old.committed().await;
    assert!(!change.changes.is_empty(), "the stream of the old certificate goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_do_not_fit_are_named_and_what_was_read_before_stays_in_use() {
    let world = World::tls(quick()).await;
    let files = world.files.clone().unwrap();
    let good = fs::read(&files.key).unwrap();
    fs::write(&files.key, fs::read(world.ca.tls(&node("other")).files.key).unwrap()).unwrap();
    until("the problem shows", || world.typha.status().tls_problem.is_some()).await;
    let status = world.typha.status();
    assert_bad_input("typha: a renewed certificate with another key", &status.tls_problem.unwrap());
    world.agent(&node("node-1")).await.unwrap().first_commit().await;

    fs::write(&files.key, good).unwrap();
    until("it is over", || world.typha.status().tls_problem.is_none()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_has_vanished_is_noticed() {
    let ping = Duration::from_millis(100);
    let world = World::plain(Limits { ping, ping_timeout: ping, ..quick() }).await;
    let proxy = Proxy::start(world.typha.address().port()).await;
    let connection = Connection::open(&proxy.address().to_string(), hello("node-1")).await.unwrap();
    let mut agent = Agent::new(connection);
    agent.first_commit().await;
    assert_eq!(world.typha.status().agents.len(), 1);
    proxy.stall();
    until("the session is over", || world.typha.status().agents.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_tells_every_agent_and_takes_no_longer_than_they_need() {
    let world = World::tls(Limits::default()).await;
    let mut agents = Vec::new();
    for name in ["node-1", "node-2", "node-3"] {
        let mut agent = world.agent(&node(name)).await.unwrap();
        agent.first_commit().await;
        agents.push(agent);
    }
    let _stranger = TcpStream::connect(world.typha.address()).await.unwrap();
    let begin = std::time::Instant::now();
    world.typha.stop().await;
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    for mut agent in agents {
        loop {
            if let Event::GoAway(go_away) = agent.next().await.unwrap() {
                assert_eq!(go_away.why(), Reason::Draining);
                break;
            }
        }
    }
}

/// The message of a command that must fail.
fn failure(command: &mut std::process::Command) -> String {
    let output = command.env_remove("RUST_LOG").output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    text.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn typha_names_the_file_that_it_cannot_use() {
    let ca = Ca::new();
    let files = ca.tls(&Identity::Server).files;
    let other = ca.tls(&node("other")).files;
    let typha = |cert: &std::path::Path, key: &std::path::Path| {
        let mut command = bulrush();
        command.args(["run", "typha", "--port", "0", "--store", "http://127.0.0.1:1"]);
        command.arg("--cert").arg(cert).arg("--key").arg(key);
        command
    };
    let ca = ["--ca".as_ref(), files.ca.as_os_str()];
    let text = failure(typha("/nonexistent/typha.crt".as_ref(), &files.key).args(ca));
    assert_bad_input("typha: a missing certificate", &text);
    let text = failure(typha(&files.certificate, &other.key).args(ca));
    assert_bad_input("typha: the key of another certificate", &text);
    let text = failure(typha(&files.key, &files.key).args(ca));
    assert_bad_input("typha: a file without a certificate", &text);
    let text = failure(&mut typha(&files.certificate, &files.key));
    assert_bad_input("typha: certificate and key without CAs", &text);
}

#[test]
fn certs_makes_what_typha_and_agents_need_and_overwrites_nothing_of_others() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    let certs = |args: &[&str]| {
        let mut command = bulrush();
        command.arg("certs").args(args).args(["--dir", dir]);
        command
    };
    let succeeds =
        |args: &[&str]| assert!(certs(args).output().unwrap().status.success(), "{args:?}");
    assert_bad_input("certs: no CA in the folder", &failure(&mut certs(&["issue", "--node", "n"])));
    succeeds(&["init"]);
    succeeds(&["issue", "--server", "typha.example", "10.0.0.1"]);
    succeeds(&["issue", "--role", "full"]);
    succeeds(&["issue", "--node", "worker-1"]);
    succeeds(&["issue", "--node", "worker-1"]);
    for (name, says) in [
        ("typha", "bulrush://server/typha"),
        ("full", "bulrush://role/full"),
        ("worker-1", "bulrush://node/worker-1"),
    ] {
        let pem = fs::read(folder.path().join(format!("{name}.crt"))).unwrap();
        assert_eq!(identity::Certificate::read_pem(&pem).unwrap().says(), says);
        let key = fs::metadata(folder.path().join(format!("{name}.key"))).unwrap();
        assert_eq!(key.permissions().mode() & 0o777, 0o600);
    }
    assert_bad_input("certs: a second CA in the folder", &failure(&mut certs(&["init"])));
    let text = failure(&mut certs(&["issue", "--node", "full"]));
    assert_bad_input("certs: a file of that name with another identity", &text);
    let text = failure(&mut certs(&["issue", "--node", "a/b"]));
    assert_bad_input("certs: not the name of a node", &text);
    let text = failure(&mut certs(&["issue", "--server", "a b"]));
    assert_bad_input("certs: not the name of a host", &text);
}
