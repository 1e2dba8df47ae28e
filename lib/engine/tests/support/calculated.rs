//! The clusters whose states Calico calculated, and how one comes about.

use std::{fs, path::Path};

use model::{Key, Kind};
use serde_json::Value;

use super::cluster::Cluster;

/// All of them, by name.
pub(crate) fn cases(folder: &Path) -> impl Iterator<Item = Value> {
    let mut files = fs::read_dir(folder.join("calc"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect::<Vec<_>>();
    files.sort();
    files.into_iter().map(|file| serde_json::from_slice(&fs::read(&file).unwrap()).unwrap())
}

/// Tells a cluster what happens in one of a case's steps.
pub(crate) fn step(cluster: &mut Cluster, step: &Value) {
    for put in step["put"].as_array().into_iter().flatten() {
        let Some(key) = etcd_key(put["key"].as_str().unwrap()) else { continue };
        let bytes = match put.get("value") {
            Some(value) => serde_json::to_vec(value).unwrap(),
            None => put["raw"].as_str().unwrap().as_bytes().to_vec(),
        };
        cluster.put(&key, &bytes);
    }
    for key in step["delete"].as_array().into_iter().flatten() {
        let Some(key) = etcd_key(key.as_str().unwrap()) else { continue };
        cluster.delete(&key);
    }
}

/// The object that an etcd key names; none: nothing that is watched.
fn etcd_key(path: &str) -> Option<Key> {
    if let Some(resource) = path.strip_prefix("/calico/resources/v3/projectcalico.org/") {
        let mut parts = resource.splitn(3, '/');
        let kind = Kind::from_plural(parts.next()?)?;
        return Some(match (parts.next()?, parts.next()) {
            (namespace, Some(name)) => Key::namespaced(kind, namespace, name),
            (name, None) => Key::global(kind, name),
        });
    }
    let block = path.strip_prefix("/calico/ipam/v2/assignment/")?;
    let (_, name) = block.split_once("/block/")?;
    Some(Key::global(Kind::IPAMBlock, name.replace(['.', ':'], "-")))
}
