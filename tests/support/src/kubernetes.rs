//! A real API server with its own etcd, on loopback, for as long as a value (or the test binary) lives.
//!
//! RBAC is on. [`USERS`] have bearer tokens; `admin` may do everything, the others what a test grants them. There is no
//! controller manager unless a test starts one: namespaces that are deleted stay, and no service account is made by
//! itself.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::process::{Folder, Process};
use crate::{RealEtcd, find, free_port, skipped};

/// How long an API server may take to be ready; it takes about five seconds of an idle machine.
const START: Duration = Duration::from_secs(90);
/// How often other ports are tried when someone took ours between the look and the bind.
const TRIES: usize = 3;

/// Who has a bearer token. `admin` is in group `system:masters`; the others start without any right.
pub const USERS: [&str; 6] = ["admin", "typha", "node-agent", "controllers", "operator", "nobody"];

/// An API server and the etcd below it. Dropping it, or the end of the process in whatever way, ends both and removes
/// what they wrote.
#[derive(Debug)]
pub struct RealKubernetes {
    // In the order of their end.
    server: ApiServer,
    etcd: RealEtcd,
}

impl RealKubernetes {
    /// The one of this test binary, started at the first call. None: there is no API server on this machine, the
    /// skip was said ([`skipped`] with the word `kubernetes`), and the test should return.
    ///
    /// # Panics
    /// As [`Self::start`], and when `BULRUSH_REQUIRE` names `kubernetes` and there is none.
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<RealKubernetes> = OnceLock::new();
        if !is_there() {
            return None;
        }
        Some(SHARED.get_or_init(|| Self::start(&[])))
    }

    /// As [`Self::shared`], but one of the caller's own, for tests that stop or restart it, or that need other flags.
    pub fn own(flags: &[&str]) -> Option<Self> {
        is_there().then(|| Self::start(flags))
    }

    /// # Panics
    /// When it isn't ready in time, with the end of its log.
    fn start(flags: &[&str]) -> Self {
        let (_, binary) =
            find::etcd_for_kubernetes().expect("a new etcd: it was looked for before");
        let etcd = RealEtcd::start(&binary);
        let server = ApiServer::start(etcd.endpoint(), flags);
        Self { server, etcd }
    }

    /// The API server.
    pub fn server(&self) -> &ApiServer {
        &self.server
    }

    /// The API server, to stop and start it.
    pub fn server_mut(&mut self) -> &mut ApiServer {
        &mut self.server
    }

    /// The etcd below it.
    pub fn etcd(&self) -> &RealEtcd {
        &self.etcd
    }

    /// One more API server on the same etcd, with the same users and authority.
    pub fn second_server(&self, flags: &[&str]) -> ApiServer {
        ApiServer::start_as(&self.server.identity, self.etcd.endpoint(), flags)
    }
}

impl std::ops::Deref for RealKubernetes {
    type Target = ApiServer;

    fn deref(&self) -> &ApiServer {
        &self.server
    }
}

fn is_there() -> bool {
    let missing = find::missing_of_kubernetes();
    if missing.is_empty() {
        return true;
    }
    let why =
        format!("{} not found; run .ci/servers or set KUBEBUILDER_ASSETS", missing.join(", "));
    skipped("kubernetes", &why);
    false
}

/// A running API server.
#[derive(Debug)]
pub struct ApiServer {
    process: Option<Process>,
    managers: Vec<Process>,
    port: u16,
    arguments: Vec<String>,
    identity: Identity,
    folder: Folder,
}

impl ApiServer {
    fn start(etcd: &str, flags: &[&str]) -> Self {
        Self::start_as(&Identity::new(), etcd, flags)
    }

    fn start_as(identity: &Identity, etcd: &str, flags: &[&str]) -> Self {
        let mut last = String::new();
        for _ in 0..TRIES {
            match Self::try_start(identity.clone(), etcd, flags) {
                Ok(server) => return server,
                Err(log) => last = log,
            }
        }
        panic!("the API server isn't ready; the end of its log:\n{last}");
    }

    fn try_start(identity: Identity, etcd: &str, flags: &[&str]) -> Result<Self, String> {
        let folder = Folder::new();
        identity.write(folder.path());
        let port = free_port();
        let file = |name: &str| folder.path().join(name).display().to_string();
        let mut arguments: Vec<String> = [
            ("--etcd-servers", etcd.to_owned()),
            ("--cert-dir", file("certs")),
            ("--bind-address", "127.0.0.1".to_owned()),
            ("--secure-port", port.to_string()),
            ("--tls-cert-file", file("server.crt")),
            ("--tls-private-key-file", file("server.key")),
            ("--service-account-key-file", file("accounts.pub")),
            ("--service-account-signing-key-file", file("accounts.key")),
            ("--service-account-issuer", "https://kubernetes.default.svc".to_owned()),
            ("--authorization-mode", "RBAC".to_owned()),
            ("--token-auth-file", file("tokens.csv")),
            ("--service-cluster-ip-range", "10.96.0.0/16".to_owned()),
            // Without a controller manager nobody makes the service accounts that it asks for.
            ("--disable-admission-plugins", "ServiceAccount".to_owned()),
            ("--allow-privileged", "true".to_owned()),
            ("--profiling", "false".to_owned()),
        ]
        .into_iter()
        .map(|(flag, value)| format!("{flag}={value}"))
        .collect();
        arguments.extend(flags.iter().map(|&flag| flag.to_owned()));
        for user in USERS {
            let kubeconfig = kubeconfig(&format!("https://127.0.0.1:{port}"), &identity.ca, user);
            std::fs::write(folder.path().join(format!("{user}.kubeconfig")), kubeconfig)
                .expect("a kubeconfig can be written");
        }
        let mut server =
            Self { process: None, managers: Vec::new(), port, arguments, identity, folder };
        server.run().map(|()| server)
    }

    fn run(&mut self) -> Result<(), String> {
        let binary = find::kubernetes("kube-apiserver").expect("it was looked for before");
        let log = self.folder.path().join("apiserver.log");
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let mut process = Process::spawn(&binary, &arguments, &log);
        let deadline = Instant::now() + START;
        while Instant::now() < deadline && !process.has_ended() {
            // TLS tells that it is ours, and not a stranger on the same port, that answers.
            let port_is_open = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok();
            if port_is_open && self.kubectl(&["get", "--raw", "/readyz"]).status.success() {
                self.process = Some(process);
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err(process.log())
    }

    /// Ends the process as a crash would. Its port is kept for [`Self::restart`].
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Starts it again, at the same address and with the same users, and returns when it is ready.
    ///
    /// # Panics
    /// When it isn't ready in time.
    pub fn restart(&mut self) {
        self.stop();
        if let Err(log) = self.run() {
            panic!("the API server doesn't come back; the end of its log:\n{log}");
        }
    }

    /// Starts a controller manager: it makes service accounts, empties deleted namespaces, collects garbage.
    ///
    /// # Panics
    /// When there is none on this machine.
    pub fn start_controller_manager(&mut self) {
        let binary = find::kubernetes("kube-controller-manager")
            .expect("kube-controller-manager; run .ci/servers");
        let kubeconfig = self.kubeconfig("admin").display().to_string();
        let key = self.folder.path().join("accounts.key").display().to_string();
        let arguments = [
            &format!("--kubeconfig={kubeconfig}"),
            &format!("--service-account-private-key-file={key}"),
            "--use-service-account-credentials=false",
            "--leader-elect=false",
            "--secure-port=0",
        ];
        let log = self.folder.path().join("controller-manager.log");
        self.managers.push(Process::spawn(&binary, &arguments, &log));
    }

    /// Where clients reach it: `https://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process, for tests that pause it; none: it is stopped.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// A file with the certificate of the authority that signed the server's.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.crt")
    }

    /// The certificate and the key of the server (PEM), for a test that stands in its place.
    pub fn certificate_files(&self) -> (PathBuf, PathBuf) {
        (self.folder.path().join("server.crt"), self.folder.path().join("server.key"))
    }

    /// The kubeconfig file of one of [`USERS`].
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        assert!(USERS.contains(&user), "no such user: {user}");
        self.folder.path().join(format!("{user}.kubeconfig"))
    }

    /// A kubeconfig file of one of [`USERS`] for another address: that of something between it and the server.
    ///
    /// # Panics
    /// When it can't be written.
    pub fn kubeconfig_at(&self, user: &str, url: &str) -> PathBuf {
        let port = url.rsplit(':').next().unwrap_or_default();
        let path = self.folder.path().join(format!("{user}-at-{port}.kubeconfig"));
        let kubeconfig = kubeconfig(url, &self.identity.ca, user);
        std::fs::write(&path, kubeconfig).expect("a kubeconfig can be written");
        path
    }

    /// The bearer token of one of [`USERS`].
    pub fn token(&self, user: &str) -> String {
        token(user)
    }

    /// A service account's token that this server made, with another end of its life: in so many seconds.
    pub fn token_ending(&self, token: &str, seconds: i64) -> String {
        crate::token::ending(token, seconds, &self.identity.accounts_key)
    }

    /// Runs kubectl as `admin`.
    ///
    /// # Panics
    /// When there is none on this machine.
    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        self.kubectl_as("admin", arguments, "")
    }

    /// Runs kubectl as `admin`, and returns what it printed.
    ///
    /// # Panics
    /// When it fails, with its words.
    pub fn kubectl_ok(&self, arguments: &[&str]) -> String {
        said(arguments, &self.kubectl(arguments))
    }

    /// `kubectl apply -f -` as `admin`.
    ///
    /// # Panics
    /// When it fails, with its words.
    pub fn apply(&self, manifests: &str) -> String {
        let arguments = ["apply", "-f", "-"];
        said(&arguments, &self.kubectl_as("admin", &arguments, manifests))
    }

    /// Runs kubectl as one of [`USERS`], with text on its standard input.
    ///
    /// # Panics
    /// When there is none on this machine.
    pub fn kubectl_as(&self, user: &str, arguments: &[&str], input: &str) -> Output {
        let binary = find::kubernetes("kubectl").expect("it was looked for before");
        let mut child = Command::new(binary)
            .arg("--kubeconfig")
            .arg(self.kubeconfig(user))
            // Its cache of discovery would be shared with other runs, and be wrong.
            .arg("--cache-dir")
            .arg(self.folder.path().join("kubectl-cache"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl runs");
        // It may end without reading everything.
        let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
        child.wait_with_output().expect("kubectl ends")
    }
}

fn said(arguments: &[&str], output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "kubectl {}: {error}", arguments.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What several API servers of one cluster share.
#[derive(Clone, Debug)]
struct Identity {
    ca: String,
    certificate: String,
    key: String,
    accounts_key: String,
    accounts_public: String,
}

impl Identity {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pair = || KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, pair()).expect("a certificate");
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let (key, accounts) = (pair(), pair());
        let params = CertificateParams::new(names).expect("good names");
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        Self {
            ca: issuer.pem(),
            certificate: certificate.pem(),
            key: key.serialize_pem(),
            accounts_key: accounts.serialize_pem(),
            accounts_public: accounts.public_key_pem(),
        }
    }

    fn write(&self, folder: &Path) {
        let tokens = USERS.iter().fold(String::new(), |mut lines, user| {
            let group = if *user == "admin" { ",system:masters" } else { "" };
            let _ = writeln!(lines, "{},{user},{user}{group}", token(user));
            lines
        });
        for (name, text) in [
            ("ca.crt", &self.ca),
            ("server.crt", &self.certificate),
            ("server.key", &self.key),
            ("accounts.key", &self.accounts_key),
            ("accounts.pub", &self.accounts_public),
            ("tokens.csv", &tokens),
        ] {
            std::fs::write(folder.join(name), text).expect("a file can be written");
        }
    }
}

fn token(user: &str) -> String {
    format!("token-of-{user}")
}

/// JSON is YAML.
fn kubeconfig(url: &str, ca: &str, user: &str) -> String {
    let ca = base64(ca.as_bytes());
    format!(
        r#"{{"apiVersion": "v1", "kind": "Config", "current-context": "test",
"clusters": [{{"name": "test", "cluster": {{"server": "{url}", "certificate-authority-data": "{ca}"}}}}],
"users": [{{"name": "{user}", "user": {{"token": "{}"}}}}],
"contexts": [{{"name": "test", "context": {{"cluster": "test", "user": "{user}"}}}}]}}
"#,
        token(user)
    )
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    bytes
        .chunks(3)
        .flat_map(|chunk| {
            let at = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
            let bits = at(0) << 16 | at(1) << 8 | at(2);
            let used = chunk.len() + 1;
            (0..4).map(move |digit| {
                let index = (bits >> (18 - 6 * digit) & 63) as usize;
                if digit < used { char::from(DIGITS[index]) } else { '=' }
            })
        })
        .collect()
}
