//! `bulrush watch`: what typha would send to a node, or every object, as it changes.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::bail;
use clap::ValueEnum;
use model::view::Topic;
use client::{Connection, Tls};
use identity::ServerCheck;
use proto::v1::{AgentHello, View};
use serde_json::{Value, json};
use sync::{ClientSession, Committed, Event, TopicDigest};

use crate::stale;

/// Show what typha sends: a node's view, or every object, and each change of it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Address of a typha.
    #[arg(long, default_value = "127.0.0.1:5473", value_name = "HOST:PORT")]
    server: String,
    /// A certificate with `bulrush://role/full`, PEM; `bulrush certs issue --role full` makes one.
    #[arg(long, value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Its key, PEM.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// The CAs that sign typha's certificate, PEM.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Believe a server whose certificate is valid for its address, instead of one with
    /// `bulrush://server/typha`.
    #[arg(long, requires = "ca")]
    verify_host: bool,
    /// The view of this node.
    #[arg(long, conflicts_with = "view", value_name = "NAME")]
    node: Option<String>,
    /// `full`: every object of the store, which is what is shown without --node.
    #[arg(long)]
    view: Option<ViewName>,
    /// Only objects of these kinds, separated by commas (full view only).
    #[arg(long, value_delimiter = ',', conflicts_with = "node", value_name = "KIND")]
    kinds: Vec<String>,
    /// How to print.
    #[arg(short, long, default_value = "table")]
    output: Output,
    /// Print each changed topic's digest after a commit (JSON only).
    #[arg(long)]
    digests: bool,
    /// End after the first commit, which is complete.
    #[arg(long)]
    once: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum ViewName {
    Full,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Output {
    Json,
    Table,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        runtime::block_on(self.watch())
    }

    async fn watch(self) -> anyhow::Result<ExitCode> {
        let view = if self.node.is_some() { View::Node } else { View::Full };
        let hello = AgentHello {
            node: self.node.clone().unwrap_or_default(),
            view: view.into(),
            kinds: self.kinds.clone(),
            observer: true,
            version: env!("CARGO_PKG_VERSION").into(),
            ..AgentHello::default()
        };
        let (cert, key, ca) = (self.cert.clone(), self.key.clone(), self.ca.clone());
        let tls = Tls::given(cert, key, ca, None, ServerCheck::by_host(self.verify_host))?;
        let mut connection = Connection::open_with(&self.server, tls.as_ref(), hello).await?;
        let mut session = ClientSession::new();
        let mut streams = Vec::new();
        let mut stop = Box::pin(runtime::stop_signal());
        loop {
            let event = tokio::select! {
                event = connection.next(&mut session) => event?,
                () = &mut stop => return Ok(ExitCode::SUCCESS),
            };
            match event {
                Event::Hello(hello) => {
                    stale::warn(connection.address(), hello.stale_milliseconds);
                    streams = hello.streams;
                }
                Event::Committed(committed) => {
                    let digests: BTreeMap<_, _> = if self.digests {
                        session.digests().map(|(topic, digest)| (topic.to_string(), digest)).collect()
                    } else {
                        BTreeMap::new()
                    };
                    self.print(&committed, &streams, &digests)?;
                    if self.once {
                        return Ok(ExitCode::SUCCESS);
                    }
                }
                Event::Send(message) => connection.send(message),
                Event::GoAway(go_away) => {
                    bail!("typha at {} says: {}", connection.address(), go_away.message)
                }
                Event::Nothing | Event::Heartbeat(_) | Event::Behind(_) => {}
            }
        }
    }

    fn print(
        &self,
        committed: &Committed,
        streams: &[String],
        digests: &BTreeMap<String, TopicDigest>,
    ) -> io::Result<()> {
        let version: serde_json::Map<String, Value> = committed
            .vector
            .iter()
            .map(|(stream, version)| {
                let name = streams.get(usize::from(stream.0));
                (name.cloned().unwrap_or_else(|| stream.0.to_string()), version.into())
            })
            .collect();
        let mut out = io::BufWriter::new(io::stdout().lock());
        for change in &committed.changes {
            let op = if change.value.is_some() { "put" } else { "delete" };
            let value = change.value.as_ref().map(|bytes| shown(&change.topic, bytes));
            if self.output == Output::Json {
                let line = json!({
                    "op": op, "topic": change.topic.as_str(), "key": change.key.as_str(),
                    "value": value, "n": committed.publication, "version": version,
                });
                writeln!(out, "{line}")?;
            } else {
                let value = value.map(|value| value.to_string()).unwrap_or_default();
                writeln!(out, "{op:<6}  {:<28}  {:<32}  {value}", change.topic, change.key)?;
            }
        }
        if self.output == Output::Json {
            let mut line = json!({
                "op": "commit", "topic": "", "key": "", "value": null,
                "n": committed.publication, "version": version,
            });
            if self.digests {
                line["digests"] = digests
                    .iter()
                    .map(|(topic, digest)| {
                        let digest = json!({
                            "sum": format!("{:032x}", digest.sum), "count": digest.count,
                        });
                        (topic.clone(), digest)
                    })
                    .collect::<serde_json::Map<_, _>>()
                    .into();
            }
            writeln!(out, "{line}")?;
        } else {
            let version = Value::Object(version);
            writeln!(out, "commit  publication {} at {version}", committed.publication)?;
        }
        out.flush()
    }
}

/// An entry as JSON; one that this version can't read is shown as the error that it is.
fn shown(topic: &str, bytes: &[u8]) -> Value {
    let Ok(topic) = topic.parse::<Topic>() else {
        return json!({ "unreadable": format!("unknown topic {topic:?}") });
    };
    match proto::decode(&topic, bytes, &[]) {
        Ok(entry) => entry.to_json(),
        Err(error) => json!({ "unreadable": error.to_string() }),
    }
}
