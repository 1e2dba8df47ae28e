//! Writing resources into a store: what is checked, in which order, and what is done about others
//! who write the same object.

use std::{collections::HashSet, time::SystemTime};

use datastore::{Datastore, Error, Item, Selection};
use ipnet::IpNet;
use model::{
    Key, Kind, Stored,
    kinds::{Resource, Spec, decode},
    validate::Verdict,
};
use serde_json::Value;

use super::{
    Object, builtin, called,
    shape::{Fault, Written, fault_of},
    stored,
};

/// How often a write is tried again when someone else wrote the same object in between.
const ATTEMPTS: usize = 5;

/// Why a resource wasn't written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("resource does not exist")]
    Missing,
    #[error("resource already exists; replace it, or apply it")]
    Exists,
    #[error(
        "update conflict: it is at resourceVersion {now}, not {given}; get it again, or leave \
         resourceVersion out to overwrite what others wrote"
    )]
    Outdated { given: String, now: u64 },
    #[error("{0}")]
    Rule(String),
    #[error("{}", joined(.0))]
    Faults(Vec<Fault>),
    #[error(transparent)]
    Store(#[from] Error),
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Faults(vec![fault])
    }
}

impl From<&Verdict> for Refusal {
    /// The first fault of each field: the others are mostly the same in other words.
    fn from(verdict: &Verdict) -> Self {
        let mut faults: Vec<Fault> = verdict.errors.iter().map(fault_of).collect();
        let mut seen = HashSet::new();
        faults.retain(|fault| seen.insert(fault.path.clone()));
        Self::Faults(faults)
    }
}

fn joined(faults: &[Fault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

type Result<T, E = Refusal> = std::result::Result<T, E>;

/// What the first write into any store brings with it.
pub(crate) async fn initialise(store: &dyn Datastore) -> Result<(), Error> {
    let guid = uuid::Uuid::new_v4().simple().to_string();
    for (key, object) in builtin::initial_objects(&guid) {
        match store.create(&key, &stored::new(key.kind, object, SystemTime::now())).await {
            // Who may write only some kinds still may.
            Ok(_) | Err(Error::Conflict(_) | Error::Denied { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes a resource that isn't there yet.
pub(crate) async fn create(store: &dyn Datastore, written: &Written) -> Result<()> {
    let key = writable(written)?;
    insert(store, &key, &written.judge_as_new()).await
}

/// Writes a resource over the one that is there.
pub(crate) async fn replace(store: &dyn Datastore, written: &Written) -> Result<()> {
    let key = writable(written)?;
    sound_name(written)?;
    for _ in 0..ATTEMPTS {
        let Some(current) = store.get(&key).await? else { return Err(Refusal::Missing) };
        if overwrite(store, &key, written, &current).await? {
            return Ok(());
        }
    }
    Err(overtaken())
}

/// Writes a resource, whether one is there or not.
pub(crate) async fn apply(store: &dyn Datastore, written: &Written) -> Result<()> {
    let key = writable(written)?;
    let as_new = sound_name(written)?;
    for _ in 0..ATTEMPTS {
        let is_done = match store.get(&key).await? {
            None => match insert(store, &key, &as_new).await {
                Ok(()) => true,
                Err(Refusal::Exists) => false,
                Err(error) => return Err(error),
            },
            Some(current) => {
                if let Some(object) = as_new.defaulted.as_ref().and_then(Value::as_object) {
                    tier_exists(store, &key, object).await?;
                }
                overwrite(store, &key, written, &current).await?
            }
        };
        if is_done {
            return Ok(());
        }
    }
    Err(overtaken())
}

/// Writes what `change` makes of the object as people read it.
pub(crate) async fn edit(
    store: &dyn Datastore,
    key: &Key,
    change: impl Fn(Value) -> Result<Written>,
) -> Result<()> {
    if let Some(refusal) = builtin::write_refusal(key) {
        return Err(Refusal::Rule(refusal));
    }
    for _ in 0..ATTEMPTS {
        let Some(current) = store.get(key).await? else { return Err(Refusal::Missing) };
        let shown =
            stored::present(key, current.value.clone(), current.version).map_err(Refusal::Rule)?;
        let written = change(shown)?;
        if written.key()? != *key {
            let rule = format!("it must stay {}; make another object instead", called(key));
            return Err(Fault::new("metadata", rule).into());
        }
        if overwrite(store, key, &written, &current).await? {
            return Ok(());
        }
    }
    Err(overtaken())
}

fn overtaken() -> Refusal {
    let text =
        format!("someone else keeps writing it; {ATTEMPTS} attempts were overtaken, try again");
    Refusal::Rule(text)
}

/// The resource's key, if people may write it.
fn writable(written: &Written) -> Result<Key> {
    let key = written.key()?;
    match builtin::write_refusal(&key) {
        Some(refusal) => Err(Refusal::Rule(refusal)),
        None => Ok(key),
    }
}

/// A name that breaks a rule may not even have a place in the store.
fn sound_name(written: &Written) -> Result<Verdict> {
    let verdict = written.judge(None);
    let is_of_name = |field: &str| matches!(field, "metadata.name" | "metadata.namespace");
    if verdict.defaulted.is_none() && verdict.errors.iter().any(|it| is_of_name(&it.field)) {
        return Err(Refusal::from(&verdict));
    }
    Ok(verdict)
}

/// The object that the verdict lets be stored.
fn accepted(verdict: &Verdict) -> Result<&Object> {
    verdict.defaulted.as_ref().and_then(Value::as_object).ok_or_else(|| verdict.into())
}

async fn insert(store: &dyn Datastore, key: &Key, verdict: &Verdict) -> Result<()> {
    let object = accepted(verdict)?;
    tier_exists(store, key, object).await?;
    filters_exist(store, key, object, None).await?;
    no_overlap(store, key, object).await?;
    blocks_fit(store, key, object).await?;
    match store.create(key, &stored::new(key.kind, object.clone(), SystemTime::now())).await {
        Ok(_) => Ok(()),
        Err(Error::Conflict(_)) => Err(Refusal::Exists),
        Err(error) => Err(error.into()),
    }
}

/// False: someone else wrote it in between.
async fn overwrite(
    store: &dyn Datastore,
    key: &Key,
    written: &Written,
    current: &Item,
) -> Result<bool> {
    if !written.version.is_empty() && written.version != current.version.to_string() {
        return Err(Refusal::Outdated { given: written.version.clone(), now: current.version });
    }
    let old = match &current.value {
        Stored::Json(old @ Value::Object(_)) if key.kind != Kind::IPAMConfiguration => Some(old),
        _ => None,
    };
    let verdict = match old {
        Some(old) if key.kind == Kind::Node && is_kubernetes(store) => {
            written.over(old).judge(Some(old))
        }
        old => written.judge(old),
    };
    let object = accepted(&verdict)?.clone();
    filters_exist(store, key, &object, old).await?;
    let keeps_status = !written.has_status();
    let value =
        stored::replacement(key.kind, object, &current.value, keeps_status, SystemTime::now());
    match store.update(key, &value, current.version).await {
        Ok(_) => Ok(true),
        Err(Error::Conflict(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether the store is Kubernetes' API: there, nodes are others' objects too, and what a person
/// doesn't say of one stays.
pub(crate) fn is_kubernetes(store: &dyn Datastore) -> bool {
    store.capabilities().atomic_writes == 1
}

/// What is wrong with naming an object that doesn't exist.
pub(crate) fn not_there(key: &Key) -> String {
    format!("{} does not exist; apply it first", called(key))
}

/// A policy in a tier that doesn't exist would be enforced nowhere.
async fn tier_exists(store: &dyn Datastore, key: &Key, object: &Object) -> Result<()> {
    if !stored::is_policy(key.kind) {
        return Ok(());
    }
    let tier = Key::global(Kind::Tier, object["spec"]["tier"].as_str().unwrap_or_default());
    match store.get(&tier).await? {
        Some(item) if matches!(item.value, Stored::Json(_)) => Ok(()),
        _ => Err(Fault::new("spec.tier", not_there(&tier)).into()),
    }
}

/// A peering without one of its filters exchanges what the filter is there to stop. One that it already had may be
/// gone: that must not keep people from changing the rest.
async fn filters_exist(
    store: &dyn Datastore,
    key: &Key,
    object: &Object,
    old: Option<&Value>,
) -> Result<()> {
    if key.kind != Kind::BGPPeer {
        return Ok(());
    }
    let names = |spec: &Value| -> Vec<String> {
        let items = spec["filters"].as_array().into_iter().flatten();
        items.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let had = old.map(|old| names(&old["spec"])).unwrap_or_default();
    for (index, name) in names(&object["spec"]).iter().enumerate() {
        let filter = Key::global(Kind::BGPFilter, name.as_str());
        if !had.contains(name) && store.get(&filter).await?.is_none() {
            return Err(Fault::new(format!("spec.filters[{index}]"), not_there(&filter)).into());
        }
    }
    Ok(())
}

/// The addresses of a pool.
fn range(spec: &Value) -> Option<IpNet> {
    spec["cidr"].as_str()?.parse().ok()
}

/// Whether they have common addresses.
fn overlap(one: IpNet, other: IpNet) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

/// Blocks that a deleted pool left behind keep their addresses: others of another size would overlap with them.
async fn blocks_fit(store: &dyn Datastore, key: &Key, object: &Object) -> Result<()> {
    if key.kind != Kind::IPPool {
        return Ok(());
    }
    let spec = &object["spec"];
    let Some(pool) = range(spec) else { return Ok(()) };
    for stream in store.streams() {
        for item in store.list(stream.index, Selection::from(Kind::IPAMBlock)).await?.items {
            let Ok(Resource { spec: Spec::IPAMBlock(block), .. }) = decode(&item.key, &item.value)
            else {
                continue;
            };
            let block = block.cidr;
            if overlap(pool, block) && spec["blockSize"] != block.prefix_len() {
                let rule = format!(
                    "the block {block} is still there, and others must be of its size; write {}",
                    block.prefix_len()
                );
                return Err(Fault::new("spec.blockSize", rule).into());
            }
        }
    }
    Ok(())
}

/// Two pools with common addresses would give out the same ones.
async fn no_overlap(store: &dyn Datastore, key: &Key, object: &Object) -> Result<()> {
    if key.kind != Kind::IPPool {
        return Ok(());
    }
    let Some(new) = range(&object["spec"]) else { return Ok(()) };
    let mut others = Vec::new();
    for stream in store.streams() {
        for item in store.list(stream.index, Selection::from(Kind::IPPool)).await?.items {
            let Stored::Json(value) = &item.value else { continue };
            let Some(old) = range(&value["spec"]) else { continue };
            if item.key != *key && overlap(new, old) {
                others.push(format!("{} {old}", called(&item.key)));
            }
        }
    }
    if !others.is_empty() {
        let rule = format!("{new} overlaps with {}; take another range", others.join(", "));
        return Err(Fault::new("spec.cidr", rule).into());
    }
    Ok(())
}
