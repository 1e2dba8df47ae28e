//! `bulrush ipam configure`: how addresses are given out.

use std::process::ExitCode;

use anyhow::{anyhow, bail};
use datastore::Datastore;
use model::{Key, Kind};
use serde_json::{Value, json};

use crate::{
    resource::{
        map_at,
        shape::{self, Written},
        write::{self, Refusal},
    },
    store::StoreArgs,
};

/// How often a configuration that comes and goes meanwhile is tried again.
const ATTEMPTS: usize = 3;

/// Change the configuration of the address management
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Whether a node takes addresses only from its own blocks
    #[arg(long = "strictaffinity", value_name = "true|false", value_parser = flag)]
    strict_affinity: Option<bool>,

    /// The most blocks of a node, with strict affinity; 0: as many as are usual
    #[arg(long, value_name = "NUMBER")]
    max_blocks_per_host: Option<u32>,

    /// Whether virtual machines keep their addresses while they move
    #[arg(long, value_name = "Enabled|Disabled", value_parser = ["Enabled", "Disabled"])]
    kubevirt_ip_persistence: Option<String>,

    /// How long an address that was given back stays unused
    #[arg(long, value_name = "SECONDS")]
    ip_cooldown_seconds: Option<u32>,

    #[command(flatten)]
    store: StoreArgs,
}

/// A flag in the notations that Go takes.
fn flag(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("write true or false".to_owned()),
    }
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        if self.settings().is_empty() {
            bail!(
                "nothing is set; add --strictaffinity, --max-blocks-per-host, \
                 --kubevirt-ip-persistence or --ip-cooldown-seconds"
            );
        }
        runtime::block_on(async {
            let store = self.store.connect().await?;
            self.write(&*store).await.map_err(|refusal| anyhow!("nothing changed: {refusal}"))?;
            for (_, title, value) in self.settings() {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                say!("Successfully set {title} to: {value}");
            }
            Ok(ExitCode::SUCCESS)
        })
    }

    /// What is set: the field, what calicoctl calls it, and the value.
    fn settings(&self) -> Vec<(&'static str, &'static str, Value)> {
        let settings = [
            ("strictAffinity", "StrictAffinity", self.strict_affinity.map(Value::from)),
            ("maxBlocksPerHost", "MaxBlocksPerHost", self.max_blocks_per_host.map(Value::from)),
            (
                "kubeVirtVMAddressPersistence",
                "KubeVirtVMAddressPersistence",
                self.kubevirt_ip_persistence.clone().map(Value::from),
            ),
            ("ipCooldownSeconds", "IPCooldownSeconds", self.ip_cooldown_seconds.map(Value::from)),
        ];
        let given = settings.into_iter().filter_map(|(field, title, value)| Some((field, title, value?)));
        given.collect()
    }

    async fn write(&self, store: &dyn Datastore) -> Result<(), Refusal> {
        let key = Key::global(Kind::IPAMConfiguration, "default");
        for _ in 0..ATTEMPTS {
            match write::edit(store, &key, |shown| self.change(shown)).await {
                Err(Refusal::Missing) => {}
                other => return other,
            }
            // What holds where nothing is configured.
            let usual = json!({
                "apiVersion": "projectcalico.org/v3",
                "kind": "IPAMConfiguration",
                "metadata": {"name": "default"},
                "spec": {"strictAffinity": false, "autoAllocateBlocks": true},
            });
            match write::create(store, &self.change(usual)?).await {
                Err(Refusal::Exists) => {}
                other => return other,
            }
        }
        Err(Refusal::Rule("the configuration comes and goes; try again".to_owned()))
    }

    fn change(&self, shown: Value) -> Result<Written, Refusal> {
        let Value::Object(mut object) = shown else { return Err(Refusal::Missing) };
        let spec = map_at(&mut object, "spec");
        if spec.get("kubeVirtVMAddressPersistence").and_then(Value::as_str).is_none_or(str::is_empty) {
            spec.insert("kubeVirtVMAddressPersistence".to_owned(), "Enabled".into());
        }
        for (field, _, value) in self.settings() {
            spec.insert(field.to_owned(), value);
        }
        let is_set = |field: &str| spec.get(field) == Some(&true.into());
        let is_strict = is_set("strictAffinity");
        if !is_strict && !is_set("autoAllocateBlocks") {
            let rule = "without blocks of their own, and without strict affinity, nodes would have \
                        no addresses; add --strictaffinity=true";
            return Err(Refusal::Rule(rule.to_owned()));
        }
        let most = spec.get("maxBlocksPerHost").and_then(Value::as_u64).unwrap_or_default();
        if !is_strict && most > 0 {
            let rule = format!(
                "nodes with at most {most} blocks would borrow addresses from others; \
                 add --strictaffinity=true, or --max-blocks-per-host=0"
            );
            return Err(Refusal::Rule(rule));
        }
        shape::read(&Value::Object(object), false).map_err(|faulty| Refusal::Faults(faulty.faults))
    }
}
