//! The plainest server that could serve agents: tonic as it comes, a channel per session, every
//! message encoded for every agent anew, every session woken by every publication.
//!
//! It is kept as it was first written, so that what typha's transport gains can be measured against
//! it in the same run. It has no health, no limits and no status: it is a yardstick, not a product.

use std::{net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use bytes::Bytes;
use clap::Parser;
use datastore::{Feed, Selection, StoreConfig};
use engine::Engine;
use futures::StreamExt as _;
use proto::v1::{
    AgentMessage, ServerMessage, agent_message,
    typha_server::{Typha, TyphaServer},
};
use sync::{
    Advance, Change, DigestKey, Publisher, ServerFacts, ServerSession, Snapshot, Vector, ViewChange,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

/// Serves agents as plainly as possible.
#[derive(Parser)]
struct Args {
    /// Address of the store.
    #[arg(long)]
    store: String,
    /// Address that agents connect to, on loopback.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

type Published = watch::Receiver<Option<Arc<Snapshot>>>;

struct Service {
    facts: Arc<ServerFacts>,
    published: Published,
}

#[tonic::async_trait]
impl Typha for Service {
    type SyncStream = ReceiverStream<Result<ServerMessage, Status>>;

    async fn sync(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let mut inbound = request.into_inner();
        let first = inbound.message().await?.and_then(|first| first.message);
        let Some(agent_message::Message::Hello(hello)) = first else {
            return Err(Status::invalid_argument("the first message must be a hello"));
        };
        let session = ServerSession::new(&hello, self.facts.clone())
            .map_err(|refusal| Status::invalid_argument(refusal.to_string()))?;
        let (outbound, frames) = mpsc::channel(64);
        let (hello, published) = (self.facts.hello(), self.published.clone());
        tokio::spawn(async move {
            // Acks are read and not looked at; an agent that leaves ends the session.
            let acks = async { while let Ok(Some(_)) = inbound.message().await {} };
            tokio::select! {
                () = acks => {}
                _ = send(session, hello, published, outbound) => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(frames)))
    }
}

async fn send(
    mut session: ServerSession,
    hello: ServerMessage,
    mut published: Published,
    outbound: mpsc::Sender<Result<ServerMessage, Status>>,
) -> anyhow::Result<()> {
    outbound.send(Ok(hello)).await?;
    loop {
        let snapshot = published.borrow_and_update().clone();
        if let Some(Advance::Frames(frames)) = snapshot.map(|snapshot| session.advance(&snapshot)) {
            for frame in frames {
                outbound.send(Ok(frame.into_message())).await?;
            }
        }
        published.changed().await?;
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let store = StoreConfig::from_url(&args.store)?.connect().await?;
    let digest_key = DigestKey([0; 16]);
    let facts = Arc::new(ServerFacts {
        incarnation: "baseline".into(),
        epoch: store.epoch().await?.to_string(),
        streams: store.streams().iter().map(|stream| stream.name.to_string()).collect(),
        digest_key,
        heartbeat_seconds: 3600,
        version: env!("CARGO_PKG_VERSION").into(),
    });
    let (publish, published) = watch::channel(None);
    let listener = TcpListener::bind(args.listen).await.context("can't listen")?;
    println!("ready typha={}", listener.local_addr()?);
    let serving = Server::builder()
        .add_service(TyphaServer::new(Service { facts, published }))
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::select! {
        ended = serving => ended.context("the listener ended"),
        () = write(&store, digest_key, &publish) => anyhow::bail!("the store is no longer followed"),
    }
}

async fn write(
    store: &Arc<dyn datastore::Datastore>,
    digest_key: DigestKey,
    publish: &watch::Sender<Option<Arc<Snapshot>>>,
) {
    let mut engine = Engine::new(engine::Options { plist_id: proto::plist_id });
    let mut publisher = Publisher::new(digest_key);
    let (mut vector, mut synced) = (Vector::default(), 0);
    let mut feeds = datastore::follow(store, Selection::fan_out());
    while let Some(feed) = feeds.next().await {
        match feed {
            Feed::Changes { stream, version, updates, .. } => {
                for update in &updates {
                    engine.apply(update);
                }
                vector.advance(stream, version);
            }
            Feed::Synced { .. } => synced += 1,
            _ => continue,
        }
        if synced < store.streams().len() {
            continue;
        }
        let output = engine.flush();
        let changes = output.changes.into_iter().map(|change| Change {
            topic: change.topic,
            key: change.key,
            value: change.entry.map(|entry| Bytes::from(proto::encode(&entry))),
        });
        let views = output.views.into_iter().map(|view| ViewChange {
            node: view.node,
            add: view.add,
            drop: view.drop,
        });
        let snapshot = publisher.publish(changes, views, &vector, &vector, 0).clone();
        publish.send_replace(Some(Arc::new(snapshot)));
    }
}
