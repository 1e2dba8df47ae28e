//! A store in a process of its own, to be killed and starved: this test program runs itself.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use embedded::{Config, Server};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

const FOLDER: &str = "EMBEDDED_TEST_FOLDER";
/// What the child prints before its address. The test harness prints too.
const READY: &str = "child serves at ";
const PATIENCE: Duration = Duration::from_secs(30);

/// A store in another process, gone when dropped.
pub(crate) struct Store {
    process: Child,
    pub(crate) endpoint: String,
}

impl Store {
    pub(crate) async fn start(folder: &Path) -> Self {
        Self::start_limited(folder, None).await
    }

    /// With a limit for the size of its files, in blocks of 512 bytes.
    pub(crate) async fn start_limited(folder: &Path, blocks: Option<u32>) -> Self {
        let limit = blocks.map_or_else(|| "unlimited".to_owned(), |blocks| blocks.to_string());
        let mut command = Command::new("sh");
        command
            .args(["-c", "ulimit -S -f \"$0\" && exec \"$@\"", &limit])
            .arg(std::env::current_exe().expect("this program's file"))
            .args(["child::the_store_that_other_tests_start", "--exact", "--nocapture"])
            .env(FOLDER, folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut process = command.spawn().expect("the child starts");
        let mut lines = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        let endpoint = loop {
            let line = timeout(PATIENCE, lines.next_line())
                .await
                .expect("the child is ready")
                .expect("it prints text");
            let line = line.expect("the child lives");
            if let Some((_, address)) = line.split_once(READY) {
                break address.to_owned();
            }
        };
        Self { process, endpoint }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id().expect("it lives")
    }

    /// kill -9.
    pub(crate) async fn kill(mut self) {
        self.process.kill().await.expect("the child is killed");
    }

    pub(crate) async fn client(&self) -> etcd_client::Client {
        etcd_client::Client::connect([&self.endpoint], None)
            .await
            .expect("the store takes connections")
    }
}

#[tokio::test]
async fn the_store_that_other_tests_start() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let config = Config { data_dir: Some(folder.into()), ..Config::default() };
    let server = Server::start(config).await.expect("the store starts");
    println!("{READY}{}", server.addr());
    server.run_until(std::future::pending()).await.expect("the store goes on until it is killed");
}
