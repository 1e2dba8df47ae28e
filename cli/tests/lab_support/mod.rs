//! A lab for a test: started by the program itself, asked through it, and ended whatever happens.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeMap,
    process::{Command, Output},
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::Value;

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
