//! A live cluster as typha sees it: the full view, once.

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use client::{Connection, Tls};
use identity::ServerCheck;
use model::{
    Key, Kind,
    view::{Entry, Topic},
};
use proto::v1::{AgentHello, View};
use serde_json::Value;
use sync::{ClientSession, Event};

use super::objects::Objects;
use crate::stale;

/// What says who reaches whom.
const KINDS: &[Kind] = &[
    Kind::EndpointSlice,
    Kind::GlobalNetworkPolicy,
    Kind::GlobalNetworkSet,
    Kind::HostEndpoint,
    Kind::KubernetesClusterNetworkPolicy,
    Kind::KubernetesNetworkPolicy,
    Kind::NetworkPolicy,
    Kind::NetworkSet,
    Kind::Profile,
    Kind::StagedGlobalNetworkPolicy,
    Kind::StagedKubernetesNetworkPolicy,
    Kind::StagedNetworkPolicy,
    Kind::Tier,
    Kind::WorkloadEndpoint,
];

/// The typha to ask, in place of manifests.
#[derive(clap::Args)]
pub(crate) struct LiveArgs {
    /// A typha whose cluster is taken, in place of manifests
    #[arg(long, value_name = "HOST:PORT", help_heading = "Live")]
    pub(crate) server: Option<String>,

    /// A certificate with `bulrush://role/full`, PEM; `bulrush certs issue --role full` makes one
    #[arg(long, value_name = "FILE", requires = "server", help_heading = "Live")]
    cert: Option<PathBuf>,

    /// Its key, PEM
    #[arg(long, value_name = "FILE", requires = "server", help_heading = "Live")]
    key: Option<PathBuf>,

    /// The CAs that sign typha's certificate, PEM
    #[arg(long, value_name = "FILE", requires = "server", help_heading = "Live")]
    ca: Option<PathBuf>,

    /// Believe a server whose certificate is valid for its address
    #[arg(long, requires = "ca", help_heading = "Live")]
    verify_host: bool,
}

impl LiveArgs {
    /// The cluster's objects, if a typha is named; else those of the manifests.
    pub(crate) fn or_read(
        &self,
        files: &[String],
        recursive: bool,
        namespace: &str,
    ) -> anyhow::Result<Objects> {
        match &self.server {
            Some(server) => runtime::block_on(self.read(server)),
            None => Objects::read(files, recursive, namespace),
        }
    }

    async fn read(&self, server: &str) -> anyhow::Result<Objects> {
        let hello = AgentHello {
            view: View::Full.into(),
            kinds: KINDS.iter().map(ToString::to_string).collect(),
            observer: true,
            version: env!("CARGO_PKG_VERSION").into(),
            ..AgentHello::default()
        };
        let (cert, key, ca) = (self.cert.clone(), self.key.clone(), self.ca.clone());
        let tls = Tls::given(cert, key, ca, None, ServerCheck::by_host(self.verify_host))?;
        let mut connection = Connection::open_with(server, tls.as_ref(), hello).await?;
        let mut session = ClientSession::new();
        loop {
            match connection.next(&mut session).await? {
                Event::Committed(committed) => {
                    let mut objects = Objects::default();
                    for change in &committed.changes {
                        let Some(bytes) = &change.value else { continue };
                        let about =
                            || format!("typha at {server}: {} {}", change.topic, change.key);
                        let (key, value) =
                            stored(&change.topic, &change.key, bytes).with_context(about)?;
                        objects.add_stored(key, value);
                    }
                    return Ok(objects);
                }
                Event::Send(message) => connection.send(message),
                Event::GoAway(go_away) => bail!("typha at {server} says: {}", go_away.message),
                Event::Hello(hello) => stale::warn(server, hello.stale_milliseconds),
                Event::Nothing | Event::Heartbeat(_) | Event::Behind(_) => {}
            }
        }
    }
}

/// An object of the full view; its key is the name, with the namespace in front.
fn stored(topic: &str, key: &str, bytes: &[u8]) -> anyhow::Result<(Key, Value)> {
    let topic: Topic = topic.parse()?;
    let Topic::Res(kind, _) = &topic else { bail!("no object") };
    let Entry::Res(json) = proto::decode(&topic, bytes, &[])? else { bail!("no object") };
    let key = match key.split_once('/') {
        Some((namespace, name)) if kind.is_namespaced() => Key::namespaced(*kind, namespace, name),
        _ => Key::global(*kind, key),
    };
    Ok((key, serde_json::from_str(&json)?))
}
