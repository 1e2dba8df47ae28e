//! `bulrush label`: set and remove labels of a resource.

use std::process::ExitCode;

use anyhow::{anyhow, bail};
use serde_json::{Value, json};

use crate::{
    resource::{
        kinds, map_at,
        shape::{self, Written},
        write::{self, Refusal},
    },
    store::StoreArgs,
};

/// Set or remove labels of a resource
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The kind, in any case
    kind: String,

    /// Its name
    name: String,

    /// What to set, as KEY=VALUE, or with --remove the KEY
    #[arg(required = true, value_name = "KEY=VALUE")]
    labels: Vec<String>,

    /// Also set labels that are there with another value
    #[arg(long, conflicts_with = "remove")]
    overwrite: bool,

    /// Remove the labels
    #[arg(long)]
    remove: bool,

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
        if !self.remove
            && let Some(label) = self.labels.iter().find(|label| !label.contains('='))
        {
            bail!("{label:?} is no label; write {label}=VALUE, or add --remove to remove it");
        }
        let called = format!("{} {}", self.kind, self.name);
        runtime::block_on(async {
            let store = self.store.connect().await?;
            // What is said in the end is of the attempt that was written.
            let said = std::cell::RefCell::new(Vec::new());
            let change = |shown| {
                let (written, lines) = self.change(shown, &called)?;
                said.replace(lines);
                Ok(written)
            };
            match write::edit(&*store, &key, change).await {
                Ok(()) => {}
                Err(Refusal::Missing) => bail!("{called} not found"),
                Err(refusal) => return Err(anyhow!("{called}: labels not changed: {refusal}")),
            }
            for line in said.into_inner() {
                say!("{line}");
            }
            Ok(ExitCode::SUCCESS)
        })
    }

    fn change(&self, shown: Value, called: &str) -> Result<(Written, Vec<String>), Refusal> {
        let Value::Object(mut object) = shown else { return Err(Refusal::Missing) };
        let labels = map_at(map_at(&mut object, "metadata"), "labels");
        let mut said = Vec::new();
        for label in &self.labels {
            if self.remove {
                if labels.remove(label).is_none() {
                    return Err(Refusal::Rule(format!("there is no label {label}")));
                }
                said.push(format!("Successfully removed label {label} from {called}"));
                continue;
            }
            let (name, value) = label.split_once('=').unwrap_or((label, ""));
            let verb = match labels.get(name) {
                None => "set",
                Some(old) if self.overwrite || *old == *value => "updated",
                Some(old) => {
                    let text = format!("{name} is {old}; add --overwrite to change it");
                    return Err(Refusal::Rule(text));
                }
            };
            labels.insert(name.to_owned(), json!(value));
            said.push(format!("Successfully {verb} label {name} on {called}"));
        }
        let written = shape::read(&Value::Object(object), false)
            .map_err(|faulty| Refusal::Faults(faulty.faults))?;
        Ok((written, said))
    }
}
