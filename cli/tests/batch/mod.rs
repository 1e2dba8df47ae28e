//! A command of `bulrush` that answers a line of JSON for each line it reads.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
    thread,
};

use serde_json::Value;

/// Runs `bulrush COMMAND ARGS…` with this input.
pub(crate) fn run(command: &str, args: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_bulrush"))
        .arg(command)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("bulrush starts");
    let mut stdin = child.stdin.take().expect("its stdin");
    let input = input.to_owned();
    // It may answer before it has read all: both sides must move.
    let writer = thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("bulrush ends");
    // A program that doesn't want the input closes it.
    let _ = writer.join().expect("the writer");
    output
}

/// The answers of `bulrush COMMAND --stdin` to a batch of lines.
pub(crate) fn answers(command: &str, lines: &[String]) -> Vec<Value> {
    let output = run(command, &["--stdin"], &lines.join("\n"));
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}
