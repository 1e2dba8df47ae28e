//! `bulrush patch`: change some fields of a resource.

use std::process::ExitCode;

use anyhow::anyhow;
use serde_json::Value;

use crate::{
    resource::{
        kinds, manifest, patch,
        shape::{self, Written},
        write::{self, Refusal},
    },
    store::StoreArgs,
};

/// How a patch is written.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Type {
    /// Fields to set; null removes one
    Strategic,
    /// The same
    Merge,
    /// A list of operations, RFC 6902
    Json,
}

/// Change some fields of a resource
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The kind, in any case
    kind: String,

    /// Its name
    name: String,

    /// The patch, as JSON or YAML, such as '{"spec": {"natOutgoing": true}}'
    #[arg(short = 'p', long)]
    patch: String,

    /// How the patch is written
    #[arg(short = 't', long = "type", value_enum, default_value = "strategic")]
    patch_type: Type,

    /// The namespace of a resource that has one [default: default]
    #[arg(short = 'n', long)]
    namespace: Option<String>,

    #[command(flatten)]
    store: StoreArgs,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let mut named = Written::named(kinds::parse(&self.kind).map_err(anyhow::Error::msg)?, &self.name);
        named.place(self.namespace.as_deref())?;
        let key = named.key()?;
        let patch = manifest::read_value(&self.patch).map_err(|fault| anyhow!("--patch: {fault}"))?;
        runtime::block_on(async {
            let store = self.store.connect().await?;
            let change = |shown| self.change(shown, &patch);
            write::edit(&*store, &key, change)
                .await
                .map_err(|refusal| anyhow!("{}: {refusal}", named.called()))?;
            say!("Successfully patched 1 '{}' resource", key.kind);
            Ok(ExitCode::SUCCESS)
        })
    }

    fn change(&self, mut object: Value, patch: &Value) -> Result<Written, Refusal> {
        match self.patch_type {
            Type::Strategic | Type::Merge if patch.is_object() => {
                patch::merge(&mut object, patch.clone());
            }
            Type::Strategic | Type::Merge => {
                let text = "--patch must be a map, such as {\"spec\": {\"order\": 1}}; for a list \
                            of operations add -t json";
                return Err(Refusal::Rule(text.to_owned()));
            }
            Type::Json => {
                patch::json_patch(&mut object, patch.clone()).map_err(Refusal::Rule)?;
            }
        }
        shape::read(&object, false).map_err(|faulty| Refusal::Faults(faulty.faults))
    }
}
