//! `bulrush apply`: create what isn't there, replace what is.

use std::{process::ExitCode, time::SystemTime};

use anyhow::bail;
use datastore::{Datastore, Error, Selection};
use ipnet::IpNet;
use model::{Key, Kind, Stored};
use serde_json::Value;

use crate::{
    resource::{
        Object, builtin, called, defaults, faults,
        manifest::{self, Manifest},
        stored,
        tally::Tally,
    },
    store::StoreArgs,
};

/// How often a write is tried again when someone else wrote the same object in between.
const ATTEMPTS: usize = 5;

/// Create resources, or replace those that exist
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Files, folders, or - for standard input: YAML documents or JSON
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    files: Vec<String>,

    /// Also read the folders in folders
    #[arg(short = 'R', long)]
    recursive: bool,

    /// Succeed when the files hold no resources
    #[arg(long)]
    skip_empty: bool,

    /// The namespace of resources that need one and name none
    #[arg(short = 'n', long, default_value = "default")]
    namespace: String,

    #[command(flatten)]
    store: StoreArgs,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let manifests = manifest::read(&self.files, self.recursive, &self.namespace)?;
        if manifests.is_empty() {
            if self.skip_empty {
                println!("No resources specified");
                return Ok(ExitCode::SUCCESS);
            }
            bail!("no resources in {}; or pass --skip-empty", self.files.join(", "));
        }
        runtime::block_on(async {
            let store = self.store.connect().await?;
            initialise(&*store).await?;
            let mut tally = Tally::default();
            for manifest in manifests {
                let (kind, origin) = (manifest.written.kind, manifest.origin.clone());
                let name = manifest.written.name.clone();
                match apply(&*store, manifest).await {
                    Ok(()) => tally.done(kind),
                    Err(failure) => {
                        tally.failed(kind, format!("{kind} {name} ({origin}): {failure:#}"));
                    }
                }
            }
            tally.report("apply", "applied")
        })
    }
}

/// What the first write into any store brings with it.
async fn initialise(store: &dyn Datastore) -> anyhow::Result<()> {
    let guid = uuid::Uuid::new_v4().simple().to_string();
    for (key, object) in builtin::initial_objects(&guid) {
        match store.create(&key, &stored::new(key.kind, object, SystemTime::now())).await {
            Ok(_) | Err(Error::Conflict(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

async fn apply(store: &dyn Datastore, manifest: Manifest) -> anyhow::Result<()> {
    let mut written = manifest.written;
    defaults::complete(&mut written)?;
    let key = written.key();
    if let Some(refusal) = builtin::write_refusal(&key) {
        bail!(refusal);
    }
    let object = defaults::object(written);
    let faults = faults::of(&key, &object);
    if !faults.is_empty() {
        bail!("{}", faults.join("; "));
    }
    let mut current = store.get(&key).await?;
    if current.is_none() {
        tier_exists(store, &key, &object).await?;
        no_overlap(store, &key, &object).await?;
    }
    for _ in 0..ATTEMPTS {
        let now = SystemTime::now();
        let result = match &current {
            None => store.create(&key, &stored::new(key.kind, object.clone(), now)).await,
            Some(item) => {
                let value = stored::replacement(key.kind, object.clone(), &item.value, now)
                    .map_err(anyhow::Error::msg)?;
                store.update(&key, &value, item.version).await
            }
        };
        match result {
            Ok(_) => return Ok(()),
            Err(Error::Conflict(_)) => current = store.get(&key).await?,
            Err(error) => return Err(error.into()),
        }
    }
    bail!("someone else keeps writing it; {ATTEMPTS} attempts were overtaken, try again")
}

/// A policy in a tier that doesn't exist would be enforced nowhere.
async fn tier_exists(store: &dyn Datastore, key: &Key, object: &Object) -> anyhow::Result<()> {
    if !stored::is_policy(key.kind) {
        return Ok(());
    }
    let tier = Key::global(Kind::Tier, object["spec"]["tier"].as_str().unwrap_or_default());
    match store.get(&tier).await? {
        Some(item) if matches!(item.value, Stored::Json(_)) => Ok(()),
        _ => bail!("spec.tier: {} does not exist; apply it first", called(&tier)),
    }
}

/// Two pools with common addresses would give out the same ones.
async fn no_overlap(store: &dyn Datastore, key: &Key, object: &Object) -> anyhow::Result<()> {
    if key.kind != Kind::IPPool {
        return Ok(());
    }
    let range = |spec: &Value| spec["cidr"].as_str().and_then(|text| text.parse::<IpNet>().ok());
    let Some(new) = range(&object["spec"]) else { return Ok(()) };
    let mut others = Vec::new();
    for stream in store.streams() {
        for item in store.list(stream.index, Selection::from(Kind::IPPool)).await?.items {
            let Stored::Json(value) = &item.value else { continue };
            let Some(old) = range(&value["spec"]) else { continue };
            if new.contains(&old.network()) || old.contains(&new.network()) {
                others.push(format!("{} {old}", called(&item.key)));
            }
        }
    }
    if !others.is_empty() {
        bail!("spec.cidr: {new} overlaps with {}; take another range", others.join(", "));
    }
    Ok(())
}
