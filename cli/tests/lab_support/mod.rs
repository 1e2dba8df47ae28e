//! A lab for a test: started by the program itself, asked through it, and ended whatever happens.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Command, Output},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use datastore::{Datastore, Selection, StoreConfig, Write};
use model::{Key, Kind, Stored, StreamIndex};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// How long agents may take to acknowledge a change.
const PATIENCE: Duration = Duration::from_secs(20);

/// The six pods of a lab of three nodes.
pub(crate) const PODS: [&str; 6] =
    ["red/pod-1-1", "blue/pod-1-2", "red/pod-2-1", "blue/pod-2-2", "red/pod-3-1", "blue/pod-3-2"];

/// Whether the machine can run a lab. If not, says so and what to do.
pub(crate) fn possible() -> bool {
    let missing = if !nix::unistd::geteuid().is_root() {
        "it needs root"
    } else if !answers("ip", &["-V"]) {
        "it needs `ip`: install iproute2"
    } else if !answers("nft", &["--version"]) {
        "it needs `nft`: install nftables"
    } else if !answers("unshare", &["--net", "true"]) {
        "this system doesn't let root make network namespaces"
    } else {
        return true;
    };
    support::skipped("netns", missing);
    false
}

fn answers(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
}

/// A lab of its own name. Dropping it ends it.
pub(crate) struct Lab {
    pub(crate) name: String,
}

impl Lab {
    /// A name that no other test has; nothing is started.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Two test programs that run at once differ in the pid, which has at most seven digits.
        Self { name: format!("t{:x}{number:x}", std::process::id()) }
    }

    /// `bulrush lab --name … <args>`.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bulrush"));
        command.args(["lab", "--name", &self.name]).args(args);
        command
    }

    /// Runs it, whatever comes of it.
    pub(crate) fn try_run(&self, args: &[&str]) -> Output {
        self.command(args).output().expect("bulrush starts")
    }

    /// Runs it; its stdout.
    pub(crate) fn run(&self, args: &[&str]) -> String {
        let output = self.try_run(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "lab {args:?}: {stderr}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Runs it; what it says on stderr as it fails.
    pub(crate) fn failure(&self, args: &[&str]) -> String {
        let output = self.try_run(args);
        assert_eq!(output.status.code(), Some(1), "lab {args:?}: {output:?}");
        String::from_utf8(output.stderr).expect("UTF-8")
    }

    /// The ends of all logs, for a test that fails: the lab takes them with it.
    fn show_logs(&self) {
        let folder = Path::new("/run/bulrush-lab").join(&self.name);
        let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        for path in
            files.filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let last = &lines[lines.len().saturating_sub(15)..];
            eprintln!("--- {}:\n{}", path.display(), last.join("\n"));
        }
    }

    /// Who reaches whom on a port.
    pub(crate) fn probe(&self, port: &str) -> Reach {
        self.probe_with(port, &[])
    }

    /// As [`Self::probe`], with more flags.
    pub(crate) fn probe_with(&self, port: &str, flags: &[&str]) -> Reach {
        let args = [&["probe", "--port", port, "-o", "json"], flags].concat();
        let found: Value = serde_json::from_str(&self.run(&args)).expect("JSON");
        let reach = found["reach"].as_object().expect("an object");
        let pairs = reach.iter().flat_map(|(from, targets)| {
            let targets = targets.as_object().expect("an object");
            targets.iter().map(|(to, connected)| {
                ((from.clone(), to.clone()), connected.as_bool().expect("true or false"))
            })
        });
        Reach(pairs.collect())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_logs();
        }
        let ended = self.try_run(&["down"]);
        if !std::thread::panicking() {
            assert!(ended.status.success(), "{ended:?}");
        }
    }
}

/// For each pair, from and to, whether it connects.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reach(pub(crate) BTreeMap<(String, String), bool>);

impl Reach {
    /// What is expected: `connects(from, to)` for all pairs of the six pods.
    pub(crate) fn of(connects: impl Fn(&str, &str) -> bool) -> Self {
        let pairs = PODS.iter().flat_map(|from| PODS.iter().map(move |to| (*from, *to)));
        let pairs = pairs.filter(|(from, to)| from != to);
        Self(
            pairs
                .map(|(from, to)| ((from.to_owned(), to.to_owned()), connects(from, to)))
                .collect(),
        )
    }

    /// The pairs that aren't as expected, readable.
    pub(crate) fn differences(&self, expected: &Self) -> Vec<String> {
        let differs = |(pair, connected): (&(String, String), &bool)| {
            let wanted = expected.0.get(pair);
            let is = if *connected { "connects" } else { "doesn't connect" };
            (wanted != Some(connected)).then(|| format!("{} -> {} {is}", pair.0, pair.1))
        };
        let missing = expected.0.keys().filter(|pair| !self.0.contains_key(*pair));
        let missing = missing.map(|pair| format!("{} -> {} wasn't tried", pair.0, pair.1));
        self.0.iter().filter_map(differs).chain(missing).collect()
    }
}

/// A lab with agents, and what a test does with it: write objects, wait until agents have acknowledged them, probe.
pub(crate) struct System {
    pub(crate) lab: Lab,
    /// The store's URL.
    pub(crate) url: String,
    /// The host's address in the lab.
    pub(crate) host: String,
    page: SocketAddr,
    store: Arc<dyn Datastore>,
    runtime: Runtime,
}

impl System {
    /// `bulrush lab up <flags>`, which returns when everything is ready.
    pub(crate) fn start(flags: &[&str]) -> Self {
        let lab = Lab::new();
        let said = lab.run(&[&["up"], flags].concat());
        let ready = said.lines().last().expect("a line on stdout");
        let field = |name: &str| {
            let word = ready.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            word.unwrap_or_else(|| panic!("no {name}= in {ready:?}")).to_owned()
        };
        assert!(ready.starts_with("ready "), "{ready}");
        let (url, typha, page) = (field("store"), field("typha"), field("page"));
        let runtime = Runtime::new().expect("a runtime");
        let config = StoreConfig::from_url(&url).expect("a URL");
        let store = runtime.block_on(config.connect()).expect("the store answers");
        Self {
            lab,
            url,
            host: typha.split(':').next().expect("an address").to_owned(),
            page: page.strip_prefix("http://").expect("a URL").parse().expect("an address"),
            store,
            runtime,
        }
    }

    /// Writes objects, and waits until every agent has them in its kernel.
    pub(crate) fn apply(&self, objects: &[Value]) {
        let version = objects.iter().map(|object| self.put(object)).max();
        self.settle(version.unwrap_or_default());
    }

    fn put(&self, object: &Value) -> u64 {
        let (key, value) = (key_of(object), Stored::Json(object.clone()));
        let put = async {
            match self.store.get(&key).await? {
                None => self.store.create(&key, &value).await,
                Some(item) => self.store.update(&key, &value, item.version).await,
            }
        };
        self.runtime.block_on(put).unwrap_or_else(|error| panic!("{key}: {error}"))
    }

    /// Removes objects, and waits until every agent has done so.
    pub(crate) fn remove(&self, objects: &[Value]) {
        let writes: Vec<Write> =
            objects.iter().map(|object| Write::Delete(key_of(object))).collect();
        let version = self.runtime.block_on(self.store.txn(&[], &writes)).expect("deleted");
        self.settle(version);
    }

    /// The names of all objects in the store.
    pub(crate) fn objects(&self) -> Vec<String> {
        let list = self.store.list(StreamIndex(0), Selection::everything());
        let listing = self.runtime.block_on(list).expect("a list");
        listing.items.iter().map(|item| item.key.to_string()).collect()
    }

    /// Waits until every agent has acknowledged what the store held at this version.
    pub(crate) fn settle(&self, version: u64) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status();
            let missing =
                status.map_or_else(|error| Some(error.to_string()), |s| unsettled(&s, version));
            let Some(missing) = missing else { return };
            assert!(Instant::now() < deadline, "version {version} doesn't settle: {missing}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What typha says of itself and its agents.
    pub(crate) fn status(&self) -> io::Result<Value> {
        let mut stream = TcpStream::connect(self.page)?;
        stream.write_all(b"GET /api/v1/status HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let body = answer.split("\r\n\r\n").nth(1).unwrap_or_default();
        Ok(serde_json::from_str(body)?)
    }

    /// Probes several ports at once, and names every pair that isn't as expected.
    pub(crate) fn expect(&self, when: &str, flags: &[&str], ports: &[(&str, Connects)]) {
        let wrong: Vec<String> = std::thread::scope(|scope| {
            let probes: Vec<_> = ports
                .iter()
                .map(|(port, connects)| {
                    scope.spawn(move || {
                        let found = self.lab.probe_with(port, flags);
                        let wrong = found.differences(&Reach::of(connects));
                        wrong.into_iter().map(move |pair| format!("{port}: {pair}"))
                    })
                })
                .collect();
            probes.into_iter().flat_map(|probe| probe.join().expect("a probe")).collect()
        });
        assert!(wrong.is_empty(), "{when}:\n  {}", wrong.join("\n  "));
    }
}

/// Whether one pod, by its name, is expected to reach another.
pub(crate) type Connects = fn(&str, &str) -> bool;

/// What is missing until every agent has what the store held at a version.
fn unsettled(status: &Value, version: u64) -> Option<String> {
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    if status["in_sync"] != true || number(&status["stale_milliseconds"]) > 0 {
        return Some(format!("typha: {}", status["verdict"]));
    }
    if number(&status["streams"][0]["version"]) < version {
        return Some("typha hasn't seen it".to_owned());
    }
    let agents = status["agents"].as_array().map(Vec::as_slice).unwrap_or_default();
    let acting: Vec<&Value> = agents.iter().filter(|agent| agent["observer"] == false).collect();
    if acting.len() != 3 {
        return Some(format!("{} agents are connected", acting.len()));
    }
    let behind = acting.into_iter().find(|agent| {
        agent["current"] != true
            || number(&agent["sent"]) < number(&status["publication"])
            || agent["failed"] != json!([])
    });
    behind.map(ToString::to_string)
}

fn key_of(object: &Value) -> Key {
    let text = |field: &Value| field.as_str().unwrap_or_default().to_owned();
    let kind: Kind = text(&object["kind"]).parse().expect("a kind");
    let metadata = &object["metadata"];
    Key {
        kind,
        namespace: text(&metadata["namespace"]).into(),
        name: text(&metadata["name"]).into(),
    }
}
