//! Single objects: get, and writes by compare-and-swap.

use etcd_client::{
    Compare as EtcdCompare, CompareOp, GetOptions, KeyValue, Txn, TxnOp, TxnOpResponse, TxnResponse,
};
use model::{Key, Stored};

use super::{Shared, keys, revision, version};
use crate::error::{Conflict, Error, Result};
use crate::store::{Compare, Expected, Item, Write};

pub(super) async fn get(shared: &Shared, key: &Key) -> Result<Option<Item>> {
    let response = shared.connection.read(path(key)?, GetOptions::new()).await?;
    Ok(response.kvs().first().map(|kv| item(key, kv)))
}

pub(super) async fn create(shared: &Shared, key: &Key, value: &Stored) -> Result<u64> {
    put(shared, key, value, Expected::Absent).await
}

pub(super) async fn update(shared: &Shared, key: &Key, value: &Stored, at: u64) -> Result<u64> {
    put(shared, key, value, Expected::Version(at)).await
}

async fn put(shared: &Shared, key: &Key, value: &Stored, expected: Expected) -> Result<u64> {
    let compare = Compare { key: key.clone(), expected };
    txn(shared, &[compare], &[Write::Put(key.clone(), value.clone())]).await
}

pub(super) async fn delete(shared: &Shared, key: &Key, expected: Option<u64>) -> Result<bool> {
    let compares: Vec<Compare> = expected
        .map(|at| Compare { key: key.clone(), expected: Expected::Version(at) })
        .into_iter()
        .collect();
    let response = commit(shared, &compares, &[Write::Delete(key.clone())]).await?;
    let deleted = response.op_responses().into_iter().any(|response| match response {
        TxnOpResponse::Delete(deleted) => deleted.deleted() > 0,
        _ => false,
    });
    Ok(deleted)
}

pub(super) async fn txn(shared: &Shared, compares: &[Compare], writes: &[Write]) -> Result<u64> {
    let response = commit(shared, compares, writes).await?;
    Ok(version(shared.header(response.header())?.revision()))
}

async fn commit(shared: &Shared, compares: &[Compare], writes: &[Write]) -> Result<TxnResponse> {
    let mut when = Vec::with_capacity(compares.len());
    let mut current = Vec::with_capacity(compares.len());
    for compare in compares {
        let path = path(&compare.key)?;
        let expected = match compare.expected {
            Expected::Absent => 0,
            Expected::Version(version) => revision(version),
        };
        when.push(EtcdCompare::mod_revision(path.clone(), CompareOp::Equal, expected));
        current.push(TxnOp::get(path, None));
    }
    let mut then = Vec::with_capacity(writes.len());
    for write in writes {
        then.push(match write {
            Write::Put(key, value) => TxnOp::put(path(key)?, bytes(value), None),
            Write::Delete(key) => TxnOp::delete(path(key)?, None),
        });
    }
    let txn = Txn::new().when(when).and_then(then).or_else(current);
    let response = send(shared, &txn).await?;
    if response.succeeded() { Ok(response) } else { Err(conflict(compares, &response)) }
}

pub(super) async fn get_or_create_raw(
    shared: &Shared,
    name: &str,
    bytes: &[u8],
) -> Result<Vec<u8>> {
    let path = format!("{}{name}", keys::OURS);
    let txn = Txn::new()
        .when([EtcdCompare::mod_revision(path.clone(), CompareOp::Equal, 0)])
        .and_then([TxnOp::put(path.clone(), bytes, None)])
        .or_else([TxnOp::get(path.clone(), None)]);
    let response = send(shared, &txn).await?;
    if response.succeeded() {
        return Ok(bytes.to_vec());
    }
    Ok(found(&response).next().flatten().map(|kv| kv.value().to_vec()).unwrap_or_default())
}

async fn send(shared: &Shared, txn: &Txn) -> Result<TxnResponse> {
    let request = |mut kv: etcd_client::KvClient| {
        let txn = txn.clone();
        async move { kv.txn(txn).await }
    };
    shared.connection.call(false, request).await
}

/// The keys that weren't as expected, as the failed transaction found them.
fn conflict(compares: &[Compare], response: &TxnResponse) -> Error {
    let current = compares.iter().zip(found(response)).filter_map(|(compare, kv)| {
        let item = kv.map(|kv| item(&compare.key, &kv));
        let as_expected = match (compare.expected, &item) {
            (Expected::Absent, None) => true,
            (Expected::Version(version), Some(item)) => item.version == version,
            _ => false,
        };
        (!as_expected).then(|| (compare.key.clone(), item))
    });
    Error::Conflict(Box::new(Conflict { current: current.collect() }))
}

/// What the reads of a transaction found, in their order.
fn found(response: &TxnResponse) -> impl Iterator<Item = Option<KeyValue>> {
    response.op_responses().into_iter().map(|response| match response {
        TxnOpResponse::Get(mut got) => got.take_kvs().into_iter().next(),
        _ => None,
    })
}

fn path(key: &Key) -> Result<String> {
    keys::path(key).map_err(|reason| Error::Key { key: key.clone(), reason })
}

fn item(key: &Key, kv: &KeyValue) -> Item {
    Item {
        key: key.clone(),
        value: Stored::from_bytes(kv.value()),
        version: version(kv.mod_revision()),
    }
}

fn bytes(value: &Stored) -> Vec<u8> {
    match value {
        // Writing a JSON value can't fail; it has string keys only.
        Stored::Json(json) => json.to_string().into_bytes(),
        Stored::Raw(bytes) => bytes.clone(),
    }
}
