//! `bulrush get`: resources from the store, as tables, YAML or JSON.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use anyhow::{anyhow, bail};
use datastore::{Datastore, Selection};
use model::{Key, Kind};
use serde_json::Value;

use crate::{
    resource::{
        builtin, called, columns,
        manifest::{Manifest, Origin},
        print::{self, Format, Found, Tables},
        shape::Written,
        source::{Source, SourceArgs},
        stored,
    },
    store::StoreArgs,
};

/// Show resources
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    source: SourceArgs,

    /// The format: ps, wide, yaml, json, custom-columns=NAME,..., go-template=TEMPLATE or
    /// go-template-file=FILE
    #[arg(short = 'o', long, value_name = "FORMAT", default_value = "ps")]
    output: Format,

    /// Of all namespaces
    #[arg(short = 'A', short_alias = 'a', long, conflicts_with = "namespace")]
    all_namespaces: bool,

    /// Leave out what only this cluster knows of resources that are named: versions, ids, times
    #[arg(long)]
    export: bool,

    #[command(flatten)]
    store: StoreArgs,
}

/// What to look for.
enum Wanted {
    One(Key),
    /// All of a kind, in one namespace or in any.
    All(Kind, Option<String>),
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let Some(wanted) = self.wanted()? else { return Ok(ExitCode::SUCCESS) };
        runtime::block_on(async {
            let store = self.store.connect().await?;
            let mut found = Vec::new();
            let mut faults = Vec::new();
            for wanted in &wanted {
                match wanted {
                    Wanted::One(key) => match one(&*store, key).await? {
                        Ok(mut object) => {
                            if self.export {
                                leave_cluster(&mut object);
                            }
                            found.push(Found::One(key.clone(), object));
                        }
                        Err(fault) => faults.push(fault),
                    },
                    Wanted::All(kind, namespace) => {
                        found.push(all(&*store, *kind, namespace.as_deref(), &mut faults).await?);
                    }
                }
            }
            let as_number = if print::needs_as_number(&self.output, &found) {
                as_number(&*store).await?
            } else {
                String::new()
            };
            let with_namespace = self.source.namespace.is_some() || self.all_namespaces;
            let tables = Tables { with_namespace, as_number: &as_number };
            if !found.is_empty() {
                let mut out = io::BufWriter::new(io::stdout().lock());
                print::print(&mut out, &self.output, &tables, found)?;
                out.flush()?;
            }
            for fault in &faults {
                eprintln!("{fault}");
            }
            Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        })
    }

    fn wanted(&self) -> anyhow::Result<Option<Vec<Wanted>>> {
        let namespace = self.source.namespace.as_deref();
        let manifests = match self.source.read()? {
            Source::Resources(manifests) => manifests,
            Source::Kind(kind) => {
                let origin = Origin::arguments();
                vec![Manifest { origin, written: Written::named(kind, ""), text: None }]
            }
            other => match other.named()? {
                Some(contents) => contents.sound()?,
                None => return Ok(None),
            },
        };
        let wanted = manifests.into_iter().map(|Manifest { mut written, .. }| {
            let kind = written.kind;
            if self.all_namespaces && !kind.is_namespaced() {
                bail!("{kind} has no namespaces; leave out -A");
            }
            written.place(namespace).map_err(|fault| anyhow!("{}: {fault}", written.called()))?;
            if written.name.is_empty() && written.key().is_err() {
                let of = (kind.is_namespaced() && !self.all_namespaces).then_some(written.namespace);
                return Ok(Wanted::All(kind, of));
            }
            if self.all_namespaces {
                bail!("-A shows all; for one by name give its namespace with -n");
            }
            Ok(Wanted::One(written.key().map_err(anyhow::Error::msg)?))
        });
        wanted.collect::<anyhow::Result<Vec<_>>>().map(Some)
    }
}

/// One object as it is shown; the inner error is the object's own, for people.
async fn one(store: &dyn Datastore, key: &Key) -> anyhow::Result<Result<Value, String>> {
    Ok(match store.get(key).await? {
        Some(item) => stored::present(key, item.value, item.version)
            .map_err(|fault| format!("{}: {fault}", called(key))),
        None if key.kind == Kind::Profile && key.name == builtin::DEFAULT_ALLOW => {
            Ok(builtin::default_allow_profile())
        }
        None => Err(format!("resource does not exist: {}", called(key))),
    })
}

/// Takes away what the object has only in this cluster.
fn leave_cluster(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        for field in ["namespace", "uid", "resourceVersion", "creationTimestamp"] {
            metadata.remove(field);
        }
    }
}

/// All objects of a kind that can be shown, in calicoctl's order.
async fn all(
    store: &dyn Datastore,
    kind: Kind,
    namespace: Option<&str>,
    faults: &mut Vec<String>,
) -> anyhow::Result<Found> {
    let mut version = 0;
    let mut objects = Vec::new();
    for stream in store.streams() {
        let listing = store.list(stream.index, Selection::from(kind)).await?;
        // Where each kind has a stream of its own, the others list nothing of it.
        if version == 0 || !listing.items.is_empty() {
            version = listing.at.version;
        }
        for item in listing.items {
            if item.key.kind != kind || namespace.is_some_and(|only| item.key.namespace != *only) {
                continue;
            }
            match stored::present(&item.key, item.value, item.version) {
                Ok(object) => objects.push((item.key, object)),
                Err(fault) => faults.push(format!("{}: {fault}", called(&item.key))),
            }
        }
    }
    if kind == Kind::Profile {
        let key = Key::global(kind, builtin::DEFAULT_ALLOW);
        objects.push((key, builtin::default_allow_profile()));
    }
    objects.sort_by_cached_key(|(key, _)| key.path());
    if kind == Kind::Tier {
        // Without an order a tier comes last. The sort is stable.
        let order = |object: &Value| object["spec"]["order"].as_f64().unwrap_or(f64::INFINITY);
        objects.sort_by(|(_, a), (_, b)| order(a).total_cmp(&order(b)));
    }
    Ok(Found::List { kind, version, objects })
}

/// The AS number of nodes that have none of their own.
async fn as_number(store: &dyn Datastore) -> anyhow::Result<String> {
    let key = Key::global(Kind::BGPConfiguration, "default");
    let configured = one(store, &key).await?.ok().map(|object| object["spec"]["asNumber"].clone());
    Ok(match configured {
        Some(Value::Null) | None => columns::DEFAULT_AS_NUMBER.to_string(),
        Some(Value::String(text)) => text,
        Some(number) => number.to_string(),
    })
}
