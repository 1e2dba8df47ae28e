//! Every command in `README.md`, `docs` and `deploy` does what is printed there.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test fails by panicking")]

mod docs_support;
mod lab_support;
mod store_support;

use std::{collections::BTreeSet, process::Command};

use docs_support::{
    blocks::{self, Block},
    place::Place,
    shape,
};
use store_support::Store;
use support::RealKubernetes;

/// What the blocks of a heading, or of a whole file, need.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ground {
    /// The embedded store in the environment; every byte is compared.
    Embedded,
    /// An API server with our definitions in the environment.
    Kubernetes,
    /// Namespaces of their own, with root; and a real etcd in the path.
    Apart,
}

/// Where each document's commands run. The blocks of a row share one place, in their order; no heading is the rest of
/// the file.
const GROUNDS: &[(&str, &str, Ground)] = &[
    ("README.md", "Two commands", Ground::Apart),
    ("README.md", "A lab of namespaces (root)", Ground::Apart),
    ("README.md", "With a real etcd", Ground::Apart),
    ("docs/cli.md", "On Kubernetes", Ground::Kubernetes),
    ("docs/cli.md", "", Ground::Embedded),
    ("docs/identity.md", "", Ground::Apart),
    ("docs/loadtest.md", "", Ground::Apart),
];

/// Lines of blocks ```` ```sh ````, which no test runs, and why.
const NOT_RUN: &[(&str, &str)] = &[
    ("cargo run --release --bin bulrush -- dev", ".ci/run runs it; the block below is its output"),
    ("cargo test --workspace", "it would run itself"),
    ("cargo bench --bench ratios", ".ci/run runs it, smaller"),
    ("cargo bench --bench load", ".ci/run runs it"),
    (
        "BULRUSH_WRITE=1 cargo test -p bulrush-model --test generated",
        ".ci/run runs it, and looks for changes",
    ),
];

/// What is run in the place of a command that takes too long for a test.
const INSTEAD: &[(&str, &str)] = &[
    ("loadtest --agents 2000 --for 30s", "loadtest --agents 10 --for 1s"),
    ("loadtest --agents 2000 --for 30s -o json", "loadtest --agents 10 --for 1s -o json"),
];

/// Languages of blocks without commands.
const NO_COMMANDS: &[&str] = &["text", "yaml", "json"];

fn row(block: &Block) -> Option<usize> {
    let is_of =
        |heading: &str| GROUNDS.iter().position(|row| row.0 == block.file && row.1 == heading);
    is_of(&block.heading).or_else(|| is_of(""))
}

/// Runs the blocks of this row of [`GROUNDS`] at a place.
fn run(index: usize, mut place: Place) {
    let (file, _, ground) = GROUNDS[index];
    let mut count = 0;
    let mut addresses: Vec<(String, String)> = Vec::new();
    let of_row = blocks::blocks(file).into_iter().filter(|block| row(block) == Some(index));
    for block in of_row.filter(|block| matches!(block.language.as_str(), "console" | "hidden")) {
        for step in blocks::steps(&block) {
            count += 1;
            let (at, written) = (block.place(), &step.command);
            let command = &addresses
                .iter()
                .fold(written.clone(), |command, (old, new)| command.replace(old, new));
            if step.is_left_running {
                place.start(command, step.output.as_deref().unwrap_or_default());
                continue;
            }
            let instead = INSTEAD.iter().find(|(long, _)| long == command);
            let (printed, is_success) = place.run(instead.map_or(command, |(_, short)| *short));
            addresses
                .extend(shape::addresses(step.output.as_deref().unwrap_or_default(), &printed));
            match &step.output {
                None => assert!(is_success, "{at}: {command}\n{printed}"),
                Some(written) if ground == Ground::Embedded => {
                    assert_eq!(printed, *written, "{at}: {command}");
                }
                Some(written) => assert!(
                    shape::is_same(written, &printed),
                    "{at}: {command}\nis written to print\n{written}and prints\n{printed}"
                ),
            }
        }
    }
    assert!(count > 0, "no commands in {:?}", GROUNDS[index]);
}

fn rows(ground: Ground) -> impl Iterator<Item = usize> {
    (0..GROUNDS.len()).filter(move |index| GROUNDS[*index].2 == ground)
}

#[test]
fn every_command_in_the_docs_prints_what_is_written_there() {
    for index in rows(Ground::Embedded) {
        let store = Store::embedded();
        let environment = [("DATASTORE_TYPE", "etcdv3"), ("ETCD_ENDPOINTS", &store.endpoint)];
        run(index, Place::here(&environment, Vec::new()));
    }
}

#[test]
fn every_command_on_kubernetes_prints_what_is_written_there() {
    let Some(kubernetes) = RealKubernetes::shared() else { return };
    kubernetes.define_ours();
    let kubeconfig = kubernetes.kubeconfig("admin");
    let environment =
        [("DATASTORE_TYPE", "kubernetes"), ("KUBECONFIG", kubeconfig.to_str().unwrap())];
    let kubectl: Vec<_> = support::kubernetes("kubectl").into_iter().collect();
    for index in rows(Ground::Kubernetes) {
        run(index, Place::here(&environment, kubectl.clone()));
    }
}

/// A test for a row, so that they run beside each other.
fn apart(file: &str, heading: &str) {
    let etcd: Vec<_> = support::etcd_binaries().into_iter().map(|(_, binary)| binary).collect();
    if etcd.is_empty() {
        support::skipped("etcd", "the documents start one");
        return;
    }
    if lab_support::possible() {
        let index = GROUNDS.iter().position(|row| (row.0, row.1) == (file, heading)).unwrap();
        run(index, Place::apart(etcd));
    }
}

#[test]
fn the_first_command_of_the_readme_and_what_it_says_to_try() {
    apart("README.md", "Two commands");
}

#[test]
fn the_lab_of_the_readme() {
    apart("README.md", "A lab of namespaces (root)");
}

#[test]
fn the_etcd_of_the_readme() {
    apart("README.md", "With a real etcd");
}

#[test]
fn certificates_are_made_used_and_refused_as_is_written() {
    apart("docs/identity.md", "");
}

#[test]
fn the_load_tester_reports_as_is_written() {
    apart("docs/loadtest.md", "");
}

#[test]
fn every_block_is_run_or_says_why_not() {
    let (mut used, mut rows) = (BTreeSet::new(), BTreeSet::new());
    for block in blocks::documents().iter().flat_map(|file| blocks::blocks(file)) {
        let at = block.place();
        match block.language.as_str() {
            "console" | "hidden" => {
                let row = row(&block).unwrap_or_else(|| panic!("{at}: no row of GROUNDS has it"));
                rows.insert(row);
                assert!(!blocks::steps(&block).is_empty(), "{at}: no command");
            }
            "sh" => {
                for line in block.text.lines() {
                    let known = NOT_RUN.iter().position(|(command, _)| *command == line);
                    used.insert(known.unwrap_or_else(|| {
                        panic!("{at}: {line}: make it a console block, or say in NOT_RUN why not")
                    }));
                }
            }
            language => assert!(
                NO_COMMANDS.contains(&language),
                "{at}: a block {language:?}; mark it console, sh, or as one of {NO_COMMANDS:?}"
            ),
        }
    }
    assert_eq!(used.len(), NOT_RUN.len(), "a row of NOT_RUN that no document has");
    assert_eq!(rows.len(), GROUNDS.len(), "a row of GROUNDS that no document has");
}

/// A flag that was renamed is found here.
#[test]
fn every_command_that_is_mentioned_is_one() {
    let mut count = 0;
    for file in blocks::documents() {
        for mention in blocks::mentioned(&file) {
            let command = mention.split("\\|").next().unwrap().split(" -- ").next().unwrap();
            let words: Vec<&str> = command.split_whitespace().skip(1).collect();
            let mut bulrush = Command::new(env!("CARGO_BIN_EXE_bulrush"));
            let output = bulrush.args(words).arg("--help").output().expect("bulrush runs");
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{file}: {mention}: {error}");
            count += 1;
        }
    }
    assert!(count > 5, "{count} commands");
}
