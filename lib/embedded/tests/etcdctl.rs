//! Real etcdctl works against the store, as an operator would use it.

#![allow(clippy::expect_used, reason = "a panic is a failed test with its place")]

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use embedded::{Config, Server};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

/// How long a command may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// An etcdctl and the store that it talks to.
struct Shell {
    etcdctl: PathBuf,
    endpoint: String,
}

impl Shell {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.etcdctl);
        command
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.endpoint])
            .args(arguments)
            .kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    async fn output(&self, arguments: &[&str]) -> std::process::Output {
        timeout(PATIENCE, self.command(arguments).output())
            .await
            .expect("etcdctl ends")
            .expect("etcdctl runs")
    }

    /// What a command that succeeds prints.
    async fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments).await;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "etcdctl {arguments:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// What a command that fails complains of.
    async fn fail(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments).await;
        assert!(!output.status.success(), "etcdctl {arguments:?} fails");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// What a command prints that reads its commands from standard input.
    async fn pipe(&self, arguments: &[&str], input: &str) -> String {
        let mut child =
            self.command(arguments).stdin(Stdio::piped()).spawn().expect("etcdctl runs");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(input.as_bytes()).await.expect("etcdctl reads");
        drop(stdin);
        let output = timeout(PATIENCE, child.wait_with_output())
            .await
            .expect("etcdctl ends")
            .expect("etcdctl runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The first lines that a watch prints.
    async fn watch(&self, arguments: &[&str], lines: usize) -> Vec<String> {
        let mut child =
            self.command(&[&["watch"], arguments].concat()).spawn().expect("etcdctl runs");
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut seen = Vec::new();
        while seen.len() < lines {
            let line = timeout(PATIENCE, stdout.next_line())
                .await
                .expect("the watch goes on")
                .expect("it prints text");
            seen.push(line.expect("the watch doesn't end"));
        }
        child.kill().await.expect("etcdctl ends");
        seen
    }
}

#[tokio::test]
async fn an_operator_works_with_etcdctl() {
    let etcdctls = support::etcdctl_binaries();
    if etcdctls.is_empty() {
        return support::skipped(
            "etcd",
            "no etcdctl found; run .ci/servers or install etcd-client",
        );
    }
    for (label, etcdctl) in etcdctls {
        println!("with {label}");
        work(&etcdctl).await;
    }
}

async fn work(etcdctl: &Path) {
    let server = Server::start(Config::default()).await.expect("the store starts");
    let shell = Shell { etcdctl: etcdctl.to_owned(), endpoint: server.addr().to_string() };

    assert_eq!(shell.run(&["put", "/a/1", "one"]).await, "OK\n");
    assert_eq!(shell.run(&["put", "/a/2", "two"]).await, "OK\n");
    assert_eq!(shell.run(&["put", "/b", "three"]).await, "OK\n");
    assert_eq!(shell.run(&["put", "--prev-kv", "/b", "four"]).await, "OK\n/b\nthree\n");
    assert_eq!(shell.run(&["get", "/a", "--prefix"]).await, "/a/1\none\n/a/2\ntwo\n");
    assert_eq!(shell.run(&["get", "/a/1", "--rev", "2", "--print-value-only"]).await, "one\n");
    assert_eq!(
        shell
            .run(&[
                "get",
                "",
                "--from-key",
                "--keys-only",
                "--sort-by",
                "MODIFY",
                "--order",
                "DESCEND"
            ])
            .await,
        "/b\n\n/a/2\n\n/a/1\n\n"
    );
    assert_eq!(shell.run(&["del", "/a/2"]).await, "1\n");

    let txn = "value(\"/b\") = \"four\"\n\nput /c yes\nget /b\n\nput /c no\n\n";
    assert!(shell.pipe(&["txn", "-i=false"], txn).await.starts_with("SUCCESS\n\nOK\n\n/b\nfour"));
    assert_eq!(shell.run(&["get", "/c", "--print-value-only"]).await, "yes\n");

    let history = shell.watch(&["--rev", "2", "--prefix", "/a"], 8).await;
    assert_eq!(history, ["PUT", "/a/1", "one", "PUT", "/a/2", "two", "DELETE", "/a/2"]);

    let granted = shell.run(&["lease", "grant", "300"]).await;
    let lease = granted.split_whitespace().nth(1).expect("lease ID granted with TTL(300s)");
    shell.run(&["put", "--lease", lease, "/leased", "value"]).await;
    assert!(
        shell
            .run(&["lease", "timetolive", lease, "--keys"])
            .await
            .contains("attached keys([/leased])")
    );
    assert!(
        shell
            .run(&["lease", "keep-alive", "--once", lease])
            .await
            .contains("keepalived with TTL(300)")
    );
    assert!(shell.run(&["lease", "list"]).await.contains(lease));
    shell.run(&["lease", "revoke", lease]).await;
    assert_eq!(shell.run(&["get", "/leased"]).await, "");

    assert_eq!(shell.run(&["compaction", "5"]).await, "compacted revision 5\n");
    assert!(
        shell
            .fail(&["get", "/b", "--rev", "4"])
            .await
            .contains("required revision has been compacted")
    );
    assert!(
        shell
            .fail(&["get", "/b", "--rev", "4000"])
            .await
            .contains("required revision is a future revision")
    );

    let status = shell.run(&["endpoint", "status", "-w", "json"]).await;
    assert!(status.contains(&format!("\"version\":\"{}\"", embedded::ETCD_VERSION)), "{status}");
    assert!(shell.run(&["member", "list"]).await.contains("started, bulrush"));
    shell.run(&["endpoint", "health"]).await;

    assert!(shell.fail(&["user", "add", "root:secret"]).await.contains("run a real etcd"));
    server.shutdown().await.expect("the store stops");
}
