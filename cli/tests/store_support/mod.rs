//! A store and `bulrush` on it.

#![allow(dead_code, reason = "each test binary that includes this uses a part of it")]

use std::{
    collections::BTreeMap,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
};

use etcd_client::{Client, DeleteOptions, GetOptions, Txn, TxnOp};
use serde_json::Value;
use support::RealEtcd;
use tokio::runtime::Runtime;

/// Everything of Calico's in a store, by path.
pub(crate) type Contents = BTreeMap<String, Value>;

/// A store that lives as long as the value.
pub(crate) struct Store {
    pub(crate) label: String,
    pub(crate) endpoint: String,
    client: Client,
    // In this order: the server goes before the runtime that runs it.
    _embedded: Option<embedded::Server>,
    _etcd: Option<RealEtcd>,
    runtime: Runtime,
}

impl Store {
    /// The store that is always there.
    pub(crate) fn embedded() -> Self {
        let runtime = runtime();
        let server = runtime
            .block_on(embedded::Server::start(embedded::Config::default()))
            .expect("the embedded store starts");
        let endpoint = format!("http://{}", server.addr());
        Self::new("the embedded store".to_owned(), endpoint, runtime, Some(server), None)
    }

    /// The embedded store, and every etcd that is found.
    pub(crate) fn all() -> Vec<Self> {
        let mut stores = vec![Self::embedded()];
        let binaries = support::etcd_binaries();
        if binaries.is_empty() {
            support::skipped("etcd", "no etcd found; only the embedded store is tested");
        }
        for (label, binary) in binaries {
            let etcd = RealEtcd::start(&binary);
            let endpoint = etcd.endpoint().to_owned();
            stores.push(Self::new(label, endpoint, runtime(), None, Some(etcd)));
        }
        stores
    }

    fn new(
        label: String,
        endpoint: String,
        runtime: Runtime,
        server: Option<embedded::Server>,
        etcd: Option<RealEtcd>,
    ) -> Self {
        let client = runtime.block_on(Client::connect([&endpoint], None)).expect("a client");
        Self { label, endpoint, client, _embedded: server, _etcd: etcd, runtime }
    }

    /// Replaces all that is there.
    pub(crate) fn reset(&self, contents: &Contents) {
        let mut kv = self.client.kv_client();
        let puts: Vec<_> = contents
            .iter()
            .map(|(path, value)| TxnOp::put(path.as_str(), value.to_string(), None))
            .collect();
        self.runtime.block_on(async {
            kv.delete("/calico/", Some(DeleteOptions::new().with_prefix())).await.expect("delete");
            // etcd takes 128 operations at once.
            for chunk in puts.chunks(100) {
                kv.txn(Txn::new().and_then(chunk)).await.expect("a transaction");
            }
        });
    }

    pub(crate) fn put(&self, path: &str, value: &[u8]) {
        let mut kv = self.client.kv_client();
        self.runtime.block_on(kv.put(path, value, None)).expect("put");
    }

    pub(crate) fn contents(&self) -> Contents {
        let mut kv = self.client.kv_client();
        let all = kv.get("/calico/", Some(GetOptions::new().with_prefix()));
        let response = self.runtime.block_on(all).expect("get");
        let pairs = response.kvs().iter().map(|pair| {
            let value = serde_json::from_slice(pair.value()).expect("JSON");
            (pair.key_str().expect("UTF-8").to_owned(), value)
        });
        pairs.collect()
    }

    /// `bulrush` on this store.
    pub(crate) fn bulrush(&self, arguments: &[&str], stdin: &str) -> Run {
        self.bulrush_in(Path::new("."), arguments, stdin, &[])
    }

    pub(crate) fn bulrush_in(
        &self,
        folder: &Path,
        arguments: &[&str],
        stdin: &str,
        environment: &[(&str, &str)],
    ) -> Run {
        let store = [("DATASTORE_TYPE", "etcdv3"), ("ETCD_ENDPOINTS", self.endpoint.as_str())];
        run_in(folder, arguments, stdin, &[&store, environment].concat())
    }
}

/// `bulrush` with these variables in its environment.
pub(crate) fn run_in(
    folder: &Path,
    arguments: &[&str],
    stdin: &str,
    environment: &[(&str, &str)],
) -> Run {
    let mut child = Command::new(env!("CARGO_BIN_EXE_bulrush"))
        .args(arguments)
        .current_dir(folder)
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("bulrush starts");
    let mut pipe = child.stdin.take().expect("its stdin");
    let input = stdin.to_owned();
    // A program that doesn't want the input closes it.
    let writer = thread::spawn(move || pipe.write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("bulrush ends");
    let _ = writer.join().expect("the writer");
    output.into()
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// What a program said.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}
