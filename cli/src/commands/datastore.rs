//! `bulrush datastore`: backup, restore, and the lock that migrations take.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use clap::Subcommand;
use datastore::{Datastore, Error, Selection};
use model::{Key, Kind, Stored};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    resource::{called, kinds, write},
    store::{CALICO_VERSION, StoreArgs},
};

/// What the first line of an export says of its form.
const FORM: u32 = 1;
/// How often the lock is tried again when someone else wrote in between.
const ATTEMPTS: usize = 5;

/// Back up, restore, lock and unlock the store
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Where,
}

#[derive(Subcommand)]
enum Where {
    #[command(flatten)]
    Here(Action),
    /// The same commands where calicoctl has them
    #[command(subcommand)]
    Migrate(Action),
}

#[derive(Subcommand)]
enum Action {
    /// Write every object of every kind, addresses too, to standard output: a backup
    Export(ExportArgs),
    /// Write the objects of a backup into a store
    Import(ImportArgs),
    /// Say that the data isn't ready: nothing acts on changes until it is unlocked
    Lock(LockArgs),
    /// Say that the data is ready
    Unlock(LockArgs),
}

#[derive(clap::Args)]
struct ExportArgs {
    #[command(flatten)]
    store: StoreArgs,
}

#[derive(clap::Args)]
struct ImportArgs {
    /// The backup, or - for standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    file: String,

    /// Also write over objects that are there and differ
    #[arg(long)]
    overwrite: bool,

    #[command(flatten)]
    store: StoreArgs,
}

#[derive(clap::Args)]
struct LockArgs {
    #[command(flatten)]
    store: StoreArgs,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.action {
            Where::Here(action) => runtime::block_on(action.run(false)),
            Where::Migrate(action) => runtime::block_on(action.run(true)),
        }
    }
}

impl Action {
    async fn run(self, is_migration: bool) -> anyhow::Result<ExitCode> {
        match self {
            Self::Export(args) => {
                let store = args.store.connect().await?;
                if is_migration && is_ready(&*store).await? {
                    bail!(
                        "the datastore is not locked, and what is written during a migration is \
                         lost; run bulrush datastore lock first, or take a backup with bulrush \
                         datastore export"
                    );
                }
                export(&*store, io::BufWriter::new(io::stdout().lock())).await
            }
            Self::Import(args) => {
                let store = args.store.connect().await?;
                let input: Box<dyn BufRead> = if args.file == "-" {
                    Box::new(io::stdin().lock())
                } else {
                    let file = File::open(&args.file)
                        .with_context(|| format!("{}: can't be read", args.file))?;
                    Box::new(BufReader::new(file))
                };
                import(&*store, &args.file, input, args.overwrite).await
            }
            Self::Lock(args) => {
                let store = args.store.connect().await?;
                write::initialise(&*store).await?;
                set_ready(&*store, false).await?;
                say!("Datastore locked.");
                Ok(ExitCode::SUCCESS)
            }
            Self::Unlock(args) => {
                let store = args.store.connect().await?;
                set_ready(&*store, true).await?;
                say!("Datastore unlocked.");
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

/// The first line of an export.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    bulrush_export: u32,
    calico_data: String,
    store: String,
}

/// One object of an export, as the store has it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    kind: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    namespace: String,
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<Value>,
    /// The bytes of a value that is no JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    raw: Option<Vec<u8>>,
}

/// JSON lines: a head, then one object each, in an order in which they can be written.
async fn export(store: &dyn Datastore, mut out: impl io::Write) -> anyhow::Result<ExitCode> {
    let head = Head {
        bulrush_export: FORM,
        calico_data: CALICO_VERSION.to_owned(),
        store: store.describe(),
    };
    writeln!(out, "{}", serde_json::to_string(&head)?)?;
    let kinds = if write::is_kubernetes(store) {
        Selection::of(Kind::all().filter(|kind| !OF_KUBERNETES.contains(kind)))
    } else {
        Selection::everything()
    };
    let mut items = Vec::new();
    for stream in store.streams() {
        items.extend(store.list(stream.index, kinds).await?.items);
    }
    items.sort_by(|a, b| (rank(a.key.kind), &a.key).cmp(&(rank(b.key.kind), &b.key)));
    for item in items {
        let (value, raw) = match item.value {
            Stored::Json(value) => (Some(value), None),
            Stored::Raw(bytes) => (None, Some(bytes)),
        };
        let line = Line {
            kind: item.key.kind.name().to_owned(),
            namespace: item.key.namespace.to_string(),
            name: item.key.name.to_string(),
            value,
            raw,
        };
        writeln!(out, "{}", serde_json::to_string(&line)?)?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// What an API server shows of its own objects: they are in its backup, and nobody writes them by these kinds.
const OF_KUBERNETES: &[Kind] = &[Kind::Node, Kind::Profile, Kind::WorkloadEndpoint];

/// What others refer to is written first.
fn rank(kind: Kind) -> u8 {
    match kind {
        Kind::ClusterInformation | Kind::Tier => 0,
        Kind::Node | Kind::IPPool | Kind::Profile | Kind::IPAMConfiguration => 1,
        _ => 2,
    }
}

/// Writes each object that isn't there. Those that are there and differ are named and stay, unless
/// they are to be overwritten.
async fn import(
    store: &dyn Datastore,
    file: &str,
    input: impl BufRead,
    overwrite: bool,
) -> anyhow::Result<ExitCode> {
    let mut lines = input.lines();
    let head = lines.next().transpose().with_context(|| format!("{file}: can't be read"))?;
    let head: Head = serde_json::from_str(&head.unwrap_or_default())
        .with_context(|| format!("{file}: line 1: no export of `bulrush datastore export`"))?;
    if head.bulrush_export != FORM {
        bail!("{file}: an export of form {}; this program reads form {FORM}", head.bulrush_export);
    }
    let (mut written, mut there, mut failed) = (0_usize, 0_usize, 0_usize);
    for (index, line) in lines.enumerate() {
        let place = format!("{file}: line {}", index + 2);
        let line = line.with_context(|| format!("{place}: can't be read"))?;
        if line.trim().is_empty() {
            continue;
        }
        let outcome = match object(&line) {
            Ok((key, value)) => put(store, &key, &value, overwrite).await,
            Err(fault) => Err(fault),
        };
        match outcome {
            Ok(true) => written += 1,
            Ok(false) => there += 1,
            Err(fault) => {
                failed += 1;
                eprintln!("Failed to import {place}: {fault}");
            }
        }
    }
    say!("{written} objects written, {there} were there already, {failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn object(line: &str) -> Result<(Key, Stored), String> {
    let line: Line = serde_json::from_str(line).map_err(|error| error.to_string())?;
    let kind = line.kind.parse::<Kind>().map_err(|_| {
        match kinds::nearest(&line.kind, Kind::all().map(Kind::name)) {
            Some(near) => format!("{:?} is no kind; did you mean {near}?", line.kind),
            None => format!("{:?} is no kind", line.kind),
        }
    })?;
    let value = match (line.value, line.raw) {
        (Some(value), None) => Stored::Json(value),
        (None, Some(bytes)) => Stored::Raw(bytes),
        _ => return Err("must have either value or raw".to_owned()),
    };
    let key = if kind.is_namespaced() {
        Key::namespaced(kind, line.namespace, line.name)
    } else {
        Key::global(kind, line.name)
    };
    Ok((key, value))
}

/// Whether it was written; false: it was there.
async fn put(
    store: &dyn Datastore,
    key: &Key,
    value: &Stored,
    overwrite: bool,
) -> Result<bool, String> {
    let said = |error: Error| format!("{}: {error}", called(key));
    for _ in 0..ATTEMPTS {
        let result = match store.get(key).await.map_err(said)? {
            Some(item) if is_same(&item.value, value) => return Ok(false),
            Some(item) if overwrite => store.update(key, value, item.version).await,
            Some(_) => {
                return Err(format!(
                    "{}: is there and differs; --overwrite replaces it",
                    called(key)
                ));
            }
            None => store.create(key, value).await,
        };
        match result {
            Ok(_) => return Ok(true),
            Err(Error::Conflict(_)) => {}
            Err(error) => return Err(said(error)),
        }
    }
    Err(format!("{}: someone else keeps writing it", called(key)))
}

/// Whether they say the same: an API server gives what it restores another identity.
fn is_same(a: &Stored, b: &Stored) -> bool {
    let without_identity = |stored: &Stored| match stored {
        Stored::Json(value) => {
            let mut value = value.clone();
            if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
                for field in ["uid", "creationTimestamp", "resourceVersion", "generation"] {
                    metadata.remove(field);
                }
            }
            Stored::Json(value)
        }
        Stored::Raw(bytes) => Stored::Raw(bytes.clone()),
    };
    a == b || without_identity(a) == without_identity(b)
}

pub(super) async fn is_ready(store: &dyn Datastore) -> anyhow::Result<bool> {
    let key = Key::global(Kind::ClusterInformation, "default");
    Ok(match store.get(&key).await?.map(|item| item.value) {
        Some(Stored::Json(object)) => object["spec"]["datastoreReady"] != false,
        _ => true,
    })
}

async fn set_ready(store: &dyn Datastore, is_ready: bool) -> anyhow::Result<()> {
    let key = Key::global(Kind::ClusterInformation, "default");
    for _ in 0..ATTEMPTS {
        let Some(item) = store.get(&key).await? else {
            bail!("there is no ClusterInformation default in {}", store.describe());
        };
        let Stored::Json(Value::Object(mut object)) = item.value else {
            bail!("ClusterInformation default holds no JSON object; delete it first");
        };
        crate::resource::map_at(&mut object, "spec")
            .insert("datastoreReady".to_owned(), is_ready.into());
        match store.update(&key, &Stored::Json(object.into()), item.version).await {
            Ok(_) => return Ok(()),
            Err(Error::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bail!("someone else keeps writing ClusterInformation default; try again")
}
