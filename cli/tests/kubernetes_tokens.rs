//! Agents that show who they are by the token of their pod's service account.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use client::{Connection, StreamError, Tls};
use common::until;
use identity::{Authority, Files, Identity, ServerCheck, Validity};
use proto::v1::{AgentHello, View};
use support::{RealKubernetes, assert_bad_input};
use sync::{ClientSession, Event};

const PODS: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: net}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: agent, namespace: net}
---
apiVersion: v1
kind: Node
metadata: {name: node-1}
---
apiVersion: v1
kind: Pod
metadata: {name: agent-1, namespace: net}
spec: {nodeName: node-1, serviceAccountName: agent, containers: [{name: c, image: i}]}
";

struct World {
    kubernetes: RealKubernetes,
    typha: typha::Typha,
    folder: tempfile::TempDir,
    ca: PathBuf,
}

async fn world() -> Option<World> {
    let kubernetes = RealKubernetes::own(&[])?;
    kubernetes.apply(PODS);
    let folder = tempfile::tempdir().unwrap();
    let day = Validity::days(std::time::SystemTime::now(), 1);
    let made = Authority::create(day).unwrap();
    let authority = Authority::load(&made.certificate, &made.key).unwrap();
    let day = Validity::days(std::time::SystemTime::now(), 1);
    let issued = authority.issue(&Identity::Server, &["127.0.0.1".to_owned()], day).unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let ca = write("ca.crt", &made.certificate);
    let files = Files {
        certificate: write("typha.crt", &issued.certificate),
        key: write("typha.key", &issued.key),
        ca: ca.clone(),
    };
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let store = format!("kubernetes:{}", kubernetes.kubeconfig("admin").display());
    let config = typha::Config {
        store: datastore::StoreConfig::from_url(&store).unwrap(),
        pod_cidrs: false,
        record: None,
        listen: any,
        tls: Some(files),
        shared_name: None,
        plaintext: false,
        limits: typha::Limits::default(),
        max_connections: 10,
        min_connections: 400,
        alternatives: Vec::new(),
        health: any,
        metrics: any,
        status: any,
    };
    let typha = typha::Typha::start(config).await.unwrap();
    until("typha reads Kubernetes", || typha.status().in_sync).await;
    Some(World { kubernetes, typha, folder, ca })
}

impl World {
    /// A token in a file, as the kubelet would put it into the pod.
    fn token(&self, name: &str, arguments: &[&str]) -> PathBuf {
        let create = ["create", "token", "agent", "-n", "net"];
        let token = self.kubernetes.kubectl_ok(&[&create[..], arguments].concat());
        self.file(name, &token)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    async fn connect(
        &self,
        token: Option<&Path>,
        hello: AgentHello,
    ) -> Result<Connection, StreamError> {
        let tls = Tls {
            files: Files::of_authority(self.ca.clone()),
            check: ServerCheck::Typha,
            token: token.map(Path::to_owned),
        };
        Connection::open_with(&self.typha.address().to_string(), Some(&tls), hello).await
    }

    /// The words of the refusal.
    async fn refused(&self, token: Option<&Path>, hello: AgentHello) -> String {
        let error = match self.connect(token, hello).await {
            Err(error) => error,
            Ok(mut connection) => {
                connection.next(&mut ClientSession::new()).await.expect_err("refused")
            }
        };
        error.to_string().replace(&self.typha.address().to_string(), "SERVER")
    }
}

fn agent(node: &str) -> AgentHello {
    AgentHello { node: node.to_owned(), view: View::Node.into(), ..AgentHello::default() }
}

async fn until_committed(connection: &mut Connection, session: &mut ClientSession) {
    while !matches!(connection.next(session).await.unwrap(), Event::Committed(_)) {}
}

const BOUND: [&str; 6] =
    ["--audience", "bulrush-typha", "--bound-object-kind", "Pod", "--bound-object-name", "agent-1"];

#[tokio::test(flavor = "multi_thread")]
async fn a_projected_token_is_its_nodes_agent_and_nobody_else() {
    let Some(world) = world().await else { return };
    let token = world.token("token", &BOUND);
    let mut connection = world.connect(Some(&token), agent("node-1")).await.unwrap();
    until_committed(&mut connection, &mut ClientSession::new()).await;

    let refused = world.refused(Some(&token), agent("node-2")).await;
    assert_bad_input("typha: the token of another node", &refused);
    let full = AgentHello { view: View::Full.into(), ..AgentHello::default() };
    let refused = world.refused(Some(&token), full).await;
    assert_bad_input("typha: a token for the full view", &refused);
    let unbound = world.token("unbound", &["--audience", "bulrush-typha"]);
    let refused = world.refused(Some(&unbound), agent("node-1")).await;
    assert_bad_input("typha: a token of no pod", &refused);
    let mut other = BOUND;
    other[1] = "something-else";
    let other = world.token("other", &other);
    let refused = world.refused(Some(&other), agent("node-1")).await;
    assert_bad_input("typha: a token of another audience", &refused);
    let garbage = world.file("garbage", "garbage");
    let refused = world.refused(Some(&garbage), agent("node-1")).await;
    assert_bad_input("typha: a token of another audience", &refused);
    let refused = world.refused(None, agent("node-1")).await;
    assert_bad_input("typha: neither certificate nor token", &refused);
    let refused = world.refused(Some(Path::new("/no/such/token")), agent("node-1")).await;
    assert_bad_input("agent: no token file", &refused);

    // Renewed in its place, it is read at the next connect; gone with its pod, it isn't believed.
    let renewed = world
        .kubernetes
        .kubectl_ok(&[&["create", "token", "agent", "-n", "net"][..], &BOUND].concat());
    world.file("token", &renewed);
    let mut connection = world.connect(Some(&token), agent("node-1")).await.unwrap();
    until_committed(&mut connection, &mut ClientSession::new()).await;
    world.kubernetes.kubectl_ok(&[
        "delete",
        "pod",
        "-n",
        "net",
        "agent-1",
        "--grace-period=0",
        "--force",
    ]);
    // An API server believes for some seconds more what it has just believed.
    let gone = async {
        loop {
            let opened = world.connect(Some(&token), agent("node-1")).await;
            let refused = match opened {
                Ok(mut connection) => connection.next(&mut ClientSession::new()).await.err(),
                Err(error) => Some(error),
            };
            if refused.is_some_and(|error| error.to_string().contains("doesn't believe")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), gone).await.expect("the pod's token is void");
    world.typha.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_before_its_token_does_and_goes_on_with_the_renewed_one() {
    let Some(world) = world().await else { return };
    let path = world.token("token", &BOUND);
    let long = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, world.kubernetes.token_ending(&long, 10)).unwrap();
    let mut session = ClientSession::new();
    let begun = std::time::Instant::now();
    let mut connection = world.connect(Some(&path), agent("node-1")).await.unwrap();
    until_committed(&mut connection, &mut session).await;
    let end = async {
        loop {
            match connection.next(&mut session).await {
                Ok(Event::GoAway(_)) | Err(_) => return,
                Ok(_) => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), end).await.expect("it ends");
    let lived = begun.elapsed();
    assert!(lived < Duration::from_secs(10), "it was believed for {lived:?}");

    // An API server forgives a minute.
    let expired = world.kubernetes.token_ending(&long, -90);
    let expired = world.file("expired", &expired);
    let refused = world.refused(Some(&expired), agent("node-1")).await;
    assert_bad_input("typha: an expired token", &refused);
    std::fs::write(&path, long).unwrap();
    let mut connection = world.connect(Some(&path), agent("node-1")).await.unwrap();
    until_committed(&mut connection, &mut ClientSession::new()).await;
    world.typha.stop().await;
}
