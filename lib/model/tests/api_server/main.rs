//! What `deploy` holds, on a real API server: it takes the CRDs and judges objects as we do, and the
//! roles allow what they should.

#![allow(clippy::expect_used, reason = "in a test a panic is a failure with its place")]

mod agreement;
mod client;
#[path = "../golden/mod.rs"]
mod golden;
mod rbac;

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use bulrush_model::{
    Kind,
    validate::{crd, schemas},
};
use client::Client;
use serde_json::Value;
use support::{ApiServer, RealKubernetes};

/// The API server with all our CRDs, and with these namespaces; none: there is no such server
/// here.
fn cluster() -> Option<&'static ApiServer> {
    static READY: OnceLock<()> = OnceLock::new();
    let server: &ApiServer = RealKubernetes::shared()?;
    READY.get_or_init(|| install(server));
    Some(server)
}

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

fn install(server: &ApiServer) {
    let mut client = Client::connect(server, "admin");
    let definitions: Vec<_> = schemas().filter_map(crd::definition).collect();
    let mut wrong = Vec::new();
    for definition in &definitions {
        let answer = client.post(CRDS, definition);
        if !answer.is_ok() {
            wrong.push(format!("{}: {}", definition["metadata"]["name"], answer.message()));
        }
    }
    assert!(wrong.is_empty(), "the API server refuses\n{}", wrong.join("\n"));
    for definition in &definitions {
        let path = format!("{CRDS}/{}", definition["metadata"]["name"].as_str().expect("a name"));
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            let found = client.get(&path).body;
            let all = ["NamesAccepted", "Established"].map(|ty| condition(&found, ty));
            if all.iter().all(|condition| condition["status"] == "True") {
                let structural = condition(&found, "NonStructuralSchema");
                assert!(structural.is_null(), "{path}: {structural}");
                break;
            }
            assert!(Instant::now() < deadline, "{path}: {all:?}");
        }
    }
}

fn condition(definition: &Value, ty: &str) -> Value {
    let conditions = definition["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|condition| condition["type"] == ty);
    found.cloned().unwrap_or_default()
}

/// Where objects of a kind are written.
fn path(kind: Kind, namespace: &str) -> String {
    let namespace =
        if kind.is_namespaced() { format!("namespaces/{namespace}/") } else { String::new() };
    format!("/apis/projectcalico.org/v3/{namespace}{}", kind.plural())
}

#[test]
fn kubectl_knows_every_kind_by_its_names() {
    let Some(server) = cluster() else { return };
    for (kind, name) in schemas()
        .filter(|schema| crd::definition(schema).is_some())
        .flat_map(|schema| {
            crd::short_names(schema.kind).iter().map(move |name| (schema.kind, *name))
        })
        .chain([(Kind::IPPool, "ippool"), (Kind::BlockAffinity, "blockaffinity")])
    {
        let listed = server.kubectl_ok(&["get", name, "-A", "--output=json"]);
        let listed: Value = serde_json::from_str(&listed).expect("JSON");
        assert_eq!(listed["items"], serde_json::json!([]), "{kind} as {name}");
    }
}
