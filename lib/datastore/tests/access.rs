//! TLS and users of etcd: what works, and what a person reads when it doesn't.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod common;

use std::path::{Path, PathBuf};

use datastore::config::EtcdConfig;
use datastore::{Error, Selection, StoreConfig};
use etcd_client::{Client, Permission};

use common::certs::Authority;
use common::history::Writer;
use common::mirror::Mirror;
use common::server::Server;
use common::target::etcds;
use support::assert_bad_input;

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

async fn error(config: &EtcdConfig) -> String {
    match StoreConfig::Etcd(config.clone()).connect().await {
        Ok(store) => panic!("connected to {}", store.describe()),
        Err(error) => error.to_string(),
    }
}

fn at(url: String) -> EtcdConfig {
    EtcdConfig { endpoints: vec![url], ..EtcdConfig::default() }
}

/// That connecting fails, with the words for this case.
async fn says(case: &str, config: EtcdConfig) {
    assert_bad_input(case, &error(&config).await);
}

/// An etcd that wants certificates, and the files that fit.
struct Secured {
    authority: Authority,
    server: Server,
    good: EtcdConfig,
}

impl Secured {
    fn start(binary: &Path) -> Self {
        let authority = Authority::new();
        let server = serve(binary, &authority.issue("server", &["127.0.0.1"]), Some(&authority));
        let (cert, key) = authority.issue("client", &["client"]);
        let good = EtcdConfig {
            ca_file: Some(authority.ca_file()),
            cert_file: Some(cert),
            key_file: Some(key),
            ..at(server.url())
        };
        Self { authority, server, good }
    }
}

/// An etcd with this certificate, which wants one of `clients`.
fn serve(binary: &Path, (cert, key): &(PathBuf, PathBuf), clients: Option<&Authority>) -> Server {
    let ca_file = clients.map(Authority::ca_file);
    let mut arguments = vec!["--cert-file", text(cert), "--key-file", text(key)];
    if let Some(ca_file) = &ca_file {
        arguments.extend(["--client-cert-auth", "--trusted-ca-file", text(ca_file)]);
    }
    Server::start_with(binary, &arguments)
}

#[tokio::test(flavor = "multi_thread")]
async fn our_certificates_work_and_each_fault_in_them_is_named() {
    for (label, binary) in etcds() {
        println!("on {label}");
        let Secured { authority: _keep, server, good } = Secured::start(&binary);
        let store = StoreConfig::Etcd(good.clone()).connect().await.expect("the right files");
        assert_eq!(store.describe(), format!("etcd at {}", server.url()));
        assert_eq!(store.get_or_create_raw("digest-key", b"k").await.unwrap(), b"k");

        let nothing = EtcdConfig { cert_file: None, key_file: None, ..good.clone() };
        says("etcd: it wants a certificate and we have none", nothing).await;
        let other = Authority::new();
        let (other_cert, other_key) = other.issue("other", &["client"]);
        let (cert, key) = (good.cert_file.clone().unwrap(), good.key_file.clone().unwrap());
        let with = |cert: &Path, key: &Path| EtcdConfig {
            cert_file: Some(cert.to_owned()),
            key_file: Some(key.to_owned()),
            ..good.clone()
        };
        says("etcd: our certificate is from another authority", with(&other_cert, &other_key))
            .await;
        says("etcd: key and certificate are not a pair", with(&cert, &other_key)).await;
        says("etcd: a key in place of a certificate", with(&key, &key)).await;
        says("etcd: a certificate in place of a key", with(&cert, &cert)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_in_the_servers_certificate_is_named() {
    for (label, binary) in etcds() {
        println!("on {label}");
        let Secured { authority, server, good } = Secured::start(&binary);
        let with_ca = |path: &Path| EtcdConfig { ca_file: Some(path.to_owned()), ..good.clone() };
        says("etcd: no file with its authority", with_ca(Path::new("/nowhere/ca.crt"))).await;
        let key = good.key_file.clone().unwrap();
        says("etcd: a key in place of its authority", with_ca(&key)).await;
        let other = Authority::new();
        says("etcd: its certificate is from another authority", with_ca(&other.ca_file())).await;

        let plain_url = server.url().replace("https", "http");
        says("etcd: http to a port with TLS", at(plain_url)).await;
        let with_url = |url: String| EtcdConfig { endpoints: vec![url], ..good.clone() };
        let plain = Server::start(&binary);
        let tls_url = plain.url().replace("http", "https");
        says("etcd: https to a port without TLS", with_url(tls_url)).await;

        let wrong_name = serve(&binary, &authority.issue("name", &["etcd.example"]), None);
        says("etcd: its certificate is for another name", with_url(wrong_name.url())).await;
        let expired = serve(&binary, &authority.issue_expired("expired", &["127.0.0.1"]), None);
        says("etcd: its certificate has expired", with_url(expired.url())).await;

        // Of several addresses one that works is enough, and if none does each is named.
        let nobody = "https://127.0.0.1:1".to_owned();
        let both = vec![nobody.clone(), server.url()];
        let config = StoreConfig::Etcd(EtcdConfig { endpoints: both, ..good.clone() });
        config.connect().await.expect("the second is right");
        let neither = EtcdConfig { endpoints: vec![nobody, expired.url()], ..good };
        says("etcd: none of several addresses works", neither).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn renewed_certificates_are_used_for_the_next_connection() {
    for (label, binary) in etcds() {
        println!("on {label}");
        let ours = Authority::new();
        let other = Authority::new();
        let (server_cert, server_key) = ours.issue("server", &["127.0.0.1"]);
        let mut server = serve(&binary, &(server_cert.clone(), server_key.clone()), None);
        // The file that the program was given; its content changes.
        let folder = tempfile::tempdir().expect("a folder");
        let ca_file = folder.path().join("ca.crt");
        std::fs::copy(ours.ca_file(), &ca_file).expect("a copy");
        let config = EtcdConfig { ca_file: Some(ca_file.clone()), ..at(server.url()) };
        let store = StoreConfig::Etcd(config).connect().await.expect("the right files");
        let key = model::Key::global(model::Kind::Tier, "a");
        assert_eq!(store.get(&key).await.unwrap(), None);

        server.kill();
        let (new_cert, new_key) = other.issue("server", &["127.0.0.1"]);
        std::fs::copy(new_cert, &server_cert).expect("a copy");
        std::fs::copy(new_key, &server_key).expect("a copy");
        server.run();
        store.get(&key).await.expect_err("the old authority didn't sign this");
        std::fs::copy(other.ca_file(), &ca_file).expect("a copy");
        assert_eq!(store.get(&key).await.unwrap(), None);
    }
}

/// With users `calico` (password `secret`) and `nobody`, who may nothing.
async fn with_users(server: &Server) -> Client {
    let mut root = Client::connect([server.url()], None).await.unwrap();
    for user in ["root", "calico", "nobody"] {
        root.user_add(user, "secret", None).await.unwrap();
    }
    root.role_add("root").await.unwrap();
    root.user_grant_role("root", "root").await.unwrap();
    root.role_add("calico").await.unwrap();
    for prefix in ["/calico/", "/bulrush/"] {
        let permission = Permission::read_write(prefix).with_prefix();
        root.role_grant_permission("calico", permission).await.unwrap();
    }
    root.user_grant_role("calico", "calico").await.unwrap();
    root.auth_enable().await.unwrap();
    let options = etcd_client::ConnectOptions::new().with_user("root", "secret");
    Client::connect([server.url()], Some(options)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn users_work_and_what_is_denied_is_said() {
    for (label, binary) in etcds() {
        println!("on {label}");
        let server = Server::start(&binary);
        let user = |name: &str, password: &str| EtcdConfig {
            user: Some((name.to_owned(), password.to_owned())),
            ..at(server.url())
        };
        StoreConfig::Etcd(user("calico", "secret"))
            .connect()
            .await
            .expect("a user is no fault where none is wanted");
        let root = with_users(&server).await;

        says("etcd: it wants a user and we have none", at(server.url())).await;
        says("etcd: a wrong password", user("calico", "wrong")).await;
        says("etcd: a user whom it doesn't know", user("stranger", "secret")).await;
        says("etcd: a user without rights", user("nobody", "secret")).await;

        let store = StoreConfig::Etcd(user("calico", "secret")).connect().await.unwrap();
        assert_eq!(store.get_or_create_raw("digest-key", b"k").await.unwrap(), b"k");
        let mut writer = Writer::new(root.clone());
        let mut mirror = Mirror::new(&store, Selection::fan_out());
        mirror.watching(&mut writer).await;
        assert_eq!(mirror.objects, writer.objects);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_taken_away_is_said_and_noticed_when_it_is_back() {
    for (label, binary) in etcds() {
        println!("on {label}");
        let server = Server::start(&binary);
        let mut root = with_users(&server).await;
        let proxy = support::Proxy::start(server.port()).await;
        let config = EtcdConfig {
            user: Some(("calico".to_owned(), "secret".to_owned())),
            ..at(proxy.url())
        };
        let store = StoreConfig::Etcd(config).connect().await.unwrap();
        let mut writer = Writer::new(root.clone());
        let mut mirror = Mirror::new(&store, Selection::fan_out());
        mirror.watching(&mut writer).await;

        root.user_revoke_role("calico", "calico").await.unwrap();
        proxy.cut();
        mirror.until("denied", |m| matches!(m.last_error, Some(Error::Denied { .. }))).await;
        assert_eq!(mirror.objects, writer.objects, "nothing is deleted");
        let error = store.get(&model::Key::global(model::Kind::Tier, "a")).await.unwrap_err();
        assert!(matches!(error, Error::Denied { .. }), "{error}");
        root.user_grant_role("calico", "calico").await.unwrap();
        mirror.until_told("regained").await;
        let path = "/calico/resources/v3/projectcalico.org/tiers/a".to_owned();
        let tier = model::Key::global(model::Kind::Tier, "a");
        let last = writer.write(vec![(Some(tier), path, Some(b"1".to_vec()))]).await;
        mirror.reach(last).await;
        assert_eq!(mirror.objects, writer.objects);
    }
}

#[tokio::test]
async fn an_address_that_isnt_one_is_named() {
    let config = at("http://no-such-host.invalid:2379".to_owned());
    says("etcd: a name that nobody knows", config).await;
}
