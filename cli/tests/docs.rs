//! Every command in `docs/cli.md` does what is printed there.

#![allow(clippy::expect_used, reason = "in a test a panic is a failure with its place")]

mod store_support;

use std::{env, fs, path::Path, process::Command};

use store_support::Store;

/// A command with its input, and what it prints.
struct Step {
    command: String,
    output: String,
}

/// The steps of all blocks ```` ```console ````: a command starts with `$ ` and ends with its line, its
/// here-document, or its closing quote.
fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut is_inside = false;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("```") {
            is_inside = line == "```console";
        } else if let Some(command) = line.strip_prefix("$ ").filter(|_| is_inside) {
            let mut command = command.to_owned();
            let is_open = |command: &str| {
                let has_document = command.contains("<<'END'");
                has_document && !command.ends_with("\nEND")
                    || command.matches('\'').count() % 2 == 1
            };
            while is_open(&command) {
                command = format!("{command}\n{}", lines.next().expect("the rest of a command"));
            }
            steps.push(Step { command, output: String::new() });
        } else if is_inside {
            let step = steps.last_mut().expect("a command before output");
            step.output.push_str(line);
            step.output.push('\n');
        }
    }
    steps
}

#[test]
fn every_command_in_the_docs_prints_what_is_written_there() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/cli.md");
    let steps = steps(&fs::read_to_string(docs).expect("docs/cli.md"));
    assert!(steps.len() > 10, "{} commands", steps.len());
    let store = Store::embedded();
    let folder = tempfile::tempdir().expect("a folder");
    let program = Path::new(env!("CARGO_BIN_EXE_bulrush")).parent().expect("a folder");
    let path = format!("{}:{}", program.display(), env::var("PATH").unwrap_or_default());
    for Step { command, output } in steps {
        let ran = Command::new("sh")
            .args(["-c", &format!("exec 2>&1\n{command}")])
            .current_dir(folder.path())
            .env("PATH", &path)
            .env("DATASTORE_TYPE", "etcdv3")
            .env("ETCD_ENDPOINTS", &store.endpoint)
            .output()
            .expect("sh runs");
        assert_eq!(String::from_utf8_lossy(&ran.stdout), output, "{command}");
    }
}
