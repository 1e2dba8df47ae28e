//! `bulrush loadtest` is the same program as `loadtest`, and one file is enough for all of it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use serde_json::Value;

#[test]
fn bulrush_loadtest_starts_its_store_and_its_typha_from_its_own_file() {
    let folder = tempfile::tempdir().unwrap();
    let alone = folder.path().join("alone");
    std::fs::copy(env!("CARGO_BIN_EXE_bulrush"), &alone).unwrap();
    let args = ["loadtest", "--agents", "10", "--for", "1s", "--rate", "20", "-o", "json"];
    let output = std::process::Command::new(alone).args(args).env("PATH", "").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["deliveries"], 20);
    assert_eq!(report["errors"], serde_json::json!({"order": 0, "digest": 0, "lost": 0}));
}
