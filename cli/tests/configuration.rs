//! Where the commands find their store: flag, environment, calicoctl's file.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../../lib/datastore/tests/common/certs.rs"]
#[allow(dead_code, unreachable_pub, reason = "it is shared, and one of its makers is enough here")]
mod certs;
#[path = "../../lib/datastore/tests/common/server.rs"]
#[allow(dead_code, unreachable_pub, reason = "it is shared, and never restarted here")]
mod server;
mod store_support;

use std::{fs, path::Path, process::Command};

use certs::Authority;
use server::Server;
use store_support::{Run, Store};
use support::assert_bad_input;

/// `bulrush` with nothing but this in its environment.
fn bulrush(arguments: &[&str], environment: &[(&str, &str)]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulrush"));
    let output = command.args(arguments).env_clear().envs(environment.iter().copied()).output();
    output.expect("bulrush runs").into()
}

fn config(folder: &Path, spec: &str) -> String {
    let path = folder.join("calicoctl.cfg");
    let text = format!(
        "apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nmetadata:\nspec:\n{spec}"
    );
    fs::write(&path, text).expect("written");
    path.display().to_string()
}

fn etcd(endpoints: &str) -> String {
    format!("  datastoreType: etcdv3\n  etcdEndpoints: {endpoints}\n")
}

#[test]
fn a_12_the_file_of_calicoctl_is_read_and_flag_and_environment_win_over_it() {
    let (store, other) = (Store::embedded(), Store::embedded());
    store.bulrush(&["create", "tier", "in-the-file"], "");
    other.bulrush(&["create", "tier", "in-the-environment"], "");
    let folder = tempfile::tempdir().expect("a folder");
    let file = config(folder.path(), &etcd(&store.endpoint));
    let tiers = |arguments: &[&str], environment: &[(&str, &str)]| {
        let run = bulrush(&[&["get", "tiers", "-c", &file], arguments].concat(), environment);
        assert_eq!(run.code, Some(0), "{run:?}");
        run.stdout
    };
    assert!(tiers(&[], &[]).contains("in-the-file"));
    for name in ["ETCD_ENDPOINTS", "CALICO_ETCD_ENDPOINTS"] {
        assert!(tiers(&[], &[(name, &other.endpoint)]).contains("in-the-environment"), "{name}");
    }
    assert!(tiers(&[], &[("ETCD_ENDPOINTS", "")]).contains("in-the-file"), "empty is unset");
    let environment = [("ETCD_ENDPOINTS", other.endpoint.as_str())];
    assert!(tiers(&["--store", &store.endpoint], &environment).contains("in-the-file"));

    // A file for Kubernetes, and an etcd in the environment.
    let file = config(folder.path(), "  datastoreType: kubernetes\n  kubeconfig: /nowhere\n");
    let run = bulrush(&["get", "tiers", "-c", &file], &environment);
    assert!(run.stdout.contains("in-the-environment"), "{run:?}");
}

#[test]
fn a_file_that_cannot_be_used_is_named_with_the_field_and_the_way_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let says = |case: &str, spec: &str| {
        let file = config(folder.path(), spec);
        let run = bulrush(&["get", "node", "--config", &file], &[]);
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{case}");
        assert_bad_input(case, &run.stderr.replace(&file, "FILE"));
    };
    says("calicoctl.cfg: an unknown field", "  etcdEndpoint: http://127.0.0.1:1\n");
    says("calicoctl.cfg: a certificate in the file itself", "  etcdCert: xyz\n");
    says("calicoctl.cfg: a list where text belongs", "  etcdEndpoints: [http://127.0.0.1:1]\n");
    says("calicoctl.cfg: not YAML", "  a: [\n");
    says(
        "calicoctl.cfg: a field outside spec",
        "  datastoreType: etcdv3\netcdEndpoints: http://127.0.0.1:1\n",
    );
    let run = bulrush(&["get", "node", "-c", "/no/such/file"], &[]);
    assert_bad_input("calicoctl.cfg: no such file", &run.stderr);
}

#[test]
fn a_18_an_etcd_with_tls_is_reached_from_environment_or_file_and_a_bad_file_is_named() {
    let binaries = support::etcd_binaries();
    if binaries.is_empty() {
        support::skipped("etcd", "no etcd found");
    }
    for (label, binary) in binaries {
        println!("on {label}");
        let authority = Authority::new();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let (cert, key) = authority.issue("server", &["127.0.0.1"]);
        let ca = text(&authority.ca_file());
        let server = Server::start_with(
            &binary,
            &[
                "--cert-file",
                &text(&cert),
                "--key-file",
                &text(&key),
                "--client-cert-auth",
                "--trusted-ca-file",
                &ca,
            ],
        );
        let (cert, key) = authority.issue("client", &["client"]);
        let (url, cert, key) = (server.url(), text(&cert), text(&key));
        let environment = [
            ("ETCD_ENDPOINTS", url.as_str()),
            ("ETCD_CA_CERT_FILE", &ca),
            ("ETCD_CERT_FILE", &cert),
            ("ETCD_KEY_FILE", &key),
        ];
        let run = bulrush(&["get", "nodes"], &environment);
        assert_eq!((run.code, run.stdout.as_str()), (Some(0), "NAME   \n\n"), "{run:?}");

        let folder = tempfile::tempdir().expect("a folder");
        let spec = |cert: &str| {
            format!(
                "{}  etcdCACertFile: {ca}\n  etcdCertFile: {cert}\n  etcdKeyFile: {key}\n",
                etcd(&url)
            )
        };
        let file = config(folder.path(), &spec(&cert));
        assert_eq!(bulrush(&["get", "nodes", "-c", &file], &[]).stdout, "NAME   \n\n");
        let file = config(folder.path(), &spec("/no/such/client.crt"));
        let run = bulrush(&["get", "nodes", "-c", &file], &[]);
        assert_eq!(run.code, Some(1));
        assert!(run.stderr.contains("/no/such/client.crt"), "{run:?}");
    }
}
